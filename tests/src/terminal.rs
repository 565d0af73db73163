//! A program on a terminal that a test types on and reads.

use std::fmt;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use rustix::termios::{LocalModes, tcgetattr};

use crate::luaflame::{LIMIT, program};
use crate::process::{Running, wait_until};

/// A program on a terminal.
pub struct Terminal {
    process: Running,
    pty: Arc<Pty>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Ends with the program.
    reader: JoinHandle<()>,
}

/// What a program has left behind.
#[derive(Debug)]
pub struct Left {
    /// How it ended.
    pub status: ExitStatus,
    /// What is on the screen.
    pub text: String,
}

impl Terminal {
    /// Starts luaflame on a terminal of this many rows and columns.
    ///
    /// # Errors
    /// When there is no terminal to be had, or it cannot be started.
    pub fn start(rows: u16, columns: u16, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Terminal> {
        let (pty, end) = open()?;
        pty.resize(Size::new(rows, columns))?;
        let program = program();
        let command = Command::new(&program).args(arguments).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let child = command.envs(environment.iter().copied()).spawn(end);
        let process = Running::from(child.with_context(|| format!("{} could not be started", program.display()))?);
        let (rows, columns) = (size(rows)?, size(columns)?);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let pty = Arc::new(pty);
        let reader = {
            let (pty, screen) = (Arc::clone(&pty), Arc::clone(&screen));
            thread::spawn(move || {
                let mut bytes = [0; 4096];
                // It fails when no program has the terminal any more.
                while let Ok(length @ 1..) = (&*pty).read(&mut bytes) {
                    locked(&screen).process(&bytes[..length]);
                }
            })
        };
        Ok(Terminal { process, pty, screen, reader })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Types.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn types(&self, keys: &str) -> Result<()> {
        (&*self.pty).write_all(keys.as_bytes()).context("nobody is at the terminal")
    }

    /// Makes it larger or smaller.
    ///
    /// # Errors
    /// When the kernel does not.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        locked(&self.screen).set_size(size(rows)?, size(columns)?);
        Ok(self.pty.resize(Size::new(rows, columns))?)
    }

    /// What is on the screen.
    pub fn text(&self) -> String {
        locked(&self.screen).screen().contents()
    }

    /// Whether anything on the screen has a colour.
    pub fn is_coloured(&self) -> bool {
        let parser = locked(&self.screen);
        let screen = parser.screen();
        let (rows, columns) = screen.size();
        let mut cells = (0..rows.get()).flat_map(|row| (0..columns.get()).map(move |column| (row, column)));
        cells.any(|(row, column)| {
            let plain = |color| color == vt100::Color::Default;
            screen.cell(row, column).is_some_and(|cell| !plain(cell.fgcolor()) || !plain(cell.bgcolor()))
        })
    }

    /// Waits until the screen is as it should be, and says what is on it.
    ///
    /// # Errors
    /// When it is not within a minute, or the program ends.
    pub fn wait_for(&mut self, what: &str, mut is: impl FnMut(&str) -> bool) -> Result<String> {
        let mut text = String::new();
        let mut ended = None;
        wait_until(LIMIT, || {
            ended = self.process.ended().ok().flatten();
            text = self.text();
            is(&text) || ended.is_some()
        });
        ensure!(is(&text), "{what} is not to be seen, {}:\n{text}", state(ended));
        Ok(text)
    }

    /// Waits until the program has ended, and checks that the terminal is as it was before.
    ///
    /// # Errors
    /// When it does not end within a minute, or leaves the terminal in disorder.
    pub fn finish(mut self) -> Result<Left> {
        let mut status = None;
        wait_until(LIMIT, || {
            status = self.process.ended().ok().flatten();
            status.is_some()
        });
        let status = status.with_context(|| format!("it did not end in a minute:\n{}", self.text()))?;
        // What it has written last is read to its end.
        ensure!(self.reader.join().is_ok(), "the screen could not be read");
        let parser = locked(&self.screen);
        let screen = parser.screen();
        let text = screen.contents();
        ensure!(!screen.alternate_screen(), "it has left its own screen:\n{text}");
        ensure!(!screen.hide_cursor(), "it has left no cursor:\n{text}");
        let modes = tcgetattr(&*self.pty)?.local_modes;
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        ensure!(modes.contains(usual), "it has left the terminal raw: {modes:?}");
        Ok(Left { status, text })
    }
}

impl Left {
    /// Fails unless it ended with this exit code.
    ///
    /// # Errors
    /// When it did not.
    pub fn code(self, code: i32) -> Result<Left> {
        ensure!(self.status.code() == Some(code), "exit code {code} was expected: {}\n{}", self.status, self.text);
        Ok(self)
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").field("process", &self.process).field("text", &self.text()).finish_non_exhaustive()
    }
}

fn state(ended: Option<ExitStatus>) -> String {
    ended.map_or_else(|| "after a minute".to_owned(), |status| format!("and it ended: {status}"))
}

fn size(number: u16) -> Result<NonZeroU16> {
    NonZeroU16::new(number).context("a terminal has a row and a column")
}

fn locked(screen: &Mutex<vt100::Parser>) -> MutexGuard<'_, vt100::Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}
