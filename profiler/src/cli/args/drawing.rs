//! What to draw, and where to write it: the options that all commands have which draw.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, ValueEnum};
use luaflame::format::Format;

use super::Args;
use super::plan::{Destination, Plan, Source};
use super::style::StyleArgs;
use super::values::percent;
use super::view::{LinesArg, ViewArgs};

#[derive(Debug, clap::Args)]
pub(super) struct DrawingArgs {
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

    #[command(flatten)]
    view: ViewArgs,

    /// How finely lines of Lua functions are told apart
    #[arg(long, value_name = "HOW", default_value = "function")]
    lines: LinesArg,

    /// How frames of folded stacks are written
    #[arg(long, value_name = "SYNTAX", default_value = "luaflame")]
    frames: FramesArg,

    /// Exit with 1 when more than a fifth of the frames could not be resolved
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    style: StyleArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FormatArg {
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
    pub(super) fn format(self) -> Format {
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FramesArg {
    /// As name and place, with annotations that flame graph tools know
    Luaflame,
    /// As lj-lua-stacks of stapxx does: @FILE:LINE for a Lua function
    Stapxx,
}

impl DrawingArgs {
    /// Whether the kernel's frames must be recorded: a capture is drawn later, with other options.
    pub(super) fn needs_kernel(&self) -> bool {
        self.view.kernel(self.writes_capture())
    }

    fn asked(&self) -> Option<Format> {
        self.format.map(FormatArg::format)
    }

    fn writes_capture(&self) -> bool {
        let capture = Some(Format::Capture);
        self.asked() == capture || self.outputs.iter().any(|path| Format::of_path(path) == capture)
    }

    pub(super) fn plan(self, source: Source, stem: String) -> Result<Plan, clap::Error> {
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
        let view = self.view.view(self.lines.lines());
        let style = self.style.style();
        let Self { title, subtitle, min_percent, strict, .. } = self;
        Ok(Plan { view, stapxx, source, outputs, title, subtitle, min_percent, style, strict })
    }
}
