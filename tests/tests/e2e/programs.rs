//! The programs that are profiled: LuaJIT's command line as Debian ships it, and hosts that have LuaJIT linked in.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use luaflame_tests::legal::Root;
use luaflame_tests::process::{Running, wait_until};

use crate::luaflame::{LIMIT, root, target_dir};

/// A program with LuaJIT in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// The command line, upstream's LuaJIT of 2022, stripped.
    CommandLine,
    /// A host of ours with OpenResty's LuaJIT linked statically.
    Luajit2 { stripped: bool },
    /// The same with one of LuaJIT's rolling releases.
    Rolling { stripped: bool },
}

impl Runtime {
    /// Its name in the names of tests.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::CommandLine => "luajit",
            Runtime::Luajit2 { stripped: false } => "host_luajit2",
            Runtime::Luajit2 { stripped: true } => "host_luajit2_stripped",
            Runtime::Rolling { stripped: false } => "host_rolling",
            Runtime::Rolling { stripped: true } => "host_rolling_stripped",
        }
    }

    /// Whether its functions have no names.
    pub fn is_stripped(self) -> bool {
        match self {
            Runtime::CommandLine => true,
            Runtime::Luajit2 { stripped } | Runtime::Rolling { stripped } => stripped,
        }
    }

    /// The program.
    pub fn path(self) -> Result<PathBuf> {
        let (package, stripped) = match self {
            Runtime::CommandLine => {
                let path = root().join("target/luajit/usr/bin/luajit");
                ensure!(path.is_file(), "there is no {}: run `cargo xtask setup`", path.display());
                return Ok(path);
            }
            Runtime::Luajit2 { stripped } => ("luajit2", stripped),
            Runtime::Rolling { stripped } => ("rolling", stripped),
        };
        let folder = hosts()?.join("release");
        Ok(folder.join(if stripped { format!("host-{package}.stripped") } else { format!("host-{package}") }))
    }

    /// The program's first frame: where its file says that it begins.
    pub fn root(self) -> Result<Root> {
        entry_point(&self.path()?)
    }
}

/// The address that an ELF file begins at.
pub fn entry_point(program: &Path) -> Result<Root> {
    let bytes = fs::read(program).with_context(|| format!("{} could not be read", program.display()))?;
    let entry = bytes.get(24..32).and_then(|bytes| bytes.try_into().ok()).context("an ELF file has a header")?;
    Ok(Root::Process(u64::from_le_bytes(entry)))
}

/// Builds the hosts, once, and returns the folder that cargo built them in.
fn hosts() -> Result<&'static Path> {
    static HOSTS: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let built = HOSTS.get_or_init(|| {
        let folder = target_dir().join("hosts");
        for package in ["luajit2", "rolling"] {
            build_host(package, &folder).map_err(|error| format!("{error:#}"))?;
        }
        Ok(folder)
    });
    built.as_deref().map_err(|error| anyhow::anyhow!("the hosts do not build: {error}"))
}

fn build_host(package: &str, folder: &Path) -> Result<()> {
    let manifest = root().join("tests/hosts").join(package).join("Cargo.toml");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo sets for this program is about another package.
    cargo.env_remove("CARGO_MANIFEST_DIR").env_remove("OUT_DIR");
    cargo.args(["build", "--quiet", "--release", "--locked", "--manifest-path"]).arg(manifest);
    let out = cargo.arg("--target-dir").arg(folder).output()?;
    ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let program = folder.join(format!("release/host-{package}"));
    let stripped = folder.join(format!("release/host-{package}.stripped"));
    let status = Command::new("strip").arg("--strip-all").arg("-o").arg(&stripped).arg(&program).status()?;
    ensure!(status.success(), "{} could not be stripped", program.display());
    Ok(())
}

/// A program that has said that it is ready, and goes on.
pub struct Target {
    process: Running,
    /// Kept open, or its writing would end it.
    _stdout: BufReader<ChildStdout>,
}

impl Target {
    /// Starts a program and waits for its line `ready`.
    pub fn start(command: &mut Command) -> Result<Target> {
        let mut process = Running::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut stdout = BufReader::new(process.child().stdout.take().context("its output is a pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(line == "ready\n", "{command:?} did not get ready, it wrote {line:?}");
        Ok(Target { process, _stdout: stdout })
    }

    /// Starts one of the samples.
    pub fn sample(runtime: Runtime, jit: bool, sample: &str, arguments: &[&str]) -> Result<Target> {
        let script = script(sample);
        Target::start(run(runtime, jit)?.arg(script).args(arguments))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it has used that much more CPU time from now on, in hundredths of a second, or has ended.
    pub fn wait_for_work(&self, hundredths: u64) -> Result<()> {
        let start = self.cpu_time().unwrap_or(0);
        let worked = || self.cpu_time().is_none_or(|now| now >= start + hundredths);
        ensure!(wait_until(LIMIT, worked), "the target is idle");
        Ok(())
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let ended = || !matches!(self.process.ended(), Ok(None));
        ensure!(wait_until(LIMIT, ended), "the target does not end");
        Ok(())
    }

    /// User and system time that it used, in the kernel's ticks of a hundredth of a second.
    fn cpu_time(&self) -> Option<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    }
}

/// The path of a sample.
pub fn script(sample: &str) -> PathBuf {
    root().join("samples/lua").join(sample)
}

/// The command that runs a script, without the script.
pub fn run(runtime: Runtime, jit: bool) -> Result<Command> {
    let mut command = Command::new(runtime.path()?);
    if runtime == Runtime::CommandLine {
        command.arg(if jit { "-jon" } else { "-joff" });
    } else if !jit {
        command.arg("--joff");
    }
    Ok(command)
}
