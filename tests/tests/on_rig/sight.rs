// SPDX-License-Identifier: GPL-3.0-only
//! What is seen of a guest beside its connections: who hides, what was changed, who gives data to whom; and what sight may cost.

use std::cell::RefCell;
use std::time::Duration;

use crate::support::{Mesh, Outcome};
use serde_json::Value;
use xmesh_rig::{Discard, Progress, programs};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// A system call that no program of web1 makes.
const REBOOT: &str = "169";

/// The process of web1 with this first argument, by its PID.
fn process(mesh: &Mesh, comm: &str, argument: &str) -> Fallible<u64> {
    let all = mesh.json(&["ps", "web1"])?;
    let found = all
        .as_array()
        .and_then(|all| all.iter().find(|p| p["comm"] == comm && p["args"][1] == argument));
    found
        .and_then(|p| p["pid"].as_u64())
        .ok_or_else(|| format!("no {comm} {argument}").into())
}

/// Findings of a check of web1: kind and PID. The command fails where there are any.
fn check(mesh: &Mesh) -> Fallible<Vec<(String, Option<u64>)>> {
    let output = mesh.0.exec("dom0", &["xmesh", "--json", "check", "web1"])?;
    let check: Value = serde_json::from_slice(&output.stdout)?;
    assert!(check["system_calls"].as_u64().is_some_and(|n| n > 300), "{check}");
    assert_eq!(check["unchecked"], serde_json::json!([]), "{check}");
    let findings = check["findings"].as_array().ok_or("findings")?;
    assert_eq!(output.success(), findings.is_empty(), "{output:?}");
    let kind = |f: &Value| f["kind"].as_str().unwrap_or_default().to_owned();
    Ok(findings.iter().map(|f| (kind(f), f["pid"].as_u64())).collect())
}

fn has_event(mesh: &Mesh, kind: &str, says: &str) -> Fallible<bool> {
    let argv = ["xmesh", "--json", "events", "--domain", "web1", "--kind", kind];
    Ok(mesh.0.check("dom0", &argv)?.contains(says))
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn who_hides_and_what_was_hooked_is_named() -> Outcome {
    let mesh = Mesh::up()?;
    let tamper = programs::example(mesh.0.xen(), "vmi-xen", "tamper", &Progress::new(true))?;
    mesh.0.push(&tamper, "dom0", "/tmp/tamper")?;
    let domid = mesh.domain("web1")?["id"].to_string();
    let tampered = |argv: &[&str]| -> Fallible<String> {
        let argv = [&["/tmp/tamper", argv[0], &domid], &argv[1..]].concat();
        Ok(mesh.0.check("dom0", &argv)?.trim().to_owned())
    };
    let _job = mesh.0.spawn("web1", &["sleep", "4321"], Discard)?;
    mesh.wait("the process to hide", |mesh| {
        Ok(process(mesh, "sleep", "4321").is_ok())
    })?;
    assert_eq!(check(&mesh)?, [], "an untouched guest");

    let pid = process(&mesh, "sleep", "4321")?;
    let task = tampered(&["hide", &pid.to_string()])?;
    let found = check(&mesh);
    let is_shown = process(&mesh, "sleep", "4321").is_ok();
    tampered(&["show", &task])?;
    assert_eq!(found?, [("hidden-process".to_owned(), Some(pid))]);
    assert!(!is_shown, "it hid from the list of processes");
    assert_eq!(check(&mesh)?, [], "it is back");

    let target = tampered(&["hook", REBOOT])?;
    let found = check(&mesh);
    tampered(&["heal", REBOOT, &target])?;
    assert_eq!(found?, [("system-call".to_owned(), None)]);
    assert_eq!(check(&mesh)?, [], "it is healed");
    mesh.wait("both are events", |mesh| {
        Ok(has_event(mesh, "hidden", "sleep")? && has_event(mesh, "integrity", "system-call")?)
    })
}

/// Gives an address to a guest, and takes it back however the test ends.
struct Taken<'m> {
    mesh: &'m Mesh,
    guest: &'static str,
}

