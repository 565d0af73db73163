//! The call graph of a Lua program, as its source says: `--> callee` at the end of a line means that the line calls it.
//!
//! What stands behind the arrow is a list, separated by commas, of the Lua functions that run right above the line's function while
//! the line is being run. `callee through a b` means that there are frames between the two that are no Lua functions, a pattern as
//! [`crate::legal`] reads it. A function that is entered by a tail call is called by the line that the tail call returns to. The
//! scripts are indented, so that a function ends at the next `end` below its first line with the same indentation.
//!
//! The configuration of an nginx is such a source, too: its functions are the blocks of the directives that hold Lua code.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The name that main chunks have in a call graph, and in labels.
pub const MAIN: &str = "main chunk";

/// The functions of a script and their calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// By name; the main chunk too, as [`MAIN`].
    pub functions: HashMap<String, Definition>,
    /// Every call.
    pub calls: Vec<Call>,
}

/// Where a function is defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The name of the file, without its folder.
    pub file: String,
    /// Its first line, 0 for the main chunk.
    pub line: u32,
    /// The line of its `end`.
    pub end: u32,
}

/// A call in a line of the script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function that the line is in.
    pub caller: String,
    /// The function called.
    pub callee: String,
    /// The line.
    pub line: u32,
    /// What is between the two frames.
    pub through: String,
}

impl Graph {
    /// Reads scripts that call each other's functions. The main chunk is that of the first one.
    ///
    /// # Errors
    /// When one cannot be read, a name is defined twice, or a function is called that none of them defines.
    pub fn read(scripts: &[&Path]) -> Result<Graph> {
        let mut graph = Graph::default();
        for script in scripts {
            let text = fs::read_to_string(script).with_context(|| format!("{} could not be read", script.display()))?;
            let file = script.file_name().and_then(|name| name.to_str()).context("a script has a name")?;
            graph.add(file, &text).with_context(|| format!("the calls of {} are not known", script.display()))?;
        }
        for Call { caller, callee, line, .. } in &graph.calls {
            let file = &graph.functions[caller].file;
            ensure!(
                graph.functions.contains_key(callee),
                "line {line} of {file} calls `{callee}`, which is not defined"
            );
        }
        Ok(graph)
    }

    /// The innermost function of a file that a line is in.
    pub fn at(&self, file: &str, line: u32) -> Option<&str> {
        let around = self.functions.iter().filter(|(_, at)| at.file == file && (at.line..=at.end).contains(&line));
        around.max_by_key(|(_, at)| at.line).map(|(name, _)| name.as_str())
    }

    fn add(&mut self, file: &str, text: &str) -> Result<()> {
        // The functions that the line is in, outermost first, with their indentation.
        let mut open: Vec<(String, usize)> = Vec::new();
        let mut last = 0;
        for (line, text) in (1..).zip(text.lines()) {
            last = line;
            let code = text.split("--").next().unwrap_or_default().trim_end();
            let indentation = code.len() - code.trim_start().len();
            let name = defined(code);
            if let Some(name) = &name {
                let definition = Definition { file: file.to_owned(), line, end: line };
                if self.functions.insert(name.clone(), definition).is_some() {
                    bail!("`{name}` is defined twice, again in line {line}");
                }
                // All in one line needs no `end` of its own.
                if !code.ends_with(" end") {
                    open.push((name.clone(), indentation));
                }
            }
            let caller = name.as_ref().or(open.last().map(|(name, _)| name)).map_or(MAIN, String::as_str).to_owned();
            if let Some((_, calls)) = text.split_once("--> ") {
                for call in calls.split(',') {
                    let call = call.trim();
                    let (callee, through) = call.split_once(" through ").unwrap_or((call, ""));
                    let (callee, through) = (callee.to_owned(), through.to_owned());
                    self.calls.push(Call { caller: caller.clone(), callee, line, through });
                }
            }
            let ends = code.trim_start().starts_with("end") || code.trim_start() == "}";
            if let Some((name, _)) = open.pop_if(|(_, column)| ends && *column == indentation)
                && let Some(definition) = self.functions.get_mut(&name)
            {
                definition.end = line;
            }
        }
        ensure!(open.is_empty(), "`{}` has no end", open[0].0);
        let main = Definition { file: file.to_owned(), line: 0, end: last };
        self.functions.entry(MAIN.to_owned()).or_insert(main);
        Ok(())
    }
}

