// SPDX-License-Identifier: GPL-3.0-only
//! Generates the FFI declarations that `xenctrl-sys` lacks from the host's own
//! Xen headers, so that they match the libraries that are linked.

use std::{env, error::Error, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=wrapper.h");
    // These sonames have been stable since Xen 4.7. libxenctrl, whose soname
    // changes with every release, is linked by xenctrl-sys.
    for library in [
        "xenforeignmemory",
        "xenevtchn",
        "xendevicemodel",
        "xenstore",
        "xentoollog",
    ] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }

    let bindings = bindgen::Builder::default()
        .header("wrapper.h")
        .allowlist_type("vm_event_.*|hvm_hw_cpu|xmesh_save_code")
        .allowlist_function(
            "xenforeignmemory_(open|close|map|unmap)|xenevtchn_.*|\
             xs_(open|close|watch|unwatch|fileno|check_watch|get_permissions)|xtl_createlogger_stdiostream|\
             xtl_logger_destroy|xendevicemodel_(inject_event|modified_memory)",
        )
        .allowlist_var(
            "VM_EVENT_.*|MEM_ACCESS_.*|HVM_PARAM_.*|XEN_ALTP2M_.*|XTL_.*|XS_PERM_.*|XEN_X86_EMU_.*",
        )
        .default_enum_style(bindgen::EnumVariation::Consts)
        .derive_default(true)
        .layout_tests(false)
        .generate()
        .map_err(|e| format!("{e}\ninstall the Xen headers (libxen-dev) and libclang"))?;

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    bindings.write_to_file(out.join("bindings.rs"))?;
    Ok(())
}
