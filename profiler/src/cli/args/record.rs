//! `luaflame record`, and `luaflame` without a command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use luaflame::record;

use super::drawing::DrawingArgs;
use super::plan::{Plan, Source};
use super::values::{EventArg, Named, duration, process};

pub(super) const EXAMPLES: &str = "\
Examples:
  sudo luaflame record -p 1234 -t 10 -o flame.svg
  sudo luaflame record -p nginx -t 1m --lua-only --lines line -o lines.svg
  sudo luaflame record -p 1234 -t 10 -o flame.svg -o profile.pb.gz -o samples.luaflame
  sudo luaflame record -o start.svg -- luajit app.lua
";

#[derive(Debug, clap::Args)]
pub(super) struct RecordArgs {
    /// Process to profile, by its PID or its name, with all its threads and the children that it starts; of an nginx
    /// master, its workers. Can be given several times, or as a list with commas
    #[arg(
        short,
        long = "pid",
        value_name = "PID|NAME",
        required_unless_present = "program",
        conflicts_with = "program",
        value_delimiter = ',',
        value_parser = process
    )]
    processes: Vec<Named>,

    /// Program to start, behind --, with its arguments: it is profiled from its first instruction to its end, with its
    /// children, and luaflame ends with its exit code
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,

    /// How long to sample: seconds, or a number with ms, s, m or h. Without it, until Ctrl-C or until the processes end
    #[arg(
        short = 't',
        long,
        value_name = "TIME",
        visible_short_alias = 'd',
        visible_alias = "duration",
        value_parser = duration
    )]
    time: Option<Duration>,

    /// Samples per second of each CPU
    #[arg(short = 'F', long = "freq", value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    frequency: u32,

    /// What takes the samples
    #[arg(long, value_name = "EVENT", default_value = "auto")]
    event: EventArg,

    /// Look for no LuaJIT: draw native and kernel functions only, of any process
    #[arg(long, conflicts_with = "lua_only")]
    no_lua: bool,

    /// Also write all that is read of the processes into this file, for luaflame report. It contains MEMORY OF THE
    /// PROCESSES, in which passwords, keys and data of users may be, and is readable by its owner alone
    #[arg(long, value_name = "FILE.luaflame")]
    with_memory: Option<PathBuf>,

    #[command(flatten)]
    drawing: DrawingArgs,
}

impl RecordArgs {
    pub(super) fn plan(self) -> Result<Plan, clap::Error> {
        let stem = match (self.processes.first(), self.program.first()) {
            (Some(process), _) => format!("luaflame-{process}"),
            (None, Some(program)) => {
                format!("luaflame-{}", Path::new(program).file_name().unwrap_or_default().to_string_lossy())
            }
            (None, None) => "luaflame".to_owned(),
        };
        let options = record::Options {
            pids: Vec::new(),
            launched: None,
            duration: self.time,
            frequency: self.frequency,
            event: self.event.event(),
            kernel: self.drawing.needs_kernel(),
            lua: !self.no_lua,
        };
        let Self { processes, program, with_memory, .. } = self;
        let source = Source::Processes { processes, program, options, with_memory };
        self.drawing.plan(source, stem)
    }
}
