// SPDX-License-Identifier: GPL-3.0-only
//! The screen, drawn from the model. Colours mean nothing that words or marks do not say, too.

mod header;

use std::time::Duration;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use super::columns::{self, Placed};
use super::model::{HELP, Mode, Model};
use super::rates::sparkline;
use super::table::{Cell, Column, Row, Value};
use super::view::View;
use crate::render::plain;
use crate::render::style::Tone;
use crate::render::table::Align;

/// Lines above the rows: three of the header, the views, where one is, the columns' names.
const ABOVE: u16 = 6;
/// The last line: keys, or what is typed.
const BELOW: u16 = 1;
/// Before each row: the mark of the one that is chosen.
const MARK: u16 = 2;
/// Screens lower than this have no room for more about the marked row.
const LOW: u16 = 16;

/// What there is to draw with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Paint {
    /// Whether to colour.
    pub color: bool,
}

impl Paint {
    fn tone(self, tone: Tone) -> Style {
        let style = Style::new();
        match (tone, self.color) {
            (Tone::Head, _) => style.add_modifier(Modifier::BOLD),
            (Tone::Good, true) => style.fg(Color::Green),
            (Tone::Odd, true) => style.fg(Color::Yellow),
            (Tone::Bad, true) => style.fg(Color::Red),
            (Tone::Part, true) => style.fg(Color::Cyan),
            // What is to be seen is seen all the same.
            (Tone::Bad, false) => style.add_modifier(Modifier::BOLD),
            (Tone::Good | Tone::Odd | Tone::Part, false) => style,
        }
    }
}

/// How many rows a screen of this height has room for.
pub fn page(height: u16, view: View) -> usize {
    let rows = height.saturating_sub(ABOVE + BELOW + details(height, view));
    usize::from(rows.max(1))
}

/// Lines for more about the marked row. Fixed, so that rows do not jump.
fn details(height: u16, view: View) -> u16 {
    let lines = match view {
        View::Threats => 6,
        View::Findings => 3,
        View::Domains | View::Processes => 1,
        View::Pairs | View::Flows => 0,
    };
    if height < LOW { 0 } else { lines }
}

/// Draws all of it. `now` is on the clock of the looks.
pub fn draw(frame: &mut Frame<'_>, model: &Model, paint: Paint, now: Duration) {
    let area = frame.area();
    if area.width == 0 || area.height == 0 {
        return;
    }
    let buffer = frame.buffer_mut();
    let stale = model.away.is_some();
    header::draw(buffer, area, model, paint, now);
    table(buffer, area, model, paint, now);
    detail(buffer, area, model, paint);
    if stale {
        // The last picture stays, and looks like what it is.
        let middle = below(area, 1).intersection(above(area, BELOW));
        buffer.set_style(middle, Style::new().add_modifier(Modifier::DIM));
    }
    footer(buffer, area, model, paint);
    match &model.mode {
        Mode::Sorting(at) => menu(buffer, area, model.view().columns(), *at),
        Mode::Helping(line) => help(buffer, area, *line, paint),
        Mode::Looking | Mode::Filtering | Mode::Delaying(_) => {}
    }
}

/// A line of an area; none below its end.
fn line(area: Rect, index: u16) -> Option<Rect> {
    (index < area.height).then(|| Rect::new(area.x, area.y + index, area.width, 1))
}

/// An area without its first lines.
fn below(area: Rect, lines: u16) -> Rect {
    let lines = lines.min(area.height);
    Rect::new(area.x, area.y + lines, area.width, area.height - lines)
}

/// An area without its last lines.
fn above(area: Rect, lines: u16) -> Rect {
    Rect {
        height: area.height.saturating_sub(lines),
        ..area
    }
}

/// Writes on a line, as far as there is room; says where it ended.
fn write(buffer: &mut Buffer, line: Rect, x: u16, text: &str, style: Style) -> u16 {
    let room = line.width.saturating_sub(x);
    if room == 0 {
        return x;
    }
    let (end, _) = buffer.set_stringn(line.x + x, line.y, text, room.into(), style);
    end - line.x
}

