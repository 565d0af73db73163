//! Files of `pprof`, from any producer: a message `perftools.profiles.Profile`, compressed with gzip or not.
//!
//! Of ours, all comes back that they hold: kinds of frames by the names of mappings, names and places of Lua functions, threads, VMs,
//! labels of processes, and how the samples were taken. In those of others, frames with a module are native functions or the
//! kernel's, and the rest is what its text says it is ([`frame`]).
//!
//! A file is hostile until it is read: what it may unpack to and how many of anything it may have is limited, and each
//! number that refers to something is looked up.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;
use std::time::{Duration, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use rustc_hash::FxBuildHasher;

use super::frame::frame;
use super::{MAX_FRAMES, count};
use crate::format::label::label;
use crate::format::pprof::message::{Function, Label, Line, Location, Mapping, Sample, ValueType};
use crate::format::pprof::{KERNEL, OURS, mapping_name};
use crate::profile::view::Lines;
use crate::profile::{Frame, FrameId, FrameKind, Origin, Profile, State};

/// What a compressed file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Most bytes that a file may unpack to. The largest known are a tenth of it.
const MAX_UNPACKED: u64 = 256 << 20;
/// Most bytes of one message within the profile, such as a sample: with 64 Ki frames it has a quarter of it.
const MAX_MESSAGE: usize = 1 << 20;
/// Most entries of each table but that of samples, each of which takes up to a hundred bytes.
const MAX_ENTRIES: usize = 1 << 20;
/// Most samples, before equal ones are counted together.
const MAX_SAMPLES: usize = 1 << 22;
/// Most labels of a sample, as in the stores that take these files.
const MAX_LABELS: usize = 100;
/// Most bytes of texts and stacks that a profile may be made of: what is short in a file may be referred to often.
const MAX_MADE: usize = 256 << 20;
/// What begins the names of modules that are the kernel, in files of others.
const KERNELS: &str = "[kernel";
/// Parts of a process's memory that are in brackets and not the kernel.
const MEMORY: [&str; 5] = ["[vdso", "[vsyscall", "[heap", "[stack", "[anon"];

/// Whether these are the bytes of such a file.
pub(super) fn is_it(bytes: &[u8]) -> bool {
    let is_whole =
        |tables: Tables| !tables.types.is_empty() && tables.strings.first().is_some_and(|text| text.is_empty());
    bytes.starts_with(&GZIP) || Tables::of(bytes).is_ok_and(is_whole)
}

/// Reads a file into a profile, with its counters: all of it, or the samples of one process, of which it is not known how many
/// were lost.
///
/// # Errors
/// When it is no such file, or not one of CPU time; the text says why, as a part of a sentence.
pub(crate) fn read(bytes: &[u8], pid: Option<u32>) -> Result<Profile, String> {
    if !bytes.starts_with(&GZIP) {
        return Tables::of(bytes)?.profile(pid);
    }
    let mut unpacked = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(MAX_UNPACKED + 1)
        .read_to_end(&mut unpacked)
        .map_err(|error| format!("it cannot be decompressed: {error}"))?;
    if unpacked.len() as u64 > MAX_UNPACKED {
        return Err("it unpacks to more than 256 MiB".to_owned());
    }
    Tables::of(&unpacked)?.profile(pid)
}

/// What is in the file: all but samples decoded.
#[derive(Debug, Default)]
struct Tables<'a> {
    types: Vec<ValueType>,
    samples: Vec<&'a [u8]>,
    mappings: HashMap<u64, Mapping, FxBuildHasher>,
    locations: HashMap<u64, Location, FxBuildHasher>,
    functions: HashMap<u64, Function, FxBuildHasher>,
    strings: Vec<Cow<'a, str>>,
    time: i64,
    duration: i64,
    period_type: Option<ValueType>,
    period: i64,
    comments: Vec<i64>,
    default_type: i64,
}

/// How much more may be made of a file.
#[derive(Debug)]
struct Budget {
    /// In bytes.
    left: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        let left = self.left.checked_sub(bytes);
        self.left = left.ok_or("its stacks and names take more than 256 MiB")?;
        Ok(())
    }
}

/// Which of the values of a sample counts, and how.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    /// Which value of each sample.
    value: usize,
    /// What makes one sample of it.
    unit: u64,
    /// Samples per second of CPU time, or 0 when that is unknown.
    frequency: u32,
    /// What it is called.
    name: String,
}

