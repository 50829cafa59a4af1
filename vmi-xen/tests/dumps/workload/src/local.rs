// SPDX-License-Identifier: GPL-3.0-only
//! Unix sockets between processes.

use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::forever;

/// Listens at `path` and accepts one connection; a child holds the other end of
/// a pair as its standard input.
pub fn serve(path: &str) {
    let listener = UnixListener::bind(path).expect("bind");
    let (own, childs) = UnixStream::pair().expect("pair");
    let child = Command::new("/workload")
        .arg("hold")
        .stdin(OwnedFd::from(childs))
        .spawn()
        .expect("child");
    let accepted = listener.accept().expect("accept");
    forever();
    drop((own, child, accepted));
}

/// Connects to `path` and holds the connection.
pub fn connect(path: &str) {
    let peer = UnixStream::connect(path).expect("connect");
    forever();
    drop(peer);
}
