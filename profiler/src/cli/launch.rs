//! `luaflame record -- PROGRAM ARGUMENTS`: a program that is started to be profiled.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus};

use anyhow::{Context, bail};
use rustix::process::{Pid, WaitOptions, waitpid};

/// Stops itself, and when it is continued becomes the program.
const SCRIPT: &str = r#"kill -STOP $$; exec "$@""#;

/// A program that waits to be profiled from its first instruction.
pub struct Launched {
    child: Child,
}

impl Launched {
    /// Starts a program, and stops before its first instruction.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(program: &[OsString]) -> anyhow::Result<Launched> {
        // The first word behind the script is its own name in what it says, such as that a program was not found.
        let child = Command::new("/bin/sh").args(["-c", SCRIPT, "luaflame"]).args(program).spawn();
        let launched = Launched { child: child.context("/bin/sh, which starts the program, cannot be run")? };
        let pid = Pid::from_raw(launched.pid().cast_signed());
        match waitpid(pid, WaitOptions::UNTRACED).map_err(io::Error::from)? {
            Some((_, status)) if status.stopped() => Ok(launched),
            _ => bail!("/bin/sh ended instead of starting the program"),
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has ended, and passes on how it did: 128 and the number of a signal, as a shell does.
    ///
    /// # Errors
    /// When that cannot be known.
    pub fn wait(&mut self) -> io::Result<ExitCode> {
        if self.child.try_wait()?.is_none() {
            log::info!("the program still runs; luaflame ends when it does, and Ctrl-C ends both");
        }
        let status: ExitStatus = self.child.wait()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(ExitCode::from(code.unwrap_or(1) as u8))
    }
}

impl Drop for Launched {
    /// What has not begun, because profiling failed, never will.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
