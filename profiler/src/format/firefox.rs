//! Profiles for the Firefox Profiler (<https://profiler.firefox.com>): a JSON document in its "processed" format, which it
//! opens from a file, with the samples of each thread where they were in time.
//!
//! Written is version 60 of the format, the first one in which all threads share their stacks; the reader brings older
//! versions up to its own. The kinds of frames are its categories, of which it has a fixed set of colours.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use serde::Serialize;
use serde_json::{Value, json};

use crate::format::label::{FILE_NAME_LIMIT, NAME_LIMIT, label, printable};
use crate::format::threads::{self, Sample, Thread};
use crate::profile::view::Lines;
use crate::profile::{Frame, FrameId, FrameKind, Profile};

/// The version of the format, and that of what Firefox itself records, which goes with it.
const VERSIONS: (u32, u32) = (60, 33);
/// Most characters of the title.
const TITLE_LIMIT: usize = 160;

/// Name, colour, and name of the subcategory beside the first one, which is for what is in none. A grey one is
/// the default of the reader.
const CATEGORIES: [(&str, &str, Option<&str>); 7] = [
    ("frames missing", "grey", None),
    ("Lua, interpreted", "orange", None),
    ("Lua, JIT-compiled", "green", Some("inlined by the JIT")),
    ("builtin or C function of Lua", "yellow", None),
    ("native", "blue", Some("inlined")),
    ("kernel", "purple", None),
    ("what stacks are kept apart by", "lightblue", None),
];

/// Indices of the category and its subcategory.
fn category(kind: FrameKind) -> (u32, u32) {
    match kind {
        FrameKind::Marker => (0, 0),
        FrameKind::Interpreted => (1, 0),
        FrameKind::Compiled => (2, 0),
        FrameKind::Inlined => (2, 1),
        FrameKind::Builtin => (3, 0),
        FrameKind::Native => (4, 0),
        FrameKind::NativeInlined => (4, 1),
        FrameKind::Kernel => (5, 0),
        FrameKind::Group => (6, 0),
    }
}

#[derive(Serialize)]
struct File {
    meta: Value,
    libs: [Value; 0],
    shared: Shared,
    threads: Vec<Written>,
}

/// Tables are columns of equal length; what has no value is `null`, and a resource that is none is -1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shared {
    string_array: Vec<String>,
    sources: Sources,
    stack_table: Stacks,
    frame_table: Frames,
    func_table: Functions,
    resource_table: Resources,
    native_symbols: Value,
}

#[derive(Serialize)]
struct Sources {
    uuid: Vec<()>,
    filename: Vec<usize>,
    length: usize,
}

