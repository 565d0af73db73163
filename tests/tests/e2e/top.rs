//! `luaflame top`, as a user sees it on a terminal.

use anyhow::{Context, Result, ensure};
use luaflame_tests::luaflame::{FREQUENCY, run};
use luaflame_tests::programs::{Mode, Runtime, Target};
use luaflame_tests::shares::{KNOWN, standard_error};
use luaflame_tests::terminal::Terminal;
use rustix::process::Signal;

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("top::shares", shares),
        test("top::choices", choices),
        test("top::pause", pause),
        test("top::processes", processes),
        test("top::target_ends", target_ends),
        test("top::signal", signal),
        test("top::any_size", any_size),
        test("top::hostile_names", hostile_names),
        test("top::no_terminal", no_terminal),
        test("top::no_luajit", no_luajit),
    ]
}

/// luaflame top on a terminal of the usual size.
fn top(target: &Target, more: &[&str]) -> Result<Terminal> {
    let pid = target.pid().to_string();
    let mut arguments = vec!["top", "-p", &pid, "-F", FREQUENCY, "--delay", "200ms"];
    arguments.extend(more);
    Terminal::start(24, 80, &arguments, &[])
}

fn sample(mode: Mode, name: &str) -> Result<Target> {
    Target::sample(Runtime::CommandLine, mode, name, &[])
}

/// Quits, with everything as it was before.
fn quit(terminal: Terminal) -> Result<()> {
    terminal.types("q")?;
    let left = terminal.finish()?.code(0)?;
    ensure!(left.text.trim().is_empty(), "it has left something on the screen:\n{}", left.text);
    Ok(())
}

/// The samples since the start, as the first line says.
fn samples(text: &str) -> u64 {
    let words: Vec<&str> = text.lines().next().unwrap_or_default().split_whitespace().collect();
    words.windows(2).find(|pair| pair[1] == "samples,").and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// The lines of the functions, in their order.
fn functions(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| !line.contains("FUNCTION")).skip(1);
    lines.take_while(|line| line.trim_start().starts_with(|char: char| char.is_ascii_digit())).collect()
}

/// The line of a function.
fn function<'a>(text: &'a str, name: &str) -> Result<Vec<&'a str>> {
    let mut lines = functions(text).into_iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|words| words.get(5) == Some(&name)).with_context(|| format!("{name} is not to be seen:\n{text}"))
}

fn names(text: &str) -> Vec<&str> {
    functions(text).iter().filter_map(|line| line.split_whitespace().nth(5)).collect()
}

fn shares() -> Result<()> {
    let target = sample(Mode::Interpreter, "shares.lua")?;
    let mut terminal = top(&target, &["--window", "60s"])?;
    let text = terminal.wait_for("many samples", |text| samples(text) >= 3_000)?;
    for (name, known) in KNOWN {
        let words = function(&text, name)?;
        let share = words[0].parse::<f64>()? / 100.0;
        let error = 4.0 * standard_error(known, samples(&text)) + 0.01;
        ensure!((share - known).abs() < error, "{name} has {share}, known is {known}:\n{text}");
        ensure!(words[4] == "interpreted", "{name} is interpreted:\n{text}");
        ensure!(words[6].contains("shares.lua:"), "{name} is elsewhere:\n{text}");
    }
    ensure!(function(&text, "main")?[1].parse::<f64>()? > 95.0, "everything is called by the main chunk:\n{text}");
    let pid = target.pid().to_string();
    let process = text.lines().find(|line| line.split_whitespace().nth(1) == Some(&pid));
    let process: Vec<&str> = process.with_context(|| format!("no process:\n{text}"))?.split_whitespace().collect();
    ensure!(process[2] == "luajit" && process[4].parse::<f64>()? > 95.0, "it runs in the interpreter:\n{text}");
    ensure!(terminal.is_coloured(), "there are no colours");
    quit(terminal)
}

fn choices() -> Result<()> {
    let target = sample(Mode::Jit, "builtins.lua")?;
    let mut terminal = top(&target, &[])?;
    terminal.wait_for("native code", |text| text.contains(" native "))?;
    terminal.types("l")?;
    let text = terminal.wait_for("Lua only", |text| !text.contains(" native ") && functions(text).len() > 2)?;
    ensure!(!text.contains(" kernel "), "the kernel is in it:\n{text}");
    terminal.types("n")?;
    let by_name = |text: &str| {
        let names: Vec<String> = names(text).iter().map(|name| name.to_lowercase()).collect();
        text.contains("*LUA FUNCTION") && names.len() > 2 && names.is_sorted()
    };
    terminal.wait_for("an order by name", by_name)?;
    terminal.types("/table.S")?;
    let found = |text: &str| names(text).iter().all(|name| *name == "table.sort") && !functions(text).is_empty();
    terminal.wait_for("what is filtered", found)?;
    terminal.types("[")?;
    terminal.wait_for("that this is no regular expression", |text| text.contains("no regular expression"))?;
    terminal.types("\x7f\r")?;
    terminal.wait_for("what is filtered", |text| text.contains("filter /table.S/") && found(text))?;
    terminal.types("\x1b")?;
    terminal.wait_for("everything", |text| functions(text).len() > 2)?;
    terminal.types("?")?;
    terminal.wait_for("the help", |text| text.contains("choose a process"))?;
    terminal.types(" w")?;
    terminal.wait_for("all since the start", |text| text.contains("since start"))?;
    terminal.types("\x03")?;
    terminal.finish()?.code(0)?;
    Ok(())
}

