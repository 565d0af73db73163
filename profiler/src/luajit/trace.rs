//! Compiled traces (`GCtrace`): machine code, and what is needed to say which Lua frames run in it.
//!
//! A trace is a straight line of bytecode through any number of functions, compiled as one piece. Its machine code holds
//! no frames: which Lua functions are active is only in the trace's snapshots. A [`Trace`] is a copy of one trace object,
//! read and checked as a whole; [`Trace::position`] finds the snapshot of a place in its machine code, and
//! [`Trace::frames`](crate::luajit::snapshot) the frames of a snapshot.
//!
//! # What a snapshot says about a place in the machine code
//!
//! Snapshots are taken while a trace is recorded, each at one bytecode instruction; the IR recorded from there on belongs
//! to it until the next is taken, and the assembler keeps the order. `SnapShot.mcofs` is where the machine code of a
//! snapshot's first IR instruction begins, and all guards from there up to the next snapshot's `mcofs` leave the trace
//! through it. So a machine-code address gives the snapshot exactly, and the snapshot an exact bytecode instruction and
//! frame chain; but the instruction being run is that one *or a later one*, before the next snapshot. LuaJIT takes a
//! snapshot after stores and calls of C functions and before comparisons, but drops it again when no guard follows before
//! the next. So the lag ends with the next guard after one of these, usually after a few instructions. The
//! consequences:
//!
//! - An inlined function without a guard after a store or a comparison of its own gets no snapshot. Its time is counted in
//!   its caller, or in what ran before it on the trace.
//! - What the loop optimisation hoisted runs in the first part of the trace, once for each entry. The second part, the
//!   loop, keeps only the snapshots that still have guards.
//! - Machine code before the first snapshot's IR (the trace's head) belongs to the first snapshot: the state in which the
//!   trace is entered.

use std::ops::Range;

use super::arch::Model;
use super::branch::{self, Point};
use super::exit_stub::{ExitStubs, Guards};
use super::layout::{self, Layout};
use super::memory::Memory;
use super::object::{read_reference, reference_at};

/// IR references below this are constants (`REF_BIAS`), this one is the instruction `BASE`.
pub(super) const REF_BIAS: u16 = 0x8000;
/// Size of `IRIns`.
const IR_SIZE: usize = 8;
/// `~LJ_TTRACE`, `~LJ_TPROTO`: the type byte of a collectable object.
const GCT_TRACE: u8 = 9;
const GCT_PROTO: u8 = 7;
/// IR types (`IRT_*`) of constants, and the mask that removes the flags.
const IRT_TYPE: u8 = 0x1f;
const IRT_PROTO: u8 = 7;
const IRT_FUNC: u8 = 8;
/// IR opcodes of constants, counted from `KPRI`; this order is the same in all builds. A 64-bit value, which references are
/// with GC64, is in a second IR slot. (`KPRI`, `KINT`, `KNULL` and `KSLOT` have no such.)
const KGC: u8 = 2;
const KPTR: u8 = 3;
const KKPTR: u8 = 4;
const KNUM: u8 = 6;
const KINT64: u8 = 7;
/// A machine-code offset has 16 bits since snapshots hold one; before, a machine-code area (64 KiB by default) was the
/// limit.
const MAX_MCODE: u32 = 1 << 20;
/// `LJ_MAX_EXITSTUBGR * EXITSTUBS_PER_GROUP` limits the snapshots of a trace to 512 on x86-64; other targets have no such
/// limit but that of `maxsnap`, 500 by default.
const MAX_SNAPSHOTS: u16 = 1024;
/// `nent` has 8 bits. With GC64 two more words hold the PC, without there is one for it and one for each of the links, which
/// are fewer than entries.
const MAX_SNAPSHOT_WORDS: u32 = 511;
/// Instructions of one prototype (`BCMAX_D` limits jumps, this is generous).
const MAX_BYTECODE: u32 = 1 << 26;
/// Bytes of the bytecode of one prototype that are looked through for where a trace goes.
const MAX_READ: usize = 64 << 10;
/// Prototypes remembered for one trace, its parents' included.
const MAX_PROTOTYPES: usize = 512;

