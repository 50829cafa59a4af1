// SPDX-License-Identifier: GPL-3.0-only
//! TCP streams that send all they can, and one that asks and waits for the answer.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::World;

/// What a full segment of 1448 bytes takes on the wire, with its headers.
const ON_THE_WIRE: f64 = 1514.0 / 1448.0;

/// A stream under way. It ends when it is dropped.
pub struct Stream {
    received: Arc<AtomicU64>,
    socket: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// From `part` to a port of another's address.
    pub fn start(world: &World, part: &str, to_part: &str, to: SocketAddr) -> Stream {
        let listener = world.listen(to_part, to.ip(), to.port());
        let socket = world.connect(part, to).expect("a connection");
        let (mut sink, _) = listener.accept().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&received);
        let mut source = socket.try_clone().unwrap();
        let threads = vec![
            thread::spawn(move || {
                let data = vec![0; 128 * 1024];
                while source.write_all(&data).is_ok() {}
            }),
            thread::spawn(move || {
                let mut buffer = vec![0; 256 * 1024];
                while let Ok(length @ 1..) = sink.read(&mut buffer) {
                    count.fetch_add(length as u64, Ordering::Relaxed);
                }
                let _ = sink.shutdown(Shutdown::Both);
            }),
        ];
        Stream {
            received,
            socket,
            threads,
        }
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What each of these carries on the wire, in Mbit/s, over `time` from now on.
pub fn mbits<const N: usize>(streams: [&Stream; N], time: Duration) -> [f64; N] {
    let (begin, before) = (Instant::now(), streams.map(Stream::received));
    thread::sleep(time);
    let (took, after) = (begin.elapsed().as_secs_f64(), streams.map(Stream::received));
    std::array::from_fn(|i| (after[i] - before[i]) as f64 * ON_THE_WIRE * 8.0 / took / 1e6)
}

/// Asks `count` times for a small answer over one connection, once in `pause`; the times that it took, sorted.
pub fn ask(world: &World, to: (IpAddr, u16), count: usize, pause: Duration) -> Vec<Duration> {
    let listener = world.listen("peer", to.0, to.1);
    let mut client = world.connect("guest", to.into()).expect("a connection");
    let (mut server, _) = listener.accept().unwrap();
    let answers = thread::spawn(move || {
        let mut question = [0; 64];
        while server.read_exact(&mut question).is_ok() && server.write_all(&question).is_ok() {}
    });
    client.set_nodelay(true).unwrap();
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            thread::sleep(pause);
            let begin = Instant::now();
            let mut answer = [0; 64];
            client.write_all(&[7; 64]).unwrap();
            client.read_exact(&mut answer).unwrap();
            begin.elapsed()
        })
        .collect();
    drop(client);
    answers.join().unwrap();
    times.sort_unstable();
    times
}

/// The value that `share` of them (0 to 1) do not exceed.
pub fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
    sorted[at - 1]
}
