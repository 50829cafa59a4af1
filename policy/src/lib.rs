// SPDX-License-Identifier: GPL-3.0-only
//! What people write and what it means: documents, validation, decisions.
//!
//! A pure crate: no I/O, no clock, no threads. Data flows one way: text → [`Document`] → [`Ruleset`] →
//! [`Decision`]. Daemon and tool both use it, so a file that the tool calls good is good to the daemon.
//!
//! # A policy set
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use policy::{Document, Endpoint, Flow, Process, Protocol, Ruleset, Verdict, VmId};
//! let vm = |name: &str| VmId::new(name, [0; 16]);
//!
//! let document = Document::parse("shop.yaml", r#"
//! policy: shop
//! description: The shop and its cache.
//! default:                       # per VM: what happens to traffic that no rule decides
//!   db1: deny                    # nothing said is allow
//! services:
//!   shop-client: { vm: web1, exe: /usr/bin/curl }
//!   redis:       { vm: db1, exe: "/usr/bin/redis-*", port: 6379, protocol: tcp }
//!   office:      { address: 192.168.7.0/24 }
//! rules:
//!   - name: client-may-cache
//!     from: shop-client
//!     to: redis
//!     action: allow
//!   - name: office-is-watched
//!     from: [office, { address: 2001:db8:7::/48 }]
//!     to: { vm: "web*" }
//!     ports: [443, 8000-8010]
//!     action: audit
//! routes:                        # an address without a host, and who serves it
//!   cache:
//!     address: 10.0.0.100        # one, or one of each family; no guest's own
//!     port: 6379
//!     backends:                  # a service, a selector or an address
//!       - { to: redis, version: v1, weight: 80 }
//!       - { to: { vm: db2 }, version: v2, weight: 20 }
//!     canary:
//!       - { from: { vm: web1, uid: 1000 }, to: v2 }
//! "#)?;
//! let ruleset = Ruleset::compile(&[document], 1)?;
//!
//! let (web1, db1) = (vm("web1"), vm("db1"));
//! let curl = Process { exe: Some("/usr/bin/curl"), uid: 1000, ..Process::default() };
//! let redis = Process { exe: Some("/usr/bin/redis-server"), uid: 110, ..Process::default() };
//! let mut flow = Flow {
//!     protocol: Protocol::TCP,
//!     source: Endpoint::guest(&web1, "10.0.0.1".parse()?).with_process(curl),
//!     destination: Endpoint::guest(&db1, "10.0.0.2".parse()?).with_process(redis),
//!     port: 6379,
//! };
//! assert_eq!(ruleset.decide(&flow).verdict, Verdict::Allow);
//!
//! let wget = Process { exe: Some("/usr/bin/wget"), ..curl };
//! flow.source = flow.source.with_process(wget);
//! assert_eq!(ruleset.decide(&flow).verdict, Verdict::Deny);
//! assert_eq!(ruleset.explain(&flow).to_string(), "\
//! deny by the default of db1, as no rule matches; generation 1
//! all but matches: shop/client-may-cache (allow): from exe must be /usr/bin/curl, is /usr/bin/wget
//! default of web1: allow (no set says otherwise)
//! default of db1: deny (set shop, \"db1\")");
//! # Ok(())
//! # }
//! ```
//!
//! # What it means
//!
//! - A rule matches when its protocol and ports hold and one of `from` and one of `to` match. An end is a
//!   service of the same set, a version of one (`service@version`: what both say), a selector written in place, or a word: `any`, `world` (not a guest of this
//!   host), `unattributed` (no socket in the guest owns it).
//! - A selector matches when every condition it writes holds; of a list one value is enough. `vm` is a name,
//!   a pattern or a UUID; `address` a block; `exe` and `container` patterns (`container: none` is outside of
//!   any); `arg` matches any one argument, `parent` any one ancestor's executable; `uid` is effective; `role` is one of the set's
//!   roles, users and groups of guests (see [`document::Users`]). `exe` is the file that
//!   runs, after symbolic links (`/bin/sh` may be `/usr/bin/dash`). `port` and `protocol` are what a server
//!   listens on: they hold for `to` and are not asked of `from`.
//!   `label` asks for labels of the VM, all pairs of `{ tier: front, app: [shop, "pay-*"] }`, each with one of its values;
//!   `xen` for what Xen says of it: `{ type: pvh, pool: Pool-0 }`.
//! - **Labels** of a VM are those that sets give it, `labels: { "web*": { tier: front } }` by pattern of its name or by UUID, and those that
//!   dom0 put in xenstore: `/local/domain/ID/xmesh/labels/KEY`, else `/vm/UUID/xmesh/labels/KEY`. Of one key what a set says counts,
//!   of the most specific pattern, of equal ones the set that is first by name. A label never is the guest's own word. They are an
//!   input of a decision: see [`Ruleset::known`]. Keys and values are 1 to [`MAX_LABEL`] of `a-z`, `A-Z`, `0-9`, `-`, `_` and `.`, a letter or digit
//!   at both ends; at most [`MAX_LABELS`] keys in all sets, and as many labels of one guest in xenstore.
//! - Patterns: see [`pattern`].
//! - Deny beats audit beats allow; without any of them the defaults of both VMs decide: see
//!   [`Ruleset::decide`].
//! - `require`: the rule matches only while all of it holds. `authentication` is of both ends, or says of each (`{ from: measured, to: process }`; see [`Level`]), `role` of who opens the
//!   flow, `time` of now: see [`Ruleset::at`]. A rule that denies may require a time only.
//! - `programs`: what the text of programs is, page by page, as `xmesh measure FILE` writes it. A process is `measured` whose executable
//!   lies where one of them does, in one of its VMs, and whose pages in the guest's memory are all that one's. Of a process that has not been
//!   looked at yet it is not known, and a rule that requires it does not match.
//! - `dry_run`: the rule decides nothing, and what it would decide is told: see [`Decision::dry_run`].
//! - `instead`, at a rule that denies: the flow goes there, and never to where it was addressed. It is a service or selector that
//!   says where it stands, or an address; the port is the one it listens on, else the flow's own. That takes a trap that shows the
//!   flow before its first packet; a flow without one, or one for which nobody is there, is denied like any.
//!   No rule need allow the flow there. See [`Ruleset::instead`].
//! - **An end whose process is not known matches no selector that asks for a process**, for allow and for
//!   deny alike. A default of deny is what protects where sight may be lost.
//! - Frames with a VLAN tag, or with two, are judged by what is behind the tags, whatever the VLAN, unless `frames` says otherwise of the
//!   VM; those that are neither IP nor ARP pass unless it does, or the VM's default is deny: `frames: { "*": { tagged: deny, other: deny } }`.
//! - What looks like an attack is told; `answers: { "web*": { alert: quarantine, reverse-shell: deny } }` says what is done besides.
//! - Two sets that speak of one VM's default, of its lock or of its frames: the more specific pattern counts, of equal ones the stricter.
//!
//! # Routes
//!
//! A guest that opens a flow to a route's address and port is served by one of its backends.
//!
//! - **Rules speak of backends.** The flow is judged as the flow from the guest to the backend that it goes to, its address and
//!   port. Nothing is said of a route's own address.
//! - `weight` (1 unless said) is the share of the entry: its backends have it together, in equal parts. An entry of weight 0 has
//!   none, but serves a canary. `drain: true`: flows that are there stay, no new ones come.
//! - `canary`: the first that matches the client says the version, whatever the weights are; if none of that version serves,
//!   the flow is refused. One that asks for a process matches where a trap or a lookup tells it before the flow's first
//!   packet passes.
//! - `failover`: versions that serve, by weight, only while none of the others does.
//! - `denied`: the version that a flow goes to which the rules deny to the backend it was to go to, if they allow it to
//!   that one. It serves nothing else.
//! - `port` of a backend: unless said, the one port of its service, else the route's.
//! - A backend that fails takes no new flows and keeps what it has. It fails by dom0's own checks (`check: tcp`, every
//!   `interval`, with `timeout`, `fall` in a row; back after `rise` good ones), by guests' own connects (`passive`: `fall` in a row were
//!   reset or not answered; back after ten seconds, each time longer), and when the guest is seen to listen on no such
//!   port (`listener`), or when another program does than the service says. All but `check` are on.
//! - Only guests of this host are redirected, and a guest does not serve itself.
//!
//! # Bandwidth, priority, DSCP
//!
//! ```yaml
//! qos:
//!   vms:                         # per VM: what each of its vifs may carry in all
//!     "web*": { to_guest: 1gbit, from_guest: 200mbit }
//!   classes:                     # a flow is in the first that it matches, as a rule matches
//!     - name: cache
//!       from: shop-client
//!       to: redis
//!       bandwidth: { guarantee: 10mbit, ceiling: 100mbit }
//!       priority: realtime       # realtime, interactive, default, bulk
//!       dscp: ef                 # a name, or 0 to 63
//!     - { name: backup, from: any, to: { address: 10.9.0.0/16 }, priority: bulk }
//! ```
//!
//! - Rates are bits per second, decimal, as tc(8) writes them: `bit`, `kbit`, `mbit`, `gbit`, from 8kbit to 100gbit.
//! - All flows of a class share its bandwidth at each vif they pass, and what it says holds in each direction by itself.
//!   A guarantee is of the VM's total: where that is not set there is nothing to be short of.
//! - Beyond the guarantees it goes by priority: a lower one waits for all higher. What is in no class has `default`.
//! - A flow whose process is not known is in no class that asks for a process.
//! - Two sets that speak of one VM's total: the more specific pattern counts, of equal ones the lower total.
//!
//! # Copies
//!
//! ```yaml
//! rules:
//!   - { name: watched, from: any, to: redis, action: allow, mirror: { to: ids, share: 5% } }
//! ```
//!
//! - What passes by the rule is copied to a guest of this host: a VM by name, pattern or UUID, or the VM of a service of the set. Of several
//!   guests the first gets the copies; where there is none, there are none, and flows do not depend on it.
//! - `share` is of flows, 0.01% to 100% (all unless said): by its ends a flow is copied whole, in both directions, or not at all.
//! - It is the rule that decided whose `mirror` counts, and the guest that opened the flow at whose vif copies are made; for a flow from
//!   outside, the guest that it is for.
//!
//! # Limits
//!
//! A text of [`document::MAX_TEXT`] bytes with [`document::MAX_RULES`] rules; [`document::MAX_RULES_IN_ALL`] rules, [`document::MAX_ROUTES`]
//! routes and
//! [`document::qos::MAX_CLASSES`] classes in all, lists of
//! [`document::MAX_LIST`] values, patterns of [`pattern::MAX_PATTERN`] bytes.
#![forbid(unsafe_code)]

