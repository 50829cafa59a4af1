// SPDX-License-Identifier: GPL-3.0-only
//! The command line.

pub mod advice;
pub mod measure;
pub mod past;
pub mod remote;
pub mod rollout;
pub mod signals;
pub mod threats;
pub mod top;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args as ClapArgs, Parser, Subcommand};
use policyd_api::{ChangeOptions, What};

use crate::completion::{self, Shell};
use crate::render::style::Color;
use crate::templates;
pub use rollout::Stage;

/// Kinds of event that the daemon knows, and `verdict` for the two that carry one.
fn kinds() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(What::KINDS.into_iter().chain(["verdict"]))
}

fn templates() -> impl TypedValueParser<Value = String> {
    PossibleValuesParser::new(templates::ALL.map(|t| PossibleValue::new(t.name).help(t.summary())))
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
        Exit status: 0 done, 1 refused or failed, 2 usage, 3 policyd is not reachable, 4 a policy was found questionable."
)]
pub struct Args {
    /// Answer in JSON; streams answer in a line of JSON each.
    #[arg(long, global = true)]
    pub json: bool,
    /// The socket on which policyd listens.
    #[arg(long, global = true, value_name = "PATH", default_value = policyd_api::SOCKET)]
    pub socket: PathBuf,
    /// When to colour: on a terminal (and NO_COLOR is not set), always, or never.
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true, default_value_t = Color::Auto)]
    pub color: Color,
    #[command(flatten)]
    pub remote: remote::Remote,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List domains and how much is seen of each.
    #[command(after_help = "EXAMPLES\n  xmesh list\n  xmesh list -v\n  \
        xmesh --json list | jq -r '.[] | select(.problems != []) | .name'")]
    List {
        /// Also UUID, addresses, interfaces, probes, and why a domain is not seen in full.
        #[arg(short, long)]
        verbose: bool,
    },
    /// Tell about the daemon itself.
    #[command(after_help = "EXAMPLES\n  xmesh info\n  xmesh --json info | jq .generation")]
    Info,
    /// Tell what this host lacks for the mesh, and how to get it.
    #[command(
        after_help = "Looks at Xen, dom0's kernel, the domains' configuration and policyd, and changes nothing. A warning is something \
        without which the mesh runs and does less.\n\n\
        Exit status: 1 if anything failed; with warnings alone 0.\n\n\
        EXAMPLES\n  xmesh doctor\n  xmesh --json doctor | jq -r '.[] | select(.level != \"ok\") | .remedy'"
    )]
    Doctor,
    /// List the processes of a domain.
    #[command(after_help = "EXAMPLES\n  xmesh ps web1\n  xmesh ps --wide 3\n  \
        xmesh --json ps web1 | jq '.[] | select(.euid == 0) | .exe'")]
    Ps {
        /// Also namespaces, effective capabilities and control groups.
        #[arg(short, long)]
        wide: bool,
        /// Name or id.
        #[arg(add = completion::domains())]
        domain: String,
    },
    /// List the probes in the domains and what each costs.
    #[command(
        after_help = "HITS counts since the daemon attached; US/HIT, P99 and MAX are µs that a trap took in the daemon; ACCESSES are \
        the guest's own accesses to the probe's page, which trap too; SHARE is what all of that has cost of one vCPU's time.\n\n\
        EXAMPLES\n  xmesh probes\n  xmesh probes web1"
    )]
    Probes {
        /// Name or id; all domains without it.
        #[arg(add = completion::domains())]
        domain: Option<String>,
    },
    /// List the sockets of a domain and who owns them.
    #[command(
        after_help = "EXAMPLES\n  xmesh conns web1\n  xmesh --json conns 3 | jq '.[] | select(.remote == null) | .local'"
    )]
    Conns {
        /// Name or id.
        #[arg(add = completion::domains())]
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
        #[arg(add = completion::domains())]
        domain: String,
    },
    /// Draw who gives data to whom in a domain and beyond, in DOT.
    #[command(
        after_help = "An arrow goes from who writes a pipe, or opened a connection, to the other end.\n\n\
        EXAMPLES\n  xmesh graph web1 | dot -Tsvg > web1.svg\n  xmesh --json graph web1 | jq '.edges[]'"
    )]
    Graph {
        /// Name or id.
        #[arg(add = completion::domains())]
        domain: String,
    },
    /// Write what the text of programs is as a policy set, for rules that require `authentication: measured`.
    #[command(
        after_help = "FILE is a program (ELF, 64 bits) as guests have it; of a script measure its interpreter. The set is printed, \
        and says what each page is that is executed. A guest's process is measured where the pages of its executable, in the guest's \
        memory, are all as written here; libraries are not looked at.\n\n\
        EXAMPLES\n  \
        mount -o ro /dev/vg0/web1 /mnt && xmesh measure --root /mnt /usr/sbin/nginx > nginx.yaml\n  \
        xmesh measure --at /usr/bin/curl --vm 'web*' --label 7.88.1-10 ./curl > curl.yaml\n  \
        xmesh policy-apply nginx.yaml"
    )]
    Measure(measure::Measure),
    /// List what programs processes run, by the text in their memory.
    #[command(
        after_help = "TEXT is same (it is that of the program named), changed (it is none that the policy has for this executable), \
        unregistered (the policy has none) or unknown (nothing of it is in memory). Pages that somebody wrote to are told of any: \
        debuggers do that, probes in programs, and whoever puts other code in a process's place.\n\n\
        Exit status: 1 if any is changed.\n\n\
        EXAMPLES\n  xmesh measured\n  xmesh measured --all web1\n  xmesh events -f --kind measured"
    )]
    Measured(measure::Measured),
    /// List what looks like an attack, with the evidence.
    #[command(
        after_help = "Found by rules over what processes do; each is also an event of kind `threat`. Exit status: 1 if any is \
        listed that is an alert.\n\n\
        EXAMPLES\n  xmesh threats\n  xmesh threats web1 --severity warning -v\n  xmesh threats --rules\n  \
        xmesh events -f --kind threat"
    )]
    Threats(threats::Threats),
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
    /// List the flows at the interfaces of domains, with verdict and rule; or those of the past.
    #[command(after_help = "EXAMPLES\n  \
        xmesh flows -f\n  \
        xmesh flows --since 2h --from web1 --to db1 --port 80\n  \
        xmesh flows --since 7d --from world --verdict denied\n  \
        xmesh --json flows --since 1d --from 'web*:/usr/bin/curl' | jq '.flows[].rule'")]
    Flows {
        /// Keep on, and tell of flows that come, go, or get another verdict.
        #[arg(short, long)]
        follow: bool,
        /// Only this domain's.
        #[arg(short, long, add = completion::domains())]
        domain: Option<String>,
        #[command(flatten)]
        past: past::Past,
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
        BACKLOG waits. The last line says what shapes here.\n\n\
        EXAMPLES\n  xmesh qos\n  xmesh qos web1"
    )]
    Qos {
        /// Name or id; all domains without it.
        #[arg(add = completion::domains())]
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
        #[arg(add = completion::domains())]
        domain: Option<String>,
    },
    /// List how services fare with one another: rates, times, and what makes a pair slow.
    #[command(
        after_help = "Rates are means of the window. Times are of TCP: setup, from SYN to SYN-ACK; server-rtt, from the client's data to \
        the server's ACK; client-rtt, the same the other way; first-byte, from the client's first data to the server's first.\n\n\
        EXAMPLES\n  xmesh signals\n  xmesh signals --from shop/front --window 3600\n  xmesh signals --findings\n  \
        xmesh --json signals --to db1 | jq '.pairs[].window.first_byte_us.p99'"
    )]
    Signals(signals::Signals),
    /// Watch domains, processes, pairs of services, flows and threats, as xentop does.
    #[command(
        after_help = "On a terminal a full screen; ? there lists the keys. With --batch, with --json, or where standard output is no \
        terminal: a table each --delay seconds, each about the time since the look before it.\n\n\
        EXAMPLES\n  xmesh top\n  xmesh top web1\n  xmesh top --view pairs --delay 1\n  xmesh top --batch -n 3 --view domains\n  \
        xmesh --json top -n 1 --view pairs | jq '.rows[] | select(.denied_per_s > 0)'"
    )]
    Top(top::Top),
    /// Let a browser on this host look at the page of policyd, until ended by Ctrl-C.
    #[command(
        after_help = "Prints an address to be opened in a browser; who has it may look, as you may, and change nothing. It holds \
        until this command ends. From another machine, have ssh forward the port.\n\n\
        EXAMPLES\n  xmesh web\n  xmesh web --port 8100\n\n\
        From a workstation:\n  ssh -t -L 8100:127.0.0.1:8100 root@dom0 xmesh web --port 8100"
    )]
    Web {
        /// The port on 127.0.0.1 [default: one that is free].
        #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
    },
    /// Put policy sets in force, all of them by one change or none.
    #[command(after_help = "EXAMPLES\n  \
        xmesh policy-apply -n shop.yaml\n  \
        xmesh policy-apply -m 'the new shop opens' shop.yaml db.yaml\n  \
        xmesh policy-apply --stage web1 --for 30m shop.yaml")]
    PolicyApply {
        /// The documents; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        stage: Stage,
        #[command(flatten)]
        change: Change,
    },
    /// Show what holds for some VMs first, and how many of their flows were refused before and since.
    #[command(after_help = "EXAMPLES\n  xmesh policy-rollout\n  xmesh --json policy-rollout | jq .since")]
    PolicyRollout,
    /// Let what holds for some VMs hold for all.
    #[command(after_help = "EXAMPLES\n  xmesh policy-promote -m 'a day without trouble'")]
    PolicyPromote {
        #[command(flatten)]
        change: Change,
    },
    /// Take back what holds for some VMs.
    #[command(after_help = "EXAMPLES\n  xmesh policy-abandon -m 'the shop cannot pay'")]
    PolicyAbandon {
        #[command(flatten)]
        change: Change,
    },
    /// Edit a policy set with EDITOR and put it in force, unless somebody else has changed the policy meanwhile.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-edit shop\n  EDITOR='nano -l' xmesh policy-edit -m 'the new shop opens' shop"
    )]
    PolicyEdit {
        /// Name of the set.
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the policy sets in force.
    #[command(after_help = "EXAMPLES\n  xmesh policy-list\n  xmesh --json policy-list | jq -r '.[].name'")]
    PolicyList,
    /// Print a policy set as it was applied.
    #[command(after_help = "EXAMPLES\n  xmesh policy-show shop\n  xmesh policy-show shop > shop.yaml")]
    PolicyShow {
        /// Name of the set.
        #[arg(add = completion::sets())]
        name: String,
    },
    /// Take a policy set out of force.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-delete -n shop\n  xmesh policy-delete -m 'the shop has moved' shop"
    )]
    PolicyDelete {
        /// Name of the set.
        #[arg(add = completion::sets())]
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the generations of the policy: who changed what, when and why.
    #[command(after_help = "In SETS, + is a set that is new, - one that is gone.\n\n\
        EXAMPLES\n  xmesh policy-history shop\n  xmesh policy-history -f\n  xmesh --json policy-history | jq -r '.generations[].message'")]
    PolicyHistory {
        /// Only changes of this set.
        #[arg(add = completion::sets())]
        set: Option<String>,
        /// Keep on, and tell of what comes, a line each.
        #[arg(short, long, conflicts_with = "before")]
        follow: bool,
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
        #[arg(value_name = "SET|GENERATION", num_args = 0..=3, add = completion::sets())]
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
        EXAMPLES\n  xmesh audit\n  xmesh audit -f\n  xmesh audit --verify\n  xmesh audit --verify --head \"$(cat noted)\" /backup/policy.json")]
    Audit(Audit),
    /// Validate documents without the daemon, each alone and all together, and look for rules that their author may not mean.
    #[command(
        after_help = "What is found: conflict (one rule allows what another denies, and neither is the exception of the other), \
        shadowed (another rule decides all of its flows), never-matches, too-wide; with --vm unknown-vm, which is only a note.\n\n\
        Exit status: 0 if nothing but notes was found, 1 if a document is not valid, 4 if all are and something was found.\n\n\
        EXAMPLES\n  xmesh policy-check shop.yaml db.yaml\n  \
        xmesh --json policy-check shop.yaml | jq -r '.[].findings[].rule'"
    )]
    PolicyCheck {
        /// The documents; `-` is standard input.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// A domain that there is, to be told of names that are none's; may be given more than once.
        #[arg(long = "vm", value_name = "NAME")]
        vms: Vec<String>,
    },
    /// Print the script by which a shell completes this command, names of domains and policy sets included.
    #[command(after_help = "EXAMPLES\n  \
        xmesh completions bash > /etc/bash_completion.d/xmesh\n  \
        xmesh completions zsh > /usr/local/share/zsh/site-functions/_xmesh\n  \
        xmesh completions fish > /etc/fish/completions/xmesh.fish")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print a policy document to begin with; without a name, list what there is.
    #[command(
        after_help = "EXAMPLES\n  xmesh policy-template\n  xmesh policy-template default-deny > deny.yaml\n  \
        xmesh policy-template quarantine | sed s/web1/db1/ | xmesh policy-apply -"
    )]
    PolicyTemplate {
        /// Which.
        #[arg(value_parser = templates())]
        name: Option<String>,
    },
    /// Print the JSON Schema of policy documents, for editors.
    #[command(after_help = "EXAMPLES\n  xmesh policy-schema > policy.schema.json\n\n\
        In a document, for editors that know yaml-language-server:\n  # yaml-language-server: $schema=policy.schema.json")]
    PolicySchema,
    /// Try documents on flows of the past, and tell what they would have cut or opened.
    #[command(
        after_help = "The documents are taken as if they were applied: in place of the sets of their names, beside the others. \
        NOW is what becomes of such flows by the policy in force.\n\
        Exit status: 0 nothing would change, 4 something would.\n\n\
        EXAMPLES\n  xmesh policy-replay shop.yaml && xmesh policy-apply shop.yaml\n  \
        xmesh --json policy-replay --since 30d shop.yaml | jq '.differences[] | select(.would == \"deny\")'"
    )]
    PolicyReplay(past::Replay),
    /// Let documents run beside the policy in force, and tell what they would do otherwise; they change nothing.
    #[command(after_help = "EXAMPLES\n  \
        xmesh policy-shadow shop.yaml\n  xmesh policy-shadow\n  xmesh policy-shadow --off")]
    PolicyShadow(past::Shadow),
    /// Write the least policy that allows what was seen, or tell what of the one in force was used.
    #[command(
        after_help = "Each rule has a comment: how many flows it was learned from, when the first and the last of them was, and in what it allows \
        more than was seen. What was refused is not allowed.\n\n\
        With --wide, TIMES is how many times as much a rule allows as was used: the product of ALLOWED by USED of all that it is wide in; \
        a + means that it allows what nobody has seen yet, too, which counts as one.\n\n\
        EXAMPLES\n  xmesh suggest --since 7d -o shop.yaml && xmesh policy-shadow shop.yaml\n  \
        xmesh suggest --vm 'web*' --vm db1 --name shop --exact\n  \
        xmesh suggest --since 30d --unused --wide\n  \
        xmesh suggest --since 10m --tried 7d --effect\n  \
        xmesh --json suggest | jq -r '.left_out[].why'"
    )]
    Suggest(advice::Suggest),
    /// Tell whether the new version behind a route fares as well as the other, and what weight it should have; or give it that.
    #[command(
        after_help = "Failures are compared by Fisher's exact test, times by Mann-Whitney's, at --alpha by Holm's method; a difference counts \
        if the rates or medians are a tenth apart, too. A canary that is not worse gets the next share of 1, 5, 10, 25, 50, 100 %, one that is \
        worse gets none.\n\n\
        With --apply the weights in the text of the set are changed and all else stays as it is; refused if somebody else has changed \
        the policy meanwhile.\n\n\
        Exit status: 4 if the canary is worse.\n\n\
        EXAMPLES\n  xmesh canary shop/pages\n  xmesh canary pages --canary v2 --window 900 --apply\n  \
        xmesh --json canary shop/pages | jq -r .verdict"
    )]
    Canary(advice::Canary),
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
    /// Keep on, and tell of what comes, a line each.
    #[arg(short, long, conflicts_with_all = ["before", "verify", "file"])]
    pub follow: bool,
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
    #[arg(short, long, add = completion::domains())]
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
    #[arg(add = completion::domains())]
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
    #[arg(long, value_name = "DOMAIN[:EXE]|ADDRESS", add = completion::domains())]
    pub from: String,
    /// Who it is opened to.
    #[arg(long, value_name = "DOMAIN|ADDRESS|ROUTE", add = completion::targets())]
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

    /// What the manual says of a command: from its name at the beginning of an item to the next item.
    fn section<'m>(manual: &'m str, command: &str) -> String {
        let ours = |item: &&'m str| {
            let head = item.lines().take(2).collect::<Vec<_>>().join(" ");
            let head = head.replace("Xo ", "").replace(".Cm", "Cm");
            head.trim_start().starts_with(&format!("Cm {command}"))
                && head.split_whitespace().nth(1) == Some(command)
        };
        manual.split("\n.It ").filter(ours).collect()
    }

    /// A manual that leaves out a command or an option is worse than none.
    #[test]
    fn the_manual_names_every_command_and_option() {
        let manual = include_str!("../man/xmesh.1");
        let command = Args::command();
        let long = |command: &clap::Command| -> Vec<String> {
            let named = command.get_arguments().filter_map(|a| a.get_long());
            let ours = named.filter(|name| !matches!(*name, "help" | "version"));
            ours.map(str::to_owned).collect()
        };
        for option in long(&command) {
            assert!(manual.contains(&format!(".It Fl -{option}")), "--{option}");
        }
        // Said once, where it is said that it is the same for all.
        let shared = ["dry-run", "message", "if-generation"];
        for sub in command.get_subcommands() {
            let name = sub.get_name();
            let section = section(manual, name);
            assert!(!section.is_empty(), "{name}");
            for option in long(sub).iter().filter(|o| !shared.contains(&o.as_str())) {
                assert!(
                    section.contains(&format!("Fl -{option}")) || section.contains(&format!("| -{option}")),
                    "{name} --{option}"
                );
            }
        }
        for kind in What::KINDS {
            assert!(manual.contains(kind), "{kind}");
        }
    }

    /// Words as a shell splits them, up to where its own syntax begins; quotes only.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in line.chars() {
            match (quote, c) {
                (None, '|' | '>' | '&') => break,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (Some(q), c) if q == c => quote = None,
                (None, ' ') => words.extend(word.take()),
                (_, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn every_command_has_examples_that_can_be_typed() {
        for sub in Args::command().get_subcommands() {
            let name = sub.get_name();
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            let (_, examples) = help
                .split_once("EXAMPLES\n")
                .unwrap_or_else(|| panic!("{name} has none"));
            let lines = examples
                .lines()
                .filter(|line| line.trim_start().starts_with("xmesh "));
            let mut count = 0;
            for line in lines {
                let parsed = Args::try_parse_from(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
                drop(parsed);
                count += usize::from(line.contains(&format!(" {name}")));
            }
            assert!(count > 0, "{name}: no example of its own");
        }
    }

    #[test]
    fn the_example_in_the_manual_is_valid() {
        let manual = include_str!("../man/xmesh-policy.5");
        let (_, after) = manual.split_once(".Bd -literal\n").unwrap();
        let (example, _) = after.split_once(".Ed\n").unwrap();
        let document = policy::Document::parse("xmesh-policy.5", example).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(document.rules().len(), 3);
        assert_eq!(document.qos().classes.len(), 1);
    }
}
