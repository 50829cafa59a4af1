// SPDX-License-Identifier: GPL-3.0-only
//! What can end a command, and the exit status that says so to a script.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use policyd_api::ClientError;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The daemon could not be reached, refused, or broke off.
    #[error("xmesh: {0}")]
    Client(#[from] ClientError),
    /// A document is not valid. No `xmesh:` before it, so that editors find file, line and column.
    #[error("{0}")]
    Policy(#[from] policy::Problems),
    /// A file could not be read.
    #[error("xmesh: cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("xmesh: cannot write {}: {source}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An export cannot be trusted.
    #[error("xmesh: {0}")]
    Export(#[from] policyd_api::export::ExportError),
    /// The audit log is not whole.
    #[error("xmesh: {0}")]
    Broken(String),
    /// A dump is none that is understood.
    #[error("xmesh: {0}")]
    Dump(#[from] vmi_xen::offline::OfflineError),
    /// A dump's kernel was found, and more was not understood.
    #[error("xmesh: {}: {source}", path.display())]
    Guest {
        /// The dump.
        path: PathBuf,
        /// What is not understood.
        source: vmi_xen::linux::LinuxError,
    },
    /// Memory is missing in a dump; what the rest tells has been told.
    #[error("xmesh: {}: {missing} bytes of the guest's memory are beyond the end of this file", path.display())]
    Incomplete {
        /// The dump.
        path: PathBuf,
        /// How many bytes.
        missing: u64,
    },
    /// No domain has that name or id.
    #[error("xmesh: no domain {0:?}; `xmesh list` lists them")]
    NoDomain(String),
    /// What was edited could not be applied, and is not lost.
    #[error("{error}\nwhat you wrote is in {}; `xmesh policy-apply` takes it", path.display())]
    Kept {
        /// Where it is.
        path: PathBuf,
        /// Why it was not applied.
        error: Box<ToolError>,
    },
    /// What the arguments say together makes no sense.
    #[error("xmesh: {0}")]
    Usage(String),
    /// A check found something; the findings are on standard output.
    #[error("xmesh: the domain is not as it should be")]
    Found,
    /// Threats are listed that are alerts.
    #[error("xmesh: alerts among them: {0}")]
    Alerts(usize),
    /// Processes are listed whose text is none that the policy has.
    #[error("xmesh: changed programs among them: {0}")]
    Changed(usize),
    /// The mesh cannot run on this host as it is; what it lacks is on standard output.
    #[error("xmesh: this host lacks what the mesh needs; see the lines that begin with `fail`")]
    Lacking,
    /// Documents are valid, and say what their author may not mean; the findings are on standard output.
    #[error("xmesh: the policy is valid; look at what was found all the same")]
    Questionable,
    /// A policy that was tried would do otherwise; what, is on standard output.
    #[error("xmesh: the policy would change what becomes of flows")]
    Differs,
    /// A canary fares worse than its baseline; how, is on standard output.
    #[error("xmesh: {0} fares worse")]
    Worse(String),
    /// A stream ended before it was asked to.
    #[error("xmesh: the trace has ended: {0}")]
    Ended(String),
    /// The terminal cannot be taken, or is gone.
    #[error("xmesh: cannot use the terminal: {0}; `xmesh top --batch` needs none")]
    Terminal(io::Error),
    /// No browser could be served.
    #[error("xmesh: cannot serve on {place}: {source}; --port names another port")]
    Serve {
        /// Address and port.
        place: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("xmesh: cannot read /dev/urandom: {0}; without it no address can be made that nobody guesses")]
    Random(io::Error),
    /// Standard output takes no more: a full disk, a closed terminal.
    #[error("xmesh: cannot write the answer: {0}")]
    Write(io::Error),
    /// Whoever read standard output has gone, as `head` does. Not an error.
    #[error("the reader has gone")]
    ReaderGone,
}

impl ToolError {
    /// 1: refused or failed, 2: usage, 3: the daemon is not reachable, 4: a policy is valid and questionable, or would change
    /// something where it was tried, or a canary is worse.
    pub fn exit_status(&self) -> u8 {
        match self {
            ToolError::Client(ClientError::Unreachable { .. } | ClientError::Remote { .. }) => 3,
            ToolError::Usage(_) | ToolError::Client(ClientError::Url { .. }) => 2,
            ToolError::Kept { error, .. } => error.exit_status(),
            ToolError::Questionable | ToolError::Differs | ToolError::Worse(_) => 4,
            ToolError::ReaderGone => 0,
            ToolError::Client(_)
            | ToolError::Policy(_)
            | ToolError::Read { .. }
            | ToolError::Save { .. }
            | ToolError::Export(_)
            | ToolError::Broken(_)
            | ToolError::Dump(_)
            | ToolError::Guest { .. }
            | ToolError::Incomplete { .. }
            | ToolError::Found
            | ToolError::Alerts(_)
            | ToolError::Changed(_)
            | ToolError::Lacking
            | ToolError::NoDomain(_)
            | ToolError::Ended(_)
            | ToolError::Terminal(_)
            | ToolError::Serve { .. }
            | ToolError::Random(_)
            | ToolError::Write(_) => 1,
        }
    }
}

impl From<io::Error> for ToolError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => ToolError::ReaderGone,
            _ => ToolError::Write(error),
        }
    }
}
