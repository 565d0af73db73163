//! The command line, and what it means as plain options.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use luaflame::format::Format;
use luaflame::profile::view::{By, Lines, View};
use luaflame::record;
use regex::Regex;

/// Longest time that can be asked for, in seconds: a week.
const LONGEST: f64 = 7.0 * 24.0 * 3600.0;

const ABOUT: &str = "Flame graphs of running LuaJIT programs: kernel, native and Lua code in one stack";

const LONG_ABOUT: &str = "\
Flame graphs of running LuaJIT programs: kernel, native and Lua code in one stack.

Samples the CPU time of processes that embed LuaJIT, such as nginx with lua-nginx-module, and draws where it goes. The \
processes need no restart, no debug information and no change, and are only read.";

const AFTER_HELP: &str = "\
Examples:
  sudo luaflame -p 1234 -t 10 -o flame.svg        ten seconds of one process
  sudo luaflame -p $(cat nginx.pid) -o flame.svg  all workers of an nginx, until Ctrl-C
  sudo luaflame -p 1234 -t 1m --lua-only          Lua functions only, to luaflame-1234.svg
  sudo luaflame -p 1234 -t 10 -o stacks.folded    folded stacks, for other tools
  sudo luaflame -p 1234 -t 10 -o x.luaflame       keep the samples, to draw them later
  sudo luaflame record -o a.svg -- luajit a.lua   a program from its first instruction to its end
  luaflame report x.luaflame --lua-only           draw them, anywhere, without privileges, as often as you like
  sudo luaflame doctor -p 1234                    what can be seen of a process, and what is missing

Ctrl-C ends sampling and writes what there is; a second Ctrl-C gives up and writes nothing.

Exit codes:
  0  the profile was written
  1  an error, or no samples, or with --strict too much that is unresolved
  2  the command line is wrong
  that of the program, when luaflame has started one and written its profile
  130, 143  given up on a second SIGINT or SIGTERM
";

/// The arguments of `luaflame`.
#[derive(Debug, Parser)]
#[command(
    version,
    about = ABOUT,
    long_about = LONG_ABOUT,
    after_help = AFTER_HELP,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    record: RecordArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample processes and draw where their CPU time goes; so does luaflame without a command
    #[command(max_term_width = 100)]
    Record(RecordArgs),
    /// Draw what a capture holds: no privileges and no process are needed
    #[command(max_term_width = 100)]
    Report(ReportArgs),
    /// Say what luaflame finds here: the kernel, its own privileges, and the LuaJIT in processes
    #[command(max_term_width = 100)]
    Doctor(DoctorArgs),
}

#[derive(Debug, clap::Args)]
struct RecordArgs {
    /// Process to profile, with all its threads and the children that it starts; of an nginx master, its workers. Can be
    /// given several times, or as a list with commas
    #[arg(
        short,
        long = "pid",
        value_name = "PID",
        required_unless_present = "program",
        conflicts_with = "program",
        value_delimiter = ',',
        value_parser = pid()
    )]
    pids: Vec<u32>,

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

#[derive(Debug, clap::Args)]
struct ReportArgs {
    /// The capture, a file that -o FILE.luaflame or --with-memory has written
    capture: PathBuf,

    #[command(flatten)]
    drawing: DrawingArgs,
}

#[derive(Debug, clap::Args)]
struct DoctorArgs {
    /// Process to look at. Can be given several times, or as a list with commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', value_parser = pid())]
    pids: Vec<u32>,