fn table(buffer: &mut Buffer, area: Rect, model: &Model, paint: Paint, now: Duration) {
    let columns = model.view().columns();
    let (first, rows) = model.visible();
    let sort = model.sorted();
    let room = area.width.saturating_sub(MARK);
    let placed = columns::place(columns, rows, room, model.place().skipped, sort.column);
    if let Some(line) = line(area, ABOVE - 1) {
        let head = paint.tone(Tone::Head).add_modifier(Modifier::REVERSED);
        buffer.set_style(line, head);
        for at in &placed {
            let column = &columns[at.column];
            let style = match at.column == sort.column {
                true => head.add_modifier(Modifier::UNDERLINED),
                false => head,
            };
            put(buffer, line, *at, column.name, column.align, style);
        }
    }
    let body = above(below(area, ABOVE), BELOW + details(area.height, model.view()));
    if rows.is_empty()
        && let Some(line) = line(body, 0)
    {
        let (text, tone) = nothing(model);
        write(buffer, line, MARK, &text, paint.tone(tone));
    }
    for (i, row) in rows.iter().enumerate() {
        let Some(line) = u16::try_from(i).ok().and_then(|i| line(body, i)) else {
            break;
        };
        let marked = first + i == model.place().index;
        if marked {
            write(buffer, line, 0, ">", Style::new());
        }
        for at in &placed {
            cell(buffer, line, *at, &columns[at.column], row, model, paint, now);
        }
        if marked {
            buffer.set_style(line, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// Why there are no rows.
fn nothing(model: &Model) -> (String, Tone) {
    if let Some(why) = model.refused() {
        return (plain(why), Tone::Bad);
    }
    let text = match (model.looked(), model.hidden()) {
        (false, _) if model.paused => "paused before this was asked for; p goes on",
        (false, _) => "asking …",
        (true, 0) => "nothing",
        (true, _) => "nothing that the filter lets through; Esc shows all",
    };
    (text.to_owned(), Tone::Part)
}

#[allow(clippy::too_many_arguments, reason = "all that a cell may show")]
fn cell(
    buffer: &mut Buffer,
    line: Rect,
    at: Placed,
    column: &Column,
    row: &Row,
    model: &Model,
    paint: Paint,
    now: Duration,
) {
    let Some(cell) = row.cells.get(at.column) else {
        return;
    };
    if cell.value == Value::Spark {
        let history = model.picture.history(&row.key);
        let parts = history.map(|history| history.parts(now, at.width.into()));
        let drawn = sparkline(&parts.unwrap_or_default());
        put(buffer, line, at, &drawn, Align::Left, paint.tone(Tone::Part));
        return;
    }
    let style = cell.tone.map(|tone| paint.tone(tone)).unwrap_or_default();
    let text = fitting(cell, column, at.width);
    put(buffer, line, at, &text, column.align, style);
}

/// Writes a text into its column.
fn put(buffer: &mut Buffer, line: Rect, at: Placed, text: &str, align: Align, style: Style) {
    let width = u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let before = match align {
        Align::Left => 0,
        Align::Right => at.width.saturating_sub(width),
    };
    let place = Rect {
        width: line.width.min(MARK + at.x + at.width),
        ..line
    };
    write(buffer, place, MARK + at.x + before, text, style);
}

/// As much of a cell as there is room for; of a path its end, which tells more.
fn fitting(cell: &Cell, column: &Column, width: u16) -> String {
    let (text, room) = (&cell.shown, usize::from(width));
    if Span::raw(text).width() <= room {
        return text.clone();
    }
    let chars: Vec<char> = text.chars().collect();
    // Some characters are two columns wide: what is still too wide is cut by the screen.
    let keep = room.saturating_sub(1).min(chars.len());
    if column.path {
        let mut rest = chars[chars.len() - keep..].iter().collect::<String>();
        while Span::raw(&rest).width() > room.saturating_sub(1) {
            rest.remove(0);
        }
        return format!("…{rest}");
    }
    let mut begin: String = chars[..keep].iter().collect();
    while Span::raw(&begin).width() > room.saturating_sub(1) {
        begin.pop();
    }
    format!("{begin}…")
}

/// More about the marked row.
fn detail(buffer: &mut Buffer, area: Rect, model: &Model, paint: Paint) {
    let lines = details(area.height, model.view());
    let place = below(above(area, BELOW), area.height.saturating_sub(BELOW + lines));
    let Some(row) = model.marked() else { return };
    let room = usize::from(area.width.saturating_sub(MARK)).max(1);
    let wrapped = row.detail.iter().flat_map(|text| wrap(text, room));
    for (i, text) in wrapped.take(lines.into()).enumerate() {
        if let Some(line) = u16::try_from(i).ok().and_then(|i| line(place, i)) {
            write(buffer, line, MARK, &text, paint.tone(Tone::Part));
        }
    }
}

/// A text in lines of at most so many characters, broken between words where that is possible.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let last = lines.len() - 1;
            let gap = usize::from(!lines[last].is_empty());
            if lines[last].chars().count() + gap + word.chars().count() <= room {
                if gap == 1 {
                    lines[last].push(' ');
                }
                lines[last] += &word;
                break;
            }
            if gap == 0 {
                let rest: String = word.chars().skip(room).collect();
                lines[last] = word.chars().take(room).collect();
                word = rest;
            }
            lines.push(String::new());
        }
    }
    lines
}

fn footer(buffer: &mut Buffer, area: Rect, model: &Model, paint: Paint) {
    let Some(line) = line(area, area.height.saturating_sub(BELOW)) else {
        return;
    };
    buffer.set_style(line, Style::reset());
    let (text, style) = match (&model.mode, &model.remark, &model.away) {
        (Mode::Filtering, ..) => {
            let text = format!(
                "/{}_   Enter keeps it, Esc shows all",
                plain(&model.place().filter)
            );
            (text, paint.tone(Tone::Head))
        }
        (Mode::Delaying(text), ..) => {
            let now = model.delay.as_secs_f64();
            let text = format!("seconds between looks (now {now}): {text}_   Enter takes it, Esc does not");
            (text, paint.tone(Tone::Head))
        }
        (Mode::Sorting(_), ..) => (
            "arrows and Enter choose, Esc does not".to_owned(),
            paint.tone(Tone::Head),
        ),
        (_, Some(remark), _) => (plain(remark), paint.tone(Tone::Bad)),
        (_, None, Some(away)) => (plain(away), paint.tone(Tone::Bad)),
        (..) => {
            let keys = "q quit  ? help  Enter in  Esc out  s sort  r reverse  / filter  d delay  p pause";
            (keys.to_owned(), Style::new())
        }
    };
    buffer.set_string(line.x, line.y, " ".repeat(line.width.into()), Style::new());
    write(buffer, line, 0, &text, style);
}

/// A box in the middle, with these lines; `marked` is one of them.
fn boxed(buffer: &mut Buffer, area: Rect, width: u16, lines: &[&str], marked: Option<usize>) {
    let width = width.min(area.width);
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    for (i, text) in (0..height).zip(lines) {
        let line = Rect::new(x, y + i, width, 1);
        let style = match marked == Some(usize::from(i)) {
            true => Style::reset().add_modifier(Modifier::REVERSED),
            false => Style::reset(),
        };
        buffer.set_string(line.x, line.y, " ".repeat(width.into()), style);
        write(buffer, line, 0, text, style);
    }
}

fn menu(buffer: &mut Buffer, area: Rect, columns: &[Column], at: usize) {
    let widest = columns.iter().map(|column| column.name.chars().count()).max();
    let inner = widest.unwrap_or_default().max("Sort by".len()) + 2;
    let edge = format!("+{}+", "-".repeat(inner));
    let line = |text: &str| format!("|{text:<inner$}|");
    let mut lines = vec![edge.clone(), line(" Sort by")];
    lines.extend(columns.iter().enumerate().map(|(i, column)| {
        let mark = if i == at { ">" } else { " " };
        line(&format!("{mark}{}", column.name))
    }));
    lines.push(edge);
    // On a low screen the part around the mark.
    let room = usize::from(area.height);
    let first = (at + 3)
        .saturating_sub(room)
        .min(lines.len().saturating_sub(room));
    let shown: Vec<&str> = lines[first..].iter().map(String::as_str).take(room).collect();
    let width = u16::try_from(inner + 2).unwrap_or(u16::MAX);
    boxed(buffer, area, width, &shown, Some(at + 2 - first));
}

fn help(buffer: &mut Buffer, area: Rect, from: usize, paint: Paint) {
    let area = above(area, BELOW);
    let room = usize::from(area.height);
    let from = from.min(HELP.len().saturating_sub(room));
    for i in 0..area.height {
        let line = Rect::new(area.x, area.y + i, area.width, 1);
        let text = HELP.get(from + usize::from(i)).copied().unwrap_or_default();
        let style = match text.starts_with(' ') {
            true => Style::reset(),
            false => Style::reset().patch(paint.tone(Tone::Head)),
        };
        buffer.set_string(line.x, line.y, " ".repeat(line.width.into()), Style::reset());
        write(buffer, line, 1, text, style);
    }
    let end = Rect::new(area.x, area.y + area.height, area.width, BELOW);
    let more = match from + room < HELP.len() {
        true => "arrows for more, any other key goes back",
        false => "any key goes back",
    };
    buffer.set_string(end.x, end.y, " ".repeat(end.width.into()), Style::reset());
    write(buffer, end, 0, more, paint.tone(Tone::Head));
}

#[cfg(test)]
mod tests;
