//! A browser without a screen, and the driver that tells it what to do.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process::Running;

/// What the browser is told when it starts: to ask nobody but the server that is tested, and to keep nothing.
pub const ARGUMENTS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
];

/// A driver that runs for as long as this lives.
#[derive(Debug)]
pub struct Driver {
    _process: Running,
    /// Where it listens.
    pub url: String,
}

impl Driver {
    /// Starts chromedriver, which makes its files in `folder`.
    ///
    /// # Errors
    /// When it cannot be started, or does not say where it listens.
    pub fn start(folder: &Path) -> Result<Driver> {
        let mut command = Command::new("chromedriver");
        command.args(["--port=0"]).env("TMPDIR", folder).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Running::spawn(&mut command)?;
        let output = process.child().stdout.take().context("chromedriver has no output")?;
        for line in BufReader::new(output).lines() {
            // ChromeDriver was started successfully on port 12345.
            let line = line?;
            let port = line.rsplit_once("on port ").map(|(_, port)| port.trim_end_matches('.').to_owned());
            if let Some(port) = port.filter(|_| line.contains("started successfully")) {
                return Ok(Driver { _process: process, url: format!("http://127.0.0.1:{port}") });
            }
        }
        anyhow::bail!("chromedriver has ended without saying where it listens")
    }
}
