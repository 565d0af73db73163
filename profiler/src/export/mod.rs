//! Sending the profiles of windows to where people look at them.
//!
//! ```text
//! window -> (each endpoint) encode -> queue, in a spool -> send
//! ```

pub mod credentials;
pub mod endpoint;
pub mod http;
pub mod metrics;
pub mod pyroscope;
pub mod queue;
pub mod sender;
pub mod spool;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::Instant;

use self::credentials::TlsFiles;
use self::endpoint::Endpoint;
use self::metrics::ExportMetrics;
use self::queue::{Limits, Queue};
use self::sender::Sender;
use crate::daemon::config::{Export, Protocol, Spool};
use crate::profile::window::Window;

/// How long it may take to write what an endpoint that is no more in the configuration was to be sent.
const LEAVING: Duration = Duration::from_secs(5);

/// All endpoints at work.
#[derive(Debug)]
pub struct Exporters {
    running: Vec<Running>,
    metrics: ExportMetrics,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    sender: Sender,
}

/// What one endpoint is made from.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    export: Export,
    /// A certificate may be renewed while its file is called the same.
    tls: TlsFiles,
    directory: Option<PathBuf>,
    limits: Limits,
}

/// Says whether endpoints can be started like this, without doing it.
///
/// # Errors
/// A sentence about what cannot be.
pub fn check(exports: &[Export]) -> anyhow::Result<()> {
    prepared(exports, &Spool::default()).map(|_| ())
}

impl Exporters {
    /// Starts to send to each endpoint what waits for it, and what will be pushed. It needs the context of a tokio runtime.
    ///
    /// # Errors
    /// When an endpoint cannot be, or another daemon uses its spool.
    pub fn start(exports: &[Export], spool: &Spool, metrics: &ExportMetrics) -> anyhow::Result<Exporters> {
        let metrics = metrics.clone();
        let prepared = prepared(exports, spool)?;
        let running: anyhow::Result<_> =
            prepared.into_iter().map(|(plan, endpoint)| start(plan, endpoint, &metrics)).collect();
        Ok(Exporters { running: running?, metrics })
    }

    /// Gives each endpoint a window. Never waits: what an endpoint has no room for is dropped and counted.
    pub fn push(&self, window: Arc<Window>) {
        for running in &self.running {
            running.sender.push(Arc::clone(&window));
        }
    }

    /// Goes on with another configuration. Endpoints that are the same go on undisturbed, what was spooled for those that are no more stays in
    /// the spool, and those that have changed go on with what waits for them.
    ///
    /// # Errors
    /// Like [`start`](Exporters::start). Then all is as it was.
    pub async fn reload(&mut self, exports: &[Export], spool: &Spool) -> anyhow::Result<()> {
        let mut new = Vec::new();
        let mut changed = Vec::new();
        for (plan, endpoint) in prepared(exports, spool)? {
            match self.running.iter().position(|running| running.plan.is_same_place(&plan)) {
                Some(index) => changed.push((index, plan, endpoint)),
                None => new.push(start(plan, endpoint, &self.metrics)?),
            }
        }
        let mut running: Vec<Option<Running>> = self.running.drain(..).map(Some).collect();
        for (index, plan, endpoint) in changed {
            let Some(mut kept) = running[index].take() else { continue };
            if kept.plan != plan {
                log::info!("Export to {}: its configuration has changed", plan.export.name);
                kept.sender.change(endpoint, plan.export.protocol.name(), plan.limits.clone()).await;
                kept.plan = plan;
            }
            self.running.push(kept);
        }
        self.running.append(&mut new);
        for gone in running.into_iter().flatten() {
            log::info!("Export to {}: it is no more in the configuration", gone.plan.export.name);
            gone.sender.finish(Instant::now() + LEAVING, false).await;
        }
        Ok(())
    }

    /// Ends: all that was pushed is written to the spool, and is sent as far as the time allows. The number of those that stay is
    /// logged.
    pub async fn flush(self, within: Duration) {
        let deadline = Instant::now() + within;
        let finishing = self.running.into_iter().map(|running| tokio::spawn(running.sender.finish(deadline, true)));
        for finished in finishing.collect::<Vec<_>>() {
            // A panic has been told.
            let _ = finished.await;
        }
    }
}

impl Plan {
    /// What waits for one waits for the other.
    fn is_same_place(&self, other: &Plan) -> bool {
        self.export.name == other.export.name && self.directory == other.directory
    }
}

impl Protocol {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Pyroscope => "pyroscope",
            Protocol::Parca => "parca",
            Protocol::OtlpGrpc => "otlp-grpc",
            Protocol::OtlpHttp => "otlp-http",
        }
    }
}

fn start(plan: Plan, endpoint: Arc<dyn Endpoint>, metrics: &ExportMetrics) -> anyhow::Result<Running> {
    let (metrics, protocol) = (metrics.of(&plan.export.name), plan.export.protocol.name());
    let now = Instant::now().into_std();
    let queue = Queue::open(plan.directory.clone(), protocol, plan.limits.clone(), metrics.clone(), now)?;
    Ok(Running { plan, sender: Sender::start(endpoint, queue, metrics) })
}

/// Everything that can be wrong with a configuration is found here, before anything is started.
fn prepared(exports: &[Export], spool: &Spool) -> anyhow::Result<Vec<(Plan, Arc<dyn Endpoint>)>> {
    let mut prepared: Vec<(Plan, _)> = Vec::new();
    for export in exports {
        let name = &export.name;
        let is_name = !name.is_empty() && name.len() <= 100;
        let is_name = is_name && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        ensure!(
            is_name,
            "{name:?} is no name of an endpoint: it must be of letters, digits, `-` and `_`, up to 100 of them"
        );
        let is_new = prepared.iter().all(|(plan, _)| plan.export.name != *name);
        ensure!(is_new, "Two endpoints are called {name:?}: give each another name");
        let tls = TlsFiles::read(&export.tls).with_context(|| format!("The endpoint {name:?} cannot be sent to"))?;
        let directory = (!spool.directory.as_os_str().is_empty()).then(|| spool.directory.join(name));
        let limits = Limits { disk: spool.max_size.as_u64(), memory: spool.max_memory.as_u64(), age: spool.max_age };
        prepared.push((Plan { export: export.clone(), tls, directory, limits }, endpoint::endpoint(export)?));
    }
    Ok(prepared)
}
