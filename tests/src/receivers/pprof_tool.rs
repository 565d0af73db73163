//! The program `pprof`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::paths::target_dir;

/// What it prints of a file: `-top`, `-traces`, `-raw`.
///
/// # Errors
/// When it cannot be started or fails; the error holds what it says.
pub fn pprof(arguments: &[&str], file: &Path) -> Result<String> {
    let program = target_dir().join("tools/bin/pprof");
    // It would look for programs of these names, and leave a copy in the home directory of what it reads.
    let output =
        Command::new(&program).args(["-symbolize=none", "-nodecount=10000"]).args(arguments).arg(file).output();
    let output = output.with_context(|| format!("{} cannot be started: run `cargo xtask setup`", program.display()))?;
    ensure!(
        output.status.success(),
        "pprof {arguments:?} {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
