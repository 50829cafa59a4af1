// SPDX-License-Identifier: GPL-3.0-only
//! Events as sentences: when, who, whom, what, verdict, why.

use std::net::SocketAddr;

use policyd_api::{Credentials, Decision, Event, Party, Process, Routed, Seen, Verdict, What};

use super::plain;
use super::route::via;
use super::time::timestamp;

/// One event in one line.
pub fn sentence(event: &Event) -> String {
    let domain = event.domain.as_deref().unwrap_or("?");
    let said = match &event.what {
        What::Fork { process } => {
            format!("{} was forked by {}", who(domain, process), process.ppid)
        }
        What::Exec { process } => format!("{} runs: {}", who(domain, process), process.args.join(" ")),
        What::Exit { process, code } => format!("{} {}", who(domain, process), ending(*code)),
        What::Cred {
            process,
            before,
            after,
        } => format!("{} {}", who(domain, process), change(before, after)),
        What::Measured { process, text } => {
            format!("{} {}", who(domain, process), super::measured::sentence(text))
        }
        What::Listen { process, local } => format!("{} listens on {local}", who(domain, process)),
        What::Bind { process, local } => format!("{} takes datagrams on {local}", who(domain, process)),
        What::Close {
            process,
            protocol,
            local,
        } => format!("{} closed {local} {protocol}", who(domain, process)),
        What::Accept {
            process,
            local,
            remote,
            from,
            seen,
        } => format!(
            "{} accepted {} on {local}{}",
            who(domain, process),
            whom(from, remote),
            how(*seen)
        ),
        What::Connect {
            process,
            protocol,
            remote,
            to,
            route,
            decision,
            seen,
            ..
        } => format!(
            "{} → {}{}{}, {}{}",
            who(domain, process),
            match route {
                Some(_) => remote.to_string(),
                None => whom(to, remote),
            },
            if protocol == "tcp" { "" } else { " udp" },
            through(route.as_deref(), Some(to)),
            verdict(decision),
            how(*seen)
        ),
        What::Unowned {
            protocol,
            local,
            remote,
        } => format!("{domain} {local} → {remote} {protocol}, which no process of {domain} owns"),
        What::Refused {
            direction,
            protocol,
            local,
            remote,
            who,
            route,
            decision,
        } => {
            let inside = match who {
                Some(party) => whom(party, local),
                None => format!("{domain} {local}"),
            };
            let (from, to) = match direction.as_str() {
                "in" => (remote.to_string(), inside),
                _ => (inside, remote.to_string()),
            };
            let via = through(route.as_deref(), None);
            format!("{from} → {to} {protocol}{via}, {} at the vif", verdict(decision))
        }
        What::DryRun {
            protocol,
            local,
            remote,
            outgoing,
            who,
            would,
            count,
        } => {
            let (inside, outside) = (whom(who, local), remote.to_string());
            let (from, to) = match outgoing {
                true => (inside, outside),
                false => (outside, inside),
            };
            format!(
                "{from} → {to} {protocol} would be {} (dry run, flow {count})",
                verdict(would)
            )
        }
        What::Backend {
            route,
            backend,
            domain,
            version,
            state,
            why,
            ..
        } => {
            let version = version
                .as_deref()
                .map_or(String::new(), |v| format!(" version {v}"));
            let domain = domain.as_deref().map_or(String::new(), |d| format!("{d} "));
            let why = why.as_deref().map_or(String::new(), |why| format!(": {why}"));
            format!(
                "{route}{version}: backend {domain}{backend} is {}{why}",
                state.as_str()
            )
        }
        What::Sight { mode, message } => format!("{domain} is seen by {}: {message}", mode.as_str()),
        What::Domain { change } => match event.domid {
            Some(id) => format!("{domain} ({id}) was {change}"),
            None => format!("{domain} was {change}"),
        },
        What::Policy { generation, change } => {
            format!("policy: {change}, generation {generation} is in force")
        }
        What::Store { message } => format!("policy store: {message}"),
        What::Hidden { finding } | What::Integrity { finding } => {
            format!("{domain} {}: {}", finding.severity.as_str(), finding.message)
        }
        What::Threat { threat } => format!(
            "{domain} {}: {} [{}, {}]{}",
            threat.severity.as_str(),
            threat.title,
            threat.rule,
            threat.technique,
            threat
                .answer
                .as_ref()
                .map(|did| format!("; {did}"))
                .unwrap_or_default()
        ),
        What::Lost { count, place } => format!("{count} events were lost at {place}"),
    };
    format!("{} {}", timestamp(event.time_ns), plain(&said))
}

