// SPDX-License-Identifier: GPL-3.0-only
#![no_main]

use policy::{Document, Ruleset};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(document) = Document::parse("fuzz.yaml", text)
    {
        let _ = Ruleset::compile(&[document], 1);
    }
});
