//! The profilers that are measured: attaching them to a process, and what they cost.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::PerfEvent;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use luaflame_tests::process::{Running, holds_perf_event, wait_until};
use rustix::process::Signal;

use super::Bench;
use crate::shell::root;

/// How long a profiler may take to begin or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A profiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// None at all.
    None,
    /// Our own probe's perf event with a program that does nothing: what being interrupted costs.
    Empty,
    /// luaflame.
    Luaflame,
    /// `perf record -g`.
    Perf,
    /// `perf record --call-graph dwarf`.
    PerfDwarf,
    /// LuaJIT's own `-jp`, which is built into the program that is measured.
    JitP,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Tool::None => "none",
            Tool::Empty => "empty probe",
            Tool::Luaflame => "luaflame",
            Tool::Perf => "perf -g",
            Tool::PerfDwarf => "perf dwarf",
            Tool::JitP => "-jp",
        })
    }
}

/// A profiler with its sampling rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profiler {
    /// Which one.
    pub tool: Tool,
    /// Samples a second.
    pub frequency: u32,
}

impl fmt::Display for Profiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} Hz", self.tool, self.frequency)
    }
}

/// A profiler at work.
pub enum Attached {
    /// Nothing runs beside the program.
    Nothing,
    /// A BPF program in the kernel, and nothing else.
    Probe { _programs: Box<aya::Ebpf> },
    /// A process, with the CPU time it had used and the moment when it had begun to sample.
    Process { process: Running, cpu: Duration, since: Instant },
}

/// What a profiler used for itself; `None` for one that is no process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// CPU time while it sampled, as a share of that time.
    pub cpu: Option<f64>,
    /// Peak memory, MiB.
    pub peak: Option<f64>,
}

impl Cost {
    /// The median of a figure, when there is one.
    pub fn median(costs: &[Cost], value: impl Fn(&Cost) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = costs.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| super::median(&values))
    }
}

impl Profiler {
    /// Has it sample a process; it does when this returns.
    pub fn attach(self, bench: &Bench, pid: u32) -> Result<Attached> {
        let mut command = match self.tool {
            Tool::None | Tool::JitP => return Ok(Attached::Nothing),
            Tool::Empty => return empty_probe(self.frequency),
            Tool::Luaflame => luaflame(bench, pid, self.frequency),
            Tool::Perf => perf(bench, pid, self.frequency, &["-g"]),
            Tool::PerfDwarf => perf(bench, pid, self.frequency, &["--call-graph", "dwarf"]),
        };
        let mut process = Running::spawn(&mut command)?;
        let pid = process.id();
        wait_until(PATIENCE, || holds_perf_event(pid) || !matches!(process.ended(), Ok(None)));
        ensure!(holds_perf_event(pid), "{self} did not begin to sample");
        let cpu = cpu_time(pid)?;
        Ok(Attached::Process { process, cpu, since: Instant::now() })
    }
}

impl Attached {
    /// Ends it.
    pub fn detach(self) -> Result<Cost> {
        let Attached::Process { mut process, cpu, since } = self else { return Ok(Cost::default()) };
        // It may have ended with the process that it watched; then what it used is known only in all.
        let used = cpu_time(process.id())
            .ok()
            .map(|now| now.saturating_sub(cpu).as_secs_f64() / since.elapsed().as_secs_f64());
        if process.ended()?.is_none() {
            process.signal(Signal::INT)?;
        }
        let peak = peak_memory_until_end(&mut process)?;
        Ok(Cost { cpu: used, peak })
    }
}

fn luaflame(bench: &Bench, pid: u32, frequency: u32) -> Command {
    let mut command = Command::new(&bench.luaflame);
    command.args(["-p", &pid.to_string(), "-F", &frequency.to_string(), "-o"]);
    command.arg(bench.folder.join("flame.svg")).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn perf(bench: &Bench, pid: u32, frequency: u32, how: &[&str]) -> Command {
    let mut command = Command::new("perf");
    // The event that luaflame takes where there are no hardware counters, as in a virtual machine.
    command.args(["record", "-q", "-e", "cpu-clock", "-F", &frequency.to_string()]).args(how);
    command.args(["-p", &pid.to_string(), "-o"]).arg(bench.folder.join("perf.data"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Attaches the program `empty` of the committed probe as luaflame attaches its own: to every CPU.
fn empty_probe(frequency: u32) -> Result<Attached> {
    let mut programs = aya::Ebpf::load_file(root().join("profiler/src/probe/luaflame-probe.o"))?;
    let program: &mut PerfEvent =
        programs.program_mut("empty").context("the probe has no program `empty`")?.try_into()?;
    program.load()?;
    for cpu in aya::util::online_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))? {
        program.attach(
            PerfEventConfig::Software(SoftwareEvent::CpuClock),
            PerfEventScope::AllProcessesOneCpu { cpu },
            SamplePolicy::Frequency(frequency.into()),
            false,
        )?;
    }
    Ok(Attached::Probe { _programs: Box::new(programs) })
}

/// CPU time of a process's threads, from the scheduler, in nanoseconds.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let time = text.split_whitespace().next().and_then(|time| time.parse::<u64>().ok());
        sum += time.context("the kernel keeps no scheduling statistics")?;
    }
    Ok(Duration::from_nanos(sum))
}

