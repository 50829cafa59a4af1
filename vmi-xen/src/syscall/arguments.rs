// SPDX-License-Identifier: GPL-3.0-only
//! The arguments of one call, as text.

use std::fmt::{self, Write};

use super::kinds::{Kind, Shape};
use super::names::{self, Names};
use super::quote::{SHOWN, quote};
use super::{Abi, Signature, UserMemory, result, table};

/// A call's text is never longer than this, in bytes: two paths of 4096 bytes,
/// each escaped in octal, and room for the rest.
pub const MAX_TEXT: usize = 48 << 10;
/// Arguments that a call can have.
const MOST: usize = 6;
/// PATH_MAX of Linux.
const MAX_PATH: usize = 4096;
/// Bit of a call's number that says x32, the 64-bit ABI with short pointers.
const X32: u64 = 0x4000_0000;
/// Results of a call, or where they will be: the last span is the note.
const NOTE: usize = MOST;

/// One call, as it was made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// How it was made.
    pub abi: Abi,
    /// Its number.
    pub number: u64,
    /// What is known of it.
    pub signature: Option<&'static Signature>,
    /// Its arguments; of the 32-bit ABI the low halves.
    pub args: [u64; MOST],
}

impl Call {
    /// The call with this number and these argument registers.
    pub fn new(abi: Abi, number: u64, registers: [u64; MOST]) -> Self {
        let number = match abi {
            Abi::X64 => number & !X32,
            Abi::Ia32 => number & 0xffff_ffff,
        };
        Self {
            abi,
            number,
            signature: table::by_number(abi, number),
            args: registers.map(|register| match abi {
                Abi::X64 => register,
                Abi::Ia32 => register & 0xffff_ffff,
            }),
        }
    }

    /// The arguments as they are at the call's entry. What the kernel fills in,
    /// and what cannot be read yet, is left for [`Call::leave`].
    pub fn enter(&self, memory: &dyn UserMemory) -> Arguments {
        let mut arguments = Arguments::default();
        let moment = Moment {
            call: self,
            memory,
            result: None,
            given: None,
        };
        arguments.given = moment.length_given();
        self.tell(&moment, &mut arguments);
        arguments
    }

    /// Completes the arguments when the call has returned `result`, that is the
    /// register as the call left it.
    pub fn leave(&self, memory: &dyn UserMemory, result: u64, arguments: &mut Arguments) {
        let moment = Moment {
            call: self,
            memory,
            result: Some(result),
            given: arguments.given,
        };
        self.tell(&moment, arguments);
        let start = arguments.text.len();
        moment.note(&mut arguments.text);
        arguments.end(NOTE, start);
    }

    /// What it returned, as strace has it behind the equals sign.
    pub fn result(&self, value: u64, arguments: &Arguments) -> String {
        result::result(
            self.signature,
            self.abi,
            value,
            arguments.span(NOTE).unwrap_or(""),
        )
    }

    /// Its name; a number that this library does not know has a name like
    /// strace gives it.
    pub fn name(&self) -> String {
        match self.signature {
            Some(signature) => signature.name.to_owned(),
            None => format!("syscall_{:#x}", self.number),
        }
    }

    /// Address of the first path among its arguments; 0 if it has none.
    pub fn path(&self) -> u64 {
        let at = self.kinds().iter().position(|kind| matches!(kind, Kind::Path));
        at.map_or(0, |index| self.args[index])
    }

    fn kinds(&self) -> &'static [Kind] {
        const UNKNOWN: &[Kind] = &[Kind::Hex; MOST];
        self.signature.map_or(UNKNOWN, |signature| signature.arguments)
    }

    fn tell(&self, moment: &Moment<'_>, arguments: &mut Arguments) {
        let shape = self.signature.map_or(Shape::Plain, |signature| signature.shape);
        if shape != Shape::Plain {
            if arguments.spans[0] == Span::Pending {
                let start = arguments.text.len();
                moment.clone_by_name(shape, &mut arguments.text);
                arguments.end(0, start);
            }
            return;
        }
        for (index, kind) in self.kinds().iter().enumerate().take(MOST) {
            if arguments.spans[index] != Span::Pending {
                continue;
            }
            let start = arguments.text.len();
            match moment.argument(index, *kind, &mut arguments.text) {
                Told::Yes => arguments.end(index, start),
                Told::Omitted => arguments.spans[index] = Span::Omitted,
                Told::Later => arguments.text.truncate(start),
            }
        }
    }
}

