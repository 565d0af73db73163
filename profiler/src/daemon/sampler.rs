//! The thread that samples: it owns the probe and all that is known of processes, and makes a slice of each second.
//!
//! It waits for nobody. Whoever does not take a slice or a window in time misses it, which is counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, mpsc, watch};

use super::config::Sampling;
use super::discovery::Discovery;
use super::metrics::Metrics;
use super::rules::Rules;
use super::windows::Windows;
use crate::probe::{self, Probe};
use crate::profile::Meta;
use crate::profile::window::{Identity, ProcessProfile, Window};
use crate::record::wait;
use crate::target::world::World;
use crate::targets::Targets;

/// How much time a slice is of.
pub const SLICE: Duration = Duration::from_secs(1);
/// How often records are read; the probe sends a wake-up when the ring buffer fills, and when processes start and end.
const READ_EVERY: Duration = Duration::from_millis(100);
/// How long records that are left are read when sampling ends.
const READ_AT_THE_END: Duration = Duration::from_secs(2);
/// After a failure to load the probe it is tried again after this time.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// The wall clock was set when it is off by more than this after a slice.
const JUMP: Duration = Duration::from_secs(2);

/// Whether samples are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet.
    Starting,
    /// They are.
    Sampling,
    /// They are not, since this file exists.
    SwitchedOff(PathBuf),
    /// They cannot be, for this reason.
    Failed(String),
}

impl State {
    /// Why no samples are taken, if so, as the beginning of a sentence.
    pub fn idle(&self) -> Option<String> {
        match self {
            State::Starting => Some("the daemon is starting and takes no samples yet".to_owned()),
            State::Sampling => None,
            State::SwitchedOff(file) => Some(format!("nothing is sampled while {} exists", file.display())),
            State::Failed(reason) => Some(format!("nothing is sampled: {reason}")),
        }
    }
}

/// What the sampler is told.
#[derive(Debug)]
pub enum Command {
    /// Other settings hold from now on.
    Configure(Box<Settings>),
    /// Nothing is sampled any more.
    Stop,
}

/// What the sampler goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How samples are taken.
    pub sampling: Sampling,
    /// Which processes are profiled, and as what.
    pub rules: Arc<Rules>,
    /// The file that stops it.
    pub kill_switch: PathBuf,
}

/// Where the sampler's results go.
#[derive(Debug, Clone)]
pub struct Outlets {
    /// Each slice.
    pub slices: broadcast::Sender<Arc<Window>>,
    /// Each window.
    pub windows: mpsc::Sender<Arc<Window>>,
    /// The processes that are profiled.
    pub processes: watch::Sender<Vec<Arc<Identity>>>,
    /// Whether samples are taken.
    pub state: watch::Sender<State>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Grows as long as the sampler is at work.
    pub heartbeat: Arc<AtomicU64>,
}

/// The sampler.
pub struct Sampler {
    world: Arc<dyn World>,
    settings: Settings,
    outlets: Outlets,
    windows: Windows,
    sampling: Option<Running>,
    /// When the probe is loaded again after a failure.
    retry: Option<Instant>,
}

/// While the probe is loaded.
struct Running {
    probe: Probe,
    targets: Targets,
    discovery: Discovery,
    slice: Slice,
    /// Losses that the probe has told of all processes.
    lost: u64,
}

/// A slice that has begun.
struct Slice {
    started: SystemTime,
    begun: Instant,
}

impl Slice {
    fn begin() -> Slice {
        Slice { started: SystemTime::now(), begun: Instant::now() }
    }
}

impl Sampler {
    /// Loads the probe and begins to sample, unless the kill switch says otherwise.
    ///
    /// # Errors
    /// When the kernel or the permissions do not allow the probe.
    pub fn start(world: Arc<dyn World>, settings: Settings, outlets: Outlets) -> anyhow::Result<Sampler> {
        let windows = Windows::new(settings.sampling.window);
        let mut sampler = Sampler { world, settings, outlets, windows, sampling: None, retry: None };
        if sampler.is_switched_off() {
            sampler.switched_off();
        } else {
            sampler.sampling = Some(sampler.load()?);
            sampler.outlets.state.send_replace(State::Sampling);
        }
        Ok(sampler)
    }

