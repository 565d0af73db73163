//! The command `luaflame`.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Args::parse().plan() {
        Ok(plan) => cli::run(&plan),
        Err(usage) => usage.exit(),
    }
}
