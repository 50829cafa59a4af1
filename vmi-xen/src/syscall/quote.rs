// SPDX-License-Identifier: GPL-3.0-only
//! Bytes as a C string literal, in the way of strace.

/// Bytes of a string or buffer that are shown; strace's default for `-s`.
pub const SHOWN: usize = 32;

/// Appends `bytes` in quotes. Octal escapes are as short as what follows allows.
pub fn quote(out: &mut String, bytes: &[u8]) {
    out.push('"');
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'\t' => out.push_str("\\t"),
            b'\n' => out.push_str("\\n"),
            0x0b => out.push_str("\\v"),
            0x0c => out.push_str("\\f"),
            b'\r' => out.push_str("\\r"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => {
                let digit_follows = bytes.get(at + 1).is_some_and(|next| (b'0'..=b'7').contains(next));
                octal(out, byte, digit_follows);
            }
        }
    }
    out.push('"');
}

/// Appends at most [`SHOWN`] of `bytes` in quotes, with an ellipsis where they
/// are not all of the `len` there are.
pub fn quote_some(out: &mut String, bytes: &[u8], len: u64) {
    quote(out, &bytes[..bytes.len().min(SHOWN)]);
    if len > SHOWN as u64 {
        out.push_str("...");
    }
}

/// Appends `bytes` in quotes, each as two hexadecimal digits: what is random is
/// not text.
pub fn quote_hex(out: &mut String, bytes: &[u8], len: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    for byte in &bytes[..bytes.len().min(SHOWN)] {
        out.push_str("\\x");
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out.push('"');
    if len > SHOWN as u64 {
        out.push_str("...");
    }
}

fn octal(out: &mut String, byte: u8, full: bool) {
    let digits = [byte >> 6, (byte >> 3) & 7, byte & 7];
    let skip = match digits {
        _ if full => 0,
        [0, 0, _] => 2,
        [0, ..] => 1,
        _ => 0,
    };
    out.push('\\');
    for digit in &digits[skip..] {
        out.push(char::from(b'0' + digit));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut out = String::new();
        quote(&mut out, bytes);
        out
    }

    #[test]
    fn as_strace_shows_an_elf_header() {
        assert_eq!(
            quoted(b"\x7fELF\x02\x01\x01\x003\x00"),
            r#""\177ELF\2\1\1\0003\0""#
        );
        assert_eq!(quoted(b"a\"b\\c\n\t\r\x0b\x0c"), r#""a\"b\\c\n\t\r\v\f""#);
        assert_eq!(quoted("ä".as_bytes()), r#""\303\244""#);
    }

    #[test]
    fn long_ones_are_cut() {
        let mut out = String::new();
        quote_some(&mut out, &[b'x'; 40], 832);
        assert_eq!(out, format!("\"{}\"...", "x".repeat(32)));
        out.clear();
        quote_some(&mut out, &[b'x'; 32], 32);
        assert!(!out.ends_with("..."));
        out.clear();
        quote_hex(&mut out, &[0x1f, 0xa0], 2);
        assert_eq!(out, r#""\x1f\xa0""#);
    }

    proptest! {
        /// Reading the literal as C does gives the bytes again.
        #[test]
        fn nothing_is_lost(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let text = quoted(&bytes);
            let inner = &text.as_bytes()[1..text.len() - 1];
            let (mut read, mut at) = (Vec::new(), 0);
            while at < inner.len() {
                if inner[at] != b'\\' {
                    read.push(inner[at]);
                    at += 1;
                    continue;
                }
                at += 1;
                if inner[at].is_ascii_digit() {
                    let mut value = 0u32;
                    let end = inner.len().min(at + 3);
                    while at < end && (b'0'..=b'7').contains(&inner[at]) {
                        value = value * 8 + u32::from(inner[at] - b'0');
                        at += 1;
                    }
                    read.push(value as u8);
                } else {
                    read.push(match inner[at] {
                        b't' => b'\t', b'n' => b'\n', b'v' => 0x0b, b'f' => 0x0c, b'r' => b'\r', other => other,
                    });
                    at += 1;
                }
            }
            prop_assert_eq!(read, bytes);
        }
    }
}
