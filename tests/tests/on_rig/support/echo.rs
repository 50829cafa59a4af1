// SPDX-License-Identifier: GPL-3.0-only
//! A server that answers with what it was sent.

use xmesh_rig::{Discard, Job};

use super::Mesh;

/// Echoes on a TCP and, unless it is 0, on a UDP port.
const SERVER: &str = r#"
import socket, sys, threading
tcp, udp = int(sys.argv[1]), int(sys.argv[2])
def datagrams():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", udp))
    while True:
        data, peer = s.recvfrom(2048); s.sendto(data, peer)
if udp: threading.Thread(target=datagrams, daemon=True).start()
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", tcp)); s.listen()
while True:
    c, _ = s.accept()
    try: c.settimeout(60); c.sendall(c.recv(100))
    except OSError: pass
    c.close()
"#;

/// Starts one in a guest, under another program (`ip netns exec …`) where `before` says so, and waits until it listens.
pub fn serve(
    mesh: &Mesh,
    guest: &str,
    before: &[&str],
    tcp: u16,
    udp: u16,
) -> Result<Job, Box<dyn std::error::Error>> {
    let ports = [tcp.to_string(), udp.to_string()];
    let argv = [before, &["python3", "-c", SERVER, &ports[0], &ports[1]]].concat();
    let job = mesh.0.spawn(guest, &argv, Discard)?;
    mesh.wait("the server listens", |mesh| {
        let listener = format!(":{tcp:04X} 00000000:0000 0A");
        let listens = [before, &["grep", "-q", &listener, "/proc/net/tcp"]].concat();
        Ok(mesh.0.exec(guest, &listens)?.success())
    })?;
    Ok(job)
}
