// SPDX-License-Identifier: GPL-3.0-only
//! As much of the xenstore protocol as finding consoles takes.
//!
//! Not the project's xenstore code on purpose: the rig must not depend on what it tests, and its
//! agent is linked statically, without Xen's libraries.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

const SOCKET: &str = "/run/xenstored/socket";
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
/// XENSTORE_PAYLOAD_MAX: a longer message means that we lost the thread.
const PAYLOAD_MAX: usize = 4096;

pub struct Xenstore {
    socket: UnixStream,
}

impl Xenstore {
    pub fn connect() -> io::Result<Xenstore> {
        Ok(Xenstore {
            socket: UnixStream::connect(SOCKET)?,
        })
    }

    pub fn read(&mut self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.ask(READ, &[path])?).into_owned())
    }

    pub fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let reply = self.ask(DIRECTORY, &[path])?;
        let names = reply.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    pub fn watch(&mut self, path: &str) -> io::Result<()> {
        self.ask(WATCH, &[path, "token"]).map(drop)
    }

    /// Waits for something watched to change.
    pub fn wait(&mut self) -> io::Result<()> {
        while self.receive()?.0 != WATCH_EVENT {}
        Ok(())
    }

    fn ask(&mut self, kind: u32, strings: &[&str]) -> io::Result<Vec<u8>> {
        let body: Vec<u8> = strings.iter().flat_map(|s| s.bytes().chain([0])).collect();
        let header = [kind, 0, 0, body.len() as u32];
        let mut message: Vec<u8> = header.into_iter().flat_map(u32::to_le_bytes).collect();
        message.extend(body);
        self.socket.write_all(&message)?;
        loop {
            match self.receive()? {
                // Every wait is followed by a look at everything, so an event between is no loss.
                (WATCH_EVENT, _) => {}
                (ERROR, body) => {
                    let text = String::from_utf8_lossy(&body);
                    return Err(io::Error::other(text.trim_end_matches('\0').to_owned()));
                }
                (_, body) => return Ok(body),
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let mut header = [0; 16];
        self.socket.read_exact(&mut header)?;
        let [a, b, c, d, .., w, x, y, z] = header;
        let length = u32::from_le_bytes([w, x, y, z]) as usize;
        if length > PAYLOAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok((u32::from_le_bytes([a, b, c, d]), body))
    }
}
