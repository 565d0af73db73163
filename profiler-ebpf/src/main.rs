//! The probe: takes a sample when a perf event fires in a watched process.
//!
//! It copies and interprets nothing that can be left to userspace. What cannot be left is the chain of Lua frames, since the
//! Lua stack has moved on by the time userspace runs: `walk` follows the frame links, and the links only.
//!
//! A sample passes through three programs, joined by tail calls: [`sample`] finds the innermost activation of the VM, [`walk`]
//! follows C frames and Lua frames from there to the root, and [`finish`] adds what userspace needs of each frame kept, the kernel
//! stack and the native stack, and sends the record. All state between steps is in a scratch area for each CPU, so that the
//! verifier sees the same state at every turn of a loop. A perf event does not interrupt the program of another one on the
//! same CPU (the kernel's `bpf_prog_active`), so the area has one user at a time.

#![no_std]
#![no_main]

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, bpf_perf_event_data};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_get_stack,
    bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_probe_read_user, bpf_ringbuf_output, bpf_ringbuf_query,
    bpf_task_pt_regs,
};
use aya_ebpf::macros::{map, perf_event, raw_tracepoint};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::programs::{PerfEventContext, RawTracePointContext};
use luaflame_ebpf::{
    CFRAME_SIZE, Copied, ENTRIES, Entry, Header, KERNEL_FRAMES, Kernel, LEAF_ENTRIES, LEAF_STACK, Layout, Process,
    RED_ZONE, ROOT_STACK, base, counter, entry, flag, frame, record, strangers, watch,
};

/// Processes to sample, by thread group id in the initial PID namespace.
#[map]
static WATCHED: HashMap<u32, Process> = HashMap::with_max_entries(4096, 0);
/// Processes that are not watched and have been told of, with the time until which they are not told of again, whose lowest bit says
/// whether to tell of those that they start ([`FOLLOWED`]). Those met last are kept.
#[map]
static STRANGERS: LruHashMap<u32, u64> = LruHashMap::with_max_entries(16384, 0);
/// Samples of each process that found no room in the ring buffer.
#[map]
static LOSSES: LruHashMap<u32, u64> = LruHashMap::with_max_entries(4096, 0);
/// One entry: offsets in the kernel's own structs.
#[map]
static KERNEL: Array<Kernel> = Array::with_max_entries(1, 0);
/// Records for userspace.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);
/// Counters, see [`counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);
/// One scratch area for each possible CPU (the loader sets the number). Not a per-CPU map: their values end at 32 KiB.
#[map]
static SCRATCH: Array<Scratch> = Array::with_max_entries(1, 0);
/// Marks of what has been copied to userspace already, each at a place that follows from it; a later one takes the place of an
/// earlier one, which then is copied again.
#[map]
static KNOWN: Array<u64> = Array::with_max_entries(MARKS, 0);
/// The programs that follow one another: [`WALK`], [`FINISH`].
#[map]
static STEPS: ProgramArray = ProgramArray::with_max_entries(2, 0);

/// Nanoseconds for which a process that was told of is not told of again, unless userspace says otherwise.
const TELL_AGAIN: u64 = 1_000_000_000;
const RING_BYTES: u32 = 4 << 20;
/// A power of two.
const MARKS: u32 = 1 << 14;
const WALK: u32 = 0;
const FINISH: u32 = 1;

/// Turns of the walk in one program, Lua frames taken in one turn, and programs in a row (the kernel allows 33 tail
/// calls): a chain is walked to its end even when it fills the largest Lua stack, of 65,500 slots.
const TURNS: u32 = 128;
const FRAMES: u32 = 64;
const WALKS: u32 = 30;
/// Native stack words looked at in one turn, and words behind them that are read with them: the better part of a C frame.
const SCAN_WORDS: usize = 128;
const SCAN_AHEAD: usize = 8;
/// Bytes of an area of machine code (`sizemcode`): what a trace jumps to is mostly in the same one.
const MCODE_AREA: u64 = 64 << 10;
/// Native stack words between the garbage collector's innermost function and the trace that called it, at most.
const COLLECTOR_WORDS: usize = 96;
/// `vmstate` in a C function (`~LJ_VMST_C`).
const VMST_C: i32 = -2;
/// `vmstate` while the garbage collector runs (`~LJ_VMST_GC`).
const VMST_GC: i32 = -3;
/// `vmstate` while a trace is being left (`~LJ_VMST_EXIT`).
const VMST_EXIT: i32 = -4;
/// Type of the link of a vararg function's pseudo frame (`FRAME_VARG`).
const FRAME_VARG: u64 = 3;
/// Type byte of a function (`~LJ_TFUNC`); it is right before the `ffid` in a function object.
const GCT_FUNCTION: u64 = 8;
/// Most bytes of a Lua stack: `LJ_STACK_MAX` is 65,500 slots, with some slack for error handling.
const LUA_STACK: u64 = 1 << 20;

/// What a turn of the walk does next.
mod phase {
    /// Take the C frame at `x`.
    pub const CFRAME: u32 = 1;
    /// Take the Lua frame at `base`.
    pub const FRAME: u32 = 2;
    /// The thread's chains are done: look for the activation that resumed it.
    pub const PARENT: u32 = 3;
    /// Look through the native stack from `scan` up for the next activation.
    pub const SCAN: u32 = 4;
    /// Take the activation whose C frame is at `x`, if it is one.
    pub const TRY: u32 = 5;
    /// Nothing is left.
    pub const DONE: u32 = 0;
}

/// The walk's state.
#[repr(C)]
struct Walk {
    phase: u32,
    walks: u32,
    /// `lua_State` and its `stack` of the activation that is walked.
    l: u64,
    stack: u64,
    /// C frame.
    x: u64,
    /// Base of the Lua frame.
    base: u64,
    /// Where the search through the native stack goes on.
    scan: u64,
    /// End of the native stack, as far as searches go.
    limit: u64,
    /// Entries found.
    found: u32,
    /// Activations found.
    activations: u32,
    /// The interpreter's PC, when another register's place on the native stack says it, or 0.
    pc: u64,
    /// What the innermost activation's base was taken from ([`base`]).
    source: u32,
    innermost: u32,
    /// Offsets and ranges of the process.
    process: Process,
    /// Buffers of reads.
    words: [u64; SCAN_WORDS + SCAN_AHEAD],
    object: [u64; 16],
}

/// The scratch area; `header` and `body` are what is sent.
#[repr(C)]
struct Scratch {
    walk: Walk,
    header: Header,
    body: Body,
}

/// Most bytes that are copied of one object.
const MOST_COPIED: u64 = 60 << 10;
const ENTRY_BYTES: usize = size_of::<Entry>();
const KERNEL_BYTES: usize = KERNEL_FRAMES * 8;

/// Entries first; what follows them in a record is written behind the last one kept.
#[repr(C)]
struct Body {
    entries: [Entry; ENTRIES],
    room: [u8; KERNEL_BYTES + LEAF_STACK + ROOT_STACK + RED_ZONE + 64],
}

/// Hides from the compiler what it knows of a number, so that the bound check that follows stays a check of the very
/// register that is used: the verifier follows registers.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    core::hint::black_box(value)
}

#[inline(always)]
unsafe fn read_user(target: *mut u8, length: u32, address: u64) -> bool {
    // SAFETY: callers pass a target inside the scratch area with room for `length` bytes; the verifier checks it.
    unsafe { bpf_probe_read_user(target.cast(), length, address as *const c_void) == 0 }
}

