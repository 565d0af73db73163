//! Finding every VM of a process in its memory, with no symbols, and the layout of each.
//!
//! LuaJIT allocates the main thread, the global state, the JIT state and the dispatch table as one block (`GG_State`):
//! the main thread's `glref` points just past itself, and the global state's `mainthref` points back. That
//! self-reference is searched for in all private writable memory. A layout is accepted only when the live VM satisfies
//! it: see [`Mismatch`] for all that is checked. Which rule tells which layouts apart:
//!
//! - `glref` has 64 bits with GC64 and 32 without;
//! - `sizeof(lua_State)` (96, 104, 112; without GC64 64, 72, 80) tells upstream LuaJIT from luajit2 and its ages;
//! - `bcff`, the headers of the assembly functions, holds the numbers `opcodes, opcodes + 1, ...`: it fixes the position of the
//!   dispatch table and thereby the sizes of `global_State` and `jit_State`, and the number of opcodes;
//! - `mainthref`, `strempty`, `registrytv`, `cur_L` fix the inside of `global_State`;
//! - LuaJIT before 2019-01 packs snapshots into 8 bytes, later ones into 12, with the same `GG_State`: told apart by the
//!   traces there are. While there is none, nothing that a profiler reads differs, and [`Vm::settled`] is false;
//! - with GC64, upstream since 2023-12 and luajit2 since 2023-10 differ from before only by `jit_State.param` (one more IR opcode): told
//!   apart by the defaults of the parameters, of which a program seldom changes more than a few.
//!
//! `J.L` is no rule: it may be a coroutine that has been freed since.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::arch::{self, Model, Tag};
use super::layout::Layout;
use super::memory::{Memory, ReadError, Region};
use super::object::{byte_at, reference_at, u32_at, u64_at};

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;
/// The unit in which unreadable memory is skipped.
const PAGE: u64 = 4096;
/// Sizes of `lua_State` that are looked for, known or not.
const LUA_STATE_SIZES: Range<u64> = 64..257;
/// More main-thread-like places than this in one process are not looked at: nothing real has them.
const MAX_CANDIDATES: usize = 100_000;
/// Bytes after which the VM's assembly code ends for sure; it has about 30 KiB.
const ASSEMBLY_SPAN: u64 = 1 << 20;
/// Upper bound of `stacksize`: `LJ_STACK_MAX` is 65500 slots, with some slack for error handling.
const MAX_STACK_SLOTS: u64 = 1 << 17;
/// Traces looked at to tell layouts apart.
const TRACES_TRIED: u32 = 64;
/// What `jit_State.param` holds by default, from `maxtrace` to `maxmcode`, upstream and in luajit2 over the years.
const PARAM_DEFAULTS: [&[u32]; 15] = [
    &[1000, 8000],
    &[4000, 16000],
    &[500],
    &[100],
    &[500],
    &[0, 3],
    &[56],
    &[10],
    &[4],
    &[4],
    &[15],
    &[3],
    &[2],
    &[32, 64],
    &[512, 2048, 40960],
];
/// A VM has at least so many of its parameters at their default; one entry off, two happen to agree at most.
const MIN_DEFAULTS: usize = 3;
/// Times that a VM which changes while it is read is read anew.
const ATTEMPTS: usize = 3;

/// One VM of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vm {
    /// Address of the `global_State`.
    pub g: u64,
    /// Address of the main thread's `lua_State`.
    pub main_thread: u64,
    /// Where the fields of its structs lie.
    pub layout: Arc<Layout>,
    /// False while two layouts fit that differ in their traces (builds of 2017 and 2018 against 2019) and the VM has
    /// compiled none yet; [`Vm::settle`] decides later. `layout` is then the newer one.
    pub settled: bool,
}

/// What a search found.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// The VMs, by address.
    pub vms: Vec<Vm>,
    /// VMs that no known layout describes, by address.
    pub unknown: Vec<UnknownVm>,
    /// What was searched.
    pub searched: Searched,
}

