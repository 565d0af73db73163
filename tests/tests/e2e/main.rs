//! Runs luaflame on real programs and holds what it draws against what is known of them.
//!
//! Needs root, and what `cargo xtask test` sets up; without root every test is reported as ignored. The program under test is
//! `target/release/luaflame`, or what `LUAFLAME` names. One test runs at a time, since each wants the CPU for its target.

mod capture;
mod cli;
mod daemon;
mod daemon_access;
mod daemon_exports;
mod daemon_privileges;
mod documents;
mod dump;
mod exports;
mod formats;
mod hostile;
mod hosts;
mod lines;
mod names;
mod nginx;
mod page;
mod privileges;
mod pyroscope;
mod top;
mod truth;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A test: it fails with a reason.
type Test = Box<dyn FnOnce() -> anyhow::Result<()> + Send>;

/// Names a test.
fn test(name: impl Into<String>, run: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> (String, Test) {
    (name.into(), Box::new(run))
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let rooms = [
        truth::tests(),
        lines::tests(),
        names::tests(),
        nginx::tests(),
        hosts::tests(),
        cli::tests(),
        top::tests(),
        daemon_privileges::tests(),
        privileges::tests(),
        documents::tests(),
        hostile::tests(),
        capture::tests(),
        formats::tests(),
        dump::tests(),
        daemon::tests(),
        daemon_exports::tests(),
        daemon_access::tests(),
        exports::tests(),
        pyroscope::tests(),
        page::tests(),
    ];
    let tests = rooms.into_iter().flatten();
    let trials = tests
        .map(|(name, run)| {
            Trial::ignorable_test(name, move || match luaflame_tests::luaflame::unusable() {
                Some(reason) => Ok(Completion::ignored_with(reason)),
                None => run().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:#}"))),
            })
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
