//! Which programs and libraries contain LuaJIT, as far as their files tell: so that of a host's processes only those are searched
//! that may hold a VM.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use object::LittleEndian;
use object::elf;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use rustc_hash::FxHashMap;

use crate::target::maps::{Backing, Mapping};
use crate::target::process::Process;

/// What every LuaJIT has in its constants: `jit.version` begins with it (`LUAJIT_VERSION`, `luajit.h`).
const MARK: &[u8] = b"LuaJIT 2.";
/// Files that are remembered; more than a host has programs and libraries. When they are more, all are read anew.
const MOST_FILES: usize = 1 << 16;
/// Bytes of a file that are looked at together.
const PIECE: usize = 256 << 10;

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
    let headers = ReadCache::new(file);
    let Ok(header) = elf::FileHeader64::<LittleEndian>::parse(&headers) else { return false };
    let Ok(endian) = header.endian() else { return false };
    let Ok(segments) = header.program_headers(endian, &headers) else { return false };
    let mut constants = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == elf::PT_LOAD && !segment.p_flags(endian).contains(elf::PF_W));
    constants.any(|segment| {
        let (offset, size) = segment.file_range(endian);
        has_mark(file, offset, offset.saturating_add(size))
    })
}

/// Whether the mark is in a part of a file; it may be when that cannot be read. It is read in pieces, not mapped: of a host's programs some
/// are large, and all that is mapped of a file counts as memory of ours.
fn has_mark(file: &File, mut from: u64, to: u64) -> bool {
    let mut piece = vec![0; PIECE];
    // Bytes of the piece before, since the mark may lie across.
    let mut kept = 0_usize;
    while from < to {
        let end = PIECE.min(kept.saturating_add(usize::try_from(to - from).unwrap_or(PIECE)));
        let filled = match file.read_at(&mut piece[kept..end], from) {
            Ok(0) => return false,
            Ok(read) => {
                from += read as u64;
                kept + read
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return true,
        };
        if memmem::find(&piece[..filled], MARK).is_some() {
            return true;
        }
        kept = filled.min(MARK.len() - 1);
        piece.copy_within(filled - kept..filled, 0);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live::live;

    #[test]
    fn the_mark_is_found_wherever_it_lies() {
        let file = tempfile::tempfile().unwrap();
        for at in [0, 100, PIECE - 4, PIECE, 2 * PIECE - MARK.len() + 1, 3 * PIECE - MARK.len()] {
            let mut bytes = vec![b'L'; 3 * PIECE];
            bytes[at..at + MARK.len()].copy_from_slice(MARK);
            file.write_all_at(&bytes, 0).unwrap();
            let (at, end) = (at as u64, (at + MARK.len()) as u64);
            assert!(has_mark(&file, 0, 3 * PIECE as u64) && has_mark(&file, at, end), "{at}");
            assert!(!has_mark(&file, at + 1, u64::MAX) && !has_mark(&file, 0, end - 1), "{at}");
        }
    }

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