    /// Samples until it is told to stop, or nobody is left to tell it.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            self.outlets.heartbeat.fetch_add(1, Ordering::Relaxed);
            let command = match &self.sampling {
                Some(_) => match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => Some(Command::Stop),
                },
                None => match commands.recv_timeout(SLICE) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => Some(Command::Stop),
                },
            };
            match command {
                Some(Command::Stop) => break,
                Some(Command::Configure(settings)) => self.configure(*settings),
                None => {}
            }
            let complete = match &mut self.sampling {
                Some(running) => running.turn(),
                None => true,
            };
            if complete {
                self.end_slice();
                self.switch();
            }
        }
        self.unload();
    }

    fn load(&self) -> anyhow::Result<Running> {
        let sampling = &self.settings.sampling;
        let mut targets = Targets::apart(Arc::clone(&self.world));
        let mut discovery = Discovery::new(Arc::clone(&self.world), Arc::clone(&self.settings.rules));
        let mut probe = Probe::load(&probe::Options { kernel: sampling.kernel, discover: true })?;
        if sampling.kernel {
            targets.symbols.prepare();
        }
        // First, so that no process starts unseen.
        probe.start(sampling.event, sampling.frequency)?;
        discovery.all(&mut targets, &mut probe);
        log::info!(
            "{} processes are profiled, {} times a second of each CPU's time by {}",
            targets.pids().len(),
            sampling.frequency,
            probe.event
        );
        self.outlets.metrics.sampling.set(1);
        self.outlets.tell_processes(&discovery, &targets);
        Ok(Running { probe, targets, discovery, slice: Slice::begin(), lost: 0 })
    }

    /// Ends sampling, and hands over what there is.
    fn unload(&mut self) {
        if let Some(running) = &mut self.sampling {
            if let Err(error) = running.probe.stop() {
                log::error!("the probe could not be stopped: {error:#}");
            }
            let stopped = Instant::now();
            running.targets.read(&mut running.probe, || stopped.elapsed() >= READ_AT_THE_END);
        }
        self.end_slice();
        self.sampling = None;
        self.outlets.metrics.sampling.set(0);
        self.outlets.metrics.processes.set(0);
        self.outlets.processes.send_replace(Vec::new());
        if let Some(window) = self.windows.finish() {
            self.deliver(window);
        }
    }

    fn configure(&mut self, settings: Settings) {
        let before = std::mem::replace(&mut self.settings, settings);
        let Sampling { frequency, event, kernel, window } = &self.settings.sampling;
        self.windows.set_length(*window);
        let Some(running) = &mut self.sampling else { return };
        if (frequency, event, kernel) == (&before.sampling.frequency, &before.sampling.event, &before.sampling.kernel) {
            let rules = Arc::clone(&self.settings.rules);
            running.discovery.apply(rules, &mut running.targets, &mut running.probe);
            self.outlets.tell_processes(&running.discovery, &running.targets);
            return;
        }
        // Samples of two frequencies cannot be in one profile.
        self.unload();
        self.reload();
    }

    /// Loads the probe anew, or says why not.
    fn reload(&mut self) {
        match self.load() {
            Ok(running) => {
                self.retry = None;
                self.sampling = Some(running);
                self.outlets.state.send_replace(State::Sampling);
            }
            Err(error) => {
                self.retry = Some(Instant::now() + TRY_AGAIN);
                log::error!("nothing is sampled: {error:#}; this is tried again in {} s", TRY_AGAIN.as_secs());
                self.outlets.state.send_replace(State::Failed(format!("{error:#}")));
            }
        }
    }

    fn is_switched_off(&self) -> bool {
        let file = &self.settings.kill_switch;
        !file.as_os_str().is_empty() && file.exists()
    }

    /// Does what the kill switch says, and follows CPUs.
    fn switch(&mut self) {
        let off = self.is_switched_off();
        match &mut self.sampling {
            Some(_) if off => {
                self.unload();
                self.switched_off();
            }
            Some(running) => {
                if let Err(error) = running.probe.follow_cpus() {
                    log::warn!("a CPU that has come online is not sampled: {error:#}");
                }
            }
            None if off => self.switched_off(),
            None if self.retry.is_none_or(|retry| retry <= Instant::now()) => self.reload(),
            None => {}
        }
    }

    fn switched_off(&mut self) {
        let state = State::SwitchedOff(self.settings.kill_switch.clone());
        if *self.outlets.state.borrow() != state {
            log::warn!("nothing is sampled while {} exists", self.settings.kill_switch.display());
        }
        self.outlets.state.send_replace(state);
        self.retry = None;
    }

    /// Hands over what was sampled in the last second.
    fn end_slice(&mut self) {
        let Some(running) = &mut self.sampling else { return };
        let slice = running.end_slice(&self.settings.sampling, &self.outlets.metrics);
        self.outlets.tell_processes(&running.discovery, &running.targets);
        let slice = Arc::new(slice);
        let window = self.windows.add(&slice);
        // That nobody pulls profiles now is no error.
        let _ = self.outlets.slices.send(slice);
        if let Some(window) = window {
            self.deliver(window);
        }
    }

    fn deliver(&self, window: Window) {
        self.outlets.metrics.windows.inc();
        if self.outlets.windows.try_send(Arc::new(window)).is_err() {
            self.outlets.metrics.windows_dropped.inc();
            log::error!("a window of profiles is lost: those before it are still being stored");
        }
    }
}

