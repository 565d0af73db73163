//! Reading the memory of a process that embeds LuaJIT.
//!
//! Everything in `luajit` reads through [`Memory`], so that a live process, a captured sample and a test's byte buffer
//! all serve it.

use std::cell::Cell;
use std::ops::Range;

/// A read that could not be done: the address is not mapped, not readable, or the process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at {address:#x} could not be read")]
pub struct ReadError {
    /// First address of the read.
    pub address: u64,
    /// Number of bytes asked for.
    pub length: usize,
}

/// The memory of another program, little-endian, as it is at the moment of each read.
///
/// The program runs on while it is read: two reads may see two different states, and every caller validates what it
/// builds from several reads.
pub trait Memory {
    /// Fills `buffer` from `address` on, or fails as a whole; then `buffer` holds unspecified bytes.
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// Reads `N` bytes at `address`.
    fn array<const N: usize>(&self, address: u64) -> Result<[u8; N], ReadError>
    where
        Self: Sized,
    {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads one byte.
    fn u8(&self, address: u64) -> Result<u8, ReadError> {
        let mut bytes = [0; 1];
        self.read(address, &mut bytes)?;
        Ok(bytes[0])
    }

    /// Reads a 16-bit little-endian number.
    fn u16(&self, address: u64) -> Result<u16, ReadError> {
        let mut bytes = [0; 2];
        self.read(address, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Reads a 32-bit little-endian number.
    fn u32(&self, address: u64) -> Result<u32, ReadError> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Reads a 64-bit little-endian number.
    fn u64(&self, address: u64) -> Result<u64, ReadError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads `length` bytes into a new buffer. `length` comes from the target's memory, so callers bound it first.
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut buffer = vec![0; length];
        self.read(address, &mut buffer)?;
        Ok(buffer)
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        (**self).read(address, buffer)
    }
}

/// Memory of which no more than so much is read, so that what follows references through it comes to an end, whatever they
/// say.
pub struct Limited<'a> {
    memory: &'a dyn Memory,
    left: Cell<u64>,
}

impl<'a> Limited<'a> {
    /// What a read of any size costs beside its bytes, in bytes that could be read in the same time.
    const READ: u64 = 256;

    /// Memory of which `bytes` may be read.
    pub fn new(memory: &'a dyn Memory, bytes: u64) -> Limited<'a> {
        Limited { memory, left: Cell::new(bytes) }
    }

    /// Whether a read has failed because of the limit.
    pub fn is_used_up(&self) -> bool {
        self.left.get() == 0
    }
}

impl Memory for Limited<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let cost = Limited::READ + buffer.len() as u64;
        self.left.set(self.left.get().saturating_sub(cost));
        if self.is_used_up() {
            return Err(ReadError { address, length: buffer.len() });
        }
        self.memory.read(address, buffer)
    }
}

/// One contiguous mapping of the target, as far as reading LuaJIT needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The addresses `[start, end)`.
    pub range: Range<u64>,
    /// The program may write here.
    pub writable: bool,
    /// The program may execute code here.
    pub executable: bool,
    /// Not shared with other processes (`p` in `/proc/PID/maps`).
    pub private: bool,
    /// Backed by a file.
    pub file: bool,
}
