// SPDX-License-Identifier: GPL-3.0-only
//! Hosts that are made: files in a folder, and programs that say what they are told to.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::host::{Host, Live};
use super::{Finding, Level};

const RELEASE: &str = "6.1.0-50-amd64";
const CONFIG: &str = "CONFIG_BPF_SYSCALL=y\nCONFIG_BPF_JIT=y\nCONFIG_NET_CLS_ACT=y\nCONFIG_NET_SCH_INGRESS=m\n\
    CONFIG_NET_CLS_BPF=m\nCONFIG_XEN_NETDEV_BACKEND=m\nCONFIG_NET_SCH_HTB=m\nCONFIG_IFB=m\nCONFIG_NET_ACT_MIRRED=m\n\
    CONFIG_NET_SCH_FQ_CODEL=m\n# CONFIG_NET_SCH_SFQ is not set\n";
const MODULES: &str = "kernel/net/sched/sch_ingress.ko: \nkernel/net/sched/cls_bpf.ko: \n\
    kernel/drivers/net/xen-netback/xen-netback.ko: \nkernel/net/sched/sch_htb.ko: \nkernel/drivers/net/ifb.ko: \n\
    kernel/net/sched/act_mirred.ko: \nkernel/net/sched/sch_fq_codel.ko: \n";
const INFO: &str = "host                   : dom0\nvirt_caps              : pv hvm hap shadow\n\
    xen_commandline        : placeholder dom0_mem=768M altp2m=1\n";
const DOMAINS: &str = r#"[
    {"domid": 0, "config": {"c_info": {"type": "pv", "name": "Domain-0"}, "b_info": {}}},
    {"domid": 1, "config": {"c_info": {"type": "pvh", "name": "web1"}, "b_info": {"altp2m": "external"}}}
]"#;

/// A host on which nothing is missing, until something is taken away.
struct Made {
    root: TempDir,
    files: Live,
    programs: HashMap<&'static str, Result<String, String>>,
}

impl Made {
    fn whole() -> Made {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let made = Made {
            files: Live::below(root.path()),
            root,
            programs: HashMap::from([
                ("xl info", Ok(INFO.to_owned())),
                ("xl list -l", Ok(DOMAINS.to_owned())),
            ]),
        };
        made.with("/proc/self/status", "Name:\txmesh\nUid:\t0\t0\t0\t0\n")
            .with(
                "/proc/self/mounts",
                "proc /proc proc rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n",
            )
            .with("/proc/sys/kernel/osrelease", &format!("{RELEASE}\n"))
            .with("/proc/sys/net/core/bpf_jit_enable", "1\n")
            .with("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\n")
            .with("/proc/xen/capabilities", "control_d\n")
            .with("/sys/hypervisor/type", "xen\n")
            .with("/sys/hypervisor/version/major", "4\n")
            .with("/sys/hypervisor/version/minor", "17\n")
            .with("/sys/hypervisor/version/extra", ".6-pre\n")
            .with(&format!("/boot/config-{RELEASE}"), CONFIG)
            .with(&format!("/lib/modules/{RELEASE}/modules.dep"), MODULES)
            .with("/run/xenstored/socket", "")
            .with("/dev/xen/privcmd", "")
            .with("/dev/xen/evtchn", "")
            .with("/usr/sbin/policyd", "\x7fELF\0libxenctrl.so.4.17\0libc.so.6\0")
            .with("/usr/lib/x86_64-linux-gnu/libxenctrl.so.4.17", "")
    }

    fn with(self, path: &str, text: &str) -> Made {
        let place = self.root.path().join(path.trim_start_matches('/'));
        let folder = place.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&place, text))
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        self
    }

    fn without(self, path: &str) -> Made {
        let place = self.root.path().join(path.trim_start_matches('/'));
        fs::remove_file(&place).unwrap_or_else(|e| panic!("{path}: {e}"));
        self
    }

    fn saying(mut self, line: &'static str, said: Result<&str, &str>) -> Made {
        self.programs
            .insert(line, said.map(str::to_owned).map_err(str::to_owned));
        self
    }

    /// What is not as it should be: check, level, and both sentences.
    fn faults(&self) -> Vec<(&'static str, Level, String)> {
        let faults = super::host(self).into_iter().filter(|f| f.level != Level::Ok);
        let told = |f: Finding| {
            let remedy = f.remedy.unwrap_or_else(|| panic!("{}: no remedy", f.check));
            (f.check, f.level, format!("{}; {remedy}", f.found))
        };
        faults.map(told).collect()
    }

    /// The one thing that is not as it should be.
    fn fault(&self) -> (&'static str, Level, String) {
        let mut faults = self.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    fn is(self, check: &str, level: Level, words: &[&str]) {
        let (found, at, told) = self.fault();
        assert_eq!((found, at), (check, level), "{told}");
        for word in words {
            assert!(told.contains(word), "{word} in: {told}");
        }
    }
}

