// SPDX-License-Identifier: GPL-3.0-only
//! The live view: keys, signals and answers come in on one channel; the screen goes out.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use policyd_api::Client;
use ratatui::crossterm::event::{self, Event};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::ask::{self, Order};
use super::draw::{self, Paint};
use super::key::{self, Key};
use super::look::Look;
use super::model::{Effect, Model};
use super::screen::Screen;
use crate::args::top::Top;
use crate::error::ToolError;
use crate::render::style;

/// How often ages on the screen are drawn anew.
const TICK: Duration = Duration::from_secs(1);

/// What happens.
enum Message {
    Key(Key),
    /// The terminal has another size.
    Resized,
    Look(Box<Look>),
    Signal(i32),
    /// The terminal gives no more keys.
    Gone(io::Error),
}

/// How it ended.
enum End {
    Wanted,
    Signal(i32),
}

/// Runs until it is told to end.
///
/// # Errors
/// The terminal cannot be used.
pub fn run(client: Client, host: String, asked: &Top) -> Result<(), ToolError> {
    let epoch = Instant::now();
    let model = Model::new(host, asked);
    let (tell, messages) = mpsc::channel();
    signals(tell.clone()).map_err(ToolError::Terminal)?;
    let mut screen = Screen::take().map_err(ToolError::Terminal)?;
    keys(tell.clone()).map_err(ToolError::Terminal)?;
    let answers = move |look| tell.send(Message::Look(Box::new(look))).is_ok();
    let orders = ask::start(client, order(&model), epoch, answers).map_err(ToolError::Terminal)?;
    let end = Live {
        model,
        orders,
        epoch,
        paint: Paint {
            color: style::current().color,
        },
    }
    .run(&mut screen, &messages);
    drop(screen);
    match end.map_err(ToolError::Terminal)? {
        End::Wanted => Ok(()),
        // Whoever sent it sees that it did what it does.
        End::Signal(signal) => emulate_default_handler(signal).map_err(ToolError::Terminal),
    }
}

fn order(model: &Model) -> Order {
    Order {
        wants: model.wants(),
        delay: model.delay,
        paused: model.paused,
    }
}

struct Live {
    model: Model,
    orders: Sender<Order>,
    epoch: Instant,
    paint: Paint,
}

impl Live {
    fn run(&mut self, screen: &mut Screen, messages: &Receiver<Message>) -> io::Result<End> {
        loop {
            self.draw(screen)?;
            let first = match messages.recv_timeout(TICK) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                // All who could tell something are gone.
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Wanted),
            };
            // What came meanwhile is drawn at once, together.
            for message in first.into_iter().chain(messages.try_iter()) {
                if let Some(end) = self.take(message, screen)? {
                    return Ok(end);
                }
            }
        }
    }

    fn draw(&mut self, screen: &mut Screen) -> io::Result<()> {
        let size = screen.terminal().size()?;
        self.model.resize(draw::page(size.height, self.model.view()));
        let now = self.epoch.elapsed();
        screen
            .terminal()
            .draw(|frame| draw::draw(frame, &self.model, self.paint, now))?;
        Ok(())
    }

    fn take(&mut self, message: Message, screen: &mut Screen) -> io::Result<Option<End>> {
        match message {
            Message::Key(Key::Ctrl('l')) => screen.clear()?,
            Message::Key(key) => match self.model.key(key) {
                Effect::Draw => {}
                Effect::Ask => self.ask(),
                Effect::Quit => return Ok(Some(End::Wanted)),
                Effect::Suspend => suspend(screen)?,
            },
            Message::Resized => {}
            // What one asked for before one paused comes still; then the picture stands.
            Message::Look(look) => {
                if !self.model.paused {
                    let before = self.model.wants();
                    self.model.take(*look);
                    if self.model.wants() != before {
                        self.ask();
                    }
                }
            }
            Message::Signal(SIGTSTP) => suspend(screen)?,
            // Somebody may have written on the terminal while we were away.
            Message::Signal(SIGCONT) => screen.again()?,
            Message::Signal(signal) => return Ok(Some(End::Signal(signal))),
            Message::Gone(why) => return Err(why),
        }
        Ok(None)
    }

    fn ask(&self) {
        // Without the thread that asks there is nobody to tell it; its end is told by the screen's age.
        let _ = self.orders.send(order(&self.model));
    }
}

/// Goes to the background, as programs do on Ctrl-Z; comes back when the shell says so.
fn suspend(screen: &mut Screen) -> io::Result<()> {
    screen.leave();
    emulate_default_handler(SIGTSTP)?;
    screen.again()
}

fn signals(tell: Sender<Message>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGCONT])?;
    let run = move || {
        for signal in signals.forever() {
            if tell.send(Message::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(())
}

fn keys(tell: Sender<Message>) -> io::Result<()> {
    let run = move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(event)) => key::of(&event).map(Message::Key),
                Ok(Event::Resize(..)) => Some(Message::Resized),
                Ok(_) => None,
                Err(why) => Some(Message::Gone(why)),
            };
            let Some(message) = message else { continue };
            let gone = matches!(message, Message::Gone(_));
            if tell.send(message).is_err() || gone {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".into()).spawn(run)?;
    Ok(())
}