/// Where an argument's text is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Span {
    #[default]
    Pending,
    Omitted,
    Text(u32, u32),
}

/// Arguments as text, all in one buffer: they are made while a vCPU waits.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    text: String,
    spans: [Span; MOST + 1],
    /// A length that the kernel will overwrite.
    given: Option<u32>,
}

impl Arguments {
    /// One text an argument, in order. Those that the call never told, since it
    /// did not return, are a question mark.
    pub fn texts(&self, call: &Call) -> Vec<&str> {
        let count = match call.signature {
            Some(Signature {
                shape: Shape::Clone | Shape::CloneBackwards,
                ..
            }) => 1,
            _ => call.kinds().len().min(MOST),
        };
        (0..count)
            .filter_map(|index| match self.spans[index] {
                Span::Omitted => None,
                Span::Pending => Some("?"),
                Span::Text(..) => self.span(index),
            })
            .collect()
    }

    fn span(&self, index: usize) -> Option<&str> {
        match self.spans[index] {
            Span::Text(start, end) => self.text.get(start as usize..end as usize),
            Span::Pending | Span::Omitted => None,
        }
    }

    fn end(&mut self, index: usize, start: usize) {
        // MAX_TEXT fits.
        self.spans[index] = Span::Text(start as u32, self.text.len() as u32);
    }
}

/// What became of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Its text was appended.
    Yes,
    /// It is to be told when the call returns. What was appended does not count.
    Later,
    /// The call does not take it.
    Omitted,
}

/// A call at its entry or at its return.
pub(super) struct Moment<'a> {
    pub call: &'a Call,
    pub memory: &'a dyn UserMemory,
    /// What it returned; `None` at its entry.
    pub result: Option<u64>,
    /// A length as it was at the entry.
    pub given: Option<u32>,
}

