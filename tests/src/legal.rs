//! Legal stacks: what a program whose call graph is known may be seen doing, and whether it was.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::stacks::{Frame, Function, Stack};

/// The name that main chunks have in a call graph, and in labels.
pub const MAIN: &str = "main chunk";

/// A call that a program makes: the caller, the callee, and the native frames and builtins between them, root first.
///
/// Between is a pattern, words separated by blanks: a name stands for the frame of that label; `*` for any one frame that is
/// no Lua function; `...` for one or more of them; `&name` for the native function of that name, which in a stripped
/// program is any one frame of the shape `module+0x1f`. An empty pattern is a direct call.
pub type Edge = (&'static str, &'static str, &'static str);

/// The call graph of a program.
///
/// A Lua function is known by its name and by the line of its definition, which is looked up in the script. The code of one of
/// nginx's directives is known by the directive's name, such as `content_by_lua`.
#[derive(Debug, Clone)]
pub struct Truth<'a> {
    /// The script that defines the functions.
    pub script: PathBuf,
    /// Where every stack begins.
    pub root: Root,
    /// What there is between the root and the first Lua function, a pattern as in [`Edge`].
    pub entry: &'a str,
    /// The functions that the entry calls.
    pub start: &'a [&'a str],
    /// Every call.
    pub edges: &'a [Edge],
    /// Stacks that were seen for sure if anything was: the names of their Lua functions, root first.
    pub seen: &'a [&'a [&'a str]],
    /// A part of the path of a library's files: what the library does is not known, but it calls none of the functions.
    pub library: Option<&'a str>,
    /// A function that calls itself so often that frames of it may be cut out, which a marker between two of them says.
    pub cut: Option<&'a str>,
    /// Whether the program also does something else than run Lua.
    pub outside: bool,
    /// Whether native functions have no names because the program is stripped.
    pub stripped: bool,
}

/// The frame that every stack begins with.
#[derive(Debug, Clone, Copy)]
pub enum Root {
    /// The entry point of the program: `_start`, or in a stripped program the place of it, at this address in its file.
    Process(u64),
    /// The function of libc that starts threads.
    Thread,
}

impl Root {
    fn is(self, label: &str) -> bool {
        /// Bytes that `_start` is long, at most.
        const START: u64 = 0x40;
        let offset = || u64::from_str_radix(label.rsplit_once("+0x")?.1, 16).ok();
        match self {
            Root::Process(entry) => {
                label == "_start" || offset().is_some_and(|offset| (entry..entry + START).contains(&offset))
            }
            Root::Thread => label.contains("clone") || label.starts_with("libc.so.6+0x"),
        }
    }
}

/// Checks that every stack is one that the program can have, complete from the root to the leaf, with nothing unknown in
/// it, and that each of [`Truth::seen`] was seen.
///
/// # Errors
/// When a stack is not legal; the error shows the first few and says what is wrong with them.
pub fn check(stacks: &[Stack], truth: &Truth<'_>) -> Result<()> {
    let lines = definitions(&truth.script)?;
    ensure!(!stacks.is_empty(), "there are no stacks");
    let illegal: Vec<String> = stacks
        .iter()
        .filter_map(|stack| Walk::legal(stack, truth, &lines).err().map(|reason| format!("{reason:#}:\n    {stack}")))
        .collect();
    if !illegal.is_empty() {
        let samples: u64 = stacks.iter().map(|stack| stack.count).sum();
        bail!(
            "{} of {} distinct stacks ({samples} samples) are not legal, such as\n  {}",
            illegal.len(),
            stacks.len(),
            illegal[..illegal.len().min(5)].join("\n  ")
        );
    }
    for path in truth.seen {
        let seen =
            stacks.iter().any(|stack| stack.frames.iter().filter_map(Frame::lua).map(node).eq(path.iter().copied()));
        ensure!(seen, "the stack {path:?} was never seen");
    }
    Ok(())
}

