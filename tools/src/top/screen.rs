// SPDX-License-Identifier: GPL-3.0-only
//! The terminal: taken, and given back as it was, whatever ends the tool.

use std::io::{self, Stdout, stdout};
use std::panic;
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// Whether the terminal is ours at the moment.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// Exit status of a program that panicked, as Rust has it.
const PANICKED: i32 = 101;

/// The terminal while it is ours. Dropped, it is as it was.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// There is none, or it does not do what it should.
    pub fn take() -> io::Result<Screen> {
        restore_on_panic();
        enter()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        // Whatever fails from here on gives back what was taken.
        let terminal = terminal.inspect_err(|_| restore())?;
        Ok(Screen { terminal })
    }

    /// The terminal, to be drawn on.
    pub fn terminal(&mut self) -> &mut Terminal<CrosstermBackend<Stdout>> {
        &mut self.terminal
    }

    /// Gives the terminal back for a while.
    pub fn leave(&mut self) {
        restore();
    }

    /// Takes it again, and draws all of it anew: others wrote on it.
    ///
    /// # Errors
    /// As [`Screen::take`].
    pub fn again(&mut self) -> io::Result<()> {
        if !TAKEN.load(Ordering::SeqCst) {
            enter()?;
        }
        self.clear()
    }

    /// Clears it, so that all of it is drawn anew.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn clear(&mut self) -> io::Result<()> {
        execute!(stdout(), Clear(ClearType::All))?;
        // Its own way to clear asks the terminal where the cursor is, and would wait for an answer that comes among the keys.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::SeqCst);
    execute!(stdout(), EnterAlternateScreen, Hide).inspect_err(|_| restore())
}

/// Makes the terminal what it was, if it is ours. Nothing more can be done where that fails: it is gone.
fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// The message of a panic must be readable, whichever thread it is of; and without that thread there is no going on.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            before(info);
            process::exit(PANICKED);
        }));
    });
}

#[cfg(test)]
mod tests;
