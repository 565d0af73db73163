//! Profiles for `pprof` and for the stores that take its format: a gzip-compressed message `perftools.profiles.Profile`.
//!
//! Every distinct frame is a location of its own, together with what is inlined into it. A function is what a frame is labelled as, since
//! readers tell functions apart by name alone, and it is one function however it is run. How it is run its mapping tells, in brackets as
//! readers expect of what is no file: see [`mapping_name`]. Each sample tells where it was taken in its labels: `thread`, `tid`, `pid`, `vm`
//! (the address of the VM, so that it is the same in every profile of a process) and `state` (what the VM was doing).
//!
//! What is written here, [`import`](crate::import) reads as the same profile again.

pub mod message;

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::GzEncoder;
use indexmap::{IndexMap, IndexSet};
use prost::Message;
use rustc_hash::FxBuildHasher;

use crate::format::label::{FILE_NAME_LIMIT, label, printable};
use crate::format::threads::NAME_LIMIT;
use crate::profile::view::Lines;
use crate::profile::{Counted, Counters, Frame, FrameId, FrameKind, Meta, Origin, Profile};

/// What the kernel's own code is called where modules have names, as `perf` does.
pub(crate) const KERNEL: &str = "[kernel.kallsyms]";

/// What the mapping of frames that are in no module is called; `None` for the kinds of those that are in one.
///
/// Readers that colour by mapping show by it how Lua code is run.
pub fn mapping_name(kind: FrameKind) -> Option<&'static str> {
    Some(match kind {
        FrameKind::Interpreted => "[luajit:interpreted]",
        FrameKind::Compiled => "[luajit:compiled]",
        FrameKind::Inlined => "[luajit:inlined]",
        FrameKind::Builtin => "[luajit:builtin]",
        FrameKind::Marker => "[luaflame:marker]",
        FrameKind::Group => "[luaflame:group]",
        FrameKind::Kernel | FrameKind::Native | FrameKind::NativeInlined => return None,
    })
}

/// Writes a profile for `pprof`.
///
/// # Errors
/// Those of `writer`.
pub fn write(profile: &Profile, lines: Lines, writer: &mut dyn Write) -> io::Result<()> {
    write_converted(&converted(profile, lines), writer)
}

/// Writes what [`converted`] has made.
///
/// # Errors
/// Those of `writer`.
pub fn write_converted(converted: &message::Profile, writer: &mut dyn Write) -> io::Result<()> {
    // Twelve times as fast as the default, for files that are a third larger.
    let mut compressed = GzEncoder::new(writer, Compression::fast());
    compressed.write_all(&converted.encode_to_vec())?;
    compressed.finish()?;
    Ok(())
}

/// A profile as the message that is written.
pub fn converted(profile: &Profile, lines: Lines) -> message::Profile {
    let mut tables = Tables::default();
    let mut converted = message::Profile {
        sample_type: vec![tables.value_type("samples", "count"), tables.value_type("cpu", "nanoseconds")],
        period_type: Some(tables.value_type("cpu", "nanoseconds")),
        period: period(&profile.meta),
        time_nanos: started(&profile.meta),
        duration_nanos: (profile.meta.seconds * 1e9).round() as i64,
        comment: comments(&profile.meta, &profile.counters).iter().map(|text| tables.string(text)).collect(),
        ..message::Profile::default()
    };
    for counted in profile.counted_samples() {
        let label = tables.labels(profile, counted.origin);
        let mut location_id: Vec<u64> =
            places(profile, counted.stack).map(|frames| tables.place(profile, frames, lines)).collect();
        location_id.reverse();
        converted.sample.push(sample(&counted, converted.period, location_id, label));
    }
    converted.location = tables.locations();
    converted.mapping = tables.mappings();
    converted.function = tables.functions.into_values().collect();
    converted.string_table = tables.strings.into_iter().collect();
    converted
}

/// How the first comment of each file begins.
pub(crate) const OURS: &str = "luaflame: ";

/// Nanoseconds of CPU time that one sample stands for; 0 when that is unknown.
pub fn period(meta: &Meta) -> i64 {
    1_000_000_000_i64.checked_div(meta.frequency.into()).unwrap_or_default()
}

