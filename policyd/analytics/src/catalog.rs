// SPDX-License-Identifier: GPL-3.0-only
//! The rules by name. Techniques are those of MITRE ATT&CK for Enterprise, <https://attack.mitre.org/>.

use policyd_api::{Finding, Process, Severity, Threat, ThreatRule};

pub(crate) struct Entry {
    pub(crate) id: &'static str,
    pub(crate) severity: Severity,
    technique: &'static str,
    about: &'static str,
    benign: &'static str,
}

const fn entry_of(
    id: &'static str,
    severity: Severity,
    technique: &'static str,
    about: &'static str,
    benign: &'static str,
) -> Entry {
    Entry {
        id,
        severity,
        technique,
        about,
        benign,
    }
}

use Severity::{Alert, Notice, Warning};

const ALL: [Entry; 17] = [
    entry_of(
        "reverse-shell",
        Alert,
        "T1059.004",
        "An interpreter whose standard input and output are a TCP socket that the guest opened to elsewhere",
        "Nobody; tools that steer machines remotely come in, they do not call out with a bare shell",
    ),
    entry_of(
        "bind-shell",
        Warning,
        "T1059.004",
        "An interpreter whose standard input and output are a TCP connection that came in",
        "Scripts that inetd or systemd starts for a connection",
    ),
    entry_of(
        "fileless-program",
        Alert,
        "T1620",
        "A program runs from memory (memfd, /dev/shm), so from no file that stays",
        "runc, which runs from a copy of itself in memory; that is known and not told",
    ),
    entry_of(
        "temporary-program",
        Warning,
        "T1059",
        "A program runs from a directory that anybody can write to, /tmp or /var/tmp",
        "Installers and builds",
    ),
    entry_of(
        "deleted-program",
        Warning,
        "T1070.004",
        "A program is started whose file has been deleted",
        "Scripts that start what they then replace",
    ),
    entry_of(
        "miner",
        Alert,
        "T1496",
        "A program has the name or the arguments of one that mines cryptocurrency",
        "Who mines knowingly",
    ),
    entry_of(
        "privilege",
        Alert,
        "T1068",
        "A process became root that had no right to: no setuid program, and no CAP_SETUID before",
        "Nobody: the kernel lets no process do that, unless it is made to",
    ),
    entry_of(
        "port-scan",
        Warning,
        "T1046",
        "Many ports of one address are tried within a minute",
        "Scanners of who owns the network",
    ),
    entry_of(
        "sweep",
        Warning,
        "T1018",
        "One port of many addresses that were not met before is tried within a minute",
        "Monitoring that starts; peer-to-peer programs",
    ),
    entry_of(
        "beacon",
        Notice,
        "T1071",
        "A program connects to one address outside at regular intervals",
        "Agents that report, pollers",
    ),
    entry_of(
        "new-program",
        Notice,
        "T1059",
        "A program that never did connects to somewhere, in a domain that has been known for a day",
        "Updates, administrators",
    ),
    entry_of(
        "new-destination",
        Notice,
        "T1071",
        "A program that goes to few places goes to one where it never did, in a domain that has been known for a day",
        "Updates, services that move",
    ),
    entry_of(
        "exfiltration",
        Warning,
        "T1048",
        "A program sends far more out than in its busiest hour of the days before",
        "Backups that are new",
    ),
    entry_of(
        "dns-tunnel",
        Warning,
        "T1071.004",
        "A program asks name servers with large questions, or without end",
        "Mail servers that check lists; resolvers, which are told with what they ask",
    ),
    entry_of(
        "unowned-traffic",
        Notice,
        "T1095",
        "The guest sends what none of its processes owns",
        "The kernel itself (NFS, WireGuard); programs that send by raw sockets. Who asks everybody for an address is not told",
    ),
    entry_of(
        crate::text::ID,
        Alert,
        "T1055",
        "The code of a process is not that of its file: pages that somebody wrote to, an executable that is mapped nowhere, or a text \
         that is none of the programs of the policy",
        "Debuggers, probes in programs (uprobes), programs that move or unpack their code, and new versions that policy does not know; \
         each is told as less than an alert",
    ),
    entry_of(
        "hidden",
        Alert,
        "T1014",
        "A process, thread, module or socket hides from the guest's own lists",
        "Nobody",
    ),
];

/// Besides: what checks of the kernel find has a severity of its own.
const KERNEL: Entry = entry_of(
    "kernel-changed",
    Alert,
    "T1014",
    "System calls, interrupts or text of the kernel are not as they should be",
    "Tracing (kprobes, ftrace), which is told as a notice",
);

pub(crate) fn entry(id: &str) -> Option<&'static Entry> {
    ALL.iter().chain([&KERNEL]).find(|entry| entry.id == id)
}

/// Every rule there is.
pub fn rules() -> Vec<ThreatRule> {
    let all = ALL.iter().chain([&KERNEL]);
    all.map(|entry| ThreatRule {
        id: entry.id.into(),
        severity: entry.severity,
        technique: entry.technique.into(),
        about: entry.about.into(),
        benign: entry.benign.into(),
    })
    .collect()
}

/// A threat by the rule of this name.
pub(crate) fn threat(id: &str, title: String, evidence: Vec<String>, process: Option<&Process>) -> Threat {
    let technique = entry(id).map_or("", |entry| entry.technique);
    Threat {
        rule: id.into(),
        severity: crate::severity(id),
        technique: technique.into(),
        title,
        evidence,
        process: process.cloned().map(Box::new),
        answer: None,
    }
}

/// A finding of a kernel's check as a threat.
pub(crate) fn finding(id: &str, finding: &Finding) -> Threat {
    let evidence = match finding.seen_in.as_slice() {
        [] => Vec::new(),
        seen => vec![format!("seen in: {}", seen.join(", "))],
    };
    Threat {
        severity: finding.severity,
        ..threat(id, finding.message.clone(), evidence, None)
    }
}
