//! The command line, as a user meets it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use luaflame_tests::graph::MAIN;
use luaflame_tests::legal::{Truth, check};
use luaflame_tests::luaflame::{FREQUENCY, Finished, LINES, Luaflame, run, stacks};
use luaflame_tests::process::{Running, children};
use luaflame_tests::programs::{Mode, Runtime, Target, script};
use luaflame_tests::stacks::{Frame, Function, Stack, parse};
use luaflame_tests::truth::Case;
use luaflame_tests::workload::Workload;
use rustix::process::{Pid, Signal, kill_process};

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("cli::several_processes", several_processes),
        test("cli::lua_only", lua_only),
        test("cli::lines", lines),
        test("cli::no_kernel", no_kernel),
        test("cli::svg_by_extension", svg_by_extension),
        test("cli::hostile_names", hostile_names),
        test("cli::target_exits_early", target_exits_early),
        test("cli::interrupt_still_writes", interrupt_still_writes),
        test("cli::second_interrupt_aborts", second_interrupt_aborts),
        test("cli::usage_errors_exit_with_2", usage_errors_exit_with_2),
        test("cli::no_such_process", no_such_process),
        test("cli::names_of_processes", names_of_processes),
        test("cli::doctor", doctor),
        test("cli::two_runs_are_compared", two_runs_are_compared),
        test("cli::program_from_its_start", program_from_its_start),
        test("cli::says_as_much_as_wanted", says_as_much_as_wanted),
        test("cli::unwritable_output_is_found_before_sampling", unwritable_output),
        test("cli::no_luajit", no_luajit),
        test("cli::no_lua", no_lua),
        test("cli::idle_target", idle_target),
        test("cli::deleted_program", deleted_program),
        test("cli::other_namespaces", other_namespaces),
    ]
}

fn calls() -> Result<Target> {
    Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])
}

fn lua_functions(stacks: &[Stack]) -> impl Iterator<Item = &Function> {
    stacks.iter().flat_map(|stack| &stack.frames).filter_map(Frame::lua)
}

/// That the stacks are those of `calls.lua`, run by LuaJIT's command line, perhaps for a short time only.
fn check_calls(stacks: &[Stack]) -> Result<()> {
    check_workload(stacks, "calls", &["spin"])
}

/// That the stacks are those of a workload, run by LuaJIT's command line, and that this path is one of them.
fn check_workload(stacks: &[Stack], name: &str, seen: &[&str]) -> Result<()> {
    let workload = Workload::read(name)?;
    let case = Case { workload: &workload, runtime: Runtime::CommandLine, mode: Mode::Jit };
    let graph = case.graph()?;
    check(stacks, &Truth { seen: vec![seen.to_vec()], ..case.truth(&graph)? })
}

fn several_processes() -> Result<()> {
    let (a, b) = (calls()?, Target::sample(Runtime::CommandLine, Mode::Jit, "shares.lua", &[])?);
    let second = b.pid().to_string();
    let stacks = stacks(a.pid(), 2, &["--pid", &second, LINES[0], LINES[1]])?;
    let of_second =
        |stack: &Stack| stack.frames.iter().filter_map(Frame::lua).any(|function| function.is_in("shares.lua"));
    let (b, a): (Vec<Stack>, Vec<Stack>) = stacks.into_iter().partition(of_second);
    check_calls(&a)?;
    check_workload(&b, "shares", &["half"])
}

fn lua_only() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Interpreter, "builtins.lua", &[])?;
    let stacks = stacks(target.pid(), 2, &["--lua-only"])?;
    for stack in &stacks {
        // Before it there may be a C function that the program has called as Lua would.
        let start = stack.frames.iter().position(|frame| frame.lua().is_some());
        let start = start.with_context(|| format!("there is no Lua function in it:\n{stack}"))?;
        ensure!(stack.frames[start].lua().is_some_and(|function| function.name == MAIN), "no main chunk:\n{stack}");
        for frame in &stack.frames[start..] {
            let lua_land = match frame {
                Frame::Lua(_) => true,
                Frame::Other(name) => !name.contains("+0x") && !name.starts_with("lj_") && !name.starts_with("lua_"),
                Frame::Kernel(_) | Frame::Marker(_) => false,
            };
            ensure!(lua_land, "{frame} is not of Lua land:\n{stack}");
        }
    }
    let through = |builtin: &str| stacks.iter().any(|stack| stack.frames.contains(&Frame::Other(builtin.to_owned())));
    ensure!(through("table.sort") && through("string.gsub"), "the builtins that call back are not in it");
    Ok(())
}

