//! `luaflame doctor`: what luaflame finds here, and whether it will work.

use std::process::ExitCode;
use std::sync::Arc;

use luaflame::format::label::printable;
use luaflame::luajit::discover::{Discovery, Vm};
use luaflame::luajit::layout::Layout;
use luaflame::native::image::{Images, Named};
use luaflame::probe::requirements::{self, Finding};
use luaflame::probe::{Options as ProbeOptions, Probe};
use luaflame::record::Event;
use luaflame::stack::process::View;
use luaflame::target::live::live;
use serde::Serialize;

/// Most characters of what a process called something.
const TEXT_LIMIT: usize = 200;
/// VMs of a process that are described one by one.
const VMS_LIMIT: usize = 20;

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of luaflame.
    luaflame: &'static str,
    /// This system.
    system: Vec<Finding>,
    /// What is missing here, if anything.
    problem: Option<String>,
    /// The perf event that samples are taken with.
    event: Option<&'static str>,
    /// The processes that were asked about.
    processes: Vec<ProcessReport>,
}

#[derive(Debug, Serialize)]
struct ProcessReport {
    pid: u32,
    command: String,
    /// Why nothing can be said of it, or why its Lua code cannot be seen.
    problem: Option<String>,
    /// VMs found; the first ones are described.
    vm_count: usize,
    vms: Vec<VmReport>,
    /// Its program and libraries.
    modules: Vec<ModuleReport>,
}

/// A program or library, and what its functions can be named by.
#[derive(Debug, Serialize)]
struct ModuleReport {
    name: String,
    /// `every`, `exported` or `none`; `None` if it cannot be read.
    named: Option<&'static str>,
    /// Why it cannot be read.
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct VmReport {
    address: String,
    /// `jit.version`.
    version: Option<String>,
    gc64: bool,
    /// The first and the last revision with its layout.
    layout: Vec<String>,
    /// Where the layout is from. There is one provider: luaflame's table, of which the one is taken that the VM's memory fits.
    layout_from: &'static str,
    /// Whether it is certain: the layouts of 2017 to 2019 are only told apart by a trace.
    settled: bool,
    jit: Option<bool>,
    traces: Option<usize>,
    heap_bytes: Option<u64>,
}

/// Looks at this system and at processes.
pub fn examine(pids: &[u32]) -> Report {
    let mut problem = requirements::check().err().map(|requirement| requirement.to_string());
    let mut event = None;
    if problem.is_none() {
        match attach() {
            Ok(name) => event = Some(name),
            Err(error) => problem = Some(format!("{error:#}")),
        }
    }
    Report {
        luaflame: env!("CARGO_PKG_VERSION"),
        system: requirements::findings(),
        problem,
        event,
        processes: pids.iter().map(|pid| process(*pid)).collect(),
    }
}

/// Loads the probe and starts it once.
fn attach() -> anyhow::Result<&'static str> {
    let mut probe = Probe::load(&ProbeOptions { kernel: true, discover: false })?;
    probe.start(Event::Auto, 1)?;
    Ok(probe.event)
}

fn process(pid: u32) -> ProcessReport {
    let mut report =
        ProcessReport { pid, command: String::new(), problem: None, vm_count: 0, vms: Vec::new(), modules: Vec::new() };
    let layouts: Vec<Arc<Layout>> = Layout::all().into_iter().map(Arc::new).collect();
    let opened = View::open(&live(), pid, &Arc::new(Images::default()));
    let discovery = opened.and_then(|mut view| {
        report.command = view.process.comm().to_owned();
        Ok((view.discover(&layouts)?, view))
    });
    match discovery {
        Err(error) => report.problem = Some(error.to_string()),
        Ok((Discovery { vms, unknown, searched }, view)) => {
            report.vm_count = vms.len();
            report.vms = vms.iter().take(VMS_LIMIT).map(|vm| described(&view, vm)).collect();
            report.modules = modules(&view);
            report.problem = match unknown.first() {
                Some(unknown) => Some(unknown.to_string()),
                None if vms.is_empty() => Some(format!("no LuaJIT VM was found in {searched}")),
                None => None,
            };
        }
    }
    report
}

