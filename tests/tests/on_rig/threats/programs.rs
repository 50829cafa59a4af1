// SPDX-License-Identifier: GPL-3.0-only
//! What is told of a program by what it is and how it came to run; and what is not told of one that is much like it.

use std::time::Duration;

use xmesh_rig::{Progress, programs};

use super::scene::{ATTACKS, HONEST, Scene};
use crate::support::Outcome;

/// Serves one connection with a shell.
const BIND_SHELL: &str = "import os, socket
listener = socket.create_server(('', 4445))
s, _ = listener.accept()
os.dup2(s.fileno(), 0); os.dup2(s.fileno(), 1)
os.execv('/bin/sh', ['sh', '-c', 'read line; exit 7'])";

/// As inetd does: another program has the connection, and it runs nothing that it is told.
const INETD: &str = "import os, socket
listener = socket.create_server(('', 4446))
while True:
    s, _ = listener.accept()
    if os.fork() == 0:
        os.dup2(s.fileno(), 0); os.dup2(s.fileno(), 1)
        os.execv('/bin/cat', ['cat'])
    s.close()";

/// As a web server runs scripts: a shell works for a connection, and does not have it.
const CGI: &str = "import socket, subprocess, sys
listener = socket.create_server(('', 4447))
while True:
    s, _ = listener.accept()
    s.recv(99)
    done = subprocess.run([sys.argv[1], '-c', 'sleep 1; echo hello'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    s.sendall(done.stdout)
    s.close()";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_shell_for_who_connects_is_told_and_a_service_is_not() -> Outcome {
    let scene = Scene::begin()?;
    let (dash, inetd, cgi) = (
        format!("{HONEST}/dash"),
        format!("{HONEST}/inetd"),
        format!("{HONEST}/httpd"),
    );
    scene.copy("/bin/dash", &dash)?;
    let _inetd = scene.python(&inetd, INETD, &[])?;
    let _cgi = scene.python(&cgi, CGI, &[&dash])?;
    let _shell = scene.python(&format!("{ATTACKS}/listener"), BIND_SHELL, &[])?;
    for port in [4445, 4446, 4447] {
        scene.serves(port)?;
    }
    // Long enough for what has the connection to be looked at.
    let ask = "for port in 4446 4447; do (echo hello; sleep 5) | nc -w 20 -N 10.0.0.11 $port | grep hello > /dev/null || exit 1; done";
    let asked = scene
        .mesh
        .0
        .exec_timeout("db1", &["sh", "-c", ask], Duration::from_secs(120))?;
    assert!(asked.success(), "{asked:?}");
    // It says nothing for a while: so long there is a shell.
    let come = "(sleep 10; echo) | nc -w 60 -N 10.0.0.11 4445";
    scene
        .mesh
        .0
        .exec_timeout("db1", &["sh", "-c", come], Duration::from_secs(120))?;
    scene.is_told("bind-shell", "/usr/bin/dash")?;
    let threat = scene.found("bind-shell", "/usr/bin/dash")?.remove(0);
    assert!(threat["title"].to_string().contains("10.0.0.12"), "{threat}");
    scene.honest_work_is_not(&["reverse-shell", "/usr/bin/cat"])
}

/// Runs a file that it has removed.
const DELETED: &str = "import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
os.unlink(sys.argv[1])
os.execve(fd, ['gone', '0'], os.environ)";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_deleted_program_is_told_and_one_that_is_replaced_is_not() -> Outcome {
    let scene = Scene::begin()?;
    // As a package's upgrade does it: the old one runs on, makes children, and is started anew from its new file.
    let served = format!("{HONEST}/served");
    scene.copy("/bin/dash", &served)?;
    scene.must(&format!(
        "{served} -c 'for n in 1 2 3 4 5 6; do sleep 1; (:); done' & old=$!
        sleep 1
        cp /bin/dash {served}.dpkg-new && mv -f {served}.dpkg-new {served}
        [ $(readlink /proc/$old/exe) = '{served} (deleted)' ] || readlink /proc/$old/exe | grep -q deleted || exit 1
        {served} -c 'exit 0' && wait $old"
    ))?;
    // An editor writes a new file over a script that runs.
    let script = format!("{HONEST}/job.sh");
    scene.must(&format!(
        "printf '#!/bin/sh\\nsleep 2\\n' > {script} && chmod +x {script} && {script} &
        sleep 1; sed -i s/2/0/ {script} && {script} && wait"
    ))?;
    scene.copy("/usr/bin/sleep", &format!("{ATTACKS}/gone"))?;
    scene
        .python(
            &format!("{ATTACKS}/starter"),
            DELETED,
            &[&format!("{ATTACKS}/gone")],
        )?
        .wait()?;
    scene.is_told("deleted-program", &format!("{ATTACKS}/gone"))?;
    scene.honest_work_is_not(&[])
}

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn a_miner_is_told_by_name_and_by_arguments_and_who_speaks_of_miners_is_not() -> Outcome {
    let scene = Scene::begin()?;
    for (program, name) in [
        ("/usr/bin/curl", "curl"),
        ("/usr/bin/grep", "grep"),
        ("/bin/dash", "sh"),
    ] {
        scene.copy(program, &format!("{HONEST}/{name}"))?;
    }
    scene.must(&format!(
        "cd {HONEST}
        ./curl -s -o /dev/null http://10.0.0.12/xmrig-6.tar.gz
        echo 'pools: stratum+tcp://pool.example:3333' > notes
        ./grep -rn -e xmrig -e stratum+tcp:// notes
        ./sh -c 'echo how to block --donate-level and stratum+tcp://pool.example:3333' > /dev/null"
    ))?;
    // Neither has much to say to a web server, but both connect.
    scene.copy("/usr/bin/nc", &format!("{ATTACKS}/xmrig"))?;
    scene.run(&format!("echo | {ATTACKS}/xmrig -w 5 -N 10.0.0.12 80"))?;
    scene.is_told("miner", &format!("{ATTACKS}/xmrig"))?;
    let connects = "import socket; socket.create_connection(('10.0.0.12', 80))";
    for (name, arguments) in [
        ("pool", ["-o", "stratum+tcp://10.0.0.12:80"]),
        ("kworker", ["-t", "--donate-level=1"]),
    ] {
        let program = format!("{ATTACKS}/{name}");
        scene.python(&program, connects, &arguments)?.wait()?;
        scene.is_told("miner", &program)?;
    }
    scene.honest_work_is_not(&[])
}

