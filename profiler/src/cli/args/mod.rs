//! The command line, and what it means as plain options: here what all commands share, in the other files a command or a group of
//! options each.

mod console;
mod daemon;
mod diff;
mod doctor;
mod drawing;
mod dump;
mod manual;
mod plan;
mod record;
mod report;
mod style;
#[cfg(test)]
mod tests;
mod top;
mod values;
mod view;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use log::LevelFilter;

pub use console::ColorArg;
pub use daemon::DaemonArgs;
pub use diff::Pair;
pub use dump::DumpArgs;
pub use plan::{Destination, Plan, Source};
pub use top::Watching;
pub use values::Named;

use console::ConsoleArgs;
use diff::DiffArgs;
use doctor::DoctorArgs;
use manual::{CompletionsArgs, ManArgs};
use record::RecordArgs;
use report::ReportArgs;
use top::TopArgs;

const ABOUT: &str = "Flame graphs of running LuaJIT programs: kernel, native and Lua code in one stack";

const LONG_ABOUT: &str = "\
Flame graphs of running LuaJIT programs: kernel, native and Lua code in one stack.

Samples the CPU time of processes that embed LuaJIT, such as nginx with lua-nginx-module, and draws where it goes. The \
processes need no restart, no debug information and no change, and are only read.";

const USAGE: &str = "\
luaflame [OPTIONS] --pid <PID|NAME>
       luaflame [OPTIONS] -- <PROGRAM>...
       luaflame <COMMAND> [OPTIONS]";

const AFTER_HELP: &str = "\
Examples:
  sudo luaflame -p 1234 -t 10 -o flame.svg        ten seconds of one process
  sudo luaflame -p nginx -o flame.svg             all workers of an nginx, until Ctrl-C
  sudo luaflame -p 1234 -t 1m --lua-only          Lua functions only, to luaflame-1234.svg
  sudo luaflame -p 1234 -t 10 -o stacks.folded    folded stacks, for other tools
  sudo luaflame -p 1234 -t 10 -o x.luaflame       keep the samples, to draw them later
  sudo luaflame record -o a.svg -- luajit a.lua   a program from its first instruction to its end
  luaflame report x.luaflame --lua-only           draw them, anywhere, without privileges, as often as you like
  luaflame report old.bt -o old.svg               draw what the SystemTap tools have written
  luaflame diff a.luaflame b.luaflame             which functions grew from a to b, and which shrank
  sudo luaflame top -p 1234                       watch it on the terminal
  sudo luaflame doctor -p 1234                    what can be seen of a process, and what is missing
  sudo luaflame dump -p 1234                      where every coroutine of a process is now
  sudo luaflame daemon                            profile all processes, always

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
    override_usage = USAGE,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    console: ConsoleArgs,

    #[command(flatten)]
    record: RecordArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sample processes and draw where their CPU time goes; so does luaflame without a command
    #[command(max_term_width = 100, after_help = record::EXAMPLES)]
    Record(RecordArgs),
    /// Draw a capture, or stacks of another tool: no privileges and no process are needed
    #[command(max_term_width = 100, after_help = report::EXAMPLES)]
    Report(ReportArgs),
    /// Show what changed from one profile to another: which functions grew, which shrank
    #[command(max_term_width = 100, after_help = diff::EXAMPLES)]
    Diff(DiffArgs),
    /// Show where CPU time goes while it goes there, on the whole terminal, with keys to sort, filter and choose
    #[command(max_term_width = 100)]
    Top(TopArgs),
    /// Say what luaflame finds here: the kernel, its own privileges, and the LuaJIT in processes
    #[command(max_term_width = 100, after_help = doctor::EXAMPLES)]
    Doctor(DoctorArgs),
    /// Show the Lua stack of every coroutine of processes as they are now, also of those that wait
    #[command(max_term_width = 100, after_help = dump::EXAMPLES)]
    Dump(DumpArgs),
    /// Profile every LuaJIT process on this host, always, and keep and send the profiles as a configuration says
    #[command(max_term_width = 100, after_help = daemon::EXAMPLES)]
    Daemon(DaemonArgs),
    /// Write a script that completes command lines of luaflame in a shell
    #[command(max_term_width = 100, after_help = manual::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(max_term_width = 100, after_help = manual::MAN_EXAMPLES)]
    Man(ManArgs),
}

/// What is asked for.
#[derive(Debug)]
pub enum Work {
    /// To profile, or to draw a profile.
    Draw(Box<Plan>),
    /// To compare two profiles.
    Compare(Box<Pair>),
    /// To show what processes do now.
    Top(Watching),
    /// To look at this system and at processes.
    Doctor {
        /// The processes.
        processes: Vec<Named>,
        /// To write JSON.
        json: bool,
    },
    /// To show the stacks of processes as they are now.
    Dump(DumpArgs),
    /// To profile all processes, until a signal comes.
    Daemon(DaemonArgs),
    /// To write the completions of a shell to standard output.
    Completions(Shell),
    /// To write the manual pages into a folder, or without one the main page to standard output.
    Man(Option<PathBuf>),
}

impl Args {
    /// Reads a command line, the name of the program first.
    ///
    /// # Errors
    /// When it is wrong, or asks for help or the version: whoever gets the error prints it.
    pub fn read(arguments: impl Iterator<Item = OsString>) -> Result<Args, clap::Error> {
        let mut command = Args::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        if let Some(name) = matches.subcommand_name() {
            // Those of every command may stand before its name. The others are of the recording that no command means.
            let given = |argument: &&clap::Arg| {
                !argument.is_global_set()
                    && matches.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine)
            };
            let stray = command.get_arguments().find(given).map(ToString::to_string);
            if let Some(stray) = stray {
                return Err(command.error(
                    ErrorKind::ArgumentConflict,
                    format!(
                        "the argument '{stray}' cannot stand before '{name}'; options of a command follow its name"
                    ),
                ));
            }
        }
        Args::from_arg_matches(&matches)
    }

    /// The least important that is to be said.
    pub fn level(&self) -> LevelFilter {
        self.console.level()
    }

    /// Whether it is to run on and on, and to log, not to talk to a user.
    pub fn is_daemon(&self) -> bool {
        matches!(&self.command, Some(Command::Daemon(daemon)) if !daemon.check_config)
    }

    /// What the arguments mean.
    ///
    /// # Errors
    /// When they do not say which format to write.
    pub fn work(self) -> Result<Work, clap::Error> {
        let plan = match self.command {
            None => self.record.plan(),
            Some(Command::Record(record)) => record.plan(),
            Some(Command::Report(report)) => report.plan(),
            Some(Command::Diff(diff)) => return Ok(Work::Compare(Box::new(diff.pair()?))),
            Some(Command::Top(top)) => return Ok(Work::Top(top.watching())),
            Some(Command::Doctor(doctor)) => {
                return Ok(Work::Doctor { processes: doctor.processes, json: doctor.json });
            }
            Some(Command::Dump(dump)) => return Ok(Work::Dump(dump)),
            Some(Command::Daemon(daemon)) => return Ok(Work::Daemon(daemon)),
            Some(Command::Completions(completions)) => return Ok(Work::Completions(completions.shell)),
            Some(Command::Man(man)) => return Ok(Work::Man(man.folder)),
        };
        Ok(Work::Draw(Box::new(plan?)))
    }
}
