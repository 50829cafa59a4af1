// SPDX-License-Identifier: GPL-3.0-only
//! The API by TLS: who has a certificate gets in by it, and nobody else.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};

use policyd_api::{ApplyRequest, Client, ClientError, Identity, PageQuery, SourceText};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};

use super::*;

/// An authority of the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub struct Leaf {
    certificate: String,
    key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority(CertifiedIssuer::self_signed(params, key).expect("signs itself"))
    }

    /// A certificate with this common name, these names and addresses, and `spiffe://example.org/NAME`.
    pub fn leaf(&self, name: &str, hosts: &[&str]) -> Leaf {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, "netops");
        let uri = format!("spiffe://example.org/{name}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().expect("ASCII")));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signs");
        Leaf {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.pem")), self.0.pem()).expect("is written");
    }
}

impl Leaf {
    pub fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.pem")), &self.certificate).expect("is written");
        std::fs::write(dir.join(format!("{name}.key")), &self.key).expect("is written");
    }
}

/// A port that is free for the moment.
fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    listener.local_addr().expect("has one")
}

fn identity(dir: &Path, client: &str, ca: &str) -> Identity {
    Identity {
        certificate: dir.join(format!("{client}.pem")),
        key: dir.join(format!("{client}.key")),
        authorities: dir.join(format!("{ca}.pem")),
    }
}

#[test]
fn a_certificate_gives_a_role_and_its_name_to_the_audit_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    ours.write(dir, "ca");
    other.write(dir, "other-ca");
    ours.leaf("policyd", &["localhost", "127.0.0.1"])
        .write(dir, "server");
    for name in ["alice", "bob", "eve"] {
        ours.leaf(name, &[]).write(dir, name);
    }
    other.leaf("alice", &[]).write(dir, "forged");
    let address = free().to_string();
    let file = |name: &str| dir.join(name).to_str().expect("UTF-8").to_owned();
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let served = Served::new(&[
        "--listen",
        &address,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--client-ca",
        &ca,
        "--grant",
        "operator=cert:CN=alice",
        "--grant",
        "viewer=cert:URI:spiffe://example.org/bob",
    ]);
    let client =
        |url: &str, name: &str, ca: &str| Client::remote(url, &identity(dir, name, ca)).expect("a client");
    let url = format!("https://{address}");
    let by_name = format!(
        "https://localhost:{}",
        address.rsplit_once(':').expect("a port").1
    );

    let alice = client(&by_name, "alice", "ca");
    let request = ApplyRequest {
        documents: vec![SourceText {
            file: "a.yaml".into(),
            text: "policy: a\n".into(),
        }],
        dry_run: false,
        message: None,
        stage: None,
    };
    assert_eq!(alice.apply(&request, Some(0)).expect("applies").generation, 1);
    let log = alice.audit(&PageQuery::default()).expect("the log");
    let by = &log.entries[0].attempt.by;
    assert_eq!((by.uid, by.name.as_deref()), (u32::MAX, Some("cert:CN=alice")));

    let bob = client(&url, "bob", "ca");
    assert_eq!(bob.domains().expect("may look").len(), 2);
    match bob.apply(&request, None).expect_err("may not change") {
        ClientError::Refused { status: 403, message } => {
            assert!(message.ends_with("--grant operator=cert:CN=bob"), "{message}");
        }
        e => panic!("{e}"),
    }
    let refused = client(&url, "eve", "ca").status().expect_err("has no role");
    assert!(
        matches!(refused, ClientError::Refused { status: 403, .. }),
        "{refused}"
    );

    // A certificate of another authority, whatever it says; a daemon of another than ours.
    for client in [client(&url, "forged", "ca"), client(&url, "alice", "other-ca")] {
        let error = client.status().expect_err("is not believed");
        assert!(matches!(error, ClientError::Remote { .. }), "{error}");
        assert!(
            error.to_string().contains(&url) && error.to_string().contains("--client-ca"),
            "{error}"
        );
    }
    // Who speaks no TLS gets no HTTP.
    let mut plain = TcpStream::connect(&address).expect("connects");
    plain
        .write_all(b"GET /v1/status HTTP/1.1\r\nhost: p\r\n\r\n")
        .expect("asks");
    let mut answer = Vec::new();
    match plain.read_to_end(&mut answer) {
        Ok(_) => assert!(!answer.starts_with(b"HTTP"), "{answer:?}"),
        Err(e) => assert_eq!(e.kind(), ErrorKind::ConnectionReset),
    }
    // Who says nothing holds up nobody.
    let _silent: Vec<TcpStream> = (0..8)
        .map(|_| TcpStream::connect(&address).expect("connects"))
        .collect();
    assert!(bob.status().is_ok());
    drop(served);
}

#[test]
fn what_cannot_be_served_by_tls_says_which_file_is_wrong() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    let ours = Authority::new("ours");
    ours.write(dir, "ca");
    ours.leaf("policyd", &["localhost"]).write(dir, "server");
    ours.leaf("another", &[]).write(dir, "another");
    std::fs::write(dir.join("empty.pem"), "").expect("is written");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for (cert, key, ca, problem) in [
        ("none.pem", "server.key", "ca.pem", "none.pem: "),
        (
            "empty.pem",
            "server.key",
            "ca.pem",
            "empty.pem: there is no certificate in it",
        ),
        ("server.pem", "server.pem", "ca.pem", "a private key in PEM form"),
        ("server.pem", "server.key", "empty.pem", "empty.pem: "),
        (
            "server.pem",
            "another.key",
            "ca.pem",
            "server.pem cannot be used with this key",
        ),
    ] {
        let options = crate::api::tls::TlsOptions {
            listen: free(),
            certificate: dir.join(cert),
            key: dir.join(key),
            client_ca: dir.join(ca),
        };
        let error = runtime
            .block_on(crate::api::tls::listen(&options))
            .err()
            .expect("is refused");
        assert!(error.to_string().contains(problem), "{error}");
    }
    let line = ["policyd", "--listen", "127.0.0.1:1"];
    assert!(Args::try_parse_from(line).is_err(), "TLS without a certificate");
}
