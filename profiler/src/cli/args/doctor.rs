//! `luaflame doctor`.

use super::values::{Named, process};

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Process to look at, by its PID or its name. Can be given several times, or as a list with commas
    #[arg(short, long = "pid", value_name = "PID|NAME", value_delimiter = ',', value_parser = process)]
    pub(super) processes: Vec<Named>,

    /// Write JSON, for a report of a bug
    #[arg(long)]
    pub(super) json: bool,
}