/// Why a trace ends and where it goes on (`TraceLink`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// Incomplete.
    None,
    /// To a root trace.
    Root,
    /// Loops to itself.
    Loop,
    /// Tail recursion, to itself.
    TailRecursion,
    /// Up-recursion: each round leaves another frame on the Lua stack and moves `jit_base` up.
    UpRecursion,
    /// Down-recursion: each round returns to a lower frame and moves `jit_base` down.
    DownRecursion,
    /// Back to the interpreter, because too many side traces failed.
    Interpreter,
    /// Back to the interpreter, at a return.
    Return,
    /// Back to the interpreter to run a function that can't be compiled; after it another trace goes on.
    Stitch,
}

impl LinkType {
    fn from_byte(byte: u8) -> Option<LinkType> {
        Some(match byte {
            0 => LinkType::None,
            1 => LinkType::Root,
            2 => LinkType::Loop,
            3 => LinkType::TailRecursion,
            4 => LinkType::UpRecursion,
            5 => LinkType::DownRecursion,
            6 => LinkType::Interpreter,
            7 => LinkType::Return,
            8 => LinkType::Stitch,
            _ => return None,
        })
    }
}

/// The fields of a `GCtrace` that never change while the trace lives: equal headers at one address are one trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) address: u64,
    pub(super) number: u16,
    pub(super) root: u16,
    link_type: LinkType,
    nsnap: u16,
    nsnapmap: u32,
    pub(super) nins: u32,
    nk: u32,
    pub(super) ir: u64,
    snap: u64,
    snapmap: u64,
    start_prototype: u64,
    start_pc: u64,
    start_instruction: u32,
    pub(super) mcode: u64,
    pub(super) mcode_size: u32,
    loop_offset: u32,
    stack_adjust: u16,
}

/// Little-endian fields of a struct that was read as bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).ok()?;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }
    fn u8(&self, offset: u32) -> Option<u8> {
        self.array(offset).map(u8::from_le_bytes)
    }
    fn u16(&self, offset: u32) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }
    fn u32(&self, offset: u32) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }
    fn u64(&self, offset: u32) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
    fn reference(&self, model: Model, offset: u32) -> Option<u64> {
        let bytes = self.0.get(offset as usize..)?;
        (bytes.len() as u64 >= model.reference_size()).then(|| reference_at(model, bytes, 0))
    }
}

impl Header {
    /// Parses the bytes of a `GCtrace` at `address`, and accepts it only when it is a finished trace: a trace that is
    /// being recorded or assembled lies in `jit_State` with its parts elsewhere, a finished one is one block of memory
    /// (`trace_save`).
    pub(super) fn parse(address: u64, bytes: &[u8], layout: &Layout) -> Option<Header> {
        let at = &layout.trace;
        let fields = Fields(bytes);
        if fields.u8(at.gct)? != GCT_TRACE {
            return None;
        }
        let nsnapmap =
            if at.has_short_snapmap() { u32::from(fields.u16(at.nsnapmap)?) } else { fields.u32(at.nsnapmap)? };
        let header = Header {
            address,
            number: fields.u16(at.traceno)?,
            root: fields.u16(at.root)?,
            link_type: LinkType::from_byte(fields.u8(at.linktype)?)?,
            nsnap: fields.u16(at.nsnap)?,
            nsnapmap,
            nins: fields.u32(at.nins)?,
            nk: fields.u32(at.nk)?,
            ir: fields.u64(at.ir)?,
            snap: fields.u64(at.snap)?,
            snapmap: fields.u64(at.snapmap)?,
            start_prototype: fields.reference(layout.model, at.startpt)?,
            start_pc: fields.reference(layout.model, at.startpc)?,
            start_instruction: fields.u32(at.startins)?,
            mcode: fields.u64(at.mcode)?,
            mcode_size: fields.u32(at.szmcode)?,
            loop_offset: fields.u32(at.mcloop)?,
            stack_adjust: fields.u16(at.spadjust)?,
        };
        header.is_finished(layout).then_some(header)
    }

