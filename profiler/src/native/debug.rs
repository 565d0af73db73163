//! DWARF: the functions that were inlined at an address, and the source line, from the image or its debug file.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gimli::{DwarfSections, EndianSlice, LittleEndian, SectionId};
use object::read::elf::ElfFile64;
use object::{CompressionFormat, Object, ObjectSection};
use self_cell::self_cell;

use super::image::{Bytes, build_id, shown};
use crate::target::process::Process;

/// What the DWARF of all images together may take of our memory, in bytes, as far as it can be foreseen.
const MAX_MEMORY: u64 = 16 << 20;

/// Parsed abbreviations take about ten times the size of `.debug_abbrev`: 9 MB for the 1 MB of the C library.
const ABBREVIATIONS_GROWTH: u64 = 10;

/// The functions and lines that are kept of the units that get asked for take, at a guess, half the size of `.debug_info`.
const UNITS_SHARE: u64 = 2;

/// Why source lines and inlined functions are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoLines {
    /// Neither the image nor a debug file has DWARF, or it is broken.
    #[error("There is no debug information for it.")]
    Absent,
    /// The debug information would take too much of our memory.
    #[error("Its debug information would take about {bytes} bytes of memory, more than is left for that.")]
    TooLarge {
        /// The memory that it would take.
        bytes: u64,
    },
}

/// The memory that is left for DWARF.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU64::new(MAX_MEMORY))
    }
}

