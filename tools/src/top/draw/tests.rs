// SPDX-License-Identifier: GPL-3.0-only
//! Whole screens, compared with files that can be read. `XMESH_WRITE_SCREENS=1` writes them anew; look at what changed.

use std::path::Path;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::top::key::Key;
use crate::top::look::Look;
use crate::top::sample::{HOSTILE, model};

const NOW: Duration = Duration::from_secs(12);

fn drawn(model: &mut Model, width: u16, height: u16, color: bool, now: Duration) -> Buffer {
    model.resize(page(height, model.view()));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal
        .draw(|frame| draw(frame, model, Paint { color }, now))
        .expect("drawn");
    terminal.backend().buffer().clone()
}

/// The characters of a screen, a line each, without the room at their ends.
fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width);
    let lines = buffer.content().chunks(width);
    lines
        .map(|line| {
            let line: String = line.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        })
        .collect()
}

fn compare(name: &str, model: &mut Model, width: u16, height: u16) {
    let shown = text(&drawn(model, width, height, false, NOW));
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/top/draw/screens")
        .join(format!("{name}-{width}x{height}.txt"));
    if std::env::var_os("XMESH_WRITE_SCREENS").is_some() {
        std::fs::write(&path, &shown).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        shown == expected,
        "{name}: expected\n{expected}\nbut it is\n{shown}"
    );
}

#[test]
fn every_view_is_as_it_should_be() {
    for (view, domain) in [
        (View::Domains, None),
        (View::Processes, Some("web1")),
        (View::Pairs, None),
        (View::Flows, None),
        (View::Threats, None),
        (View::Findings, None),
    ] {
        let mut model = model(view, domain);
        compare(view.word(), &mut model, 80, 24);
        compare(view.word(), &mut model, 160, 50);
    }
}

#[test]
fn menus_and_help_are_as_they_should_be() {
    let mut model = model(View::Domains, None);
    model.key(Key::Char('?'));
    compare("help", &mut model, 80, 24);
    model.key(Key::Esc);
    model.key(Key::Char('s'));
    compare("sort", &mut model, 80, 24);
    model.key(Key::Esc);
    for key in "/web".chars() {
        model.key(Key::Char(key));
    }
    compare("filter", &mut model, 80, 24);
}

#[test]
fn a_daemon_that_is_away_is_said_and_the_picture_is_dim() {
    let mut model = model(View::Domains, None);
    model.take(Look {
        at: Duration::from_secs(20),
        away: Some("cannot reach policyd at /run/policyd/api.sock".into()),
        ..Look::default()
    });
    let buffer = drawn(&mut model, 80, 24, false, Duration::from_secs(30));
    let shown = text(&buffer);
    let first = shown.lines().next().unwrap_or_default();
    assert_eq!(first, "xmesh top  dom0  policyd is AWAY; this is 18s old");
    assert!(
        shown.contains("web1") && shown.contains("cannot reach policyd at /run"),
        "{shown}"
    );
    let row = buffer.cell((2, ABOVE)).expect("a cell");
    assert!(row.modifier.contains(Modifier::DIM));
}

#[test]
fn a_daemon_that_does_not_answer_is_said() {
    let mut model = model(View::Domains, None);
    let first = |model: &mut Model, now: u64| {
        let shown = text(&drawn(model, 100, 24, false, Duration::from_secs(now)));
        shown.lines().next().unwrap_or_default().to_owned()
    };
    assert!(!first(&mut model, 17).contains("NO ANSWER"));
    assert!(first(&mut model, 22).contains("NO ANSWER for 10s"));
    model.key(Key::Char('p'));
    assert!(
        first(&mut model, 22).ends_with("PAUSED"),
        "who does not ask waits for none"
    );
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let colored = |color| {
        let mut model = model(View::Domains, None);
        let buffer = drawn(&mut model, 80, 24, color, NOW);
        let cells = buffer.content().iter();
        let colors = cells.filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        colors.count()
    };
    assert_eq!(colored(false), 0);
    assert!(colored(true) > 0);
}

#[test]
fn nothing_of_a_guest_reaches_the_terminal_as_it_is() {
    for view in View::ALL {
        let mut model = model(view, Some(HOSTILE).filter(|_| view == View::Processes));
        let buffer = drawn(&mut model, 160, 50, true, NOW);
        for cell in buffer.content() {
            let moves = |c: char| c.is_control() || c == '\u{202e}';
            assert!(!cell.symbol().contains(moves), "{view:?}: {:?}", cell.symbol());
        }
    }
}

#[test]
fn no_size_is_too_small() {
    for view in View::ALL {
        let mut model = model(view, Some("web1").filter(|_| view == View::Processes));
        for keys in ["", "s", "?", "/x", "d1"] {
            model.mode = Mode::Looking;
            for key in keys.chars() {
                model.key(Key::Char(key));
            }
            for width in [1, 2, 3, 10, 40, 80, 300] {
                for height in [1, 2, 5, 6, 7, 8, 15, 16, 40] {
                    drawn(&mut model, width, height, true, NOW);
                }
            }
        }
    }
}

#[test]
fn columns_that_have_no_room_are_scrolled_to() {
    let mut model = model(View::Pairs, None);
    let head = |model: &mut Model| {
        let shown = text(&drawn(model, 80, 24, false, NOW));
        shown.lines().nth(5).unwrap_or_default().to_owned()
    };
    assert!(!head(&mut model).contains("Retr/s"));
    for _ in 0..9 {
        model.key(Key::Right);
    }
    let scrolled = head(&mut model);
    assert!(
        scrolled.contains("Retr/s") && scrolled.contains("From"),
        "{scrolled}"
    );
    // What it is sorted by is skipped like any other.
    assert!(!scrolled.contains("Conn/s"), "{scrolled}");
}

#[test]
fn wide_characters_stay_in_their_column() {
    let cell = Cell::text("漢字漢字漢字");
    const TEXT: Column = Column::text("Name", "name", 4, 9, 0);
    const PATH: Column = Column::path("Exe", "exe", 4, 9, 0);
    assert_eq!(fitting(&cell, &TEXT, 8), "漢字漢…");
    assert_eq!(fitting(&cell, &PATH, 8), "…字漢字");
    assert_eq!(fitting(&cell, &TEXT, 12), "漢字漢字漢字");
    assert_eq!(fitting(&cell, &TEXT, 0), "…");
}

#[test]
fn long_texts_are_broken_between_words() {
    assert_eq!(wrap("one two three", 7), ["one two", "three"]);
    assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
    assert_eq!(wrap("", 4), [""]);
}
