// SPDX-License-Identifier: GPL-3.0-only
//! What the tests on a rig share: policyd in dom0, and domains that end with their test.

pub mod echo;
pub mod proc_net;
pub mod web1;

use std::io::Write;
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use xmesh_rig::{Progress, Rig, programs};

/// What a test gives.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Reads the kernel's text in a guest; see there.
const KERNEL_TEXT: &[u8] = include_bytes!("../../../guest/kernel-text");

/// Tells of a failure when it happens: what the test harness is told it shows when all tests are over, and a run may be ended sooner.
pub fn tell(failure: &str) {
    // Where nobody reads, nobody is told.
    let _ = writeln!(std::io::stderr(), "{failure}");
}

/// The same of every assertion.
fn tell_failures_at_once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(&panic.to_string());
            usual(panic);
        }));
    });
}

/// The rig with a running policyd in dom0.
pub struct Mesh(pub Rig);

impl Mesh {
    /// Puts policyd into dom0 once, and starts it unless it runs.
    pub fn up() -> Result<Mesh, Box<dyn std::error::Error>> {
        static INSTALLED: OnceLock<()> = OnceLock::new();
        tell_failures_at_once();
        let mesh = Mesh(Rig::for_test()?);
        if INSTALLED.get().is_none() {
            let rig = &mesh.0;
            rig.exec("dom0", &["pkill", "-x", "policyd"])?;
            for program in programs::build(rig.xen(), &Progress::new(true))? {
                let name = program
                    .file_name()
                    .ok_or("a program has a name")?
                    .to_string_lossy()
                    .into_owned();
                let new = format!("/usr/local/bin/{name}.new");
                rig.push(&program, "dom0", &new)?;
                rig.check("dom0", &["mv", "-f", &new, &format!("/usr/local/bin/{name}")])?;
            }
            // It frees its guests before it ends, and the next one would not start beside it.
            mesh.gone()?;
            INSTALLED.get_or_init(|| ());
        }
        mesh.start()?;
        Ok(mesh)
    }

    /// Starts policyd unless it runs, and waits until it sees web1 and db1.
    pub fn start(&self) -> Outcome {
        // Traps take long where the processor is emulated: by the usual budget probes would rest under a test's load.
        self.start_with("100")
    }

    /// The same, with a budget in percent for traps.
    pub fn start_with(&self, budget: &str) -> Outcome {
        self.launch(budget)?;
        self.seen()
    }

    /// The same, with a policy and a history of its own.
    pub fn start_with_store(&self, store: &str) -> Outcome {
        self.launch(&format!("100 --store {store}"))?;
        self.seen()
    }

    /// Waits until web1 and db1 are seen.
    fn seen(&self) -> Outcome {
        let trapped = self.trapped();
        self.wait(&format!("web1 and db1 are seen by {trapped}"), |mesh| {
            Ok(["web1", "db1"]
                .iter()
                .all(|name| mesh.mode(name).is_ok_and(|mode| mode == trapped)))
        })
    }

    /// Starts policyd unless it runs. What follows the budget are further options.
    pub fn launch(&self, budget: &str) -> Outcome {
        if !self.0.exec("dom0", &["xmesh", "info"])?.success() {
            let start = format!(
                "setsid policyd --breakpoints --budget {budget} >> /run/policyd.log 2>&1 < /dev/null &"
            );
            self.0.check("dom0", &["sh", "-c", &start])?;
        }
        Ok(())
    }