/// The name of a function in a call graph: the last part of the name, which may say where it is stored (`app.handle`).
fn node(function: &Function) -> &str {
    match function.file.split_once("_by_lua(") {
        Some((phase, _)) if function.line == Some(0) => &function.file[..phase.len() + "_by_lua".len()],
        _ => function.name.rsplit(['.', ':']).next().unwrap_or_default(),
    }
}

/// The leaf-most Lua function of a stack.
pub fn leaf(stack: &Stack) -> Option<&Function> {
    stack.frames.iter().rev().find_map(Frame::lua)
}

/// The line of each function's definition, by name.
fn definitions(script: &Path) -> Result<HashMap<String, u32>> {
    let text = fs::read_to_string(script).with_context(|| format!("{} could not be read", script.display()))?;
    let mut lines = HashMap::from([(MAIN.to_owned(), 0)]);
    for (number, line) in (1..).zip(text.lines()) {
        if let Some((_, rest)) = line.split_once("function ")
            && let Some((name, _)) = rest.split_once('(')
            && !name.is_empty()
        {
            let earlier = lines.insert(name.to_owned(), number);
            ensure!(earlier.is_none(), "{} defines `{name}` twice", script.display());
        }
    }
    Ok(lines)
}

/// A walk over a stack from its root.
struct Walk<'a> {
    truth: &'a Truth<'a>,
    lines: &'a HashMap<String, u32>,
    /// The last Lua function passed.
    caller: Option<&'a str>,
    /// The frames since then that are no Lua functions.
    between: Vec<&'a str>,
    /// Whether a marker since then says that frames were cut out.
    cut: bool,
    /// Whether the walk has come to the library.
    library: bool,
}

impl<'a> Walk<'a> {
    fn legal(stack: &'a Stack, truth: &'a Truth<'a>, lines: &'a HashMap<String, u32>) -> Result<()> {
        let (root, frames) = stack.frames.split_first().context("it is empty")?;
        ensure!(
            matches!(root, Frame::Other(label) if truth.root.is(label)),
            "it does not begin where the program does"
        );
        let mut walk = Walk { truth, lines, caller: None, between: Vec::new(), cut: false, library: false };
        let mut kernel = false;
        for frame in frames {
            ensure!(!kernel || matches!(frame, Frame::Kernel(_)), "user code is called by the kernel");
            match frame {
                Frame::Marker(name) => {
                    let may_be_cut = truth.cut.is_some() && truth.cut == walk.caller && !walk.cut;
                    ensure!(may_be_cut, "{name} is in it");
                    walk.cut = true;
                }
                Frame::Kernel(_) => kernel = true,
                Frame::Other(name) => walk.between.push(name),
                Frame::Lua(function) => walk.call(function)?,
            }
        }
        ensure!(truth.outside || walk.caller.is_some(), "there is no Lua function in it");
        Ok(())
    }

    fn call(&mut self, function: &'a Function) -> Result<()> {
        if self.truth.library.is_some_and(|library| function.file.contains(library)) {
            ensure!(self.caller.is_some(), "`{function}` was called by no Lua function");
            self.library = true;
            return Ok(());
        }
        ensure!(!self.library, "the library calls `{function}`");
        let callee = node(function);
        if !function.file.contains("_by_lua(") {
            let file =
                self.truth.script.file_name().and_then(|name| name.to_str()).context("the script has no name")?;
            ensure!(function.is_in(file), "`{function}` is of another program");
            let line = self.lines.get(callee).with_context(|| format!("there is no `{function}`"))?;
            ensure!(function.line == Some(*line), "`{function}` is defined in line {line}");
        }
        let between = std::mem::take(&mut self.between);
        let allowed = |pattern: &str| matches(pattern, &between, self.truth.stripped);
        match self.caller.replace(callee) {
            Some(caller) if std::mem::take(&mut self.cut) => {
                ensure!(caller == callee && between.is_empty(), "a cut leads from `{caller}` to `{callee}`");
            }
            Some(caller) => ensure!(
                self.truth.edges.iter().any(|(from, to, pattern)| *from == caller && *to == callee && allowed(pattern)),
                "`{caller}` does not call `{callee}` through {between:?}"
            ),
            None => {
                ensure!(self.truth.start.contains(&callee), "`{callee}` was not called by any Lua function");
                let entry = self.truth.entry;
                ensure!(allowed(entry), "the way from the root to `{callee}` is not `{entry}` but {between:?}");
            }
        }
        Ok(())
    }
}

