// SPDX-License-Identifier: GPL-3.0-only
//! A minimal writer of the kernel's initramfs format (cpio "newc", described in
//! the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).

/// An initramfs being put together, entry by entry.
#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    inodes: u32,
}

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

impl Initramfs {
    /// Adds a directory; its parent must be there.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(path, DIRECTORY, &[]);
        self
    }

    /// Adds an executable file; its directory must be there.
    pub fn file(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(path, EXECUTABLE, content);
        self
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        let fields = [
            self.inodes,
            mode,
            0, // uid
            0, // gid
            1, // links
            0, // modification time
            content.len() as u32,
            0, // device, major and minor
            0,
            0, // special device, major and minor
            0,
            path.len() as u32 + 1,
            0, // checksum, unused in this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
