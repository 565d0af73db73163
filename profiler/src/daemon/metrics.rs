//! What the daemon counts, for Prometheus.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::profile::Counters;

/// Reasons that are told apart; those of further ones are counted together.
const MOST_REASONS: usize = 64;

/// A reason, in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// The reason.
    pub reason: String,
}

/// The counters of sampling. Those of the store, of the endpoints and of the process itself are with what they count.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Samples in profiles.
    pub samples: Counter,
    /// Samples that the probe could not deliver.
    pub lost: Counter,
    /// Samples whose stack was cut in its middle.
    pub truncated: Counter,
    /// Samples of threads that were not in Lua.
    pub outside_lua: Counter,
    /// Frames of all samples.
    pub frames: Counter,
    /// Of these, those of which only an address is known.
    pub unresolved: Counter,
    /// Why frames or samples are missing.
    pub incomplete: Family<Reason, Counter>,
    reasons: AtomicUsize,
    /// Whether samples are taken now: 1 or 0.
    pub sampling: Gauge,
    /// Processes that are profiled now.
    pub processes: Gauge,
    /// Looks at processes that may hold LuaJIT.
    pub looks: Counter,
    /// Processes that hold LuaJIT and could not be profiled.
    pub failures: Counter,
    /// Windows that are complete.
    pub windows: Counter,
    /// Windows that nobody has taken in time.
    pub windows_dropped: Counter,
    /// Times that the wall clock was set.
    pub clock_jumps: Counter,
    /// CPU time of the daemon.
    pub cpu: Counter<f64, AtomicU64>,
    /// Memory of the daemon.
    pub memory: Gauge<i64, AtomicI64>,
    /// Open file descriptors of the daemon.
    pub descriptors: Gauge,
}

impl Metrics {
    /// Counters at 0, under their names in `registry`.
    pub fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("luaflame_build", "The version of luaflame", version);
        let counters = [
            ("luaflame_samples", "Samples in profiles", &metrics.samples),
            ("luaflame_samples_lost", "Samples that found no room in the ring buffer", &metrics.lost),
            ("luaflame_samples_truncated", "Samples whose stack was cut in its middle", &metrics.truncated),
            ("luaflame_samples_outside_lua", "Samples of threads that were not in Lua", &metrics.outside_lua),
            ("luaflame_frames", "Frames of all samples", &metrics.frames),
            ("luaflame_frames_unresolved", "Frames of which only an address is known", &metrics.unresolved),
            ("luaflame_process_looks", "Looks at processes that may hold LuaJIT", &metrics.looks),
            ("luaflame_process_failures", "Processes with LuaJIT that could not be profiled", &metrics.failures),
            ("luaflame_windows", "Windows of profiles that are complete", &metrics.windows),
            (
                "luaflame_windows_dropped",
                "Windows that could not be stored or exported in time",
                &metrics.windows_dropped,
            ),
            ("luaflame_clock_jumps", "Times that the wall clock was set", &metrics.clock_jumps),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Samples or frames that are missing, by reason";
        registry.register("luaflame_incomplete", help, metrics.incomplete.clone());
        registry.register("luaflame_sampling", "Whether samples are taken now", metrics.sampling.clone());
        registry.register("luaflame_processes", "Processes that are profiled now", metrics.processes.clone());
        registry.register_with_unit("process_cpu", "CPU time of the daemon", Unit::Seconds, metrics.cpu.clone());
        let help = "Memory of the daemon";
        registry.register_with_unit("process_resident_memory", help, Unit::Bytes, metrics.memory.clone());
        registry.register("process_open_fds", "Open file descriptors of the daemon", metrics.descriptors.clone());
        metrics
    }

    /// Adds what was counted with samples.
    pub fn count(&self, counters: &Counters) {
        self.samples.inc_by(counters.samples);
        self.truncated.inc_by(counters.truncated);
        self.outside_lua.inc_by(counters.outside_lua);
        self.frames.inc_by(counters.frames);
        self.unresolved.inc_by(counters.unresolved);
        for (reason, count) in &counters.reasons {
            let mut label = Reason { reason: reason.clone() };
            if self.incomplete.get(&label).is_none() && self.reasons.fetch_add(1, Ordering::Relaxed) >= MOST_REASONS {
                "others".clone_into(&mut label.reason);
            }
            self.incomplete.get_or_create(&label).inc_by(*count);
        }
    }

    /// Looks at what the daemon itself uses.
    pub fn measure_ourselves(&self) {
        let cpu = crate::record::own_cpu();
        self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
        if let Ok(status) = procfs::process::Process::myself().and_then(|process| {
            self.descriptors.set(process.fd_count()? as i64);
            process.statm()
        }) {
            self.memory.set(i64::try_from(status.resident * procfs::page_size()).unwrap_or(i64::MAX));
        }
    }
}
