// SPDX-License-Identifier: GPL-3.0-only
//! Which hypervisor this is and how it was started.

use std::os::raw::{c_char, c_int};

use xenctrl_sys as xc;

use crate::{Xen, XenError};

/// The running hypervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The 4 of 4.17.3.
    pub major: u16,
    /// The 17 of 4.17.3.
    pub minor: u16,
    /// The rest: `.3`, or a distribution's suffix.
    pub extra: String,
    /// What kinds of guests it can run, as `xl info` prints it.
    pub capabilities: String,
    /// Its command line.
    pub command_line: String,
}

impl Version {
    /// Asks the hypervisor.
    ///
    /// # Errors
    /// Where a hypercall is refused.
    pub fn query(xen: &Xen) -> Result<Self, XenError> {
        let number = xen.call("xc_version", None, |handle| {
            // SAFETY: this command takes no argument.
            unsafe { xc::xc_version(handle, xc::XENVER_version as c_int, std::ptr::null_mut()) }
        })?;
        let mut extra: xc::xen_extraversion_t = [0; 16];
        let mut capabilities: xc::xen_capabilities_info_t = [0; 1024];
        let mut command_line: xc::xen_commandline_t = [0; 1024];
        query_text(xen, xc::XENVER_extraversion, &mut extra)?;
        query_text(xen, xc::XENVER_capabilities, &mut capabilities)?;
        query_text(xen, xc::XENVER_commandline, &mut command_line)?;
        Ok(Self {
            // Two 16-bit halves, major above minor.
            major: (number >> 16) as u16,
            minor: (number & 0xffff) as u16,
            extra: text(&extra),
            capabilities: text(&capabilities),
            command_line: text(&command_line),
        })
    }

    /// Whether the command line switches altp2m on (it is off by default).
    pub fn altp2m_requested(&self) -> bool {
        altp2m_requested(&self.command_line)
    }
}

/// Asks for one text; `room` must be the array type of that command.
fn query_text(xen: &Xen, command: u32, room: &mut [c_char]) -> Result<(), XenError> {
    xen.call("xc_version", None, |handle| {
        // SAFETY: each caller passes the array type that the command fills.
        unsafe { xc::xc_version(handle, command as c_int, room.as_mut_ptr().cast()) }
    })?;
    Ok(())
}

/// The text up to the first NUL, whatever follows.
fn text(chars: &[c_char]) -> String {
    let bytes: Vec<u8> = chars
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| c.cast_unsigned())
        .collect();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Reads the boolean option `altp2m` as Xen does: the last mention wins.
fn altp2m_requested(command_line: &str) -> bool {
    command_line
        .split_whitespace()
        .filter_map(|word| match word.strip_prefix("altp2m") {
            Some("") => Some(true),
            Some(rest) => match rest.strip_prefix('=')? {
                "1" | "yes" | "on" | "true" | "enable" => Some(true),
                "0" | "no" | "off" | "false" | "disable" => Some(false),
                _ => None,
            },
            None if word == "no-altp2m" => Some(false),
            None => None,
        })
        .next_back()
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_altp2m_option_is_read_as_xen_reads_it() {
        assert!(altp2m_requested("console=com1 altp2m=1 dom0_mem=768M"));
        assert!(altp2m_requested("altp2m"));
        assert!(!altp2m_requested("altp2m=1 altp2m=0"));
        assert!(!altp2m_requested("altp2m=on no-altp2m"));
        assert!(!altp2m_requested("console=com1 altp2m_count=10"));
    }
}