fn lines() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Interpreter, "shares.lua", &[])?;
    let text = fs::read_to_string(script("shares.lua"))?;
    let definition =
        text.lines().position(|line| line.contains("function half(")).context("`half` is in shares.lua")?;
    // The loop's own line and its body, counted from 1.
    let body = (definition as u32 + 3)..=(definition as u32 + 4);
    let of = |stacks: &[Stack]| -> Vec<Option<u32>> {
        lua_functions(stacks).filter(|function| function.name == "half").map(|function| function.line).collect()
    };

    let current = of(&stacks(target.pid(), 1, &["--lines", "line"])?);
    let in_body = current.iter().filter(|line| line.is_some_and(|line| body.contains(&line))).count();
    ensure!(in_body >= 2, "the lines {body:?} of `half` were not seen: {current:?}");
    let whole = (definition as u32 + 1)..=(definition as u32 + 6);
    ensure!(
        current.iter().all(|line| line.is_some_and(|line| whole.contains(&line))),
        "`half` is in lines {whole:?}, seen were {current:?}"
    );

    let first = of(&stacks(target.pid(), 1, &["--lines", "function"])?);
    ensure!(first.iter().all(|line| *line == Some(definition as u32 + 1)), "not the line of the definition: {first:?}");
    let none = of(&stacks(target.pid(), 1, &["--lines", "none"])?);
    ensure!(!none.is_empty() && none.iter().all(|line| *line == Some(0)), "there are lines: {none:?}");
    Ok(())
}

fn no_kernel() -> Result<()> {
    let mut busy =
        Running::spawn(Command::new("dd").args(["if=/dev/zero", "of=/dev/null", "bs=64k"]).stderr(Stdio::null()))?;
    let kernel = |stacks: &[Stack]| stacks.iter().any(|stack| matches!(stack.frames.last(), Some(Frame::Kernel(_))));
    ensure!(
        kernel(&stacks(busy.id(), 1, &["--no-lua"])?),
        "a program that reads and writes was never seen in the kernel"
    );
    ensure!(!kernel(&stacks(busy.id(), 1, &["--no-lua", "--no-kernel"])?), "the kernel is in it");
    busy.end();
    Ok(())
}

fn svg_by_extension() -> Result<()> {
    let (target, folder) = (calls()?, tempfile::tempdir()?);
    let (pid, file) = (target.pid().to_string(), folder.path().join("flame.svg"));
    let file_name = file.to_str().context("UTF-8")?;
    let finished = run(&["-p", &pid, "-d", "1", "-o", file_name, "--title", "Calls & <more>"])?.success()?;
    ensure!(finished.stderr.contains(file_name), "the last words do not name the file:\n{}", finished.stderr);
    let svg = fs::read_to_string(&file)?;
    let document = xml(&svg)?;
    let text = |name: &str| document.descendants().any(|node| node.text().is_some_and(|text| text.contains(name)));
    ensure!(text("Calls & <more>"), "the title is missing");
    ensure!(text("fib (") && text("main chunk ("), "Lua functions are missing");
    Ok(())
}

/// Reads an SVG as a strict reader of XML does.
fn xml(svg: &str) -> Result<roxmltree::Document<'_>> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    roxmltree::Document::parse_with_options(svg, options).context("the SVG is not XML")
}

fn hostile_names() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Interpreter, "hostile.lua", &[])?;
    let pid = target.pid().to_string();
    let folded = run(&["-p", &pid, "-t", "2", "-F", FREQUENCY, "-f", "folded", "-o", "-"])?.success()?;
    let text = std::str::from_utf8(&folded.stdout).context("the folded stacks are not UTF-8")?;
    parse(text)?;
    for word in ["a:b", "line one", "script", "invalid", "source text as a name", "long"] {
        ensure!(text.contains(word), "no function of the chunk with {word:?} in its name");
    }
    ensure!(!text.lines().any(|line| line.rsplit_once(' ').is_some_and(|(stack, _)| stack.ends_with("kernel_[k]"))));
    let svg = run(&["-p", &pid, "-t", "2", "-F", FREQUENCY, "-f", "svg", "-o", "-"])?.success()?;
    let svg = std::str::from_utf8(&svg.stdout).context("the SVG is not UTF-8")?;
    let document = xml(svg)?;
    let scripts =
        document.descendants().filter(|node| node.has_tag_name("script") || node.tag_name().name() == "script");
    ensure!(scripts.count() == 1, "there is more than the graph's own script");
    Ok(())
}

