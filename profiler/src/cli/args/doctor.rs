//! `luaflame doctor`.

use super::values::{Named, process};

pub(super) const EXAMPLES: &str = "\
Examples:
  sudo luaflame doctor
  sudo luaflame doctor -p nginx
  sudo luaflame doctor -p 1234 --json > report.json

Exit codes:
  0  profiling will work, for the processes that were asked about too
  1  something is missing
";

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Process to look at, by its PID or its name. Can be given several times, or as a list with commas
    #[arg(short, long = "pid", value_name = "PID|NAME", value_delimiter = ',', value_parser = process)]
    pub(super) processes: Vec<Named>,

    /// Write JSON, for a report of a bug
    #[arg(long)]
    pub(super) json: bool,
}
