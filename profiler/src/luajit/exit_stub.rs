//! Exit stubs, and the guards of a trace that jump to them (x86-64).
//!
//! A guard that fails jumps to the exit stub whose number is the guard's snapshot; the stub pushes the number in two bytes
//! and goes to the exit handler. All traces of a VM share the stubs, which lie in groups of 32 (`asm_exitstub_gen`).

use rustc_hash::FxHashMap;

use super::arch::Model;
use super::layout::Layout;
use super::memory::Memory;
use super::trace::{Header, Snapshot};

/// `LJ_MAX_EXITSTUBGR`.
const GROUPS: usize = 16;
/// `EXITSTUBS_PER_GROUP`.
const PER_GROUP: u64 = 32;
/// `EXITSTUB_SPACING`: `push imm8`, `jmp rel8` (the last stub of a group has no jump).
const SPACING: u64 = 4;
/// The common end of a group: `push imm8` with the high byte, without GC64 `mov dword [rsp+16], dispatch`, and `jmp rel32` to
/// the handler.
const COMMON: u64 = PER_GROUP * SPACING - 2;

/// The exit stubs of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitStubs {
    groups: [u64; GROUPS],
    /// Bytes of a group.
    size: u64,
}

impl ExitStubs {
    /// Reads where the groups are; a group that does not exist yet is 0.
    pub(super) fn read(memory: &(impl Memory + ?Sized), layout: &Layout, jit_state: u64) -> Option<ExitStubs> {
        let address = jit_state.checked_add(u64::from(layout.jit_state.exitstubgroup))?;
        let mut bytes = [0; GROUPS * 8];
        memory.read(address, &mut bytes).ok()?;
        let mut groups = [0; GROUPS];
        for (group, bytes) in groups.iter_mut().zip(bytes.as_chunks().0) {
            *group = u64::from_le_bytes(*bytes);
        }
        let size = COMMON + 2 + 5;
        Some(ExitStubs {
            groups,
            size: match layout.model {
                Model::Gc64 => size,
                Model::Gc32 => size + 8,
            },
        })
    }

    /// The number of the exit being taken, when `pc` is in an exit stub. `stack_byte` reads the native stack at an offset
    /// from SP: in the common end of a group, the low byte of the number is there.
    pub fn exit_at(&self, pc: u64, stack_byte: impl Fn(u64) -> Option<u8>) -> Option<u16> {
        let (group, offset) =
            self.groups.iter().enumerate().filter(|(_, start)| **start != 0).find_map(|(group, start)| {
                Some((group as u64, pc.checked_sub(*start).filter(|at| *at < self.size)?))
            })?;
        let number = match offset {
            0..COMMON => group * PER_GROUP + offset / SPACING,
            COMMON => ((group * PER_GROUP) & !0xff) | u64::from(stack_byte(0)?),
            _ => ((group * PER_GROUP) & !0xff) | u64::from(stack_byte(8)?),
        };
        u16::try_from(number).ok().filter(|number| u64::from(*number) / PER_GROUP == group)
    }

    /// The number of the stub that begins at `address`.
    fn stub_at(&self, address: u64) -> Option<u16> {
        self.groups.iter().enumerate().filter(|(_, start)| **start != 0).find_map(|(group, start)| {
            let offset = address.checked_sub(*start)?;
            if offset % SPACING != 0 || offset / SPACING >= PER_GROUP {
                return None;
            }
            u16::try_from(group as u64 * PER_GROUP + offset / SPACING).ok()
        })
    }
}

/// What is needed to find a trace's guards in its machine code.
#[derive(Debug, Default)]
pub(super) struct Guards {
    pub(super) stubs: ExitStubs,
    /// For the machine code of each of its side traces, the exit it hangs on: there the guards jump to it.
    pub(super) side_traces: FxHashMap<u64, u16>,
}

