//! Legal stacks: what a program whose call graph is known may be seen doing, and whether it was.
//!
//! What is between a caller and a callee is a pattern, words separated by blanks: a name stands for the frame of that label; `*` for
//! any one frame that is no Lua function; `...` for one or more of them; `&name` for the native function of that name, which in a
//! stripped program may be any one frame of the shape `module+0x1f`; `@` for one or more Lua functions of a library. An empty pattern
//! is a direct call.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use anyhow::{Context, Result, ensure};

use crate::graph::{Call, Definition, Graph, MAIN};
use crate::stacks::{Frame, Function, Stack};

/// What is known of a program.
///
/// A Lua function is known by its name, and its lines must be in its definition. The code of one of nginx's directives is known by
/// the directive's name, such as `content_by_lua`.
#[derive(Debug, Clone)]
pub struct Truth<'a> {
    /// Its functions and calls.
    pub graph: &'a Graph,
    /// Where every stack begins.
    pub root: Root,
    /// The functions that the program calls, each with what there is between the root and it, a pattern. `@` stands for those of
    /// the library.
    pub start: Vec<(&'a str, &'a str)>,
    /// Stacks that were seen for sure if anything was: the names of their Lua functions, root first, without the main chunk
    /// and the library.
    pub seen: Vec<Vec<&'a str>>,
    /// A part of the path of a library's files: what the library does is not known, but it calls the functions only where
    /// a pattern says so. The files of the functions are no library.
    pub library: Option<&'a str>,
    /// Functions that call each other so deeply that frames may be cut out between two of them, which a marker says.
    pub cut: Vec<&'a str>,
    /// A function that may be called in any line of any function: a hook.
    pub hook: Option<&'a str>,
    /// Whether the program also does something else than run Lua.
    pub outside: bool,
    /// Whether native functions have no names because the program is stripped.
    pub stripped: bool,
}

impl Truth<'_> {
    fn is_of_library(&self, function: &Function) -> bool {
        let known = || self.graph.functions.values().any(|definition| function.is_in(&definition.file));
        self.library.is_some_and(|library| function.file.contains(library)) && !known()
    }
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

/// What was found in the stacks of a program. All numbers are of samples.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// All of them.
    pub samples: u64,
    /// Those whose stack the program cannot have.
    pub illegal: u64,
    /// Some of these stacks, with what is wrong with them.
    pub examples: Vec<String>,
    /// Those whose stack lacks something, by what it lacks. None of them is illegal.
    pub incomplete: BTreeMap<String, u64>,
    /// Those whose stack was cut in a recursion that may be cut. They count as complete.
    pub cut: u64,
    /// Those with a frame that has no name: a Lua function of which only the place is known, or native code, unless the program
    /// is stripped.
    pub unresolved: u64,
    /// Those with a Lua function whose line is not known, other than next to a cut: the line of a function is known by its callee.
    pub unknown_lines: u64,
    /// Those that were taken and lost; they are not among the others.
    pub lost: u64,
    /// Stacks that were to be seen and were not.
    pub unseen: Vec<String>,
}

/// Most reasons of which a stack is kept, of those that are not legal and of those that are not complete.
const EXAMPLES: usize = 3;

impl Verdict {
    /// Those whose stack lacks something.
    pub fn incomplete(&self) -> u64 {
        self.incomplete.values().sum()
    }

    /// The share of samples whose stack is complete, from the root to the leaf; 1 of none.
    pub fn completeness(&self) -> f64 {
        1.0 - self.incomplete() as f64 / self.samples.max(1) as f64
    }

    /// Fails unless every stack is legal, all were seen that had to be, and 999 of 1,000 are complete, as far as so few
    /// samples can tell: more than four standard deviations above what is allowed are no chance.
    ///
    /// # Errors
    /// When one of that is not so; the error shows the first few stacks and says what is wrong with them.
    pub fn holds(&self) -> Result<()> {
        let Verdict { samples, illegal, .. } = self;
        ensure!(*samples > 0, "there are no stacks");
        ensure!(
            *illegal == 0,
            "of {samples} samples {illegal} have a stack that is not legal, such as{}",
            self.shown()
        );
        ensure!(self.unseen.is_empty(), "never seen: {}", self.unseen.join("; "));
        let (incomplete, allowed) = (self.incomplete(), *samples as f64 / 1000.0);
        ensure!(
            incomplete as f64 <= allowed + 4.0 * allowed.sqrt(),
            "of {samples} samples {incomplete} have a stack that is not complete, such as{}",
            self.shown()
        );
        Ok(())
    }

