//! Captures: what was drawn live is drawn again from the file alone, by anyone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use luaflame_tests::luaflame::{FREQUENCY, program, run};
use luaflame_tests::programs::{Mode, Runtime, Target};
use luaflame_tests::stacks::{Stack, parse};

use crate::nginx::busy;
use crate::{Test, test};

/// The user and group `nobody`.
const NOBODY: u32 = 65534;

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("capture::interpreter", || of_sample(Mode::Interpreter, "metamethods.lua")),
        test("capture::jit", || of_sample(Mode::Jit, "calls.lua")),
        test("capture::coroutines", || of_sample(Mode::Jit, "coroutines.lua")),
        test("capture::nginx", || busy(|nginx| same_again(nginx.master()))),
        test("capture::process_that_ends", process_that_ends),
        test("capture::damaged", damaged),
        test("capture::without_memory", without_memory),
    ]
}

fn of_sample(mode: Mode, sample: &str) -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, mode, sample, &[])?;
    same_again(target.pid())
}

/// Its last records are decoded when there is nothing left to read: neither is there in the replay.
fn process_that_ends() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "briefly.lua", &["2"])?;
    same_again(target.pid())
}

/// That a process is drawn from a capture as it is drawn live, line by line and as Lua land.
fn same_again(pid: u32) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("x.luaflame");
    let live = record(pid, &capture, &["--lines", "line"])?;
    ensure!(fs::metadata(&capture)?.mode() & 0o777 == 0o600, "others may read the capture");
    let samples: u64 = parse(&live)?.iter().map(|stack| stack.count).sum();
    ensure!(samples >= 100, "only {samples} samples of a busy process");
    let replayed = replay(folder.path(), &capture, &["--lines", "line"])?;
    // The probe's own programs have names in the kernel only as long as they are loaded, and a capture is written after that.
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.contains(";bpf_trace_run")).map(str::to_owned).collect()
    };
    ensure!(
        others(&replayed) == others(&live),
        "it is not drawn as it was, but as:\n{replayed}\nwhere live it was:\n{live}"
    );
    ensure!(says_version(folder.path(), &capture)?, "the graph does not say which LuaJIT it was");
    let lua = parse(&replay(folder.path(), &capture, &["--lua-only"])?)?;
    ensure!(lua.iter().all(|stack| stack.frames.iter().any(|frame| frame.lua().is_some())), "stacks without Lua");
    Ok(())
}

/// Whether the second line of a flame graph that is drawn from a capture has the version of LuaJIT.
fn says_version(folder: &Path, capture: &Path) -> Result<bool> {
    let file = folder.join("version.svg");
    run(&[Path::new("report"), capture, Path::new("-o"), &file])?.success()?;
    Ok(fs::read_to_string(&file)?.contains(" lost | LuaJIT 2.1."))
}

/// Records a process, and returns the folded stacks of the live run.
fn record(pid: u32, capture: &Path, more: &[&str]) -> Result<String> {
    let (pid, capture) = (pid.to_string(), capture.to_str().context("UTF-8")?);
    let mut arguments =
        vec!["record", "-p", &pid, "-t", "3", "-F", FREQUENCY, "-f", "folded", "-o", "-", "--with-memory", capture];
    arguments.extend(more);
    let finished = run(&arguments)?.success()?;
    ensure!(finished.stderr.contains(capture) && finished.stderr.contains("MEMORY"), "{}", finished.stderr);
    Ok(String::from_utf8(finished.stdout)?)
}

/// Replays a capture in a folder as a user without any rights, where the target's files cannot be reached.
fn replay(folder: &Path, capture: &Path, more: &[&str]) -> Result<String> {
    let luaflame = folder.join("luaflame");
    if !luaflame.exists() {
        fs::copy(program(), &luaflame)?;
        fs::set_permissions(folder, Permissions::from_mode(0o755))?;
        chown(capture, Some(NOBODY), Some(NOBODY))?;
    }
    let output = Command::new(luaflame)
        .args(["report", "-f", "folded", "-o", "-"])
        .args(more)
        .arg(capture)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()?;
    ensure!(output.status.success(), "the replay failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A capture of the samples alone is drawn in any way, like the live run.
fn without_memory() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (capture, live) = (folder.path().join("x.luaflame"), folder.path().join("live.folded"));
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let (pid, capture_name) = (target.pid().to_string(), capture.to_str().context("UTF-8")?);
    let outputs = ["-o", capture_name, "-o", live.to_str().context("UTF-8")?];
    let arguments = [&["-p", &pid, "-t", "2", "-F", FREQUENCY, "--lua-only", "--lines", "line"][..], &outputs].concat();
    let finished = run(&arguments)?.success()?;
    ensure!(finished.stderr.contains("x.luaflame and "), "{}", finished.stderr);
    let live = fs::read_to_string(live)?;
    ensure!(replay(folder.path(), &capture, &["--lua-only", "--lines", "line"])? == live, "it is drawn in another way");
    let whole = parse(&replay(folder.path(), &capture, &[])?)?;
    ensure!(whole.iter().any(|stack| stack.to_string().contains("lua_pcall")), "native frames were not kept");
    let samples = |stacks: &[Stack]| stacks.iter().map(|stack| stack.count).sum::<u64>();
    ensure!(samples(&whole) == samples(&parse(&live)?), "there are not as many samples");
    ensure!(says_version(folder.path(), &capture)?, "the graph does not say which LuaJIT it was");
    // What was recorded is kept when there is nothing of it to draw.
    let kept = folder.path().join("kept.luaflame");
    let (kept_name, none) = (kept.to_str().context("UTF-8")?, folder.path().join("none.svg"));
    let outputs = ["-o", kept_name, "-o", none.to_str().context("UTF-8")?, "--include", "no such function"];
    run(&[&["-p", &pid, "-t", "1"][..], &outputs].concat())?.failure(1, &["--include", kept_name])?;
    ensure!(!none.exists() && fs::metadata(&kept)?.len() > 0, "a drawing of nothing, or no capture");
    Ok(())
}

fn damaged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("x.luaflame");
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    record(target.pid(), &capture, &[])?;
    let whole = fs::read(&capture)?;
    let name = capture.to_str().context("UTF-8")?;
    let refused = |bytes: &[u8], word: &str| {
        fs::write(&capture, bytes)?;
        run(&["report", name, "-f", "folded", "-o", "-"])?.failure(1, &[name, word])
    };
    refused(&whole[..whole.len() / 2], "ends too early")?;
    refused(b"#!/bin/sh\n", "it is no stack with a count behind it")?;
    let mut flipped = whole.clone();
    flipped[whole.len() / 3] ^= 0x10;
    refused(&flipped, "damaged")?;
    Ok(())
}