#[derive(Serialize, Default)]
struct Stacks {
    frame: Vec<usize>,
    prefix: Vec<Option<usize>>,
    length: usize,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Frames {
    address: Vec<i64>,
    inline_depth: Vec<u32>,
    category: Vec<u32>,
    subcategory: Vec<u32>,
    func: Vec<usize>,
    native_symbol: Vec<()>,
    #[serde(rename = "innerWindowID")]
    inner_window_id: Vec<()>,
    line: Vec<Option<u32>>,
    column: Vec<()>,
    length: usize,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Functions {
    name: Vec<usize>,
    #[serde(rename = "isJS")]
    is_js: Vec<bool>,
    #[serde(rename = "relevantForJS")]
    relevant_for_js: Vec<bool>,
    resource: Vec<i64>,
    source: Vec<Option<usize>>,
    line_number: Vec<Option<u32>>,
    column_number: Vec<()>,
    length: usize,
}

#[derive(Serialize)]
struct Resources {
    name: Vec<usize>,
    lib: Vec<()>,
    host: Vec<()>,
    #[serde(rename = "type")]
    kind: Vec<u32>,
    length: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    process_type: &'static str,
    process_name: String,
    process_startup_time: f64,
    process_shutdown_time: (),
    register_time: f64,
    unregister_time: (),
    paused_ranges: [Value; 0],
    name: String,
    is_main_thread: bool,
    pid: String,
    tid: u32,
    samples: Samples,
    markers: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Samples {
    stack: Vec<Option<usize>>,
    /// Milliseconds since the sample before.
    time_deltas: Vec<f64>,
    weight: Vec<u64>,
    weight_type: &'static str,
    length: usize,
}

/// Writes a profile for the Firefox Profiler, under this title.
///
/// # Errors
/// Those of `writer`.
pub fn write(profile: &Profile, lines: Lines, title: &str, writer: &mut dyn Write) -> io::Result<()> {
    let mut tables = Tables::default();
    let functions: Vec<usize> = profile.frames().map(|frame| tables.function(frame, lines)).collect();
    let threads = Thread::all(profile).iter().map(|thread| tables.thread(profile, thread)).collect();
    let file = File { meta: meta(profile, title), libs: [], shared: tables.shared(profile, functions), threads };
    serde_json::to_writer(&mut *writer, &file)?;
    writer.write_all(b"\n")
}

/// Milliseconds between two samples.
fn interval(profile: &Profile) -> f64 {
    1000.0 / f64::from(profile.meta.frequency.max(1))
}

fn meta(profile: &Profile, title: &str) -> Value {
    let (meta, counters) = (&profile.meta, &profile.counters);
    let started = meta.started.and_then(|started| started.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let categories = CATEGORIES.map(|(name, color, sub)| {
        let subcategories: Vec<&str> = ["Other"].into_iter().chain(sub).collect();
        json!({"name": name, "color": color, "subcategories": subcategories})
    });
    let entry = |label, value: String| json!({"label": label, "format": "string", "value": value});
    json!({
        "version": VERSIONS.1,
        "preprocessedProfileVersion": VERSIONS.0,
        "interval": interval(profile),
        "startTime": milliseconds(started),
        "profilingStartTime": 0,
        "profilingEndTime": meta.seconds * 1000.0,
        "processType": 0,
        "product": printable(title, TITLE_LIMIT),
        "stackwalk": 1,
        "symbolicated": true,
        "usesOnlyOneStackType": true,
        "sourceCodeIsNotOnSearchfox": true,
        "markerSchema": [],
        "categories": categories,
        "extra": [{
            "label": "Sampling",
            "entries": [
                entry("Frequency", format!("{} Hz of {}", meta.frequency, printable(&meta.event, threads::NAME_LIMIT))),
                entry("Samples", format!("{}, {} lost, {} truncated", counters.samples, counters.lost, counters.truncated)),
                entry("Frames", format!("{}, {} unresolved", counters.frames, counters.unresolved)),
            ],
        }],
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What frames and samples refer to, each stored once.
#[derive(Default)]
struct Tables {
    strings: IndexSet<String, FxBuildHasher>,
    /// Names of source files.
    sources: IndexSet<usize, FxBuildHasher>,
    /// Names of modules.
    resources: IndexSet<usize, FxBuildHasher>,
    functions: IndexSet<Function, FxBuildHasher>,
    /// The tree of all stacks: what a frame is called from, and the frame.
    stacks: IndexSet<(Option<usize>, usize), FxBuildHasher>,
    /// Indices of `stacks`, by where the profile keeps the stack.
    known: FxHashMap<*const FrameId, usize>,
}

#[derive(PartialEq, Eq, Hash)]
struct Function {
    name: usize,
    resource: Option<usize>,
    source: Option<usize>,
    line: Option<u32>,
}

impl Tables {
    fn string(&mut self, text: String) -> usize {
        self.strings.insert_full(text).0
    }

    fn function(&mut self, frame: &Frame, lines: Lines) -> usize {
        let name = frame.name.as_deref().filter(|name| frame.kind.is_lua() && !name.trim().is_empty());
        // The reader shows the place of a function beside its name.
        let name = match name {
            Some(name) => printable(name, NAME_LIMIT),
            None => label(frame, if lines == Lines::None { Lines::None } else { Lines::Function }),
        };
        let name = self.string(name);
        let file = frame.file.as_deref().filter(|file| !file.trim().is_empty());
        let file = file.map(|file| self.string(printable(file, FILE_NAME_LIMIT)));
        let (source, resource) = if frame.kind.is_lua() { (file, None) } else { (None, file) };
        let source = source.map(|file| self.sources.insert_full(file).0);
        let resource = resource.map(|file| self.resources.insert_full(file).0);
        let line = (frame.first_line > 0).then_some(frame.first_line);
        self.functions.insert_full(Function { name, resource, source, line }).0
    }

    fn stack(&mut self, stack: &[FrameId]) -> Option<usize> {
        if let Some(&known) = self.known.get(&stack.as_ptr()) {
            return Some(known);
        }
        let leaf = stack.iter().fold(None, |prefix, id| Some(self.stacks.insert_full((prefix, id.index())).0))?;
        self.known.insert(stack.as_ptr(), leaf);
        Some(leaf)
    }

    fn thread(&mut self, profile: &Profile, thread: &Thread) -> Written {
        let interval = interval(profile);
        let mut samples = Samples {
            stack: Vec::new(),
            time_deltas: Vec::new(),
            weight: Vec::new(),
            weight_type: "samples",
            length: thread.samples.len(),
        };
        let mut last = 0.0;
        for &Sample { time, stack, count } in &thread.samples {
            // Samples whose times are unknown stand one after another.
            let time = time.map_or(last + interval, milliseconds);
            samples.stack.push(self.stack(stack));
            samples.time_deltas.push(time - last);
            samples.weight.push(count);
            last = time;
        }
        Written {
            process_type: "default",
            process_name: thread.process(profile),
            process_startup_time: 0.0,
            process_shutdown_time: (),
            register_time: 0.0,
            unregister_time: (),
            paused_ranges: [],
            name: thread.name(profile),
            is_main_thread: thread.pid == thread.tid,
            pid: thread.pid.to_string(),
            tid: thread.tid,
            samples,
            markers: json!({
                "data": [], "name": [], "startTime": [], "endTime": [], "phase": [], "category": [], "length": 0
            }),
        }
    }

    fn shared(self, profile: &Profile, functions: Vec<usize>) -> Shared {
        let mut frame_table = Frames { length: functions.len(), ..Frames::default() };
        for (frame, function) in profile.frames().zip(functions) {
            let (category, subcategory) = category(frame.kind);
            frame_table.address.push(-1);
            frame_table.inline_depth.push(0);
            frame_table.category.push(category);
            frame_table.subcategory.push(subcategory);
            frame_table.func.push(function);
            frame_table.native_symbol.push(());
            frame_table.inner_window_id.push(());
            frame_table.line.push((frame.line > 0).then_some(frame.line));
            frame_table.column.push(());
        }
        let mut func_table = Functions { length: self.functions.len(), ..Functions::default() };
        for Function { name, resource, source, line } in self.functions {
            func_table.name.push(name);
            func_table.is_js.push(false);
            func_table.relevant_for_js.push(false);
            func_table.resource.push(resource.map_or(-1, |index| index as i64));
            func_table.source.push(source);
            func_table.line_number.push(line);
            func_table.column_number.push(());
        }
        let (prefix, frame) = self.stacks.into_iter().unzip();
        let mut stack_table = Stacks { frame, prefix, length: 0 };
        stack_table.length = stack_table.frame.len();
        /// The number by which the format knows a library.
        const LIBRARY: u32 = 1;
        let resources = self.resources.len();
        Shared {
            string_array: self.strings.into_iter().collect(),
            sources: Sources {
                uuid: vec![(); self.sources.len()],
                length: self.sources.len(),
                filename: self.sources.into_iter().collect(),
            },
            stack_table,
            frame_table,
            func_table,
            resource_table: Resources {
                name: self.resources.into_iter().collect(),
                lib: vec![(); resources],
                host: vec![(); resources],
                kind: vec![LIBRARY; resources],
                length: resources,
            },
            native_symbols: json!({"libIndex": [], "address": [], "name": [], "functionSize": [], "length": 0}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile::Origin;

    fn written(profile: &Profile) -> Value {
        let mut bytes = Vec::new();
        write(profile, Lines::Both, "A \"title\"", &mut bytes).unwrap();
        assert!(!String::from_utf8(bytes.clone()).unwrap().trim_end().contains(char::is_control));
        let file = serde_json::from_slice(&bytes).unwrap();
        check(&file);
        file
    }

    /// That a table has exactly these columns, all of its length.
    fn columns(table: &Value, names: &[&str]) -> u64 {
        let length = table["length"].as_u64().unwrap();
        let object = table.as_object().unwrap();
        assert_eq!(object.len(), names.len() + 1, "{:?}", object.keys().collect::<Vec<_>>());
        for name in names {
            assert_eq!(object[*name].as_array().unwrap().len() as u64, length, "{name}");
        }
        length
    }

    /// That every entry of a column is an index below `length`, or, if it may be, the one that means none.
    fn indices(column: &Value, length: u64, none: Option<Value>) {
        for entry in column.as_array().unwrap() {
            assert!(entry.as_u64().is_some_and(|index| index < length) || none.as_ref() == Some(entry), "{entry}");
        }
    }

    /// What the reader's types for version 60 ask for.
    fn check(file: &Value) {
        let (meta, shared) = (&file["meta"], &file["shared"]);
        assert_eq!((&meta["preprocessedProfileVersion"], &meta["version"]), (&60.into(), &33.into()));
        for number in ["interval", "startTime", "profilingStartTime", "processType", "stackwalk"] {
            assert!(meta[number].as_f64().is_some_and(|number| number >= 0.0), "{number}");
        }
        assert!(meta["product"].is_string() && meta["markerSchema"].is_array() && file["libs"].is_array());
        let categories = meta["categories"].as_array().unwrap();
        let colors = [
            "transparent",
            "purple",
            "green",
            "orange",
            "yellow",
            "lightblue",
            "blue",
            "brown",
            "magenta",
            "red",
            "lightred",
            "darkgrey",
            "grey",
        ];
        assert!(categories.iter().all(|category| colors.contains(&category["color"].as_str().unwrap())));
        assert!(categories.iter().any(|category| category["color"] == "grey"), "there is no default category");

        let strings = shared["stringArray"].as_array().unwrap();
        assert!(strings.iter().all(Value::is_string));
        let strings = strings.len() as u64;
        let (null, missing) = (Some(Value::Null), Some(Value::from(-1)));
        let sources = columns(&shared["sources"], &["uuid", "filename"]);
        indices(&shared["sources"]["filename"], strings, None);
        let resources = columns(&shared["resourceTable"], &["lib", "name", "host", "type"]);
        indices(&shared["resourceTable"]["name"], strings, None);
        let names = ["name", "isJS", "relevantForJS", "resource", "source", "lineNumber", "columnNumber"];
        let functions = columns(&shared["funcTable"], &names);
        indices(&shared["funcTable"]["name"], strings, None);
        indices(&shared["funcTable"]["resource"], resources, missing);
        indices(&shared["funcTable"]["source"], sources, null.clone());
        let names = [
            "address",
            "inlineDepth",
            "category",
            "subcategory",
            "func",
            "nativeSymbol",
            "innerWindowID",
            "line",
            "column",
        ];
        let table = &shared["frameTable"];
        let frames = columns(table, &names);
        indices(&table["func"], functions, None);
        indices(&table["category"], categories.len() as u64, None);
        for (category, sub) in
            table["category"].as_array().unwrap().iter().zip(table["subcategory"].as_array().unwrap())
        {
            let subcategories = categories[category.as_u64().unwrap() as usize]["subcategories"].as_array().unwrap();
            assert!(sub.as_u64().unwrap() < subcategories.len() as u64);
        }
        let stacks = columns(&shared["stackTable"], &["frame", "prefix"]);
        indices(&shared["stackTable"]["frame"], frames, None);
        for (index, prefix) in shared["stackTable"]["prefix"].as_array().unwrap().iter().enumerate() {
            assert!(prefix.is_null() || prefix.as_u64().unwrap() < index as u64, "callers come first");
        }
        columns(&shared["nativeSymbols"], &["libIndex", "address", "name", "functionSize"]);

        for thread in file["threads"].as_array().unwrap() {
            for text in ["processType", "processName", "name", "pid"] {
                assert!(thread[text].is_string(), "{text}");
            }
            assert!(thread["tid"].is_u64() && thread["isMainThread"].is_boolean());
            assert_eq!(thread["pausedRanges"], json!([]));
            columns(&thread["markers"], &["data", "name", "startTime", "endTime", "phase", "category"]);
            let samples = &thread["samples"];
            assert_eq!(samples["weightType"], "samples");
            for column in ["stack", "timeDeltas", "weight"] {
                assert_eq!(samples[column].as_array().unwrap().len() as u64, samples["length"].as_u64().unwrap());
            }
            indices(&samples["stack"], stacks, null.clone());
            let deltas = samples["timeDeltas"].as_array().unwrap();
            assert!(deltas.iter().all(|delta| delta.as_f64().unwrap() >= 0.0), "time goes back");
        }
    }

    #[test]
    fn the_example_is_what_it_was() {
        golden("example.firefox.json", format!("{:#}\n", written(&example::profile())).as_bytes());
    }

    #[test]
    fn hostile_names_an_empty_profile_and_an_empty_stack_make_a_valid_file() {
        written(&example::hostile());
        written(&Profile::default());
        let mut profile = Profile::default();
        profile.add(Origin::default(), &[], 1);
        written(&profile);
    }

    #[test]
    fn every_kind_has_a_category_and_all_are_used() {
        use FrameKind::*;
        let kinds = [Kernel, Native, NativeInlined, Interpreted, Compiled, Inlined, Builtin, Marker, Group];
        let mut used: Vec<(u32, u32)> = kinds.iter().map(|kind| category(*kind)).collect();
        used.sort_unstable();
        let all = CATEGORIES
            .iter()
            .zip(0..)
            .flat_map(|((.., sub), index)| (0..=sub.iter().len() as u32).map(move |sub| (index, sub)));
        assert!(used.into_iter().eq(all));
    }

    #[test]
    fn samples_without_times_stand_one_after_another() {
        let mut profile = example::profile();
        let stack: Vec<_> = profile.stacks().next().unwrap().0.to_vec();
        profile.add(Origin { pid: 1, tid: 2, ..Origin::default() }, &stack, 3);
        let file = written(&profile);
        let first = &file["threads"][0]["samples"];
        assert_eq!((&first["weight"], &first["timeDeltas"]), (&json!([2, 1, 1, 1]), &json!([10.0, 10.0, 10.0, 10.0])));
    }
}
