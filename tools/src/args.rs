// SPDX-License-Identifier: GPL-3.0-only
//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand};
use policyd_api::{ChangeOptions, What};

/// Kinds of event that the daemon knows, and `verdict` for the two that carry one.
fn kinds() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(What::KINDS.into_iter().chain(["verdict"]))
}

/// A protocol as policy names it.
fn protocol(text: &str) -> Result<String, String> {
    let protocol = text.parse::<policy::Protocol>();
    protocol.map(|p| p.to_string()).map_err(|e| e.to_string())
}

/// See and govern the connections of this host's domains.
#[derive(Debug, Parser)]
#[command(
    name = "xmesh",
    version,
    arg_required_else_help = true,
    after_help = "DOMAIN is a name or an id.\n\
        Exit status: 0 done, 1 refused or failed, 2 usage, 3 policyd is not reachable."
)]
pub struct Args {
    /// Answer in JSON; streams answer in a line of JSON each.
    #[arg(long, global = true)]
    pub json: bool,
    /// The socket on which policyd listens.
    #[arg(long, global = true, value_name = "PATH", default_value = policyd_api::SOCKET)]
    pub socket: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List domains and how much is seen of each.
    List {
        /// Also UUID, addresses, interfaces, probes, and why a domain is not seen in full.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Tell about the daemon itself.
    Info,
    /// List the processes of a domain.
    Ps {
        /// Also namespaces, effective capabilities and control groups.
        #[arg(short, long)]
        wide: bool,
        /// Name or id.
        domain: String,
    },
    /// List the probes in the domains and what each costs.
    #[command(
        after_help = "HITS counts since the daemon attached; US/HIT, P99 and MAX are µs that a trap took in the daemon; ACCESSES are \
        the guest's own accesses to the probe's page, which trap too; SHARE is what all of that has cost of one vCPU's time."
    )]
    Probes {
        /// Name or id; all domains without it.
        domain: Option<String>,
    },
    /// List the sockets of a domain and who owns them.
    Conns {
        /// Name or id.
        domain: String,
    },
    /// List the processes and sockets of a guest from a dump of its memory.
    #[command(
        after_help = "FILE is an ELF core of `xl dump-core` or of QEMU's `dump-guest-memory`, or a raw image of \
        guest-physical memory.\n\n\
        EXAMPLES\n  \
        xl dump-core web1 /tmp/web1.core && xmesh inspect /tmp/web1.core\n  \
        xmesh inspect --json web1.core | jq '.sockets[] | select(.pids == [])'"
    )]
    Inspect {
        /// The dump.
        file: PathBuf,
    },
    /// Check a domain's kernel: what hides in it, and what was changed.
    #[command(after_help = "Exit status: 1 if anything was found beyond notices.\n\n\
        EXAMPLES\n  xmesh check web1\n  xmesh --json check web1 | jq -r '.findings[].message'")]
    Check {
        /// Name or id.
        domain: String,
    },
    /// Draw who gives data to whom in a domain and beyond, in DOT.
    #[command(
        after_help = "An arrow goes from who writes a pipe, or opened a connection, to the other end.\n\n\
        EXAMPLES\n  xmesh graph web1 | dot -Tsvg > web1.svg\n  xmesh --json graph web1 | jq '.edges[]'"
    )]
    Graph {
        /// Name or id.
        domain: String,
    },
    /// Tell what happened, a sentence a line.
    #[command(after_help = "EXAMPLES\n  \
        xmesh events -f --kind verdict\n  \
        xmesh events --domain web1 --kind exec,exit\n  \
        xmesh --json events -f | jq .kind")]
    Events(Events),
    /// Trace the system calls of a domain, as strace does, from outside.
    #[command(after_help = "EXAMPLES\n  \
        xmesh trace web1 --syscall connect,execve\n  \
        xmesh trace web1 --pid 1234 --syscall %file --duration 10\n  \
        xmesh --json trace db1 --exe /usr/bin/redis-server --syscall %network | jq .text")]
    Trace(Trace),
    /// List the flows at the interfaces of domains, with verdict and rule.
    Flows {
        /// Keep on, and tell of flows that come, go, or get another verdict.
        #[arg(short, long)]
        follow: bool,
        /// Only this domain's.
        #[arg(short, long)]
        domain: Option<String>,
    },
    /// List the routes with their backends, and how each stands.
    #[command(
        after_help = "WEIGHT and SHARE are as they are now: of who takes no flows they are 0, and canaries are besides. FLOWS are those \
        of this host's domains.\n\n\
        EXAMPLES\n  xmesh routes\n  xmesh --json routes | jq '.[].backends[] | select(.state == \"down\")'"
    )]
    Routes,
    /// List how interfaces are shaped, and what each class carried.
    #[command(
        after_help = "DIR is out (from the guest) or in (to it); RATE is what a class has in any case, CEIL what it does not go beyond; \
        BACKLOG waits. The last line says what shapes here."
    )]
    Qos {
        /// Name or id; all domains without it.
        domain: Option<String>,
    },
    /// Tell what the interfaces of domains counted, and how their TCP connections fare.
    #[command(
        after_help = "OUT is from the guest, IN to it. Counts of 0 both ways are left out but for passed, passed_bytes and denied.\n\n\
        The second table has a line for each thing that was measured, by peer and rule: setup, the time from SYN to SYN-ACK; rtt, \
        from data to its ACK; retr, segments that came twice; zwin, segments that said that no more is taken. P50, P90 and P99 are \
        the ends of intervals of powers of two: at most so much, and more than half of it. TOTAL is of all connections that ended.\n\n\
        EXAMPLES\n  xmesh stats web1\n  xmesh --json stats | jq '.domains[] | select(.out.forged > 0) | .domain'"
    )]
    Stats {
        /// Name or id; all domains without it.
        domain: Option<String>,
    },
    /// Put policy sets in force, all of them by one change or none.
    #[command(after_help = "EXAMPLES\n  \
        xmesh policy-apply -n shop.yaml\n  \
        xmesh policy-apply -m 'the new shop opens' shop.yaml db.yaml")]
    PolicyApply {
        /// The documents; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        change: Change,
    },
    /// List the policy sets in force.
    PolicyList,
    /// Print a policy set as it was applied.
    PolicyShow {
        /// Name of the set.
        name: String,
    },
    /// Take a policy set out of force.
    PolicyDelete {
        /// Name of the set.
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the generations of the policy: who changed what, when and why.
    #[command(after_help = "In SETS, + is a set that is new, - one that is gone.\n\n\
        EXAMPLES\n  xmesh policy-history shop\n  xmesh --json policy-history | jq -r '.generations[].message'")]
    PolicyHistory {
        /// Only changes of this set.
        set: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show what changed between two generations, as diff -u does.
    #[command(
        after_help = "Without a generation: what the last change did (to SET). With one: what changed from it until now. \
        With two: from the first to the second.\n\n\
        EXAMPLES\n  xmesh policy-diff\n  xmesh policy-diff shop\n  xmesh policy-diff shop 12 15"
    )]
    PolicyDiff {
        /// A set, then up to two generations.
        #[arg(value_name = "SET|GENERATION", num_args = 0..=3)]
        which: Vec<String>,
    },
    /// Make all sets what they were at a generation. That is a new generation, so it can be undone, too.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-rollback -n 12\n  xmesh policy-rollback 12 -m 'the shop was closed by it'"
    )]
    PolicyRollback {
        /// The generation.
        generation: u64,
        #[command(flatten)]
        change: Change,
    },
    /// Write all sets, their history and the audit log to a file.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-export /backup/policy.json\n  xmesh policy-export - | ssh other xmesh policy-import -"
    )]
    PolicyExport {
        /// The file; `-` is standard output.
        file: PathBuf,
    },
    /// Make all sets those of an export.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-import -n /backup/policy.json\n  xmesh policy-import /backup/policy.json"
    )]
    PolicyImport {
        /// The export; `-` is standard input.
        file: PathBuf,
        #[command(flatten)]
        change: Change,
    },
    /// List who asked for which change of policy and what became of it, or check that this log is whole.
    #[command(after_help = "Exit status: 1 if the log is not whole.\n\n\
        EXAMPLES\n  xmesh audit\n  xmesh audit --verify\n  xmesh audit --verify --head \"$(cat noted)\" /backup/policy.json")]
    Audit(Audit),
    /// Validate documents without the daemon, each alone and all together.
    PolicyCheck {
        /// The documents; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Tell what would happen to a flow, and why.
    #[command(after_help = "EXAMPLES\n  \
        xmesh explain --from web1:/usr/bin/curl --to db1 --port 6379\n  \
        xmesh explain --from web1:/usr/bin/curl --to shop/cache\n  \
        xmesh explain --from 192.168.7.9 --to web1 --port 443 --protocol tcp")]
    Explain(Explain),
}

