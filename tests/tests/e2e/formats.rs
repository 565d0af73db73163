//! Every format that can be written, read back as other tools read them: of one recording, all hold the same samples.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use luaflame_tests::luaflame::{FREQUENCY, run, stacks};
use luaflame_tests::programs::{Mode, Runtime, Target};
use luaflame_tests::stacks::{Frame, Stack, parse};
use prost::Message;
use serde_json::Value;

use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("formats::all_hold_the_same_samples", || all("calls.lua", "fib")),
        test("formats::hostile_names", || all("hostile.lua", "")),
        test("formats::growing_stacks_are_of_a_vm", growing_stacks),
    ]
}

/// A recursion in one new coroutine after the other, whose Lua stack grows with it.
const GROWING: &str = r#"
local function descend(n)
    if n == 0 then
        return 0
    end
    return 1 + descend(n - 1)
end
io.write("ready\n")
io.flush()
while true do
    coroutine.wrap(descend)(7000)
end
"#;

/// The VM is known while it moves a Lua stack.
fn growing_stacks() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("growing.lua");
    fs::write(&script, GROWING)?;
    let target = Target::start(Runtime::CommandLine.command(Mode::Interpreter)?.arg(&script))?;
    let stacks = stacks(target.pid(), 3, &["--by", "vm"])?;
    let grows = |stack: &Stack| matches!(stack.frames.last(), Some(Frame::Other(name)) if name.contains("memset"));
    ensure!(stacks.iter().any(grows), "no stack was seen growing");
    for stack in &stacks {
        let outside = matches!(stack.frames.first(), Some(Frame::Other(name)) if name.starts_with("no VM"));
        ensure!(!outside, "Lua is said to be of no VM:\n{stack}");
    }
    Ok(())
}

/// What a reader finds in a file: the number of samples, and those with a function in whose name a word is.
#[derive(Debug, PartialEq)]
struct Found {
    samples: u64,
    with: u64,
}

/// Records a sample program once, draws the recording in each format, and holds all of them against the folded stacks.
fn all(script: &str, function: &str) -> Result<()> {
    let target = Target::sample(Runtime::CommandLine, Mode::Jit, script, &[])?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| Ok::<_, anyhow::Error>(path(name).to_str().context("UTF-8")?.to_owned());
    let (pid, capture) = (target.pid().to_string(), text("x.luaflame")?);
    run(&["-p", &pid, "-t", "1", "-F", FREQUENCY, "--with-memory", &capture, "-o", &text("live.pb.gz")?])?.success()?;
    let drawn = |name: &str, more: &[&str]| -> Result<Vec<u8>> {
        let file = text(name)?;
        run(&[&["report", &capture, "-o", &file], more].concat())?.success()?;
        Ok(fs::read(Path::new(&file))?)
    };
    let expected = folded(std::str::from_utf8(&drawn("a.collapsed", &[])?)?, function)?;
    ensure!(expected.with > 0, "no sample of {function:?} was taken");
    let holds = |format: &str, found: Found| {
        ensure!(found == expected, "{format} holds {found:?}, and the folded stacks {expected:?}");
        Ok(())
    };
    let live = message(&fs::read(path("live.pb.gz"))?)?;
    ensure!(live.time_nanos > 0 && live.duration_nanos > 900_000_000, "it does not say when it was taken");
    holds("pprof of the live run", pprof(&live, function)?)?;
    let replayed = message(&drawn("a.pb.gz", &[])?)?;
    ensure!(replayed.time_nanos / 1_000_000 == live.time_nanos / 1_000_000, "the capture has another time");
    holds("pprof", pprof(&replayed, function)?)?;
    let (from_pprof, again) = (text("a.pb.gz")?, text("again.collapsed")?);
    run(&["report", &from_pprof, "-o", &again])?.success()?;
    ensure!(fs::read(&again)? == fs::read(path("a.collapsed"))?, "drawn from pprof it is not what the capture is");
    holds("pprof by option", pprof(&message(&drawn("a.bin", &["-f", "pprof"])?)?, function)?)?;
    holds("speedscope", speedscope(&drawn("a.speedscope.json", &[])?, function)?)?;
    holds("firefox", firefox(&drawn("a.firefox.json", &[])?, function)?)?;
    let summary = String::from_utf8(drawn("a.txt", &[])?)?;
    ensure!(summary.contains(&format!("\n{} samples, ", expected.samples)), "not its samples:\n{summary}");
    ensure!(summary.contains(function) && summary.lines().all(|line| line.chars().count() <= 100), "{summary}");
    for name in ["a.svg", "a.icicle.svg"] {
        let svg = String::from_utf8(drawn(name, &[])?)?;
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(&svg, options).context("it is not XML")?;
        let all = format!("all ({} samples, 100%)", expected.samples);
        ensure!(document.descendants().any(|node| node.text() == Some(&all)), "{name} has no box of all");
    }
    let old = String::from_utf8(drawn("a.folded", &["--frames", "stapxx"])?)?;
    ensure!(folded(&old, "")?.samples == expected.samples, "not all samples:\n{old}");
    ensure!(script != "calls.lua" || old.contains(&format!("{script}:")) && old.contains("T:@"), "no places:\n{old}");
    Ok(())
}

