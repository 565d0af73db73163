//! The procedure linkage table: the stubs through which code calls functions of other images. x86-64.
//!
//! Some linkers write no unwind information for them (lld; GNU ld in static programs). Their instructions are known.

use super::cfi::Span;

const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
/// `jmp *offset(%rip)`
const JUMP: &[u8] = &[0xff, 0x25];
/// `bnd jmp *offset(%rip)`
const BND_JUMP: &[u8] = &[0xf2, 0xff, 0x25];
/// `push $number`
const PUSH_NUMBER: &[u8] = &[0x68];
/// `push offset(%rip)`
const PUSH: &[u8] = &[0xff, 0x35];
/// Size of every stub and of the head of the table.
const STUB: u64 = 16;

/// Whether an image address is an instruction of a stub before which the stub has pushed nothing.
pub(super) fn is_untouched(bytes: &[u8], tables: &[Span], address: u64) -> bool {
    let Some((table, offset)) = tables.iter().find_map(|table| {
        let offset = address.checked_sub(table.address)?;
        (offset < table.range.len() as u64).then_some((table, offset))
    }) else {
        return false;
    };
    let Some(table) = bytes.get(table.range.clone()) else { return false };
    // The head of a table for lazy binding is jumped to with a number on the stack.
    if offset < STUB && table.starts_with(PUSH) {
        return false;
    }
    let code = &table[offset as usize..];
    [ENDBR64, JUMP, BND_JUMP, PUSH_NUMBER].iter().any(|instruction| code.starts_with(instruction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_known_by_their_instructions() {
        let head = [0xff, 0x35, 1, 0, 0, 0, 0xff, 0x25, 2, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
        let lazy = [0xff, 0x25, 3, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0, 0, 0, 0];
        let marked = [0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 4, 0, 0, 0, 0x0f, 0x1f, 0x44, 0, 0];
        let bytes = [&[0; 8][..], &head, &lazy, &marked].concat();
        let tables = [Span::new(0x1000, (8, 48), bytes.len()).unwrap()];
        let known: Vec<u64> = (0xff0..0x1040).filter(|address| is_untouched(&bytes, &tables, *address)).collect();
        assert_eq!(known, [0x1010, 0x1016, 0x1020, 0x1024, 0x1025]);
    }
}
