//! From the probe's raw walk to activations: which Lua frames each thread has, what each of them is doing, and which C
//! frame each of them runs in.
//!
//! The rules are those of `lj_debug_frame` and `err_unwind` (`lj_debug.c`, `lj_err.c`), which walk the same chains.

use std::ops::Range;

use luaflame_ebpf::{Entry, base, entry, frame};

use super::arch::{LinkType, SLOT_SIZE, Tag};
use super::layout::Layout;
use super::memory::Memory;
use super::object::byte_at;
use super::proto::{Fingerprint, Proto};

/// A thread (coroutine) that is active on the native stack, as it was when the sample was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// Its `lua_State`.
    pub thread: u64,
    /// Its `global_State`: the VM.
    pub global: u64,
    /// Start of its Lua stack.
    pub stack: u64,
    /// Base of its innermost frame.
    pub base: u64,
    /// Where that base is from.
    pub source: Source,
    /// Its C frames, innermost first.
    pub cframes: Vec<CFrame>,
    /// Its Lua frames, innermost first; the pseudo frames of vararg functions are merged with the frames they belong to.
    pub frames: Vec<LuaFrame>,
    /// Frames are missing before this index of `frames`: the probe's limit was reached.
    pub cut: Option<usize>,
    /// Frames are missing behind the outermost ones: the chain of C frames or of Lua frames leads nowhere, or further than
    /// the probe follows it.
    pub broken: bool,
    /// Frames may be missing before the innermost one: the interpreter was between two frames, where none of its registers
    /// tells.
    pub leaf_unknown: bool,
}

/// Where the base of an activation's innermost frame is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `L->base` of a thread that has called C.
    State,
    /// `jit_base`, on a trace.
    Trace,
    /// The interpreter's registers.
    Register,
    /// The caller's frame, in the middle of a call or return: a C function's, or the one that the PC register is in.
    Caller,
    /// A register that holds BASE across a call of a C helper.
    Saved,
    /// `L->base` while the interpreter runs: innermost frames may be missing.
    Stale,
    /// The interpreter's registers right after a trace was left.
    Restored,
}

/// One C frame (`CFRAME_*`, `lj_frame.h`) of the VM's assembly on the native stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CFrame {
    /// Address: the stack pointer while the VM runs in it.
    pub address: u64,
    /// `SAVE_L`.
    pub thread: u64,
    /// `SAVE_PC`, or something outside of bytecode.
    pub pc: u64,
    /// `SAVE_NRES`; negative: a stack offset, and the C frame has no Lua frame below that offset.
    pub nres: i32,
}

/// One Lua frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LuaFrame {
    /// Number of its base on the Lua stack.
    pub slot: u32,
    /// The function object, as it was called.
    pub function: u64,
    /// What the function is.
    pub kind: Kind,
    /// The instruction after the one being run, in the bytecode of the function; `None` when it is not known.
    pub pc: Option<u64>,
    /// Index of the C frame that it runs in, or `None` when there is none left.
    pub cframe: Option<usize>,
    /// C code called it: it is the outermost frame that runs in its C frame.
    pub from_c: bool,
    /// The PC register is where its caller goes on: the function is being called or is returning. Which of them, and by which
    /// instruction, the interpreter's code address tells ([`super::handlers`]).
    pub edge: bool,
    /// The PC that a link into it claims is not in its bytecode: this is not the frame that the link belongs to.
    pub torn: bool,
}

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A Lua function.
    Lua(Prototype),
    /// A C function, by its address.
    C {
        /// Address of its code.
        pointer: u64,
    },
    /// A builtin implemented in the VM's assembly, perhaps with a C part.
    Fast {
        /// Its number (`ffid`), which differs from build to build.
        id: u8,
        /// Address of its C part.
        pointer: u64,
    },
    /// It could not be read.
    Unknown,
}

/// A prototype as the probe saw it; its memory may hold another one by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prototype {
    /// Address of its first bytecode instruction.
    pub code: u64,
    /// What identifies its chunk name.
    pub chunk: u64,
    /// First line of its definition.
    pub firstline: u32,
    /// Number of lines of its definition.
    pub numline: u32,
    /// Number of bytecode instructions.
    pub sizebc: u32,
}

