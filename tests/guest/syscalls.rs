// SPDX-License-Identifier: GPL-3.0-only
//! A program that makes a known mix of system calls: what `xmesh trace` and strace must tell alike. Compiled by
//! itself, without the standard library, so that it makes no call but these; statically, at low addresses, so that its
//! data can be named in a 32-bit call.
//!
//! With an argument it also makes calls by `int 0x80`.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};
use core::panic::PanicInfo;

// The stack at the start holds the number of arguments.
global_asm!(".globl _start", "_start:", "mov rdi, [rsp]", "and rsp, -16", "call main", "ud2");

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// The compiler wants these, and there is no library to have them.
#[unsafe(no_mangle)]
extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the compiler calls it for memory of its own.
    unsafe { asm!("rep stosb", inout("rdi") to => _, inout("rcx") len => _, in("al") byte as u8) };
    to
}

/// See `memset`.
#[unsafe(no_mangle)]
extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the compiler calls it for memory of its own.
    unsafe { asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _) };
    to
}

/// A call of the 64-bit ABI.
fn call<const N: usize>(number: usize, args: [usize; N]) -> isize {
    let arg = |index: usize| args.get(index).copied().unwrap_or(0);
    let result;
    // SAFETY: each call below is given what it takes, in memory that lives until it returns.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") arg(0), in("rsi") arg(1), in("rdx") arg(2),
            in("r10") arg(3), in("r8") arg(4), in("r9") arg(5), lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// A call of the 32-bit ABI.
fn call32(number: u32, args: [u32; 3]) -> i32 {
    let result: i32;
    // SAFETY: as above; rbx belongs to the compiler and is put back.
    unsafe {
        asm!("xchg rbx, {first}", "int 0x80", "xchg rbx, {first}", first = inout(reg) u64::from(args[0]) => _,
            inlateout("eax") number => result, in("ecx") args[1], in("edx") args[2],
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}

fn at<T: ?Sized>(value: &T) -> usize {
    core::ptr::from_ref(value).cast::<u8>() as usize
}

const AT_FDCWD: usize = -100isize as usize;

#[repr(C)]
struct In4 {
    family: u16,
    port: u16,
    ip: [u8; 4],
    zero: [u8; 8],
}

#[repr(C)]
struct In6 {
    family: u16,
    port: u16,
    flow: u32,
    ip: [u8; 16],
    scope: u32,
}

#[repr(C)]
struct MsgHdr {
    name: usize,
    name_len: usize,
    iov: usize,
    iov_len: usize,
    control: usize,
    control_len: usize,
    flags: usize,
}

static REFUSED: In4 = In4 { family: 2, port: 9u16.to_be(), ip: [127, 0, 0, 1], zero: [0; 8] };
static LISTEN: In4 = In4 { family: 2, port: 4711u16.to_be(), ip: [127, 0, 0, 1], zero: [0; 8] };
static REFUSED6: In6 = In6 { family: 10, port: 9u16.to_be(), flow: 0, ip: [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], scope: 0 };
static PATH: [u8; 23] = *b"/tmp/xmesh-syscalls.d/\0";
static FILE: [u8; 25] = *b"/tmp/xmesh-syscalls.file\0";
static NOWHERE: [u8; 20] = *b"/nonexistent/a\"b\\c\n\0";
static UNIX: [u8; 14] = *b"\x01\0/no/socket\0\0";

#[unsafe(no_mangle)]
extern "C" fn main(arguments: usize) -> ! {
    identity();
    files();
    sockets();
    descriptors();
    memory_and_signals();
    if arguments > 1 {
        narrow();
    }
    processes()
}

fn identity() {
    for _ in 0..5 {
        call(39, []); // getpid
    }
    call(102, []); // getuid
    call(95, [0o22]); // umask
    let mut limits = [0u64; 2];
    call(302, [0, 7, 0, at(&mut limits)]); // prlimit64
    let mut name = [0u8; 390];
    call(63, [at(&mut name)]); // uname
    call(157, [15, at(b"mixed\0"), 0, 0, 0]); // prctl, PR_SET_NAME
}

fn files() {
    let mut buffer = [0u8; 64];
    let mut stat = [0u64; 18];
    call(257, [AT_FDCWD, at(&NOWHERE), 0o2000000, 0]); // openat
    call(21, [at(b"/etc/passwd\0"), 4]); // access
    let file = call(257, [AT_FDCWD, at(b"/etc/passwd\0"), 0o2000000, 0]) as usize;
    call(0, [file, at(&mut buffer), 64]); // read
    call(0, [file, at(&mut buffer), 8]);
    call(8, [file, 0, 0]); // lseek
    call(3, [file]); // close
    call(3, [file]);
    let file = call(2, [at(&FILE), 0o1101, 0o640]) as usize; // open
    call(1, [file, at(b"plain\n"), 6]); // write
    call(1, [file, at(b"\x7fELF\x02\x01\x013\0\0\xff\xfe\"\\ and more of it, beyond the limit"), 46]);
    let parts = [at(b"one"), 3, at(b"two"), 3, 0, 0];
    call(20, [file, at(&parts), 3]); // writev
    call(18, [file, at(b"at 5"), 4, 5]); // pwrite64
    call(77, [file, 32]); // ftruncate
    call(91, [file, 0o600]); // fchmod
    call(5, [file, at(&mut stat)]); // fstat
    call(3, [file]);
    call(4, [at(&FILE), at(&mut stat)]); // stat
    call(262, [AT_FDCWD, at(b"/dev/null\0"), at(&mut stat), 0x100]); // newfstatat
    call(87, [at(&FILE)]); // unlink
    call(83, [at(&PATH), 0o755]); // mkdir
    call(84, [at(&PATH)]); // rmdir
    call(89, [at(b"/proc/self/exe\0"), at(&mut buffer), 4]); // readlink
    call(80, [at(b"/tmp\0")]); // chdir
    call(79, [at(&mut buffer), 64]); // getcwd
    call(16, [0x7fff, 0x5401, at(&mut buffer)]); // ioctl, TCGETS
}

fn sockets() {
    let mut one = 1u32;
    let mut length = 128u32;
    let mut address = [0u8; 128];
    let socket = call(41, [2, 0o2000001, 0]) as usize;
    call(54, [socket, 1, 2, at(&mut one), 4]); // setsockopt, SO_REUSEADDR
    call(42, [socket, at(&REFUSED), 16]); // connect
    call(3, [socket]);
    let socket = call(41, [2, 1, 6]) as usize;
    call(49, [socket, at(&LISTEN), 16]); // bind
    call(50, [socket, 5]); // listen
    call(51, [socket, at(&mut address), at(&mut length)]); // getsockname
    length = 4;
    call(55, [socket, 1, 4, at(&mut one), at(&mut length)]); // getsockopt, SO_ERROR
    length = 128;
    call(52, [socket, at(&mut address), at(&mut length)]); // getpeername
    call(3, [socket]);
    let socket = call(41, [10, 2, 0]) as usize;
    call(42, [socket, at(&REFUSED6), 28]);
    call(3, [socket]);
    let socket = call(41, [1, 1, 0]) as usize;
    call(42, [socket, at(&UNIX), 13]);
    call(3, [socket]);
    let mut pair = [0i32; 2];
    call(53, [1, 1, 0, at(&mut pair)]); // socketpair
    let [left, right] = pair.map(|fd| fd as usize);
    let parts = [at(b"over the pair"), 13];
    let message = MsgHdr { name: 0, name_len: 0, iov: at(&parts), iov_len: 1, control: 0, control_len: 0, flags: 0 };
    call(46, [left, at(&message), 0x4000]); // sendmsg
    call(45, [right, at(&mut address), 128, 0, 0, 0]); // recvfrom
    call(44, [right, at(b"back"), 4, 0x4000, 0, 0]); // sendto
    let parts = [at(&mut address), 100];
    let mut message = MsgHdr { name: 0, name_len: 0, iov: at(&parts), iov_len: 1, control: 0, control_len: 0, flags: 0 };
    call(47, [left, at(&mut message), 0]); // recvmsg
    call(48, [left, 1]); // shutdown
    let mut files = [right as u64 | 1 << 32, left as u64 | 1 << 32];
    call(7, [at(&mut files), 2, 1000]); // poll
    let mut idle = [left as u64 | 4 << 32];
    call(7, [at(&mut idle), 0, 0]);
    call(3, [left]);
    call(3, [right]);
}

fn descriptors() {
    let mut pair = [0i32; 2];
    call(293, [at(&mut pair), 0o2000000]); // pipe2
    let [reader, writer] = pair.map(|fd| fd as usize);
    call(72, [writer, 3, 0]); // fcntl, F_GETFL
    call(72, [writer, 4, 0o4001]); // F_SETFL
    call(72, [writer, 1, 0]); // F_GETFD
    call(72, [writer, 2, 0]); // F_SETFD
    call(72, [writer, 1, 0]);
    let lock = [0u64, 10, 20, 0];
    call(72, [writer, 6, at(&lock)]); // F_SETLK
    let poll = call(291, [0o2000000]) as usize; // epoll_create1
    let mut event = [1u32, 7, 0, 0, 0, 0];
    call(233, [poll, 1, reader, at(&mut event)]); // epoll_ctl
    call(1, [writer, at(b"!"), 1]);
    call(232, [poll, at(&mut event), 2, 1000]); // epoll_wait
    call(292, [reader, 77, 0o2000000]); // dup3
    for file in [reader, writer, poll, 77] {
        call(3, [file]);
    }
}

fn memory_and_signals() {
    let area = call(9, [0, 8192, 3, 0x22, usize::MAX, 0]) as usize; // mmap
    call(10, [area, 4096, 1]); // mprotect
    // Memory that nobody has touched: the path cannot be read.
    call(87, [0x10, 0, 0]);
    call(11, [area, 8192]); // munmap
    let set = [1u64 << 1 | 1 << 14];
    let mut old = [0u64];
    call(14, [0, at(&set), at(&mut old), 8]); // rt_sigprocmask
    call(14, [2, at(&old), 0, 8]);
    let ignore = [1u64, 0x1000_0000, 0, 0];
    let mut before = [0u64; 4];
    call(13, [13, at(&ignore), at(&mut before), 8]); // rt_sigaction
    let time = [0u64, 1000];
    call(35, [at(&time), 0]); // nanosleep
    call(230, [1, 0, at(&time), 0]); // clock_nanosleep
    let mut word = 0u32;
    call(202, [at(&mut word), 129, 1, 0, 0, 0]); // futex, FUTEX_WAKE_PRIVATE
    call(62, [0x3fff_fff0, 15]); // kill
    call(5000, [1, 2, 3, 0, 0, 0]);
}

/// By `int 0x80`.
fn narrow() {
    let low = |value: usize| value as u32;
    call32(20, [0; 3]); // getpid
    call32(5, [low(at(&NOWHERE)), 0, 0]); // open
    call32(33, [low(at(&FILE)), 4, 0]); // access
    let socket = call32(359, [2, 1, 0]) as u32;
    call32(362, [socket, low(at(&REFUSED)), 16]); // connect
    call32(6, [socket, 0, 0]); // close
    call32(199, [0; 3]); // getuid32
}

fn processes() -> ! {
    let child = call(56, [17, 0, 0, 0, 0]); // clone
    if child == 0 {
        call(231, [3]); // exit_group
    }
    let mut status = 0i32;
    call(61, [child as usize, at(&mut status), 0, 0]); // wait4
    let argv = [at(b"true\0"), at(b"an \"argument\"\0"), at(b"more than thirty-two bytes of argument\0"), 0];
    let envp = [at(b"A=1\0"), at(b"B=2\0"), 0];
    call(59, [at(&NOWHERE), at(&argv), at(&envp)]); // execve
    call(59, [at(b"/bin/true\0"), at(&argv), at(&envp)]);
    call(231, [1]);
    loop {}
}
