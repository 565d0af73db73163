//! Values of options, read from their text.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use luaflame::record::Event;

/// The highest PID that the kernel gives: `PID_MAX_LIMIT`.
const HIGHEST_PID: u32 = 1 << 22;
/// Longest time that can be asked for, in seconds: a week.
const LONGEST: f64 = 7.0 * 24.0 * 3600.0;

/// What `-p` takes: a process by its PID, or by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// The process with this PID.
    Pid(u32),
    /// The one process with this name.
    Name(String),
}

impl fmt::Display for Named {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Named::Pid(pid) => pid.fmt(formatter),
            Named::Name(name) => name.fmt(formatter),
        }
    }
}

/// A process as the user names it. A number is always a PID.
pub(super) fn process(text: &str) -> Result<Named, String> {
    if text.is_empty() {
        return Err("it is empty; give a PID, such as 1234, or a name, such as nginx".to_owned());
    }
    if text.contains('/') {
        return Err("names of processes have no '/': give that of the program alone, such as nginx".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Named::Name(text.to_owned()));
    }
    match text.parse() {
        Ok(pid @ 1..=HIGHEST_PID) => Ok(Named::Pid(pid)),
        _ => Err(format!("PIDs are from 1 to {HIGHEST_PID}")),
    }
}

/// What takes the samples.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum EventArg {
    /// CPU cycles where the machine counts them, else the CPU clock
    Auto,
    /// The hardware's count of CPU cycles
    Cycles,
    /// The kernel's CPU clock, which works everywhere
    CpuClock,
}

impl EventArg {
    pub(super) fn event(self) -> Event {
        match self {
            EventArg::Auto => Event::Auto,
            EventArg::Cycles => Event::Cycles,
            EventArg::CpuClock => Event::CpuClock,
        }
    }
}

/// A share in percent, from 0 to 100.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("it is not a number from 0 to 100".to_owned()),
    }
}

/// Seconds, or a number with a unit: `10`, `0.5`, `10s`, `500ms`, `1m`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("'{unit}' is no unit of time; use ms, s, m or h")),
    };
    // The parser of numbers takes signs, infinities and exponents as well.
    let number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then(|| digits.parse::<f64>().ok());
    let Some(number) = number.flatten() else {
        return Err(
            "it is not a number of seconds, such as 10 or 0.5, nor one with a unit, such as 10s or 1m".to_owned()
        );
    };
    let seconds = number * unit;
    if !(0.001..=LONGEST).contains(&seconds) {
        return Err("it is not between 1ms and a week (168h)".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}
