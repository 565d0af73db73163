//! The probe seen from userspace: load it, attach it, tell it what to watch, and read its records.

pub mod kernel;
pub mod requirements;
pub mod sample;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::perf_event::{HardwareEvent, PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{PerfEvent, RawTracePoint};
use aya::util::{nr_cpus, online_cpus};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use luaflame_ebpf::{Process, counter, strangers};
use rustix::time::{ClockId, clock_gettime};

use crate::record::Event;
use kernel::KernelOffsets;

/// The compiled probe. `cargo xtask ebpf` makes it from `profiler-ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("luaflame-probe.o");

/// The probe's programs that follow processes, and the tracepoints that they are attached to.
const TRACEPOINTS: [(&str, &str); 3] =
    [("fork", "sched_process_fork"), ("exit", "sched_process_exit"), ("exec", "sched_process_exec")];

/// Name of the hardware's event.
const CYCLES: &str = "cycles";

/// A loaded probe. Dropping it detaches and unloads all of it.
pub struct Probe {
    watched: HashMap<MapData, u32, Watched>,
    counters: PerCpuArray<MapData, u64>,
    strangers: HashMap<MapData, u32, u64>,
    losses: HashMap<MapData, u32, u64>,
    ring: RingBuf<MapData>,
    /// The CPUs that samples are taken on, once sampling has begun.
    attached: Vec<u32>,
    frequency: u32,
    /// Name of the perf event that takes the samples: `cycles` or `cpu-clock`.
    pub event: &'static str,
    // The kernel removes tail-called programs from an array that no file descriptor refers to.
    _steps: ProgramArray<MapData>,
    // Holds the programs and their attachments.
    programs: Ebpf,
}

/// What the probe is to do.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Record the kernel's part of each stack.
    pub kernel: bool,
    /// Tell of processes that are not watched, when they run another program or use the CPU.
    pub discover: bool,
}

/// A [`Process`] as a map value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Watched(Process);

// SAFETY: `Process` is `repr(C)`, made of integers without padding, and any bytes are a value of it.
unsafe impl aya::Pod for Watched {}

/// [`luaflame_ebpf::Kernel`] as a map value.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct KernelValue(luaflame_ebpf::Kernel);

// SAFETY: `Kernel` is `repr(C)`, made of integers without padding, and any bytes are a value of it.
unsafe impl aya::Pod for KernelValue {}

/// What the probe counted, since it was loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeCounters {
    /// Samples taken in watched processes.
    pub samples: u64,
    /// Records for which the ring buffer had no room.
    pub lost: u64,
}

