//! The memory of a program that lies.

use std::cell::Cell;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use luaflame::luajit::image::Image;
use luaflame::luajit::memory::{Memory, ReadError};

/// Most bytes that may be read for one thing that is decoded, and what a read of any size costs beside them.
const LIMIT: u64 = 1 << 30;
const READ: u64 = 256;

/// A change to the memory of a program: at an offset of one of its pieces, which are numbered.
#[derive(Debug, Arbitrary)]
pub struct Edit {
    piece: u8,
    offset: u16,
    value: Value,
}

/// What is written.
#[derive(Debug, Arbitrary)]
enum Value {
    Byte(u8),
    Number(u32),
    Word(u64),
    /// The address of something, so that structures get cycles and take each other's place.
    Address {
        piece: u8,
        offset: u16,
        tag: Option<u8>,
    },
}

/// What is where nothing was put.
#[derive(Debug, Arbitrary)]
pub enum Elsewhere {
    /// Nothing that could be read.
    Unreadable,
    /// These bytes again and again, so that the largest lengths can be read.
    Repeated(Vec<u8>),
}

/// Memory made by hand, changed, and counted: reading too much of it is a failure.
pub struct Hostile {
    image: Image,
    elsewhere: Elsewhere,
    left: Cell<u64>,
}

impl Hostile {
    /// The memory after these changes.
    pub fn new(mut image: Image, edits: &[Edit], elsewhere: Elsewhere) -> Hostile {
        let pieces: Vec<(u64, usize)> = image
            .pieces()
            .iter()
            .map(|(start, bytes)| (*start, bytes.len()))
            .filter(|(_, length)| *length > 0)
            .collect();
        let address = |piece: u8, offset: u16| {
            let (start, length) = pieces[usize::from(piece) % pieces.len()];
            (start, usize::from(offset) % length, length)
        };
        for edit in edits {
            let (start, offset, length) = address(edit.piece, edit.offset);
            let value = match edit.value {
                Value::Byte(value) => vec![value],
                Value::Number(value) => value.to_le_bytes().to_vec(),
                Value::Word(value) => value.to_le_bytes().to_vec(),
                Value::Address { piece, offset, tag } => {
                    let (start, offset, _) = address(piece, offset);
                    let reference = tag.map_or(0, |tag| !u64::from(tag) << 47);
                    (reference | (start + offset as u64)).to_le_bytes().to_vec()
                }
            };
            // Words where words are.
            let offset = offset & !(value.len() - 1);
            let room = length.saturating_sub(offset).min(value.len());
            image.write(start + offset as u64, &value[..room]);
        }
        Hostile { image, elsewhere, left: Cell::new(LIMIT) }
    }
}

impl Memory for Hostile {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let left = self.left.get().checked_sub(READ + buffer.len() as u64);
        self.left.set(left.expect("no more is read than decoding may cost"));
        let error = ReadError { address, length: buffer.len() };
        let pattern = match &self.elsewhere {
            Elsewhere::Repeated(bytes) if !bytes.is_empty() => bytes,
            _ => return self.image.read(address, buffer),
        };
        let end = address.checked_add(buffer.len() as u64).ok_or(error)?;
        // As addresses of user space end.
        if end > 1 << 47 {
            return Err(error);
        }
        let start = (address % pattern.len() as u64) as usize;
        for chunk in buffer.chunks_mut(pattern.len()) {
            let (tail, head) = pattern.split_at(start);
            let split = head.len().min(chunk.len());
            chunk[..split].copy_from_slice(&head[..split]);
            let rest = chunk.len() - split;
            chunk[split..].copy_from_slice(&tail[..rest]);
        }
        for (start, bytes) in self.image.pieces() {
            let (from, to) = ((*start).max(address), (start + bytes.len() as u64).min(end));
            if from < to {
                buffer[(from - address) as usize..(to - address) as usize]
                    .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            }
        }
        Ok(())
    }
}
