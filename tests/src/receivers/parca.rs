//! A server that takes what a Parca server takes, by the rules that Parca publishes: the messages of
//! `parca/profilestore/v1alpha1/profilestore.proto`, and what its `pkg/normalizer` demands of them.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use flate2::read::MultiGzDecoder;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

/// Such a server on the loopback interface.
#[derive(Debug)]
pub struct Parca {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _runtime: Runtime,
}

#[derive(Debug, Default)]
struct State {
    series: Vec<Series>,
    metadata: Vec<MetadataMap>,
    instead: VecDeque<Status>,
}

/// A series that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is called: the label `__name__`.
    pub name: String,
    /// The other labels.
    pub labels: BTreeMap<String, String>,
    /// Its profiles.
    pub profiles: Vec<Taken>,
}

/// A profile that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// The types of its values, each as Parca queries it: `process_cpu:samples:count:cpu:nanoseconds:delta`.
    pub types: Vec<String>,
    /// When it began, in nanoseconds since 1970.
    pub time_nanos: i64,
    /// Its samples.
    pub samples: Vec<Sampled>,
}

/// A sample that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// The names of its functions, leaf first.
    pub stack: Vec<String>,
    /// A value for each type.
    pub values: Vec<i64>,
    /// The labels that a query sees beside those of the series.
    pub labels: BTreeMap<String, String>,
}

impl Parca {
    /// Starts one.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Parca> {
        Parca::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts one at an address, where another one may have been before.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start_at(address: SocketAddr) -> Result<Parca> {
        Parca::start_with(Server::builder(), address)
    }

    /// Starts one that speaks TLS.
    ///
    /// # Errors
    /// When it cannot listen or TLS cannot be spoken so.
    pub fn start_tls(tls: ServerTlsConfig) -> Result<Parca> {
        Parca::start_with(Server::builder().tls_config(tls)?, (Ipv4Addr::LOCALHOST, 0).into())
    }

    fn start_with(mut server: Server, address: SocketAddr) -> Result<Parca> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let state = Arc::<Mutex<State>>::default();
        let router = server.add_service(Store(Arc::clone(&state)));
        runtime.spawn(router.serve_with_incoming(TcpIncoming::from(listener)));
        Ok(Parca { address, state, _runtime: runtime })
    }

    /// Where it listens, `address:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The series that it has taken since this was asked before.
    pub fn taken(&self) -> Vec<Series> {
        std::mem::take(&mut self.state().series)
    }

    /// The metadata of the requests that there were since this was asked before.
    pub fn metadata(&self) -> Vec<MetadataMap> {
        std::mem::take(&mut self.state().metadata)
    }

    /// Has it answer the next request with this, whatever it is.
    pub fn answer_next(&self, status: Status) {
        self.state().instead.push_back(status);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service.
#[derive(Debug, Clone)]
struct Store(Arc<Mutex<State>>);

type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl NamedService for Store {
    const NAME: &'static str = "parca.profilestore.v1alpha1.ProfileStoreService";
}

impl Service<http::Request<Body>> for Store {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let store = self.clone();
        Box::pin(async move {
            if request.uri().path() != format!("/{}/WriteRaw", Store::NAME) {
                return Ok(Status::new(Code::Unimplemented, "unknown method").into_http());
            }
            let codec: ProstCodec<WriteRawResponse, WriteRawRequest> = ProstCodec::default();
            Ok(Grpc::new(codec).unary(store, request).await)
        })
    }
}

impl UnaryService<WriteRawRequest> for Store {
    type Response = WriteRawResponse;
    type Future = Answering<Result<Response<WriteRawResponse>, Status>>;

    fn call(&mut self, request: Request<WriteRawRequest>) -> Self::Future {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.metadata.push(request.metadata().clone());
        let answer = match state.instead.pop_front() {
            Some(status) => Err(status),
            None => normalized(request.into_inner()).map(|series| state.series.extend(series)),
        };
        Box::pin(async move { answer.map(|()| Response::new(WriteRawResponse {})) })
    }
}

fn normalized(request: WriteRawRequest) -> Result<Vec<Series>, Status> {
    request.series.into_iter().map(series).collect()
}

fn invalid(why: String) -> Status {
    Status::invalid_argument(why)
}

fn series(raw: RawProfileSeries) -> Result<Series, Status> {
    let (mut name, mut labels) = (String::new(), BTreeMap::new());
    for label in raw.labels.unwrap_or_default().labels {
        if label.name == "__name__" {
            name = label.value;
            continue;
        }
        if !is_label_name(&label.name) {
            return Err(invalid(format!("invalid label name: {}", label.name)));
        }
        if labels.contains_key(&label.name) {
            return Err(invalid(format!("duplicate label name: {}", label.name)));
        }
        labels.insert(label.name, label.value);
    }
    if name.is_empty() {
        return Err(invalid("missing __name__ label".to_owned()));
    }
    let mut profiles = Vec::new();
    for sample in raw.samples {
        let profile = unpacked(&sample.raw_profile)?;
        validate(&profile).map_err(|why| invalid(format!("invalid profile: {why}")))?;
        profiles.push(taken(&profile, &name, &labels));
    }
    Ok(Series { name, labels, profiles })
}

