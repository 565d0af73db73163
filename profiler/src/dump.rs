//! The Lua stacks of a process now: of every VM, of every coroutine, also of those that wait.
//!
//! They are read from the memory of the process while it goes on. What was read is of one moment or says that it is not
//! ([`Steadiness`]). Where Lua code runs at that moment, memory does not say where it is; [`sample`] has the probe tell.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::luajit::coroutines::{Incomplete, coroutines};
use crate::luajit::discover::{Discovery, Vm};
use crate::luajit::frames::{Activation, Kind};
use crate::luajit::layout::Layout;
use crate::luajit::locals::{Prototypes, Variable};
use crate::luajit::object::read_reference;
use crate::luajit::standing::Standing;
use crate::luajit::thread::{Leaf, Status, Thread};
use crate::native::image::Images;
use crate::profile::{Frame, FrameKind, Profile, State};
use crate::record::{Event, Options, Seen, record};
use crate::stack::process::View;
use crate::stack::resolve::{LuaFunctions, Resolver, Symbols};
use crate::target::children::{children, is_nginx_master};
use crate::target::process::{Process, ProcessError};
use crate::target::steady::{Steadiness, steady};
use crate::target::world::World;

/// Most time to look for the coroutines of a process in its heap.
const SEARCH: Duration = Duration::from_secs(5);
/// How long and how often a process is sampled whose Lua code runs.
const SAMPLING: Duration = Duration::from_millis(100);
const FREQUENCY: u32 = 499;

/// What was found in a process.
#[derive(Debug)]
pub struct Dump {
    /// Its pid.
    pub pid: u32,
    /// Its command name.
    pub command: String,
    /// Its VMs.
    pub vms: Vec<VmDump>,
    /// Why some or all of its VMs cannot be read.
    pub problem: Option<String>,
    /// It did not run from the first to the last thing that was read: all of it is of one moment.
    pub still: bool,
    /// When it had been read.
    pub read: Instant,
}

/// A VM.
#[derive(Debug)]
pub struct VmDump {
    /// The VM.
    pub vm: Vm,
    /// How it stands.
    pub standing: Standing,
    /// Objects of its heap that were looked at in search of coroutines.
    pub objects: u64,
    /// Why there may be more coroutines.
    pub incomplete: Option<Incomplete>,
    /// Threads that were found and could not be read: they were collected meanwhile, or their stacks were being moved.
    pub unread: usize,
    /// Its threads: the one that runs, those that wait for it, each for the one before it, and the others, the oldest first.
    pub coroutines: Vec<Coroutine>,
    /// What it did on a CPU a moment later, if that was asked for and it did anything.
    pub sampled: Option<Sampled>,
}

/// A thread of a VM.
#[derive(Debug)]
pub struct Coroutine {
    /// Its `lua_State`.
    pub address: u64,
    /// It is the VM's main thread.
    pub main: bool,
    /// What it is doing.
    pub state: Doing,
    /// The thread that has resumed it and waits for it.
    pub resumed_by: Option<u64>,
    /// How its words were read. When they have changed each time, there are no frames.
    pub read: Steadiness,
    /// Where its innermost frame is known from.
    pub leaf: Leaf,
    /// Its frames, innermost first; of a coroutine that has not begun, the function that it will run.
    pub frames: Vec<Called>,
}

/// What a thread is doing, among the others of its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doing {
    /// It runs, or is in a C function that it has called.
    Running,
    /// It waits for the one that it has resumed.
    Normal,
    /// The same as its own status.
    Resting(Status),
}

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Called {
    /// The function, and where it is.
    pub frame: Frame,
    /// Its variables, if they were asked for.
    pub variables: Vec<Local>,
}

/// A variable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Local {
    /// What it is called, and its value.
    pub variable: Variable,
    /// The function that is its value.
    pub function: Option<Frame>,
}

