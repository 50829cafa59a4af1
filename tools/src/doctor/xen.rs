// SPDX-License-Identifier: GPL-3.0-only
//! Xen, dom0, and the configuration of the domains.

use serde_json::Value;

use super::{Finding, Host, version};

/// The oldest Xen that policyd knows.
const OLDEST: (u32, u32) = (4, 17);
/// Where programs are, the first that there is counts.
const POLICYD: [&str; 4] = [
    "/usr/sbin/policyd",
    "/usr/bin/policyd",
    "/usr/local/sbin/policyd",
    "/usr/local/bin/policyd",
];
/// Where libraries are.
const LIBRARIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];

/// Looks at Xen, and at what of it policyd needs.
pub fn check(host: &impl Host) -> Vec<Finding> {
    let kind = host.read("/sys/hypervisor/type");
    if kind.as_deref().map(str::trim) != Some("xen") {
        return vec![Finding::fail(
            "xen",
            "this machine does not run on Xen",
            "apt-get install xen-system-amd64, then reboot and choose `Debian GNU/Linux, with Xen hypervisor`",
        )];
    }
    if !is_dom0(host) {
        return vec![Finding::fail(
            "dom0",
            "this is a guest of Xen, not dom0",
            "run policyd and this command in dom0",
        )];
    }
    let mut findings = vec![Finding::ok("dom0", "this is dom0")];
    let running = running(host, &mut findings);
    findings.extend(altp2m(host));
    findings.extend(domains(host));
    findings.push(xenstored(host));
    findings.push(devices(host));
    findings.extend(running.and_then(|running| library(host, running)));
    findings
}

/// By what the kernel says of its privileges, else by the UUID, which of dom0 is nothing but zeros.
fn is_dom0(host: &impl Host) -> bool {
    match host.read("/proc/xen/capabilities") {
        Some(text) if !text.trim().is_empty() => text.contains("control_d"),
        _ => host
            .read("/sys/hypervisor/uuid")
            .is_some_and(|uuid| uuid.trim().chars().all(|c| matches!(c, '0' | '-'))),
    }
}

fn running(host: &impl Host, findings: &mut Vec<Finding>) -> Option<(u32, u32)> {
    let part = |name: &str| {
        let text = host.read(&format!("/sys/hypervisor/version/{name}"));
        text.unwrap_or_default().trim().to_owned()
    };
    let text = format!("{}.{}{}", part("major"), part("minor"), part("extra"));
    let Some(running) = version(&text) else {
        findings.push(Finding::warn(
            "version",
            "Xen does not say which version it is",
            "look at `xl info`: policyd needs Xen 4.17 or newer",
        ));
        return None;
    };
    findings.push(if running < OLDEST {
        Finding::fail(
            "version",
            format!("Xen {text}"),
            "policyd needs Xen 4.17 or newer, as of Debian 12",
        )
    } else {
        Finding::ok("version", format!("Xen {text}"))
    });
    Some(running)
}