/// The module that a frame's code is in, if it is in one.
pub fn module(frame: &Frame) -> Option<&str> {
    match (frame.kind, named_file(frame)) {
        (FrameKind::Kernel, module) => Some(module.unwrap_or(KERNEL)),
        (FrameKind::Native | FrameKind::NativeInlined, module) => module,
        _ => None,
    }
}

fn started(meta: &Meta) -> i64 {
    let since = meta.started.and_then(|started| started.duration_since(UNIX_EPOCH).ok());
    since.and_then(|since| since.as_nanos().try_into().ok()).unwrap_or_default()
}

/// What the numbers of the profile do not say: how far they can be trusted.
fn comments(meta: &Meta, counters: &Counters) -> Vec<String> {
    vec![
        format!("{OURS}{} Hz of {}", meta.frequency, printable(&meta.event, NAME_LIMIT)),
        format!("{} samples, {} lost, {} truncated", counters.samples, counters.lost, counters.truncated),
        format!("{} of {} frames unresolved", counters.unresolved, counters.frames),
    ]
}

fn named_file(frame: &Frame) -> Option<&str> {
    frame.file.as_deref().filter(|file| !file.trim().is_empty())
}

/// The frames of a stack, root first, by the place in code that they share: a native function and what is inlined there.
fn places<'a>(profile: &Profile, stack: &'a [FrameId]) -> impl Iterator<Item = &'a [FrameId]> {
    stack.chunk_by(|one, next| {
        let (one, next) = (profile.get(*one), profile.get(*next));
        let native = matches!(one.kind, FrameKind::Native | FrameKind::NativeInlined);
        native && next.kind == FrameKind::NativeInlined && named_file(one) == named_file(next)
    })
}

fn sample(counted: &Counted, period: i64, location_id: Vec<u64>, label: Vec<message::Label>) -> message::Sample {
    let count = i64::try_from(counted.count).unwrap_or(i64::MAX);
    message::Sample { location_id, value: vec![count, count.saturating_mul(period)], label }
}

/// The module of a location, and the functions and lines that are there, leaf first.
type Place = (u64, Box<[(u64, i64)]>);

/// What locations and samples refer to, each stored once.
#[derive(Debug)]
struct Tables {
    strings: IndexSet<String, FxBuildHasher>,
    /// By name, file and first line.
    functions: IndexMap<(i64, i64, i64), message::Function, FxBuildHasher>,
    /// Names of modules.
    modules: IndexSet<i64, FxBuildHasher>,
    locations: IndexSet<Place, FxBuildHasher>,
    /// Ids of locations.
    places: HashMap<Box<[FrameId]>, u64, FxBuildHasher>,
}