/// A sample of a VM.
#[derive(Debug)]
pub struct Sampled {
    /// Thread of the process.
    pub tid: u32,
    /// What the VM was doing.
    pub state: State,
    /// When sampling ended, at most so long after the rest was read.
    pub after: Duration,
    /// The frames, native ones too, innermost first.
    pub frames: Vec<Frame>,
}

impl Dump {
    /// Whether memory alone does not say what it does.
    pub fn needs_sample(&self) -> bool {
        self.vms.iter().any(VmDump::needs_sample)
    }
}

impl VmDump {
    fn needs_sample(&self) -> bool {
        self.coroutines.iter().any(|coroutine| {
            coroutine.state == Doing::Running && (coroutine.leaf != Leaf::Exact || coroutine.read != Steadiness::Still)
        })
    }
}

/// The words of a thread with what was read of the objects that they refer to.
#[derive(Debug, PartialEq)]
struct Reading {
    thread: Thread,
    /// It is the one that the VM says is running.
    current: bool,
    leaf: Leaf,
    activation: Activation,
    first_function: Option<(u64, Kind)>,
    variables: Vec<Vec<Variable>>,
}

/// The processes that a user means by a pid: of an nginx master its workers.
///
/// # Errors
/// When it does not exist or may not be looked at.
pub fn processes(world: &Arc<dyn World>, pid: u32) -> Result<Vec<u32>, ProcessError> {
    if !is_nginx_master(&Process::open(world, pid)?)? {
        return Ok(vec![pid]);
    }
    children(&**world, pid)
}

/// Reads the stacks of a process, with its variables if `locals` says so.
///
/// # Errors
/// When it does not exist, has exited meanwhile, or may not be read.
pub fn dump(world: &Arc<dyn World>, pid: u32, locals: bool) -> Result<Dump, ProcessError> {
    let layouts: Vec<Arc<Layout>> = Layout::all().into_iter().map(Arc::new).collect();
    let mut view = View::open(world, pid, &Arc::new(Images::default()))?;
    let Discovery { vms, unknown, searched } = view.discover(&layouts)?;
    if searched.bytes > 0 && searched.unreadable == searched.bytes {
        return Err(ProcessError::NotPermitted { pid, what: "the memory" });
    }
    let before = view.process.resting_time();
    let start = Instant::now();
    let readings: Vec<_> = vms
        .into_iter()
        .map(|vm| {
            let left = SEARCH.saturating_sub(start.elapsed());
            let mut reader = Reader { view: &view, vm: &vm, locals, prototypes: Prototypes::default() };
            let found = reader.threads(left);
            (vm, found)
        })
        .collect();
    let still = before.is_some() && before == view.process.resting_time();
    let read = Instant::now();
    let layout = view.lua.as_ref().map(|lua| Arc::clone(&lua.layout));
    let mut namer = Namer {
        functions: LuaFunctions::default(),
        symbols: Symbols::of(Arc::clone(world)),
        profile: Profile::default(),
    };
    let mut problem = unknown.first().map(ToString::to_string);
    let mut dumped = Vec::new();
    for (vm, Found { threads, objects, incomplete, unread }) in readings {
        if Some(&vm.layout) != layout.as_ref() {
            problem.get_or_insert_with(|| {
                format!(
                    "the VM at {:#x} is of another build of LuaJIT than the first one, which luaflame cannot read",
                    vm.g
                )
            });
            continue;
        }
        let coroutines = ordered(threads)
            .into_iter()
            .map(|(reading, read, state, resumed_by)| namer.coroutine(&mut view, &vm, reading, read, state, resumed_by))
            .collect();
        let standing = vm.standing(&view.memory);
        dumped.push(VmDump { vm, standing, objects, incomplete, unread, coroutines, sampled: None });
    }
    if !view.process.is_running() {
        return Err(ProcessError::NotFound { pid });
    }
    if dumped.is_empty() && problem.is_none() {
        problem = Some(format!("no LuaJIT VM was found in {searched}"));
    }
    Ok(Dump { pid, command: view.process.comm().to_owned(), vms: dumped, problem, still, read })
}

