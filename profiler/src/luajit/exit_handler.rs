//! The part of the VM's assembly that leaves a trace (`lj_vm_exit_handler`, x86-64), and how far it has come.
//!
//! An exit stub jumps there with the number of the exit in two bytes on the native stack. The handler takes it from there, saves
//! all registers below it, notes the numbers of the exit and of the trace in `jit_State`, and calls `lj_trace_exit`. That writes the
//! frames of the exit's snapshot to the Lua stack (`lj_snap_restore`), which takes most of the time of an exit.
//!
//! Where in `jit_State` the numbers are differs from build to build, but the handler's own code says it.

use std::ops::Range;

use super::arch::Model;
use super::bytecode::op;
use super::frames::LuaFrame;
use super::layout::Layout;
use super::memory::Memory;
use super::snapshot::{BaseFrame, TraceFrame};
use super::trace::{Position, Trace};

/// All general registers are pushed, and RB is pointed at what the exit stub has pushed.
const PUSHES: &[u8] = &[
    0x41, 0x55, 0x41, 0x54, 0x41, 0x53, 0x41, 0x52, 0x41, 0x51, 0x41, 0x50, 0x57, 0x56, 0x55, // to rbp
    0x48, 0x8d, 0x6c, 0x24, 0x58, // lea rbp, [rsp+88]
    0x55, 0x53, 0x52, 0x51, 0x50,
];
/// The number of the exit is taken from its two bytes to eax.
const NUMBER: &[u8] = &[0x0f, 0xb6, 0x45, 0xf8, 0x8a, 0x65, 0xf0];
/// The two registers left are saved in the place of these bytes, and without GC64 DISPATCH is loaded.
const SAVES: &[u8] = &[0x4c, 0x89, 0x7d, 0xf8, 0x4c, 0x89, 0x75, 0xf0];
const DISPATCH: &[u8] = &[0x44, 0x8b, 0x75, 0x00];
/// Instructions with an address relative to DISPATCH: `mov ecx, [vmstate]`, `mov [vmstate], imm32`, `mov [exitno], eax`,
/// `mov [parent], ecx`.
const LOAD_STATE: &[u8] = &[0x41, 0x8b, 0x8e];
const STORE_STATE: &[u8] = &[0x41, 0xc7, 0x86];
const STORE_EXIT: &[u8] = &[0x41, 0x89, 0x86];
const STORE_TRACE: &[u8] = &[0x41, 0x89, 0x8e];
/// `~LJ_VMST_EXIT`.
const VMST_EXIT: i32 = -4;
/// `mov [jit_base], 0`, 64 or 32 bits of it, and `call rel32`.
const CLEAR_BASE: [&[u8]; 2] = [&[0x49, 0xc7, 0x86], &[0x41, 0xc7, 0x86]];
const CALL: &[u8] = &[0xe8];
/// From the stores to the call are at most so many bytes.
const REACH: usize = 256;
/// Behind the call, the interpreter's registers are loaded, and a short jump leads to the interpreter.
const LOADS: usize = 20;
const JUMP: u8 = 0xeb;
/// Bytes of the assembly that are looked through; it has some 30 KB.
const MOST_ASSEMBLY: usize = 1 << 20;
/// Instructions of a function that are looked through.
const MOST_INSTRUCTIONS: u32 = 16 << 10;
/// `endbr64`
const ENDBR: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];

/// The exit handler of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitHandler {
    /// What the probe knows of it.
    pub wire: luaflame_ebpf::ExitHandler,
    /// The first of the instructions that push registers.
    pushes: u64,
    /// Behind the instructions that take the number from the native stack.
    numbered: u64,
    /// Its end.
    end: u64,
}

/// How far the exit handler has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The Lua stack is as it was when the trace was entered.
    Before,
    /// The frames of the exit are being written to the Lua stack, or that has not begun, or is done.
    Restoring,
    /// The frames of the exit are on the Lua stack.
    After,
}

