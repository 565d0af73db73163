//! Programs whose call graph is known: every stack must be one that the program can have, whole. `cargo xtask truth` does the same at
//! length and on every build.

use anyhow::{Context, Result, ensure};
use luaflame_tests::graph::MAIN;
use luaflame_tests::legal::{Root, Truth, check, leaf};
use luaflame_tests::luaflame::{LINES, run, stacks};
use luaflame_tests::programs::{Mode, Runtime, Target, script};
use luaflame_tests::shares;
use luaflame_tests::stacks::Frame;
use luaflame_tests::truth::{Case, sample};
use luaflame_tests::witness;
use luaflame_tests::workload::Workload;

use crate::{Test, test};

/// The programs that the workloads are spread over: upstream's LuaJIT as Debian builds it, OpenResty's and a rolling release, in
/// all ways to link.
const RUNTIMES: [&str; 4] = ["luajit", "210.4.8-stripped", "210.7.4", "210.7.4-shared-stripped"];
/// Samples of each workload in each mode.
const SAMPLES: u64 = 1_000;
/// Samples a second.
const FREQUENCY: u32 = 1_997;

/// The programs that leave traces: stripped, recent, and without GC64.
const LEFT: [&str; 3] = ["luajit", "210.7.4", "210.6.6-nogc64"];

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let workloads = Workload::all().expect("the workloads are well formed");
    let runtimes = RUNTIMES.map(|name| name.parse::<Runtime>().expect("it is one of the builds"));
    let mut tests = Vec::new();
    for (number, workload) in workloads.into_iter().enumerate() {
        for &mode in &workload.modes {
            // Each mode of a workload on another one, as long as there are others that it runs on.
            let first = number + mode as usize;
            let order: Vec<Runtime> = (0..runtimes.len()).map(|at| runtimes[(first + at) % runtimes.len()]).collect();
            let workload = workload.clone();
            let name = format!("truth::{}::{mode}", workload.name);
            tests.push(test(name, move || known(&order, mode, &workload)));
        }
    }
    for mode in [Mode::Interpreter, Mode::Jit] {
        for runtime in &runtimes[1..] {
            let runtime = *runtime;
            tests.push(test(format!("truth::a_thread_for_each_vm::{runtime}::{mode}"), move || threads(runtime, mode)));
            tests.push(test(format!("truth::hundreds_of_vms::{runtime}::{mode}"), move || hundreds(runtime, mode)));
        }
        let runtime = runtimes[1];
        tests.push(test(format!("truth::vms_come_and_go::{runtime}::{mode}"), move || come_and_go(runtime, mode)));
        tests.push(test(format!("shares::known::{mode}"), move || known_shares(mode)));
        tests.push(test(format!("shares::as_jit_p_says::{mode}"), move || as_jit_p_says(mode)));
    }
    for name in LEFT {
        let runtime: Runtime = name.parse().expect("it is one of the builds");
        tests.push(test(format!("truth::the_frames_of_a_trace_that_is_left::{runtime}"), move || left(runtime)));
    }
    tests.push(test("truth::a_deep_stack_is_cut_in_its_middle", deep));
    tests
}

/// On the first of the programs that can run it.
fn known(runtimes: &[Runtime], mode: Mode, workload: &Workload) -> Result<()> {
    for &runtime in runtimes {
        let case = Case { workload, runtime, mode };
        if case.is_possible()? {
            return case.judge(SAMPLES, FREQUENCY)?.holds();
        }
    }
    anyhow::bail!("none of {RUNTIMES:?} can run it")
}

/// While a trace is left, the functions inlined in it are shown, each with its line. The only guards of the trace of `outer` that
/// fail are in `inner` and at the end of its loop.
fn left(runtime: Runtime) -> Result<()> {
    let workload = Workload::read("exits")?;
    let case = Case { workload: &workload, runtime, mode: Mode::Jit };
    let target = case.start()?;
    let by_state = stacks(target.pid(), 4, &[&LINES[..], &["--by", "state"]].concat())?;
    let calls = |name: &str, line| workload.graph.calls.iter().any(|call| call.caller == name && call.line == line);
    let (mut all, mut wrong, mut example) = (0, 0, None);
    for stack in by_state.iter().filter(|stack| stack.frames.first() == Some(&Frame::Other("trace exit".to_owned()))) {
        let functions: Vec<_> = stack.frames.iter().filter_map(Frame::lua).collect();
        let without_line = functions.iter().any(|function| function.line.is_none());
        let without_inlined = functions.last().is_some_and(|last| match last.name.as_str() {
            "middle" => true,
            "outer" => last.line.is_none_or(|line| calls("outer", line)),
            _ => false,
        });
        all += stack.count;
        if without_line || without_inlined {
            wrong += stack.count;
            example = Some(stack);
        }
    }
    ensure!(all >= 100, "only {all} samples were taken while a trace was left");
    ensure!(
        wrong as f64 <= all as f64 / 100.0,
        "of {all} samples taken while a trace was left {wrong} lack a line or an inlined function, such as {}",
        example.map_or_else(String::new, ToString::to_string)
    );
    Ok(())
}

