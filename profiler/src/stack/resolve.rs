//! Names the pieces of a woven stack: from addresses to the frames that a profile shows.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use luaflame_ebpf::Header;
use rustc_hash::FxHashMap;

use super::process::View;
use super::weave::{Missing, Piece};
use crate::luajit::arch::{LinkType, SLOT_SIZE};
use crate::luajit::bytecode::{Instruction, op};
use crate::luajit::discover::Vm;
use crate::luajit::exit_handler::frames_at_exit;
use crate::luajit::frames::{Activation, Kind, LuaFrame, Prototype};
use crate::luajit::handlers::{Edge, Handlers};
use crate::luajit::memory::Memory;
use crate::luajit::names::{Names, Sources};
use crate::luajit::object::{Function, FunctionKind};
use crate::luajit::proto::Proto;
use crate::luajit::snapshot::{BaseFrame, TraceFrame};
use crate::luajit::source::MAX_SOURCE;
use crate::luajit::trace::Trace;
use crate::native::kernel::KernelSymbols;
use crate::native::symbols::{NativeFrame, Symbolizer};
use crate::native::unwind::StepError;
use crate::probe::sample::Sample;
use crate::profile::{Frame, FrameId, FrameKind, Origin, Profile, State};
use crate::target::process::Process;
use crate::target::world::World;

/// What all processes share: symbols of the kernel and of images.
pub struct Symbols {
    kernel: KernelSymbols,
    native: Symbolizer,
}

impl Symbols {
    /// Those of a world, not read yet.
    pub fn of(world: Arc<dyn World>) -> Symbols {
        Symbols { kernel: KernelSymbols::of(world), native: Symbolizer::default() }
    }

    /// Reads the kernel's symbols, which takes longest, before sampling begins.
    pub fn prepare(&mut self) {
        self.kernel.prepare();
    }
}

/// What is remembered of a process's Lua functions.
#[derive(Default)]
pub struct LuaFunctions {
    /// By prototype as the probe saw it: one whose memory has been reused is another one. When they take too much memory,
    /// they start afresh.
    prototypes: FxHashMap<Prototype, Arc<LuaFunction>>,
    /// Bytes that they take.
    size: usize,
    /// Names of each VM, by its `global_State`.
    names: FxHashMap<u64, VmNames>,
    /// The VM whose names were read last, and when names may be read again: reading takes milliseconds, and a server may
    /// make a new VM for each request.
    latest: Option<(u64, Duration)>,
    /// Source files as this process sees them.
    sources: Sources,
}

/// Names in one VM.
struct VmNames {
    vm: Vm,
    names: Names,
}

/// Names may be read anew after so many times the time that it took last.
const NAMES_SHARE: u32 = 50;
/// But so much earlier for VMs that have not been read: enough for those of a handful of threads at once.
const NAMES_AHEAD: Duration = Duration::from_secs(5);
/// And, for a VM whose names are known, not before this time.
const NAMES_PAUSE: Duration = Duration::from_secs(1);
/// Most VMs of a process whose names are read when names are needed first.
const FIRST_VMS: usize = 16;
/// Most VMs of a process whose names are kept.
const MOST_VMS: usize = 256;
/// Most bytes that the functions of a process take: 50,000 ordinary ones.
const MOST_BYTES: usize = 64 << 20;

/// A Lua function: all closures of one prototype.
struct LuaFunction {
    name: Option<Arc<str>>,
    file: Arc<str>,
    first_line: u32,
    /// Its bytecode and lines.
    proto: Proto,
}

impl LuaFunctions {
    fn keep(&mut self, seen: Prototype, function: Arc<LuaFunction>) {
        let size = 2 * size_of::<Prototype>() + size_of::<LuaFunction>() + function.file.len();
        let size = size + function.proto.size();
        if self.size + size > MOST_BYTES {
            self.prototypes.clear();
            self.size = 0;
        }
        self.size += size;
        self.prototypes.insert(seen, function);
    }
}

/// A stack being resolved.
pub struct Resolver<'a> {
    /// The process.
    pub view: &'a mut View,
    /// Its Lua functions.
    pub functions: &'a mut LuaFunctions,
    /// Symbols.
    pub symbols: &'a mut Symbols,
    /// Where frames go.
    pub profile: &'a mut Profile,
}

/// What became of a sample.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The innermost Lua function.
    pub top_lua: Option<FrameId>,
    /// Part of the stack was cut because of a limit.
    pub truncated: bool,
}