    fn shown(&self) -> String {
        self.examples.iter().map(|example| format!("\n  {example}")).collect()
    }
}

impl AddAssign for Verdict {
    fn add_assign(&mut self, other: Verdict) {
        self.samples += other.samples;
        self.illegal += other.illegal;
        self.cut += other.cut;
        self.unresolved += other.unresolved;
        self.unknown_lines += other.unknown_lines;
        self.lost += other.lost;
        self.unseen.extend(other.unseen);
        for (reason, count) in other.incomplete {
            *self.incomplete.entry(reason).or_default() += count;
        }
        self.examples.extend(other.examples);
    }
}

/// Checks that every stack is one that the program can have, complete from the root to the leaf, with nothing unknown in
/// it, and that each of [`Truth::seen`] was seen. The stacks must be with the line that each Lua function was in.
///
/// # Errors
/// As [`Verdict::holds`].
pub fn check(stacks: &[Stack], truth: &Truth<'_>) -> Result<()> {
    judge(stacks, truth).holds()
}

/// Holds stacks against what is known of the program. They must be with the line that each Lua function was in.
pub fn judge(stacks: &[Stack], truth: &Truth<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    // One for each reason.
    let (mut wrong, mut lacking) = (BTreeMap::new(), BTreeMap::new());
    for stack in stacks {
        verdict.samples += stack.count;
        let nameless = |frame: &Frame| match frame.lua() {
            Some(function) => node(function).is_empty(),
            None => frame.is_place() && !truth.stripped,
        };
        if stack.frames.iter().any(nameless) {
            verdict.unresolved += stack.count;
        }
        let lineless = |(at, frame): (usize, &Frame)| {
            let cut = matches!(stack.frames.get(at + 1), Some(Frame::Marker(name)) if name.ends_with("cut]"));
            !cut && frame.lua().is_some_and(|function| function.line.is_none())
        };
        if stack.frames.iter().enumerate().any(lineless) {
            verdict.unknown_lines += stack.count;
        }
        match Walk::legal(stack, truth) {
            Ok(Walk { lacks: Some(reason), .. }) => {
                *verdict.incomplete.entry(reason.clone()).or_default() += stack.count;
                lacking.entry(reason).or_insert(stack);
            }
            Ok(walk) if walk.cut_once => verdict.cut += stack.count,
            Ok(_) => {}
            Err(reason) => {
                verdict.illegal += stack.count;
                wrong.entry(format!("{reason:#}")).or_insert(stack);
            }
        }
    }
    let reasons = wrong.into_iter().take(EXAMPLES).chain(lacking.into_iter().take(EXAMPLES));
    verdict.examples.extend(reasons.map(|(reason, stack)| format!("{reason}:\n    {stack}")));
    for path in &truth.seen {
        let same = |stack: &Stack| {
            let functions =
                stack.frames.iter().filter_map(Frame::lua).filter(|function| !truth.is_of_library(function));
            functions.map(node).filter(|name| *name != MAIN).eq(path.iter().copied())
        };
        if !stacks.iter().any(same) {
            verdict.unseen.push(path.join(" > "));
        }
    }
    verdict
}

/// The name of a function in a call graph: the last part of the name, which may say where it is stored (`app.handle`).
fn node(function: &Function) -> &str {
    match function.directive() {
        Some(directive) if function.name.is_empty() || function.name == MAIN => directive,
        _ => function.name.rsplit(['.', ':']).next().unwrap_or_default(),
    }
}

/// The leaf-most Lua function of a stack.
pub fn leaf(stack: &Stack) -> Option<&Function> {
    stack.frames.iter().rev().find_map(Frame::lua)
}