/// Waits to be told, then connects.
const WAITS: &str = "import os, socket, time
open('/tmp/victim.pid', 'w').write(str(os.getpid()))
while not os.path.exists('/tmp/victim.go'): time.sleep(0.3)
socket.create_connection(('10.0.0.12', 80))";

/// A setuid program that gives root up, takes it back, and connects with either.
const GIVES_UP: &str = "import os, socket
assert os.geteuid() == 0 and os.getuid() == 1000
for n in range(2):
    os.seteuid(1000); socket.create_connection(('10.0.0.12', 80))
    os.seteuid(0); socket.create_connection(('10.0.0.12', 80))
if os.fork() == 0:
    socket.create_connection(('10.0.0.12', 80)); os._exit(0)
os.wait()
os.setresuid(1000, 1000, 1000); socket.create_connection(('10.0.0.12', 80))";

#[test]
#[ignore = "needs a rig: cargo xtask test"]
fn who_is_made_root_is_told_and_who_may_become_it_is_not() -> Outcome {
    let scene = Scene::begin()?;
    let tamper = programs::example(scene.mesh.0.xen(), "vmi-xen", "tamper", &Progress::new(true))?;
    scene.mesh.0.push(&tamper, "dom0", "/tmp/tamper")?;
    let setuid = format!("{HONEST}/setuid");
    scene.copy("/usr/bin/python3", &setuid)?;
    scene.mesh.0.write(
        "web1",
        &format!("{HONEST}/gives-up.py"),
        0o644,
        GIVES_UP.as_bytes(),
    )?;
    scene.must(&format!(
        "chmod 4755 {setuid}; chmod 755 {HONEST}
        su app -c '{setuid} {HONEST}/gives-up.py' || exit 1
        su app -c 'passwd --status; ping -c 1 -W 5 10.0.0.12; mount; su --version' > /dev/null || exit 2
        setpriv --reuid app --regid app --clear-groups curl -s -o /dev/null http://10.0.0.12/ || exit 3"
    ))?;

    scene.must("rm -f /tmp/victim.*")?;
    let victim = format!("{ATTACKS}/victim");
    scene.link_python(&victim)?;
    let as_app = [
        "setpriv",
        "--reuid",
        "app",
        "--regid",
        "app",
        "--clear-groups",
        &victim,
        "-c",
        WAITS,
    ];
    let job = scene.mesh.0.spawn("web1", &as_app, xmesh_rig::Discard)?;
    scene
        .mesh
        .wait("it runs", |_| scene.run("test -s /tmp/victim.pid"))?;
    let pid = scene.mesh.0.check("web1", &["cat", "/tmp/victim.pid"])?;
    let domid = scene.mesh.domain("web1")?["id"].to_string();
    scene
        .mesh
        .0
        .check("dom0", &["/tmp/tamper", "root", &domid, pid.trim()])?;
    scene.must("touch /tmp/victim.go")?;
    assert_eq!(job.wait()?, 0);
    scene.is_told("privilege", &victim)?;
    let privilege = scene.threats("web1")?;
    let privilege: Vec<_> = privilege
        .iter()
        .filter(|threat| threat["rule"] == "privilege")
        .collect();
    assert_eq!(privilege.len(), 1, "{privilege:#?}");
    scene.honest_work_is_not(&[])
}
