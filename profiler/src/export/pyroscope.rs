//! Pyroscope: `push.v1.PusherService/Push`, by the Connect protocol.
//!
//! Each process is a series, and a request is one profile of one series: Pyroscope answers for a request as a whole
//! after it has taken a
//! part of it, so that with more of them it would be unknown what was taken.
//!
//! What it checks is in its `pkg/validation` and `pkg/distributor`. By its defaults it refuses profiles of more than
//! 4 MiB or 16,000
//! samples, and never has room for one of more than 2 MiB, its limit of what comes at once: larger profiles are sent in
//! parts. It makes a series of each set of labels that samples have; ours have none there, or each worker would be a
//! dozen
//! series. It cuts the leaves off stacks of more than 1,000 frames; those are cut in the middle here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use prost::bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderName};

use super::endpoint::{Encoded, Endpoint, Sending};
use super::http::{Answer, Http, Understood};
use crate::daemon::config::Export;
use crate::format::label::printable;
use crate::format::pprof;
use crate::profile::view::Lines;
use crate::profile::window::{Identity, ProcessProfile, Window};
use crate::profile::{Counted, Frame, FrameId, FrameKind, Origin, Profile};

/// Where requests go, after the path of the URL.
const PATH: &str = "/push.v1.PusherService/Push";
/// What requests and answers are.
const CONTENT: &str = "application/proto";

/// What its profiles of CPU time are called.
const NAME: (&str, &str) = ("__name__", "process_cpu");

const MOST_LABELS: usize = 30;
const MOST_SAMPLES: usize = 16_000;
const MOST_FRAMES: usize = 1_000;
/// Bytes of a profile that is not compressed.
const MOST_BYTES: usize = 1 << 20;
/// Characters, of up to four bytes, of names (up to 1,024 bytes) and values (up to 2,048 bytes) of labels.
const NAME_LIMIT: usize = 250;
const VALUE_LIMIT: usize = 500;

/// A Pyroscope.
#[derive(Debug)]
pub struct Pyroscope {
    http: Http,
    /// That labels do not fit has been said.
    said: AtomicBool,
}

impl Pyroscope {
    /// The one that a configuration tells of.
    ///
    /// # Errors
    /// See [`Http::new`].
    pub fn new(config: &Export) -> anyhow::Result<Pyroscope> {
        let headers = [(CONTENT_TYPE, CONTENT), (HeaderName::from_static("connect-protocol-version"), "1")];
        Ok(Pyroscope { http: Http::new(config, PATH, &headers)?, said: AtomicBool::new(false) })
    }

    fn labels(&self, identity: &Identity) -> Vec<LabelPair> {
        let (labels, left_out) = labels(identity);
        if left_out > 0 && !self.said.swap(true, Ordering::Relaxed) {
            log::warn!(
                "{left_out} labels of a process are not sent to Pyroscope: it takes {MOST_LABELS}, of different names"
            );
        }
        labels
    }
}

impl Endpoint for Pyroscope {
    fn encode(&self, window: &Window, processes: &[&ProcessProfile]) -> Encoded {
        let mut encoded = Encoded::default();
        for ProcessProfile { identity, profile } in processes {
            let labels = self.labels(identity);
            let samples: Vec<_> = profile.counted_samples().collect();
            let mut whole = part(profile, &samples);
            (whole.meta.started, whole.meta.seconds) = (Some(window.started), window.seconds);
            for profile in fitting(whole, &mut encoded.left_out) {
                let mut raw_profile = Vec::new();
                // Writing to memory cannot fail.
                let _ = pprof::write_converted(&profile, &mut raw_profile);
                let series = RawProfileSeries { labels: labels.clone(), samples: vec![RawSample { raw_profile }] };
                encoded.bodies.push(PushRequest { series: vec![series] }.encode_to_vec());
            }
        }
        encoded
    }

    fn send<'a>(&'a self, body: Bytes) -> Sending<'a> {
        Box::pin(self.http.post(body, understood))
    }
}

fn understood(answer: &Answer) -> Understood {
    if answer.content_type != CONTENT {
        return Err(format!(
            "with something that is not {CONTENT}, but {:?}",
            printable(&answer.content_type, NAME_LIMIT)
        ));
    }
    match PushResponse::decode(&*answer.body) {
        Ok(PushResponse {}) => Ok((0, None)),
        Err(error) => Err(format!("with a message that cannot be read: {error}")),
    }
}

