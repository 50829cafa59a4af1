// SPDX-License-Identifier: GPL-3.0-only
//! The datapath on kernels of other ages: Debian's and Ubuntu's are booted under QEMU's emulator, and on each the object is
//! loaded, attached by clsact or TCX, as the kernel has it, and lets pass and refuses a real connection.
//!
//! By default two kernels are tried; with `XMESH_ALL_KERNELS=1` all of them; with `XMESH_QUICK=1` none. Needs apt-get, dpkg,
//! ldd, strip, xz and qemu-system-x86_64.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

mod machine;

use xmesh_rig::debian::Apt;

/// A series of kernels, of which the newest package is taken.
struct Kernel {
    series: &'static str,
    of_ubuntu: bool,
}

const fn debian(series: &'static str) -> Kernel {
    let of_ubuntu = false;
    Kernel { series, of_ubuntu }
}

const fn ubuntu(series: &'static str) -> Kernel {
    let of_ubuntu = true;
    Kernel { series, of_ubuntu }
}

const DEFAULT: [Kernel; 2] = [debian("6.1."), debian("6.12.")];
const ALL: [Kernel; 10] = [
    // The verifier's limit is 4096 instructions.
    ubuntu("5.0."),
    // No ring buffer: events by perf buffers. No batches either.
    ubuntu("5.3."),
    ubuntu("5.4."),
    debian("5.10."),
    debian("6.1."),
    debian("6.12."),
    debian("6.16."),
    debian("6.18."),
    debian("7.2."),
    debian("7.3."),
];
const TOO_OLD: &str = "5.0.";

const TOLD: &str = "\
@first opened: Fresh, programs loaded
@first 7000 serves: yes
@first 7001 serves: no
@first dom0 itself is served: yes
@first Start told: yes
@first Refused told: yes
@second opened: Adopted, programs taken over
@second 7000 serves: yes
@second 7001 serves: no
@second dom0 itself is served: yes
@second Start told: yes
@second Refused told: yes
@down: 
@left: 
@without us: yes
@end";

fn selected() -> &'static [Kernel] {
    let set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
    if set("XMESH_QUICK") {
        println!("XMESH_QUICK=1: no kernel is tried");
        &[]
    } else if set("XMESH_ALL_KERNELS") {
        &ALL
    } else {
        &DEFAULT
    }
}

#[test]
fn the_datapath_works_on_the_kernels_that_there_are() {
    let apt = Apt::open().unwrap();
    let ubuntu = Apt::open_ubuntu().unwrap();
    for Kernel { series, of_ubuntu } in selected() {
        let source = match (of_ubuntu, &ubuntu) {
            (false, _) => &apt,
            (true, Some(ubuntu)) => ubuntu,
            (true, None) => {
                println!("left out: {series}, since XMESH_UBUNTU names no mirror");
                continue;
            }
        };
        let package = source.kernel_package(series).unwrap();
        let kernel = source.kernel(&package).unwrap();
        let console = machine::told(&apt, &kernel).unwrap_or_else(|error| panic!("{package}: {error:?}"));
        println!("{console}");
        let told: Vec<&str> = console.lines().filter(|line| line.starts_with('@')).collect();
        let (release, rest) = told.split_first().unwrap();
        let release = release.strip_prefix("@kernel ").unwrap();
        assert!(release.starts_with(series), "{release}");
        if *series == TOO_OLD {
            let error = format!("@error Linux {release} is too old");
            assert!(rest[0].starts_with(&error) && rest[0].contains("5.2"), "{rest:?}");
        } else {
            assert_eq!(rest.join("\n"), TOLD, "{package}");
        }
    }
}
