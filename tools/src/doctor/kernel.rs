// SPDX-License-Identifier: GPL-3.0-only
//! dom0's kernel: what the datapath on the vifs needs of it.

use super::{Finding, Host, Level, version};

/// The verifiers of older ones take programs of 4096 instructions at most.
const OLDEST: (u32, u32) = (5, 2);
/// From here on programs are attached without clsact and cls_bpf.
const TCX: (u32, u32) = (6, 6);
/// From here on memory of maps is no locked memory any more.
const NO_MEMLOCK: (u32, u32) = (5, 11);

/// An option of the kernel.
struct Wanted {
    /// Any of these, without `CONFIG_`.
    options: &'static [&'static str],
    /// Their modules, in the same order; none where it cannot be one.
    modules: &'static [&'static str],
    /// How it stands without it.
    without: Level,
    /// What is not there without it.
    what_for: &'static str,
    /// From this version on only qos needs it.
    until: Option<(u32, u32)>,
}

const WANTED: [Wanted; 10] = [
    wanted(&["BPF_SYSCALL"], &[], Level::Fail, "the datapath"),
    wanted(&["NET_CLS_ACT"], &[], Level::Fail, "programs on interfaces"),
    Wanted {
        until: Some(TCX),
        ..wanted(
            &["NET_SCH_INGRESS"],
            &["sch_ingress"],
            Level::Fail,
            "programs on interfaces (clsact)",
        )
    },
    Wanted {
        until: Some(TCX),
        ..wanted(
            &["NET_CLS_BPF"],
            &["cls_bpf"],
            Level::Fail,
            "programs on interfaces (clsact)",
        )
    },
    wanted(
        &["XEN_NETDEV_BACKEND"],
        &["xen-netback"],
        Level::Fail,
        "interfaces of guests",
    ),
    wanted(&["BPF_JIT"], &[], Level::Warn, "the datapath at full speed"),
    wanted(
        &["NET_SCH_HTB"],
        &["sch_htb"],
        Level::Warn,
        "bandwidth and priorities (qos)",
    ),
    wanted(
        &["IFB"],
        &["ifb"],
        Level::Warn,
        "bandwidth of what guests send (qos)",
    ),
    wanted(
        &["NET_ACT_MIRRED"],
        &["act_mirred"],
        Level::Warn,
        "bandwidth of what guests send (qos)",
    ),
    wanted(
        &["NET_SCH_FQ_CODEL", "NET_SCH_SFQ"],
        &["sch_fq_codel", "sch_sfq"],
        Level::Warn,
        "short queues in a class (qos)",
    ),
];

const fn wanted(
    options: &'static [&'static str],
    modules: &'static [&'static str],
    without: Level,
    what_for: &'static str,
) -> Wanted {
    Wanted {
        options,
        modules,
        without,
        what_for,
        until: None,
    }
}

