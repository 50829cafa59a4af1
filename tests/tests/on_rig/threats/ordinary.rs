// SPDX-License-Identifier: GPL-3.0-only
//! An ordinary day of two ordinary servers: nothing of it is an attack.
//!
//! `XMESH_ORDINARY_MINUTES` says how long; it is two minutes unless told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use xmesh_rig::Discard;

use super::scene::{Fallible, Scene};
use crate::support::Outcome;

const MINUTES: &str = "XMESH_ORDINARY_MINUTES";

/// What both do all day, in turn, until `/tmp/evening` is there. `$1`: the other one.
const DAY: &str = r#"
other=$1 day=/tmp/day; mkdir -p $day /var/log/day /srv/day; cd $day
echo 'ordinary data' > /srv/day/data; n=0
until [ -e /tmp/evening ]; do
    n=$((n + 1))
    # Clients of the other's services.
    curl -s -o /dev/null -m 30 http://$other/
    wget -q -O /dev/null -T 30 http://$other/
    echo PING | nc -w 5 -N 10.0.0.12 6379 > /dev/null
    timeout 30 redis-cli -h 10.0.0.12 set day $n > /dev/null; timeout 30 redis-cli -h 10.0.0.12 get day > /dev/null
    printf 'GET / HTTP/1.0\r\n\r\n' | socat -t 5 - TCP:$other:80 > /dev/null
    python3 -c 'import socket, sys
s = socket.create_connection((sys.argv[1], 80)); s.sendall(b"GET / HTTP/1.0\r\n\r\n"); s.recv(99)' $other
    timeout 20 bash -c "exec 3<>/dev/tcp/$other/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; head -n 1 <&3" > /dev/null
    # The package manager.
    dpkg -l > /dev/null; dpkg -S /bin/bash > /dev/null; apt-get -s -qq install curl > /dev/null 2>&1
    apt-cache policy bash > /dev/null 2>&1
    # Administrators and their shells.
    su app -c 'id; sh -c true; cd; ls -la' > /dev/null
    su - app -c 'passwd --status; ping -c 1 -W 5 10.0.0.1' > /dev/null 2>&1
    setpriv --reuid app --regid app --init-groups sh -c 'umask 077; echo note > /tmp/day/note.app' 2> /dev/null
    find /etc -name '*.conf' 2> /dev/null | xargs grep -l root 2> /dev/null | sort | head -n 3 > /dev/null
    ps aux > /dev/null; ip route > /dev/null; df > /dev/null; uptime > /dev/null
    # Jobs by the clock, and what they write is rotated.
    sh -c 'date; run-parts --test /etc/cron.daily' >> /var/log/day/cron.log 2>&1
    if [ $((n % 3)) = 0 ]; then
        mv -f /var/log/day/cron.log /var/log/day/cron.log.1; gzip -f /var/log/day/cron.log.1
        nginx -s reload 2> /dev/null
    fi
    # An editor: a new file over the old one.
    cp /srv/day/data /srv/day/.data.swp; echo "line $n" >> /srv/day/.data.swp; mv -f /srv/day/.data.swp /srv/day/data
    # A backup over the network, and a program that an upgrade replaces while it runs.
    tar -C /etc -cz . 2> /dev/null | nc -w 20 -N $other 9000
    cp /usr/bin/sleep /usr/local/bin/agent.new && mv -f /usr/local/bin/agent.new /usr/local/bin/agent
    agent 3 & cp /usr/bin/sleep /usr/local/bin/agent.new && mv -f /usr/local/bin/agent.new /usr/local/bin/agent; agent 0
    # Names, and a clock: datagrams.
    python3 -c 'import socket, sys
for n in range(5):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\3www\7example\3org\0\0\1\0\1", (sys.argv[1], 53)); s.close()' $other
    python3 -c 'import subprocess
p = subprocess.run(["sh", "-c", "cat /etc/hostname | tr a-z A-Z"], stdout=subprocess.PIPE); assert p.returncode == 0'
    (cd /srv/day && timeout 5 python3 -c 'import socket
l = socket.create_server(("127.0.0.1", 8123)); l.settimeout(2)
c = socket.create_connection(("127.0.0.1", 8123)); s, _ = l.accept(); s.sendall(b"x"); c.recv(1)')
    sleep $((n % 4 + 1))
    echo $n > /tmp/day.rounds
done"#;

/// What serves all day: where backups go, names are asked for, and each connection gets a program of its own.
const SERVICES: [&[&str]; 3] = [
    &[
        "socat",
        "-u",
        "TCP-LISTEN:9000,fork,reuseaddr",
        "OPEN:/dev/null,wronly",
    ],
    &["socat", "-u", "UDP-RECV:53,reuseaddr", "OPEN:/dev/null,wronly"],
    &["socat", "TCP-LISTEN:9001,fork,reuseaddr", "EXEC:/bin/date"],
];

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn an_ordinary_day_alarms_nobody() -> Outcome {
    let minutes = std::env::var(MINUTES).ok().and_then(|text| text.parse().ok());
    let minutes: u64 = minutes.unwrap_or(2);
    let scene = Scene::begin()?;
    let mesh = &scene.mesh;
    let guests = [("web1", "10.0.0.12"), ("db1", "10.0.0.11")];
    let mut services = Vec::new();
    let mut days = Vec::new();
    for (guest, _) in guests {
        mesh.0
            .check(guest, &["rm", "-f", "/tmp/evening", "/tmp/day.rounds"])?;
        for service in SERVICES {
            services.push(mesh.0.spawn(guest, service, Discard)?);
        }
    }
    for (guest, other) in guests {
        days.push(mesh.0.spawn(guest, &["bash", "-c", DAY, "day", other], Discard)?);
    }
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_secs(5));
        let alive = days.iter().all(xmesh_rig::Job::is_running);
        assert!(alive, "a day ended before its evening");
    }
    let rounds = |guest: &str| -> Fallible<u64> {
        let text = mesh.0.check(guest, &["cat", "/tmp/day.rounds"])?;
        Ok(text.trim().parse()?)
    };
    // However slow the machine is: a day in which nothing happens shows nothing.
    mesh.wait("each guest had its day", |_| {
        Ok(rounds("web1")? > 0 && rounds("db1")? > 0)
    })?;
    for (guest, _) in guests {
        mesh.0.check(guest, &["touch", "/tmp/evening"])?;
    }
    for day in days {
        assert_eq!(day.wait()?, 0, "a day's script failed");
    }
    // What is asked later about what it did last, and what is looked at once a minute.
    mesh.0
        .exec_timeout("dom0", &["sleep", "65"], Duration::from_secs(300))?;
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (guest, _) in guests {
        println!("{guest}: {} rounds in {minutes} minutes", rounds(guest)?);
        for threat in scene.threats(guest)? {
            let severity = threat["severity"].as_str().unwrap_or_default().to_owned();
            println!("{guest}: {severity}: {} {}", threat["rule"], threat["title"]);
            told.entry(severity).or_default().push(threat);
        }
    }
    let alerts = told.remove("alert").unwrap_or_default();
    assert!(alerts.is_empty(), "{alerts:#?}");
    Ok(())
}