fn deep() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Interpreter, "deep.lua", &[])?;
    let stacks = stacks(target.pid(), 2, &[])?;
    let cut = stacks.iter().find(|stack| stack.frames.iter().any(|frame| matches!(frame, Frame::Marker(_))));
    let cut = cut.context("no stack is marked as cut")?;
    let kept = cut.frames.iter().filter(|frame| frame.lua().is_some()).count();
    ensure!(kept >= 200, "only {kept} Lua frames are kept of a stack of 5,000");
    let deep = stacks.iter().any(|stack| leaf(stack).is_some_and(|function| function.name == "spin"));
    ensure!(deep, "the leaf of the deep recursion was never seen");
    Ok(())
}

/// Several VMs in a process, each in a thread of its own.
fn threads(runtime: Runtime, mode: Mode) -> Result<()> {
    let workload = Workload::read("threads")?;
    let mut command = runtime.command(mode)?;
    let target = Target::start(command.args(["--threads", "4"]).arg(script("threads.lua")))?;
    let case = Case { workload: &workload, runtime, mode };
    let graph = case.graph()?;
    check(
        &stacks(target.pid(), 2, &LINES)?,
        &Truth {
            root: Root::Thread,
            start: vec![(workload.first(), "... &run_thread &run_step &lua_pcall")],
            ..case.truth(&graph)?
        },
    )
}

/// Hundreds of VMs in a process, many for each thread, so that a sample is hardly ever of the VM that the one before it was of.
fn hundreds(runtime: Runtime, mode: Mode) -> Result<()> {
    let workload = Workload::read("threads")?;
    let mut command = runtime.command(mode)?;
    let target = Target::start(command.args(["--threads", "4", "--vms", "300"]).arg(&workload.script))?;
    let pid = target.pid().to_string();
    let arguments = [&["-p", &pid, "-t", "2", "-F", "997", "-f", "folded", "-o", "-"], &LINES[..]].concat();
    let finished = run(&arguments)?.success()?;
    let case = Case { workload: &workload, runtime, mode };
    let graph = case.graph()?;
    check(
        &finished.stacks()?,
        &Truth {
            root: Root::Thread,
            start: vec![(workload.first(), "... &run_thread &run_step &lua_pcall")],
            ..case.truth(&graph)?
        },
    )?;
    ensure!(finished.lost()? == 0, "samples were lost:\n{}", finished.stderr);
    Ok(())
}

/// VMs that are closed and made anew while they are profiled.
fn come_and_go(runtime: Runtime, mode: Mode) -> Result<()> {
    let workload = Workload::read("threads")?;
    let mut command = runtime.command(mode)?;
    let target = Target::start(command.args(["--threads", "4", "--vms", "40", "--renew", "50"]).arg(&workload.script))?;
    let case = Case { workload: &workload, runtime, mode };
    let graph = case.graph()?;
    check(
        &stacks(target.pid(), 3, &LINES)?,
        // Either a step, or the script in a new VM.
        &Truth {
            root: Root::Thread,
            start: [workload.first(), MAIN].map(|function| (function, "... &run_thread ... &lua_pcall")).into(),
            ..case.truth(&graph)?
        },
    )
}

fn known_shares(mode: Mode) -> Result<()> {
    let mut target = Target::sample(Runtime::CommandLine, mode, "shares.lua", &[])?;
    let paths = shares::paths(&sample(&mut target, 4_000, FREQUENCY)?.stacks);
    let measured = shares::own(&paths);
    for (name, share) in shares::KNOWN {
        let found = measured.get(name).copied().unwrap_or(0.0);
        // Half a point is for the calls themselves.
        let limit = 0.005 + 4.0 * shares::standard_error(share, shares::samples(&paths));
        ensure!((found - share).abs() < limit, "`{name}` takes {share} of the time, {found} was measured");
    }
    Ok(())
}

/// LuaJIT's own profiler as witness: both watch the same run.
fn as_jit_p_says(mode: Mode) -> Result<()> {
    let seen = witness::beside_jit_p(&Workload::read("shares")?, mode, 8_000, FREQUENCY)?;
    let (ours, theirs) = (shares::own(&seen.luaflame), shares::own(&seen.jit_p));
    let distance = shares::distance(&ours, &theirs);
    // Its timer gives some 1,000 samples: that alone makes 0.02.
    ensure!(distance < 0.06, "shares differ by {distance:.3} from those of jit.p: {ours:?} and {theirs:?}");
    Ok(())
}
