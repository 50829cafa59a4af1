// SPDX-License-Identifier: GPL-3.0-only
//! What arguments point to.
//!
//! Offsets are those of Linux's uapi headers for the ABI; they are part of it
//! and never change. `None` from a reader means that memory was not readable.

use super::arguments::{Moment, Told, address, device, file_mode, hex, mode, put};
use super::kinds::{Kind, Returns};
use super::quote::{SHOWN, quote, quote_hex, quote_some};
use super::{Abi, names};

/// Elements of an array that are shown; strace's default.
const MAX_ELEMENTS: u64 = 32;
/// Environment strings that are counted.
const MAX_COUNTED: u64 = 4096;
/// Bytes of a directory's entries that are counted.
const MAX_ENTRIES: usize = 64 << 10;

impl Moment<'_> {
    /// Tells what is at `va`; `None` where that cannot be read.
    pub(super) fn pointed(&self, kind: Kind, va: u64, out: &mut String) -> Option<Told> {
        match kind {
            Kind::Path | Kind::OutPath => self.path(va, out)?,
            Kind::Text => self.text(va, out)?,
            Kind::In(len) => self.buffer(va, self.arg(len), out)?,
            Kind::Out => self.buffer(va, self.count(), out)?,
            Kind::OutRandom => {
                let mut raw = [0; SHOWN];
                let shown = self.some(va, self.count(), &mut raw)?;
                quote_hex(out, shown, self.count());
            }
            Kind::IovIn(count) => self.iovec(va, self.arg(count), u64::MAX, out)?,
            Kind::IovOut(count) => self.iovec(va, self.arg(count), self.count(), out)?,
            Kind::MessageIn => self.message(va, None, out)?,
            Kind::MessageOut => self.message(va, Some(self.count()), out)?,
            Kind::SocketAddress(len) => self.socket_address(va, self.arg(len) & 0xffff_ffff, out)?,
            Kind::SocketAddressOut(len) => {
                let len = self.u32(self.arg(len))?;
                self.socket_address(va, len.min(self.given.unwrap_or(len)).into(), out)?;
            }
            Kind::LengthInOut => self.length(va, out)?,
            Kind::OptionIn(len) => self.option(va, self.arg(len) & 0xffff_ffff, out)?,
            Kind::OptionOut(len) => self.option(va, self.u32(self.arg(len))?.into(), out)?,
            Kind::Argv => self.argv(va, out)?,
            Kind::Envp => self.envp(va, out)?,
            Kind::Timespec | Kind::TimespecOut => self.time(va, self.call.abi.word(), "nsec", out)?,
            Kind::Timespec64 | Kind::Timespec64Out => self.time(va, 8, "nsec", out)?,
            Kind::FutexArgument if self.call.name() == "futex_time64" => self.time(va, 8, "nsec", out)?,
            Kind::FutexArgument => self.time(va, self.call.abi.word(), "nsec", out)?,
            Kind::Remaining if self.failed() => self.time(va, self.call.abi.word(), "nsec", out)?,
            Kind::Remaining => address(out, va),
            Kind::Timeval | Kind::TimevalOut => self.time(va, self.call.abi.word(), "usec", out)?,
            Kind::Times => self.times(va, out)?,
            Kind::Itimerspec | Kind::ItimerspecOut => self.interval(va, "nsec", out)?,
            Kind::Itimerval | Kind::ItimervalOut => self.interval(va, "usec", out)?,
            Kind::Stat | Kind::Stat64 => self.stat(va, kind, out)?,
            Kind::Statx => self.statx(va, out)?,
            Kind::Statfs => self.statfs(va, out)?,
            Kind::Pair => {
                let (first, second) = (self.u32(va)? as i32, self.u32(va.wrapping_add(4))? as i32);
                put(out, format_args!("[{first}, {second}]"));
            }
            Kind::IntOut => put(out, format_args!("[{}]", self.u32(va)? as i32)),
            Kind::OffsetInOut => self.offset(va, out)?,
            Kind::OffsetOut => put(out, format_args!("[{}]", i64::from_le_bytes(self.bytes(va)?))),
            Kind::WaitStatus => self.wait_status(va, out)?,
            Kind::Rusage => self.rusage(va, out)?,
            Kind::Rlimit | Kind::RlimitOut => {
                let word = self.call.abi.word() as u64;
                let limits = [self.word(va)?, self.word(va.wrapping_add(word))?];
                let infinity = if word == 8 { u64::MAX } else { 0xffff_ffff };
                rlimit(out, limits, infinity, "RLIM_INFINITY");
            }
            Kind::Rlimit64 | Kind::Rlimit64Out => {
                let limits = [
                    u64::from_le_bytes(self.bytes(va)?),
                    u64::from_le_bytes(self.bytes(va.wrapping_add(8))?),
                ];
                rlimit(out, limits, u64::MAX, "RLIM64_INFINITY");
            }
            Kind::Uname => self.uname(va, out)?,
            Kind::PollFds(count) => self.poll_fds(va, self.arg(count), out)?,
            Kind::EpollEvent => self.epoll_event(va, out)?,
            Kind::EpollEvents => {
                const SIZE: u64 = 12;
                list(out, self.count(), |index, out| {
                    self.epoll_event(va.wrapping_add(index * SIZE), out)
                })?;
            }
            Kind::FdSet => self.fd_set(va, out)?,
            Kind::SignalSet(size) | Kind::SignalSetOut(size) => {
                self.signal_set(va, self.arg(size), out)?;
            }
            Kind::SignalAction | Kind::SignalActionOut => self.signal_action(va, out)?,
            Kind::Entries => self.entries(va, out)?,
            Kind::CloneArgs => self.clone_args(va, out)?,
            Kind::OpenHow => self.open_how(va, out)?,
            Kind::FcntlArgument => self.lock(va, out)?,
            Kind::PrctlArgument => self.text(va, out)?,
            Kind::SocketcallArguments => self.socketcall(va, out)?,
            _ => address(out, va),
        }
        Some(Told::Yes)
    }

    /// What goes into brackets behind the result.
    pub(super) fn note(&self, out: &mut String) {
        let Some((value, signature)) = self.result.zip(self.call.signature) else {
            return;
        };
        if self.failed() {
            return;
        }
        match (signature.returns, self.arg(1) as i32) {
            (Returns::Fcntl, libc::F_GETFL) => {
                out.push_str("flags ");
                names::mixed(out, value & 0xffff_ffff, 3, &names::ACCESS_MODE, &names::OPEN);
            }
            (Returns::Fcntl, libc::F_GETFD) if value != 0 => {
                out.push_str("flags ");
                names::FD.flags(out, value & 0xffff_ffff);
            }
            (Returns::Poll, _) if value != 0 => {
                let start = out.len();
                if self.poll_results(out).is_none() {
                    out.truncate(start);
                }
            }
            _ => {}
        }
    }

    /// The length that the kernel is given and will overwrite, if the call has
    /// one.
    pub(super) fn length_given(&self) -> Option<u32> {
        let kinds = self.call.signature?.arguments;
        let at = |wanted: fn(&Kind) -> bool| kinds.iter().position(wanted).map(|index| self.arg(index));
        if let Some(va) = at(|kind| matches!(kind, Kind::LengthInOut)) {
            return self.u32(va);
        }
        let message = at(|kind| matches!(kind, Kind::MessageOut))?;
        self.u32(message.wrapping_add(self.call.abi.word() as u64))
    }

    /// The result as a number of things; none at the entry or of an error.
    fn count(&self) -> u64 {
        if self.failed() {
            0
        } else {
            self.result.unwrap_or(0)
        }
    }

    /// The first bytes of `len` at `va`, as many as are shown.
    fn some<'b>(&self, va: u64, len: u64, buf: &'b mut [u8; SHOWN]) -> Option<&'b [u8]> {
        let wanted = len.min(SHOWN as u64) as usize;
        (self.memory.read(va, &mut buf[..wanted]) == wanted).then_some(&buf[..wanted])
    }

    fn buffer(&self, va: u64, len: u64, out: &mut String) -> Option<()> {
        let mut raw = [0; SHOWN];
        quote_some(out, self.some(va, len, &mut raw)?, len);
        Some(())
    }

    /// `struct iovec`s, with at most `bytes` of data in all of them.
    fn iovec(&self, va: u64, count: u64, bytes: u64, out: &mut String) -> Option<()> {
        let word = self.call.abi.word() as u64;
        let mut left = bytes;
        list(out, count, |index, out| {
            let at = va.wrapping_add(index * 2 * word);
            let (base, len) = (self.word(at)?, self.word(at.wrapping_add(word))?);
            let filled = len.min(left);
            left -= filled;
            out.push_str("{iov_base=");
            let start = out.len();
            if base == 0 || self.buffer(base, filled, out).is_none() {
                out.truncate(start);
                address(out, base);
            }
            put(out, format_args!(", iov_len={len}}}"));
            Some(())
        })
    }

    /// `struct msghdr`; `received` bytes are in it if it comes from the kernel.
    fn message(&self, va: u64, received: Option<u64>, out: &mut String) -> Option<()> {
        let word = self.call.abi.word() as u64;
        // Behind the length of the name there are four bytes of padding in the 64-bit ABI.
        let field = |index: u64| self.word(va.wrapping_add(index * word));
        let (name, vectors, count) = (field(0)?, field(2)?, field(3)?);
        let name_len = self.u32(va.wrapping_add(word))?;
        let control_len = field(5)?;
        let flags = self.u32(va.wrapping_add(6 * word))?;
        out.push_str("{msg_name=");
        self.or_address(name, out, |out| {
            let len = name_len.min(self.given.unwrap_or(name_len));
            self.socket_address(name, len.into(), out)
        });
        out.push_str(", msg_namelen=");
        match self
            .given
            .filter(|given| received.is_some() && *given != name_len)
        {
            Some(given) => put(out, format_args!("{given} => {name_len}")),
            None => put(out, format_args!("{name_len}")),
        }
        out.push_str(", msg_iov=");
        self.or_address(vectors, out, |out| {
            self.iovec(vectors, count, received.unwrap_or(u64::MAX), out)
        });
        put(out, format_args!(", msg_iovlen={count}"));
        if control_len != 0 {
            out.push_str(", msg_control=");
            address(out, field(4)?);
        }
        put(out, format_args!(", msg_controllen={control_len}, msg_flags="));
        names::MSG.flags(out, flags.into());
        out.push('}');
        Some(())
    }

    /// Appends what `show` makes of something at `va`, or `va` itself.
    fn or_address(&self, va: u64, out: &mut String, show: impl FnOnce(&mut String) -> Option<()>) {
        let start = out.len();
        if va == 0 || show(out).is_none() {
            out.truncate(start);
            address(out, va);
        }
    }

    /// `struct sockaddr` of any family.
    fn socket_address(&self, va: u64, len: u64, out: &mut String) -> Option<()> {
        const UNIX_PATH: usize = 108;
        if len < 2 {
            address(out, va);
            return Some(());
        }
        let mut raw = [0; 2 + UNIX_PATH];
        let len = len.min(raw.len() as u64) as usize;
        if self.memory.read(va, &mut raw[..len]) != len {
            return None;
        }
        let family = u16::from_le_bytes([raw[0], raw[1]]);
        out.push_str("{sa_family=");
        names::FAMILY.one(out, family.into());
        let port = u16::from_be_bytes([raw[2], raw[3]]);
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        match i32::from(family) {
            libc::AF_INET if len >= 16 => {
                let ip = std::net::Ipv4Addr::new(raw[4], raw[5], raw[6], raw[7]);
                put(
                    out,
                    format_args!(", sin_port=htons({port}), sin_addr=inet_addr(\"{ip}\")"),
                );
            }
            libc::AF_INET6 if len >= 28 => {
                let mut ip = [0; 16];
                ip.copy_from_slice(&raw[8..24]);
                let ip = std::net::Ipv6Addr::from(ip);
                let flow = word(4).swap_bytes();
                put(
                    out,
                    format_args!(
                        ", sin6_port=htons({port}), sin6_flowinfo=htonl({flow}), \
                     inet_pton(AF_INET6, \"{ip}\", &sin6_addr), sin6_scope_id={}",
                        word(24)
                    ),
                );
            }
            libc::AF_UNIX if len > 2 => {
                out.push_str(", sun_path=");
                let path = &raw[2..len];
                match path.split_first() {
                    // The abstract name space.
                    Some((0, name)) if len > 3 => {
                        out.push('@');
                        quote(out, name);
                    }
                    _ => {
                        let end = path.iter().position(|&byte| byte == 0);
                        quote(out, &path[..end.unwrap_or(path.len())]);
                    }
                }
            }
            libc::AF_UNIX | libc::AF_UNSPEC if len == 2 => {}
            libc::AF_NETLINK if len >= 12 => {
                put(
                    out,
                    format_args!(", nl_pid={}, nl_groups={:08x}", word(4), word(8)),
                );
            }
            _ => {
                out.push_str(", sa_data=");
                quote_some(out, &raw[2..len], len as u64 - 2);
            }
        }
        out.push('}');
        Some(())
    }

    fn length(&self, va: u64, out: &mut String) -> Option<()> {
        let now = self.u32(va)?;
        match self.given {
            Some(given) if self.failed() => put(out, format_args!("[{given}]")),
            Some(given) if given != now => put(out, format_args!("[{given} => {now}]")),
            _ => put(out, format_args!("[{now}]")),
        }
        Some(())
    }

    fn option(&self, va: u64, len: u64, out: &mut String) -> Option<()> {
        let at_socket = self.arg(1) as i32 == libc::SOL_SOCKET;
        match self.arg(2) as i32 {
            libc::SO_LINGER if at_socket && len == 8 => {
                let (on, seconds) = (self.u32(va)?, self.u32(va.wrapping_add(4))?);
                put(out, format_args!("{{l_onoff={on}, l_linger={seconds}}}"));
            }
            libc::SO_PEERCRED if at_socket && len == 12 => {
                let field = |at| self.u32(va.wrapping_add(at));
                put(
                    out,
                    format_args!("{{pid={}, uid={}, gid={}}}", field(0)?, field(4)?, field(8)?),
                );
            }
            libc::SO_RCVTIMEO | libc::SO_SNDTIMEO if at_socket && len == 16 => {
                self.time(va, 8, "usec", out)?;
            }
            _ if len == 4 => put(out, format_args!("[{}]", self.u32(va)? as i32)),
            _ => self.buffer(va, len, out)?,
        }
        Some(())
    }

    fn argv(&self, va: u64, out: &mut String) -> Option<()> {
        let word = self.call.abi.word() as u64;
        out.push('[');
        for index in 0.. {
            let argument = self.word(va.wrapping_add(index * word))?;
            if argument == 0 {
                break;
            }
            if index > 0 {
                out.push_str(", ");
            }
            if index >= MAX_ELEMENTS {
                out.push_str("...");
                break;
            }
            self.or_address(argument, out, |out| self.text(argument, out));
        }
        out.push(']');
        Some(())
    }

    fn envp(&self, va: u64, out: &mut String) -> Option<()> {
        let word = self.call.abi.word();
        let mut count = 0;
        'all: while count < MAX_COUNTED {
            let mut raw = [0; 512];
            let got = self.memory.read(va.wrapping_add(count * word as u64), &mut raw);
            if got < word {
                return None;
            }
            for pointer in raw[..got].chunks_exact(word) {
                if pointer.iter().all(|&byte| byte == 0) {
                    break 'all;
                }
                count += 1;
            }
        }
        let plural = if count == 1 { "" } else { "s" };
        put(out, format_args!("{va:#x} /* {count} var{plural} */"));
        Some(())
    }

    /// Seconds and a fraction, each of `size` bytes.
    fn time(&self, va: u64, size: usize, fraction: &str, out: &mut String) -> Option<()> {
        let (seconds, rest) = if size == 8 {
            (
                i64::from_le_bytes(self.bytes(va)?),
                i64::from_le_bytes(self.bytes(va.wrapping_add(8))?),
            )
        } else {
            (
                i64::from(self.u32(va)? as i32),
                i64::from(self.u32(va.wrapping_add(4))? as i32),
            )
        };
        put(out, format_args!("{{tv_sec={seconds}, tv_{fraction}={rest}}}"));
        Some(())
    }

    fn times(&self, va: u64, out: &mut String) -> Option<()> {
        const UTIME_NOW: u64 = 0x3fff_ffff;
        const UTIME_OMIT: u64 = 0x3fff_fffe;
        let word = self.call.abi.word();
        out.push('[');
        for index in 0..2 {
            if index > 0 {
                out.push_str(", ");
            }
            let at = va.wrapping_add(index * 2 * word as u64);
            match self.word(at.wrapping_add(word as u64))? {
                UTIME_NOW => out.push_str("UTIME_NOW"),
                UTIME_OMIT => out.push_str("UTIME_OMIT"),
                _ => self.time(at, word, "nsec", out)?,
            }
        }
        out.push(']');
        Some(())
    }

    fn interval(&self, va: u64, fraction: &str, out: &mut String) -> Option<()> {
        let word = self.call.abi.word();
        out.push_str("{it_interval=");
        self.time(va, word, fraction, out)?;
        out.push_str(", it_value=");
        self.time(va.wrapping_add(2 * word as u64), word, fraction, out)?;
        out.push('}');
        Some(())
    }

    fn stat(&self, va: u64, kind: Kind, out: &mut String) -> Option<()> {
        let at = |offset: u64| va.wrapping_add(offset);
        let (mode, device, size) = match (kind, self.call.abi) {
            (Kind::Stat64, _) => {
                let size = u64::from_le_bytes(self.bytes(at(44))?);
                (self.u32(at(16))?, u64::from_le_bytes(self.bytes(at(32))?), size)
            }
            (_, Abi::X64) => {
                let size = u64::from_le_bytes(self.bytes(at(48))?);
                (self.u32(at(24))?, u64::from_le_bytes(self.bytes(at(40))?), size)
            }
            (_, Abi::Ia32) => {
                let mode = u16::from_le_bytes(self.bytes(at(8))?);
                (mode.into(), self.u32(at(16))?.into(), self.u32(at(20))?.into())
            }
        };
        out.push_str("{st_mode=");
        file_and_size(out, "st", mode, device, size);
        Some(())
    }

    fn statx(&self, va: u64, out: &mut String) -> Option<()> {
        let raw: [u8; 136] = self.bytes(va)?;
        let u32_at = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        out.push_str("{stx_mask=");
        names::STATX_MASK.flags(out, u32_at(0).into());
        out.push_str(", stx_attributes=");
        hex(out, u64_at(8));
        out.push_str(", stx_mode=");
        let mode = u32::from(u16::from_le_bytes([raw[28], raw[29]]));
        // Numbers of the device itself, 128 and 132, are apart here.
        let number = u64::from(u32_at(128)) << 8 | u64::from(u32_at(132) & 0xff);
        file_and_size(out, "stx", mode, number, u64_at(40));
        Some(())
    }

    fn statfs(&self, va: u64, out: &mut String) -> Option<()> {
        let word = self.call.abi.word() as u64;
        let field = |index: u64| self.word(va.wrapping_add(index * word));
        out.push_str("{f_type=");
        hex(out, field(0)?);
        put(
            out,
            format_args!(
                ", f_bsize={}, f_blocks={}, f_bfree={}, f_bavail={}, f_files={}, f_ffree={}, ...}}",
                field(1)?,
                field(2)?,
                field(3)?,
                field(4)?,
                field(5)?,
                field(6)?
            ),
        );
        Some(())
    }

    fn offset(&self, va: u64, out: &mut String) -> Option<()> {
        let offset = match self.call.abi {
            Abi::X64 => i64::from_le_bytes(self.bytes(va)?),
            Abi::Ia32 => i64::from(self.u32(va)? as i32),
        };
        put(out, format_args!("[{offset}]"));
        Some(())
    }

    fn wait_status(&self, va: u64, out: &mut String) -> Option<()> {
        if self.count() == 0 {
            address(out, va);
            return Some(());
        }
        let status = self.u32(va)?;
        let (code, signal) = (status >> 8 & 0xff, status & 0x7f);
        out.push_str("[{");
        match (signal, status & 0xff) {
            (_, 0x7f) => {
                out.push_str("WIFSTOPPED(s) && WSTOPSIG(s) == ");
                names::signal(out, code.into(), false);
            }
            (0, _) => put(out, format_args!("WIFEXITED(s) && WEXITSTATUS(s) == {code}")),
            _ if status == 0xffff => out.push_str("WIFCONTINUED(s)"),
            _ => {
                out.push_str("WIFSIGNALED(s) && WTERMSIG(s) == ");
                names::signal(out, signal.into(), false);
                if status & 0x80 != 0 {
                    out.push_str(" && WCOREDUMP(s)");
                }
            }
        }
        out.push_str("}]");
        Some(())
    }

    fn rusage(&self, va: u64, out: &mut String) -> Option<()> {
        let word = self.call.abi.word();
        out.push_str("{ru_utime=");
        self.time(va, word, "usec", out)?;
        out.push_str(", ru_stime=");
        self.time(va.wrapping_add(2 * word as u64), word, "usec", out)?;
        out.push_str(", ...}");
        Some(())
    }

    fn uname(&self, va: u64, out: &mut String) -> Option<()> {
        const FIELD: u64 = 65;
        out.push_str("{sysname=");
        self.text(va, out)?;
        out.push_str(", nodename=");
        self.text(va.wrapping_add(FIELD), out)?;
        out.push_str(", ...}");
        Some(())
    }

    fn poll_fds(&self, va: u64, count: u64, out: &mut String) -> Option<()> {
        list(out, count & 0xffff_ffff, |index, out| {
            let (fd, events, _) = self.poll_fd(va, index)?;
            put(out, format_args!("{{fd={fd}"));
            if fd >= 0 {
                out.push_str(", events=");
                names::POLL.flags(out, events.into());
            }
            out.push('}');
            Some(())
        })
    }

    /// File, events asked for, events that are.
    fn poll_fd(&self, va: u64, index: u64) -> Option<(i32, u16, u16)> {
        let raw: [u8; 8] = self.bytes(va.wrapping_add(index * 8))?;
        Some((
            i32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]),
            u16::from_le_bytes([raw[4], raw[5]]),
            u16::from_le_bytes([raw[6], raw[7]]),
        ))
    }

    fn poll_results(&self, out: &mut String) -> Option<()> {
        let mut first = true;
        out.push('[');
        for index in 0..(self.arg(1) & 0xffff_ffff).min(MAX_ELEMENTS) {
            let (fd, _, happened) = self.poll_fd(self.arg(0), index)?;
            if fd < 0 || happened == 0 {
                continue;
            }
            if !first {
                out.push_str(", ");
            }
            first = false;
            put(out, format_args!("{{fd={fd}, revents="));
            names::POLL.flags(out, happened.into());
            out.push('}');
        }
        out.push(']');
        Some(())
    }

    fn epoll_event(&self, va: u64, out: &mut String) -> Option<()> {
        let raw: [u8; 12] = self.bytes(va)?;
        let events = u32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
        let low = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        let high = u32::from_le_bytes([raw[8], raw[9], raw[10], raw[11]]);
        out.push_str("{events=");
        names::EPOLL.flags(out, events.into());
        let data = u64::from(high) << 32 | u64::from(low);
        put(out, format_args!(", data={{u32={low}, u64={data}}}}}"));
        Some(())
    }

    fn fd_set(&self, va: u64, out: &mut String) -> Option<()> {
        const FD_SETSIZE: usize = 1024;
        let files = (self.arg(0) as i32).clamp(0, FD_SETSIZE as i32) as usize;
        let mut raw = [0; FD_SETSIZE / 8];
        let bytes = files.div_ceil(8);
        if self.memory.read(va, &mut raw[..bytes]) != bytes {
            return None;
        }
        let set = (0..files).filter(|fd| raw[fd / 8] >> (fd % 8) & 1 != 0);
        spaced(out, set.map(|fd| fd as u64), |out, fd| {
            put(out, format_args!("{fd}"))
        });
        Some(())
    }

    fn signal_set(&self, va: u64, size: u64, out: &mut String) -> Option<()> {
        let mut raw = [0; 8];
        let bytes = size.min(8) as usize;
        if self.memory.read(va, &mut raw[..bytes]) != bytes {
            return None;
        }
        signals(out, u64::from_le_bytes(raw));
        Some(())
    }

    fn signal_action(&self, va: u64, out: &mut String) -> Option<()> {
        const SA_SIGINFO: u64 = 4;
        const SA_RESTORER: u64 = 0x400_0000;
        let word = self.call.abi.word() as u64;
        let field = |index: u64| self.word(va.wrapping_add(index * word));
        let (handler, flags, restorer) = (field(0)?, field(1)? & 0xffff_ffff, field(2)?);
        let mask = u64::from_le_bytes(self.bytes(va.wrapping_add(3 * word))?);
        out.push_str(if flags & SA_SIGINFO != 0 {
            "{sa_sigaction="
        } else {
            "{sa_handler="
        });
        match names::SIG_HANDLER.name(handler) {
            Some(name) => out.push_str(name),
            None => address(out, handler),
        }
        out.push_str(", sa_mask=");
        signals(out, mask);
        out.push_str(", sa_flags=");
        names::SIG_ACTION.flags(out, flags);
        if flags & SA_RESTORER != 0 {
            out.push_str(", sa_restorer=");
            address(out, restorer);
        }
        out.push('}');
        Some(())
    }

    /// Directory entries; each tells its length at offset 16.
    fn entries(&self, va: u64, out: &mut String) -> Option<()> {
        const HEADER: usize = 19;
        let len = (self.count() as usize).min(MAX_ENTRIES);
        let (mut at, mut count) = (0, 0);
        while at + HEADER <= len {
            let record: [u8; 2] = self.bytes(va.wrapping_add(at as u64 + 16))?;
            // A record is never shorter than its header; a lie must not loop.
            at += usize::from(u16::from_le_bytes(record)).max(HEADER);
            count += 1;
        }
        let plural = if count == 1 { "y" } else { "ies" };
        put(out, format_args!("{va:#x} /* {count} entr{plural} */"));
        Some(())
    }

    fn clone_args(&self, va: u64, out: &mut String) -> Option<()> {
        let field = |index: u64| self.bytes(va.wrapping_add(index * 8)).map(u64::from_le_bytes);
        let flags = field(0)?;
        let has = |flag: libc::c_int| flags & flag as u32 as u64 != 0;
        out.push_str("{flags=");
        names::CLONE.flags(out, flags);
        for (name, shown, index) in [
            ("pidfd", has(libc::CLONE_PIDFD), 1),
            (
                "child_tid",
                has(libc::CLONE_CHILD_SETTID) || has(libc::CLONE_CHILD_CLEARTID),
                2,
            ),
            ("parent_tid", has(libc::CLONE_PARENT_SETTID), 3),
        ] {
            if shown {
                put(out, format_args!(", {name}="));
                address(out, field(index)?);
            }
        }
        out.push_str(", exit_signal=");
        names::signal(out, field(4)?, false);
        out.push_str(", stack=");
        address(out, field(5)?);
        out.push_str(", stack_size=");
        hex(out, field(6)?);
        if has(libc::CLONE_SETTLS) {
            out.push_str(", tls=");
            address(out, field(7)?);
        }
        out.push('}');
        Some(())
    }

    fn open_how(&self, va: u64, out: &mut String) -> Option<()> {
        let field = |index: u64| self.bytes(va.wrapping_add(index * 8)).map(u64::from_le_bytes);
        let (flags, permissions, resolve) = (field(0)?, field(1)?, field(2)?);
        out.push_str("{flags=");
        names::mixed(out, flags, 3, &names::ACCESS_MODE, &names::OPEN);
        if flags & libc::O_CREAT as u64 != 0 {
            out.push_str(", mode=");
            mode(out, permissions);
        }
        out.push_str(", resolve=");
        hex(out, resolve);
        out.push('}');
        Some(())
    }

    /// Where `struct flock` has start, length and holder, and how wide the first
    /// two are; `None` if the command of fcntl(2) takes no lock.
    pub(super) fn lock_layout(&self) -> Option<(u64, usize)> {
        match (self.arg(1) as i32, self.call.abi) {
            (5..=7 | 36..=38, Abi::X64) => Some((8, 8)),
            (5..=7, Abi::Ia32) => Some((4, 4)),
            (12..=14 | 36..=38, Abi::Ia32) => Some((4, 8)),
            _ => None,
        }
    }

    /// Whether the command of fcntl(2) asks who holds a lock.
    pub(super) fn is_getlk(&self) -> bool {
        self.lock_layout().is_some() && matches!(self.arg(1) as i32, 5 | 12 | 36)
    }

    fn lock(&self, va: u64, out: &mut String) -> Option<()> {
        let (offset, size) = self.lock_layout()?;
        let number = |at: u64| {
            let va = va.wrapping_add(at);
            if size == 8 {
                self.bytes(va).map(i64::from_le_bytes)
            } else {
                self.u32(va).map(|value| i64::from(value as i32))
            }
        };
        let kinds: [u8; 4] = self.bytes(va)?;
        out.push_str("{l_type=");
        names::LOCK.one(out, u16::from_le_bytes([kinds[0], kinds[1]]).into());
        out.push_str(", l_whence=");
        names::WHENCE.one(out, u16::from_le_bytes([kinds[2], kinds[3]]).into());
        let (start, len) = (number(offset)?, number(offset + size as u64)?);
        put(out, format_args!(", l_start={start}, l_len={len}"));
        if self.is_getlk() {
            let holder = self.u32(va.wrapping_add(offset + 2 * size as u64))? as i32;
            put(out, format_args!(", l_pid={holder}"));
        }
        out.push('}');
        Some(())
    }

    /// The words that socketcall(2) passes on; the address of connect and bind is
    /// worth a look.
    fn socketcall(&self, va: u64, out: &mut String) -> Option<()> {
        const COUNTS: [u8; 21] = [0, 3, 3, 3, 2, 3, 3, 3, 4, 4, 4, 6, 6, 2, 5, 5, 3, 3, 4, 5, 4];
        let count = usize::try_from(self.arg(0))
            .ok()
            .and_then(|call| COUNTS.get(call).copied())
            .unwrap_or(0);
        let word = |index: u64| self.u32(va.wrapping_add(index * 4)).map(u64::from);
        list(out, count.into(), |index, out| {
            let value = word(index)?;
            match (self.arg(0), index) {
                (2 | 3, 1) => {
                    let len = word(2)?;
                    self.or_address(value, out, |out| self.socket_address(value, len, out));
                }
                _ => hex(out, value),
            }
            Some(())
        })
    }
}