fn folded(text: &str, function: &str) -> Result<Found> {
    // Also that each line is frames and a count.
    let samples = parse(text)?.iter().map(|stack| stack.count).sum();
    let with = text.lines().filter(|line| line.contains(function));
    let with = with.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum();
    Ok(Found { samples, with })
}

/// As much of a pprof file as is looked at, read by tags of our own.
#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

fn message(bytes: &[u8]) -> Result<Profile> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain)?;
    Ok(Profile::decode(&*plain)?)
}

fn pprof(profile: &Profile, function: &str) -> Result<Found> {
    let mut functions = HashMap::new();
    for known in &profile.function {
        functions.insert(known.id, &**profile.string_table.get(usize::try_from(known.name)?).context("a name")?);
    }
    let mut names = HashMap::new();
    for location in &profile.location {
        let there: Option<Vec<&str>> =
            location.line.iter().map(|line| functions.get(&line.function_id).copied()).collect();
        let there = there.filter(|there| !there.is_empty()).context("a location without a function")?;
        names.insert(location.id, there);
    }
    let mut found = Found { samples: 0, with: 0 };
    for sample in &profile.sample {
        let count = u64::try_from(*sample.value.first().context("a count")?)?;
        found.samples += count;
        let stack: Option<Vec<&Vec<&str>>> = sample.location_id.iter().map(|id| names.get(id)).collect();
        if stack.context("a location")?.into_iter().flatten().any(|name| name.contains(function)) {
            found.with += count;
        }
    }
    Ok(found)
}

fn speedscope(bytes: &[u8], function: &str) -> Result<Found> {
    let file: Value = serde_json::from_slice(bytes)?;
    let array = |value: &Value| value.as_array().cloned().context("an array");
    let frames = array(&file["shared"]["frames"])?;
    let period = 1_000_000_000 / FREQUENCY.parse::<u64>()?;
    let mut found = Found { samples: 0, with: 0 };
    for profile in array(&file["profiles"])? {
        for (stack, weight) in array(&profile["samples"])?.iter().zip(array(&profile["weights"])?) {
            let count = weight.as_u64().context("a weight")? / period;
            found.samples += count;
            let named =
                |index: &Value| Some(frames.get(index.as_u64()? as usize)?["name"].as_str()?.contains(function));
            if array(stack)?.iter().any(|index| named(index) == Some(true)) {
                found.with += count;
            }
        }
    }
    Ok(found)
}

fn firefox(bytes: &[u8], function: &str) -> Result<Found> {
    let file: Value = serde_json::from_slice(bytes)?;
    let shared = &file["shared"];
    let (stacks, functions, strings) = (&shared["stackTable"], &shared["funcTable"], &shared["stringArray"]);
    let at = |column: &Value, index: usize| column[index].as_u64().map(|value| value as usize);
    let named = |stack: usize| {
        let frame = at(&stacks["frame"], stack)?;
        let name = at(&functions["name"], at(&shared["frameTable"]["func"], frame)?)?;
        Some(strings[name].as_str()?.contains(function))
    };
    let mut found = Found { samples: 0, with: 0 };
    for thread in file["threads"].as_array().context("threads")? {
        let samples = &thread["samples"];
        for index in 0..samples["length"].as_u64().context("a length")? as usize {
            let count = at(&samples["weight"], index).context("a weight")? as u64;
            found.samples += count;
            let mut stack = at(&samples["stack"], index);
            while let Some(leaf) = stack {
                if named(leaf).context("a name")? {
                    found.with += count;
                    break;
                }
                stack = at(&stacks["prefix"], leaf);
            }
        }
    }
    Ok(found)
}