fn pause() -> Result<()> {
    let target = sample(Mode::Jit, "calls.lua")?;
    let mut terminal = top(&target, &[])?;
    terminal.wait_for("samples", |text| samples(text) >= 100)?;
    terminal.types(" ")?;
    let frozen = terminal.wait_for("that it is paused", |text| text.contains("PAUSED"))?;
    target.wait_for_work(150)?;
    ensure!(terminal.text() == frozen, "it moves:\n{frozen}\n{}", terminal.text());
    terminal.types("t")?;
    let sorted = terminal.wait_for("another order", |text| text.contains("*TOT%"))?;
    ensure!(samples(&sorted) == samples(&frozen), "it has moved:\n{frozen}\n{sorted}");
    terminal.types("p")?;
    // Sampling has gone on meanwhile.
    let before = samples(&frozen);
    terminal.wait_for("more samples", |text| !text.contains("PAUSED") && samples(text) > before + 1_000)?;
    terminal.types("r")?;
    terminal.wait_for("a new beginning", |text| samples(text) < before)?;
    quit(terminal)
}

fn processes() -> Result<()> {
    let (first, second) = (sample(Mode::Jit, "calls.lua")?, sample(Mode::Jit, "shares.lua")?);
    let pid = second.pid().to_string();
    let mut terminal = top(&first, &["-p", &pid])?;
    terminal.wait_for("both", |text| names(text).contains(&"fib") && names(text).contains(&"half"))?;
    let number = if first.pid() < second.pid() { "2" } else { "1" };
    terminal.types(number)?;
    let text =
        terminal.wait_for("the second alone", |text| names(text).contains(&"half") && !names(text).contains(&"fib"))?;
    ensure!(text.contains(&format!("of process {pid}")), "it does not say so:\n{text}");
    terminal.types("0")?;
    terminal.wait_for("both", |text| names(text).contains(&"fib") && names(text).contains(&"half"))?;
    quit(terminal)
}

fn target_ends() -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "briefly.lua", &["2"])?;
    let mut terminal = top(&target, &[])?;
    let text = terminal.wait_for("that it has ended", |text| text.contains("ENDED"))?;
    function(&text, "work")?;
    ensure!(text.contains("(ended)"), "its line does not say so:\n{text}");
    quit(terminal)
}

fn signal() -> Result<()> {
    let target = sample(Mode::Jit, "calls.lua")?;
    let mut terminal = top(&target, &[])?;
    terminal.wait_for("samples", |text| samples(text) >= 100)?;
    terminal.process().signal(Signal::TERM)?;
    terminal.finish()?.code(0)?;
    Ok(())
}

fn any_size() -> Result<()> {
    let target = sample(Mode::Jit, "calls.lua")?;
    let pid = target.pid().to_string();
    let mut terminal = Terminal::start(5, 20, &["top", "-p", &pid, "-F", FREQUENCY], &[("NO_COLOR", "1")])?;
    terminal.wait_for("functions", |text| text.contains("fib"))?;
    for (rows, columns) in [(1, 1), (2, 3), (50, 10), (3, 200), (40, 120)] {
        terminal.resize(rows, columns)?;
        terminal.types("?")?;
        terminal.types(" ")?;
    }
    terminal.wait_for("places", |text| text.contains("/calls.lua:") && text.contains("compiling"))?;
    ensure!(!terminal.is_coloured(), "there are colours");
    quit(terminal)
}

fn hostile_names() -> Result<()> {
    let target = sample(Mode::Interpreter, "hostile.lua")?;
    let mut terminal = top(&target, &[])?;
    let text = terminal.wait_for("a place with a line break", |text| text.contains("two 7\\n"))?;
    ensure!(text.lines().count() <= 24 && text.starts_with("luaflame top"), "the picture is torn:\n{text}");
    quit(terminal)
}

fn no_terminal() -> Result<()> {
    let target = sample(Mode::Jit, "calls.lua")?;
    run(&["top", "-p", &target.pid().to_string()])?.failure(1, &["terminal", "-f text -o -"])?;
    Ok(())
}

fn no_luajit() -> Result<()> {
    let pid = std::process::id().to_string();
    let terminal = Terminal::start(24, 80, &["top", "-p", &pid], &[])?;
    let left = terminal.finish()?.code(1)?;
    ensure!(left.text.contains("No LuaJIT was found"), "it does not say why:\n{}", left.text);
    Ok(())
}
