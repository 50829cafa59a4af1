// SPDX-License-Identifier: GPL-3.0-only
//! xenstore: names of domains, who may write a node, and the vifs that dom0 serves them with.
//!
//! Reading goes through the crate `xenstore-rs`. It has no watches in its
//! blocking part, nor does it ask for permissions, so
//! those ([`Watch`], [`Permissions`]) go through libxenstore.

mod permissions;
mod watch;

use std::io;

use thiserror::Error;
use xenstore_rs::{Xs, unix::XsUnix};

use crate::DomId;
pub use permissions::{Permission, Permissions};
pub use watch::{INTRODUCE_DOMAIN, RELEASE_DOMAIN, Watch};

/// Where dom0 keeps the back ends of network interfaces.
pub const VIF_BACKENDS: &str = "/local/domain/0/backend/vif";

/// Why xenstore could not be asked.
#[derive(Debug, Error)]
#[error("xenstore: {action} {path}: {source}")]
pub struct StoreError {
    /// What was tried.
    pub action: &'static str,
    /// The node it was tried on.
    pub path: String,
    /// What xenstored or the kernel answered.
    #[source]
    pub source: io::Error,
}

/// A connection to xenstored.
pub struct Store {
    xs: XsUnix,
    permissions: permissions::Handle,
}

/// A network interface of a domain, as its back end in dom0 describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vif {
    /// The domain it belongs to.
    pub domid: DomId,
    /// Its number within the domain.
    pub handle: u32,
    /// Name of the interface in dom0.
    pub name: String,
    /// Its MAC address, as written in the configuration.
    pub mac: Option<String>,
    /// Addresses that the configuration gives it (`ip=`), if any.
    pub ip: Vec<String>,
    /// Bridge that it is to be put on.
    pub bridge: Option<String>,
    /// State of the back end (`XenbusState`): 4 is connected.
    pub state: u32,
}

impl Store {
    /// Connects to xenstored.
    ///
    /// # Errors
    /// Where neither its socket nor `/dev/xen/xenbus` can be opened.
    pub fn open() -> Result<Self, StoreError> {
        let xs = XsUnix::new().map_err(|source| StoreError {
            action: "connect to",
            path: "xenstored".to_owned(),
            source,
        })?;
        Ok(Self {
            xs,
            permissions: permissions::Handle::open()?,
        })
    }

    /// Reads a node; `None` where it does not exist.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn read(&self, path: &str) -> Result<Option<String>, StoreError> {
        optional("read", path, self.xs.read(path)).map(|value| value.map(String::from))
    }

    /// Names of a node's children; none where it does not exist.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn list(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let names = optional("list", path, self.xs.directory(path))?;
        Ok(names.unwrap_or_default().into_iter().map(String::from).collect())
    }

    /// Who may read and write a node; `None` where it does not exist.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn permissions(&self, path: &str) -> Result<Option<Permissions>, StoreError> {
        self.permissions.permissions(path)
    }

    /// The name of a pool of processors, as `xl cpupool-list` shows it.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn pool_name(&self, pool: u32) -> Result<Option<String>, StoreError> {
        let name = self.read(&format!("/local/pool/{pool}/name"))?;
        // libxl has this name for the first pool, too, before anybody has written it.
        Ok(name.or_else(|| (pool == 0).then(|| "Pool-0".to_owned())))
    }

    /// The name of a domain, as `xl list` shows it.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn domain_name(&self, domid: DomId) -> Result<Option<String>, StoreError> {
        self.read(&format!("/local/domain/{domid}/name"))
    }

    /// All interfaces that dom0 serves, sorted by domain and handle.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn vifs(&self) -> Result<Vec<Vif>, StoreError> {
        let mut vifs = Vec::new();
        for domain in self.list(VIF_BACKENDS)? {
            if let Ok(domid) = domain.parse() {
                vifs.extend(self.vifs_of(domid)?);
            }
        }
        vifs.sort_unstable_by_key(|vif| (vif.domid, vif.handle));
        Ok(vifs)
    }

    /// The interfaces of one domain that dom0 serves.
    ///
    /// # Errors
    /// Where xenstored cannot be reached or refuses.
    pub fn vifs_of(&self, domid: DomId) -> Result<Vec<Vif>, StoreError> {
        let mut vifs = Vec::new();
        for handle in self.list(&format!("{VIF_BACKENDS}/{domid}"))? {
            if let Ok(handle) = handle.parse() {
                vifs.push(self.vif(domid, handle)?);
            }
        }
        Ok(vifs)
    }

    fn vif(&self, domid: DomId, handle: u32) -> Result<Vif, StoreError> {
        let node = |leaf: &str| self.read(&format!("{VIF_BACKENDS}/{domid}/{handle}/{leaf}"));
        Ok(Vif {
            domid,
            handle,
            // netback names the interface so unless `vifname=` was given.
            name: node("vifname")?.unwrap_or_else(|| format!("vif{domid}.{handle}")),
            mac: node("mac")?,
            ip: node("ip")?
                .map(|list| list.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            bridge: node("bridge")?,
            state: node("state")?.and_then(|state| state.parse().ok()).unwrap_or(0),
        })
    }
}

/// Turns "no such node" into `None`.
fn optional<T>(action: &'static str, path: &str, result: io::Result<T>) -> Result<Option<T>, StoreError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError {
            action,
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_node_is_none_and_other_failures_are_errors() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert!(matches!(optional::<()>("read", "/a", Err(missing)), Ok(None)));
        let refused = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = optional::<()>("read", "/a", Err(refused)).expect_err("an error");
        assert!(error.to_string().starts_with("xenstore: read /a: "));
    }
}
