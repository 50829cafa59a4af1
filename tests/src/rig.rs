// SPDX-License-Identifier: GPL-3.0-only
//! A rig: started, used, ended.

use crate::agent::CONSOLE_LOGS;
use crate::agent::client::{Output as Sink, Sender, Session, SessionError};
use crate::agent::request::{Action, Request};
use crate::backend::{Backend, Cpu, Emulator, Machine};
use crate::domain::{DomainSpec, boot_paths, check_name};
use crate::error::{At, Result, RigError};
use crate::image;
use crate::programs;
use crate::progress::Progress;
use crate::setup;
use crate::state::{State, process_start};
use crate::xen::Xen;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The domUs' initramfs in a rig's folder, for domains whose GRUB brings it along.
const DOMU_INITRAMFS: &str = "domu-initramfs";

/// How a rig is to be.
#[derive(Debug, Clone)]
pub struct RigConfig {
    /// Its name: several can be up side by side.
    pub name: String,
    /// The back end; the best that works if none is named.
    pub backend: Option<Backend>,
    /// Whose processor the machine has.
    pub cpu: Cpu,
    /// The Xen that runs on it.
    pub xen: Xen,
    /// vCPUs of the domUs; as many as the back end carries if not given.
    pub vcpus: Option<u32>,
    /// Whether to say nothing while it comes up.
    pub quiet: bool,
}

impl Default for RigConfig {
    fn default() -> RigConfig {
        RigConfig {
            name: "default".to_owned(),
            backend: None,
            cpu: Cpu::default(),
            xen: Xen::default(),
            vcpus: None,
            quiet: false,
        }
    }
}

/// A rig that is up. Dropping this leaves it up; see [`Rig::down`].
#[derive(Debug, Clone)]
pub struct Rig {
    state: State,
}

/// What a program left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal's number if a signal ended it.
    pub status: i32,
    /// What it said on standard output.
    pub stdout: Vec<u8>,
    /// What it said on standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without space at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without space at its end.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }

    /// Whether the exit status is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

impl Sink for Output {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stdout.extend_from_slice(bytes);
        Ok(())
    }

    fn error(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stderr.extend_from_slice(bytes);
        Ok(())
    }
}

/// A domain as `xl list` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// MiB.
    pub memory: u32,
    /// Virtual processors.
    pub vcpus: u32,
    /// xl's six letters: running, blocked, paused, shut down, crashed, dying.
    pub state: String,
}

/// A program running in the rig in the background. Dropping this ends it.
pub struct Job {
    target: String,
    sender: Sender,
    thread: Option<JoinHandle<std::result::Result<i32, SessionError>>>,
}

impl Job {
    /// Waits for its end; gives its exit status.
    pub fn wait(mut self) -> Result<i32> {
        let outcome = match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            // Its sink panicked: as good as an end of the connection.
            _ => Err(SessionError::Broken(io::ErrorKind::BrokenPipe.into())),
        };
        outcome.map_err(|source| RigError::Session {
            target: self.target.clone(),
            source,
        })
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Its input.
    pub fn input(&self) -> &Sender {
        &self.sender
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.sender.hang_up();
        }
    }
}

impl Rig {
    /// Brings a rig up, unless one of that name is up: installs what is missing, makes what is not in the cache, starts the machine,
    /// and waits until dom0 and both domUs take commands.
    pub fn up(config: &RigConfig) -> Result<Rig> {
        check_name(&config.name)?;
        let progress = Progress::new(config.quiet);
        if let Ok(rig) = Rig::attach(&config.name) {
            if (rig.cpu(), rig.xen()) != (config.cpu, config.xen) {
                return Err(RigError::Backend(format!(
                    "rig {} is up with an {} processor and Xen {}: end it, or name another",
                    rig.name(),
                    rig.cpu(),
                    rig.xen()
                )));
            }
            progress.say(format!("rig {} is up already ({})", rig.name(), rig.backend()));
            return Ok(rig);
        }
        let emulator = Emulator::ready(config.backend, config.cpu, &progress)?;
        progress.say(format!(
            "back end: {}, {} processor, Xen {}",
            emulator.backend(),
            config.cpu,
            config.xen
        ));
        let (rig, mut child) = Rig::start(config, &emulator, &progress)?;
        let outcome = rig.boot(&mut child, &progress);
        if outcome.is_err() && !matches!(outcome, Err(RigError::EmulatorEnded(_))) {
            progress.say("not up; its logs stay, its emulator is ended");
            rig.down()?;
        }
        outcome.map(|()| rig)
    }

