//! What the fuzz target `images` does with the bytes of an image: everything that a sample can ask of it.

use std::sync::Arc;

use gimli::UnwindContext;

use super::cfi::Rule;
use super::debug::{Budget, DebugInfo};
use super::image::{Bytes, Images, build_id};
use super::registers::{CodeAddress, Register, Registers};
use super::symbol_table::SymbolTable;

/// Steps to callers that are taken from one address.
const MOST_STEPS: usize = 16;

/// Reads the image, and unwinds and names what is at these image addresses. `stack` is the native stack of each, from the
/// stack pointer up.
pub fn read(bytes: Vec<u8>, addresses: &[u64], stack: &[u64]) {
    const SP: u64 = 0x7fff_0000_0000;
    let file = Arc::new(Bytes::Owned(bytes.clone().into_boxed_slice()));
    build_id(&file);
    let symbols = SymbolTable::new([&file].into_iter());
    let lines = DebugInfo::read(&file, &Arc::<Budget>::default());
    for address in addresses {
        symbols.lookup(*address);
        if let Ok(lines) = &lines {
            lines.functions(*address);
        }
    }
    let Ok(image) = Images::default().vdso(bytes) else { return };
    let mut context = UnwindContext::new();
    let mut word = |address: u64| {
        let index = address.wrapping_sub(SP) / 8;
        usize::try_from(index).ok().and_then(|index| stack.get(index)).copied().ok_or(())
    };
    for address in addresses {
        image.bias(*address, *address, true);
        image.fde_range(*address);
        let mut registers = Registers::new(CodeAddress::Instruction(*address), SP);
        for (register, value) in [Register::Bp, Register::Bx, Register::Ax, Register::R12].into_iter().zip(stack) {
            registers.set(register, *value);
        }
        for _ in 0..MOST_STEPS {
            let at = registers.code.lookup();
            let goes_on = match image.rule(at, &mut context) {
                Rule::Frame(rule) => rule.apply(&mut registers, &mut word),
                Rule::General => {
                    let Some((frames, bytes)) = image.frames() else { break };
                    frames.evaluate(bytes, at, &mut context, &mut registers, &mut word)
                }
                Rule::Missing | Rule::Malformed | Rule::Root => break,
            };
            if goes_on != Ok(true) {
                break;
            }
        }
    }
}
