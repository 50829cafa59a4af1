// SPDX-License-Identifier: GPL-3.0-only
//! Containers behind their guest's own translation of addresses, as Docker and Podman have them: a network namespace with a bridge's worth of
//! addresses that nobody outside knows. The vif sees the guest's address; whose flow it is must be known all the same.

use serde_json::Value;
use xmesh_rig::Discard;

use crate::support::{Mesh, Outcome, echo, tell};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// In the guest: the container's network, and the guest's translation to and from it.
const UP: &str = r#"
set -e
ip netns add box
ip link add box0 type veth peer name eth0 netns box
ip address add 172.30.0.1/24 dev box0
ip link set box0 up
ip -n box address add 172.30.0.2/24 dev eth0
ip -n box link set eth0 up
ip -n box link set lo up
ip -n box route add default via 172.30.0.1
echo 1 > /proc/sys/net/ipv4/ip_forward
nft -f - <<'RULES'
table ip box {
    chain out { type nat hook postrouting priority srcnat; ip saddr 172.30.0.0/24 oif eth0 masquerade MODE; }
    chain in { type nat hook prerouting priority dstnat; iif eth0 tcp dport 8081 dnat to 172.30.0.2:81; }
}
RULES
"#;
const DOWN: &str =
    "nft delete table ip box; ip netns del box; ip link del box0; echo 0 > /proc/sys/net/ipv4/ip_forward";

/// In the container: a connection, a datagram of a connected socket, one of a socket that is not. A datagram may be lost, and is sent again.
const CLIENT: &str = r#"
import socket
def tcp():
    s = socket.create_connection(("10.0.0.12", 7400), 60); s.sendall(b"x"); assert s.recv(9) == b"x"
def udp(connects):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
    if connects: s.connect(("10.0.0.12", 7401))
    for again in (True, True, False):
        try:
            s.send(b"y") if connects else s.sendto(b"y", ("10.0.0.12", 7401))
            assert s.recv(9) == b"y"; return
        except TimeoutError:
            if not again: raise
def tried(way, *arguments):
    try: way(*arguments); return "yes"
    except OSError: return "no"
print(tried(tcp), tried(udp, True), tried(udp, False))
"#;

/// One program of the container may reach db1, and whoever asks the container's port is known.
const POLICY: &str = "policy: boxes
default: { db1: deny }
services:
  boxed: { vm: [web1, wide], exe: /usr/local/bin/boxed }
rules:
  - { name: may, from: boxed, to: { vm: db1 }, ports: 7400-7401, action: allow }
";

const BOXED: &str = "/usr/local/bin/boxed";
const STRAY: &str = "/usr/local/bin/stray";

/// A guest with a container; without it again at the end.
struct Boxed<'m> {
    mesh: &'m Mesh,
    guest: &'m str,
}

impl<'m> Boxed<'m> {
    fn up(mesh: &'m Mesh, guest: &'m str, mode: &str) -> Fallible<Boxed<'m>> {
        let boxed = Boxed { mesh, guest };
        mesh.0.check(guest, &["sh", "-c", &UP.replace("MODE", mode)])?;
        for path in [BOXED, STRAY] {
            mesh.0.check(guest, &["cp", "/usr/bin/python3.11", path])?;
        }
        Ok(boxed)
    }

    fn runs(&self, program: &str) -> Fallible<String> {
        let argv = ["ip", "netns", "exec", "box", program, "-c", CLIENT];
        Ok(self.mesh.0.check(self.guest, &argv)?.trim().to_owned())
    }
}

impl Drop for Boxed<'_> {
    fn drop(&mut self) {
        let _ = self.mesh.0.exec(self.guest, &["sh", "-c", DOWN]);
    }
}

fn can_translate(mesh: &Mesh, guest: &str) -> Fallible<bool> {
    let can = mesh.0.exec(guest, &["which", "nft"])?.success();
    if !can {
        tell("translation was not tried: the mirror that the guests were made from lacks nftables");
    }
    Ok(can)
}

/// Connections of a guest to db1's port as its vif has them: who opened them, the latest first.
fn openers(mesh: &Mesh, guest: &str, port: u16) -> Fallible<Vec<String>> {
    let argv = [
        "xmesh", "--json", "events", "--domain", guest, "--kind", "connect",
    ];
    let text = mesh.0.check("dom0", &argv)?;
    let mut all = Vec::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line)?;
        let is = |key: &str, begins: &str, ends: &str| {
            event[key]
                .as_str()
                .is_some_and(|end| end.starts_with(begins) && end.ends_with(ends))
        };
        if is("local", "10.0.0.", "") && is("remote", "10.0.0.12:", &format!(":{port}")) {
            all.push(event["process"]["exe"].as_str().unwrap_or("nobody").to_owned());
        }
    }
    all.reverse();
    Ok(all)
}

