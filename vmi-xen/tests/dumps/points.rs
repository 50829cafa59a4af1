// SPDX-License-Identifier: GPL-3.0-only
//! Where probes are put: each kernel has a function for each point, it starts with the NOP that makes a trap one exit, and no
//! compiler has put a copy of it into its callers.

use vmi_xen::kernel::Kernel;
use vmi_xen::memory::PhysicalMemory;
use vmi_xen::observe::Point;

/// What a function starts with: `endbr64`, or where the kernel has seen that no indirect call leads there, the NOP that it
/// puts in its place.
const LANDINGS: [[u8; 4]; 3] = [
    [0xf3, 0x0f, 0x1e, 0xfa],
    [0x66, 0x0f, 0x1f, 0x00],
    [0x0f, 0x1f, 0x40, 0xd6],
];
/// The NOP that ftrace may turn into a call, and the one that older kernels take on a CPU that likes it better.
const FTRACE_NOPS: [[u8; 5]; 2] = [[0x0f, 0x1f, 0x44, 0x00, 0x00], [0x66, 0x66, 0x66, 0x66, 0x90]];
/// More than a kernel's `struct proto` has (about 450 bytes).
const PROTO_LEN: usize = 512;

/// Table and function of each point that is reached by a pointer only.
const TABLES: [(Point, &str); 6] = [
    (Point::ConnectUdp4, "udp_prot"),
    (Point::ConnectUdp6, "udpv6_prot"),
    (Point::SourceUdp4, "udp_prot"),
    (Point::SourceUdp6, "udpv6_prot"),
    (Point::Unbind, "udp_prot"),
    (Point::Unbind, "udpv6_prot"),
];

pub fn are_there<M: PhysicalMemory>(mem: &M, kernel: &Kernel) {
    let release = &kernel.release;
    let address = |point: Point| {
        let functions = point.functions();
        let found = functions.iter().find_map(|name| kernel.symbols.address(name));
        found.unwrap_or_else(|| panic!("{release} has none of {functions:?}"))
    };
    for point in Point::ALL {
        point.readable(&kernel.layout).expect(release);
        let va = address(point);
        let mut code = [0; 9];
        kernel.space.read(mem, va, &mut code).expect(release);
        let behind = LANDINGS.iter().find_map(|landing| code.strip_prefix(landing));
        let behind = behind.unwrap_or(&code);
        let traceable = FTRACE_NOPS.iter().any(|nop| behind.starts_with(nop));
        assert!(traceable, "{release} {point:?}: {code:02x?}");
    }
    for (point, table) in TABLES {
        let at = kernel.symbols.address(table).expect(table);
        let mut proto = [0; PROTO_LEN];
        kernel.space.read(mem, at, &mut proto).expect(table);
        let function = address(point).to_le_bytes();
        assert!(
            proto.chunks_exact(8).any(|slot| slot == function),
            "{release}: {table} does not lead to {point:?}"
        );
    }
    calls(mem, kernel, &Point::ALL.map(address));
}

/// Each function is called or jumped to from somewhere, or a table leads to it.
fn calls<M: PhysicalMemory>(mem: &M, kernel: &Kernel, functions: &[u64]) {
    let (start, end) = (
        kernel.symbols.address("_stext").expect("_stext"),
        kernel.symbols.address("_etext").expect("_etext"),
    );
    let mut text = vec![0; (end - start) as usize];
    kernel.space.read(mem, start, &mut text).expect("text");
    let mut called = vec![false; functions.len()];
    for (offset, window) in text.windows(5).enumerate() {
        // call rel32 and jmp rel32
        if let [0xe8 | 0xe9, a, b, c, d] = *window {
            let next = start + offset as u64 + 5;
            let target = next.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
            if let Some(index) = functions.iter().position(|f| *f == target) {
                called[index] = true;
            }
        }
    }
    for (point, called) in Point::ALL.iter().zip(called) {
        let by_table = TABLES.iter().any(|(p, _)| p == point);
        assert!(called || by_table, "{}: nothing calls {point:?}", kernel.release);
    }
}