fn is_label_name(name: &str) -> bool {
    let begins = name.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    begins && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

fn unpacked(raw: &[u8]) -> Result<Profile, Status> {
    let mut plain = Vec::new();
    if raw.starts_with(&[0x1f, 0x8b]) {
        let read = MultiGzDecoder::new(raw).read_to_end(&mut plain);
        read.map_err(|error| Status::unknown(format!("decompressing profile: {error}")))?;
    } else {
        plain = raw.to_vec();
    }
    Profile::decode(&*plain).map_err(|error| invalid(format!("failed to parse profile: {error}")))
}

/// The rules for a profile.
fn validate(profile: &Profile) -> Result<(), String> {
    let strings = profile.string_table.len() as i64;
    let check = |holds: bool, why: &dyn Fn() -> String| if holds { Ok(()) } else { Err(why()) };
    // An index below zero is one that Go would panic at.
    let string = |index: i64, what: &str| {
        check(index == 0 || (0..strings).contains(&index), &|| format!("{what} has invalid index {index}"))
    };
    if let Some(first) = profile.string_table.first() {
        check(first.is_empty(), &|| format!("first item in string table is {first:?}"))?;
    }
    for (index, mapping) in profile.mapping.iter().enumerate() {
        check(mapping.id == index as u64 + 1, &|| "mapping id is not sequential".to_owned())?;
        string(mapping.filename, "the filename of a mapping")?;
        string(mapping.build_id, "the build id of a mapping")?;
    }
    for (index, function) in profile.function.iter().enumerate() {
        check(function.id == index as u64 + 1, &|| "function id is not sequential".to_owned())?;
        string(function.name, "the name of a function")?;
        string(function.system_name, "the system name of a function")?;
        string(function.filename, "the filename of a function")?;
    }
    for (index, location) in profile.location.iter().enumerate() {
        check(location.id == index as u64 + 1, &|| "location id is not sequential".to_owned())?;
        let mappings = profile.mapping.len() as u64;
        check(location.mapping_id <= mappings, &|| format!("invalid mapping id {}", location.mapping_id))?;
        for line in &location.line {
            let functions = profile.function.len() as u64;
            check(line.function_id <= functions, &|| format!("invalid function id {}", line.function_id))?;
        }
    }
    let types = profile.sample_type.len();
    check(types > 0 || profile.sample.is_empty(), &|| "missing sample type information".to_owned())?;
    for kind in profile.sample_type.iter().chain(&profile.period_type) {
        string(kind.r#type, "a type")?;
        string(kind.unit, "a unit")?;
    }
    for sample in &profile.sample {
        let values = sample.value.len();
        check(values == types, &|| format!("mismatch: sample has {values} values vs. {types} types"))?;
        for &id in &sample.location_id {
            let is_there = (1..=profile.location.len() as u64).contains(&id);
            check(is_there, &|| format!("the location {id} of a sample is out of range"))?;
        }
        for label in &sample.label {
            check(label.key != 0, &|| "a label has no key".to_owned())?;
            string(label.key, "the key of a label")?;
            string(label.str, "the text of a label")?;
        }
    }
    Ok(())
}

/// What becomes of a profile by which the rules are kept.
fn taken(profile: &Profile, name: &str, series: &BTreeMap<String, String>) -> Taken {
    let text = |index: i64| profile.string_table.get(index as usize).cloned().unwrap_or_default();
    let period = profile.period_type.unwrap_or_default();
    let delta = if profile.duration_nanos == 0 { "" } else { ":delta" };
    let kind = |kind: &ValueType| {
        let [kind, unit, period, of] = [kind.r#type, kind.unit, period.r#type, period.unit].map(text);
        format!("{name}:{kind}:{unit}:{period}:{of}{delta}")
    };
    let function = |id: &u64| {
        let location = &profile.location[*id as usize - 1];
        let index = location.line.first().and_then(|line| (line.function_id as usize).checked_sub(1));
        let function = index.and_then(|index| profile.function.get(index));
        function.map(|function| text(function.name)).unwrap_or_default()
    };
    let sampled = |sample: &Sample| {
        let mut labels = BTreeMap::new();
        // Those that are numbers are not looked at.
        let mut texts: Vec<_> = sample.label.iter().filter(|label| label.str != 0).collect();
        texts.sort_by_key(|label| text(label.key));
        for label in texts {
            let mut name = text(label.key);
            if series.contains_key(&name) || labels.contains_key(&name) {
                name = format!("exported_{name}");
            }
            labels.insert(name, text(label.str));
        }
        Sampled { stack: sample.location_id.iter().map(function).collect(), values: sample.value.clone(), labels }
    };
    Taken {
        types: profile.sample_type.iter().map(kind).collect(),
        time_nanos: profile.time_nanos,
        samples: profile.sample.iter().map(sampled).collect(),
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
    labels: Vec<SeriesLabel>,
}

#[derive(Clone, PartialEq, Message)]
struct SeriesLabel {
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

/// `perftools.profiles.Profile`, as far as the rules look at it.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
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
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}
