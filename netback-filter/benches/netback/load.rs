// SPDX-License-Identifier: GPL-3.0-only
//! The load: a stream, and questions and answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::contenders::Contender;

/// What a window takes at once.
const PIECE: usize = 32 * 1024;
const STREAM: Duration = Duration::from_millis(250);

/// A connection and both its ends.
pub struct Conversation {
    guest: TcpStream,
    peer: TcpStream,
}

impl Conversation {
    pub fn open(contender: &Contender) -> Conversation {
        let listener = contender
            .world
            .listen("peer", contender.serves.ip(), contender.serves.port());
        let guest = contender
            .world
            .connect("guest", contender.to)
            .unwrap_or_else(|error| panic!("{}: {error}", contender.name));
        let (peer, _) = listener.accept().unwrap();
        for end in [&guest, &peer] {
            end.set_nodelay(true).unwrap();
        }
        Conversation { guest, peer }
    }

    /// Gb/s of payload from the guest to the peer, by the median of its pieces. One thread writes and reads in turn, as below: so
    /// it is what one processor gets through, and neither the other's work nor the scheduler's choices are measured.
    pub fn stream(&mut self) -> f64 {
        let mut buffer = vec![7; PIECE];
        let mut pieces = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < STREAM {
            let piece = Instant::now();
            self.guest.write_all(&buffer).unwrap();
            self.peer.read_exact(&mut buffer).unwrap();
            pieces.push(piece.elapsed().as_nanos() as f64);
        }
        PIECE as f64 * 8.0 / percentile(&pieces, 0.5)
    }

    /// Microseconds of each of so many questions of one byte with their answers. Both ends are this thread: a packet goes all the
    /// way within the call that sends it, so that no scheduler takes part.
    pub fn round_trips(&mut self, count: usize) -> Vec<f64> {
        let mut byte = [0];
        let mut one = || {
            let begin = Instant::now();
            self.guest.write_all(b"?").unwrap();
            self.peer.read_exact(&mut byte).unwrap();
            self.peer.write_all(b"!").unwrap();
            self.guest.read_exact(&mut byte).unwrap();
            begin.elapsed().as_nanos() as f64 / 1000.0
        };
        (0..count).map(|_| one()).collect()
    }
}

/// The value that a share of the values is not above.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}
