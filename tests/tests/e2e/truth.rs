//! Programs whose call graph is known: every stack must be one that the program can have, whole.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use luaflame_tests::legal::{Edge, MAIN, Root, Truth, check, distance, leaf, own_shares, shares};
use luaflame_tests::stacks::Frame;

use crate::luaflame::{root, stacks};
use crate::programs::{Runtime, Target, run, script};
use crate::{Test, test};

/// A sample program, and what is known of it; the fields are those of [`Truth`].
pub struct Program {
    sample: &'static str,
    edges: &'static [Edge],
    seen: &'static [&'static [&'static str]],
    cut: Option<&'static str>,
}

/// Calls of every form.
pub const CALLS: Program = Program {
    sample: "calls.lua",
    edges: &[
        (MAIN, "fib", ""),
        ("fib", "fib", ""),
        (MAIN, "is_even", ""),
        ("is_even", "is_odd", ""),
        ("is_odd", "is_even", ""),
        ("is_even", "spin", ""),
        (MAIN, "tail", ""),
        // Tail calls: the caller has left no frame.
        (MAIN, "last", ""),
        (MAIN, "spin", ""),
        (MAIN, "varargs", ""),
        ("varargs", "count", ""),
        ("count", "spin", ""),
    ],
    seen: &[&[MAIN, "fib", "fib", "fib", "fib", "fib"], &[MAIN, "spin"], &[MAIN, "varargs", "count", "spin"]],
    cut: None,
};

const PROTECTED: Program = Program {
    sample: "protected.lua",
    edges: &[
        (MAIN, "outer", "pcall"),
        ("outer", "inner", "pcall"),
        ("inner", "spin", ""),
        (MAIN, "guarded", ""),
        ("guarded", "failing", "xpcall"),
        ("failing", "handler", "error ..."),
        ("handler", "spin", ""),
        (MAIN, "caught", ""),
        ("caught", "failing", "pcall"),
        ("failing", "spin", ""),
    ],
    seen: &[
        &[MAIN, "outer", "inner", "spin"],
        &[MAIN, "guarded", "failing", "spin"],
        &[MAIN, "guarded", "failing", "handler", "spin"],
        &[MAIN, "caught", "failing", "spin"],
    ],
    cut: None,
};

const METAMETHODS: Program = Program {
    sample: "metamethods.lua",
    edges: &[
        (MAIN, "index_it", ""),
        ("index_it", "on_index", ""),
        ("on_index", "spin", ""),
        (MAIN, "assign_it", ""),
        ("assign_it", "on_newindex", ""),
        ("on_newindex", "spin", ""),
        (MAIN, "call_it", ""),
        ("call_it", "on_call", ""),
        ("on_call", "spin", ""),
        (MAIN, "join_it", ""),
        ("join_it", "on_concat", ""),
        ("on_concat", "spin", ""),
        (MAIN, "compare_it", ""),
        ("compare_it", "on_less", ""),
        ("on_less", "spin", ""),
        (MAIN, "equal_it", ""),
        ("equal_it", "on_equal", ""),
        ("on_equal", "spin", ""),
        (MAIN, "add_it", ""),
        ("add_it", "on_add", ""),
        ("on_add", "spin", ""),
    ],
    seen: &[
        &[MAIN, "index_it", "on_index", "spin"],
        &[MAIN, "assign_it", "on_newindex", "spin"],
        &[MAIN, "call_it", "on_call", "spin"],
        &[MAIN, "join_it", "on_concat", "spin"],
        &[MAIN, "compare_it", "on_less", "spin"],
        &[MAIN, "equal_it", "on_equal", "spin"],
        &[MAIN, "add_it", "on_add", "spin"],
    ],
    cut: None,
};

const ITERATORS: Program = Program {
    sample: "iterators.lua",
    edges: &[
        (MAIN, "walk_range", ""),
        ("walk_range", "range", ""),
        ("walk_range", "step", ""),
        ("step", "spin", ""),
        (MAIN, "walk_down", ""),
        ("walk_down", "countdown", ""),
        ("walk_down", "next_down", ""),
        ("next_down", "spin", ""),
        (MAIN, "walk_table", ""),
        ("walk_table", "spin", ""),
    ],
    seen: &[
        &[MAIN, "walk_range", "step", "spin"],
        &[MAIN, "walk_down", "next_down", "spin"],
        &[MAIN, "walk_table", "spin"],
        &[MAIN, "walk_table"],
    ],
    cut: None,
};

const BUILTINS: Program = Program {
    sample: "builtins.lua",
    edges: &[
        (MAIN, "sort_numbers", ""),
        ("sort_numbers", "ascending", "table.sort ..."),
        ("ascending", "spin", ""),
        (MAIN, "replace_words", ""),
        ("replace_words", "replacement", "string.gsub"),
        ("replacement", "spin", ""),
        (MAIN, "visit_all", ""),
        ("visit_all", "visit", "table.foreachi"),
        ("visit", "spin", ""),
    ],
    seen: &[
        &[MAIN, "sort_numbers", "ascending", "spin"],
        &[MAIN, "replace_words", "replacement", "spin"],
        &[MAIN, "visit_all", "visit", "spin"],
    ],
    cut: None,
};

const COROUTINES: Program = Program {
    sample: "coroutines.lua",
    edges: &[
        (MAIN, "resumer", ""),
        ("resumer", "produce", "coroutine.resume"),
        ("produce", "spin", ""),
        (MAIN, "wrapper", ""),
        // The function that `coroutine.wrap` has made.
        ("wrapper", "generate", "*"),
        ("generate", "spin", ""),
        (MAIN, "nested", ""),
        ("nested", "middle", "coroutine.resume"),
        ("middle", "innermost", "coroutine.resume"),
        ("innermost", "spin", ""),
    ],
    seen: &[
        &[MAIN, "resumer", "produce", "spin"],
        &[MAIN, "wrapper", "generate", "spin"],
        &[MAIN, "nested", "middle", "innermost", "spin"],
    ],
    cut: None,
};

const FFI_CALLBACK: Program = Program {
    sample: "ffi_callback.lua",
    edges: &[(MAIN, "sort_numbers", ""), ("sort_numbers", "compare", "..."), ("compare", "spin", "")],
    seen: &[&[MAIN, "sort_numbers", "compare", "spin"]],
    cut: None,
};

/// Functions whose shares of the time are known.
pub const SHARES: Program = Program {
    sample: "shares.lua",
    edges: &[(MAIN, "half", ""), (MAIN, "quarter", ""), (MAIN, "fifth", ""), (MAIN, "twelfth", "")],
    seen: &[&[MAIN, "half"], &[MAIN, "quarter"], &[MAIN, "fifth"], &[MAIN, "twelfth"]],
    cut: None,
};

const DEEP: Program = Program {
    sample: "deep.lua",
    edges: &[
        (MAIN, "top", ""),
        ("top", "descend", ""),
        ("descend", "descend", ""),
        ("descend", "bottom", ""),
        ("bottom", "spin", ""),
    ],
    seen: &[],
    cut: Some("descend"),
};

/// Only for the hosts. A C function that Lua calls has one frame, under its name in Lua. `lua_call` and `lua_resume` end in a
/// jump into the VM, so that they have no frame while Lua runs; `lua_pcall` and `lua_cpcall` have one.
const BOUNDARIES: Program = Program {
    sample: "boundaries.lua",
    edges: &[
        (MAIN, "all", ""),
        ("all", "called", "host.call"),
        ("called", "spin", ""),
        ("all", "protected", "host.pcall &lua_pcall"),
        ("protected", "spin", ""),
        ("all", "c_protected", "host.cpcall &lua_cpcall &in_cpcall"),
        ("c_protected", "spin", ""),
        ("all", "resumed", "host.resume"),
        ("resumed", "spin", ""),
        ("all", "first", ""),
        ("first", "second", "host.call"),
        ("second", "third", "host.pcall &lua_pcall"),
        ("third", "resumed", "host.resume"),
    ],
    seen: &[
        &[MAIN, "all", "called", "spin"],
        &[MAIN, "all", "protected", "spin"],
        &[MAIN, "all", "c_protected", "spin"],
        &[MAIN, "all", "resumed", "spin"],
        &[MAIN, "all", "first", "second", "third", "resumed", "spin"],
    ],
    cut: None,
};

const EVERYWHERE: [Program; 9] =
    [CALLS, PROTECTED, METAMETHODS, ITERATORS, BUILTINS, COROUTINES, FFI_CALLBACK, SHARES, DEEP];

impl Program {
    /// What is known of its stacks when that runtime runs it.
    pub fn truth(&self, runtime: Runtime) -> Result<Truth<'static>> {
        Ok(Truth {
            script: script(self.sample),
            root: runtime.root()?,
            entry: if runtime == Runtime::CommandLine { "..." } else { "... &main &run_script &lua_pcall" },
            start: &[MAIN],
            edges: self.edges,
            seen: self.seen,
            library: None,
            cut: self.cut,
            outside: false,
            stripped: runtime.is_stripped(),
        })
    }
}

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let (luajit2, rolling) = (Runtime::Luajit2 { stripped: true }, Runtime::Rolling { stripped: true });
    let (luajit2_named, rolling_named) = (Runtime::Luajit2 { stripped: false }, Runtime::Rolling { stripped: false });
    let mut tests = Vec::new();
    for jit in [false, true] {
        let mode = if jit { "jit" } else { "interpreter" };
        let mut add = |runtime: Runtime, program: Program| {
            let name = program.sample.trim_end_matches(".lua");
            tests.push(test(format!("truth::{name}::{}::{mode}", runtime.name()), move || {
                known(runtime, jit, &program)
            }));
        };
        for runtime in [Runtime::CommandLine, luajit2, rolling] {
            for program in EVERYWHERE {
                add(runtime, program);
            }
        }
        for runtime in [luajit2, rolling, luajit2_named, rolling_named] {
            add(runtime, BOUNDARIES);
        }
        for runtime in [luajit2, rolling_named] {
            for kind in ["vms", "threads"] {
                tests.push(test(format!("truth::{kind}::{}::{mode}", runtime.name()), move || {
                    several(runtime, jit, kind)
                }));
            }
        }
        tests.push(test(format!("shares::known::{mode}"), move || known_shares(jit)));
        tests.push(test(format!("shares::as_jit_p_says::{mode}"), move || as_jit_p_says(jit)));
    }
    tests
}

