// SPDX-License-Identifier: GPL-3.0-only
//! `kexec KERNEL INITRAMFS`: boots that kernel in place of the one that runs, at once and with the same command line.

use std::ffi::{c_char, c_int, c_long};
use std::fs::{File, read_to_string};
use std::os::fd::AsRawFd;

/// linux/reboot.h
const MAGIC: [c_long; 2] = [0xfee1_dead, 672_274_793];
const CMD_KEXEC: c_long = 0x4558_4543;
/// asm/unistd_64.h
const KEXEC_FILE_LOAD: c_long = 320;
const REBOOT: c_long = 169;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut open = || File::open(arguments.next().expect("kexec KERNEL INITRAMFS")).expect("it can be read");
    let (kernel, initramfs) = (open(), open());
    let line = format!("{}\0", read_to_string("/proc/cmdline").expect("/proc is mounted").trim());
    let none: c_long = 0;
    // SAFETY: the descriptors are open, and the length is that of the string with its end.
    let loaded = unsafe {
        let (kernel, initramfs): (c_int, c_int) = (kernel.as_raw_fd(), initramfs.as_raw_fd());
        syscall(KEXEC_FILE_LOAD, kernel, initramfs, line.len(), line.as_ptr().cast::<c_char>(), none)
    };
    assert_eq!(loaded, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: it takes no pointers for this command.
    unsafe { syscall(REBOOT, MAGIC[0], MAGIC[1], CMD_KEXEC, none) };
    panic!("{}", std::io::Error::last_os_error());
}
