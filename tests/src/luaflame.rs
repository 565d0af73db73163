//! Running the program under test.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths::target_dir;
use crate::process::{Running, holds_perf_event, wait_until};
use crate::stacks::{Stack, parse};

/// More samples a second than the default, so that a second is enough; prime, so that it does not beat with a target's loop.
pub const FREQUENCY: &str = "997";
/// Longer than any test samples, shorter than anybody waits.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Why luaflame cannot be tried here, if it cannot.
pub fn unusable() -> Option<String> {
    (!rustix::process::geteuid().is_root()).then(|| "loading an eBPF program needs root".to_owned())
}

/// The program under test.
pub fn program() -> PathBuf {
    std::env::var_os("LUAFLAME").map_or_else(|| target_dir().join("release/luaflame"), PathBuf::from)
}

/// luaflame at work.
#[derive(Debug)]
pub struct Luaflame {
    process: Running,
    stdout: fs::File,
    stderr: fs::File,
}

/// How luaflame ended, and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Luaflame {
    /// Starts it.
    ///
    /// # Errors
    /// When it is not there or cannot be started.
    pub fn start<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Luaflame> {
        Luaflame::spawn(Command::new(program()), arguments)
    }

    /// Starts it with a limit on its memory, in bytes; it does not survive asking for more.
    ///
    /// # Errors
    /// As [`Luaflame::start`].
    pub fn start_limited<S: AsRef<OsStr>>(memory: u64, arguments: &[S]) -> Result<Luaflame> {
        let mut command = Command::new("prlimit");
        command.arg(format!("--data={memory}")).arg(program());
        Luaflame::spawn(command, arguments)
    }

    fn spawn<S: AsRef<OsStr>>(mut command: Command, arguments: &[S]) -> Result<Luaflame> {
        let program = program();
        ensure!(program.is_file(), "there is no {}: run `cargo build --release -p luaflame`", program.display());
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let process = Running::spawn(
            command.args(arguments).stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?),
        )?;
        Ok(Luaflame { process, stdout, stderr })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Waits until it takes samples.
    ///
    /// # Errors
    /// When it ends before it does.
    pub fn wait_until_attached(&mut self) -> Result<()> {
        let pid = self.process.id();
        wait_until(LIMIT, || holds_perf_event(pid) || !matches!(self.process.ended(), Ok(None)));
        ensure!(
            holds_perf_event(pid),
            "it takes no samples; it wrote:\n{}",
            String::from_utf8(read(&mut self.stderr)?)?
        );
        Ok(())
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn finish(mut self) -> Result<Finished> {
        let mut status = None;
        wait_until(LIMIT, || {
            status = self.process.ended().ok().flatten();
            status.is_some()
        });
        let stderr = String::from_utf8(read(&mut self.stderr)?).context("standard error is not UTF-8")?;
        let status = status.with_context(|| format!("luaflame did not end in a minute; it wrote:\n{stderr}"))?;
        Ok(Finished { status, stdout: read(&mut self.stdout)?, stderr })
    }
}

fn read(file: &mut fs::File) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Finished {
    /// Fails unless it ended well.
    ///
    /// # Errors
    /// When it did not.
    pub fn success(self) -> Result<Finished> {
        ensure!(self.status.success(), "luaflame failed: {}\n{}", self.status, self.stderr);
        Ok(self)
    }

    /// Fails unless it ended with this exit code and told these words.
    ///
    /// # Errors
    /// When it did not.
    pub fn failure(self, code: i32, words: &[&str]) -> Result<Finished> {
        ensure!(self.status.code() == Some(code), "exit code {code} was expected: {}\n{}", self.status, self.stderr);
        for word in words {
            ensure!(self.stderr.contains(word), "{word:?} is missing in what it says:\n{}", self.stderr);
        }
        Ok(self)
    }

    /// The samples that were lost, as it says.
    ///
    /// # Errors
    /// When it does not say.
    pub fn lost(&self) -> Result<u64> {
        let words: Vec<&str> = self.stderr.split_whitespace().collect();
        let count = words.windows(2).find(|pair| pair[1] == "lost,").and_then(|pair| pair[0].parse().ok());
        count.with_context(|| format!("it does not say how many samples it lost:\n{}", self.stderr))
    }

    /// The folded stacks on standard output.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn stacks(&self) -> Result<Vec<Stack>> {
        parse(std::str::from_utf8(&self.stdout).context("the folded stacks are not UTF-8")?)
    }
}

/// Runs it with these arguments to its end.
///
/// # Errors
/// When it cannot be started or does not end within a minute.
pub fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Finished> {
    Luaflame::start(arguments)?.finish()
}

/// Has each Lua function shown with the line that it was in, which [`crate::legal`] wants.
pub const LINES: [&str; 2] = ["--lines", "line"];

/// The stacks of a process in `seconds`, with further arguments.
///
/// # Errors
/// When it fails, or there are not even 200 samples.
pub fn stacks(pid: u32, seconds: u32, more: &[&str]) -> Result<Vec<Stack>> {
    let (pid, seconds) = (pid.to_string(), seconds.to_string());
    let mut arguments = vec!["-p", &pid, "-t", &seconds, "-F", FREQUENCY, "-f", "folded", "-o", "-"];
    arguments.extend(more);
    let stacks = run(&arguments)?.success()?.stacks()?;
    let samples: u64 = stacks.iter().map(|stack| stack.count).sum();
    ensure!(samples >= 200, "only {samples} samples of a busy process in {seconds} s");
    Ok(stacks)
}