impl Host for Made {
    fn read(&self, path: &str) -> Option<String> {
        self.files.read(path)
    }

    fn exists(&self, path: &str) -> bool {
        self.files.exists(path)
    }

    fn strings(&self, path: &str, prefix: &str) -> Option<Vec<String>> {
        self.files.strings(path, prefix)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let line = format!("{program} {}", arguments.join(" "));
        let said = self.programs.get(line.as_str());
        said.cloned()
            .unwrap_or_else(|| Err(format!("{program} could not be started")))
    }
}

#[test]
fn nothing_is_wrong_with_a_host_that_has_everything() {
    let whole = Made::whole();
    assert_eq!(whole.faults(), []);
    let told = super::host(&whole);
    let found = |check| {
        let finding = told.iter().find(|f| f.check == check);
        finding.map(|f| f.found.clone()).unwrap_or_default()
    };
    assert_eq!(found("version"), "Xen 4.17.6-pre");
    assert_eq!(found("domains"), "1 with altp2m=\"external\"");
    assert!(found("libxenctrl").contains("libxenctrl.so.4.17"));
}

#[test]
fn what_xen_lacks() {
    use Level::{Fail, Warn};
    let whole = Made::whole;
    whole()
        .without("/sys/hypervisor/type")
        .is("xen", Fail, &["xen-system-amd64"]);
    whole()
        .with("/proc/xen/capabilities", " ")
        .with("/sys/hypervisor/uuid", "1-2\n")
        .is("dom0", Fail, &["in dom0"]);
    whole()
        .with("/proc/xen/capabilities", "none\n")
        .is("dom0", Fail, &["in dom0"]);
    whole()
        .saying("xl info", Err("xl could not be started"))
        .is("altp2m", Warn, &["xen-utils"]);
    let off = INFO.replace("altp2m=1", "altp2m=1 no-altp2m");
    whole()
        .saying("xl info", Ok(&off))
        .is("altp2m", Warn, &["GRUB_CMDLINE_XEN_DEFAULT"]);
    let shadow = INFO.replace(" hap", "");
    whole()
        .saying("xl info", Ok(&shadow))
        .is("altp2m", Warn, &["firmware"]);
    whole()
        .with("/proc/cpuinfo", "vendor_id\t: AuthenticAMD\n")
        .is("altp2m", Warn, &["--breakpoints"]);
    whole()
        .without("/run/xenstored/socket")
        .is("xenstored", Fail, &["systemctl start xenstored"]);
    whole()
        .without("/run/xenstored/socket")
        .with("/dev/xen/xenbus", "")
        .is("xenstored", Warn, &["xenstore-ls"]);
    whole()
        .without("/dev/xen/evtchn")
        .is("devices", Fail, &["/dev/xen/evtchn", "modprobe -a xen-evtchn"]);
    whole().with("/usr/sbin/policyd", "\0libxenctrl.so.4.20\0").is(
        "libxenctrl",
        Fail,
        &["libxenctrl.so.4.20", "Xen 4.17 runs"],
    );
    whole()
        .without("/usr/lib/x86_64-linux-gnu/libxenctrl.so.4.17")
        .is("libxenctrl", Fail, &["apt-get install libxenmisc4.17"]);
    let old = whole()
        .with("/sys/hypervisor/version/minor", "14\n")
        .without("/usr/sbin/policyd");
    old.is("version", Fail, &["Xen 4.14.6-pre", "4.17 or newer"]);
}

