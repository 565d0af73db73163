//! The daemon from its start to its end.

use std::path::PathBuf;

use super::config::Config;

/// Runs the daemon until a signal ends it. `path` is the file that the configuration is from, and is read again for SIGHUP.
///
/// # Errors
/// When it cannot begin.
pub fn run(_path: Option<PathBuf>, _config: Config) -> anyhow::Result<()> {
    anyhow::bail!("the daemon is not there yet")
}