    fn is_finished(&self, layout: &Layout) -> bool {
        let bias = u32::from(REF_BIAS);
        if self.nk == 0 || self.nk > bias || self.nins <= bias || self.nins > 0x1_0000 {
            return false;
        }
        if self.nsnap == 0 || self.nsnap > MAX_SNAPSHOTS {
            return false;
        }
        if self.nsnapmap > u32::from(self.nsnap) * MAX_SNAPSHOT_WORDS {
            return false;
        }
        if self.mcode_size == 0 || self.mcode_size > MAX_MCODE || self.loop_offset > self.mcode_size {
            return false;
        }
        if self.mcode == 0 || self.mcode.checked_add(u64::from(self.mcode_size)).is_none() {
            return false;
        }
        let struct_size = (u64::from(layout.trace.size) + 7) & !7;
        let ir = self.address.wrapping_add(struct_size);
        let snap = ir.wrapping_add(u64::from(self.nins - self.nk) * IR_SIZE as u64);
        let snapmap = snap.wrapping_add(u64::from(self.nsnap) * u64::from(layout.snapshot.size));
        self.ir.wrapping_add(u64::from(self.nk) * IR_SIZE as u64) == ir && self.snap == snap && self.snapmap == snapmap
    }

    pub(super) fn mcode(&self) -> Range<u64> {
        self.mcode..self.mcode + u64::from(self.mcode_size)
    }

    /// Bytes from the trace object's start to the end of its snapshot map. At most about 1.8 MiB.
    fn block_size(&self) -> Option<usize> {
        let end = self.snapmap.checked_add(u64::from(self.nsnapmap) * 4)?;
        usize::try_from(end.checked_sub(self.address)?).ok()
    }
}

/// The exit of another trace at which a side trace begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParentExit {
    pub(super) trace: u16,
    pub(super) exit: u16,
}

/// The parent's exit, as the IR instruction `BASE` of a side trace says.
pub(super) fn parent_exit(base: [u8; 4]) -> ParentExit {
    ParentExit { trace: u16::from_le_bytes([base[0], base[1]]), exit: u16::from_le_bytes([base[2], base[3]]) }
}

/// One snapshot of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Offset in the machine code from which on this is the last snapshot.
    pub offset: u32,
    /// Index of the first entry in the snapshot map.
    pub(super) map_offset: u32,
    /// Number of entries; the words after them hold the PC.
    pub(super) entries: u8,
    /// Its first IR instruction.
    reference: u16,
    /// Address of the bytecode where the trace goes on, when that is not what the snapshot holds ([`branch`]).
    pub(super) way: Option<u64>,
}

/// A prototype whose functions a trace may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PrototypeCode {
    pub(super) prototype: u64,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl PrototypeCode {
    pub(super) fn contains(&self, pc: u64) -> bool {
        (self.start..self.end).contains(&pc)
    }

    /// Reads where the bytecode of a prototype lies.
    pub(super) fn read(memory: &(impl Memory + ?Sized), at: &layout::Proto, prototype: u64) -> Option<PrototypeCode> {
        if memory.u8(prototype.checked_add(u64::from(at.gct))?).ok()? != GCT_PROTO {
            return None;
        }
        let instructions = memory.u32(prototype.checked_add(u64::from(at.sizebc))?).ok()?;
        if instructions == 0 || instructions > MAX_BYTECODE {
            return None;
        }
        let start = prototype.checked_add(u64::from(at.size))?;
        Some(PrototypeCode { prototype, start, end: start.checked_add(u64::from(instructions) * 4)? })
    }
}

/// What a function object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    /// A closure of this prototype.
    Lua(PrototypeCode),
    /// A C function or a builtin.
    Builtin,
}

impl Function {
    /// Reads what the function object at `address` is.
    pub(super) fn read(memory: &(impl Memory + ?Sized), layout: &Layout, address: u64) -> Option<Function> {
        if memory.u8(address.checked_add(u64::from(layout.func.ffid))?).ok()? != 0 {
            return Some(Function::Builtin);
        }
        let code = read_reference(memory, layout.model, address.checked_add(u64::from(layout.func.pc))?).ok()?;
        let prototype = code.checked_sub(u64::from(layout.proto.size))?;
        PrototypeCode::read(memory, &layout.proto, prototype).map(Function::Lua)
    }
}

/// A constant of a trace's IR, as far as frames need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Constant {
    /// A function object.
    Function(u64),
    /// A prototype.
    Prototype(u64),
    /// A 64-bit number: a frame link, a continuation or a PC.
    Word(u64),
    /// Any other.
    Other,
}

