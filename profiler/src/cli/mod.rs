//! The command line's side of a run: what is asked for, what is shown meanwhile, and what is said at the end.

mod args;
mod progress;
mod signals;
mod summary;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::{Context, bail};
use luaflame::format::label::printable;
use luaflame::format::output::Output;
use luaflame::format::{Format, folded, svg};
use luaflame::probe::requirements;
use luaflame::profile::Profile;
use luaflame::record::record;
use luaflame::target::live::live;

pub use args::Args;
use args::{Destination, Plan};
use progress::ProgressLine;
use signals::Interrupt;

/// Most characters of a line of an error, which may name what other processes called themselves.
const ERROR_LIMIT: usize = 2_000;

/// Does what the plan says, and tells the user how it went.
pub fn run(plan: &Plan) -> ExitCode {
    match profile(plan) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whatever can be refused is refused before sampling, cheapest first.
fn profile(plan: &Plan) -> anyhow::Result<ExitCode> {
    let output = match &plan.destination {
        Destination::Path(path) => Output::at(path)?,
        Destination::Unused(stem) => Output::unused(Path::new("."), stem, plan.format.extension())?,
    };
    requirements::check()?;
    let interrupt = Interrupt::install().context("Ctrl-C cannot be handled")?;

    let line = ProgressLine::new(plan.record.duration);
    let recorded = record(&plan.record, &live(), interrupt.stop(), &mut |progress| {
        line.show(progress, interrupt.stop().load(Ordering::Relaxed));
    });
    drop(line);
    let recorded = recorded?;
    let shown = plan.view.of(&recorded);
    if shown.stacks().len() == 0 {
        bail!(summary::nothing_to_draw(plan, &recorded));
    }
    let bytes = rendered(plan, &shown).context("the profile could not be drawn")?;
    let written = {
        let _whole = output.is_moved_into_place().then(|| interrupt.hold());
        output.write(&bytes)
    };
    let file = match written {
        Ok(file) => file,
        Err(error) if error.is_closed_pipe() => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error.into()),
    };

    let counters = &recorded.counters;
    let unresolved = summary::is_mostly_unresolved(counters);
    if unresolved {
        say(&summary::unresolved_warning(counters));
    }
    say(&summary::line(counters, plan.record.lua, &file));
    Ok(if unresolved && plan.strict { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn rendered(plan: &Plan, shown: &Profile) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match plan.format {
        Format::Folded => folded::write(shown, plan.view.lines, &mut bytes)?,
        Format::Svg => {
            let title = match &plan.title {
                Some(title) => title,
                None if plan.view.lua_only => "Lua-land on-CPU flame graph",
                None => "On-CPU flame graph",
            };
            svg::write(shown, plan.view.lines, title, &mut bytes)?;
        }
    }
    Ok(bytes)
}

/// Says something on standard error, fit for a terminal. That nobody may be reading there is no reason to stop.
fn say(text: &str) {
    let lines: Vec<String> = text.lines().map(|line| printable(line, ERROR_LIMIT)).collect();
    let _ = writeln!(io::stderr(), "luaflame: {}", lines.join("\n"));
}
