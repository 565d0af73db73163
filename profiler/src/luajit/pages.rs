//! Memory read in large pieces that are kept, for what follows references through all of a heap.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use super::memory::{Memory, ReadError};

/// Bytes of a piece: objects that follow one another in the heap are near one another in memory, mostly.
const PIECE: u64 = 16 << 10;
/// The least that can or cannot be read.
const PAGE: u64 = 4 << 10;
/// Pieces that are kept, 64 MiB of them; after that they are read anew.
const MOST_PIECES: usize = 4 << 10;

/// Memory of which every piece is read once: later reads of it see what was there then.
pub struct Pages<'a> {
    memory: &'a dyn Memory,
    pieces: RefCell<FxHashMap<u64, Box<[u8]>>>,
}

impl<'a> Pages<'a> {
    /// Nothing read yet.
    pub fn of(memory: &'a dyn Memory) -> Pages<'a> {
        Pages { memory, pieces: RefCell::default() }
    }

    /// The piece at an address. What of it cannot be read is left out at its end.
    fn read_piece(&self, start: u64) -> Box<[u8]> {
        if let Ok(bytes) = self.memory.bytes(start, PIECE as usize) {
            return bytes.into();
        }
        let pages = (0..PIECE / PAGE).map_while(|page| self.memory.bytes(start + page * PAGE, PAGE as usize).ok());
        pages.flatten().collect()
    }
}

impl Memory for Pages<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let start = address & !(PIECE - 1);
        let offset = (address - start) as usize;
        if offset + buffer.len() > PIECE as usize {
            return self.memory.read(address, buffer);
        }
        let mut pieces = self.pieces.borrow_mut();
        if pieces.len() >= MOST_PIECES {
            pieces.clear();
        }
        let piece = pieces.entry(start).or_insert_with(|| self.read_piece(start));
        match piece.get(offset..offset + buffer.len()) {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            // Behind a page that cannot be read.
            None => self.memory.read(address, buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::Range;

    use super::*;

    /// Each byte is that of its address, as far as it can be read; reads are counted.
    struct Counted {
        readable: Range<u64>,
        reads: Cell<usize>,
    }

    impl Memory for Counted {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
            self.reads.set(self.reads.get() + 1);
            if address < self.readable.start || address + buffer.len() as u64 > self.readable.end {
                return Err(ReadError { address, length: buffer.len() });
            }
            (address..).zip(buffer).for_each(|(address, byte)| *byte = (address >> 8) as u8);
            Ok(())
        }
    }

    #[test]
    fn what_is_near_is_read_once() {
        let memory = Counted { readable: 0x10000..0x80000, reads: Cell::new(0) };
        let pages = Pages::of(&memory);
        for address in (0x10000..0x14000).step_by(16) {
            assert_eq!(pages.u8(address), Ok((address >> 8) as u8));
        }
        assert_eq!(memory.reads.get(), 1);
        assert_eq!(pages.u16(0x13fff), Ok(0x403f), "across two pieces");
    }

    #[test]
    fn what_can_be_read_of_a_piece_is_read() {
        let memory = Counted { readable: 0x11000..0x13000, reads: Cell::new(0) };
        let pages = Pages::of(&memory);
        assert_eq!(pages.u8(0x12fff), Ok(0x2f));
        assert_eq!(pages.u8(0x11000), Ok(0x10));
        assert!(pages.u8(0x13000).is_err());
        assert!(pages.u8(0x10fff).is_err());
    }
}