    /// The degree of sight that traps have here.
    pub fn trapped(&self) -> &'static str {
        self.0.cpu().sight()
    }

    /// What `xmesh --json` prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, Box<dyn std::error::Error>> {
        let mut argv = vec!["xmesh", "--json"];
        argv.extend(arguments);
        Ok(serde_json::from_str(&self.0.check("dom0", &argv)?)?)
    }

    /// One domain of `xmesh list`.
    pub fn domain(&self, name: &str) -> Result<Value, Box<dyn std::error::Error>> {
        let list = self.json(&["list"])?;
        let found = list
            .as_array()
            .and_then(|all| all.iter().find(|d| d["name"] == name))
            .cloned();
        found.ok_or_else(|| format!("{name} is not in the list").into())
    }

    /// Its degree of sight.
    pub fn mode(&self, name: &str) -> Result<String, Box<dyn std::error::Error>> {
        Ok(self.domain(name)?["mode"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until something is so; in vain, shows policyd's log.
    pub fn wait(
        &self,
        what: &str,
        is_so: impl Fn(&Mesh) -> Result<bool, Box<dyn std::error::Error>>,
    ) -> Outcome {
        // Two emulated processors may share one of the host's, and the kernel's verifier takes long on them.
        self.wait_within(Duration::from_secs(400), what, is_so)
    }

    /// The same, no longer than this.
    pub fn wait_within(
        &self,
        time: Duration,
        what: &str,
        is_so: impl Fn(&Mesh) -> Result<bool, Box<dyn std::error::Error>>,
    ) -> Outcome {
        let end = Instant::now() + time;
        while !is_so(self).unwrap_or(false) {
            if Instant::now() > end {
                let log = self.0.check("dom0", &["tail", "-n", "30", "/run/policyd.log"])?;
                let failure = format!("in vain waited for: {what}\n{log}");
                tell(&failure);
                return Err(failure.into());
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(())
    }

    /// policyd's process ID.
    pub fn daemon(&self) -> Result<String, Box<dyn std::error::Error>> {
        Ok(self
            .0
            .check("dom0", &["cat", "/run/policyd/lock"])?
            .trim()
            .to_owned())
    }

    /// The guardian's process ID.
    pub fn guardian(&self) -> Result<u64, Box<dyn std::error::Error>> {
        self.json(&["info"])?["guardian"]
            .as_u64()
            .ok_or_else(|| "no guardian".into())
    }

    /// Ends the daemon as an administrator does, and its guardian with it.
    pub fn end(&self) -> Outcome {
        self.0.check("dom0", &["kill", &self.daemon()?])?;
        self.gone()
    }

    /// Waits until neither daemon nor guardian is left.
    pub fn gone(&self) -> Outcome {
        self.wait("policyd and its guardian end", |mesh| {
            // What policyd starts of itself has another name.
            let all = ["pgrep", "-f", "^(policyd|/proc/self/exe)( |$)"];
            Ok(!mesh.0.exec("dom0", &all)?.success())
        })
    }

    /// The policy generation in force.
    pub fn generation(&self) -> Result<u64, Box<dyn std::error::Error>> {
        self.json(&["info"])?["generation"]
            .as_u64()
            .ok_or_else(|| "no generation".into())
    }

    /// Both guests run programs.
    pub fn guests_run(&self) -> Outcome {
        for guest in ["web1", "db1"] {
            let output = self
                .0
                .exec_timeout(guest, &["sh", "-c", "exec true"], Duration::from_secs(30))?;
            assert!(output.success(), "{guest} runs nothing: {output:?}");
        }
        Ok(())
    }

    /// Applies a policy.
    pub fn apply_text(&self, text: &str) -> Result<xmesh_rig::Output, Box<dyn std::error::Error>> {
        self.0.write("dom0", "/tmp/test.yaml", 0o644, text.as_bytes())?;
        Ok(self
            .0
            .exec("dom0", &["xmesh", "policy-apply", "/tmp/test.yaml"])?)
    }

    /// Keeps the text of web1's kernel, as the guest itself reads it, for [`Mesh::changed_text`]. Without a daemon, whose
    /// breakpoints the guest would read too.
    pub fn keep_text(&self) -> Outcome {
        self.bring_kernel_text()?;
        // A kernel patches itself for its first connection: static keys of what it draws at random once.
        let connect = "for port in 9 80; do (echo > /dev/tcp/10.0.0.12/$port) 2>/dev/null; done; true";
        self.0.check("web1", &["bash", "-c", connect])?;
        let size = self
            .0
            .check("web1", &["/root/kernel-text", "keep", "/root/text"])?;
        assert!(size.parse::<usize>()? > 4 << 20, "{size} bytes of text");
        Ok(())
    }

    /// Puts the reader of kernel text into web1.
    pub fn bring_kernel_text(&self) -> Outcome {
        self.0.write("web1", "/root/kernel-text", 0o755, KERNEL_TEXT)?;
        Ok(())
    }

    /// What of web1's kernel text is no more as [`Mesh::keep_text`] found it: function, bytes before and now.
    pub fn changed_text(&self) -> Result<String, Box<dyn std::error::Error>> {
        Ok(self
            .0
            .check("web1", &["/root/kernel-text", "compare", "/root/text"])?)
    }

    /// How often a probe has fired.
    pub fn probe_hits(&self, domain: &str, function: &str) -> Result<u64, Box<dyn std::error::Error>> {
        let entry = self.domain(domain)?;
        let probe = entry["probes"]
            .as_array()
            .and_then(|all| all.iter().find(|p| p["function"] == function));
        probe
            .and_then(|p| p["hits"].as_u64())
            .ok_or_else(|| format!("no probe {function}").into())
    }
}

/// Ends a domain however its test ends.
pub struct Domain<'a>(pub &'a Rig, pub &'a str);

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        let _ = self.0.xl(&["destroy", self.1]);
    }
}
