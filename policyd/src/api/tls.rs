// SPDX-License-Identifier: GPL-3.0-only
//! The API by TLS on TCP, for who has a certificate that an authority signed which the daemon was told of. Who has none does not
//! get as far as HTTP.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::AttributeTypeAndValue;

use super::connections::Known;
use super::peer::Peer;

/// How long a client may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that may be about to do so at once; more are turned away.
const HANDSHAKES: usize = 64;

/// Where to listen, and with what.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    pub listen: SocketAddr,
    /// Certificate of the daemon, then those between it and its authority; PEM.
    pub certificate: PathBuf,
    /// Its private key; PEM.
    pub key: PathBuf,
    /// Authorities that sign clients' certificates; PEM.
    pub client_ca: PathBuf,
}

/// Why the API could not be served by TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file has not what it should.
    #[error("{}: {why}; {remedy}", path.display())]
    File {
        path: PathBuf,
        why: String,
        remedy: &'static str,
    },
    /// Certificate, key and authorities do not fit each other.
    #[error("the certificate {} cannot be used with this key and these authorities: {why}", path.display())]
    Unfit { path: PathBuf, why: String },
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; is it an address of this host, and free?")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// The certificates in a PEM file, one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |why: String| TlsError::File {
        path: path.to_owned(),
        why,
        remedy: "it is to have certificates in PEM form",
    };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(list) if list.is_empty() => Err(bad("there is no certificate in it".into())),
        Ok(list) => Ok(list),
        Err(e) => Err(bad(e.to_string())),
    }
}

fn config(options: &TlsOptions) -> Result<ServerConfig, TlsError> {
    let unfit = |why: String| TlsError::Unfit {
        path: options.certificate.clone(),
        why,
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&options.client_ca)? {
        authorities.add(certificate).map_err(|e| TlsError::File {
            path: options.client_ca.clone(),
            why: e.to_string(),
            remedy: "it is to have certificates of authorities",
        })?;
    }
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|e| TlsError::File {
        path: options.key.clone(),
        why: e.to_string(),
        remedy: "it is to have a private key in PEM form, without a passphrase",
    })?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
        .build()
        .map_err(|e| unfit(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(e.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&options.certificate)?, key)
        .map_err(|e| unfit(e.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Connections whose clients have proved who they are.
pub struct TlsListener {
    proved: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

/// Listens. Certificates and key are read now, and not again.
///
/// # Errors
/// See [`TlsError`].
pub async fn listen(options: &TlsOptions) -> Result<TlsListener, TlsError> {
    let acceptor = TlsAcceptor::from(Arc::new(config(options)?));
    let error = |source| TlsError::Bind {
        address: options.listen,
        source,
    };
    let listener = TcpListener::bind(options.listen).await.map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    let (proving, proved) = mpsc::channel(1);
    tokio::spawn(accept(listener, acceptor, proving));
    Ok(TlsListener { proved, address })
}

/// Each client proves itself beside the others, so that a slow one delays nobody.
async fn accept(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    proving: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        // Axum's own way to accept: it goes on after errors.
        let (stream, from) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = proving.closed() => return,
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            log::warn!("{from} is turned away: too many clients are about to prove who they are");
            continue;
        };
        let (acceptor, proving) = (acceptor.clone(), proving.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(proving.send((stream, from)).await),
                Ok(Err(e)) => log::info!("{from} has not proved who it is: {e}"),
                Err(_) => log::info!("{from} has not proved who it is in time"),
            }
            drop(permit);
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.proved.recv().await {
            Some(accepted) => accepted,
            // The task that accepts ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Known for TlsStream<TcpStream> {
    fn peer(&self) -> Peer {
        let (_, session) = self.get_ref();
        match session.peer_certificates() {
            Some([own, ..]) => Peer::Certificate { names: names(own) },
            _ => Peer::Unknown,
        }
    }
}

/// The names in a certificate, as grants write them.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    // What was verified can be parsed; what cannot has no names, and so no role.
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let subject = certificate.subject();
    let text = |kind: &'static str| {
        move |attribute: &AttributeTypeAndValue<'_>| {
            attribute.as_str().ok().map(|value| format!("{kind}={value}"))
        }
    };
    let mut names: Vec<String> = subject
        .iter_common_name()
        .filter_map(text("CN"))
        .chain(subject.iter_organization().filter_map(text("O")))
        .chain(subject.iter_organizational_unit().filter_map(text("OU")))
        .collect();
    if let Ok(Some(others)) = certificate.subject_alternative_name() {
        names.extend(others.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(format!("URI:{uri}")),
            GeneralName::DNSName(name) => Some(format!("DNS:{name}")),
            GeneralName::RFC822Name(address) => Some(format!("EMAIL:{address}")),
            _ => None,
        }));
    }
    names
}
