// SPDX-License-Identifier: GPL-3.0-only
//! Writing an initramfs: the "newc" archive that the kernel unpacks.

/// An archive under way.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const PROGRAM: u32 = 0o755;

impl Archive {
    /// Adds a folder; its parents must have been added.
    pub fn folder(&mut self, name: &str) {
        self.entry(name, FOLDER, &[]);
    }

    /// Adds a file that may be run; its folder must have been added.
    pub fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, FILE | PROGRAM, content);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, size, name_size) = (self.entries, content.len(), name.len() + 1);
        // Times, owners and devices are 0: the same inputs give the same archive.
        self.bytes.extend(
            format!(
                "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
                 {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
                0,
                links = 1,
            )
            .into_bytes(),
        );
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_110_bytes_and_everything_starts_at_a_multiple_of_4() {
        let mut archive = Archive::default();
        archive.folder("bin");
        archive.program("bin/true", b"12345");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let at: Vec<_> = (0..bytes.len() - 5)
            .filter(|i| bytes[*i..].starts_with(b"070701"))
            .collect();
        assert_eq!(at, [0, 116, 116 + 120 + 8]);
        assert_eq!(&bytes[110..114], b"bin\0");
        assert_eq!(&bytes[116 + 120..116 + 125], b"12345");
        assert_eq!(&bytes[116 + 54..116 + 62], b"00000005");
    }
}
