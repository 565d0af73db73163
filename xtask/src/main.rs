//! `cargo xtask ...`: everything that a contributor runs, one file per task.

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod package;
mod setup;
mod shell;
mod soak;
mod table;
mod test;
mod truth;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The tasks of a contributor to luaflame")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the other tasks need and this machine lacks
    Setup,
    /// Draw a flame graph of an nginx that runs Lua under load
    Demo(demo::Arguments),
    /// Build the probe and put it in its place in the source tree
    Ebpf(ebpf::Arguments),
    /// Feed the decoders inputs that are made to break them
    Fuzz(fuzz::Arguments),
    /// Measure what profiling costs, luaflame and others side by side
    Bench(bench::Arguments),
    /// Run the daemon for long with reloads, programs that come and go and an endpoint that fails, and hold it to what it promises
    Soak(soak::Arguments),
    /// Hold the stacks of programs whose call graph is known against it, on builds of LuaJIT and in modes
    Truth(truth::Arguments),
    /// Build a static program, its manual pages and completions, and a Debian package of them
    Package,
    /// Run every check: format, lints, the probe, unit tests, documentation, fuzzing, tests on real programs
    Test,
}

fn main() -> ExitCode {
    let task = Arguments::parse().task;
    let done = shell::watch_signals().and_then(|()| match task {
        Task::Setup => setup::everything(),
        Task::Demo(arguments) => demo::task(&arguments),
        Task::Ebpf(arguments) => ebpf::task(&arguments),
        Task::Fuzz(arguments) => fuzz::task(&arguments),
        Task::Bench(arguments) => bench::task(&arguments),
        Task::Soak(arguments) => soak::task(&arguments),
        Task::Truth(arguments) => truth::task(&arguments),
        Task::Package => package::task(),
        Task::Test => test::task(),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if shell::interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}
