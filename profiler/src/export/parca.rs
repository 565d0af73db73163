//! Parca: `parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw`, as its repository publishes it.
//!
//! Each process is a series with one pprof file. Parca wants names of labels as Prometheus has them, each once, and a series' name in
//! `__name__`. Of the labels in samples it keeps those that are texts; where the series has one of the same name, it puts `exported_`
//! before that of the sample.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::time::UNIX_EPOCH;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use prost::bytes::Bytes;

use super::endpoint::{Encoded, Endpoint, Sending};
use super::grpc::{Grpc, bodies};
use super::http::Understood;
use crate::daemon::config::Export;
use crate::format::label::printable;
use crate::format::pprof::{self, message};
use crate::profile::view::Lines;
use crate::profile::window::{ProcessProfile, Window};

const METHOD: &str = "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw";

/// What Parca's page shows as CPU time.
const NAME: &str = "process_cpu";

/// Most characters of a label's value before escaping.
const VALUE_LIMIT: usize = 1024;

/// A Parca server.
#[derive(Debug)]
pub struct Parca(Grpc);

impl Parca {
    /// That of a configuration.
    ///
    /// # Errors
    /// When something in the configuration cannot be, or a certificate cannot be read.
    pub fn new(config: &Export) -> anyhow::Result<Parca> {
        Ok(Parca(Grpc::new(config, METHOD)?))
    }
}

impl Endpoint for Parca {
    fn encode(&self, window: &Window, processes: &[&ProcessProfile]) -> Encoded {
        let encode = |processes: &[&ProcessProfile]| {
            let series = processes.iter().map(|process| series(window, process)).collect();
            WriteRawRequest { series }.encode_to_vec()
        };
        Encoded { bodies: bodies(processes, &encode), left_out: 0 }
    }

    fn send<'a>(&'a self, body: Bytes) -> Sending<'a> {
        Box::pin(self.0.call(body, understood))
    }
}

fn understood(answer: &[u8]) -> Understood {
    let decoded = WriteRawResponse::decode(answer);
    decoded.map(|_| (0, None)).map_err(|error| format!("with what is no response of Parca: {error}"))
}

fn series(window: &Window, process: &ProcessProfile) -> RawProfileSeries {
    let labels = labels(process).into_iter().map(|(name, value)| Label { name, value }).collect();
    let raw_profile = profile(window, process);
    RawProfileSeries { labels: Some(LabelSet { labels }), samples: vec![RawSample { raw_profile }] }
}

fn labels(process: &ProcessProfile) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([("__name__".to_owned(), NAME.to_owned())]);
    let known = process.identity.labels();
    for (name, value) in known.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        let mut name = prometheus_name(name);
        // Names that are the same only now are told apart.
        while labels.contains_key(&name) {
            name.push('_');
        }
        labels.insert(name, printable(&value, VALUE_LIMIT));
    }
    labels
}

/// A name of a label with an underscore for each character that Prometheus allows in none.
fn prometheus_name(name: &str) -> String {
    let allowed = |char: char| if char.is_ascii_alphanumeric() { char } else { '_' };
    let name: String = name.chars().map(allowed).collect();
    if name.starts_with(|char: char| char.is_ascii_digit()) || name.is_empty() { format!("_{name}") } else { name }
}

/// The pprof file of a process.
fn profile(window: &Window, process: &ProcessProfile) -> Vec<u8> {
    let mut profile = pprof::converted(&process.profile, Lines::Both);
    let started = window.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    profile.time_nanos = i64::try_from(started.as_nanos()).unwrap_or_default();
    profile.duration_nanos = (window.seconds * 1e9) as i64;
    name_numbers(&mut profile);
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    let written = compressed.write_all(&profile.encode_to_vec()).and_then(|()| compressed.finish());
    written.expect("memory can be written to")
}

/// Makes texts of the numbers in labels of samples, since Parca looks at texts alone. The process is in the labels of the series.
fn name_numbers(profile: &mut message::Profile) {
    let message::Profile { sample, string_table, .. } = profile;
    let mut texts: HashMap<i64, i64> = HashMap::new();
    let pid = string_table.iter().position(|text| text == "pid").unwrap_or_default() as i64;
    for sample in sample {
        sample.label.retain(|label| label.key != pid);
        for label in sample.label.iter_mut().filter(|label| label.str == 0) {
            label.str = *texts.entry(label.num).or_insert_with(|| {
                string_table.push(label.num.to_string());
                string_table.len() as i64 - 1
            });
            label.num = 0;
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct WriteRawRequest {
    #[prost(message, repeated, tag = "2")]
    series: Vec<RawProfileSeries>,
}

#[derive(Clone, PartialEq, Message)]
struct WriteRawResponse {}

#[derive(Clone, PartialEq, Message)]
struct RawProfileSeries {
    #[prost(message, optional, tag = "1")]
    labels: Option<LabelSet>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelSet {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;
    use std::time::Duration;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::format::example;
    use crate::profile::window::Identity;

    fn process() -> ProcessProfile {
        let labels =
            [("service_name", "other"), ("a.b", "1"), ("a_b", "2"), ("9", "nine"), ("", "none"), ("blank", " ")];
        let identity = Identity {
            pid: 4711,
            command: "nginx".into(),
            service: "shop\n".into(),
            worker: Some(0),
            labels: labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..Identity::default()
        };
        ProcessProfile { identity: Arc::new(identity), profile: example::profile() }
    }

    #[test]
    fn labels_are_as_prometheus_has_them() {
        let labels = labels(&process());
        let labels: Vec<_> = labels.iter().map(|(name, value)| (&**name, &**value)).collect();
        let expected = [
            ("_", "none"),
            ("_9", "nine"),
            ("__name__", "process_cpu"),
            ("a_b", "1"),
            ("a_b_", "2"),
            ("command", "nginx"),
            ("pid", "4711"),
            ("service_name", "shop\\n"),
            ("worker", "0"),
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn a_profile_tells_the_time_of_its_window_and_labels_as_texts() {
        let window = Window { started: UNIX_EPOCH + Duration::from_secs(7), seconds: 15.0, processes: Vec::new() };
        let mut plain = Vec::new();
        GzDecoder::new(&*profile(&window, &process())).read_to_end(&mut plain).unwrap();
        let profile = message::Profile::decode(&*plain).unwrap();
        assert_eq!((profile.time_nanos, profile.duration_nanos), (7_000_000_000, 15_000_000_000));
        let text = |index: i64| &*profile.string_table[index as usize];
        let labels = |sample: &message::Sample| {
            let label = |label: &message::Label| format!("{}={} {}", text(label.key), text(label.str), label.num);
            sample.label.iter().map(label).collect::<Vec<_>>()
        };
        assert_eq!(
            labels(&profile.sample[0]),
            ["thread=nginx 0", "tid=4711 0", "vm=0x7f0000001000 0", "state=interpreter 0"]
        );
        assert_eq!(profile.sample.iter().map(|sample| sample.value[0]).sum::<i64>(), 7);
    }
}