    /// Write JSON, for a report of a bug
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DrawingArgs {
    /// File to write, or - for standard output; can be given several times. Without it, a new file luaflame-PID.svg, or for a
    /// capture one of its name, with -2 and so on when that exists
    #[arg(short, long = "output", value_name = "FILE")]
    outputs: Vec<PathBuf>,

    /// Format to write. Without it, by the extension of the file's name, which is given for each
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<FormatArg>,

    /// Heading of the flame graph, the summary or the profile
    #[arg(long)]
    title: Option<String>,

    /// Second line of its heading, instead of what was profiled and how
    #[arg(long)]
    subtitle: Option<String>,

    /// Leave boxes out of the flame graph that are narrower than this share of it
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    min_percent: f64,

    /// Leave the kernel's functions out: their time counts for whoever called the kernel
    #[arg(long)]
    no_kernel: bool,

    /// Draw Lua functions and the builtin and C functions that they call only, and no samples outside Lua
    #[arg(long)]
    lua_only: bool,

    /// Draw native functions and the kernel's only
    #[arg(long, conflicts_with = "lua_only")]
    native_only: bool,

    /// Draw only stacks with a function that matches this regular expression, such as '^ngx_' or 'app\.lua'. Can be given
    /// several times
    #[arg(long, value_name = "REGEX")]
    include: Vec<Regex>,

    /// Draw no stacks with a function that matches this regular expression. Can be given several times
    #[arg(long, value_name = "REGEX")]
    exclude: Vec<Regex>,

    /// Draw only what a function of this name calls
    #[arg(long, value_name = "FUNCTION")]
    root: Option<String>,

    /// Keep stacks apart by where they were taken
    #[arg(long, value_name = "WHAT")]
    by: Option<ByArg>,

    /// Keep stacks apart by thread, like --by thread
    #[arg(long, conflicts_with = "by")]
    threads: bool,

    /// Turn the stacks around: below is what ran, above it who called it
    #[arg(long)]
    reverse: bool,

    /// How finely lines of Lua functions are told apart
    #[arg(long, value_name = "HOW", default_value = "function")]
    lines: LinesArg,

    /// How frames of folded stacks are written
    #[arg(long, value_name = "SYNTAX", default_value = "luaflame")]
    frames: FramesArg,

    /// Exit with 1 when more than a fifth of the frames could not be resolved
    #[arg(long)]
    strict: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// A flame graph for a browser, to zoom and to search (.svg)
    Svg,
    /// A flame graph upside down, with callers above what they call (.icicle.svg)
    Icicle,
    /// A line for each stack, for other tools (.folded, .collapsed)
    Folded,
    /// For pprof and the stores that take its format (.pb.gz, .pprof)
    Pprof,
    /// For speedscope, with the samples of each thread in the order of time (.speedscope.json)
    Speedscope,
    /// For the Firefox Profiler, with the samples of each thread where they were in time (.firefox.json)
    Firefox,
    /// A summary to read: functions by their own and total time, states, threads, what is missing (.txt)
    Text,
    /// All samples with what is known of them, for luaflame report (.luaflame)
    Luaflame,
}

impl FormatArg {
    fn format(self) -> Format {
        match self {
            FormatArg::Svg => Format::Svg,
            FormatArg::Icicle => Format::Icicle,
            FormatArg::Folded => Format::Folded,
            FormatArg::Pprof => Format::Pprof,
            FormatArg::Speedscope => Format::Speedscope,
            FormatArg::Firefox => Format::Firefox,
            FormatArg::Text => Format::Text,
            FormatArg::Luaflame => Format::Capture,
        }
    }
}

/// Every format with the extensions that ask for it.
fn how_to_tell_the_format() -> String {
    let mut names = Vec::new();
    for argument in FormatArg::value_variants() {
        let extensions: Vec<String> = argument.format().extensions().map(|extension| format!(".{extension}")).collect();
        let name = argument.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        names.push(format!("{} (-f {name})", extensions.join(" or ")));
    }
    format!("use a name that ends in one of these, or the option beside it: {}", names.join(", "))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinesArg {
    /// A function is one box, with the line of its definition; pprof and Firefox files have the line being run as well
    Function,
    /// Each line being run is a box
    Line,
    /// No lines: functions of one name in one file are one box
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FramesArg {
    /// As name and place, with annotations that flame graph tools know
    Luaflame,
    /// As lj-lua-stacks of stapxx does: @FILE:LINE for a Lua function
    Stapxx,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ByArg {
    /// Threads, by name and number
    Thread,
    /// Processes
    Process,
    /// Lua VMs
    Vm,
    /// What the VM was doing: interpreter, compiled code, garbage collector, ...
    State,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EventArg {
    /// CPU cycles where the machine counts them, else the CPU clock
    Auto,
    /// The hardware's count of CPU cycles
    Cycles,
    /// The kernel's CPU clock, which works everywhere
    CpuClock,
}

/// What is asked for.
#[derive(Debug)]
pub enum Work {
    /// To profile, or to draw a profile.
    Draw(Box<Plan>),
    /// To look at this system and at processes.
    Doctor {
        /// The processes.
        pids: Vec<u32>,
        /// To write JSON.
        json: bool,
    },
}

/// What to draw of what.
#[derive(Debug)]
pub struct Plan {
    /// Where the samples are from.
    pub source: Source,
    /// What of it to draw.
    pub view: View,
    /// Folded stacks have frames as stapxx writes them.
    pub stapxx: bool,
    /// What to write, and where: one or more.
    pub outputs: Vec<(Destination, Format)>,
    /// Heading, when one is asked for.
    pub title: Option<String>,
    /// Its second line, when one is asked for.
    pub subtitle: Option<String>,
    /// Narrowest boxes of a flame graph, in percent of it.
    pub min_percent: f64,
    /// Much that is unresolved is an error.
    pub strict: bool,
}

/// Where samples are from.
#[derive(Debug)]
pub enum Source {
    /// Processes.
    Processes {
        /// A program to start first, with its arguments; without one, none.
        program: Vec<OsString>,
        /// What to record.
        options: record::Options,
        /// Where to write a capture, too.
        with_memory: Option<PathBuf>,
    },
    /// A capture.
    Capture(PathBuf),
}

/// Where to write.
#[derive(Debug)]
pub enum Destination {
    /// To this path, or to standard output when it is `-`.
    Path(PathBuf),
    /// To a new file in the current directory, named like this without its extension.
    Unused(String),
}

impl Args {
    /// What the arguments mean.
    ///
    /// # Errors
    /// When they do not say which format to write.
    pub fn work(self) -> Result<Work, clap::Error> {
        let plan = match self.command {
            None => self.record.plan(),
            Some(Command::Record(record)) => record.plan(),
            Some(Command::Doctor(DoctorArgs { pids, json })) => return Ok(Work::Doctor { pids, json }),
            Some(Command::Report(report)) => {
                let stem = report.capture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                report.drawing.plan(Source::Capture(report.capture), stem)
            }
        };
        Ok(Work::Draw(Box::new(plan?)))
    }
}

impl RecordArgs {
    fn plan(self) -> Result<Plan, clap::Error> {
        let stem = match (self.pids.first(), self.program.first()) {
            (Some(pid), _) => format!("luaflame-{pid}"),
            (None, Some(program)) => {
                format!("luaflame-{}", Path::new(program).file_name().unwrap_or_default().to_string_lossy())
            }
            (None, None) => "luaflame".to_owned(),
        };
        let mut pids = Vec::new();
        for pid in self.pids {
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        let event = match self.event {
            EventArg::Auto => record::Event::Auto,
            EventArg::Cycles => record::Event::Cycles,
            EventArg::CpuClock => record::Event::CpuClock,
        };
        let options = record::Options {
            pids,
            launched: None,
            duration: self.time,
            frequency: self.frequency,
            event,
            // A capture is drawn later, with other options.
            kernel: !self.drawing.no_kernel && (self.drawing.kernel() || self.drawing.writes_capture()),
            lua: !self.no_lua,
        };
        let source = Source::Processes { program: self.program, options, with_memory: self.with_memory };
        self.drawing.plan(source, stem)
    }
}

impl Plan {
    /// What is shown in a format: one that has a place for both lines of a function gets both.
    pub fn view_for(&self, format: Format) -> View {
        let lines = match self.view.lines {
            Lines::Function | Lines::Line if format.has_both_lines() => Lines::Both,
            lines => lines,
        };
        View { lines, ..self.view.clone() }
    }
}

impl DrawingArgs {
    fn kernel(&self) -> bool {
        !self.no_kernel && !self.lua_only
    }

    fn asked(&self) -> Option<Format> {
        self.format.map(FormatArg::format)
    }

    fn writes_capture(&self) -> bool {
        let capture = Some(Format::Capture);
        self.asked() == capture || self.outputs.iter().any(|path| Format::of_path(path) == capture)
    }

    fn plan(self, source: Source, stem: String) -> Result<Plan, clap::Error> {
        let lines = match self.lines {
            LinesArg::Function => Lines::Function,
            LinesArg::Line => Lines::Line,
            LinesArg::None => Lines::None,
        };
        let by = self.by.or(self.threads.then_some(ByArg::Thread)).map(|by| match by {
            ByArg::Thread => By::Thread,
            ByArg::Process => By::Process,
            ByArg::Vm => By::Vm,
            ByArg::State => By::State,
        });
        let asked = self.asked();
        let refuse = |message| Err(Args::command().error(ErrorKind::ValueValidation, message));
        let mut outputs = Vec::new();
        for path in &self.outputs {
            let Some(format) = asked.or_else(|| Format::of_path(path)) else {
                return refuse(format!(
                    "the name '{}' does not tell the format to write; {}",
                    path.display(),
                    how_to_tell_the_format()
                ));
            };
            outputs.push((Destination::Path(path.clone()), format));
        }
        if outputs.len() > 1 && asked.is_some() {
            return refuse(
                "-f gives one format to several files; leave it out, so that their names tell it".to_owned(),
            );
        }
        if outputs.is_empty() {
            outputs.push((Destination::Unused(stem), asked.unwrap_or(Format::Svg)));
        }
        let stapxx = self.frames == FramesArg::Stapxx;
        if stapxx && outputs.iter().all(|(_, format)| *format != Format::Folded) {
            return refuse(
                "--frames stapxx is for folded stacks; use a name that ends in .folded, or add -f folded".to_owned(),
            );
        }
        let view = View {
            lua_only: self.lua_only,
            native_only: self.native_only,
            kernel: self.kernel(),
            lines,
            include: self.include,
            exclude: self.exclude,
            root: self.root,
            by,
            reverse: self.reverse,
        };
        let Self { title, subtitle, min_percent, strict, .. } = self;
        Ok(Plan { view, stapxx, source, outputs, title, subtitle, min_percent, strict })
    }
}

/// PIDs as the kernel gives them: up to `PID_MAX_LIMIT`.
fn pid() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=1 << 22)
}

/// A share in percent, from 0 to 100.
fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("it is not a number from 0 to 100".to_owned()),
    }
}

/// Seconds, or a number with a unit: `10`, `0.5`, `10s`, `500ms`, `1m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan, clap::Error> {
        match Args::try_parse_from(["luaflame"].iter().chain(arguments))?.work()? {
            Work::Draw(plan) => Ok(*plan),
            Work::Doctor { .. } => panic!("it draws nothing"),
        }
    }

