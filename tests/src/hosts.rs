//! Programs of Debian that embed LuaJIT, as `cargo xtask setup` unpacks them under `target/programs`. They run upstream's LuaJIT.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::paths::root;

/// A program of this name.
///
/// # Errors
/// When it is not there.
pub fn path(name: &str) -> Result<PathBuf> {
    // What a machine has is not unpacked again for the sake of another package.
    let candidates = [unpacked().join("usr/bin"), PathBuf::from("/usr/bin")].map(|folder| folder.join(name));
    let found = candidates.iter().find(|path| path.is_file());
    ensure!(found.is_some(), "there is no {}: run `cargo xtask setup`", candidates[0].display());
    Ok(found.cloned().unwrap_or_default())
}

/// The command that runs a program of this name.
///
/// # Errors
/// When it is not there.
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(path(name)?);
    let libraries = [root().join("target/luajit"), unpacked()].map(|folder| folder.join("usr/lib/x86_64-linux-gnu"));
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?);
    Ok(command)
}

/// Where they are unpacked, as if it were the root of the file system.
pub fn unpacked() -> PathBuf {
    root().join("target/programs")
}

/// The folder of the scripts that they run.
pub fn scripts() -> PathBuf {
    root().join("tests/hosts")
}
