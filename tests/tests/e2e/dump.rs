//! `luaflame dump`: the stacks of coroutines that wait in known places, in programs that wait, work and change.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use luaflame_tests::luaflame::{LIMIT, run};
use luaflame_tests::paths::root;
use luaflame_tests::process::{Running, wait_until};
use luaflame_tests::programs::{Mode, Runtime, Target};
use serde_json::Value;

use crate::{Test, test};

/// With GC64 and without, with numbers of one and of two forms, with symbols and without, upstream's and OpenResty's.
const RUNTIMES: [&str; 4] = ["luajit", "210.4.8-nogc64-stripped", "210.7.4-nogc64-dualnum-stripped", "210.7.4-dualnum"];

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let mut tests: Vec<_> = RUNTIMES
        .into_iter()
        .map(|runtime| test(format!("dump::waiting::{runtime}"), move || waiting(runtime.parse()?)))
        .collect();
    tests.extend([
        test("dump::text", text),
        test("dump::running::jit", || running(Mode::Jit)),
        test("dump::running::interpreter", || running(Mode::Interpreter)),
        test("dump::changing", changing),
        test("dump::nginx", nginx),
        test("dump::failures", failures),
    ]);
    tests
}

/// A script in `tests/dump`.
struct Script {
    path: PathBuf,
    text: String,
}

impl Script {
    fn new(name: &str) -> Result<Script> {
        let path = root().join("tests/dump").join(name);
        let text = fs::read_to_string(&path)?;
        Ok(Script { path, text })
    }

    /// The line with this mark.
    fn line(&self, mark: &str) -> Result<usize> {
        let mark = format!("-- @{mark}");
        let found = self.text.lines().position(|line| line.ends_with(&mark));
        found.map(|index| index + 1).with_context(|| format!("there is no line {mark:?}"))
    }

    /// Starts it; it has got ready.
    fn start(&self, runtime: Runtime, mode: Mode, arguments: &[&str]) -> Result<Target> {
        Target::start(runtime.command(mode)?.arg(&self.path).args(arguments))
    }
}

/// Waits until a process with one thread waits.
fn until_asleep(pid: u32) -> Result<()> {
    let sleeps = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    ensure!(wait_until(LIMIT, sleeps), "process {pid} does not come to rest");
    Ok(())
}

/// The only process of what the command says in JSON.
fn dumped(pid: u32, more: &[&str]) -> Result<Value> {
    let pid = pid.to_string();
    let arguments = [["dump", "--json", "-p", &pid].as_slice(), more].concat();
    let report: Value = serde_json::from_slice(&run(&arguments)?.success()?.stdout)?;
    ensure!(report["schema"] == 1, "the schema is another one: {report}");
    Ok(report["processes"][0].clone())
}