    fn options(plan: &Plan) -> &record::Options {
        match &plan.source {
            Source::Processes { options, .. } => options,
            Source::Capture(_) => panic!("it records nothing"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn times_are_seconds_or_have_a_unit() {
        for (text, milliseconds) in [
            ("10", 10_000),
            ("10s", 10_000),
            ("1m", 60_000),
            ("0.5", 500),
            ("1.5m", 90_000),
            ("250ms", 250),
            (".5", 500),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "s", "-1", "+1", "0", "0s", "1e3", "inf", "nan", "1d", "1 s", "1..2", ".", "9999999999999h", "1µs"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn pids_can_be_repeated_and_listed() {
        let plan = plan(&["-p", "7", "--pid", "8,7,9"]).unwrap();
        assert_eq!(options(&plan).pids, [7, 8, 9]);
        assert!(matches!(&plan.outputs[..], [(Destination::Unused(stem), Format::Svg)] if stem == "luaflame-7"));
    }

    #[test]
    fn all_names_of_the_time_are_known() {
        for option in ["-t", "--time", "-d", "--duration"] {
            let plan = plan(&["-p7", option, "3"]).unwrap();
            assert_eq!(options(&plan).duration, Some(Duration::from_secs(3)), "{option}");
        }
        assert_eq!(options(&plan(&["-p7"]).unwrap()).duration, None);
    }

    #[test]
    fn the_format_is_told_by_the_option_before_the_name() {
        let format_of = |arguments: &[&str]| plan(arguments).unwrap().outputs[0].1;
        assert_eq!(format_of(&["-p7", "-o", "a.folded"]), Format::Folded);
        assert_eq!(format_of(&["-p7", "-o", "a.svg", "-f", "folded"]), Format::Folded);
        assert_eq!(format_of(&["-p7", "-o", "-", "-f", "svg"]), Format::Svg);
        for argument in FormatArg::value_variants() {
            let extensions: Vec<_> = argument.format().extensions().collect();
            assert!(!extensions.is_empty(), "{argument:?} is the format of no file");
            for extension in extensions {
                assert_eq!(format_of(&["-p7", "-o", &format!("a.{extension}")]), argument.format(), "{extension}");
            }
        }
        let error = plan(&["-p7", "-o", "-"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn the_syntax_of_stapxx_is_for_folded_stacks() {
        assert!(plan(&["-p7", "-o", "a.folded", "--frames", "stapxx"]).unwrap().stapxx);
        assert!(!plan(&["-p7", "-o", "a.folded"]).unwrap().stapxx);
        assert_eq!(plan(&["-p7", "-o", "a.svg", "--frames", "stapxx"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn formats_with_a_place_for_both_lines_get_both() {
        let lines = |lines: &str, format| plan(&["-p7", "--lines", lines]).unwrap().view_for(format).lines;
        assert_eq!(lines("function", Format::Pprof), Lines::Both);
        assert_eq!(lines("line", Format::Firefox), Lines::Both);
        assert_eq!(lines("none", Format::Pprof), Lines::None);
        assert_eq!(lines("function", Format::Folded), Lines::Function);
    }

    #[test]
    fn record_means_what_no_command_means() {
        let arguments = ["-p7", "-t3", "-o", "a.svg", "--with-memory", "a.luaflame"];
        let recorded = plan(&[&["record"][..], &arguments[..]].concat()).unwrap();
        assert_eq!(format!("{recorded:?}"), format!("{:?}", plan(&arguments).unwrap()));
        assert!(matches!(recorded.source, Source::Processes { with_memory: Some(_), .. }));
        assert_eq!(plan(&["record"]).unwrap_err().exit_code(), 2, "no process");
    }

    #[test]
    fn several_files_tell_their_formats() {
        let plan_of = plan(&["-p7", "-o", "a.svg", "-o", "b.luaflame", "--lua-only"]).unwrap();
        let formats: Vec<Format> = plan_of.outputs.iter().map(|(_, format)| *format).collect();
        assert_eq!(formats, [Format::Svg, Format::Capture]);
        assert!(options(&plan_of).kernel, "what is not drawn now may be drawn later");
        assert_eq!(plan(&["-p7", "-o", "a.svg", "-o", "b.svg", "-f", "folded"]).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_report_is_drawn_under_the_name_of_its_capture() {
        let report = plan(&["report", "folder/slow.luaflame", "--lines", "line"]).unwrap();
        assert!(matches!(&report.source, Source::Capture(path) if path.ends_with("slow.luaflame")));
        assert!(matches!(&report.outputs[..], [(Destination::Unused(stem), Format::Svg)] if stem == "slow"));
        assert_eq!(plan(&["report", "a.luaflame", "-o", "-"]).unwrap_err().exit_code(), 2, "no format");
        assert_eq!(plan(&["report"]).unwrap_err().exit_code(), 2, "no capture");
        assert_eq!(plan(&["-p7", "report", "a.luaflame"]).unwrap_err().exit_code(), 2, "both");
    }

    #[test]
    fn what_to_draw_is_understood() {
        let plan_of =
            plan(&["report", "a.luaflame", "--threads", "--include", "^a", "--include=b", "--min-percent", "0.5%"]);
        let Plan { view, min_percent, .. } = plan_of.unwrap();
        assert_eq!((view.by, view.include.len(), min_percent), (Some(By::Thread), 2, 0.5));
        for wrong in [
            &["--include", "("][..],
            &["--min-percent", "101"],
            &["--min-percent", "nan"],
            &["--threads", "--by", "vm"],
            &["--native-only", "--lua-only"],
        ] {
            assert_eq!(plan(&[&["report", "a.luaflame"], wrong].concat()).unwrap_err().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn lua_only_needs_no_kernel_stacks() {
        let plan = plan(&["-p7", "--lua-only", "--lines", "line"]).unwrap();
        assert!(plan.view.lua_only && !options(&plan).kernel && options(&plan).lua);
        assert_eq!(plan.view.lines, Lines::Line);
    }
}
