//! One thread (coroutine) as it is now: what it is doing, and the walk through its Lua stack.
//!
//! The walk is of the form in which the probe sends one, and [`super::frames`] decodes both. What the probe has and this has not
//! are the registers: while a thread runs Lua code, `L->base` is that of some earlier moment.

use luaflame_ebpf::{Entry, base, entry, frame};
use rustc_hash::FxHashMap;

use super::arch::{LINK_TYPE_MASK, LinkType, Model, SLOT_SIZE, Tag};
use super::discover::{Vm, check_thread};
use super::frames::{Activation, Kind, Prototype, activations};
use super::layout::Layout;
use super::memory::{Memory, ReadError};
use super::object::{Function, FunctionKind, byte_at, read_reference, reference_at, u32_at, u64_at};

/// `LUA_YIELD`: `L->status` of a thread that has yielded; above are the numbers of errors.
const YIELDED: u8 = 1;
/// `CFRAME_RAWMASK`: the bits of `L->cframe` that are an address.
const CFRAME_MASK: u64 = !3;
/// Bytes of a C frame that are read, and the offset of the one before it in them.
const CFRAME_READ: usize = 40;
const CFRAME_PREVIOUS: u32 = 32;
/// Most C frames of a thread: LuaJIT allows 200 nested calls of C (`LUAI_MAXCCALLS`).
const MOST_CFRAMES: usize = 256;
/// `vmstate` in a C function (`~LJ_VMST_C`).
const VMST_C: i32 = -2;
/// The continuation of an FFI callback (`LJ_CONT_FFI_CALLBACK`).
const FFI_CALLBACK: u64 = 1;

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// C code has called it and it has not returned: it runs, or waits for a coroutine that it has resumed.
    Active,
    /// It has yielded.
    Suspended,
    /// An error has ended it; its stack is as it was then.
    Failed,
    /// It has a function to run, and has not begun.
    Fresh,
    /// It has run to its end.
    Finished,
    /// No Lua code runs in it: a main thread between calls, or a thread that C code keeps values in.
    Idle,
}

/// The words of a thread and of its stacks, read as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Its `lua_State`.
    pub address: u64,
    /// What it is doing.
    pub status: Status,
    stack: u64,
    base: u64,
    top: u64,
    cframe: u64,
    /// Its Lua stack, as far as it is used.
    slots: Vec<u8>,
    /// Its C frames, innermost first, each with its address.
    cframes: Vec<(u64, [u8; CFRAME_READ])>,
}

/// Where the innermost frame of a thread is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// It is at `L->base`: the thread has yielded or ended, has called C, or has resumed another one.
    Exact,
    /// A trace runs that was entered in the innermost frame; what is inlined in it is not known.
    Trace(u64),
    /// Lua code runs: the frames below the last call from C are known.
    Stale,
}

impl Thread {
    /// Reads a thread of a VM. `None` when there is none, any more or at all, or when its stack is being moved.
    pub fn read(memory: &dyn Memory, vm: &Vm, address: u64) -> Option<Thread> {
        let at = &vm.layout.lua_state;
        let model = vm.layout.model;
        let bytes = memory.bytes(address, at.size as usize).ok()?;
        check_thread(&bytes, &vm.layout, vm.g).ok()?;
        let [stack, maxstack] = [at.stack, at.maxstack].map(|offset| reference_at(model, &bytes, offset));
        let [base, top] = [at.base, at.top].map(|offset| u64_at(&bytes, offset));
        let bottom = stack + u64::from(model.frame_slots()) * SLOT_SIZE;
        let end = stack + u64::from(u32_at(&bytes, at.stacksize)) * SLOT_SIZE;
        if base < bottom || base > end || top < bottom || top > end || maxstack > end {
            return None;
        }
        let slots = memory.bytes(stack, (base.max(top) - stack) as usize).ok()?;
        let cframe = u64_at(&bytes, at.cframe);
        let slot = |address: u64| u64_at(&slots, (address - stack) as u32);
        let is_fresh =
            || base < top && address != vm.main_thread && model.value(slot(base)).object(Tag::Function).is_some();
        let status = match byte_at(&bytes, at.status) {
            _ if cframe & CFRAME_MASK != 0 => Status::Active,
            YIELDED => Status::Suspended,
            status if status > YIELDED => Status::Failed,
            _ if base == bottom && is_fresh() => Status::Fresh,
            _ if base == bottom && top == base && address != vm.main_thread => Status::Finished,
            _ => Status::Idle,
        };
        let cframes = cframes(memory, cframe)?;
        Some(Thread { address, status, stack, base, top, cframe, slots, cframes })
    }

