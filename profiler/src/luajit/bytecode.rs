//! Bytecode instructions: operands, and the opcodes that the profiler knows by number.
//!
//! Every opcode below the function headers has the same number in all revisions of LuaJIT 2.1 up to 2026-07, which
//! inserted seven new ones directly before the headers; so those are counted from the end.

/// One instruction (`BCIns`): opcode and A in the two low bytes, then either C and B, or the 16-bit D.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction(pub u32);

impl Instruction {
    /// The opcode.
    pub fn op(self) -> u8 {
        self.0 as u8
    }

    /// Operand A.
    pub fn a(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Operand B.
    pub fn b(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Operand C.
    pub fn c(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Operand D.
    pub fn d(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl Instruction {
    /// Whether the instruction may write a slot, or be reached from elsewhere than the one before it; only for opcodes below
    /// the function headers. As the operand modes in `lj_bc.h` have it.
    pub fn may_write(self, slot: u8) -> bool {
        match self.op() {
            // Comparisons and tests; stores to upvalues, globals and tables; returns.
            0..=11 | 14..=17 | 46..=50 | 55 | 60..=64 | 73..=76 => false,
            op::KNIL => (u16::from(self.a())..=self.d()).contains(&u16::from(slot)),
            // Calls and varargs write from A on, below which calls have their frame.
            op::CALLM..=op::ISNEXT => slot >= self.a(),
            // Jumps and loops.
            op::FORI.. => true,
            _ => self.a() == slot,
        }
    }
}

/// Opcodes, by LuaJIT's names.
#[expect(missing_docs, reason = "LuaJIT's own names of its opcodes")]
pub mod op {
    pub const MOV: u8 = 18;
    pub const KNIL: u8 = 44;
    pub const UGET: u8 = 45;
    pub const USETV: u8 = 46;
    pub const FNEW: u8 = 51;
    pub const TNEW: u8 = 52;
    pub const TDUP: u8 = 53;
    pub const GGET: u8 = 54;
    pub const GSET: u8 = 55;
    pub const TGETS: u8 = 57;
    pub const TSETS: u8 = 61;
    pub const CALLM: u8 = 65;
    pub const CALL: u8 = 66;
    pub const CALLMT: u8 = 67;
    pub const CALLT: u8 = 68;
    pub const ITERC: u8 = 69;
    pub const ITERN: u8 = 70;
    pub const ISNEXT: u8 = 72;
    pub const RETM: u8 = 73;
    pub const RET: u8 = 74;
    pub const RET1: u8 = 76;
    pub const FORI: u8 = 77;
    pub const JMP: u8 = 88;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands() {
        // TSETS 2 5 1: slot 2 into the table of slot 5 under constant 1.
        let instruction = Instruction(0x0501_023d);
        assert_eq!((instruction.op(), instruction.a(), instruction.b(), instruction.c()), (op::TSETS, 2, 5, 1));
        assert_eq!(instruction.d(), 0x0501);
    }
}
