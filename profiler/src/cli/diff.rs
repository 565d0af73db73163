//! `luaflame diff`: what changed from one profile to another.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use luaflame::format::differential::{Side, Width, write_svg, write_text};
use luaflame::format::output::{Output, OutputError};

use super::args::Pair;
use super::signals::Interrupt;
use super::{NO_INTERRUPT, read, write, written};

/// What a graph that is as wide as before has in front of its extension.
const BEFORE: &str = "before.svg";

/// Compares, and writes what comes of it.
pub(super) fn compare(pair: &Pair) -> anyhow::Result<ExitCode> {
    let mut graphs = Vec::new();
    for path in &pair.graphs {
        graphs.push((Output::at(path)?, Width::After));
        graphs.push((Output::at(&beside(path))?, Width::Before));
    }
    let tables = pair.tables.iter().map(|path| Output::at(path)).collect::<Result<Vec<Output>, OutputError>>()?;
    let interrupt = Interrupt::install().context(NO_INTERRUPT)?;
    let shown = |path: &Path| {
        let (profile, _) = read(path, &interrupt)?;
        let shown = pair.view.of(&profile);
        if shown.stacks().len() == 0 {
            bail!(
                "{} has no stack that is to be compared; look at it with luaflame report, or leave out options",
                path.display()
            );
        }
        Ok(shown)
    };
    let (before, after) = (shown(&pair.before)?, shown(&pair.after)?);
    let (before_name, after_name) = (pair.before.display().to_string(), pair.after.display().to_string());
    let before = Side { name: &before_name, profile: &before };
    let after = Side { name: &after_name, profile: &after };
    let mut files = Vec::new();
    let mut keep = |output: Output, bytes: &[u8]| -> Result<(), OutputError> {
        match write(output, bytes, &interrupt) {
            Ok(file) => files.push(file),
            Err(error) if error.is_closed_pipe() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    };
    let lines = pair.view.lines;
    for (output, width) in graphs {
        let graph = written(|bytes| write_svg(before, after, lines, width, pair.min_percent, bytes));
        keep(output, &graph.context("the flame graph could not be drawn")?)?;
    }
    for output in tables {
        keep(output, &written(|bytes| write_text(before, after, lines, bytes))?)?;
    }
    if !pair.graphs.is_empty() {
        log::info!("written to {}", files.join(" and "));
    }
    Ok(ExitCode::SUCCESS)
}

/// `diff.before.svg` for `diff.svg`.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(BEFORE)
}