    /// Where its innermost C frame is on the native stack, or 0: of the active threads of a VM, the one that runs has the lowest.
    pub fn cframe(&self) -> u64 {
        self.cframe & CFRAME_MASK
    }

    /// Where the innermost frame of this thread is known from, if it is the one that runs in its VM.
    pub fn running_leaf(&self, memory: &dyn Memory, vm: &Vm) -> Result<Leaf, ReadError> {
        let at = &vm.layout.global_state;
        let state = memory.u32(vm.g.wrapping_add(u64::from(at.vmstate)))?.cast_signed();
        let jit_base = read_reference(memory, vm.layout.model, vm.g.wrapping_add(u64::from(at.jit_base)))?;
        Ok(match state {
            VMST_C if self.in_c_function(memory, &vm.layout) => Leaf::Exact,
            0.. if jit_base > self.stack && jit_base <= self.stack + self.slots.len() as u64 => Leaf::Trace(jit_base),
            _ => Leaf::Stale,
        })
    }

    /// Whether the frame at `L->base` is that of a C function: on the way back to C, `L->base` may still be that of the function that
    /// has returned.
    fn in_c_function(&self, memory: &dyn Memory, layout: &Layout) -> bool {
        let function = self.function_at(layout.model, self.base);
        Function::read(memory, layout, function).is_ok_and(|object| !matches!(object.kind, FunctionKind::Lua { .. }))
    }

    /// The word in the slot at an address; 0 outside of what is used.
    fn slot(&self, address: u64) -> u64 {
        address
            .checked_sub(self.stack)
            .and_then(|offset| u32::try_from(offset).ok())
            .map_or(0, |offset| u64_at(&self.slots, offset))
    }

    /// The function of the frame at a base.
    fn function_at(&self, model: Model, base: u64) -> u64 {
        self.slot(base - u64::from(model.frame_slots()) * SLOT_SIZE) & model.reference_mask()
    }

    /// The slots from one number to before another one, as far as they are used.
    pub fn words(&self, slots: std::ops::Range<u32>) -> impl Iterator<Item = u64> {
        slots.map_while(|slot| Some(u64_at(self.slots.get(slot as usize * 8..)?.get(..8)?, 0)))
    }

    /// Number of the first slot that is not used.
    pub fn top(&self) -> u32 {
        ((self.top - self.stack) / SLOT_SIZE) as u32
    }

    /// The function that a thread which has not begun will run.
    pub fn first_function(&self, memory: &dyn Memory, layout: &Layout) -> Option<(u64, Kind)> {
        let address = layout.model.value(self.slot(self.base)).object(Tag::Function)?;
        Some((address, kind(memory, layout, address)))
    }

    /// Its frames. Without those that are no calls but hold the thread itself in the place of a function.
    pub fn frames(&self, memory: &dyn Memory, vm: &Vm, leaf: Leaf) -> Activation {
        let entries = self.walk(memory, vm, leaf);
        let mut activation = activations(&entries, None, 0).swap_remove(0);
        activation.frames.retain(|frame| frame.function != self.address);
        activation
    }