impl fmt::Display for Discovery {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Searched { regions, bytes, unreadable, .. } = self.searched;
        write!(formatter, "{} VM{}", self.vms.len(), if self.vms.len() == 1 { "" } else { "s" })?;
        if let Some(vm) = self.vms.first() {
            let gc64 = if vm.layout.model == Model::Gc64 { "with" } else { "without" };
            let settled = if vm.settled { "" } else { ", or an older one: no trace tells yet" };
            write!(formatter, " {gc64} GC64 and the layout of {}{settled}", vm.layout.seen_in.join(" ... "))?;
        }
        for unknown in &self.unknown {
            write!(formatter, ", {unknown}")?;
        }
        let size = bytes as f64 / f64::from(1 << 20);
        write!(formatter, " in {regions} private writable mappings ({size:.1} MiB")?;
        if unreadable > 0 {
            write!(formatter, ", of which {} KiB could not be read", unreadable >> 10)?;
        }
        formatter.write_str(")")
    }
}

/// How much was searched, for a report when nothing was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Searched {
    /// Private writable mappings.
    pub regions: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Of `bytes`, those that could not be read.
    pub unreadable: u64,
    /// Places that looked like a main thread pointing at its global state.
    pub candidates: usize,
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} private writable mappings ({:.1} MiB, of which {} KiB could not be read)",
            self.regions,
            self.bytes as f64 / f64::from(1 << 20),
            self.unreadable >> 10
        )
    }
}

/// A place that is a LuaJIT VM by its self-reference, with a layout that is not in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVm {
    /// Address of the main thread.
    pub main_thread: u64,
    /// How it stores references.
    pub model: Model,
    /// `sizeof(lua_State)`.
    pub lua_state_size: u64,
    /// Offset of `mainthref` in the `global_State`.
    pub mainthref: u64,
    /// Offset of `bcff` in `GG_State` and number of opcodes, when such a table is there.
    pub bcff: Option<(u64, u32)>,
    /// Why each layout with this size of `lua_State` was refused: its first revision and the first rule broken.
    pub refused: Vec<(String, Mismatch)>,
}

impl fmt::Display for UnknownVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a LuaJIT VM at {:#x} has a layout that luaflame does not know ({}, sizeof(lua_State) {}, mainthref {}",
            self.main_thread, self.model, self.lua_state_size, self.mainthref
        )?;
        if let Some((offset, opcodes)) = self.bcff {
            write!(f, ", bcff {offset}, {opcodes} opcodes")?;
        }
        write!(f, "); please report these numbers with the version of LuaJIT and how it was built")?;
        for (revision, mismatch) in &self.refused {
            write!(f, "\n  not {revision}: {mismatch}")?;
        }
        Ok(())
    }
}

/// The first rule that a place in memory breaks, so that it is no VM of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The block could not be read.
    #[error("{0}")]
    Unreadable(#[from] ReadError),
    /// The main thread is not a thread, or does not point at its global state.
    #[error("there is no main thread")]
    MainThread,
    /// `mainthref` does not point back.
    #[error("mainthref does not point at the main thread")]
    MainThreadReference,
    /// `stack`, `base`, `top` and `maxstack` are not addresses of slots, or the stack is too large.
    #[error("the stack of the main thread is not well formed")]
    Stack,
    /// `strempty` is not an empty string.
    #[error("strempty is not the empty string")]
    EmptyString,
    /// `bcff` does not count up from the number of opcodes.
    #[error("bcff does not hold the bytecode of the assembly functions")]
    Bytecode,
    /// `dispatch` does not point into the VM's assembly.
    #[error("dispatch does not point into one piece of code")]
    Dispatch,
    /// The registry is not a table.
    #[error("the registry is not a table")]
    Registry,
    /// `cur_L` is not a thread of this VM.
    #[error("cur_L is not a thread of this VM")]
    CurrentThread,
    /// `vmstate` is neither a state nor the number of a trace.
    #[error("vmstate is out of range")]
    VmState,
    /// `jit_base` is no address of a slot.
    #[error("jit_base is not the address of a slot")]
    JitBase,
    /// `J.param` holds nothing like the parameters of the JIT compiler.
    #[error("jit_State does not hold the parameters of the JIT compiler")]
    Parameters,
    /// The table of traces does not hold traces.
    #[error("the trace table does not hold traces")]
    Traces,
}