#[inline(always)]
unsafe fn read_kernel(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the target is a local of 8 bytes. A failed read leaves 0.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const c_void) };
    value
}

#[inline(always)]
unsafe fn user_word(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the target is a local of 8 bytes. A failed read leaves 0.
    unsafe { bpf_probe_read_user((&raw mut value).cast(), 8, address as *const c_void) };
    value
}

/// A reference (`GCRef` or `MRef`).
#[inline(always)]
unsafe fn user_reference(layout: &Layout, address: u64) -> u64 {
    // SAFETY: as `user_word`. Where references are short, what is behind one is cut off; objects are followed by more memory.
    unsafe { user_word(address) & layout.reference }
}

/// The link of the frame at `base`.
#[inline(always)]
unsafe fn user_link(layout: &Layout, base: u64) -> u64 {
    // SAFETY: as `user_word`.
    unsafe { user_word(base.wrapping_sub(8)) >> (layout.link_shift & 63) }
}

#[inline(always)]
unsafe fn user_half(address: u64) -> u32 {
    let mut value = 0u32;
    // SAFETY: the target is a local of 4 bytes. A failed read leaves 0.
    unsafe { bpf_probe_read_user((&raw mut value).cast(), 4, address as *const c_void) };
    value
}

#[inline(always)]
fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the area of this CPU has one user at a time, see the module's documentation.
    unsafe { SCRATCH.get_ptr_mut(bpf_get_smp_processor_id()).map(|area| &mut *area) }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the pointer is this CPU's element of the map.
        unsafe { *counter += 1 };
    }
}

/// A word of `object` at a byte offset that userspace gave.
#[inline(always)]
fn field(object: &[u64; 16], offset: u16) -> u64 {
    object[usize::from(offset >> 3) & 15]
}

/// What is in `object` from a byte offset on that userspace gave, a multiple of four.
#[inline(always)]
fn from(object: &[u64; 16], offset: u16) -> u64 {
    field(object, offset) >> ((u64::from(offset) & 4) * 8)
}

/// Four bytes of `object` at a byte offset that userspace gave.
#[inline(always)]
fn half(object: &[u64; 16], offset: u16) -> u32 {
    from(object, offset) as u32
}

/// Two bytes of `object` at a byte offset that userspace gave.
#[inline(always)]
fn short(object: &[u64; 16], offset: u16) -> u32 {
    (field(object, offset) >> ((u64::from(offset) & 7) * 8)) as u32 & 0xffff
}

/// A reference in `object`.
#[inline(always)]
fn reference(layout: &Layout, object: &[u64; 16], offset: u16) -> u64 {
    from(object, offset) & layout.reference
}

/// Whether the PC register can be `pc` in the function of a slot: inside the bytecode of a Lua function, at the header of a C or fast
/// function, or, while any of them returns, its frame's `link`, of which the type may have been taken off already.
#[inline(always)]
unsafe fn function_fits(layout: &Layout, value: u64, pc: u64, link: u64) -> bool {
    if value & layout.function_tag_mask != layout.function_tag {
        return false;
    }
    let function = value & layout.reference;
    // SAFETY: reads of the target's memory may fail and then give 0, which fits nothing.
    unsafe {
        let code = user_reference(layout, function + u64::from(layout.func_pc));
        let kind = user_word(function + u64::from(layout.func_ffid & !7)) >> (((layout.func_ffid & 7) - 1) * 8 & 63);
        if kind & 0xff != GCT_FUNCTION {
            return false;
        }
        let ffid = kind >> 8 & 0xff;
        if link != 0 && (pc == link || link & 3 != 0 && pc & !7 == link & !7) {
            return true;
        }
        if ffid != 0 {
            return pc == code || pc == code + 4;
        }
        let proto = code - u64::from(layout.proto_size);
        let size = u64::from(user_half(proto + u64::from(layout.proto_sizebc)));
        pc >= code && pc <= code + size * 4
    }
}

/// Whether there is a frame at `base` with the interpreter at `pc`, and its link leads to a frame that made the call. Both
/// matter: in the middle of a call, the link of the new frame may be what an older call left there.
#[inline(always)]
unsafe fn frame_fits(layout: &Layout, base: u64, stack: u64, maxstack: u64, pc: u64) -> bool {
    if !on_lua_stack(layout, base, stack, maxstack) {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        let function = user_word(base - u64::from(layout.frame_size));
        function_fits(layout, function, pc, user_link(layout, base)) && link_fits(layout, base, stack, maxstack)
    }
}

/// Whether the link of the frame at `base` leads to a frame that made the call.
#[inline(always)]
unsafe fn link_fits(layout: &Layout, base: u64, stack: u64, maxstack: u64) -> bool {
    if !on_lua_stack(layout, base, stack, maxstack) {
        return false;
    }
    // SAFETY: as above.
    unsafe {
        let link = user_link(layout, base);
        if link & 3 != 0 {
            let delta = link & !7;
            return delta != 0 && delta <= base - stack;
        }
        let caller = caller_base(layout, base, link);
        function_fits(layout, user_word(caller.wrapping_sub(u64::from(layout.frame_size))), link, 0)
    }
}

/// Whether the PC register is the link of the frame at `base`, which leads to another than a Lua function; on the way to C code, its
/// type has been taken off (`vm_return`).
#[inline(always)]
unsafe fn is_typed_link_of(layout: &Layout, base: u64, bottom: u64, pc: u64) -> bool {
    const FRAME_C: u64 = 1;
    // SAFETY: as above.
    let link = unsafe { user_link(layout, base) };
    link & 3 != 0 && (link == pc || link ^ FRAME_C == pc) && link & !7 <= base - bottom
}

/// Whether `base` can be that of a frame.
#[inline(always)]
fn on_lua_stack(layout: &Layout, base: u64, stack: u64, maxstack: u64) -> bool {
    base > stack + u64::from(layout.frame_size) && base <= maxstack && base & 7 == 0
}

/// The frame of the caller when the interpreter is between a call or return instruction at `pc - 4` and the frame at `base`.
#[inline(always)]
unsafe fn caller_base(layout: &Layout, base: u64, pc: u64) -> u64 {
    // SAFETY: see `user_half`.
    let operand = u64::from(unsafe { user_half(pc.wrapping_sub(4)) } >> 8 & 0xff);
    base.wrapping_sub(u64::from(layout.frame_size) + 8 * operand)
}

#[perf_event]
fn sample(context: PerfEventContext) -> u32 {
    // SAFETY: helpers without preconditions.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let tgid = (id >> 32) as u32;
    // SAFETY: entries are replaced whole by userspace; a torn read is a wrong sample at worst, and checked later.
    let Some(process) = (unsafe { WATCHED.get(&tgid) }) else {
        meet(tgid);
        return 0;
    };
    if process.flags & watch::QUIET != 0 {
        return 0;
    }
    let Some(area) = scratch() else { return 0 };
    count(counter::SAMPLES);
    start(&context, area, process, id);
    // SAFETY: the map holds programs of this type only. When a tail call fails, which the kernel allows only for an empty
    // slot, the sample is lost.
    unsafe {
        let next = if area.walk.phase == phase::DONE { FINISH } else { WALK };
        let _ = STEPS.tail_call(&context, next);
    }
    lose(tgid);
    0
}