/// The frames of a coroutine or sample as `name:line`, innermost first; without a name, `line` is the line of a mark.
fn frames(of: &Value) -> Vec<String> {
    let frames = of["frames"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |frame: &Value| {
        let name = frame["name"].as_str().unwrap_or("");
        frame["line"].as_u64().map_or(name.to_owned(), |line| format!("{name}:{line}"))
    };
    frames.iter().map(text).collect()
}

fn coroutines(process: &Value) -> Result<&[Value]> {
    ensure!(process["vms"].as_array().is_some_and(|vms| vms.len() == 1), "there is one VM: {process}");
    process["vms"][0]["coroutines"].as_array().map(Vec::as_slice).context("there are coroutines")
}

/// That the coroutines of this status have these stacks, in this order: each frame as `name@mark` or, of a builtin, its name.
fn check(script: &Script, coroutines: &[Value], status: &str, stacks: &[&[&str]]) -> Result<()> {
    let lines = |stack: &&[&str]| -> Result<Vec<String>> {
        let frame = |frame: &&str| match frame.split_once('@') {
            Some((name, mark)) => Ok(format!("{name}:{}", script.line(mark)?)),
            None => Ok((*frame).to_owned()),
        };
        stack.iter().map(frame).collect()
    };
    let expected = stacks.iter().map(lines).collect::<Result<Vec<_>>>()?;
    let found: Vec<_> =
        coroutines.iter().filter(|of| of["status"] == status && of["main"] == false).map(frames).collect();
    ensure!(found == expected, "{status}:\n{found:?}\nwas found, expected was\n{expected:?}");
    Ok(())
}

/// The stacks that do not depend on what the script does at last.
fn check_suspended(script: &Script, coroutines: &[Value]) -> Result<()> {
    let deep = [&["coroutine.yield", "descend@bottom"][..], &["descend@descend"; 5000]].concat();
    let waits = ["coroutine.yield", "inner@inner", "pcall", "outer@outer"];
    let suspended: [&[&str]; 7] = [
        &waits,
        &waits,
        &waits,
        &["coroutine.yield", "@wrapped"],
        &["coroutine.yield", "__index@index", "@metamethod"],
        &["coroutine.yield", "iterate@iterate", "@loop"],
        &deep,
    ];
    check(script, coroutines, "suspended", &suspended)?;
    check(script, coroutines, "failed", &[&["error", "@failed"]])?;
    check(script, coroutines, "fresh", &[&["outer"]])?;
    check(script, coroutines, "finished", &[&[]])
}

/// A program that waits for input in a coroutine in a coroutine: everything is exact, and of one moment.
fn waiting(runtime: Runtime) -> Result<()> {
    let script = Script::new("coroutines.lua")?;
    let target = script.start(runtime, Mode::Jit, &[])?;
    until_asleep(target.pid())?;
    let process = dumped(target.pid(), &["--locals"])?;
    ensure!(process["still"] == true && process["problem"].is_null(), "it does not run: {process}");
    let coroutines = coroutines(&process)?;
    for coroutine in coroutines {
        let known = coroutine["read"] == "still" && coroutine["leaf"] == "exact";
        ensure!(known, "nothing runs, but this is not known: {coroutine}");
    }
    check_suspended(&script, coroutines)?;
    check(&script, coroutines, "running", &[&["io.read", "@read"]])?;
    check(&script, coroutines, "normal", &[&["coroutine.resume", "@resume"]])?;
    let main = coroutines.iter().find(|of| of["main"] == true).context("there is a main thread")?;
    let outermost = format!("main chunk:{}", script.line("main")?);
    ensure!(main["status"] == "normal" && frames(main)[1] == outermost, "the main thread waits: {main}");
    let resumed: Vec<_> = coroutines[..3].iter().map(|of| &of["resumed_by"]).collect();
    let chain = [&coroutines[1]["address"], &coroutines[2]["address"], &Value::Null];
    ensure!(resumed == chain && coroutines[2] == *main, "who has resumed whom: {resumed:?}");

    let suspended: Vec<_> = coroutines.iter().filter(|of| of["status"] == "suspended").collect();
    for (number, coroutine) in (1..).zip(&suspended[..3]) {
        let text = format!("\"it's\\n{number}\"");
        let half = ["1.5", "3", "4.5"][number - 1];
        locals(
            &coroutine["frames"][1],
            &[
                ("text", "string", &text),
                ("number", "number", half),
                ("list", "table", "table 0x*)"),
                ("integer", "number", "-7"),
                ("nothing", "nil", "nil"),
                ("yes", "boolean", "true"),
            ],
        )?;
        let start = format!("function start ({}:{})", script.path.display(), script.line("start")?);
        locals(
            &coroutine["frames"][3],
            &[
                ("number", "number", &number.to_string()),
                ("...1", "string", "\"more\""),
                ("...2", "nil", "nil"),
                ("...3", "function", &start),
            ],
        )?;
    }
    // A loop's own variables are none of the program's.
    locals(&suspended[3]["frames"][1], &[("step", "number", "1")])?;
    locals(&suspended[6]["frames"][5000], &[("depth", "number", "4999")])?;
    let plain = dumped(target.pid(), &[])?;
    ensure!(!plain.to_string().contains("more"), "no values are shown unless they are asked for: {plain}");
    Ok(())
}

/// That a frame has these variables: name, type and value, in which `*` stands for the digits of an address.
fn locals(frame: &Value, expected: &[(&str, &str, &str)]) -> Result<()> {
    let found = frame["locals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let agrees = |found: &Value, (name, kind, value): &(&str, &str, &str)| {
        let text = found["value"].as_str().unwrap_or_default();
        let same = match value.split_once('*') {
            Some((start, end)) => text.starts_with(start) && text.ends_with(end),
            None => text == *value,
        };
        same && found["name"] == *name && found["type"] == *kind
    };
    let fine =
        found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| agrees(found, expected));
    ensure!(fine, "{found:?} are the variables, not {expected:?}");
    Ok(())
}

