//! What the daemon logs: a line for each record on standard error, for people or for programs.
//!
//! Whoever reads there may be slow, and sampling must not wait for it: a thread of its own writes. What it has no room for is counted, and
//! that is said in the log.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Metadata, Record};
use serde::Serialize;
use serde_json::{Map, Number};

use super::config::{Log, LogFormat, LogLevel};
use super::privileges;
use crate::format::label::printable;

/// Lines that wait to be written.
const WAITING: usize = 1024;
/// Most characters of a message, and of a value.
const LINE_LIMIT: usize = 2_000;
/// How long the end waits for lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The format, which can change while other threads log.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Something for the thread that writes.
enum Order {
    Line(String),
    /// This is to be told when everything before it is written.
    Flush(SyncSender<()>),
}

struct Logger {
    orders: SyncSender<Order>,
    lost: AtomicU64,
}

/// Logs from now on, until [`configure`] says otherwise as in a configuration that says nothing.
///
/// # Errors
/// When there is a logger already, or the system gives us no thread.
pub fn install() -> io::Result<()> {
    let (orders, waiting) = sync_channel(WAITING);
    thread::Builder::new().name("log".to_owned()).spawn(move || write_all(waiting))?;
    log::set_boxed_logger(Box::new(Logger { orders, lost: AtomicU64::new(0) })).map_err(io::Error::other)?;
    configure(Log::default());
    Ok(())
}

/// Logs from now on as a configuration says.
pub fn configure(config: Log) {
    IS_JSON.store(config.format == LogFormat::Json, Ordering::Relaxed);
    log::set_max_level(match config.level {
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warn => LevelFilter::Warn,
        LogLevel::Info => LevelFilter::Info,
        LogLevel::Debug => LevelFilter::Debug,
    });
}

fn write_all(orders: Receiver<Order>) {
    if let Err(error) = privileges::drop_all() {
        log::warn!("the thread that writes the log keeps its privileges: {error:#}");
    }
    for order in orders {
        match order {
            // That nobody may be reading there is no reason to stop.
            Order::Line(line) => drop(io::stderr().write_all(line.as_bytes())),
            // Nor that nobody waits any more.
            Order::Flush(done) => drop(done.try_send(())),
        }
    }
}

impl Logger {
    fn send(&self, level: Level, record: &Record<'_>) {
        let line = line(SystemTime::now(), level, record, IS_JSON.load(Ordering::Relaxed));
        if let Err(TrySendError::Full(_)) = self.orders.try_send(Order::Line(line)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl log::Log for Logger {
    /// Libraries have much to say that is no matter of ours.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format_args!("{lost} lines of the log are lost: whoever reads it is too slow");
            self.send(Level::Warn, &Record::builder().args(text).target(module_path!()).build());
        }
        self.send(record.level(), record);
    }

    fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// A line as programs read it.
#[derive(Serialize)]
struct Object<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(flatten)]
    values: &'a Map<String, serde_json::Value>,
}

fn line(now: SystemTime, level: Level, record: &Record<'_>, is_json: bool) -> String {
    let time = humantime::format_rfc3339_millis(now).to_string();
    // Names of other people's programs are in it.
    let message = printable(&record.args().to_string(), LINE_LIMIT);
    let mut values = Values::default();
    // Ours take them all.
    let _ = record.key_values().visit(&mut values);
    let Values(values) = values;
    if is_json {
        let level = level.as_str().to_lowercase();
        let object = Object { time: &time, level: &level, target: record.target(), message: &message, values: &values };
        // Texts and numbers can always be written.
        return serde_json::to_string(&object).unwrap_or_default() + "\n";
    }
    let mut line = format!("{time} {level:<5} {message}");
    for (key, value) in &values {
        // Writing to a string cannot fail.
        let _ = write!(line, " {key}={value}");
    }
    line + "\n"
}

/// The keys and values of a record.
#[derive(Default)]
struct Values(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Values {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let mut taken = Taken(serde_json::Value::Null);
        value.visit(&mut taken)?;
        // A value does not take the place of what every line has.
        if !["time", "level", "target", "message"].contains(&key.as_str()) {
            self.0.insert(key.to_string(), taken.0);
        }
        Ok(())
    }
}

struct Taken(serde_json::Value);

impl<'v> VisitValue<'v> for Taken {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_f64(&mut self, value: f64) -> Result<(), kv::Error> {
        self.0 = Number::from_f64(value).map_or(serde_json::Value::Null, Into::into);
        Ok(())
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.0 = value.into();
        Ok(())
    }

    fn visit_str(&mut self, value: &str) -> Result<(), kv::Error> {
        self.0 = printable(value, LINE_LIMIT).into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: &str, pairs: &[(&str, Value<'_>)], is_json: bool) -> String {
        let args = format_args!("{message}");
        let record = Record::builder().args(args).target("luaflame::export").key_values(&pairs).build();
        line(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500), Level::Warn, &record, is_json)
    }

    #[test]
    fn a_line_is_for_people_or_for_programs() {
        let pairs = [("endpoint", Value::from("a b")), ("dropped", 3.into()), ("message", "not this".into())];
        assert_eq!(
            written("it is slow", &pairs, false),
            "1970-01-01T00:00:01.500Z WARN  it is slow dropped=3 endpoint=\"a b\"\n"
        );
        assert_eq!(
            written("it is slow", &pairs, true),
            "{\"time\":\"1970-01-01T00:00:01.500Z\",\"level\":\"warn\",\"target\":\"luaflame::export\",\
             \"message\":\"it is slow\",\"dropped\":3,\"endpoint\":\"a b\"}\n"
        );
    }

    #[test]
    fn names_of_processes_make_no_lines_and_no_commands_of_a_terminal() {
        for is_json in [false, true] {
            let name = "x\n2026 ERROR \u{1b}[2J\u{9b}\u{202e}";
            let line = written(name, &[("command", Value::from(name))], is_json);
            assert!(!line.trim_end().contains(|char: char| char.is_control() || char == '\u{202e}'), "{line:?}");
            assert!(written(&"x".repeat(1 << 20), &[], is_json).len() < 2 * LINE_LIMIT);
        }
    }

    #[test]
    fn values_keep_their_kind() {
        let pairs = [
            ("a", Value::from(-1)),
            ("b", 1.5.into()),
            ("c", true.into()),
            ("d", f64::NAN.into()),
            ("e", Value::from_debug(&Some(1))),
        ];
        let line: serde_json::Value = serde_json::from_str(&written("", &pairs, true)).unwrap();
        let expected = serde_json::json!({"a": -1, "b": 1.5, "c": true, "d": null, "e": "Some(1)"});
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&line[key], value, "{key}");
        }
    }
}
