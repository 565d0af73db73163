//! `luaflame doctor`.

use super::values::pid;

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Process to look at. Can be given several times, or as a list with commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', value_parser = pid())]
    pub(super) pids: Vec<u32>,

    /// Write JSON, for a report of a bug
    #[arg(long)]
    pub(super) json: bool,
}