impl Prototype {
    /// The prototype at an address as the probe would see it now.
    pub fn read(memory: &dyn Memory, layout: &Layout, address: u64) -> Option<Prototype> {
        let header = memory.bytes(address, layout.proto.size as usize).ok()?;
        if byte_at(&header, layout.proto.gct) != Tag::Proto.gct() {
            return None;
        }
        let print = Proto::fingerprint_of(memory, layout, &header).ok()?;
        Some(Prototype::with(address.checked_add(u64::from(layout.proto.size))?, print))
    }

    /// A prototype that was copied, as the probe would have seen it.
    pub fn of(proto: &Proto) -> Prototype {
        Prototype::with(proto.bytecode, proto.fingerprint())
    }

    fn with(code: u64, print: Fingerprint) -> Prototype {
        let Fingerprint { chunk, firstline, numline, sizebc } = print;
        Prototype { code, chunk, firstline, numline, sizebc }
    }

    /// Whether the interpreter can be at `pc` in this prototype: one past the instruction being run, or at the very first
    /// one while the function is being entered.
    pub fn contains(&self, pc: u64) -> bool {
        pc >= self.code && pc - self.code <= u64::from(self.sizebc) * 4 && pc.is_multiple_of(4)
    }
}

impl LuaFrame {
    /// The prototype of a Lua function.
    pub fn prototype(&self) -> Option<&Prototype> {
        match &self.kind {
            Kind::Lua(prototype) => Some(prototype),
            _ => None,
        }
    }
}

impl Activation {
    /// The frames that run in a C frame, innermost first.
    pub fn segment(&self, cframe: usize) -> Range<usize> {
        let of = |frame: &LuaFrame| frame.cframe.unwrap_or(usize::MAX);
        let start = self.frames.partition_point(|frame| of(frame) < cframe);
        let end = self.frames.partition_point(|frame| of(frame) <= cframe);
        start..end
    }
}

/// Takes the probe's walk apart: one activation after the other, innermost first. `cut` is the number of entries before
/// the place where entries are missing; `pc` is the interpreter's PC register, which an
/// activation may say that C code has saved.
pub fn activations(entries: &[Entry], cut: Option<usize>, mut pc: u64) -> Vec<Activation> {
    let mut activations: Vec<Activation> = Vec::new();
    let mut raw: Vec<Raw> = Vec::new();
    let mut number = 0u16;
    for (index, entry) in entries.iter().enumerate() {
        let behind_cut = cut.is_some_and(|cut| index >= cut);
        if entry.kind == entry::ACTIVATION {
            finish(activations.last_mut(), &mut raw, pc);
            number = number.wrapping_add(1);
            if behind_cut {
                // How many activations were cut out is not known; the next entry will tell.
                number = u16::MAX;
            }
            let [thread, global, _, base, stack] = entry.words;
            let source = source(entry.slot);
            let saved = u64::from(entry.numbers[2]) << 32 | u64::from(entry.numbers[1]);
            if saved != 0 {
                pc = saved;
            }
            activations.push(Activation {
                thread,
                global,
                stack,
                base,
                source,
                cframes: Vec::new(),
                frames: Vec::new(),
                cut: None,
                broken: false,
                leaf_unknown: false,
            });
            continue;
        }
        let owner = entry.flags >> frame::ACTIVATION_SHIFT;
        if number == u16::MAX {
            number = owner;
        }
        if activations.is_empty() || owner != number & (u16::MAX >> frame::ACTIVATION_SHIFT) {
            // Behind a cut: what this belongs to was cut out. Its frames still are the truth, without a place on the
            // native stack.
            finish(activations.last_mut(), &mut raw, pc);
            number = owner;
            activations.push(Activation {
                thread: 0,
                global: 0,
                stack: 0,
                base: 0,
                source: Source::State,
                cframes: Vec::new(),
                frames: Vec::new(),
                cut: Some(0),
                broken: false,
                leaf_unknown: false,
            });
        }
        let Some(activation) = activations.last_mut() else { continue };
        match entry.kind {
            entry::CFRAME => activation.cframes.push(CFrame {
                address: entry.words[0],
                thread: entry.words[2],
                pc: entry.words[3],
                nres: entry.numbers[0].cast_signed(),
            }),
            entry::FRAME => raw.push(Raw { entry: *entry, behind_cut }),
            entry::BROKEN => activation.broken = true,
            _ => {}
        }
    }
    finish(activations.last_mut(), &mut raw, pc);
    activations
}

