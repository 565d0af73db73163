//! The configuration of the daemon: a TOML file. `samples/daemon/luaflame.toml` explains each setting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use crate::record::Event;

/// The whole configuration. Every setting has a default: an empty file is a configuration, too.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How samples are taken.
    pub sampling: Sampling,
    /// Which processes are profiled, and what they are called.
    pub discovery: Discovery,
    /// Labels of every process, such as the name of the cluster.
    pub labels: BTreeMap<String, String>,
    /// The directory of profiles on this host.
    pub store: Store,
    /// Where profiles wait for an endpoint.
    pub spool: Spool,
    /// The endpoints that profiles are sent to.
    pub export: Vec<Export>,
    /// The page, the metrics, and profiles to be pulled.
    pub listen: Listen,
    /// What is logged.
    pub log: Log,
    /// While this file exists nothing is sampled, and no probe is loaded.
    pub kill_switch: KillSwitch,
    /// How the daemon ends.
    pub shutdown: Shutdown,
}

/// How samples are taken.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Samples per second and CPU.
    pub frequency: u32,
    /// The perf event: `auto`, `cycles` or `cpu-clock`.
    pub event: Event,
    /// Record the kernel's part of each stack.
    pub kernel: bool,
    /// How much time one profile is of.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

/// Which of the processes that embed LuaJIT are profiled, and what they are called.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// Profile those that no rule says anything about.
    pub otherwise: bool,
    /// The first rule that fits a process holds for it.
    pub rule: Vec<Rule>,
}

/// A rule: what is not given fits every process. Texts are regular expressions that must match a part of the whole.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// The command line, its words separated by spaces, or, of a process without one, its command name.
    pub command: Option<String>,
    /// Its cgroup, as a path: `/system.slice/nginx.service`.
    pub cgroup: Option<String>,
    /// The name of its user, or the number of one that has no name.
    pub user: Option<String>,
    /// The id of its container; it fits no process outside of containers.
    pub container: Option<String>,
    /// Profile the processes that it fits, which is the default, or leave them out.
    pub profile: Option<bool>,
    /// What their service is called.
    pub service: Option<String>,
    /// Further labels of them.
    pub labels: BTreeMap<String, String>,
}

/// The directory of profiles.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// The directory; nothing is stored when it is empty.
    pub directory: PathBuf,
    /// The oldest profiles are deleted when they take more than this together.
    pub max_size: ByteSize,
    /// Profiles older than this are deleted.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

/// Where profiles wait for an endpoint.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spool {
    /// The directory; when it is empty, profiles wait in memory.
    pub directory: PathBuf,
    /// Those that wait longest are dropped when those for one endpoint take more than this together.
    pub max_size: ByteSize,
    /// The same for those that wait in memory, since there is no directory or it cannot be written to.
    pub max_memory: ByteSize,
    /// Those that have waited longer than this are dropped.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

/// An endpoint that profiles are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// What it is called in logs, metrics and the spool: letters, digits, `-` and `_`; each name once.
    pub name: String,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Where it is: `http://` or `https://`, for Pyroscope and OTLP over HTTP with the path before the protocol's own.
    pub url: String,
    /// The path of the protocol, where the store uses another one than the standard's.
    pub path: Option<String>,
    /// Headers, or metadata for gRPC, that go with each request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The same, whose values are the contents of files, read before each request: `authorization = "/etc/luaflame/token"`.
    #[serde(default)]
    pub header_files: BTreeMap<String, PathBuf>,
    /// A file with a token, sent as `Authorization: Bearer ...`.
    pub token_file: Option<PathBuf>,
    /// The tenant, sent as `X-Scope-OrgID`.
    pub tenant: Option<String>,
    /// How long one request may take.
    #[serde(default = "request_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// How the endpoint and we prove who we are.
    #[serde(default)]
    pub tls: ClientTls,
}

/// How an endpoint is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// `push.v1.PusherService/Push` of Pyroscope.
    Pyroscope,
    /// `ProfileStoreService/WriteRaw` of Parca.
    Parca,
    /// OpenTelemetry profiles over gRPC.
    OtlpGrpc,
    /// OpenTelemetry profiles over HTTP.
    OtlpHttp,
}

/// TLS towards an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// Certificates of authorities, in a PEM file, that are believed in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, in a PEM file.
    pub certificate_file: Option<PathBuf>,
    /// Its key, in a PEM file.
    pub key_file: Option<PathBuf>,
}

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address and port; the page is at `/`. Port 0 takes a free one, which is logged.
    pub address: SocketAddr,
    /// Listen at all.
    pub enabled: bool,
    /// A file with the token that requests must have, as `Authorization: Bearer ...` or as the password of HTTP's basic
    /// authentication.
    pub token_file: Option<PathBuf>,
    /// Our certificate, in a PEM file: with it and its key, only TLS is spoken.
    pub certificate_file: Option<PathBuf>,
    /// Its key, in a PEM file.
    pub key_file: Option<PathBuf>,
    /// Certificates of authorities, in a PEM file, one of which must have signed the certificate of a client.
    pub client_ca_file: Option<PathBuf>,
}

/// What is logged, to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// How lines of the log look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people: time, level, message, `key=value`.
    Text,
    /// For programs: one JSON object in each line.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// What was lost or cannot be done.
    Error,
    /// And what is not as it should be.
    Warn,
    /// And what changes.
    Info,
    /// And what is found and done.
    Debug,
}

/// A file that stops sampling as long as it exists.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KillSwitch {
    /// The file.
    pub file: PathBuf,
}

/// How the daemon ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// How long profiles are still sent; what is not sent by then stays in the spool.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { frequency: 19, event: Event::Auto, kernel: true, window: Duration::from_secs(15) }
    }
}

impl Default for Discovery {
    fn default() -> Discovery {
        Discovery { otherwise: true, rule: Vec::new() }
    }
}

impl Default for Store {
    fn default() -> Store {
        let directory = PathBuf::from("/var/lib/luaflame/profiles");
        Store { directory, max_size: ByteSize::gib(1), max_age: Duration::from_hours(7 * 24) }
    }
}

impl Default for Spool {
    fn default() -> Spool {
        Spool {
            directory: PathBuf::from("/var/lib/luaflame/spool"),
            max_size: ByteSize::mib(256),
            max_memory: ByteSize::mib(4),
            // Pyroscope refuses what is older than an hour.
            max_age: Duration::from_mins(55),
        }
    }
}

impl Default for Listen {
    fn default() -> Listen {
        Listen {
            address: SocketAddr::from(([127, 0, 0, 1], 7117)),
            enabled: true,
            token_file: None,
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, level: LogLevel::Info }
    }
}

impl Default for KillSwitch {
    fn default() -> KillSwitch {
        KillSwitch { file: PathBuf::from("/run/luaflame/off") }
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown { timeout: Duration::from_secs(10) }
    }
}

fn request_timeout() -> Duration {
    Duration::from_secs(10)
}
