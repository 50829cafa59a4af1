// SPDX-License-Identifier: GPL-3.0-only
//! The web page that policyd serves: its files, and the headers that go with each. Pure: who serves them, to whom, is the
//! daemon's business; what the page asks is the API's.
//!
//! The page is plain HTML, CSS and modules in `page/`. The library that draws the map comes from npm (`cargo xtask web`); a build
//! without it has everything else, and the page says so.
#![forbid(unsafe_code)]

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    /// Its name, as `app.js`.
    pub name: &'static str,
    /// Its media type, as `text/javascript`; all text is UTF-8.
    pub content_type: &'static str,
    /// Names this very content, in quotes as the header has it.
    pub etag: &'static str,
    /// The content.
    pub bytes: &'static [u8],
}

/// The file of that name; the page itself is `index.html`. None if there is no such file.
pub fn asset(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// All files.
pub fn assets() -> &'static [Asset] {
    ASSETS
}

/// Headers, name and value, that each of the files is to be served with. They let the page use nothing but its own files, from
/// nowhere but where it came from, and nobody put it into a frame.
pub fn headers() -> impl Iterator<Item = (&'static str, &'static str)> {
    include_str!("../headers")
        .lines()
        .filter_map(|line| line.split_once(": "))
}

#[cfg(test)]
mod tests;