/// A part of the budget, given back when it is dropped.
struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reserved {
    fn take(budget: &Arc<Budget>, bytes: u64) -> Result<Self, NoLines> {
        budget
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .map(|_| Self { budget: Arc::clone(budget), bytes })
            .map_err(|_| NoLines::TooLarge { bytes })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// A separate file with the symbols and DWARF of an image, which has the image's build-id.
pub(super) struct DebugFile(Arc<Bytes>);

impl DebugFile {
    /// Looks where debuggers look, inside the root of the process: by build-id, and by the name in `.gnu_debuglink` next
    /// to the image and under `/usr/lib/debug`. Only a file with the same build-id is taken.
    pub(super) fn find(image: &Bytes, id: &[u8], process: &Process, path: Option<&Path>) -> Option<Self> {
        let (first, rest) = id.split_first()?;
        let hex: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut candidates = vec![PathBuf::from(format!("/usr/lib/debug/.build-id/{first:02x}/{hex}.debug"))];
        if let Some(directory) = path.and_then(Path::parent)
            && let Some(link) = debug_link(image)
        {
            candidates.push(directory.join(&link));
            candidates.push(directory.join(".debug").join(&link));
            if let Ok(inside) = directory.strip_prefix("/") {
                candidates.push(Path::new("/usr/lib/debug").join(inside).join(&link));
            }
        }
        let name = shown(path);
        for candidate in &candidates {
            let place = candidate.display();
            // Most are not there.
            let Ok(file) = process.file_in_root(candidate) else { continue };
            match Bytes::map(&file) {
                Ok(bytes) if build_id(&bytes).as_deref() == Some(id) => {
                    log::debug!("the symbols of {name} are in {place}");
                    return Some(Self(Arc::new(bytes)));
                }
                Ok(_) => log::debug!("{place} is not of {name}: its build-id is another one"),
                Err(error) => log::debug!("{place}, perhaps with the symbols of {name}, cannot be read: {error}"),
            }
        }
        let places: Vec<String> = candidates.iter().map(|candidate| candidate.display().to_string()).collect();
        log::debug!("{name} has only its own symbols: they are not in {}", places.join(", "));
        None
    }

    pub(super) fn bytes(&self) -> &Arc<Bytes> {
        &self.0
    }
}

/// The file name in `.gnu_debuglink`, when it is nothing but a file name.
fn debug_link(image: &[u8]) -> Option<String> {
    let file = ElfFile64::<object::LittleEndian>::parse(image).ok()?;
    let (name, _checksum) = file.gnu_debuglink().ok()??;
    let name = std::str::from_utf8(name).ok()?;
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Context<'a> = addr2line::Context<Slice<'a>>;

/// A DWARF section: in the file, or decompressed.
enum Section {
    InFile(Range<usize>),
    Decompressed(Vec<u8>),
}

struct Sections {
    bytes: Arc<Bytes>,
    sections: DwarfSections<Section>,
    _reserved: Reserved,
}

impl Sections {
    fn load(bytes: &Arc<Bytes>, budget: &Arc<Budget>) -> Result<Self, NoLines> {
        let data: &[u8] = bytes;
        let file = ElfFile64::<object::LittleEndian>::parse(data).map_err(|_| NoLines::Absent)?;
        // A stripped file has no such section; one that was split off its debug information may keep it without contents.
        file.section_by_name(SectionId::DebugInfo.name())
            .filter(|section| section.file_range().is_some_and(|(_, size)| size > 0))
            .ok_or(NoLines::Absent)?;
        let reserved = Reserved::take(budget, memory(&file))?;
        let sections = DwarfSections::load(|id| load(&file, data.len(), id).ok_or(NoLines::Absent))?;
        Ok(Self { bytes: Arc::clone(bytes), sections, _reserved: reserved })
    }

    fn borrow(&self) -> gimli::Dwarf<Slice<'_>> {
        self.sections.borrow(|section| {
            let bytes = match section {
                Section::InFile(range) => self.bytes.get(range.clone()).unwrap_or_default(),
                Section::Decompressed(bytes) => bytes,
            };
            EndianSlice::new(bytes, LittleEndian)
        })
    }
}

/// Whether functions and lines are found with the help of this section.
fn is_used(id: SectionId) -> bool {
    !matches!(
        id,
        SectionId::DebugLoc
            | SectionId::DebugLocLists
            | SectionId::DebugMacinfo
            | SectionId::DebugMacro
            | SectionId::DebugNames
            | SectionId::DebugTypes
    )
}

/// The memory that the DWARF of a file will take, roughly.
fn memory(file: &ElfFile64<'_, object::LittleEndian>) -> u64 {
    let mut memory = 0_u64;
    let _ = DwarfSections::load(|id| {
        let section = file.section_by_name(id.name()).filter(|_| is_used(id));
        if let Some(range) = section.and_then(|section| section.compressed_file_range().ok()) {
            let size = range.uncompressed_size;
            if range.format != CompressionFormat::None {
                memory = memory.saturating_add(size);
            }
            memory = memory.saturating_add(match id {
                SectionId::DebugAbbrev => size.saturating_mul(ABBREVIATIONS_GROWTH),
                SectionId::DebugInfo => size / UNITS_SHARE,
                _ => 0,
            });
        }
        Ok::<(), ()>(())
    });
    memory
}

/// One section; empty when the file has none or it is not used. `None`: it cannot be read.
fn load(file: &ElfFile64<'_, object::LittleEndian>, size: usize, id: SectionId) -> Option<Section> {
    let Some(section) = file.section_by_name(id.name()).filter(|_| is_used(id)) else {
        return Some(Section::InFile(0..0));
    };
    let range = section.compressed_file_range().ok()?;
    if range.format == CompressionFormat::None {
        let start = usize::try_from(range.offset).ok()?;
        let end = start.checked_add(usize::try_from(range.uncompressed_size).ok()?)?;
        return (end <= size).then_some(Section::InFile(start..end));
    }
    // Its size is part of what was reserved.
    Some(Section::Decompressed(section.compressed_data().ok()?.decompress().ok()?.into_owned()))
}

self_cell!(
    /// The DWARF of an image, parsed unit by unit as addresses ask for it.
    pub(super) struct DebugInfo {
        owner: Sections,
        #[not_covariant]
        dependent: Context,
    }
);

/// A function at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name, demangled, when the DWARF has one.
    pub(super) name: Option<String>,
    /// Source file, as the compiler was given it, and line; 0 is unknown.
    pub(super) place: Option<(String, u32)>,
}

impl DebugInfo {
    /// The DWARF in a file, when it has any that can be read.
    ///
    /// # Errors
    /// When it has none, or too much.
    pub(super) fn read(bytes: &Arc<Bytes>, budget: &Arc<Budget>) -> Result<Self, NoLines> {
        let sections = Sections::load(bytes, budget)?;
        Self::try_new(sections, |sections| Context::from_dwarf(sections.borrow())).map_err(|_| NoLines::Absent)
    }

    /// The functions at an image address: those that were inlined first, innermost first, then the one they are in.
    pub(super) fn functions(&self, address: u64) -> Vec<Function> {
        self.with_dependent(|_, context| {
            let mut functions = Vec::new();
            let Ok(mut frames) = context.find_frames(address).skip_all_loads() else { return functions };
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|function| Some(function.demangle().ok()?.into_owned()));
                let place = frame
                    .location
                    .and_then(|location| Some((location.file?.to_owned(), location.line.unwrap_or_default())));
                functions.push(Function { name, place });
            }
            functions
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back() {
        let budget = Arc::new(Budget::default());
        let first = Reserved::take(&budget, MAX_MEMORY - 10).unwrap();
        assert_eq!(Reserved::take(&budget, 11).err(), Some(NoLines::TooLarge { bytes: 11 }));
        let second = Reserved::take(&budget, 10).unwrap();
        drop((first, second));
        assert!(Reserved::take(&budget, MAX_MEMORY).is_ok());
    }
}
