//! The wire types: what the probe sends, and what it is told. Both sides compile this file.
//!
//! All structs are `repr(C)` with explicit padding, in the byte order of the machine that both sides run on. A record in
//! the ring buffer is a [`Header`]; for a sample it is followed by `entries_kept` [`Entry`]s, `kernel_bytes` of kernel
//! return addresses (8 bytes each, leaf first), `leaf_bytes` of the native stack from the stack pointer up,
//! `root_bytes` of the native stack from `root_address` up, and the [`RED_ZONE`] bytes below the stack pointer if they could
//! be read. In a [`Copied`], which takes the place of the header, the bytes follow it.

#![no_std]

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most entries that one sample carries. The first half is the leaf's side; when there are more, the second half is a
/// ring that ends with the root's side.
pub const ENTRIES: usize = 512;
/// Entries kept at the leaf's side when there are too many.
pub const LEAF_ENTRIES: usize = ENTRIES / 2;
/// Most bytes of native stack copied from the stack pointer up.
pub const LEAF_STACK: usize = 48 << 10;
/// Most bytes of native stack copied up to the stack's base when there are more than [`LEAF_STACK`].
pub const ROOT_STACK: usize = 16 << 10;
/// Bytes below the stack pointer that code on x86-64 may have in use (System V ABI, 3.2.2).
pub const RED_ZONE: usize = 128;
/// Most kernel return addresses (the kernel's own default limit, `kernel.perf_event_max_stack`).
pub const KERNEL_FRAMES: usize = 127;
/// Size in bytes of a C frame of the VM's assembly on x86-64 (`CFRAME_SIZE`, `lj_frame.h`); its return address is 8
/// bytes below its end.
pub const CFRAME_SIZE: u64 = 80;

/// What a record is.
pub mod record {
    /// A sample.
    pub const SAMPLE: u32 = 1;
    /// `tgid` has started the process `tid`, which is watched from now on.
    pub const FORK: u32 = 2;
    /// The first thread of `tgid` has ended.
    pub const EXIT: u32 = 3;
    /// `tgid` runs another program from now on.
    pub const EXEC: u32 = 4;
    /// A piece of memory of `tgid` that a later sample refers to: [`super::Copied`].
    pub const COPIED: u32 = 5;
    /// `tgid`, which is not watched, was running when a sample was due.
    pub const MET: u32 = 6;
    /// `tgid`, which is not watched, runs another program from now on, or is new and was started by one whose children are told of.
    pub const NEW: u32 = 7;
}

/// The values of the map `STRANGERS`.
pub mod strangers {
    /// The bit that says to tell of processes that this one starts. The others are a time on the kernel's monotonic clock, in
    /// nanoseconds.
    pub const FOLLOWED: u64 = 1;
}

/// Bits of [`Header::flags`].
pub mod flag {
    /// The interrupt hit kernel mode; the registers are those that user mode will resume with.
    pub const KERNEL: u32 = 1 << 0;
    /// The native stack could not be read as far as its base.
    pub const STACK_UNREADABLE: u32 = 1 << 1;
    /// The base of the native stack is not known.
    pub const STACK_BASE_UNKNOWN: u32 = 1 << 2;
}

/// Bits of [`Process::flags`].
pub mod watch {
    /// Watch the processes that this one starts, too.
    pub const FOLLOW: u32 = 1 << 0;
    /// The process holds LuaJIT and the layout in [`super::Process`] is valid.
    pub const LUA: u32 = 1 << 1;
    /// Take no samples in this process itself, only in those that it starts.
    pub const QUIET: u32 = 1 << 2;
}

/// Kinds of [`Entry`].
pub mod entry {
    /// A thread (coroutine) that is active on the native stack; the entries up to the next one are its.
    ///
    /// `words`: `lua_State`, `global_State`, `cframe` as stored, frame base used, `stack`; `slot`: where the base is
    /// from ([`super::base`]); `numbers`: `top`, as a slot number, and the halves of the interpreter's PC if that is not in
    /// its register, or 0.
    pub const ACTIVATION: u8 = 1;
    /// A C frame of that thread, innermost first. `words`: address, `prev` as stored, `L`, `PC`; `numbers`: `nres`,
    /// `errf`.
    pub const CFRAME: u8 = 2;
    /// A Lua frame of that thread, innermost first. `words`: link, function, its `pc` or C function, the continuation's
    /// PC, what identifies the chunk name of its prototype (the number and hash of the string); `numbers`: instruction before the link's PC, `firstline`, `numline`,
    /// `sizebc`. `slot`: number of its base on the Lua stack; `flags`: [`super::frame`].
    pub const FRAME: u8 = 3;
    /// The chain of that thread's C frames or of its Lua frames leads nowhere from here, or further than the probe follows
    /// it. `flags`: [`super::frame`].
    pub const BROKEN: u8 = 4;
}

