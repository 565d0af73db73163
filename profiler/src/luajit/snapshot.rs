//! The Lua frames inside a trace, as one of its snapshots holds them.
//!
//! # How they join the frames on the Lua stack
//!
//! While a trace runs, `jit_base` is the base of its *base frame*, the frame in which the trace was entered; frames below
//! are on the Lua stack, frames above are only in the snapshot. [`Trace::frames`] gives the leaf first and the base frame
//! last, so: walk the Lua stack from `jit_base` as usual, and put these frames in place of the first one, the frame whose
//! base is `jit_base`. Its caller follows from its link, which no trace changes without moving `jit_base` too.
//!
//! - The function of the base frame may differ from the one on the Lua stack: a tail call on the trace replaces it, and only
//!   the snapshot says by what.
//! - Up-recursion, down-recursion and returns to a lower frame (`RETF`) move `jit_base`, and each snapshot counts its slots
//!   from where `jit_base` is then. Between a `RETF`'s store to `jit_base` and the next snapshot lie at most a few moves of
//!   registers; there, and wherever a trace and a stack do not belong together, the base frame's function is another than
//!   that on the Lua stack, or its PC is not in the bytecode of that, and [`FramesError::Mismatch`] is returned. Only when
//!   both are the same function is nothing noticed.
//! - A side trace counts its slots from the same base as its parent, and its snapshots repeat the parent's frames.
//! - A trace that ends in a jump to another with a higher base writes its frames to the Lua stack first; from there on
//!   ([`Position::leaving`]) only the base frame is given, the other frames being on the Lua stack.
//! - A stitched trace begins like a root trace, in the function that called the function that could not be compiled. The
//!   trace before it ends with a continuation frame, which is followed like that of a metamethod.
//! - A trace that goes back to the interpreter writes its frames to the Lua stack but does not move `jit_base`: its last
//!   snapshot holds until the interpreter resets `jit_base` to 0.

use std::ops::Range;

use super::arch::Model;
use super::layout::Layout;
use super::memory::Memory;
use super::trace::{Constant, Function, Position, PrototypeCode, Trace};

/// Flags of a snapshot entry (`SNAP_*`): the slot is a frame's link, or without GC64 its only slot; the slot is a continuation;
/// the slot's value is still on the Lua stack.
const FRAME: u32 = 0x1_0000;
const CONT: u32 = 0x2_0000;
const NORESTORE: u32 = 0x4_0000;
/// A slot number has 8 bits.
const MAX_FRAMES: usize = 256;

/// The base frame as it is on the Lua stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFrame {
    /// Its function object.
    pub function: u64,
    /// Addresses of the bytecode of a Lua function, when they are known.
    pub code: Option<Range<u64>>,
}

/// A frame that is active in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceFrame {
    /// The frame's base, in slots above where the base frame's function is.
    pub base_slot: u32,
    /// Address of the function object; `None` when it is only in a register of the trace, as it is for one of many
    /// closures of a prototype.
    pub function: Option<u64>,
    /// Address of the prototype, whose bytecode `pc` is in; `None` for builtins and C functions, and when it could not be
    /// found.
    pub prototype: Option<u64>,
    /// Address of the bytecode instruction: the call in a frame that is calling, and in the leaf the instruction that the
    /// snapshot was taken at; the header of a builtin or C function that the trace leaves for. `None` for other builtins.
    pub pc: Option<u64>,
}

/// Why the frames of a snapshot are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FramesError {
    /// The position is of another trace.
    #[error("the trace has no such snapshot; ask with a position of the same trace")]
    NoSnapshot,
    /// A frame without a link that makes sense.
    #[error("the frame at slot {slot} of a snapshot has no valid link; the trace was probably freed while it was read")]
    Link {
        /// Base slot of the frame.
        slot: u32,
    },
    /// The instruction that called could not be read.
    #[error("the instruction at {pc:#x} that called a function on a trace could not be read")]
    Call {
        /// Address of the instruction.
        pc: u64,
    },
    /// A frame whose PC is not in its function.
    #[error("the PC {pc:#x} of a snapshot is not in the function at slot {slot}: this Lua stack is not of this trace")]
    Mismatch {
        /// Base slot of the frame.
        slot: u32,
        /// The PC.
        pc: u64,
    },
}

