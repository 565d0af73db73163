//! The memory of a running process.

use crate::luajit::memory::{Memory, ReadError};

/// Reads the memory of a process with `process_vm_readv`, which neither stops nor changes it. Needs the right to ptrace
/// the process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMemory {
    pid: u32,
}

impl ProcessMemory {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid }
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let error = ReadError { address, length: buffer.len() };
        let pid = libc::pid_t::try_from(self.pid).map_err(|_| error)?;
        let remote_address = usize::try_from(address).map_err(|_| error)?;
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: remote_address as *mut libc::c_void, iov_len: buffer.len() };
        // SAFETY: `local` describes `buffer`, which is valid for writes of its length and outlives the call; the
        // address in `remote` is only used by the kernel, in the other process.
        let count = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
        // The kernel stops at the first page that it cannot read and tells how far it came.
        if usize::try_from(count).is_ok_and(|count| count == buffer.len()) { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::process::Process;

    #[test]
    fn bytes_of_a_process_are_read() {
        let bytes: Vec<u8> = (0..=255).collect();
        let memory = Process::open(std::process::id()).unwrap().memory();
        assert_eq!(memory.bytes(bytes.as_ptr() as u64, 256).unwrap(), bytes);
        assert_eq!(memory.u32(bytes.as_ptr() as u64 + 1), Ok(0x0403_0201));
    }

    #[test]
    fn a_read_that_reaches_beyond_a_mapping_fails_as_a_whole() {
        let page = 4096;
        let process = Process::open(std::process::id()).unwrap();
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
