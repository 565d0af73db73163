//! The programs whose call graph is known: every script in `samples/lua` that says what its lines call.
//!
//! What else there is to know of a script stands in its head, the comment that it begins with, in lines of its own:
//!
//! - `--: needs EXPRESSION`: runs only where this Lua expression is true, such as `host` (the functions of our own program),
//!   `pcall(require, "string.buffer")` or `jit.version:find("2%.1%.%d%d%d")`.
//! - `--: start FUNCTION`: the program, and not the main chunk, calls this function again and again, in each of several VMs.
//! - `--: cut FUNCTION ...`: these functions call each other so deeply that frames of them may be cut out of a stack.
//! - `--: seen FUNCTION > FUNCTION > ...`: this stack, main chunk excluded, is seen for sure if anything is. Of functions that share
//!   the time.
//! - `--: outside`: the process also does something else than run Lua.
//! - `--: modes MODE ...`: only these of the modes `interpreter`, `jit`, `flush` and `hook`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::graph::{Graph, MAIN};
use crate::paths::root;
use crate::programs::Mode;

/// A program whose call graph is known.
#[derive(Debug, Clone)]
pub struct Workload {
    /// The name of its script without `.lua`.
    pub name: String,
    /// Its script.
    pub script: PathBuf,
    /// Its functions and their calls.
    pub graph: Graph,
    /// Lua expressions that are true where it can run.
    pub needs: Vec<String>,
    /// The function that the program calls, other than the main chunk.
    pub start: Option<String>,
    /// Functions of a recursion that may be cut.
    pub cut: Vec<String>,
    /// Stacks that are seen for sure: the names of their Lua functions, root first.
    pub seen: Vec<Vec<String>>,
    /// Whether the process also does something else than run Lua.
    pub outside: bool,
    /// The modes that it is for.
    pub modes: Vec<Mode>,
}

impl Workload {
    /// Reads one by its name.
    ///
    /// # Errors
    /// When it cannot be read or is not well formed.
    pub fn read(name: &str) -> Result<Workload> {
        Workload::of_script(&folder().join(name).with_extension("lua"))
    }

    /// Every one, by name.
    ///
    /// # Errors
    /// When one cannot be read or is not well formed.
    pub fn all() -> Result<Vec<Workload>> {
        let mut scripts = Vec::new();
        for entry in fs::read_dir(folder()).context("there is no samples/lua")? {
            let script = entry?.path();
            if fs::read_to_string(&script).is_ok_and(|text| text.contains("--> ")) {
                scripts.push(script);
            }
        }
        scripts.sort();
        scripts.iter().map(|script| Workload::of_script(script)).collect()
    }

    fn of_script(script: &Path) -> Result<Workload> {
        let name = script.file_stem().and_then(|name| name.to_str()).context("a script has a name")?;
        let mut workload = Workload {
            name: name.to_owned(),
            script: script.to_owned(),
            graph: Graph::read(&[script])?,
            needs: Vec::new(),
            start: None,
            cut: Vec::new(),
            seen: Vec::new(),
            outside: false,
            modes: Mode::ALL.to_vec(),
        };
        let text = fs::read_to_string(script)?;
        for line in text.lines().take_while(|line| line.starts_with("--")) {
            if let Some(declaration) = line.strip_prefix("--: ") {
                workload.declare(declaration).with_context(|| format!("`{line}` in {}", script.display()))?;
            }
        }
        let declared = workload.start.iter().chain(&workload.cut).chain(workload.seen.iter().flatten());
        for function in declared {
            ensure!(workload.graph.functions.contains_key(function), "{name}.lua does not define `{function}`");
        }
        Ok(workload)
    }

    fn declare(&mut self, declaration: &str) -> Result<()> {
        let (key, value) = declaration.trim_end().split_once(' ').unwrap_or((declaration.trim_end(), ""));
        let words = value.split_whitespace().map(str::to_owned);
        match key {
            "needs" => self.needs.push(value.to_owned()),
            "start" => self.start = Some(value.to_owned()),
            "cut" => self.cut.extend(words),
            "seen" => self.seen.push(value.split('>').map(|name| name.trim().to_owned()).collect()),
            "outside" => self.outside = true,
            "modes" => self.modes = words.map(|word| word.parse()).collect::<Result<_>>()?,
            _ => bail!("there is nothing of the name `{key}` to declare"),
        }
        Ok(())
    }

    /// The function that every stack begins with.
    pub fn first(&self) -> &str {
        self.start.as_deref().unwrap_or(MAIN)
    }
}

/// Where the scripts are.
fn folder() -> PathBuf {
    root().join("samples/lua")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Workload> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("t.lua");
        fs::write(&script, text)?;
        Workload::of_script(&script)
    }

    const BODY: &str = "function a()\nend\nfunction b()\nend\na() --> a\n";

    #[test]
    fn the_head_declares_what_a_workload_needs() {
        let head = "-- Some words.\n--: needs host\n--: needs jit.version_num > 20100\n--: cut a b\n--: seen a > b\n--: seen b\n\
                    --: outside\n--: modes jit hook\n";
        let workload = read(&format!("{head}{BODY}")).expect("well formed");
        assert_eq!(workload.name, "t");
        assert_eq!(workload.needs, ["host", "jit.version_num > 20100"]);
        assert_eq!(workload.cut, ["a", "b"]);
        assert_eq!(workload.seen, [vec!["a", "b"], vec!["b"]]);
        assert!(workload.outside);
        assert_eq!(workload.modes, [Mode::Jit, Mode::Hook]);
        assert_eq!(workload.first(), MAIN);
    }

    #[test]
    fn a_declaration_that_means_nothing_is_an_error() {
        for head in ["--: need host\n", "--: seen a > c\n", "--: cut c\n", "--: modes fast\n"] {
            assert!(read(&format!("{head}{BODY}")).is_err(), "{head}");
        }
    }

    #[test]
    fn every_workload_is_well_formed() {
        assert!(Workload::all().expect("all are").len() > 10);
    }
}
