// SPDX-License-Identifier: GPL-3.0-only
//! What is told because it never was before: with a history that an earlier daemon wrote, whose clock was two days behind.

use xmesh_rig::{Discard, Rig};

use super::scene::{ATTACKS, Fallible, HONEST, Scene};
use crate::support::{Mesh, Outcome};

const STORE: &str = "/run/threats-test/store";

/// dom0's clock, some time back; it is set right however the test ends.
struct Clock<'a> {
    rig: &'a Rig,
    seconds: u64,
}

impl Clock<'_> {
    /// Two days back, a few minutes into an hour: what is done then is within that hour.
    fn two_days_back(rig: &Rig) -> Fallible<Clock<'_>> {
        let now: u64 = rig.check("dom0", &["date", "+%s"])?.trim().parse()?;
        let then = (now - 2 * 86_400) / 3600 * 3600 + 300;
        let clock = Clock {
            rig,
            seconds: now - then,
        };
        rig.check("dom0", &["date", "-s", &format!("@{then}")])?;
        Ok(clock)
    }
}

impl Drop for Clock<'_> {
    fn drop(&mut self) {
        let set = format!("date -s @$(($(date +%s) + {}))", self.seconds);
        let _ = self.rig.exec("dom0", &["sh", "-c", &set]);
    }
}

/// Sends so many MiB to who is outside.
const SENDS: &str = "import socket, sys
s = socket.create_connection(('10.0.0.1', 5000))
block = bytes(1 << 16)
for n in range(int(sys.argv[1]) << 4): s.sendall(block)
s.shutdown(socket.SHUT_WR); s.recv(1)";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_never_was_is_told_and_what_is_usual_is_not() -> Outcome {
    let mesh = Scene::begin()?.mesh;
    mesh.end()?;
    let told = with_a_history(&mesh);
    // It may have ended before: then that is what went wrong.
    let _ = mesh.end();
    mesh.gone()?;
    mesh.0.check("dom0", &["rm", "-rf", "/run/threats-test"])?;
    // With its own history again.
    mesh.start()?;
    told
}

fn with_a_history(mesh: &Mesh) -> Outcome {
    let _sink = mesh.0.spawn(
        "dom0",
        &[
            "socat",
            "-u",
            "TCP-LISTEN:5000,fork,reuseaddr",
            "OPEN:/dev/null,wronly",
        ],
        Discard,
    )?;
    let (curl, backup) = (format!("{HONEST}/curl"), format!("{HONEST}/backup"));
    let (reader, leak) = (format!("{ATTACKS}/reader"), format!("{ATTACKS}/leak"));
    {
        let _clock = Clock::two_days_back(&mesh.0)?;
        mesh.start_with_store(STORE)?;
        let scene = Scene::with(Mesh(Rig::for_test()?))?;
        scene.copy("/usr/bin/curl", &curl)?;
        scene.copy("/usr/bin/curl", &reader)?;
        scene.must(&format!(
            "for curl in {curl} {reader}; do $curl -s -o /dev/null http://10.0.0.12/ || exit 1; done
            {curl} -s -o /dev/null http://127.0.0.1/"
        ))?;
        assert_eq!(scene.python(&backup, SENDS, &["8"])?.wait()?, 0);
        assert_eq!(scene.python(&leak, SENDS, &["1"])?.wait()?, 0);
        // All flows are looked at every ten seconds.
        mesh.0.check("dom0", &["sleep", "12"])?;
        mesh.end()?;
    }
    mesh.start_with_store(STORE)?;
    let scene = Scene::with(Mesh(Rig::for_test()?))?;
    // As two days ago, and within the guest, which is nowhere new. A backup that grew.
    let newcomer = format!("{ATTACKS}/newcomer");
    scene.copy("/usr/bin/curl", &newcomer)?;
    scene.copy("/usr/bin/curl", &format!("{HONEST}/inside"))?;
    scene.must(&format!(
        "{curl} -s -o /dev/null http://10.0.0.12/ && {HONEST}/inside -s -o /dev/null http://127.0.0.1/"
    ))?;
    assert_eq!(scene.python(&backup, SENDS, &["66"])?.wait()?, 0);
    assert_eq!(scene.python(&leak, SENDS, &["66"])?.wait()?, 0);
    // A program that never went anywhere, and one that goes to another place.
    scene.must(&format!("{newcomer} -s -o /dev/null http://10.0.0.12/"))?;
    scene.run(&format!("{reader} -s -m 20 http://10.0.0.1:81/"))?;
    scene.is_told("new-program", &newcomer)?;
    scene.is_told("new-destination", &reader)?;
    let threat = scene.found("new-destination", &reader)?.remove(0);
    assert!(threat["title"].to_string().contains("10.0.0.1:81"), "{threat}");
    // Looked for once a minute.
    scene.is_told("exfiltration", &leak)?;
    scene.honest_work_is_not(&[])
}
