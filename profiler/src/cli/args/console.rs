//! How much is said, and in which colours: the options that every command has.

use clap::ValueEnum;
use log::LevelFilter;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct ConsoleArgs {
    /// Say nothing but errors and warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// Say what is found and done: VMs, the probe, symbols
    #[arg(short, long, global = true)]
    verbose: bool,

    /// When to colour what is said. With auto, on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorArg,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    /// On a terminal
    Auto,
    /// Into files and pipes, too
    Always,
    /// Not at all
    Never,
}

impl ConsoleArgs {
    /// The least important that is said.
    pub(super) fn level(self) -> LevelFilter {
        match (self.quiet, self.verbose) {
            (true, _) => LevelFilter::Warn,
            (_, true) => LevelFilter::Debug,
            _ => LevelFilter::Info,
        }
    }
}