/// A process that is not watched uses the CPU.
#[inline(always)]
fn meet(tgid: u32) {
    // That of the idle tasks is 0.
    if tgid == 0 || !discovers() {
        return;
    }
    // SAFETY: helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: entries are numbers; which of two holds does not matter.
    let until = unsafe { STRANGERS.get(&tgid) }.map_or(0, |until| *until);
    if now < until {
        return;
    }
    let again = (now + TELL_AGAIN) & !strangers::FOLLOWED | until & strangers::FOLLOWED;
    if STRANGERS.insert(&tgid, &again, 0).is_ok() {
        tell(record::MET, tgid, tgid);
    }
}

/// Whether userspace wants to know of processes that are not watched.
#[inline(always)]
fn discovers() -> bool {
    KERNEL.get(0).is_some_and(|kernel| kernel.discover != 0)
}

/// Counts a sample of a process that cannot be sent.
#[inline(always)]
fn lose(tgid: u32) {
    count(counter::LOST);
    if let Some(lost) = LOSSES.get_ptr_mut(&tgid) {
        // SAFETY: the pointer is an element of the map. Two CPUs may count one loss as one; the counter above has all.
        unsafe { *lost += 1 };
    } else {
        let _ = LOSSES.insert(&tgid, &1, 0);
    }
}

/// Fills in the header and finds the innermost activation.
#[inline(always)]
fn start(context: &PerfEventContext, area: &mut Scratch, process: &Process, id: u64) {
    let Some(kernel) = KERNEL.get(0) else { return };
    let walk = &mut area.walk;
    let header = &mut area.header;
    walk.process = *process;
    walk.phase = phase::DONE;
    walk.walks = 0;
    walk.found = 0;
    walk.activations = 0;
    walk.pc = 0;
    walk.source = base::STATE;
    walk.innermost = 1;
    header.kind = record::SAMPLE;
    header.tgid = (id >> 32) as u32;
    header.tid = id as u32;
    header.flags = 0;
    header.entries_found = 0;
    header.root_address = 0;
    header.g = 0;
    header.jit_base = 0;
    header.vmstate = 0;
    header.exit = 0;
    // SAFETY: helpers without preconditions; the context is what the kernel passed; reads that fail give 0.
    unsafe {
        header.cpu = bpf_get_smp_processor_id();
        header.time = bpf_ktime_get_ns();
        let event = context.as_ptr().cast::<bpf_perf_event_data>();
        if (*event).regs.cs & 3 == 0 {
            header.flags |= flag::KERNEL;
        }
        // The user registers that the kernel saved on entry, which for an interrupt of user mode are those of the
        // interrupt.
        let task = bpf_get_current_task_btf();
        let saved = bpf_task_pt_regs(task) as u64;
        let object = &mut walk.words;
        bpf_probe_read_kernel(object.as_mut_ptr().cast(), 21 * 8, saved as *const c_void);
        // `struct pt_regs` of x86-64: r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp ss.
        let r = &mut header.registers;
        r.r15 = object[0];
        r.r14 = object[1];
        r.r13 = object[2];
        r.r12 = object[3];
        r.bp = object[4];
        r.bx = object[5];
        r.dx = object[12];
        r.ip = object[16];
        r.sp = object[19];
        r.volatile = [object[10], object[11], object[13], object[14], object[9], object[8], object[7], object[6]];

        // The stack ends where the kernel put the main thread's first stack frame, or at the thread control block that
        // thread libraries place at the top of a thread's stack: the nearer one above the stack pointer.
        let sp = r.sp;
        let task = bpf_get_current_task();
        let main = read_kernel(read_kernel(task + u64::from(kernel.task_mm)) + u64::from(kernel.mm_start_stack));
        let thread = read_kernel(task + u64::from(kernel.task_fsbase));
        let mut stack_base = 0;
        if main > sp {
            stack_base = main;
        }
        if thread > sp && (stack_base == 0 || thread < stack_base) {
            stack_base = thread;
        }
        if stack_base == 0 || stack_base - sp > 1 << 30 {
            header.flags |= flag::STACK_BASE_UNKNOWN;
            stack_base = 0;
        }
        header.stack_base = stack_base;
        walk.limit = if stack_base == 0 { sp + (LEAF_STACK + ROOT_STACK) as u64 } else { stack_base };

        if walk.process.flags & watch::LUA == 0 {
            return;
        }
        locate(walk, header);
    }
}

/// Finds the C frame of the innermost activation, or leaves it to a search of the stack.
#[inline(always)]
unsafe fn locate(walk: &mut Walk, header: &Header) {
    let sp = header.registers.sp;
    let layout = &walk.process.layout;
    let cur_l = u64::from(layout.g_cur_l);
    let cframe = u64::from(layout.l_cframe);
    let mut best = u64::MAX;
    // SAFETY: reads of the target's memory may fail and then give 0, which fits nothing.
    unsafe {
        // While the VM or a trace runs, DISPATCH points into the VM's `GG_State`.
        let g = header.registers.r14.wrapping_sub(u64::from(layout.g_dispatch));
        if user_reference(layout, g + u64::from(layout.g_mainthref)) == g.wrapping_sub(u64::from(layout.l_size)) {
            let x = user_word(user_reference(layout, g + cur_l) + cframe) & !3;
            if x >= sp && x < walk.limit {
                best = x;
            }
        }
        if best == u64::MAX {
            // While a coroutine returns, `cur_L` is one that has no C frame any more, and the assembly runs in its resumer's.
            let ip = header.registers.ip;
            let x = user_word(user_reference(layout, sp + u64::from(layout.cframe_l)) + cframe) & !3;
            if x == sp && ip >= walk.process.asm_start && ip < walk.process.asm_end {
                best = x;
            }
        }
    }
    walk.scan = sp;
    if best == u64::MAX {
        walk.phase = phase::SCAN;
    } else {
        walk.x = best;
        walk.phase = phase::TRY;
    }
}

#[perf_event]
fn walk(context: PerfEventContext) -> u32 {
    let Some(area) = scratch() else { return 0 };
    for _ in 0..TURNS {
        if turn() == phase::DONE {
            break;
        }
    }
    area.walk.walks += 1;
    let mut next = FINISH;
    if area.walk.phase != phase::DONE {
        if area.walk.walks < WALKS {
            next = WALK;
        } else {
            broken(&mut area.walk, &mut area.body);
        }
    }
    // SAFETY: as in `sample`.
    unsafe {
        let _ = STEPS.tail_call(&context, next);
    }
    count(counter::LOST);
    0
}

/// The place of the next entry.
#[inline(always)]
fn next_entry<'a>(found: &mut u32, body: &'a mut Body) -> &'a mut Entry {
    let number = *found as usize;
    *found += 1;
    let index = if number < ENTRIES { number } else { LEAF_ENTRIES + (number & (LEAF_ENTRIES - 1)) };
    &mut body.entries[index & (ENTRIES - 1)]
}

/// One turn of the walk; the phase of the next one.
///
/// A global function, which the verifier goes through once and not once for each call.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn turn() -> u32 {
    let Some(Scratch { walk, header, body }) = scratch() else { return phase::DONE };
    // SAFETY: reads of the target's memory go to buffers in the scratch area, and may fail.
    unsafe {
        match walk.phase {
            phase::TRY => activation(walk, header, body),
            phase::CFRAME => cframe(walk, body),
            phase::FRAME => {
                for _ in 0..FRAMES {
                    lua_frame(walk, body);
                    if walk.phase != phase::FRAME {
                        break;
                    }
                }
            }
            phase::PARENT => {
                // coroutine.resume and coroutine.wrap call `lj_vm_resume` from the assembly: the parent's C frame lies
                // right above the child's.
                let back = user_word(walk.x + CFRAME_SIZE - 8);
                walk.scan = walk.x + CFRAME_SIZE;
                if back >= walk.process.asm_start && back < walk.process.asm_end {
                    walk.x += CFRAME_SIZE;
                    walk.phase = phase::TRY;
                } else {
                    walk.phase = phase::SCAN;
                }
            }
            phase::SCAN => scan(walk),
            _ => {}
        }
    }
    walk.phase
}