fn known(runtime: Runtime, jit: bool, program: &Program) -> Result<()> {
    let target = Target::sample(runtime, jit, program.sample, &[])?;
    let stacks = stacks(target.pid(), 2, &[])?;
    check(&stacks, &program.truth(runtime)?)?;
    if let Some(function) = program.cut {
        let cut = stacks.iter().find(|stack| stack.frames.iter().any(|frame| matches!(frame, Frame::Marker(_))));
        let cut = cut.with_context(|| format!("the recursion of `{function}` is nowhere marked as cut"))?;
        let kept = cut.frames.iter().filter(|frame| frame.lua().is_some()).count();
        ensure!(kept >= 200, "only {kept} Lua frames are kept of a stack of 5,000");
        let deep = stacks.iter().any(|stack| leaf(stack).is_some_and(|function| function.name == "spin"));
        ensure!(deep, "the leaf of the deep recursion was never seen");
    }
    Ok(())
}

/// Several VMs in a process, in one thread or each in its own.
fn several(runtime: Runtime, jit: bool, kind: &str) -> Result<()> {
    let threads = kind == "threads";
    let mut command = run(runtime, jit)?;
    command.args([if threads { "--threads" } else { "--vms" }, "4"]).arg(script("threads.lua"));
    let target = Target::start(&mut command)?;
    let stacks = stacks(target.pid(), 2, &[])?;
    check(
        &stacks,
        &Truth {
            script: script("threads.lua"),
            root: if threads { Root::Thread } else { runtime.root()? },
            entry: if threads { "... &run_thread &run_step &lua_pcall" } else { "... &main &run_step &lua_pcall" },
            start: &["step"],
            edges: &[("step", "even", ""), ("step", "odd", ""), ("even", "spin", ""), ("odd", "spin", "")],
            seen: &[&["step", "even", "spin"], &["step", "odd", "spin"]],
            library: None,
            cut: None,
            // Between two calls of `step`.
            outside: true,
            stripped: runtime.is_stripped(),
        },
    )
}

