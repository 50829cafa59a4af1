// SPDX-License-Identifier: GPL-3.0-only
//! dom0's agent: serves the host's sessions for dom0, passes on those for domUs.

use super::frame::{Decoder, Frame, Item, Kind};
use super::request::Request;
use super::session::{Session, Sink};
use super::stuffing::stuff;
use super::xenstore::Xenstore;
use super::{CONSOLE_LOGS, DOM0_ADDRESS, DOM0_PORT};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a domain that is not there is waited for: it may just have been created.
const UNKNOWN: Duration = Duration::from_secs(3);

/// Serves for ever.
pub fn serve() -> io::Result<()> {
    std::fs::create_dir_all(CONSOLE_LOGS)?;
    let consoles = Arc::new(Consoles::default());
    thread::spawn({
        let consoles = Arc::clone(&consoles);
        move || {
            let error = follow_domains(&consoles);
            eprintln!("xenstore: {error:?}; domains started from now on are not seen");
        }
    });
    // Only the host's side: domUs are on xenbr0.
    let listener = TcpListener::bind((DOM0_ADDRESS, DOM0_PORT))?;
    for stream in listener.incoming() {
        let (stream, consoles) = (stream?, Arc::clone(&consoles));
        thread::spawn(move || {
            if let Err(error) = serve_host(stream, &consoles) {
                eprintln!("session: {error}");
            }
        });
    }
    Ok(())
}

/// One connection of the host, which is one session.
fn serve_host(mut stream: TcpStream, consoles: &Consoles) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let sink = tcp_sink(stream.try_clone()?);
    let mut decoder = Decoder::default();
    let Some(first) = next_frame(&mut stream, &mut decoder)? else {
        return Ok(());
    };
    let request = Request::decode(&first.payload).filter(|_| first.kind == Kind::Open);
    let Some(request) = request else {
        return sink(Frame::new(0, Kind::Refused, "not a request"));
    };

    if request.target == "dom0" {
        let session = Session::start(first.session, request, sink);
        while let Ok(Some(frame)) = next_frame(&mut stream, &mut decoder) {
            session.accept(frame);
        }
        session.hang_up();
        return Ok(());
    }

    let console = match consoles.get(&request.target, request.patience) {
        Ok(console) => console,
        Err(reason) => return sink(Frame::new(first.session, Kind::Refused, reason)),
    };
    let id = console.join(sink);
    console.send(Frame { session: id, ..first })?;
    while let Ok(Some(frame)) = next_frame(&mut stream, &mut decoder) {
        console.send(Frame { session: id, ..frame })?;
    }
    if console.leave(id) {
        console.send(Frame::new(id, Kind::Hangup, []))?;
    }
    Ok(())
}

fn tcp_sink(stream: TcpStream) -> Sink {
    let stream = Mutex::new(stream);
    Arc::new(move |frame| lock(&stream).write_all(&frame.encode()))
}

fn next_frame(stream: &mut TcpStream, decoder: &mut Decoder) -> io::Result<Option<Frame>> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match decoder.next_item() {
            Some(Item::Frame(frame)) => return Ok(Some(frame)),
            Some(Item::Noise(_)) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        decoder.push(buffer.get(..count).unwrap_or_default());
    }
}

/// The consoles of all domains, by domain name.
#[derive(Default)]
struct Consoles {
    known: Mutex<HashMap<String, Arc<Console>>>,
    changed: Condvar,
}