impl Resolver<'_> {
    /// Resolves a woven stack and adds it to the profile. `stack` is only a buffer.
    pub fn add(
        &mut self,
        sample: &Sample<'_>,
        activations: &[Activation],
        pieces: &[Piece],
        stack: &mut Vec<FrameId>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        stack.clear();
        // The frames of the native piece nearest to the root so far, when it is the last thing on the stack: the code of a
        // C function that the next Lua frame names.
        let mut native_below: Option<(usize, u64)> = None;
        // The frames of the next piece that have been shown with a trace.
        let mut shown = 0;
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Kernel(address) => {
                    native_below = None;
                    let frame = self.kernel(*address);
                    self.push(stack, frame);
                }
                Piece::Native { address } => {
                    let start = stack.len();
                    self.native(*address, stack);
                    native_below = Some((start, *address));
                }
                Piece::Trace { activation, address } => {
                    native_below = None;
                    let next = next_frames(pieces, index, activations, *activation);
                    shown = self.trace(sample, &activations[*activation], next.first(), *address, stack);
                }
                Piece::Exit { activation } => {
                    native_below = None;
                    let next = next_frames(pieces, index, activations, *activation);
                    let native = |piece: &Piece| matches!(piece, Piece::Kernel(_) | Piece::Native { .. });
                    let innermost = pieces[..index].iter().all(native);
                    shown = self.exit(sample, &activations[*activation], next, innermost, stack);
                }
                Piece::Lua { activation, frames } => {
                    let activation = &activations[*activation];
                    let lua = &activation.frames[frames.clone()][std::mem::take(&mut shown)..];
                    for (number, frame) in lua.iter().enumerate() {
                        let code = if number == 0 { native_below } else { None };
                        self.lua(sample, activation, frame, code, stack);
                    }
                    native_below = None;
                }
                Piece::Missing(missing) => {
                    native_below = None;
                    outcome.truncated |= matches!(missing, Missing::LuaCut | Missing::NativeCut);
                    self.missing(*missing, stack);
                }
            }
        }
        let counters = &mut self.profile.counters;
        counters.samples += 1;
        counters.frames += stack.len() as u64;
        counters.truncated += u64::from(outcome.truncated);
        outcome.top_lua = stack.iter().copied().find(|id| is_lua(self.profile.get(*id).kind));
        if outcome.top_lua.is_none() && !stack.iter().any(|id| self.profile.get(*id).kind == FrameKind::Builtin) {
            self.profile.counters.outside_lua += 1;
        }
        let unresolved = stack.iter().filter(|id| self.profile.get(**id).unresolved).count();
        self.profile.counters.unresolved += unresolved as u64;
        stack.reverse();
        let header = sample.header;
        let origin = Origin { pid: header.tgid, tid: header.tid, vm: header.g, state: state(header) };
        self.name_thread(&origin);
        self.profile.add_at(origin, stack, header.time);
        outcome
    }

    /// Takes note of the name of a thread when it is met for the first time.
    fn name_thread(&mut self, origin: &Origin) {
        let thread = (origin.pid, origin.tid);
        if !self.profile.threads.contains_key(&thread) {
            let name = self.view.process.thread_name(origin.tid).unwrap_or_default();
            self.profile.threads.insert(thread, name);
        }
    }

    fn push(&mut self, stack: &mut Vec<FrameId>, frame: Frame) {
        let id = self.profile.frame(frame);
        stack.push(id);
    }

    fn reason(&mut self, reason: &str) {
        match self.profile.counters.reasons.get_mut(reason) {
            Some(count) => *count += 1,
            None => {
                self.profile.counters.reasons.insert(reason.to_owned(), 1);
            }
        }
    }

    fn kernel(&mut self, address: u64) -> Frame {
        let mut frame =
            Frame { kind: FrameKind::Kernel, name: None, file: None, first_line: 0, line: 0, unresolved: false };
        let why = match self.symbols.kernel.lookup(address) {
            Ok(Some(symbol)) => {
                frame.name = Some(symbol.name.into());
                frame.file = symbol.module.map(Into::into);
                return frame;
            }
            Ok(None) => "kernel addresses that no kernel symbol covers".to_owned(),
            Err(why) => why.to_string(),
        };
        frame.name = Some("[kernel]".into());
        frame.unresolved = true;
        self.reason(&why);
        frame
    }

    /// Pushes the functions at a native address, innermost first.
    fn native(&mut self, address: u64, stack: &mut Vec<FrameId>) {
        let mut frames: Vec<NativeFrame> = Vec::new();
        self.symbols.native.symbolize(&self.view.unwinder, address, &mut frames);
        for native in frames.into_iter().rev() {
            if native.unresolved {
                *self.profile.counters.without_symbols.entry(Arc::clone(&native.module)).or_default() += 1;
            }
            let frame = Frame {
                kind: if native.inlined { FrameKind::NativeInlined } else { FrameKind::Native },
                name: Some(native.name),
                file: Some(native.module),
                first_line: 0,
                line: 0,
                unresolved: native.unresolved,
            };
            self.push(stack, frame);
        }
    }

    /// Pushes the frames of a trace, innermost first, with the frame that it was entered in as the last one. Returns how many of
    /// the frames on the Lua stack that were.
    fn trace(
        &mut self,
        sample: &Sample<'_>,
        activation: &Activation,
        base: Option<&LuaFrame>,
        address: u64,
        stack: &mut Vec<FrameId>,
    ) -> usize {
        let Some(base) = base.filter(|base| is_base(activation, base)) else {
            let frame =
                self.unknown("[unknown Lua frames]", "machine code of traces whose frames are not where the VM says");
            self.push(stack, frame);
            return 0;
        };
        if self.view.entered == Some(address) {
            // The interpreter's PC register still is past the instruction that entered the trace.
            let pc = Some(sample.header.registers.bx);
            let pc = pc.filter(|pc| base.prototype().is_some_and(|prototype| prototype.contains(*pc)));
            let frame = self.lua_frame(activation, base, pc, FrameKind::Compiled);
            self.push(stack, frame);
            return 1;
        }
        match self.trace_frames(sample, activation, base, address) {
            Some(frames) => self.trace_stack(activation, base, &frames, stack),
            None => {
                // Without the snapshot, the function that the trace was entered in is still known, but not where it is.
                let frame = self.lua_frame(activation, base, None, FrameKind::Compiled);
                self.push(stack, frame);
            }
        }
        1
    }

    /// Pushes frames that are active in a trace which was entered in `base`.
    fn trace_stack(
        &mut self,
        activation: &Activation,
        base: &LuaFrame,
        frames: &[TraceFrame],
        stack: &mut Vec<FrameId>,
    ) {
        let last = frames.len().saturating_sub(1);
        let kind = |number: usize| if number == last { FrameKind::Compiled } else { FrameKind::Inlined };
        let mut shown: Vec<Frame> = frames
            .iter()
            .enumerate()
            .map(|(number, frame)| self.trace_frame(activation, base, frame, kind(number)))
            .collect();
        if last > 0 && !self.is_unchanged(base) {
            for frame in shown.iter_mut().filter(|frame| frame.kind == FrameKind::Inlined) {
                *frame = self.unknown("[unknown Lua function]", "functions inlined in traces of code that is gone");
            }
        }
        for frame in shown {
            self.push(stack, frame);
        }
    }

    /// Pushes the frames of a trace that is being left, of which some or all may be on the Lua stack already, where `lua` is found.
    /// Returns how many of `lua` that were. `innermost`: it is what the VM is doing, and no trace that it has called from.
    fn exit(
        &mut self,
        sample: &Sample<'_>,
        activation: &Activation,
        lua: &[LuaFrame],
        innermost: bool,
        stack: &mut Vec<FrameId>,
    ) -> usize {
        let Some(top) = lua.first().filter(|top| top.prototype().is_some()) else { return 0 };
        if !innermost || !matches!(sample.header.vmstate, VMST_EXIT | 0..) {
            // All is on the Lua stack, and the C frame has saved the next instruction, where else it saves the one behind it.
            let next = activation.cframes.get(top.cframe.unwrap_or(usize::MAX)).map(|cframe| cframe.pc);
            let pc = if top.pc == next { top.pc.map(|pc| pc.wrapping_add(4)) } else { top.pc };
            let frame = self.lua_frame(activation, top, pc, FrameKind::Interpreted);
            self.push(stack, frame);
            return 1;
        }
        if let Some((frames, written)) = self.exit_frames(sample, lua) {
            self.trace_stack(activation, &lua[written - 1], &frames, stack);
            return written;
        }
        let frame = self.lua_frame(activation, top, None, FrameKind::Interpreted);
        self.push(stack, frame);
        1
    }

    /// The frames that are active at the exit that is being taken, innermost first, and how many of `lua` they stand for.
    fn exit_frames(&self, sample: &Sample<'_>, lua: &[LuaFrame]) -> Option<(Vec<TraceFrame>, usize)> {
        let View { memory, copies, lua: Some(vm), running: Some(trace), .. } = &*self.view else { return None };
        let handler = vm.exit_handler?;
        let header = sample.header;
        let [ax, ..] = header.registers.volatile;
        let stack_byte = |offset: u64| {
            let word = sample.stack.word(header.registers.sp.wrapping_add(offset));
            word.map(|word| word as u8)
        };
        let exit = handler.exit(header.registers.ip, ax, header.exit, stack_byte)?;
        let position = trace.at_exit(exit)?;
        let progress = handler.progress(header.registers.ip);
        frames_at_exit(trace, &copies.over(memory), &vm.layout, position, progress, lua)
    }

    /// Whether the prototype of a trace's base frame is in memory as the probe saw it. The prototypes inlined in the trace
    /// live as long as the trace and are read as they are now: where that of the base frame is gone, they are, too.
    fn is_unchanged(&self, base: &LuaFrame) -> bool {
        let Some(seen) = base.prototype() else { return true };
        let live = || {
            let layout = &self.view.lua.as_ref()?.layout;
            let address = seen.code.checked_sub(u64::from(layout.proto.size))?;
            Prototype::read(&self.view.memory, layout, address)
        };
        live() == Some(*seen)
    }

    /// The frames that are active in a trace, innermost first.
    fn trace_frames(
        &mut self,
        sample: &Sample<'_>,
        activation: &Activation,
        base: &LuaFrame,
        address: u64,
    ) -> Option<Vec<TraceFrame>> {
        let code = base.prototype().map(|seen| seen.code..seen.code + u64::from(seen.sizebc) * 4);
        let on_stack = BaseFrame { function: base.function, code };
        let View { memory, copies, lua, running, .. } = &mut *self.view;
        let lua = lua.as_mut()?;
        let traces = lua.traces.get_mut(&activation.global)?;
        let memory = &*memory;
        // In an exit stub, on the way out of a trace, the exit's number is the snapshot's.
        let stack_byte = |offset: u64| {
            let word = sample.stack.word(sample.header.registers.sp.wrapping_add(offset));
            word.map(|word| word as u8)
        };
        // `address` is inside the instruction that runs or called: no return address any more.
        let place = |trace: Arc<Trace>| {
            let position = trace.position(address, false).or_else(|| trace.exit_at(address, stack_byte))?;
            Some((trace, position))
        };
        let number = u16::try_from(sample.header.vmstate).ok();
        let (trace, position) = running
            .clone()
            .and_then(place)
            .or_else(|| traces.lookup(memory, address).and_then(place))
            .or_else(|| traces.get(memory, number?).and_then(place))?;
        match trace.frames(&copies.over(memory), &lua.layout, position, &on_stack) {
            Ok(frames) => Some(frames),
            Err(_) => {
                self.reason("traces whose snapshot did not fit the Lua stack");
                None
            }
        }
    }

    fn trace_frame(&mut self, activation: &Activation, base: &LuaFrame, frame: &TraceFrame, kind: FrameKind) -> Frame {
        if let Some(prototype) = frame.prototype {
            let function = match base.prototype() {
                // The probe has seen this one: what it copied guards against reused memory.
                Some(seen) if self.code_of(prototype) == Some(seen.code) => self.function(activation.global, *seen),
                _ => self.function_at(activation.global, prototype),
            };
            return match function {
                Some(function) => frame_of(&function, frame.pc, kind),
                None => self.unknown("[unknown Lua function]", "prototypes on traces that could not be read"),
            };
        }
        // The probe has seen the function that the trace was entered in, whose closure may have been freed since.
        if kind == FrameKind::Compiled
            && let (Some(seen), Some(pc)) = (base.prototype(), frame.pc)
            && seen.contains(pc)
        {
            return match self.function(activation.global, *seen) {
                Some(function) => frame_of(&function, frame.pc, kind),
                None => self.unknown("[unknown Lua function]", "prototypes on traces that could not be read"),
            };
        }
        match frame.function {
            Some(function) => {
                let object = self
                    .view
                    .lua
                    .as_ref()
                    .and_then(|lua| Function::read(&self.view.memory, &lua.layout, function).ok());
                let pointer = object.and_then(|object| match object.kind {
                    FunctionKind::C { code } | FunctionKind::Fast { code, .. } => Some(code),
                    FunctionKind::Lua { .. } => None,
                });
                let name = object.and_then(|object| self.builtin_name(activation.global, &object));
                self.builtin(name, pointer)
            }
            None => match self.unspecialized_builtin(activation.global, frame.pc) {
                Some(name) => self.builtin(Some(name.into()), None),
                None => self.unknown("[unknown Lua function]", "functions that only a trace's registers hold"),
            },
        }
    }

    /// The name of a builtin on a trace that is made for its kind and not for the very function: there are two kinds
    /// (`rec_call_specialize`, `lj_record.c`), and of these only one is written in assembly, so that its header is behind
    /// the dispatch table (`GG_State.bcff`).
    fn unspecialized_builtin(&self, global: u64, pc: Option<u64>) -> Option<&'static str> {
        let gg = &self.view.lua.as_ref()?.layout.gg;
        let dispatch = global + u64::from(gg.dispatch - gg.g);
        Some(if pc? >= dispatch { "coroutine.wrap_aux" } else { "string.gmatch_aux" })
    }

    fn code_of(&self, prototype: u64) -> Option<u64> {
        let lua = self.view.lua.as_ref()?;
        prototype.checked_add(u64::from(lua.layout.proto.size))
    }

    /// Pushes a Lua frame of the interpreter's stack. `code` is the native code above it on the stack: where its frames
    /// begin in `stack`, and its address.
    fn lua(
        &mut self,
        sample: &Sample<'_>,
        activation: &Activation,
        frame: &LuaFrame,
        code: Option<(usize, u64)>,
        stack: &mut Vec<FrameId>,
    ) {
        match frame.kind {
            // A builtin has written its result, a function, over its own, and is about to return.
            Kind::Lua(_) if frame.edge && self.is_in_builtin(sample, activation.global) => {
                let frame = self.builtin(None, None);
                self.push(stack, frame);
            }
            Kind::Lua(prototype) if frame.edge && self.has_returned(sample, activation.global, frame, &prototype) => {}
            Kind::Lua(prototype) => {
                let pc = if frame.edge {
                    self.edge_pc(sample, activation.global, &prototype).or(frame.pc)
                } else {
                    frame.pc
                };
                let frame = self.lua_frame(activation, frame, pc, FrameKind::Interpreted);
                self.push(stack, frame);
            }
            Kind::C { pointer } | Kind::Fast { pointer, .. } => {
                let name = self.name_of_builtin(activation.global, frame.function, frame.kind);
                // The code of the C function itself is this frame under its native name: one frame, with the name that
                // Lua code uses. What the compiler inlined into it stays above it.
                if let Some((start, address)) = code
                    && self.view.unwinder.function_start(address) == Some(pointer)
                    && start < stack.len()
                {
                    stack.pop();
                }
                let frame = self.builtin(name, Some(pointer));
                self.push(stack, frame);
            }
            // A builtin may write its result over the function; the native code that runs it still tells which one it is.
            Kind::Unknown if let Some((name, pointer)) = self.builtin_running(activation.global, code, stack.len()) => {
                stack.pop();
                let frame = self.builtin(Some(name), Some(pointer));
                self.push(stack, frame);
            }
            Kind::Unknown => {
                let frame = self.unknown("[unknown Lua function]", "function objects that could not be read");
                self.push(stack, frame);
            }
        }
    }

    /// A frame of a Lua stack of which no sample was taken: that of a coroutine that does not run, or that has called C.
    pub fn resting(&mut self, activation: &Activation, frame: &LuaFrame) -> Frame {
        match frame.kind {
            Kind::Lua(_) => self.lua_frame(activation, frame, frame.pc, FrameKind::Interpreted),
            kind => self.function_value(activation.global, frame.function, kind),
        }
    }

    /// A function as a value, in a VM: nothing runs in it.
    pub fn function_value(&mut self, global: u64, address: u64, kind: Kind) -> Frame {
        match kind {
            Kind::Lua(seen) => match self.function(global, seen) {
                Some(function) => frame_of(&function, None, FrameKind::Interpreted),
                None => self.unknown("[unknown Lua function]", "prototypes that could not be read"),
            },
            Kind::C { pointer } | Kind::Fast { pointer, .. } => {
                let name = self.name_of_builtin(global, address, kind);
                self.builtin(name, Some(pointer))
            }
            Kind::Unknown => self.unknown("[unknown Lua function]", "function objects that could not be read"),
        }
    }

    /// The name of a builtin or C function, by what its frame says of it.
    fn name_of_builtin(&mut self, global: u64, address: u64, kind: Kind) -> Option<Arc<str>> {
        let kind = match kind {
            Kind::Fast { id, pointer } => FunctionKind::Fast { ffid: id, code: pointer },
            Kind::C { pointer } => FunctionKind::C { code: pointer },
            Kind::Lua(_) | Kind::Unknown => return None,
        };
        self.builtin_name(global, &Function { address, kind, upvalues: 0 })
    }

    /// Whether a builtin that Lua code has called runs: the PC register is where its caller goes on.
    fn is_in_builtin(&mut self, sample: &Sample<'_>, global: u64) -> bool {
        let registers = &sample.header.registers;
        let View { lua: Some(lua), memory, .. } = &mut *self.view else { return false };
        if lua.handlers.lack_builtins()
            && let Ok(vm) = Vm::validate(memory, global, &lua.layout)
            && let Ok(handlers) = Handlers::read(memory, &vm)
        {
            lua.handlers = handlers;
        }
        lua.handlers.in_builtin(registers.ip) && LinkType::of(registers.bx) == LinkType::Lua
    }

    /// Whether a frame at its edge is gone already: in place of its function is its result, which is another function. While a
    /// Lua function runs, KBASE holds its constants; while one is being called, RB holds it (`ins_call`, `vm_x64.dasc`).
    fn has_returned(&mut self, sample: &Sample<'_>, global: u64, frame: &LuaFrame, prototype: &Prototype) -> bool {
        let registers = &sample.header.registers;
        let Some(lua) = self.view.lua.as_ref() else { return false };
        match lua.handlers.edge(registers.ip) {
            Some(Edge::Call) => return false,
            None if registers.bp & lua.layout.model.reference_mask() == frame.function => return false,
            _ => {}
        }
        let constants = self.function(global, *prototype).map(|of| of.proto.constants_address());
        constants.is_some_and(|constants| constants != registers.r15)
    }

    /// Name and address of the builtin whose C part is the native code `code`, the last thing on the stack of this depth.
    fn builtin_running(&mut self, global: u64, code: Option<(usize, u64)>, depth: usize) -> Option<(Arc<str>, u64)> {
        let (_, address) = code.filter(|(start, _)| *start < depth)?;
        let pointer = self.view.unwinder.function_start(address)?;
        let kind = FunctionKind::C { code: pointer };
        let name = self.builtin_name(global, &Function { address: 0, kind, upvalues: 0 })?;
        Some((name, pointer))
    }

    /// Where a function is that is being called, which is at its entry, or that is returning: past the return instruction,
    /// if its opcode decides the line, or else its opcode and the register RA, the offset of the first result.
    fn edge_pc(&mut self, sample: &Sample<'_>, global: u64, seen: &Prototype) -> Option<u64> {
        let registers = &sample.header.registers;
        match self.view.lua.as_ref()?.handlers.edge(registers.ip)? {
            Edge::Call => Some(seen.code),
            Edge::Return(opcode) => {
                let function = self.function(global, *seen)?;
                let proto = &function.proto;
                let [_, ra, ..] = registers.volatile;
                let same =
                    |return_: Instruction| return_.op() == opcode || opcode == op::RET && return_.op() == op::RETM;
                let index = proto
                    .only(same)
                    .or_else(|| proto.only(|return_| same(return_) && u64::from(return_.a()) * SLOT_SIZE == ra))?;
                Some(seen.code + u64::from(index) * 4 + 4)
            }
        }
    }

    fn lua_frame(&mut self, activation: &Activation, frame: &LuaFrame, pc: Option<u64>, kind: FrameKind) -> Frame {
        let Some(prototype) = frame.prototype() else {
            return self.unknown("[unknown Lua function]", "function objects that could not be read");
        };
        if frame.torn {
            return self.unknown("[unknown Lua function]", "Lua frames that their callee's link does not belong to");
        }
        match self.function(activation.global, *prototype) {
            // A PC is one past the instruction.
            Some(function) => frame_of(&function, pc.map(|pc| pc.saturating_sub(4).max(prototype.code)), kind),
            None => {
                self.unknown("[unknown Lua function]", "prototypes whose memory was reused before they could be read")
            }
        }
    }

    fn builtin(&mut self, name: Option<Arc<str>>, pointer: Option<u64>) -> Frame {
        let mut frame = Frame { kind: FrameKind::Builtin, name, file: None, first_line: 0, line: 0, unresolved: false };
        if frame.name.is_none() {
            let native = pointer.map(|pointer| {
                let mut frames = Vec::new();
                self.symbols.native.symbolize(&self.view.unwinder, pointer, &mut frames);
                frames.swap_remove(0)
            });
            frame.unresolved = native.as_ref().is_none_or(|native| native.unresolved);
            frame.name = Some(native.map_or_else(|| "[builtin]".into(), |native| native.name));
            if frame.unresolved {
                self.reason("C functions that no module table and no symbol names");
            }
        }
        frame
    }

    fn unknown(&mut self, name: &str, reason: &str) -> Frame {
        self.reason(reason);
        marker(name, true)
    }

    fn missing(&mut self, missing: Missing, stack: &mut Vec<FrameId>) {
        let (name, reason) = match missing {
            Missing::LuaCut => ("[Lua frames cut]", None),
            Missing::NativeCut => ("[native frames cut]", None),
            Missing::NativeGap(error) => ("[unknown native frames]", Some(gap(error))),
            Missing::NativeRoot(error) => ("[unknown caller]", Some(gap(error))),
            Missing::TooDeep => ("[unknown caller]", Some("native stacks of more than 2,048 frames".to_owned())),
            Missing::NoActivation => {
                ("[unknown Lua frames]", Some("the interpreter runs, but its Lua stack was not found".to_owned()))
            }
            Missing::LuaLink => (
                "[unknown Lua frames]",
                Some("Lua stacks whose links lead nowhere, or that were being moved".to_owned()),
            ),
            Missing::LuaLeaf => ("[unknown Lua frames]", Some("the interpreter was between two Lua frames".to_owned())),
        };
        if let Some(reason) = &reason {
            self.reason(reason);
        }
        self.push(stack, marker(name, reason.is_some()));
    }

    /// The Lua function of a prototype that the probe saw, if it was copied or is still in memory. That it is not is no reason
    /// to give it up: another VM may have the same one at the same place a moment later.
    fn function(&mut self, global: u64, seen: Prototype) -> Option<Arc<LuaFunction>> {
        if let Some(function) = self.functions.prototypes.get(&seen) {
            return Some(Arc::clone(function));
        }
        let size = u64::from(self.view.lua.as_ref()?.layout.proto.size);
        let function = Arc::new(self.read(global, seen.code.checked_sub(size)?, seen)?);
        self.functions.keep(seen, Arc::clone(&function));
        Some(function)
    }

    /// The Lua function of a prototype at an address, as it is now.
    fn function_at(&mut self, global: u64, address: u64) -> Option<Arc<LuaFunction>> {
        let seen = Prototype::read(&self.view.memory, &self.view.lua.as_ref()?.layout, address)?;
        self.function(global, seen)
    }

    fn read(&mut self, global: u64, address: u64, seen: Prototype) -> Option<LuaFunction> {
        let View { memory, copies, lua, .. } = &*self.view;
        let read = |memory: &dyn Memory| Proto::read(memory, &lua.as_ref()?.layout, address).ok();
        let same = |proto: &Proto| Prototype::of(proto) == seen;
        let proto = read(&copies.over(memory)).filter(same).or_else(|| read(memory).filter(same))?;
        let process = Arc::clone(&self.view.process);
        let LuaFunctions { names, latest, sources, .. } = &mut *self.functions;
        let vm = vm_names(self.view, names, latest, global);
        let mut read = |path: &str| source_text(&process, path);
        let name = vm.and_then(|known| known.names.lua(&self.view.memory, &known.vm, &proto, sources, &mut read));
        Some(LuaFunction { name, file: proto.chunk.shown().into(), first_line: proto.firstline, proto })
    }

    /// The name of a builtin or C function.
    fn builtin_name(&mut self, global: u64, function: &Function) -> Option<Arc<str>> {
        self.own_name(global, function).or_else(|| {
            // Its VM may not have been whole when it was read, or be gone.
            self.functions.names.values().find_map(|known| known.names.shared(function))
        })
    }

    /// The name of a builtin or C function in its VM.
    fn own_name(&mut self, global: u64, function: &Function) -> Option<Arc<str>> {
        let LuaFunctions { names, latest, .. } = &mut *self.functions;
        let known = vm_names(self.view, names, latest, global)?;
        if let Some(name) = known.names.function(function) {
            return Some(name);
        }
        // Perhaps of a module that has been loaded since.
        let start = self.view.process.now();
        if latest.is_some_and(|(_, again)| start < again + NAMES_PAUSE) {
            return None;
        }
        known.names = Names::read(&self.view.memory, &known.vm);
        *latest = Some((known.vm.g, again_after(*latest, start, self.view.process.now())));
        known.names.function(function)
    }
}