impl Guards {
    /// Sets the machine-code offset of each snapshot from the trace's guards, for builds that do not record it.
    ///
    /// Where the code of one snapshot ends and that of the next begins is not in the machine code, only the guards of both
    /// are. The code between two guards of different snapshots is given to the earlier one, so the frames found are those
    /// of now or of a moment ago, never of later. A snapshot without guards gets no code.
    pub(super) fn place_snapshots(&self, header: &Header, code: &[u8], snapshots: &mut [Snapshot]) {
        let mut first = vec![None; snapshots.len()];
        // Backwards, because the stack check in the head of a side trace jumps to the exit of its parent, which may have
        // any number.
        let mut lowest = snapshots.len();
        for at in (0..code.len().saturating_sub(3)).rev() {
            let Some(exit) = self.guard_at(header, code, at).map(usize::from) else { continue };
            if exit <= lowest && exit < snapshots.len() {
                lowest = exit;
                first[exit] = u32::try_from(at).ok();
                // A return to a lower frame is the last thing in its snapshot, and moves the base.
                if let (Some(end), Some(next)) = (moved_down(code, at + 6), first.get_mut(exit + 1)) {
                    *next = u32::try_from(end).ok();
                }
            }
        }
        let mut offset = header.mcode_size;
        for (snapshot, first) in snapshots.iter_mut().zip(first).rev() {
            offset = first.unwrap_or(offset);
            snapshot.offset = offset;
        }
        snapshots[0].offset = 0;
    }

    /// The exit that the guard takes whose jump is at `at`: `jcc rel32`, and `jmp rel32` at the end of a loop whose last
    /// guard was turned around. Other bytes that look like one, and like a jump to just these few addresses, do not
    /// happen.
    fn guard_at(&self, header: &Header, code: &[u8], at: usize) -> Option<u16> {
        let end = match code.get(at..)? {
            [0x0f, 0x80..=0x8f, ..] => at + 6,
            [0xe9, ..] if at + 5 == code.len() => at + 5,
            _ => return None,
        };
        let displacement = i32::from_le_bytes(code.get(end - 4..end)?.try_into().ok()?);
        let target = header.mcode.wrapping_add(end as u64).wrapping_add_signed(i64::from(displacement));
        self.stubs.stub_at(target).or_else(|| self.side_traces.get(&target).copied())
    }
}

/// Where the code of a `RETF` ends whose guard ends at `at`: `add base, -delta`; `mov [r14+jit_base], base`, or without GC64
/// `mov [jit_base], base` (`asm_retf`).
fn moved_down(code: &[u8], at: usize) -> Option<usize> {
    let code = code.get(at..)?;
    // A prefix for wide registers, or for the upper eight ones.
    let prefix = usize::from(matches!(code, [0x41 | 0x44 | 0x48 | 0x49, ..]));
    let added = prefix
        + match code.get(prefix..)? {
            [0x83, 0xc0..=0xc7, ..] => 3,
            [0x81, 0xc0..=0xc7, ..] => 6,
            _ => return None,
        };
    let stored = match code.get(added..)? {
        [0x49 | 0x4d, 0x89, operands, _, _, _, _, ..] if operands & 0xc7 == 0x86 => 7,
        [0x89, operands, 0x25, _, _, _, _, ..] if operands & 0xc7 == 0x04 => 7,
        [0x44, 0x89, operands, 0x25, _, _, _, _, ..] if operands & 0xc7 == 0x04 => 8,
        _ => return None,
    };
    Some(at + added + stored)
}

#[cfg(test)]
mod tests {
    use super::moved_down;

    #[test]
    fn a_return_to_a_lower_frame_is_recognised() {
        let store = [0x49, 0x89, 0x96, 0xf8, 0xf1, 0xff, 0xff];
        let code = |parts: &[&[u8]]| parts.concat();
        assert_eq!(moved_down(&code(&[&[0x48, 0x83, 0xc2, 0xd8], &store]), 0), Some(11));
        assert_eq!(moved_down(&code(&[&[0x90, 0x48, 0x81, 0xc2, 0, 0xff, 0xff, 0xff], &store]), 1), Some(15));
        assert_eq!(moved_down(&code(&[&[0x48, 0x83, 0xc2, 0xd8], &[0x90; 7]]), 0), None);
        let short = [0x89, 0x14, 0x25, 0x94, 3, 1, 0x40];
        assert_eq!(moved_down(&code(&[&[0x83, 0xc2, 0xd8], &short]), 0), Some(10), "without GC64");
        let upper = [0x44, 0x89, 0x04, 0x25, 0x94, 3, 1, 0x40];
        assert_eq!(moved_down(&code(&[&[0x41, 0x83, 0xc0, 0xd8], &upper]), 0), Some(12), "without GC64");
        assert_eq!(moved_down(&store, 0), None);
        assert_eq!(moved_down(&store, 100), None);
    }
}
