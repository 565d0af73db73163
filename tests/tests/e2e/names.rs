//! Each function has one name, the right one, whoever calls it and wherever its memory was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use luaflame_tests::luaflame::stacks;
use luaflame_tests::nginx::Nginx;
use luaflame_tests::paths::root;
use luaflame_tests::programs::{Mode, Runtime, Target};
use luaflame_tests::stacks::{Frame, Stack};

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    let mut tests = Vec::new();
    for (name, mode) in [("interpreter", Mode::Interpreter), ("jit", Mode::Jit)] {
        tests.push(test(format!("names::definitions::{name}"), move || definitions(mode)));
        tests.push(test(format!("names::module::{name}"), move || module(mode)));
        tests.push(test(format!("names::reused_memory::{name}"), move || reused_memory(mode)));
    }
    tests.push(test("names::reused_machine_code", reused_machine_code));
    tests.push(test("names::library", library));
    tests.push(test("names::chunks", chunks));
    tests.push(test("names::stripped", stripped));
    tests.push(test("names::changed_source", changed_source));
    tests.push(test("names::nginx", nginx));
    tests
}

/// The label of a frame, without what says how it was run.
fn label(frame: &Frame) -> String {
    match frame {
        Frame::Lua(function) => {
            let line = match function.line {
                Some(0) => String::new(),
                Some(line) => format!(":{line}"),
                None => ":?".to_owned(),
            };
            let place = format!("{}{line}", function.file);
            if function.name.is_empty() { place } else { format!("{} ({place})", function.name) }
        }
        Frame::Other(name) => name.strip_suffix("_[j]").unwrap_or(name).to_owned(),
        Frame::Kernel(name) | Frame::Marker(name) => name.clone(),
    }
}

/// Every label with the samples that it is in.
fn labels(stacks: &[Stack]) -> BTreeMap<String, u64> {
    let mut labels = BTreeMap::new();
    for stack in stacks {
        for label in stack.frames.iter().map(label).collect::<BTreeSet<_>>() {
            *labels.entry(label).or_default() += stack.count;
        }
    }
    labels
}

/// The labels that the comments behind `-->` in a script say, for a script that is shown as `file`.
fn written(script: &Path, file: &str) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(script).with_context(|| format!("{} could not be read", script.display()))?;
    let mut labels = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        let Some((_, names)) = line.split_once("-->").filter(|(code, _)| code.contains(['(', ')'])) else { continue };
        for name in names.split(", ").map(str::trim) {
            let place = format!("{file}:{number}");
            labels.insert(if name.is_empty() { place } else { format!("{name} ({place})") });
        }
    }
    Ok(labels)
}

/// Fails unless the labels of functions in `file` are the `expected` ones and its main chunk.
fn check(stacks: &[Stack], file: &str, expected: &BTreeSet<String>) -> Result<()> {
    let of_file = |label: &&String| label.contains(file) && **label != format!("main chunk ({file})");
    let seen: BTreeSet<String> = labels(stacks).keys().filter(of_file).cloned().collect();
    let wrong: Vec<_> = seen.difference(expected).collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    ensure!(
        wrong.is_empty() && missing.is_empty(),
        "these names are wrong: {wrong:?}; these were not seen: {missing:?}"
    );
    Ok(())
}

/// Starts one of the programs that are about names.
fn started(mode: Mode, name: &str, arguments: &[&str]) -> Result<Target> {
    let program = root().join("tests/names").join(name);
    Target::start(Runtime::CommandLine.command(mode)?.arg(program).args(arguments))
}

/// By a relative path, as most programs are started.
fn definitions(mode: Mode) -> Result<()> {
    const FILE: &str = "tests/names/names.lua";
    let target = Target::start(Runtime::CommandLine.command(mode)?.current_dir(root()).arg(FILE))?;
    check(&stacks(target.pid(), 5, &[])?, FILE, &written(&root().join(FILE), FILE)?)
}

/// What starts the module `shop`, which is in the working directory.
const SHOP: &str = "package.path = './?.lua'\nlocal shop = require 'shop'\nio.write('ready\\n')\nio.flush()\n\
                    local id = 0\nwhile true do\n    id = id + 1\n    shop.serve(id)\nend\n";

/// Starts the program that uses the module, with the module's text as given, in a folder.
fn shop(folder: &Path, mode: Mode, text: &str) -> Result<Target> {
    fs::write(folder.join("shop.lua"), text)?;
    fs::write(folder.join("main.lua"), SHOP)?;
    Target::start(Runtime::CommandLine.command(mode)?.current_dir(folder).arg("main.lua"))
}

fn shop_script() -> std::path::PathBuf {
    root().join("tests/names/shop.lua")
}