fn known_shares(jit: bool) -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, jit, "shares.lua", &[])?;
    let measured = own_shares(&stacks(target.pid(), 4, &["--lua-only"])?);
    for (name, share) in [("half", 0.48), ("quarter", 0.24), ("fifth", 0.20), ("twelfth", 0.08)] {
        let found = measured.get(name).copied().unwrap_or(0.0);
        // 4,000 samples: three standard errors are at most 0.024; the rest is what the calls themselves take.
        ensure!((found - share).abs() < 0.035, "`{name}` takes {share} of the time, {found} was measured");
    }
    Ok(())
}

/// LuaJIT's own profiler as witness: both watch the same run.
fn as_jit_p_says(jit: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let report = folder.path().join("report");
    let modules = root().join("target/luajit/usr/share");
    let modules =
        fs::read_dir(&modules)?.flatten().map(|entry| entry.path()).find(|path| path.join("jit/p.lua").is_file());
    let modules = modules.context("LuaJIT's own modules are not in target/luajit")?;
    let mut command = run(Runtime::CommandLine, jit)?;
    command.env("LUA_PATH", format!("{}/?.lua;;", modules.display()));
    // Function, raw counts, no smallest share, every millisecond.
    command.arg(format!("-jp=frm0i1,{}", report.display())).arg(script("shares.lua")).arg("6");
    let mut target = Target::start(&mut command)?;
    let measured = own_shares(&stacks(target.pid(), 5, &["--lua-only"])?);
    target.wait_for_end()?;

    let text = fs::read_to_string(&report).context("jit.p wrote no report")?;
    let mut counts = HashMap::new();
    for line in text.lines() {
        if let Some((count, name)) = line.trim_start().split_once("  ")
            && let Ok(count) = count.parse::<u64>()
        {
            *counts.entry(name.to_owned()).or_default() += count;
        }
    }
    ensure!(!counts.is_empty(), "the report of jit.p cannot be read:\n{text}");
    let witness = shares(counts);
    let distance = distance(&measured, &witness);
    // Its timer gives some 1,500 samples: that alone makes 0.02.
    ensure!(distance < 0.06, "shares differ by {distance:.3} from those of jit.p: {measured:?} and {witness:?}");
    Ok(())
}
