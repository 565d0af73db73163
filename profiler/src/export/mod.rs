//! Sending the profiles of windows to where people look at them.
//!
//! ```text
//! window -> (each endpoint) encode -> queue, in a spool -> send
//! ```

pub mod credentials;
pub mod endpoint;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod otlp;
pub mod parca;
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
    /// Starts to send to each endpoint what waits for it, and what will be pushed. It needs the context of a tokio
    /// runtime.
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

    /// Goes on with another configuration. Endpoints that are the same go on undisturbed, what was spooled for those
    /// that are no more stays in
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

    /// Ends: all that was pushed is written to the spool, and is sent as far as the time allows. The number of those
    /// that stay is
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use axum::Router;
    use axum::extract::State;
    use axum::http::{HeaderMap, StatusCode};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::daemon::config::Config;
    use crate::profile::Profile;
    use crate::profile::window::{Identity, ProcessProfile};

    /// Listens on a free port, and tells the tenants of requests that it has taken.
    async fn server(status: StatusCode) -> (u16, mpsc::UnboundedReceiver<String>) {
        let (told, tenants) = mpsc::unbounded_channel();
        let answer = async move |State(told): State<mpsc::UnboundedSender<String>>, headers: HeaderMap| {
            let tenant = headers.get("x-scope-orgid").map(|tenant| tenant.to_str().unwrap().to_owned());
            let _ = told.send(tenant.unwrap_or_default());
            (status, [("content-type", "application/proto")])
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().fallback(answer).with_state(told);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (port, tenants)
    }

    fn config(spool: &Path, endpoints: &[(&str, u16, &str)]) -> Config {
        let mut text = format!("[spool]\ndirectory = \"{}\"\n", spool.display());
        for (name, port, tenant) in endpoints {
            text += &format!(
                "[[export]]\nname = \"{name}\"\nprotocol = \"pyroscope\"\nurl = \"http://127.0.0.1:{port}\"\ntenant = \"{tenant}\"\n"
            );
        }
        toml::from_str(&text).unwrap()
    }

    fn window() -> Arc<Window> {
        let mut profile = Profile::default();
        profile.add(Default::default(), &[], 1);
        let identity = Arc::new(Identity { service: "shop".to_owned(), ..Identity::default() });
        let processes = vec![ProcessProfile { identity, profile }];
        Arc::new(Window { started: std::time::SystemTime::now(), seconds: 15.0, processes })
    }

    async fn next(tenants: &mut mpsc::UnboundedReceiver<String>) -> String {
        tokio::time::timeout(Duration::from_secs(30), tenants.recv()).await.expect("nothing is sent").unwrap()
    }

    fn waiting(spool: &Path, name: &str) -> usize {
        std::fs::read_dir(spool.join(name)).unwrap().count() - 1
    }

    #[tokio::test]
    async fn a_new_configuration_leaves_alone_what_is_the_same_and_loses_nothing() {
        let spool = tempfile::tempdir().unwrap();
        let metrics = ExportMetrics::default();
        let (down, _unread) = server(StatusCode::SERVICE_UNAVAILABLE).await;
        let (up, mut tenants) = server(StatusCode::OK).await;
        let first = config(spool.path(), &[("same", up, "a"), ("gone", down, "b"), ("moved", down, "c")]);
        let mut exporters = Exporters::start(&first.export, &first.spool, &metrics).unwrap();
        exporters.push(window());
        assert_eq!(next(&mut tenants).await, "a");

        // One that cannot be changes nothing.
        let bad = config(spool.path(), &[("same", up, "x"), ("same", up, "y")]);
        let why = exporters.reload(&bad.export, &bad.spool).await.unwrap_err().to_string();
        assert!(why.contains("Two endpoints are called"), "{why}");

        let second = config(spool.path(), &[("same", up, "a"), ("moved", up, "d"), ("new", up, "e")]);
        exporters.reload(&second.export, &second.spool).await.unwrap();
        assert_eq!(next(&mut tenants).await, "d", "what has waited is sent to where the endpoint is now");
        assert_eq!(waiting(spool.path(), "gone"), 1);
        exporters.push(window());
        let mut now = [next(&mut tenants).await, next(&mut tenants).await, next(&mut tenants).await];
        now.sort();
        assert_eq!(now, ["a", "d", "e"]);

        // It is free for another daemon, or for the same endpoint again.
        let third = config(spool.path(), &[("gone", up, "f")]);
        exporters.reload(&third.export, &third.spool).await.unwrap();
        assert_eq!(next(&mut tenants).await, "f");
        exporters.flush(Duration::from_secs(30)).await;
        assert_eq!(waiting(spool.path(), "gone"), 0);
    }

    #[tokio::test]
    async fn the_end_sends_what_was_pushed_or_leaves_it_in_the_spool() {
        let spool = tempfile::tempdir().unwrap();
        let metrics = ExportMetrics::default();
        let (down, _unread) = server(StatusCode::SERVICE_UNAVAILABLE).await;
        let (up, mut tenants) = server(StatusCode::OK).await;
        let both = config(spool.path(), &[("up", up, "a"), ("down", down, "b")]);
        let exporters = Exporters::start(&both.export, &both.spool, &metrics).unwrap();
        let again = Exporters::start(&both.export, &both.spool, &metrics).unwrap_err().to_string();
        assert!(again.contains("Another luaflame daemon"), "{again}");
        exporters.push(window());
        exporters.push(window());
        exporters.flush(Duration::from_secs(1)).await;
        assert_eq!([next(&mut tenants).await, next(&mut tenants).await], ["a", "a"]);
        assert_eq!((waiting(spool.path(), "up"), waiting(spool.path(), "down")), (0, 2));
    }

    #[test]
    fn names_of_endpoints_are_safe_for_paths() {
        for name in ["", "..", "a/b", "a b", "ä"] {
            let config = config(Path::new("/nowhere"), &[(name, 1, "a")]);
            assert!(check(&config.export).is_err(), "{name:?}");
        }
        assert!(check(&config(Path::new("/nowhere"), &[("a-B_1", 1, "a")]).export).is_ok());
    }
}
