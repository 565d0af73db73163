//! Memory that was read before, as it was when it was read last.

use std::collections::BTreeMap;

/// Runs of bytes do not cross multiples of this, which bounds what replacing a part of one costs.
const PAGE: u64 = 4096;

/// The memory of the processes of a capture, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct KnownMemory {
    /// By process and address; none overlap.
    runs: BTreeMap<(u32, u64), Vec<u8>>,
}

impl KnownMemory {
    /// These bytes are what the process has at an address now.
    pub(super) fn write(&mut self, process: u32, address: u64, bytes: &[u8]) {
        let (mut address, mut bytes) = (address, bytes);
        while !bytes.is_empty() {
            let left_on_page = (PAGE - address % PAGE) as usize;
            let (here, rest) = bytes.split_at(left_on_page.min(bytes.len()));
            self.write_run(process, address, here);
            let Some(next) = address.checked_add(here.len() as u64) else { return };
            (address, bytes) = (next, rest);
        }
    }

    fn write_run(&mut self, process: u32, address: u64, bytes: &[u8]) {
        let page = address - address % PAGE;
        // Addresses relative to the page cannot overflow.
        let (start, end) = ((address - page) as usize, (address - page) as usize + bytes.len());
        if let Some((&(_, run), known)) = self.runs.range_mut((process, page)..=(process, address)).next_back() {
            let run = (run - page) as usize;
            if let Some(part) = known.get_mut(start - run..).and_then(|known| known.get_mut(..bytes.len())) {
                return part.copy_from_slice(bytes);
            }
            // What is behind the new bytes would have been covered by the case above.
            known.truncate(start - run);
            if known.is_empty() {
                self.runs.remove(&(process, page + run as u64));
            }
        }
        while let Some((&key, _)) = self.runs.range((process, address)..=(process, page + (end as u64 - 1))).next() {
            let Some(mut known) = self.runs.remove(&key) else { break };
            let over = end - (key.1 - page) as usize;
            if over < known.len() {
                known.drain(..over);
                self.runs.insert((process, page + end as u64), known);
            }
        }
        self.runs.insert((process, address), bytes.to_vec());
    }

    /// The bytes of a process at an address, if all of them are known.
    pub(super) fn read(&self, process: u32, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let at = address.checked_add(bytes.len() as u64)?;
            let (&(_, run), known) = self.runs.range((process, at - at % PAGE)..=(process, at)).next_back()?;
            let here = known.get((at - run) as usize..).filter(|here| !here.is_empty())?;
            bytes.extend_from_slice(&here[..here.len().min(length - bytes.len())]);
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_read() {
        // Against the plain way to do it, with pieces of all lengths at all distances from a page's end.
        let mut memory = KnownMemory::default();
        let mut plain = vec![None; 4 * PAGE as usize];
        let mut number = 1_u64;
        for round in 0..2000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (number >> 33) as usize % (plain.len() - 5000);
            let length = 1 + (number >> 20) as usize % if round % 3 == 0 { 5000 } else { 40 };
            let bytes = vec![round as u8; length];
            memory.write(7, start as u64, &bytes);
            plain[start..start + length].fill(Some(round as u8));
            let (from, size) = (start.saturating_sub(20), 1 + round % 100);
            let expected: Option<Vec<u8>> = plain[from..from + size].iter().copied().collect();
            assert_eq!(memory.read(7, from as u64, size), expected, "round {round}");
        }
        assert_eq!(memory.read(8, 0, 1), None, "another process");
        assert_eq!(memory.read(7, 5, 0), Some(Vec::new()));
    }

    #[test]
    fn the_end_of_the_address_space_is_no_trap() {
        let mut memory = KnownMemory::default();
        memory.write(0, u64::MAX - 1, &[1, 2, 3, 4]);
        assert_eq!(memory.read(0, u64::MAX - 1, 2), Some(vec![1, 2]));
        assert_eq!(memory.read(0, u64::MAX - 1, 3), None);
    }
}