impl Consoles {
    /// The console of a domain whose agent has said that it is there.
    fn get(&self, name: &str, patience: Duration) -> Result<Arc<Console>, String> {
        let begun = Instant::now();
        let mut known = lock(&self.known);
        loop {
            let console = known.get(name);
            if let Some(console) = console.filter(|console| console.is_ready()) {
                return Ok(Arc::clone(console));
            }
            let seen = console.is_some();
            let limit = if seen { patience } else { patience.min(UNKNOWN) };
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(if seen {
                    format!("the agent of domain {name} does not answer; see `rig logs {name}`")
                } else {
                    format!("there is no domain {name}; see `rig list`")
                });
            }
            known = self
                .changed
                .wait_timeout(known, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn has(&self, domid: &str) -> bool {
        lock(&self.known).values().any(|console| console.domid == domid)
    }

    fn add(self: &Arc<Self>, domid: &str, name: &str, tty: &str) -> io::Result<()> {
        let mut reader = OpenOptions::new().read(true).write(true).open(tty)?;
        let console = Arc::new(Console {
            domid: domid.to_owned(),
            writer: Mutex::new(reader.try_clone()?),
            sessions: Mutex::default(),
            ready: Mutex::new(false),
            next: AtomicU32::new(1),
        });
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(format!("{CONSOLE_LOGS}/{name}"))?;
        lock(&self.known).insert(name.to_owned(), Arc::clone(&console));
        self.changed.notify_all();
        let (consoles, name) = (Arc::clone(self), name.to_owned());
        thread::spawn(move || {
            let error = console.receive(&mut reader, &mut log, &consoles);
            eprintln!("console of {name}: {error:?}");
            console.end();
            // A rebooted domain may have its new console in this place already.
            lock(&consoles.known).retain(|_, other| !Arc::ptr_eq(other, &console));
        });
        Ok(())
    }
}

/// The console of one life of a domain: a rebooted domain has another.
struct Console {
    domid: String,
    writer: Mutex<File>,
    sessions: Mutex<HashMap<u32, Sink>>,
    ready: Mutex<bool>,
    next: AtomicU32,
}

impl Console {
    fn is_ready(&self) -> bool {
        *lock(&self.ready)
    }

    fn join(&self, sink: Sink) -> u32 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.sessions).insert(id, sink);
        id
    }

    /// False if the session was over already.
    fn leave(&self, id: u32) -> bool {
        lock(&self.sessions).remove(&id).is_some()
    }

    fn send(&self, frame: Frame) -> io::Result<()> {
        lock(&self.writer).write_all(&stuff(&frame.encode()))
    }

    fn receive(&self, reader: &mut File, log: &mut File, consoles: &Consoles) -> io::Result<()> {
        // An agent that was here before us said hello to nobody.
        self.send(Frame::new(0, Kind::Ping, []))?;
        let mut decoder = Decoder::default();
        let mut buffer = [0; 4096];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            decoder.push(buffer.get(..count).unwrap_or_default());
            while let Some(item) = decoder.next_item() {
                match item {
                    Item::Noise(bytes) => log.write_all(&bytes)?,
                    Item::Frame(frame) if frame.kind == Kind::Hello => {
                        *lock(&self.ready) = true;
                        // Taken once so that nobody between check and wait misses it.
                        drop(lock(&consoles.known));
                        consoles.changed.notify_all();
                    }
                    Item::Frame(frame) => self.deliver(frame),
                }
            }
        }
    }

    fn deliver(&self, frame: Frame) {
        let last = matches!(frame.kind, Kind::Exit | Kind::Refused);
        let (id, mut sessions) = (frame.session, lock(&self.sessions));
        let sink = if last {
            sessions.remove(&id)
        } else {
            sessions.get(&id).cloned()
        };
        drop(sessions);
        if let Some(sink) = sink {
            // A host that is gone is noticed where its connection is read.
            let _ = sink(frame);
        }
    }

    fn end(&self) {
        for (id, sink) in lock(&self.sessions).drain() {
            let _ = sink(Frame::new(id, Kind::Refused, "the domain is gone"));
        }
    }
}

/// Takes up the console of every domain that comes. Ends only by an error.
fn follow_domains(consoles: &Arc<Consoles>) -> io::Result<()> {
    let mut store = Xenstore::connect()?;
    store.watch("@introduceDomain")?;
    loop {
        // xenconsoled writes the terminal's name some time after the domain is introduced.
        for _ in 0..200 {
            if take_up(&mut store, consoles)? {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        store.wait()?;
    }
}

/// True if no domain is left whose console is still to come.
fn take_up(store: &mut Xenstore, consoles: &Arc<Consoles>) -> io::Result<bool> {
    let mut complete = true;
    for domid in store.list("/local/domain")? {
        if domid == "0" || consoles.has(&domid) {
            continue;
        }
        let name = store.read(&format!("/local/domain/{domid}/name"));
        let tty = store.read(&format!("/local/domain/{domid}/console/tty"));
        match (name, tty) {
            (Ok(name), Ok(tty)) if !tty.is_empty() => {
                if let Err(error) = consoles.add(&domid, &name, &tty) {
                    eprintln!("console of {name} ({tty}): {error}");
                }
            }
            _ => complete = false,
        }
    }
    Ok(complete)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
