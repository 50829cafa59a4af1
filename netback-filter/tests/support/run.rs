// SPDX-License-Identifier: GPL-3.0-only
//! Programs run by the kernel itself (BPF_PROG_TEST_RUN), without wire or stack. Their packets come from the loopback device.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

const BPF_PROG_TEST_RUN: i32 = 10;

/// The part of `union bpf_attr` for a test run.
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// A loaded program.
pub struct Program(OwnedFd);

/// What a run gave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ran {
    /// Average time of one run.
    pub ns: u32,
    /// The program's return value.
    pub action: i32,
}

impl Program {
    /// The one of this name that was loaded last.
    pub fn latest(name: &str) -> Program {
        let ours = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .filter(|p| p.name_as_str() == Some(name))
            .max_by_key(|p| p.id());
        let fd = ours.expect("a loaded program").fd().unwrap();
        Program(fd.as_fd().try_clone_to_owned().unwrap())
    }

    /// Runs it `repeat` times on a frame; none where the kernel makes no packet of it, as where it is shorter than a header.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Option<Ran> {
        self.run_into(frame, repeat, &mut Vec::new())
    }

    /// The same; what the frame has become is put in `out`, as far as that has room.
    pub fn run_into(&self, frame: &[u8], repeat: u32, out: &mut Vec<u8>) -> Option<Ran> {
        out.clear();
        let mut attr = TestRunAttr {
            prog_fd: self.0.as_raw_fd() as u32,
            data_size_in: frame.len() as u32,
            data_size_out: out.capacity() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: if out.capacity() == 0 {
                0
            } else {
                out.as_mut_ptr() as u64
            },
            repeat,
            ..TestRunAttr::default()
        };
        // SAFETY: `attr` lives through the call and has the size given; `data_in` points to a frame of the size given,
        // which the kernel only reads, and `data_out` to room of the size given, or is null.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut attr,
                size_of::<TestRunAttr>(),
            )
        };
        if result != 0 {
            return None;
        }
        let length = (attr.data_size_out as usize).min(out.capacity());
        // SAFETY: the kernel wrote so many bytes, and they fit.
        unsafe { out.set_len(length) };
        Some(Ran {
            ns: attr.duration,
            action: attr.retval as i32,
        })
    }
}

/// Instructions of the program of this name that was loaded last, and how many the verifier followed.
pub fn program_sizes(name: &str) -> (u32, u32) {
    let ours = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .filter(|p| p.name_as_str() == Some(name))
        .max_by_key(|p| p.id());
    let program = ours.expect("a loaded program");
    (
        program.size_translated().unwrap_or(0) / 8,
        program.verified_instruction_count().unwrap_or(0),
    )
}
