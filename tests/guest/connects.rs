// SPDX-License-Identifier: GPL-3.0-only
//! Opens connections to a closed port of its own guest, one after the other: each reaches tcp_connect once, is refused, and
//! nothing leaves the guest. `connects N`; `connects each N`: each by a program of its own, which is started for it and ends.

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (each, count) = match arguments.as_slice() {
        [each, count] if each == "each" => (true, count),
        [count] => (false, count),
        _ => panic!("how many?"),
    };
    let count: u32 = count.parse().expect("a number");
    for _ in 0..count {
        if each {
            let program = std::process::Command::new("/proc/self/exe").arg("1").status();
            assert!(program.is_ok_and(|status| status.success()));
        } else {
            let refused = std::net::TcpStream::connect(("127.0.0.1", 9));
            assert!(refused.is_err(), "something listens on port 9");
        }
    }
}