    fn walk(&self, memory: &dyn Memory, vm: &Vm, leaf: Leaf) -> Vec<Entry> {
        let layout = &vm.layout;
        let (mut at, source) = match leaf {
            Leaf::Exact => (self.base, base::STATE),
            Leaf::Trace(jit_base) => (jit_base, base::TRACE),
            Leaf::Stale => (self.base, base::STALE),
        };
        let own = 1 << frame::ACTIVATION_SHIFT;
        let broken = Entry { kind: entry::BROKEN, flags: own, ..Entry::default() };
        let mut entries = vec![Entry {
            kind: entry::ACTIVATION,
            slot: source,
            words: [self.address, vm.g, self.cframe, at, self.stack],
            numbers: [self.top(), 0, 0, 0],
            ..Entry::default()
        }];
        let cframe = layout.model.cframe();
        for (address, bytes) in &self.cframes {
            let [l, pc] = [cframe.l, cframe.pc].map(|offset| reference_at(layout.model, bytes, offset.into()));
            let numbers = [0, 4].map(|offset| u32_at(bytes, u32::from(cframe.nres) + offset));
            entries.push(Entry {
                kind: entry::CFRAME,
                flags: own,
                words: [*address, u64_at(bytes, CFRAME_PREVIOUS), l, pc, 0],
                numbers: [numbers[0], numbers[1], 0, 0],
                ..Entry::default()
            });
        }
        let frame_size = u64::from(layout.model.frame_slots()) * SLOT_SIZE;
        let bottom = self.stack + frame_size;
        let mut functions = FxHashMap::default();
        while at > bottom {
            let (entry, below) = self.frame(memory, layout, at);
            let described = *functions.entry(entry.words[1]).or_insert_with(|| kind(memory, layout, entry.words[1]));
            entries.push(with_kind(Entry { flags: own | entry.flags, ..entry }, described));
            if below >= at || below < bottom {
                entries.push(broken);
                return entries;
            }
            at = below;
        }
        if at < bottom {
            entries.push(broken);
        }
        entries
    }

    /// The frame at a base, and the base of the one below it.
    fn frame(&self, memory: &dyn Memory, layout: &Layout, at: u64) -> (Entry, u64) {
        let model = layout.model;
        let [third, second, first, last] = [32, 24, 16, 8].map(|back| self.slot(at.wrapping_sub(back)));
        let link = last >> model.link_shift();
        // A continuation and its PC are stored as a function and its link are: in two slots, or in the halves of one.
        let (continuation, continuation_pc, function) = match model {
            Model::Gc64 => (third, second, first),
            Model::Gc32 => (first & model.reference_mask(), first >> model.link_shift(), last),
        };
        let mut below = at.wrapping_sub(link & !LINK_TYPE_MASK);
        let mut flags = 0;
        match LinkType::of(link) {
            LinkType::Lua => {
                let call = memory.u32(link.wrapping_sub(4)).unwrap_or(0);
                below = at - (u64::from(model.frame_slots()) + u64::from(call >> 8 & 0xff)) * SLOT_SIZE;
            }
            LinkType::Continuation if continuation == FFI_CALLBACK => flags = frame::FFI_CALLBACK,
            _ => {}
        }
        let entry = Entry {
            kind: entry::FRAME,
            flags,
            slot: ((at - self.stack) / SLOT_SIZE) as u32,
            words: [link, function & model.reference_mask(), 0, continuation_pc, 0],
            ..Entry::default()
        };
        (entry, below)
    }

    /// The number of the base of the frame that the one with this number was made from, because its function takes variable
    /// arguments, or the number itself.
    pub fn made_from(&self, model: Model, slot: u32) -> u32 {
        let link = self.slot(self.stack + u64::from(slot) * SLOT_SIZE - SLOT_SIZE) >> model.link_shift();
        let delta = (link & !LINK_TYPE_MASK) / SLOT_SIZE;
        match LinkType::of(link) {
            LinkType::Vararg => u32::try_from(delta).ok().and_then(|delta| slot.checked_sub(delta)).unwrap_or(slot),
            _ => slot,
        }
    }
}

/// The C frames of a thread. `None` when one cannot be read.
fn cframes(memory: &dyn Memory, innermost: u64) -> Option<Vec<(u64, [u8; CFRAME_READ])>> {
    let mut found = Vec::new();
    let mut next = innermost & CFRAME_MASK;
    while next != 0 && found.len() < MOST_CFRAMES {
        let mut bytes = [0; CFRAME_READ];
        memory.read(next, &mut bytes).ok()?;
        found.push((next, bytes));
        let previous = u64_at(&bytes, CFRAME_PREVIOUS) & CFRAME_MASK;
        // They are on one native stack, which grows down.
        if previous != 0 && previous <= next {
            return None;
        }
        next = previous;
    }
    Some(found)
}

/// What a function is now.
pub fn kind(memory: &dyn Memory, layout: &Layout, function: u64) -> Kind {
    let Ok(object) = Function::read(memory, layout, function) else { return Kind::Unknown };
    match object.kind {
        FunctionKind::C { code } => Kind::C { pointer: code },
        FunctionKind::Fast { ffid, code } => Kind::Fast { id: ffid, pointer: code },
        FunctionKind::Lua { proto } => Prototype::read(memory, layout, proto).map_or(Kind::Unknown, Kind::Lua),
    }
}

