//! What the daemon costs at its defaults: with workers that wait and that are busy, and with what else a host may do.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use luaflame_tests::daemon::Daemon;
use luaflame_tests::nginx::Nginx;
use luaflame_tests::process::{Running, cpu_time, wait_until};
use rustix::process::Signal;

use super::Bench;
use super::profilers::{BpfStatistics, probe_runs, probe_time};
use crate::shell::{interrupted, root};
use crate::table::{Table, Verdicts};

/// Workers of nginx.
const WORKERS: usize = 16;
/// Samples a second of each CPU, the daemon's default.
const FREQUENCY: f64 = 19.0;
/// Other processes that do nothing.
const NEIGHBOURS: usize = 1000;
/// A scene is measured for so many times the bench's time.
const TIMES: u32 = 15;
/// So that caches are filled and the first window is written.
const WARM_UP: Duration = Duration::from_secs(20);

const CONFIGURATION: &str = "[kill_switch]\nfile = \"{folder}/off\"\n[listen]\naddress = \"{address}\"\n\
    [store]\ndirectory = \"{folder}/store\"\n[spool]\ndirectory = \"{folder}/spool\"\n";

/// What the daemon used while something went on. Shares are of the time of one core.
#[derive(Debug, Clone, Copy)]
struct Used {
    own: f64,
    /// In the kernel, in the BPF program that takes samples.
    sampling: f64,
    /// In those that follow processes.
    following: f64,
    /// A second.
    samples: f64,
    /// Of any process, a second.
    started: f64,
    /// At processes that may hold LuaJIT, a second.
    looks: f64,
    /// MiB.
    resident: f64,
    peak: f64,
}

/// The daemon with workers that wait, that are busy, with neighbours in addition, and with a storm of short processes instead.
pub struct Scenes([Used; 4]);

/// Measures all of them.
///
/// # Errors
/// When something cannot be started.
pub fn measure(bench: &Bench) -> Result<Scenes> {
    let _accounting = BpfStatistics::enable()?;
    let nginx = Nginx::start(&root().join("samples/nginx"), &bench.folder.join("nginx16"), WORKERS, "")?;
    let mut daemon = Daemon::start_configured(CONFIGURATION)?;
    daemon
        .wait_until("all workers are profiled", |daemon| daemon.metric("luaflame_processes") >= Some(WORKERS as f64))?;
    let seconds = bench.seconds * TIMES;
    let mut scene = |name: &str| {
        eprintln!("the daemon, {seconds} s: {name}");
        observe(&mut daemon, Duration::from_secs(seconds.into()))
    };
    let idle = scene("workers that wait")?;
    let limit = 4 * (seconds + WARM_UP.as_secs() as u32) + 60;
    let _load = nginx.load("/", Some(&root().join("samples/nginx/load.lua")), 32, limit)?;
    let busy = scene("workers that are busy")?;
    let mut neighbours = Vec::new();
    for _ in 0..NEIGHBOURS {
        neighbours.push(Running::spawn(Command::new("sleep").arg("86400").stdin(Stdio::null()))?);
    }
    let crowded = scene("and processes that do nothing")?;
    // All at once, not one after the other.
    for neighbour in &mut neighbours {
        neighbour.signal(Signal::TERM)?;
    }
    drop(neighbours);
    let storm = Running::spawn(Command::new("sh").args(["-c", "while :; do /bin/true; done"]).stdin(Stdio::null()))?;
    let stormy = scene("and processes that come and go")?;
    drop(storm);
    let status = daemon.terminate()?;
    ensure!(status.success(), "the daemon failed: {status}; it logged:\n{}", daemon.log());
    Ok(Scenes([idle, busy, crowded, stormy]))
}

fn observe(daemon: &mut Daemon, length: Duration) -> Result<Used> {
    wait_until(WARM_UP, interrupted);
    let before = Counts::of(daemon)?;
    wait_until(length, interrupted);
    ensure!(!interrupted(), "interrupted");
    let after = Counts::of(daemon)?;
    let seconds = (after.at - before.at).as_secs_f64();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process().id()))?;
    let memory = |name: &str| {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).with_context(|| format!("the kernel does not tell {name}"))
    };
    Ok(Used {
        own: (after.own - before.own) / seconds,
        sampling: (after.sampling - before.sampling) / seconds,
        following: (after.following - before.following) / seconds,
        samples: (after.samples - before.samples) / seconds,
        started: (after.started - before.started) / seconds,
        looks: (after.looks - before.looks) / seconds,
        resident: memory("VmRSS:")?,
        peak: memory("VmHWM:")?,
    })
}

