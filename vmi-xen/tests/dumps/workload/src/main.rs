// SPDX-License-Identifier: GPL-3.0-only
//! Runs inside the dumped guest: sockets, threads and credentials that busybox
//! has no command for. The test helper builds it, statically.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, reason = "a workload that fails must say so and end")]

mod identity;
mod local;
mod sockets;
mod states;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn forever() {
    std::thread::sleep(Duration::from_secs(100_000));
}

/// Listens on each address and accepts what comes, holding it open.
fn serve(addresses: &[String]) {
    let listeners: Vec<_> = addresses
        .iter()
        .map(|address| TcpListener::bind(address).expect("listen"))
        .collect();
    for listener in listeners {
        std::thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((peer, _)) = listener.accept() {
                held.push(peer);
            }
        });
    }
    forever();
}

fn connect(addresses: &[String]) {
    let peers: Vec<_> = addresses
        .iter()
        .map(|address| TcpStream::connect(address).expect("connect"))
        .collect();
    forever();
    drop(peers);
}

/// What setproctitle(3) does: writes a title over the arguments, into the
/// environment that follows them.
fn retitle(title: &[u8]) {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("stat");
    // Field 48 is arg_start; the first behind the name is field 3.
    let arg_start = fields.split_whitespace().nth(48 - 3).expect("arg_start");
    let at: u64 = arg_start.parse().expect("arg_start");
    let memory = std::fs::File::options().write(true).open("/proc/self/mem");
    let memory = memory.expect("own memory");
    let written = std::os::unix::fs::FileExt::write_at(&memory, title, at);
    assert_eq!(written.expect("own memory"), title.len());
}

/// What a debugger does to set a breakpoint: writes to a page of its own text, which is its own from then on. What it writes is what
/// was there. Kernels built with PROC_MEM_FORCE_PTRACE (from 6.12 on) let nobody do that to itself: whether it was done.
fn own_text() -> bool {
    let memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem");
    let memory = memory.expect("own memory");
    let at = own_text as fn() -> bool as usize as u64;
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut byte, at).expect("own text");
    std::os::unix::fs::FileExt::write_all_at(&memory, &byte, at).is_ok()
}

/// One of each other kind, all in one process.
fn all() {
    let unbound = UdpSocket::bind("0.0.0.0:5301").expect("bind UDP");
    let connected = UdpSocket::bind("10.9.0.1:5302").expect("bind UDP");
    connected.connect("10.9.0.200:53").expect("connect UDP");
    let six = UdpSocket::bind("[::1]:5303").expect("bind UDP over IPv6");
    six.connect("[::1]:5304").expect("connect UDP over IPv6");
    // A dual-stack listener reached over IPv4 on purpose: the accepted socket's
    // addresses are v4-mapped IPv6.
    let listener = TcpListener::bind("[::]:7010").expect("listen");
    let client = TcpStream::connect("127.0.0.1:7010").expect("connect");
    let (server, _) = listener.accept().expect("accept");
    // Connections that nobody accepts wait in the backlog.
    let waiting: Vec<_> = (0..2)
        .map(|_| TcpStream::connect("[::1]:7010").expect("connect"))
        .collect();
    for index in 0..3 {
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(forever)
            .expect("thread");
    }
    // Descriptors beyond the table that the kernel starts a process with.
    let many: Vec<_> = (0..300)
        .map(|_| std::fs::File::open("/workload").expect("open"))
        .collect();
    let last = UdpSocket::bind("127.0.0.1:5305").expect("bind UDP");
    let special = sockets::special();
    retitle(match own_text() {
        true => b"workload: retitled, and its text is its own\0",
        false => b"workload: retitled, longer than its arguments\0",
    });
    forever();
    drop((
        unbound, connected, six, listener, client, server, waiting, many, last, special,
    ));
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("serve") => serve(&args[2..]),
        Some("connect") => connect(&args[2..]),
        Some("hold") => forever(),
        Some("local-serve") => local::serve(&args[2]),
        Some("local-connect") => local::connect(&args[2]),
        Some("states") => states::run(&args[2]),
        Some("capabilities") => identity::run(),
        _ => all(),
    }
}
