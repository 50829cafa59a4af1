// SPDX-License-Identifier: GPL-3.0-only
//! The load: a stream, and questions and answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::contenders::Contender;
use super::support::Stop;

const WARM: Duration = Duration::from_millis(40);
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

    /// Gb/s of payload from the guest to the peer.
    pub fn stream(&mut self) -> f64 {
        let stop = Stop::default();
        let (guest, peer) = (&mut self.guest, &mut self.peer);
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let buffer = vec![7; 128 * 1024];
                let mut written = 0;
                while !stop.is_set() {
                    guest.write_all(&buffer).unwrap();
                    written += buffer.len();
                }
                written
            });
            let mut buffer = vec![0; 256 * 1024];
            let mut read = 0;
            let mut read_for = |time: Duration| {
                let (begin, before) = (Instant::now(), read);
                while begin.elapsed() < time {
                    read += peer.read(&mut buffer).unwrap();
                }
                (read - before) as f64 * 8.0 / begin.elapsed().as_nanos() as f64
            };
            read_for(WARM);
            let gigabits = {
                let _running = stop.on_drop();
                read_for(STREAM)
            };
            // What is under way yet: the writer may wait for room.
            while !writing.is_finished() {
                peer.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
                read += peer.read(&mut buffer).unwrap_or(0);
            }
            let written = writing.join().unwrap();
            peer.set_read_timeout(None).unwrap();
            while read < written {
                read += peer.read(&mut buffer).unwrap();
            }
            gigabits
        })
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