/// Searches the private writable regions for VMs.
///
/// Reads every byte of them once, so the caller leaves out what cannot hold a VM (or what is so large that touching it
/// is unwanted); regions of other kinds are used to check that the dispatch table points at code. Unreadable pages
/// inside a region are skipped and counted.
pub fn discover(memory: &dyn Memory, regions: &[Region], layouts: &[Arc<Layout>]) -> Discovery {
    let mut found = Discovery::default();
    let executable: Vec<Range<u64>> =
        regions.iter().filter(|region| region.executable).map(|region| region.range.clone()).collect();
    let mut candidates = BTreeSet::new();
    let mut buffer = Vec::new();
    // A VM is where its references reach.
    let most = Model::ALL.map(Model::reference_mask).into_iter().max().unwrap_or(0);
    let searchable = |region: &&Region| region.private && region.writable && region.range.end <= most + 1;
    for region in regions.iter().filter(searchable) {
        found.searched.regions += 1;
        search_region(memory, &region.range, &mut buffer, &mut candidates, &mut found.searched);
    }
    found.searched.candidates = candidates.len();
    for candidate in candidates {
        match identify(memory, candidate, layouts, &executable) {
            Identity::Vm(vm) => found.vms.push(vm),
            Identity::Unknown(unknown) => found.unknown.push(unknown),
            Identity::NoVm => {}
        }
    }
    found
}

/// A place that has the shape of a main thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// Its address.
    main_thread: u64,
    /// `glref - L`: `sizeof(lua_State)`.
    size: u64,
    model: Model,
}

/// Adds every candidate of the region.
fn search_region(
    memory: &dyn Memory,
    range: &Range<u64>,
    buffer: &mut Vec<u8>,
    candidates: &mut BTreeSet<Candidate>,
    searched: &mut Searched,
) {
    let mut at = range.start & !(PAGE - 1);
    searched.bytes = searched.bytes.saturating_add(range.end.saturating_sub(at));
    while at < range.end {
        let length = CHUNK.min(range.end - at);
        buffer.resize(length as usize, 0);
        searched.unreadable += read_tolerant(memory, at, buffer);
        search_chunk(at, buffer, candidates);
        if length < CHUNK {
            break;
        }
        // The start of a main thread may be the last bytes of this chunk.
        at += CHUNK - PAGE;
        searched.unreadable = searched.unreadable.min(searched.bytes);
    }
}

fn search_chunk(start: u64, bytes: &[u8], candidates: &mut BTreeSet<Candidate>) {
    for model in Model::ALL.into_iter().filter(|model| start <= model.reference_mask()) {
        let glref = model.glref();
        let mask = model.reference_mask();
        for (index, word) in bytes.chunks_exact(8).enumerate().skip(glref / 8) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            let main_thread = start + index as u64 * 8 - glref as u64;
            let size = (word & mask).wrapping_sub(main_thread);
            if !LUA_STATE_SIZES.contains(&size) {
                continue;
            }
            let header = &bytes[index * 8 - glref..];
            let gct = model.gct();
            // gct is that of a thread, and dummy_ffid behind it is FF_C.
            if byte_at(header, gct) == Tag::Thread.gct()
                && byte_at(header, gct + 1) == 1
                && candidates.len() < MAX_CANDIDATES
            {
                candidates.insert(Candidate { main_thread, size, model });
            }
        }
    }
}

/// Fills `buffer`, with zeros for what cannot be read; returns how much that is.
fn read_tolerant(memory: &dyn Memory, address: u64, buffer: &mut [u8]) -> u64 {
    if buffer.is_empty() || memory.read(address, buffer).is_ok() {
        return 0;
    }
    // Halves on a page boundary, as what can be read ends on one.
    let middle = (address + buffer.len() as u64 / 2).next_multiple_of(PAGE);
    let last = (address + buffer.len() as u64 - 1) & !(PAGE - 1);
    let half = middle.min(last).saturating_sub(address) as usize;
    if half == 0 {
        buffer.fill(0);
        return buffer.len() as u64;
    }
    let (low, high) = buffer.split_at_mut(half);
    read_tolerant(memory, address, low) + read_tolerant(memory, address + half as u64, high)
}

enum Identity {
    Vm(Vm),
    Unknown(UnknownVm),
    NoVm,
}

