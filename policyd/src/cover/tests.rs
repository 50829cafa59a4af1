// SPDX-License-Identifier: GPL-3.0-only
//! Of lists of interfaces, and of real ones in a network namespace of the test's own (which needs root).

use std::process::Command;

use netback_filter::{Config, ScopeConfig};
use nix::sched::{CloneFlags, unshare};

use super::*;

const SCOPE: u32 = 77;
const MAC: &str = "00:16:3e:00:00:0b";

fn backend(handle: u32, name: &str, mac: &str) -> Backend {
    Backend {
        domid: SCOPE,
        handle,
        name: name.into(),
        mac: Some(mac.into()),
        ip: Vec::new(),
        bridge: None,
        state: 4,
    }
}

fn config(scope: u32) -> VifConfig {
    VifConfig { scope, mac: mac(MAC) }
}

/// Links of these names, and which of them the datapath is on, by whose.
fn links(interfaces: &[(u32, &str)], attached: &[(u32, u32)]) -> Links {
    let of = |index| {
        interfaces
            .iter()
            .find(|(i, _)| *i == index)
            .map(|(_, name)| *name)
    };
    Links {
        interfaces: interfaces
            .iter()
            .map(|(i, name)| (*i, (*name).to_owned()))
            .collect(),
        attached: attached
            .iter()
            .map(|(index, scope)| AttachedVif {
                ifindex: *index,
                name: of(*index).expect("is there").to_owned(),
                config: config(*scope),
                hooks: netback_filter::Hooks::Clsact,
            })
            .collect(),
    }
}

fn found(links: &Links, backends: &[Backend]) -> Vec<(String, Standing)> {
    let all = links.of(SCOPE, backends, |scope| scope < 100);
    assert!(all.iter().all(|interface| interface.config.scope == SCOPE));
    all.into_iter().map(|i| (i.name, i.standing)).collect()
}

fn is(name: &str, standing: Standing) -> (String, Standing) {
    (name.to_owned(), standing)
}

#[test]
fn an_emulated_nic_is_the_guests_too() {
    let plain = [backend(0, "vif77.0", MAC)];
    let named = [backend(0, "lan0", MAC)];
    let there = links(
        &[(1, "lo"), (8, "vif77.0"), (9, "vif77.0-emu"), (10, "vif7.0-emu")],
        &[(8, SCOPE)],
    );
    assert_eq!(
        found(&there, &plain),
        [
            is("vif77.0", Standing::Covered),
            is("vif77.0-emu", Standing::Bare)
        ]
    );
    // As the toolstack makes them, and as it then calls them.
    for names in [
        ["vif77.0", "vif77.0-emu"],
        ["lan0", "lan0-emu"],
        ["lan0", "vif77.0-emu"],
    ] {
        let there = links(&[(8, names[0]), (9, names[1])], &[]);
        assert_eq!(found(&there, &named), names.map(|name| is(name, Standing::Bare)));
    }
}

#[test]
fn a_vif_that_was_made_anew_is_not_the_one_before() {
    let lan = [backend(0, "lan0", MAC)];
    let mut there = links(&[(9, "lan0"), (8, "x")], &[(8, SCOPE)]);
    // The datapath has not noticed yet that the one before is gone.
    there.interfaces.retain(|(index, _)| *index == 9);
    there.attached[0].name = "lan0".into();
    assert_eq!(found(&there, &lan)[0], is("lan0", Standing::Bare));
    // Another MAC address, or another guest that is no more.
    let there = links(&[(9, "lan0")], &[(9, SCOPE)]);
    assert_eq!(found(&there, &lan), [is("lan0", Standing::Covered)]);
    assert_eq!(
        found(&there, &[backend(0, "lan0", "00:16:3e:00:00:0c")]),
        [is("lan0", Standing::Bare)]
    );
    let of_gone = links(&[(9, "lan0")], &[(9, 100)]);
    assert_eq!(found(&of_gone, &lan), [is("lan0", Standing::Bare)]);
}