/// Samples processes for a moment.
///
/// # Errors
/// When the kernel or the permissions do not allow the probe, or the processes have exited.
pub fn sample(world: &Arc<dyn World>, dumps: &mut [&mut Dump]) -> anyhow::Result<()> {
    let options = Options {
        pids: dumps.iter().map(|dump| dump.pid).collect(),
        launched: None,
        duration: Some(SAMPLING),
        frequency: FREQUENCY,
        event: Event::Auto,
        kernel: false,
        lua: true,
    };
    let profile = record(&options, world, &AtomicBool::new(false), &mut |_| Seen::Keep)?;
    let ended = Instant::now();
    // The last one of each VM.
    let latest: FxHashMap<_, _> =
        profile.timeline().map(|(_, counted)| ((counted.origin.pid, counted.origin.vm), counted)).collect();
    for dump in dumps {
        let pid = dump.pid;
        for vm in dump.vms.iter_mut().filter(|vm| vm.needs_sample()) {
            vm.sampled = latest.get(&(pid, vm.vm.g)).map(|counted| Sampled {
                tid: counted.origin.tid,
                state: counted.origin.state,
                after: ended.saturating_duration_since(dump.read),
                frames: counted.stack.iter().rev().map(|id| profile.get(*id).clone()).collect(),
            });
        }
    }
    Ok(())
}

/// Reads the threads of one VM.
struct Reader<'a> {
    view: &'a View,
    vm: &'a Vm,
    locals: bool,
    prototypes: Prototypes,
}

/// A thread, and how it was read.
type Read = (Reading, Steadiness);

/// The threads of a VM, and what is missing.
struct Found {
    threads: Vec<Read>,
    objects: u64,
    incomplete: Option<Incomplete>,
    unread: usize,
}

impl Reader<'_> {
    /// All threads that there are.
    fn threads(&mut self, limit: Duration) -> Found {
        let view = self.view;
        let clock = || view.process.resting_time();
        let found = coroutines(&view.memory, self.vm, limit);
        let oldest_first = std::iter::once(self.vm.main_thread).chain(found.addresses.iter().rev().copied());
        let mut threads = Vec::new();
        for address in oldest_first {
            if let (Some(reading), read) = steady(&clock, || self.reading(address)) {
                threads.push((reading, read));
            }
        }
        // Those that wait for one another are read as one.
        let is_active = |(reading, _): &Read| reading.thread.status == Status::Active;
        let active: Vec<u64> =
            threads.iter().filter(|read| is_active(read)).map(|read| read.0.thread.address).collect();
        if active.len() > 1 {
            let (together, read) =
                steady(&clock, || active.iter().map(|address| self.reading(*address)).collect::<Vec<_>>());
            // While the one that runs changes, each of those that wait may still have been read well by itself.
            if read != Steadiness::Changed {
                threads.retain(|read| !is_active(read));
                threads.extend(together.into_iter().flatten().map(|reading| (reading, read)));
            }
        }
        let unread = found.addresses.len() + 1 - threads.len();
        // The VM has a thread of its own, for what it calls by itself, in newer builds. It is none of the program's.
        let own = self.vm.layout.global_state.vmthref.and_then(|offset| {
            read_reference(&view.memory, self.vm.layout.model, self.vm.g.wrapping_add(u64::from(offset))).ok()
        });
        threads.retain(|read| is_active(read) || Some(read.0.thread.address) != own);
        Found { threads, objects: found.objects, incomplete: found.incomplete, unread }
    }

    fn reading(&mut self, address: u64) -> Option<Reading> {
        let Reader { view, vm, .. } = self;
        let memory = &view.memory;
        let thread = Thread::read(memory, vm, address)?;
        let cur_l = vm.g.wrapping_add(u64::from(vm.layout.global_state.cur_l));
        let current = thread.status == Status::Active
            && read_reference(memory, vm.layout.model, cur_l).is_ok_and(|current| current == address);
        // When the VM says that another thread runs, C code has the control.
        let leaf = if current { thread.running_leaf(memory, vm).ok()? } else { Leaf::Exact };
        let activation = thread.frames(memory, vm, leaf);
        let first_function = match thread.status {
            Status::Fresh => thread.first_function(memory, &vm.layout),
            _ => None,
        };
        let variables = match self.locals {
            true => self.prototypes.variables(memory, vm, &thread, &activation),
            false => Vec::new(),
        };
        Some(Reading { thread, current, leaf, activation, first_function, variables })
    }
}

