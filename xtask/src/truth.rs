//! `cargo xtask truth`: profiles programs whose call graph is known and holds every stack against it, on builds of LuaJIT and in modes.

mod shares;

use anyhow::{Result, bail, ensure};
use luaflame_tests::builds::Build;
use luaflame_tests::legal::Verdict;
use luaflame_tests::programs::{Mode, Runtime};
use luaflame_tests::truth::Case;
use luaflame_tests::workload::Workload;

use crate::setup;
use crate::shell::{interrupted, is_root, luaflame};
use crate::table::Table;

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Every version of LuaJIT with all its flags, instead of Debian's command line. Of each build, each mode runs another
    /// quarter of the workloads
    #[arg(long, conflicts_with = "builds")]
    matrix: bool,
    /// Samples in each mode of a build, over all workloads; 100,000 without --matrix, 3,000 with it
    #[arg(long)]
    samples: Option<u64>,
    /// Only these modes: interpreter, jit, flush, hook
    #[arg(long = "mode", value_delimiter = ',')]
    modes: Vec<Mode>,
    /// These builds, such as luajit, debian2 or 210.4.8-nogc64-dualnum-shared-stripped
    #[arg(long = "build", value_delimiter = ',')]
    builds: Vec<Runtime>,
    /// Only these workloads, by the names of their scripts in samples/lua
    #[arg(long = "workload", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Samples a second
    #[arg(long, default_value_t = 1997)]
    frequency: u32,
}

/// The least share of complete stacks.
const COMPLETE: f64 = 0.999;

/// Profiles, checks, and prints a table.
///
/// # Errors
/// When a stack is not legal, too many are not complete, or something cannot be built, run or profiled.
pub fn task(arguments: &Arguments) -> Result<()> {
    ensure!(is_root(), "profiling needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask truth`");
    setup::for_tests()?;
    luaflame()?;
    let runtimes = match (arguments.matrix, arguments.builds.as_slice()) {
        (true, _) => Build::matrix().into_iter().map(Runtime::Host).collect(),
        (false, []) => vec![Runtime::CommandLine],
        (false, builds) => builds.to_vec(),
    };
    let samples = arguments.samples.unwrap_or(if arguments.matrix { 3_000 } else { 100_000 });
    let modes = if arguments.modes.is_empty() { Mode::ALL.to_vec() } else { arguments.modes.clone() };
    let mut workloads = Workload::all()?;
    if !arguments.workloads.is_empty() {
        workloads.retain(|workload| arguments.workloads.contains(&workload.name));
    }
    ensure!(!workloads.is_empty(), "there is no workload of these names");

    let mut rows = Vec::new();
    let mut failures = Vec::new();
    'all: for (number, runtime) in runtimes.into_iter().enumerate() {
        for &mode in &modes {
            let mut run = workloads.clone();
            if arguments.matrix {
                // From build to build the quarters go round, so that each workload is run in each mode by a quarter of the builds.
                let mut turn = number + mode as usize;
                run.retain(|_| {
                    turn += 1;
                    turn.is_multiple_of(Mode::ALL.len())
                });
            }
            let verdict = one_row(runtime, mode, &run, samples, arguments.frequency, &mut failures);
            rows.push((format!("{runtime} {mode}"), verdict));
            if interrupted() {
                break 'all;
            }
        }
    }
    print(&rows);
    // The witness is LuaJIT's command line.
    if !arguments.matrix && arguments.builds.is_empty() && arguments.workloads.is_empty() {
        for mode in [Mode::Interpreter, Mode::Jit].into_iter().filter(|mode| modes.contains(mode) && !interrupted()) {
            shares::known(mode, arguments.frequency)?;
            shares::witness(mode, arguments.frequency)?;
        }
    }
    for failure in &failures {
        println!("failed: {failure}");
    }
    let illegal: u64 = rows.iter().map(|(_, verdict)| verdict.illegal).sum();
    let incomplete = rows.iter().filter(|(_, verdict)| verdict.completeness() < COMPLETE).count();
    let unseen: usize = rows.iter().map(|(_, verdict)| verdict.unseen.len()).sum();
    if illegal > 0 || incomplete > 0 || unseen > 0 || !failures.is_empty() || interrupted() {
        bail!(
            "{illegal} illegal stacks, {incomplete} of {} rows under {} % complete, {unseen} stacks never seen that had to be, {} \
             failures",
            rows.len(),
            COMPLETE * 100.0,
            failures.len()
        );
    }
    Ok(())
}

/// A mode of a build: the samples are spread over the workloads that it can run.
fn one_row(
    runtime: Runtime,
    mode: Mode,
    workloads: &[Workload],
    samples: u64,
    frequency: u32,
    failures: &mut Vec<String>,
) -> Verdict {
    let mut sum = Verdict::default();
    let mut fail =
        |workload: &str, error: anyhow::Error| failures.push(format!("{runtime} {mode} {workload}: {error:#}"));
    let mut possible = Vec::new();
    for workload in workloads {
        let case = Case { workload, runtime, mode };
        match case.is_possible() {
            Ok(true) => possible.push(case),
            Ok(false) => {}
            Err(error) => {
                fail(&workload.name, error);
                return sum;
            }
        }
    }
    if possible.is_empty() {
        fail("no workload", anyhow::anyhow!("it can run none of them"));
    }
    for case in &possible {
        if interrupted() {
            break;
        }
        match case.judge(samples.div_ceil(possible.len() as u64), frequency) {
            Ok(verdict) => {
                eprintln!(
                    "{runtime} {mode} {}: {} samples, {} illegal, {} incomplete, {} without a line",
                    case.workload.name,
                    verdict.samples,
                    verdict.illegal,
                    verdict.incomplete(),
                    verdict.unknown_lines
                );
                sum += verdict;
            }
            Err(error) => fail(&case.workload.name, error),
        }
    }
    sum
}

/// The table, and under it what was not as it should be.
fn print(rows: &[(String, Verdict)]) {
    let headings = ["samples", "illegal", "incomplete", "complete", "cut", "unresolved", "no line", "lost"];
    let mut table = Table::new(headings.map(str::to_owned));
    for (name, verdict) in rows {
        table.row(
            name.clone(),
            [
                verdict.samples.to_string(),
                verdict.illegal.to_string(),
                verdict.incomplete().to_string(),
                if verdict.samples > 0 { format!("{:.3} %", verdict.completeness() * 100.0) } else { "-".to_owned() },
                verdict.cut.to_string(),
                verdict.unresolved.to_string(),
                verdict.unknown_lines.to_string(),
                verdict.lost.to_string(),
            ],
        );
    }
    println!("\n{table}");
    for (name, verdict) in rows {
        for (reason, count) in &verdict.incomplete {
            println!("incomplete: {name}: {count} x {reason}");
        }
    }
    for (_, verdict) in rows {
        for example in &verdict.examples {
            println!("\n{example}");
        }
        for path in &verdict.unseen {
            println!("never seen: {path}");
        }
    }
}
