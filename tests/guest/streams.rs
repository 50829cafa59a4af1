// SPDX-License-Identifier: GPL-3.0-only
//! Traffic between two guests. `streams serve PORT`: gives each byte back that comes alone, and takes in what comes in larger pieces.
//! `streams send ADDRESS:PORT KIB`: so much in pieces of 32 KiB, and waits until all of it is there. `streams ask ADDRESS:PORT N`: so many
//! bytes, each when the one before is back.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

const PIECE: usize = 32 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", port] => serve(port.parse().expect("a port")),
        ["send", address, kib] => send(address, kib.parse().expect("a number")),
        ["ask", address, count] => ask(address, count.parse().expect("a number")),
        _ => panic!("serve, send or ask?"),
    }
}

fn serve(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    for connection in listener.incoming().flatten() {
        std::thread::spawn(move || answer(connection));
    }
}

fn answer(mut connection: TcpStream) {
    connection.set_nodelay(true).expect("a TCP connection");
    let mut piece = vec![0; 2 * PIECE];
    while let Ok(length @ 1..) = connection.read(&mut piece) {
        if length == 1 && connection.write_all(&piece[..1]).is_err() {
            return;
        }
    }
    let _ = connection.write_all(b".");
}

fn open(address: &str) -> TcpStream {
    let connection = TcpStream::connect(address).expect("the server is there");
    connection.set_nodelay(true).expect("a TCP connection");
    connection
}

fn send(address: &str, kib: usize) {
    let mut connection = open(address);
    let piece = vec![b'x'; PIECE];
    for _ in 0..(kib << 10) / PIECE {
        connection.write_all(&piece).expect("it is taken");
    }
    connection.shutdown(Shutdown::Write).expect("it is open");
    connection.read_exact(&mut [0]).expect("all of it is there");
}

fn ask(address: &str, count: u32) {
    let mut connection = open(address);
    for _ in 0..count {
        connection.write_all(b"?").expect("it is taken");
        connection.read_exact(&mut [0]).expect("an answer");
    }
}