/// ` via shop/cache v2 db1(88 /usr/bin/redis-server uid 110) 10.0.0.2:6379`; nothing of a flow that goes where it is addressed.
fn through(route: Option<&Routed>, to: Option<&Party>) -> String {
    match (route, to) {
        (Some(routed), Some(party)) => {
            let at = routed.backend.to_string();
            let said = via(Some(routed));
            format!(
                "{}{}",
                said.strip_suffix(&at).unwrap_or(&said),
                whom(party, &routed.backend)
            )
        }
        (route, _) => via(route),
    }
}

/// What is said of a flow that no trap showed.
fn how(seen: Seen) -> &'static str {
    match seen {
        Seen::Trap => "",
        Seen::Lookup => " (looked up)",
        Seen::Translated => " (translated by the guest)",
    }
}

/// `domain(pid exe uid N)`.
fn who(domain: &str, process: &Process) -> String {
    let exe = process.exe.as_deref().unwrap_or(&process.comm);
    format!("{domain}({} {exe} uid {})", process.pid, process.euid)
}

/// `domain(pid exe uid N) address:port`, with what is known of it; the address alone for a peer outside.
pub fn whom(party: &Party, at: &SocketAddr) -> String {
    let known = [
        party.pid.map(|pid| pid.to_string()),
        party.exe.clone(),
        party.uid.map(|uid| format!("uid {uid}")),
    ];
    let known: Vec<String> = known.into_iter().flatten().collect();
    match (&party.domain, known.is_empty()) {
        (Some(domain), true) => format!("{domain} {at}"),
        (Some(domain), false) => format!("{domain}({}) {at}", known.join(" ")),
        (None, _) => at.to_string(),
    }
}

/// `allowed by shop/client-may-cache`.
fn verdict(decision: &Decision) -> String {
    if decision.rule.starts_with("no backend") {
        return format!("refused: {}", decision.rule);
    }
    let word = match decision.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    format!("{word} by {}", decision.rule)
}

/// `changed uid 0 → 1000, capabilities 1ffffffffff → 0`: what differs.
fn change(before: &Credentials, after: &Credentials) -> String {
    let ids = [
        ("uid", before.uid, after.uid),
        ("euid", before.euid, after.euid),
        ("gid", before.gid, after.gid),
        ("egid", before.egid, after.egid),
    ];
    let sets = [
        ("permitted capabilities", before.permitted, after.permitted),
        ("effective capabilities", before.effective, after.effective),
    ];
    let ids = ids
        .iter()
        .filter(|(_, old, new)| old != new)
        .map(|(name, old, new)| format!("{name} {old} → {new}"));
    let sets = sets
        .iter()
        .filter(|(_, old, new)| old != new)
        .map(|(name, old, new)| format!("{name} {old:x} → {new:x}"));
    let changes: Vec<String> = ids.chain(sets).collect();
    if changes.is_empty() {
        return "changed its groups or other credentials".into();
    }
    format!("changed {}", changes.join(", "))
}

