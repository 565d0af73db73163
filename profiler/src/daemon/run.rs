//! The daemon from its start to its end: makes its parts, joins them, and does what signals say.
//!
//! ```text
//! sampler -> slice  -> whoever pulls profiles
//!         -> window -> keeper (store)
//!                   -> exporters
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, bail};
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, interval, timeout, timeout_at};

use super::config::Config;
use super::metrics::Metrics;
use super::rules::Rules;
use super::sampler::{Command, Outlets, Sampler, Settings, State};
use super::server::{Server, Shared};
use super::store::{self, Store};
use super::{logging, notify, privileges};
use crate::export::Exporters;
use crate::export::metrics::ExportMetrics;
use crate::probe::requirements;
use crate::profile::window::Window;
use crate::target::live::live;

/// Slices that wait for somebody who pulls profiles.
const SLICES: usize = 16;
/// Windows that wait to be stored, and to be exported.
const WINDOWS: usize = 4;
/// How long the sampler may take to end.
const SAMPLER_ENDS: Duration = Duration::from_secs(5);
/// How long the server may take to end.
const SERVER_ENDS: Duration = Duration::from_secs(4);
/// The state of things is told systemd so often.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Runs the daemon until a signal ends it. `path` is the file that the configuration is from, and is read again for SIGHUP.
///
/// Logging is installed already. Afterwards the calling thread has no capabilities any more.
///
/// # Errors
/// When it cannot begin: the probe, a directory, an address or an endpoint is not to be had. When sampling ends by itself.
pub fn run(path: Option<PathBuf>, config: Config) -> anyhow::Result<()> {
    requirements::check()?;
    let mut registry = Registry::default();
    let metrics = Arc::new(Metrics::new(&mut registry));
    let export_metrics = ExportMetrics::default();
    export_metrics.register(&mut registry);
    let store = match config.store.directory.as_os_str() {
        directory if directory.is_empty() => None,
        _ => Some(Arc::new(Store::open(&config.store)?)),
    };
    if let Some(store) = &store {
        registry.register_collector(Box::new(store::Collector::of(store)));
    }
    let server = config.listen.enabled.then(|| Server::bind(&config.listen)).transpose()?;

    let (slices, _) = broadcast::channel(SLICES);
    let (window_outlet, windows) = mpsc::channel(WINDOWS);
    let (processes, known_processes) = watch::channel(Vec::new());
    let (state, known_state) = watch::channel(State::Starting);
    let heartbeat = Arc::new(AtomicU64::new(0));
    let outlets = Outlets {
        slices: slices.clone(),
        windows: window_outlet,
        processes,
        state,
        metrics: Arc::clone(&metrics),
        heartbeat: Arc::clone(&heartbeat),
    };
    let sampler = Sampler::start(live(), settings(&config)?, outlets)?;
    let (commands, orders) = std_mpsc::channel();
    let sampling = thread::Builder::new().name("sampler".to_owned()).spawn(move || {
        // It can sample with more than it needs.
        if let Err(error) = privileges::keep(&privileges::SAMPLER) {
            log::warn!("the sampler keeps capabilities that it does not need: {error:#}");
        }
        sampler.run(&orders);
    })?;
    // Before there is a thread that talks to the network.
    privileges::drop_all()?;

    let shared = Shared {
        slices,
        processes: known_processes,
        store: store.clone(),
        metrics: Arc::new(registry),
        state: known_state,
    };
    let daemon = Daemon { path, config, store, metrics, commands, sampling, heartbeat };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        // The store, the spools, and questions of the page: each one thing at a time.
        .max_blocking_threads(8)
        .thread_name("io")
        .enable_all()
        .build()
        .context("the threads that send and answer cannot be started")?;
    let ended = runtime.block_on(daemon.serve(server, shared, windows, &export_metrics));
    // A question to a hung disk must not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// What the sampler goes by.
fn settings(config: &Config) -> anyhow::Result<Settings> {
    Ok(Settings {
        sampling: config.sampling.clone(),
        rules: Arc::new(Rules::new(&config.discovery, &config.labels)?),
        kill_switch: config.kill_switch.file.clone(),
    })
}

struct Daemon {
    path: Option<PathBuf>,
    config: Config,
    store: Option<Arc<Store>>,
    metrics: Arc<Metrics>,
    commands: std_mpsc::Sender<Command>,
    sampling: JoinHandle<()>,
    heartbeat: Arc<AtomicU64>,
}

impl Daemon {
    async fn serve(
        mut self,
        server: Option<Server>,
        shared: Shared,
        mut windows: mpsc::Receiver<Arc<Window>>,
        export_metrics: &ExportMetrics,
    ) -> anyhow::Result<()> {
        let mut exporters = Exporters::start(&self.config.export, &self.config.spool, export_metrics)?;
        let mut signals = Signals::install()?;
        let (keeper, kept) = mpsc::channel(WINDOWS);
        let keeping = tokio::spawn(keep(self.store.clone(), kept));
        let (stop_server, stopped) = oneshot::channel::<()>();
        if let Some(server) = &server {
            log::info!("requests are answered at {}", server.address());
        }
        let state = shared.state.clone();
        let mut serving = tokio::spawn(async move {
            match server {
                Some(server) => server.serve(Arc::new(shared), async { drop(stopped.await) }).await,
                None => stopped.await.context("the daemon ends"),
            }
        });
        let mut alive = interval(notify::interval().unwrap_or(STATUS_EVERY));
        let mut seen = self.heartbeat.load(Ordering::Relaxed);
        notify::ready(&self.status(&state));
        let ended = loop {
            tokio::select! {
                window = windows.recv() => match window {
                    Some(window) => self.hand_over(window, &keeper, &exporters),
                    None => break Err(anyhow::anyhow!("the thread that samples has ended; the log says why")),
                },
                _ = signals.reload.recv() => {
                    notify::reloading();
                    self.reload(&mut exporters).await;
                    notify::ready(&self.status(&state));
                }
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.interrupt.recv() => break Ok(()),
                served = &mut serving => break match served {
                    Ok(Ok(())) => Err(anyhow::anyhow!("the server has ended by itself")),
                    Ok(Err(error)) => Err(error.context("the server has ended")),
                    Err(panic) => Err(anyhow::anyhow!("the server has ended: {panic}")),
                },
                _ = alive.tick() => {
                    // A sampler that hangs is not alive, and systemd starts the daemon anew.
                    let beats = self.heartbeat.load(Ordering::Relaxed);
                    if beats != seen {
                        seen = beats;
                        notify::alive();
                        notify::status(&self.status(&state));
                    }
                }
            }
        };
        self.end(windows, keeper, keeping, exporters).await;
        drop(stop_server);
        if !serving.is_finished() && timeout(SERVER_ENDS, serving).await.is_err() {
            log::warn!("the server did not end in {} s", SERVER_ENDS.as_secs());
        }
        ended
    }

    /// One line on what is done now.
    fn status(&self, state: &watch::Receiver<State>) -> String {
        match &*state.borrow() {
            State::Sampling => format!("{} processes are profiled", self.metrics.processes.get()),
            other => other.idle().unwrap_or_default(),
        }
    }

    /// Gives a window to whoever keeps and sends it, and waits for nobody.
    fn hand_over(&self, window: Arc<Window>, keeper: &mpsc::Sender<Arc<Window>>, exporters: &Exporters) {
        exporters.push(Arc::clone(&window));
        if self.store.is_some() && keeper.try_send(window).is_err() {
            self.metrics.windows_dropped.inc();
            log::error!("a window is not stored: those before it are still being written");
        }
    }

    /// Goes on with the configuration as it is now, or with the one that it has if that is none.
    async fn reload(&mut self, exporters: &mut Exporters) {
        let Some(path) = self.path.clone() else {
            log::warn!("there is no configuration file to be read again: the daemon was started without one");
            return;
        };
        match self.reloaded(&path, exporters).await {
            Ok(()) => log::info!("the configuration was read again"),
            Err(error) => log::error!("the configuration stays as it was: {error:#}"),
        }
    }

    async fn reloaded(&mut self, path: &Path, exporters: &mut Exporters) -> anyhow::Result<()> {
        let config = Config::read(path)?;
        let settings = settings(&config)?;
        exporters.reload(&config.export, &config.spool).await?;
        for setting in self.config.needs_restart(&config) {
            log::warn!("{setting} has changed, which takes effect when the daemon is started anew");
        }
        logging::configure(config.log);
        if let Some(store) = self.store.clone() {
            let config = config.store.clone();
            tokio::task::spawn_blocking(move || store.reconfigure(&config));
        }
        if self.commands.send(Command::Configure(Box::new(settings))).is_err() {
            bail!("the thread that samples has ended");
        }
        self.config = config;
        Ok(())
    }

    /// Ends sampling, and keeps and sends what there is, as far as the time allows.
    async fn end(
        self,
        mut windows: mpsc::Receiver<Arc<Window>>,
        keeper: mpsc::Sender<Arc<Window>>,
        keeping: tokio::task::JoinHandle<()>,
        exporters: Exporters,
    ) {
        let within = self.config.shutdown.timeout;
        notify::stopping(SAMPLER_ENDS + within + SERVER_ENDS);
        log::info!("the daemon ends, within {} s", within.as_secs_f64());
        let deadline = Instant::now() + within;
        // It may have ended by itself.
        let _ = self.commands.send(Command::Stop);
        let sampled = async {
            while let Some(window) = windows.recv().await {
                exporters.push(Arc::clone(&window));
                // There is time to wait now.
                let _ = keeper.send(window).await;
            }
        };
        if timeout(SAMPLER_ENDS, sampled).await.is_err() {
            log::warn!("sampling did not end in {} s", SAMPLER_ENDS.as_secs());
        } else if self.sampling.join().is_err() {
            log::error!("the thread that samples has panicked");
        }
        drop(keeper);
        let left = deadline.saturating_duration_since(Instant::now());
        exporters.flush(left).await;
        if timeout_at(deadline.max(Instant::now() + Duration::from_secs(1)), keeping).await.is_err() {
            log::error!("the last window is not stored: writing it takes too long");
        }
    }
}

/// Stores windows as they come.
async fn keep(store: Option<Arc<Store>>, mut windows: mpsc::Receiver<Arc<Window>>) {
    // A disk stays full for hours: that is said when it begins and when it ends.
    let mut failing = false;
    while let Some(window) = windows.recv().await {
        let Some(store) = store.clone() else { continue };
        match tokio::task::spawn_blocking(move || store.write(&window)).await {
            Ok(Ok(())) if failing => {
                failing = false;
                log::info!("profiles are stored again");
            }
            Ok(Ok(())) => {}
            Ok(Err(error)) if failing => log::debug!("{error}"),
            Ok(Err(error)) => {
                failing = true;
                log::error!("{error}");
            }
            Err(panic) => log::error!("a window is not stored: {panic}"),
        }
    }
}

/// The signals that the daemon listens to.
struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Signals> {
        let install = |kind| signal(kind).context("a signal cannot be handled");
        Ok(Signals {
            reload: install(SignalKind::hangup())?,
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }
}