/// Whether the frames are as the pattern says.
fn matches(pattern: &str, frames: &[&str], stripped: bool) -> bool {
    let words: Vec<&str> = pattern.split_whitespace().collect();
    matches_words(&words, frames, stripped)
}

fn matches_words(words: &[&str], frames: &[&str], stripped: bool) -> bool {
    match (words, frames) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        (["...", rest @ ..], [_, more @ ..]) => {
            matches_words(rest, more, stripped) || matches_words(words, more, stripped)
        }
        ([word, rest @ ..], [frame, more @ ..]) => {
            let same = match word.strip_prefix('&') {
                Some(_) if stripped => frame.contains("+0x"),
                Some(name) => *frame == name,
                None => *word == "*" || word == frame,
            };
            same && matches_words(rest, more, stripped)
        }
    }
}

/// The share of each function in the samples, by its own time: the samples in which it is the leaf-most Lua function.
pub fn own_shares(stacks: &[Stack]) -> HashMap<String, f64> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for stack in stacks {
        if let Some(function) = leaf(stack) {
            *counts.entry(function.name.clone()).or_default() += stack.count;
        }
    }
    shares(counts)
}

/// Counts as shares of their sum.
pub fn shares(counts: HashMap<String, u64>) -> HashMap<String, f64> {
    let all: u64 = counts.values().sum();
    counts.into_iter().map(|(name, count)| (name, count as f64 / all.max(1) as f64)).collect()
}

