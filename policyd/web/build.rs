// SPDX-License-Identifier: GPL-3.0-only
//! Makes a table of the page's files, the graph library among them where it has been fetched.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The graph library and its licence, as npm lays them out, and the names they are served by.
const LIBRARY: [(&str, &str); 2] = [
    (
        "node_modules/cytoscape/dist/cytoscape.esm.min.mjs",
        "cytoscape.js",
    ),
    ("node_modules/cytoscape/LICENSE", "cytoscape-licence.txt"),
];
/// Stands for the library where it is not there: the page asks for it all the same, and says what is missing.
const STUB: &str =
    "// Built without the graph library: `cargo xtask web` fetches it.\nexport default null;\n";

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for entry in fs::read_dir(root.join("page"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.push((name, path));
    }
    files.sort();
    let fetched = LIBRARY.iter().all(|(file, _)| root.join(file).is_file());
    if fetched {
        files.extend(LIBRARY.map(|(file, name)| (name.to_owned(), root.join(file))));
        println!("cargo::rerun-if-changed=page");
        println!("cargo::rerun-if-changed=headers");
        for (file, _) in LIBRARY {
            println!("cargo::rerun-if-changed={file}");
        }
    } else {
        let stub = out.join("cytoscape.js");
        fs::write(&stub, STUB)?;
        files.push(("cytoscape.js".to_owned(), stub));
        // The whole room: a file that is not there, named here, would have cargo come by at every build.
        println!("cargo::rerun-if-changed=.");
    }
    let mut table = String::from("const ASSETS: &[Asset] = &[\n");
    for (name, path) in &files {
        let row = row(name, path)?;
        // Writing to a string does not fail.
        let _ = writeln!(table, "{row}");
    }
    table.push_str("];\n");
    fs::write(out.join("assets.rs"), table)
}

fn row(name: &str, path: &Path) -> io::Result<String> {
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some("html") => "text/html",
        Some("css") => "text/css",
        Some("js" | "mjs") => "text/javascript",
        Some("svg") => "image/svg+xml",
        _ => "text/plain",
    };
    let digest = Sha256::digest(fs::read(path)?);
    let tag: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "    Asset {{ name: {name:?}, content_type: {kind:?}, etag: {tag:?}, bytes: include_bytes!({path:?}) }},",
        tag = format!("\"{tag}\""),
    ))
}
