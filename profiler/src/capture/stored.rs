//! A profile in a file: its frames, stacks and samples, as they were resolved when it was taken.
//!
//! Stacks share their beginnings: they are stored as a tree, each node a frame and the node of its caller. What describes the
//! profile is stored as JSON, so that later versions can say more.

use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use super::file::{Capture, CaptureError, Kind, Reason, Recording, append, head};
use crate::profile::{Counters, Frame, FrameKind, Origin, Profile, State};

/// Most frames of all stacks together that are read: far more than the largest profile has, and 256 MiB.
const MAX_FRAMES: usize = 1 << 26;

/// The bulk of a profile, in postcard's wire format. Indexes of strings are one more than their place, 0 is none.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Samples {
    strings: Vec<String>,
    frames: Vec<StoredFrame>,
    /// Nodes of the tree: the caller's, one more than its place and 0 at the root, and the frame.
    nodes: Vec<(u32, u32)>,
    origins: Vec<StoredOrigin>,
    /// Index of the origin, of the stack's innermost node, and the number of samples.
    counts: Vec<(u32, u32, u64)>,
    /// Index in `counts` and milliseconds since the one before.
    ticks: Vec<(u32, u32)>,
    /// Process, thread and its name.
    threads: Vec<(u32, u32, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredFrame {
    kind: u8,
    name: u32,
    file: u32,
    first_line: u32,
    line: u32,
    unresolved: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredOrigin {
    pid: u32,
    tid: u32,
    vm: u64,
    state: u8,
}

/// What describes a profile.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Description {
    processes: Vec<(u32, String)>,
    /// When sampling began, in the first files; later ones have it in their [`Recording`].
    #[serde(skip_serializing)]
    started: Option<u64>,
    samples: u64,
    truncated: u64,
    outside_lua: u64,
    frames: u64,
    unresolved: u64,
    reasons: IndexMap<String, u64>,
    without_symbols: IndexMap<String, u64>,
    own_cpu: f64,
}

fn number_of<T: PartialEq>(all: &[T], one: T) -> u8 {
    all.iter().position(|other| *other == one).unwrap_or_default() as u8
}

/// The file of a profile: a capture without memory.
///
/// # Errors
/// When it is more than such a file can hold.
pub fn profile_file(recording: &Recording, profile: &Profile) -> std::io::Result<Vec<u8>> {
    let too_much = |_| std::io::Error::other("the profile is more than a capture can hold");
    let samples = postcard::to_stdvec(&samples(profile)).map_err(std::io::Error::other)?;
    u32::try_from(samples.len()).map_err(too_much)?;
    let mut file = head();
    append(&mut file, Kind::Profile, &samples, Compression::default());
    append(&mut file, Kind::Description, &serde_json::to_vec(&description(profile))?, Compression::default());
    append(&mut file, Kind::Recording, &serde_json::to_vec(recording)?, Compression::default());
    Ok(file)
}

/// A file with these bytes in the place of the samples and of what describes them.
#[cfg(feature = "fuzzing")]
pub fn profile_file_of(samples: &[u8], description: &[u8]) -> Vec<u8> {
    let recording = br#"{"luaflame":"","records":0,"pids":[],"lua":true,"kernel":true,"frequency":1,"event":"","seconds":1,"lost":0}"#;
    let mut file = head();
    for (kind, contents) in [(Kind::Profile, samples), (Kind::Description, description), (Kind::Recording, recording)] {
        append(&mut file, kind, contents, Compression::none());
    }
    file
}

fn samples(profile: &Profile) -> Samples {
    let mut strings: IndexSet<Arc<str>, FxBuildHasher> = IndexSet::default();
    let mut string =
        |text: Option<&Arc<str>>| text.map_or(0, |text| strings.insert_full(Arc::clone(text)).0 as u32 + 1);
    let frames = profile
        .frames()
        .map(|frame| StoredFrame {
            kind: number_of(&FrameKind::ALL, frame.kind),
            name: string(frame.name.as_ref()),
            file: string(frame.file.as_ref()),
            first_line: frame.first_line,
            line: frame.line,
            unresolved: frame.unresolved,
        })
        .collect();
    let threads =
        profile.threads.iter().map(|((pid, tid), name)| (*pid, *tid, string(Some(&name.as_str().into())))).collect();
    let mut nodes: IndexSet<(u32, u32), FxBuildHasher> = IndexSet::default();
    let mut origins: IndexSet<Origin, FxBuildHasher> = IndexSet::default();
    let mut counts = Vec::with_capacity(profile.counted_samples().len());
    let mut leaf = |stack: &[crate::profile::FrameId]| {
        stack.iter().fold(0, |caller, frame| nodes.insert_full((caller, frame.index() as u32)).0 as u32 + 1)
    };
    for counted in profile.counted_samples() {
        let node = leaf(counted.stack);
        counts.push((origins.insert_full(*counted.origin).0 as u32, node, counted.count));
    }
    let mut last = Duration::ZERO;
    let ticks = profile
        .timeline()
        .map(|(time, counted)| {
            let since = time.saturating_sub(last).as_millis() as u32;
            last = time.max(last);
            (counted.place as u32, since)
        })
        .collect();
    Samples {
        frames,
        threads,
        counts,
        ticks,
        strings: strings.iter().map(|text| text.to_string()).collect(),
        nodes: nodes.into_iter().collect(),
        origins: origins
            .into_iter()
            .map(|Origin { pid, tid, vm, state }| StoredOrigin { pid, tid, vm, state: number_of(&State::ALL, state) })
            .collect(),
    }
}

fn description(profile: &Profile) -> Description {
    let counters = &profile.counters;
    Description {
        processes: profile.meta.processes.clone(),
        started: None,
        samples: counters.samples,
        truncated: counters.truncated,
        outside_lua: counters.outside_lua,
        frames: counters.frames,
        unresolved: counters.unresolved,
        reasons: counters.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
        without_symbols: counters.without_symbols.iter().map(|(file, count)| (file.to_string(), *count)).collect(),
        own_cpu: counters.own_cpu,
    }
}

/// The profile that a capture holds, or `None` when it holds memory instead.
///
/// # Errors
/// When it is damaged.
pub fn stored_profile(capture: &Capture) -> Result<Option<Profile>, CaptureError> {
    let Some(bytes) = capture.section(Kind::Profile, 0)? else { return Ok(None) };
    let damaged = |what| capture.error(Reason::Damaged(what));
    let samples: Samples = postcard::from_bytes(&bytes).map_err(|_| damaged("its samples cannot be read"))?;
    let description = capture.section(Kind::Description, 0)?.ok_or_else(|| damaged("its description is missing"))?;
    let description: Description =
        serde_json::from_slice(&description).map_err(|_| damaged("its description cannot be read"))?;
    let mut profile = restored(&samples).ok_or_else(|| damaged("its samples refer to what is not there"))?;
    let mut recording = capture.recording.clone();
    recording.started = recording.started.or(description.started);
    let lost = recording.lost;
    profile.meta = recording.meta(description.processes);
    profile.counters = Counters {
        samples: description.samples,
        lost,
        truncated: description.truncated,
        outside_lua: description.outside_lua,
        frames: description.frames,
        unresolved: description.unresolved,
        reasons: description.reasons.into_iter().collect(),
        without_symbols: description.without_symbols.into_iter().map(|(file, count)| (file.into(), count)).collect(),
        own_cpu: description.own_cpu,
    };
    Ok(Some(profile))
}

fn restored(samples: &Samples) -> Option<Profile> {
    let strings: Vec<Arc<str>> = samples.strings.iter().map(|text| Arc::from(text.as_str())).collect();
    let string = |index: u32| match index {
        0 => Some(None),
        _ => strings.get(index as usize - 1).map(|text| Some(Arc::clone(text))),
    };
    let mut profile = Profile::default();
    let mut frames = Vec::with_capacity(samples.frames.len());
    for frame in &samples.frames {
        frames.push(profile.frame(Frame {
            kind: *FrameKind::ALL.get(usize::from(frame.kind))?,
            name: string(frame.name)?,
            file: string(frame.file)?,
            first_line: frame.first_line,
            line: frame.line,
            unresolved: frame.unresolved,
        }));
    }
    for (pid, tid, name) in &samples.threads {
        profile.threads.insert((*pid, *tid), string(*name)?.as_deref().unwrap_or_default().to_owned());
    }
    // A node's caller comes before it, so no chain has an end that is not a root.
    let before = samples.nodes.iter().enumerate().all(|(index, (caller, _))| *caller as usize <= index);
    if !before {
        return None;
    }
    let mut origins = Vec::with_capacity(samples.origins.len());
    for origin in &samples.origins {
        let state = *State::ALL.get(usize::from(origin.state))?;
        origins.push(Origin { pid: origin.pid, tid: origin.tid, vm: origin.vm, state });
    }
    let mut total = 0;
    let mut stack = Vec::new();
    let mut stacks = Vec::with_capacity(samples.counts.len());
    for (origin, leaf, count) in &samples.counts {
        stack.clear();
        let mut node = *leaf;
        while node != 0 {
            let (caller, frame) = samples.nodes.get(node as usize - 1)?;
            stack.push(*frames.get(*frame as usize)?);
            total += 1;
            if total > MAX_FRAMES {
                return None;
            }
            node = *caller;
        }
        stack.reverse();
        stacks.push(profile.add(*origins.get(*origin as usize)?, &stack, *count));
    }
    let mut time = Duration::ZERO;
    for (counted, since) in &samples.ticks {
        time += Duration::from_millis(u64::from(*since));
        profile.tick(*stacks.get(*counted as usize)?, time);
    }
    Some(profile)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::profile::Meta;

    fn recording() -> Recording {
        Recording {
            luaflame: "0.1.0".to_owned(),
            records: 1,
            pids: vec![7],
            launched: None,
            lua: true,
            luajit: vec!["LuaJIT 2.1.0-beta3".to_owned()],
            kernel: true,
            frequency: 99,
            event: "cpu-clock".to_owned(),
            started: Some(1_700_000_000_123),
            seconds: 2.5,
            lost: 3,
        }
    }

    fn profile() -> Profile {
        let mut profile = Profile::default();
        let mut frame = |kind, name: Option<&str>, first_line, line| {
            let (name, file) = (name.map(Arc::from), Some("app.lua".into()));
            profile.frame(Frame { kind, name, file, first_line, line, unresolved: line == 0 })
        };
        let main = frame(FrameKind::Native, Some("main"), 0, 0);
        let handle = frame(FrameKind::Compiled, Some("handle"), 3, 5);
        let nameless = frame(FrameKind::Inlined, None, 9, 10);
        let first = Origin { pid: 7, tid: 7, vm: 0x1000, state: State::Compiled };
        let second = Origin { pid: 7, tid: 8, vm: 0, state: State::Outside };
        profile.add_at(first, &[main, handle], 5_000_000);
        profile.add_at(second, &[main], 15_000_000);
        profile.add_at(first, &[main, handle, nameless], 25_999_999);
        profile.add_at(first, &[main, handle], 35_000_000);
        profile.add(second, &[handle], 1 << 40);
        profile.threads.insert((7, 8), "worker; \u{1}".to_owned());
        profile.meta = Meta {
            processes: vec![(7, "nginx".to_owned())],
            lua: true,
            luajit: vec!["LuaJIT 2.1.0-beta3".to_owned()],
            frequency: 99,
            event: "cpu-clock".to_owned(),
            seconds: 2.5,
            started: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(1_700_000_000_123)),
        };
        profile.counters.samples = 4;
        profile.counters.lost = 3;
        profile.counters.reasons.insert("a reason".to_owned(), 2);
        profile.counters.without_symbols.insert("libc.so.6".into(), 1);
        profile
    }

    fn read(bytes: Vec<u8>) -> Result<Option<Profile>, CaptureError> {
        stored_profile(&Capture::of("a.luaflame".to_owned(), bytes)?)
    }

    /// All that a profile holds, as text.
    fn shown(profile: &Profile) -> String {
        let frames: Vec<_> = profile.frames().collect();
        let counted: Vec<_> = profile.counted_samples().collect();
        let timeline: Vec<_> = profile.timeline().collect();
        let Profile { threads, meta, counters, .. } = profile;
        format!("{frames:?} {counted:?} {timeline:?} {threads:?} {meta:?} {counters:?}")
    }

    #[test]
    fn a_profile_is_read_as_it_was_written() {
        let written = profile();
        let read = read(profile_file(&recording(), &written).unwrap()).unwrap().expect("a profile");
        assert_eq!(shown(&read), shown(&written));
    }

    #[test]
    fn the_first_files_are_read() {
        let recording = r#"{"luaflame":"0.1.0","records":1,"pids":[7],"lua":true,"kernel":true,"frequency":99,"event":"cpu-clock",
            "seconds":2.5,"lost":3}"#;
        let description = r#"{"processes":[[7,"nginx"]],"started":1700000000123,"samples":4}"#;
        let mut file = head();
        let samples = postcard::to_stdvec(&samples(&profile())).unwrap();
        append(&mut file, Kind::Profile, &samples, Compression::default());
        append(&mut file, Kind::Description, description.as_bytes(), Compression::default());
        append(&mut file, Kind::Recording, recording.as_bytes(), Compression::default());
        let meta = read(file).unwrap().expect("a profile").meta;
        assert_eq!((meta.started, meta.luajit), (profile().meta.started, Vec::new()));
    }

    #[test]
    fn what_refers_to_nothing_is_damaged() {
        let damages: [fn(&mut Samples); 9] = [
            |samples| samples.nodes[0].0 = 1,
            |samples| samples.nodes[1].0 = 99,
            |samples| samples.nodes[0].1 = 99,
            |samples| samples.frames[0].name = 99,
            |samples| samples.frames[0].kind = 99,
            |samples| samples.origins[0].state = 99,
            |samples| samples.counts[0].0 = 99,
            |samples| samples.counts[0].1 = 99,
            |samples| samples.ticks[0].0 = 99,
        ];
        for (number, damage) in damages.iter().enumerate() {
            let mut samples = samples(&profile());
            damage(&mut samples);
            assert!(restored(&samples).is_none(), "damage {number}");
        }
    }

    #[test]
    fn stacks_of_absurd_size_are_refused() {
        let nodes = (0..1 << 16).map(|caller| (caller, 0)).collect();
        let counts = vec![(0, 1 << 16, 1); 1 << 12];
        let samples = Samples { nodes, counts, ..samples(&profile()) };
        assert!(restored(&samples).is_none());
    }

    #[test]
    fn a_file_without_its_description_is_damaged() {
        let mut file = head();
        append(&mut file, Kind::Profile, &postcard::to_stdvec(&samples(&profile())).unwrap(), Compression::default());
        append(&mut file, Kind::Recording, &serde_json::to_vec(&recording()).unwrap(), Compression::default());
        assert!(read(file).unwrap_err().to_string().contains("its description is missing"));
    }
}