/// What goes with a change of policy.
#[derive(Debug, ClapArgs)]
pub struct Change {
    /// Validate and compile, here and in the daemon, but change nothing.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Why, for the history and the audit log.
    #[arg(short, long, value_name = "WHY")]
    pub message: Option<String>,
    /// Only if this generation is in force.
    #[arg(long, value_name = "N")]
    pub if_generation: Option<u64>,
}

impl Change {
    /// As the daemon wants it.
    pub fn options(&self) -> ChangeOptions {
        ChangeOptions {
            dry_run: self.dry_run,
            message: self.message.clone(),
        }
    }
}

/// Which part of a long list.
#[derive(Debug, ClapArgs)]
pub struct Page {
    /// Only what is older than this number.
    #[arg(short, long, value_name = "N")]
    pub before: Option<u64>,
    /// At most so many.
    #[arg(short, long, value_name = "N", default_value_t = 100, value_parser = limit)]
    pub limit: usize,
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("a number from 1 to 1000; see the rest with --before".to_owned()),
    }
}

/// The audit log.
#[derive(Debug, ClapArgs)]
pub struct Audit {
    /// The log in this export, not the daemon's.
    pub file: Option<PathBuf>,
    /// Check that the log is whole.
    #[arg(long)]
    pub verify: bool,
    /// Check that it still has the entry with this hash, which `xmesh info` showed.
    #[arg(long, value_name = "HASH", requires = "verify")]
    pub head: Option<String>,
    #[command(flatten)]
    pub page: Page,
}

