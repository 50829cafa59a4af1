// SPDX-License-Identifier: GPL-3.0-only
//! Options that say where policyd is, and who asks it.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use policyd_api::{Client, Identity};

use crate::error::ToolError;

/// A policyd elsewhere.
#[derive(Debug, ClapArgs)]
pub struct Remote {
    /// Ask the policyd there, by TLS; wants --cert, --key and --ca.
    #[arg(long, global = true, value_name = "https://HOST:PORT")]
    pub url: Option<String>,
    /// Your certificate, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The authorities that sign policyd's certificate, PEM; no others are trusted.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

impl Remote {
    /// The client of that policyd, or of the one that listens on this socket.
    pub fn client(&self, socket: &Path) -> Result<Client, ToolError> {
        match (&self.url, &self.cert, &self.key, &self.ca) {
            (None, None, None, None) => Ok(Client::new(socket)?),
            (Some(url), Some(cert), Some(key), Some(ca)) => {
                let identity = Identity {
                    certificate: cert.clone(),
                    key: key.clone(),
                    authorities: ca.clone(),
                };
                Ok(Client::remote(url, &identity)?)
            }
            // clap does not check what global options want of each other.
            _ => Err(ToolError::Usage(
                "--url, --cert, --key and --ca go together: write all four, or none to ask the policyd of this host".to_owned(),
            )),
        }
    }
}