/// Live flows of web1 at one of its ports: who has them.
fn owners(mesh: &Mesh, port: u16) -> Fallible<Vec<String>> {
    let flows = mesh.json(&["flows", "-d", "web1"])?;
    let has_port = |flow: &&Value| {
        let end = |key: &str| {
            flow[key]
                .as_str()
                .is_some_and(|end| end.ends_with(&format!(":{port}")))
        };
        end("remote") || end("local")
    };
    let all = flows.as_array().into_iter().flatten().filter(has_port);
    Ok(all
        .map(|flow| flow["who"]["exe"].as_str().unwrap_or("nobody").to_owned())
        .collect())
}

fn unowned(mesh: &Mesh) -> Fallible<usize> {
    let argv = [
        "xmesh", "--json", "events", "--domain", "web1", "--kind", "unowned",
    ];
    let text = mesh.0.check("dom0", &argv)?;
    Ok(text.lines().filter(|line| line.contains(":740")).count())
}

/// Where no trap tells of a connection, its first packet waits until the guest's tables say whose it is.
pub fn translated_flows_are_looked_up(mesh: &Mesh, guest: &str) -> Outcome {
    if !can_translate(mesh, guest)? {
        return Ok(());
    }
    let _server = echo::serve(mesh, "db1", &[], 7400, 7401)?;
    let boxed = Boxed::up(mesh, guest, "")?;
    assert!(mesh.apply_text(POLICY)?.success());
    let tried = [boxed.runs(BOXED), boxed.runs(STRAY)];
    mesh.0.check("dom0", &["xmesh", "policy-delete", "boxes"])?;
    let [boxed, stray] = tried;
    assert_eq!((boxed?.as_str(), stray?.as_str()), ("yes yes yes", "no no no"));
    mesh.wait("who tried is known at the vif", |mesh| {
        let known = |port| {
            let all = openers(mesh, guest, port)?;
            Fallible::Ok(
                [BOXED, STRAY]
                    .iter()
                    .all(|exe| all.iter().any(|opener| opener == exe)),
            )
        };
        Ok(known(7400)? && known(7401)?)
    })
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_a_guest_translates_is_still_its_containers() -> Outcome {
    let mesh = Mesh::up()?;
    if !can_translate(&mesh, "web1")? {
        return Ok(());
    }
    let _server = echo::serve(&mesh, "db1", &[], 7400, 7401)?;
    let before = unowned(&mesh)?;
    // The port is kept where it is free; or it is another one in any case: then a datagram's sender is not known for sure.
    for (mode, may) in [("", "yes yes yes"), ("random", "yes no no")] {
        let boxed = Boxed::up(&mesh, "web1", mode)?;
        assert_eq!(boxed.runs(STRAY)?, "yes yes yes", "nothing denies it yet");
        mesh.wait("it is known at the vif", |mesh| {
            let has = |port| {
                Fallible::Ok(
                    openers(mesh, "web1", port)?
                        .first()
                        .is_some_and(|exe| exe == STRAY),
                )
            };
            Ok(has(7400)? && (mode == "random" || has(7401)?))
        })?;
        assert!(mesh.apply_text(POLICY)?.success());
        let tried = [boxed.runs(BOXED), boxed.runs(STRAY)];
        mesh.0.check("dom0", &["xmesh", "policy-delete", "boxes"])?;
        let [boxed, stray] = tried;
        assert_eq!(
            (boxed?.as_str(), stray?.as_str()),
            (may, "no no no"),
            "masquerade {mode}"
        );
        mesh.wait("so are they who may, and may not", |mesh| {
            let all = openers(mesh, "web1", 7400)?;
            Ok(all.iter().take(2).eq([STRAY, BOXED]))
        })?;
    }
    assert_eq!(unowned(&mesh)?, before, "somebody owns each");

    // A port that is forwarded to the container.
    let boxed = Boxed::up(&mesh, "web1", "")?;
    let inside = ["ip", "netns", "exec", "box"];
    let _server = echo::serve(&mesh, "web1", &inside, 81, 0)?;
    let asks = "import socket, time; s = socket.create_connection((\"10.0.0.11\", 8081), 60); s.sendall(b\"x\"); s.recv(9); time.sleep(30)";
    let _client = mesh.0.spawn("db1", &["python3", "-c", asks], Discard)?;
    mesh.wait("who took it is known at the vif", |mesh| {
        Ok(owners(mesh, 8081)?.iter().any(|exe| exe.contains("python3")))
    })?;
    drop(boxed);
    Ok(())
}
