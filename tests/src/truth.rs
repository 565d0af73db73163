//! Profiles the workloads and holds what was seen against their call graphs.

use anyhow::{Context, Result, ensure};

use crate::graph::Graph;
use crate::legal::{Truth, Verdict, judge};
use crate::luaflame::{LINES, run};
use crate::programs::{Mode, Runtime, Target};
use crate::stacks::Stack;
use crate::workload::Workload;

/// VMs of a process whose program calls a function in each of them.
const VMS: &str = "4";

/// A workload in a mode of a runtime.
#[derive(Debug)]
pub struct Case<'a> {
    /// The program's script.
    pub workload: &'a Workload,
    /// The program.
    pub runtime: Runtime,
    /// How it is run.
    pub mode: Mode,
}

/// Stacks, and the samples that were lost between them.
#[derive(Debug, Default)]
pub struct Sampled {
    /// The stacks, with lines.
    pub stacks: Vec<Stack>,
    /// Samples that were lost.
    pub lost: u64,
}

impl Case<'_> {
    /// Whether the workload can be run so.
    ///
    /// # Errors
    /// When the runtime cannot be built or asked.
    pub fn is_possible(&self) -> Result<bool> {
        if !self.workload.modes.contains(&self.mode) || self.workload.start.is_some() && !self.runtime.has("host")? {
            return Ok(false);
        }
        for need in &self.workload.needs {
            if !self.runtime.has(need)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(&self) -> Result<Target> {
        let mut command = self.runtime.command(self.mode)?;
        if self.workload.start.is_some() {
            command.args(["--vms", VMS]);
        }
        Target::start(command.arg(&self.workload.script))
    }

    /// Runs it, samples it until there are that many samples, and judges what was seen.
    ///
    /// # Errors
    /// When the program or luaflame fails.
    pub fn judge(&self, samples: u64, frequency: u32) -> Result<Verdict> {
        let mut target = self.start()?;
        let sampled = sample(&mut target, samples, frequency)?;
        let graph = self.graph()?;
        let mut verdict = judge(&sampled.stacks, &self.truth(&graph)?);
        verdict.lost = sampled.lost;
        for text in verdict.examples.iter_mut().chain(&mut verdict.unseen) {
            *text = format!("{} {} {}: {text}", self.runtime, self.mode, self.workload.name);
        }
        Ok(verdict)
    }

    /// What is known of it, with its [`graph`](Self::graph).
    ///
    /// # Errors
    /// When the runtime cannot be built.
    pub fn truth<'g>(&'g self, graph: &'g Graph) -> Result<Truth<'g>> {
        let workload = self.workload;
        let entry = match (self.runtime, &workload.start) {
            (Runtime::CommandLine, _) => "...",
            (Runtime::Host(_), None) => "... &main &run_script &lua_pcall",
            (Runtime::Host(_), Some(_)) => "... &main &run_step &lua_pcall",
        };
        Ok(Truth {
            graph,
            root: self.runtime.root()?,
            start: vec![(workload.first(), entry)],
            seen: workload.seen.iter().map(|path| path.iter().map(String::as_str).collect()).collect(),
            library: None,
            cut: workload.cut.iter().map(String::as_str).collect(),
            hook: self.mode.hook(),
            // Between two calls of its function, the program itself runs.
            outside: workload.outside || workload.start.is_some(),
            stripped: self.runtime.is_stripped(),
        })
    }

    /// The calls of the script and of what is run before it.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn graph(&self) -> Result<Graph> {
        let prelude = self.mode.prelude();
        let scripts: Vec<_> =
            [Some(self.workload.script.as_path()), prelude.as_deref()].into_iter().flatten().collect();
        Graph::read(&scripts)
    }
}

/// Samples a process until there are that many samples.
///
/// # Errors
/// When luaflame fails, or the process ends or does nothing.
pub fn sample(target: &mut Target, samples: u64, frequency: u32) -> Result<Sampled> {
    /// Longest time that is sampled at once: luaflame is given a minute to end.
    const LONGEST: f64 = 30.0;
    let mut sampled = Sampled::default();
    let mut count = 0;
    // Samples in a second: fewer than asked for when the process shares its core.
    let mut rate = f64::from(frequency);
    while count < samples {
        let seconds = ((samples - count) as f64 / rate * 1.1).clamp(0.2, LONGEST);
        let (pid, time, frequency) = (target.pid().to_string(), format!("{seconds:.3}"), frequency.to_string());
        let mut arguments = vec!["-p", &pid, "-t", &time, "-F", &frequency, "-f", "folded", "-o", "-"];
        arguments.extend(LINES);
        let finished = run(&arguments)?;
        ensure!(!target.has_ended(), "the program has ended");
        let finished = finished.success()?;
        let stacks = finished.stacks().context("what luaflame wrote cannot be read")?;
        let more: u64 = stacks.iter().map(|stack| stack.count).sum();
        ensure!(more > 0, "there were no samples");
        count += more;
        rate = more as f64 / seconds;
        sampled.stacks.extend(stacks);
        sampled.lost += finished.lost()?;
    }
    Ok(sampled)
}