/// The frames of an activation in the piece behind the one at `index`.
fn next_frames<'a>(pieces: &[Piece], index: usize, activations: &'a [Activation], activation: usize) -> &'a [LuaFrame] {
    match pieces.get(index + 1) {
        Some(Piece::Lua { activation: same, frames }) if *same == activation => {
            &activations[activation].frames[frames.clone()]
        }
        _ => &[],
    }
}

/// The names of a VM, read when first needed; or, while it is too early for that or when it is gone already, those of the VM
/// read last: VMs of one process share builtins and C functions, and names of Lua functions are taken only for the very same
/// prototype.
fn vm_names<'a>(
    view: &View,
    names: &'a mut FxHashMap<u64, VmNames>,
    latest: &mut Option<(u64, Duration)>,
    global: u64,
) -> Option<&'a mut VmNames> {
    if latest.is_none() {
        // Of the VMs that are there in the beginning one may stay, and name what those that come and go have in common with it.
        for other in view.lua.as_ref()?.traces.keys().take(FIRST_VMS) {
            read_names(view, names, latest, *other);
        }
    }
    if names.contains_key(&global) {
        return names.get_mut(&global);
    }
    let early = latest.filter(|(_, again)| view.process.now() + NAMES_AHEAD < *again);
    if early.is_some() || !read_names(view, names, latest, global) {
        return names.get_mut(&(*latest)?.0);
    }
    names.get_mut(&global)
}