/// Looks at the next words of the native stack for a C frame: behind a return address into the VM's assembly, which is where C
/// code called from there has it, or where a thread says that its C frame is. The latter finds what is below C code that a
/// trace has called, however many VMs there are. C frames are aligned to 16 bytes, as the calling convention asks for, so only
/// every second word can be such an address.
#[inline(always)]
unsafe fn scan(walk: &mut Walk) {
    const MOST: u64 = ((SCAN_WORDS + SCAN_AHEAD) * 8) as u64;
    let from = (walk.scan + 7) & !15 | 8;
    let left = walk.limit.wrapping_sub(from);
    if from >= walk.limit || left < 8 {
        walk.phase = phase::DONE;
        return;
    }
    let mut bytes = MOST;
    if left < bytes {
        bytes = left & !7;
    }
    let bytes = opaque(bytes);
    if bytes == 0 || bytes > MOST {
        walk.phase = phase::DONE;
        return;
    }
    // SAFETY: the buffer holds so many words.
    if !unsafe { read_user(walk.words.as_mut_ptr().cast(), bytes as u32, from) } {
        walk.phase = phase::DONE;
        return;
    }
    let layout = &walk.process.layout;
    let start = walk.process.asm_start;
    let length = walk.process.asm_end.wrapping_sub(start);
    let (l_word, l_shift) = (usize::from(layout.cframe_l >> 3) & 3, u64::from(layout.cframe_l & 4) * 8);
    let cframe = u64::from(layout.l_cframe);
    let words = (bytes >> 3) as usize;
    for index in (0..SCAN_WORDS).step_by(2) {
        if index >= words {
            break;
        }
        let x = from + index as u64 * 8 + 8;
        let mut found = walk.words[index].wrapping_sub(start) < length;
        // Most words are told by where the thread's C frame before this one would be: higher up, or nowhere.
        let previous = walk.words[index + 1 + 4] & !3;
        if !found && (previous == 0 || previous > x && previous < walk.limit) {
            let l = walk.words[index + 1 + l_word] >> l_shift & layout.reference;
            // SAFETY: see `user_word`.
            found = l != 0 && l & 7 == 0 && unsafe { user_word(l + cframe) } & !3 == x;
        }
        if found {
            walk.x = x;
            walk.scan = x;
            walk.phase = phase::TRY;
            return;
        }
    }
    walk.scan = from + if bytes < (SCAN_WORDS * 8) as u64 { bytes } else { (SCAN_WORDS * 8) as u64 };
}

/// Takes the activation whose innermost C frame is at `x`, if there is one: its thread must know this C frame, and its VM
/// must know itself.
#[inline(always)]
unsafe fn activation(walk: &mut Walk, header: &mut Header, body: &mut Body) {
    let layout = &walk.process.layout;
    walk.phase = phase::SCAN;
    if walk.scan < walk.x {
        walk.scan = walk.x;
    }
    // SAFETY: the buffer holds 16 words; other reads give 0 when they fail.
    unsafe {
        let l = user_reference(layout, walk.x + u64::from(layout.cframe_l));
        let mut length = u32::from(layout.l_size);
        if length > 128 {
            length = 128;
        }
        if l == 0 || !read_user(walk.object.as_mut_ptr().cast(), opaque(length.into()) as u32 & 127, l) {
            return;
        }
        let object = &walk.object;
        let g = reference(layout, object, layout.l_glref);
        let raw = field(object, layout.l_cframe);
        let stack = reference(layout, object, layout.l_stack);
        let maxstack = reference(layout, object, layout.l_maxstack);
        let top = field(object, layout.l_top);
        let stored = field(object, layout.l_base);
        if raw & !3 != walk.x
            || user_reference(layout, g + u64::from(layout.g_mainthref)) != g - u64::from(layout.l_size)
        {
            return;
        }
        walk.l = l;
        walk.stack = stack;
        walk.base = stored;
        let mut source = base::STATE;
        if walk.innermost != 0 {
            header.g = g;
            header.vmstate = user_half(g + u64::from(layout.g_vmstate)) as i32;
            if header.vmstate == VMST_EXIT {
                header.exit = user_half(g + u64::from(walk.process.exit.g_exitno));
            }
        }
        if stored <= stack || stored > maxstack || maxstack - stack > LUA_STACK {
            // It is one, but its Lua stack is being moved; or what it says of its Lua stack cannot be and leads nowhere.
            walk.innermost = 0;
            walk.base = if maxstack - stack > LUA_STACK { 0 } else { moved(stored, maxstack) };
        } else if walk.innermost != 0 {
            walk.innermost = 0;
            header.jit_base = user_reference(layout, g + u64::from(layout.g_jit_base));
            let r = &header.registers;
            let in_asm = r.ip >= walk.process.asm_start && r.ip < walk.process.asm_end;
            let on_stack = header.jit_base > stack && header.jit_base <= maxstack;
            let own = in_asm && r.sp == walk.x;
            let bottom = stack + u64::from(layout.frame_size);
            // `lj_vm_exit_interp`: the trace has been left, and `vmstate` does not say so yet.
            let restored = own && header.vmstate >= 0 || in_asm && header.vmstate == VMST_EXIT;
            let exit = &walk.process.exit;
            if r.ip >= exit.start && r.ip < exit.back {
                // The exit handler stores the trace's base before it clears `jit_base`, and leaves the rest to C code.
                if on_stack {
                    walk.base = header.jit_base;
                }
            } else if on_stack && header.vmstate >= 0 && !restored {
                walk.base = header.jit_base;
                source = base::TRACE;
            } else if in_asm && r.sp + 8 < walk.x && !on_stack && header.vmstate != VMST_EXIT {
                // The assembly is called by C code, or on its way back to it: registers are those of C code.
            } else if restored && frame_fits(layout, r.dx, stack, maxstack, r.bx) {
                walk.base = r.dx;
                source = base::RESTORED;
            } else if in_asm && frame_fits(layout, r.dx, stack, maxstack, r.bx) {
                walk.base = r.dx;
                source = base::REGISTER;
            } else if in_asm && frame_fits(layout, caller_base(layout, r.dx, r.bx), stack, maxstack, r.bx) {
                walk.base = caller_base(layout, r.dx, r.bx);
                source = base::CALLER;
            } else if frame_fits(layout, r.bp, stack, maxstack, r.bx) {
                walk.base = r.bp;
                source = base::SAVED;
            } else if !in_asm && !on_stack && pushed(maxstack) != 0 {
                // It has found the base itself.
                source = base::SAVED;
            } else if in_asm && frame_fits(layout, stored, stack, maxstack, r.bx) {
                // BASE has just been stored to call a C helper, and its register is used for an argument.
                source = base::SAVED;
            } else if own && on_lua_stack(layout, r.dx, stack, maxstack) && is_typed_link_of(layout, r.dx, bottom, r.bx)
            {
                // A builtin that C code or another builtin called has put its result in the place of its function (`fff_res`):
                // its frame is gone.
                walk.base = r.dx - (user_link(layout, r.dx) & !7);
            } else if on_stack && header.jit_base == r.dx && !in_asm {
                // The first instructions of a trace, before it has set `vmstate`.
                walk.base = r.dx;
                source = base::TRACE;
            } else if header.vmstate == VMST_EXIT || restored {
                // As in the exit handler, if it is not known where that is.
                if on_stack {
                    walk.base = header.jit_base;
                }
            } else if header.vmstate == VMST_C {
                // In the assembly's entry and exit, `L->base` is that of the C function that called in. Only while results
                // are moved down on the way out it is not yet; then the PC register holds it, for one instruction negated.
                let negated = r.bx.wrapping_neg() & layout.reference;
                let below = if negated > stack && negated <= maxstack { negated } else { r.bx };
                if own && (below == bottom || link_fits(layout, below, stack, maxstack)) {
                    walk.base = below;
                    source = base::CALLER;
                }
            } else if own {
                let cx = r.volatile[1];
                let delta = r.bx & !7;
                let called = cx.wrapping_sub(delta);
                if r.bx & 7 == FRAME_VARG
                    && on_lua_stack(layout, r.dx, stack, maxstack)
                    && user_link(layout, r.dx + delta) == r.bx
                {
                    // A vararg function returns: BASE has been moved down to the frame that its pseudo frame was made from.
                    walk.base = r.dx;
                    source = base::REGISTER;
                } else if r.bx & 3 != 0 && (r.dx == called || r.dx == cx) && called >= bottom && cx <= maxstack {
                    // A call of a metamethod, or from C, is made up: RA is the new base, PC the new link
                    // (`vm_call_dispatch`).
                    walk.base = called;
                } else if on_lua_stack(layout, r.dx, stack, maxstack)
                    && on_lua_stack(layout, r.bp, stack, maxstack)
                    && (r.bp - delta == r.dx || r.bp - (user_link(layout, r.bp) & !7) == r.dx)
                {
                    // Back from a metamethod or callback, RB is its base (`cont_dispatch`).
                    walk.base = r.dx;
                } else {
                    let save_pc = user_reference(layout, walk.x + u64::from(layout.cframe_pc));
                    let caller = caller_base(layout, stored, save_pc);
                    if r.dx != stored && frame_fits(layout, r.dx, stack, maxstack, save_pc) {
                        // A builtin uses the PC register for something else, and has saved it in the C frame (SAVE_PC).
                        walk.base = r.dx;
                    } else if r.dx != stored && r.dx - 8 != stored && on_lua_stack(layout, r.dx, stack, maxstack) {
                        source = base::STALE;
                    } else if stored != bottom && !link_fits(layout, stored, stack, maxstack) {
                        // `coroutine.resume` puts its first result where its link was.
                        let typed = stored - (save_pc & !7);
                        if save_pc & 3 != 0 && link_fits(layout, typed, stack, maxstack) {
                            walk.base = typed;
                        } else if save_pc & 3 == 0 && frame_fits(layout, caller, stack, maxstack, save_pc) {
                            walk.base = caller;
                        } else {
                            source = base::STALE;
                        }
                    }
                }
            }
            // What is left is exact in `L->base`: BASE agrees with it (`coroutine.resume` adds a slot), or has not been
            // loaded from it yet, or the assembly does not run in this C frame but in one that it is about to make or has
            // just left.
        }
        walk.activations += 1;
        walk.phase = phase::CFRAME;
        let pc = walk.pc;
        walk.pc = 0;
        let entry = next_entry(&mut walk.found, body);
        *entry = Entry {
            kind: entry::ACTIVATION,
            slot: source,
            words: [l, g, raw, walk.base, stack],
            numbers: [(top.wrapping_sub(stack) >> 3) as u32, pc as u32, (pc >> 32) as u32, 0],
            ..Entry::default()
        };
    }
}

