// SPDX-License-Identifier: GPL-3.0-only
//! Boots a kernel under QEMU's own emulator (no KVM needed), waits for its init
//! to tell the truth, and dumps its memory.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Emulated boots take 15 to 40 s; on a machine busy with other tests, more.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// What to boot.
pub struct Machine<'a> {
    pub vmlinuz: &'a Path,
    pub initramfs: &'a Path,
    pub machine: &'a str,
    pub cpu: &'a str,
    pub cmdline: &'a str,
    pub memory_mib: u32,
    pub vcpus: u32,
}

struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine<'_> {
    /// Boots, and leaves the memory in `dump` and what init told in `truth`.
    pub fn dump(&self, work: &Path, dump: &Path, truth: &Path) -> Result<()> {
        let console = work.join("console");
        let told = work.join("told");
        let monitor = work.join("qmp");
        let log = fs::File::create(work.join("qemu.log"))?;
        let guest = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-machine", self.machine])
            .args(["-nodefaults", "-display", "none"])
            .args(["-no-reboot", "-cpu", self.cpu])
            .args(["-m", &self.memory_mib.to_string()])
            .args(["-smp", &self.vcpus.to_string()])
            .args(["-serial", &format!("file:{}", console.display())])
            .args(["-serial", &format!("file:{}", told.display())])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor.display())])
            .arg("-kernel")
            .arg(self.vmlinuz)
            .arg("-initrd")
            .arg(self.initramfs)
            .args([
                "-append",
                &format!("console=ttyS0 panic=-1 quiet {}", self.cmdline),
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting qemu-system-x86_64 (apt-get install qemu-system-x86)")?;
        let mut guest = Guest(guest);
        let failed = |why: &str| -> anyhow::Error {
            let console = fs::read(&console).unwrap_or_default();
            let tail = &console[console.len().saturating_sub(3000)..];
            anyhow::anyhow!("{why}; the console's end:\n{}", String::from_utf8_lossy(tail))
        };
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            std::thread::sleep(Duration::from_millis(200));
            if let Some(status) = guest.0.try_wait()? {
                return Err(failed(&format!(
                    "qemu ended ({status}) before the guest was ready"
                )));
            }
            let told = fs::read(&told).unwrap_or_default();
            if told.ends_with(b"@ready\n") || told.ends_with(b"@ready\r\n") {
                break;
            }
            if Instant::now() > deadline {
                return Err(failed(&format!("the guest was not ready in {BOOT_LIMIT:?}")));
            }
        }
        let mut qmp = Qmp::connect(&monitor)?;
        qmp.execute("stop", serde_json::json!({}))?;
        let partial = PathBuf::from(format!("{}.partial", dump.display()));
        qmp.execute(
            "dump-guest-memory",
            serde_json::json!({"paging": false, "protocol": format!("file:{}", partial.display())}),
        )?;
        fs::copy(&told, truth)?;
        fs::rename(&partial, dump)?;
        // Most of a young guest's memory is zero; the cache need not store it.
        let _ = Command::new("fallocate").arg("-d").arg(dump).status();
        Ok(())
    }
}

/// QEMU's machine protocol, as far as needed: one command, one answer.
struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    fn connect(path: &Path) -> Result<Self> {
        let writer = UnixStream::connect(path).context("connecting to QEMU's monitor")?;
        writer.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut qmp = Self {
            reader: BufReader::new(writer.try_clone()?),
            writer,
        };
        let mut greeting = String::new();
        qmp.reader.read_line(&mut greeting)?;
        ensure!(greeting.contains("QMP"), "not a QMP greeting: {greeting}");
        qmp.execute("qmp_capabilities", serde_json::json!({}))?;
        Ok(qmp)
    }

    fn execute(&mut self, command: &str, arguments: serde_json::Value) -> Result<()> {
        let request = serde_json::json!({"execute": command, "arguments": arguments});
        writeln!(self.writer, "{request}")?;
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.reader.read_line(&mut line)? > 0, "QEMU closed its monitor");
            let answer: serde_json::Value = serde_json::from_str(&line)?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
        }
    }
}
