// SPDX-License-Identifier: GPL-3.0-only
//! A kernel without BTF: a real one, whose symbol table does not name where its BTF lies.

use std::ops::Range;

use vmi_xen::kernel::kallsyms::Kallsyms;
use vmi_xen::kernel::{Kernel, LayoutError};
use vmi_xen::linux::{Linux, LinuxError};
use vmi_xen::session::SessionError;

use crate::forge::Overlay;
use crate::kernels::{Loaded, selected};

/// The symbol that such a kernel lacks.
const SYMBOL: &str = "__start_BTF";

#[test]
fn a_kernel_without_btf_is_known_and_said_to_be_blind() {
    for kernel in selected() {
        let Loaded { dump, truth, .. } = kernel.load();
        let memory = Overlay::new(&dump);
        let sound = Kernel::find(&memory, dump.cpus()).expect(kernel.series);
        let (at, byte) = renamed(&memory, &sound);
        let pa = sound.space.translate(&memory, at).expect("mapped");
        memory.patch(pa, &[byte]);

        let found = Kernel::find(&memory, dump.cpus()).expect("all else is there");
        assert_eq!(found.symbols.address(SYMBOL), None);
        assert_eq!(
            (&found.release, found.symbols.len()),
            (&truth.release, sound.symbols.len())
        );
        assert!(matches!(found.layout.sees_processes(), Err(LayoutError::NoBtf)));
        // What `xmesh inspect` and `xmesh list -v` say.
        let gaps = found.layout.gaps();
        assert!(gaps.len() > 5, "{gaps:?}");
        assert!(
            gaps.iter()
                .all(|(_, why)| why.to_string().contains("carries no BTF")),
            "{gaps:?}"
        );
        let error = SessionError::if_blind(&found).expect_err("nothing to trap for");
        assert_eq!(
            error.to_string(),
            format!(
                "its kernel {} is known, its processes are not: this kernel carries no BTF (built without \
                 CONFIG_DEBUG_INFO_BTF)",
                truth.release
            )
        );
        assert!(error.is_permanent(), "there is no use in trying again");
        let linux = Linux::new(&memory, found);
        for read in [
            linux.processes().map(drop),
            linux.held_sockets().map(drop),
            linux.addresses().map(drop),
        ] {
            assert!(
                matches!(read, Err(LinuxError::Layout(LayoutError::NoBtf))),
                "{read:?}"
            );
        }
        SessionError::if_blind(&sound).expect("with BTF all is seen");
    }
}

/// Which byte of the names makes the symbol another one: the last token of its entry becomes "0", which every kernel has.
fn renamed(memory: &Overlay<'_>, kernel: &Kernel) -> (u64, u8) {
    let symbol = |name: &str| kernel.symbols.address(name).expect(name);
    let start = symbol("__start_rodata");
    let mut bytes = vec![0; (symbol("__end_rodata") - start) as usize];
    kernel
        .space
        .read(memory, start, &mut bytes)
        .expect("read-only data");
    let found = Kallsyms::find(&bytes).expect("kallsyms");
    let position = found.position(SYMBOL).expect("BTF");
    let Range { start: from, .. } = found.extent();
    // `num_syms`, then the names, aligned to 4 or to 8.
    for names in [from + 4, (from + 4).next_multiple_of(8)] {
        let Some(at) = last_token(&bytes, names, position) else {
            continue;
        };
        let mut changed = bytes.clone();
        changed[at] = b'0';
        let other = Kallsyms::find(&changed);
        if other.is_some_and(|other| other.position(SYMBOL).is_none() && other.position("_text").is_some()) {
            return (start + at as u64, b'0');
        }
    }
    panic!("no byte makes {SYMBOL} another symbol");
}

/// Where the last token of an entry of the names is.
fn last_token(bytes: &[u8], names: usize, position: usize) -> Option<usize> {
    let mut at = names;
    for index in 0..=position {
        let first = usize::from(*bytes.get(at)?);
        let (len, head) = match first & 0x80 {
            0 => (first, 1),
            _ => (first & 0x7f | usize::from(*bytes.get(at + 1)?) << 7, 2),
        };
        if index == position {
            return Some(at + head + len - 1);
        }
        at += head + len;
    }
    None
}