/// Finds BASE and PC while the assembly calls a function of the C library, such as `pow`. It keeps both in registers that the
/// callee saves, which compilers have a function push right below its return address. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pushed(maxstack: u64) -> u32 {
    /// A function pushes six registers at most.
    const MOST: usize = 6;
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let layout = &walk.process.layout;
    let r = &header.registers;
    let lowest = walk.x.wrapping_sub((MOST as u64 + 1) * 8);
    // SAFETY: the buffer holds more words; other reads give 0 when they fail.
    unsafe {
        if !read_user(walk.words.as_mut_ptr().cast(), (MOST as u32 + 1) * 8, lowest) {
            return 0;
        }
        if walk.words[MOST].wrapping_sub(walk.process.asm_start) >= walk.process.asm_end - walk.process.asm_start {
            return 0;
        }
        for first in 0..MOST + 1 {
            // What is below the stack pointer is of other calls.
            let base = if first == MOST { r.bp } else { walk.words[first] };
            if first < MOST && lowest + first as u64 * 8 < r.sp || !on_lua_stack(layout, base, walk.stack, maxstack) {
                continue;
            }
            for second in 0..MOST + 1 {
                let pc = if second == MOST { r.bx } else { walk.words[second] };
                let dead = second < MOST && lowest + second as u64 * 8 < r.sp;
                if !dead && frame_fits(layout, base, walk.stack, maxstack, pc) {
                    walk.base = base;
                    walk.pc = pc;
                    return 1;
                }
            }
        }
        0
    }
}

/// The base of the innermost frame while the Lua stack is being moved (`resizestack`, `lj_state.c`), or 0: `L->stack` and
/// `L->maxstack` are those of the new one already, `L->base` is still `stored`, in the old one. A register holds where the
/// old one was, or how far it is to the new one. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn moved(stored: u64, maxstack: u64) -> u64 {
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let layout = &walk.process.layout;
    let r = &header.registers;
    for register in [r.bx, r.bp, r.r12, r.r13, r.r14, r.r15] {
        for base in [stored.wrapping_sub(register).wrapping_add(walk.stack), stored.wrapping_add(register)] {
            // SAFETY: see `user_word`.
            let fits = unsafe { link_fits(layout, base, walk.stack, maxstack) };
            if fits || base == walk.stack + u64::from(layout.frame_size) {
                return base;
            }
        }
    }
    0
}

/// The number of the activation that is walked, as entries carry it.
#[inline(always)]
fn thread_number(walk: &Walk) -> u16 {
    (walk.activations as u16) << frame::ACTIVATION_SHIFT
}

/// Notes that the chain of frames leads nowhere from here.
#[inline(always)]
fn broken(walk: &mut Walk, body: &mut Body) {
    let entry = next_entry(&mut walk.found, body);
    *entry = Entry { kind: entry::BROKEN, flags: thread_number(walk), ..Entry::default() };
}

/// Takes the C frame at `x` and goes on to the one before it.
#[inline(always)]
unsafe fn cframe(walk: &mut Walk, body: &mut Body) {
    // SAFETY: the buffer holds 16 words.
    if !unsafe { read_user(walk.object.as_mut_ptr().cast(), 40, walk.x) } {
        broken(walk, body);
        walk.phase = phase::FRAME;
        return;
    }
    let layout = &walk.process.layout;
    let object = &walk.object;
    let numbers = field(object, layout.cframe_nres);
    let l = reference(layout, object, layout.cframe_l);
    let pc = reference(layout, object, layout.cframe_pc);
    let previous = object[4];
    let entry = next_entry(&mut walk.found, body);
    *entry = Entry {
        kind: entry::CFRAME,
        flags: thread_number(walk),
        words: [walk.x, previous, l, pc, 0],
        numbers: [numbers as u32, (numbers >> 32) as u32, 0, 0],
        ..Entry::default()
    };
    let next = previous & !3;
    if next <= walk.x || next >= walk.limit {
        if next != 0 {
            broken(walk, body);
        }
        walk.phase = phase::FRAME;
    } else {
        walk.x = next;
    }
}

