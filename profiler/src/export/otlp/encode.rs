//! A window as a message.
//!
//! Each process is a resource with one profile: samples counted, with the nanoseconds of CPU time that each stands for as the period, as
//! the eBPF profiler of OpenTelemetry sends them. Stores multiply the two.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::time::UNIX_EPOCH;

use indexmap::{IndexMap, IndexSet};
use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, Profile, ProfilesDictionary, ResourceProfiles, Sample,
    ScopeProfiles, Stack, ValueType,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use rustc_hash::FxBuildHasher;
use sha2::{Digest, Sha256};

use crate::format::label::{label, printable};
use crate::format::pprof::{module, period};
use crate::profile::view::Lines;
use crate::profile::window::{ProcessProfile, Window};
use crate::profile::{Frame, FrameKind, Origin};

/// Most characters of a value before escaping.
const VALUE_LIMIT: usize = 1024;

/// The message that tells of processes in a window. Strings, functions and stacks that processes have in common are in it once.
pub fn encode(window: &Window, processes: &[&ProcessProfile]) -> ExportProfilesServiceRequest {
    let mut tables = Tables::default();
    let resource_profiles = processes.iter().map(|process| tables.resource(window, process)).collect();
    ExportProfilesServiceRequest { resource_profiles, dictionary: Some(tables.dictionary()) }
}

/// What is known of a process, by the names that OpenTelemetry has for it.
fn attributes(process: &ProcessProfile) -> Vec<KeyValue> {
    let identity = &process.identity;
    let labels = identity.labels();
    let mut attributes: BTreeMap<&str, Value> = BTreeMap::new();
    let (named, others): (Vec<_>, Vec<_>) =
        labels.iter().filter(|(_, value)| !value.trim().is_empty()).partition(|(name, _)| known(name).is_some());
    // The configuration's cannot take the place of those that have names of their own.
    for (name, value) in others.into_iter().chain(named) {
        let name = known(name).unwrap_or(name);
        attributes.insert(name, Value::StringValue(printable(value, VALUE_LIMIT)));
    }
    attributes.insert("process.pid", Value::IntValue(identity.pid.into()));
    let attribute = |(key, value): (&str, Value)| KeyValue {
        key: printable(key, VALUE_LIMIT),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    attributes.into_iter().map(attribute).collect()
}

/// What OpenTelemetry calls a label of ours.
fn known(name: &str) -> Option<&'static str> {
    match name {
        "service_name" => Some("service.name"),
        "pid" => Some("process.pid"),
        "command" => Some("process.command"),
        "container" => Some("container.id"),
        "namespace" => Some("k8s.namespace.name"),
        _ => None,
    }
}

/// What OpenTelemetry calls the kind of a frame; nothing for what is not code.
fn frame_type(kind: FrameKind) -> Option<&'static str> {
    match kind {
        FrameKind::Kernel => Some("kernel"),
        FrameKind::Native | FrameKind::NativeInlined => Some("native"),
        FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined | FrameKind::Builtin => Some("luajit"),
        FrameKind::Marker | FrameKind::Group => None,
    }
}

/// The same for each process and window, so that a profile that is sent twice is known.
fn profile_id(process: &ProcessProfile, time: u64) -> Vec<u8> {
    let identity = &process.identity;
    let mut digest = Sha256::new();
    digest.update(time.to_le_bytes());
    digest.update(identity.pid.to_le_bytes());
    digest.update(identity.started.to_le_bytes());
    digest.update(&identity.service);
    digest.finalize()[..16].to_vec()
}

/// A table of values each stored once, of which the first is the zero value and means that there is none.
#[derive(Debug)]
struct Table<T>(IndexSet<T, FxBuildHasher>);

impl<T: Default + Eq + Hash> Default for Table<T> {
    fn default() -> Table<T> {
        Table(IndexSet::from_iter([T::default()]))
    }
}