/// The name of the function whose definition begins in a line.
fn defined(code: &str) -> Option<String> {
    // The block of `set_by_lua` is preceded by the variable that is set.
    let directive = code.strip_suffix('{').and_then(|code| code.split_whitespace().next()?.strip_suffix("_block"));
    if let Some(directive) = directive.filter(|name| name.ends_with("_by_lua")) {
        return Some(directive.to_owned());
    }
    let (before, rest) = code.split_once("function")?;
    let name = rest.strip_prefix(' ').and_then(|rest| rest.split('(').next()).map(str::trim).filter(|n| !n.is_empty());
    // `local name = function(`, `name = function(` and `table.name = function(`.
    let assigned = || before.trim_end().strip_suffix('=')?.trim_end().rsplit([' ', '.']).next();
    let name = name.or_else(assigned)?;
    Some(name.rsplit(['.', ':']).next().unwrap_or(name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "local function spin(n)\n    return n\nend\n\nlocal t = {}\nfunction t.make()\n    local function inner()\n        \
                          spin(1) --> spin\n    end\n    return inner\nend\nt.less = function(a, b) return a < b end\n\
                          table.sort({}, t.less) --> less through table.sort ...\nt.make()() --> make, inner\n";

    fn read(texts: &[(&str, &str)]) -> Result<Graph> {
        let folder = tempfile::tempdir()?;
        let scripts: Vec<_> = texts.iter().map(|(name, _)| folder.path().join(name)).collect();
        for (script, (_, text)) in scripts.iter().zip(texts) {
            fs::write(script, text)?;
        }
        Graph::read(&scripts.iter().map(|script| script.as_path()).collect::<Vec<_>>())
    }

    fn calls(graph: &Graph) -> Vec<(&str, &str, u32, &str)> {
        graph.calls.iter().map(|c| (c.caller.as_str(), c.callee.as_str(), c.line, c.through.as_str())).collect()
    }

    #[test]
    fn calls_are_read_with_their_lines() {
        let graph = read(&[("t.lua", SCRIPT)]).expect("well formed");
        let lines = |name: &str| (graph.functions[name].line, graph.functions[name].end);
        assert_eq!(lines("spin"), (1, 3));
        assert_eq!(lines("make"), (6, 11));
        assert_eq!(lines("inner"), (7, 9));
        assert_eq!(lines("less"), (12, 12));
        assert_eq!(lines(MAIN), (0, 14));
        assert_eq!(
            [1, 8, 10, 12, 14].map(|line| graph.at("t.lua", line)),
            ["spin", "inner", "make", "less", MAIN].map(Some)
        );
        assert_eq!(graph.at("u.lua", 1), None);
        assert_eq!(
            calls(&graph),
            [
                ("inner", "spin", 8, ""),
                (MAIN, "less", 13, "table.sort ..."),
                (MAIN, "make", 14, ""),
                (MAIN, "inner", 14, "")
            ]
        );
    }

    #[test]
    fn the_blocks_of_a_configuration_call_functions_of_a_script() {
        let configuration = "location / {\n    content_by_lua_block {\n        app.make() --> make\n    }\n    \
                             set_by_lua_block $x {\n        return app.make() --> make\n    }\n}\n";
        let graph = read(&[("t.lua", SCRIPT), ("nginx.conf", configuration)]).expect("well formed");
        let block = Definition { file: "nginx.conf".into(), line: 2, end: 4 };
        assert_eq!(graph.functions["content_by_lua"], block);
        assert_eq!(graph.functions[MAIN].file, "t.lua");
        assert_eq!(calls(&graph)[4..], [("content_by_lua", "make", 3, ""), ("set_by_lua", "make", 6, "")]);
    }

    #[test]
    fn a_script_that_is_not_whole_is_an_error() {
        for script in ["local function a()\n", "a() --> a\n", "function a()\nend\nfunction a()\nend\n"] {
            assert!(read(&[("t.lua", script)]).is_err(), "{script}");
        }
    }
}
