// SPDX-License-Identifier: GPL-3.0-only
//! A daemon that gives fixed answers on a real socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

/// A daemon with fixed answers, and what it was asked.
pub struct Daemon {
    pub folder: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

pub type Answer = (u16, String);

impl Daemon {
    pub fn start(answer: impl Fn(&str) -> Answer + Send + 'static) -> Daemon {
        Daemon::start_tagged(0, answer)
    }

    /// The same with this generation in force.
    pub fn start_tagged(generation: u64, answer: impl Fn(&str) -> Answer + Send + 'static) -> Daemon {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("api.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), generation, &answer, &log);
            }
        });
        Daemon { folder, asked }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    pub fn run(&self, args: &[&str]) -> Output {
        xmesh(&self.socket(), args)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Reads one request, notes `METHOD path body` (after the path `if-match: …`, if it has that), answers and closes.
fn serve(
    mut stream: UnixStream,
    generation: u64,
    answer: &impl Fn(&str) -> Answer,
    log: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let target = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut length = 0;
    let mut noted = target.clone();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if header.to_lowercase().starts_with("if-match:") {
            noted += &format!(" {}", header.trim());
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    log.lock()
        .unwrap()
        .push(format!("{noted} {body}").trim_end().to_owned());
    let (status, body) = answer(&target);
    let head = format!(
        "HTTP/1.1 {status} X\r\netag: \"{generation}\"\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // A tool whose own reader has gone does not read to the end.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()));
}

pub fn xmesh(socket: &Path, args: &[&str]) -> Output {
    command(socket, args).output().unwrap()
}

pub fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xmesh"));
    command.arg("--socket").arg(socket).args(args);
    command
}

pub fn json(value: &impl serde::Serialize) -> Answer {
    (200, serde_json::to_string(value).unwrap())
}