/// Reads the names of a VM. Whether it is there.
fn read_names(
    view: &View,
    names: &mut FxHashMap<u64, VmNames>,
    latest: &mut Option<(u64, Duration)>,
    global: u64,
) -> bool {
    let start = view.process.now();
    let Some(lua) = &view.lua else { return false };
    let Ok(vm) = Vm::validate(&view.memory, global, &lua.layout) else { return false };
    if names.len() >= MOST_VMS {
        names.clear();
    }
    let read = Names::read(&view.memory, &vm);
    *latest = Some((global, again_after(*latest, start, view.process.now())));
    names.insert(global, VmNames { vm, names: read });
    true
}

/// When names may be read again, after a reading from `start` to `end`.
fn again_after(latest: Option<(u64, Duration)>, start: Duration, end: Duration) -> Duration {
    latest.map_or(start, |(_, again)| again.max(start)) + end.saturating_sub(start) * NAMES_SHARE
}

/// The text of a source file as the process sees it. Nothing, when it is not there, no ordinary file, or too large, or when
/// it has been changed since the process started: then it may say something else than what was loaded.
fn source_text(process: &Process, path: &str) -> Option<Arc<[u8]>> {
    let path = Path::new(path);
    let file = if path.is_absolute() {
        process.unchanged_file(path)
    } else {
        process.unchanged_file(&process.working_directory().ok()?.join(path))
    };
    let file = file.ok()?;
    if file.metadata().ok()?.len() > MAX_SOURCE as u64 {
        return None;
    }
    let mut text = Vec::new();
    file.take(MAX_SOURCE as u64).read_to_end(&mut text).ok()?;
    Some(text.into())
}

