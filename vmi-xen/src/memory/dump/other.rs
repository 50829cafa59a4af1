// SPDX-License-Identifier: GPL-3.0-only
//! Files that hold a guest in a form that is not read, and what to do instead.
//! Without this they would be taken for raw images that hold no kernel.

/// What a file is, told by its first bytes, if that is one of those.
pub(super) fn recognise(magic: &[u8]) -> Option<&'static str> {
    const KNOWN: [(&[u8], &str); 12] = [
        // QEMU writes kdump files in makedumpfile's flattened form.
        (b"makedumpfile\0", KDUMP),
        (b"KDUMP   ", KDUMP),
        (b"DISKDUMP", KDUMP),
        (b"PAGEDU64", WINDOWS),
        (b"PAGEDUMP", WINDOWS),
        (
            b"EMiL",
            "a LiME image; take it with LiME's format=padded, which is a raw image",
        ),
        (b"QEVM", SAVED),
        (b"Xen saved domain", SAVED),
        (b"\xff\xff\xff\xff\xff\xff\xff\xffXENF", SAVED),
        (b"\x1f\x8b", COMPRESSED),
        (b"\xfd7zXZ\0", COMPRESSED),
        (b"\x28\xb5\x2f\xfd", COMPRESSED),
    ];
    KNOWN
        .iter()
        .find(|(start, _)| magic.starts_with(start))
        .map(|&(_, why)| why)
}

const KDUMP: &str = "a kdump-compressed dump; take it anew with dump-guest-memory without -z, -l, -s and -R, \
     or make an ELF core of it by `makedumpfile -E -d 0`";
const WINDOWS: &str = "a Windows crash dump; take it anew with dump-guest-memory without -w";
const SAVED: &str =
    "a saved guest, not a dump; restore it and take a dump of it (xl dump-core, dump-guest-memory)";
const COMPRESSED: &str = "a compressed file; unpack it first";

#[cfg(test)]
mod tests {
    use super::recognise;

    #[test]
    fn a_remedy_is_named() {
        for (start, remedy) in [
            (&b"makedumpfile\0\0\0\0"[..], "without -z"),
            (b"KDUMP   \x06\0\0\0\0\0\0\0", "makedumpfile -E"),
            (b"PAGEDU64\x0f\0\0\0", "without -w"),
            (b"\x1f\x8b\x08\0", "unpack"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xffXENF\0\0\0\x03", "xl dump-core"),
        ] {
            assert!(
                recognise(start).is_some_and(|why| why.contains(remedy)),
                "{start:?}"
            );
        }
    }

    #[test]
    fn memory_is_not_mistaken() {
        // A real-mode interrupt table, and zeros.
        assert_eq!(recognise(b"\x53\xff\x00\xf0\x53\xff\x00\xf0"), None);
        assert_eq!(recognise(&[0; 16]), None);
        assert_eq!(recognise(b""), None);
    }
}
