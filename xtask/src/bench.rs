//! `cargo xtask bench`: what profiling costs, luaflame and others side by side, in one run.
//!
//! Everything is measured from outside, with nothing built into luaflame for it: time and memory by the kernel's accounting of
//! the process, the probe's time by the kernel's accounting of BPF programs, delays by what the process is seen doing.

mod daemon;
mod profilers;
mod rendering;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use luaflame_tests::nginx::Nginx;
use luaflame_tests::process::Running;

use crate::setup;
use crate::shell::{interrupted, is_root, luaflame, output, root};
use crate::table::{Table, Verdicts, median};
use profilers::{BpfStatistics, Cost, Profiler, Tool};
use rendering::Rendered;

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Rounds; each measures nginx without and with every profiler
    #[arg(long, default_value_t = 6)]
    pairs: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Only what the daemon costs
    #[arg(long)]
    daemon: bool,
}

/// Samples a second: the default, and ten times that to see the costs better.
const FREQUENCIES: [u32; 2] = [99, 999];
/// Rounds of the fixed work for LuaJIT's command line.
const WORK: &str = "10000";

/// Measures and prints everything.
///
/// # Errors
/// When something cannot be set up or started, and when a profiler fails; targets that are missed are no errors.
pub fn task(arguments: &Arguments) -> Result<()> {
    ensure!(is_root(), "profiling needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask bench`");
    ensure!(arguments.pairs > 0 && arguments.seconds > 0, "at least one round of one second is needed");
    let cores = std::thread::available_parallelism()?.get();
    ensure!(cores >= 2, "a core for nginx and one for the load are needed");
    setup::for_bench()?;
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let bench = Bench { luaflame: luaflame()?, folder, pairs: arguments.pairs, seconds: arguments.seconds };

    if arguments.daemon {
        daemon::print(&daemon::measure(&bench)?, bench.seconds);
        return Ok(());
    }
    let nginx = Nginx::start(&root().join("samples/nginx"), &bench.folder.join("nginx"), 1, "worker_cpu_affinity 01;")?;
    let worker = *nginx.workers().first().context("nginx has a worker")?;
    eprintln!("warming up");
    bench.load(&nginx)?;
    let throughput = bench.throughput(&nginx, worker)?;
    let alone = bench.alone(&nginx, worker)?;
    drop(nginx);
    let work = bench.work()?;
    let rendered = rendering::render(&bench.luaflame, &bench.folder)?;
    let scenes = daemon::measure(&bench)?;
    print(&bench, &throughput, &alone, &work, &rendered);
    daemon::print(&scenes, bench.seconds);
    Ok(())
}

struct Bench {
    luaflame: PathBuf,
    folder: PathBuf,
    pairs: usize,
    seconds: u32,
}

/// What a profiler did in each round.
struct Measured {
    profiler: Profiler,
    /// What was measured, relative to the same without a profiler.
    ratios: Vec<f64>,
    costs: Vec<Cost>,
}

struct Throughput {
    /// Requests per second without a profiler.
    plain: Vec<f64>,
    profilers: Vec<Measured>,
}

/// luaflame with the kernel's accounting of BPF programs switched on.
struct Alone {
    first_sample: Vec<Duration>,
    finish: Vec<Duration>,
    /// Nanoseconds in the probe for each sample delivered.
    probe: Vec<f64>,
}

fn profilers(tools: &[Tool]) -> Vec<Measured> {
    let all = FREQUENCIES
        .iter()
        .flat_map(|frequency| tools.iter().map(|tool| Profiler { tool: *tool, frequency: *frequency }));
    all.map(|profiler| Measured { profiler, ratios: Vec::new(), costs: Vec::new() }).collect()
}

impl Bench {
    /// Requests per second of nginx under load, which runs on another core.
    fn load(&self, nginx: &Nginx) -> Result<f64> {
        let wrk = nginx.wrk("/", Some(&root().join("samples/nginx/load.lua")), 8, self.seconds);
        let text = output(Command::new("taskset").args(["-c", "1"]).arg(wrk.get_program()).args(wrk.get_args()))?;
        ensure!(!interrupted(), "interrupted");
        ensure!(!text.contains("Non-2xx"), "nginx answered with errors:\n{text}");
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
        line.and_then(|rate| rate.trim().parse().ok())
            .with_context(|| format!("wrk did not say how fast it was:\n{text}"))
    }