impl Moment<'_> {
    /// Argument number `index`.
    pub fn arg(&self, index: usize) -> u64 {
        self.call.args.get(index).copied().unwrap_or(0)
    }

    /// Whether the call has returned an error.
    pub fn failed(&self) -> bool {
        self.result
            .is_some_and(|value| result::code(self.call.abi, value).is_some())
    }

    /// Tells one argument.
    fn argument(&self, index: usize, kind: Kind, out: &mut String) -> Told {
        if let Some(told) = self.number(index, kind, out) {
            return told;
        }
        let va = self.arg(index);
        let comes_from_kernel = is_out(kind) || (matches!(kind, Kind::FcntlArgument) && self.is_getlk());
        if comes_from_kernel && self.result.is_none() {
            return Told::Later;
        }
        let start = out.len();
        let readable = va != 0 && !(comes_from_kernel && self.failed() && !matches!(kind, Kind::LengthInOut));
        if readable {
            match self.pointed(kind, va, out) {
                Some(told) => return told,
                None if self.result.is_none() => return Told::Later,
                None => out.truncate(start),
            }
        }
        address(out, va);
        Told::Yes
    }

    /// An argument that is told by its register alone; `None` where it is not.
    fn number(&self, index: usize, kind: Kind, out: &mut String) -> Option<Told> {
        let value = self.arg(index);
        let low = value & 0xffff_ffff;
        match kind {
            Kind::Int => put(out, format_args!("{}", value as i32)),
            Kind::Dir => match names::AT_DIR.name(low) {
                Some(name) => out.push_str(name),
                None => put(out, format_args!("{}", value as i32)),
            },
            Kind::Uint => put(out, format_args!("{low}")),
            Kind::Id if low == 0xffff_ffff => put(out, format_args!("-1")),
            Kind::Id => put(out, format_args!("{low}")),
            Kind::Size => put(out, format_args!("{value}")),
            Kind::Long if self.call.abi == Abi::Ia32 => put(out, format_args!("{}", value as i32)),
            Kind::Long | Kind::Offset => put(out, format_args!("{}", value as i64)),
            Kind::Hex => hex(out, value),
            Kind::Address => address(out, value),
            Kind::Mode => mode(out, low & 0xffff),
            Kind::FileMode => file_mode(out, low & 0xffff),
            Kind::One(names) => names.one(out, low),
            Kind::Flags(names) => names.flags(out, low),
            Kind::Signal => names::signal(out, low, false),
            Kind::OpenFlags => names::mixed(out, low, 3, &names::ACCESS_MODE, &names::OPEN),
            Kind::OpenMode => {
                const O_TMPFILE: u64 = libc::O_TMPFILE as u64 & !(libc::O_DIRECTORY as u64);
                let flags = self.arg(index.wrapping_sub(1));
                if flags & (libc::O_CREAT as u64 | O_TMPFILE) == 0 {
                    return Some(Told::Omitted);
                }
                mode(out, low & 0xffff);
            }
            Kind::MapFlags => names::mixed(out, low, 0xf, &names::MAP_KIND, &names::MAP),
            Kind::SocketType => names::mixed(out, low, 0xf, &names::SOCK, &names::SOCK_FLAGS),
            Kind::SocketProtocol => {
                const INET: u64 = libc::AF_INET as u64;
                const INET6: u64 = libc::AF_INET6 as u64;
                const NETLINK: u64 = libc::AF_NETLINK as u64;
                match self.arg(0) & 0xffff_ffff {
                    INET | INET6 => names::IPPROTO.one(out, low),
                    NETLINK => names::NETLINK.one(out, low),
                    _ => hex(out, low),
                }
            }
            Kind::SocketOption => match option_names(self.arg(index.wrapping_sub(1)) as u32) {
                Some(names) => names.one(out, low),
                None => put(out, format_args!("{low}")),
            },
            Kind::Fcntl => names::FCNTL.one(out, low),
            Kind::FcntlArgument => return self.fcntl_number(out),
            Kind::Futex => self.futex(out),
            Kind::FutexArgument => return self.futex_number(index, out),
            Kind::PrctlArgument => return self.prctl_number(out),
            Kind::PrctlRest => {
                if self.prctl_takes_one() {
                    return Some(Told::Omitted);
                }
                hex(out, value);
            }
            Kind::Device => {
                let kind = self.arg(index.wrapping_sub(1)) & u64::from(libc::S_IFMT);
                if kind != u64::from(libc::S_IFCHR) && kind != u64::from(libc::S_IFBLK) {
                    return Some(Told::Omitted);
                }
                device(out, low);
            }
            Kind::Remaining if self.result.is_none() => return Some(Told::Later),
            _ => return None,
        }
        Some(Told::Yes)
    }

    fn futex(&self, out: &mut String) {
        const PRIVATE: u64 = 128;
        const REALTIME: u64 = 256;
        let op = self.arg(1) & 0xffff_ffff;
        match names::FUTEX.name(op & !(PRIVATE | REALTIME)) {
            Some(name) => out.push_str(name),
            None => return names::FUTEX.one(out, op),
        }
        if op & PRIVATE != 0 {
            out.push_str("_PRIVATE");
        }
        if op & REALTIME != 0 {
            out.push_str("|FUTEX_CLOCK_REALTIME");
        }
    }

    /// Which of the later arguments of futex(2) a command takes, from its manual
    /// page; `None` for a time, which lies in memory.
    fn futex_number(&self, index: usize, out: &mut String) -> Option<Told> {
        const MATCH_ANY: u64 = 0xffff_ffff;
        let value = self.arg(index);
        let low = value & 0xffff_ffff;
        let op = self.arg(1) as i32 & 127;
        match (op, index) {
            (libc::FUTEX_WAIT | libc::FUTEX_LOCK_PI | libc::FUTEX_LOCK_PI2 | libc::FUTEX_WAIT_BITSET, 3)
            | (libc::FUTEX_WAIT_REQUEUE_PI, 3) => return None,
            (libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAKE_BITSET, 5) if low == MATCH_ANY => {
                out.push_str("FUTEX_BITSET_MATCH_ANY");
            }
            (libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAKE_BITSET | libc::FUTEX_WAKE_OP, 5) => hex(out, low),
            (
                libc::FUTEX_REQUEUE
                | libc::FUTEX_CMP_REQUEUE
                | libc::FUTEX_CMP_REQUEUE_PI
                | libc::FUTEX_WAKE_OP,
                3,
            )
            | (libc::FUTEX_CMP_REQUEUE | libc::FUTEX_CMP_REQUEUE_PI, 5) => put(out, format_args!("{low}")),
            (
                libc::FUTEX_REQUEUE
                | libc::FUTEX_CMP_REQUEUE
                | libc::FUTEX_CMP_REQUEUE_PI
                | libc::FUTEX_WAKE_OP
                | libc::FUTEX_WAIT_REQUEUE_PI,
                4,
            ) => address(out, value),
            _ => return Some(Told::Omitted),
        }
        Some(Told::Yes)
    }

    fn fcntl_number(&self, out: &mut String) -> Option<Told> {
        let (command, value) = (self.arg(1) as i32, self.arg(2));
        match command {
            libc::F_GETFD
            | libc::F_GETFL
            | libc::F_GETOWN
            | libc::F_GETLEASE
            | libc::F_GETPIPE_SZ
            | libc::F_GET_SEALS => return Some(Told::Omitted),
            libc::F_SETFD => names::FD.flags(out, value & 0xffff_ffff),
            libc::F_SETFL => names::mixed(out, value & 0xffff_ffff, 3, &names::ACCESS_MODE, &names::OPEN),
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC | libc::F_SETOWN | libc::F_SETPIPE_SZ => {
                put(out, format_args!("{}", value as i32));
            }
            _ if self.lock_layout().is_some() => return None,
            _ => hex(out, value),
        }
        Some(Told::Yes)
    }

    fn prctl_number(&self, out: &mut String) -> Option<Told> {
        match self.arg(0) as i32 {
            libc::PR_SET_NAME | libc::PR_GET_NAME => return None,
            libc::PR_SET_PDEATHSIG => names::signal(out, self.arg(1), false),
            libc::PR_GET_DUMPABLE | libc::PR_GET_KEEPCAPS => return Some(Told::Omitted),
            libc::PR_SET_NO_NEW_PRIVS | libc::PR_SET_KEEPCAPS => put(out, format_args!("{}", self.arg(1))),
            _ => hex(out, self.arg(1)),
        }
        Some(Told::Yes)
    }

    fn prctl_takes_one(&self) -> bool {
        matches!(
            self.arg(0) as i32,
            libc::PR_SET_NAME
                | libc::PR_GET_NAME
                | libc::PR_SET_PDEATHSIG
                | libc::PR_GET_PDEATHSIG
                | libc::PR_SET_DUMPABLE
                | libc::PR_GET_DUMPABLE
                | libc::PR_SET_KEEPCAPS
                | libc::PR_GET_KEEPCAPS
        )
    }

    /// clone(2): which arguments it takes is told by its flags.
    fn clone_by_name(&self, shape: Shape, out: &mut String) {
        let flags = self.arg(0);
        let (child, tls) = match shape {
            Shape::CloneBackwards => (self.arg(4), self.arg(3)),
            _ => (self.arg(3), self.arg(4)),
        };
        out.push_str("child_stack=");
        address(out, self.arg(1));
        out.push_str(", flags=");
        clone_flags(out, flags);
        let has = |flag: libc::c_int| flags & flag as u32 as u64 != 0;
        if has(libc::CLONE_PARENT_SETTID) {
            out.push_str(", parent_tid=");
            address(out, self.arg(2));
        }
        if has(libc::CLONE_SETTLS) {
            out.push_str(", tls=");
            address(out, tls);
        }
        if has(libc::CLONE_CHILD_SETTID) || has(libc::CLONE_CHILD_CLEARTID) {
            out.push_str(", child_tidptr=");
            address(out, child);
        }
    }

    /// Reads exactly `N` bytes.
    pub fn bytes<const N: usize>(&self, va: u64) -> Option<[u8; N]> {
        let mut raw = [0; N];
        (self.memory.read(va, &mut raw) == N).then_some(raw)
    }

    /// A 32-bit number.
    pub fn u32(&self, va: u64) -> Option<u32> {
        self.bytes(va).map(u32::from_le_bytes)
    }

    /// A word of the ABI.
    pub fn word(&self, va: u64) -> Option<u64> {
        match self.call.abi {
            Abi::X64 => self.bytes(va).map(u64::from_le_bytes),
            Abi::Ia32 => self.u32(va).map(u64::from),
        }
    }

    /// Appends a path in full.
    pub fn path(&self, va: u64, out: &mut String) -> Option<()> {
        let mut raw = [0; MAX_PATH];
        let got = self.memory.read(va, &mut raw);
        match raw[..got].iter().position(|&byte| byte == 0) {
            Some(len) => quote(out, &raw[..len]),
            None if got == MAX_PATH => {
                quote(out, &raw);
                out.push_str("...");
            }
            None => return None,
        }
        Some(())
    }

    /// Appends the start of a string.
    pub fn text(&self, va: u64, out: &mut String) -> Option<()> {
        let mut raw = [0; SHOWN + 1];
        let got = self.memory.read(va, &mut raw);
        match raw[..got].iter().position(|&byte| byte == 0) {
            Some(len) => quote(out, &raw[..len]),
            None if got == raw.len() => {
                quote(out, &raw[..SHOWN]);
                out.push_str("...");
            }
            None => return None,
        }
        Some(())
    }
}

