// SPDX-License-Identifier: GPL-3.0-only
//! Compiles `bpf/netback.bpf.c` with clang. Only the kernel's uapi headers are needed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const SOURCE: &str = "bpf/netback.bpf.c";
/// The objects and what each is compiled with.
const OBJECTS: [(&str, &[&str]); 2] = [
    ("netback.bpf.o", &[]),
    // For kernels without a BPF ring buffer.
    ("netback-perf.bpf.o", &["-DPERF_EVENTS"]),
];

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    for (object, defines) in OBJECTS {
        if let Err(message) = compile(object, defines) {
            println!("cargo::error={}", message.replace('\n', " | "));
            exit(1);
        }
    }
}

fn compile(object: &str, defines: &[&str]) -> Result<(), String> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| format!("OUT_DIR: {e}"))?).join(object);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let mut command = Command::new(&clang);
    // v2: the oldest instruction set with the full range of jumps; Linux 4.19 has it.
    command.args([
        "-O2",
        "-g",
        "-target",
        "bpf",
        "-mcpu=v2",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
    ]);
    // Debian keeps asm/ under the name of the architecture, where `-target bpf` does not look.
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let multiarch = format!("/usr/include/{arch}-linux-gnu");
    if Path::new(&multiarch).is_dir() {
        command.arg(format!("-I{multiarch}"));
    }
    let result = command
        .args(defines)
        .args(["-c", SOURCE, "-o"])
        .arg(&out)
        .output()
        .map_err(|error| {
            format!("cannot run `{clang}` ({error}): install the package `clang` (14 or newer), or set CLANG")
        })?;
    if result.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&result.stderr);
    if stderr.contains("file not found") {
        return Err(format!(
            "{SOURCE}: kernel headers are missing: install `linux-libc-dev` (Debian) or `kernel-headers` \
             (Fedora)\n{stderr}"
        ));
    }
    Err(format!("{clang} does not compile {SOURCE}:\n{stderr}"))
}
