//! `luaflame top`.

use std::time::Duration;

use luaflame::record;

use super::values::{EventArg, Named, duration, process};

const AFTER_HELP: &str = "\
Examples:
  sudo luaflame top -p 1234
  sudo luaflame top -p nginx --window 60s   all workers of an nginx, over the last minute

Keys:
  q, Ctrl-C    quit                        p, space     freeze the picture; sampling goes on
  s, t, n      sort by self, total, name   left, right  the same in turn
  /            show functions that match   Esc          show all again
  l            Lua functions only          w            the last seconds, or all since the start
  Tab, 1-9, 0  one process, or all         r            count from now on
  ?            what the columns mean       arrows, PgUp, PgDn, Home, End  scroll

Exit codes:
  0  you have quit
  1  an error
  2  the command line is wrong
";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct TopArgs {
    /// Process to watch, by its PID or its name, with all its threads and the children that it starts; of an nginx master, its
    /// workers. Can be given several times, or as a list with commas
    #[arg(short, long = "pid", value_name = "PID|NAME", required = true, value_delimiter = ',', value_parser = process)]
    processes: Vec<Named>,

    /// How often the picture is drawn anew: seconds, or a number with ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = delay)]
    delay: Duration,

    /// How far the picture reaches back: seconds, or a number with ms, s, m or h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = window)]
    window: Duration,

    /// Samples per second of each CPU
    #[arg(short = 'F', long = "freq", value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,

    /// What takes the samples
    #[arg(long, value_name = "EVENT", default_value = "auto")]
    event: EventArg,

    /// Look for no LuaJIT: show native and kernel functions only, of any process
    #[arg(long)]
    no_lua: bool,
}

/// Samples arrive ten times a second.
fn delay(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| at_least(time, Duration::from_millis(100), "100ms"))
}

fn window(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|time| at_least(time, Duration::from_secs(1), "1s"))
}

fn at_least(time: Duration, least: Duration, words: &str) -> Result<Duration, String> {
    if time < least { Err(format!("it is less than {words}")) } else { Ok(time) }
}

/// What to watch, as plain options.
#[derive(Debug)]
pub struct Watching {
    /// The processes.
    pub processes: Vec<Named>,
    /// What to record of them; which ones they are is found out then.
    pub options: record::Options,
    /// How often to draw.
    pub delay: Duration,
    /// How far to look back.
    pub window: Duration,
}

impl TopArgs {
    pub(super) fn watching(self) -> Watching {
        let options = record::Options {
            pids: Vec::new(),
            launched: None,
            duration: None,
            frequency: self.frequency,
            event: self.event.event(),
            kernel: true,
            lua: !self.no_lua,
        };
        Watching { processes: self.processes, options, delay: self.delay, window: self.window }
    }
}
