//! The registers of one frame, as far as they are known. x86-64.

use gimli::X86_64;

/// A place in the code that a frame is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodeAddress {
    /// The instruction that runs next: where a sample hit, or where a signal interrupted.
    Instruction(u64),
    /// Where a call returns to. The call itself lies before it, possibly at the end of another function.
    Return(u64),
}

impl CodeAddress {
    /// The address itself.
    pub fn address(self) -> u64 {
        match self {
            Self::Instruction(address) | Self::Return(address) => address,
        }
    }

    /// An address inside the instruction that the frame is at: what functions, lines and unwind rules are looked up by.
    pub fn lookup(self) -> u64 {
        match self {
            Self::Instruction(address) => address,
            Self::Return(address) => address.saturating_sub(1),
        }
    }
}

/// A general-purpose register of x86-64. The discriminant is its number in DWARF (psABI, figure 3.36).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it all")]
#[repr(u8)]
pub enum Register {
    Ax = X86_64::RAX.0 as u8,
    Dx = X86_64::RDX.0 as u8,
    Cx = X86_64::RCX.0 as u8,
    Bx = X86_64::RBX.0 as u8,
    Si = X86_64::RSI.0 as u8,
    Di = X86_64::RDI.0 as u8,
    Bp = X86_64::RBP.0 as u8,
    Sp = X86_64::RSP.0 as u8,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

/// Number of general-purpose registers.
pub(super) const COUNT: usize = 16;

/// The registers that a function leaves as its caller had them (psABI, section 3.2.1), without the stack pointer.
pub(super) const CALLEE_SAVED: [Register; 6] =
    [Register::Bx, Register::Bp, Register::R12, Register::R13, Register::R14, Register::R15];

/// The registers of one frame.
///
/// The stack pointer and the place in the code are always known; every other register may be unknown. One that calls may
/// change has the value that it has in the callee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Where the frame is in the code.
    pub code: CodeAddress,
    values: [u64; COUNT],
    /// Bit `n` is set when `values[n]` is known.
    known: u16,
}

impl Registers {
    /// Registers of which only the place in the code and the stack pointer are known.
    pub fn new(code: CodeAddress, sp: u64) -> Self {
        let mut registers = Self { code, values: [0; COUNT], known: 0 };
        registers.set(Register::Sp, sp);
        registers
    }

    /// The value of a register, when it is known.
    pub fn get(&self, register: Register) -> Option<u64> {
        self.number(register as u16)
    }

    /// Makes the value of a register known.
    pub fn set(&mut self, register: Register, value: u64) {
        self.set_number(register as u8, Some(value));
    }

    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.values[Register::Sp as usize]
    }

    /// The value of the register with this number in DWARF.
    pub(super) fn number(&self, number: u16) -> Option<u64> {
        let value = *self.values.get(usize::from(number))?;
        (self.known & 1 << number != 0).then_some(value)
    }

    /// Sets the register with this number in DWARF, which is below [`COUNT`].
    pub(super) fn set_number(&mut self, number: u8, value: Option<u64>) {
        let bit = 1 << number;
        match value {
            Some(value) => {
                self.values[usize::from(number)] = value;
                self.known |= bit;
            }
            None => self.known &= !bit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_unknown_until_set() {
        let mut registers = Registers::new(CodeAddress::Instruction(0x1000), 0x7000);
        assert_eq!(registers.sp(), 0x7000);
        assert_eq!(registers.get(Register::Sp), Some(0x7000));
        assert_eq!(registers.get(Register::Bp), None);
        registers.set(Register::Bp, 0);
        assert_eq!(registers.get(Register::Bp), Some(0));
        registers.set_number(Register::Bp as u8, None);
        assert_eq!(registers.get(Register::Bp), None);
        assert_eq!(registers.number(16), None);
        assert_eq!(registers.number(u16::MAX), None);
    }

    #[test]
    fn a_call_is_looked_up_before_its_return_address() {
        assert_eq!(CodeAddress::Instruction(0x1000).lookup(), 0x1000);
        assert_eq!(CodeAddress::Return(0x1000).lookup(), 0xfff);
        assert_eq!(CodeAddress::Return(0).lookup(), 0);
    }
}