impl Default for Tables {
    fn default() -> Tables {
        let mut strings = IndexSet::default();
        strings.insert(String::new());
        Tables {
            strings,
            functions: IndexMap::default(),
            modules: IndexSet::default(),
            locations: IndexSet::default(),
            places: HashMap::default(),
        }
    }
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        match self.strings.get_index_of(text) {
            Some(known) => known as i64,
            None => self.strings.insert_full(text.to_owned()).0 as i64,
        }
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> message::ValueType {
        message::ValueType { r#type: self.string(kind), unit: self.string(unit) }
    }

    /// The number of the location of frames, root first.
    fn place(&mut self, profile: &Profile, frames: &[FrameId], detail: Lines) -> u64 {
        if let Some(known) = self.places.get(frames) {
            return *known;
        }
        let mapping_id = self.mapping(profile.get(frames[0]));
        let lines = frames.iter().rev().map(|id| profile.get(*id));
        let lines = lines.map(|frame| (self.function(frame, detail), frame.line.into())).collect();
        // Frames that are labelled alike are one.
        let id = self.locations.insert_full((mapping_id, lines)).0 as u64 + 1;
        self.places.insert(frames.into(), id);
        id
    }

    fn locations(&self) -> Vec<message::Location> {
        let line = |&(function_id, line): &(u64, i64)| message::Line { function_id, line };
        let location = |(index, (mapping_id, lines)): (usize, &Place)| message::Location {
            id: index as u64 + 1,
            mapping_id: *mapping_id,
            line: lines.iter().map(line).collect(),
        };
        self.locations.iter().enumerate().map(location).collect()
    }

    /// The number of a frame's function.
    fn function(&mut self, frame: &Frame, lines: Lines) -> u64 {
        // Lines are told apart by their numbers, not by names.
        let lines = if lines == Lines::None { Lines::None } else { Lines::Function };
        let name = self.string(&label(frame, lines));
        let file = frame.file.as_deref().filter(|_| frame.kind.is_lua()).unwrap_or_default();
        let filename = self.string(&printable(file, FILE_NAME_LIMIT));
        let start_line = frame.first_line.into();
        let entry = self.functions.entry((name, filename, start_line));
        let id = entry.index() as u64 + 1;
        entry.or_insert(message::Function { id, name, filename, start_line });
        id
    }

    /// The number of the module that a frame's code is in, or 0 for code that is in none.
    fn mapping(&mut self, frame: &Frame) -> u64 {
        let module = match (mapping_name(frame.kind), named_file(frame)) {
            (Some(name), _) => name.to_owned(),
            (None, Some(module)) if frame.kind == FrameKind::Kernel && !module.starts_with('[') => {
                format!("[{}]", printable(module, FILE_NAME_LIMIT))
            }
            (None, Some(module)) => printable(module, FILE_NAME_LIMIT),
            (None, None) if frame.kind == FrameKind::Kernel => KERNEL.to_owned(),
            (None, None) => return 0,
        };
        let module = self.string(&module);
        self.modules.insert_full(module).0 as u64 + 1
    }

    fn mappings(&self) -> Vec<message::Mapping> {
        // Readers look for symbols where a mapping says that it has none.
        let mapping = |(index, &filename): (usize, &i64)| message::Mapping {
            id: index as u64 + 1,
            filename,
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        };
        self.modules.iter().enumerate().map(mapping).collect()
    }

    fn labels(&mut self, profile: &Profile, origin: &Origin) -> Vec<message::Label> {
        let &Origin { pid, tid, vm, state } = origin;
        let mut labels = Vec::new();
        if let Some(name) = profile.threads.get(&(pid, tid)).filter(|name| !name.trim().is_empty()) {
            let (key, str) = (self.string("thread"), self.string(&printable(name, NAME_LIMIT)));
            labels.push(message::Label { key, str, num: 0 });
        }
        let mut number = |tables: &mut Tables, key, num: i64| {
            if num != 0 {
                labels.push(message::Label { key: tables.string(key), str: 0, num });
            }
        };
        number(self, "tid", tid.into());
        number(self, "pid", pid.into());
        if vm != 0 {
            let (key, str) = (self.string("vm"), self.string(&format!("{vm:#x}")));
            labels.push(message::Label { key, str, num: 0 });
        }
        labels.push(message::Label { key: self.string("state"), str: self.string(state.name()), num: 0 });
        for (name, value) in
            profile.labels.get(&pid).into_iter().flatten().filter(|(_, value)| !value.trim().is_empty())
        {
            let (key, str) = (self.string(name), self.string(&printable(value, FILE_NAME_LIMIT)));
            labels.push(message::Label { key, str, num: 0 });
        }
        labels
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::format::example::{self, golden};

    fn written(profile: &Profile) -> message::Profile {
        let mut bytes = Vec::new();
        write(profile, Lines::Both, &mut bytes).unwrap();
        let mut plain = Vec::new();
        GzDecoder::new(&*bytes).read_to_end(&mut plain).unwrap();
        // Decoding checks that strings are UTF-8.
        let read = message::Profile::decode(&*plain).unwrap();
        check(&read);
        read
    }

    /// The rules of the strictest readers: ids are 1 to n in order, and everything that is referred to is there.
    fn check(profile: &message::Profile) {
        assert!(profile.mapping.iter().map(|mapping| mapping.id).eq(1..=profile.mapping.len() as u64));
        assert!(profile.location.iter().map(|location| location.id).eq(1..=profile.location.len() as u64));
        assert!(profile.function.iter().map(|function| function.id).eq(1..=profile.function.len() as u64));
        let strings = &profile.string_table;
        assert_eq!(strings[0], "");
        assert_eq!(strings.iter().collect::<HashSet<_>>().len(), strings.len(), "each string is stored once");
        let text = |index: i64| &*strings[usize::try_from(index).unwrap()];
        let types: Vec<_> = profile.sample_type.iter().map(|kind| (text(kind.r#type), text(kind.unit))).collect();
        assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
        let period_type = profile.period_type.unwrap();
        assert_eq!((text(period_type.r#type), text(period_type.unit)), types[1]);
        assert!(profile.duration_nanos >= 0 && profile.time_nanos >= 0);
        for mapping in &profile.mapping {
            assert!(!text(mapping.filename).is_empty());
        }
        for function in &profile.function {
            assert!(!text(function.name).is_empty());
            assert!(!text(function.filename).contains(char::is_control) && function.start_line >= 0);
        }
        for location in &profile.location {
            assert!(location.mapping_id <= profile.mapping.len() as u64);
            assert!(!location.line.is_empty());
            for line in &location.line {
                assert!((1..=profile.function.len() as u64).contains(&line.function_id) && line.line >= 0);
            }
        }
        for sample in &profile.sample {
            assert!(!sample.location_id.is_empty());
            assert!(sample.location_id.iter().all(|id| (1..=profile.location.len() as u64).contains(id)));
            assert!(
                matches!(*sample.value, [count, time] if count > 0 && time == count.saturating_mul(profile.period))
            );
            let keys: HashSet<_> = sample.label.iter().map(|label| text(label.key)).collect();
            assert_eq!(keys.len(), sample.label.len(), "a label is given twice");
            for label in &sample.label {
                assert!(!text(label.key).is_empty() && (label.str == 0 || !text(label.str).is_empty()));
                assert!(text(label.str).len() <= 2048 && (label.str == 0 || label.num == 0));
            }
        }
    }

    /// Each stack as names, root first, with its values and labels.
    fn shown(profile: &message::Profile) -> Vec<String> {
        let text = |index: i64| &*profile.string_table[index as usize];
        let name = |id: &u64| {
            let location = &profile.location[*id as usize - 1];
            let module = location.mapping_id.checked_sub(1).map(|index| profile.mapping[index as usize].filename);
            let line = |line: &message::Line| {
                let function = &profile.function[line.function_id as usize - 1];
                let place = format!("{}:{}", text(function.filename), function.start_line);
                format!("{} <{}|{place}|{}>", text(function.name), text(module.unwrap_or(0)), line.line)
            };
            location.line.iter().rev().map(line).collect::<Vec<_>>().join(" + ")
        };
        let label = |label: &message::Label| match label.str {
            0 => format!("{}={}", text(label.key), label.num),
            str => format!("{}={:?}", text(label.key), text(str)),
        };
        let sample = |sample: &message::Sample| {
            let labels: Vec<_> = sample.label.iter().map(label).collect();
            let stack: Vec<_> = sample.location_id.iter().rev().map(name).collect();
            format!("{:?} {}\n  {}\n", sample.value, labels.join(" "), stack.join("\n  "))
        };
        profile.sample.iter().map(sample).collect()
    }

    #[test]
    fn the_example_is_what_it_was() {
        let written = written(&example::profile());
        let comments: Vec<_> = written.comment.iter().map(|text| &*written.string_table[*text as usize]).collect();
        let head = format!(
            "period {} time {} duration {}\n{}\n",
            written.period,
            written.time_nanos,
            written.duration_nanos,
            comments.join("\n")
        );
        golden("example.pprof.txt", (head + &shown(&written).concat()).as_bytes());
    }

    #[test]
    fn hostile_names_are_only_text() {
        assert_eq!(written(&example::hostile()).sample.len(), example::hostile().counted_samples().len());
    }

    #[test]
    fn an_empty_profile_and_counts_beyond_measure_are_written() {
        assert!(written(&Profile::default()).sample.is_empty());
        let mut profile = example::profile();
        let stack: Vec<_> = profile.stacks().next().unwrap().0.to_vec();
        profile.add(Origin::default(), &stack, u64::MAX);
        assert!(written(&profile).sample.iter().any(|sample| sample.value == [i64::MAX, i64::MAX]));
    }

    #[test]
    fn a_function_is_one_whatever_its_line_and_however_it_is_run() {
        let written = written(&example::profile());
        let text = |index: i64| &*written.string_table[index as usize];
        let handle = written.function.iter().filter(|function| text(function.name) == "handle (/srv/app.lua:12)");
        assert_eq!(handle.count(), 1);
    }
}