fn identify(memory: &dyn Memory, candidate: Candidate, layouts: &[Arc<Layout>], executable: &[Range<u64>]) -> Identity {
    let Candidate { main_thread, size, model } = candidate;
    let mut refused = Vec::new();
    let mut fitting = Vec::new();
    let same = |layout: &&Arc<Layout>| layout.model == model && u64::from(layout.lua_state.size) == size;
    for layout in layouts.iter().filter(same) {
        match check(memory, main_thread, layout, Some(executable)) {
            Ok(()) => fitting.push(layout.clone()),
            Err(mismatch) => refused.push((layout.seen_in.first().cloned().unwrap_or_default(), mismatch)),
        }
    }
    if !fitting.is_empty() {
        let (layout, settled) = settle(memory, main_thread, fitting);
        return Identity::Vm(Vm { g: main_thread + size, main_thread, layout, settled });
    }
    let mut block = vec![0; 16 << 10];
    read_tolerant(memory, main_thread, &mut block);
    let mainthref = block[size as usize..][..512]
        .chunks_exact(model.reference_size() as usize)
        .position(|word| reference_at(model, word, 0) == main_thread)
        .map(|index| index as u64 * model.reference_size());
    let bcff = find_bcff(&block);
    // A back-reference alone also occurs by chance, in freed memory for one.
    match mainthref {
        Some(mainthref) if bcff.is_some() || refused.iter().any(|(_, mismatch)| past_strempty(mismatch)) => {
            Identity::Unknown(UnknownVm { main_thread, model, lua_state_size: size, mainthref, bcff, refused })
        }
        _ => Identity::NoVm,
    }
}

/// The rule comes after that of the empty string, which freed or foreign memory hardly satisfies.
fn past_strempty(mismatch: &Mismatch) -> bool {
    !matches!(
        mismatch,
        Mismatch::Unreadable(_)
            | Mismatch::MainThread
            | Mismatch::MainThreadReference
            | Mismatch::Stack
            | Mismatch::EmptyString
    )
}

/// Finds the assembly functions' bytecode by its shape: its offset and the number of opcodes.
fn find_bcff(block: &[u8]) -> Option<(u64, u32)> {
    let words: Vec<u32> =
        block.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("chunks of four"))).collect();
    words
        .windows(arch::ASM_FAST_FUNCTIONS as usize)
        .position(|window| window[0] > 80 && window[0] < 256 && counts_up(window, window[0]))
        .map(|index| (index as u64 * 4, words[index]))
}

/// `BCINS_AD(BC__MAX + i, 0, 0)`: the low byte is the opcode.
fn counts_up(words: &[u32], first: u32) -> bool {
    words.iter().zip(first..).all(|(word, expected)| word & 0xff == expected & 0xff)
}

/// A copy of `GG_State` with the address it came from.
struct Block<'a> {
    bytes: Vec<u8>,
    layout: &'a Layout,
}

impl Block<'_> {
    fn u8(&self, offset: u32) -> u8 {
        byte_at(&self.bytes, offset)
    }

    fn u32(&self, offset: u32) -> u32 {
        u32_at(&self.bytes, offset)
    }

    fn u64(&self, offset: u32) -> u64 {
        u64_at(&self.bytes, offset)
    }

    fn reference(&self, offset: u32) -> u64 {
        reference_at(self.layout.model, &self.bytes, offset)
    }

    /// Offset in the block of a field of `global_State`.
    fn g(&self, offset: u32) -> u32 {
        self.layout.gg.g + offset
    }

    /// Offset in the block of a field of `jit_State`.
    fn j(&self, offset: u32) -> u32 {
        self.layout.gg.j + offset
    }
}

/// Checks all rules, again when the VM seems to have changed in between.
fn check(
    memory: &dyn Memory,
    main_thread: u64,
    layout: &Layout,
    executable: Option<&[Range<u64>]>,
) -> Result<(), Mismatch> {
    let mut result = check_once(memory, main_thread, layout, executable);
    for _ in 1..ATTEMPTS {
        // Only these rules are about what a running VM changes.
        match result {
            Err(Mismatch::Stack | Mismatch::CurrentThread | Mismatch::VmState | Mismatch::Traces) => {
                result = check_once(memory, main_thread, layout, executable);
            }
            _ => break,
        }
    }
    result
}