/// What only the kernel can fill in.
fn is_out(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Out
            | Kind::OutRandom
            | Kind::OutPath
            | Kind::IovOut(_)
            | Kind::MessageOut
            | Kind::SocketAddressOut(_)
            | Kind::LengthInOut
            | Kind::OptionOut(_)
            | Kind::TimespecOut
            | Kind::Timespec64Out
            | Kind::TimevalOut
            | Kind::ItimerspecOut
            | Kind::ItimervalOut
            | Kind::Stat
            | Kind::Stat64
            | Kind::Statx
            | Kind::Statfs
            | Kind::Pair
            | Kind::IntOut
            | Kind::OffsetOut
            | Kind::WaitStatus
            | Kind::Rusage
            | Kind::RlimitOut
            | Kind::Rlimit64Out
            | Kind::Uname
            | Kind::EpollEvents
            | Kind::SignalSetOut(_)
            | Kind::SignalActionOut
            | Kind::Entries
    )
}

/// The options of a level.
fn option_names(level: u32) -> Option<&'static Names> {
    match level as i32 {
        libc::SOL_SOCKET => Some(&names::SO),
        libc::SOL_IP => Some(&names::IP),
        libc::SOL_TCP => Some(&names::TCP),
        libc::SOL_IPV6 => Some(&names::IPV6),
        libc::SOL_NETLINK => Some(&names::NETLINK_OPTION),
        _ => None,
    }
}

