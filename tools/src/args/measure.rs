// SPDX-License-Identifier: GPL-3.0-only
//! What programs are, by their text.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::completion;

/// Which files to measure, and what policy is to say of them.
#[derive(Debug, ClapArgs)]
pub struct Measure {
    /// The programs, as in the guest (with --root) or on this host.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Where the guest's root directory is: its disk, mounted read-only, or its packages, unpacked.
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Where the program lies in guests, if that is not where FILE does.
    #[arg(long, value_name = "PATH")]
    pub at: Option<String>,
    /// Only in these guests: names, patterns or UUIDs.
    #[arg(long, value_name = "VM", add = completion::domains())]
    pub vm: Vec<String>,
    /// What to call what it is, such as the version of its package.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
    /// The policy set's name.
    #[arg(long, value_name = "NAME", default_value = "programs")]
    pub policy: String,
}

/// Which processes to list.
#[derive(Debug, ClapArgs)]
pub struct Measured {
    /// Name or id; all domains without it.
    #[arg(add = completion::domains())]
    pub domain: Option<String>,
    /// Also those of no program of the policy that show nothing odd.
    #[arg(short, long)]
    pub all: bool,
}
