//! What is said to the user, on standard error: errors, warnings, what was done, hints, and with `-v` what was found on the way.
//!
//! All of it goes through the macros of `log`, by which the library speaks, too, and is written here. Here it is also decided
//! whether there is colour.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use log::{Level, LevelFilter, Log, Metadata, Record};
use luaflame::format::label::printable;

use super::args::ColorArg;

/// Most characters of a line, which may name what other processes called themselves.
const LINE_LIMIT: usize = 2_000;

struct Console;

/// Says from now on what is at least as important as `level`.
pub fn install(level: LevelFilter) {
    // Fails only if there is a logger already, which would say it.
    let _ = log::set_logger(&Console);
    log::set_max_level(level);
}

/// Obeys `--color`, before the command line is understood: what is wrong with it is said in colour, too.
pub fn choose_colors(arguments: impl Iterator<Item = OsString>) {
    let mut is_value = false;
    for argument in arguments.take_while(|argument| argument != "--") {
        let Some(text) = argument.to_str() else { continue };
        let value = if is_value { Some(text) } else { text.strip_prefix("--color=") };
        is_value = text == "--color";
        match value.map(|value| ColorArg::from_str(value, false)) {
            Some(Ok(ColorArg::Auto)) => ColorChoice::Auto.write_global(),
            Some(Ok(ColorArg::Always)) => ColorChoice::Always.write_global(),
            Some(Ok(ColorArg::Never)) => ColorChoice::Never.write_global(),
            // The parser of the command line will refuse it.
            Some(Err(_)) | None => {}
        }
    }
}

/// Tells what may help next. Nobody reads it in a file, and nobody who wants quiet wants it.
pub fn hint(text: &str) {
    if io::stderr().is_terminal() {
        log::info!("{text}");
    }
}

/// Whether there is anybody to watch what goes on: a terminal on which nothing else is said meanwhile.
pub fn shows_progress() -> bool {
    io::stderr().is_terminal() && log::max_level() == LevelFilter::Info
}

/// Whether there is to be colour on standard output.
pub fn has_color() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Does something while nothing is said, because the whole terminal is drawn on.
pub fn silent<T>(work: impl FnOnce() -> T) -> T {
    let level = log::max_level();
    log::set_max_level(LevelFilter::Off);
    let done = work();
    log::set_max_level(level);
    done
}

impl Log for Console {
    /// Libraries have much to say that is no matter of ours.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (style, word) = match record.level() {
            Level::Error => (AnsiColor::Red.on_default().bold(), "error: "),
            Level::Warn => (AnsiColor::Yellow.on_default().bold(), "warning: "),
            Level::Info | Level::Debug | Level::Trace => (Style::new(), ""),
        };
        let text = record.args().to_string();
        let lines: Vec<String> = text.lines().map(|line| printable(line, LINE_LIMIT)).collect();
        // That nobody may be reading there is no reason to stop.
        let _ = writeln!(AutoStream::auto(io::stderr()), "luaflame: {style}{word}{style:#}{}", lines.join("\n"));
    }

    fn flush(&self) {}
}