impl ExitHandler {
    /// Looks for the handler in the VM's assembly.
    pub fn read(memory: &(impl Memory + ?Sized), layout: &Layout, assembly: Range<u64>) -> Option<ExitHandler> {
        let length = usize::try_from(assembly.end.checked_sub(assembly.start)?).ok()?;
        let code = memory.bytes(assembly.start, Some(length).filter(|length| *length <= MOST_ASSEMBLY)?).ok()?;
        let pattern = [PUSHES, NUMBER, SAVES].concat();
        let mut found = code.windows(pattern.len()).enumerate().filter(|(_, bytes)| *bytes == pattern);
        let (at, _) = found.next()?;
        if found.next().is_some() {
            return None;
        }
        let to_dispatch = i64::from(layout.gg.dispatch) - i64::from(layout.gg.g);
        let mut code_at = Cursor { code: &code, at: at + pattern.len() };
        if layout.model == Model::Gc32 {
            code_at.take(DISPATCH)?;
        }
        code_at.take(LOAD_STATE)?;
        let state = code_at.number()?;
        code_at.take(STORE_STATE)?;
        if code_at.number()? != state || code_at.number()? != VMST_EXIT {
            return None;
        }
        code_at.take(STORE_EXIT)?;
        let exit = code_at.number()?;
        code_at.take(STORE_TRACE)?;
        let trace = code_at.number()?;
        let stored = code_at.at;
        let offset = |displacement: i32| u32::try_from(i64::from(displacement) + to_dispatch).ok();
        if offset(state)? != layout.global_state.vmstate {
            return None;
        }
        let back = (stored..stored + REACH).find_map(|at| {
            let mut code_at = Cursor { code: &code, at };
            CLEAR_BASE.iter().find_map(|store| Cursor { ..code_at }.take(store))?;
            code_at.at += 3;
            let cleared = offset(code_at.number()?)? == layout.global_state.jit_base && code_at.number()? == 0;
            code_at.take(CALL).filter(|()| cleared)?;
            code_at.number()?;
            Some(code_at.at)
        })?;
        let jumps = code.get(back + LOADS) == Some(&JUMP);
        let first = if code[..at].ends_with(ENDBR) { at - ENDBR.len() } else { at };
        let address = |at: usize| assembly.start + at as u64;
        Some(ExitHandler {
            wire: luaflame_ebpf::ExitHandler {
                start: address(first),
                stored: address(stored),
                back: address(back),
                g_exitno: offset(exit)?,
                g_parent: offset(trace)?,
            },
            pushes: address(at),
            numbered: address(at + PUSHES.len() + NUMBER.len()),
            end: address(if jumps { back + LOADS + 2 } else { back }),
        })
    }

    /// Whether the handler runs at `address`, or has called from there.
    pub fn contains(&self, address: u64) -> bool {
        (self.wire.start..self.end).contains(&address)
    }

    /// How far it has come when the instruction pointer is at `ip`.
    pub fn progress(&self, ip: u64) -> Progress {
        match ip {
            _ if (self.wire.start..self.wire.back).contains(&ip) => Progress::Before,
            _ if self.contains(ip) => Progress::After,
            _ => Progress::Restoring,
        }
    }

    /// The number of the exit that is taken, given the instruction pointer, the register AX, and what `jit_State` says, which holds
    /// once the handler has stored it. `stack_byte` reads the native stack at an offset from SP.
    pub fn exit(&self, ip: u64, ax: u64, said: u32, stack_byte: impl Fn(u64) -> Option<u8>) -> Option<u16> {
        if !(self.wire.start..self.wire.stored).contains(&ip) {
            return u16::try_from(said).ok();
        }
        if ip >= self.numbered {
            return u16::try_from(ax).ok();
        }
        let pushed = 8 * pushed_words(ip.saturating_sub(self.pushes));
        Some(u16::from_le_bytes([stack_byte(pushed + 8)?, stack_byte(pushed)?]))
    }
}

/// The words that [`PUSHES`] has pushed at an offset in it.
fn pushed_words(offset: u64) -> u64 {
    match offset {
        0..=12 => offset / 2,
        13..=15 => offset - 6,
        16..=20 => 9,
        _ => (offset - 11).min(14),
    }
}

struct Cursor<'a> {
    code: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Passes these bytes, if they are there.
    fn take(&mut self, bytes: &[u8]) -> Option<()> {
        self.code.get(self.at..)?.starts_with(bytes).then(|| self.at += bytes.len())
    }

    /// Passes 4 bytes.
    fn number(&mut self) -> Option<i32> {
        let bytes = self.code.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(i32::from_le_bytes(*bytes))
    }
}