/// Where the base of an activation's innermost frame is from.
pub mod base {
    /// `L->base`, of a thread that has called C: exact.
    pub const STATE: u32 = 0;
    /// `jit_base`: a compiled trace is running.
    pub const TRACE: u32 = 1;
    /// The interpreter's BASE register, agreeing with its PC register.
    pub const REGISTER: u32 = 2;
    /// The frame of the caller while the interpreter is between a call or return and its new frame, or between a frame and
    /// the C code that it returns to.
    pub const CALLER: u32 = 3;
    /// BASE as the interpreter saved it, in a register or in `L->base`, to call a C helper; or as that pushed the register.
    pub const SAVED: u32 = 4;
    /// `L->base` while the interpreter runs and no register fits: innermost frames may be missing.
    pub const STALE: u32 = 5;
    /// The interpreter's BASE register right after a trace was left: its PC register is at the next instruction, not past
    /// it.
    pub const RESTORED: u32 = 6;
}

/// Bits of [`Entry::flags`] of all entries but activations.
pub mod frame {
    /// The bits above hold the number of the activation, modulo 4,096, the first one being 1: entries behind a cut are told
    /// apart by it.
    pub const ACTIVATION_SHIFT: u16 = 4;
    /// The continuation is that of an FFI callback, which owns a C frame.
    pub const FFI_CALLBACK: u16 = 1 << 0;
    /// The function object could not be read.
    pub const NO_FUNCTION: u16 = 1 << 1;
    /// The prototype could not be read.
    pub const NO_PROTO: u16 = 1 << 2;
}

/// User-mode registers at the moment of a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
#[allow(missing_docs)] // the architecture's names
pub struct Registers {
    pub ip: u64,
    pub sp: u64,
    pub bp: u64,
    pub bx: u64,
    pub dx: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    /// The rest: ax, cx, si, di, r8, r9, r10, r11.
    pub volatile: [u64; 8],
}

/// The fixed part of every record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    /// What the record is: [`record`].
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Thread; for [`record::FORK`] the new process.
    pub tid: u32,
    /// CPU that the sample was taken on.
    pub cpu: u32,
    /// Time on the kernel's monotonic clock, in nanoseconds.
    pub time: u64,
    /// [`flag`]s.
    pub flags: u32,
    /// Entries found, kept or not.
    pub entries_found: u32,
    /// Entries that follow, at most [`ENTRIES`].
    pub entries_kept: u32,
    /// Bytes of kernel stack that follow the entries.
    pub kernel_bytes: u32,
    /// Bytes of native stack from `registers.sp` up.
    pub leaf_bytes: u32,
    /// Bytes of native stack from `root_address` up.
    pub root_bytes: u32,
    /// Where the root's part of the native stack was copied from.
    pub root_address: u64,
    /// Where the native stack ends, or 0 when that is not known.
    pub stack_base: u64,
    /// `global_State` of the innermost activation, or 0.
    pub g: u64,
    /// Its `jit_base`.
    pub jit_base: u64,
    /// Its `vmstate`.
    pub vmstate: i32,
    /// The number of the exit that is being taken (`jit_State.exitno`), if `vmstate` says that one is.
    pub exit: u32,
    /// Address of the trace that runs, that called the garbage collector or that is being left, or 0.
    pub trace: u64,
    /// [`Copied::mark`] of the copies of that trace.
    pub trace_mark: u64,
    /// User-mode registers.
    pub registers: Registers,
}

/// Memory as it was when a sample was taken: a trace, its machine code, a prototype or its chunk name, copied when it is met for
/// the first time, since it may be gone by the time that userspace reads the sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Copied {
    /// [`record::COPIED`].
    pub kind: u32,
    /// Process.
    pub tgid: u32,
    /// Where the bytes are from.
    pub address: u64,
    /// A hash of what tells the object from others at its address.
    pub mark: u64,
}