pub mod block;
mod by_vm;
mod check;
mod clock;
pub mod document;
mod explain;
mod flow;
mod identity;
mod index;
mod label;
mod labels;
mod matching;
mod mirror;
mod parts;
pub mod pattern;
pub mod port;
mod problem;
mod qos;
mod require;
mod rollout;
mod route;
mod ruleset;
mod settings;
mod target;
pub mod window;

pub use block::Block;
pub use check::{Finding, Kind, check};
pub use document::qos::{Bandwidth, Dscp, Priority, Qos, QosClass, Rate, Totals, Treatment};
pub use document::{
    Action, Authentication, Document, Frames, Level, Lock, Other, Program, Refuse, Run, Share, Tagged,
};
pub use explain::{Consulted, Explanation, Match, NearMiss};
pub use flow::{Endpoint, Flow, Measured, Owner, Process, Side, VmId};
pub use identity::{Identity, ServiceName};
pub use label::{Facts, GuestType, Label, LabelError, LabelFrom, MAX_LABEL, MAX_LABELS, is_plain};
pub use matching::Condition;
pub use mirror::{MirrorId, Mirroring};
pub use port::{PortRange, Protocol};
pub use problem::{Place, Problem, Problems};
pub use qos::{Class, ClassId};
pub use rollout::Rollout;
pub use route::{Role, Route, RouteBackend, RouteTarget, Version};
pub use ruleset::{Decider, Decision, DryRun, ProgramName, RuleId, RuleName, Ruleset, Verdict};
pub use settings::VmSetting;
pub use target::{Instead, Who};