fn target_exits_early() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "briefly.lua", &["2"])?;
    let pid = target.pid().to_string();
    let start = Instant::now();
    let finished = run(&["-p", &pid, "-t", "50", "-F", FREQUENCY, "-f", "folded", "-o", "-"])?.success()?;
    ensure!(start.elapsed().as_secs() < 25, "it went on after the target had ended");
    ensure!(lua_functions(&finished.stacks()?).any(|function| function.name == "work"), "what it sampled is not there");
    Ok(())
}

/// luaflame with some samples taken, and no end in sight.
fn under_way(target: &Target, file: &Path) -> Result<Luaflame> {
    let (pid, file) = (target.pid().to_string(), file.to_str().context("UTF-8")?.to_owned());
    let mut luaflame = Luaflame::start(&["-p", &pid, "-t", "50", "-F", FREQUENCY, "-o", &file, LINES[0], LINES[1]])?;
    luaflame.wait_until_attached()?;
    target.wait_for_work(50)?;
    Ok(luaflame)
}

fn interrupt_still_writes() -> Result<()> {
    let (target, folder) = (calls()?, tempfile::tempdir()?);
    let file = folder.path().join("flame.folded");
    let mut luaflame = under_way(&target, &file)?;
    luaflame.process().signal(Signal::INT)?;
    luaflame.finish()?.success()?;
    check_calls(&parse(&fs::read_to_string(&file)?)?)
}

fn second_interrupt_aborts() -> Result<()> {
    let (target, folder) = (calls()?, tempfile::tempdir()?);
    let file = folder.path().join("flame.svg");
    fs::write(&file, "precious")?;
    let mut luaflame = under_way(&target, &file)?;
    luaflame.process().signal(Signal::INT)?;
    // It may be done before the second one arrives: then it has written, else it must not have.
    let aborted = luaflame.process().signal(Signal::INT).is_ok() && !luaflame.finish()?.status.success();
    let text = fs::read_to_string(&file)?;
    ensure!(if aborted { text == "precious" } else { text.contains("<svg") }, "the file is broken:\n{text}");
    Ok(())
}

fn usage_errors_exit_with_2() -> Result<()> {
    run(&["--no-such-option"])?.failure(2, &["--no-such-option"])?;
    run(&["-p", "sbin/nginx"])?.failure(2, &["sbin/nginx"])?;
    run(&["-p", "1", "--lines", "all"])?.failure(2, &["all"])?;
    Ok(())
}

fn no_such_process() -> Result<()> {
    let mut gone = Running::spawn(Command::new("true").stdin(Stdio::null()))?;
    let pid = gone.id().to_string();
    gone.end();
    run(&["-p", &pid, "-t", "1"])?.failure(1, &[&pid])?;
    Ok(())
}

/// A process is named by its program; of several with one name a PID chooses.
fn names_of_processes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Longer than what the kernel keeps of a process's name.
    let name = "luajit-of-this-test";
    let program = folder.path().join(name);
    fs::copy(Runtime::CommandLine.path()?, &program)?;
    let start = || Target::start(Command::new(&program).arg(script("calls.lua")));
    let one = start()?;
    let record = ["-p", name, "-t", "1", "-F", FREQUENCY, "-f", "folded", "-o", "-"];
    check_calls(&run(&[&record[..], &LINES].concat())?.success()?.stacks()?)?;
    let other = start()?;
    let pids = [one.pid().to_string(), other.pid().to_string()];
    run(&record)?.failure(1, &["2 processes have the name", "calls.lua", &pids[0], &pids[1]])?;
    run(&["doctor", "-p", &name[..15]])?.failure(1, &["2 processes"])?;
    run(&["doctor", "-p", &name[..14]])?.failure(1, &["no process has the name"])?;
    Ok(())
}

/// A program that luaflame starts, through a shell, is profiled to its end, and its exit code is passed on.
fn program_from_its_start() -> Result<()> {
    let mut command = Runtime::CommandLine.command(Mode::Jit)?;
    command.arg(script("briefly.lua")).arg("1");
    let words: Vec<&str> =
        [command.get_program()].into_iter().chain(command.get_args()).filter_map(|word| word.to_str()).collect();
    let shell = ["sh", "-c", "\"$@\"; exit 7", "sh"];
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.folded");
    let record = ["record", "-F", FREQUENCY, "-o", file.to_str().context("UTF-8")?, "--"];
    let finished = run(&[&record[..], &shell, &words].concat())?.failure(7, &["0 lost"])?;
    ensure!(finished.stdout == b"ready\n", "the program's output is not its own");
    let stacks = parse(&fs::read_to_string(&file)?)?;
    let samples: u64 = stacks.iter().map(|stack| stack.count).sum();
    let of_lua = stacks.iter().filter(|stack| stack.frames.iter().any(|frame| frame.lua().is_some()));
    let in_lua: u64 = of_lua.map(|stack| stack.count).sum();
    // Before there is a VM the libraries are loaded and the library's tables are made.
    ensure!(samples > 100 && in_lua * 10 > samples * 8, "{in_lua} of {samples} samples are in Lua");
    run(&["record", "-o", "x.svg", "--", "no-such-program"])?.failure(127, &["no-such-program", "not found"])?;
    Ok(())
}

