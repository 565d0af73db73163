//! The programs that are profiled: LuaJIT's command line as Debian ships it, and builds of LuaJIT in a program of ours.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::builds::Build;
use crate::legal::Root;
use crate::luaflame::LIMIT;
use crate::paths::root;
use crate::process::{Running, wait_until};

/// A program with LuaJIT in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The command line, upstream's LuaJIT of 2022, stripped.
    CommandLine,
    /// The program `tests/hosts/host.c` with this LuaJIT.
    Host(Build),
}

/// How a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without the JIT compiler.
    Interpreter,
    /// With the JIT compiler.
    Jit,
    /// With the JIT compiler, and all traces thrown away again and again.
    Flush,
    /// Without the JIT compiler, and with a hook that is called after every thousand instructions.
    Hook,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [Mode::Interpreter, Mode::Jit, Mode::Flush, Mode::Hook];

    fn name(self) -> &'static str {
        match self {
            Mode::Interpreter => "interpreter",
            Mode::Jit => "jit",
            Mode::Flush => "flush",
            Mode::Hook => "hook",
        }
    }

    /// Whether the JIT compiler is on.
    pub fn compiles(self) -> bool {
        matches!(self, Mode::Jit | Mode::Flush)
    }

    /// A script to run before the program's own.
    pub fn prelude(self) -> Option<PathBuf> {
        let name = match self {
            Mode::Interpreter | Mode::Jit => return None,
            Mode::Flush => "flush.lua",
            Mode::Hook => "hook.lua",
        };
        Some(root().join("tests/hosts").join(name))
    }

    /// The function of the prelude that may be called in any line.
    pub fn hook(self) -> Option<&'static str> {
        match self {
            Mode::Interpreter | Mode::Jit => None,
            Mode::Flush => Some("flush_traces"),
            Mode::Hook => Some("count_hook"),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Mode> {
        let mode = Mode::ALL.into_iter().find(|mode| mode.name() == text);
        mode.with_context(|| format!("`{text}` is no mode; there are {}", Mode::ALL.map(Mode::name).join(", ")))
    }
}

impl Runtime {
    /// Whether its functions have no names.
    pub fn is_stripped(self) -> bool {
        match self {
            Runtime::CommandLine => true,
            Runtime::Host(build) => build.stripped,
        }
    }

    /// The program, built if it must be.
    ///
    /// # Errors
    /// When it is not there and cannot be built.
    pub fn path(self) -> Result<PathBuf> {
        match self {
            Runtime::CommandLine => {
                let path = root().join("target/luajit/usr/bin/luajit");
                ensure!(path.is_file(), "there is no {}: run `cargo xtask setup`", path.display());
                Ok(path)
            }
            Runtime::Host(build) => build.program(),
        }
    }

    /// The program's first frame: where its file says that it begins.
    ///
    /// # Errors
    /// When it is not there and cannot be built.
    pub fn root(self) -> Result<Root> {
        entry_point(&self.path()?)
    }

    /// The command that runs a script in a mode, without the script.
    ///
    /// # Errors
    /// When it is not there and cannot be built.
    pub fn command(self, mode: Mode) -> Result<Command> {
        let mut command = Command::new(self.path()?);
        match self {
            Runtime::CommandLine => {
                command.arg(if mode.compiles() { "-jon" } else { "-joff" });
                if let Some(prelude) = mode.prelude() {
                    command.arg("-e").arg(format!("dofile [==[{}]==]", prelude.display()));
                }
            }
            Runtime::Host(_) => {
                if !mode.compiles() {
                    command.arg("--joff");
                }
                if let Some(prelude) = mode.prelude() {
                    command.arg("--prelude").arg(prelude);
                }
            }
        }
        Ok(command)
    }

    /// Whether a Lua expression is true in it.
    ///
    /// # Errors
    /// When it cannot be built or run.
    pub fn has(self, expression: &str) -> Result<bool> {
        let script = tempfile::Builder::new().suffix(".lua").tempfile()?;
        fs::write(script.path(), format!("os.exit(({expression}) and 0 or 3)\n"))?;
        let out = self.command(Mode::Interpreter)?.arg(script.path()).stdin(Stdio::null()).output()?;
        match out.status.code() {
            Some(0) => Ok(true),
            Some(3) => Ok(false),
            _ => bail!("`{expression}` cannot be told of {self}: {}", String::from_utf8_lossy(&out.stderr).trim()),
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Runtime::CommandLine => f.write_str("luajit"),
            Runtime::Host(build) => build.fmt(f),
        }
    }
}

impl FromStr for Runtime {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Runtime> {
        Ok(if text == "luajit" { Runtime::CommandLine } else { Runtime::Host(text.parse()?) })
    }
}

/// The address that an ELF file begins at.
///
/// # Errors
/// When it cannot be read.
pub fn entry_point(program: &Path) -> Result<Root> {
    let bytes = fs::read(program).with_context(|| format!("{} could not be read", program.display()))?;
    let entry = bytes.get(24..32).and_then(|bytes| bytes.try_into().ok()).context("an ELF file has a header")?;
    Ok(Root::Process(u64::from_le_bytes(entry)))
}

/// A program that has said that it is ready, and goes on.
#[derive(Debug)]
pub struct Target {
    process: Running,
    /// Kept open, or its writing would end it.
    _stdout: BufReader<ChildStdout>,
}

impl Target {
    /// Starts a program and waits for its line `ready`.
    ///
    /// # Errors
    /// When it cannot be started or writes something else.
    pub fn start(command: &mut Command) -> Result<Target> {
        let mut process = Running::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut stdout = BufReader::new(process.child().stdout.take().context("its output is a pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(line == "ready\n", "{command:?} did not get ready, it wrote {line:?}");
        Ok(Target { process, _stdout: stdout })
    }

    /// Starts one of the samples.
    ///
    /// # Errors
    /// As [`Target::start`].
    pub fn sample(runtime: Runtime, mode: Mode, sample: &str, arguments: &[&str]) -> Result<Target> {
        Target::start(runtime.command(mode)?.arg(script(sample)).args(arguments))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has used that much more CPU time from now on, in hundredths of a second, or has ended.
    ///
    /// # Errors
    /// When it has not within a minute.
    pub fn wait_for_work(&self, hundredths: u64) -> Result<()> {
        self.process.wait_for_work(hundredths)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.process.ended(), Ok(None))
    }

    /// Presses Ctrl-C, and waits until it has ended: LuaJIT's command line closes its VM first.
    ///
    /// # Errors
    /// When it has not within a minute.
    pub fn interrupt(&mut self) -> Result<()> {
        self.process.signal(Signal::INT)?;
        ensure!(wait_until(LIMIT, || self.has_ended()), "the target does not end");
        Ok(())
    }
}

/// The path of a sample.
pub fn script(sample: &str) -> PathBuf {
    root().join("samples/lua").join(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_runtimes_are_told_by_their_names() {
        for mode in Mode::ALL {
            assert_eq!(mode.to_string().parse::<Mode>().unwrap(), mode);
        }
        assert!("fast".parse::<Mode>().is_err());
        assert_eq!("luajit".parse::<Runtime>().unwrap(), Runtime::CommandLine);
        assert_eq!("210.4.8".parse::<Runtime>().unwrap(), Runtime::Host(Build::plain("210.4.8")));
    }
}