fn check_once(
    memory: &dyn Memory,
    main_thread: u64,
    layout: &Layout,
    executable: Option<&[Range<u64>]>,
) -> Result<(), Mismatch> {
    let ensure = |holds: bool, mismatch: Mismatch| if holds { Ok(()) } else { Err(mismatch) };
    let bytes = memory.bytes(main_thread, layout.gg.size as usize)?;
    let block = Block { bytes, layout };
    let model = layout.model;
    let g = main_thread.wrapping_add(u64::from(layout.gg.g));

    check_thread(&block.bytes, layout, g)?;
    ensure(block.reference(block.g(layout.global_state.mainthref)) == main_thread, Mismatch::MainThreadReference)?;

    let strempty = block.g(layout.global_state.strempty);
    ensure(
        block.u8(strempty + model.gct()) == Tag::String.gct() && block.u32(strempty + layout.string.len) == 0,
        Mismatch::EmptyString,
    )?;

    let asm: Vec<u32> = (0..arch::ASM_FAST_FUNCTIONS).map(|index| block.u32(layout.gg.bcff + index * 4)).collect();
    ensure(counts_up(&asm, layout.opcodes), Mismatch::Bytecode)?;

    let dispatch: Vec<u64> = (layout.gg.dispatch..layout.gg.bcff).step_by(8).map(|offset| block.u64(offset)).collect();
    let (low, high) = dispatch.iter().fold((u64::MAX, 0), |(low, high), &target| (low.min(target), high.max(target)));
    ensure(
        low <= high
            && high - low < ASSEMBLY_SPAN
            && executable
                .is_none_or(|ranges| dispatch.iter().all(|target| ranges.iter().any(|range| range.contains(target)))),
        Mismatch::Dispatch,
    )?;

    let registry = model.value(block.u64(block.g(layout.global_state.registrytv))).object(Tag::Table);
    let registry = registry.ok_or(Mismatch::Registry)?;
    ensure(memory.u8(registry.wrapping_add(model.gct().into())) == Ok(Tag::Table.gct()), Mismatch::Registry)?;

    let is_thread = |address: u64| {
        address == 0
            || memory.bytes(address, layout.lua_state.size as usize).is_ok_and(|bytes| {
                byte_at(&bytes, layout.lua_state.gct) == Tag::Thread.gct()
                    && reference_at(model, &bytes, layout.lua_state.glref) == g
            })
    };
    ensure(is_thread(block.reference(block.g(layout.global_state.cur_l))), Mismatch::CurrentThread)?;
    ensure(defaults(&block) >= MIN_DEFAULTS, Mismatch::Parameters)?;
    let jit_base = block.reference(block.g(layout.global_state.jit_base));
    ensure(jit_base.is_multiple_of(arch::SLOT_SIZE) && jit_base <= model.reference_mask(), Mismatch::JitBase)?;

    let (table, size) = trace_table(&block);
    ensure(size <= 1 << 16 && table.is_multiple_of(8) && (table == 0) == (size == 0), Mismatch::Traces)?;
    let state = block.u32(block.g(layout.global_state.vmstate)).cast_signed();
    ensure(state >= -7 && state < size.max(1).cast_signed(), Mismatch::VmState)?;
    let jit_state = main_thread.wrapping_add(u64::from(layout.gg.j));
    let (agreeing, differing) = traces_agree(memory, layout, table, size, jit_state);
    ensure(differing <= agreeing, Mismatch::Traces)
}

/// The rules about a thread's own fields.
pub(super) fn check_thread(bytes: &[u8], layout: &Layout, g: u64) -> Result<(), Mismatch> {
    let thread = &layout.lua_state;
    let model = layout.model;
    let [glref, stack, maxstack] =
        [thread.glref, thread.stack, thread.maxstack].map(|offset| reference_at(model, bytes, offset));
    let [base, top] = [thread.base, thread.top].map(|offset| u64_at(bytes, offset));
    let slots = u64::from(u32_at(bytes, thread.stacksize));
    if bytes.get(thread.gct as usize) != Some(&Tag::Thread.gct())
        || bytes.get(thread.dummy_ffid as usize) != Some(&1)
        || glref != g
    {
        return Err(Mismatch::MainThread);
    }
    // No more can be asked of a running VM: while it resizes the stack, and a page fault can make that long, these fields
    // are about different stacks; while the interpreter runs, base may be above top.
    let plausible = [base, top, stack, maxstack]
        .iter()
        .all(|address| *address != 0 && address.is_multiple_of(arch::SLOT_SIZE) && *address <= model.reference_mask());
    if plausible && (1..=MAX_STACK_SLOTS).contains(&slots) { Ok(()) } else { Err(Mismatch::Stack) }
}