/// What is said of this system and of VMs of two builds, with the JIT compiler on and off.
fn doctor() -> Result<()> {
    let compiled = calls()?;
    let interpreted = Target::sample(Runtime::CommandLine, Mode::Interpreter, "calls.lua", &[])?;
    let (one, other) = (compiled.pid().to_string(), interpreted.pid().to_string());
    let text = |finished: &Finished| String::from_utf8_lossy(&finished.stdout).into_owned();
    let report = text(&run(&["doctor", "-p", &one, "-p", &other])?.success()?);
    let said: Vec<Vec<&str>> = report.lines().map(|line| line.split_whitespace().collect()).collect();
    for wanted in [
        ["perf", "event"].as_slice(),
        &["process", &one, "(luajit)"],
        &["version", "LuaJIT", "2.1.0-beta3"],
        &["GC64", "yes"],
        &["JIT", "compiler", "on"],
        &["JIT", "compiler", "off"],
        &["traces", "0"],
        &["layout", "from", "luaflame's", "table:"],
        // Debian's is stripped.
        &["only", "exported", "ones", "have", "in", "luajit,"],
    ] {
        ensure!(said.iter().any(|line| line.starts_with(wanted)), "{wanted:?} is not said in\n{report}");
    }
    let shell = Running::spawn(Command::new("sleep").arg("60").stdin(Stdio::null()))?;
    let finished = run(&["doctor", "--json", "-p", &shell.id().to_string()])?.failure(1, &[])?;
    let report = text(&finished);
    ensure!(report.trim_start().starts_with('{') && report.contains("no LuaJIT VM was found"), "{report}");
    Ok(())
}

/// A function that takes twice the time as before: its share grows from 20 to 33 %, and that of nothing else.
fn two_runs_are_compared() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("shares.lua");
    let mut captures = Vec::new();
    for (name, rounds) in [("before.luaflame", "2000"), ("after.luaflame", "4000")] {
        let text = fs::read_to_string(luaflame_tests::programs::script("shares.lua"))?;
        fs::write(&script, text.replace("i = 1, 2000 do", &format!("i = 1, {rounds} do")))?;
        let target = Target::start(Runtime::CommandLine.command(Mode::Interpreter)?.arg(&script))?;
        let capture = folder.path().join(name).to_str().context("UTF-8")?.to_owned();
        run(&["-p", &target.pid().to_string(), "-t", "5", "-F", FREQUENCY, "-o", &capture])?.success()?;
        captures.push(capture);
    }
    let graph = folder.path().join("diff.svg");
    let graph = graph.to_str().context("UTF-8")?;
    let finished = run(&["diff", &captures[0], &captures[1], "--lua-only", "-o", graph])?.success()?;
    let table = String::from_utf8(finished.stdout)?;
    let rows: Vec<&str> = table
        .split("GREW, BY TOTAL TIME")
        .nth(1)
        .and_then(|rest| rest.split("\n\n").next())
        .context("there is a table")?
        .lines()
        .skip(2)
        .collect();
    ensure!(rows.len() == 1 && rows[0].contains(" fifth ("), "not only fifth has grown:\n{table}");
    for (file, title) in [("diff.svg", "After, by where"), ("diff.before.svg", "Before, by what")] {
        let svg = fs::read_to_string(folder.path().join(file))?;
        let document = xml(&svg)?;
        let text = |name: &str| document.descendants().any(|node| node.text().is_some_and(|text| text.contains(name)));
        ensure!(text(title) && text("fifth (") && text("half ("), "{file} is not what it should be");
    }
    Ok(())
}

