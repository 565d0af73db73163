//! A server that takes what a Pyroscope server takes, by the rules that it publishes: `pkg/distributor` and
//! `pkg/validation` of its
//! source, of August 2026, with the defaults of its configuration, and the Connect protocol for what it answers.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use flate2::read::MultiGzDecoder;
use prost::Message;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

const MIB: usize = 1 << 20;
/// `validation.max-profile-size-bytes`.
const PROFILE_BYTES: usize = 4 * MIB;
/// `validation.max-profile-stacktrace-samples`.
const SAMPLES: usize = 16_000;
/// `validation.max-profile-stacktrace-sample-labels`.
const SAMPLE_LABELS: usize = 100;
/// `validation.max-profile-stacktrace-depth`.
const DEPTH: usize = 1000;
/// `validation.max-label-names-per-series`.
const LABELS: usize = 30;
/// `validation.max-length-label-name`.
const LABEL_NAME: usize = 1024;
/// `validation.max-length-label-value`.
const LABEL_VALUE: usize = 2048;
/// `validation.reject-older-than`, in seconds.
const OLDEST: i64 = 3600;
/// `validation.reject-newer-than`, in seconds.
const NEWEST: i64 = 600;
/// `distributor.ingestion-rate-limit-mb`, each second.
const RATE: f64 = (4 * MIB) as f64;
/// `distributor.ingestion-burst-size-mb`.
const BURST: f64 = (2 * MIB) as f64;

/// Such a server on the loopback interface.
#[derive(Debug)]
pub struct Pyroscope {
    address: SocketAddr,
    state: Shared,
    runtime: Runtime,
}

type Shared = Arc<Mutex<Inside>>;

#[derive(Debug)]
struct Inside {
    needs_tenant: bool,
    taken: Vec<Taken>,
    refused: Vec<(u16, String)>,
    instead: Vec<u16>,
    /// The bytes that there is room for, as of a time.
    room: (f64, Instant),
}

/// A profile that was taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// The tenant that it is of: `anonymous` where none is needed.
    pub tenant: String,
    /// The labels of its series, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// When it began, in nanoseconds since 1970.
    pub time_nanos: i64,
    /// The types of its values: `cpu:nanoseconds`.
    pub types: Vec<String>,
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
}

impl Pyroscope {
    /// Starts one, for one tenant.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start() -> Result<Pyroscope> {
        Pyroscope::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    /// Starts one at an address, where another one may have been before.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start_at(address: SocketAddr) -> Result<Pyroscope> {
        Pyroscope::start_with(address, false)
    }

    /// Starts one that wants to know the tenant of each request.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start_for_tenants() -> Result<Pyroscope> {
        Pyroscope::start_with((Ipv4Addr::LOCALHOST, 0).into(), true)
    }

    fn start_with(address: SocketAddr, needs_tenant: bool) -> Result<Pyroscope> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(address))?;
        let address = listener.local_addr()?;
        let (taken, refused, instead) = Default::default();
        let inside = Inside { needs_tenant, taken, refused, instead, room: (BURST, Instant::now()) };
        let state = Arc::new(Mutex::new(inside));
        let router = Router::new().route("/push.v1.PusherService/Push", post(push)).layer(DefaultBodyLimit::disable());
        let router = router.with_state(Arc::clone(&state));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Pyroscope { address, state, runtime })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The profiles that it has taken since this was asked before.
    pub fn taken(&self) -> Vec<Taken> {
        std::mem::take(&mut lock(&self.state).taken)
    }

    /// Ends it as if it were killed, and returns the profiles that it has taken since this was asked before, whether it has answered or not.
    pub fn stop(self) -> Vec<Taken> {
        let Pyroscope { state, runtime, .. } = self;
        drop(runtime);
        std::mem::take(&mut lock(&state).taken)
    }

    /// The statuses and texts that it has refused requests with since this was asked before.
    pub fn refused(&self) -> Vec<(u16, String)> {
        std::mem::take(&mut lock(&self.state).refused)
    }

    /// Has it answer the next request with this status, whatever it is.
    pub fn answer_next(&self, status: u16) {
        lock(&self.state).instead.push(status);
    }
}

fn lock(state: &Shared) -> MutexGuard<'_, Inside> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error of the Connect protocol.
#[derive(Debug)]
struct Refusal {
    code: &'static str,
    message: String,
}

fn refusal<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Refusal> {
    refusal("invalid_argument", message)
}

impl Refusal {
    fn status(&self) -> u16 {
        match self.code {
            "invalid_argument" => 400,
            "unauthenticated" => 401,
            "resource_exhausted" => 429,
            "unimplemented" => 501,
            _ => 500,
        }
    }
}

