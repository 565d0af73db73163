//! Which way a trace goes at a comparison.
//!
//! The snapshot that LuaJIT takes before a comparison is not where the trace is: it is where the interpreter goes on when the guard
//! fails, at the beginning of the way that the trace does *not* go (`rec_comp_fixup`, `lj_record.c`). On the other way it takes one,
//! too, but drops it when no guard follows: then the machine code of that way belongs to the snapshot of the comparison.

use super::bytecode::{Instruction, op};

/// The IR opcodes `LT` to `NE`, of comparisons, are the first ones in all builds.
const LAST_COMPARISON: u8 = 9;
/// Bit of an IR instruction's type: it is a guard. And the types of what bytecode compares, `IRT_STR`, `IRT_NUM`, `IRT_INT`: guards
/// of other types check what a trace is made for.
const GUARD: u8 = 0x80;
const COMPARED: [u8; 3] = [4, 14, 19];
const TYPE: u8 = 0x1f;
/// The opcodes of bytecode from `ISLT` to `ISF`: each is followed by its jump.
const LAST_CONDITION: u8 = 15;

/// A snapshot, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// Address of the bytecode that it holds.
    pub(super) pc: u64,
    /// Its IR instructions have one guard, which is a comparison.
    pub(super) compares: bool,
}

/// Whether IR instructions have one guard, which is a comparison.
pub(super) fn compares(instructions: &[[u8; 8]]) -> bool {
    let mut guards = instructions.iter().filter(|[_, _, _, _, kind, ..]| kind & GUARD != 0);
    let Some([_, _, _, _, kind, opcode, ..]) = guards.next() else { return false };
    guards.next().is_none() && *opcode <= LAST_COMPARISON && COMPARED.contains(&(kind & TYPE))
}

/// Where the trace goes on behind the comparison that the snapshot with this number was taken at, if it was; `code` is the bytecode
/// that begins at `start`.
pub(super) fn way(points: &[Point], number: usize, start: u64, code: &[u32]) -> Option<u64> {
    let Point { pc, compares: true } = *points.get(number)? else { return None };
    let address = |index: i64| start.wrapping_add_signed(index * 4);
    // The conditions one of whose ways begins there, with the other way.
    let ways: Vec<u64> = (0..code.len().saturating_sub(1))
        .filter_map(|at| {
            let (condition, jump) = (Instruction(code[at]), Instruction(code[at + 1]));
            if condition.op() > LAST_CONDITION || jump.op() != op::JMP {
                return None;
            }
            let next = at as i64 + 2;
            let (next, target) = (address(next), address(next + i64::from(jump.d()) - 0x8000));
            match pc {
                _ if next == target => None,
                _ if pc == next => Some(target),
                _ if pc == target => Some(next),
                _ => None,
            }
        })
        .collect();
    // It may also be the snapshot of the way that was taken, behind that of the comparison.
    if number.checked_sub(1).and_then(|before| points.get(before)).is_some_and(|before| ways.contains(&before.pc)) {
        return None;
    }
    // Conditions that are joined go the same way: the last of the snapshots is that of the last one.
    let later = points[number + 1..].iter().take_while(|point| point.compares && point.pc == pc).count();
    ways.len().checked_sub(1 + later).map(|at| ways[at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1000;
    const OTHER: u32 = 18;

    /// `if a and b then X else Y end`: X at 4, Y at 6.
    fn code() -> [u32; 8] {
        let jump = |by: u32| u32::from(op::JMP) | (0x8000 + by) << 16;
        [0, jump(4), 1, jump(2), OTHER, jump(1), OTHER, OTHER]
    }

    fn at(index: u64) -> u64 {
        START + index * 4
    }

    fn points(points: &[(u64, bool)]) -> Vec<Point> {
        points.iter().map(|(index, compares)| Point { pc: at(*index), compares: *compares }).collect()
    }

    #[test]
    fn the_way_that_a_trace_goes_is_the_other_one() {
        let joined = points(&[(0, false), (6, true), (6, true), (7, false)]);
        assert_eq!(way(&joined, 2, START, &code()), Some(at(4)));
        assert_eq!(way(&joined, 1, START, &code()), Some(at(2)), "the first condition goes on to the second one");
        assert_eq!(way(&joined, 0, START, &code()), None);
        assert_eq!(way(&joined, 9, START, &code()), None);
        let otherwise = points(&[(2, true)]);
        assert_eq!(way(&otherwise, 0, START, &code()), Some(at(6)));
    }

    #[test]
    fn a_snapshot_behind_the_comparison_is_right_already() {
        assert_eq!(way(&points(&[(2, true), (6, true)]), 1, START, &code()), None);
        assert_eq!(way(&points(&[(7, true)]), 0, START, &code()), None, "no condition leads there");
        assert_eq!(way(&points(&[(6, true)]), 0, START, &[]), None);
    }

    #[test]
    fn a_comparison_is_the_only_guard() {
        let guard = |kind: u8, opcode: u8| [0, 0, 0, 0, GUARD | kind, opcode, 0, 0];
        let other = [0, 0, 0, 0, 14, 41, 0, 0];
        assert!(compares(&[guard(19, 3), other]));
        assert!(!compares(&[guard(19, 3), guard(14, 60)]), "another guard");
        assert!(!compares(&[guard(8, 8)]), "which function it is");
        assert!(!compares(&[guard(19, 10)]), "bounds of an array");
        assert!(!compares(&[other]));
        assert!(!compares(&[]));
    }
}