/// `vmstate` while a trace is being left (`~LJ_VMST_EXIT`).
const VMST_EXIT: i32 = -4;

/// What the innermost VM was doing (`LJ_VMST_*`, `lj_obj.h`, inverted; a trace's number on a trace).
fn state(header: &Header) -> State {
    match header.vmstate {
        _ if header.g == 0 => State::Outside,
        0.. => State::Compiled,
        -2 => State::C,
        -3 => State::Collector,
        VMST_EXIT => State::Exit,
        -7..=-5 => State::Compiler,
        _ => State::Interpreter,
    }
}

/// Whether a frame is the one that the running trace was entered in.
fn is_base(activation: &Activation, frame: &LuaFrame) -> bool {
    activation.base == activation.stack + u64::from(frame.slot) * 8 && activation.frames.first() == Some(frame)
}

fn frame_of(function: &LuaFunction, pc: Option<u64>, kind: FrameKind) -> Frame {
    let proto = &function.proto;
    if proto.is_builtin() {
        // LuaJIT's own functions written in Lua, such as `table.foreachi`, have no source and no lines.
        return Frame {
            kind: FrameKind::Builtin,
            name: function.name.clone(),
            file: None,
            first_line: 0,
            line: 0,
            unresolved: false,
        };
    }
    let line = pc.and_then(|pc| proto.line(proto.index_of(pc)?)).unwrap_or(0);
    Frame {
        kind,
        name: function.name.clone(),
        file: Some(Arc::clone(&function.file)),
        first_line: function.first_line,
        line,
        unresolved: false,
    }
}

fn marker(name: &str, unresolved: bool) -> Frame {
    Frame { kind: FrameKind::Marker, name: Some(name.into()), file: None, first_line: 0, line: 0, unresolved }
}

fn is_lua(kind: FrameKind) -> bool {
    matches!(kind, FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined)
}

/// Why native frames are missing, as a reason for the summary.
fn gap(error: StepError) -> String {
    format!("native frames could not be unwound: {error}")
}
