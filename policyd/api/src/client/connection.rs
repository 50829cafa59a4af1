// SPDX-License-Identifier: GPL-3.0-only
//! How the client gets to policyd: by its unix socket, or by TLS with a certificate.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::ClientError;

/// Who the client is where it comes by TLS, and whom it trusts; files in PEM form.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The client's certificate, then those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key, without a passphrase.
    pub key: PathBuf,
    /// Authorities that sign policyd's certificate; no others are trusted.
    pub authorities: PathBuf,
}

/// Something to speak HTTP over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where policyd is.
pub(super) enum Place {
    Socket(PathBuf),
    Host(Box<Host>),
}

pub(super) struct Host {
    url: String,
    name: String,
    port: u16,
    server: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Place {
    /// `url`: `https://HOST[:PORT]`.
    pub(super) fn host(url: &str, identity: &Identity) -> Result<Place, ClientError> {
        let bad = |why: &str| ClientError::Url {
            url: url.to_owned(),
            why: why.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| bad("this is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(bad("it does not begin with https://"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it has something after host and port"));
        }
        let name = uri.host().ok_or_else(|| bad("it has no host"))?;
        // An IPv6 address stands in brackets only there.
        let name = name.trim_matches(['[', ']']).to_owned();
        let server =
            ServerName::try_from(name.clone()).map_err(|_| bad("its host is no name and no address"))?;
        Ok(Place::Host(Box::new(Host {
            url: url.to_owned(),
            name,
            port: uri.port_u16().unwrap_or(443),
            server,
            config: Arc::new(config(identity)?),
        })))
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, ClientError> {
        let host = match self {
            Place::Socket(path) => {
                let stream = UnixStream::connect(path).await;
                let stream = stream.map_err(|source| ClientError::Unreachable {
                    path: path.clone(),
                    source,
                })?;
                return Ok(Box::new(stream));
            }
            Place::Host(host) => host,
        };
        let stream = TcpStream::connect((host.name.as_str(), host.port)).await;
        let stream = stream.map_err(|e| self.broken(e))?;
        let connector = TlsConnector::from(Arc::clone(&host.config));
        let stream = connector.connect(host.server.clone(), stream).await;
        Ok(Box::new(stream.map_err(|e| self.broken(e))?))
    }

    /// The connection broke before there was an answer. That a certificate was refused is told by TLS only then.
    pub(super) fn broken(&self, error: impl Error) -> ClientError {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(deeper) = source {
            why = format!("{why}: {deeper}");
            source = deeper.source();
        }
        match self {
            Place::Socket(_) => super::protocol(why),
            Place::Host(host) => ClientError::Remote {
                url: host.url.clone(),
                why,
            },
        }
    }
}

fn config(identity: &Identity) -> Result<ClientConfig, ClientError> {
    let bad = |path: &Path, why: String| ClientError::Identity {
        path: path.to_owned(),
        why,
    };
    let certificates = |path: &Path| {
        let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(list) if list.is_empty() => Err(bad(path, "there is no certificate in it".into())),
            Ok(list) => Ok(list),
            Err(e) => Err(bad(path, e.to_string())),
        }
    };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&identity.authorities)? {
        let added = authorities.add(certificate);
        added.map_err(|e| bad(&identity.authorities, e.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|e| bad(&identity.key, e.to_string()))?;
    let unfit = |e: tokio_rustls::rustls::Error| bad(&identity.certificate, e.to_string());
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_root_certificates(authorities)
        .with_client_auth_cert(certificates(&identity.certificate)?, key)
        .map_err(unfit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_of_policyd_says_why() {
        let identity = Identity {
            certificate: "/nonexistent/cert".into(),
            key: "/nonexistent/key".into(),
            authorities: "/nonexistent/ca".into(),
        };
        for (url, why) in [
            ("host:1", "https://"),
            ("http://host", "https://"),
            ("https://host/v1", "after host and port"),
            ("https://ho st", "no URL"),
            ("https://[::1]:4", "/nonexistent/ca"),
            ("https://host.example.org", "/nonexistent/ca"),
        ] {
            let error = Place::host(url, &identity).err().expect("is refused").to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
