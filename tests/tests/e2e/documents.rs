//! The commands that the documents show are run, so that they stay true.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use luaflame_tests::luaflame::program;
use luaflame_tests::paths::root;
use luaflame_tests::programs::{Mode, Runtime, Target, script};
use luaflame_tests::terminal::Terminal;

use crate::{Test, test};

/// Longest that a command may take, in seconds.
const LIMIT: &str = "60";

/// What commands begin with that are shown and not run here: they build, install, or need what a test does not have.
const NOT_RUN: [&str; 7] =
    ["cargo xtask ", "cargo build ", "cargo install ", "cargo run ", "apt install ", "install ", "setcap "];

/// What the SystemTap tools write: a function that was called, its callers, and how often that was seen.
const STACKS: &str = "builtin#84\n@/srv/app.lua:12\n=content_by_lua(nginx.conf:12):1\n\t15\n";

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    ["README.md", "docs/capture.md", "docs/installing.md"]
        .into_iter()
        .map(|document| test(format!("documents::{document}"), move || commands_work(document)))
        .collect()
}

/// Runs every command of luaflame in a document, one after the other in one folder, as the reader would; any other command must be
/// one that is known.
fn commands_work(document: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let programs = folder.path().join("bin");
    fs::create_dir(&programs)?;
    symlink(program().canonicalize()?, programs.join("luaflame"))?;
    symlink(Runtime::CommandLine.path()?, programs.join("luajit"))?;
    // The reader's program.
    let briefly = fs::read_to_string(script("briefly.lua"))?.replace("tonumber((...))", "1");
    fs::write(folder.path().join("app.lua"), briefly)?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
    let run = |command: &str| -> Result<()> {
        let mut shell = Command::new("timeout");
        shell.args([LIMIT, "sh", "-c", command]).current_dir(folder.path()).env("PATH", &path).stdin(Stdio::null());
        let output = shell.output()?;
        ensure!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    // The files that the reader has from before.
    fs::write(folder.path().join("old.bt"), STACKS)?;
    run(&format!("luaflame -p {} -t 1 -o before.luaflame -o after.luaflame", target.pid()))?;
    let mut count = 0;
    for line in commands(&fs::read_to_string(root().join(document))?) {
        let Some(command) = runnable(&line, target.pid())? else { continue };
        let done = match command.strip_prefix("luaflame top ") {
            Some(arguments) => watch(arguments),
            None => run(&command),
        };
        done.with_context(|| format!("`{line}` of {document}, run as `{command}`"))?;
        count += 1;
    }
    ensure!(count > 0, "{document} shows no command of luaflame");
    Ok(())
}

/// Looks at `luaflame top` until it shows functions, and quits.
fn watch(arguments: &str) -> Result<()> {
    let arguments: Vec<&str> = ["top"].into_iter().chain(arguments.split_whitespace()).collect();
    let mut terminal = Terminal::start(24, 80, &arguments, &[])?;
    terminal.wait_for("a function", |text| text.contains("fib"))?;
    terminal.types("q")?;
    terminal.finish()?.code(0)?;
    Ok(())
}

/// The lines of the shell's blocks, those that end in a backslash joined, without comments.
fn commands(document: &str) -> Vec<String> {
    let blocks = document.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines = blocks.flat_map(|block| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
    let bare = lines.map(|line| line.split(" # ").next().unwrap_or_default().trim().to_owned());
    bare.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// The command as it is run here, on the process with this id; none when it is one that is not.
fn runnable(line: &str, pid: u32) -> Result<Option<String>> {
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    if NOT_RUN.iter().any(|command| line.starts_with(command)) {
        return Ok(None);
    }
    let command = line.strip_prefix("target/release/").unwrap_or(line);
    if !command.starts_with("luaflame ") {
        bail!("`{line}` is neither a command of luaflame nor one that this test knows");
    }
    let words = command.split(' ').map(|word| match word {
        "PID" => pid.to_string(),
        "10" => "1".to_owned(),
        // What belongs to the system stays as it is.
        word if word.starts_with("/usr/") => word.trim_start_matches('/').to_owned(),
        word => word.to_owned(),
    });
    Ok(Some(words.collect::<Vec<_>>().join(" ")))
}