/// Waits for a process to end, and returns the largest peak of its memory that was seen meanwhile, in MiB.
pub fn peak_memory_until_end(process: &mut Running) -> Result<Option<f64>> {
    let status = format!("/proc/{}/status", process.id());
    let mut peak = None;
    let ended = wait_until(PATIENCE, || {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let kib =
            text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse::<f64>().ok());
        peak = kib.map(|kib| kib / 1024.0).or(peak);
        !matches!(process.ended(), Ok(None))
    });
    ensure!(ended, "the profiler does not end");
    Ok(peak)
}

/// One run of luaflame under observation.
pub struct Observed {
    /// From its start to the first run of the probe.
    pub first_sample: Duration,
    /// From the request to end to its end, when the SVG is in its place.
    pub finish: Duration,
    /// Nanoseconds in the probe for each sample in the result.
    pub probe: f64,
}

/// Runs luaflame for the bench's time with the kernel's accounting of BPF programs switched on.
pub fn observe(bench: &Bench, pid: u32, frequency: u32) -> Result<Observed> {
    let folded = bench.folder.join("stacks.folded");
    let svg = bench.folder.join("flame.svg");
    let output = if frequency == super::FREQUENCIES[0] { &svg } else { &folded };
    let start = Instant::now();
    let mut process = Running::spawn(
        Command::new(&bench.luaflame)
            .args(["-p", &pid.to_string(), "-F", &frequency.to_string(), "-o"])
            .arg(output)
            .stdin(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    while probe_runs(process.id()).is_none_or(|(runs, _)| runs == 0) {
        ensure!(process.ended()?.is_none() && start.elapsed() < PATIENCE, "luaflame did not begin to sample");
        // The resolution of what is measured; looking all the time would take luaflame's CPU.
        std::thread::sleep(Duration::from_millis(2));
    }
    let first_sample = start.elapsed();
    std::thread::sleep(Duration::from_secs(bench.seconds.into()));
    let (_, nanoseconds) = probe_runs(process.id()).context("the probe is gone")?;
    let end = Instant::now();
    process.signal(Signal::INT)?;
    let status = process.child().wait()?;
    let finish = end.elapsed();
    ensure!(status.success(), "luaflame failed: {status}");
    let probe = if output == &folded { nanoseconds as f64 / samples(&folded)? as f64 } else { f64::NAN };
    Ok(Observed { first_sample, finish, probe })
}

/// How often the BPF programs of a process that perf events run have run, and their time in nanoseconds; programs that
/// they go on in by a tail call count as part of them.
pub fn probe_runs(pid: u32) -> Option<(u64, u64)> {
    /// `BPF_PROG_TYPE_PERF_EVENT`
    const PERF_EVENT: u64 = 7;
    let of_events = programs(pid).into_iter().filter(|(kind, ..)| *kind == PERF_EVENT);
    of_events.map(|(_, runs, time)| (runs, time)).reduce(|(runs, time), (more, longer)| (runs + more, time + longer))
}

/// The time in nanoseconds of all BPF programs of a process.
pub fn probe_time(pid: u32) -> u64 {
    programs(pid).into_iter().map(|(_, _, time)| time).sum()
}

/// The BPF programs of a process: the kind of each, how often it has run, and its time in nanoseconds.
fn programs(pid: u32) -> Vec<(u64, u64, u64)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let program = |text: String| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        Some((field("prog_type:")?, field("run_cnt:")?, field("run_time_ns:")?))
    };
    descriptors.into_iter().filter_map(|file| program(fs::read_to_string(file.path()).ok()?)).collect()
}

fn samples(folded: &Path) -> Result<u64> {
    let text = fs::read_to_string(folded).with_context(|| format!("{} could not be read", folded.display()))?;
    let samples = luaflame_tests::stacks::parse(&text)?.iter().map(|stack| stack.count).sum();
    if samples == 0 {
        bail!("luaflame took no samples")
    }
    Ok(samples)
}

/// The kernel's accounting of BPF programs, switched on while this lives.
pub struct BpfStatistics {
    before: String,
}

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl BpfStatistics {
    /// Switches it on.
    pub fn enable() -> Result<BpfStatistics> {
        let before = fs::read_to_string(SWITCH).with_context(|| format!("{SWITCH} could not be read"))?;
        fs::write(SWITCH, "1").with_context(|| format!("{SWITCH} could not be written"))?;
        Ok(BpfStatistics { before })
    }
}

impl Drop for BpfStatistics {
    fn drop(&mut self) {
        // Nothing to be done about an error; it was writable before.
        let _ = fs::write(SWITCH, self.before.trim());
    }
}