/// An exit status of wait(2) in words.
fn ending(code: u32) -> String {
    match (code & 0x7f, code >> 8 & 0xff) {
        (0, status) => format!("exited with status {status}"),
        (signal, _) if code & 0x80 != 0 => format!("was killed by signal {signal} and left a core"),
        (signal, _) => format!("was killed by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policyd_api::{BackendState, Finding, Mode, Severity};

    fn process(exe: Option<&str>) -> Process {
        Process {
            pid: 412,
            ppid: 1,
            uid: 1000,
            euid: 1000,
            gid: 1000,
            loginuid: None,
            comm: "curl".into(),
            exe: exe.map(str::to_owned),
            exe_deleted: false,
            args: vec!["curl".into(), "-s".into(), "db1".into()],
            container: None,
            cgroup: None,
            netns: 1,
            pidns: 2,
            mntns: 3,
            capabilities: Default::default(),
            start_time_ns: 0,
            parents: Vec::new(),
        }
    }

    fn decision(verdict: Verdict) -> Decision {
        Decision {
            verdict,
            rule: "shop/r".into(),
            generation: 4,
        }
    }

    fn said(what: What) -> String {
        let event = Event {
            seq: 1,
            time_ns: 1_500_000_000,
            domain: Some("web1".into()),
            domid: Some(3),
            what,
        };
        let line = sentence(&event);
        line.strip_prefix("1970-01-01T00:00:01.500Z ").unwrap().to_owned()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn processes() {
        let curl = || process(Some("/usr/bin/curl"));
        assert_eq!(
            said(What::Exec { process: curl() }),
            "web1(412 /usr/bin/curl uid 1000) runs: curl -s db1"
        );
        assert_eq!(
            said(What::Fork {
                process: process(None)
            }),
            "web1(412 curl uid 1000) was forked by 1"
        );
        let exit = |code| {
            said(What::Exit {
                process: curl(),
                code,
            })
        };
        assert_eq!(exit(0), "web1(412 /usr/bin/curl uid 1000) exited with status 0");
        assert_eq!(
            exit(7 << 8),
            "web1(412 /usr/bin/curl uid 1000) exited with status 7"
        );
        assert_eq!(exit(9), "web1(412 /usr/bin/curl uid 1000) was killed by signal 9");
        assert_eq!(
            exit(0x8b),
            "web1(412 /usr/bin/curl uid 1000) was killed by signal 11 and left a core"
        );
    }

    #[test]
    fn credentials() {
        let root = Credentials {
            uid: 0,
            euid: 0,
            gid: 0,
            egid: 0,
            permitted: 0x1ff,
            effective: 0x1ff,
        };
        let nobody = Credentials {
            uid: 65534,
            euid: 65534,
            effective: 0,
            ..root
        };
        let cred = |after| {
            said(What::Cred {
                process: process(None),
                before: root,
                after,
            })
        };
        assert_eq!(
            cred(nobody),
            "web1(412 curl uid 1000) changed uid 0 → 65534, euid 0 → 65534, effective capabilities 1ff → 0"
        );
        assert_eq!(
            cred(root),
            "web1(412 curl uid 1000) changed its groups or other credentials"
        );
    }

    #[test]
    fn connections() {
        let to = Party {
            domain: Some("db1".into()),
            exe: Some("/usr/bin/redis-server".into()),
            pid: Some(88),
            uid: Some(110),
            services: Vec::new(),
            id: String::new(),
        };
        let outside = Party {
            domain: None,
            exe: None,
            pid: None,
            uid: None,
            ..to.clone()
        };
        let connect = |to: &Party, verdict| {
            said(What::Connect {
                process: process(Some("/usr/bin/curl")),
                protocol: "tcp".into(),
                local: at("10.0.0.1:4000"),
                remote: at("10.0.0.2:6379"),
                to: Box::new(to.clone()),
                route: None,
                decision: decision(verdict),
                seen: Seen::Trap,
            })
        };
        assert_eq!(
            said(What::Connect {
                process: process(Some("/usr/bin/dig")),
                protocol: "udp".into(),
                local: at("10.0.0.1:4000"),
                remote: at("192.0.2.53:53"),
                to: Box::new(outside.clone()),
                route: None,
                decision: decision(Verdict::Allow),
                seen: Seen::Lookup,
            }),
            "web1(412 /usr/bin/dig uid 1000) → 192.0.2.53:53 udp, allowed by shop/r (looked up)"
        );
        assert_eq!(
            said(What::Accept {
                process: process(Some("/usr/sbin/nginx")),
                local: at("10.0.0.1:80"),
                remote: at("10.0.0.2:4000"),
                from: Box::new(to.clone()),
                seen: Seen::Trap,
            }),
            "web1(412 /usr/sbin/nginx uid 1000) accepted db1(88 /usr/bin/redis-server uid 110) 10.0.0.2:4000 on 10.0.0.1:80"
        );
        assert_eq!(
            said(What::Bind {
                process: process(Some("/usr/sbin/unbound")),
                local: at("0.0.0.0:53"),
            }),
            "web1(412 /usr/sbin/unbound uid 1000) takes datagrams on 0.0.0.0:53"
        );
        assert_eq!(
            said(What::Close {
                process: process(Some("/usr/sbin/unbound")),
                protocol: "udp".into(),
                local: at("0.0.0.0:53"),
            }),
            "web1(412 /usr/sbin/unbound uid 1000) closed 0.0.0.0:53 udp"
        );
        assert_eq!(
            connect(&to, Verdict::Allow),
            "web1(412 /usr/bin/curl uid 1000) → db1(88 /usr/bin/redis-server uid 110) 10.0.0.2:6379, allowed by shop/r"
        );
        assert_eq!(
            connect(&outside, Verdict::Deny),
            "web1(412 /usr/bin/curl uid 1000) → 10.0.0.2:6379, denied by shop/r"
        );
        let refused = |direction: &str, who| {
            said(What::Refused {
                direction: direction.into(),
                protocol: "udp".into(),
                local: at("10.0.0.1:53"),
                remote: at("[2001:db8::1]:9"),
                who,
                route: None,
                decision: decision(Verdict::Deny),
            })
        };
        assert_eq!(
            refused("out", None),
            "web1 10.0.0.1:53 → [2001:db8::1]:9 udp, denied by shop/r at the vif"
        );
        assert_eq!(
            refused("in", Some(Box::new(to))),
            "[2001:db8::1]:9 → db1(88 /usr/bin/redis-server uid 110) 10.0.0.1:53 udp, denied by shop/r at the vif"
        );
    }

    #[test]
    fn routes() {
        let v2 = || {
            Box::new(Routed {
                route: Some("shop/cache".into()),
                version: Some("v2".into()),
                backend: at("10.0.0.2:6380"),
                instead: false,
            })
        };
        let db1 = Party {
            domain: Some("db1".into()),
            exe: Some("/usr/bin/redis-server".into()),
            pid: Some(88),
            uid: Some(110),
            services: Vec::new(),
            id: String::new(),
        };
        assert_eq!(
            said(What::Connect {
                process: process(Some("/usr/bin/curl")),
                protocol: "tcp".into(),
                local: at("10.0.0.1:4000"),
                remote: at("10.0.0.100:6379"),
                to: Box::new(db1),
                route: Some(v2()),
                decision: decision(Verdict::Allow),
                seen: Seen::Trap,
            }),
            "web1(412 /usr/bin/curl uid 1000) → 10.0.0.100:6379 via shop/cache v2 \
             db1(88 /usr/bin/redis-server uid 110) 10.0.0.2:6380, allowed by shop/r"
        );
        let refused = |route, rule: &str| {
            said(What::Refused {
                direction: "out".into(),
                protocol: "tcp".into(),
                local: at("10.0.0.1:4000"),
                remote: at("10.0.0.100:6379"),
                who: None,
                route,
                decision: Decision {
                    rule: rule.into(),
                    ..decision(Verdict::Deny)
                },
            })
        };
        assert_eq!(
            refused(None, "no backend of shop/cache"),
            "web1 10.0.0.1:4000 → 10.0.0.100:6379 tcp, refused: no backend of shop/cache at the vif"
        );
        assert_eq!(
            refused(Some(v2()), "shop/r"),
            "web1 10.0.0.1:4000 → 10.0.0.100:6379 tcp via shop/cache v2 10.0.0.2:6380, denied by shop/r at the vif"
        );
        assert_eq!(
            said(What::Backend {
                route: "shop/cache".into(),
                address: at("10.0.0.100:6379"),
                backend: at("10.0.0.2:6380"),
                domain: Some("db1".into()),
                version: Some("v2".into()),
                state: BackendState::Down,
                why: Some("nobody listens on its port".into()),
            }),
            "shop/cache version v2: backend db1 10.0.0.2:6380 is down: nobody listens on its port"
        );
    }

    #[test]
    fn the_rest() {
        assert_eq!(
            said(What::Sight {
                mode: Mode::Lookup,
                message: "no altp2m".into()
            }),
            "web1 is seen by lookup: no altp2m"
        );
        assert_eq!(
            said(What::Domain {
                change: "created".into()
            }),
            "web1 (3) was created"
        );
        assert_eq!(
            said(What::Policy {
                generation: 5,
                change: "apply shop".into()
            }),
            "policy: apply shop, generation 5 is in force"
        );
        assert_eq!(
            said(What::Hidden {
                finding: Finding {
                    severity: Severity::Alert,
                    kind: "hidden-process".into(),
                    message: "process 7 (x) hides".into(),
                    pid: Some(7),
                    name: Some("x".into()),
                    seen_in: Vec::new(),
                    missing_in: Vec::new(),
                }
            }),
            "web1 alert: process 7 (x) hides"
        );
        assert_eq!(
            said(What::DryRun {
                protocol: "tcp".into(),
                local: at("10.0.0.1:40000"),
                remote: at("10.0.0.2:23"),
                outgoing: true,
                who: Box::new(Party {
                    domain: Some("web1".into()),
                    exe: Some("/usr/bin/telnet".into()),
                    pid: None,
                    uid: None,
                    services: Vec::new(),
                    id: String::new(),
                }),
                would: Decision {
                    rule: "shop/no-telnet".into(),
                    ..decision(Verdict::Deny)
                },
                count: 12,
            }),
            "web1(/usr/bin/telnet) 10.0.0.1:40000 → 10.0.0.2:23 tcp would be denied by shop/no-telnet (dry run, flow 12)"
        );
        assert_eq!(
            said(What::Unowned {
                protocol: "udp".into(),
                local: at("10.0.0.1:53"),
                remote: at("192.0.2.1:9"),
            }),
            "web1 10.0.0.1:53 → 192.0.2.1:9 udp, which no process of web1 owns"
        );
        assert_eq!(
            said(What::Lost {
                count: 3,
                place: "the log".into()
            }),
            "3 events were lost at the log"
        );
    }

    #[test]
    fn a_sentence_is_one_line_whatever_a_guest_writes() {
        let mut hostile = process(Some("/tmp/\x1b[2J\n"));
        hostile.args = vec!["a\r\nb".into()];
        let line = said(What::Exec { process: hostile });
        assert!(!line.contains(['\n', '\r', '\x1b']), "{line}");
    }
}
