//! Which programs and libraries contain LuaJIT, as far as their files tell: so that of a host's processes only those are searched
//! that may hold a VM.

use std::fs::File;

use memchr::memmem;
use memmap2::Mmap;
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use rustc_hash::FxHashMap;

use crate::target::maps::{Backing, Mapping};
use crate::target::process::Process;

/// What every LuaJIT has in its constants: `jit.version` begins with it (`LUAJIT_VERSION`, `luajit.h`).
const MARK: &[u8] = b"LuaJIT 2.";
/// Files that are remembered; more than a host has programs and libraries. When they are more, all are read anew.
const MOST_FILES: usize = 1 << 16;

/// A file as the kernel names it in a mapping: its device and its inode.
type FileId = ((u32, u32), u64);

/// What is known of files.
#[derive(Debug, Default)]
pub struct Files {
    known: FxHashMap<FileId, bool>,
}

impl Files {
    /// Whether a program or library that a process with these mappings runs contains LuaJIT. One that cannot be read may.
    pub fn may_hold_luajit(&mut self, process: &Process, mappings: &[Mapping]) -> bool {
        let mut before = None;
        mappings.iter().filter(|mapping| mapping.executable).any(|mapping| {
            let Backing::File { .. } = mapping.backing else { return false };
            let id = (mapping.device, mapping.inode);
            if before.replace(id) == Some(id) {
                return false;
            }
            if let Some(known) = self.known.get(&id) {
                return *known;
            }
            let Ok(mapped) = process.mapped_file(mapping) else { return true };
            let found = contains_luajit(&mapped.file);
            if self.known.len() >= MOST_FILES {
                self.known.clear();
            }
            self.known.insert(id, found);
            found
        })
    }

    /// Forgets all files: one may have been written anew at the same place.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

/// Whether the constants of an ELF file name LuaJIT. Only what is loaded and not written to is read: not the debugging information.
fn contains_luajit(file: &File) -> bool {
    // SAFETY: the mapping is private and only read, and nothing but the result depends on its contents. Whoever cuts the file short
    // while it is mapped ends the processes that run it, too (as in `native::image`).
    let Ok(bytes) = (unsafe { Mmap::map(file) }) else { return true };
    let data: &[u8] = &bytes;
    let Ok(header) = elf::FileHeader64::<LittleEndian>::parse(data) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(headers) = header.program_headers(endian, data) else { return false };
    let constants = headers
        .iter()
        .filter(|header| header.p_type(endian) == elf::PT_LOAD && !header.p_flags(endian).contains(elf::PF_W));
    constants.filter_map(|header| header.data(endian, data).ok()).any(|bytes| memmem::find(bytes, MARK).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live::live;

    #[test]
    fn this_program_names_luajit_and_the_c_library_does_not() {
        let process = Process::open(&live(), std::process::id()).unwrap();
        let mappings = process.maps().unwrap();
        let is_c_library =
            |mapping: &Mapping| matches!(&mapping.backing, Backing::File { path, .. } if path.ends_with(b"/libc.so.6"));
        let (others, own): (Vec<Mapping>, Vec<Mapping>) = mappings.into_iter().partition(is_c_library);
        let mut files = Files::default();
        assert!(files.may_hold_luajit(&process, &own), "the tests have the mark in their own constants");
        assert!(!files.may_hold_luajit(&process, &others));
        assert!(files.known.len() >= 2, "both were read");
        files.forget();
        assert!(files.known.is_empty());
    }
}