impl Outlets {
    fn tell_processes(&self, discovery: &Discovery, targets: &Targets) {
        let processes = discovery.profiled(targets);
        self.metrics.processes.set(processes.len() as i64);
        self.processes.send_if_modified(|known| {
            let modified = *known != processes;
            if modified {
                *known = processes;
            }
            modified
        });
    }
}

impl Running {
    /// Waits, and takes in what has been sampled and what has happened. Whether the slice is complete.
    fn turn(&mut self) -> bool {
        let Running { probe, targets, discovery, slice, .. } = self;
        let left = SLICE.saturating_sub(slice.begun.elapsed());
        let look = discovery.next_look().map_or(READ_EVERY, |look| look.saturating_duration_since(Instant::now()));
        wait(probe, READ_EVERY.min(left).min(look));
        targets.read(probe, || slice.begun.elapsed() >= SLICE);
        for event in targets.take_events() {
            discovery.take(event, targets, probe);
        }
        discovery.look_again(targets, probe);
        slice.begun.elapsed() >= SLICE
    }

    fn end_slice(&mut self, sampling: &Sampling, metrics: &Metrics) -> Window {
        let Running { probe, targets, discovery, slice, lost } = self;
        discovery.settle(targets, probe);
        let Slice { started, begun } = std::mem::replace(slice, Slice::begin());
        let seconds = slice.begun.duration_since(begun).as_secs_f64();
        let expected = started + slice.begun.duration_since(begun);
        let off = slice.started.duration_since(expected).unwrap_or_else(|error| error.duration());
        if off > JUMP {
            metrics.clock_jumps.inc();
            log::warn!("the wall clock was set by {:.0} s; profiles bear its new time from now on", off.as_secs_f64());
        }
        let counters = probe.counters();
        let newly_lost = counters.lost.saturating_sub(std::mem::replace(lost, counters.lost));
        metrics.lost.inc_by(newly_lost);
        let meta = Meta {
            lua: true,
            frequency: sampling.frequency,
            event: probe.event.to_owned(),
            seconds,
            started: Some(started),
            ..Meta::default()
        };
        let mut processes = Vec::new();
        for (pid, process_started, mut profile) in targets.take_profiles() {
            let of = std::mem::replace(&mut profile.meta, meta.clone());
            profile.meta.processes = of.processes;
            profile.meta.luajit = of.luajit;
            if newly_lost > 0 {
                profile.counters.lost = probe.take_losses(pid);
            }
            metrics.count(&profile.counters);
            let command = profile.meta.processes.first().map_or("", |(_, command)| command);
            let identity = discovery.identity(pid, process_started, command);
            processes.push(ProcessProfile { identity, profile });
        }
        // What could not be told to be any process's.
        metrics.count(&std::mem::take(&mut targets.profile.counters));
        metrics.looks.inc_by(std::mem::take(&mut discovery.looks));
        metrics.failures.inc_by(std::mem::take(&mut discovery.failures));
        metrics.measure_ourselves();
        discovery.forget_ended(targets);
        Window { started, seconds, processes }
    }
}
