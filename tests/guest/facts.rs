// SPDX-License-Identifier: GPL-3.0-only
//! Does numbered things in a guest, so that each can be looked for in what the mesh tells of it. Compiled by itself,
//! statically.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, exit};
use std::time::Duration;

/// exit(2), of one thread: libc's own exit() ends all of them.
const SYS_EXIT: i64 = 60;

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn setresuid(real: u32, effective: u32, saved: u32) -> i32;
}

/// Connects to a port where nobody listens: all that matters is that it is tried.
fn knock(address: [u8; 4], port: u16) {
    let _ = TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(30));
}

fn datagram(address: [u8; 4], port: u16) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a UDP socket");
    socket.connect(SocketAddr::from((address, port))).expect("connected");
    let _ = socket.send(b"?");
}

/// Runs this program `count` times, each with its number, and knocks at as many ports from `port` on, over TCP and UDP.
fn work(name: &str, count: u16, port: u16, peer: [u8; 4]) {
    let program = std::env::current_exe().expect("this program");
    for number in 0..count {
        let status = Command::new(&program).args(["nothing", name, &number.to_string()]).status();
        assert!(status.expect("it runs").success());
        knock(peer, port + number);
        datagram(peer, port + number);
    }
}

/// Accepts its own connections on the loopback.
fn accept(count: u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let at = listener.local_addr().expect("its address");
    for _ in 0..count {
        let client = TcpStream::connect(at).expect("a connection");
        let (server, _) = listener.accept().expect("the same");
        drop((client, server));
    }
}

/// Listens on one port over IPv6, and connects to it, over TCP and UDP.
fn six(port: u16) {
    let at = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port));
    let listener = TcpListener::bind(at).expect("a listener");
    let client = TcpStream::connect(at).expect("a connection");
    let (server, _) = listener.accept().expect("the same");
    drop((client, server, listener));
    let socket = UdpSocket::bind("[::]:0").expect("a UDP socket");
    socket.connect(at).expect("connected");
}

/// The first thread ends long before the process does.
fn orphan(port: u16, peer: [u8; 4]) {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        knock(peer, port);
        exit(7);
    });
    std::thread::sleep(Duration::from_millis(200));
    // SAFETY: ends this thread alone; nothing it holds is waited for.
    unsafe { syscall(SYS_EXIT, 0) };
    unreachable!("exit(2) returns to nobody")
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u16>().expect("a number");
    match words[..] {
        ["nothing", ..] => {}
        ["work", name, count, port] => work(name, number(count), number(port), [10, 0, 0, 12]),
        ["accept", count] => accept(number(count)),
        ["orphan", port] => orphan(number(port), [10, 0, 0, 12]),
        ["six", port] => six(number(port)),
        ["bind", port] => drop(UdpSocket::bind(("0.0.0.0", number(port))).expect("a port")),
        ["setuid", id] => {
            let id = u32::from(number(id));
            // SAFETY: takes numbers only.
            assert_eq!(unsafe { setresuid(id, id, id) }, 0);
        }
        _ => panic!("unknown: {words:?}"),
    }
}