/// For people, coroutines with the same stack are shown once, and deep stacks in part.
fn text() -> Result<()> {
    let script = Script::new("coroutines.lua")?;
    let target = script.start(Runtime::CommandLine, Mode::Jit, &[])?;
    until_asleep(target.pid())?;
    let pid = target.pid().to_string();
    let text = |more: &[&str]| -> Result<String> {
        let arguments = [["dump", "-p", &pid].as_slice(), more].concat();
        Ok(String::from_utf8(run(&arguments)?.success()?.stdout)?)
    };
    let short = text(&[])?;
    let place = |name: &str, mark: &str| -> Result<String> {
        Ok(format!("{name} ({}:{})", script.path.display(), script.line(mark)?))
    };
    for part in [
        "did not run while it was read",
        "\n  3 coroutines suspended: 0x",
        &format!("\n    coroutine.yield\n    {}\n    pcall\n", place("inner", "inner")?),
        "\n    ... 4942 more frames, which --all shows ...\n",
        &format!("\n  1 coroutine not started: 0x{}", ""),
        &format!("\n    outer ({}:9)\n", script.path.display()),
        "\n  1 coroutine ended by an error: 0x",
        "\n  main thread waiting for the coroutine that it has resumed: 0x",
    ] {
        ensure!(short.contains(part), "{part:?} is not in\n{short}");
    }
    ensure!(!short.contains("known"), "no values are shown unless they are asked for:\n{short}");
    let whole = text(&["--all", "--locals"])?;
    let deep = whole.matches(&place("descend", "descend")?).count();
    ensure!(deep == 5000 && whole.contains("\n        reason = \"known\"\n"), "--all leaves something out:\n{whole}");
    Ok(())
}

/// A program that calculates: memory says what it can, and a sample says the rest.
fn running(mode: Mode) -> Result<()> {
    let script = Script::new("coroutines.lua")?;
    let target = script.start(Runtime::CommandLine, mode, &["spin"])?;
    target.wait_for_work(20)?;
    let process = dumped(target.pid(), &[])?;
    let all = coroutines(&process)?;
    check_suspended(&script, all)?;
    check(&script, all, "normal", &[&["coroutine.resume", "@resume"]])?;
    let running = all.iter().find(|of| of["status"] == "running").context("one runs")?;
    let inexact = if mode == Mode::Jit { "trace" } else { "stale" };
    let shown = frames(running);
    let honest = if running["read"] == "changed" {
        shown.is_empty()
    } else {
        running["leaf"] == inexact && shown.first().is_some_and(|leaf| leaf == "[unknown Lua frames]")
    };
    ensure!(honest, "where it is was guessed: {running}");
    if mode == Mode::Jit {
        let below = ["spin".to_owned(), format!(":{}", script.line("spins")?)];
        ensure!(shown.get(1..) == Some(&below[..]), "the frames below a trace are known: {running}");
    }
    let sampled = frames(&process["vms"][0]["sampled"]);
    let expected = [
        format!("spin:{}", script.line("spin")?),
        format!(":{}", script.line("spins")?),
        "coroutine.resume".to_owned(),
        format!(":{}", script.line("resume")?),
    ];
    ensure!(sampled.starts_with(&expected), "the sample is {sampled:?}, expected was {expected:?}");
    Ok(())
}

