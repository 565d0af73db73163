//! Memory as it was: copies of objects that the probe made when it met them first.
//!
//! A trace may be flushed and a function collected between a sample and the moment that it is looked at. What a sample refers
//! to is read from these copies where there are any, and from the target's memory as it is now where there are none.

use std::collections::BTreeMap;

use super::memory::{Memory, ReadError};

/// Copies are let go of when they take more than this, all at once: what they were needed for has been read by then.
const MOST_BYTES: usize = 8 << 20;

/// The copies from one process.
#[derive(Debug, Default)]
pub struct Copies {
    by_address: BTreeMap<u64, Copied>,
    bytes: usize,
}

#[derive(Debug)]
struct Copied {
    mark: u64,
    bytes: Box<[u8]>,
}

impl Copies {
    /// Adds a copy; those of what was at the same addresses before are gone. `mark` tells it from these.
    pub fn add(&mut self, address: u64, mark: u64, bytes: &[u8]) {
        if self.bytes + bytes.len() > MOST_BYTES {
            self.by_address.clear();
            self.bytes = 0;
        }
        let end = address.saturating_add(bytes.len() as u64);
        while let Some((&start, before)) = self.by_address.range(..end).next_back()
            && start.saturating_add(before.bytes.len() as u64) > address
        {
            self.bytes -= before.bytes.len();
            self.by_address.remove(&start);
        }
        self.bytes += bytes.len();
        self.by_address.insert(address, Copied { mark, bytes: bytes.into() });
    }

    /// Whether there is a copy with this mark from this address.
    pub fn has(&self, address: u64, mark: u64) -> bool {
        self.by_address.get(&address).is_some_and(|copied| copied.mark == mark)
    }

    /// The copies, and behind them the memory as it is now.
    pub fn over<'a, M: Memory>(&'a self, memory: &'a M) -> Over<'a, M> {
        Over { copies: self, memory }
    }
}

/// Copies in front of other memory. A read that begins in a copy must end in it: what is behind it is of another time.
#[derive(Debug)]
pub struct Over<'a, M> {
    copies: &'a Copies,
    memory: &'a M,
}

impl<M: Memory> Memory for Over<'_, M> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let Some((start, copied)) = self.copies.by_address.range(..=address).next_back() else {
            return self.memory.read(address, buffer);
        };
        let offset = usize::try_from(address - start).unwrap_or(usize::MAX);
        let Some(behind) = copied.bytes.get(offset..).filter(|behind| !behind.is_empty()) else {
            return self.memory.read(address, buffer);
        };
        let bytes = behind.get(..buffer.len()).ok_or(ReadError { address, length: buffer.len() })?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::super::layout::Layout;
    use super::*;

    #[test]
    fn what_was_copied_is_read_as_it_was() {
        let mut image = Image::of(&Layout::all()[0]);
        let address = image.allocate(64);
        image.write(address, &[7; 64]);
        let mut copies = Copies::default();
        copies.add(address + 16, 1, &[1; 16]);
        copies.add(address + 24, 2, &[2; 16]);
        assert!(!copies.has(address + 16, 1), "its memory was reused");
        assert!(copies.has(address + 24, 2) && !copies.has(address + 24, 1));
        let memory = copies.over(&image);
        assert_eq!(memory.u64(address + 16), Ok(0x0707_0707_0707_0707));
        assert_eq!(memory.u64(address + 32), Ok(0x0202_0202_0202_0202));
        assert!(memory.u64(address + 36).is_err(), "half of it is of another time");
        assert_eq!(memory.u64(address + 40), Ok(0x0707_0707_0707_0707));
    }

    #[test]
    fn copies_are_bounded() {
        let mut copies = Copies::default();
        for number in 0..1000 {
            copies.add(number << 20, number, &[0; 60 << 10]);
        }
        assert!(copies.bytes <= MOST_BYTES && copies.has(999 << 20, 999));
    }
}