/// The labels of a series, and how many more there are than can be sent.
fn labels(identity: &Identity) -> (Vec<LabelPair>, usize) {
    let all = identity.labels();
    // Those of the configuration come last, so that they are the ones for which there is no room.
    let (theirs, ours): (Vec<_>, Vec<_>) = all.iter().partition(|(name, _)| identity.labels.contains_key(**name));
    let mut labels = BTreeMap::from([(NAME.0.to_owned(), NAME.1.to_owned())]);
    let mut left_out = 0;
    for (name, value) in ours.into_iter().chain(theirs) {
        let (name, value) = (label_name(name), printable(value, VALUE_LIMIT));
        if value.is_empty() {
            continue;
        }
        match labels.contains_key(&name) || labels.len() == MOST_LABELS {
            true => left_out += 1,
            false => _ = labels.insert(name, value),
        }
    }
    // Without it, older versions refuse the profile.
    labels.entry("service_name".to_owned()).or_insert_with(|| "unknown".to_owned());
    (labels.into_iter().map(|(name, value)| LabelPair { name, value }).collect(), left_out)
}

/// A name of letters, digits and `_` that does not begin with a digit, or with `__` like those that Pyroscope gives
/// a meaning.
fn label_name(name: &str) -> String {
    let fit = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
    let name: String = name.chars().take(NAME_LIMIT).map(fit).collect();
    match name.trim_start_matches('_') {
        rest if rest.len() + 1 < name.len() => format!("_{rest}"),
        rest if rest.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) => format!("_{rest}"),
        _ => name,
    }
}

/// Some of the samples of a profile, whichever thread they are of, their stacks cut to the greatest depth.
fn part(profile: &Profile, samples: &[Counted]) -> Profile {
    let mut part = Profile::default();
    (part.meta, part.counters) = (profile.meta.clone(), profile.counters.clone());
    let mut ids: Vec<Option<FrameId>> = vec![None; profile.frames().len()];
    let mut stack = Vec::new();
    for counted in samples {
        stack.clear();
        for id in counted.stack {
            stack.push(*ids[id.index()].get_or_insert_with(|| part.frame(profile.get(*id).clone())));
        }
        if let Some(too_many) = stack.len().checked_sub(MOST_FRAMES).filter(|too_many| *too_many > 0) {
            let cut = part.frame(Frame {
                kind: FrameKind::Marker,
                name: Some("truncated".into()),
                file: None,
                first_line: 0,
                line: 0,
                unresolved: false,
            });
            let middle = MOST_FRAMES / 2;
            stack.splice(middle..=middle + too_many, [cut]);
        }
        part.add(Origin::default(), &stack, counted.count);
    }
    part
}

/// A profile as messages of which each fits.
fn fitting(profile: Profile, left_out: &mut u64) -> Vec<pprof::message::Profile> {
    let mut fitting = Vec::new();
    let mut parts = vec![profile];
    while let Some(profile) = parts.pop() {
        let samples: Vec<_> = profile.counted_samples().collect();
        if samples.len() <= MOST_SAMPLES {
            let mut converted = pprof::converted(&profile, Lines::default());
            converted.sample.iter_mut().for_each(|sample| sample.label.clear());
            if converted.encoded_len() <= MOST_BYTES {
                fitting.push(converted);
                continue;
            }
        }
        if samples.len() < 2 {
            *left_out += samples.iter().map(|counted| counted.count).sum::<u64>();
            continue;
        }
        let (former, latter) = samples.split_at(samples.len() / 2);
        parts.extend([part(&profile, latter), part(&profile, former)]);
    }
    // Two profiles of one series and one time, in milliseconds, are taken for the same.
    for (index, part) in fitting.iter_mut().enumerate() {
        part.time_nanos += index as i64 * 1_000_000;
    }
    fitting
}

