//! Lines that are known to take nearly all of the time of their functions.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Result, ensure};
use luaflame_tests::legal::leaf;
use luaflame_tests::programs::{Mode, Runtime};
use luaflame_tests::truth::{Case, sample};
use luaflame_tests::workload::Workload;

use crate::{Test, test};

/// What a line ends with that takes more than [`SHARE`] of its function's time.
const HOT: &str = "-- hot";
/// The share of the samples of a function that must be in its line.
const SHARE: f64 = 0.99;
/// Samples, and samples a second.
const SAMPLES: u64 = 8_000;
const FREQUENCY: u32 = 3_989;

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let mut tests = Vec::new();
    for name in ["luajit", "210.7.4"] {
        let runtime: Runtime = name.parse().expect("it is one of the builds");
        for mode in [Mode::Interpreter, Mode::Jit] {
            tests.push(test(format!("lines::hot::{runtime}::{mode}"), move || hot(runtime, mode)));
        }
    }
    tests
}

fn hot(runtime: Runtime, mode: Mode) -> Result<()> {
    let workload = Workload::read("lines")?;
    let text = fs::read_to_string(&workload.script)?;
    let numbered = text.lines().zip(1..).filter(|(line, _)| line.ends_with(HOT));
    let expected: BTreeMap<&str, u32> =
        numbered.filter_map(|(_, number)| Some((workload.graph.at("lines.lua", number)?, number))).collect();
    ensure!(expected.len() >= 8, "only {} functions have such a line", expected.len());

    let case = Case { workload: &workload, runtime, mode };
    let sampled = sample(&mut case.start()?, SAMPLES, FREQUENCY)?;
    // Of each function: samples, and samples in the line.
    let mut found: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for stack in &sampled.stacks {
        let Some(function) = leaf(stack) else { continue };
        let Some((name, line)) = expected.get_key_value(function.name.as_str()) else { continue };
        let (all, right) = found.entry(name).or_default();
        *all += stack.count;
        *right += if function.line == Some(*line) { stack.count } else { 0 };
    }
    for (name, line) in &expected {
        let (all, right) = found.get(name).copied().unwrap_or_default();
        ensure!(all >= 100, "`{name}` has only {all} samples");
        // Three standard errors of so many samples.
        let slack = 3.0 * (SHARE * (1.0 - SHARE) / all as f64).sqrt();
        let share = right as f64 / all as f64;
        ensure!(share >= SHARE - slack, "{share:.4} of the {all} samples of `{name}` are in line {line}: {found:?}");
    }
    Ok(())
}
