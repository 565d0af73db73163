//! A process under observation, as weaving and naming need it: its code, its VMs, its memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use luaflame_ebpf::watch;
use rustc_hash::FxHashMap;

use super::weave::{Code, Native};
use crate::luajit::arch::{Model, SLOT_SIZE};
use crate::luajit::copies::Copies;
use crate::luajit::discover::{Discovery, Vm, discover};
use crate::luajit::exit_handler::ExitHandler;
use crate::luajit::frames::{Activation, Source};
use crate::luajit::handlers::Handlers;
use crate::luajit::layout::Layout;
use crate::luajit::trace::Trace;
use crate::luajit::trace_map::TraceMap;
use crate::native::image::Images;
use crate::native::modules;
use crate::native::registers::Registers;
use crate::native::unwind::{Step, StepError, Unwinder};
use crate::probe::sample::Sample;
use crate::target::maps::regions;
use crate::target::memory::ProcessMemory;
use crate::target::process::{Process, ProcessError};
use crate::target::world::World;

/// A process under observation.
pub struct View {
    /// The process.
    pub process: Arc<Process>,
    /// Its memory.
    pub memory: ProcessMemory,
    /// Some of it, as it was.
    pub copies: Copies,
    /// The VMs that were active when the sample at hand was taken, by their `global_State`: of the hundreds that a process may
    /// have, only their traces can be on the stack.
    pub active: Vec<u64>,
    /// The trace that ran when the sample at hand was taken, that called the garbage collector or that was being left, if it
    /// was copied.
    pub running: Option<Arc<Trace>>,
    /// Where the sample at hand is in the first instructions of a trace that the interpreter has just entered.
    pub entered: Option<u64>,
    /// Its native code.
    pub unwinder: Unwinder,
    /// Its LuaJIT, if it has one.
    pub lua: Option<Lua>,
}

/// The LuaJIT of a process: one build, any number of VMs.
pub struct Lua {
    /// The build's layout.
    pub layout: Arc<Layout>,
    /// The VM's assembly: the interpreter and the builtins in it.
    pub assembly: Range<u64>,
    /// The bridge to C functions called through FFI, which lies behind the assembly; empty in a build without FFI.
    pub ffi_call: Range<u64>,
    /// Where the assembly runs which instruction.
    pub handlers: Handlers,
    /// Where the assembly leaves a trace.
    pub exit_handler: Option<ExitHandler>,
    /// Compiled traces of each VM, by its `global_State`.
    pub traces: FxHashMap<u64, TraceMap>,
    /// A VM by whose traces two layouts can be told apart, once it has some.
    pub unsettled: Option<Vm>,
}

/// `vmstate` in the interpreter (`~LJ_VMST_INTERP`).
const VMST_INTERP: i32 = -1;

/// Most VMs of a process that are asked for their version.
const VERSION_VMS: usize = 8;

impl View {
    /// Opens a process.
    ///
    /// # Errors
    /// When it does not exist or may not be read.
    pub fn open(world: &Arc<dyn World>, pid: u32, images: &Arc<Images>) -> Result<View, ProcessError> {
        let process = Arc::new(Process::open(world, pid)?);
        let unwinder = Unwinder::new(Arc::clone(&process), Arc::clone(images))?;
        Ok(View {
            memory: process.memory(),
            copies: Copies::default(),
            active: Vec::new(),
            running: None,
            entered: None,
            process,
            unwinder,
            lua: None,
        })
    }