/// One step of the walk through the Lua stacks; see [`entry`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Entry {
    /// What the entry is: [`entry`].
    pub kind: u8,
    /// For a frame, `ffid` of its function: 0 Lua, 1 C, more: a fast function.
    pub ffid: u8,
    /// Flags of the kind.
    pub flags: u16,
    /// A slot number or another small number of the kind.
    pub slot: u32,
    /// Addresses, by kind.
    pub words: [u64; 5],
    /// Numbers, by kind.
    pub numbers: [u32; 4],
}

/// What the probe needs to know of a process: one entry of the map `WATCHED`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// [`watch`] flags.
    pub flags: u32,
    /// Padding.
    pub reserved: u32,
    /// The VM's assembly: first address.
    pub asm_start: u64,
    /// The VM's assembly: end.
    pub asm_end: u64,
    /// Its part that leaves traces.
    pub exit: ExitHandler,
    /// Offsets of this build.
    pub layout: Layout,
}

/// The part of the VM's assembly that leaves a trace (`lj_vm_exit_handler`); all 0 when it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExitHandler {
    /// Its first address.
    pub start: u64,
    /// Behind the two instructions that store the numbers of the exit and of the trace, one after the other.
    pub stored: u64,
    /// Behind its call of `lj_trace_exit`.
    pub back: u64,
    /// From `global_State` to `jit_State.exitno`.
    pub g_exitno: u32,
    /// From `global_State` to `jit_State.parent`.
    pub g_parent: u32,
}

/// The offsets that the probe reads by, all in bytes, and how references and frames are stored. Names as in LuaJIT's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs)] // the fields carry the names they have in LuaJIT's headers
pub struct Layout {
    /// The bits of a reference, also in a slot of the Lua stack.
    pub reference: u64,
    /// In the slot that holds the function of a frame: bits that say that it is one, and their value.
    pub function_tag_mask: u64,
    pub function_tag: u64,
    /// Bytes that a frame takes below its base: the function is at the lowest of them.
    pub frame_size: u16,
    /// Bits below the link in the slot below a frame's base.
    pub link_shift: u16,
    /// Of a C frame: `SAVE_L`, `SAVE_PC` and `SAVE_NRES`, which is followed by `SAVE_ERRF`.
    pub cframe_l: u16,
    pub cframe_pc: u16,
    pub cframe_nres: u16,
    pub l_size: u16,
    pub l_glref: u16,
    pub l_base: u16,
    pub l_top: u16,
    pub l_maxstack: u16,
    pub l_stack: u16,
    pub l_cframe: u16,
    pub g_vmstate: u16,
    pub g_mainthref: u16,
    pub g_cur_l: u16,
    pub g_jit_base: u16,
    /// From `global_State` to the dispatch table, which the DISPATCH register points to.
    pub g_dispatch: u16,
    pub func_ffid: u16,
    pub func_pc: u16,
    pub func_c: u16,
    pub proto_size: u16,
    pub proto_sizebc: u16,
    pub proto_chunkname: u16,
    pub proto_firstline: u16,
    pub proto_numline: u16,
    pub proto_sizept: u16,
    pub string_size: u16,
    pub string_len: u16,
    /// From `global_State` to `jit_State.trace` and `sizetrace`.
    pub g_trace: u16,
    pub g_sizetrace: u16,
    pub trace_nins: u16,
    pub trace_nk: u16,
    pub trace_snapmap: u16,
    pub trace_nsnapmap: u16,
    /// Nonzero: `nsnapmap` has 16 bits.
    pub trace_short: u16,
    pub trace_startpc: u16,
    pub trace_szmcode: u16,
    pub trace_mcode: u16,
    pub trace_link: u16,
    pub trace_root: u16,
    pub trace_nextside: u16,
    /// From `global_State` to `jit_State.exitstubgroup`.
    pub g_exitstubs: u16,
    /// Bytes of a reference.
    pub reference_size: u16,
    /// Padding.
    pub reserved: u16,
}

/// Where the kernel keeps what the probe reads of a task, from the kernel's own BTF; byte offsets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Kernel {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.thread.fsbase`
    pub task_fsbase: u32,
    /// `mm_struct.start_stack`
    pub mm_start_stack: u32,
    /// Nonzero: record kernel stacks.
    pub kernel_stacks: u32,
    /// Nonzero: tell of processes that are not watched: [`record::MET`], [`record::NEW`].
    pub discover: u32,
}

/// Indexes of the map `COUNTERS`.
pub mod counter {
    /// Samples taken in watched processes.
    pub const SAMPLES: u32 = 0;
    /// Records that found no room in the ring buffer.
    pub const LOST: u32 = 1;
    /// Number of counters.
    pub const COUNT: u32 = 2;
}
