//! LuaJIT's own profiler as an independent witness: both watch the same run of a program.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::paths::root;
use crate::programs::{Mode, Runtime, Target};
use crate::shares::{Path, paths, paths_of_jit_p};
use crate::truth::sample;
use crate::workload::Workload;

/// What was seen of one run.
#[derive(Debug)]
pub struct Seen {
    /// By luaflame.
    pub luaflame: Vec<Path>,
    /// By LuaJIT's profiler.
    pub jit_p: Vec<Path>,
}

/// Runs a workload on LuaJIT's command line with `-jp` until luaflame has that many samples.
///
/// # Errors
/// When it does not run, or one of the profilers fails.
pub fn beside_jit_p(workload: &Workload, mode: Mode, samples: u64, frequency: u32) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let modules = root().join("target/luajit/usr/share");
    let modules =
        fs::read_dir(&modules)?.flatten().map(|entry| entry.path()).find(|path| path.join("jit/p.lua").is_file());
    let modules = modules.context("LuaJIT's own modules are not in target/luajit")?;
    let mut command = Runtime::CommandLine.command(mode)?;
    command.env("LUA_PATH", format!("{}/?.lua;;", modules.display()));
    // Lines, since names are those of the caller: a function that is entered by a tail call has another one's. For graphical tools,
    // every millisecond; the kernel's timer makes it a tick, such as 4 ms.
    command.arg(format!("-jp=lGi1,{}", report.display())).arg(&workload.script);
    // It says where it was interrupted.
    command.stderr(Stdio::null());
    let mut target = Target::start(&mut command)?;
    let sampled = sample(&mut target, samples, frequency)?;
    // The report is written when the VM is closed.
    target.interrupt()?;
    let text = fs::read_to_string(&report).context("jit.p wrote no report")?;
    let jit_p = paths_of_jit_p(&text, &workload.graph);
    ensure!(!jit_p.is_empty(), "the report of jit.p cannot be read:\n{text}");
    let mut luaflame = paths(&sampled.stacks);
    // The other profiler is Lua, too.
    luaflame.retain(|path| path.functions.iter().all(|name| workload.graph.functions.contains_key(name)));
    Ok(Seen { luaflame, jit_p })
}
