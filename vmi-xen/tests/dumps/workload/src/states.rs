// SPDX-License-Identifier: GPL-3.0-only
//! TCP sockets in the states that do not last: made right before the dump.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

/// Makes them, then creates the file `ready`, and stays.
pub fn run(ready: &str) {
    let held = (
        time_wait("127.0.0.1:7070", "127.0.0.1:7070"),
        time_wait("[::1]:7071", "[::1]:7071"),
        time_wait("[::]:7072", "127.0.0.1:7072"),
        half_closed(),
        orphan_in_fin_wait_2(),
        orphan_in_fin_wait_1(),
    );
    std::fs::write(ready, "").expect("the file that says ready");
    crate::forever();
    drop(held);
}

fn pair(listener: &TcpListener, address: &str) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(address).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    (client, server)
}

/// The side that closes first waits.
fn time_wait(bound: &str, address: &str) -> TcpListener {
    let listener = TcpListener::bind(bound).expect("listen");
    let (client, mut server) = pair(&listener, address);
    drop(client);
    assert_eq!(server.read(&mut [0; 1]).expect("the end"), 0);
    drop(server);
    listener
}

/// FIN-WAIT-2 and CLOSE-WAIT, each with an owner.
fn half_closed() -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:7073").expect("listen");
    let (client, server) = pair(&listener, "127.0.0.1:7073");
    client.shutdown(Shutdown::Write).expect("shutdown");
    (listener, client, server)
}

/// Closed, and the peer knows, but does not close. The kernel keeps a small
/// structure for it, the same as for TIME-WAIT.
fn orphan_in_fin_wait_2() -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:7074").expect("listen");
    let (client, server) = pair(&listener, "127.0.0.1:7074");
    drop(client);
    (listener, server)
}

/// Closed while the peer takes no more data: the rest cannot be sent.
fn orphan_in_fin_wait_1() -> (TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:7075").expect("listen");
    let (mut client, server) = pair(&listener, "127.0.0.1:7075");
    client
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a time limit");
    while client.write(&[0; 65536]).is_ok() {}
    drop(client);
    (listener, server)
}