/// Takes the Lua frame at `base` and goes on to the one below it.
#[inline(always)]
unsafe fn lua_frame(walk: &mut Walk, body: &mut Body) {
    let at = walk.base;
    let layout = &walk.process.layout;
    let bottom = walk.stack + u64::from(layout.frame_size);
    // The bottom of a Lua stack is a dummy frame whose function is the thread itself.
    if at <= bottom {
        if at < bottom {
            broken(walk, body);
        }
        walk.phase = phase::PARENT;
        return;
    }
    // SAFETY: the buffer holds more than 4 words.
    if !unsafe { read_user(walk.words.as_mut_ptr().cast(), 32, at - 32) } {
        broken(walk, body);
        walk.phase = phase::PARENT;
        return;
    }
    let [third, second, first, last, ..] = walk.words;
    let link = last >> (layout.link_shift & 63);
    // A continuation and its PC are stored as a function and its link are: in two slots, or in the halves of one.
    let (continuation, continuation_pc, function) = if layout.link_shift == 0 {
        (third, second, first)
    } else {
        (first & layout.reference, first >> (layout.link_shift & 63), last)
    };
    let mut instruction = 0;
    let mut flags = thread_number(walk);
    let mut below = at.wrapping_sub(link & !7);
    match link & 7 {
        0 | 4 => {
            // SAFETY: see `user_half`.
            instruction = unsafe { user_half(link.wrapping_sub(4)) };
            below = at - (u64::from(layout.frame_size) + 8 * u64::from(instruction >> 8 & 0xff));
        }
        2 if continuation == 1 => flags |= frame::FFI_CALLBACK,
        _ => {}
    }
    let entry = next_entry(&mut walk.found, body);
    *entry = Entry {
        kind: entry::FRAME,
        ffid: 0,
        flags,
        slot: (at.wrapping_sub(walk.stack) >> 3) as u32,
        words: [link, function & layout.reference, 0, continuation_pc, 0],
        numbers: [instruction, 0, 0, 0],
    };
    if below >= at || below < bottom {
        broken(walk, body);
        walk.phase = phase::PARENT;
    } else {
        walk.base = below;
    }
}

#[perf_event]
fn finish(context: PerfEventContext) -> u32 {
    let Some(area) = scratch() else { return 0 };
    let Scratch { walk, header, body } = area;
    header.entries_found = walk.found;
    let mut kept = walk.found;
    if kept > ENTRIES as u32 {
        kept = ENTRIES as u32;
    }
    header.entries_kept = kept;
    copy_trace();
    describe_all(kept);
    // SAFETY: the context is what the kernel passed; every write stays inside `body`, which the verifier checks.
    unsafe { send(&context, header, body, kept) };
    0
}

/// Completes the first entries. Global, so that the verifier does not go through what follows once for each way out of this
/// loop.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn describe_all(kept: u32) -> u32 {
    for index in 0..ENTRIES as u32 {
        if index >= kept {
            break;
        }
        describe(index);
    }
    kept
}

/// Adds to a frame what recognises its function and prototype later, even if their memory has been reused by then. A global
/// function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn describe(index: u32) -> u32 {
    let Some(Scratch { walk, header, body }) = scratch() else { return 0 };
    let Walk { process: Process { layout, .. }, object, .. } = walk;
    let entry = &mut body.entries[index as usize & (ENTRIES - 1)];
    if entry.kind != entry::FRAME {
        return 0;
    }
    let function = entry.words[1];
    // SAFETY: the buffer holds 16 words; a `GCfuncL` without upvalues has 40 bytes, a `GCproto` more than 80.
    unsafe {
        if !read_user(object.as_mut_ptr().cast(), 40, function) {
            entry.flags |= frame::NO_FUNCTION;
            return 0;
        }
        entry.ffid = (field(object, layout.func_ffid) >> ((u64::from(layout.func_ffid) & 7) * 8)) as u8;
        let code = reference(layout, object, layout.func_pc);
        if entry.ffid != 0 {
            entry.words[2] = user_word(function + u64::from(layout.func_c));
            return 0;
        }
        entry.words[2] = code;
        if !read_user(object.as_mut_ptr().cast(), 80, code.wrapping_sub(u64::from(layout.proto_size))) {
            entry.flags |= frame::NO_PROTO;
            return 0;
        }
    }
    // Behind a string's type are two single bytes, where a function has its `ffid` and its number of upvalues.
    let identity = u64::from(layout.func_ffid) + 2;
    let name = reference(layout, object, layout.proto_chunkname);
    // SAFETY: see `user_word`.
    entry.words[4] = unsafe { user_word(name + identity) };
    entry.numbers[1] = half(object, layout.proto_firstline);
    entry.numbers[2] = half(object, layout.proto_numline);
    entry.numbers[3] = half(object, layout.proto_sizebc);
    let size = half(object, layout.proto_sizept);
    let code = entry.words[2];
    let mut mark = mix(u64::from(header.tgid), code);
    mark = mix(mark, entry.words[4]);
    mark = mix(mark, pair(entry.numbers[1], entry.numbers[2]));
    mark = mix(mark, pair(entry.numbers[3], size));
    if !is_known(mark) {
        let prototype = code.wrapping_sub(u64::from(layout.proto_size));
        copy_chunk_name(name);
        copy(prototype, size.into(), mark);
    }
    0
}

/// Copies the name of a chunk: the string and nothing behind it, where prototypes may be. A long one, which is the text of the
/// chunk, not if that has been done; a short one always, since what takes its place in another VM makes userspace forget it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_chunk_name(address: u64) -> u32 {
    const SHORT: u64 = 256;
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let Walk { process: Process { layout, .. }, object, .. } = walk;
    // SAFETY: the buffer holds 16 words; a `GCstr` has 24 bytes.
    if !unsafe { read_user(object.as_mut_ptr().cast(), 24, address) } {
        return 0;
    }
    let length = u64::from(half(object, layout.string_len));
    // What identifies a string is in its words: its hash, in newer builds also its number.
    let mark = mix(mix(mix(u64::from(header.tgid), address), object[1]), object[2]);
    if length > SHORT && is_known(mark) {
        return 0;
    }
    copy(address, u64::from(layout.string_size) + length, mark)
}

/// Copies the trace that runs or is being left, with its machine code and the places of the exit stubs that it leaves through,
/// unless that has been done, and notes which one it is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy_trace() -> u32 {
    const EXIT_STUBS: u64 = 16 * 8;
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    header.trace = 0;
    header.trace_mark = 0;
    let number = running_trace();
    let trace = read_trace(number);
    if trace == 0 {
        return 0;
    }
    let Walk { process: Process { layout, .. }, object, .. } = walk;
    let (mcode, mcode_size) = (field(object, layout.trace_mcode), half(object, layout.trace_szmcode));
    let map = field(object, layout.trace_snapmap);
    let mut map_words = half(object, layout.trace_nsnapmap);
    if layout.trace_short != 0 {
        map_words = short(object, layout.trace_nsnapmap);
    }
    let mut mark = mix(u64::from(header.tgid), trace);
    mark = mix(mark, mcode);
    mark = mix(mark, map);
    mark = mix(mark, reference(layout, object, layout.trace_startpc));
    mark = mix(mark, pair(half(object, layout.trace_nins), half(object, layout.trace_nk)));
    mark = mix(mark, pair(mcode_size, map_words));
    header.trace = trace;
    header.trace_mark = mark;
    if !is_known(mark) {
        copy(header.g + u64::from(layout.g_exitstubs), EXIT_STUBS, mark);
        copy(mcode, mcode_size.into(), mark);
        // Its parts are one block, of which the map of snapshots is the last.
        copy(trace, (map + u64::from(map_words) * 4).wrapping_sub(trace), mark);
    }
    0
}