/// Which events to tell.
#[derive(Debug, ClapArgs)]
pub struct Events {
    /// Keep on, and tell of what comes.
    #[arg(short, long)]
    pub follow: bool,
    /// Only this domain's.
    #[arg(short, long)]
    pub domain: Option<String>,
    /// Only these kinds.
    #[arg(short, long, value_delimiter = ',', value_parser = kinds())]
    pub kind: Vec<String>,
}

impl Events {
    /// The kinds as the daemon wants them; `None` for all.
    pub fn kinds(&self) -> Option<String> {
        if self.kind.is_empty() {
            return None;
        }
        let kinds = self.kind.iter().map(|kind| match kind.as_str() {
            "verdict" => "connect,refused",
            kind => kind,
        });
        Some(kinds.collect::<Vec<_>>().join(","))
    }
}

/// Which calls to trace.
#[derive(Debug, ClapArgs)]
pub struct Trace {
    /// Name or id.
    pub domain: String,
    /// Names of calls, separated by commas; %process, %network and %file are many at once.
    #[arg(
        short,
        long,
        value_name = "CALLS",
        value_delimiter = ',',
        default_value = "%process,%network,%file"
    )]
    pub syscall: Vec<String>,
    /// Only those of this process or thread.
    #[arg(short, long, value_name = "N")]
    pub pid: Option<u32>,
    /// Only those of processes with this executable.
    #[arg(short, long, value_name = "PATH")]
    pub exe: Option<String>,
    /// End after so many calls.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End after so many seconds.
    #[arg(short, long, value_name = "S")]
    pub duration: Option<u64>,
    /// Read at most so many calls a second [default: 2000].
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
}

/// The flow to explain.
#[derive(Debug, ClapArgs)]
pub struct Explain {
    /// Who opens it: a domain, with a program if it matters, or an address outside.
    #[arg(long, value_name = "DOMAIN[:EXE]|ADDRESS")]
    pub from: String,
    /// Who it is opened to.
    #[arg(long, value_name = "DOMAIN|ADDRESS|ROUTE")]
    pub to: String,
    /// The port it is opened to, where the protocol has ports; of a route its own.
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// tcp, udp, icmp, icmpv6, sctp, or a number.
    #[arg(long, default_value = "tcp", value_parser = protocol)]
    pub protocol: String,
    /// The effective user id of who opens it.
    #[arg(long, value_name = "N")]
    pub uid: Option<u32>,
}

