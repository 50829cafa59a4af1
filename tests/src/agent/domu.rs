// SPDX-License-Identifier: GPL-3.0-only
//! The agent of a domU: many sessions over the one console.

use super::frame::{Decoder, Frame, Item, Kind};
use super::request::Request;
use super::session::{Session, Sink};
use super::stuffing::Unstuff;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

const CONSOLE: &str = "/dev/hvc0";

/// Serves until the console fails.
pub fn serve() -> io::Result<()> {
    let mut console = OpenOptions::new().read(true).write(true).open(CONSOLE)?;
    let sink = sink(console.try_clone()?);
    sink(Frame::new(0, Kind::Hello, []))?;

    let mut sessions: HashMap<u32, Session> = HashMap::new();
    let mut unstuff = Unstuff::default();
    let mut decoder = Decoder::default();
    let mut buffer = [0; 4096];
    loop {
        let count = console.read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decoder.push(&unstuff.take(buffer.get(..count).unwrap_or_default()));
        while let Some(item) = decoder.next_item() {
            // Noise here is someone typing at `xl console`.
            let Item::Frame(frame) = item else { continue };
            match frame.kind {
                Kind::Ping => sink(Frame::new(0, Kind::Hello, []))?,
                Kind::Open => match Request::decode(&frame.payload) {
                    Some(request) => {
                        let session = Session::start(frame.session, request, Arc::clone(&sink));
                        sessions.insert(frame.session, session);
                    }
                    None => sink(Frame::new(frame.session, Kind::Refused, "not a request"))?,
                },
                Kind::Hangup => {
                    if let Some(session) = sessions.remove(&frame.session) {
                        session.hang_up();
                    }
                }
                _ => {
                    if let Some(session) = sessions.get(&frame.session) {
                        session.accept(frame);
                    }
                }
            }
        }
    }
}

fn sink(console: File) -> Sink {
    let console = Mutex::new(console);
    Arc::new(move |frame| {
        console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&frame.encode())
    })
}
