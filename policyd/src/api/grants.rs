// SPDX-License-Identifier: GPL-3.0-only
//! Who may do what: roles, and what gives one to a caller.

use std::fmt;
use std::str::FromStr;

use nix::unistd::{Gid, Group, Uid, User};

use super::peer::Peer;

/// What a caller may do. Ordered: a later role may do what the earlier ones may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything but the audit log.
    Viewer,
    /// Also change policies, try them out, trace guests, and read the audit log.
    Operator,
    /// Also replace all there is by an export, and take one.
    Admin,
}

impl Role {
    const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

    /// The lower-case word, as in options and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whom {
    Uid(u32),
    Gid(u32),
    /// One name of a certificate, as [`super::peer::names`] writes it.
    Certificate(String),
}

/// A role and whom it is for: `operator=group:netops`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    role: Role,
    whom: Whom,
}

/// Why a grant is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is not of the form.
    #[error(
        "write ROLE=WHOM, as viewer=group:staff; ROLE is viewer, operator or admin, WHOM is user:NAME, uid:N, group:NAME, gid:N or cert:NAME"
    )]
    Form,
    /// dom0 has no such user or group.
    #[error("dom0 has no {kind} {name}; make it first, or write the number as {number}:N")]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// `uid` or `gid`.
        number: &'static str,
    },
    /// A certificate is not named so.
    #[error(
        "`{0}` is no name of a certificate; write a part of its subject, as cert:CN=alice or cert:O=netops, or an alternative name, as cert:URI:spiffe://example.org/alice, cert:DNS:host.example.org or cert:EMAIL:alice@example.org"
    )]
    Certificate(String),
}

impl FromStr for Grant {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Grant, GrantError> {
        let (role, whom) = text.split_once('=').ok_or(GrantError::Form)?;
        let role = Role::ALL.into_iter().find(|r| r.as_str() == role);
        let role = role.ok_or(GrantError::Form)?;
        let (kind, value) = whom.split_once(':').ok_or(GrantError::Form)?;
        let unknown = |kind, number| GrantError::Unknown {
            kind,
            name: value.to_owned(),
            number,
        };
        let number = || value.parse::<u32>().map_err(|_| GrantError::Form);
        let whom = match kind {
            "uid" => Whom::Uid(number()?),
            "gid" => Whom::Gid(number()?),
            "user" => match User::from_name(value) {
                Ok(Some(user)) => Whom::Uid(user.uid.as_raw()),
                _ => return Err(unknown("user", "uid")),
            },
            "group" => match Group::from_name(value) {
                Ok(Some(group)) => Whom::Gid(group.gid.as_raw()),
                _ => return Err(unknown("group", "gid")),
            },
            "cert" => {
                let known = ["CN=", "O=", "OU=", "URI:", "DNS:", "EMAIL:"].into_iter();
                let mut rest = known.filter_map(|start| value.strip_prefix(start));
                if !rest.any(|rest| !rest.is_empty()) {
                    return Err(GrantError::Certificate(value.to_owned()));
                }
                Whom::Certificate(value.to_owned())
            }
            _ => return Err(GrantError::Form),
        };
        Ok(Grant { role, whom })
    }
}

/// How the socket's file lets callers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Mode 0600: root alone.
    Root,
    /// Mode 0660: root and this group.
    Group(u32),
    /// Mode 0666: any user may connect, and is asked for who it is.
    Anybody,
}

/// All grants. Root, by the unix socket, is admin whatever they say.
#[derive(Debug, Clone, Default)]
pub struct Grants(Vec<Grant>);

impl Grants {
    /// These grants.
    pub fn new(grants: Vec<Grant>) -> Grants {
        Grants(grants)
    }

    /// The highest role that this peer has; none: it may do nothing.
    pub fn role(&self, peer: &Peer) -> Option<Role> {
        if let Peer::Local { uid: 0, .. } = peer {
            return Some(Role::Admin);
        }
        let fits = |grant: &&Grant| match (&grant.whom, peer) {
            (Whom::Uid(wanted), Peer::Local { uid, .. }) => wanted == uid,
            (Whom::Gid(wanted), Peer::Local { groups, .. }) => groups.contains(wanted),
            (Whom::Certificate(wanted), Peer::Certificate { names }) => names.contains(wanted),
            _ => false,
        };
        self.0.iter().filter(fits).map(|grant| grant.role).max()
    }

