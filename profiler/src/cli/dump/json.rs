//! What `luaflame dump` writes for programs, as `docs/dump.md` says.

use luaflame::dump::{Called, Coroutine, Doing, Dump, Local, VmDump};
use luaflame::luajit::arch::Model;
use luaflame::luajit::thread::{Leaf, Status};
use luaflame::profile::{Frame, FrameKind};
use luaflame::target::steady::Steadiness;
use serde::Serialize;

/// Grows with every change after which a reader of the old form would be wrong.
const SCHEMA: u32 = 1;

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    schema: u32,
    luaflame: &'static str,
    processes: Vec<Process<'a>>,
    not_sampled: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Process<'a> {
    pid: u32,
    command: Option<&'a str>,
    problem: Option<&'a str>,
    still: Option<bool>,
    vms: Vec<Vm<'a>>,
}

#[derive(Debug, Serialize)]
struct Vm<'a> {
    address: String,
    version: Option<&'a str>,
    gc64: bool,
    jit: Option<bool>,
    objects: u64,
    incomplete: Option<String>,
    unread: usize,
    sampled: Option<Sampled<'a>>,
    coroutines: Vec<CoroutineOf<'a>>,
}

#[derive(Debug, Serialize)]
struct Sampled<'a> {
    tid: u32,
    state: &'static str,
    after_ms: u64,
    frames: Vec<FrameOf<'a>>,
}

#[derive(Debug, Serialize)]
struct CoroutineOf<'a> {
    address: String,
    main: bool,
    status: &'static str,
    resumed_by: Option<String>,
    read: &'static str,
    leaf: &'static str,
    frames: Vec<FrameOf<'a>>,
}

#[derive(Debug, Serialize)]
struct FrameOf<'a> {
    kind: &'static str,
    name: Option<&'a str>,
    file: Option<&'a str>,
    first_line: Option<u32>,
    line: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locals: Vec<Variable<'a>>,
}

#[derive(Debug, Serialize)]
struct Variable<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    value: String,
}

impl<'a> Report<'a> {
    /// The form for programs.
    pub fn of(report: &'a super::Report) -> Report<'a> {
        Report {
            schema: SCHEMA,
            luaflame: env!("CARGO_PKG_VERSION"),
            processes: report.processes.iter().map(process).collect(),
            not_sampled: report.not_sampled.as_deref(),
        }
    }
}

fn process(process: &Result<Dump, (u32, String)>) -> Process<'_> {
    match process {
        Ok(dump) => Process {
            pid: dump.pid,
            command: Some(&dump.command),
            problem: dump.problem.as_deref(),
            still: Some(dump.still),
            vms: dump.vms.iter().map(vm).collect(),
        },
        Err((pid, problem)) => {
            Process { pid: *pid, command: None, problem: Some(problem), still: None, vms: Vec::new() }
        }
    }
}

fn vm(dump: &VmDump) -> Vm<'_> {
    Vm {
        address: format!("{:#x}", dump.vm.g),
        version: dump.standing.version.as_deref(),
        gc64: dump.vm.layout.model == Model::Gc64,
        jit: dump.standing.jit,
        objects: dump.objects,
        incomplete: dump.incomplete.map(|why| why.to_string()),
        unread: dump.unread,
        sampled: dump.sampled.as_ref().map(|sampled| Sampled {
            tid: sampled.tid,
            state: sampled.state.name(),
            after_ms: sampled.after.as_millis() as u64,
            frames: sampled.frames.iter().map(|of| frame(of, &[])).collect(),
        }),
        coroutines: dump.coroutines.iter().map(coroutine).collect(),
    }
}

fn coroutine(of: &Coroutine) -> CoroutineOf<'_> {
    CoroutineOf {
        address: format!("{:#x}", of.address),
        main: of.main,
        status: match of.state {
            Doing::Running => "running",
            Doing::Normal => "normal",
            Doing::Resting(Status::Suspended) => "suspended",
            Doing::Resting(Status::Failed) => "failed",
            Doing::Resting(Status::Fresh) => "fresh",
            Doing::Resting(Status::Finished) => "finished",
            Doing::Resting(Status::Idle | Status::Active) => "idle",
        },
        resumed_by: of.resumed_by.map(|by| format!("{by:#x}")),
        read: match of.read {
            Steadiness::Still => "still",
            Steadiness::Same => "same",
            Steadiness::Changed => "changed",
        },
        leaf: match of.leaf {
            Leaf::Exact => "exact",
            Leaf::Trace(_) => "trace",
            Leaf::Stale => "stale",
        },
        frames: of.frames.iter().map(|Called { frame: of, variables }| frame(of, variables)).collect(),
    }
}

fn frame<'a>(frame: &'a Frame, variables: &'a [Local]) -> FrameOf<'a> {
    let line = |line: u32| (line != 0).then_some(line);
    FrameOf {
        kind: match frame.kind {
            FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined => "lua",
            FrameKind::Builtin => "builtin",
            FrameKind::Native | FrameKind::NativeInlined => "native",
            FrameKind::Kernel => "kernel",
            FrameKind::Marker | FrameKind::Group => "unknown",
        },
        name: frame.name.as_deref(),
        file: frame.file.as_deref(),
        first_line: line(frame.first_line),
        line: line(frame.line),
        locals: variables
            .iter()
            .map(|local| Variable {
                name: &local.variable.name,
                kind: local.variable.value.kind,
                value: super::value(local),
            })
            .collect(),
    }
}
