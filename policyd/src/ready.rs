// SPDX-License-Identifier: GPL-3.0-only
//! Telling systemd that the daemon serves, so that what is to start after it (guests, above all) waits until then.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells whoever started this process, if that asked for it by `NOTIFY_SOCKET`. That it could not be told is only logged: systemd then
/// ends the daemon when its patience is over, and says why.
pub fn tell() {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
        tell_at(&socket)
            .unwrap_or_else(|e| log::warn!("telling {} that policyd serves: {e}", socket.display()));
    }
}

fn tell_at(socket: &OsString) -> io::Result<()> {
    UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address(socket)?)?;
    Ok(())
}

/// A path, or a name in the abstract space after an `@`.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).expect("a datagram");
        bytes[..length].to_vec()
    }

    #[test]
    fn a_path_and_an_abstract_name_are_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        tell_at(&path.into_os_string()).expect("told");
        assert_eq!(heard(&socket), b"READY=1\n");

        let name = format!("policyd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        tell_at(&format!("@{name}").into()).expect("told");
        assert_eq!(heard(&socket), b"READY=1\n");
    }

    #[test]
    fn nobody_there_is_an_error_and_no_more() {
        assert!(tell_at(&"/nonexistent/notify".into()).is_err());
    }
}
