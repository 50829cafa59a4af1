// SPDX-License-Identifier: GPL-3.0-only
//! What is told of what a guest sends; and what is not told of traffic that is much like it.

use xmesh_rig::Discard;

use super::scene::{ATTACKS, HONEST, Scene};
use crate::support::Outcome;

/// Tries a port of many addresses, and waits for none. Arguments: their network, how many, port, rounds.
const TRIES: &str = "import socket, sys, time
network, count, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for n in range(rounds):
    for host in range(1, count + 1):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((network + '.' + str(host), port))
        s.close()
    time.sleep(1)";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_sweep_is_told_and_monitoring_is_not() -> Outcome {
    let scene = Scene::begin()?;
    // Addresses that nobody met before: those of an earlier run are in the history of flows.
    let network = format!("10.77.{}", std::process::id() % 256);
    let monitor = format!("{HONEST}/monitor");
    let hosts = ["10.78.0", "40", "9100", "3"];
    scene.python(&monitor, TRIES, &hosts)?.wait()?;
    let worm = format!("{ATTACKS}/worm");
    let sweep = [network.as_str(), "60", "23", "1"];
    scene.python(&worm, TRIES, &sweep)?.wait()?;
    scene.is_told("sweep", &worm)?;
    let threat = scene.found("sweep", &worm)?.remove(0);
    assert!(threat["title"].to_string().contains("port 23 of"), "{threat}");
    scene.honest_work_is_not(&["port-scan"])
}

/// Connects again and again, after so many seconds each: to who is outside, and refuses.
const CALLS: &str = "import socket, sys, time
for seconds in sys.argv[1].split(','):
    try: socket.create_connection(('10.0.0.1', 4443)).close()
    except ConnectionError: pass
    time.sleep(float(seconds))";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_beacon_is_told_and_jobs_at_odd_times_are_not() -> Outcome {
    let scene = Scene::begin()?;
    let odd = "3,9,5,14,2,11,4,8,13,3,10,6,4,7,0";
    let jobs = scene.python(&format!("{HONEST}/jobs"), CALLS, &[odd])?;
    let regular = ["6.5"; 14].join(",");
    let implant = format!("{ATTACKS}/implant");
    let beacon = scene.python(&implant, CALLS, &[&regular])?;
    scene.is_told("beacon", &implant)?;
    assert_eq!((jobs.wait()?, beacon.wait()?), (0, 0));
    scene.honest_work_is_not(&[])
}

/// Sends datagrams to a name server: how many, of how many bytes.
const ASKS: &str = "import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(int(sys.argv[1])):
    s.sendto(bytes(int(sys.argv[2])), ('10.0.0.12', 53))
    if n % 50 == 49: time.sleep(0.2)";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_tunnel_through_names_is_told_and_many_names_are_not() -> Outcome {
    let scene = Scene::begin()?;
    let listen = ["socat", "-u", "UDP-RECV:53,reuseaddr", "OPEN:/dev/null,wronly"];
    let _server = scene.mesh.0.spawn("db1", &listen, Discard)?;
    let resolver = format!("{HONEST}/resolver");
    // What a question for a name takes.
    scene.python(&resolver, ASKS, &["500", "45"])?.wait()?;
    let tunnel = format!("{ATTACKS}/tunnel");
    scene.python(&tunnel, ASKS, &["400", "240"])?.wait()?;
    // Looked for once a minute.
    scene.is_told("dns-tunnel", &tunnel)?;
    scene.honest_work_is_not(&[])
}

/// A datagram as bytes, past all sockets of the guest's.
const RAW: &str = "import socket, struct, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
address = socket.inet_aton
data = b'hello'
udp = struct.pack('!HHHH', 33333, 7777, 8 + len(data), 0) + data
head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, address('10.0.0.11'), address('10.0.0.12'))
for n in range(5):
    s.sendto(head + udp, ('10.0.0.12', 0))
    time.sleep(1)";

/// Datagrams of sockets that are gone at once, and of one that stays.
const DATAGRAMS: &str = "import socket, time
for n in range(5):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b'hello', ('10.0.0.12', 7778)); s.close()
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(('10.0.0.12', 7778))
for n in range(3):
    try: s.send(b'hello')
    except ConnectionError: pass
    time.sleep(1)";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn traffic_of_nobody_is_told_and_that_of_short_programs_is_not() -> Outcome {
    let scene = Scene::begin()?;
    scene
        .python(&format!("{HONEST}/datagrams"), DATAGRAMS, &[])?
        .wait()?;
    scene.must("ping -c 3 -W 5 10.0.0.12 > /dev/null")?;
    // Nobody answers; it sends by a raw socket.
    scene.run("busybox udhcpc -i eth0 -n -q -t 3 -T 1 -s /bin/true")?;
    scene.python(&format!("{ATTACKS}/raw"), RAW, &[])?.wait()?;
    scene.is_told("unowned-traffic", "10.0.0.12:7777")?;
    scene.honest_work_is_not(&["10.0.0.12:7778", "icmp", "255.255.255.255"])
}
