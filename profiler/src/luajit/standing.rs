//! What a VM is and how it stands: its version, whether it compiles, how much it holds.

use super::arch::Tag;
use super::discover::Vm;
use super::memory::Memory;
use super::object::{Table, Text, read_reference};

/// Bit of `global_State.dispatchmode`: the JIT compiler is on (`DISPMODE_JIT`, `lj_dispatch.c`).
const DISPATCH_JIT: u8 = 0x10;
/// Entries of a table that are looked at.
const MAX_ENTRIES: u64 = 1 << 12;
/// Bytes of a version or a name.
const MAX_TEXT: usize = 64;
/// `traceno` has 16 bits.
const MAX_TRACES: u32 = 1 << 16;

/// How a VM stands. What could not be read is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// What it calls itself (`jit.version`): `LuaJIT 2.1.0-beta3`.
    pub version: Option<String>,
    /// The JIT compiler is on.
    pub jit: Option<bool>,
    /// Number of compiled traces.
    pub traces: Option<usize>,
    /// Bytes of its heap (`collectgarbage("count")`, times 1,024).
    pub memory: Option<u64>,
}

impl Vm {
    /// Reads how this VM stands now.
    pub fn standing(&self, memory: &dyn Memory) -> Standing {
        let global = &self.layout.global_state;
        let mode = memory.u8(self.g.wrapping_add(u64::from(global.dispatchmode))).ok();
        // `GCState.total` comes first.
        let total = read_reference(memory, self.layout.model, self.g.wrapping_add(u64::from(global.gc))).ok();
        Standing {
            version: self.version(memory),
            jit: mode.map(|mode| mode & DISPATCH_JIT != 0),
            traces: self.traces(memory),
            memory: total,
        }
    }

    /// What it calls itself, from the library `jit` as it was loaded.
    pub fn version(&self, memory: &dyn Memory) -> Option<String> {
        let loaded = self.field(memory, self.registry(memory).ok()??, "_LOADED")?;
        let jit = self.field(memory, loaded, "jit")?;
        let version = self.value(memory, jit, "version", Tag::String)?;
        let text = Text::read(memory, &self.layout, version, MAX_TEXT).ok().filter(|text| !text.cut)?;
        Some(text.text().into_owned())
    }

    fn traces(&self, memory: &dyn Memory) -> Option<usize> {
        let at = &self.layout.jit_state;
        let size = memory.u32(self.jit_state().wrapping_add(u64::from(at.sizetrace))).ok()?;
        let table = memory.u64(self.jit_state().wrapping_add(u64::from(at.trace))).ok()?;
        let width = self.layout.model.reference_size();
        let slots = memory.bytes(table, (size.min(MAX_TRACES) as u64 * width) as usize).ok()?;
        Some(slots.chunks_exact(width as usize).filter(|slot| slot.iter().any(|byte| *byte != 0)).count())
    }

    /// The table in a field of a table.
    fn field(&self, memory: &dyn Memory, table: u64, name: &str) -> Option<u64> {
        self.value(memory, table, name, Tag::Table)
    }

    /// The object of a type in a field of a table.
    pub(super) fn value(&self, memory: &dyn Memory, table: u64, name: &str, tag: Tag) -> Option<u64> {
        let pairs = Table::read(memory, self.layout.model, table).ok()?.pairs(memory, &mut MAX_ENTRIES.clone());
        let is_name = |key: u64| {
            Text::read(memory, &self.layout, key, MAX_TEXT).is_ok_and(|text| !text.cut && text.bytes == name.as_bytes())
        };
        let mut named = pairs.iter().filter(|(key, _)| key.object(Tag::String).is_some_and(is_name));
        named.find_map(|(_, value)| value.object(tag))
    }
}