#[derive(Clone, PartialEq, Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<RawProfileSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawSample {
    /// A pprof file.
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct PushResponse {}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::daemon::config::Config;

    fn pyroscope() -> Pyroscope {
        let text = "[[export]]\nname = \"a\"\nprotocol = \"pyroscope\"\nurl = \"http://localhost:1\"";
        Pyroscope::new(&toml::from_str::<Config>(text).unwrap().export[0]).unwrap()
    }

    fn identity() -> Identity {
        Identity { pid: 7, service: "shop".to_owned(), command: "nginx".to_owned(), ..Identity::default() }
    }

    /// What is sent of one process: of each request its labels and its profile.
    fn sent(profile: Profile) -> (Vec<(Vec<LabelPair>, pprof::message::Profile)>, u64) {
        let process = ProcessProfile { identity: Arc::new(identity()), profile };
        let started = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let window = Window { started, seconds: 15.0, processes: vec![process] };
        let Encoded { bodies, left_out } = pyroscope().encode(&window, &window.services()["shop"]);
        let read = |body: Vec<u8>| {
            let [series] = <[_; 1]>::try_from(PushRequest::decode(&*body).unwrap().series).unwrap();
            let [RawSample { raw_profile }] = <[_; 1]>::try_from(series.samples).unwrap();
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&*raw_profile).read_to_end(&mut plain).unwrap();
            assert!(plain.len() <= MOST_BYTES);
            (series.labels, pprof::message::Profile::decode(&*plain).unwrap())
        };
        (bodies.into_iter().map(read).collect(), left_out)
    }

    fn frame(profile: &mut Profile, name: &str) -> FrameId {
        let name = Some(name.into());
        profile.frame(Frame { kind: FrameKind::Native, name, file: None, first_line: 0, line: 0, unresolved: false })
    }

    #[test]
    fn a_process_is_a_series_and_its_samples_have_no_labels() {
        let mut profile = Profile::default();
        let main = frame(&mut profile, "main");
        for tid in 0..3 {
            profile.add(Origin { pid: 7, tid, ..Origin::default() }, &[main], 2);
        }
        let (sent, left_out) = sent(profile);
        let [(labels, profile)] = &*sent else { panic!("{} requests", sent.len()) };
        let labels: Vec<_> = labels.iter().map(|label| (&*label.name, &*label.value)).collect();
        let wanted = [("__name__", "process_cpu"), ("command", "nginx"), ("pid", "7"), ("service_name", "shop")];
        assert_eq!((&*labels, left_out), (&wanted[..], 0));
        let [sample] = &*profile.sample else { panic!("{} samples", profile.sample.len()) };
        assert!(sample.label.is_empty() && sample.value[0] == 6);
        assert_eq!((profile.time_nanos, profile.duration_nanos), (1_700_000_000_000_000_000, 15_000_000_000));
    }

    #[test]
    fn a_large_profile_is_sent_in_parts_of_different_times() {
        let mut profile = Profile::default();
        for number in 0..40_000 {
            let stack = [frame(&mut profile, "main"), frame(&mut profile, &format!("{number:050}"))];
            profile.add(Origin::default(), &stack, 1);
        }
        let (sent, left_out) = sent(profile);
        let samples: usize = sent.iter().map(|(_, profile)| profile.sample.len()).sum();
        assert_eq!((samples, left_out), (40_000, 0));
        assert!(sent.iter().all(|(_, profile)| profile.sample.len() <= MOST_SAMPLES));
        for pair in sent.windows(2) {
            assert!(pair[0].1.time_nanos / 1_000_000 < pair[1].1.time_nanos / 1_000_000);
        }
    }

    #[test]
    fn a_deep_stack_keeps_its_root_and_its_leaf() {
        let mut profile = Profile::default();
        let stack: Vec<_> = (0..3000).map(|number| frame(&mut profile, &number.to_string())).collect();
        profile.add(Origin::default(), &stack, 1);
        let (sent, _) = sent(profile);
        let profile = &sent[0].1;
        let name = |id: u64| {
            let function = profile.location[id as usize - 1].line[0].function_id;
            &*profile.string_table[profile.function[function as usize - 1].name as usize]
        };
        let names: Vec<_> = profile.sample[0].location_id.iter().rev().map(|id| name(*id)).collect();
        assert_eq!((names.len(), names[0], names[499], names[501], names[999]), (1000, "0", "499", "2501", "2999"));
        assert!(names[500].contains("truncated"), "{}", names[500]);
    }

    #[test]
    fn labels_are_what_pyroscope_takes() {
        let more = [("a.b", "1"), ("a-b", "2"), ("9lives", "3"), ("__name__", "4"), ("pid", "5"), ("empty", "")];
        let more = more.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut identity = Identity { labels: more.into(), ..identity() };
        identity.labels.insert("long".into(), "\u{1f600}".repeat(5000));
        let (found, left_out) = labels(&identity);
        let value = |name: &str| found.iter().find(|label| label.name == name).map(|label| &*label.value);
        assert_eq!((value("a_b"), left_out), (Some("2"), 1), "the first of two that are called the same");
        assert_eq!((value("_9lives"), value("_name__"), value("pid")), (Some("3"), Some("4"), Some("7")));
        assert_eq!((value("empty"), value("__name__")), (None, Some("process_cpu")));
        assert!(found.iter().all(|label| label.value.len() <= 2048 && label.name.len() <= 1024));
        assert!(found.is_sorted_by(|one, other| one.name < other.name));

        identity.labels = (0..100).map(|number| (format!("label{number}"), "x".to_owned())).collect();
        let (found, left_out) = labels(&identity);
        assert_eq!((found.len(), left_out), (MOST_LABELS, 100 + 4 - MOST_LABELS));
        assert!(found.iter().any(|label| label.name == "service_name"));
    }

    #[test]
    fn an_answer_must_be_one_of_the_protocol() {
        let answer = |content_type: &str, body: &[u8]| {
            understood(&Answer { content_type: content_type.to_owned(), body: body.to_vec() })
        };
        assert_eq!(answer("application/proto", b""), Ok((0, None)));
        assert!(answer("application/proto", b"<html>").is_err());
        assert!(answer("text/html", b"").is_err());
    }
}