    /// Every round measures without a profiler before and after each profiler, so that a drift of the machine's speed
    /// does not count for or against one.
    fn throughput(&self, nginx: &Nginx, worker: u32) -> Result<Throughput> {
        let mut profilers = profilers(&[Tool::Empty, Tool::Luaflame, Tool::Perf, Tool::PerfDwarf]);
        let mut plain = vec![self.load(nginx)?];
        for round in 1..=self.pairs {
            for measured in &mut profilers {
                eprintln!("nginx, round {round} of {}: {}", self.pairs, measured.profiler);
                let before = plain.last().copied().unwrap_or_default();
                let attached = measured.profiler.attach(self, worker)?;
                let rate = self.load(nginx)?;
                measured.costs.push(attached.detach()?);
                let after = self.load(nginx)?;
                measured.ratios.push(rate / ((before + after) / 2.0));
                plain.push(after);
            }
        }
        Ok(Throughput { plain, profilers })
    }

    /// luaflame's delays, and its time in the probe: apart from the rest, since the accounting has a cost of its own.
    fn alone(&self, nginx: &Nginx, worker: u32) -> Result<Alone> {
        let _accounting = BpfStatistics::enable()?;
        let mut alone = Alone { first_sample: Vec::new(), finish: Vec::new(), probe: Vec::new() };
        let load = nginx.load("/", Some(&root().join("samples/nginx/load.lua")), 8, 600)?;
        for frequency in FREQUENCIES {
            for round in 1..=3 {
                eprintln!("luaflame at {frequency} Hz with the kernel's accounting, round {round} of 3");
                let run = profilers::observe(self, worker, frequency)?;
                if frequency == FREQUENCIES[0] {
                    alone.first_sample.push(run.first_sample);
                    alone.finish.push(run.finish);
                } else {
                    alone.probe.push(run.probe);
                }
            }
        }
        drop(load);
        Ok(alone)
    }

    /// Seconds that LuaJIT's command line takes for a fixed amount of work, relative to the same without a profiler.
    fn work(&self) -> Result<Vec<Measured>> {
        let mut profilers = profilers(&[Tool::Empty, Tool::Luaflame, Tool::Perf, Tool::PerfDwarf, Tool::JitP]);
        for round in 1..=self.pairs {
            for measured in &mut profilers {
                eprintln!("LuaJIT, round {round} of {}: {}", self.pairs, measured.profiler);
                let (plain, _) = self.work_once(Profiler { tool: Tool::None, ..measured.profiler })?;
                let (profiled, cost) = self.work_once(measured.profiler)?;
                measured.ratios.push(profiled / plain);
                measured.costs.push(cost);
            }
        }
        Ok(profilers)
    }

    fn work_once(&self, profiler: Profiler) -> Result<(f64, Cost)> {
        ensure!(!interrupted(), "interrupted");
        let luajit = setup::luajit()?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(luajit.join("usr/bin/luajit"));
        if profiler.tool == Tool::JitP {
            // Functions, with every how many milliseconds a sample is taken.
            let report = self.folder.join("jit.p");
            command.arg(format!("-jp=fi{},{}", 1000 / profiler.frequency, report.display()));
            let modules = std::fs::read_dir(luajit.join("usr/share"))?.flatten().map(|entry| entry.path());
            let modules = modules.filter(|path| path.join("jit").is_dir()).last();
            let modules = modules.context("LuaJIT's modules are missing")?;
            command.env("LUA_PATH", format!("{}/?.lua;;", modules.display()));
        }
        command.arg(root().join("samples/lua/work.lua")).arg(WORK);
        let mut process = Running::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut ready = String::new();
        let stdout = process.child().stdout.take().context("its output is a pipe")?;
        BufReader::new(stdout).read_line(&mut ready)?;
        ensure!(ready == "ready\n", "LuaJIT did not start: {ready:?}");
        let attached = profiler.attach(self, process.id())?;
        let start = Instant::now();
        process.child().stdin.take().context("its input is a pipe")?.write_all(b"go\n")?;
        let status = process.child().wait()?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(status.success(), "LuaJIT failed: {status}");
        Ok((seconds, attached.detach()?))
    }
}