/// Address and size of the array of traces.
fn trace_table(block: &Block<'_>) -> (u64, u32) {
    let jit = &block.layout.jit_state;
    (block.u64(block.j(jit.trace)), block.u32(block.j(jit.sizetrace)))
}

/// How many of the VM's first traces have the shape that the layout says, and how many have not.
///
/// A trace is one block: the struct, the IR, the snapshots, the snapshot map (`trace_save`). The trace being recorded is
/// not: it is `J.cur`, at the start of the `jit_State`.
fn traces_agree(memory: &dyn Memory, layout: &Layout, table: u64, size: u32, jit_state: u64) -> (u32, u32) {
    let (mut agreeing, mut differing) = (0, 0);
    let width = layout.model.reference_size() as usize;
    let Ok(traces) = memory.bytes(table, size.min(1 << 12) as usize * width) else {
        // The table was moved in between.
        return (0, 0);
    };
    let traces = traces.chunks_exact(width).map(|reference| reference_at(layout.model, reference, 0));
    for (number, trace) in
        traces.enumerate().filter(|(_, trace)| *trace != 0 && *trace != jit_state).take(TRACES_TRIED as usize)
    {
        let fields = &layout.trace;
        let agrees = memory.bytes(trace, fields.size as usize).is_ok_and(|bytes| {
            let u16_at = |offset: u32| u64::from(u32_at(&bytes, offset) & 0xffff);
            let [ir, snap, snapmap] = [fields.ir, fields.snap, fields.snapmap].map(|offset| u64_at(&bytes, offset));
            let [nins, nk] = [fields.nins, fields.nk].map(|offset| u64::from(u32_at(&bytes, offset)));
            let instructions = trace.wrapping_add(u64::from(fields.size.next_multiple_of(8)));
            bytes[fields.gct as usize] == Tag::Trace.gct()
                && u16_at(fields.traceno) == number as u64
                && ir.wrapping_add(nk * 8) == instructions
                && ir.wrapping_add(nins * 8) == snap
                && snap.wrapping_add(u16_at(fields.nsnap) * u64::from(layout.snapshot.size)) == snapmap
        });
        if agrees { agreeing += 1 } else { differing += 1 }
    }
    (agreeing, differing)
}

/// How many of the JIT compiler's parameters have a default value.
fn defaults(block: &Block<'_>) -> usize {
    let values = (0..).map(|index| block.u32(block.j(block.layout.jit_state.param + index * 4)));
    values.zip(PARAM_DEFAULTS).filter(|(value, defaults)| defaults.contains(value)).count()
}

/// Chooses among layouts that all fit; see the module's documentation. The result is settled when the choice is known to
/// be right or does not matter.
fn settle(memory: &dyn Memory, main_thread: u64, fitting: Vec<Arc<Layout>>) -> (Arc<Layout>, bool) {
    let defaults: Vec<usize> = fitting
        .iter()
        .map(|layout| {
            let bytes = memory.bytes(main_thread, layout.gg.size as usize).unwrap_or_default();
            defaults(&Block { bytes, layout })
        })
        .collect();
    let best = defaults.iter().copied().max().unwrap_or(0);
    let fitting: Vec<_> =
        fitting.into_iter().zip(defaults).filter(|(_, count)| *count == best).map(|(layout, _)| layout).collect();
    let newest = fitting.last().expect("at least one layout fits").clone();
    let same_traces = fitting.iter().all(|layout| layout.trace == newest.trace && layout.snapshot == newest.snapshot);
    // With a trace at hand, at most one geometry passed the check.
    (newest, same_traces)
}

