// SPDX-License-Identifier: GPL-3.0-only
//! What a rootkit does to a kernel, done to the memory of a real one: each
//! forgery is found and named, and the untouched kernel accuses nobody.

use std::cell::RefCell;

use vmi_xen::integrity::{Checker, Finding, Report, Severity};
use vmi_xen::kernel::Kernel;
use vmi_xen::linux::{Linux, Module, ModuleView, Process, Socket, View};
use vmi_xen::memory::{CpuState, Dump, MemoryError, PhysicalMemory};

use crate::kernels::{Loaded, selected};

/// A dump with some bytes replaced.
pub struct Overlay<'a> {
    dump: &'a Dump,
    patches: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<'a> Overlay<'a> {
    pub fn new(dump: &'a Dump) -> Self {
        let patches = RefCell::default();
        Self { dump, patches }
    }

    /// Replaces bytes at a guest-physical address.
    pub fn patch(&self, pa: u64, bytes: &[u8]) {
        self.patches.borrow_mut().push((pa, bytes.to_vec()));
    }
}

impl PhysicalMemory for Overlay<'_> {
    fn read_phys(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.dump.read_phys(pa, buf)?;
        for (start, bytes) in self.patches.borrow().iter() {
            for (byte, at) in bytes.iter().zip(*start..) {
                if let Some(offset) = at.checked_sub(pa)
                    && let Some(place) = buf.get_mut(offset as usize)
                {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }
}

/// A guest whose memory the test can write.
struct Victim<'a> {
    linux: Linux<Overlay<'a>>,
    cpus: Vec<CpuState>,
}

impl<'a> Victim<'a> {
    fn new(loaded: &'a Loaded) -> Self {
        let dump = &loaded.dump;
        let overlay = Overlay::new(dump);
        let kernel = Kernel::find(&overlay, dump.cpus()).expect("a sound dump");
        // QEMU's dumps lack LSTAR, which a live domain has.
        let lstar = loaded.truth.symbol("entry_SYSCALL_64");
        let cpus = dump.cpus().iter().map(|&cpu| CpuState { lstar, ..cpu });
        Self {
            cpus: cpus.collect(),
            linux: Linux::new(overlay, kernel),
        }
    }

    fn check(&self, checker: &mut Checker) -> Report {
        checker.check(&self.linux, &self.cpus, &|_| false)
    }

    /// What a checker that never saw this guest before finds.
    fn findings(&self) -> Vec<Finding> {
        self.check(&mut Checker::default()).findings
    }

    fn write(&self, va: u64, bytes: &[u8]) {
        let kernel = self.linux.kernel();
        // Never more than a page holds: structures are contiguous, pages are not.
        for (at, byte) in (va..).zip(bytes) {
            let pa = kernel.space.translate(self.linux.memory(), at).expect("mapped");
            self.linux.memory().patch(pa, &[*byte]);
        }
    }

    fn write_u64(&self, va: u64, value: u64) {
        self.write(va, &value.to_le_bytes());
    }

    fn read_u64(&self, va: u64) -> u64 {
        let kernel = self.linux.kernel();
        kernel.space.read_u64(self.linux.memory(), va).expect("mapped")
    }

    fn heal(&self) {
        self.linux.memory().patches.borrow_mut().clear();
    }

    fn symbol(&self, name: &str) -> u64 {
        let found = self.linux.kernel().symbols.address(name);
        found.unwrap_or_else(|| panic!("no symbol {name}"))
    }

    /// What list_del() does.
    fn unlink(&self, link: u64) {
        let (next, prev) = (self.read_u64(link), self.read_u64(link + 8));
        self.write_u64(prev, next);
        self.write_u64(next + 8, prev);
    }

    fn process(&self, pick: impl Fn(&Process) -> bool) -> Process {
        let processes = self.linux.processes().expect("processes");
        processes.into_iter().find(|p| pick(p)).expect("such a process")
    }

    fn module(&self, name: &str) -> Module {
        let (modules, _) = self.linux.modules().expect("modules");
        modules
            .into_iter()
            .find(|module| module.name == name)
            .expect("such a module")
    }

    /// Takes a process off the task list, out of the table of PIDs and from its
    /// parent's children.
    fn hide(&self, process: &Process) {
        let layout = &self.linux.kernel().layout;
        let task = process.task.0;
        self.unlink(task + layout.task.as_ref().expect("tasks").tasks);
        self.unlink(task + layout.kinship.as_ref().expect("children").sibling);
        let pid = self.read_u64(task + layout.pid_namespace.as_ref().expect("PIDs").thread_pid);
        self.write_u64(pid + layout.pid_table.as_ref().expect("PIDs").pid_tasks, 0);
    }

    /// The socket that listens, or receives, at a port.
    fn socket(&self, port: u16) -> Socket {
        let mut sockets = self.linux.hashed_sockets().expect("sockets").into_iter();
        let found = sockets.find(|socket| socket.local.port() == port && socket.remote.is_none());
        found.expect("such a socket")
    }

    /// An address in the code of a module.
    fn module_code(&self) -> u64 {
        self.module("overlay").memory[0].start + 0x40
    }
}

/// The only finding.
fn only(mut findings: Vec<Finding>) -> Finding {
    assert_eq!(findings.len(), 1, "{findings:#?}");
    findings.remove(0)
}

fn call(from: u64, to: u64, opcode: u8) -> [u8; 5] {
    let distance = (to.wrapping_sub(from + 5) as i64) as i32;
    let mut bytes = [opcode, 0, 0, 0, 0];
    bytes[1..].copy_from_slice(&distance.to_le_bytes());
    bytes
}

fn each(test: impl Fn(&Victim<'_>)) {
    for kernel in selected() {
        let loaded = kernel.load();
        test(&Victim::new(&loaded));
    }
}

#[test]
fn an_untouched_kernel_accuses_nobody() {
    each(|victim| {
        let mut checker = Checker::default();
        for round in 0..2 {
            let report = victim.check(&mut checker);
            let release = &victim.linux.kernel().release;
            assert_eq!(report.findings, [], "{release}");
            assert!(report.unchecked.is_empty(), "{release}: {:?}", report.unchecked);
            // And it did look.
            let extent = report.extent;
            assert!(extent.tasks > 50 && extent.modules == 2, "{extent:?}");
            assert!(extent.sockets > 30, "{extent:?}");
            assert!(extent.system_calls > 400 && extent.gates > 200, "{extent:?}");
            assert_eq!(extent.registers, victim.cpus.len());
            assert!(extent.sites > 30_000 && extent.operations > 500, "{extent:?}");
            assert!(extent.text > 8 << 20, "{extent:?}");
            assert_eq!(extent.functions > 30_000, round == 1, "{extent:?}");
        }
    });
}

#[test]
fn a_hidden_process_is_named() {
    each(|victim| {
        let tasks = victim.linux.kernel().layout.task.as_ref().expect("tasks").tasks;
        let process = victim.process(|p| p.comm == "sleep");
        victim.unlink(process.task.0 + tasks);
        let shown = victim.linux.processes().expect("processes");
        assert!(shown.iter().all(|p| p.pid != process.pid), "it hides");
        let finding = only(victim.findings());
        let Finding::HiddenTask(task) = &finding else {
            panic!("{finding}")
        };
        assert!(task.is_process());
        assert_eq!((task.pid, task.comm.as_str()), (process.pid, "sleep"));
        assert_eq!(task.missing_in.iter().collect::<Vec<_>>(), [View::TaskList]);
        assert!(task.seen_in.has(View::PidTable) && task.seen_in.has(View::Children));
        assert_eq!(
            (finding.kind(), finding.severity()),
            ("hidden-process", Severity::Alert)
        );

        // A rootkit that also knows the table of PIDs.
        let layout = &victim.linux.kernel().layout;
        let thread_pid = layout.pid_namespace.as_ref().expect("PIDs").thread_pid;
        let pid_tasks = layout.pid_table.as_ref().expect("PIDs").pid_tasks;
        let pid = victim.read_u64(process.task.0 + thread_pid);
        victim.write_u64(pid + pid_tasks, 0);
        let finding = only(victim.findings());
        let Finding::HiddenTask(task) = &finding else {
            panic!("{finding}")
        };
        assert_eq!(task.pid, process.pid);
        let missing: Vec<View> = task.missing_in.iter().collect();
        assert_eq!(missing, [View::TaskList, View::PidTable]);

        // And its parent's children, but something must run: it is found while
        // it does.
        victim.heal();
        let runs = victim.process(|p| p.comm == "yes");
        victim.hide(&runs);
        let finding = only(victim.findings());
        let Finding::HiddenTask(task) = &finding else {
            panic!("{finding}")
        };
        assert_eq!((task.pid, task.comm.as_str()), (runs.pid, "yes"));
        assert!(task.seen_in.has(View::RunQueue), "{finding}");
    });
}

#[test]
fn a_process_on_no_list_is_named_by_the_socket_it_sleeps_on() {
    each(|victim| {
        // It waits in accept(2).
        let process = victim.process(|p| p.comm == "nc");
        let found = || {
            victim.hide(&process);
            let findings = victim.findings();
            let [Finding::HiddenTask(task), Finding::UnheldSocket(unheld)] = &findings[..] else {
                panic!("{findings:#?}")
            };
            assert_eq!((task.pid, task.comm.as_str()), (process.pid, "nc"));
            // By the last its own lists were found.
            let seen: Vec<View> = task.seen_in.iter().collect();
            assert_eq!(seen, [View::ThreadList, View::Leader, View::SocketWait]);
            let missing: Vec<View> = task.missing_in.iter().collect();
            assert_eq!(missing, [View::TaskList, View::PidTable, View::Children]);
            assert_eq!(unheld.socket.local.port(), 7005);
            assert_eq!(unheld.holder, Some(process.pid));
            assert_eq!(findings[1].severity(), Severity::Alert);
        };
        found();

        // The same by poll(2) and by epoll: what would be in the queue then.
        let layout = &victim.linux.kernel().layout;
        let wait = layout.socket_wait.as_ref().expect("wait queues");
        let queue = victim.read_u64(victim.socket(7005).sk + wait.sk_wq) + wait.queue;
        let entry = victim.read_u64(queue) - wait.entry;
        let room = victim.module("dummy").memory[0].start + 0x100;
        victim.heal();
        victim.write_u64(entry + wait.func, victim.symbol("pollwake"));
        victim.write_u64(entry + wait.private, room);
        let polling_task = layout.poll.as_ref().expect("poll").task;
        victim.write_u64(room + polling_task, process.task.0);
        found();

        let epoll = layout.epoll.as_ref().expect("epoll");
        for instances_queue in [epoll.wq, epoll.poll_wait] {
            victim.heal();
            victim.write(room, &[0; 0x800]);
            let (told, item, instance) = (room, room + 0x200, room + 0x400);
            // The socket tells the instance, and the process waits there.
            let wait_of_told = told + epoll.wait + wait.entry;
            victim.write_u64(told + epoll.wait + wait.func, victim.symbol("ep_poll_callback"));
            victim.write_u64(told + epoll.base, item);
            victim.write_u64(item + epoll.ep, instance);
            for (head, link) in [
                (queue, wait_of_told),
                (instance + instances_queue, entry + wait.entry),
            ] {
                victim.write_u64(head, link);
                victim.write_u64(head + 8, link);
                victim.write_u64(link, head);
                victim.write_u64(link + 8, head);
            }
            found();
        }
    });
}

#[test]
fn a_socket_that_no_listed_process_holds_is_told() {
    each(|victim| {
        // It has connections and sleeps elsewhere, so that nothing leads to it.
        let process = victim.process(|p| p.args.get(1).is_some_and(|arg| arg == "connect"));
        let held = victim.linux.sockets_of(process.task).expect("sockets");
        let mut held: Vec<u64> = held.iter().map(|(_, socket)| socket.sk).collect();
        victim.hide(&process);
        let findings = victim.findings();
        assert_eq!((findings.len(), held.len()), (2, 2), "{findings:#?}");
        for finding in &findings {
            let Finding::UnheldSocket(unheld) = finding else {
                panic!("{finding}")
            };
            held.retain(|&sk| sk != unheld.socket.sk);
            assert_eq!((unheld.holder, finding.severity()), (None, Severity::Warning));
            assert!(finding.to_string().contains("(ESTAB)"), "{finding}");
        }
        assert!(held.is_empty(), "each once");

        // In another state (CLOSE-WAIT) at another look it is the same finding.
        let mut report = victim.check(&mut Checker::default());
        let state = victim.linux.kernel().layout.sock.as_ref().expect("sockets").state;
        let Finding::UnheldSocket(unheld) = &findings[0] else {
            unreachable!()
        };
        victim.write(unheld.socket.sk + state, &[8]);
        let again = victim.check(&mut Checker::default());
        assert_ne!(report.findings, again.findings);
        report.confirm(&again);
        assert_eq!(report.findings.len(), 2);
    });
}

#[test]
fn sockets_with_an_honest_reason_accuse_nobody() {
    each(|victim| {
        let layout = &victim.linux.kernel().layout;
        let files = layout.file.as_ref().expect("files").files;
        // Descriptors of threads that their leader has not.
        let server = victim.process(|p| p.args.contains(&"127.0.0.1:7001".into()) && p.args[1] == "serve");
        let elsewhere = victim.read_u64(victim.process(|p| p.comm == "sleep").task.0 + files);
        victim.write_u64(server.task.0 + files, elsewhere);
        assert_eq!(victim.findings(), []);

        // The kernel's own, with a file and without one; who has the descriptor
        // does not count then.
        let taken = |forge: &dyn Fn(&Socket)| {
            victim.heal();
            let process = victim.process(|p| p.comm == "nc");
            victim.write_u64(process.task.0 + files, elsewhere);
            assert_eq!(only(victim.findings()).kind(), "unheld-socket");
            forge(&victim.socket(7005));
            assert_eq!(victim.findings(), []);
        };
        let is_kernels = layout.kernel_socket.as_ref().expect("the kernel's").is_kernels;
        let shift = is_kernels.bits.expect("a bit").shift;
        taken(&|socket| {
            let byte = victim.read_u64(socket.sk + is_kernels.offset) as u8;
            victim.write(socket.sk + is_kernels.offset, &[byte | 1 << shift]);
        });
        let inode = layout.socket_inode.as_ref().expect("inodes");
        taken(&|socket| {
            let side = victim.read_u64(socket.sk + inode.sk_socket);
            victim.write_u64(side + inode.file, 0);
        });
        taken(&|socket| victim.write_u64(socket.sk + inode.sk_socket, 0));
    });
}

#[test]
fn a_task_that_says_it_dies_has_one_check_to_do_so() {
    each(|victim| {
        let layout = &victim.linux.kernel().layout;
        let tasks = layout.task.as_ref().expect("tasks").tasks;
        let exit_state = layout.kinship.as_ref().expect("children").exit_state;
        let process = victim.process(|p| p.comm == "sleep");
        victim.unlink(process.task.0 + tasks);
        // EXIT_DEAD
        victim.write(process.task.0 + exit_state, &[0x10]);
        let mut checker = Checker::default();
        assert_eq!(victim.check(&mut checker).findings, []);
        let finding = only(victim.check(&mut checker).findings);
        assert_eq!(finding.kind(), "hidden-process");
    });
}

#[test]
fn a_hidden_thread_is_named() {
    each(|victim| {
        let layout = &victim.linux.kernel().layout;
        let node = layout.thread.as_ref().expect("threads").thread_node;
        let processes = victim.linux.processes().expect("processes");
        let threads = processes
            .iter()
            .map(|p| victim.linux.threads(p.task).expect("threads"))
            .find(|threads| threads.len() > 2)
            .expect("a process of several threads");
        victim.unlink(threads[1].0 + node);
        let finding = only(victim.findings());
        let Finding::HiddenTask(task) = &finding else {
            panic!("{finding}")
        };
        assert_eq!((task.task, task.leader), (threads[1], threads[0]));
        assert_eq!(finding.kind(), "hidden-thread");
    });
}

#[test]
fn a_hidden_module_is_named() {
    each(|victim| {
        let layout = &victim.linux.kernel().layout;
        let list = layout.module.as_ref().expect("modules").list;
        let module = victim.module("dummy");
        victim.unlink(module.at + list);
        let finding = only(victim.findings());
        let Finding::HiddenModule {
            name,
            at,
            seen_in,
            missing_in,
        } = &finding
        else {
            panic!("{finding}")
        };
        assert_eq!((name.as_str(), *at), ("dummy", module.at));
        assert_eq!(missing_in, &[ModuleView::List]);
        assert_eq!(seen_in, &[ModuleView::Sysfs, ModuleView::AddressTree]);
    });
}

#[test]
fn a_hooked_system_call_is_named() {
    each(|victim| {
        // getdents64, which rootkits that hide files hook.
        let entry = victim.symbol("sys_call_table") + 217 * 8;
        for target in [
            victim.module_code(),
            victim.symbol("do_exit"),
            victim.read_u64(entry) + 4,
        ] {
            victim.heal();
            victim.write_u64(entry, target);
            let finding = only(victim.findings());
            let Finding::SystemCall {
                table,
                number,
                target: found,
            } = &finding
            else {
                panic!("{finding}")
            };
            assert_eq!((*table, *number, found.address), ("sys_call_table", 217, target));
        }
        victim.heal();
        victim.write_u64(entry, victim.module_code());
        assert!(only(victim.findings()).to_string().contains("module overlay"));
    });
}

#[test]
fn a_hooked_entry_of_the_kernel_is_named() {
    for kernel in selected() {
        let loaded = kernel.load();
        let mut victim = Victim::new(&loaded);
        let last = victim.cpus.len() - 1;
        victim.cpus[last].lstar = victim.module_code();
        let finding = only(victim.findings());
        assert_eq!(finding.kind(), "kernel-entry");
        assert!(
            finding.to_string().starts_with(&format!("vCPU {last} ")),
            "{finding}"
        );

        victim.cpus[last].lstar = victim.symbol("entry_SYSCALL_64");
        victim.cpus[last].idt_base = victim.symbol("init_task") & !0xfff;
        assert_eq!(only(victim.findings()).kind(), "interrupt-table");
    }
}

#[test]
fn a_hooked_interrupt_is_named() {
    each(|victim| {
        // The page fault's gate: the handler's address is in three parts.
        let gate = victim.symbol("idt_table") + 14 * 16;
        let target = victim.module_code();
        victim.write(gate, &(target as u16).to_le_bytes());
        victim.write(gate + 6, &((target >> 16) as u16).to_le_bytes());
        victim.write(gate + 8, &((target >> 32) as u32).to_le_bytes());
        let finding = only(victim.findings());
        let Finding::Gate {
            vector,
            target: found,
        } = &finding
        else {
            panic!("{finding}")
        };
        assert_eq!((*vector, found.address), (14, target));
    });
}

#[test]
fn a_changed_byte_of_text_is_found_and_its_function_named() {
    each(|victim| {
        let mut checker = Checker::default();
        assert_eq!(victim.check(&mut checker).findings, []);
        let function = victim.symbol("tcp_v4_rcv");
        let byte = victim.read_u64(function + 0x33) as u8;
        victim.write(function + 0x33, &[!byte]);
        let finding = only(victim.check(&mut checker).findings);
        let Finding::TextChanged {
            function: found,
            probed,
            ..
        } = &finding
        else {
            panic!("{finding}")
        };
        assert_eq!((found.address, *probed), (function, false));
        assert!(finding.to_string().contains("tcp_v4_rcv"), "{finding}");
        // Told as long as it lasts, and no longer.
        assert_eq!(only(victim.check(&mut checker).findings), finding);
        victim.heal();
        assert_eq!(victim.check(&mut checker).findings, []);
    });
}

#[test]
fn hooks_at_the_places_that_the_kernel_patches_are_told_from_honest_ones() {
    each(|victim| {
        let function = victim.symbol("tcp4_seq_show");
        // Behind ENDBR64, where the kernel is built with it.
        let endbr = victim.read_u64(function) as u32 == 0xfa1e_0ff3;
        let place = function + if endbr { 4 } else { 0 };
        let hook = |target: u64, opcode: u8| {
            victim.heal();
            victim.write(place, &call(place, target, opcode));
            only(victim.findings())
        };
        let honest = hook(victim.symbol("ftrace_caller"), 0xe8);
        assert_eq!((honest.kind(), honest.severity()), ("traced", Severity::Notice));
        let module = hook(victim.module_code(), 0xe8);
        assert_eq!((module.kind(), module.severity()), ("traced", Severity::Warning));
        assert!(module.to_string().contains("tcp4_seq_show"), "{module}");
        for target in [victim.symbol("do_exit"), victim.symbol("_text") - 0x10_0000] {
            for opcode in [0xe8, 0xe9] {
                let finding = hook(target, opcode);
                assert_eq!(
                    (finding.kind(), finding.severity()),
                    ("patch-site", Severity::Alert)
                );
            }
        }
        victim.heal();
        victim.write(place, &[0xcc]);
        assert_eq!(only(victim.findings()).kind(), "patch-site");
        // The engine's own breakpoint is no finding.
        let report = Checker::default().check(&victim.linux, &victim.cpus, &|va| va == place);
        assert_eq!(report.findings, []);

        // A static key's branch that leads elsewhere.
        victim.heal();
        let table = victim.symbol("__start___jump_table");
        let text = victim.symbol("_stext")..victim.symbol("_etext");
        let site = (0..)
            .map(|index| table + index * 16)
            .map(|entry| entry.wrapping_add_signed(i64::from(victim.read_u64(entry) as i32)))
            .find(|site| text.contains(site))
            .expect("a static key");
        victim.write(site, &call(site, victim.symbol("do_exit"), 0xe9));
        let finding = only(victim.findings());
        assert_eq!(
            (finding.kind(), finding.severity()),
            ("patch-site", Severity::Alert)
        );
    });
}

#[test]
fn detours_and_operations_are_found_without_having_seen_the_kernel_before() {
    each(|victim| {
        // Assembly, so no place that the kernel patches.
        let function = victim.symbol("entry_SYSCALL_64");
        let mut jump = vec![0x48, 0xb8];
        jump.extend(victim.module_code().to_le_bytes());
        jump.extend([0xff, 0xe0]);
        victim.write(function, &jump);
        let findings = victim.findings();
        let detour = findings.iter().find(|finding| finding.kind() == "detour");
        let Some(Finding::Detour {
            function: found,
            target,
        }) = detour
        else {
            panic!("{findings:#?}")
        };
        assert_eq!((found.address, target.address), (function, victim.module_code()));

        victim.heal();
        // show, the last of the four operations of a sequence file.
        victim.write_u64(victim.symbol("tcp4_seq_ops") + 24, victim.module_code());
        let finding = only(victim.findings());
        let Finding::Operations {
            table,
            offset,
            target,
        } = &finding
        else {
            panic!("{finding}")
        };
        assert_eq!((table.as_str(), *offset), ("tcp4_seq_ops", 24));
        assert_eq!(target.address, victim.module_code());
    });
}

#[test]
fn users_of_ftrace_and_kernel_probes_are_told() {
    each(|victim| {
        let layout = &victim.linux.kernel().layout;
        // Room for a structure: data of a module that nothing else reads here.
        let room = victim.module("dummy").memory[0].start + 0x100;
        victim.write(room, &[0; 0x200]);
        let ftrace = layout.ftrace.as_ref().expect("ftrace");
        victim.write_u64(room + ftrace.ops_func, victim.module_code());
        victim.write_u64(room + ftrace.ops_next, victim.symbol("ftrace_list_end"));
        victim.write_u64(victim.symbol("ftrace_ops_list"), room);
        let finding = only(victim.findings());
        assert_eq!(
            (finding.kind(), finding.severity()),
            ("tracer", Severity::Warning)
        );
        assert!(finding.to_string().contains("module overlay"), "{finding}");

        victim.heal();
        victim.write(room, &[0; 0x200]);
        let kprobe = layout.kprobe.as_ref().expect("kprobes");
        let place = victim.symbol("tcp_v4_rcv") + 0x33;
        victim.write_u64(room + kprobe.addr, place);
        victim.write_u64(room + kprobe.pre_handler, 0xffff_8880_dead_0000);
        victim.write_u64(victim.symbol("kprobe_table") + 5 * 8, room + kprobe.hlist);
        let finding = only(victim.findings());
        assert_eq!((finding.kind(), finding.severity()), ("kprobe", Severity::Alert));
        assert!(finding.to_string().contains("tcp_v4_rcv+0x33"), "{finding}");
    });
}

/// kexec to a kernel of the same version, which lies where this one does.
#[test]
fn a_kernel_whose_ticks_begin_anew_has_booted_again() {
    each(|victim| {
        let at = victim.symbol("jiffies_64");
        let ticks = victim.read_u64(at);
        let same = |ticks: u64| {
            victim.write_u64(at, ticks);
            victim.linux.is_same_boot()
        };
        assert!(
            same(ticks) && same(ticks),
            "a guest that does nothing may not tick"
        );
        assert!(same(ticks + 250));
        assert!(!same(ticks), "they never go back");
        assert!(
            same(ticks + 1),
            "the kernel that is there now is told from the next"
        );
        let banner = victim.symbol("linux_banner");
        victim.write(banner, b"Another");
        assert!(!victim.linux.is_same_boot());
    });
}
