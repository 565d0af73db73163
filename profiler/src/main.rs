//! The command `luaflame`.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Args::parse().work() {
        Ok(work) => cli::run(&work),
        Err(usage) => usage.exit(),
    }
}