/// A copy of one compiled trace.
#[derive(Debug)]
pub struct Trace {
    pub(super) header: Header,
    snapshots: Box<[Snapshot]>,
    map: Box<[u32]>,
    model: Model,
    /// IR constants from `nk` to `REF_BIAS`, raw.
    constants: Box<[[u8; IR_SIZE]]>,
    /// The opcode `KPRI`: opcodes differ between builds, their order among the constants does not.
    kpri: u8,
    functions: Box<[(u64, Function)]>,
    prototypes: Box<[PrototypeCode]>,
    /// The VM's block (`GG_State`), in which the one-instruction bytecode of builtins and C functions is.
    vm: Range<u64>,
    /// Machine-code offset of the jump at the end, when `jit_base` has been moved before it.
    moved_base_from: Option<u32>,
    /// The exit stubs of its VM, as far as there were any when it was made: its own are among them.
    exit_stubs: ExitStubs,
}

/// Where in a trace a machine-code address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Index of the last snapshot before the address.
    pub snapshot: usize,
    /// The address is in the jump to another trace at the end of this one: the frames of the snapshot have been written
    /// to the Lua stack and `jit_base` is the innermost of them already.
    pub leaving: bool,
    /// The exit of the snapshot is being taken.
    pub exit: bool,
}

impl Trace {
    /// Copies the trace that `header` describes. `None` when it is not there any more or does not make sense.
    pub(super) fn read(
        memory: &(impl Memory + ?Sized),
        layout: &Layout,
        vm: Range<u64>,
        header: Header,
        parent: Option<&Trace>,
        guards: &Guards,
    ) -> Option<Trace> {
        let block = memory.bytes(header.address, header.block_size()?).ok()?;
        if Header::parse(header.address, &block, layout)? != header {
            return None;
        }
        let part = |address: u64, length: usize| {
            let start = usize::try_from(address.checked_sub(header.address)?).ok()?;
            block.get(start..start.checked_add(length)?)
        };
        let constants: Box<[[u8; IR_SIZE]]> = part(
            header.ir.wrapping_add(u64::from(header.nk) * IR_SIZE as u64),
            (usize::from(REF_BIAS) - header.nk as usize) * IR_SIZE,
        )?
        .as_chunks()
        .0
        .into();
        let kpri = primitives(&constants)?;
        let map: Box<[u32]> = part(header.snapmap, header.nsnapmap as usize * 4)?
            .as_chunks()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
            .collect();
        let code = memory.bytes(header.mcode, header.mcode_size as usize).ok()?;
        let mut snapshots: Box<[Snapshot]> =
            part(header.snap, usize::from(header.nsnap) * layout.snapshot.size as usize)?
                .chunks_exact(layout.snapshot.size.max(1) as usize)
                .map(|bytes| read_snapshot(&Fields(bytes), layout, map.len()))
                .collect::<Option<_>>()?;
        if layout.snapshot.mcofs.is_none() {
            guards.place_snapshots(&header, &code, &mut snapshots);
        }
        if !snapshots.is_sorted_by_key(|snapshot| snapshot.offset) || snapshots[0].offset != 0 {
            return None;
        }
        let moved_base_from = moved_base_from(&code);
        let mut trace = Trace {
            header,
            snapshots,
            map,
            model: layout.model,
            constants,
            kpri,
            functions: Box::default(),
            prototypes: Box::default(),
            vm,
            moved_base_from,
            exit_stubs: guards.stubs.clone(),
        };
        trace.read_functions(memory, layout, parent);
        let first = header.ir.wrapping_add(u64::from(REF_BIAS) * IR_SIZE as u64);
        let instructions = part(first, (header.nins as usize - usize::from(REF_BIAS)) * IR_SIZE)?;
        trace.find_ways(memory, instructions.as_chunks().0);
        Some(trace)
    }

