//! Profiles for speedscope (<https://www.speedscope.app>): a JSON document with a sampled profile for each thread, in the
//! order of time.
//!
//! Speedscope draws samples side by side, each as wide as its weight, which here is the CPU time that it stands for: the
//! time that a thread did not run is not in the picture. Frames have the annotations of folded stacks, because the format
//! has no other place for their kinds.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::format::label::{FILE_NAME_LIMIT, annotation, label, printable};
use crate::format::threads::{Sample, Thread};
use crate::profile::view::Lines;
use crate::profile::{Frame, FrameId, Profile};

/// Most characters of the title.
const TITLE_LIMIT: usize = 160;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    exporter: &'static str,
    name: String,
    active_profile_index: usize,
    shared: Shared,
    profiles: Vec<Sampled<'a>>,
}

#[derive(Serialize)]
struct Shared {
    frames: Vec<Described>,
}

#[derive(Serialize)]
struct Described {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sampled<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    name: String,
    unit: &'static str,
    start_value: u64,
    end_value: u64,
    samples: Vec<Stack<'a>>,
    weights: Vec<u64>,
}

/// A stack as the numbers of its frames, root first.
#[derive(PartialEq)]
struct Stack<'a>(&'a [FrameId]);

impl Serialize for Stack<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|id| id.index()))
    }
}

/// Writes a profile for speedscope, under this title.
///
/// # Errors
/// Those of `writer`.
pub fn write(profile: &Profile, lines: Lines, title: &str, writer: &mut dyn Write) -> io::Result<()> {
    let threads = Thread::all(profile);
    let samples_of = |thread: &Thread| thread.samples.iter().fold(0, |sum: u64, one| sum.saturating_add(one.count));
    // The busiest thread is shown first.
    let busiest = (0..threads.len()).rev().max_by_key(|&index| samples_of(&threads[index])).unwrap_or_default();
    let file = File {
        schema: "https://www.speedscope.app/file-format-schema.json",
        exporter: concat!("luaflame ", env!("CARGO_PKG_VERSION")),
        name: printable(title, TITLE_LIMIT),
        active_profile_index: busiest,
        shared: Shared { frames: profile.frames().map(|frame| described(frame, lines)).collect() },
        profiles: threads.iter().map(|thread| sampled(profile, thread)).collect(),
    };
    serde_json::to_writer(&mut *writer, &file)?;
    writer.write_all(b"\n")
}

fn described(frame: &Frame, lines: Lines) -> Described {
    let line = if lines == Lines::Line { frame.line } else { frame.first_line };
    Described {
        name: label(frame, lines) + annotation(frame.kind),
        file: frame.file.as_deref().map(|file| printable(file, FILE_NAME_LIMIT)),
        line: (line > 0).then_some(line),
    }
}

fn sampled<'a>(profile: &Profile, thread: &Thread<'a>) -> Sampled<'a> {
    // Without a frequency there is no time, only a number of samples.
    let (unit, each) = match 1_000_000_000_u64.checked_div(profile.meta.frequency.into()) {
        Some(period) => ("nanoseconds", period),
        None => ("none", 1),
    };
    let mut samples: Vec<Stack> = Vec::new();
    let mut weights: Vec<u64> = Vec::new();
    let mut end = 0_u64;
    for Sample { stack, count, .. } in &thread.samples {
        let weight = count.saturating_mul(each).min(u64::MAX - end);
        end += weight;
        // Neighbours with the same stack are one box anyway.
        match (samples.last(), weights.last_mut()) {
            (Some(last), Some(sum)) if last.0 == *stack => *sum += weight,
            _ => {
                samples.push(Stack(stack));
                weights.push(weight);
            }
        }
    }
    let name = format!("{} {} of {} {}", thread.name(profile), thread.tid, thread.process(profile), thread.pid);
    Sampled { kind: "sampled", name, unit, start_value: 0, end_value: end, samples, weights }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile::Origin;

    fn written(profile: &Profile) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(profile, Lines::Function, "A \"title\"", &mut bytes).unwrap();
        check(&serde_json::from_slice(&bytes).unwrap());
        bytes
    }

    /// The keys of an object, all of which must be known, and some of which must be there.
    fn keys(object: &Value, required: &[&str], optional: &[&str]) {
        let object = object.as_object().unwrap();
        for key in required {
            assert!(object.contains_key(*key), "{key} is missing");
        }
        for key in object.keys() {
            assert!(required.contains(&&**key) || optional.contains(&&**key), "{key} is not known");
        }
    }

    /// What the published schema asks for, and what the reader checks beyond it.
    fn check(file: &Value) {
        keys(file, &["$schema", "shared", "profiles"], &["name", "activeProfileIndex", "exporter"]);
        assert_eq!(file["$schema"], "https://www.speedscope.app/file-format-schema.json");
        assert!(file["name"].is_string() && file["exporter"].is_string());
        keys(&file["shared"], &["frames"], &[]);
        let frames = file["shared"]["frames"].as_array().unwrap();
        for frame in frames {
            keys(frame, &["name"], &["file", "line", "col"]);
            assert!(!frame["name"].as_str().unwrap().is_empty());
            assert!(frame.get("file").is_none_or(Value::is_string) && frame.get("line").is_none_or(Value::is_u64));
        }
        let profiles = file["profiles"].as_array().unwrap();
        let active = file["activeProfileIndex"].as_u64().unwrap();
        assert!(active < profiles.len() as u64 || (active == 0 && profiles.is_empty()));
        for profile in profiles {
            keys(profile, &["type", "name", "unit", "startValue", "endValue", "samples", "weights"], &[]);
            assert_eq!(profile["type"], "sampled");
            assert!(profile["name"].is_string());
            let units = ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"];
            assert!(units.contains(&profile["unit"].as_str().unwrap()));
            let (samples, weights) = (profile["samples"].as_array().unwrap(), profile["weights"].as_array().unwrap());
            assert_eq!(samples.len(), weights.len());
            for index in samples.iter().flat_map(|sample| sample.as_array().unwrap()) {
                assert!(index.as_u64().unwrap() < frames.len() as u64);
            }
            let sum: u64 = weights.iter().map(|weight| weight.as_u64().unwrap()).sum();
            assert_eq!(profile["endValue"].as_u64().unwrap() - profile["startValue"].as_u64().unwrap(), sum);
        }
    }

    #[test]
    fn the_example_is_what_it_was() {
        let file: Value = serde_json::from_slice(&written(&example::profile())).unwrap();
        golden("example.speedscope.json", format!("{file:#}\n").as_bytes());
    }

    #[test]
    fn hostile_names_and_an_empty_profile_make_a_valid_file() {
        let text = String::from_utf8(written(&example::hostile())).unwrap();
        assert!(!text.trim_end().contains(char::is_control));
        written(&Profile::default());
    }

    #[test]
    fn without_times_and_a_frequency_samples_are_counted() {
        let mut profile = example::profile();
        profile.meta.frequency = 0;
        let stack: Vec<_> = profile.stacks().next().unwrap().0.to_vec();
        profile.add(Origin { pid: 1, tid: 2, ..Origin::default() }, &stack, 3);
        let file: Value = serde_json::from_slice(&written(&profile)).unwrap();
        let last = file["profiles"].as_array().unwrap().last().unwrap();
        assert_eq!((&last["unit"], &last["weights"]), (&"none".into(), &vec![3].into()));
        assert_eq!(last["name"], "thread 2 of process 1");
        profile.add(Origin::default(), &stack, u64::MAX);
        written(&profile);
    }
}