/// The frames that are active at an exit which is being taken, innermost first, and how many of `frames`, those found on the Lua
/// stack, they take the place of.
///
/// `L->base` is that of the frame in which the trace was entered until the frames of the snapshot have been written to the Lua
/// stack, and then that of the innermost one. Without GC64 it goes up with each frame written. Which of them it is, their functions,
/// places and links tell. `None` when they do not: recursive functions may fit in several ways.
pub fn frames_at_exit(
    trace: &Trace,
    memory: &(impl Memory + ?Sized),
    layout: &Layout,
    position: Position,
    progress: Progress,
    frames: &[LuaFrame],
) -> Option<(Vec<TraceFrame>, usize)> {
    let mut only = None;
    for (below, base) in frames.iter().enumerate() {
        let code = base.prototype().map(|seen| seen.code..seen.code.saturating_add(u64::from(seen.sizebc) * 4));
        let on_stack = BaseFrame { function: base.function, code };
        let Ok(active) = trace.frames(memory, layout, position, &on_stack) else { continue };
        if below >= active.len() {
            break;
        }
        let inlined = active.len() - 1;
        let possible = match (progress, layout.model) {
            (Progress::Before, _) => below == 0,
            (Progress::After, _) => below == inlined,
            (Progress::Restoring, Model::Gc64) => below == 0 || below == inlined,
            (Progress::Restoring, Model::Gc32) => true,
        };
        let as_written = || are_written(&active[inlined - below..], &frames[..=below], layout);
        // A tail call on the trace replaces the function that it was entered in.
        let replaced = || below == 0 && (progress == Progress::Before || may_tail_call(memory, base));
        if !possible || !as_written() && !replaced() {
            continue;
        }
        if only.is_some() {
            return None;
        }
        only = Some((active, below + 1));
    }
    only
}

/// Whether frames on the Lua stack are these of a trace.
fn are_written(active: &[TraceFrame], frames: &[LuaFrame], layout: &Layout) -> bool {
    let (Some(top), Some(lua_top)) = (active.first(), frames.first()) else { return false };
    active.iter().zip(frames).enumerate().all(|(number, (frame, lua))| {
        let code = frame.prototype.map(|prototype| prototype.wrapping_add(u64::from(layout.proto.size)));
        let called_from = |pc: u64| number == 0 || lua.pc == Some(pc.wrapping_add(4));
        top.base_slot - frame.base_slot == lua_top.slot.wrapping_sub(lua.slot)
            && code == lua.prototype().map(|seen| seen.code)
            && frame.function.is_none_or(|function| function == lua.function)
            && (code.is_none() || frame.pc.is_none_or(called_from))
    })
}

