//! `luaflame dump`.

use super::values::{Named, process};

pub(super) const EXAMPLES: &str = "\
Examples:
  sudo luaflame dump -p 1234              where every coroutine is; those with the same stack are shown once
  sudo luaflame dump -p nginx             the same of all workers of an nginx
  sudo luaflame dump -p 1234 --locals     with the local variables
  sudo luaflame dump -p 1234 --json       each coroutine for itself, for other programs

The process goes on: it is not stopped, and only its memory is read. Where Lua code runs at that moment, its stack is sampled with \
the probe; without the privileges for that, the frames that memory does not tell are shown as unknown.

WARNING: the values that --locals shows may be secrets, such as passwords and what users have sent.

Exit codes:
  0  the stacks were written
  1  an error, or no LuaJIT in one of the processes
  2  the command line is wrong
";

#[derive(Debug, clap::Args)]
pub struct DumpArgs {
    /// Process to look at, by its PID or its name; of an nginx master, its workers. Can be given several times, or as a list with
    /// commas
    #[arg(short, long = "pid", value_name = "PID|NAME", value_delimiter = ',', value_parser = process, required = true)]
    pub processes: Vec<Named>,

    /// Show the local variables of each Lua function and their values, WHICH MAY BE SECRETS
    #[arg(long)]
    pub locals: bool,

    /// Show each coroutine for itself, and all frames of each
    #[arg(long)]
    pub all: bool,

    /// Write JSON, with each coroutine and all frames; what is in it is said in docs/dump.md
    #[arg(long)]
    pub json: bool,
}
