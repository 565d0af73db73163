//! luaflame with no more privileges than it asks for.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use luaflame_tests::luaflame::{FREQUENCY, program};
use luaflame_tests::programs::{Mode, Runtime, Target};
use luaflame_tests::stacks::{Frame, Stack, parse};
use tempfile::TempDir;

use crate::{Test, test};

/// The user and group `nobody`.
const NOBODY: &str = "65534";

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("privileges::program_with_capabilities", program_with_capabilities),
        test("privileges::container", container),
    ]
}

/// A copy of luaflame that any user may run, and a folder that any user may write to.
fn copy() -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
    let copy = folder.path().join("luaflame");
    fs::copy(program(), &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    Ok((folder, copy))
}

/// Runs it through `setpriv` with these options, on a process that belongs to root.
fn run(privileges: &[&str], luaflame: &Path, target: &Target) -> Result<Output> {
    let pid = target.pid().to_string();
    let record = ["-p", &pid, "-t", "2", "-F", FREQUENCY, "-f", "folded", "-o", "-"];
    let mut command = Command::new("setpriv");
    command.args(privileges).arg(luaflame).args(record).stdin(Stdio::null());
    command.output().context("setpriv cannot be run")
}

/// That it shows all that root sees: names in Lua, of native functions, and of the kernel.
fn sees_everything(output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let stacks = parse(std::str::from_utf8(&output.stdout)?)?;
    let any = |wanted: &dyn Fn(&Frame) -> bool| stacks.iter().flat_map(|stack: &Stack| &stack.frames).any(wanted);
    ensure!(any(&|frame| frame.lua().is_some_and(|function| function.name == "fib")), "no Lua function:\n{said}");
    ensure!(any(&|frame| matches!(frame, Frame::Other(name) if name == "lua_pcall")), "no native function:\n{said}");
    let kernel = stacks.iter().flat_map(|stack| &stack.frames).find_map(|frame| match frame {
        Frame::Kernel(name) => Some(name.as_str()),
        _ => None,
    });
    ensure!(kernel.is_none_or(|name| !name.contains("0x")), "the kernel's functions have no names: {kernel:?}");
    Ok(())
}

/// What the refusal tells a user without privileges to do is done, and then the user may profile.
fn program_with_capabilities() -> Result<()> {
    let (_folder, luaflame) = copy()?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let nobody = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let refused = run(&nobody, &luaflame, &target)?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(refused.status.code() == Some(1) && said.contains("CAP_BPF"), "{}: {said}", refused.status);
    let advice = said.split('`').find_map(|part| part.strip_prefix("sudo setcap ")).context("it names no setcap")?;
    let (capabilities, file) = advice.split_once(' ').context("setcap has two arguments")?;
    ensure!(Path::new(file) == luaflame, "it is about another program: {advice}");
    let documents = fs::read_to_string(luaflame_tests::paths::root().join("docs/installing.md"))?;
    ensure!(documents.contains(&format!("setcap {capabilities} ")), "docs/installing.md gives other capabilities");
    ensure!(Command::new("setcap").arg(capabilities).arg(file).status()?.success(), "setcap failed");
    sees_everything(&run(&nobody, &luaflame, &target)?)
}

/// As root in a container has no capabilities but those of the recipe's head.
fn container() -> Result<()> {
    let recipe = fs::read_to_string(luaflame_tests::paths::root().join("samples/container/Containerfile"))?;
    let added = recipe.split_whitespace().filter_map(|word| word.strip_prefix("--cap-add="));
    let capabilities: Vec<String> = added.map(|name| format!("+{}", name.to_lowercase())).collect();
    ensure!(!capabilities.is_empty(), "the recipe adds no capabilities");
    let bounding = format!("-all,{}", capabilities.join(","));
    let (_folder, luaflame) = copy()?;
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])?;
    let privileges = ["--bounding-set", &bounding, "--inh-caps", "-all", "--no-new-privs"];
    sees_everything(&run(&privileges, &luaflame, &target)?)
}
