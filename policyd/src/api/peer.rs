// SPDX-License-Identifier: GPL-3.0-only
//! Who is at the other end of a connection, by what nobody can say of himself: the kernel's word, or a certificate.

use std::os::fd::AsRawFd;

use policyd_api::Author;
use tokio::net::UnixStream;

use super::connections::Known;

/// The user id of who has none in dom0, since it came by certificate; Linux gives this number to nobody.
const NO_UID: u32 = u32::MAX;
/// Most supplementary groups of a process.
const MAX_GROUPS: usize = 65_536;

/// The other end of a connection, as it was when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of dom0.
    Local {
        /// Its effective user id.
        uid: u32,
        /// Its groups, the effective one first.
        groups: Vec<u32>,
    },
    /// Who has the key of a certificate that an authority of ours signed.
    Certificate {
        /// Its names: of the subject `CN=`, `O=`, `OU=`, then alternative ones, `URI:`, `DNS:`, `EMAIL:`.
        names: Vec<String>,
    },
    /// The kernel did not say. It is nobody, and not root.
    Unknown,
}

impl Peer {
    /// Who changes are ascribed to.
    pub fn author(&self) -> Author {
        match self {
            Peer::Local { uid, .. } => crate::control::author(*uid),
            Peer::Certificate { names } => Author {
                uid: NO_UID,
                name: Some(match names.first() {
                    Some(name) => format!("cert:{name}"),
                    None => "cert:".to_owned(),
                }),
            },
            Peer::Unknown => Author {
                uid: NO_UID,
                name: None,
            },
        }
    }

    /// The process at the other end of a unix socket.
    pub fn of(stream: &UnixStream) -> Peer {
        let Ok(credentials) = stream.peer_cred() else {
            return Peer::Unknown;
        };
        let mut groups = vec![credentials.gid()];
        match supplementary_groups(stream) {
            Ok(more) => groups.extend(more),
            // Fewer groups give fewer rights, never more.
            Err(e) => log::warn!("the groups of a caller of the API cannot be read: {e}"),
        }
        Peer::Local {
            uid: credentials.uid(),
            groups,
        }
    }
}

impl Known for UnixStream {
    fn peer(&self) -> Peer {
        Peer::of(self)
    }
}

/// The groups of the process that connected, from the moment when it did.
fn supplementary_groups(stream: &UnixStream) -> std::io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let size = std::mem::size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(size).unwrap_or(0);
        // SAFETY: the descriptor is open for as long as `stream` is borrowed; `groups` has `length` bytes to write to, any of
        // which are valid as integers; `length` is a local that the kernel may write.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let there = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(there);
            return Ok(groups);
        }
        let error = std::io::Error::last_os_error();
        // Too little room: the kernel has said how much it wants.
        if error.raw_os_error() != Some(libc::ERANGE) || there <= groups.len() || there > MAX_GROUPS {
            return Err(error);
        }
        groups.resize(there, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_groups_are_those_that_the_kernel_knows() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let peer = runtime.block_on(async {
            let (one, _other) = UnixStream::pair().expect("a pair");
            Peer::of(&one)
        });
        let mut own = vec![nix::unistd::getegid().as_raw()];
        own.extend(
            nix::unistd::getgroups()
                .expect("groups")
                .iter()
                .map(|g| g.as_raw()),
        );
        assert_eq!(
            peer,
            Peer::Local {
                uid: nix::unistd::geteuid().as_raw(),
                groups: own
            }
        );
    }

    #[test]
    fn who_comes_by_certificate_is_no_user_of_dom0() {
        let peer = Peer::Certificate {
            names: vec!["CN=alice".into(), "O=ops".into()],
        };
        let author = peer.author();
        assert_eq!(
            (author.uid, author.name.as_deref()),
            (u32::MAX, Some("cert:CN=alice"))
        );
    }
}
