//! A child process that does not outlive its owner.

use std::fs;
use std::io;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a process may take to use the CPU time that is waited for.
const WORK: Duration = Duration::from_secs(60);
/// How often a condition is looked at that nothing reports.
const TICK: Duration = Duration::from_millis(10);

/// A child process that is ended, by its id, when this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Running> {
        let child =
            command.spawn().with_context(|| format!("{} could not be started", command.get_program().display()))?;
        Ok(Running(child))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The process itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended and was waited for.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        ensure!(self.ended()?.is_none(), "process {} has ended already", self.id());
        kill_process(Pid::from_child(&self.0), signal)
            .with_context(|| format!("process {} cannot be signalled", self.id()))
    }

    /// Waits until it has used that much more CPU time from now on, in hundredths of a second, or has ended.
    ///
    /// # Errors
    /// When it has not within a minute.
    pub fn wait_for_work(&self, hundredths: u64) -> Result<()> {
        wait_for_work(self.id(), hundredths)
    }

    /// Asks it to end, makes it when it does not within ten seconds, and waits until it has.
    pub fn end(&mut self) {
        if self.signal(Signal::TERM).is_err() {
            return;
        }
        if !wait_until(PATIENCE, || !matches!(self.ended(), Ok(None))) {
            // Fails when it has ended by itself meanwhile.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

impl From<Child> for Running {
    fn from(child: Child) -> Running {
        Running(child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Looks at a condition that nothing reports until it holds, for at most `limit`. Whether it did.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        sleep(TICK);
    }
}

/// As [`Running::wait_for_work`], of any process.
///
/// # Errors
/// When it has not within a minute.
pub fn wait_for_work(pid: u32, hundredths: u64) -> Result<()> {
    let start = cpu_time(pid).unwrap_or(0);
    let worked = || cpu_time(pid).is_none_or(|now| now >= start + hundredths);
    ensure!(wait_until(WORK, worked), "process {pid} is idle");
    Ok(())
}

/// Whether a process holds a perf event, and with it takes samples: its own, or one that runs a BPF program.
pub fn holds_perf_event(pid: u32) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.into_iter().any(|descriptor| {
        let link = fs::read_link(descriptor.path()).unwrap_or_default();
        let number = descriptor.file_name();
        link.as_os_str() == "anon_inode:[perf_event]"
            || link.as_os_str() == "anon_inode:bpf_link"
                && fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", number.display()))
                    .is_ok_and(|text| text.lines().any(|line| line == "link_type:\tperf"))
    })
}

/// User and system time that a process used, in the kernel's ticks of a hundredth of a second; none when it has ended.
pub fn cpu_time(pid: u32) -> Option<u64> {
    times(pid).map(|[user, system, ..]| user + system)
}

/// The same of all processes that it has started, those that have ended included.
pub fn cpu_time_of_children(pid: u32) -> Option<u64> {
    let [_, _, user, system] = times(pid)?;
    let running: u64 = children(pid).into_iter().filter_map(cpu_time).sum();
    Some(user + system + running)
}

/// User and system time of a process, and of those of its children that have ended.
fn times(pid: u32) -> Option<[u64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // One that has ended stays until its parent has heard of it.
    if *fields.first()? == "Z" {
        return None;
    }
    let mut times = fields.get(11..15)?.iter().map(|time| time.parse().ok());
    Some([times.next()??, times.next()??, times.next()??, times.next()??])
}

/// The ids of the processes that the main thread of a process has started and that are still there.
pub fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}