/// The number of the trace that runs or is being left, or 0. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn running_trace() -> u32 {
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    if header.vmstate == VMST_GC && header.jit_base != 0 {
        return collecting_trace();
    }
    if header.vmstate == VMST_EXIT && walk.process.exit.start != 0 {
        return left_trace(walk, header);
    }
    if header.vmstate <= 0 {
        return 0;
    }
    let number = header.vmstate as u32;
    let ip = header.registers.ip;
    if read_trace(number) == 0 || runs_in(walk, ip) {
        return number;
    }
    let layout = &walk.process.layout;
    let mcode = field(&walk.object, layout.trace_mcode);
    if ip.wrapping_sub(mcode).wrapping_add(MCODE_AREA) > 2 * MCODE_AREA {
        return number;
    }
    // A trace that another one has jumped to sets `vmstate` in its first instructions.
    let link = short(&walk.object, layout.trace_link);
    let root = short(&walk.object, layout.trace_root);
    if link != number && read_trace(link) != 0 && runs_in(walk, ip) {
        return link;
    }
    match side_trace(if root == 0 { number } else { root }) {
        0 => number,
        side => side,
    }
}

/// The number of the trace that is being left.
#[inline(always)]
fn left_trace(walk: &Walk, header: &Header) -> u32 {
    /// Bytes of the instructions that store the numbers of the exit and of the trace.
    const STORES: u64 = 14;
    let exit = &walk.process.exit;
    // SAFETY: see `user_half`.
    let stored = unsafe { user_half(header.g + u64::from(exit.g_parent)) };
    let [_, cx, ..] = header.registers.volatile;
    if exit.stored.wrapping_sub(header.registers.ip).wrapping_sub(1) < STORES { cx as u32 } else { stored }
}

/// The number of the side trace of a root trace in which the instruction pointer is, or 0. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn side_trace(root: u32) -> u32 {
    const MOST: u32 = 32;
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let mut number = root;
    for _ in 0..MOST {
        if number == 0 || read_trace(number) == 0 {
            return 0;
        }
        if runs_in(walk, header.registers.ip) {
            return number;
        }
        number = short(&walk.object, walk.process.layout.trace_nextside);
    }
    0
}

/// The number of the trace that has called the garbage collector, or 0. The collector keeps it in a register to restore `vmstate`
/// (`lj_gc_step`), which the functions that it calls push on the native stack; of the small numbers that are there it is the one of a
/// trace that something on that stack returns to. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn collecting_trace() -> u32 {
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let r = &header.registers;
    // SAFETY: the buffer holds `SCAN_WORDS` words.
    let read = unsafe { read_user(walk.words.as_mut_ptr().cast(), (COLLECTOR_WORDS * 8) as u32, r.sp) };
    if !read {
        return 0;
    }
    // SAFETY: see `user_half`.
    let traces = u64::from(unsafe { user_half(header.g + u64::from(walk.process.layout.g_sizetrace)) });
    walk.words[COLLECTOR_WORDS..COLLECTOR_WORDS + 6].copy_from_slice(&[r.bx, r.bp, r.r12, r.r13, r.r14, r.r15]);
    for index in 0..COLLECTOR_WORDS + 6 {
        let number = walk.words[index];
        if number != 0 && number < traces && called_from(number as u32) != 0 {
            return number as u32;
        }
    }
    0
}

/// Whether one of the words of the native stack that were read is a return address into a trace. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn called_from(number: u32) -> u32 {
    let Some(Scratch { walk, .. }) = scratch() else { return 0 };
    if read_trace(number) == 0 {
        return 0;
    }
    for index in 0..COLLECTOR_WORDS {
        if runs_in(walk, walk.words[index].wrapping_sub(1)) {
            return 1;
        }
    }
    0
}

/// Reads the trace with this number into the buffer of objects. Its address, or 0. A global function, as [`turn`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn read_trace(number: u32) -> u64 {
    let Some(Scratch { walk, header, .. }) = scratch() else { return 0 };
    let Walk { process: Process { layout, .. }, object, .. } = walk;
    // SAFETY: reads of the target's memory may fail and then give 0; the buffer holds 128 bytes.
    unsafe {
        if header.g == 0 || number == 0 || number >= user_half(header.g + u64::from(layout.g_sizetrace)) {
            return 0;
        }
        // The table and the parts of a trace are known by C pointers, the traces in the table by references.
        let table = user_word(header.g + u64::from(layout.g_trace));
        let trace = user_reference(layout, table + u64::from(number) * u64::from(layout.reference_size));
        if trace == 0 || !read_user(object.as_mut_ptr().cast(), 128, trace) {
            return 0;
        }
        trace
    }
}

/// Whether an address is in the machine code of the trace in the buffer of objects.
#[inline(always)]
fn runs_in(walk: &Walk, address: u64) -> bool {
    let Walk { process: Process { layout, .. }, object, .. } = walk;
    address.wrapping_sub(field(object, layout.trace_mcode)) < u64::from(half(object, layout.trace_szmcode))
}

/// Sends a copy of memory to userspace. When that fails, it is tried again with the next sample.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn copy(address: u64, length: u64, mark: u64) -> u32 {
    const HEAD: u64 = size_of::<Copied>() as u64;
    let Some(Scratch { header, body, .. }) = scratch() else { return 0 };
    let length = opaque(length);
    if length == 0 || length > MOST_COPIED {
        return 0;
    }
    // What else is sent behind the entries is not there yet.
    let room = (&raw mut body.room).cast::<u8>();
    // SAFETY: the room has more than `MOST_COPIED` bytes, and lies behind entries of a multiple of 8 bytes.
    unsafe {
        room.cast::<Copied>().write(Copied { kind: record::COPIED, tgid: header.tgid, address, mark });
        if !read_user(room.add(HEAD as usize), length as u32, address) {
            return 0;
        }
        let ring = (&raw const EVENTS).cast_mut().cast();
        if bpf_ringbuf_output(ring, room.cast(), HEAD + length, u64::from(BPF_RB_NO_WAKEUP)) != 0 {
            return 0;
        }
    }
    if let Some(known) = KNOWN.get_ptr_mut(mark as u32 & (MARKS - 1)) {
        // SAFETY: the pointer is an element of the map; a torn write of two CPUs is a mark that nothing has.
        unsafe { *known = mark };
    }
    1
}

/// Whether what has this mark was copied.
#[inline(always)]
fn is_known(mark: u64) -> bool {
    KNOWN.get(mark as u32 & (MARKS - 1)).is_some_and(|known| *known == mark)
}

