// SPDX-License-Identifier: GPL-3.0-only
//! What can go wrong, where, and what helps.

use std::io;
use std::path::PathBuf;

use crate::rules::RuleError;
use crate::services::ServiceError;
use crate::shape::ShapeError;

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be.
    #[error("configuration of the datapath: {what}")]
    Config {
        /// Which, and what it may be.
        what: &'static str,
    },
    /// The pin directory is on another kind of file system.
    #[error("{path} is not on a BPF file system: mount one first (`mount -t bpf bpf /sys/fs/bpf`)")]
    NoBpfFs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory cannot be used.
    #[error("pin directory {path}: {source}{}", remedy(source))]
    PinDir {
        /// The pin directory, or a pin in it.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel takes the maps or the programs not, and is older than any that does.
    #[error(
        "Linux {release} is too old for the datapath ({}): kernels before 5.2 take programs of 4096 instructions, and these \
         have more than twice as many; boot Linux 5.2 or newer in dom0",
        chain(source.as_ref())
    )]
    OldKernel {
        /// As `uname -r` has it.
        release: String,
        /// What the loader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel takes the maps or the programs not.
    #[error(
        "the kernel does not load the datapath: {}: it needs root, Linux 5.2 or newer with CONFIG_BPF_SYSCALL, and \
         memory for the maps",
        chain(source.as_ref())
    )]
    Load {
        /// What the loader says, with the verifier's words if there are any.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map cannot be read or written.
    #[error("map `{map}`: {}", chain(source.as_ref()))]
    Map {
        /// Its name in the pin directory.
        map: &'static str,
        /// What the kernel says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No room left in a map whose size is set in [`crate::Config`].
    #[error(
        "map `{map}` is full at {entries} entries (a rule set takes its room twice while it is exchanged)"
    )]
    Full {
        /// Its name in the pin directory.
        map: &'static str,
        /// How many it holds.
        entries: u32,
    },
    /// There is no such interface.
    #[error("no network interface `{interface}`")]
    NoInterface {
        /// Its name, or `ifindex N`.
        interface: String,
    },
    /// A change of the interface's qdisc or filters was refused.
    #[error("{interface}: cannot {what}: {source}{}", remedy(source))]
    Tc {
        /// The interface's name.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// TCX is asked for, and the kernel has none.
    #[error(
        "{interface}: the kernel has no TCX hooks (Linux 6.6 and newer have): attach by `clsact`, or `auto`"
    )]
    NoTcx {
        /// The interface's name.
        interface: String,
    },
    /// The vif's root qdisc is somebody else's.
    #[error(
        "{interface}: its root qdisc is of kind {kind}, and not ours: take it off (`tc qdisc del dev {interface} root`) to \
         have the vif shaped, or leave its bandwidth out of the policy"
    )]
    ForeignQdisc {
        /// The interface's name.
        interface: String,
        /// The qdisc's kind, as tc(8) has it.
        kind: String,
    },
    /// It cannot be shaped so; it stays as it was.
    #[error("{interface}: {source}")]
    Shape {
        /// The interface's name.
        interface: String,
        /// What is wrong.
        source: ShapeError,
    },
    /// The kernel has not what it takes.
    #[error(
        "{interface}: this kernel cannot shape {what} guests: it lacks {missing} (are the modules there? `modprobe -a {missing}`)"
    )]
    NoShaper {
        /// The interface's name.
        interface: String,
        /// "to" or "from".
        what: &'static str,
        /// Modules, by spaces.
        missing: String,
    },
    /// It has what keeps a total, and nothing for classes.
    #[error(
        "{interface}: this kernel can keep totals and no classes: it lacks sch_htb (is the module there? `modprobe sch_htb`)"
    )]
    NoClasses {
        /// The interface's name.
        interface: String,
    },
    /// A vif is attached before it is shaped.
    #[error("{interface} is not attached: attach it before it is shaped")]
    NotAttached {
        /// The interface's name.
        interface: String,
    },
    /// The list of interfaces or filters cannot be read.
    #[error("cannot read the network interfaces: {source}")]
    Netlink {
        /// What the kernel says.
        source: io::Error,
    },
    /// A vif of a scope without settings would have no default.
    #[error("scope {scope} has no settings: call set_scope before attaching {interface}")]
    UnknownScope {
        /// The scope.
        scope: u32,
        /// The vif to be attached.
        interface: String,
    },
    /// The scope cannot be removed.
    #[error("scope {scope} still has {interface} attached: detach it first")]
    ScopeInUse {
        /// The scope.
        scope: u32,
        /// One of its vifs.
        interface: String,
    },
    /// The rule set contradicts itself; the one in force stays.
    #[error("rule set of generation {generation}: {source}")]
    Rules {
        /// The generation that was to be published.
        generation: u32,
        /// What is wrong.
        source: RuleError,
    },
    /// The services contradict themselves; those in force stay.
    #[error("services: {source}")]
    Services {
        /// What is wrong.
        source: ServiceError,
    },
}

/// The oldest kernel whose verifier takes programs of this size.
const OLDEST: (u32, u32) = (5, 2);

impl Error {
    /// What a refused load came to. Only then is the kernel's age looked at: some vendors' old kernels have what newer ones have.
    pub(crate) fn load(source: Box<dyn std::error::Error + Send + Sync>) -> Self {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        match version(&release) {
            Some(version) if version < OLDEST => Self::OldKernel {
                release: release.trim().to_owned(),
                source,
            },
            _ => Self::Load { source },
        }
    }

    /// What traffic control or a device's change came to.
    pub(crate) fn tc(interface: &str, what: &'static str, source: io::Error) -> Self {
        let interface = interface.to_owned();
        if source.raw_os_error() == Some(libc::ENODEV) {
            return Self::NoInterface { interface };
        }
        Self::Tc {
            interface,
            what,
            source,
        }
    }
}

/// The whole chain of causes in one line: the loader's outermost words alone say little.
fn chain(error: &(dyn std::error::Error + Send + Sync)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (run as root)",
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            " (are the kernel modules sch_ingress and cls_bpf there? `modprobe -a sch_ingress cls_bpf`)"
        }
        Some(libc::EBUSY) => " (a qdisc of kind `ingress` has the place: remove it, or replace it by clsact)",
        Some(libc::EINVAL) => {
            " (is a filter of another kind at the same priority? see `tc filter show`, and choose another priority)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_sorts_are_read() {
        assert_eq!(version("4.19.0+1\n"), Some((4, 19)));
        assert_eq!(version("5.0.0-65-generic"), Some((5, 0)));
        assert_eq!(version("6.18-rc1"), Some((6, 18)));
        assert!(version("5.0").unwrap() < OLDEST && version("5.2").unwrap() >= OLDEST);
        assert_eq!(version(""), None);
        assert_eq!(version("next"), None);
    }

    #[test]
    fn errors_name_place_and_remedy() {
        let error = Error::Tc {
            interface: "vif7.0".into(),
            what: "add the clsact qdisc",
            source: io::Error::from_raw_os_error(libc::EPERM),
        };
        let text = error.to_string();
        assert!(
            text.contains("vif7.0") && text.contains("clsact") && text.contains("root"),
            "{text}"
        );
    }
}
