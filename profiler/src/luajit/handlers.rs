//! Which bytecode instruction the interpreter runs, from where it is in the VM's assembly.
//!
//! The code of the instructions ("handlers") lies in the order of their opcodes (`build_backend`, `vm_x64.dasc`). This is
//! needed where the PC register does not say: an instruction that leaves a function loads the PC of the caller before it is
//! done.

use super::bytecode::op;
use super::discover::Vm;
use super::memory::{Memory, ReadError};

/// Function headers (`BC_FUNCF` to `BC_FUNCCW`), which have no static dispatch.
const HEADERS: u32 = 8;

/// The handlers of tail calls and returns, and of the instructions between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handlers {
    /// Their first addresses, from `CALLMT` to the one behind `RET1`.
    starts: Vec<u64>,
}

impl Handlers {
    /// Reads the VM's static dispatch table, which hooks and the JIT compiler do not change (`GG_State.dispatch` behind
    /// `GG_LEN_DDISP`, `lj_dispatch.h`).
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(memory: &dyn Memory, vm: &Vm) -> Result<Handlers, ReadError> {
        let static_dispatch = u64::from(vm.layout.opcodes.saturating_sub(HEADERS)) * 8;
        let end = vm.main_thread.wrapping_add(u64::from(vm.layout.gg.bcff));
        let entry = |opcode: u8| end.wrapping_sub(static_dispatch).wrapping_add(u64::from(opcode) * 8);
        let starts = (op::CALLMT..=op::RET1 + 1).map(|opcode| memory.u64(entry(opcode))).collect::<Result<_, _>>()?;
        Ok(Handlers { starts })
    }

    /// The opcode whose handler an address is in, when it is one that leaves its function.
    pub fn leaving(&self, address: u64) -> Option<Leaving> {
        let within = |pair: &[u64]| (pair[0]..pair[1]).contains(&address);
        let opcode = op::CALLMT + self.starts.windows(2).position(within)? as u8;
        match opcode {
            op::CALLMT | op::CALLT => Some(Leaving::TailCall),
            op::RETM..=op::RET1 => Some(Leaving::Return(opcode)),
            _ => None,
        }
    }
}

/// How the interpreter leaves a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// By a tail call. The frame is that of the function called already.
    TailCall,
    /// By a return instruction of this opcode.
    Return(u8),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::image::{Image, plain_vm};
    use super::super::layout::Layout;
    use super::*;

    #[test]
    fn handlers_that_leave_a_function_are_told_by_their_address() {
        for layout in Layout::all().into_iter().map(Arc::new) {
            let mut image = Image::default();
            let vm = plain_vm(&mut image, &layout);
            let handlers = Handlers::read(&image, &vm).expect("readable");
            let end = vm.main_thread + u64::from(layout.gg.bcff);
            let start =
                |opcode: u32| Memory::u64(&image, end - u64::from(layout.opcodes - 8 - opcode) * 8).expect("readable");
            assert_eq!(handlers.leaving(start(68)), Some(Leaving::TailCall), "CALLT");
            assert_eq!(handlers.leaving(start(69)), None, "ITERC");
            assert_eq!(handlers.leaving(start(75)), Some(Leaving::Return(75)), "RET0");
            assert_eq!(handlers.leaving(start(77) - 1), Some(Leaving::Return(76)), "the end of RET1");
            assert_eq!(handlers.leaving(start(77)), None, "FORI");
        }
    }
}