impl Probe {
    /// Loads the probe. Nothing is sampled before [`Self::start`].
    ///
    /// # Errors
    /// When the kernel refuses a part of it; `probe::requirements` finds the usual reasons beforehand.
    pub fn load(options: &Options) -> anyhow::Result<Probe> {
        let start = Instant::now();
        let offsets = KernelOffsets::read()?;
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path} could not be read: {error}"))?;
        let mut programs = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::DISABLE)
            // The probe has no relocations against the kernel's types, which take tens of megabytes.
            .btf(None)
            .map_max_entries("SCRATCH", cpus as u32)
            .load(OBJECT)
            .context("the probe could not be loaded into the kernel")?;
        for name in ["sample", "walk", "finish"] {
            perf_program(&mut programs, name)?.load().with_context(|| refused(name))?;
        }
        for (name, _) in TRACEPOINTS {
            raw_program(&mut programs, name)?.load().with_context(|| refused(name))?;
        }
        let mut kernel = Array::<_, KernelValue>::try_from(take(&mut programs, "KERNEL")?)?;
        kernel.set(0, KernelValue(offsets.wire(options.kernel, options.discover)), 0)?;
        let mut steps = ProgramArray::try_from(take(&mut programs, "STEPS")?)?;
        for (index, name) in ["walk", "finish"].into_iter().enumerate() {
            steps.set(index as u32, perf_program(&mut programs, name)?.fd()?, 0)?;
        }
        log::debug!("the probe was loaded in {} ms", start.elapsed().as_millis());
        Ok(Probe {
            watched: HashMap::try_from(take(&mut programs, "WATCHED")?)?,
            counters: PerCpuArray::try_from(take(&mut programs, "COUNTERS")?)?,
            strangers: HashMap::try_from(take(&mut programs, "STRANGERS")?)?,
            losses: HashMap::try_from(take(&mut programs, "LOSSES")?)?,
            ring: RingBuf::try_from(take(&mut programs, "EVENTS")?)?,
            attached: Vec::new(),
            frequency: 0,
            event: "",
            _steps: steps,
            programs,
        })
    }

    /// Begins sampling on every CPU that is online, `frequency` times a second of its time.
    ///
    /// # Errors
    /// When the perf event does not exist or is not permitted.
    pub fn start(&mut self, event: Event, frequency: u32) -> anyhow::Result<()> {
        for (name, tracepoint) in TRACEPOINTS {
            raw_program(&mut self.programs, name)?
                .attach(tracepoint)
                .with_context(|| format!("the tracepoint {tracepoint} cannot be used"))?;
        }
        let cycles = PerfEventConfig::Hardware(HardwareEvent::CpuCycles);
        let clock = PerfEventConfig::Software(SoftwareEvent::CpuClock);
        match event {
            Event::Cycles => self.attach(cycles, CYCLES, frequency).context(
                "the CPU cycle counter cannot be used (virtual machines often have none); --event cpu-clock works everywhere",
            ),
            Event::CpuClock => self.attach(clock, "cpu-clock", frequency),
            Event::Auto => match self.attach(cycles, CYCLES, frequency) {
                Ok(()) => Ok(()),
                Err(error) => {
                    log::debug!("cpu-clock takes the samples: {error:#}");
                    self.attach(clock, "cpu-clock", frequency)
                }
            },
        }
    }

    /// Takes samples also on CPUs that have come online since sampling began. Those that go offline take their perf events with them.
    ///
    /// # Errors
    /// When the perf event is not permitted any more.
    pub fn follow_cpus(&mut self) -> anyhow::Result<()> {
        let online = online()?;
        self.attached.retain(|cpu| online.contains(cpu));
        let config = match self.event {
            CYCLES => PerfEventConfig::Hardware(HardwareEvent::CpuCycles),
            _ => PerfEventConfig::Software(SoftwareEvent::CpuClock),
        };
        for cpu in online {
            if !self.attached.contains(&cpu) {
                let program = perf_program(&mut self.programs, "sample")?;
                let policy = SamplePolicy::Frequency(self.frequency.into());
                program.attach(config, PerfEventScope::AllProcessesOneCpu { cpu }, policy, false)?;
                self.attached.push(cpu);
                log::info!("CPU {cpu} is online and sampled from now on");
            }
        }
        Ok(())
    }

    fn attach(&mut self, config: PerfEventConfig, name: &'static str, frequency: u32) -> anyhow::Result<()> {
        let cpus = online()?;
        self.frequency = frequency;
        self.attached.clone_from(&cpus);
        let program = perf_program(&mut self.programs, "sample")?;
        let mut links = Vec::new();
        for cpu in cpus {
            let policy = SamplePolicy::Frequency(frequency.into());
            match program.attach(config, PerfEventScope::AllProcessesOneCpu { cpu }, policy, false) {
                Ok(link) => links.push(link),
                Err(error) => {
                    for link in links {
                        program.detach(link)?;
                    }
                    return Err(error).with_context(|| {
                        format!("the perf event {name} at {frequency} Hz could not be opened on CPU {cpu}")
                    });
                }
            }
        }
        log::debug!("the perf event {name} samples {frequency} times a second of each of {} CPUs", links.len());
        self.event = name;
        Ok(())
    }

    /// Ends sampling; records already sent can still be read.
    ///
    /// # Errors
    /// When the kernel refuses to unload, which it has no reason to.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        perf_program(&mut self.programs, "sample")?.unload()?;
        Ok(())
    }

    /// Watches a process from now on, or changes what is known of it.
    ///
    /// # Errors
    /// When there are more than 4,096 processes already.
    pub fn watch(&mut self, tgid: u32, process: Process) -> anyhow::Result<()> {
        self.watched.insert(tgid, Watched(process), 0).context("the probe cannot watch one more process")
    }

    /// What the probe knows of a process, if it watches it.
    pub fn watched(&self, tgid: u32) -> Option<Process> {
        self.watched.get(&tgid, 0).ok().map(|watched| watched.0)
    }

    /// Watches a process no longer. It need not have been watched.
    pub fn forget(&mut self, tgid: u32) {
        // The only error is that it is not there.
        let _ = self.watched.remove(&tgid);
    }

    /// Does not tell of a process that is not watched for some time from now on, but of those that it starts if they are `followed`. It may
    /// be told of earlier when more than 16,384 are known, or when it runs another program.
    pub fn ignore(&mut self, tgid: u32, time: Duration, followed: bool) {
        // The probe compares with `bpf_ktime_get_ns`.
        let until = u64::try_from(monotonic().saturating_add(time).as_nanos()).unwrap_or(u64::MAX);
        let until = until & !strangers::FOLLOWED | if followed { strangers::FOLLOWED } else { 0 };
        let _ = self.strangers.insert(tgid, until, 0);
    }

    /// Tells of all processes that are not watched anew.
    pub fn forget_strangers(&mut self) {
        let known: Vec<u32> = self.strangers.keys().flatten().collect();
        for tgid in known {
            let _ = self.strangers.remove(&tgid);
        }
    }

    /// How many samples of a process could not be sent since this was asked last.
    pub fn take_losses(&mut self, tgid: u32) -> u64 {
        let lost = self.losses.get(&tgid, 0).unwrap_or(0);
        if lost > 0 {
            let _ = self.losses.remove(&tgid);
        }
        lost
    }

    /// The next record, if one is waiting.
    pub fn next_record(&mut self) -> Option<impl std::ops::Deref<Target = [u8]>> {
        self.ring.next()
    }

    /// What was counted so far.
    pub fn counters(&self) -> ProbeCounters {
        let total = |index| self.counters.get(&index, 0).map_or(0, |values| values.iter().sum());
        ProbeCounters { samples: total(counter::SAMPLES), lost: total(counter::LOST) }
    }
}

impl AsFd for Probe {
    /// Readable when records are waiting that should be read soon.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// The clock of `bpf_ktime_get_ns`.
fn monotonic() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

fn online() -> anyhow::Result<Vec<u32>> {
    online_cpus().map_err(|(path, error)| anyhow::anyhow!("{path} could not be read: {error}"))
}

fn take(programs: &mut Ebpf, name: &str) -> anyhow::Result<aya::maps::Map> {
    programs.take_map(name).with_context(|| format!("the probe lacks the map {name}"))
}

fn refused(name: &str) -> String {
    format!("the kernel refused the probe's program `{name}`")
}

fn raw_program<'a>(programs: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut RawTracePoint> {
    Ok(programs.program_mut(name).with_context(|| format!("the probe lacks the program {name}"))?.try_into()?)
}

fn perf_program<'a>(programs: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut PerfEvent> {
    Ok(programs.program_mut(name).with_context(|| format!("the probe lacks the program {name}"))?.try_into()?)
}