/// What has been counted until a moment; times in seconds.
struct Counts {
    at: Instant,
    own: f64,
    sampling: f64,
    following: f64,
    samples: f64,
    started: f64,
    looks: f64,
}

impl Counts {
    fn of(daemon: &mut Daemon) -> Result<Counts> {
        let pid = daemon.process().id();
        let (_, sampling) = probe_runs(pid).context("the daemon has no probe")?;
        let metric = |name: &str| daemon.metric(name).with_context(|| format!("the daemon does not tell {name}"));
        let (samples, looks) = (metric("luaflame_samples")?, metric("luaflame_process_looks")?);
        let statistics = fs::read_to_string("/proc/stat")?;
        let started = statistics.lines().find_map(|line| line.strip_prefix("processes ")?.parse::<f64>().ok());
        Ok(Counts {
            at: Instant::now(),
            // Hundredths of a second.
            own: cpu_time(pid).context("the daemon has ended")? as f64 / 100.0,
            sampling: sampling as f64 / 1e9,
            following: probe_time(pid).saturating_sub(sampling) as f64 / 1e9,
            samples,
            started: started.context("the kernel does not count processes")?,
            looks,
        })
    }
}

/// Prints what was measured.
pub fn print(scenes: &Scenes, seconds: u32) {
    let Scenes([idle, busy, crowded, _]) = scenes;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "\nthe daemon at its defaults (19 Hz, windows of 15 s, a store) with {WORKERS} workers of nginx on {cores} cores, {} s each: \
         waiting; busy;\nbusy and {NEIGHBOURS} other processes that do nothing; busy and a loop that starts /bin/true\n",
        seconds * TIMES
    );
    let mut table = Table::new(["waiting", "busy", "neighbours", "storm"].map(str::to_owned));
    let row = |value: &dyn Fn(&Used) -> f64, decimals: usize| {
        [0, 1, 2, 3].map(|scene| format!("{:.decimals$}", value(&scenes.0[scene])))
    };
    table.row("own CPU, % of a core".to_owned(), row(&|used| used.own * 100.0, 3));
    table.row("in the probe, sampling, % of a core".to_owned(), row(&|used| used.sampling * 100.0, 3));
    table.row("in the probe, following processes, %".to_owned(), row(&|used| used.following * 100.0, 3));
    table.row("samples a second".to_owned(), row(&|used| used.samples, 1));
    table.row("processes started a second, by anyone".to_owned(), row(&|used| used.started, 1));
    table.row("looks at processes a second".to_owned(), row(&|used| used.looks, 1));
    table.row("resident memory, MiB".to_owned(), row(&|used| used.resident, 1));
    table.row("peak memory, MiB".to_owned(), row(&|used| used.peak, 1));
    println!("{table}");
    let each = (busy.own - idle.own).max(0.0) / busy.samples;
    let probe = busy.sampling / busy.samples;
    let all = WORKERS as f64 * FREQUENCY;
    let extrapolated = idle.own + each * all;
    println!(
        "a sample costs the daemon {:.1} us and {:.1} us in the probe. {WORKERS} workers that keep {WORKERS} cores busy are {all:.0} samples a \
         second; this is not\nmeasured on {cores} cores, but extrapolated: what it takes with waiting workers and so many times what a sample \
         costs\n",
        each * 1e6,
        probe * 1e6
    );
    let mut verdicts = Verdicts::new();
    verdicts.at_most("own CPU, workers busy on all cores here", busy.own * 100.0, 0.5, "% of a core");
    verdicts.at_most("own CPU, extrapolated to 16 cores", extrapolated * 100.0, 0.5, "% of a core");
    verdicts.at_most("what 1,000 processes add to own CPU", (crowded.own - busy.own) * 100.0, 0.1, "% of a core");
    let peak = scenes.0.iter().map(|used| used.peak).fold(f64::NAN, f64::max);
    verdicts.at_most("peak memory", peak, 80.0, "MiB");
    println!("the daemon, with its targets:\n{verdicts}");
}
