//! Programs whose memory lies: profiling them ends in time, takes no more memory than there is to be read of an honest one,
//! and says what could not be known. What is true around the lie is still drawn.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use luaflame_tests::graph::MAIN;
use luaflame_tests::luaflame::{FREQUENCY, Finished, Luaflame};
use luaflame_tests::paths::root;
use luaflame_tests::programs::{Runtime, Target};
use luaflame_tests::stacks::Frame;

use crate::{Test, test};

/// What is lied about, as `hosts/hostile.c` names it, and whether it must be said that Lua frames are missing. They are not
/// with many frames of any prototypes; and a C frame that its thread does not know is also what an error leaves behind
/// that is on its way through C code.
const LIES: [(&str, bool); 5] =
    [("links", true), ("pointers", true), ("stack", true), ("cframes", false), ("prototypes", false)];
/// Bytes that luaflame may take, several times what honest programs need.
const MEMORY: u64 = 256 << 20;
/// A run of two seconds takes no longer.
const TIME: Duration = Duration::from_secs(20);

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let mut tests: Vec<_> =
        LIES.iter().map(|(lie, said)| test(format!("hostile::{lie}"), || counted(lie, *said))).collect();
    tests.push(test("hostile::vm", vm));
    tests
}

/// A program that lies, and what luaflame says of it.
fn profile(lie: &str) -> Result<Finished> {
    let folder = tempfile::tempdir()?;
    let library = folder.path().join("hostile.so");
    let hosts = root().join("tests/hosts");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(hosts.join("hostile.c"));
    ensure!(compiler.status()?.success(), "hostile.c does not compile");
    let program = Runtime::CommandLine.path()?;
    let mut target = Target::start(Command::new(program).arg(hosts.join("hostile.lua")).arg(&library).arg(lie))?;
    target.wait_for_work(100)?;
    let (pid, start) = (target.pid().to_string(), Instant::now());
    let finished =
        Luaflame::start_limited(MEMORY, &["-p", &pid, "-t", "2", "-F", FREQUENCY, "-f", "folded", "-o", "-"])?
            .finish()?;
    let time = start.elapsed();
    ensure!(time < TIME, "it took {time:?}");
    ensure!(!target.has_ended(), "the target has ended");
    Ok(finished)
}

fn counted(lie: &str, must_say: bool) -> Result<()> {
    let finished = profile(lie)?.success()?;
    let stacks = finished.stacks()?;
    let samples: u64 = stacks.iter().map(|stack| stack.count).sum();
    // Reading ever other functions takes so long that most samples are lost.
    ensure!(samples >= if must_say { 100 } else { 1 }, "only {samples} samples:\n{}", finished.stderr);
    for stack in &stacks {
        ensure!(
            stack.frames.first() == Some(&Frame::Other("_start".to_owned())),
            "it does not begin at the root:\n{stack}"
        );
        // The main thread does not lie.
        ensure!(
            stack.frames.iter().filter_map(Frame::lua).any(|function| function.name == MAIN),
            "the main chunk is missing:\n{stack}"
        );
        let honest = stack.frames.iter().filter_map(Frame::lua).any(|function| function.name == "inner");
        let said = stack.frames.iter().any(|frame| matches!(frame, Frame::Marker(name) if name.contains("Lua")));
        ensure!(honest || said || !must_say, "frames are missing, and nothing says so:\n{stack}");
    }
    ensure!(!finished.stderr.contains(" 0.0 % of the frames unresolved"), "nothing was counted:\n{}", finished.stderr);
    Ok(())
}

fn vm() -> Result<()> {
    profile("vm")?.failure(1, &["LuaJIT"])?;
    Ok(())
}