/// One step of a hash.
#[inline(always)]
fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Two numbers as one.
#[inline(always)]
fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Adds the kernel stack and the native stack, and sends the record.
#[inline(always)]
unsafe fn send(context: &PerfEventContext, header: &mut Header, body: &mut Body, kept: u32) {
    const ENTRIES_END: u64 = (ENTRIES * ENTRY_BYTES) as u64;
    let start = (&raw mut *body).cast::<u8>();
    let mut end = opaque(u64::from(kept) * ENTRY_BYTES as u64);
    if end > ENTRIES_END {
        return;
    }
    // SAFETY: `end` grows by what was written only, and each write is bounded so that it ends inside `body`.
    unsafe {
        header.kernel_bytes = 0;
        header.leaf_bytes = 0;
        header.root_bytes = 0;
        let wanted = KERNEL.get(0).is_some_and(|kernel| kernel.kernel_stacks != 0);
        if header.flags & flag::KERNEL != 0 && wanted {
            let got = bpf_get_stack(context.as_ptr(), start.add(end as usize).cast(), KERNEL_BYTES as u32, 0);
            if got > 0 {
                let got = opaque(got as u64 & 0x3ff);
                if got <= KERNEL_BYTES as u64 {
                    header.kernel_bytes = got as u32;
                    end += got;
                }
            }
        }
        end = opaque(end);
        if end > ENTRIES_END + KERNEL_BYTES as u64 {
            return;
        }
        let sp = header.registers.sp;
        let depth = if header.stack_base == 0 { 0 } else { header.stack_base - sp };
        let mut leaf = depth;
        if depth > (LEAF_STACK + ROOT_STACK) as u64 {
            leaf = LEAF_STACK as u64;
        }
        let mut copied = false;
        leaf = opaque(leaf);
        if leaf > 0 && leaf <= (LEAF_STACK + ROOT_STACK) as u64 {
            copied = read_user(start.add(end as usize), leaf as u32, sp);
            if copied {
                header.leaf_bytes = leaf as u32;
                end += leaf;
            }
        }
        if copied && depth > leaf {
            // The leaf's part has LEAF_STACK bytes here.
            end = opaque(end);
            if end > ENTRIES_END + (KERNEL_BYTES + LEAF_STACK) as u64 {
                return;
            }
            header.root_address = header.stack_base - ROOT_STACK as u64;
            if read_user(start.add(end as usize), ROOT_STACK as u32, header.root_address) {
                header.root_bytes = ROOT_STACK as u32;
                end += ROOT_STACK as u64;
            } else {
                header.flags |= flag::STACK_UNREADABLE;
            }
        }
        if !copied {
            // The base is unknown, or not all pages are there: as much as can be had, in small pieces.
            header.flags |= flag::STACK_UNREADABLE;
            for _ in 0..(LEAF_STACK / 1024) {
                end = opaque(end);
                if end > ENTRIES_END + (KERNEL_BYTES + LEAF_STACK) as u64 {
                    return;
                }
                // Pieces end where pages may end.
                let from = sp + u64::from(header.leaf_bytes);
                let piece = opaque(1024 - (from & 1023));
                if piece == 0 || piece > 1024 || !read_user(start.add(end as usize), piece as u32, from) {
                    break;
                }
                header.leaf_bytes += piece as u32;
                end += piece;
            }
        }
        end = opaque(end);
        if end > ENTRIES_END + (KERNEL_BYTES + LEAF_STACK + ROOT_STACK) as u64 {
            return;
        }
        // By itself, since its page may not be there when the stack's is.
        if read_user(start.add(end as usize), RED_ZONE as u32, sp.wrapping_sub(RED_ZONE as u64)) {
            end += RED_ZONE as u64;
        }
        let length = size_of::<Header>() as u64 + end;
        let ring = (&raw const EVENTS).cast_mut().cast::<c_void>();
        // Userspace looks every few milliseconds; a wake-up for each sample would cost more than the sample.
        let waiting = bpf_ringbuf_query(ring, u64::from(BPF_RB_AVAIL_DATA));
        let wake = if waiting > RING_BYTES as u64 / 4 { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
        if bpf_ringbuf_output(ring, (&raw mut *header).cast(), length, u64::from(wake)) != 0 {
            lose(header.tgid);
        }
    }
}

/// Sends a record that is a header only.
#[inline(always)]
fn tell(kind: u32, tgid: u32, tid: u32) {
    let mut header = Header { kind, tgid, tid, ..Header::default() };
    // SAFETY: helper without preconditions; the header is a local.
    unsafe {
        header.time = bpf_ktime_get_ns();
        let sent = bpf_ringbuf_output(
            (&raw const EVENTS).cast_mut().cast(),
            (&raw mut header).cast(),
            size_of::<Header>() as u64,
            u64::from(BPF_RB_FORCE_WAKEUP),
        );
        if sent != 0 {
            count(counter::LOST);
        }
    }
}

/// `sched_process_fork(parent, child)`: watches the children of watched processes from their first instruction.
#[raw_tracepoint(tracepoint = "sched_process_fork")]
fn fork(context: RawTracePointContext) -> i32 {
    // SAFETY: helper without preconditions; a raw tracepoint's context is an array of its arguments.
    let (parent, child) = unsafe {
        let child = *context.as_ptr().cast::<u64>().add(1);
        let Some(kernel) = KERNEL.get(0) else { return 0 };
        let tgid = read_kernel(child + u64::from(kernel.task_tgid)) as u32;
        ((bpf_get_current_pid_tgid() >> 32) as u32, tgid)
    };
    // A new thread has the tgid of its process.
    if parent == child {
        return 0;
    }
    // SAFETY: as in `sample`.
    let Some(process) = (unsafe { WATCHED.get(&parent) }) else {
        // SAFETY: as in `meet`.
        let known = unsafe { STRANGERS.get(&parent) };
        if discovers() && known.is_some_and(|until| *until & strangers::FOLLOWED != 0) {
            let _ = STRANGERS.insert(&child, &strangers::FOLLOWED, 0);
            tell(record::NEW, child, child);
        }
        return 0;
    };
    if process.flags & watch::FOLLOW == 0 {
        return 0;
    }
    // A forked process has the same memory at the same addresses.
    let mut same = *process;
    same.flags &= !watch::QUIET;
    if WATCHED.insert(&child, &same, 0).is_err() {
        count(counter::LOST);
    }
    tell(record::FORK, parent, child);
    0
}

/// `sched_process_exit(task)`: the first thread of a process ends.
#[raw_tracepoint(tracepoint = "sched_process_exit")]
fn exit(_context: RawTracePointContext) -> i32 {
    // SAFETY: helper without preconditions.
    let id = unsafe { bpf_get_current_pid_tgid() };
    let tgid = (id >> 32) as u32;
    if tgid != id as u32 {
        return 0;
    }
    // SAFETY: as in `sample`.
    if unsafe { WATCHED.get(&tgid) }.is_some() {
        tell(record::EXIT, tgid, tgid);
    } else if discovers() {
        let _ = STRANGERS.remove(&tgid);
    }
    0
}

/// `sched_process_exec(task, old_pid, binary)`: the process is another program from now on.
#[raw_tracepoint(tracepoint = "sched_process_exec")]
fn exec(_context: RawTracePointContext) -> i32 {
    // SAFETY: helper without preconditions.
    let tgid = (unsafe { bpf_get_current_pid_tgid() } >> 32) as u32;
    if let Some(process) = WATCHED.get_ptr_mut(&tgid) {
        // SAFETY: the pointer is an element of the map. What is known of the old program is not true of the new one.
        unsafe { (*process).flags &= !watch::LUA };
        tell(record::EXEC, tgid, tgid);
    } else if discovers() {
        // A server may start its workers before anybody has looked at it.
        let _ = STRANGERS.insert(&tgid, &strangers::FOLLOWED, 0);
        tell(record::NEW, tgid, tgid);
    }
    0
}

/// Does nothing: what sampling alone costs, for `cargo xtask bench`.
#[perf_event]
fn empty(_context: PerfEventContext) -> u32 {
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// `bpf_task_pt_regs` and `bpf_get_stack` are for GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
