// SPDX-License-Identifier: GPL-3.0-only
//! The counters of the rig's emulator (tests/patches/bochs-3.0.patch), which a program in dom0 reads by CPUID.

#![allow(dead_code, reason = "no example uses all of it")]

use raw_cpuid::native_cpuid::cpuid_count;

/// A leaf that no processor has.
const LEAF: u32 = 0x4f00_0000;
/// "xmsh" in EBX.
const SIGNATURE: u32 = 0x6873_6d78;
const INSTRUCTIONS: u32 = 0;
const GUEST_INSTRUCTIONS: u32 = 1;
const EXITS: u32 = 2;
const EXITS_BY_REASON: u32 = 0x1_0000;
const HOST_INSTRUCTIONS_BY_REASON: u32 = 0x2_0000;
/// Reasons that are counted apart: Intel's are below 128, AMD's below 2048.
const REASONS: u32 = 2048;

/// Proof that this runs on that emulator.
#[derive(Clone, Copy)]
pub struct Counters(());

impl Counters {
    /// The counters, if there are any: nothing else answers with the signature.
    pub fn find() -> Option<Self> {
        (cpuid_count(LEAF, INSTRUCTIONS).ebx == SIGNATURE).then_some(Self(()))
    }

    /// Instructions executed so far, by everything.
    pub fn instructions(self) -> u64 {
        self.read(INSTRUCTIONS)
    }

    /// Those of them outside guests with hardware support: dom0's and Xen's.
    pub fn host_instructions(self) -> u64 {
        self.instructions() - self.read(GUEST_INSTRUCTIONS)
    }

    /// Prints all that are not zero, a line `counter NAME VALUE` each.
    pub fn print(self) {
        println!("counter instructions {}", self.read(INSTRUCTIONS));
        println!("counter guest-instructions {}", self.read(GUEST_INSTRUCTIONS));
        println!("counter exits {}", self.read(EXITS));
        for reason in 0..REASONS {
            let exits = self.read(EXITS_BY_REASON + reason);
            if exits > 0 {
                let host = self.read(HOST_INSTRUCTIONS_BY_REASON + reason);
                println!("counter exits-{reason} {exits}");
                println!("counter host-instructions-{reason} {host}");
            }
        }
    }

    fn read(self, which: u32) -> u64 {
        let found = cpuid_count(LEAF, which);
        u64::from(found.edx) << 32 | u64::from(found.eax)
    }
}