/// Each program and library once, whatever number of mappings it has.
fn modules(view: &View) -> Vec<ModuleReport> {
    let mut reports: Vec<ModuleReport> = Vec::new();
    for module in view.unwinder.modules() {
        let (named, problem) = match module.named(&view.process) {
            Ok(Named::Every) => (Some("every"), None),
            Ok(Named::Exported) => (Some("exported"), None),
            Ok(Named::None) => (Some("none"), None),
            Err(reason) => (None, Some(reason.to_string())),
        };
        if reports.iter().all(|report| report.name != **module.name()) {
            reports.push(ModuleReport { name: module.name().to_string(), named, problem });
        }
    }
    reports
}

fn described(view: &View, vm: &Vm) -> VmReport {
    let standing = vm.standing(&view.memory);
    VmReport {
        address: format!("{:#x}", vm.g),
        version: standing.version,
        gc64: vm.layout.model == luaflame::luajit::arch::Model::Gc64,
        layout: vm.layout.seen_in.clone(),
        layout_from: "table",
        settled: vm.settled,
        jit: standing.jit,
        traces: standing.traces,
        heap_bytes: standing.memory,
    }
}

impl Report {
    /// 0 when profiling will work, for the processes that were asked about too.
    pub fn exit_code(&self) -> ExitCode {
        let fine = self.problem.is_none() && self.processes.iter().all(|process| process.problem.is_none());
        if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The report as lines for a terminal.
    pub fn text(&self) -> String {
        let mut text = format!("luaflame {}\n", self.luaflame);
        let mut line = |what: &str, found: &str| {
            text += &format!("  {what:<34}{}\n", printable(found, 10 * TEXT_LIMIT));
        };
        for Finding { what, found } in &self.system {
            line(what, found);
        }
        match (&self.problem, self.event) {
            (Some(problem), _) => line("PROBLEM", problem),
            (None, event) => line("perf event", event.unwrap_or("none")),
        }
        for process in &self.processes {
            text += &format!("process {} ({})\n", process.pid, printable(&process.command, TEXT_LIMIT));
            if let Some(problem) = &process.problem {
                text += &format!("  {:<34}{}\n", "PROBLEM", printable(problem, 10 * TEXT_LIMIT));
            }
            for (number, vm) in process.vms.iter().enumerate() {
                text += &format!("  VM {} at {}\n", number + 1, vm.address);
                for (what, found) in vm.lines() {
                    text += &format!("    {what:<32}{}\n", printable(&found, TEXT_LIMIT));
                }
            }
            if process.vm_count > process.vms.len() {
                text += &format!("  and {} more VMs\n", process.vm_count - process.vms.len());
            }
            for (what, names) in process.named() {
                text += &format!("  {what:<34}{}\n", printable(&names.join(", "), 10 * TEXT_LIMIT));
            }
        }
        text
    }
}

impl ProcessReport {
    /// The programs and libraries by what of them can be named.
    fn named(&self) -> impl Iterator<Item = (&'static str, Vec<&str>)> {
        let kinds = [
            ("every function has a name in", Some("every")),
            ("only exported ones have in", Some("exported")),
            ("none has in", Some("none")),
            ("cannot be read", None),
        ];
        let of = |named: Option<&str>| {
            let found = self.modules.iter().filter(move |module| module.named == named);
            found.map(|module| module.name.as_str()).collect::<Vec<_>>()
        };
        kinds.map(|(what, named)| (what, of(named))).into_iter().filter(|(_, names)| !names.is_empty())
    }
}

impl VmReport {
    fn lines(&self) -> [(&'static str, String); 7] {
        let unknown = || "unknown".to_owned();
        [
            ("version", self.version.clone().unwrap_or_else(unknown)),
            ("GC64", if self.gc64 { "yes" } else { "no" }.to_owned()),
            (
                "layout",
                self.layout.join(" ... ") + if self.settled { "" } else { " (or an older one: no trace tells yet)" },
            ),
            ("layout from", "luaflame's table: the one that the VM's memory fits".to_owned()),
            ("JIT compiler", self.jit.map_or_else(unknown, |on| if on { "on" } else { "off" }.to_owned())),
            ("traces", self.traces.map_or_else(unknown, |traces| traces.to_string())),
            ("heap", self.heap_bytes.map_or_else(unknown, |bytes| format!("{} KiB", bytes >> 10))),
        ]
    }
}