    /// Searches the process for VMs.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn discover(&mut self, layouts: &[Arc<Layout>]) -> Result<Discovery, ProcessError> {
        let regions = regions(&self.process.maps()?);
        self.unwinder.refresh()?;
        let discovery = discover(&self.memory, &regions, layouts);
        log::debug!("process {} ({}): {discovery}", self.process.pid(), self.process.comm());
        if let Some(vm) = discovery.vms.first() {
            self.lua = self.assembly(vm).map(|assembly| Lua {
                layout: Arc::clone(&vm.layout),
                ffi_call: self.unwinder.fde_range(assembly.end).unwrap_or(assembly.end..assembly.end),
                exit_handler: ExitHandler::read(&self.memory, &vm.layout, assembly.clone()),
                assembly,
                handlers: Handlers::read(&self.memory, vm).unwrap_or_default(),
                traces: discovery.vms.iter().map(|vm| (vm.g, TraceMap::new(&vm.layout, vm.g))).collect(),
                unsettled: (!vm.settled).then(|| vm.clone()),
            });
        }
        Ok(discovery)
    }

    /// What its LuaJIT calls itself, as one of its VMs tells; `None` when none does, as while they start.
    pub fn version(&self) -> Option<String> {
        let lua = self.lua.as_ref()?;
        let mut vms: Vec<u64> = lua.traces.keys().copied().collect();
        vms.sort_unstable();
        let vm = |g| Vm { g, main_thread: 0, layout: Arc::clone(&lua.layout), settled: true };
        vms.into_iter().take(VERSION_VMS).find_map(|g| vm(g).version(&self.memory))
    }

    /// Takes over what is known of the LuaJIT of a process that this one was forked from or has forked: it is at the same addresses.
    pub fn share(&mut self, other: &View) {
        self.lua = other.lua.as_ref().map(|lua| Lua {
            layout: Arc::clone(&lua.layout),
            assembly: lua.assembly.clone(),
            ffi_call: lua.ffi_call.clone(),
            handlers: lua.handlers.clone(),
            exit_handler: lua.exit_handler,
            traces: lua.traces.keys().map(|g| (*g, TraceMap::new(&lua.layout, *g))).collect(),
            unsettled: lua.unsettled.clone(),
        });
    }

    /// The addresses of the VM's assembly: what the unwind information has as one function around the code of most
    /// instructions, else just around all of them.
    fn assembly(&self, vm: &Vm) -> Option<Range<u64>> {
        let targets = vm.dispatch_targets(&self.memory).ok()?;
        let mut ranges: HashMap<(u64, u64), usize> = HashMap::new();
        for range in targets.iter().filter_map(|target| self.unwinder.fde_range(*target)) {
            *ranges.entry((range.start, range.end)).or_default() += 1;
        }
        match ranges.into_iter().max_by_key(|(range, count)| (*count, *range)) {
            Some(((start, end), count)) if count * 2 > targets.len() => Some(start..end),
            // The code of the last instruction has some length, too.
            _ => Some(*targets.iter().min()?..targets.iter().max()? + 64),
        }
    }

    /// What the probe is to know of this process.
    pub fn wire(&self, flags: u32) -> luaflame_ebpf::Process {
        let mut wire = luaflame_ebpf::Process { flags, ..Default::default() };
        if let Some(lua) = &self.lua {
            wire.flags |= watch::LUA;
            wire.asm_start = lua.assembly.start;
            wire.asm_end = lua.assembly.end;
            wire.exit = lua.exit_handler.map(|handler| handler.wire).unwrap_or_default();
            wire.layout = wire_layout(&lua.layout);
        }
        wire
    }

    /// Decides between layouts that only traces tell apart, as soon as there are traces.
    pub fn settle(&mut self, layouts: &[Arc<Layout>]) {
        let Some(lua) = &mut self.lua else { return };
        let Some(vm) = &mut lua.unsettled else { return };
        if vm.settle(&self.memory, layouts) {
            lua.layout = Arc::clone(&vm.layout);
            lua.traces = lua.traces.keys().map(|g| (*g, TraceMap::new(&lua.layout, *g))).collect();
            lua.unsettled = None;
        }
    }

    /// Whether an address is in the machine code of a trace or its exit stubs, in an active VM.
    fn in_trace(&mut self, address: u64) -> bool {
        let View { memory, lua, active, .. } = self;
        let Some(lua) = lua else { return false };
        active.iter().any(|g| {
            let Some(traces) = lua.traces.get_mut(g) else { return false };
            traces.lookup(memory, address).is_some()
                || traces.exit_stubs(memory).is_some_and(|stubs| stubs.exit_at(address, |_| Some(0)).is_some())
        })
    }

    /// Takes note of the traces that a sample which is to be woven next is in.
    pub fn turn_to(&mut self, sample: &Sample<'_>, activations: &[Activation]) {
        let header = sample.header;
        let View { memory, copies, lua, .. } = self;
        let traces = lua.as_mut().and_then(|lua| lua.traces.get_mut(&header.g)).filter(|_| header.trace != 0);
        self.running = traces.and_then(|traces| traces.copied(memory, copies, header.trace, header.trace_mark));
        let on_trace = activations.first().is_some_and(|activation| activation.source == Source::Trace);
        self.entered = (on_trace && header.vmstate == VMST_INTERP).then_some(header.registers.ip);
    }
}