#[test]
fn an_interface_stays_its_guests_whatever_it_is_called() {
    let vif = [backend(0, "vif77.0", MAC)];
    let renamed = links(&[(8, "uplink")], &[(8, SCOPE)]);
    assert_eq!(found(&renamed, &vif), [is("uplink", Standing::Covered)]);
    // The name of another guest's.
    let taken = links(&[(8, "vif77.0")], &[(8, 78)]);
    assert_eq!(found(&taken, &vif), [is("vif77.0", Standing::Missing)]);
    let two = [
        backend(0, "vif77.0", MAC),
        backend(1, "vif77.1", "00:16:3e:00:00:0c"),
    ];
    assert_eq!(
        found(&renamed, &two),
        [is("vif77.1", Standing::Missing), is("uplink", Standing::Covered)]
    );
}

#[test]
fn macs_of_xenstore() {
    assert_eq!(mac(MAC), Some([0, 0x16, 0x3e, 0, 0, 0xb]));
    assert_eq!(mac_text([0, 0x16, 0x3e, 0, 0, 0xb]), MAC);
    assert_eq!(mac("00:16:3e:00:00"), None);
    assert_eq!(mac("00:16:3e:00:00:0b:0c"), None);
    assert_eq!(mac("zz:16:3e:00:00:0b"), None);
}

fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {said} (this test needs root)");
}

/// A BPF file system of the test's own.
struct Bpffs(tempfile::TempDir);

impl Bpffs {
    fn mount() -> Bpffs {
        let folder = tempfile::tempdir().expect("a directory");
        run(&format!("mount -t bpf bpf {}", folder.path().display()));
        Bpffs(folder)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

fn index_of(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).expect("is there")
}

/// Covers what there is, and gives each interface with whether it is covered; then whether one was covered now.
fn covers(cover: &mut Cover, backends: &[Backend]) -> (Vec<(String, bool)>, bool) {
    let links = cover.look(true);
    let (vifs, news) = cover.cover(&links, (SCOPE, "guest"), backends, |scope| scope == SCOPE);
    (
        vifs.into_iter().map(|vif| (vif.name, vif.covered)).collect(),
        news,
    )
}

#[test]
fn real_interfaces_are_covered_by_what_they_are() {
    let bpffs = Bpffs::mount();
    // The namespace is this thread's, and goes with it.
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let mut datapath = Datapath::open(Config {
        pin_dir: bpffs.0.path().join("xmesh"),
        ..Config::default()
    })
    .expect("opens");
    datapath
        .set_scope(SCOPE, ScopeConfig::closed())
        .expect("has room");
    let datapath = Arc::new(Mutex::new(datapath));
    let mut cover = Cover::new(Arc::clone(&datapath));
    let attached = || -> Vec<u32> {
        let all = lock(&datapath).attached().expect("can be read");
        assert!(all.iter().all(|vif| vif.config == config(SCOPE)));
        all.iter().map(|vif| vif.ifindex).collect()
    };
    let yes = |names: &[&str]| -> Vec<(String, bool)> {
        names.iter().map(|name| ((*name).to_owned(), true)).collect()
    };
    let backends = [backend(0, "vif77.0", MAC)];
    assert_eq!(
        covers(&mut cover, &backends),
        (vec![("vif77.0".into(), false)], false)
    );

    run("ip link add vif77.0 type veth peer name guest0");
    run("ip link add vif77.0-emu type veth peer name qemu0");
    assert_eq!(
        covers(&mut cover, &backends),
        (yes(&["vif77.0", "vif77.0-emu"]), true)
    );
    assert_eq!(attached(), [index_of("vif77.0"), index_of("vif77.0-emu")]);
    assert!(!covers(&mut cover, &backends).1, "once is enough");

    // Gone and made anew between two looks.
    let before = index_of("vif77.0");
    run("ip link del vif77.0");
    run("ip link add vif77.0 type veth peer name guest0");
    assert_ne!(index_of("vif77.0"), before);
    assert!(covers(&mut cover, &backends).1);
    assert!(attached().contains(&index_of("vif77.0")));

    // Renamed, it is what it was.
    run("ip link set vif77.0 name uplink");
    assert_eq!(
        covers(&mut cover, &backends),
        (yes(&["vif77.0-emu", "uplink"]), false)
    );

    // The guest has unplugged the emulated NIC, and its vif is gone.
    run("ip link del vif77.0-emu");
    run("ip link del uplink");
    assert_eq!(
        covers(&mut cover, &backends),
        (vec![("vif77.0".into(), false)], false)
    );
    assert!(attached().is_empty());
}