impl<'a> Tables<'a> {
    fn of(bytes: &'a [u8]) -> Result<Tables<'a>, String> {
        let mut tables = Tables::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let at = bytes.len() - rest.len();
            tables.field(&mut rest).map_err(|reason| format!("{reason}, at byte {at} of the message"))?;
        }
        Ok(tables)
    }

    fn field(&mut self, rest: &mut &'a [u8]) -> Result<(), String> {
        let malformed = |error: prost::DecodeError| format!("it is no message of pprof ({error})");
        let (tag, kind) = decode_key(rest).map_err(malformed)?;
        match kind {
            WireType::LengthDelimited => {
                let length = decode_varint(rest).map_err(malformed)?;
                let length = usize::try_from(length).ok().filter(|length| *length <= rest.len());
                let (content, after) = rest.split_at(length.ok_or("it was cut")?);
                *rest = after;
                self.content(tag, content)
            }
            WireType::Varint => {
                let number = decode_varint(rest).map_err(malformed)?.cast_signed();
                match tag {
                    9 => self.time = number,
                    10 => self.duration = number,
                    12 => self.period = number,
                    13 => push(&mut self.comments, number)?,
                    14 => self.default_type = number,
                    _ => {}
                }
                Ok(())
            }
            _ => Err("it has something that is not in profiles".to_owned()),
        }
    }

    fn content(&mut self, tag: u32, content: &'a [u8]) -> Result<(), String> {
        match tag {
            1 => push(&mut self.types, decoded(content)?),
            2 if self.samples.len() >= MAX_SAMPLES => Err("it has more than four million samples".to_owned()),
            2 => {
                self.samples.push(content);
                Ok(())
            }
            3 => decoded(content).and_then(|mapping: Mapping| insert(&mut self.mappings, mapping.id, mapping)),
            4 => decoded(content).and_then(|location: Location| insert(&mut self.locations, location.id, location)),
            5 => decoded(content).and_then(|function: Function| insert(&mut self.functions, function.id, function)),
            // Names from the memory of programs are in any encoding.
            6 => push(&mut self.strings, String::from_utf8_lossy(content)),
            11 => {
                self.period_type = Some(decoded(content)?);
                Ok(())
            }
            13 => {
                let mut rest = content;
                while !rest.is_empty() {
                    let number = decode_varint(&mut rest).map_err(|_| "its comments are cut")?;
                    push(&mut self.comments, number.cast_signed())?;
                }
                Ok(())
            }
            // What newer writers add.
            _ => Ok(()),
        }
    }

    /// A text; what refers to none is empty.
    fn text(&self, index: i64) -> &str {
        usize::try_from(index).ok().and_then(|index| self.strings.get(index)).map_or("", |text| text)
    }