    /// Reads the functions and prototypes among the constants. A trace keeps them alive, so this is done once.
    fn read_functions(&mut self, memory: &(impl Memory + ?Sized), layout: &Layout, parent: Option<&Trace>) {
        let mut functions = Vec::new();
        let mut prototypes: Vec<PrototypeCode> = Vec::new();
        let mut remember = |code: PrototypeCode| {
            if prototypes.len() < MAX_PROTOTYPES && !prototypes.contains(&code) {
                prototypes.push(code);
            }
        };
        if let Some(code) = PrototypeCode::read(memory, &layout.proto, self.header.start_prototype) {
            remember(code);
        }
        let mut index = 0;
        while index < self.constants.len() {
            let (constant, slots) = self.constant_at(index);
            match constant {
                Constant::Function(address) if functions.len() < MAX_PROTOTYPES => {
                    if let Some(function) = Function::read(memory, layout, address) {
                        functions.push((address, function));
                        if let Function::Lua(code) = function {
                            remember(code);
                        }
                    }
                }
                Constant::Prototype(address) => {
                    if let Some(code) = PrototypeCode::read(memory, &layout.proto, address) {
                        remember(code);
                    }
                }
                _ => {}
            }
            index += slots;
        }
        for code in parent.iter().flat_map(|parent| parent.prototypes.iter()) {
            remember(*code);
        }
        self.functions = functions.into();
        self.prototypes = prototypes.into();
    }

    /// Finds out where the trace goes on behind comparisons, given its IR instructions without the constants.
    fn find_ways(&mut self, memory: &(impl Memory + ?Sized), instructions: &[[u8; IR_SIZE]]) {
        let ends = self.snapshots.iter().skip(1).map(|snapshot| usize::from(snapshot.reference)).chain([usize::MAX]);
        let points: Vec<Point> = (self.snapshots.iter().zip(ends).enumerate())
            .map(|(number, (snapshot, end))| {
                let start = usize::from(snapshot.reference).saturating_sub(REF_BIAS.into());
                let end = end.saturating_sub(REF_BIAS.into()).min(instructions.len());
                let compares = instructions.get(start..end).is_some_and(branch::compares);
                Point { pc: self.pc_of(number).unwrap_or_default(), compares }
            })
            .collect();
        let mut read: Option<(PrototypeCode, Vec<u32>)> = None;
        for (number, point) in points.iter().enumerate().filter(|(_, point)| point.compares) {
            let Some(of) = self.prototype_of(point.pc) else { continue };
            if read.as_ref().is_none_or(|(before, _)| *before != of) {
                let length = usize::try_from(of.end - of.start).unwrap_or(usize::MAX);
                let bytes = if length <= MAX_READ { memory.bytes(of.start, length).ok() } else { None };
                let words =
                    bytes.map(|bytes| bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect());
                read = words.map(|words| (of, words));
            }
            if let Some((_, code)) = &read {
                self.snapshots[number].way = branch::way(&points, number, of.start, code);
            }
        }
    }

    /// The address of the bytecode that a snapshot holds.
    fn pc_of(&self, snapshot: usize) -> Option<u64> {
        let (_, behind) = self.snapshot_words(snapshot)?;
        match self.model {
            Model::Gc64 => {
                let [low, high] = *behind.first_chunk()?;
                Some((u64::from(high) << 32 | u64::from(low)) >> 8)
            }
            Model::Gc32 => Some(u64::from(*behind.first()?)),
        }
    }

