// SPDX-License-Identifier: GPL-3.0-only
//! Puts one vif under the datapath by hand and shows what happens on it.
//!
//! ```text
//! attach PIN_DIR down                                 take everything down
//! attach PIN_DIR IFNAME SCOPE open|closed [PORT...]   attach; with TCP ports that the guest may connect to
//! ```
//!
//! It may be killed at any time: what it set stays in force.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use netback_filter::{
    Action, Config, Datapath, Direction, Error, PeerMatch, Protocol, Rule, RuleSet, ScopeConfig, VifConfig,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const USAGE: &str = "usage: attach PIN_DIR down | attach PIN_DIR IFNAME SCOPE open|closed [PORT...]";

fn main() -> ExitCode {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Info)
        .init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        [pin_dir, "down"] => open(pin_dir)
            .and_then(Datapath::detach_all)
            .map_err(|e| e.to_string()),
        [pin_dir, interface, scope, kind, ref ports @ ..] => attach(pin_dir, interface, scope, kind, ports),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn open(pin_dir: &str) -> Result<Datapath, Error> {
    Datapath::open(Config {
        pin_dir: pin_dir.into(),
        flow_capacity: 16 * 1024,
        verdict_capacity: 16 * 1024,
        ..Config::default()
    })
}

fn attach(pin_dir: &str, interface: &str, scope: &str, kind: &str, ports: &[&str]) -> Result<(), String> {
    let scope: u32 = scope
        .parse()
        .map_err(|_| format!("scope `{scope}` is no number\n{USAGE}"))?;
    let config = match kind {
        "open" => ScopeConfig::open(),
        "closed" => ScopeConfig::closed(),
        _ => return Err(USAGE.to_owned()),
    };
    let mut set = RuleSet::default();
    for (id, port) in (1..).zip(ports) {
        set.rules.push(Rule {
            id,
            scope,
            direction: Direction::FromGuest,
            peer: PeerMatch::Any,
            protocol: Some(Protocol::TCP),
            port: Some(
                port.parse()
                    .map_err(|_| format!("`{port}` is no port\n{USAGE}"))?,
            ),
            action: Action::Allow,
            mark: netback_filter::Mark::NONE,
        });
    }
    run(pin_dir, interface, scope, config, &set).map_err(|e| e.to_string())
}

fn run(pin_dir: &str, interface: &str, scope: u32, config: ScopeConfig, set: &RuleSet) -> Result<(), Error> {
    let mut datapath = open(pin_dir)?;
    let programs = match datapath.took_over_programs() {
        true => "taken over",
        false => "loaded",
    };
    println!("opened: {:?}, programs {programs}", datapath.opened());
    datapath.set_scope(scope, config)?;
    datapath.publish(set, datapath.generation()?.wrapping_add(1))?;
    datapath.attach(interface, VifConfig { scope, mac: None })?;
    println!("attached: {interface}");
    let mut events = datapath.events()?;
    loop {
        let _ = std::io::stdout().flush();
        let wait = poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        );
        wait.map_err(|errno| Error::Netlink { source: errno.into() })?;
        for event in events.by_ref() {
            println!("{:?} {} {:?}", event.kind, event.flow.key, event.flow.verdict);
        }
    }
}
