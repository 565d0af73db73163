//! Profiles of many processes in one stretch of time, and who the processes are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use indexmap::IndexMap;

use super::Profile;

/// Who a process is, for somebody who looks at those of a whole host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// The process, in the host's PID namespace.
    pub pid: u32,
    /// When it started, in clock ticks after boot: with `pid`, it names the process for as long as the machine runs.
    pub started: u64,
    /// Its command name (`comm`).
    pub command: String,
    /// The service that it belongs to.
    pub service: String,
    /// The container that it runs in: the id that the runtime gave it.
    pub container: Option<String>,
    /// The Kubernetes namespace that it runs in.
    pub namespace: Option<String>,
    /// Which of its server's workers it is, as the server itself counts them.
    pub worker: Option<u32>,
    /// Further labels that the configuration gives it.
    pub labels: BTreeMap<String, String>,
}

impl Identity {
    /// All that is known of it as labels, by name: `service_name`, `pid`, `command`, and where they are known `container`,
    /// `namespace`, `worker`, and those of the configuration, which cannot take the place of one of these.
    pub fn labels(&self) -> BTreeMap<&str, String> {
        let mut labels: BTreeMap<&str, String> =
            self.labels.iter().map(|(name, value)| (&**name, value.clone())).collect();
        labels.insert("service_name", self.service.clone());
        labels.insert("pid", self.pid.to_string());
        labels.insert("command", self.command.clone());
        let worker = self.worker.map(|worker| worker.to_string());
        let known = [("container", &self.container), ("namespace", &self.namespace), ("worker", &worker)];
        labels.extend(known.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        labels
    }
}

/// What one process did in a window.
#[derive(Debug)]
pub struct ProcessProfile {
    /// The process.
    pub identity: Arc<Identity>,
    /// Its samples. What was lost is known of each process, too.
    pub profile: Profile,
}

/// What the processes of a host did in a stretch of time. Those without samples are not in it.
#[derive(Debug)]
pub struct Window {
    /// When it began.
    pub started: SystemTime,
    /// How long it was, in seconds.
    pub seconds: f64,
    /// The processes, in the order first seen.
    pub processes: Vec<ProcessProfile>,
}

impl Window {
    /// Its processes by the service that they belong to.
    pub fn services(&self) -> IndexMap<&str, Vec<&ProcessProfile>> {
        let mut services: IndexMap<&str, Vec<&ProcessProfile>> = IndexMap::new();
        for process in &self.processes {
            services.entry(&process.identity.service).or_default().push(process);
        }
        services
    }
}

/// One profile of several processes, in which each sample tells its process and the labels of it.
pub fn merged<'a>(processes: impl IntoIterator<Item = &'a ProcessProfile>) -> Profile {
    let mut merged = Profile::default();
    for ProcessProfile { identity, profile } in processes {
        merged.absorb(profile);
        let labels = identity.labels().into_iter().filter(|(name, _)| *name != "pid");
        merged.labels.insert(identity.pid, labels.map(|(name, value)| (name.to_owned(), value)).collect());
    }
    merged
}