/// The entry of a frame with what is known of its function, as the probe describes it.
fn with_kind(mut entry: Entry, kind: Kind) -> Entry {
    match kind {
        Kind::Unknown => entry.flags |= frame::NO_FUNCTION,
        Kind::C { pointer } => (entry.ffid, entry.words[2]) = (1, pointer),
        Kind::Fast { id, pointer } => (entry.ffid, entry.words[2]) = (id, pointer),
        Kind::Lua(seen) => {
            (entry.words[2], entry.words[4]) = (seen.code, seen.chunk);
            (entry.numbers[1], entry.numbers[2], entry.numbers[3]) = (seen.firstline, seen.numline, seen.sizebc);
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::image::{Image, of_each_model, plain_vm, reference};
    use super::*;

    /// A VM with a coroutine in which a Lua function has called a builtin, and what they are.
    struct Built {
        image: Image,
        vm: Vm,
        thread: u64,
        stack: u64,
        /// Base of the builtin's frame.
        base: u64,
        builtin: u64,
        /// The first instruction of the Lua function.
        code: u64,
    }

    fn built(layout: &Arc<Layout>) -> Built {
        let model = layout.model;
        let mut image = Image::of(layout);
        let vm = plain_vm(&mut image, layout);
        let chunkname = image.string(layout, b"@/srv/app.lua");
        let proto = image.allocate(256);
        let fields = &layout.proto;
        image.write(proto + u64::from(fields.gct), &[Tag::Proto.gct()]);
        image.put_u32(proto + u64::from(fields.sizebc), 5);
        image.put_reference(model, proto + u64::from(fields.chunkname), chunkname);
        let code = proto + u64::from(fields.size);
        // The call, with its function in slot 3.
        image.put_u32(code + 8, 0x0102_0342);
        let lua = image.function(layout, 0, code, 0);
        let builtin = image.function(layout, 42, 0, 0x1000);

        let thread = image.allocate(layout.lua_state.size as usize);
        let stack = image.allocate(48 * 8);
        let frame_slots = u64::from(model.frame_slots());
        let bottom = stack + frame_slots * 8;
        let first = bottom + frame_slots * 8;
        let base = first + (frame_slots + 3) * 8;
        let frames = [(bottom, thread, 0), (first, lua, (frame_slots * 8) | 5), (base, builtin, code + 12)];
        for (base, function, link) in frames {
            match model {
                Model::Gc64 => {
                    image.put_u64(base - 16, reference(model, Tag::Function, function));
                    image.put_u64(base - 8, link);
                }
                Model::Gc32 => image.put_u64(base - 8, link << 32 | function),
            }
        }
        image.put_u64(first, 1.5_f64.to_bits());
        let field = |offset: u32| thread + u64::from(offset);
        let at = &layout.lua_state;
        image.write(field(at.gct), &[Tag::Thread.gct()]);
        image.write(field(at.dummy_ffid), &[1]);
        image.write(field(at.status), &[YIELDED]);
        image.put_reference(model, field(at.glref), vm.g);
        image.put_reference(model, field(at.stack), stack);
        image.put_reference(model, field(at.maxstack), stack + 40 * 8);
        image.put_u64(field(at.base), base);
        image.put_u64(field(at.top), base);
        image.put_u32(field(at.stacksize), 48);
        Built { image, vm, thread, stack, base, builtin, code }
    }

    impl Built {
        fn thread(&self) -> Option<Thread> {
            Thread::read(&self.image, &self.vm, self.thread)
        }

        fn put(&mut self, field: fn(&super::super::layout::LuaState) -> u32, value: u64) {
            self.image.put_u64(self.thread + u64::from(field(&self.vm.layout.lua_state)), value);
        }
    }

    #[test]
    fn the_frames_of_a_coroutine_that_has_yielded() {
        for layout in of_each_model() {
            let built = built(&layout);
            let thread = built.thread().expect("a thread");
            assert_eq!(thread.status, Status::Suspended);
            let activation = thread.frames(&built.image, &built.vm, Leaf::Exact);
            assert!(!activation.broken && !activation.leaf_unknown);
            let [yielding, lua] = &activation.frames[..] else { panic!("two frames: {activation:?}") };
            assert_eq!((yielding.function, yielding.kind), (built.builtin, Kind::Fast { id: 42, pointer: 0x1000 }));
            assert_eq!((lua.pc, lua.torn), (Some(built.code + 12), false));
            assert_eq!(lua.prototype().map(|seen| seen.code), Some(built.code));
            assert_eq!(thread.words(lua.slot..thread.top()).next(), Some(1.5_f64.to_bits()));
        }
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_said() {
        for layout in of_each_model() {
            let activation = |link: u64| {
                let mut built = built(&layout);
                let link = built.code + link;
                match layout.model {
                    Model::Gc64 => built.image.put_u64(built.base - 8, link),
                    Model::Gc32 => built.image.put_u64(built.base - 8, link << 32 | built.builtin),
                }
                built.thread().expect("a thread").frames(&built.image, &built.vm, Leaf::Exact)
            };
            let torn = |activation: &Activation| activation.frames.iter().any(|frame| frame.torn);
            let fine = activation(12);
            assert!(!fine.broken && !torn(&fine));
            assert!(activation(5).broken, "it leads below the stack");
            assert!(torn(&activation(0x1000)), "it is of another function than the one below it");
        }
    }

    #[test]
    fn what_a_thread_is_doing() {
        for layout in of_each_model() {
            let bottom = |built: &Built| built.stack + u64::from(layout.model.frame_slots()) * 8;
            let status = |change: &dyn Fn(&mut Built)| {
                let mut built = built(&layout);
                change(&mut built);
                built.thread().map(|thread| thread.status)
            };
            let set_status = |built: &mut Built, status: u8| {
                let at = built.thread + u64::from(built.vm.layout.lua_state.status);
                built.image.write(at, &[status]);
            };
            assert_eq!(status(&|built| set_status(built, 2)), Some(Status::Failed));
            let at_bottom = |built: &mut Built, top: u64| {
                set_status(built, 0);
                built.put(|at| at.base, bottom(built));
                built.put(|at| at.top, bottom(built) + top);
                built.image.put_u64(bottom(built), u64::MAX);
            };
            assert_eq!(status(&|built| at_bottom(built, 0)), Some(Status::Finished));
            assert_eq!(status(&|built| at_bottom(built, 8)), Some(Status::Idle), "no function is there");
            let fresh = |built: &mut Built| {
                at_bottom(built, 8);
                built.image.put_u64(bottom(built), reference(layout.model, Tag::Function, built.builtin));
            };
            assert_eq!(status(&fresh), Some(Status::Fresh));
            let active = |built: &mut Built| {
                let cframe = built.image.allocate(CFRAME_READ);
                built.put(|at| at.cframe, cframe | 1);
            };
            assert_eq!(status(&active), Some(Status::Active));
            assert_eq!(status(&|built| built.put(|at| at.cframe, 0x1230)), None, "its C frame cannot be read");
            assert_eq!(
                status(&|built| built.put(|at| at.base, built.stack + 49 * 8)),
                None,
                "its stack is being moved"
            );
            assert_eq!(status(&|built| built.put(|at| at.glref, 0x1230)), None, "it is of no VM");
        }
    }

    #[test]
    fn where_the_running_thread_is_known_from() {
        for layout in of_each_model() {
            let mut built = built(&layout);
            let thread = built.thread().expect("a thread");
            let global = layout.global_state;
            let mut leaf = |state: i32, jit_base: u64| {
                built.image.put_reference(layout.model, built.vm.g + u64::from(global.jit_base), jit_base);
                built.image.put_u32(built.vm.g + u64::from(global.vmstate), state.cast_unsigned());
                thread.running_leaf(&built.image, &built.vm).expect("readable")
            };
            let stack = built.stack;
            assert_eq!(leaf(VMST_C, 0), Leaf::Exact, "in a builtin");
            assert_eq!(leaf(-1, 0), Leaf::Stale, "in the interpreter");
            assert_eq!(leaf(1, stack + 32), Leaf::Trace(stack + 32));
            assert_eq!(leaf(1, 0x1230), Leaf::Stale, "the trace's base is not on its stack");
        }
    }
}
