//! Taking a profile: attach the probe, read samples until the end, weave, and hand over a [`Profile`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;

use crate::probe::{self, Probe};
use crate::profile::{Meta, Profile};
use crate::target::world::World;
use crate::targets::Targets;

/// What to record. Made by hand or from the command line; nothing below knows how it was written.
#[derive(Debug, Clone)]
pub struct Options {
    /// The processes to profile, with all their threads and the children that they start while we watch.
    pub pids: Vec<u32>,
    /// A process of ours that has stopped itself and will run another program when it is continued, as it is once sampling has
    /// begun: so that program is profiled from its first instruction.
    pub launched: Option<u32>,
    /// How long to sample; `None` is until stopped or until the last target has exited.
    pub duration: Option<Duration>,
    /// Samples per second and CPU.
    pub frequency: u32,
    /// The perf event that takes the samples.
    pub event: Event,
    /// Record the kernel's part of each stack.
    pub kernel: bool,
    /// Look for LuaJIT and decode Lua frames; without it only kernel and native frames are drawn, in any process.
    pub lua: bool,
}

/// The perf event that takes the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// CPU cycles where the machine has them, else the CPU clock.
    #[default]
    Auto,
    /// The hardware's count of CPU cycles.
    Cycles,
    /// The kernel's CPU clock, a timer that works everywhere.
    CpuClock,
}

/// How a recording stands, given to the observer about ten times a second.
#[derive(Debug, Clone)]
pub struct Progress<'a> {
    /// Time since sampling began.
    pub elapsed: Duration,
    /// Samples so far.
    pub samples: u64,
    /// Samples lost so far.
    pub lost: u64,
    /// The Lua function that was on top of most samples so far.
    pub top: Option<&'a str>,
    /// The processes that are sampled now, each with its command name.
    pub processes: &'a [(u32, &'a str)],
    /// The samples so far, or since the observer has wanted them to be forgotten.
    pub profile: &'a Profile,
}

/// What an observer wants to become of the samples that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// They stay, for the profile at the end.
    Keep,
    /// They are not needed any more: so a recording without end takes no more and more memory.
    Forget,
}

/// How often records are read. The probe sends a wake-up when a quarter of the ring buffer is full, so nothing is lost by
/// waiting.
const READ_EVERY: Duration = Duration::from_millis(20);
/// How long records that are left when sampling has ended are read.
const READ_AT_THE_END: Duration = Duration::from_secs(5);
/// How often the observer is told.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);

/// Samples processes of the running system, which `world` answers for, as [`Options`] say until the time is over, `stop` is set, or every target has exited.
///
/// # Errors
/// When a process does not exist, holds no LuaJIT or one that cannot be read, or when the kernel or the permissions do
/// not allow the probe.
pub fn record(
    options: &Options,
    world: &Arc<dyn World>,
    stop: &AtomicBool,
    observe: &mut dyn FnMut(&Progress<'_>) -> Seen,
) -> anyhow::Result<Profile> {
    let cpu = own_cpu();
    let mut targets = Targets::new(Arc::clone(world), options.lua);
    for pid in &options.pids {
        targets.add(*pid)?;
    }
    if let Some(pid) = options.launched {
        targets.add_launched(pid)?;
    }
    if world.is_full() {
        bail!("the memory that was searched for LuaJIT is more than a capture can hold; leave out --with-memory");
    }
    // The kernel checks the probe in its own time, and reads out its symbols in the meantime.
    let symbols = &mut targets.symbols;
    let mut probe = thread::scope(|scope| {
        if options.kernel {
            scope.spawn(|| symbols.prepare());
        }
        Probe::load(&probe::Options { kernel: options.kernel, discover: false })
    })?;
    targets.watch_all(&mut probe)?;
    probe.start(options.event, options.frequency)?;
    if let Some(pid) = options.launched.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        kill_process(pid, Signal::CONT).context("the program could not be started")?;
    }
    targets.profile.meta = Meta {
        processes: Vec::new(),
        lua: options.lua,
        luajit: Vec::new(),
        frequency: options.frequency,
        event: probe.event.to_owned(),
        seconds: 0.0,
        started: Some(SystemTime::now()),
    };
    let start = Instant::now();
    let mut observed = start;
    let left = || options.duration.map(|duration| duration.saturating_sub(start.elapsed()));
    let is_over = || stop.load(Ordering::Relaxed) || left() == Some(Duration::ZERO) || world.is_full();
    while !is_over() && targets.any_alive() {
        wait(&probe, left().map_or(READ_EVERY, |left| left.min(READ_EVERY)));
        // The observer is told also when samples come as fast as they are read.
        let due = || observed.elapsed() >= OBSERVE_EVERY;
        targets.read(&mut probe, || is_over() || due());
        if due() {
            observed = Instant::now();
            let seen = observe(&Progress {
                elapsed: start.elapsed(),
                samples: targets.profile.counters.samples,
                lost: probe.counters().lost,
                top: targets.top(),
                processes: &targets.sampled(),
                profile: &targets.profile,
            });
            if seen == Seen::Forget {
                targets.forget_samples();
            }
        }
    }
    targets.profile.meta.seconds = start.elapsed().as_secs_f64();
    probe.stop()?;
    let stopped = Instant::now();
    targets.read(&mut probe, || stopped.elapsed() >= READ_AT_THE_END);
    // Those for which there was no room, those left, and those of processes that had exited before they were read.
    let counters = &mut targets.profile.counters;
    counters.lost = probe.counters().samples.saturating_sub(counters.samples);
    targets.profile.counters.own_cpu = own_cpu() - cpu;
    targets.profile.meta.processes = targets.named;
    targets.profile.meta.luajit = targets.versions;
    Ok(targets.profile)
}

/// Waits until records should be read, or the time is over, or a signal comes.
pub(crate) fn wait(probe: &Probe, time: Duration) {
    let mut fds = [PollFd::new(probe, PollFlags::IN)];
    let time = Timespec { tv_sec: 0, tv_nsec: time.as_nanos().min(999_999_999) as i64 };
    // The only error is an interruption by a signal, after which the caller looks at what the signal says.
    let _ = poll(&mut fds, Some(&time));
}

/// CPU time of this process so far, in seconds.
pub(crate) fn own_cpu() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
