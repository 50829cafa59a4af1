// SPDX-License-Identifier: GPL-3.0-only
//! The host's end of a session.

use super::credit::Credit;
use super::frame::{Decoder, Frame, Item, Kind, MAX_PAYLOAD};
use super::request::Request;
use super::session::{ack, parse_ack};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
    /// The time given ran out; the program was ended.
    #[error("no end after {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The connection failed.
    #[error("the connection to the rig broke ({0}); is it up? See `rig list` and `rig logs dom0`")]
    Broken(#[from] io::Error),
}

/// Where a session's bytes go.
pub trait Output {
    /// Takes bytes of standard output, or of a file.
    fn output(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Takes bytes of standard error.
    fn error(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// Throws everything away.
pub struct Discard;

impl Output for Discard {
    fn output(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn error(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A session under way, seen from the host.
pub struct Session {
    stream: TcpStream,
    sender: Sender,
    decoder: Decoder,
}

/// The sending half of a session: its input.
#[derive(Clone)]
pub struct Sender {
    stream: Arc<Mutex<TcpStream>>,
    credit: Arc<Credit>,
}

impl Session {
    /// Connects to dom0's agent and asks.
    pub fn open(address: SocketAddr, request: &Request) -> io::Result<Session> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let sender = Sender {
            stream: Arc::new(Mutex::new(stream.try_clone()?)),
            credit: Arc::default(),
        };
        sender.send(Kind::Open, &request.encode())?;
        Ok(Session {
            stream,
            sender,
            decoder: Decoder::default(),
        })
    }

    /// A handle for the session's input, usable from another thread.
    pub fn sender(&self) -> Sender {
        self.sender.clone()
    }

    /// Takes output until the session ends; gives the exit status.
    pub fn finish(
        &mut self,
        output: &mut dyn Output,
        timeout: Option<Duration>,
    ) -> Result<i32, SessionError> {
        let result = self.receive(output, timeout);
        self.sender.credit.close();
        // Ends the program too, should it still run.
        let _ = self.stream.shutdown(Shutdown::Both);
        result
    }

    fn receive(&mut self, output: &mut dyn Output, timeout: Option<Duration>) -> Result<i32, SessionError> {
        let deadline = timeout.map(|timeout| (Instant::now() + timeout, timeout));
        let mut buffer = [0; 64 * 1024];
        loop {
            while let Some(item) = self.decoder.next_item() {
                let Item::Frame(frame) = item else {
                    return Err(io::Error::from(io::ErrorKind::InvalidData).into());
                };
                match frame.kind {
                    Kind::Output => output.output(&frame.payload)?,
                    Kind::Error => output.error(&frame.payload)?,
                    Kind::Ack => {
                        if let Some((Kind::Input, bytes)) = parse_ack(&frame.payload) {
                            self.sender.credit.give(bytes);
                        }
                    }
                    Kind::Exit => {
                        let status = frame.payload.try_into().map_or(255, i32::from_le_bytes);
                        return Ok(status);
                    }
                    Kind::Refused => {
                        let reason = String::from_utf8_lossy(&frame.payload).into_owned();
                        return Err(SessionError::Refused(reason));
                    }
                    _ => {}
                }
                if matches!(frame.kind, Kind::Output | Kind::Error) {
                    self.sender
                        .send(Kind::Ack, &ack(frame.kind, frame.payload.len()))?;
                }
            }
            if let Some((deadline, timeout)) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(SessionError::TimedOut(timeout));
                }
                self.stream.set_read_timeout(Some(left))?;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.decoder.push(buffer.get(..count).unwrap_or_default()),
                // The deadline has passed: said at the top.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Sender {
    /// Sends bytes as the session's input; waits while too much is under way.
    pub fn input(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(MAX_PAYLOAD) {
            if !self.credit.take(part.len()) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.send(Kind::Input, part)?;
        }
        Ok(())
    }

    /// Says that there is no more input.
    pub fn end_input(&self) -> io::Result<()> {
        self.send(Kind::Input, &[])
    }

    /// Ends the session's program.
    pub fn hang_up(&self) {
        self.credit.close();
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let bytes = Frame::new(1, kind, payload).encode();
        self.stream
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(&bytes)
    }
}