/// Total variation distance of two distributions: the share of the time on which they disagree, from 0 to 1.
pub fn distance(a: &HashMap<String, f64>, b: &HashMap<String, f64>) -> f64 {
    let missing = b.iter().filter(|(name, _)| !a.contains_key(*name)).map(|(_, share)| *share);
    let both = a.iter().map(|(name, share)| (share - b.get(name).copied().unwrap_or(0.0)).abs());
    missing.chain(both).sum::<f64>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::parse;

    const EDGES: &[Edge] = &[
        (MAIN, "fib", ""),
        ("fib", "fib", ""),
        (MAIN, "safe", "pcall"),
        ("safe", "less", "table.sort ..."),
        ("content_by_lua", "fib", ""),
    ];

    fn check_one(stack: &str, cut: Option<&str>, seen: &[&[&str]]) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("t.lua");
        fs::write(
            &script,
            "local function fib(n)\nend\nlocal function safe()\nend\n  local function less(a, b)\nend\n",
        )?;
        let truth = Truth {
            script,
            root: Root::Process(0x1000),
            entry: "... &lua_pcall",
            start: &[MAIN, "content_by_lua"],
            edges: EDGES,
            seen,
            library: Some("/lib/"),
            cut,
            outside: false,
            stripped: false,
        };
        check(&parse(stack)?, &truth)
    }

    #[test]
    fn paths_of_the_call_graph_are_legal() {
        for stack in [
            "_start;main;lua_pcall;main chunk (t.lua) 1",
            "a+0x1005;main;run;lua_pcall;main chunk (/x/t.lua);fib (/x/t.lua:1);fib (/x/t.lua:1)_[j];lj_vm_foo 2",
            "_start;main;lua_pcall;main chunk (t.lua);pcall;safe (t.lua:3);table.sort;auxsort;less (t.lua:5);read_[k] 3",
            "_start;main;lua_pcall;main chunk (t.lua);fib (t.lua:1);insert (/lib/list.lua:3);memmove 3",
            "_start;main;lua_pcall;main chunk (content_by_lua(nginx.conf:12));t.fib (t.lua:1) 3",
        ] {
            check_one(stack, None, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    #[test]
    fn anything_else_is_not() {
        for (stack, reason) in [
            ("main;lua_pcall;main chunk (t.lua) 1", "does not begin"),
            ("a+0x1055;main;lua_pcall;main chunk (t.lua) 1", "does not begin"),
            ("_start;main;main chunk (t.lua) 1", "the way from the root"),
            ("_start;main;lua_pcall;fib (t.lua:1) 1", "not called by"),
            ("_start;main;lua_pcall;main chunk (t.lua);safe (t.lua:3) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua);lua_call;fib (t.lua:1) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua);pcall;safe (t.lua:3);less (t.lua:5) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua);fib (t.lua:2) 1", "defined in line 1"),
            ("_start;main;lua_pcall;main chunk (t.lua);fob (t.lua:1) 1", "there is no"),
            ("_start;main;lua_pcall;main chunk (u.lua) 1", "another program"),
            ("_start;main;lua_pcall;main chunk (t.lua);x (/lib/x.lua:1);fib (t.lua:1) 1", "the library calls"),
            ("_start;main;lua_pcall;x (/lib/x.lua:1) 1", "called by no Lua function"),
            ("_start;main;lua_pcall;main chunk (t.lua);[unknown] 1", "[unknown]"),
            ("_start;main;read_[k];lua_pcall;main chunk (t.lua) 1", "kernel"),
            ("_start;main 1", "no Lua function"),
        ] {
            let error = check_one(stack, None, &[]).expect_err(stack).to_string();
            assert!(error.contains(reason), "{stack}: {error}");
        }
    }

    #[test]
    fn a_cut_is_legal_only_in_the_recursion_that_is_cut() {
        let start = "_start;main;lua_pcall;main chunk (t.lua)";
        let cut = format!("{start};fib (t.lua:1);[3 frames cut];fib (t.lua:1) 1");
        assert!(check_one(&cut, Some("fib"), &[]).is_ok());
        assert!(check_one(&cut, None, &[]).is_err());
        assert!(check_one(&format!("{start};[3 frames cut];fib (t.lua:1) 1"), Some("fib"), &[]).is_err());
        assert!(check_one(&format!("{start};fib (t.lua:1);[x];safe (t.lua:3) 1"), Some("fib"), &[]).is_err());
    }

    #[test]
    fn what_must_be_seen_is_a_whole_stack() {
        let stack = "_start;main;lua_pcall;main chunk (t.lua);fib (t.lua:1);fib (t.lua:1) 1";
        assert!(check_one(stack, None, &[&[MAIN, "fib", "fib"]]).is_ok());
        assert!(check_one(stack, None, &[&[MAIN, "fib"]]).is_err());
    }

    #[test]
    fn natives_of_stripped_programs_are_places_in_them() {
        assert!(matches("host.call &host_call &lua_call", &["host.call", "host_call", "lua_call"], false));
        assert!(!matches("host.call &host_call &lua_call", &["host.call", "host+0x12", "host+0x55"], false));
        assert!(matches("host.call &host_call &lua_call", &["host.call", "host+0x12", "host+0x55"], true));
        assert!(!matches("host.call &host_call &lua_call", &["host.call", "host+0x12"], true));
    }

    #[test]
    fn distance_is_the_share_that_differs() {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let (a, b) = (of(&[("x", 0.5), ("y", 0.5)]), of(&[("x", 0.25), ("z", 0.75)]));
        assert_eq!(distance(&a, &b), 0.75);
        assert_eq!(distance(&a, &a), 0.0);
    }
}