/// A walk over a stack from its root.
struct Walk<'a> {
    truth: &'a Truth<'a>,
    /// The last Lua function passed, with the line that it is in when that is known.
    caller: Option<(&'a str, Option<u32>)>,
    /// The frames since then that are not of the call graph.
    between: Vec<Between<'a>>,
    /// Whether a marker since then says that frames were cut out of a recursion.
    cut: bool,
    /// Whether there was such a marker at all.
    cut_once: bool,
    /// Whether something is missing since then.
    gap: bool,
    /// What the stack lacks first.
    lacks: Option<String>,
}

/// A frame that is not of the call graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between<'a> {
    /// No Lua function, with its label.
    Other(&'a str),
    /// A Lua function of the library.
    Library,
}

impl<'a> Walk<'a> {
    /// Walks to the leaf; fails when the stack is not legal.
    fn legal(stack: &'a Stack, truth: &'a Truth<'a>) -> Result<Walk<'a>> {
        let mut walk =
            Walk { truth, caller: None, between: Vec::new(), cut: false, cut_once: false, gap: false, lacks: None };
        let mut frames = stack.frames.iter();
        match frames.clone().next().context("it is empty")? {
            Frame::Other(label) if truth.root.is(label) => drop(frames.next()),
            // It says itself what it lacks.
            Frame::Marker(_) => {}
            _ => walk.lack("no root"),
        }
        let mut kernel = false;
        for frame in frames {
            ensure!(!kernel || matches!(frame, Frame::Kernel(_)), "user code is called by the kernel");
            match frame {
                Frame::Marker(name) => walk.mark(name),
                Frame::Kernel(_) => kernel = true,
                Frame::Other(name) => walk.between.push(Between::Other(name)),
                Frame::Lua(function) => walk.call(function)?,
            }
        }
        let library = walk.between.contains(&Between::Library);
        if walk.caller.is_none() && library && !walk.gap {
            let before = walk.between.split(|frame| *frame == Between::Library).next().unwrap_or_default();
            let mut starts = truth.start.iter().filter(|(start, _)| *start == "@");
            ensure!(
                starts.any(|(_, entry)| matches(entry, before, truth.stripped)),
                "the library was called by no Lua function but by {before:?}"
            );
        }
        if walk.caller.is_none() && !library && !truth.outside {
            walk.lack("no Lua function");
        }
        if walk.cut {
            walk.lack("cut at the leaf");
        }
        Ok(walk)
    }

    /// Something is missing before the next frame.
    fn lack(&mut self, reason: &str) {
        self.lacks.get_or_insert_with(|| reason.to_owned());
        self.gap = true;
    }

    fn mark(&mut self, name: &str) {
        let may_be_cut = self.caller.is_some_and(|(caller, _)| self.truth.cut.contains(&caller));
        if name.ends_with("cut]") && may_be_cut {
            (self.cut, self.cut_once) = (true, true);
        } else {
            self.lack(name);
        }
    }

    fn call(&mut self, function: &'a Function) -> Result<()> {
        if self.truth.is_of_library(function) {
            self.between.push(Between::Library);
            return Ok(());
        }
        if node(function).is_empty() && function.line.is_none() {
            self.lack("a Lua function without a name and a line");
            return Ok(());
        }
        let (callee, line) = self.place(function)?;
        let between = std::mem::take(&mut self.between);
        let (cut, gap) = (std::mem::take(&mut self.cut), std::mem::take(&mut self.gap));
        let allowed = |pattern: &str| matches(pattern, &between, self.truth.stripped);
        match self.caller.replace((callee, line)) {
            _ if gap => {}
            Some((caller, _)) if cut => {
                ensure!(self.truth.cut.contains(&callee), "a cut leads from `{caller}` to `{callee}`");
            }
            Some(_) if self.truth.hook == Some(callee) && !between.is_empty() => {}
            Some((caller, line)) => {
                let calls = |call: &&Call| call.caller == caller && call.callee == callee && allowed(&call.through);
                let mut calls = self.truth.graph.calls.iter().filter(calls).peekable();
                ensure!(calls.peek().is_some(), "`{caller}` does not call `{callee}` through {between:?}");
                if let Some(line) = line {
                    ensure!(calls.any(|call| call.line == line), "`{caller}` does not call `{callee}` in line {line}");
                }
            }
            None => {
                let starts = || self.truth.start.iter().filter(|(start, _)| *start == callee).map(|(_, entry)| *entry);
                let entries = starts().collect::<Vec<_>>().join("` or `");
                ensure!(starts().next().is_some(), "`{callee}` was not called by any Lua function");
                ensure!(
                    starts().any(allowed),
                    "the way from the root to `{callee}` is not `{entries}` but {between:?}"
                );
            }
        }
        Ok(())
    }

    /// The function's name in the graph, and the line of its source that it is in.
    fn place(&self, function: &'a Function) -> Result<(&'a str, Option<u32>)> {
        let name = match node(function) {
            // Nothing but its place is known, which is enough to tell what it is.
            "" => function.line.and_then(|line| self.truth.graph.at(function.file_name(), line)).unwrap_or_default(),
            name => name,
        };
        let Definition { file, line, end } =
            self.truth.graph.functions.get(name).with_context(|| format!("there is no `{function}`"))?;
        let directive = function.directive().is_some();
        ensure!(directive || function.is_in(file), "`{function}` is of another program");
        // The lines of a directive's code are counted from where it begins.
        let at = function.line.map(|at| if directive { line + at - at.min(1) } else { at });
        ensure!(
            at.is_none_or(|at| (*line..=*end).contains(&at) && (at > 0 || name == MAIN)),
            "`{function}` is in lines {line} to {end}"
        );
        Ok((name, at))
    }
}

/// Whether the frames are as the pattern says.
fn matches(pattern: &str, frames: &[Between<'_>], stripped: bool) -> bool {
    let words: Vec<&str> = pattern.split_whitespace().collect();
    matches_words(&words, frames, stripped)
}

fn matches_words(words: &[&str], frames: &[Between<'_>], stripped: bool) -> bool {
    match (words, frames) {
        ([], []) => true,
        ([], _) | (_, []) => false,
        ([word @ ("..." | "@"), rest @ ..], [frame, more @ ..]) => {
            (*word == "@") == (*frame == Between::Library)
                && (matches_words(rest, more, stripped) || matches_words(words, more, stripped))
        }
        ([word, rest @ ..], [Between::Other(frame), more @ ..]) => {
            let same = match word.strip_prefix('&') {
                // A stripped library still exports the functions of its API.
                Some(name) => *frame == name || stripped && frame.contains("+0x"),
                None => *word == "*" || word == frame,
            };
            same && matches_words(rest, more, stripped)
        }
        (_, [Between::Library, ..]) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::parse;

    const SCRIPT: &str = "local function fib(n)\n    fib(n) --> fib\nend\nlocal function safe()\n    \
                          table.sort({}, less) --> less through table.sort ...\nend\nfunction less(a, b)\nend\n\
                          fib(1) --> fib\npcall(safe) --> safe through pcall\nlist.sort(less) --> less through @ table.sort\n";
    const CONFIGURATION: &str = "content_by_lua_block {\n    t.fib(1) --> fib\n}\n";

    fn judge_one(stack: &str, cut: &[&str], seen: &[&[&str]]) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let files = ["t.lua", "nginx.conf"].map(|name| folder.path().join(name));
        std::fs::write(&files[0], SCRIPT).unwrap();
        std::fs::write(&files[1], CONFIGURATION).unwrap();
        let graph = Graph::read(&[&files[0], &files[1]]).unwrap();
        let truth = Truth {
            graph: &graph,
            root: Root::Process(0x1000),
            start: vec![(MAIN, "... &lua_pcall"), ("content_by_lua", "... &lua_pcall"), ("@", "... &lua_call")],
            seen: seen.iter().map(|path| path.to_vec()).collect(),
            library: Some("/lib/"),
            cut: cut.to_vec(),
            hook: Some("less"),
            outside: false,
            stripped: false,
        };
        judge(&parse(stack).unwrap(), &truth)
    }

    #[test]
    fn paths_of_the_call_graph_are_legal() {
        for stack in [
            "_start;main;lua_pcall;main chunk (t.lua:3) 1",
            "a+0x1005;main;run;lua_pcall;main chunk (/x/t.lua:9);fib (/x/t.lua:2);fib (/x/t.lua:1)_[j];lj_vm_foo 2",
            "_start;main;lua_pcall;main chunk (t.lua:10);pcall;safe (t.lua:5);table.sort;auxsort;less (t.lua:7);read_[k] 3",
            "_start;main;lua_pcall;main chunk (t.lua:9);fib (t.lua:1);insert (/lib/list.lua:3);memmove 3",
            "_start;main;lua_pcall;content_by_lua(nginx.conf:12):2;t.fib (t.lua:1) 3",
            "_start;main;lua_pcall;main chunk (content_by_lua(nginx.conf:12):1) 3",
            "_start;main;lua_pcall;main chunk (t.lua:?);fib (t.lua:?) 3",
            "_start;main;lua_pcall;main chunk (t.lua:9);t.lua:2;t.lua:3 3",
            "_start;main;lua_pcall;main chunk (t.lua:11);x (/lib/x.lua:1);y (/lib/x.lua:2)_[i];table.sort;less (t.lua:7) 1",
            "_start;main;lua_pcall;main chunk (/lib/t.lua:9);fib (/lib/t.lua:1) 1",
            "_start;main;lua_call;x (/lib/x.lua:1);table.sort 1",
            // A hook may be called in any line.
            "_start;main;lua_pcall;main chunk (t.lua:9);fib (t.lua:3);hookf;less (t.lua:8) 1",
        ] {
            judge_one(stack, &[], &[]).holds().unwrap_or_else(|error| panic!("{error:#}"));
        }
    }

    #[test]
    fn what_contradicts_the_call_graph_is_illegal() {
        for (stack, reason) in [
            ("_start;main;main chunk (t.lua:9) 1", "the way from the root"),
            ("_start;main;lua_pcall;fib (t.lua:1) 1", "not called by"),
            ("_start;main;lua_pcall;main chunk (t.lua:10);safe (t.lua:5) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua:10);fib (t.lua:2) 1", "in line 10"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);fib (t.lua:3);fib (t.lua:2) 1", "in line 3"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);lua_call;fib (t.lua:1) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua:10);pcall;safe (t.lua:5);less (t.lua:7) 1", "does not call"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);fib (t.lua:4) 1", "in lines 1 to 3"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);fob (t.lua:1) 1", "there is no"),
            ("_start;main;lua_pcall;main chunk (u.lua:9) 1", "another program"),
            (
                "_start;main;lua_pcall;main chunk (t.lua:9);x (/lib/x.lua:1);fib (t.lua:1) 1",
                "does not call `fib` through",
            ),
            ("_start;main;lua_pcall;x (/lib/x.lua:1) 1", "called by no Lua function"),
            ("_start;main;lua_pcall;x (/lib/x.lua:1);main chunk (t.lua:9) 1", "the way from the root"),
            ("_start;main;read_[k];lua_pcall;main chunk (t.lua:9) 1", "kernel"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);[unknown];fib (t.lua:2);less (t.lua:7) 1", "does not call"),
        ] {
            let verdict = judge_one(stack, &[], &[]);
            assert_eq!(verdict.illegal, 1, "{stack}");
            assert!(verdict.examples[0].contains(reason), "{stack}: {:?}", verdict.examples);
        }
    }

    #[test]
    fn what_says_too_little_is_incomplete() {
        for (stack, reason) in [
            ("main;lua_pcall;main chunk (t.lua:9) 1", "no root"),
            ("a+0x1055;main;lua_pcall;main chunk (t.lua:9) 1", "no root"),
            ("[unknown caller];lua_pcall;main chunk (t.lua:9) 1", "[unknown caller]"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);[unknown] 1", "[unknown]"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);[unknown];less (t.lua:7) 1", "[unknown]"),
            (
                "_start;main;lua_pcall;main chunk (t.lua:9);t.lua:?;less (t.lua:7) 1",
                "a Lua function without a name and a line",
            ),
            ("_start;main 1", "no Lua function"),
            ("_start;main;lua_pcall;main chunk (t.lua:9);[Lua frames cut];fib (t.lua:1) 1", "[Lua frames cut]"),
        ] {
            let verdict = judge_one(stack, &["fib"], &[]);
            assert_eq!(verdict.incomplete, BTreeMap::from([(reason.to_owned(), 1)]), "{stack}");
            assert_eq!((verdict.illegal, verdict.completeness()), (0, 0.0));
            assert!(verdict.holds().is_err(), "{stack}");
        }
    }

