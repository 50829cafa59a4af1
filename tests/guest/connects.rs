// SPDX-License-Identifier: GPL-3.0-only
//! Opens connections to a closed port of its own guest, one after the other: each reaches tcp_connect once, is refused, and
//! nothing leaves the guest. `connects N`

fn main() {
    let count: u32 = std::env::args()
        .nth(1)
        .and_then(|count| count.parse().ok())
        .expect("how many?");
    for _ in 0..count {
        let refused = std::net::TcpStream::connect(("127.0.0.1", 9));
        assert!(refused.is_err(), "something listens on port 9");
    }
}