/// The threads of a VM in the order in which they are shown, each with what it is doing and the one that it was resumed by.
fn ordered(mut threads: Vec<Read>) -> Vec<(Reading, Steadiness, Doing, Option<u64>)> {
    // On the native stack, which grows down, the one that was resumed last is the lowest. C code that has been returned to from a
    // coroutine leaves the VM with a thread as its current one that is not active.
    let rank = |(reading, _): &Read| match reading.thread.status {
        Status::Active => (Status::Active, !reading.current, reading.thread.cframe()),
        status => (status, false, 0),
    };
    threads.sort_by_key(rank);
    let active = threads.iter().take_while(|(reading, _)| reading.thread.status == Status::Active);
    let mut waiting: Vec<u64> = active.map(|(reading, _)| reading.thread.address).collect();
    let mut resumed_by = waiting.split_off(waiting.len().min(1)).into_iter();
    threads
        .into_iter()
        .enumerate()
        .map(|(number, (reading, read))| {
            let (doing, by) = match reading.thread.status {
                Status::Active if number == 0 => (Doing::Running, resumed_by.next()),
                Status::Active => (Doing::Normal, resumed_by.next()),
                status => (Doing::Resting(status), None),
            };
            (reading, read, doing, by)
        })
        .collect()
}

/// Names what was read.
struct Namer {
    functions: LuaFunctions,
    symbols: Symbols,
    profile: Profile,
}

impl Namer {
    fn coroutine(
        &mut self,
        view: &mut View,
        vm: &Vm,
        reading: Reading,
        read: Steadiness,
        state: Doing,
        resumed_by: Option<u64>,
    ) -> Coroutine {
        let Namer { functions, symbols, profile } = self;
        let mut resolver = Resolver { view, functions, symbols, profile };
        let Reading { thread, leaf, activation, first_function, variables, .. } = reading;
        let mut frames = Vec::new();
        if read != Steadiness::Changed {
            if activation.leaf_unknown || matches!(leaf, Leaf::Trace(_)) {
                frames.push(Called::missing());
            }
            let mut variables = variables.into_iter();
            for frame in &activation.frames {
                let variables = variables.next().unwrap_or_default();
                let frame = resolver.resting(&activation, frame);
                let variables = variables.into_iter().map(|variable| {
                    let function = variable.value.function;
                    let function = function.map(|(address, kind)| resolver.function_value(vm.g, address, kind));
                    Local { variable, function: function.filter(|frame| !frame.unresolved) }
                });
                let variables = variables.collect();
                frames.push(Called { frame, variables });
            }
            if activation.broken {
                frames.push(Called::missing());
            }
            if let Some((address, kind)) = first_function {
                let frame = resolver.function_value(vm.g, address, kind);
                frames.push(Called { frame, variables: Vec::new() });
            }
        }
        let address = thread.address;
        Coroutine { address, main: address == vm.main_thread, state, resumed_by, read, leaf, frames }
    }
}

impl Called {
    /// Stands for frames that are not known.
    fn missing() -> Called {
        let name = Some("[unknown Lua frames]".into());
        let frame = Frame { kind: FrameKind::Marker, name, file: None, first_line: 0, line: 0, unresolved: true };
        Called { frame, variables: Vec::new() }
    }
}