impl Explain {
    /// Splits `--from` into domain or address, and program.
    pub fn source(&self) -> (&str, Option<&str>) {
        // An IPv6 address has colons of its own.
        if self.from.parse::<IpAddr>().is_ok() {
            return (&self.from, None);
        }
        match self.from.split_once(':') {
            Some((domain, exe)) => (domain, Some(exe).filter(|exe| !exe.is_empty())),
            None => (&self.from, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Args {
        Args::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        assert!(parse("xmesh list --json").json);
        assert!(parse("xmesh --json list -v").json);
        let socket = parse("xmesh ps 3 --socket /tmp/s").socket;
        assert_eq!(socket, PathBuf::from("/tmp/s"));
    }

    #[test]
    fn kinds_are_checked_and_verdict_stands_for_two() {
        let Command::Events(events) = parse("xmesh events --kind exec,verdict").command else {
            panic!("not events");
        };
        assert_eq!(events.kinds().as_deref(), Some("exec,connect,refused"));
        assert!(Args::try_parse_from(["xmesh", "events", "--kind", "exex"]).is_err());
    }

    #[test]
    fn a_trace_ends_by_itself_if_told_so() {
        let line = "xmesh trace web1 -s connect,openat --syscall execve --count 5 --duration 10";
        let Command::Trace(trace) = parse(line).command else {
            panic!("not a trace");
        };
        assert_eq!(trace.syscall, ["connect", "openat", "execve"]);
        assert_eq!((trace.count, trace.duration), (Some(5), Some(10)));
        assert!(Args::try_parse_from(["xmesh", "trace", "web1", "--count", "0"]).is_err());
    }

    #[test]
    fn a_protocol_may_be_a_number() {
        let parse = |protocol| {
            let line = [
                "xmesh",
                "explain",
                "--from",
                "a",
                "--to",
                "b",
                "--protocol",
                protocol,
            ];
            Args::try_parse_from(line).map(|args| match args.command {
                Command::Explain(explain) => explain.protocol,
                other => panic!("{other:?}"),
            })
        };
        assert_eq!(parse("47").expect("a number"), "47");
        assert_eq!(parse("6").expect("a number"), "tcp");
        let refused = parse("gre").expect_err("no name of ours").to_string();
        assert!(refused.contains("write tcp, udp"), "{refused}");
    }

    #[test]
    fn the_source_of_an_explanation() {
        let source = |from: &str| {
            let explain = Explain {
                from: from.into(),
                to: "db1".into(),
                port: Some(1),
                protocol: "tcp".into(),
                uid: None,
            };
            let (who, exe) = explain.source();
            (who.to_owned(), exe.map(str::to_owned))
        };
        assert_eq!(source("web1"), ("web1".into(), None));
        assert_eq!(source("web1:"), ("web1".into(), None));
        assert_eq!(source("3:/bin/a:b"), ("3".into(), Some("/bin/a:b".into())));
        assert_eq!(source("2001:db8::1"), ("2001:db8::1".into(), None));
    }

    /// A manual that leaves out a command or an option is worse than none.
    #[test]
    fn the_manual_names_every_command_and_option() {
        let manual = include_str!("../man/xmesh.1");
        let command = Args::command();
        let mut long: Vec<String> = command
            .get_arguments()
            .filter_map(|a| a.get_long())
            .map(str::to_owned)
            .collect();
        for sub in command.get_subcommands() {
            assert!(
                manual.contains(&format!("Cm {}", sub.get_name())),
                "{}",
                sub.get_name()
            );
            long.extend(
                sub.get_arguments()
                    .filter_map(|a| a.get_long())
                    .map(str::to_owned),
            );
        }
        for option in long.iter().filter(|o| !matches!(o.as_str(), "help" | "version")) {
            assert!(manual.contains(&format!("-{option}")), "--{option}");
        }
        for kind in What::KINDS {
            assert!(manual.contains(kind), "{kind}");
        }
    }

    #[test]
    fn the_example_in_the_manual_is_valid() {
        let manual = include_str!("../man/xmesh-policy.5");
        let (_, after) = manual.split_once(".Bd -literal\n").unwrap();
        let (example, _) = after.split_once(".Ed\n").unwrap();
        let document = policy::Document::parse("xmesh-policy.5", example).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(document.rules().len(), 2);
        assert_eq!(document.qos().classes.len(), 1);
    }
}