/// Functions of a module, under whatever names they are stored.
fn module(mode: Mode) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let target = shop(folder.path(), mode, &fs::read_to_string(shop_script())?)?;
    check(&stacks(target.pid(), 4, &[])?, "./shop.lua", &written(&shop_script(), "./shop.lua")?)
}

/// A file that is changed, deleted, or too large to be looked at says nothing any more; no name is better than one that
/// the function did not have when it was loaded.
fn changed_source() -> Result<()> {
    let text = fs::read_to_string(shop_script())?;
    // What the bytecode knows: the names in the module's table, and of the variables that hold functions.
    let expected = |line: &str| {
        let number = text.lines().position(|text| text.contains(line)).context("the line is in the module")? + 1;
        anyhow::Ok(format!("(./shop.lua:{number})"))
    };
    let known = [
        format!("shop.public {}", expected("function M.public(")?),
        format!("burn {}", expected("local function burn(")?),
        format!("request {}", expected("local function request(")?),
    ];
    let renamed = text
        .replace("M.public(", "M.renamed(")
        .replace("burn(", "grilled(")
        .replace("request(", "renamed(")
        .replace("helper", "renamed");
    type Change<'a> = &'a dyn Fn(&Path) -> std::io::Result<()>;
    let changes: [(&str, Change<'_>); 3] = [
        ("changed", &|file| fs::write(file, &renamed)),
        ("replaced", &|file| {
            let other = file.with_extension("new");
            fs::write(&other, &renamed)?;
            let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            fs::File::options().append(true).open(&other)?.set_modified(long_ago)?;
            fs::rename(other, file)
        }),
        ("deleted", &|file| fs::remove_file(file)),
    ];
    for (how, change) in changes {
        let folder = tempfile::tempdir()?;
        let target = shop(folder.path(), Mode::Jit, &text)?;
        // Longer than the hundredth of a second to which the start of a process is known.
        target.wait_for_work(2)?;
        change(&folder.path().join("shop.lua"))?;
        let labels = labels(&stacks(target.pid(), 2, &[])?);
        let wrong: Vec<_> =
            labels.keys().filter(|label| label.contains("renamed") || label.contains("grilled")).collect();
        ensure!(wrong.is_empty(), "names of a {how} file: {wrong:?}");
        for name in &known {
            ensure!(labels.contains_key(name), "{name} was not seen with a {how} file: {:?}", labels.keys());
        }
    }
    let folder = tempfile::tempdir()?;
    let long = format!("{text}--{}\n", "x".repeat(9 << 20));
    let labels = labels(&stacks(shop(folder.path(), Mode::Jit, &long)?.pid(), 2, &[])?);
    for name in &known {
        ensure!(labels.contains_key(name), "{name} was not seen with a large file: {:?}", labels.keys());
    }
    Ok(())
}

/// Chunk names of every kind.
fn chunks() -> Result<()> {
    const TEXT: &str =
        "local function named(n) local sum = 0 for i = 1, n do sum = sum + i % 7 end return sum end return named";
    const SHOWN: &str = "local function named(n) local sum = 0 for i =...";
    let folder = tempfile::tempdir()?;
    let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
    fs::create_dir_all(&inside)?;
    fs::create_dir_all(&outside)?;
    fs::write(inside.join("relative.lua"), TEXT)?;
    fs::write(outside.join("up.lua"), TEXT)?;
    fs::write(outside.join("absolute.lua"), TEXT)?;
    fs::write(inside.join("other.lua"), "local function other(m)\nend\n")?;
    let absolute = outside.join("absolute.lua").display().to_string();
    // The chunk name, and the label.
    let cases: [(String, String); 12] = [
        (TEXT.to_owned(), format!("named ([string \"{SHOWN}\"]:1)")),
        ("@relative.lua".to_owned(), "named (relative.lua:1)".to_owned()),
        ("@./relative.lua".to_owned(), "named (./relative.lua:1)".to_owned()),
        ("@../outside/up.lua".to_owned(), "named (../outside/up.lua:1)".to_owned()),
        (format!("@{absolute}"), format!("named ({absolute}:1)")),
        ("@/no/such/file.lua".to_owned(), "/no/such/file.lua:1".to_owned()),
        ("@other.lua".to_owned(), "other.lua:1".to_owned()),
        ("@.".to_owned(), ".:1".to_owned()),
        ("=relative.lua".to_owned(), "relative.lua:1".to_owned()),
        ("=[C]".to_owned(), "[C]:1".to_owned()),
        ("some words".to_owned(), "[string \"some words\"]:1".to_owned()),
        (String::new(), "[string \"\"]:1".to_owned()),
    ];
    let names: Vec<String> = cases.iter().map(|(name, _)| format!("[==[{name}]==]")).collect();
    let main = format!(
        "local run = {{}}\nfor _, name in ipairs {{ {} }} do\n    run[#run + 1] = loadstring([==[{TEXT}]==], name)()\nend\n\
         io.write('ready\\n')\nio.flush()\nwhile true do\n    for i = 1, #run do run[i](2000) end\nend\n",
        names.join(", ")
    );
    fs::write(inside.join("main.lua"), main)?;
    for mode in [Mode::Interpreter, Mode::Jit] {
        let target = Target::start(Runtime::CommandLine.command(mode)?.current_dir(&inside).arg("main.lua"))?;
        let labels = labels(&stacks(target.pid(), 3, &[])?);
        for (name, label) in &cases {
            ensure!(labels.contains_key(label), "{label:?} was not seen for {name:?}: {:?}", labels.keys());
        }
        let named = labels.keys().filter(|label| label.contains("named (")).count();
        ensure!(named == 5, "a function has a name that nothing says: {:?}", labels.keys());
    }
    Ok(())
}

/// Bytecode without debug information: what a module's table says, or else a name that is the same in every process.
fn stripped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let module = "local M = {}\n\
                  local function first(n) local sum = 0 for i = 1, n do sum = sum + i % 7 end return sum end\n\
                  local function second(n) local sum = 0 for i = 1, n do sum = sum + i % 5 end return sum end\n\
                  function M.run(n) local sum = first(n) + second(n) return sum end\n\
                  return M\n";
    fs::write(folder.path().join("module.lua"), module)?;
    let main = "local function load_stripped(file)\n\
                    local code = string.dump(assert(loadfile(file)), true)\n\
                    return assert(loadstring(code, '@stripped.lua'))()\n\
                end\n\
                package.loaded.bare = load_stripped 'module.lua'\n\
                io.write('ready\\n')\nio.flush()\n\
                while true do package.loaded.bare.run(5000) end\n";
    fs::write(folder.path().join("main.lua"), main)?;
    let mut all = Vec::new();
    for mode in [Mode::Interpreter, Mode::Jit] {
        let target = Target::start(Runtime::CommandLine.command(mode)?.current_dir(folder.path()).arg("main.lua"))?;
        let labels = labels(&stacks(target.pid(), 2, &[])?);
        let names: BTreeSet<String> = labels.into_keys().filter(|label| label.contains("stripped.lua")).collect();
        let digests = names.iter().filter(|name| name.starts_with("function ") && name.ends_with(" (stripped.lua)"));
        ensure!(
            names.contains("bare.run (stripped.lua)") && digests.count() == 2 && names.len() == 3,
            "the stripped functions are named {names:?}"
        );
        all.push(names);
    }
    ensure!(all[0] == all[1], "two processes have different names: {all:?}");
    Ok(())
}