    /// A rig that is up already.
    pub fn attach(name: &str) -> Result<Rig> {
        Ok(Rig {
            state: State::read(name)?,
        })
    }

    /// The rig that a test is to use: the one `cargo xtask test` names in `XMESH_RIG_NAME`, else
    /// `default`.
    pub fn for_test() -> Result<Rig> {
        Rig::attach(std::env::var("XMESH_RIG_NAME").as_deref().unwrap_or("default"))
    }

    /// All rigs that are up.
    pub fn all() -> Vec<Rig> {
        State::all().into_iter().map(|state| Rig { state }).collect()
    }

    fn start(config: &RigConfig, emulator: &Emulator, progress: &Progress) -> Result<(Rig, Child)> {
        setup::ensure(setup::IMAGES, progress)?;
        let dom0 = image::dom0_root(config.xen, progress)?;
        let domu = image::domu_root(progress)?;
        let agent_path = programs::agent(progress)?;
        let agent = fs::read(&agent_path).at(&agent_path)?;

        let folder = State::folder_of(&config.name);
        if folder.exists() {
            fs::remove_dir_all(&folder).at(&folder)?;
        }
        fs::create_dir_all(&folder).at(&folder)?;
        let domu_initramfs = image::domu_initramfs(&domu, &agent)?;
        let path = folder.join(DOMU_INITRAMFS);
        fs::write(&path, &domu_initramfs).at(&path)?;
        let initramfs = image::dom0_initramfs(&dom0, &agent, &domu_initramfs)?;
        let backend = emulator.backend();
        let machine = Machine {
            iso: image::boot_iso(&folder, backend, &dom0, &initramfs)?,
            dom0_root: dom0.image(),
            domu_root: domu.image(),
            port: free_port()?,
            folder,
        };
        progress.say("starting the machine");
        let child = emulator.start(&machine)?;
        let state = State {
            name: config.name.clone(),
            backend,
            cpu: config.cpu,
            xen: config.xen,
            vcpus: config.vcpus.unwrap_or_else(|| backend.vcpus()),
            pid: child.id(),
            began: process_start(child.id()).unwrap_or_default(),
            port: machine.port,
        };
        state.write()?;
        Ok((Rig { state }, child))
    }

    fn boot(&self, child: &mut Child, progress: &Progress) -> Result<()> {
        self.wait_for_dom0(child, progress)?;
        // Both at once: while one waits for its devices, the other has the processor.
        for spec in [DomainSpec::web1(), DomainSpec::db1()] {
            self.create_domain(&spec)?;
            progress.say(format!("{} created", spec.name));
        }
        for name in ["web1", "db1"] {
            self.wait_for(name)?;
            progress.say(format!("{name} is up"));
        }
        Ok(())
    }

    /// Waits for dom0's init to say on the console that it is done, and for its agent.
    fn wait_for_dom0(&self, child: &mut Child, progress: &Progress) -> Result<()> {
        let log = self.folder().join("xen.log");
        let limit = Duration::from_secs(60) * self.state.backend.slowness();
        let begun = Instant::now();
        let mut marks = [
            ("Xen version", "Xen runs"),
            ("Run /init as init", "dom0's kernel runs"),
            ("rig: dom0 ready", "dom0 is up"),
        ]
        .into_iter()
        .peekable();
        while marks.peek().is_some() {
            // Asked before the log is read: what was said last must not be missed.
            let ended = child.try_wait().at(&log)?.is_some();
            let text = fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            while let Some((_, means)) = marks.next_if(|(mark, _)| text.contains(mark)) {
                progress.say(means);
            }
            if ended {
                return Err(RigError::EmulatorEnded(self.folder().join("bochs.log")));
            }
            if begun.elapsed() > limit {
                return Err(self.slow("dom0", limit));
            }
            thread::sleep(Duration::from_millis(200));
        }
        self.wait_for("dom0")
    }