impl<T: Eq + Hash> Table<T> {
    fn index(&mut self, value: T) -> i32 {
        // A message of 2 GiB could not be sent.
        i32::try_from(self.0.insert_full(value).0).unwrap_or_default()
    }

    fn map<U>(self, message: impl FnMut(T) -> U) -> Vec<U> {
        self.0.into_iter().map(message).collect()
    }
}

/// A value of an attribute: the message has none that can be compared.
#[derive(Debug, PartialEq, Eq, Hash, Default)]
enum Scalar {
    #[default]
    Nothing,
    Text(String),
    Number(i64),
}

/// What is referred to by place in the whole message.
#[derive(Debug, Default)]
struct Tables {
    strings: Table<String>,
    functions: Table<Function>,
    mappings: Table<Mapping>,
    /// Each is a mapping, a line and the kind of frame as an attribute.
    locations: Table<(i32, Option<Line>, Option<i32>)>,
    stacks: Table<Vec<i32>>,
    /// Name and value.
    attributes: Table<(i32, Scalar)>,
}

impl Tables {
    fn resource(&mut self, window: &Window, process: &ProcessProfile) -> ResourceProfiles {
        let scope = InstrumentationScope {
            name: "luaflame".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let profiles = vec![self.profile(window, process)];
        let scope = ScopeProfiles { scope: Some(scope), profiles, ..ScopeProfiles::default() };
        let resource = Resource { attributes: attributes(process), ..Resource::default() };
        ResourceProfiles { resource: Some(resource), scope_profiles: vec![scope], ..ResourceProfiles::default() }
    }

    fn profile(&mut self, window: &Window, process: &ProcessProfile) -> Profile {
        let since = window.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_unix_nano = u64::try_from(since.as_nanos()).unwrap_or_default();
        let counters = &process.profile.counters;
        let mut attribute_indices = Vec::new();
        for (name, count) in [("luaflame.lost", counters.lost), ("luaflame.truncated", counters.truncated)] {
            attribute_indices.push(self.number(name, i64::try_from(count).unwrap_or(i64::MAX)));
        }
        Profile {
            sample_type: Some(self.value_type("samples", "count")),
            samples: self.samples(process),
            time_unix_nano,
            duration_nano: (window.seconds * 1e9) as u64,
            period_type: Some(self.value_type("cpu", "nanoseconds")),
            period: period(&process.profile.meta),
            profile_id: profile_id(process, time_unix_nano),
            attribute_indices,
            ..Profile::default()
        }
    }

    fn samples(&mut self, process: &ProcessProfile) -> Vec<Sample> {
        let profile = &process.profile;
        let locations: Vec<i32> = profile.frames().map(|frame| self.location(frame)).collect();
        let mut vms: IndexSet<u64> = IndexSet::new();
        // Frames that differ only in how they are run are one location, and their stacks one stack.
        let mut counts: IndexMap<(i32, Vec<i32>), u64, FxBuildHasher> = IndexMap::default();
        for counted in profile.counted_samples() {
            let stack = counted.stack.iter().rev().map(|id| locations[id.index()]).collect();
            let stack = self.stacks.index(stack);
            let thread = profile.threads.get(&(counted.origin.pid, counted.origin.tid));
            let attributes = self.origin(counted.origin, thread.map(String::as_str), &mut vms);
            let count = counts.entry((stack, attributes)).or_default();
            *count = count.saturating_add(counted.count);
        }
        let sample = |((stack_index, attribute_indices), count)| Sample {
            stack_index,
            attribute_indices,
            values: vec![i64::try_from(count).unwrap_or(i64::MAX)],
            ..Sample::default()
        };
        counts.into_iter().map(sample).collect()
    }

    /// Where a sample was taken, as attributes.
    fn origin(&mut self, origin: &Origin, thread: Option<&str>, vms: &mut IndexSet<u64>) -> Vec<i32> {
        let mut attributes = Vec::new();
        if let Some(name) = thread.filter(|name| !name.trim().is_empty()) {
            attributes.push(self.text("thread.name", printable(name, VALUE_LIMIT)));
        }
        attributes.push(self.number("thread.id", origin.tid.into()));
        if origin.vm != 0 {
            let vm = vms.insert_full(origin.vm).0 as i64 + 1;
            attributes.push(self.number("luajit.vm", vm));
        }
        attributes.push(self.text("luajit.state", origin.state.name().to_owned()));
        attributes
    }

    fn location(&mut self, frame: &Frame) -> i32 {
        let file = frame.file.as_deref().filter(|_| frame.kind.is_lua()).unwrap_or_default();
        let function = Function {
            name_strindex: self.string(label(frame, Lines::Function)),
            system_name_strindex: 0,
            filename_strindex: self.string(printable(file, VALUE_LIMIT)),
            start_line: frame.first_line.into(),
        };
        let line = Line { function_index: self.functions.index(function), line: frame.line.into(), column: 0 };
        let mapping = match module(frame) {
            Some(module) => {
                let filename_strindex = self.string(printable(module, VALUE_LIMIT));
                self.mappings.index(Mapping { filename_strindex, ..Mapping::default() })
            }
            None => 0,
        };
        let kind = frame_type(frame.kind).map(|kind| self.text("profile.frame.type", kind.to_owned()));
        self.locations.index((mapping, Some(line), kind))
    }

    fn string(&mut self, text: String) -> i32 {
        self.strings.index(text)
    }

    fn value_type(&mut self, kind: &str, unit: &str) -> ValueType {
        ValueType { type_strindex: self.string(kind.to_owned()), unit_strindex: self.string(unit.to_owned()) }
    }

    fn text(&mut self, name: &str, value: String) -> i32 {
        let name = self.string(name.to_owned());
        self.attributes.index((name, Scalar::Text(value)))
    }

    fn number(&mut self, name: &str, value: i64) -> i32 {
        let name = self.string(name.to_owned());
        self.attributes.index((name, Scalar::Number(value)))
    }

    fn dictionary(self) -> ProfilesDictionary {
        let attribute = |(key_strindex, value): (i32, Scalar)| {
            let value = match value {
                Scalar::Nothing => None,
                Scalar::Text(text) => Some(Value::StringValue(text)),
                Scalar::Number(number) => Some(Value::IntValue(number)),
            };
            let value = value.map(|value| AnyValue { value: Some(value) });
            KeyValueAndUnit { key_strindex, value, ..KeyValueAndUnit::default() }
        };
        let location = |(mapping_index, line, kind): (i32, Option<Line>, Option<i32>)| Location {
            mapping_index,
            lines: line.into_iter().collect(),
            attribute_indices: kind.into_iter().collect(),
            ..Location::default()
        };
        ProfilesDictionary {
            mapping_table: self.mappings.map(|mapping| mapping),
            location_table: self.locations.map(location),
            function_table: self.functions.map(|function| function),
            link_table: vec![Link::default()],
            string_table: self.strings.map(|string| string),
            attribute_table: self.attributes.map(attribute),
            stack_table: self.stacks.map(|location_indices| Stack { location_indices }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::time::Duration;

    use prost::Message;

    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile;
    use crate::profile::window::Identity;

    fn process(profile: profile::Profile) -> ProcessProfile {
        let labels = [("cluster", "west"), ("service.name", "other"), ("blank", " ")];
        let identity = Identity {
            pid: 4711,
            started: 99,
            command: "nginx".into(),
            service: "shop".into(),
            container: Some("abc".into()),
            namespace: Some("web".into()),
            worker: Some(3),
            labels: labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        };
        ProcessProfile { identity: Arc::new(identity), profile }
    }

    fn encoded(processes: &[&ProcessProfile]) -> ExportProfilesServiceRequest {
        let started = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let window = Window { started, seconds: 15.0, processes: Vec::new() };
        let bytes = encode(&window, processes).encode_to_vec();
        // Decoding checks that strings are UTF-8.
        let request = ExportProfilesServiceRequest::decode(&*bytes).unwrap();
        check(&request);
        request
    }

    /// What the protocol demands of dictionaries and of what refers to them.
    fn check(request: &ExportProfilesServiceRequest) {
        let dictionary = request.dictionary.as_ref().unwrap();
        assert_eq!(dictionary.string_table[0], "");
        assert_eq!(dictionary.mapping_table[0], Mapping::default());
        assert_eq!(dictionary.location_table[0], Location::default());
        assert_eq!(dictionary.function_table[0], Function::default());
        assert_eq!(dictionary.link_table, [Link::default()]);
        assert_eq!(dictionary.attribute_table[0], KeyValueAndUnit::default());
        assert_eq!(dictionary.stack_table[0], Stack::default());
        let strings: HashSet<_> = dictionary.string_table.iter().collect();
        assert_eq!(strings.len(), dictionary.string_table.len(), "each string is stored once");
        let within = |index: i32, length: usize| assert!(usize::try_from(index).unwrap() < length);
        let set = |index: i32, length: usize| assert!((1..length).contains(&usize::try_from(index).unwrap()));
        let string = |index: i32| within(index, dictionary.string_table.len());
        let attributes = |indices: &[i32]| {
            let mut keys = HashSet::new();
            for &index in indices {
                set(index, dictionary.attribute_table.len());
                assert!(keys.insert(dictionary.attribute_table[index as usize].key_strindex));
            }
        };
        for attribute in &dictionary.attribute_table[1..] {
            set(attribute.key_strindex, dictionary.string_table.len());
            assert!(attribute.value.as_ref().unwrap().value.is_some());
        }
        for mapping in &dictionary.mapping_table[1..] {
            set(mapping.filename_strindex, dictionary.string_table.len());
        }
        for function in &dictionary.function_table[1..] {
            set(function.name_strindex, dictionary.string_table.len());
            string(function.filename_strindex);
        }
        for location in &dictionary.location_table[1..] {
            within(location.mapping_index, dictionary.mapping_table.len());
            let [line] = &*location.lines else { panic!("a location of {} lines", location.lines.len()) };
            set(line.function_index, dictionary.function_table.len());
            attributes(&location.attribute_indices);
        }
        for stack in &dictionary.stack_table[1..] {
            assert!(!stack.location_indices.is_empty());
            stack.location_indices.iter().for_each(|index| set(*index, dictionary.location_table.len()));
        }
        for resource in &request.resource_profiles {
            let attributes_of_resource = &resource.resource.as_ref().unwrap().attributes;
            let keys: HashSet<_> = attributes_of_resource.iter().map(|attribute| &attribute.key).collect();
            assert_eq!(keys.len(), attributes_of_resource.len());
            let [scope] = &*resource.scope_profiles else { panic!("more than one scope") };
            let [profile] = &*scope.profiles else { panic!("more than one profile") };
            assert_eq!(profile.profile_id.len(), 16);
            attributes(&profile.attribute_indices);
            let mut seen = HashSet::new();
            for sample in &profile.samples {
                set(sample.stack_index, dictionary.stack_table.len());
                attributes(&sample.attribute_indices);
                assert!(matches!(*sample.values, [count] if count > 0));
                assert!(seen.insert((sample.stack_index, &sample.attribute_indices)), "a sample is told twice");
            }
        }
    }

    fn value(value: &Option<AnyValue>) -> String {
        match value.as_ref().and_then(|value| value.value.as_ref()) {
            Some(Value::StringValue(text)) => format!("{text:?}"),
            Some(Value::IntValue(number)) => number.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// All that is in it, as text.
    fn shown(request: &ExportProfilesServiceRequest) -> String {
        let dictionary = request.dictionary.as_ref().unwrap();
        let text = |index: i32| &*dictionary.string_table[index as usize];
        let attributes = |indices: &[i32]| {
            let attribute = |index: &i32| {
                let attribute = &dictionary.attribute_table[*index as usize];
                format!("{}={}", text(attribute.key_strindex), value(&attribute.value))
            };
            indices.iter().map(attribute).collect::<Vec<_>>().join(" ")
        };
        let location = |index: &i32| {
            let location = &dictionary.location_table[*index as usize];
            let line = location.lines[0];
            let function = &dictionary.function_table[line.function_index as usize];
            let module = text(dictionary.mapping_table[location.mapping_index as usize].filename_strindex);
            let place = format!("{}:{}", text(function.filename_strindex), function.start_line);
            let kind = attributes(&location.attribute_indices);
            format!("  {} <{module}|{place}|{}> {kind}\n", text(function.name_strindex), line.line)
        };
        let mut shown = String::new();
        for resource in &request.resource_profiles {
            for attribute in &resource.resource.as_ref().unwrap().attributes {
                shown += &format!("{}={}\n", attribute.key, value(&attribute.value));
            }
            let profile = &resource.scope_profiles[0].profiles[0];
            let kind = |kind: Option<ValueType>| {
                kind.map(|kind| format!("{}/{}", text(kind.type_strindex), text(kind.unit_strindex)))
                    .unwrap_or_default()
            };
            shown += &format!(
                "{} of {} {}, at {} for {}, {}\n",
                kind(profile.sample_type),
                profile.period,
                kind(profile.period_type),
                profile.time_unix_nano,
                profile.duration_nano,
                attributes(&profile.attribute_indices),
            );
            for sample in &profile.samples {
                shown += &format!("{:?} {}\n", sample.values, attributes(&sample.attribute_indices));
                let stack = &dictionary.stack_table[sample.stack_index as usize];
                shown.extend(stack.location_indices.iter().map(location));
            }
        }
        shown
    }

    #[test]
    fn the_example_is_what_it_was() {
        let process = process(example::profile());
        golden("example.otlp.txt", shown(&encoded(&[&process])).as_bytes());
    }

    #[test]
    fn processes_share_what_they_have_in_common() {
        let (first, second) = (process(example::profile()), process(example::profile()));
        let (one, both) = (encoded(&[&first]), encoded(&[&first, &second]));
        assert_eq!(both.dictionary, one.dictionary);
        assert_eq!(both.resource_profiles.len(), 2);
    }

    #[test]
    fn hostile_names_are_only_text_and_counts_beyond_measure_are_kept() {
        let hostile = example::hostile();
        let request = encoded(&[&process(hostile)]);
        let strings = &request.dictionary.as_ref().unwrap().string_table;
        assert!(!strings.iter().any(|text| text.contains(char::is_control)));
        assert_eq!(request.resource_profiles[0].scope_profiles[0].profiles[0].samples[0].values, [1]);
        let mut profile = example::profile();
        let stack: Vec<_> = profile.stacks().next().unwrap().0.to_vec();
        profile.add(Origin::default(), &stack, u64::MAX);
        let request = encoded(&[&process(profile)]);
        let samples = &request.resource_profiles[0].scope_profiles[0].profiles[0].samples;
        assert!(samples.iter().any(|sample| sample.values == [i64::MAX]));
    }

    #[test]
    fn an_empty_profile_is_a_message_too() {
        let request = encoded(&[&process(profile::Profile::default())]);
        assert!(request.resource_profiles[0].scope_profiles[0].profiles[0].samples.is_empty());
    }

    #[test]
    fn a_profile_is_known_when_it_comes_again() {
        let (one, other) = (process(example::profile()), process(profile::Profile::default()));
        assert_eq!(profile_id(&one, 1), profile_id(&other, 1));
        assert_ne!(profile_id(&one, 1), profile_id(&one, 2));
    }
}
