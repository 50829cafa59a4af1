// SPDX-License-Identifier: GPL-3.0-only
//! Sled's files are locked until the last of its threads has let go of them, which may be a moment after its handle is dropped: who
//! opens them again at once must wait for that.

use std::time::{Duration, Instant};

/// How long is waited. Who else has the files, another daemon or a tool, has them longer.
const LONGEST: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(20);

/// Opens; tries again while the files are locked.
///
/// # Errors
/// Sled's, when the time is over.
pub fn open<T>(open: impl Fn() -> sled::Result<T>) -> sled::Result<T> {
    let end = Instant::now() + LONGEST;
    loop {
        match open() {
            Err(e) if is_locked(&e) && Instant::now() < end => std::thread::sleep(STEP),
            result => return result,
        }
    }
}

/// Sled tells it by its words alone.
fn is_locked(e: &sled::Error) -> bool {
    matches!(e, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_goes_is_waited_for_and_one_that_stays_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("db");
        let held = sled::open(&path).expect("opens");
        let again = || sled::open(&path);
        assert!(is_locked(&again().expect_err("locked")));
        let other = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(held);
        });
        let begun = Instant::now();
        let db = open(again).expect("opens once it is let go");
        assert!(begun.elapsed() >= Duration::from_millis(250));
        other.join().expect("ends");
        let begun = Instant::now();
        assert!(is_locked(&open(again).expect_err("locked")));
        assert!(begun.elapsed() >= LONGEST);
        drop(db);
    }
}