    fn type_name(&self, kind: &ValueType) -> (&str, &str) {
        (self.text(kind.r#type), self.text(kind.unit))
    }

    fn profile(&self, pid: Option<u32>) -> Result<Profile, String> {
        let chosen = self.chosen()?;
        let comments: Vec<&str> = self.comments.iter().map(|comment| self.text(*comment)).collect();
        let ours = comments.first().and_then(|first| first.strip_prefix(OURS));
        let mut profile = Profile::default();
        let mut locations: HashMap<u64, Vec<FrameId>, FxBuildHasher> = HashMap::default();
        let mut stack = Vec::new();
        let mut budget = Budget { left: MAX_MADE };
        for sample in &self.samples {
            let sample: Sample = decoded(sample)?;
            let value = sample.value.get(chosen.value).copied().unwrap_or_default();
            // Differences of profiles have negative ones.
            let value =
                u64::try_from(value).map_err(|_| "it has samples that are fewer than none: it is a difference")?;
            if value == 0 {
                continue;
            }
            let Some(origin) = self.origin(&sample.label, pid, &mut profile, &mut budget)? else { continue };
            stack.clear();
            for id in sample.location_id.iter().rev() {
                if !locations.contains_key(id) {
                    let frames = self.frames(*id, ours.is_some(), &mut profile, &mut budget)?;
                    locations.insert(*id, frames);
                }
                stack.extend_from_slice(&locations[id]);
                if stack.len() > MAX_FRAMES {
                    return Err("it has a stack of more frames than a stack can have".to_owned());
                }
            }
            if stack.is_empty() {
                let name = Some("no stack".into());
                let frame =
                    Frame { kind: FrameKind::Marker, name, file: None, first_line: 0, line: 0, unresolved: true };
                stack.push(profile.frame(frame));
            }
            budget.take(stack.len() * size_of::<FrameId>())?;
            profile.add(origin, &stack, value.div_ceil(chosen.unit));
        }
        count(&mut profile);
        self.meta(&chosen, &mut profile);
        if let Some(first) = ours {
            described(first, if pid.is_none() { &comments[1..] } else { &[] }, &mut profile);
        }
        Ok(profile)
    }

    /// Chooses what is counted: samples, or else the time that they stand for.
    fn chosen(&self) -> Result<Chosen, String> {
        let types: Vec<_> = self.types.iter().map(|kind| self.type_name(kind)).collect();
        let is_samples = |(kind, unit): (&str, &str)| {
            unit == "count"
                && (matches!(kind, "samples" | "sample") || kind.ends_with("_sample") || kind.ends_with("_samples"))
        };
        let is_time = |(kind, unit): (&str, &str)| kind == "cpu" && (unit == "nanoseconds" || unit == "microseconds");
        let nanoseconds = |unit: &str| if unit == "microseconds" { 1000 } else { 1_u64 };
        let period_type = self.period_type.map(|kind| self.type_name(&kind)).filter(|kind| is_time(*kind));
        let period = u64::try_from(self.period).ok().filter(|period| *period > 0);
        let period = period_type.zip(period).map(|((_, unit), period)| period.saturating_mul(nanoseconds(unit)));
        let frequency = |period: u64| u32::try_from(1_000_000_000 / period).unwrap_or(u32::MAX);
        let fits = |kind| is_samples(kind) || is_time(kind);
        // The one that the file itself shows, if it can be shown; samples can be added up exactly.
        let preferred =
            types.iter().position(|kind| fits(*kind) && kind.0 == self.text(self.default_type) && !is_time(*kind));
        let position = preferred
            .or_else(|| types.iter().position(|kind| is_samples(*kind)))
            .or_else(|| types.iter().position(|kind| is_time(*kind)));
        let Some(value) = position else {
            let types: Vec<_> = types.iter().map(|(kind, unit)| format!("{kind}/{unit}")).collect();
            let types = if types.is_empty() { "nothing".to_owned() } else { types.join(", ") };
            return Err(format!(
                "it counts {types}, and neither samples (samples/count) nor CPU time (cpu/nanoseconds)"
            ));
        };
        let (kind, unit) = types[value];
        let name = format!("{kind}/{unit}");
        if is_samples(types[value]) {
            return Ok(Chosen { value, unit: 1, frequency: period.map_or(0, frequency), name });
        }
        // Without a period, a microsecond is one sample.
        let period = period.unwrap_or(1000);
        Ok(Chosen { value, unit: (period / nanoseconds(unit)).max(1), frequency: frequency(period), name })
    }

    /// The frames of a location, root first.
    fn frames(&self, id: u64, ours: bool, profile: &mut Profile, budget: &mut Budget) -> Result<Vec<FrameId>, String> {
        let location = self.locations.get(&id).ok_or("a sample refers to a location that is not there")?;
        let mapping = self.mappings.get(&location.mapping_id).map_or("", |mapping| self.text(mapping.filename));
        budget.take(mapping.len() * location.line.len().max(1))?;
        if location.line.is_empty() {
            let module = mapping.rsplit('/').next().filter(|module| !module.is_empty());
            let name = module.map(|module| format!("[{module}]").into());
            let frame = Frame {
                kind: if mapping.starts_with(KERNELS) { FrameKind::Kernel } else { FrameKind::Native },
                name,
                file: module.map(Into::into),
                first_line: 0,
                line: 0,
                unresolved: true,
            };
            return Ok(vec![profile.frame(frame)]);
        }
        let mut frames = Vec::with_capacity(location.line.len());
        for (depth, line) in location.line.iter().rev().enumerate() {
            let function =
                self.functions.get(&line.function_id).ok_or("a location refers to a function that is not there")?;
            budget.take(self.text(function.name).len() + self.text(function.filename).len() + size_of::<Frame>())?;
            frames.push(profile.frame(self.frame(line, function, mapping, depth > 0, ours)));
        }
        Ok(frames)
    }

    fn frame(&self, line: &Line, function: &Function, mapping: &str, inlined: bool, ours: bool) -> Frame {
        let text = self.text(function.name);
        let number = |number: i64| u32::try_from(number).unwrap_or_default();
        let line = number(line.line);
        let native = if inlined { FrameKind::NativeInlined } else { FrameKind::Native };
        let some = |text: &str| (!text.is_empty()).then(|| text.into());
        let first_line = if ours { number(function.start_line) } else { 0 };
        let plain = |kind, file| Frame { kind, name: some(text), file, first_line, line, unresolved: false };
        if !ours {
            // Lines of native code are not kept apart: they are not of the same function in all files.
            let module = mapping.rsplit('/').next().filter(|module| !module.is_empty());
            return match module {
                Some(_) if mapping.starts_with(KERNELS) => plain(FrameKind::Kernel, None),
                Some(module) => plain(native, some(module)),
                None => {
                    let told = frame(text);
                    let kind = if inlined && told.kind == FrameKind::Native { native } else { told.kind };
                    Frame { kind, line, ..told }
                }
            };
        }
        if let Some(kind) = FrameKind::ALL.into_iter().find(|kind| mapping_name(*kind) == Some(mapping)) {
            let told = if kind.is_lua() {
                let file = some(self.text(function.filename));
                lua(text, Frame { kind, name: None, file, first_line, line, unresolved: false })
            } else {
                let name = match kind {
                    FrameKind::Marker => text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text),
                    _ => text,
                };
                Some(Frame { name: some(name), ..plain(kind, None) })
            };
            // Otherwise it is the module of a native function that has the name of ours.
            if let Some(told) = told.filter(|told| label(told, Lines::Function) == text) {
                return told;
            }
        }
        let bracketed = mapping.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        match bracketed {
            Some(_) if mapping == KERNEL => plain(FrameKind::Kernel, None),
            Some(module) if !MEMORY.iter().any(|name| mapping.starts_with(name)) => {
                plain(FrameKind::Kernel, some(module))
            }
            _ => plain(native, some(mapping)),
        }
    }

    /// Where a sample was taken; `None` when it is of another process than is asked for.
    fn origin(
        &self,
        labels: &[Label],
        pid: Option<u32>,
        profile: &mut Profile,
        budget: &mut Budget,
    ) -> Result<Option<Origin>, String> {
        if labels.len() > MAX_LABELS {
            return Err("it has a sample of more than 100 labels".to_owned());
        }
        let mut origin = Origin::default();
        let mut thread = None;
        let mut others: Vec<(&str, Cow<'_, str>)> = Vec::new();
        for label in labels {
            let text = self.text(label.str);
            let number = if label.str == 0 { label.num } else { text.parse().unwrap_or_default() };
            match self.text(label.key) {
                "pid" => origin.pid = u32::try_from(number).unwrap_or_default(),
                "tid" => origin.tid = u32::try_from(number).unwrap_or_default(),
                "thread" => thread = Some(text),
                "vm" => {
                    let address = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
                    origin.vm = address.unwrap_or(number.cast_unsigned());
                }
                "state" => {
                    origin.state = State::ALL.into_iter().find(|state| state.name() == text).unwrap_or_default();
                }
                "" => {}
                key if label.str == 0 => others.push((key, label.num.to_string().into())),
                key => others.push((key, text.into())),
            }
        }
        if pid.is_some_and(|pid| pid != origin.pid) {
            return Ok(None);
        }
        // Without its number a name is of any thread.
        if let Some(thread) = thread.filter(|_| origin.tid != 0)
            && !profile.threads.contains_key(&(origin.pid, origin.tid))
        {
            budget.take(thread.len() + size_of::<String>())?;
            profile.threads.entry((origin.pid, origin.tid)).or_insert_with(|| thread.to_owned());
        }
        match profile.labels.get_mut(&origin.pid) {
            // What holds for some samples only does not hold for the process.
            Some(known) => known.retain(|(key, value)| others.iter().any(|other| other.0 == key && other.1 == *value)),
            None => {
                let size = |(key, value): &(&str, Cow<str>)| key.len() + value.len() + 2 * size_of::<String>();
                budget.take(others.iter().map(size).sum::<usize>() + size_of::<Origin>())?;
                let others = others.into_iter().map(|(key, value)| (key.to_owned(), value.into_owned())).collect();
                profile.labels.insert(origin.pid, others);
            }
        }
        Ok(Some(origin))
    }

    fn meta(&self, chosen: &Chosen, profile: &mut Profile) {
        let nanoseconds =
            |number: i64| u64::try_from(number).ok().filter(|number| *number > 0).map(Duration::from_nanos);
        profile.labels.retain(|_, labels| !labels.is_empty());
        let mut pids: Vec<u32> =
            profile.counted_samples().map(|counted| counted.origin.pid).filter(|pid| *pid != 0).collect();
        pids.sort_unstable();
        pids.dedup();
        let name = |pid| {
            let labels = profile.labels.get(&pid).into_iter().flatten();
            let command = labels.filter(|(name, _)| name == "command").map(|(_, value)| value).next();
            command.or_else(|| profile.threads.get(&(pid, pid))).cloned().unwrap_or_default()
        };
        let processes = pids.into_iter().map(|pid| (pid, name(pid))).collect();
        profile.meta.processes = processes;
        profile.meta.frequency = chosen.frequency;
        profile.meta.event.clone_from(&chosen.name);
        profile.meta.seconds = nanoseconds(self.duration).unwrap_or_default().as_secs_f64();
        profile.meta.started = nanoseconds(self.time).and_then(|time| UNIX_EPOCH.checked_add(time));
    }
}

/// A Lua function whose label this is, and of which all but the name is known.
fn lua(text: &str, unnamed: Frame) -> Option<Frame> {
    if label(&unnamed, Lines::Function) == text {
        return Some(unnamed);
    }
    let named = |name: &str| Frame { name: Some(name.into()), ..unnamed.clone() };
    let place = label(&named("f"), Lines::Function);
    let name = text.strip_suffix(place.strip_prefix('f')?)?;
    Some(named(name))
}

/// What our comments say, which is the rest of the first one and the others.
fn described(first: &str, more: &[&str], profile: &mut Profile) {
    if let Some((frequency, event)) = first.split_once(" Hz of ") {
        profile.meta.frequency = frequency.parse().unwrap_or(profile.meta.frequency);
        event.clone_into(&mut profile.meta.event);
    }
    let counters = &mut profile.counters;
    let numbers = |text: &&str| -> Vec<u64> { text.split(' ').filter_map(|word| word.parse().ok()).collect() };
    if let Some([samples, lost, truncated]) = more.first().map(numbers).as_deref() {
        (counters.samples, counters.lost, counters.truncated) = (*samples, *lost, *truncated);
    }
    if let Some([unresolved, frames]) = more.get(1).map(numbers).as_deref() {
        (counters.unresolved, counters.frames) = (*unresolved, *frames);
    }
}

fn decoded<T: Message + Default>(content: &[u8]) -> Result<T, String> {
    if content.len() > MAX_MESSAGE {
        return Err("a part of it is larger than 1 MiB".to_owned());
    }
    T::decode(content).map_err(|error| format!("a part of it is no message of pprof ({error})"))
}

fn push<T>(list: &mut Vec<T>, entry: T) -> Result<(), String> {
    if list.len() >= MAX_ENTRIES {
        return Err("it has more than a million entries of a kind".to_owned());
    }
    list.push(entry);
    Ok(())
}

fn insert<T>(table: &mut HashMap<u64, T, FxBuildHasher>, id: u64, entry: T) -> Result<(), String> {
    if table.len() >= MAX_ENTRIES {
        return Err("it has more than a million entries of a kind".to_owned());
    }
    table.insert(id, entry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::format::pprof::message;
    use crate::format::{example, folded, pprof};
    use crate::import::{ImportError, parse};

    fn file(profile: &Profile) -> Vec<u8> {
        let mut bytes = Vec::new();
        pprof::write(profile, Lines::Both, &mut bytes).unwrap();
        bytes
    }

    fn drawn(profile: &Profile, lines: Lines) -> String {
        let view = crate::profile::view::View { lines, ..Default::default() };
        let mut bytes = Vec::new();
        folded::write(&view.of(profile), lines, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_we_write_is_read_as_it_was() {
        let mut profile = example::profile();
        profile.labels.insert(4711, vec![("command".into(), "nginx".into()), ("worker".into(), "3".into())]);
        let written = file(&profile);
        let read = read(&written, None).unwrap();
        for lines in [Lines::None, Lines::Function, Lines::Line, Lines::Both] {
            assert_eq!(drawn(&read, lines), drawn(&profile, lines));
        }
        let kinds = |profile: &Profile| {
            let mut frames: Vec<_> = profile.frames().map(|frame| format!("{frame:?}")).collect();
            frames.sort();
            frames
        };
        assert_eq!(kinds(&read), kinds(&profile));
        let origins = |profile: &Profile| -> Vec<(Origin, u64)> {
            profile.counted_samples().map(|counted| (*counted.origin, counted.count)).collect()
        };
        assert_eq!(origins(&read), origins(&profile));
        assert_eq!((&read.threads, &read.labels), (&profile.threads, &profile.labels));
        assert_eq!(read.meta.processes, profile.meta.processes);
        assert_eq!((read.meta.started, read.meta.seconds), (profile.meta.started, profile.meta.seconds));
        assert_eq!((read.meta.frequency, &*read.meta.event), (100, "cpu-clock"));
        let counters = |profile: &Profile| {
            let counters = &profile.counters;
            (
                counters.samples,
                counters.lost,
                counters.truncated,
                counters.outside_lua,
                counters.frames,
                counters.unresolved,
            )
        };
        assert_eq!(counters(&read), counters(&profile));
        assert_eq!(file(&read), written);
    }

    #[test]
    fn hostile_names_are_written_read_and_written_alike() {
        let written = file(&example::hostile());
        let again = read(&written, None).unwrap();
        assert_eq!(again.counted_samples().len(), example::hostile().counted_samples().len());
        if file(&again) != written {
            let texts = |profile| pprof::converted(profile, Lines::Both).string_table;
            let (one, other) = (texts(&again), texts(&example::hostile()));
            let differs = one.iter().zip(&other).find(|(one, other)| one != other);
            panic!("not the same bytes; of {} and {} texts, {differs:?} differ", one.len(), other.len());
        }
    }

    #[test]
    fn one_process_can_be_read_alone() {
        let read = read(&file(&example::profile()), Some(4712)).unwrap();
        assert_eq!((read.counters.samples, read.counters.lost, read.stacks().len()), (1, 0, 1));
        assert_eq!(read.meta.processes, [(4712, "nginx".to_owned())]);
    }

    /// A file as another tool writes it, with what is given in it changed.
    fn foreign(change: impl FnOnce(&mut message::Profile)) -> Vec<u8> {
        let strings = [
            "",
            "samples",
            "count",
            "cpu",
            "nanoseconds",
            "/usr/bin/server",
            "[kernel.kallsyms]_text",
            "outer",
            "inner",
            "vfs_read",
            "thread",
            "worker",
            "bytes",
            "handle (/srv/app.lua:12)",
        ];
        let function = |id, name| Function { id, name, filename: 0, start_line: 0 };
        let line = |function_id| Line { function_id, line: 7 };
        let mapping = |id, filename| Mapping { id, filename, ..Mapping::default() };
        let mut profile = message::Profile {
            sample_type: vec![ValueType { r#type: 1, unit: 2 }, ValueType { r#type: 3, unit: 4 }],
            period_type: Some(ValueType { r#type: 3, unit: 4 }),
            period: 10_000_000,
            // As ids are, where nobody counts from one.
            sample: vec![Sample { location_id: vec![900, 7, 8], value: vec![3, 30_000_000], label: Vec::new() }],
            mapping: vec![mapping(40, 5), mapping(50, 6)],
            location: vec![
                Location { id: 7, mapping_id: 40, line: vec![line(70), line(60)] },
                Location { id: 900, mapping_id: 50, line: vec![line(80)] },
                Location { id: 8, mapping_id: 0, line: vec![line(90)] },
            ],
            function: vec![function(60, 7), function(70, 8), function(80, 9), function(90, 13)],
            string_table: strings.map(str::to_owned).to_vec(),
            ..message::Profile::default()
        };
        change(&mut profile);
        profile.encode_to_vec()
    }

    #[test]
    fn files_of_other_tools_are_read() {
        let plain = foreign(|_| ());
        let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
        compressed.write_all(&plain).unwrap();
        for bytes in [plain, compressed.finish().unwrap()] {
            let profile = parse(&bytes, "cpu.pb".to_owned()).unwrap();
            assert_eq!(drawn(&profile, Lines::Function), "handle (/srv/app.lua:12);outer;inner_[i];vfs_read_[k] 3\n");
            assert_eq!((profile.meta.frequency, &*profile.meta.event), (100, "samples/count"));
        }
    }

    #[test]
    fn time_counts_as_samples_where_there_are_no_others() {
        let time = |profile: &mut message::Profile| {
            profile.sample_type.remove(0);
            profile.sample[0].value.remove(0);
        };
        let read_of = |bytes: &[u8]| {
            let profile = read(bytes, None).unwrap();
            (profile.counters.samples, profile.meta.frequency, profile.meta.event)
        };
        assert_eq!(read_of(&foreign(time)), (3, 100, "cpu/nanoseconds".to_owned()));
        let without = foreign(|profile| {
            time(profile);
            profile.period = 0;
        });
        assert_eq!(read_of(&without), (30_000, 1_000_000, "cpu/nanoseconds".to_owned()));
    }

    fn refused(change: impl FnOnce(&mut message::Profile)) -> String {
        let error = parse(&foreign(change), "a.pb".to_owned()).unwrap_err();
        assert!(matches!(error, ImportError::Pprof { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn what_is_no_cpu_time_is_refused_by_name() {
        let memory = refused(|profile| {
            profile.sample_type = vec![ValueType { r#type: 11, unit: 12 }];
        });
        assert!(memory.contains("it counts worker/bytes, and neither"), "{memory}");
        assert!(refused(|profile| profile.sample[0].value[0] = -1).contains("difference"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert!(refused(|profile| profile.location.clear()).contains("location that is not there"));
        assert!(refused(|profile| profile.function.clear()).contains("function that is not there"));
        let names = foreign(|profile| profile.function[0].name = i64::MIN);
        assert_eq!(read(&names, None).unwrap().counters.samples, 3);
        let unnamed = foreign(|profile| profile.location[0].line.clear());
        let unnamed = read(&unnamed, None).unwrap();
        assert_eq!(drawn(&unnamed, Lines::Function), "handle (/srv/app.lua:12);[server];vfs_read_[k] 3\n");
        assert_eq!(unnamed.counters.unresolved, 3);
        let empty = parse(&foreign(|profile| profile.sample.clear()), "a.pb".to_owned()).unwrap_err();
        assert!(matches!(empty, ImportError::Empty(_)), "{empty}");
    }

    #[test]
    fn a_file_that_was_cut_is_refused() {
        let whole = file(&example::profile());
        for length in 2..whole.len() {
            assert!(read(&whole[..length], None).is_err(), "cut to {length} bytes");
        }
    }

    #[test]
    fn little_that_unpacks_to_much_is_refused() {
        let mut compressed = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..=256 {
            compressed.write_all(&[0; 1 << 20]).unwrap();
        }
        assert!(read(&compressed.finish().unwrap(), None).unwrap_err().contains("unpacks to more than 256 MiB"));
        // Every location is of the one long name.
        let long = foreign(|profile| {
            profile.string_table[8] = "n".repeat(1 << 20);
            let line = |line| Line { function_id: 70, line };
            profile.location =
                (0..300).map(|id| Location { id, mapping_id: 40, line: vec![line(id as i64)] }).collect();
            profile.sample[0].location_id = (0..300).collect();
        });
        assert!(read(&long, None).unwrap_err().contains("take more than 256 MiB"));
        let deep = foreign(|profile| profile.sample[0].location_id = vec![7; 40_000]);
        assert!(read(&deep, None).unwrap_err().contains("more frames than a stack can have"));
    }

    #[test]
    fn labels_hold_for_a_process_only_if_they_are_of_all_its_samples() {
        let label = |key, str, num| Label { key, str, num };
        let profile = foreign(|profile| {
            profile.string_table.extend(["tid", "zone", "a", "b"].map(str::to_owned));
            let mut other = profile.sample[0].clone();
            profile.sample[0].label = vec![label(10, 11, 0), label(14, 0, 5), label(15, 16, 0)];
            other.label = vec![label(15, 17, 0)];
            profile.sample.push(other);
        });
        let profile = read(&profile, None).unwrap();
        assert_eq!(profile.threads.get(&(0, 5)).map(String::as_str), Some("worker"));
        assert!(profile.labels.is_empty(), "{:?}", profile.labels);
    }
}
