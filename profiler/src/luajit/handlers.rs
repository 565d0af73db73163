//! Which bytecode instruction the interpreter runs, from where it is in the VM's assembly.
//!
//! The code of the instructions ("handlers") lies in the order of their opcodes (`build_backend`, `vm_x64.dasc`). This is
//! needed at the edges of a function, where the PC register is the caller's: a call has made the new frame before it loads the
//! new function's PC, and a return loads the caller's PC before it is done.

use std::ops::Range;

use super::arch::ASM_FAST_FUNCTIONS;
use super::bytecode::op;
use super::discover::Vm;
use super::memory::{Memory, ReadError};

/// Function headers (`BC_FUNCF` to `BC_FUNCCW`), which have no static dispatch.
const HEADERS: u32 = 8;

/// The handlers of calls and returns, and the builtins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handlers {
    /// Their first addresses, from `CALLM` to the one behind `RET1`.
    starts: Vec<u64>,
    /// The code of builtins, but for what is behind the entry of the last one.
    builtins: Range<u64>,
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
        let starts = (op::CALLM..=op::RET1 + 1).map(|opcode| memory.u64(entry(opcode))).collect::<Result<_, _>>()?;
        let first = vm.dispatch().wrapping_add(u64::from(vm.layout.opcodes) * 8);
        let read = || memory.bytes(first, ASM_FAST_FUNCTIONS as usize * 8);
        let (bytes, again) = (read()?, read()?);
        let mut builtins: Vec<u64> = bytes.as_chunks().0.iter().map(|entry| u64::from_le_bytes(*entry)).collect();
        builtins.sort_unstable();
        // Each has an entry of its own; what replaces their dispatch is the same for all, and may just be put in place.
        let builtins = match builtins.as_slice() {
            [first, .., last] if bytes == again && builtins.is_sorted_by(|one, next| one < next) => *first..*last,
            _ => 0..0,
        };
        Ok(Handlers { starts, builtins })
    }

    /// Whether the code of builtins is not known, because their dispatch was replaced when it was read: it is while a trace is
    /// recorded and while a hook for calls is set.
    pub fn lack_builtins(&self) -> bool {
        self.builtins.is_empty()
    }

    /// Whether a builtin runs at an address.
    pub fn in_builtin(&self, address: u64) -> bool {
        self.builtins.contains(&address)
    }

    /// What the handler that an address is in does at the edge of a function; `None` outside of handlers that call or return.
    pub fn edge(&self, address: u64) -> Option<Edge> {
        let within = |pair: &[u64]| (pair[0]..pair[1]).contains(&address);
        let opcode = op::CALLM + self.starts.windows(2).position(within)? as u8;
        match opcode {
            op::CALLM..=op::ITERC => Some(Edge::Call),
            op::RETM..=op::RET1 => Some(Edge::Return(opcode)),
            _ => None,
        }
    }
}

/// An edge of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It is being called, perhaps by a tail call: the frame is that of the function called already.
    Call,
    /// It returns by an instruction of this opcode; `RETM` goes on in the handler of `RET`.
    Return(u8),
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::image::{Image, plain_vm};
    use super::super::layout::Layout;
    use super::*;

    #[test]
    fn calls_and_returns_are_told_by_their_address() {
        for layout in Layout::all().into_iter().map(Arc::new) {
            let mut image = Image::of(&layout);
            let vm = plain_vm(&mut image, &layout);
            let handlers = Handlers::read(&image, &vm).expect("readable");
            let end = vm.main_thread + u64::from(layout.gg.bcff);
            let start =
                |opcode: u32| Memory::u64(&image, end - u64::from(layout.opcodes - 8 - opcode) * 8).expect("readable");
            assert_eq!(handlers.edge(start(68)), Some(Edge::Call), "CALLT");
            assert_eq!(handlers.edge(start(70)), None, "ITERN");
            assert_eq!(handlers.edge(start(75)), Some(Edge::Return(75)), "RET0");
            assert_eq!(handlers.edge(start(77) - 1), Some(Edge::Return(76)), "the end of RET1");
            assert_eq!(handlers.edge(start(77)), None, "FORI");
            let builtin = |index: u32| {
                Memory::u64(&image, vm.dispatch() + u64::from(layout.opcodes + index) * 8).expect("readable")
            };
            assert!(handlers.in_builtin(builtin(0)) && handlers.in_builtin(builtin(55)));
            assert!(!handlers.in_builtin(builtin(0) - 1) && !handlers.in_builtin(start(68)));
            let replaced = vm.dispatch() + u64::from(layout.opcodes + 3) * 8;
            image.write(replaced, &builtin(7).to_le_bytes());
            let handlers = Handlers::read(&image, &vm).expect("readable");
            assert!(handlers.lack_builtins(), "their dispatch was being replaced");
        }
    }
}