impl Trace {
    /// The Lua frames that are active at a position of this trace: leaf first, base frame last. Pseudo-frames of vararg
    /// functions are left out, builtins that call Lua functions (`pcall`) are there.
    ///
    /// `base` is the frame on the Lua stack whose base `jit_base` was in the sample.
    ///
    /// # Errors
    /// When the snapshot, the target's memory and the Lua stack do not fit together.
    pub fn frames(
        &self,
        memory: &(impl Memory + ?Sized),
        layout: &Layout,
        position: Position,
        base: &BaseFrame,
    ) -> Result<Vec<TraceFrame>, FramesError> {
        let (entries, behind) = self.snapshot_words(position.snapshot).ok_or(FramesError::NoSnapshot)?;
        let bottom = layout.model.frame_slots();
        let decoder = Decoder { trace: self, memory, layout, entries, behind, bottom, base, leaving: position.leaving };
        let (mut pc, leaf) = decoder.leaf().ok_or(FramesError::NoSnapshot)?;
        if !position.exit && !position.leaving {
            pc = self.snapshots()[position.snapshot].way.unwrap_or(pc);
        }
        decoder.frames(pc, leaf)
    }
}

struct Decoder<'a, M: ?Sized> {
    trace: &'a Trace,
    memory: &'a M,
    layout: &'a Layout,
    entries: &'a [u32],
    /// What is behind the entries, of this snapshot and those after it.
    behind: &'a [u32],
    /// Base of the base frame: the slots of a frame below its base are below it.
    bottom: u32,
    base: &'a BaseFrame,
    leaving: bool,
}

