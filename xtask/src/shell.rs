//! Running other programs, so that whatever a task started has ended when the task has, however it ends.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use luaflame_tests::process::{Running, wait_until};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Makes Ctrl-C and a request to end set a flag instead of ending this process at once, so that everything that was
/// started is stopped on the way out.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn watch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("signal handlers could not be installed")?;
    }
    Ok(())
}

/// Whether Ctrl-C was pressed or this process was asked to end.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the checkout")
}

/// Where cargo puts what it builds: `CARGO_TARGET_DIR`, or `target/` of the checkout.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// The cargo that runs this task.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Waits for a process to end; ends it when this task is interrupted first.
///
/// # Errors
/// When this task is interrupted.
pub fn wait(process: &mut Running) -> Result<ExitStatus> {
    let mut ended = None;
    loop {
        wait_until(Duration::from_secs(60), || {
            ended = process.ended().transpose();
            ended.is_some() || interrupted()
        });
        if interrupted() {
            process.end();
            bail!("interrupted");
        }
        if let Some(status) = ended {
            return Ok(status?);
        }
    }
}

/// Builds luaflame as it is shipped, and returns the path of the program.
///
/// # Errors
/// When it does not build.
pub fn luaflame() -> Result<PathBuf> {
    run(cargo().args(["build", "--release", "--package", "luaflame"]))?;
    Ok(target_dir().join("release/luaflame"))
}

/// Prints `command` and runs it to its end.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {}", words(command));
    let status = wait(&mut Running::spawn(command)?)?;
    ensure!(status.success(), "{} failed: {status}", words(command));
    Ok(())
}

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started, fails (the error holds what it wrote to standard error), or writes something that is not
/// UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("{} could not be started", words(command)))?;
    ensure!(
        out.status.success(),
        "{} failed: {}\n{}",
        words(command),
        out.status,
        String::from_utf8_lossy(&out.stderr).trim()
    );
    String::from_utf8(out.stdout).with_context(|| format!("{} wrote something that is not UTF-8", words(command)))
}

/// Whether a program of this name is in `PATH`.
pub fn have(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

/// A command as a person would type it, with the variables that it sets.
fn words(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(line, "{}={:?} ", name.display(), value);
        }
    }
    line.push_str(&command.get_program().to_string_lossy());
    for argument in command.get_args() {
        let argument = argument.to_string_lossy();
        if argument.contains(char::is_whitespace) {
            let _ = write!(line, " {argument:?}");
        } else {
            let _ = write!(line, " {argument}");
        }
    }
    line
}
