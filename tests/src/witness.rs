//! LuaJIT's own profiler as an independent witness: both watch the same run of a program.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::luaflame::stacks;
use crate::paths::root;
use crate::programs::{Mode, Runtime, Target, script};
use crate::shares::of_counts;
use crate::stacks::Stack;

/// What was seen of one run.
#[derive(Debug)]
pub struct Seen {
    /// By luaflame.
    pub luaflame: Vec<Stack>,
    /// By LuaJIT's profiler.
    pub jit_p: Report,
}

/// The shares in a report of `-jp`, by function.
#[derive(Debug, Default)]
pub struct Report {
    /// Samples.
    pub samples: u64,
    /// Of a function's own time.
    pub own: HashMap<String, f64>,
}

/// Runs a script that ends after as many seconds as its argument says on LuaJIT's command line, with `-jp`, and profiles it for
/// `seconds`.
///
/// # Errors
/// When it does not run, or one of the profilers fails.
pub fn beside_jit_p(sample: &str, mode: Mode, seconds: u32) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let modules = root().join("target/luajit/usr/share");
    let modules =
        fs::read_dir(&modules)?.flatten().map(|entry| entry.path()).find(|path| path.join("jit/p.lua").is_file());
    let modules = modules.context("LuaJIT's own modules are not in target/luajit")?;
    let mut command = Runtime::CommandLine.command(mode)?;
    command.env("LUA_PATH", format!("{}/?.lua;;", modules.display()));
    // Function, raw counts, no smallest share, every millisecond.
    command.arg(format!("-jp=frm0i1,{}", report.display())).arg(script(sample)).arg((seconds + 1).to_string());
    let mut target = Target::start(&mut command)?;
    let luaflame = stacks(target.pid(), seconds, &["--lua-only"])?;
    target.wait_for_end()?;

    let text = fs::read_to_string(&report).context("jit.p wrote no report")?;
    let mut counts = HashMap::new();
    for line in text.lines() {
        if let Some((count, name)) = line.trim_start().split_once("  ")
            && let Ok(count) = count.parse::<u64>()
        {
            *counts.entry(name.to_owned()).or_default() += count;
        }
    }
    ensure!(!counts.is_empty(), "the report of jit.p cannot be read:\n{text}");
    Ok(Seen { luaflame, jit_p: Report { samples: counts.values().sum(), own: of_counts(counts) } })
}
