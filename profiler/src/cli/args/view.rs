//! What of a profile to look at: the options of every command that shows one.

use clap::ValueEnum;
use luaflame::profile::view::{By, Lines, View};
use regex::Regex;

#[derive(Debug, clap::Args)]
pub(super) struct ViewArgs {
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
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum LinesArg {
    /// A function is one box, with the line of its definition; pprof and Firefox files have the line being run as well
    Function,
    /// Each line being run is a box
    Line,
    /// No lines: functions of one name in one file are one box
    None,
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

impl LinesArg {
    pub(super) fn lines(self) -> Lines {
        match self {
            LinesArg::Function => Lines::Function,
            LinesArg::Line => Lines::Line,
            LinesArg::None => Lines::None,
        }
    }
}

impl ViewArgs {
    /// Whether the kernel's frames are looked at, or would be `later`, with other options.
    pub(super) fn kernel(&self, later: bool) -> bool {
        !self.no_kernel && (!self.lua_only || later)
    }

    pub(super) fn view(self, lines: Lines) -> View {
        let by = self.by.or(self.threads.then_some(ByArg::Thread)).map(|by| match by {
            ByArg::Thread => By::Thread,
            ByArg::Process => By::Process,
            ByArg::Vm => By::Vm,
            ByArg::State => By::State,
        });
        View {
            kernel: self.kernel(false),
            lua_only: self.lua_only,
            native_only: self.native_only,
            lines,
            include: self.include,
            exclude: self.exclude,
            root: self.root,
            by,
            reverse: self.reverse,
        }
    }
}
