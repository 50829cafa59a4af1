// SPDX-License-Identifier: GPL-3.0-only
//! Which threads go first where there are fewer CPUs than work.
//!
//! A guest's vCPU is held while its trap is served. What the trap sets off (facts to the enforcer, a process to look at) wakes other threads,
//! and these must not run while it waits.

/// Of threads that serve traps: a nice value, as setpriority(2) has it.
pub const TRAPS: i32 = -15;
/// Of threads that nobody waits for.
pub const BACKGROUND: i32 = 5;

/// Sets the calling thread's. Where that is not allowed it stays as it is: all works, later.
pub fn of_this_thread(nice: i32) {
    // SAFETY: no memory is passed. 0 is the calling thread: in Linux a nice value is a thread's (setpriority(2), "C library/kernel
    // differences").
    let set = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    if set != 0 {
        log::debug!("nice {nice}: {}", std::io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_s_priority_is_its_own() {
        let nice = || {
            // The 19th field (proc_pid_stat(5)), the 17th behind the name.
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("a thread");
            let rest = stat
                .rsplit(')')
                .next()
                .expect("what is behind the name")
                .to_owned();
            rest.split_whitespace().nth(16).expect("a nice value").to_owned()
        };
        let before = nice();
        let there = std::thread::spawn(move || {
            of_this_thread(7);
            nice()
        });
        assert_eq!(there.join().expect("ends"), "7");
        assert_eq!(nice(), before);
    }
}
