// SPDX-License-Identifier: GPL-3.0-only
//! The lines above the table: the daemon, the host's totals, the views, and where one is.

use std::time::Duration;

use policyd_api::{Mode as Sight, Severity};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Modifier, Style};

use super::{Paint, line, write};
use crate::render::plain;
use crate::render::signal::rate;
use crate::render::style::{Tone, tone};
use crate::render::time::{bytes, duration};
use crate::top::model::{Model, path};
use crate::top::view::View;

/// How much later than it should be an answer may be before that is said.
const PATIENCE: Duration = Duration::from_secs(3);

/// Draws them.
pub fn draw(buffer: &mut Buffer, area: Rect, model: &Model, paint: Paint, now: Duration) {
    let draws: [fn(&mut Pen<'_>, &Model, Duration); 5] = [daemon, sight, flows, views, place];
    for (index, draw) in (0u16..).zip(draws) {
        if let Some(line) = line(area, index) {
            let mut pen = Pen {
                buffer,
                line,
                x: 0,
                paint,
            };
            draw(&mut pen, model, now);
        }
    }
}

/// Where the next word goes on a line.
struct Pen<'b> {
    buffer: &'b mut Buffer,
    line: Rect,
    x: u16,
    paint: Paint,
}

impl Pen<'_> {
    fn plain(&mut self, text: &str) {
        self.styled(text, Style::new());
    }

    fn toned(&mut self, text: &str, tone: Tone) {
        let style = self.paint.tone(tone);
        self.styled(text, style);
    }

    fn styled(&mut self, text: &str, style: Style) {
        self.x = write(self.buffer, self.line, self.x, text, style);
    }
}

fn daemon(pen: &mut Pen<'_>, model: &Model, now: Duration) {
    pen.toned("xmesh top", Tone::Head);
    pen.plain(&format!("  {}", plain(&model.host)));
    let old = model.told.map(|told| now.saturating_sub(told));
    let late = !model.paused && old.unwrap_or(now) > model.delay + PATIENCE;
    match (&model.away, old) {
        (Some(_), Some(old)) => {
            let old = duration(old.as_secs());
            pen.plain("  ");
            pen.toned(&format!("policyd is AWAY; this is {old} old"), Tone::Bad);
        }
        (Some(_), None) => {
            pen.plain("  ");
            pen.toned("policyd is AWAY", Tone::Bad);
        }
        (None, _) => {
            if let Some(status) = &model.picture.status {
                let text = format!(
                    "  policyd {} up {}  generation {}  Xen {}",
                    plain(&status.version),
                    duration(status.uptime),
                    status.generation,
                    plain(&status.xen)
                );
                pen.plain(&text);
            }
            if late {
                let old = duration(old.unwrap_or(now).as_secs());
                pen.plain("  ");
                pen.toned(&format!("NO ANSWER for {old}"), Tone::Bad);
            }
        }
    }
    if model.paused {
        pen.plain("  ");
        pen.toned("PAUSED", Tone::Odd);
    }
}

fn sight(pen: &mut Pen<'_>, model: &Model, _now: Duration) {
    let picture = &model.picture;
    pen.plain("Sight: ");
    let sight = picture.sight();
    if sight.is_empty() {
        pen.plain("no domains");
    }
    for (i, (mode, count)) in sight.into_iter().enumerate() {
        let gap = if i == 0 { "" } else { ", " };
        let word = Sight::as_str(mode);
        pen.plain(&format!("{gap}{count} "));
        pen.toned(word, tone(word).unwrap_or(Tone::Part));
    }
    pen.plain("   Threats: ");
    let severities = picture.severities();
    if severities.iter().all(|(_, count)| *count == 0) {
        pen.plain(match &picture.threats {
            Ok(_) => "none",
            Err(_) => "not told",
        });
    }
    let there = severities.into_iter().filter(|(_, count)| *count > 0);
    for (i, (severity, count)) in there.enumerate() {
        let gap = if i == 0 { "" } else { ", " };
        let (one, many) = match severity {
            Severity::Alert => ("alert", "alerts"),
            Severity::Warning => ("warning", "warnings"),
            Severity::Notice => ("notice", "notices"),
        };
        let word = if count == 1 { one } else { many };
        pen.plain(gap);
        pen.toned(
            &format!("{count} {word}"),
            tone(severity.as_str()).unwrap_or(Tone::Part),
        );
    }
}

fn flows(pen: &mut Pen<'_>, model: &Model, _now: Duration) {
    let totals = model.picture.totals();
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), rate);
    let amount = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| bytes(v as u64));
    pen.plain(&format!(
        "Flows: {} open, {}/s new, ",
        model.picture.open_flows(),
        number(totals.flows)
    ));
    let denied = format!("{}/s denied", number(totals.denied));
    match totals.denied {
        Some(rate) if rate > 0.0 => pen.toned(&denied, Tone::Bad),
        _ => pen.plain(&denied),
    }
    pen.plain(&format!(
        "   Bytes: {}/s out, {}/s in",
        amount(totals.bytes_out),
        amount(totals.bytes_in)
    ));
}

fn views(pen: &mut Pen<'_>, model: &Model, _now: Duration) {
    for (i, view) in View::ALL.into_iter().enumerate() {
        let name = format!("{} {}", i + 1, view.title());
        match view == model.view() {
            true => pen.styled(&format!("[{name}]"), Style::new().add_modifier(Modifier::BOLD)),
            false => pen.plain(&format!(" {name} ")),
        }
    }
}

fn place(pen: &mut Pen<'_>, model: &Model, _now: Duration) {
    let sort = model.sorted();
    let column = &model.view().columns()[sort.column];
    let order = match sort.descending {
        true => "descending",
        false => "ascending",
    };
    pen.toned(&path(model.path()), Tone::Head);
    let all = model.rows().len();
    pen.plain(&format!(": {all}, by {}, {order}", column.name));
    let filter = &model.place().filter;
    if !filter.is_empty() {
        pen.plain("; ");
        let text = format!("/{}, {} hidden", plain(filter), model.hidden());
        pen.toned(&text, Tone::Odd);
    }
}