/// Whether guests can be trapped without seeing it.
fn altp2m(host: &impl Host) -> Vec<Finding> {
    let info = match host.run("xl", &["info"]) {
        Ok(info) => info,
        Err(why) => {
            return vec![Finding::warn(
                "altp2m",
                why,
                "apt-get install xen-utils; as root `xl info` must work",
            )];
        }
    };
    let field = |name: &str| {
        info.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    let capabilities = field("virt_caps").unwrap_or_default();
    let has = |word: &str| capabilities.split_whitespace().any(|c| c == word);
    if !has("hvm") || !has("hap") {
        return vec![Finding::warn(
            "altp2m",
            format!(
                "Xen has no hardware-assisted paging here (virt_caps: {capabilities}): guests are decided by VM, address and port"
            ),
            "switch VT-x with EPT, or AMD-V, on in the firmware",
        )];
    }
    let cpu = host.read("/proc/cpuinfo").unwrap_or_default();
    let intel = cpu
        .lines()
        .any(|line| line.starts_with("vendor_id") && line.ends_with("GenuineIntel"));
    if !intel {
        return vec![Finding::warn(
            "altp2m",
            "this processor is none of Intel's, so Xen has no altp2m: guests are read, not trapped",
            "policyd --breakpoints traps by breakpoints in the guests' own memory; guests could notice, and it is young",
        )];
    }
    let asked = requested(&field("xen_commandline").unwrap_or_default());
    vec![if asked {
        Finding::ok(
            "altp2m",
            "Xen was booted with altp2m, on a processor of Intel's with EPT",
        )
    } else {
        Finding::warn(
            "altp2m",
            "Xen was booted without altp2m=1: guests are read, not trapped",
            "add altp2m=1 to GRUB_CMDLINE_XEN_DEFAULT in /etc/default/grub, run update-grub, reboot",
        )
    }]
}

/// The boolean option as Xen reads it: the last mention wins.
fn requested(command_line: &str) -> bool {
    let mention = |word: &str| match word {
        "altp2m" => Some(true),
        "no-altp2m" => Some(false),
        _ => match word.strip_prefix("altp2m=")? {
            "1" | "yes" | "on" | "true" | "enable" => Some(true),
            "0" | "no" | "off" | "false" | "disable" => Some(false),
            _ => None,
        },
    };
    command_line
        .split_whitespace()
        .filter_map(mention)
        .next_back()
        .unwrap_or(false)
}

/// Each domain's own configuration, as xl keeps it.
fn domains(host: &impl Host) -> Vec<Finding> {
    let listed = host.run("xl", &["list", "-l"]);
    let listed = listed.and_then(|text| {
        serde_json::from_str::<Value>(&text)
            .map_err(|error| format!("`xl list -l` is not understood: {error}"))
    });
    let listed = match listed {
        Ok(Value::Array(listed)) => listed,
        Ok(_) => Vec::new(),
        Err(why) => {
            return vec![Finding::warn("domains", why, "as root `xl list -l` must work")];
        }
    };
    let mut findings = Vec::new();
    let mut trapped = 0usize;
    for domain in listed
        .iter()
        .filter(|d| d["domid"].as_u64().is_some_and(|id| id > 0))
    {
        let (created, built) = (&domain["config"]["c_info"], &domain["config"]["b_info"]);
        let name = created["name"].as_str().unwrap_or("a domain without a name");
        match created["type"].as_str() {
            Some("pvh" | "hvm") => match built["altp2m"].as_str() {
                Some("external") => trapped += 1,
                Some(mode @ ("mixed" | "limited")) => findings.push(Finding::warn(
                    "domains",
                    format!("{name} has altp2m=\"{mode}\", by which the guest itself could change its views"),
                    format!("write altp2m=\"external\" in the xl.cfg of {name} and create it anew"),
                )),
                _ => findings.push(Finding::warn(
                    "domains",
                    format!("{name} is without altp2m: it is read, not trapped"),
                    format!("write altp2m=\"external\" in the xl.cfg of {name} and create it anew"),
                )),
            },
            Some("pv") => findings.push(Finding::warn(
                "domains",
                format!("{name} is of type PV: it is decided by VM, address and port"),
                format!(
                    "write type=\"pvh\" and altp2m=\"external\" in the xl.cfg of {name} and create it anew"
                ),
            )),
            _ => findings.push(Finding::warn(
                "domains",
                format!("xl does not know the configuration of {name}"),
                format!("look at `xmesh list -v` for how {name} is seen"),
            )),
        }
    }
    if trapped > 0 {
        findings.push(Finding::ok(
            "domains",
            format!("{trapped} with altp2m=\"external\""),
        ));
    }
    findings
}

fn xenstored(host: &impl Host) -> Finding {
    const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];
    if SOCKETS.iter().any(|socket| host.exists(socket)) {
        return Finding::ok("xenstored", "its socket is there");
    }
    if host.exists("/dev/xen/xenbus") {
        return Finding::warn(
            "xenstored",
            "no socket of xenstored; it may run in a domain of its own",
            "`xenstore-ls /local/domain` must work; else systemctl start xenstored, or /etc/init.d/xen start",
        );
    }
    Finding::fail(
        "xenstored",
        "xenstored does not run",
        "systemctl start xenstored, or /etc/init.d/xen start",
    )
}

fn devices(host: &impl Host) -> Finding {
    let needed = [
        ("/dev/xen/privcmd", "xen-privcmd"),
        ("/dev/xen/evtchn", "xen-evtchn"),
    ];
    let missing = needed.iter().filter(|(device, _)| !host.exists(device));
    let (devices, modules): (Vec<&str>, Vec<&str>) = missing.copied().unzip();
    if devices.is_empty() {
        return Finding::ok("devices", "/dev/xen/privcmd and /dev/xen/evtchn are there");
    }
    Finding::fail(
        "devices",
        format!("{} not there", devices.join(" and ")),
        format!("modprobe -a {}", modules.join(" ")),
    )
}

/// The libxenctrl that policyd is linked with: hypercalls of one release are not those of another.
fn library(host: &impl Host, running: (u32, u32)) -> Option<Finding> {
    let policyd = POLICYD.into_iter().find(|path| host.exists(path))?;
    let named = host.strings(policyd, "libxenctrl.so.").unwrap_or_default();
    let name = named.first()?;
    let of = name.strip_prefix("libxenctrl.so.").and_then(version)?;
    let (major, minor) = running;
    if of != running {
        return Some(Finding::fail(
            "libxenctrl",
            format!("{policyd} is linked with {name}, and Xen {major}.{minor} runs"),
            "install the policyd of this Debian release, or build it where libxen-dev is of the Xen that runs",
        ));
    }
    if !LIBRARIES
        .iter()
        .any(|folder| host.exists(&format!("{folder}/{name}")))
    {
        return Some(Finding::fail(
            "libxenctrl",
            format!("{policyd} needs {name}, which is not there"),
            format!("apt-get install libxenmisc{major}.{minor}"),
        ));
    }
    Some(Finding::ok(
        "libxenctrl",
        format!("{policyd} is linked with {name}, as Xen {major}.{minor} needs it"),
    ))
}
