//! What drawing a large capture costs, in each format.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use luaflame_tests::process::Running;

use super::profilers::peak_memory_until_end;
use crate::shell::{cargo, run};

/// Extensions of the formats.
pub const FORMATS: [&str; 7] = ["svg", "icicle.svg", "folded", "pb.gz", "speedscope.json", "firefox.json", "txt"];

/// What drawing one format cost.
pub struct Rendered {
    /// From the start of the command to its end.
    pub time: Duration,
    /// Peak memory, MiB.
    pub peak: f64,
}

/// Draws a million samples of fifty thousand distinct stacks in each of [`FORMATS`].
///
/// # Errors
/// When the capture cannot be made or drawn.
pub fn render(luaflame: &Path, folder: &Path) -> Result<Vec<Rendered>> {
    let capture = folder.join("large.luaflame");
    run(cargo().args(["run", "--release", "--package", "luaflame", "--example", "large_capture"]).arg(&capture))?;
    let draw = |extension: &&str| {
        eprintln!("drawing a large capture: {extension}");
        let mut command = Command::new(luaflame);
        command.arg("report").arg(&capture).arg("-o").arg(folder.join(format!("large.{extension}")));
        let start = Instant::now();
        let mut process = Running::spawn(command.stdin(Stdio::null()).stderr(Stdio::null()))?;
        let peak = peak_memory_until_end(&mut process)?;
        let time = start.elapsed();
        let status = process.ended()?.context("it has ended")?;
        ensure!(status.success(), "drawing {extension} failed: {status}");
        Ok(Rendered { time, peak: peak.context("its memory could not be seen")? })
    };
    FORMATS.iter().map(draw).collect()
}