impl Vm {
    /// Checks that there is a VM of this layout whose `global_State` is at `g`: for an address that a sample claims, in a
    /// process where the layout is known.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(memory: &dyn Memory, g: u64, layout: &Arc<Layout>) -> Result<Vm, Mismatch> {
        let main_thread = g.wrapping_sub(u64::from(layout.gg.g));
        check(memory, main_thread, layout, None)?;
        Ok(Vm { g, main_thread, layout: layout.clone(), settled: true })
    }

    /// Decides between layouts that differ in traces only, once there is a trace. Returns whether it is decided.
    pub fn settle(&mut self, memory: &dyn Memory, layouts: &[Arc<Layout>]) -> bool {
        if !self.settled {
            let fitting: Vec<_> = layouts
                .iter()
                .filter(|layout| layout.gg == self.layout.gg && layout.lua_state == self.layout.lua_state)
                .filter(|layout| check(memory, self.main_thread, layout, None).is_ok())
                .cloned()
                .collect();
            if !fitting.is_empty() {
                (self.layout, self.settled) = settle(memory, self.main_thread, fitting);
            }
        }
        self.settled
    }

    /// Address of the `jit_State`.
    pub fn jit_state(&self) -> u64 {
        self.main_thread.wrapping_add(u64::from(self.layout.gg.j))
    }

    /// Address of the dispatch table: what the `DISPATCH` register of the VM's assembly holds.
    pub fn dispatch(&self) -> u64 {
        self.main_thread.wrapping_add(u64::from(self.layout.gg.dispatch))
    }

    /// Addresses of the code of every bytecode instruction and assembly function, ascending, each once. All lie in the
    /// VM's hand-written assembly.
    ///
    /// # Errors
    /// When the dispatch table cannot be read.
    pub fn dispatch_targets(&self, memory: &dyn Memory) -> Result<Vec<u64>, ReadError> {
        let gg = &self.layout.gg;
        let bytes = memory.bytes(self.dispatch(), gg.bcff.saturating_sub(gg.dispatch) as usize)?;
        let mut targets: Vec<u64> =
            bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect();
        targets.sort_unstable();
        targets.dedup();
        Ok(targets)
    }

    /// Address of the registry table.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn registry(&self, memory: &dyn Memory) -> Result<Option<u64>, ReadError> {
        let registry = memory.u64(self.g.wrapping_add(u64::from(self.layout.global_state.registrytv)))?;
        Ok(self.layout.model.value(registry).object(Tag::Table))
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::{Image, plain_vm};
    use super::*;

    fn layouts() -> Vec<Arc<Layout>> {
        Layout::all().into_iter().map(Arc::new).collect()
    }

    /// Pieces of an image are not contiguous, as memory with holes: makes one mapping of page-aligned, readable memory.
    fn solid(image: &Image) -> (Solid, Vec<Region>) {
        let regions = image.regions();
        let range = regions[1].range.clone();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        for (offset, byte) in bytes.iter_mut().enumerate() {
            *byte = image.u8(range.start + offset as u64).unwrap_or(0);
        }
        (Solid { start: range.start, bytes, hole: 0..0 }, regions)
    }

    /// One mapping, with unreadable pages in it.
    struct Solid {
        start: u64,
        bytes: Vec<u8>,
        hole: Range<u64>,
    }

    impl Memory for Solid {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
            let error = ReadError { address, length: buffer.len() };
            let end = address.checked_add(buffer.len() as u64).ok_or(error)?;
            if address < self.hole.end && self.hole.start < end {
                return Err(error);
            }
            let offset = address.checked_sub(self.start).ok_or(error)? as usize;
            buffer.copy_from_slice(self.bytes.get(offset..offset + buffer.len()).ok_or(error)?);
            Ok(())
        }
    }

    #[test]
    fn every_layout_is_recognised_from_a_vm_of_it() {
        let layouts = layouts();
        for layout in &layouts {
            let mut image = Image::of(layout);
            let vm = plain_vm(&mut image, layout);
            image.trace(&vm);
            let (memory, regions) = solid(&image);
            let found = discover(&memory, &regions, &layouts);
            assert_eq!(found.unknown, []);
            assert_eq!(found.vms, [vm], "{:?}", layout.seen_in);
        }
    }

    #[test]
    fn layouts_that_only_traces_tell_apart_are_settled_by_the_first_trace() {
        let layouts = layouts();
        let early = layouts.iter().find(|layout| layout.seen_in[0].contains("71ff7ef8")).expect("a layout of 2017");
        let late = layouts.iter().find(|layout| layout.seen_in[0].contains("749e99ce")).expect("a layout of 2019");
        let mut image = Image::of(early);
        let vm = plain_vm(&mut image, early);
        let (memory, regions) = solid(&image);
        let mut found = discover(&memory, &regions, &layouts).vms.remove(0);
        assert!(!found.settled);
        assert_eq!(found.layout, *late);
        assert!(!found.settle(&memory, &layouts), "there is no trace yet");

        image.trace(&vm);
        let (memory, _) = solid(&image);
        assert!(found.settle(&memory, &layouts));
        assert_eq!(found.layout, *early);
    }

    #[test]
    fn several_vms_and_unreadable_pages() {
        let layouts = layouts();
        let mut image = Image::of(&layouts[13]);
        let first = plain_vm(&mut image, &layouts[13]);
        let hole = image.allocate(3 << 20);
        let second = plain_vm(&mut image, &layouts[13]);
        let (mut memory, regions) = solid(&image);
        let hole = hole.next_multiple_of(PAGE);
        memory.hole = hole..hole + 5 * PAGE;
        let found = discover(&memory, &regions, &layouts);
        assert_eq!(found.vms, [first, second]);
        assert_eq!(found.searched.unreadable, 5 * PAGE);
        assert_eq!(found.searched.regions, 1);
    }

    #[test]
    fn a_vm_of_an_unknown_layout_is_reported_with_what_would_make_it_known() {
        let layouts = layouts();
        let mut changed = Layout::clone(&layouts[13]);
        for offset in [&mut changed.gg.j, &mut changed.gg.dispatch, &mut changed.gg.bcff, &mut changed.gg.size] {
            *offset += 16;
        }
        let mut image = Image::of(&layouts[13]);
        let vm = plain_vm(&mut image, &Arc::new(changed));
        let (memory, regions) = solid(&image);
        let found = discover(&memory, &regions, &layouts);
        assert_eq!(found.vms, []);
        let [unknown] = found.unknown.as_slice() else { panic!("one VM is reported") };
        assert_eq!((unknown.main_thread, unknown.lua_state_size), (vm.main_thread, 112));
        assert_eq!(unknown.bcff, Some((6080, 97)));
        let report = unknown.to_string();
        assert!(report.contains("GC64, sizeof(lua_State) 112, mainthref 192, bcff 6080, 97 opcodes"), "{report}");
    }

    #[test]
    fn what_is_no_vm_is_not_taken_for_one() {
        let layouts = layouts();
        let layout = &layouts[13];
        let mut image = Image::of(layout);
        let vm = plain_vm(&mut image, layout);
        let (valid, regions) = solid(&image);
        assert_eq!(Vm::validate(&valid, vm.g, layout).as_ref(), Ok(&vm));

        type Break = (u32, u64, Mismatch);
        let g = |offset: u32| layout.gg.g + offset;
        let breaks: [Break; 6] = [
            (layout.lua_state.top, 9, Mismatch::Stack),
            (g(layout.global_state.mainthref), 0, Mismatch::MainThreadReference),
            (g(layout.global_state.registrytv), u64::MAX, Mismatch::Registry),
            (g(layout.global_state.cur_l), vm.g, Mismatch::CurrentThread),
            (g(layout.global_state.vmstate), 70_000, Mismatch::VmState),
            (layout.gg.dispatch + 80, 0x1234, Mismatch::Dispatch),
        ];
        for (offset, value, mismatch) in breaks {
            let mut broken = image.clone();
            broken.put_u64(vm.main_thread + u64::from(offset), value);
            let (memory, _) = solid(&broken);
            assert_eq!(Vm::validate(&memory, vm.g, layout), Err(mismatch));
            assert_eq!(discover(&memory, &regions, &layouts).vms, []);
        }
        assert!(matches!(Vm::validate(&valid, 0x10, layout), Err(Mismatch::Unreadable(_))));
    }

    #[test]
    fn a_dispatch_table_that_points_at_data_is_refused() {
        let layouts = layouts();
        let mut image = Image::of(&layouts[13]);
        plain_vm(&mut image, &layouts[13]);
        let (memory, mut regions) = solid(&image);
        regions.remove(0);
        assert_eq!(discover(&memory, &regions, &layouts).vms, []);
    }

    #[test]
    fn the_targets_of_the_dispatch_table_bound_the_assembly() {
        let layouts = layouts();
        let mut image = Image::of(&layouts[13]);
        let vm = plain_vm(&mut image, &layouts[13]);
        let targets = vm.dispatch_targets(&image).expect("readable");
        assert_eq!(targets.first(), Some(&super::super::image::CODE));
        assert_eq!(targets.len(), (97 + 57 + 89) as usize);
    }
}
