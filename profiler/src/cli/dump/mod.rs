//! `luaflame dump`: the Lua stacks of processes now.

mod json;
mod text;

use std::process::ExitCode;

use luaflame::dump::{self, Dump, Local};
use luaflame::format::label::{label, printable};
use luaflame::probe::requirements;
use luaflame::profile::view::Lines;
use luaflame::target::live::live;

use super::args::DumpArgs;
use super::processes;

/// Most characters of what a process called something, and of a value.
const TEXT_LIMIT: usize = 400;

/// What was found in the processes that were asked about.
struct Report {
    /// What was read, or why it could not be.
    processes: Vec<Result<Dump, (u32, String)>>,
    /// Why what runs was not sampled, if it was needed.
    not_sampled: Option<String>,
}

/// Reads the stacks, and writes them as text or JSON.
pub fn dump(args: &DumpArgs) -> anyhow::Result<(String, ExitCode)> {
    let world = live();
    let mut processes = Vec::new();
    for pid in processes::resolve(&args.processes)? {
        match dump::processes(&world, pid) {
            Ok(pids) => {
                let read = |pid| dump::dump(&world, pid, args.locals).map_err(|error| (pid, error.to_string()));
                let mut read: Vec<_> = pids.iter().copied().map(read).collect();
                let has_vm = |read: &Result<Dump, _>| read.as_ref().is_ok_and(|dump| !dump.vms.is_empty());
                // Helpers of an nginx master, such as the cache manager, have no VM, and a worker may exit at any time.
                if pids != [pid] && read.iter().any(has_vm) {
                    read.retain(has_vm);
                }
                processes.extend(read);
            }
            Err(error) => processes.push(Err((pid, error.to_string()))),
        }
    }
    let mut found: Vec<&mut Dump> = processes.iter_mut().flatten().filter(|dump| dump.needs_sample()).collect();
    let not_sampled = match found.is_empty() {
        true => None,
        false => requirements::check().map_err(Into::into).and_then(|()| dump::sample(&world, &mut found)).err(),
    };
    let report = Report { processes, not_sampled: not_sampled.map(|error| format!("{error:#}")) };
    let text = if args.json { super::to_json(&json::Report::of(&report))? } else { text::text(&report, args.all) };
    let fine = report.processes.iter().all(|process| process.as_ref().is_ok_and(|dump| dump.problem.is_none()));
    Ok((text, if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

/// The text of a value.
fn value(local: &Local) -> String {
    match &local.function {
        Some(function) => format!("function {}", label(function, Lines::Function)),
        None => printable(&local.variable.value.text, TEXT_LIMIT),
    }
}