impl<M: Memory + ?Sized> Decoder<'_, M> {
    /// The PC of the snapshot, and the base of its innermost frame.
    fn leaf(&self) -> Option<(u64, u32)> {
        match self.layout.model {
            Model::Gc64 => {
                let [low, high] = *self.behind.first_chunk()?;
                let word = u64::from(high) << 32 | u64::from(low);
                Some((word >> 8, (word & 0xff) as u32 + self.bottom))
            }
            Model::Gc32 => {
                let pc = u64::from(*self.behind.first()?);
                let frames = self.entries.iter().filter(|entry| **entry & FRAME != 0);
                let innermost = frames.map(|entry| entry >> 24).max().unwrap_or(0);
                Some((pc, innermost + self.bottom))
            }
        }
    }

    fn frames(&self, pc: u64, leaf: u32) -> Result<Vec<TraceFrame>, FramesError> {
        let mut frames = Vec::new();
        if self.leaving {
            frames.push(self.frame(self.bottom, Some(pc))?);
            return Ok(frames);
        }
        let mut base = leaf;
        let mut pc = Some(pc);
        // The frame below a vararg function's frame is that function again, with its arguments.
        let mut pseudo = false;
        while frames.len() < MAX_FRAMES {
            if !pseudo {
                frames.push(self.frame(base, pc)?);
            }
            if base == self.bottom {
                return Ok(frames);
            }
            let link = self.link(base)?;
            pseudo = false;
            let below = match link & 7 {
                0 | 4 => {
                    let call = link.wrapping_sub(4);
                    let instruction = self.memory.u32(call).map_err(|_| FramesError::Call { pc: call })?;
                    pc = Some(call);
                    base.checked_sub(self.bottom + (instruction >> 8 & 0xff))
                }
                kind => {
                    match kind {
                        2 => pc = Some(self.continuation_pc(base)?.wrapping_sub(4)),
                        3 => pseudo = true,
                        6 | 7 => pc = None,
                        _ => return Err(FramesError::Link { slot: base }),
                    }
                    u32::try_from(link >> 3).ok().filter(|slots| *slots > 0).and_then(|slots| base.checked_sub(slots))
                }
            };
            base = below.filter(|below| *below >= self.bottom).ok_or(FramesError::Link { slot: base })?;
        }
        Err(FramesError::Link { slot: base })
    }

    fn entry(&self, slot: u32) -> Option<u32> {
        self.entries.iter().copied().find(|entry| entry >> 24 == slot)
    }

    fn constant(&self, entry: u32) -> Option<Constant> {
        self.trace.constant(entry as u16)
    }

    /// The link of the frame at `base`.
    fn link(&self, base: u32) -> Result<u64, FramesError> {
        let link = match self.layout.model {
            Model::Gc64 => self.word(self.entry(base - 1).filter(|entry| entry & FRAME != 0)),
            Model::Gc32 => self.link_behind(base - 1, FRAME),
        };
        link.ok_or(FramesError::Link { slot: base })
    }

    /// The return PC of a continuation frame: `[cont] [PC] [function] [link]`, without GC64 `[cont|PC] [function|link]`.
    fn continuation_pc(&self, base: u32) -> Result<u64, FramesError> {
        let pc = match self.layout.model {
            Model::Gc64 => self.word(base.checked_sub(3).and_then(|slot| self.entry(slot))),
            Model::Gc32 => base.checked_sub(2).and_then(|slot| self.link_behind(slot, CONT)),
        };
        pc.ok_or(FramesError::Link { slot: base })
    }

    /// The high half of a slot, without GC64: behind the PC of the snapshot there is one for each frame or continuation above
    /// the base frame's slot, the innermost first (`snapshot_framelinks`).
    fn link_behind(&self, slot: u32, flag: u32) -> Option<u64> {
        self.entry(slot).filter(|entry| entry & flag != 0)?;
        let above = self.entries.iter().filter(|entry| **entry & (FRAME | CONT) != 0 && **entry >> 24 > slot).count();
        self.behind.get(1 + above).map(|link| u64::from(*link))
    }

    /// The 64-bit constant that an entry means.
    fn word(&self, entry: Option<u32>) -> Option<u64> {
        match self.constant(entry?)? {
            Constant::Word(word) => Some(word),
            _ => None,
        }
    }

    /// The function of the frame at `base`, if it can be known.
    fn function(&self, base: u32) -> Option<u64> {
        let slot = base - self.bottom;
        let on_stack = (slot == 0).then_some(self.base.function);
        match self.entry(slot).filter(|_| !self.leaving) {
            Some(entry) => match self.constant(entry) {
                Some(Constant::Function(address)) => Some(address),
                Some(_) => None,
                // A value of the trace, which is also on the Lua stack when the slot need not be restored.
                None => on_stack.filter(|_| entry & NORESTORE != 0),
            },
            None => on_stack,
        }
    }

    /// Whether the base frame is the one on the Lua stack, as it must be but for a tail call on the trace: that marks the base
    /// frame's link in the snapshot.
    fn base_fits(&self, function: Option<u64>, pc: Option<u64>) -> bool {
        let tail_called = self.entry(self.bottom - 1).is_some_and(|entry| entry & FRAME != 0);
        if tail_called && !self.leaving {
            return true;
        }
        let runs_it = |code: &Range<u64>| pc.is_none_or(|pc| code.contains(&pc) || self.trace.is_builtin_code(pc));
        function.is_none_or(|function| function == self.base.function) && self.base.code.as_ref().is_none_or(runs_it)
    }

    /// The frame at `base`, whose PC is `pc` if it runs bytecode.
    fn frame(&self, base_slot: u32, pc: Option<u64>) -> Result<TraceFrame, FramesError> {
        let function = self.function(base_slot);
        if base_slot == self.bottom && !self.base_fits(function, pc) {
            return Err(FramesError::Mismatch { slot: base_slot, pc: pc.unwrap_or(0) });
        }
        if pc.is_some_and(|pc| self.trace.is_builtin_code(pc)) {
            let function = function.filter(|address| self.trace.function(*address) == Some(Function::Builtin));
            return Ok(TraceFrame { base_slot, function, prototype: None, pc });
        }
        // The bytecode that runs tells what the function is, also when its closure has been freed since. Only a builtin
        // that calls Lua has no bytecode of its own.
        let kind = function.and_then(|address| {
            self.trace
                .function(address)
                .or_else(|| pc.and_then(|pc| self.trace.prototype_of(pc)).map(Function::Lua))
                .or_else(|| Function::read(self.memory, self.layout, address))
                .filter(|kind| *kind != Function::Builtin || pc.is_none())
        });
        let function = function.filter(|_| kind.is_some());
        let frame = |prototype: Option<PrototypeCode>, pc| TraceFrame {
            base_slot,
            function,
            prototype: prototype.map(|code| code.prototype),
            pc,
        };
        match (kind, pc) {
            (Some(Function::Builtin), _) => Ok(frame(None, None)),
            (Some(Function::Lua(code)), Some(pc)) if !code.contains(pc) => {
                Err(FramesError::Mismatch { slot: base_slot, pc })
            }
            (Some(Function::Lua(code)), pc) => Ok(frame(Some(code), pc)),
            (None, Some(pc)) => Ok(frame(self.trace.prototype_of(pc), Some(pc))),
            (None, None) => Ok(frame(None, None)),
        }
    }
}