struct Raw {
    entry: Entry,
    behind_cut: bool,
}

fn source(number: u32) -> Source {
    match number {
        base::TRACE => Source::Trace,
        base::REGISTER => Source::Register,
        base::CALLER => Source::Caller,
        base::SAVED => Source::Saved,
        base::STALE => Source::Stale,
        base::RESTORED => Source::Restored,
        _ => Source::State,
    }
}

fn kind(entry: &Entry) -> Kind {
    if entry.flags & (frame::NO_FUNCTION | frame::NO_PROTO) != 0 {
        return Kind::Unknown;
    }
    match entry.ffid {
        0 => Kind::Lua(Prototype {
            code: entry.words[2],
            chunk: entry.words[4],
            firstline: entry.numbers[1],
            numline: entry.numbers[2],
            sizebc: entry.numbers[3],
        }),
        1 => Kind::C { pointer: entry.words[2] },
        id => Kind::Fast { id, pointer: entry.words[2] },
    }
}

/// Which C frame each of the raw frames runs in, and the number of C frames that this uses up.
fn place(raw: &[Raw], cframes: &[CFrame], first: usize) -> (Vec<usize>, usize) {
    let mut cframe = first;
    // For each frame the offset of the outermost one that runs in the same C frame. Those above it may be new: a trace that is
    // left writes them to the Lua stack from a C frame of `lj_vm_cpcall`, in which none of them runs.
    let offset = |raw: &Raw| (u64::from(raw.entry.slot) * SLOT_SIZE).wrapping_sub(SLOT_SIZE);
    let mut offsets: Vec<u64> = raw.iter().map(offset).collect();
    for index in (1..raw.len()).rev() {
        let inner = &raw[index - 1];
        if !called_from_c(&inner.entry) && inner.behind_cut == raw[index].behind_cut {
            offsets[index - 1] = offsets[index];
        }
    }
    let places = raw
        .iter()
        .zip(offsets)
        .map(|(Raw { entry, .. }, offset)| {
            // A C frame whose Lua frame has not been pushed: `lj_vm_cpcall`.
            while let Some(c) = cframes.get(cframe)
                && c.nres < 0
                && offset < u64::from(c.nres.unsigned_abs())
            {
                cframe += 1;
            }
            let place = cframe;
            if called_from_c(entry) {
                cframe += 1;
            }
            place
        })
        .collect();
    (places, cframe)
}

/// Whether C code called a frame: then it is the outermost one in its C frame.
fn called_from_c(entry: &Entry) -> bool {
    match LinkType::of(entry.words[0]) {
        LinkType::C | LinkType::ProtectedC => true,
        LinkType::Continuation => entry.flags & frame::FFI_CALLBACK != 0,
        _ => false,
    }
}

/// Whether `pc` is where the caller of a frame goes on; the type of the link may have been taken off. For a vararg function
/// that returns, it is the link of its pseudo frame for some instructions.
fn returns_to(entry: &Entry, pc: u64) -> bool {
    let link = entry.words[0];
    pc == link || LinkType::of(pc) == LinkType::Vararg || link & 3 != 0 && pc & !7 == link & !7
}