    /// Bytes of memory that this copy takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Trace>()
            + size_of_val(&*self.snapshots)
            + size_of_val(&*self.map)
            + size_of_val(&*self.constants)
            + size_of_val(&*self.functions)
            + size_of_val(&*self.prototypes)
    }

    /// The trace's number in this VM (`traceno`); numbers are given again after traces have been flushed.
    pub fn number(&self) -> u16 {
        self.header.number
    }

    /// The number of the root trace of a side trace, 0 for a root trace.
    pub fn root(&self) -> u16 {
        self.header.root
    }

    /// How the trace ends.
    pub fn link_type(&self) -> LinkType {
        self.header.link_type
    }

    /// Address of the prototype in which the trace begins.
    pub fn start_prototype(&self) -> u64 {
        self.header.start_prototype
    }

    /// Address of the bytecode instruction at which the trace begins.
    pub fn start_pc(&self) -> u64 {
        self.header.start_pc
    }

    /// The bytecode instruction that was at [`start_pc`](Self::start_pc) before a root trace patched it to `JFORL`,
    /// `JLOOP`, `JFUNCF` or the like; for a side trace a placeholder that means nothing.
    pub fn start_instruction(&self) -> u32 {
        self.header.start_instruction
    }

    /// Addresses of the machine code, without its exit stubs, which all traces of a VM share.
    pub fn mcode(&self) -> Range<u64> {
        self.header.mcode()
    }

    /// Address at which the loop of a looping trace begins, if it has one.
    pub fn loop_start(&self) -> Option<u64> {
        (self.header.loop_offset != 0).then(|| self.header.mcode + u64::from(self.header.loop_offset))
    }

    /// Bytes by which the trace has moved the native stack pointer down, below the C frame of the VM's activation and the
    /// 16 bytes in which the interpreter saves two more registers when it enters a trace (`CFRAME_SIZE_JIT`, x86-64). For
    /// a side trace its root trace's part is included.
    pub fn stack_adjust(&self) -> u16 {
        self.header.stack_adjust
    }

    /// The snapshots, in the order of the machine code.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    /// Where `pc` is in this trace. For a return address, which may already belong to the next snapshot or trace, the
    /// place of the call before it is meant: pass `is_return_address`.
    ///
    /// `None` when the address is not in this trace's machine code.
    pub fn position(&self, pc: u64, is_return_address: bool) -> Option<Position> {
        let pc = pc.checked_sub(u64::from(is_return_address))?;
        let offset = u32::try_from(pc.checked_sub(self.header.mcode)?).ok()?;
        if offset >= self.header.mcode_size {
            return None;
        }
        // At least one: the first snapshot's offset is 0.
        let after = self.snapshots.partition_point(|snapshot| snapshot.offset <= offset);
        if self.moved_base_from.is_some_and(|from| offset >= from) {
            return Some(Position { snapshot: self.snapshots.len() - 1, leaving: true, exit: false });
        }
        Some(Position { snapshot: after.checked_sub(1)?, leaving: false, exit: false })
    }

    /// The place whose exit is being taken, when `pc` is in an exit stub that this trace leaves through. `stack_byte` reads the
    /// native stack at an offset from SP.
    pub fn exit_at(&self, pc: u64, stack_byte: impl Fn(u64) -> Option<u8>) -> Option<Position> {
        self.at_exit(self.exit_stubs.exit_at(pc, stack_byte)?)
    }

    /// The place whose exit has this number.
    pub fn at_exit(&self, exit: u16) -> Option<Position> {
        let snapshot = usize::from(exit);
        (snapshot < self.snapshots.len()).then_some(Position { snapshot, leaving: false, exit: true })
    }

    /// The entries of a snapshot, and the words behind them.
    pub(super) fn snapshot_words(&self, snapshot: usize) -> Option<(&[u32], &[u32])> {
        let snapshot = self.snapshots.get(snapshot)?;
        self.map.get(snapshot.map_offset as usize..)?.split_at_checked(snapshot.entries.into())
    }

    /// The constant that an IR reference means; `None` when it is not one of this trace's constants.
    pub(super) fn constant(&self, reference: u16) -> Option<Constant> {
        if reference >= REF_BIAS {
            return None;
        }
        let index = usize::from(reference).checked_sub(self.header.nk as usize)?;
        (index < self.constants.len()).then(|| self.constant_at(index).0)
    }

    /// The constant at an index below `constants.len()`, and the number of IR slots it takes.
    fn constant_at(&self, index: usize) -> (Constant, usize) {
        let [.., kind, opcode, _, _] = self.constants[index];
        let word = |index: usize| self.constants.get(index).map_or(0, |value| u64::from_le_bytes(*value));
        // A short reference takes the place of the two operands, a long one a second IR slot.
        let (reference, slots) = match self.model {
            Model::Gc64 => (word(index + 1), 2),
            Model::Gc32 => (word(index) & self.model.reference_mask(), 1),
        };
        match (opcode.wrapping_sub(self.kpri), kind & IRT_TYPE) {
            (KGC, IRT_FUNC) => (Constant::Function(reference), slots),
            (KGC, IRT_PROTO) => (Constant::Prototype(reference), slots),
            (KGC | KPTR | KKPTR, _) => (Constant::Other, slots),
            (KNUM | KINT64, _) => (Constant::Word(word(index + 1)), 2),
            _ => (Constant::Other, 1),
        }
    }

    /// What is known of a function that is a constant of this trace.
    pub(super) fn function(&self, address: u64) -> Option<Function> {
        self.functions.iter().find(|known| known.0 == address).map(|known| known.1)
    }

    /// Whether `pc` is the bytecode of a builtin or C function.
    pub(super) fn is_builtin_code(&self, pc: u64) -> bool {
        self.vm.contains(&pc)
    }

    /// The prototype, among those that this trace refers to, whose bytecode `pc` is in.
    pub(super) fn prototype_of(&self, pc: u64) -> Option<PrototypeCode> {
        self.prototypes.iter().copied().find(|code| code.contains(pc))
    }
}