/// Without a terminal there is neither progress nor a hint; -q leaves nothing, -v adds what was found.
fn says_as_much_as_wanted() -> Result<()> {
    let (target, folder) = (calls()?, tempfile::tempdir()?);
    let (pid, file) = (target.pid().to_string(), folder.path().join("flame.svg"));
    let file = file.to_str().context("UTF-8")?;
    let record = |more: &[&str]| run(&[&["-p", &pid, "-t", "1", "-o", file], more].concat())?.success();
    let plain = record(&[])?.stderr;
    ensure!(plain.lines().count() == 1 && !plain.contains('\u{1b}') && !plain.contains("file://"), "{plain}");
    let quiet = record(&["--quiet"])?.stderr;
    ensure!(quiet.is_empty(), "{quiet}");
    let verbose = record(&["-v"])?.stderr;
    for part in ["(luajit): 1 VM with GC64", "the probe was loaded in", "the perf event", "its own symbols"] {
        ensure!(verbose.contains(part), "{part:?} is missing in\n{verbose}");
    }
    ensure!(verbose.lines().all(|line| line.starts_with("luaflame: ")), "{verbose}");

    // `script` runs it on a terminal.
    let words = format!("{} -p {pid} -t 1 -o {file}", luaflame_tests::luaflame::program().display());
    let on_terminal = |command: &str| -> Result<String> {
        let output = Command::new("script").args(["-qec", command, "/dev/null"]).env("TERM", "xterm").output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let told = on_terminal(&words)?;
    ensure!(told.contains(&format!("open it in a browser: file://{file}")) && told.contains("attaching"), "{told}");
    let quiet = on_terminal(&format!("{words} -q"))?;
    ensure!(quiet.is_empty(), "{quiet:?}");
    Ok(())
}

fn unwritable_output() -> Result<()> {
    let (target, folder) = (calls()?, tempfile::tempdir()?);
    let pid = target.pid().to_string();
    let missing = folder.path().join("no/such/folder/flame.svg");
    let directory = folder.path();
    for output in [missing.as_path(), directory, Path::new("/proc/flame.svg")] {
        let output = output.to_str().context("UTF-8")?;
        let start = Instant::now();
        run(&["-p", &pid, "-t", "50", "-f", "svg", "-o", output])?.failure(1, &[output])?;
        ensure!(start.elapsed().as_secs() < 20, "it sampled before it found that {output} cannot be written");
    }
    Ok(())
}

fn no_luajit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flame.svg");
    fs::write(&file, "precious")?;
    let sleeping = Running::spawn(Command::new("sleep").arg("1000"))?;
    let pid = sleeping.id().to_string();
    run(&["-p", &pid, "-t", "1", "-o", file.to_str().context("UTF-8")?])?.failure(1, &["LuaJIT", "--no-lua", &pid])?;
    ensure!(fs::read_to_string(&file)? == "precious", "a failed run has changed the file that was there");
    Ok(())
}

fn no_lua() -> Result<()> {
    let busy = Running::spawn(Command::new("sh").args(["-c", "while :; do :; done"]))?;
    let stacks = stacks(busy.id(), 1, &["--no-lua"])?;
    ensure!(lua_functions(&stacks).next().is_none(), "there is Lua in a shell");
    Ok(())
}

fn idle_target() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("flame.svg");
    fs::write(&file, "precious")?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "sleep.lua", &[])?;
    let pid = target.pid().to_string();
    run(&["-p", &pid, "-t", "1", "-o", file.to_str().context("UTF-8")?])?.failure(1, &["no samples"])?;
    ensure!(fs::read_to_string(&file)? == "precious", "a failed run has changed the file that was there");
    Ok(())
}

fn deleted_program() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("luajit");
    fs::copy(Runtime::CommandLine.path()?, &program)?;
    let target = Target::start(Command::new(&program).arg(script("calls.lua")))?;
    fs::remove_file(&program)?;
    check_calls(&stacks(target.pid(), 2, &LINES)?)
}

/// As in a container: the program and the script are in a file system of its own, and it has another process id there.
fn other_namespaces() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let enter = "mount -t tmpfs none \"$1\" && cp \"$2\" \"$3\" \"$1\" && cd \"$1\" && exec 2>/dev/null; ./luajit calls.lua; exit 0";
    let mut unshare = Running::spawn(
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh"])
            .arg(folder.path())
            .arg(Runtime::CommandLine.path()?)
            .arg(script("calls.lua"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
    )?;
    let mut stdout = BufReader::new(unshare.child().stdout.take().context("its output is a pipe")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    ensure!(line == "ready\n", "the program in other namespaces did not get ready: {line:?}");
    let shell = *children(unshare.id()).first().context("unshare has a child")?;
    let inside = *children(shell).first().context("the shell has a child")?;
    let stacks = stacks(inside, 2, &LINES);
    // unshare itself ignores a request to end, and ends with its child.
    kill_process(Pid::from_raw(inside.try_into()?).context("a process id is not 0")?, Signal::TERM)?;
    unshare.child().wait()?;
    check_calls(&stacks?)
}