/// A program that makes, resumes and drops coroutines all the time: what is shown of it is never a mixture.
fn changing() -> Result<()> {
    const TIMES: usize = 100;
    let script = Script::new("changing.lua")?;
    let mut calls: HashMap<u64, Vec<&str>> = HashMap::new();
    for (line, text) in (1..).zip(script.text.lines()) {
        let called = text.split_once("--> ").map_or(Vec::new(), |(_, called)| called.split(' ').collect());
        calls.insert(line, called);
    }
    let target = script.start(Runtime::CommandLine, Mode::Jit, &[])?;
    let (mut shown, mut changed) = (0, 0);
    for _ in 0..TIMES {
        let process = dumped(target.pid(), &[])?;
        for coroutine in coroutines(&process)? {
            if coroutine["read"] == "changed" {
                changed += 1;
                ensure!(frames(coroutine).is_empty(), "what is known to be a mixture is shown: {coroutine}");
                continue;
            }
            shown += 1;
            let stack = coroutine["frames"].as_array().context("frames")?;
            for pair in stack.windows(2) {
                let [callee, caller] = pair else { continue };
                // Nothing is said of what the process's own C code calls, and of what is marked as unknown.
                if caller["kind"] != "lua" || callee["kind"] == "unknown" {
                    continue;
                }
                let name = callee["name"].as_str().context("every function has a name")?;
                let line = caller["line"].as_u64().context("a caller is in a line")?;
                let legal = calls.get(&line).is_some_and(|called| called.contains(&name));
                ensure!(legal, "line {line} does not call {name}: {:?}", frames(coroutine));
            }
            let suspended = coroutine["status"] == "suspended";
            let whole =
                |stack: &[String]| stack.len() == 4 && stack[0] == "coroutine.yield" && stack[3].starts_with("body:");
            ensure!(!suspended || whole(&frames(coroutine)), "it waits somewhere else: {:?}", frames(coroutine));
        }
    }
    ensure!(shown > changed, "{changed} were not shown because they changed, and only {shown} were");
    Ok(())
}

/// Light threads that wait for a timer and for a socket.
fn nginx() -> Result<()> {
    const EACH: usize = 30;
    let configuration = root().join("tests/nginx/idle");
    let folder = tempfile::tempdir()?;
    let nginx = crate::nginx::start(folder.path(), "idle", 1, &[])?;
    let mut waiting = Vec::new();
    for path in ["/asleep", "/reading"] {
        for _ in 0..EACH {
            let mut connection = TcpStream::connect(nginx.address())?;
            write!(connection, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
            waiting.push(connection);
        }
    }
    let conf = fs::read_to_string(configuration.join("nginx.conf"))?;
    // Of a block, nginx names the line that it begins in, and Lua counts from there.
    let place = |call: &str, block: &str| -> Result<String> {
        let at = |text: &str| conf.lines().position(|line| line.contains(text)).map(|index| index + 1);
        let (call, block) = (at(call).context("the call")?, at(block).context("the block")?);
        let begin =
            conf.lines().take(call).enumerate().filter(|(_, line)| line.contains("content_by_lua_block")).last();
        let begin = begin.map(|(index, _)| index + 1).context("it is in a block")?;
        ensure!(block < call, "the block begins before it");
        Ok(format!("content_by_lua(nginx.conf:{begin}):{}", call - begin + 1))
    };
    let asleep = format!("    ngx.sleep\n    main chunk ({})\n", place("ngx.sleep", "/asleep")?);
    let reading = format!("main chunk ({})\n", place("socket:receive", "/reading")?);
    let mut text = String::new();
    // By the pid of the master, which stands for its worker.
    let pid = nginx.master().to_string();
    let all = |text: &str| {
        let waits = format!("  {EACH} coroutines suspended: 0x");
        text.matches(&waits).count() == 2 && text.contains(&asleep) && text.contains(&reading)
    };
    wait_until(LIMIT, || {
        text =
            run(&["dump", "-p", &pid]).map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default();
        all(&text)
    });
    ensure!(all(&text), "{asleep}\nor\n{reading}\nis missing, or not all wait:\n{text}");
    Ok(())
}

fn failures() -> Result<()> {
    let sleeping = Running::spawn(Command::new("sleep").arg("1000").stdin(Stdio::null()))?;
    let pid = sleeping.id().to_string();
    let out = run(&["dump", "-p", &pid])?.failure(1, &[])?;
    let text = String::from_utf8(out.stdout)?;
    ensure!(text.contains("no LuaJIT VM was found"), "{text}");
    drop(sleeping);
    let out = run(&["dump", "-p", &pid])?.failure(1, &[])?;
    let text = String::from_utf8(out.stdout)?;
    ensure!(text.contains(&format!("No process with pid {pid}")), "{text}");
    ensure!(!Path::new(&format!("/proc/{pid}")).exists(), "it has ended");
    Ok(())
}
