//! Objects of the target's Lua heap: strings, functions, tables.
//!
//! An object may be freed and its memory reused at any moment. Each read checks the object's type byte, bounds every
//! length, and copies what it needs; what a caller builds from several objects it must check against each other.

use std::borrow::Cow;
use std::ops::Range;

use super::arch::{Model, NODE_KEY, NODE_SIZE, NODE_VALUE, Tag, Value};
use super::layout::Layout;
use super::memory::{Memory, ReadError};

/// Why an object could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Its memory could not be read.
    #[error("{0}")]
    Unreadable(#[from] ReadError),
    /// What is there is no object of the type expected, any more or at all.
    #[error("there is no {0:?} at {1:#x}")]
    NotA(Tag, u64),
    /// The object contradicts itself.
    #[error("the {0:?} at {1:#x} is not well formed")]
    Malformed(Tag, u64),
}

/// The bytes of a string, or the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Text {
    /// The bytes, in no certain encoding.
    pub bytes: Vec<u8>,
    /// The string is longer than the limit it was read with.
    pub cut: bool,
}

impl Text {
    /// Reads at most `limit` bytes of the string object at `address`.
    ///
    /// # Errors
    /// When there is no string, or it cannot be read.
    pub fn read(memory: &dyn Memory, layout: &Layout, address: u64, limit: usize) -> Result<Text, ObjectError> {
        let size = layout.string.size as usize;
        // One read serves most strings; the object may lie at the end of readable memory.
        let guess = size + limit.min(64);
        let mut bytes = match memory.bytes(address, guess) {
            Ok(bytes) => bytes,
            Err(_) => memory.bytes(address, size)?,
        };
        if byte_at(&bytes, layout.model.gct()) != Tag::String.gct() {
            return Err(ObjectError::NotA(Tag::String, address));
        }
        let length = u32_at(&bytes, layout.string.len) as usize;
        let wanted = length.min(limit);
        if bytes.len() >= size + wanted {
            bytes.truncate(size + wanted);
            bytes.drain(..size);
        } else {
            bytes = memory.bytes(address.wrapping_add(size as u64), wanted)?;
        }
        Ok(Text { bytes, cut: length > limit })
    }

    /// What tells the string object at `address` from others that are or were there: its number and hash (`GCstr.sid`,
    /// `hash`). LuaJIT counts its strings since 2020-06; before, this is the hash and the length, which texts that differ
    /// in a few places only may share.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn identity(memory: &dyn Memory, layout: &Layout, address: u64) -> Result<u64, ReadError> {
        // Behind the type are two single bytes.
        memory.u64(address.wrapping_add(u64::from(layout.model.gct()) + 3))
    }

    /// The bytes as UTF-8, with replacement characters for what is not.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// A closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Function {
    /// Address of the `GCfunc`.
    pub address: u64,
    /// What it runs.
    pub kind: FunctionKind,
    /// Number of upvalues.
    pub upvalues: u8,
}

/// What a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// Bytecode (`ffid` 0).
    Lua {
        /// Address of the `GCproto`.
        proto: u64,
    },
    /// A C function registered by the program or a module (`ffid` 1).
    C {
        /// Address of its code.
        code: u64,
    },
    /// A function of LuaJIT's own libraries, in assembly or C (`ffid` above 1).
    Fast {
        /// Number of the function; means another function in each build.
        ffid: u8,
        /// Address of its C part: the function, or what the assembly falls back to.
        code: u64,
    },
}

impl Function {
    /// Reads the function object at `address`.
    ///
    /// # Errors
    /// When there is no function, or it cannot be read.
    pub fn read(memory: &dyn Memory, layout: &Layout, address: u64) -> Result<Function, ObjectError> {
        let func = &layout.func;
        let bytes = memory.bytes(address, func.size as usize)?;
        if byte_at(&bytes, layout.model.gct()) != Tag::Function.gct() {
            return Err(ObjectError::NotA(Tag::Function, address));
        }
        let pc = reference_at(layout.model, &bytes, func.pc);
        // A C function always has room for this; a Lua function without upvalues may end before.
        let code = || memory.u64(address.wrapping_add(u64::from(func.c_function)));
        let kind = match byte_at(&bytes, func.ffid) {
            0 => FunctionKind::Lua { proto: pc.wrapping_sub(u64::from(layout.proto.size)) },
            1 => FunctionKind::C { code: code()? },
            ffid => FunctionKind::Fast { ffid, code: code()? },
        };
        Ok(Function { address, kind, upvalues: byte_at(&bytes, func.nupvalues) })
    }
}