const MOVED: &str = "10.0.0.77";

impl<'m> Taken<'m> {
    fn by(mesh: &'m Mesh, guest: &'static str) -> Fallible<Taken<'m>> {
        let add = format!("ip address add {MOVED}/24 dev eth0");
        mesh.0.check(guest, &["sh", "-c", &add])?;
        Ok(Taken { mesh, guest })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let del = format!("ip address del {MOVED}/24 dev eth0");
        let _ = self.mesh.0.exec(self.guest, &["sh", "-c", &del]);
    }
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn an_address_is_known_by_who_has_it_now() -> Outcome {
    let mesh = Mesh::up()?;
    let has = |mesh: &Mesh, guest: &str| -> Fallible<bool> {
        let addresses = mesh.domain(guest)?["addresses"].clone();
        Ok(addresses
            .as_array()
            .is_some_and(|all| all.iter().any(|a| a == MOVED)))
    };
    let asks = |mesh: &Mesh| -> Fallible<String> {
        let script = format!(
            "import socket\ntry: socket.create_connection(('{MOVED}', 80), 60); print('taken')\nexcept OSError as e: print(e)"
        );
        Ok(mesh.0.check("web1", &["python3", "-c", &script])?)
    };
    {
        let _taken = Taken::by(&mesh, "db1")?;
        mesh.wait("db1 is known by it", |mesh| has(mesh, "db1"))?;
        assert!(!has(&mesh, "web1")?);
        assert_eq!(asks(&mesh)?.trim(), "taken");
        // What is said of the guest holds for its new address.
        let policy =
            "policy: moved\nrules:\n  - { name: r, from: { vm: web1 }, to: { vm: db1 }, action: deny }\n";
        assert!(mesh.apply_text(policy)?.success());
        let refused = asks(&mesh);
        mesh.0.check("dom0", &["xmesh", "policy-delete", "moved"])?;
        let refused = refused?;
        assert!(refused.contains("refused"), "{refused}");
    }
    mesh.wait("db1 is not, once it gave it up", |mesh| Ok(!has(mesh, "db1")?))?;
    let _taken = Taken::by(&mesh, "web1")?;
    mesh.wait("web1 is known by it", |mesh| has(mesh, "web1"))?;
    assert!(!has(&mesh, "db1")?);
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn who_gives_data_to_whom_is_shown_inside_and_outside() -> Outcome {
    let mesh = Mesh::up()?;
    let talk = "
import socket, time
s = socket.create_connection(('10.0.0.12', 80), 60)
s.sendall(b'GET / HTTP/1.0')
time.sleep(999)
";
    let _pipe = mesh.0.spawn("web1", &["sh", "-c", "sleep 5432 | cat"], Discard)?;
    let _talk = mesh.0.spawn("web1", &["python3", "-c", talk], Discard)?;
    let edges = |mesh: &Mesh, via: &str| -> Fallible<Vec<Value>> {
        let graph = mesh.json(&["graph", "web1"])?;
        let edges = graph["edges"].as_array().ok_or("edges")?;
        let comm = |id: &Value| {
            let nodes = graph["nodes"].as_array().into_iter().flatten();
            nodes
                .clone()
                .find(|node| node["id"] == *id)
                .map(|node| node["comm"].clone())
        };
        let of_kind = edges.iter().filter(|edge| edge["via"] == via).cloned();
        Ok(of_kind
            .map(|mut edge| {
                edge["from_comm"] = comm(&edge["from"]).unwrap_or_default();
                edge["to_comm"] = comm(&edge["to"]).unwrap_or_default();
                edge
            })
            .collect())
    };
    mesh.wait("the pipe is an edge", |mesh| {
        let pipes = edges(mesh, "pipe")?;
        Ok(pipes
            .iter()
            .any(|e| e["from_comm"] == "sleep" && e["to_comm"] == "cat"))
    })?;
    mesh.wait("the connection is an edge, with its bytes", |mesh| {
        Ok(edges(mesh, "tcp")?.iter().any(|e| {
            e["from_comm"]
                .as_str()
                .is_some_and(|comm| comm.starts_with("python3"))
                && e["to"].as_str().is_some_and(|to| to.starts_with("db1"))
                && e["bytes"].as_u64().is_some_and(|bytes| bytes > 100)
        }))
    })
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn what_confines_a_process_is_told_as_the_guest_tells_it() -> Outcome {
    let mesh = Mesh::up()?;
    let _job = mesh.0.spawn("web1", &["sleep", "4322"], Discard)?;
    mesh.wait("the process", |mesh| Ok(process(mesh, "sleep", "4322").is_ok()))?;
    let pid = process(&mesh, "sleep", "4322")?;
    let all = mesh.json(&["ps", "web1"])?;
    let row = all.as_array().ok_or("rows")?.iter().find(|p| p["pid"] == pid);
    let row = row.ok_or("a row")?;
    let proc = format!("/proc/{pid}");
    let status = mesh.0.check("web1", &["cat", &format!("{proc}/status")])?;
    for (set, line) in [
        ("inheritable", "CapInh:"),
        ("permitted", "CapPrm:"),
        ("effective", "CapEff:"),
        ("bounding", "CapBnd:"),
        ("ambient", "CapAmb:"),
    ] {
        let told = status.lines().find_map(|l| l.strip_prefix(line)).map(str::trim);
        assert_eq!(row["capabilities"][set].as_str(), told, "{row}");
    }
    for (field, kind) in [("netns", "net"), ("pidns", "pid"), ("mntns", "mnt")] {
        let told = mesh
            .0
            .check("web1", &["readlink", &format!("{proc}/ns/{kind}")])?;
        assert_eq!(told.trim(), format!("{kind}:[{}]", row[field]), "{row}");
    }
    let cgroups = mesh.0.check("web1", &["cat", &format!("{proc}/cgroup")])?;
    let told = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    assert_eq!(row["cgroup"].as_str(), told, "{row}");
    Ok(())
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn probes_over_the_budget_rest_and_come_back() -> Outcome {
    let mesh = Mesh::up()?;
    let restart = |mesh: &Mesh, budget: &str| -> Outcome {
        mesh.end()?;
        mesh.start_with(budget)
    };
    // The usual one: an emulated processor takes long for a trap.
    restart(&mesh, "5")?;
    let rests =
        |mesh: &Mesh| -> Fallible<bool> { Ok(mesh.domain("web1")?["probes"].to_string().contains("rests")) };
    let load = "for i in $(seq 200); do /bin/true; done";
    mesh.0
        .exec_timeout("web1", &["sh", "-c", load], Duration::from_secs(300))?;
    mesh.wait("a probe rests", |mesh| {
        let problems = mesh.domain("web1")?["problems"].to_string();
        Ok(rests(mesh)? && problems.contains("budget"))
    })?;
    // What verdicts are made of is the last to rest.
    assert_eq!(mesh.mode("web1")?, mesh.trapped());
    mesh.wait("it comes back once the load is over", |mesh| Ok(!rests(mesh)?))?;
    let before = mesh.probe_hits("web1", "finalize_exec")?;
    mesh.0.check("web1", &["/bin/true"])?;
    mesh.wait("and traps", |mesh| {
        Ok(mesh.probe_hits("web1", "finalize_exec")? > before)
    })?;
    restart(&mesh, "100")
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_probe_whose_page_the_guest_keeps_reading_rests_and_costs_nothing_then() -> Outcome {
    let mesh = Mesh::up()?;
    if mesh.trapped() != "altp2m" {
        // Elsewhere reads do not trap.
        return Ok(());
    }
    mesh.bring_kernel_text()?;
    mesh.end()?;
    // An access counts as what it takes on a real processor, of which an emulated one does a few hundred in a second.
    mesh.start_with("0.05")?;
    let probe = |mesh: &Mesh| -> Fallible<Value> {
        let domain = mesh.domain("web1")?;
        let probes = domain["probes"].as_array().ok_or("probes")?;
        let found = probes.iter().find(|p| p["function"] == "tcp_connect");
        Ok(found.ok_or("no tcp_connect")?.clone())
    };
    let job = mesh.0.spawn(
        "web1",
        &["/root/kernel-text", "watch", "tcp_connect", "600"],
        Discard,
    )?;
    mesh.wait("the probe rests for its page", |mesh| {
        Ok(probe(mesh)?["resume"]
            .to_string()
            .contains("accesses of the guest to its page"))
    })?;
    // Without the verdicts of connects, the guest is looked up.
    mesh.wait(
        "the guest is looked up",
        |mesh| Ok(mesh.mode("web1")? == "lookup"),
    )?;
    // Shown anew within a second of each change of sight.
    let shown = |mesh: &Mesh| -> Fallible<Value> {
        let found = RefCell::new(None);
        mesh.wait("its probes are shown", |mesh| {
            found.replace(probe(mesh).ok());
            Ok(found.borrow().is_some())
        })?;
        Ok(found.into_inner().ok_or("no tcp_connect")?)
    };
    // Two looks within one rest; it rests again and again, each time longer.
    let mut compared = false;
    for _ in 0..10 {
        let before = shown(&mesh)?;
        std::thread::sleep(Duration::from_secs(2));
        let after = shown(&mesh)?;
        compared = before["resume"].to_string().contains("rests") && after["resume"] == before["resume"];
        if compared {
            assert_eq!(
                after["page_accesses"], before["page_accesses"],
                "reads trap while it rests"
            );
            break;
        }
    }
    assert!(compared, "it did not rest for two looks");
    drop(job);
    mesh.wait("it comes back once nobody reads there", |mesh| {
        Ok(mesh.mode("web1")? == "altp2m")
    })?;
    mesh.end()?;
    mesh.start()
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_kernel_without_type_information_is_a_vm_that_policy_holds_for() -> Outcome {
    let mesh = Mesh::up()?;
    let tamper = programs::example(mesh.0.xen(), "vmi-xen", "tamper", &Progress::new(true))?;
    mesh.0.push(&tamper, "dom0", "/tmp/tamper")?;
    let domid = mesh.domain("web1")?["id"].to_string();
    let put = |value: &str| -> Fallible<String> {
        let argv = ["/tmp/tamper", "put", &domid, "__start_BTF", value];
        Ok(mesh.0.check("dom0", &argv)?.trim().to_owned())
    };
    mesh.end()?;
    let magic = put("0")?;
    let seen = (|| -> Fallible<_> {
        mesh.launch("100")?;
        mesh.wait("web1 is a VM only, db1 is seen", |mesh| {
            let why = mesh.domain("web1")?["problems"].to_string();
            Ok(mesh.mode("web1")? == "vm" && why.contains("BTF") && mesh.mode("db1")? == mesh.trapped())
        })?;
        let policy = "policy: blind
default: { db1: deny }
rules:
  - { name: by-vm, from: { vm: web1 }, to: { vm: db1, port: 80 }, action: allow }
  - { name: by-process, from: { vm: web1, exe: \"/usr/bin/*\" }, to: { vm: db1, port: 22 }, action: allow }
";
        let applied = mesh.apply_text(policy)?;
        if !applied.success() {
            return Err(applied.error_text().into());
        }
        let curl = |port: &str| -> Fallible<i32> {
            let url = format!("http://10.0.0.12:{port}/");
            let argv = ["curl", "-s", "-o", "/dev/null", "-m", "30", &url];
            Ok(mesh
                .0
                .exec_timeout("web1", &argv, Duration::from_secs(60))?
                .status)
        };
        let statuses = (curl("80")?, curl("22")?);
        mesh.0.check("dom0", &["xmesh", "policy-delete", "blind"])?;
        Ok(statuses)
    })();
    put(&magic)?;
    mesh.end()?;
    mesh.start()?;
    // 7: refused at once. Who asks for a process asks for what nobody knows here.
    assert_eq!(seen?, (0, 7));
    Ok(())
}