/// What runs where something else has run before is never taken for that. The functions that stay know what they call.
fn reused_memory(mode: Mode) -> Result<()> {
    let digit = |stack: &Stack, name: &str| {
        stack
            .frames
            .iter()
            .filter_map(Frame::lua)
            .find_map(|function| function.name.rsplit_once(name).map(|(_, digit)| digit.to_owned()))
    };
    for chunk in ["text", "=generated", "@generated.lua"] {
        let target = started(mode, "generations.lua", &[chunk])?;
        let (mut right, mut unknown) = (0, 0);
        for stack in stacks(target.pid(), 4, &[])? {
            let Some(number) = digit(&stack, "tens_").zip(digit(&stack, "units_")).map(|(tens, units)| tens + &units)
            else {
                continue;
            };
            let below = stack.frames.iter().map(label).skip_while(|label| !label.contains("units_")).skip(1);
            let below: Vec<String> = below.collect();
            let generated: Vec<&str> = below
                .iter()
                .filter_map(|label| label.strip_prefix("outer_").or(label.strip_prefix("inner_")))
                .collect();
            ensure!(
                generated.iter().all(|label| label.starts_with(&number)),
                "generation {number} is taken for another one:\n{stack}"
            );
            if generated.is_empty() {
                unknown += stack.count;
                // Nothing tells generations with the same chunk name apart, so that none has a name.
                let named = below.iter().any(|label| label.contains("generated") && label.contains('('));
                ensure!(!named, "a function has a name that nothing says:\n{stack}");
            } else {
                right += stack.count;
            }
        }
        if chunk == "text" {
            ensure!(right > 10 * unknown, "{right} samples of generations have a name, and {unknown} do not");
        }
    }
    Ok(())
}

