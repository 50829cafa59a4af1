// SPDX-License-Identifier: GPL-3.0-only
//! Who may use the API and where, as the command line says it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::door::Doorman;
use super::grants::{Grant, Grants};
use super::tls::TlsOptions;

/// Options of the API.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "API")]
pub struct Access {
    /// Let others than root use the API: ROLE is viewer, operator or admin; WHOM is user:NAME, uid:N, group:NAME, gid:N, or with
    /// --listen cert:CN=NAME and the like. May be given more than once
    #[arg(long = "grant", value_name = "ROLE=WHOM")]
    grants: Vec<Grant>,
    /// Requests a second that one caller may make, twice as many at once; 0 is any number. Root is not held to it
    #[arg(long, value_name = "N", default_value_t = 100)]
    rate_limit: u32,
    /// Serve the API here, too, by TLS to who has a certificate
    #[arg(long, value_name = "ADDRESS:PORT", requires_all = ["tls_cert", "tls_key", "client_ca"])]
    listen: Option<SocketAddr>,
    /// Certificate of policyd for that, and those between it and its authority, in PEM form
    #[arg(long, value_name = "FILE", requires = "listen")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM form
    #[arg(long, value_name = "FILE", requires = "listen")]
    tls_key: Option<PathBuf>,
    /// Certificates of the authorities that sign those of clients, in PEM form
    #[arg(long, value_name = "FILE", requires = "listen")]
    client_ca: Option<PathBuf>,
}

impl Access {
    /// The grants.
    pub fn grants(&self) -> Grants {
        Grants::new(self.grants.clone())
    }

    /// Who stands at the door.
    pub fn doorman(&self) -> Doorman {
        Doorman::new(self.grants(), self.rate_limit)
    }

    /// Where to serve by TLS; none where that is not asked for.
    pub fn tls(&self) -> Option<TlsOptions> {
        Some(TlsOptions {
            listen: self.listen?,
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            client_ca: self.client_ca.clone()?,
        })
    }
}
