//! Where the running kernel keeps what the probe reads of a task, from the kernel's own type information.
//!
//! The format is the kernel's `Documentation/bpf/btf.rst`. Whole-file readers keep a copy of every type, tens of megabytes
//! for four numbers, so this one only passes over them.

use std::path::Path;

use anyhow::{Context, bail, ensure};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

/// Byte offsets in the kernel's structs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelOffsets {
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.mm`
    pub task_mm: u32,
    /// `task_struct.thread.fsbase`
    pub task_fsbase: u32,
    /// `mm_struct.start_stack`
    pub mm_start_stack: u32,
}

impl KernelOffsets {
    /// Reads them from the running kernel.
    ///
    /// # Errors
    /// When the kernel was built without BTF or its BTF lacks one of the fields.
    pub fn read() -> anyhow::Result<KernelOffsets> {
        let bytes = std::fs::read(Path::new(BTF)).with_context(|| {
            format!("{BTF} could not be read: luaflame needs a kernel built with CONFIG_DEBUG_INFO_BTF")
        })?;
        Self::parse(&bytes).with_context(|| format!("{BTF} could not be understood"))
    }

    /// Reads them from the bytes of a BTF file.
    ///
    /// # Errors
    /// When the bytes are not BTF or lack one of the fields.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<KernelOffsets> {
        let btf = Btf::parse(bytes)?;
        let task = btf.find("task_struct")?;
        let thread = btf.member(task, "thread")?;
        Ok(KernelOffsets {
            task_tgid: btf.member(task, "tgid")?,
            task_mm: btf.member(task, "mm")?,
            task_fsbase: thread + btf.member(btf.find("thread_struct")?, "fsbase")?,
            mm_start_stack: btf.member(btf.find("mm_struct")?, "start_stack")?,
        })
    }

    /// As the probe wants them.
    pub fn wire(&self, kernel_stacks: bool, discover: bool) -> luaflame_ebpf::Kernel {
        luaflame_ebpf::Kernel {
            task_tgid: self.task_tgid,
            task_mm: self.task_mm,
            task_fsbase: self.task_fsbase,
            mm_start_stack: self.mm_start_stack,
            kernel_stacks: kernel_stacks.into(),
            discover: discover.into(),
        }
    }
}

/// The type section and the string section of a BTF file.
struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset in `types` of each type; type 1 is at index 0.
    offsets: Vec<u32>,
}

/// A struct or union: how many members, and the offset of the first in `types`.
#[derive(Clone, Copy)]
struct Struct {
    members: usize,
    at: usize,
    /// Member offsets share their word with a bit field size.
    bit_fields: bool,
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> anyhow::Result<Btf<'a>> {
        ensure!(bytes.get(..2) == Some(&MAGIC.to_ne_bytes()), "it does not begin with the magic number of BTF");
        let header = u32_at(bytes, 4)? as usize;
        let section = |at| -> anyhow::Result<&'a [u8]> {
            let start = header.saturating_add(u32_at(bytes, at)? as usize);
            let end = start.saturating_add(u32_at(bytes, at + 4)? as usize);
            bytes.get(start..end).context("a section lies outside the file")
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut offsets = Vec::new();
        let mut at = 0;
        while at < types.len() {
            offsets.push(at as u32);
            let info = u32_at(types, at + 4)?;
            let members = (info & 0xffff) as usize;
            at += 12
                + match info >> 24 & 0x1f {
                    // PTR FWD TYPEDEF VOLATILE CONST RESTRICT FUNC FLOAT TYPE_TAG
                    2 | 7..=12 | 16 | 18 => 0,
                    // INT VAR DECL_TAG
                    1 | 14 | 17 => 4,
                    // ARRAY; STRUCT UNION DATASEC ENUM64
                    3 => 12,
                    4 | 5 | 15 | 19 => members * 12,
                    // ENUM FUNC_PROTO
                    6 | 13 => members * 8,
                    kind => bail!("type {} has the unknown kind {kind}", offsets.len()),
                };
        }
        Ok(Btf { types, strings, offsets })
    }

    fn name(&self, offset: u32) -> &'a [u8] {
        let name = self.strings.get(offset as usize..).unwrap_or_default();
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn structure(&self, id: u32) -> anyhow::Result<Option<Struct>> {
        let Some(at) = (id as usize).checked_sub(1).and_then(|index| self.offsets.get(index)) else { return Ok(None) };
        let at = *at as usize;
        let info = u32_at(self.types, at + 4)?;
        let is_struct = matches!(info >> 24 & 0x1f, 4 | 5);
        Ok(is_struct.then_some(Struct { members: (info & 0xffff) as usize, at: at + 12, bit_fields: info >> 31 != 0 }))
    }

    fn find(&self, name: &str) -> anyhow::Result<Struct> {
        for id in 1..=self.offsets.len() as u32 {
            let at = self.offsets[id as usize - 1] as usize;
            if self.name(u32_at(self.types, at)?) == name.as_bytes()
                && let Some(found) = self.structure(id)?
            {
                return Ok(found);
            }
        }
        bail!("struct {name} is not in it")
    }

    /// Offset in bytes of a member, also of one inside unnamed structs.
    fn member(&self, of: Struct, name: &str) -> anyhow::Result<u32> {
        self.member_within(of, name, 0)?.with_context(|| format!("the member {name} is not in it"))
    }

    fn member_within(&self, of: Struct, name: &str, depth: u32) -> anyhow::Result<Option<u32>> {
        // The kernel nests unnamed structs a few levels deep; a limit keeps a cyclic file from being followed for ever.
        if depth > 8 {
            return Ok(None);
        }
        for index in 0..of.members {
            let at = of.at + index * 12;
            let member = self.name(u32_at(self.types, at)?);
            let bits = u32_at(self.types, at + 8)? & if of.bit_fields { 0xff_ffff } else { u32::MAX };
            if member == name.as_bytes() {
                return Ok(Some(bits / 8));
            }
            if member.is_empty()
                && let Some(inner) = self.structure(u32_at(self.types, at + 4)?)?
                && let Some(offset) = self.member_within(inner, name, depth + 1)?
            {
                return Ok(Some(bits / 8 + offset));
            }
        }
        Ok(None)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk()).context("it ends too early")?;
    Ok(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_understood() {
        let offsets = KernelOffsets::read().expect("this kernel has BTF");
        // Four different fields of three structs cannot share an offset by chance, and none begins its struct.
        assert!(offsets.task_tgid > 0 && offsets.task_mm > 0 && offsets.task_fsbase > 0 && offsets.mm_start_stack > 0);
        assert!(offsets.task_fsbase.is_multiple_of(8) && offsets.task_mm.is_multiple_of(8));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(KernelOffsets::parse(b"").is_err());
        assert!(KernelOffsets::parse(&[0; 64]).is_err());
        let mut cut = std::fs::read(BTF).expect("this kernel has BTF");
        cut.truncate(cut.len() / 3);
        assert!(KernelOffsets::parse(&cut).is_err());
    }
}