    /// How the socket's file is to let in whom these grants are for. A file has one group, so two of them, or a single user, need
    /// the one that lets in all; who has no grant is refused behind it.
    pub fn opening(&self) -> Opening {
        let mut groups = Vec::new();
        for grant in &self.0 {
            match grant.whom {
                Whom::Uid(0) | Whom::Certificate(_) => {}
                Whom::Uid(_) => return Opening::Anybody,
                Whom::Gid(gid) => groups.push(gid),
            }
        }
        groups.sort_unstable();
        groups.dedup();
        match groups[..] {
            [] => Opening::Root,
            [gid] => Opening::Group(gid),
            _ => Opening::Anybody,
        }
    }
}

/// How `--grant` names a peer, for whoever is to be told how to get in.
pub struct AsGrant<'a>(pub &'a Peer);

impl fmt::Display for AsGrant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Peer::Local { uid, .. } => match User::from_uid(Uid::from_raw(*uid)) {
                Ok(Some(user)) => write!(f, "user:{}", user.name),
                _ => write!(f, "uid:{uid}"),
            },
            Peer::Certificate { names } => match names.first() {
                Some(name) => write!(f, "cert:{name}"),
                None => write!(f, "cert:NAME"),
            },
            Peer::Unknown => write!(f, "user:NAME"),
        }
    }
}

/// Gives the socket's file the group and mode of an opening.
///
/// # Errors
/// Those of chown and chmod.
pub fn set_opening(path: &std::path::Path, opening: Opening) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = match opening {
        Opening::Root => 0o600,
        Opening::Group(gid) => {
            nix::unistd::chown(path, None, Some(Gid::from_raw(gid)))?;
            0o660
        }
        Opening::Anybody => 0o666,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        Grants::new(texts.iter().map(|t| t.parse().expect("a grant")).collect())
    }

    fn local(uid: u32, groups: &[u32]) -> Peer {
        Peer::Local {
            uid,
            groups: groups.to_vec(),
        }
    }

    fn certificate(names: &[&str]) -> Peer {
        Peer::Certificate {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
        }
    }

    #[test]
    fn the_highest_role_counts_and_root_needs_none() {
        let grants = grants(&[
            "viewer=gid:50",
            "operator=uid:7",
            "admin=cert:CN=alice",
            "viewer=cert:O=ops",
        ]);
        assert_eq!(grants.role(&local(0, &[])), Some(Role::Admin));
        assert_eq!(grants.role(&local(7, &[7, 50])), Some(Role::Operator));
        assert_eq!(grants.role(&local(8, &[8, 50])), Some(Role::Viewer));
        assert_eq!(grants.role(&local(50, &[7])), None);
        assert_eq!(
            grants.role(&certificate(&["CN=alice", "O=ops"])),
            Some(Role::Admin)
        );
        assert_eq!(
            grants.role(&certificate(&["CN=bob", "O=ops"])),
            Some(Role::Viewer)
        );
        assert_eq!(grants.role(&certificate(&["CN=alice, O=ops"])), None);
        assert_eq!(grants.role(&Peer::Unknown), None);
    }

    #[test]
    fn the_opening_is_no_wider_than_the_grants_ask() {
        assert_eq!(grants(&[]).opening(), Opening::Root);
        assert_eq!(
            grants(&["admin=cert:CN=a", "admin=uid:0"]).opening(),
            Opening::Root
        );
        assert_eq!(
            grants(&["viewer=gid:50", "admin=gid:50"]).opening(),
            Opening::Group(50)
        );
        assert_eq!(
            grants(&["viewer=gid:50", "admin=gid:51"]).opening(),
            Opening::Anybody
        );
        assert_eq!(grants(&["viewer=uid:50"]).opening(), Opening::Anybody);
    }

    #[test]
    fn what_is_no_grant_says_what_one_is() {
        for bad in [
            "",
            "viewer",
            "boss=uid:1",
            "viewer=1",
            "viewer=uid:x",
            "viewer=who:1",
            "viewer=gid:-1",
        ] {
            assert_eq!(bad.parse::<Grant>(), Err(GrantError::Form), "{bad}");
        }
        let error = "viewer=group:no-such-group"
            .parse::<Grant>()
            .expect_err("there is none");
        assert!(
            error.to_string().contains("dom0 has no group no-such-group"),
            "{error}"
        );
        for bad in ["admin=cert:alice", "admin=cert:CN=", "admin=cert:C=DE"] {
            assert!(
                matches!(bad.parse::<Grant>(), Err(GrantError::Certificate(_))),
                "{bad}"
            );
        }
        assert_eq!("admin=user:root".parse::<Grant>(), "admin=uid:0".parse::<Grant>());
    }
}