/// Whether there is a tail call in the bytecode of a function.
fn may_tail_call(memory: &(impl Memory + ?Sized), frame: &LuaFrame) -> bool {
    let read = || {
        let seen = frame.prototype().filter(|seen| seen.sizebc <= MOST_INSTRUCTIONS)?;
        memory.bytes(seen.code, seen.sizebc as usize * 4).ok()
    };
    let is_tail_call = |instruction: &[u8; 4]| matches!(instruction[0], op::CALLMT | op::CALLT);
    read().is_none_or(|bytes| bytes.as_chunks().0.iter().any(is_tail_call))
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::*;

    const EXITNO: u32 = 40;
    const PARENT: u32 = 36;

    /// The handler as builds have it, with `jit_State.exitno` and `parent` at these offsets from `global_State`.
    fn code(layout: &Layout) -> Vec<u8> {
        let disp = |offset: u32| {
            let displacement = i64::from(offset) - (i64::from(layout.gg.dispatch) - i64::from(layout.gg.g));
            i32::try_from(displacement).unwrap().to_le_bytes()
        };
        let (state, base) = (disp(layout.global_state.vmstate), disp(layout.global_state.jit_base));
        let (dispatch, clear): (&[u8], _) = match layout.model {
            Model::Gc64 => (&[], CLEAR_BASE[0]),
            Model::Gc32 => (DISPATCH, CLEAR_BASE[1]),
        };
        [
            &[PUSHES, NUMBER, SAVES, dispatch, LOAD_STATE, &state, STORE_STATE, &state, &VMST_EXIT.to_le_bytes()][..],
            &[STORE_EXIT, &disp(EXITNO), STORE_TRACE, &disp(PARENT), &[0x90; 100]],
            &[clear, &base, &[0; 4], CALL, &[1, 2, 3, 4], &[0x90; LOADS], &[JUMP, 5]],
        ]
        .concat()
        .concat()
    }

    fn read(layout: &Layout, code: &[u8]) -> (u64, Option<ExitHandler>) {
        let mut image = Image::of(layout);
        let assembly = [&[0xcc; 50], code, &[0xcc; 50]].concat();
        let start = image.allocate(assembly.len());
        image.write(start, &assembly);
        (start + 50, ExitHandler::read(&image, layout, start..start + assembly.len() as u64))
    }

    #[test]
    fn the_handler_of_each_layout_says_where_the_numbers_are() {
        for layout in Layout::all() {
            let bytes = code(&layout);
            let (start, handler) = read(&layout, &bytes);
            let handler = handler.expect("it is there");
            let end = start + bytes.len() as u64;
            assert_eq!((handler.wire.g_exitno, handler.wire.g_parent), (EXITNO, PARENT));
            assert_eq!((handler.wire.start, handler.wire.back), (start, end - 22));
            assert!(handler.contains(start) && handler.contains(end - 1));
            assert!(!handler.contains(start - 1) && !handler.contains(end));
            assert_eq!(handler.progress(end - 23), Progress::Before);
            assert_eq!(handler.progress(end - 22), Progress::After);
            assert_eq!(handler.progress(0x1000), Progress::Restoring, "in what it has called");
            let (guarded, handler) = read(&layout, &[ENDBR, &bytes].concat());
            assert_eq!(handler.expect("it is there").wire.start, guarded);
        }
    }

    #[test]
    fn code_that_is_not_quite_the_handler_is_none() {
        let layout = &Layout::all()[0];
        let bytes = code(layout);
        assert_eq!(read(layout, &bytes.repeat(2)).1, None, "which one?");
        for at in [3, PUSHES.len() + 3, PUSHES.len() + NUMBER.len() + SAVES.len() + 4, bytes.len() - LOADS - 12] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(read(layout, &other).1, None, "{at}");
        }
        assert_eq!(read(layout, &bytes[..bytes.len() - LOADS - 7]).1, None, "without the call");
        assert_eq!(ExitHandler::read(&Image::of(layout), layout, 0x1000..0x2000), None, "unreadable");
        assert_eq!(ExitHandler::read(&Image::of(layout), layout, 0..u64::MAX), None, "no assembly");
    }

    #[test]
    fn the_number_of_an_exit_is_where_it_has_come_to() {
        let layout = &Layout::all()[0];
        let (start, handler) = read(layout, &code(layout));
        let handler = handler.expect("it is there");
        // The exit stub has pushed 0x23, then 0x01; the handler pushes below them.
        let byte =
            |pushed: u64| move |at: u64| (at / 8 == pushed).then_some(1).or((at / 8 == pushed + 1).then_some(0x23));
        for (offset, pushed) in
            [(0, 0), (2, 1), (12, 6), (13, 7), (14, 8), (15, 9), (20, 9), (21, 10), (24, 13), (25, 14)]
        {
            assert_eq!(handler.exit(start + offset, 7, 9, byte(pushed)), Some(0x123), "{offset}");
        }
        let numbered = start + (PUSHES.len() + NUMBER.len()) as u64;
        assert_eq!(handler.exit(numbered - 3, 7, 9, byte(14)), Some(0x123));
        assert_eq!(handler.exit(numbered, 7, 9, byte(14)), Some(7));
        assert_eq!(handler.exit(handler.wire.stored - 1, 7, 9, byte(14)), Some(7));
        assert_eq!(handler.exit(handler.wire.stored, 7, 9, byte(14)), Some(9));
        assert_eq!(handler.exit(0x1000, 7, 9, byte(14)), Some(9), "in what it has called");
        assert_eq!(handler.exit(start, 7, 9, |_| None), None);
        assert_eq!(handler.exit(0x1000, 7, 1 << 16, byte(14)), None);
    }
}
