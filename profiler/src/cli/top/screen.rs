//! The terminal while it shows the picture, and as it was before.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::{Context, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How often to look whether something has happened that is no key.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// That there is a terminal to draw on.
///
/// # Errors
/// When there is none, with what to do instead.
pub fn check() -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!(
            "luaflame top draws on a terminal, and standard output is none. A summary in text can be had without one: \
             luaflame -p PID -t 10 -f text -o -"
        );
    }
    Ok(())
}

/// The whole terminal, given back as it was when this is dropped, and when anything panics.
pub struct Screen {
    /// To draw on.
    pub terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn take() -> anyhow::Result<Screen> {
        // It may fail halfway.
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        Ok(Screen { terminal: terminal.context("the terminal cannot be drawn on")? })
    }

    /// Waits for a key, another size of the terminal or the like, until `is_over` says that it is not worth while any more.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn event(&self, is_over: impl Fn() -> bool) -> io::Result<Option<Event>> {
        let stdout = io::stdout();
        // Keys that have been read already are taken at once.
        let mut wait = Timespec::default();
        while !is_over() {
            // crossterm is not asked to wait: it would read for ever from a terminal that is gone.
            let mut fds = [PollFd::new(&stdout, PollFlags::IN)];
            // The only error is an interruption by a signal, such as that of another size.
            let _ = poll(&mut fds, Some(&wait));
            if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
                return Err(io::Error::other("it is gone"));
            }
            if event::poll(Duration::ZERO)? {
                return event::read().map(Some);
            }
            wait = LOOK_EVERY;
        }
        Ok(None)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