#[test]
fn each_domain_is_told_by_name() {
    let plain = DOMAINS.replace("\"altp2m\": \"external\"", "");
    Made::whole().saying("xl list -l", Ok(&plain)).is(
        "domains",
        Level::Warn,
        &["web1", "altp2m=\"external\" in the xl.cfg of web1"],
    );
    let pv = DOMAINS.replace("pvh", "pv");
    Made::whole().saying("xl list -l", Ok(&pv)).is(
        "domains",
        Level::Warn,
        &["web1 is of type PV", "type=\"pvh\""],
    );
    Made::whole()
        .saying("xl list -l", Ok("web1 1"))
        .is("domains", Level::Warn, &["not understood"]);
}

#[test]
fn what_the_kernel_lacks() {
    use Level::{Fail, Warn};
    let whole = Made::whole;
    let config = format!("/boot/config-{RELEASE}");
    let modules = format!("/lib/modules/{RELEASE}/modules.dep");
    let less = |option: &str| CONFIG.replace(option, "NOTHING");
    whole().with(&config, &less("CONFIG_BPF_SYSCALL")).is(
        "config",
        Fail,
        &["CONFIG_BPF_SYSCALL", "the datapath"],
    );
    whole()
        .with(&config, &less("CONFIG_NET_SCH_HTB"))
        .is("config", Warn, &["CONFIG_NET_SCH_HTB", "qos"]);
    whole().with(&config, &less("CONFIG_NET_SCH_FQ_CODEL")).is(
        "config",
        Warn,
        &["CONFIG_NET_SCH_FQ_CODEL or CONFIG_NET_SCH_SFQ"],
    );
    whole().with(&modules, &MODULES.replace("ifb.ko", "other.ko")).is(
        "config",
        Warn,
        &["module ifb is not installed", "linux-image-"],
    );
    whole()
        .with(&modules, &MODULES.replace("xen-netback.ko", "other.ko"))
        .is("config", Fail, &["module xen-netback"]);
    whole()
        .without(&config)
        .is("config", Warn, &["nowhere to be read"]);
    whole().with("/proc/self/mounts", "bpf /mnt bpf rw 0 0\n").is(
        "bpffs",
        Fail,
        &["mount -t bpf bpf /sys/fs/bpf"],
    );
    whole().with("/proc/sys/net/core/bpf_jit_enable", "0\n").is(
        "jit",
        Warn,
        &["sysctl net.core.bpf_jit_enable=1"],
    );
    whole()
        .with("/proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")
        .with("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0\n")
        .is(
            "br_netfilter",
            Warn,
            &["sysctl net.bridge.bridge-nf-call-iptables=0"],
        );
    whole()
        .with("/proc/self/status", "Uid:\t1000\t1000\t1000\t1000\n")
        .is("root", Warn, &["sudo xmesh doctor"]);
}

/// A kernel of another version, with the same configuration.
fn kernel(release: &str, config: &str) -> Made {
    Made::whole()
        .with("/proc/sys/kernel/osrelease", release)
        .with(&format!("/boot/config-{release}"), config)
}

#[test]
fn kernels_need_different_things() {
    kernel("5.1.0", CONFIG).is("kernel", Level::Fail, &["5.2 or newer"]);
    kernel("5.10.0", CONFIG)
        .with(
            "/proc/self/limits",
            "Max locked memory         65536                65536                bytes\n",
        )
        .is("memlock", Level::Warn, &["65536 bytes", "CAP_SYS_RESOURCE"]);
    // With TCX hooks clsact is for qos only.
    let without = CONFIG.replace("CONFIG_NET_CLS_BPF", "NOTHING");
    kernel("6.1.0", &without).is("config", Level::Fail, &["clsact"]);
    kernel("6.12.0", &without).is("config", Level::Warn, &["qos"]);
}

#[test]
fn a_program_that_fails_is_told_in_its_own_words() {
    let live = Live::below("/");
    let why = live.run("sh", &["-c", "echo first >&2; echo no such thing >&2; exit 3"]);
    assert_eq!(
        why.err().as_deref(),
        Some("`sh -c echo first >&2; echo no such thing >&2; exit 3` failed: no such thing")
    );
    let none = live.run("no-such-program-here", &[]).err().unwrap_or_default();
    assert!(
        none.starts_with("no-such-program-here could not be started"),
        "{none}"
    );
}
