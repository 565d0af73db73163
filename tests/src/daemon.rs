//! Running `luaflame daemon`, in a folder of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::load::free_port;
use crate::luaflame::program;
use crate::process::{Running, wait_until};

/// Longer than anything that the daemon does takes.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A daemon at work. It is ended when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    process: Running,
    folder: TempDir,
    address: String,
}

/// How the daemon answered.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Its `Content-Type`.
    pub kind: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body).context("the answer is not UTF-8")
    }
}

/// A folder for a daemon, with its configuration: samples much more often than usual and makes windows of a second, so that tests need
/// not wait, listens on a free port, and keeps everything in the folder. `more` are further settings; with `{folder}` the folder.
///
/// # Errors
/// When it cannot be made.
pub fn prepared(sampling: &str, more: &str) -> Result<(TempDir, String)> {
    let folder = tempfile::tempdir()?;
    let address = format!("127.0.0.1:{}", free_port()?);
    configure(folder.path(), &address, sampling, more)?;
    Ok((folder, address))
}

fn configure(folder: &Path, address: &str, sampling: &str, more: &str) -> Result<()> {
    let text = "[sampling]\n{sampling}\n[log]\nlevel = \"debug\"\n[kill_switch]\nfile = \"{folder}/off\"\n[listen]\naddress = \"{address}\"\n\
                [store]\ndirectory = \"{folder}/store\"\n[spool]\ndirectory = \"{folder}/spool\"\n{more}\n";
    write(folder, address, &text.replace("{sampling}", sampling).replace("{more}", more))
}

fn write(folder: &Path, address: &str, text: &str) -> Result<()> {
    let text = text.replace("{address}", address).replace("{folder}", &folder.display().to_string());
    Ok(fs::write(folder.join("luaflame.toml"), text)?)
}

/// What tests sample with unless they say otherwise.
pub const OFTEN: &str = "frequency = 199\nwindow = \"1s\"";

impl Daemon {
    /// Starts a daemon with further settings, and waits until it samples.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn start(more: &str) -> Result<Daemon> {
        Daemon::start_with(OFTEN, more)
    }

    /// The same with other settings of sampling.
    ///
    /// # Errors
    /// As [`start`](Daemon::start).
    pub fn start_with(sampling: &str, more: &str) -> Result<Daemon> {
        let (folder, address) = prepared(sampling, more)?;
        let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
        daemon.wait_until_it_samples()?;
        Ok(daemon)
    }

    /// Starts one as an operator would, with the defaults but for what a configuration says, in which `{folder}` is a folder for it and
    /// `{address}` one where nothing listens, and waits until it samples.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn start_configured(text: &str) -> Result<Daemon> {
        let (folder, address) = (tempfile::tempdir()?, format!("127.0.0.1:{}", free_port()?));
        write(folder.path(), &address, text)?;
        let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
        daemon.wait_until_it_samples()?;
        Ok(daemon)
    }

    /// Starts it in a folder that is [`prepared`], by a command to which its arguments are added. It may not be ready yet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(folder: TempDir, address: String, command: Command) -> Result<Daemon> {
        let process = spawn(folder.path(), command)?;
        Ok(Daemon { process, folder, address })
    }

    /// Starts it once more in its folder, after it has ended.
    ///
    /// # Errors
    /// When it does not sample within a minute.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = spawn(self.folder.path(), Command::new(program()))?;
        self.wait_until_it_samples()
    }

    /// Waits until it takes samples.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn wait_until_it_samples(&mut self) -> Result<()> {
        self.wait_until("it samples", |daemon| daemon.metric("luaflame_sampling") == Some(1.0))
    }

    /// Waits for a condition, which is told in an error.
    ///
    /// # Errors
    /// When the daemon ends, or the condition does not hold within a minute.
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&Daemon) -> bool) -> Result<()> {
        let mut ended = None;
        let held = wait_until(LIMIT, || {
            ended = self.process.ended().ok().flatten();
            ended.is_some() || condition(self)
        });
        match ended {
            Some(status) => bail!("the daemon has ended ({status}) before {what}; it logged:\n{}", self.log()),
            None if held => Ok(()),
            None => bail!("it does not come to pass in a minute that {what}; the daemon logged:\n{}", self.log()),
        }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// Its folder: in it are `luaflame.toml`, `store`, `spool`, `log`, and `off` when it is switched off.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where it listens, `address:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Writes another configuration and has it read.
    ///
    /// # Errors
    /// When it cannot be written, or the daemon has ended.
    pub fn reconfigure(&mut self, sampling: &str, more: &str) -> Result<()> {
        configure(self.folder.path(), &self.address, sampling, more)?;
        self.process.signal(Signal::HUP)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap_or_default()
    }

    /// What it answers to a request for a path.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn get(&self, path: &str) -> Result<Answer> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT)).build().into();
        let mut answer = agent.get(format!("http://{}{path}", self.address)).call()?;
        let kind =
            answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let body = answer.body_mut().with_config().limit(256 << 20).read_to_vec()?;
        Ok(Answer { status: answer.status().as_u16(), kind, body })
    }

    /// The sum of a metric over all its labels; nothing when it does not answer or has no such metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metric_with(name, "")
    }

    /// The same over those whose labels contain a text.
    pub fn metric_with(&self, name: &str, label: &str) -> Option<f64> {
        let answer = self.get("/metrics").ok()?;
        let lines = answer.text().ok()?.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let (metric, labels) = key.split_once('{').unwrap_or((key, ""));
            let metric = metric.strip_suffix("_total").unwrap_or(metric);
            (metric == name && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        let values: Vec<f64> = lines.collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.wait()
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.wait().map(drop)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it does not within a minute.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(LIMIT, || {
            status = self.process.ended().ok().flatten();
            status.is_some()
        });
        status.with_context(|| format!("the daemon does not end; it logged:\n{}", self.log()))
    }

    /// The files of its store, of all services, by path.
    pub fn stored(&self) -> Vec<PathBuf> {
        files(&self.folder().join("store"), ".pb.gz")
    }
}

/// The files below a folder whose names end so, by path.
pub fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, end));
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn spawn(folder: &Path, mut command: Command) -> Result<Running> {
    ensure!(program().is_file(), "there is no {}: run `cargo build --release -p luaflame`", program().display());
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    Running::spawn(
        command
            .args(["daemon", "--config"])
            .arg(folder.join("luaflame.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log),
    )
}