/// Checks that the last three constants are `true`, `false` and `nil`, as in every trace, and returns their opcode.
fn primitives(constants: &[[u8; IR_SIZE]]) -> Option<u8> {
    let last: &[_; 3] = constants.last_chunk()?;
    let kpri = last[2][5];
    last.iter().zip([2, 1, 0]).all(|(ir, kind)| ir[4] & IRT_TYPE == kind && ir[5] == kpri).then_some(kpri)
}

fn read_snapshot(fields: &Fields<'_>, layout: &Layout, map_length: usize) -> Option<Snapshot> {
    let at = &layout.snapshot;
    // The offset had 16 bits, next to `ref`, until 2018.
    let map_offset = if at.r#ref == at.mapofs.checked_add(2)? {
        u32::from(fields.u16(at.mapofs)?)
    } else {
        fields.u32(at.mapofs)?
    };
    let entries = fields.u8(at.nent)?;
    let offset = match at.mcofs {
        Some(mcofs) => u32::from(fields.u16(mcofs)?),
        None => 0,
    };
    let pc_words = layout.model.reference_size() as usize / 4;
    let end = (map_offset as usize).checked_add(usize::from(entries))?.checked_add(pc_words)?;
    let reference = fields.u16(at.r#ref)?;
    (end <= map_length).then_some(Snapshot { offset, map_offset, entries, reference, way: None })
}

/// Offset of the last instructions of a trace that moves `jit_base` before it jumps to another: `mov [r14+jit_base], rdx`, or
/// without GC64 `mov [jit_base], edx`, then `add rsp, spadjust` if there is one, then `jmp rel32` (`asm_tail_link`, `asm_tail_fixup`).
fn moved_base_from(code: &[u8]) -> Option<u32> {
    const STORE_BASE: [[u8; 3]; 2] = [[0x49, 0x89, 0x96], [0x89, 0x14, 0x25]];
    let jump = code.len().checked_sub(5)?;
    if *code.get(jump)? != 0xe9 {
        return None;
    }
    let with_add = |length: usize, opcode: u8| {
        let start = jump.checked_sub(length)?;
        (code.get(start..start + 3)? == [0x48, opcode, 0xc4]).then_some(start)
    };
    [Some(jump), with_add(4, 0x83), with_add(7, 0x81)].into_iter().flatten().find_map(|tail| {
        let store = tail.checked_sub(7)?;
        (STORE_BASE.contains(code.get(store..store + 3)?.as_array()?)).then_some(u32::try_from(tail).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::moved_base_from;

    #[test]
    fn the_jump_after_the_base_was_moved_is_found() {
        let store = [0x49, 0x89, 0x96, 0xf8, 0xf1, 0xff, 0xff];
        let jump = [0xe9, 0x10, 0x20, 0x30, 0x40];
        let code = |parts: &[&[u8]]| parts.concat();
        assert_eq!(moved_base_from(&code(&[&[0x90], &store, &jump])), Some(8));
        assert_eq!(moved_base_from(&code(&[&store, &[0x48, 0x83, 0xc4, 0x10], &jump])), Some(7));
        assert_eq!(moved_base_from(&code(&[&store, &[0x48, 0x81, 0xc4, 0, 1, 0, 0], &jump])), Some(7));
        assert_eq!(moved_base_from(&code(&[&[0x89, 0x14, 0x25, 0x94, 3, 1, 0x40], &jump])), Some(7), "without GC64");
        assert_eq!(moved_base_from(&code(&[&[0x90; 7], &jump])), None);
        assert_eq!(moved_base_from(&store), None);
        assert_eq!(moved_base_from(&jump), None);
        assert_eq!(moved_base_from(&[]), None);
    }
}