fn print(bench: &Bench, throughput: &Throughput, alone: &Alone, work: &[Measured], rendered: &[Rendered]) {
    let plain = median(&throughput.plain);
    println!(
        "\nnginx with Lua (samples/nginx), one worker and its load each on a core of its own, {plain:.0} requests/s without a \
         profiler;\nLuaJIT's command line running samples/lua/work.lua; medians of {} rounds, {} s each\n",
        bench.pairs, bench.seconds
    );
    let columns = [Tool::Empty, Tool::Luaflame, Tool::Perf, Tool::PerfDwarf, Tool::JitP];
    let mut table = Table::new(columns.map(|tool| tool.to_string()));
    for frequency in FREQUENCIES {
        let of = |measured: &[Measured], value: &dyn Fn(&Measured) -> Option<f64>, decimals: usize| {
            columns.map(|tool| {
                let found = measured.iter().find(|m| m.profiler == Profiler { tool, frequency }).and_then(value);
                found.map_or("-".to_owned(), |value| format!("{value:.decimals$}"))
            })
        };
        let ratio = |measured: &Measured| Some(median(&measured.ratios));
        let cpu = |measured: &Measured| Cost::median(&measured.costs, |cost| cost.cpu).map(|share| share * 100.0);
        let peak = |measured: &Measured| Cost::median(&measured.costs, |cost| cost.peak);
        table.row(format!("nginx: requests/s relative to none, {frequency} Hz"), of(&throughput.profilers, &ratio, 3));
        table.row(
            format!("nginx: own CPU while sampling, % of a core, {frequency} Hz"),
            of(&throughput.profilers, &cpu, 2),
        );
        table.row(format!("nginx: own peak memory, MiB, {frequency} Hz"), of(&throughput.profilers, &peak, 1));
        table.row(format!("LuaJIT: time relative to none, {frequency} Hz"), of(work, &ratio, 3));
    }
    println!("{table}");

    let one = |tool, frequency| throughput.profilers.iter().find(|m| m.profiler == Profiler { tool, frequency });
    let ratio = |tool, frequency| one(tool, frequency).map_or(f64::NAN, |measured| median(&measured.ratios));
    let cost = |value: fn(&Cost) -> Option<f64>| {
        one(Tool::Luaflame, 99).and_then(|measured| Cost::median(&measured.costs, value)).unwrap_or(f64::NAN)
    };
    let milliseconds =
        |times: &[Duration]| median(&times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>());
    let mut verdicts = Verdicts::new();
    verdicts.at_most("time in the probe per sample, 999 Hz", median(&alone.probe) / 1000.0, 5.0, "us");
    verdicts.at_least("requests/s relative to none, 99 Hz", ratio(Tool::Luaflame, 99), 0.99, "");
    let below = (ratio(Tool::Empty, 999) - ratio(Tool::Luaflame, 999)) * 100.0;
    verdicts.at_most("points below the empty probe, 999 Hz", below, 1.0, "");
    verdicts.at_most("own CPU while sampling, 99 Hz", cost(|cost| cost.cpu) * 100.0, 1.0, "% of a core");
    verdicts.at_most("own peak memory, 99 Hz", cost(|cost| cost.peak), 64.0, "MiB");
    verdicts.at_most("start to first sample", milliseconds(&alone.first_sample), 300.0, "ms");
    verdicts.at_most("end of sampling to finished SVG", milliseconds(&alone.finish), 500.0, "ms");
    for (extension, drawn) in rendering::FORMATS.iter().zip(rendered) {
        verdicts.at_most(&format!("1,000,000 samples to .{extension}"), drawn.time.as_secs_f64(), 3.0, "s");
        verdicts.at_most(&format!("1,000,000 samples to .{extension}, memory"), drawn.peak, 300.0, "MiB");
    }
    println!("luaflame, with its targets:\n{verdicts}");
}
