//! `luaflame top`: what processes do now, on the whole terminal.
//!
//! A recording that keeps nothing counts into a [`Ledger`]; what the user has chosen of that is a [`Picture`], which is drawn.

mod draw;
mod filter;
mod fit;
mod help;
mod keys;
mod ledger;
mod picture;
mod screen;
mod tally;

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use luaflame::probe::requirements;
use luaflame::profile::Profile;
use luaflame::record::{self, Seen, record};
use luaflame::target::live::live;
use ratatui::crossterm::event::{Event, KeyEventKind};

use super::NO_INTERRUPT;
use super::args::Watching;
use super::signals::Interrupt;
use super::{console, processes};
use draw::{Setting, draw};
use keys::{Session, Wish};
use ledger::Ledger;
use picture::Picture;
use screen::Screen;

/// A recording under way. It ends when a signal or the user wants it to, when every process has ended, and when it fails.
type Recording = JoinHandle<anyhow::Result<Profile>>;

/// Shows processes until the user quits.
///
/// # Errors
/// When there is no terminal, or for the reasons of [`record`].
pub fn run(watching: &Watching) -> anyhow::Result<ExitCode> {
    screen::check()?;
    requirements::check()?;
    let pids = processes::resolve(&watching.processes)?;
    let interrupt = Arc::new(Interrupt::install().context(NO_INTERRUPT)?);
    let ledger = Arc::new(Mutex::new(Ledger::new(watching.window)));
    let (begun, beginning) = sync_channel(1);
    let recording: Recording = {
        let options = record::Options { pids, ..watching.options.clone() };
        let (interrupt, ledger) = (Arc::clone(&interrupt), Arc::clone(&ledger));
        thread::Builder::new().name("recording".to_owned()).spawn(move || {
            record(&options, &live(), interrupt.stop(), &mut |progress| {
                locked(&ledger).observe(progress);
                // It has room for one word, and one is enough.
                let _ = begun.try_send(progress.profile.meta.event.clone());
                Seen::Forget
            })
        })?
    };
    // Until there are samples the terminal stays as it is: what goes wrong is told on it, as by any command.
    let Ok(event) = beginning.recv() else {
        outcome(recording)?;
        if interrupt.stop().load(Ordering::Relaxed) {
            return Ok(ExitCode::SUCCESS);
        }
        bail!("the processes have ended before there was anything to see");
    };
    let setting = Setting {
        frequency: watching.options.frequency,
        event,
        lua: watching.options.lua,
        colour: console::has_color(),
    };
    // A second signal must not leave the terminal as it is meanwhile.
    let _whole = interrupt.hold();
    console::silent(|| show(watching.delay, &setting, &ledger, recording, interrupt.stop()))?;
    // The recording is not waited for: it has nothing to write, and ends with this process.
    interrupt.stop().store(true, Ordering::Relaxed);
    Ok(ExitCode::SUCCESS)
}

/// Shows what is counted until the user quits or `stop` is set.
fn show(
    delay: Duration,
    setting: &Setting,
    ledger: &Mutex<Ledger>,
    recording: Recording,
    stop: &AtomicBool,
) -> anyhow::Result<()> {
    let mut screen = Screen::take()?;
    let mut session = Session::default();
    let mut recording = Some(recording);
    while !stop.load(Ordering::Relaxed) {
        if let Some(finished) = recording.take_if(|recording| recording.is_finished()) {
            locked(ledger).end(&outcome(finished)?);
            session.ended = true;
        }
        let picture = match &session.frozen {
            Some(frozen) => Picture::of(frozen, &session.choices),
            None => Picture::of(&locked(ledger), &session.choices),
        };
        screen.terminal.draw(|frame| draw(frame, &picture, &mut session, setting))?;
        let drawn = Instant::now();
        let is_over = || {
            stop.load(Ordering::Relaxed)
                || drawn.elapsed() >= delay
                || recording.as_ref().is_some_and(JoinHandle::is_finished)
        };
        let wish = match screen.event(is_over).context("no keys can be read from the terminal")? {
            Some(Event::Key(key)) if key.kind != KeyEventKind::Release => session.key(key, &picture),
            _ => Wish::Nothing,
        };
        match wish {
            Wish::Nothing => {}
            Wish::Quit => return Ok(()),
            Wish::Pause => {
                session.frozen = if session.frozen.is_none() { Some(locked(ledger).clone()) } else { None };
            }
            Wish::Reset => {
                locked(ledger).reset();
                session.frozen = None;
            }
        }
    }
    Ok(())
}

/// What a recording that has ended has brought.
fn outcome(recording: Recording) -> anyhow::Result<Profile> {
    recording.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// A panic while it was locked ends everything soon; until then the counts are what they are.
fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