async fn push(State(state): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut inside = lock(&state);
    if let Some(status) = inside.instead.pop() {
        return StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("content-type") != "application/proto" {
        inside.refused.push((415, header("content-type").to_owned()));
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let tenant = match header("x-scope-orgid") {
        "" if inside.needs_tenant => refusal("unauthenticated", "no org id"),
        tenant if inside.needs_tenant => Ok(tenant.to_owned()),
        _ => Ok("anonymous".to_owned()),
    };
    let answer = tenant.and_then(|tenant| {
        let body = match header("content-encoding") {
            "" | "identity" => body.to_vec(),
            "gzip" => unpacked(&body, usize::MAX)?,
            other => return refusal("unimplemented", format!("unknown compression {other:?}")),
        };
        match PushRequest::decode(&*body) {
            Ok(request) => inside.push(&tenant, request),
            Err(error) => invalid(format!("unmarshal message: {error}")),
        }
    });
    match answer {
        Ok(()) => ([("content-type", "application/proto")], Bytes::new()).into_response(),
        Err(refusal) => {
            let status = refusal.status();
            let text = serde_json::json!({ "code": refusal.code, "message": refusal.message }).to_string();
            inside.refused.push((status, refusal.message));
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [("content-type", "application/json")], text).into_response()
        }
    }
}

impl Inside {
    /// Takes what is right of a request, and says what is first not.
    fn push(&mut self, tenant: &str, request: PushRequest) -> Result<(), Refusal> {
        let mut refused = None;
        let mut is_empty = true;
        for series in request.series {
            for sample in &series.samples {
                is_empty = false;
                if let Err(why) = self.push_profile(tenant, &series.labels, &sample.raw_profile) {
                    refused.get_or_insert(why);
                }
            }
        }
        match refused {
            None if is_empty => invalid("no profiles received"),
            None => Ok(()),
            Some(why) => Err(why),
        }
    }

    fn push_profile(&mut self, tenant: &str, labels: &[LabelPair], raw: &[u8]) -> Result<(), Refusal> {
        let plain = unpacked(raw, PROFILE_BYTES)?;
        let Ok(mut profile) = Profile::decode(&*plain) else {
            return refusal("unknown", "the profile cannot be decoded");
        };
        let mut labels: Vec<_> = labels.iter().map(|label| (label.name.clone(), label.value.clone())).collect();
        if labels.iter().all(|(name, value)| name != "service_name" || value.is_empty()) {
            labels.push(("service_name".to_owned(), "unspecified".to_owned()));
        }
        labels.sort();
        let label_bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.limit_rate(label_bytes + plain.len())?;
        validate(&profile, plain.len())?;
        for sample in &mut profile.sample {
            let too_deep = sample.location_id.len().saturating_sub(DEPTH);
            sample.location_id.drain(..too_deep);
        }
        if profile.time_nanos <= 0 {
            profile.time_nanos = now();
        }
        // Samples of other labels are another series.
        let mut series: BTreeMap<Vec<(String, String)>, Vec<&Sample>> = BTreeMap::new();
        for sample in &profile.sample {
            let mut of_sample = labels.clone();
            for label in sample.label.iter().filter(|label| label.str > 0) {
                let name = profile.text(label.key)?;
                if !of_sample.iter().any(|(known, _)| *known == name) {
                    of_sample.push((name, profile.text(label.str)?));
                }
            }
            of_sample.sort();
            series.entry(of_sample).or_default().push(sample);
        }
        let mut taken = Vec::new();
        for (labels, samples) in series {
            let labels = validated(labels)?;
            let sampled = |sample: &&Sample| {
                let stack: Result<_, _> = sample.location_id.iter().map(|id| profile.function_name(*id)).collect();
                Ok(Sampled { stack: stack?, values: sample.value.clone() })
            };
            let samples: Result<_, _> = samples.iter().map(sampled).collect();
            let name = |kind: &ValueType| Ok(format!("{}:{}", profile.text(kind.r#type)?, profile.text(kind.unit)?));
            let types: Result<_, _> = profile.sample_type.iter().map(name).collect();
            let (tenant, time_nanos) = (tenant.to_owned(), profile.time_nanos);
            taken.push(Taken { tenant, labels, time_nanos, types: types?, samples: samples? });
        }
        self.taken.append(&mut taken);
        Ok(())
    }

    fn limit_rate(&mut self, bytes: usize) -> Result<(), Refusal> {
        let (room, since) = self.room;
        let now = Instant::now();
        let room = (room + now.duration_since(since).as_secs_f64() * RATE).min(BURST);
        let (is_room, left) = if bytes as f64 <= room { (true, room - bytes as f64) } else { (false, room) };
        self.room = (left, now);
        match is_room {
            true => Ok(()),
            false => refusal("resource_exhausted", format!("push rate limit exceeded while adding {bytes} bytes")),
        }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

fn unpacked(raw: &[u8], limit: usize) -> Result<Vec<u8>, Refusal> {
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return Ok(raw.to_vec());
    }
    let mut plain = Vec::new();
    match MultiGzDecoder::new(raw).take((limit as u64).saturating_add(1)).read_to_end(&mut plain) {
        Err(error) => refusal("unknown", format!("gzip: {error}")),
        Ok(_) if plain.len() > limit => {
            invalid(format!("uncompressed profile payload size exceeds limit of {limit} bytes"))
        }
        Ok(_) => Ok(plain),
    }
}

fn validate(profile: &Profile, bytes: usize) -> Result<(), Refusal> {
    if profile.sample_type.is_empty() {
        return invalid("empty profile");
    }
    let age = (now() - profile.time_nanos) / 1_000_000_000;
    if profile.time_nanos > 0 && !(-NEWEST < age && age < OLDEST) {
        return invalid(format!("profile is outside of ingestion window: it is {age} s old"));
    }
    if bytes > PROFILE_BYTES {
        return invalid(format!("the profile exceeds the size limit: {bytes}"));
    }
    if profile.sample.len() > SAMPLES {
        return invalid(format!("the profile exceeds the samples count limit: {}", profile.sample.len()));
    }
    if let Some(sample) = profile.sample.iter().find(|sample| sample.label.len() > SAMPLE_LABELS) {
        return invalid(format!("the profile exceeds the sample labels limit: {}", sample.label.len()));
    }
    if profile.location.iter().any(|location| location.id == 0) {
        return invalid("location id is 0");
    }
    if profile.function.iter().any(|function| function.id == 0) {
        return invalid("function id is 0");
    }
    if profile.sample.iter().any(|sample| sample.value.len() != profile.sample_type.len()) {
        return invalid("sample value length mismatch");
    }
    if profile.string_table.first().is_none_or(|first| !first.is_empty()) {
        return invalid("string 0 should be empty string");
    }
    let types = profile.sample_type.iter().flat_map(|kind| [kind.r#type, kind.unit]);
    let labels = profile.sample.iter().flat_map(|sample| &sample.label).flat_map(|label| [label.key, label.str]);
    let functions =
        profile.function.iter().flat_map(|function| [function.name, function.system_name, function.filename]);
    let mappings = profile.mapping.iter().flat_map(|mapping| [mapping.filename, mapping.build_id]);
    for index in types.chain(labels).chain(functions).chain(mappings) {
        if usize::try_from(index).is_ok_and(|index| index >= profile.string_table.len()) {
            return invalid("string index out of range");
        }
    }
    for kind in &profile.sample_type {
        if profile.text(kind.r#type)?.contains('-') {
            return invalid("sample type contains -");
        }
    }
    match profile.string_table.iter().find(|text| std::str::from_utf8(text).is_err()) {
        Some(text) => invalid(format!("invalid utf8 string: {text:?}")),
        None => Ok(()),
    }
}

/// The labels of a series, sorted by name, as they are kept.
fn validated(labels: Vec<(String, String)>) -> Result<BTreeMap<String, String>, Refusal> {
    if labels.len() > LABELS {
        return invalid(format!("profile series has {} label names; limit {LABELS}", labels.len()));
    }
    if labels.iter().all(|(name, value)| name != "__name__" || value.is_empty()) {
        return invalid("invalid metric name");
    }
    let mut kept: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in labels {
        if name.len() > LABEL_NAME {
            return invalid(format!("label name too long: {name:?}"));
        }
        if value.len() > LABEL_VALUE {
            return invalid(format!("label value too long: {value:?}"));
        }
        let is_digit_first = name.starts_with(|first: char| first.is_ascii_digit());
        let is_fit = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.');
        if name.is_empty() || is_digit_first || !name.chars().all(is_fit) {
            return invalid(format!("invalid label name {name:?}"));
        }
        let sanitized = name.replace('.', "_");
        match kept.get(&sanitized) {
            Some(known) if sanitized == name || *known != value => {
                return invalid(format!("duplicate label name {name:?}"));
            }
            _ => _ = kept.insert(sanitized, value),
        }
    }
    Ok(kept)
}

impl Profile {
    fn text(&self, index: i64) -> Result<String, Refusal> {
        let text = usize::try_from(index).ok().and_then(|index| self.string_table.get(index));
        match text.and_then(|text| std::str::from_utf8(text).ok()) {
            Some(text) => Ok(text.to_owned()),
            None => invalid("string index out of range"),
        }
    }

    fn function_name(&self, location: u64) -> Result<String, Refusal> {
        let location = self.location.iter().find(|known| known.id == location);
        let function = location.and_then(|location| location.line.first()).map(|line| line.function_id);
        match self.function.iter().find(|known| Some(known.id) == function) {
            Some(function) => self.text(function.name),
            None => Ok(String::new()),
        }
    }
}

#[derive(Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<RawProfileSeries>,
}

#[derive(Message)]
struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
}

#[derive(Message)]
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
    /// Bytes, so that texts that are not UTF-8 are refused as they are there.
    #[prost(bytes = "vec", repeated, tag = "6")]
    string_table: Vec<Vec<u8>>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
}

#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Message)]
struct Mapping {
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
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
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}
