//! What is counted of exports.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Why a request, or what would have become one, was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The endpoint refuses it.
    Refused,
    /// It has waited longer than the configuration wants.
    TooOld,
    /// The spool was full, and it was the oldest.
    SpoolFull,
    /// The spool could not be written, what may wait in memory was full, and it was the oldest.
    MemoryFull,
    /// It alone is more than may wait.
    TooLarge,
    /// Its file in the spool could not be read, or was not what had been written.
    Unreadable,
    /// Its file in the spool was there no more.
    Vanished,
    /// It was spooled for another protocol than the endpoint speaks now.
    OtherProtocol,
    /// More windows came than could be encoded and spooled.
    Busy,
    /// The program ended, or the endpoint was taken out of the configuration, while it waited in memory.
    Stopped,
}

impl Reason {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Refused => "refused",
            Reason::TooOld => "too_old",
            Reason::SpoolFull => "spool_full",
            Reason::MemoryFull => "memory_full",
            Reason::TooLarge => "too_large",
            Reason::Unreadable => "unreadable",
            Reason::Vanished => "vanished",
            Reason::OtherProtocol => "other_protocol",
            Reason::Busy => "busy",
            Reason::Stopped => "stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStatus {
    endpoint: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    endpoint: String,
    reason: &'static str,
}

/// The metrics of all endpoints. Its clones count together.
#[derive(Debug, Clone, Default)]
pub struct ExportMetrics {
    sent: Family<OfEndpoint, Counter>,
    sent_bytes: Family<OfEndpoint, Counter>,
    answers: Family<OfStatus, Counter>,
    dropped: Family<OfReason, Counter>,
    rejected: Family<OfEndpoint, Counter>,
    left_out: Family<OfEndpoint, Counter>,
    write_errors: Family<OfEndpoint, Counter>,
    waiting: Family<OfEndpoint, Gauge>,
    waiting_bytes: Family<OfEndpoint, Gauge>,
    oldest: Family<OfEndpoint, Gauge<f64, AtomicU64>>,
}

impl ExportMetrics {
    /// Puts them into a registry.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("luaflame_export");
        registry.register("sent", "Requests that an endpoint has taken", self.sent.clone());
        let text = "The size of these requests";
        registry.register_with_unit("sent", text, Unit::Bytes, self.sent_bytes.clone());
        let text = "Answers, by status, and what there was instead of one: connection, timeout, answer (not understood), credentials";
        registry.register("answers", text, self.answers.clone());
        registry.register("dropped", "Requests that were dropped and never taken, by reason", self.dropped.clone());
        let text = "Parts of requests that an endpoint said it rejected while it took the rest";
        registry.register("rejected_parts", text, self.rejected.clone());
        let text = "Samples that were not sent since the endpoint's protocol has no room for them";
        registry.register("samples_left_out", text, self.left_out.clone());
        registry.register("spool_write_errors", "Failures to write to the spool", self.write_errors.clone());
        registry.register("waiting", "Requests that wait", self.waiting.clone());
        registry.register_with_unit("waiting", "Their size", Unit::Bytes, self.waiting_bytes.clone());
        registry.register_with_unit("oldest_age", "How long the oldest has waited", Unit::Seconds, self.oldest.clone());
    }

    /// Those of one endpoint, all of which are there from now on.
    pub fn of(&self, endpoint: &str) -> EndpointMetrics {
        let metrics = EndpointMetrics { all: self.clone(), endpoint: endpoint.to_owned() };
        let key = metrics.key();
        for family in [&self.sent, &self.sent_bytes, &self.rejected, &self.left_out, &self.write_errors] {
            drop(family.get_or_create(&key));
        }
        metrics.waiting(0, 0, Duration::ZERO);
        metrics
    }

    /// Requests of an endpoint that were dropped for a reason.
    pub fn dropped(&self, endpoint: &str, reason: Reason) -> u64 {
        let key = OfReason { endpoint: endpoint.to_owned(), reason: reason.name() };
        self.dropped.get(&key).map_or(0, |counter| counter.get())
    }
}

/// The metrics of one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    all: ExportMetrics,
    endpoint: String,
}

impl EndpointMetrics {
    fn key(&self) -> OfEndpoint {
        OfEndpoint { endpoint: self.endpoint.clone() }
    }

    /// The name of the endpoint.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A request of so many bytes was taken, without some parts.
    pub fn sent(&self, bytes: usize, rejected: u64) {
        self.all.sent.get_or_create(&self.key()).inc();
        self.all.sent_bytes.get_or_create(&self.key()).inc_by(bytes as u64);
        self.all.rejected.get_or_create(&self.key()).inc_by(rejected);
    }

    /// There was an answer, or something instead of one.
    pub fn answer(&self, status: &str) {
        let key = OfStatus { endpoint: self.endpoint.clone(), status: status.to_owned() };
        self.all.answers.get_or_create(&key).inc();
    }

    /// Requests were dropped.
    pub fn drop(&self, reason: Reason, requests: u64) {
        let key = OfReason { endpoint: self.endpoint.clone(), reason: reason.name() };
        self.all.dropped.get_or_create(&key).inc_by(requests);
    }

    /// Samples were not encoded.
    pub fn left_out(&self, samples: u64) {
        self.all.left_out.get_or_create(&self.key()).inc_by(samples);
    }

    /// The spool could not be written.
    pub fn write_error(&self) {
        self.all.write_errors.get_or_create(&self.key()).inc();
    }

    /// What waits now.
    pub fn waiting(&self, requests: u64, bytes: u64, oldest: Duration) {
        self.all.waiting.get_or_create(&self.key()).set(requests as i64);
        self.all.waiting_bytes.get_or_create(&self.key()).set(bytes as i64);
        self.all.oldest.get_or_create(&self.key()).set(oldest.as_secs_f64());
    }

    /// Requests taken so far.
    #[cfg(test)]
    pub fn taken(&self) -> u64 {
        self.all.sent.get_or_create(&self.key()).get()
    }
}
