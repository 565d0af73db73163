//! The memory of a running process.

use std::sync::Arc;

use super::world::Source;
use crate::luajit::memory::{Memory, ReadError};

/// The memory of a process. Reads go by pid: after the process has exited they may meet another one
/// ([`Process::is_running`](super::process::Process::is_running)).
#[derive(Debug, Clone)]
pub struct ProcessMemory {
    source: Arc<dyn Source>,
}

impl ProcessMemory {
    pub(super) fn new(source: Arc<dyn Source>) -> Self {
        Self { source }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.source.memory(address, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live::live;
    use crate::target::process::Process;

    #[test]
    fn bytes_of_a_process_are_read() {
        let bytes: Vec<u8> = (0..=255).collect();
        let memory = Process::open(&live(), std::process::id()).unwrap().memory();
        assert_eq!(memory.bytes(bytes.as_ptr() as u64, 256).unwrap(), bytes);
        assert_eq!(memory.u32(bytes.as_ptr() as u64 + 1), Ok(0x0403_0201));
    }

    #[test]
    fn a_read_that_reaches_beyond_a_mapping_fails_as_a_whole() {
        let page = 4096;
        let process = Process::open(&live(), std::process::id()).unwrap();
        let maps = process.maps().unwrap();
        let end = maps
            .windows(2)
            .find(|pair| pair[0].readable && pair[0].range.end != pair[1].range.start)
            .map(|pair| pair[0].range.end)
            .unwrap();
        let memory = process.memory();
        assert!(memory.bytes(end - page, page as usize).is_ok());
        assert_eq!(memory.bytes(end - 8, 16), Err(ReadError { address: end - 8, length: 16 }));
        assert!(memory.u8(0).is_err());
        assert!(memory.u64(u64::MAX - 3).is_err());
    }
}