/// `[a, b, ...]`, each element by `show`.
fn list(out: &mut String, count: u64, mut show: impl FnMut(u64, &mut String) -> Option<()>) -> Option<()> {
    out.push('[');
    for index in 0..count.min(MAX_ELEMENTS) {
        if index > 0 {
            out.push_str(", ");
        }
        show(index, out)?;
    }
    if count > MAX_ELEMENTS {
        out.push_str(", ...");
    }
    out.push(']');
    Some(())
}

/// `[a b]`.
fn spaced(out: &mut String, items: impl Iterator<Item = u64>, show: impl Fn(&mut String, u64)) {
    out.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(' ');
        }
        show(out, item);
    }
    out.push(']');
}

/// A set of signals; of a nearly full one what is missing.
fn signals(out: &mut String, set: u64) {
    let most = set.count_ones() >= 43;
    let shown = if most {
        out.push('~');
        !set
    } else {
        set
    };
    let members = (1..=64).filter(|number| shown >> (number - 1) & 1 != 0);
    spaced(out, members, |out, number| names::signal(out, number, true));
}

fn rlimit(out: &mut String, limits: [u64; 2], infinity: u64, name: &str) {
    for (field, limit) in [("{rlim_cur=", limits[0]), (", rlim_max=", limits[1])] {
        out.push_str(field);
        match limit {
            _ if limit == infinity => out.push_str(name),
            1025.. if limit % 1024 == 0 => put(out, format_args!("{}*1024", limit / 1024)),
            _ => put(out, format_args!("{limit}")),
        }
    }
    out.push('}');
}

/// Mode, and the device or the size, of what `prefix`_mode= was written for.
fn file_and_size(out: &mut String, prefix: &str, mode: u32, number: u64, size: u64) {
    file_mode(out, mode.into());
    let kind = mode & libc::S_IFMT;
    if kind == libc::S_IFCHR || kind == libc::S_IFBLK {
        put(out, format_args!(", {prefix}_rdev="));
        device(out, number);
    } else {
        put(out, format_args!(", {prefix}_size={}", size as i64));
    }
    out.push_str(", ...}");
}