/// Traces that are flushed and made anew, with another function in them, in the same place.
fn reused_machine_code() -> Result<()> {
    let target = started(Mode::Jit, "flushes.lua", &[])?;
    let mut seen = BTreeSet::new();
    for stack in stacks(target.pid(), 4, &[])? {
        let has = |name: &str| stack.frames.iter().filter_map(Frame::lua).any(|function| function.name == name);
        ensure!(
            !(has("only_a") && has("work_b") || has("only_b") && has("work_a")),
            "the function of another trace is in it:\n{stack}"
        );
        seen.extend(["work_a", "work_b"].into_iter().filter(|name| has(name)));
    }
    ensure!(seen.len() == 2, "only {seen:?} were seen");
    Ok(())
}

/// Builtins and C functions. What a trace does without calling a function has no frame, so the JIT is off.
fn library() -> Result<()> {
    let text = fs::read_to_string(root().join("tests/names/library.lua"))?;
    let target = started(Mode::Interpreter, "library.lua", &["cjson"])?;
    let stacks = stacks(target.pid(), 6, &[])?;
    let labels = labels(&stacks);
    for line in text.lines().filter(|line| line.contains("function run.")) {
        for name in line.split_once("--> ").map(|(_, names)| names.split(", ")).into_iter().flatten() {
            ensure!(labels.contains_key(name), "{name} was not seen: {:?}", labels.keys());
        }
    }
    let numbered: Vec<_> =
        labels.keys().filter(|label| label.contains("[builtin]") || label.contains("[unknown Lua function]")).collect();
    ensure!(numbered.is_empty(), "there are functions without a name: {numbered:?}");
    Ok(())
}

/// nginx: its directives, its own functions, and those of its modules; the same in every worker and every run.
fn nginx() -> Result<()> {
    let configuration = root().join("tests/names/nginx");
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    let mut runs = Vec::new();
    for workers in [1, 2] {
        let folder = tempfile::tempdir()?;
        let nginx = Nginx::start(&configuration, &folder.path().join("nginx"), workers, "")?;
        let load = nginx.load("/", None, 8, 60)?;
        let stacks = stacks(nginx.master(), 5, &[])?;
        drop(load);
        let path = nginx.folder().display().to_string();
        let labels: BTreeMap<String, u64> =
            labels(&stacks).into_iter().map(|(label, count)| (label.replace(&path, "nginx"), count)).collect();
        for file in ["api.lua", "access.lua"] {
            for label in written(&configuration.join(file), &format!("nginx/{file}"))? {
                ensure!(labels.contains_key(&label), "{label} was not seen: {:?}", labels.keys());
            }
        }
        for name in ["cjson.encode", "cjson.decode", "ngx.say"] {
            ensure!(labels.contains_key(name), "{name} was not seen: {:?}", labels.keys());
        }
        for names in [
            // The first calls the second in its place, and a trace may hold nothing of it.
            &["ngx.re.match (", "re_match_helper ("][..],
            &["ngx.md5 ("],
            &["ngx.escape_uri ("],
            &["in_directive (rewrite_by_lua(nginx.conf:"],
        ] {
            let seen = labels.keys().any(|label| names.iter().any(|name| label.starts_with(name)));
            ensure!(seen, "none of {names:?} was seen: {:?}", labels.keys());
        }
        for function in stacks.iter().flat_map(|stack| &stack.frames).filter(|frame| frame.lua().is_some()) {
            let label = label(function).replace(&path, "nginx");
            let place =
                function.lua().map(|function| format!("{}:{:?}", function.file.replace(&path, "nginx"), function.line));
            let earlier = places.entry(place.unwrap_or_default()).or_insert_with(|| label.clone());
            ensure!(*earlier == label, "one function has two names: {earlier} and {label}");
        }
        runs.push(labels);
    }
    // What was in so many samples of one run was in some of the other.
    const OFTEN: u64 = 20;
    // Parts of native functions that a compiler made are named with a dot, too.
    let native =
        |label: &str| ["+0x", ".isra.", ".part.", ".constprop.", ".cold"].iter().any(|part| label.contains(part));
    // Whether a call of a C function through FFI is compiled may differ from run to run, and which of its functions a trace through
    // the library holds.
    let by_chance = |label: &str| label.starts_with("ffi.") || label.contains("/resty/core/");
    let lua_or_builtin =
        |label: &str| !native(label) && !by_chance(label) && (label.contains('.') || label.contains(" ("));
    for (one, other) in [(&runs[0], &runs[1]), (&runs[1], &runs[0])] {
        for (label, count) in one {
            ensure!(
                *count < OFTEN || !lua_or_builtin(label) || other.contains_key(label),
                "{label} is in {count} samples of one run and in none of the other"
            );
        }
    }
    Ok(())
}
