//! Shares of the time: known ones against measured ones, and LuaJIT's own profiler beside luaflame.

use anyhow::Result;
use luaflame_tests::programs::{Mode, Runtime};
use luaflame_tests::shares::{KNOWN, distance, inclusive, own, paths, samples, standard_error};
use luaflame_tests::truth::{Case, sample};
use luaflame_tests::witness::beside_jit_p;
use luaflame_tests::workload::Workload;

use crate::table::Table;

/// Samples that shares are measured with.
const SAMPLES: u64 = 20_000;
/// What both profilers watch: a loop in functions of known shares; calls of every form; builtins that call back.
const WITNESSED: [&str; 3] = ["shares", "calls", "builtins"];

/// Measures and prints the known shares of `shares.lua`.
///
/// # Errors
/// When it cannot be run or profiled.
pub fn known(mode: Mode, frequency: u32) -> Result<()> {
    let workload = Workload::read("shares")?;
    let mut target = Case { workload: &workload, runtime: Runtime::CommandLine, mode }.start()?;
    let paths = paths(&sample(&mut target, SAMPLES, frequency)?.stacks);
    let measured = own(&paths);
    let mut table = Table::new(["known", "measured", "error", "std. error", "in 3 of it"].map(str::to_owned));
    for (name, share) in KNOWN {
        let found = measured.get(name).copied().unwrap_or(0.0);
        let (off, error) = (found - share, standard_error(share, samples(&paths)));
        let within = if off.abs() <= 3.0 * error { "yes" } else { "NO" };
        let cells =
            [percent(share), percent(found), format!("{:+.2} %", off * 100.0), percent(error), within.to_owned()];
        table.row(name.to_owned(), cells);
    }
    println!("\nknown shares, {mode}: {} samples of shares.lua on luajit\n{table}", samples(&paths));
    Ok(())
}

/// Runs programs under both profilers and prints the shares of their functions.
///
/// # Errors
/// When they cannot be run or profiled.
pub fn witness(mode: Mode, frequency: u32) -> Result<()> {
    for name in WITNESSED {
        let seen = beside_jit_p(&Workload::read(name)?, mode, SAMPLES, frequency)?;
        let both = [&seen.luaflame, &seen.jit_p];
        let [ours, theirs] = both.map(|paths| own(paths));
        let [our_sums, their_sums] = both.map(|paths| inclusive(paths));
        let mut table = Table::new(["self", "-jp", "inclusive", "-jp"].map(str::to_owned));
        let mut names: Vec<&String> = ours.keys().chain(theirs.keys()).chain(our_sums.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let cells = [&ours, &theirs, &our_sums, &their_sums]
                .map(|shares| shares.get(name).map_or("-".to_owned(), |share| percent(*share)));
            table.row(name.clone(), cells);
        }
        let off = |name| our_sums.get(name).unwrap_or(&0.0) - their_sums.get(name).unwrap_or(&0.0);
        let widest = our_sums.keys().chain(their_sums.keys()).map(|name| f64::abs(off(name))).fold(0.0, f64::max);
        println!(
            "\nbeside LuaJIT's own profiler, {mode}: {name}.lua, {} samples of luaflame and {} of -jp; total variation distance \
             of the own times {}, largest difference of an inclusive share {}\n{table}",
            samples(&seen.luaflame),
            samples(&seen.jit_p),
            percent(distance(&ours, &theirs)),
            percent(widest),
        );
    }
    Ok(())
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