/// Looks at the kernel, and at what of it can be switched.
pub fn check(host: &impl Host) -> Vec<Finding> {
    let release = host
        .read("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned();
    let of = version(&release);
    let mut findings = vec![match of {
        Some(of) if of >= OLDEST => Finding::ok("kernel", format!("Linux {release}")),
        Some(_) => Finding::fail(
            "kernel",
            format!("Linux {release} takes no programs of the datapath's size"),
            "install Linux 5.2 or newer, as of Debian 11 and later",
        ),
        None => Finding::warn(
            "kernel",
            "which kernel runs cannot be read",
            "mount -t proc proc /proc",
        ),
    }];
    findings.extend(options(host, &release, of));
    findings.push(bpffs(host));
    findings.extend(memlock(host, of));
    findings.extend(jit(host));
    findings.extend(bridges(host));
    findings
}

fn options(host: &impl Host, release: &str, of: Option<(u32, u32)>) -> Vec<Finding> {
    let config = host
        .read(&format!("/boot/config-{release}"))
        .or_else(|| host.read(&format!("/lib/modules/{release}/config")))
        .or_else(|| match host.exists("/proc/config.gz") {
            true => host.run("zcat", &["/proc/config.gz"]).ok(),
            false => None,
        });
    let Some(config) = config else {
        return vec![Finding::warn(
            "config",
            format!("the configuration of Linux {release} is nowhere to be read"),
            format!("Debian has it as /boot/config-{release}; policyd's log says what it misses, too"),
        )];
    };
    let value = |option: &str| {
        config.lines().find_map(|line| {
            line.strip_prefix("CONFIG_")?
                .strip_prefix(option)?
                .strip_prefix('=')
        })
    };
    let modules = host.read(&format!("/lib/modules/{release}/modules.dep"));
    let there = |module: &str| {
        // File names have either of - and _.
        let names = [module.to_owned(), module.replace('_', "-")];
        modules
            .as_ref()
            .is_none_or(|list| names.iter().any(|name| list.contains(&format!("/{name}.ko"))))
    };
    let mut findings = Vec::new();
    for wanted in &WANTED {
        let (without, what_for) = match wanted.until {
            Some(until) if of >= Some(until) => (Level::Warn, "bandwidth of what guests send (qos)"),
            _ => (wanted.without, wanted.what_for),
        };
        let mut lost = None;
        let good = wanted
            .options
            .iter()
            .enumerate()
            .any(|(i, option)| match value(option) {
                Some("y") => true,
                Some("m") => match wanted.modules.get(i) {
                    Some(module) if !there(module) => {
                        lost = Some(*module);
                        false
                    }
                    _ => true,
                },
                _ => false,
            });
        if good {
            continue;
        }
        let names: Vec<String> = wanted
            .options
            .iter()
            .map(|option| format!("CONFIG_{option}"))
            .collect();
        let (found, remedy) = match lost {
            Some(module) => (
                format!("module {module} is not installed: no {what_for}"),
                format!("apt-get install linux-image-{release} (whole, not its cloud variant)"),
            ),
            None => (
                format!("the kernel is without {}: no {what_for}", names.join(" or ")),
                "boot a kernel that has it, as Debian's linux-image-amd64".to_owned(),
            ),
        };
        findings.push(Finding {
            level: without,
            ..Finding::warn("config", found, remedy)
        });
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "config",
            "the kernel has what the datapath and qos need",
        ));
    }
    findings
}

fn bpffs(host: &impl Host) -> Finding {
    let mounts = host.read("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some("/sys/fs/bpf") && words.next() == Some("bpf")
    });
    match mounted {
        true => Finding::ok("bpffs", "mounted at /sys/fs/bpf"),
        false => Finding::fail(
            "bpffs",
            "no bpffs at /sys/fs/bpf: nothing could outlive the daemon",
            "mount -t bpf bpf /sys/fs/bpf (systemd does that at boot)",
        ),
    }
}

/// policyd raises the limit itself; what it may not raise counts.
fn memlock(host: &impl Host, of: Option<(u32, u32)>) -> Option<Finding> {
    if of >= Some(NO_MEMLOCK) {
        return None;
    }
    let limits = host.read("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    let hard = line.split_whitespace().nth(1)?;
    (hard != "unlimited").then(|| {
        Finding::warn(
            "memlock",
            format!("locked memory is limited to {hard} bytes, and this kernel counts BPF maps to it"),
            "start policyd with CAP_SYS_RESOURCE, by which it raises that, or LimitMEMLOCK=infinity in its unit",
        )
    })
}

fn jit(host: &impl Host) -> Option<Finding> {
    let value = host.read("/proc/sys/net/core/bpf_jit_enable")?;
    (value.trim() == "0").then(|| {
        Finding::warn(
            "jit",
            "BPF programs are interpreted: each packet costs several times as much",
            "sysctl net.core.bpf_jit_enable=1, and in /etc/sysctl.d for the next boot",
        )
    })
}

/// What makes packets between guests take the long way.
fn bridges(host: &impl Host) -> Option<Finding> {
    let calls: Vec<&str> = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"]
        .into_iter()
        .filter(|name| {
            let value = host.read(&format!("/proc/sys/net/bridge/{name}"));
            value.is_some_and(|value| value.trim() != "0")
        })
        .collect();
    (!calls.is_empty()).then(|| {
        let set: Vec<String> = calls.iter().map(|name| format!("net.bridge.{name}=0")).collect();
        Finding::warn(
            "br_netfilter",
            "packets on bridges go through dom0's firewall: between guests none goes straight from vif to vif",
            format!("if no firewall of dom0 is meant for guests (Docker's is not): sysctl {}", set.join(" ")),
        )
    })
}