/// A table's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Address of the metatable, or 0.
    pub metatable: u64,
    model: Model,
    array: u64,
    asize: u32,
    node: u64,
    hmask: u32,
}

/// Nodes or slots read at once.
const TABLE_CHUNK: u64 = 2048;

impl Table {
    /// Reads the header of the table at `address`.
    ///
    /// # Errors
    /// When there is no table, or it cannot be read.
    pub fn read(memory: &dyn Memory, model: Model, address: u64) -> Result<Table, ObjectError> {
        let offsets = model.table();
        let bytes = memory.bytes(address, offsets.size as usize)?;
        if byte_at(&bytes, model.gct()) != Tag::Table.gct() {
            return Err(ObjectError::NotA(Tag::Table, address));
        }
        let hmask = u32_at(&bytes, offsets.hmask);
        // The hash part has a power of two of nodes.
        if !u64::from(hmask).wrapping_add(1).is_power_of_two() {
            return Err(ObjectError::Malformed(Tag::Table, address));
        }
        Ok(Table {
            metatable: reference_at(model, &bytes, offsets.metatable),
            model,
            array: reference_at(model, &bytes, offsets.array),
            asize: u32_at(&bytes, offsets.asize),
            node: reference_at(model, &bytes, offsets.node),
            hmask,
        })
    }

    /// Slots of the array part for the keys from 1 on, and nodes of the hash part. `global` is the `global_State`, which holds the
    /// one node of all tables that have none of their own.
    pub fn sizes(&self, global: &Range<u64>) -> (u32, u32) {
        let hash = if global.contains(&self.node) { 0 } else { self.hmask.saturating_add(1) };
        (self.asize.saturating_sub(1), hash)
    }

    /// The pairs of the hash part whose value is not nil, in the order of their nodes. Reads no more than `*budget` nodes
    /// and lowers it by the number read.
    pub fn pairs(&self, memory: &dyn Memory, budget: &mut u64) -> Vec<(Value, Value)> {
        let mut pairs = Vec::new();
        let count = (u64::from(self.hmask) + 1).min(*budget);
        *budget -= count;
        let mut index = 0;
        while index < count {
            let length = TABLE_CHUNK.min(count - index);
            let address = self.node.wrapping_add(index * NODE_SIZE as u64);
            let Ok(bytes) = memory.bytes(address, length as usize * NODE_SIZE) else { break };
            for node in bytes.chunks_exact(NODE_SIZE) {
                let value = self.model.value(u64_at(node, NODE_VALUE));
                let key = self.model.value(u64_at(node, NODE_KEY));
                // The key of a dead node may be freed; LuaJIT only looks at the value as well.
                if value != Value::Primitive(Tag::Nil) {
                    pairs.push((key, value));
                }
            }
            index += length;
        }
        pairs
    }

    /// The values of the array part, at most `*budget`, which is lowered by their number.
    pub fn values(&self, memory: &dyn Memory, budget: &mut u64) -> Vec<Value> {
        let count = u64::from(self.asize).min(*budget);
        *budget -= count;
        let mut values = Vec::new();
        let mut index = 0;
        while index < count {
            let length = TABLE_CHUNK.min(count - index);
            let Ok(bytes) = memory.bytes(self.array.wrapping_add(index * 8), length as usize * 8) else { break };
            values.extend(bytes.chunks_exact(8).map(|word| self.model.value(u64_at(word, 0))));
            index += length;
        }
        values
    }
}

/// The byte at `offset`, or 0 past the end.
pub(super) fn byte_at(bytes: &[u8], offset: u32) -> u8 {
    bytes.get(offset as usize).copied().unwrap_or(0)
}

/// The 32-bit number at `offset`, or 0 past the end.
pub(super) fn u32_at(bytes: &[u8], offset: u32) -> u32 {
    bytes.get(offset as usize..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The reference at `offset`, or 0 past the end.
pub(super) fn reference_at(model: Model, bytes: &[u8], offset: u32) -> u64 {
    match model {
        Model::Gc64 => u64_at(bytes, offset),
        Model::Gc32 => u32_at(bytes, offset).into(),
    }
}

/// Reads a reference.
pub fn read_reference(memory: &(impl Memory + ?Sized), model: Model, address: u64) -> Result<u64, ReadError> {
    let mut bytes = [0; 8];
    let bytes = &mut bytes[..model.reference_size() as usize];
    memory.read(address, bytes)?;
    Ok(reference_at(model, bytes, 0))
}

/// The 64-bit number at `offset`, or 0 past the end.
pub(super) fn u64_at(bytes: &[u8], offset: u32) -> u64 {
    bytes.get(offset as usize..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