    #[test]
    fn a_cut_is_legal_only_in_the_recursion_that_is_cut() {
        let start = "_start;main;lua_pcall;main chunk (t.lua:9)";
        let cut = format!("{start};fib (t.lua:2);[3 frames cut];fib (t.lua:1) 1");
        let verdict = judge_one(&cut, &["fib"], &[]);
        assert_eq!((verdict.cut, verdict.illegal, verdict.incomplete()), (1, 0, 0));
        let next_to_it = judge_one(&format!("{start};fib (t.lua:?);[3 frames cut];fib (t.lua:?) 1"), &["fib"], &[]);
        assert_eq!(next_to_it.unknown_lines, 1);
        let next_to_it = judge_one(&format!("{start};fib (t.lua:?);[3 frames cut];fib (t.lua:1) 1"), &["fib"], &[]);
        assert_eq!(next_to_it.unknown_lines, 0);
        assert_eq!(judge_one(&cut, &[], &[]).incomplete(), 1);
        assert_eq!(judge_one(&format!("{start};fib (t.lua:2);[x];fib (t.lua:1) 1"), &["fib"], &[]).incomplete(), 1);
        assert_eq!(judge_one(&format!("{start};fib (t.lua:2);[x cut];safe (t.lua:5) 1"), &["fib"], &[]).illegal, 1);
        assert_eq!(judge_one(&format!("{start};fib (t.lua:2);[x cut] 1"), &["fib"], &[]).incomplete(), 1);
    }

