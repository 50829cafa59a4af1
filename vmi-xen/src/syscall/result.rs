// SPDX-License-Identifier: GPL-3.0-only
//! What a system call returned.

use std::fmt::Write;

use nix::errno::Errno;

use super::kinds::Returns;
use super::{Abi, Signature};

/// Results from here up to -1 are errors: MAX_ERRNO of the kernel's err.h.
const MAX_ERRNO: u64 = 4095;

/// Codes by which a call asks to be made again when its signal was handled; a
/// program sees EINTR or nothing of it. From the kernel's linux/errno.h, with
/// strace's explanations.
const RESTARTS: [(u64, &str, &str); 4] = [
    (512, "ERESTARTSYS", "To be restarted if SA_RESTART is set"),
    (513, "ERESTARTNOINTR", "To be restarted"),
    (514, "ERESTARTNOHAND", "To be restarted if no handler"),
    (516, "ERESTART_RESTARTBLOCK", "Interrupted by signal"),
];

/// Name of the error that a result is; `None` where it is none.
///
/// `value` is the register as the call left it.
pub fn errno(abi: Abi, value: u64) -> Option<String> {
    let code = code(abi, value)?;
    Some(match RESTARTS.iter().find(|(known, ..)| *known == code) {
        Some((_, name, _)) => (*name).to_owned(),
        None => name(code),
    })
}

/// The error code that a result is, if it is one.
pub(super) fn code(abi: Abi, value: u64) -> Option<u64> {
    let code = match abi {
        Abi::X64 => value.wrapping_neg(),
        Abi::Ia32 => u64::from((value as u32).wrapping_neg()),
    };
    (1..=MAX_ERRNO).contains(&code).then_some(code)
}

/// A result as strace shows it behind the equals sign, with `note` in brackets.
pub fn result(signature: Option<&Signature>, abi: Abi, value: u64, note: &str) -> String {
    let mut out = String::new();
    let returns = signature.map_or(Returns::Decimal, |signature| signature.returns);
    if let Some(code) = code(abi, value) {
        let _ = match RESTARTS.iter().find(|(known, ..)| *known == code) {
            Some((_, name, meaning)) => write!(out, "? {name} ({meaning})"),
            None => write!(out, "-1 {} ({})", name(code), meaning(code)),
        };
        return out;
    }
    let value = match abi {
        Abi::X64 => value,
        Abi::Ia32 => u64::from(value as u32),
    };
    let _ = match returns {
        Returns::Never => write!(out, "?"),
        Returns::Hex => write!(out, "{value:#x}"),
        Returns::Octal => write!(out, "{}", octal(value)),
        Returns::Fcntl if value != 0 && !note.is_empty() => write!(out, "{value:#x}"),
        _ => write!(out, "{}", value as i64),
    };
    let note = match returns {
        Returns::Poll | Returns::Timeout if value == 0 => "Timeout",
        _ => note,
    };
    if !note.is_empty() {
        let _ = write!(out, " ({note})");
    }
    out
}

fn octal(value: u64) -> String {
    if value == 0 {
        "0".to_owned()
    } else {
        format!("0{value:o}")
    }
}

fn name(code: u64) -> String {
    match i32::try_from(code).map(Errno::from_raw) {
        Ok(errno) if errno != Errno::UnknownErrno => format!("{errno:?}"),
        _ => format!("ERRNO_{code}"),
    }
}

/// As strerror(3) says it.
fn meaning(code: u64) -> String {
    let text = std::io::Error::from_raw_os_error(code as i32).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::table::by_name;
    use super::*;

    fn shown(abi: Abi, name: &str, value: i64, note: &str) -> String {
        result(by_name(abi, name), abi, value as u64, note)
    }

    #[test]
    fn as_strace_shows_them() {
        assert_eq!(
            shown(Abi::X64, "connect", -111, ""),
            "-1 ECONNREFUSED (Connection refused)"
        );
        assert_eq!(
            shown(Abi::X64, "read", -11, ""),
            "-1 EAGAIN (Resource temporarily unavailable)"
        );
        assert_eq!(
            shown(Abi::X64, "ioctl", -25, ""),
            "-1 ENOTTY (Inappropriate ioctl for device)"
        );
        assert_eq!(
            shown(Abi::X64, "read", -512, ""),
            "? ERESTARTSYS (To be restarted if SA_RESTART is set)"
        );
        assert_eq!(shown(Abi::X64, "mmap", 0x7f00_0000_1000, ""), "0x7f0000001000");
        assert_eq!(shown(Abi::X64, "umask", 0o22, ""), "022");
        assert_eq!(shown(Abi::X64, "umask", 0, ""), "0");
        assert_eq!(shown(Abi::X64, "poll", 0, ""), "0 (Timeout)");
        assert_eq!(shown(Abi::X64, "getpriority", 20, ""), "20");
        assert_eq!(shown(Abi::X64, "lseek", -5000, ""), "-5000");
    }

    #[test]
    fn results_of_the_32_bit_abi_have_32_bits() {
        assert_eq!(
            shown(Abi::Ia32, "open", -2, ""),
            "-1 ENOENT (No such file or directory)"
        );
        assert_eq!(
            shown(Abi::Ia32, "open", 0xffff_fffe, ""),
            "-1 ENOENT (No such file or directory)"
        );
        assert_eq!(shown(Abi::Ia32, "mmap2", -0x0800_0000, ""), "0xf8000000");
        assert_eq!(errno(Abi::Ia32, 0xffff_ffff).as_deref(), Some("EPERM"));
        assert_eq!(errno(Abi::X64, 0xffff_ffff), None);
    }
}
