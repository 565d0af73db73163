//! nginx with lua-nginx-module, and load for it.

use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::load::{PATIENCE, free_port, wrk};
use crate::paths::copy_folder;
use crate::process::{Running, children, wait_until};

/// The address that configurations are written for; each server gets a free port in its place.
const WRITTEN_ADDRESS: &str = "127.0.0.1:8080";

/// An nginx of ours, on a port of the loopback interface.
#[derive(Debug)]
pub struct Nginx {
    master: Running,
    address: String,
    folder: PathBuf,
    workers: usize,
}

impl Nginx {
    /// Starts nginx with a copy of `configuration`, a folder with an `nginx.conf` in it, that is put in `folder`; it
    /// accepts connections when this returns. `globals` are directives to add, such as `worker_cpu_affinity 01;`.
    ///
    /// # Errors
    /// When it cannot be started or does not listen within ten seconds; the error holds what it logged.
    pub fn start(configuration: &Path, folder: &Path, workers: usize, globals: &str) -> Result<Nginx> {
        Nginx::start_program(Path::new("nginx"), configuration, folder, workers, globals)
    }

    /// The same of another program than the one that is found by its name.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_program(
        program: &Path,
        configuration: &Path,
        folder: &Path,
        workers: usize,
        globals: &str,
    ) -> Result<Nginx> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        copy_folder(configuration, folder)
            .with_context(|| format!("{} could not be copied", configuration.display()))?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let file = folder.join("nginx.conf");
        let text = fs::read_to_string(&file).with_context(|| format!("{} could not be read", file.display()))?;
        ensure!(text.contains(WRITTEN_ADDRESS), "{} does not listen on {WRITTEN_ADDRESS}", file.display());
        fs::write(&file, text.replace(WRITTEN_ADDRESS, &address))?;

        let log = folder.join("error.log");
        let master = Running::spawn(
            Command::new(program)
                .arg("-p")
                .arg(folder)
                .args(["-e", "stderr", "-c", "nginx.conf", "-g"])
                .arg(format!("worker_processes {workers}; {globals}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&log)?),
        )?;
        let mut nginx = Nginx { master, address, folder: folder.to_owned(), workers };
        wait_until(PATIENCE, || nginx.serves() || !matches!(nginx.master.ended(), Ok(None)));
        if nginx.serves() {
            return Ok(nginx);
        }
        bail!("nginx did not start on {}; it logged:\n{}", nginx.address, fs::read_to_string(log).unwrap_or_default())
    }

    fn serves(&self) -> bool {
        children(self.master()).len() == self.workers && TcpStream::connect(&self.address).is_ok()
    }

    /// Process id of the master.
    pub fn master(&self) -> u32 {
        self.master.id()
    }

    /// Process ids of the workers that there are now, those that are shutting down included.
    pub fn workers(&self) -> Vec<u32> {
        children(self.master())
    }

    /// Where it listens, `address:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that it runs in, with its configuration, `error.log` and `nginx.pid`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Has the master read its configuration again: new workers take over, and the old ones end when they are idle.
    /// Returns when the new workers are there.
    ///
    /// # Errors
    /// When no new workers appear within ten seconds.
    pub fn reload(&mut self) -> Result<()> {
        let old = self.workers();
        self.master.signal(Signal::HUP)?;
        let renewed = || self.workers().iter().filter(|pid| !old.contains(pid)).count() >= self.workers;
        ensure!(wait_until(PATIENCE, renewed), "nginx did not start new workers");
        Ok(())
    }

    /// The same, without waiting for anything.
    ///
    /// # Errors
    /// When the master has ended.
    pub fn signal_reload(&mut self) -> Result<()> {
        self.master.signal(Signal::HUP)
    }

    /// Puts load on it for at most `seconds`, from one thread with `connections` connections, on a path or, with a
    /// script for wrk, on what that asks for.
    ///
    /// # Errors
    /// When wrk cannot be started.
    pub fn load(&self, path: &str, script: Option<&Path>, connections: u32, seconds: u32) -> Result<Running> {
        let mut wrk = self.wrk(path, script, connections, seconds);
        Running::spawn(wrk.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// The command that [`load`](Self::load) runs.
    pub fn wrk(&self, path: &str, script: Option<&Path>, connections: u32, seconds: u32) -> Command {
        wrk(&self.address, path, script, connections, seconds)
    }
}
