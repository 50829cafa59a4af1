// SPDX-License-Identifier: GPL-3.0-only
//! The rig itself: what the other tests rely on.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::{Domain, Outcome};
use xmesh_rig::{DomainSpec, Rig};

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn output_and_status_are_passed_through_from_dom0_and_domu() -> Outcome {
    let rig = Rig::for_test()?;
    for target in ["dom0", "web1"] {
        let output = rig.exec(target, &["sh", "-c", "echo out; echo err >&2; exit 7"])?;
        assert_eq!(
            (output.status, output.text(), output.error_text()),
            (7, "out".into(), "err".into())
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn domains_talk_over_the_bridge() -> Outcome {
    let rig = Rig::for_test()?;
    assert_eq!(
        rig.check("web1", &["redis-cli", "-h", "10.0.0.12", "ping"])?,
        "PONG"
    );
    assert_eq!(
        rig.check("db1", &["curl", "-s", "http://10.0.0.11"])?,
        "hello from web1"
    );
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn every_byte_survives_the_way_there_and_back() -> Outcome {
    let rig = Rig::for_test()?;
    // ^O among them, which a Linux console takes for SysRq.
    let content: Vec<u8> = (0..20_000u32)
        .map(|n| ((n * n) >> 4) as u8)
        .chain(0..=255)
        .collect();
    for target in ["dom0", "db1"] {
        rig.write(target, "/tmp/bytes", 0o640, &content)?;
        assert!(rig.read(target, "/tmp/bytes")? == content, "{target}");
        assert_eq!(rig.check(target, &["stat", "-c", "%a", "/tmp/bytes"])?, "640");
    }
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn sessions_do_not_wait_for_each_other() -> Outcome {
    let rig = Rig::for_test()?;
    for target in ["dom0", "web1"] {
        let sleeper = rig.spawn(target, &["sleep", "600"], xmesh_rig::Output::default())?;
        rig.exec_timeout(target, &["true"], Duration::from_secs(120))?;
        assert!(sleeper.is_running());
        drop(sleeper);
        // Whoever asked is gone, so the program must go.
        let deadline = Instant::now() + Duration::from_secs(60);
        while rig.exec(target, &["pgrep", "-f", "-x", "sleep 600"])?.success() {
            assert!(Instant::now() < deadline, "sleep goes on in {target}");
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_program_that_takes_too_long_is_ended() -> Outcome {
    let rig = Rig::for_test()?;
    let begun = Instant::now();
    let outcome = rig.exec_timeout("web1", &["sleep", "1000"], Duration::from_secs(2));
    assert!(outcome.is_err());
    assert!(begun.elapsed() < Duration::from_secs(60));
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_sleep_in_the_rig_is_no_shorter_than_here() -> Outcome {
    let rig = Rig::for_test()?;
    let mut took = Vec::new();
    // An emulator that was slower than its clock makes up for that in its next idle time; one that skips idle time is back at
    // once each time.
    while took.len() < 5 {
        let begun = Instant::now();
        rig.check("dom0", &["sleep", "3"])?;
        took.push(begun.elapsed());
        // A little less than 3 s is its clock's grain.
        if took.last() > Some(&Duration::from_secs(2)) {
            return Ok(());
        }
    }
    Err(format!("sleeps of 3 s took {took:?}").into())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_domain_without_altp2m_comes_reboots_and_goes() -> Outcome {
    let rig = Rig::for_test()?;
    let spec = DomainSpec {
        altp2m: false,
        memory: 192,
        ..DomainSpec::new("plain", Ipv4Addr::new(10, 0, 0, 20))
    };
    rig.create_domain(&spec)?;
    let guard = Domain(&rig, "plain");
    rig.wait_for("plain")?;
    assert_eq!(rig.check("plain", &["hostname"])?, "plain");
    let first = rig.domain("plain")?.map(|domain| domain.id);

    rig.xl(&["reboot", "plain"])?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while rig.domain("plain")?.is_none_or(|domain| Some(domain.id) == first) {
        assert!(Instant::now() < deadline, "no reboot");
        std::thread::sleep(Duration::from_secs(1));
    }
    rig.wait_for("plain")?;
    assert!(
        rig.check("plain", &["ping", "-c", "1", "-W", "20", "10.0.0.1"])
            .is_ok()
    );

    drop(guard);
    assert_eq!(rig.domain("plain")?, None);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn dom0_has_what_the_mesh_needs() -> Outcome {
    let rig = Rig::for_test()?;
    rig.check(
        "dom0",
        &[
            "sh",
            "-c",
            "mountpoint /sys/fs/bpf && mountpoint /sys/fs/cgroup && touch /var/lib/policyd/x",
        ],
    )?;
    rig.check("dom0", &["sh", "-c", "modprobe sch_ingress && modprobe sch_htb && modprobe ifb && modprobe act_police && modprobe cls_bpf"])?;
    assert!(
        rig.xl(&["info"])?
            .contains(&format!("xen_version            : {}", rig.xen()))
    );
    let ip = rig.check(
        "dom0",
        &[
            "sh",
            "-c",
            "xenstore-read /local/domain/0/backend/vif/$(xl domid web1)/0/ip",
        ],
    )?;
    assert_eq!(ip, "10.0.0.11");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_kernel_booted_by_grub_is_where_chance_put_it() -> Outcome {
    let rig = Rig::for_test()?;
    let text_of = |domain| {
        rig.check(
            domain,
            &["sh", "-c", "grep -w _text /proc/kallsyms | cut -d' ' -f1"],
        )
    };
    assert_eq!(text_of("web1")?, "ffffffff81000000", "entered by Xen's toolstack");
    // One chance in some 500 that it is there as well.
    assert_ne!(text_of("db1")?, "ffffffff81000000", "booted by GRUB");
    Ok(())
}