/// The fields that the probe reads by. Every offset fits: the structs are smaller than 64 KiB.
fn wire_layout(layout: &Layout) -> luaflame_ebpf::Layout {
    let short = |offset: u32| offset as u16;
    let model = layout.model;
    let cframe = model.cframe();
    let (function_tag_mask, function_tag) = model.function_tag();
    luaflame_ebpf::Layout {
        reference: model.reference_mask(),
        function_tag_mask,
        function_tag,
        frame_size: short(model.frame_slots() * SLOT_SIZE as u32),
        link_shift: short(model.link_shift()),
        cframe_l: cframe.l,
        cframe_pc: cframe.pc,
        cframe_nres: cframe.nres,
        l_size: short(layout.lua_state.size),
        l_glref: short(layout.lua_state.glref),
        l_base: short(layout.lua_state.base),
        l_top: short(layout.lua_state.top),
        l_maxstack: short(layout.lua_state.maxstack),
        l_stack: short(layout.lua_state.stack),
        l_cframe: short(layout.lua_state.cframe),
        g_vmstate: short(layout.global_state.vmstate),
        g_mainthref: short(layout.global_state.mainthref),
        g_cur_l: short(layout.global_state.cur_l),
        g_jit_base: short(layout.global_state.jit_base),
        g_dispatch: short(layout.gg.dispatch - layout.gg.g),
        func_ffid: short(layout.func.ffid),
        func_pc: short(layout.func.pc),
        func_c: short(layout.func.c_function),
        proto_size: short(layout.proto.size),
        proto_sizebc: short(layout.proto.sizebc),
        proto_chunkname: short(layout.proto.chunkname),
        proto_firstline: short(layout.proto.firstline),
        proto_numline: short(layout.proto.numline),
        proto_sizept: short(layout.proto.sizept),
        string_size: short(layout.string.size),
        string_len: short(layout.string.len),
        g_trace: short(layout.gg.j - layout.gg.g + layout.jit_state.trace),
        g_sizetrace: short(layout.gg.j - layout.gg.g + layout.jit_state.sizetrace),
        trace_nins: short(layout.trace.nins),
        trace_nk: short(layout.trace.nk),
        trace_snapmap: short(layout.trace.snapmap),
        trace_nsnapmap: short(layout.trace.nsnapmap),
        trace_short: u16::from(layout.trace.has_short_snapmap()),
        trace_startpc: short(layout.trace.startpc),
        trace_szmcode: short(layout.trace.szmcode),
        trace_mcode: short(layout.trace.mcode),
        trace_link: short(layout.trace.link),
        trace_root: short(layout.trace.root),
        // Behind `root` are `nextroot` and `nextside`, in all layouts.
        trace_nextside: short(layout.trace.root + 4),
        g_exitstubs: short(layout.gg.j - layout.gg.g + layout.jit_state.exitstubgroup),
        reference_size: short(layout.model.reference_size() as u32),
        reserved: 0,
    }
}

impl Native for View {
    fn model(&self) -> Model {
        self.lua.as_ref().map_or(Model::Gc64, |lua| lua.layout.model)
    }

    fn code(&mut self, address: u64) -> Code {
        if let Some(lua) = self.lua.as_ref().filter(|lua| lua.assembly.contains(&address)) {
            let leaves = lua.exit_handler.is_some_and(|handler| handler.contains(address));
            return if leaves { Code::Exit } else { Code::Assembly };
        }
        if self.lua.as_ref().is_some_and(|lua| lua.ffi_call.contains(&address)) {
            return Code::FfiCall;
        }
        let leaves =
            |trace: &Arc<Trace>| trace.mcode().contains(&address) || trace.exit_at(address, |_| Some(0)).is_some();
        if self.entered == Some(address) || self.running.as_ref().is_some_and(leaves) {
            return Code::Trace;
        }
        if !self.unwinder.executable(address) {
            return Code::None;
        }
        match self.unwinder.code_at(address) {
            modules::Code::Module(_) => Code::Native,
            modules::Code::None => Code::None,
            modules::Code::Anonymous => {
                if self.in_trace(address) {
                    Code::Trace
                } else {
                    Code::Anonymous
                }
            }
        }
    }

    fn instructions(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        use crate::luajit::memory::Memory;
        match self.memory.read(address, buffer) {
            Ok(()) => buffer.len(),
            Err(_) => 0,
        }
    }

    fn step(&mut self, registers: &mut Registers, word: &mut dyn FnMut(u64) -> Option<u64>) -> Result<Step, StepError> {
        self.unwinder.step(registers, &mut |address| word(address).ok_or(()))
    }
}