/// Turns the raw frames of an activation into frames.
fn finish(activation: Option<&mut Activation>, raw: &mut Vec<Raw>, register: u64) {
    let Some(activation) = activation else {
        raw.clear();
        return;
    };
    // What the frame nearer to the leaf says about where this one is.
    let mut known = match activation.source {
        Source::Register | Source::Saved | Source::Caller => Known::Register(register),
        // There the register is at the next instruction, elsewhere past it.
        Source::Restored => Known::Register(register.wrapping_add(4)),
        Source::State => Known::SavePc,
        Source::Trace | Source::Stale => Known::No,
    };
    let cut = raw.iter().position(|raw| raw.behind_cut);
    let (mut places, used) = place(raw, &activation.cframes, 0);
    // The C frame of a call that has no Lua frame yet, or no longer, while the VM is entered or left.
    let all = activation.cframes.len();
    let mut entering = cut.is_none() && !activation.broken && used != all;
    if entering {
        let (later, used) = place(raw, &activation.cframes, 1);
        entering = used == all;
        if entering {
            places = later;
            known = Known::SavePc;
        }
    }
    let mut merging = false;
    for (index, (Raw { entry, .. }, place)) in raw.drain(..).zip(places).enumerate() {
        if cut == Some(index) {
            merging = false;
            known = Known::No;
            activation.cut = Some(activation.frames.len());
        }
        let from_c = called_from_c(&entry);
        if merging && let Some(top) = activation.frames.last_mut() {
            // The frame that the pseudo frame above was made from: the same call; its link is the real one.
            top.from_c = from_c;
        } else {
            let kind = kind(&entry);
            let mut torn = false;
            let edge = matches!((&kind, known), (Kind::Lua(_), Known::Register(pc)) if returns_to(&entry, pc));
            let pc = match (&kind, known) {
                (Kind::Lua(prototype), Known::Exact(pc) | Known::Continuation(pc)) => {
                    torn = !prototype.contains(pc);
                    Some(pc).filter(|_| !torn)
                }
                (Kind::Lua(prototype), Known::Register(pc)) if prototype.contains(pc) => Some(pc),
                (Kind::Lua(prototype), Known::SavePc | Known::Register(_)) if !edge => {
                    activation.cframes.get(place).map(|c| c.pc).filter(|pc| prototype.contains(*pc))
                }
                // Only Lua functions are called with a return PC into bytecode.
                (_, Known::Exact(_)) => {
                    torn = true;
                    None
                }
                _ => None,
            };
            activation.frames.push(LuaFrame {
                slot: entry.slot,
                function: entry.words[1],
                kind,
                pc,
                cframe: (place < activation.cframes.len()).then_some(place),
                from_c,
                edge,
                torn,
            });
        }
        let link = LinkType::of(entry.words[0]);
        known = match link {
            _ if from_c => Known::SavePc,
            LinkType::Lua => Known::Exact(entry.words[0]),
            LinkType::Continuation => Known::Continuation(entry.words[3]),
            _ => Known::No,
        };
        merging = link == LinkType::Vararg;
    }
    if let Some(cut) = activation.cut {
        place_from_the_root(activation, cut);
    }
    if activation.source == Source::Stale && !entering {
        // The base is one that a call to C left behind, and its frame may be gone. What the C frame was entered with
        // still runs.
        let outermost = activation.frames.iter().position(|frame| frame.from_c).unwrap_or(activation.frames.len());
        activation.frames.drain(..outermost);
        activation.cut = activation.cut.map(|cut| cut.saturating_sub(outermost));
        if let Some(frame) = activation.frames.first_mut() {
            frame.pc = None;
        }
        activation.leaf_unknown = true;
    }
}

/// What is known about where a frame is, from the frame that it called.
#[derive(Clone, Copy)]
enum Known {
    /// Nothing.
    No,
    /// Where the interpreter's PC register is, if that is in its bytecode.
    Register(u64),
    /// Exactly this: a return PC.
    Exact(u64),
    /// It called a metamethod from here; or it is a C function that called one as a tail call, then this is where its
    /// own caller is.
    Continuation(u64),
    /// It called C: what its C frame saved, if that is in its bytecode.
    SavePc,
}

/// Behind a cut, C frames are counted from the root: the last frame that owns a C frame owns the last one.
fn place_from_the_root(activation: &mut Activation, cut: usize) {
    let mut cframe = activation.cframes.len();
    for lua in activation.frames[cut..].iter_mut().rev() {
        if lua.from_c {
            cframe = cframe.saturating_sub(1);
        }
        lua.cframe = (cframe < activation.cframes.len()).then_some(cframe);
    }
}