    /// Waits until dom0 or a domain takes commands.
    pub fn wait_for(&self, target: &str) -> Result<()> {
        let limit = Duration::from_secs(30) * self.state.backend.slowness();
        let begun = Instant::now();
        loop {
            match self.exec_timeout(target, &["true"], Duration::from_secs(60)) {
                Ok(_) => return Ok(()),
                Err(_) if begun.elapsed() > limit => return Err(self.slow(target, limit)),
                Err(_) => thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    fn slow(&self, what: &str, limit: Duration) -> RigError {
        RigError::Slow {
            what: what.to_owned(),
            seconds: limit.as_secs(),
            log: format!("`cargo xtask rig logs {what} --name {}`", self.name()),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its back end.
    pub fn backend(&self) -> Backend {
        self.state.backend
    }

    /// Whose processor its machine has.
    pub fn cpu(&self) -> Cpu {
        self.state.cpu
    }

    /// The Xen that runs on it.
    pub fn xen(&self) -> Xen {
        self.state.xen
    }

    /// vCPUs that a domU of this rig can have at most.
    pub fn vcpus(&self) -> u32 {
        self.state.vcpus
    }

    /// The folder with its logs.
    pub fn folder(&self) -> PathBuf {
        self.state.folder()
    }

    /// Ends the rig: its emulator, and with it all that ran inside.
    pub fn down(&self) -> Result<()> {
        for (signal, patience) in [(Signal::SIGTERM, 3), (Signal::SIGKILL, 10)] {
            if !self.state.is_running() {
                break;
            }
            let pid = Pid::from_raw(i32::try_from(self.state.pid).unwrap_or(i32::MAX));
            // It may have ended by itself just now.
            let _ = kill(pid, signal);
            let begun = Instant::now();
            while self.state.is_running() && begun.elapsed() < Duration::from_secs(patience) {
                thread::sleep(Duration::from_millis(50));
            }
        }
        let path = self.folder().join("state");
        if path.exists() {
            fs::remove_file(&path).at(&path)
        } else {
            Ok(())
        }
    }

    /// Runs a program in dom0 or a domain to its end. A program that ends with another status than
    /// 0 is no error here: see [`Rig::check`].
    pub fn exec<S: AsRef<str>>(&self, target: &str, argv: &[S]) -> Result<Output> {
        let mut output = Output::default();
        output.status = self.session(target, exec(argv), &[], None, &mut output)?;
        Ok(output)
    }

    /// As [`Rig::exec`], but ends the program when it takes longer than `timeout`.
    pub fn exec_timeout<S: AsRef<str>>(&self, target: &str, argv: &[S], timeout: Duration) -> Result<Output> {
        let mut output = Output::default();
        output.status = self.session(target, exec(argv), &[], Some(timeout), &mut output)?;
        Ok(output)
    }

    /// As [`Rig::exec`], but a status other than 0 is an error; gives standard output as text.
    pub fn check<S: AsRef<str>>(&self, target: &str, argv: &[S]) -> Result<String> {
        let output = self.exec(target, argv)?;
        if output.success() {
            return Ok(output.text());
        }
        let command: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
        Err(RigError::Status {
            target: target.to_owned(),
            command: command.join(" "),
            status: output.status,
            stderr: output.error_text(),
        })
    }

    /// Runs a program with this process's standard streams; gives its exit status.
    pub fn exec_inherit<S: AsRef<str>>(&self, target: &str, argv: &[S], with_input: bool) -> Result<i32> {
        let mut session = self.open(target, exec(argv))?;
        let sender = session.sender();
        if with_input {
            // Left behind when the program ends first: it may wait for a terminal for ever.
            thread::spawn(move || forward_input(&sender));
        } else {
            self.named(target, sender.end_input().map_err(SessionError::from))?;
        }
        self.named(target, session.finish(&mut Inherit, None))
    }

    /// Starts a program in the background; its output goes to `sink` as it comes.
    pub fn spawn<S: AsRef<str>>(
        &self,
        target: &str,
        argv: &[S],
        mut sink: impl Sink + Send + 'static,
    ) -> Result<Job> {
        let mut session = self.open(target, exec(argv))?;
        Ok(Job {
            target: target.to_owned(),
            sender: session.sender(),
            thread: Some(thread::spawn(move || session.finish(&mut sink, None))),
        })
    }

    /// Copies a file of this host into dom0 or a domain, with its permission bits.
    pub fn push(&self, local: &Path, target: &str, path: &str) -> Result<()> {
        let content = fs::read(local).at(local)?;
        let mode = fs::metadata(local).at(local)?.permissions().mode() & 0o7777;
        self.write(target, path, mode, &content)
    }

    /// Writes a file in dom0 or a domain.
    pub fn write(&self, target: &str, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let action = Action::Write {
            path: path.to_owned(),
            mode,
        };
        self.session(target, action, content, None, &mut Output::default())
            .map(drop)
    }

    /// A file's content, from dom0 or a domain.
    pub fn read(&self, target: &str, path: &str) -> Result<Vec<u8>> {
        let mut output = Output::default();
        let action = Action::Read {
            path: path.to_owned(),
        };
        self.session(target, action, &[], None, &mut output)?;
        Ok(output.stdout)
    }

    /// Copies a file out of dom0 or a domain.
    pub fn pull(&self, target: &str, path: &str, local: &Path) -> Result<()> {
        let content = self.read(target, path)?;
        fs::write(local, content).at(local)
    }

    /// What the console of `xen` (with dom0's kernel), `dom0` (its agent) or a domain said.
    pub fn logs(&self, of: &str) -> Result<String> {
        let bytes = match of {
            "xen" => {
                let path = self.folder().join("xen.log");
                fs::read(&path).at(&path)?
            }
            "dom0" => {
                let text = self.check("dom0", &["sh", "-c", "dmesg; cat /run/rig/agent.log"])?;
                text.into_bytes()
            }
            name => self.read("dom0", &format!("{CONSOLE_LOGS}/{name}"))?,
        };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The domains, dom0 among them.
    pub fn domains(&self) -> Result<Vec<Domain>> {
        let table = self.check("dom0", &["xl", "list"])?;
        Ok(table.lines().skip(1).filter_map(parse_domain).collect())
    }

    /// A domain by name, if it is there.
    pub fn domain(&self, name: &str) -> Result<Option<Domain>> {
        Ok(self.domains()?.into_iter().find(|domain| domain.name == name))
    }

    /// Creates a domU; it boots while this returns. See [`Rig::wait_for`].
    pub fn create_domain(&self, spec: &DomainSpec) -> Result<()> {
        check_name(&spec.name)?;
        let spec = DomainSpec {
            vcpus: spec.vcpus.min(self.state.vcpus),
            altp2m: spec.altp2m && self.state.cpu.has_altp2m(),
            ..spec.clone()
        };
        if spec.grub {
            // A folder of its own: tests may create domains side by side.
            let folder = self.folder().join(format!("grub-{}", spec.name));
            fs::create_dir_all(&folder).at(&folder)?;
            let initramfs = self.folder().join(DOMU_INITRAMFS);
            let grub = image::grub_image(&folder, &initramfs, &spec.kernel_cmdline())?;
            self.write("dom0", &spec.grub_path(), 0o644, &grub)?;
        }
        if spec.hvm {
            let folder = self.folder().join(format!("boot-{}", spec.name));
            fs::create_dir_all(&folder).at(&folder)?;
            let kernel = image::domu_root(&Progress::new(true))?.kernel();
            let initramfs = self.folder().join(DOMU_INITRAMFS);
            let disk = image::bios_disk(&folder, &kernel, &initramfs, &spec.kernel_cmdline())?;
            self.push(&disk, "dom0", &spec.boot_disk_path())?;
        }
        if let Some(series) = &spec.kernel {
            self.bring_kernel(series)?;
        }
        let path = format!("/run/rig/{}.cfg", spec.name);
        self.write("dom0", &path, 0o644, spec.xl_config().as_bytes())?;
        self.check("dom0", &["xl", "create", "-q", &path]).map(drop)
    }

    /// Puts a kernel and its initramfs into dom0, unless they are there; gives their paths, as [`DomainSpec::kernel`] has them.
    pub fn bring_kernel(&self, series: &str) -> Result<(String, String)> {
        check_name(&series.replace('.', "-"))?;
        let (kernel, initramfs) = boot_paths(Some(series));
        if self.exec("dom0", &["test", "-e", &initramfs])?.success() {
            return Ok((kernel, initramfs));
        }
        let progress = Progress::new(false);
        let files = image::guest_kernel(series, &progress)?;
        let agent = programs::agent(&progress)?;
        let content = image::domu_initramfs(&files, &fs::read(&agent).at(&agent)?)?;
        self.push(&files.kernel(), "dom0", &kernel)?;
        self.write("dom0", &initramfs, 0o644, &content)?;
        Ok((kernel, initramfs))
    }

    /// Runs `xl` in dom0; an exit status other than 0 is an error.
    pub fn xl<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String> {
        let argv: Vec<&str> = std::iter::once("xl")
            .chain(arguments.iter().map(AsRef::as_ref))
            .collect();
        self.check("dom0", &argv)
    }

    fn open(&self, target: &str, action: Action) -> Result<Session> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.state.port));
        let patience = Duration::from_secs(10) * self.state.backend.slowness();
        let request = Request {
            target: target.to_owned(),
            patience,
            action,
        };
        self.named(
            target,
            Session::open(address, &request).map_err(SessionError::from),
        )
    }

    fn session(
        &self,
        target: &str,
        action: Action,
        input: &[u8],
        timeout: Option<Duration>,
        sink: &mut dyn Sink,
    ) -> Result<i32> {
        let mut session = self.open(target, action)?;
        let sender = session.sender();
        let outcome = thread::scope(|scope| {
            scope.spawn(|| {
                // A failure shows at the receiving end, with its reason.
                let _ = sender.input(input).and_then(|()| sender.end_input());
            });
            session.finish(sink, timeout)
        });
        self.named(target, outcome)
    }

    fn named<T>(&self, target: &str, outcome: std::result::Result<T, SessionError>) -> Result<T> {
        outcome.map_err(|source| RigError::Session {
            target: target.to_owned(),
            source,
        })
    }
}

/// This process's own standard streams.
struct Inherit;

impl Sink for Inherit {
    fn output(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = io::stdout().lock();
        io::Write::write_all(&mut stream, bytes)?;
        io::Write::flush(&mut stream)
    }

    fn error(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::Write::write_all(&mut io::stderr().lock(), bytes)
    }
}

fn forward_input(sender: &Sender) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = io::stdin().lock().read(&mut buffer) {
        if sender.input(buffer.get(..count).unwrap_or_default()).is_err() {
            return;
        }
    }
    let _ = sender.end_input();
}

fn exec<S: AsRef<str>>(argv: &[S]) -> Action {
    Action::Exec(argv.iter().map(|word| word.as_ref().to_owned()).collect())
}

fn parse_domain(line: &str) -> Option<Domain> {
    let mut fields = line.split_whitespace();
    Some(Domain {
        name: fields.next()?.to_owned(),
        id: fields.next()?.parse().ok()?,
        memory: fields.next()?.parse().ok()?,
        vcpus: fields.next()?.parse().ok()?,
        state: fields.next()?.to_owned(),
    })
}

/// A port of the loopback that nobody listens on. The emulator takes it a moment later; should
/// another be faster, the emulator's log says so and the rig does not come up.
fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .at("a loopback port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_xl_list_is_read() {
        let line = "web1                                         1   224     2     -b----       9.8";
        let domain = parse_domain(line).unwrap();
        assert_eq!((domain.name.as_str(), domain.id, domain.vcpus), ("web1", 1, 2));
        assert_eq!(domain.state, "-b----");
    }
}