/// Appends what is formatted. Writing to a string does not fail.
pub(super) fn put(out: &mut String, what: fmt::Arguments<'_>) {
    let _ = out.write_fmt(what);
}

/// Appends an address.
pub(super) fn address(out: &mut String, va: u64) {
    if va == 0 {
        out.push_str("NULL");
    } else {
        put(out, format_args!("{va:#x}"));
    }
}

/// Appends a number in hexadecimal; 0 is 0.
pub(super) fn hex(out: &mut String, value: u64) {
    if value == 0 {
        out.push('0');
    } else {
        put(out, format_args!("{value:#x}"));
    }
}

/// Appends permissions: at least three digits, and a 0 in front.
pub(super) fn mode(out: &mut String, value: u64) {
    match value {
        0..0o100 => put(out, format_args!("{value:03o}")),
        _ => put(out, format_args!("0{value:o}")),
    }
}

/// Appends type and permissions of a file.
pub(super) fn file_mode(out: &mut String, value: u64) {
    const TYPE: u64 = libc::S_IFMT as u64;
    if let Some(name) = names::FILE_TYPE.name(value & TYPE).filter(|_| value & TYPE != 0) {
        out.push_str(name);
        out.push('|');
    } else if value & TYPE != 0 {
        hex(out, value & TYPE);
        out.push('|');
    }
    let special = value & !TYPE & !0o777;
    if special != 0 {
        names::MODE_BITS.flags(out, special);
        out.push('|');
    }
    mode(out, value & 0o777);
}

/// Appends a device's numbers, from the encoding of user space.
pub(super) fn device(out: &mut String, value: u64) {
    let major = (value >> 8 & 0xfff) | (value >> 32 & 0xffff_f000);
    let minor = (value & 0xff) | (value >> 12 & 0xffff_ff00);
    out.push_str("makedev(");
    hex(out, major);
    out.push_str(", ");
    hex(out, minor & 0xffff_ffff);
    out.push(')');
}

/// Appends flags of clone(2) and the signal in their low byte.
fn clone_flags(out: &mut String, value: u64) {
    let (flags, signal) = (value & 0xffff_ff00, value & 0xff);
    if flags != 0 {
        names::CLONE.flags(out, flags);
        if signal != 0 {
            out.push('|');
        }
    }
    if signal != 0 || flags == 0 {
        names::signal(out, signal, false);
    }
}

#[cfg(test)]
#[path = "arguments_tests.rs"]
mod tests;