    #[test]
    fn what_must_be_seen_is_a_whole_stack() {
        let stack = "_start;main;lua_pcall;main chunk (t.lua:9);fib (t.lua:2);fib (t.lua:1) 1";
        assert!(judge_one(stack, &[], &[&["fib", "fib"]]).holds().is_ok());
        assert!(judge_one(stack, &[], &[&["fib"]]).holds().is_err());
    }

    #[test]
    fn verdicts_of_several_runs_add_up() {
        let mut sum = judge_one("_start;main 2", &[], &[]);
        sum += judge_one("_start;main;lua_pcall;main chunk (t.lua:?) 3\n_start;main;main chunk (t.lua:9) 1", &[], &[]);
        sum += judge_one("_start;main;lua_pcall;main chunk (t.lua:9);t.lua:2 4\n", &[], &[]);
        sum += judge_one("_start;a+0x1;lua_pcall;main chunk (t.lua:9) 8\n", &[], &[]);
        assert_eq!((sum.samples, sum.illegal, sum.incomplete(), sum.unknown_lines), (18, 1, 2, 3));
        assert_eq!(sum.unresolved, 12);
        assert_eq!(sum.examples.len(), 2);
    }

    #[test]
    fn natives_of_stripped_programs_are_places_in_them() {
        let between = |pattern: &str, frames: &[&'static str], stripped: bool| {
            let frames: Vec<_> = frames.iter().map(|frame| Between::Other(frame)).collect();
            matches(pattern, &frames, stripped)
        };
        assert!(between("host.call &host_call &lua_call", &["host.call", "host_call", "lua_call"], false));
        assert!(!between("host.call &host_call &lua_call", &["host.call", "host+0x12", "host+0x55"], false));
        assert!(between("host.call &host_call &lua_call", &["host.call", "host+0x12", "host+0x55"], true));
        assert!(!between("host.call &host_call &lua_call", &["host.call", "host+0x12"], true));
    }

    #[test]
    fn a_library_is_passed_only_where_a_pattern_says_so() {
        let frames = [Between::Other("lua_pcall"), Between::Library, Between::Library];
        assert!(matches("lua_pcall @", &frames, false));
        assert!(matches("... @", &frames, false));
        for pattern in ["...", "* * *", "lua_pcall", "lua_pcall @ *", "@", "&x @"] {
            assert!(!matches(pattern, &frames, false), "{pattern}");
        }
    }
}
