//! ELF images: programs and libraries, each parsed once however many processes map it.

use std::fs::File;
use std::ops::{Deref, Range};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use gimli::UnwindContext;
use memmap2::Mmap;
use object::LittleEndian;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use rustc_hash::FxHashMap;

use super::cfi::{CallFrames, FrameRule, Rule, Span};
pub use super::debug::NoLines;
use super::debug::{Budget, DebugFile, DebugInfo};
use super::stubs;
use super::symbol_table::{Symbol, SymbolTable};
use crate::target::maps::Mapping;
use crate::target::process::Process;

/// Files whose ids are remembered; when they are more, those that no process uses are forgotten.
const MAX_FILES: usize = 1024;
/// Unwind rules remembered per image; enough for the hot code of a large program. When it is full it starts afresh.
const MAX_RULES: usize = 8192;

/// Program headers that are looked at; real images have about a dozen.
const MAX_SEGMENTS: usize = 256;

/// A file, or bytes that have none.
pub(super) enum Bytes {
    Mapped(Mmap),
    Owned(Box<[u8]>),
}

impl Bytes {
    pub(super) fn map(file: &File) -> std::io::Result<Self> {
        // SAFETY: the mapping is private and only read. Whoever may write to the file can change the bytes while we
        // look at them: all parsing checks bounds on every access and takes no decision about memory safety from the
        // contents. Cutting the file short while it is mapped would end us with SIGBUS, as it would end the target,
        // which maps the same file; package managers replace files and do not cut them.
        Ok(Self::Mapped(unsafe { Mmap::map(file)? }))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// Why a mapped file is not an image that we can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file cannot be mapped.
    #[error("The file cannot be read: {0}.")]
    Unreadable(String),
    /// Not a 64-bit little-endian ELF file, or a broken one.
    #[error("The file is not a 64-bit little-endian ELF image: {0}.")]
    NotElf(String),
}

/// One `PT_LOAD` program header.
#[derive(Debug, Clone, Copy)]
struct Segment {
    address: u64,
    offset: u64,
    file_size: u64,
    executable: bool,
}

/// A program or library: its segments, unwind information, symbols and lines, read when they are first needed and shared
/// by all processes that map the file.
pub struct Image {
    id: u32,
    bytes: Arc<Bytes>,
    segments: Box<[Segment]>,
    build_id: Option<Box<[u8]>>,
    frames: Option<CallFrames>,
    stubs: Box<[Span]>,
    rules: Mutex<FxHashMap<u64, Rule>>,
    debug_file: OnceLock<Option<DebugFile>>,
    symbols: OnceLock<SymbolTable>,
    info: OnceLock<Result<Mutex<DebugInfo>, NoLines>>,
    budget: Arc<Budget>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Image").field("id", &self.id).field("build_id", &self.build_id).finish_non_exhaustive()
    }
}

impl Image {
    /// Reads the headers of an image.
    fn parse(bytes: Bytes, budget: Arc<Budget>) -> Result<Self, ImageError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let broken = |error: object::read::Error| ImageError::NotElf(error.to_string());
        let data: &[u8] = &bytes;
        let header = elf::FileHeader64::<LittleEndian>::parse(data).map_err(broken)?;
        let endian = header.endian().map_err(broken)?;
        let headers = header.program_headers(endian, data).map_err(broken)?;
        let mut segments = Vec::new();
        let mut build_id = None;
        let mut frame_header = None;
        for header in headers.iter().take(MAX_SEGMENTS) {
            match header.p_type(endian) {
                elf::PT_LOAD => segments.push(Segment {
                    address: header.p_vaddr(endian),
                    offset: header.p_offset(endian),
                    file_size: header.p_filesz(endian),
                    executable: header.p_flags(endian).contains(elf::PF_X),
                }),
                elf::PT_NOTE if build_id.is_none() => build_id = note_build_id(header, endian, data),
                elf::PT_GNU_EH_FRAME => {
                    frame_header = Span::new(header.p_vaddr(endian), header.file_range(endian), data.len());
                }
                _ => {}
            }
        }
        // A stripped section table takes only what cannot be found through the segments.
        let sections = header.sections(endian, data).ok();
        let section = |name: &[u8]| {
            let (_, section) = sections.as_ref()?.section_by_name(endian, name)?;
            Span::new(section.sh_addr(endian), section.file_range(endian)?, data.len())
        };
        let stubs = [&b".plt"[..], b".plt.sec", b".plt.got", b".iplt"].into_iter().filter_map(section).collect();
        let frames = CallFrames::new(
            data,
            section(b".eh_frame"),
            frame_header.or_else(|| section(b".eh_frame_hdr")),
            section(b".text").map_or(0, |span| span.address),
            section(b".got").map_or(0, |span| span.address),
            |address| {
                let segment = segments.iter().find(|segment| {
                    address.checked_sub(segment.address).is_some_and(|offset| offset < segment.file_size)
                })?;
                let skip = address - segment.address;
                Span::new(address, (segment.offset.checked_add(skip)?, segment.file_size - skip), data.len())
            },
        );
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            segments: segments.into(),
            build_id,
            frames,
            stubs,
            bytes: Arc::new(bytes),
            rules: Mutex::default(),
            debug_file: OnceLock::new(),
            symbols: OnceLock::new(),
            info: OnceLock::new(),
            budget,
        })
    }

    /// A number that no other image of this run of the profiler has.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The contents of its GNU build-id note: equal for an image and its debug file, and for no two different builds.
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The bias of the image when the part of it that begins at file offset `offset` is mapped at runtime address
    /// `address`: runtime address = image address + bias, both wrapping. `None` when no segment holds that part.
    pub fn bias(&self, address: u64, offset: u64, executable: bool) -> Option<u64> {
        // A mapping begins at the page that the segment begins in.
        const PAGE: u64 = 4096;
        let holds = |segment: &&Segment| {
            segment.offset & !(PAGE - 1) <= offset && offset < segment.offset.saturating_add(segment.file_size)
        };
        // Two segments may share one page of the file; then the mapping's rights tell which one it is.
        let segment = self
            .segments
            .iter()
            .filter(holds)
            .find(|segment| segment.executable == executable)
            .or_else(|| self.segments.iter().find(holds))?;
        let image_address = segment.address.wrapping_add(offset.wrapping_sub(segment.offset));
        Some(address.wrapping_sub(image_address))
    }

    /// The addresses, as image addresses, of the entry of `.eh_frame` (the FDE) that covers an image address: those of a
    /// function, of the part of one that the compiler split off, or of a piece of assembly.
    pub fn fde_range(&self, address: u64) -> Option<Range<u64>> {
        self.frames.as_ref()?.range(&self.bytes, address)
    }

    /// The rule that leads from a frame at an image address to its caller.
    pub(super) fn rule(&self, address: u64, context: &mut UnwindContext<usize>) -> Rule {
        let mut rules = lock(&self.rules);
        if let Some(rule) = rules.get(&address) {
            return *rule;
        }
        let rule = self.frames.as_ref().map_or(Rule::Missing, |frames| frames.rule(&self.bytes, address, context));
        let rule = match rule {
            Rule::Missing if stubs::is_untouched(&self.bytes, &self.stubs, address) => {
                Rule::Frame(FrameRule::UNTOUCHED)
            }
            rule => rule,
        };
        if rules.len() >= MAX_RULES {
            rules.clear();
        }
        rules.insert(address, rule);
        rule
    }

    /// Its unwind information, to evaluate what a [`Rule`] cannot hold.
    pub(super) fn frames(&self) -> Option<(&CallFrames, &[u8])> {
        Some((self.frames.as_ref()?, &self.bytes))
    }

    /// The function symbol that covers an image address. `process` and `path` (as the process sees it) say where a
    /// separate debug file is looked for, at the first call.
    pub fn symbol(&self, address: u64, process: &Process, path: Option<&Path>) -> Option<Symbol<'_>> {
        let table = self.symbols.get_or_init(|| {
            let debug_file = self.debug_file(process, path).map(DebugFile::bytes);
            SymbolTable::new([Some(&self.bytes), debug_file].into_iter().flatten())
        });
        let symbol = table.lookup(address)?;
        // A symbol without a size ends at the next one at the latest, and where its unwind entry ends if there is one.
        if !symbol.sized && self.fde_range(address).is_some_and(|range| range.start > symbol.address) {
            return None;
        }
        Some(symbol)
    }

    /// The image address of a variable of `size` bytes that it exports under this name.
    pub fn exported_variable(&self, name: &[u8], size: u64) -> Option<u64> {
        let data: &[u8] = &self.bytes;
        let header = elf::FileHeader64::<LittleEndian>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let symbols = header.sections(endian, data).ok()?.symbols(endian, data, elf::SHT_DYNSYM).ok()?;
        let wanted = symbols.iter().find(|symbol| {
            symbol.st_type() == elf::STT_OBJECT
                && symbol.st_shndx(endian) != elf::SHN_UNDEF
                && symbol.st_size(endian) == size
                && symbols.symbol_name(endian, symbol).is_ok_and(|found| found == name)
        })?;
        Some(wanted.st_value(endian))
    }

    /// Which of its functions have names. `process` and `path` are as for [`symbol`](Image::symbol).
    pub fn named(&self, process: &Process, path: Option<&Path>) -> Named {
        let debug_file = self.debug_file(process, path).map(DebugFile::bytes);
        if has_section(&self.bytes, elf::SHT_SYMTAB)
            || debug_file.is_some_and(|file| has_section(file, elf::SHT_SYMTAB))
        {
            Named::Every
        } else if has_section(&self.bytes, elf::SHT_DYNSYM) {
            Named::Exported
        } else {
            Named::None
        }
    }

    /// Why source lines and inlined functions are not known in this image, as far as that has turned out.
    pub fn no_lines(&self) -> Option<NoLines> {
        self.info.get()?.as_ref().err().copied()
    }

    /// The DWARF functions and lines of the image or of its debug file.
    pub(super) fn info(&self, process: &Process, path: Option<&Path>) -> Option<MutexGuard<'_, DebugInfo>> {
        let info = self.info.get_or_init(|| {
            let info = match DebugInfo::read(&self.bytes, &self.budget) {
                Err(NoLines::Absent) => {
                    let file = self.debug_file(process, path).ok_or(NoLines::Absent)?;
                    DebugInfo::read(file.bytes(), &self.budget)
                }
                info => info,
            };
            if let Err(reason) = &info {
                log::debug!("lines and inlined functions of {} are not known: {reason}", shown(path));
            }
            info.map(Mutex::new)
        });
        info.as_ref().ok().map(lock)
    }

    fn debug_file(&self, process: &Process, path: Option<&Path>) -> Option<&DebugFile> {
        let find = || {
            let Some(id) = self.build_id() else {
                log::debug!("{} has only its own symbols: no build-id tells which others are of it", shown(path));
                return None;
            };
            DebugFile::find(&self.bytes, id, process, path)
        };
        self.debug_file.get_or_init(find).as_ref()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard are caches: they are consistent after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which functions of an image have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// All, by a whole symbol table (`.symtab`) in it or in its debug file.
    Every,
    /// Those that it exports or imports only (`.dynsym`): it is stripped.
    Exported,
    /// None.
    None,
}

fn has_section(data: &[u8], kind: elf::SectionType) -> bool {
    let found = || {
        let header = elf::FileHeader64::<LittleEndian>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, data).ok()?;
        Some(sections.iter().any(|section| section.sh_type(endian) == kind))
    };
    found().unwrap_or(false)
}

/// The path of an image, in messages.
pub(super) fn shown(path: Option<&Path>) -> std::path::Display<'_> {
    path.unwrap_or(Path::new("a file without a path")).display()
}

/// The build-id in a `PT_NOTE` segment.
fn note_build_id(header: &elf::ProgramHeader64<LittleEndian>, endian: LittleEndian, data: &[u8]) -> Option<Box<[u8]>> {
    let mut notes = header.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return Some(note.desc().into());
        }
    }
    None
}

/// The build-id of an ELF file.
pub(super) fn build_id(data: &[u8]) -> Option<Box<[u8]>> {
    let header = elf::FileHeader64::<LittleEndian>::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    sections.iter().take(1024).find_map(|section| {
        let mut notes = section.notes(endian, data).ok()??;
        while let Ok(Some(note)) = notes.next() {
            if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
                return Some(note.desc().into());
            }
        }
        None
    })
}

/// What makes two open files the same image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// The images in use, each once. An image is dropped with the last module that maps it.
#[derive(Debug, Default)]
pub struct Images {
    budget: Arc<Budget>,
    /// Also those of late, with their ids: one that is used again by another process has the same id again.
    files: Mutex<FxHashMap<Key, (u32, Weak<Image>)>>,
    vdso: Mutex<Option<Weak<Image>>>,
}

impl Images {
    /// The image in `file`, parsed now or earlier.
    ///
    /// # Errors
    /// When it is not a 64-bit little-endian ELF file.
    pub fn open(&self, file: &File) -> Result<Arc<Image>, ImageError> {
        let metadata = file.metadata().map_err(|error| ImageError::Unreadable(error.to_string()))?;
        let key = Key {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        let mut files = lock(&self.files);
        let known = files.get(&key);
        if let Some(image) = known.and_then(|(_, image)| image.upgrade()) {
            return Ok(image);
        }
        let mut image = Image::parse(
            Bytes::map(file).map_err(|error| ImageError::Unreadable(error.to_string()))?,
            Arc::clone(&self.budget),
        )?;
        if let Some((id, _)) = known {
            image.id = *id;
        }
        let image = Arc::new(image);
        if files.len() >= MAX_FILES {
            files.retain(|_, (_, image)| image.strong_count() > 0);
        }
        files.insert(key, (image.id, Arc::downgrade(&image)));
        Ok(image)
    }

    /// The vDSO with these bytes. All processes have the same one.
    ///
    /// # Errors
    /// When it is not a 64-bit little-endian ELF file.
    pub fn vdso(&self, bytes: Vec<u8>) -> Result<Arc<Image>, ImageError> {
        let mut vdso = lock(&self.vdso);
        if let Some(image) = vdso.as_ref().and_then(Weak::upgrade)
            && **image.bytes == *bytes
        {
            return Ok(image);
        }
        let image = Arc::new(Image::parse(Bytes::Owned(bytes.into_boxed_slice()), Arc::clone(&self.budget))?);
        *vdso = Some(Arc::downgrade(&image));
        Ok(image)
    }
}

/// The bias of an image at a mapping of it.
pub(super) fn bias_at(image: &Image, mapping: &Mapping) -> Option<u64> {
    image.bias(mapping.range.start, mapping.offset, mapping.executable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live::live;

    fn from_bytes(bytes: Vec<u8>) -> Result<Image, ImageError> {
        Image::parse(Bytes::Owned(bytes.into_boxed_slice()), Arc::default())
    }

    #[test]
    fn an_image_is_parsed_once() {
        let images = Images::default();
        let first = images.open(&File::open("/bin/sleep").unwrap()).unwrap();
        let second = images.open(&File::open("/bin/sleep").unwrap()).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        let copy = tempfile::tempfile().unwrap();
        std::io::copy(&mut File::open("/bin/sleep").unwrap(), &mut &copy).unwrap();
        let third = images.open(&copy).unwrap();
        assert!(!Arc::ptr_eq(&first, &third));
        assert_eq!(first.build_id(), third.build_id());
        assert!(first.build_id().is_some_and(|id| id.len() == 20));
        let id = first.id();
        drop((first, second));
        let again = images.open(&File::open("/bin/sleep").unwrap()).unwrap();
        assert_eq!(again.id(), id, "what is remembered of its places holds again");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for bytes in [&b""[..], b"\x7fELF", &[0; 4096], b"#!/bin/sh\n"] {
            assert!(matches!(from_bytes(bytes.to_vec()), Err(ImageError::NotElf(_))));
        }
        let mut narrow = std::fs::read("/bin/sleep").unwrap();
        narrow[4] = 1; // EI_CLASS: 32-bit
        assert!(matches!(from_bytes(narrow), Err(ImageError::NotElf(_))));
    }

    /// Every single-byte change of the headers and every cut must be survived; what is answered does not matter.
    #[test]
    fn broken_images_do_no_harm() {
        let good = std::fs::read("/bin/sleep").unwrap();
        let process = Process::open(&live(), std::process::id()).unwrap();
        let probe = |bytes: Vec<u8>| {
            let Ok(image) = from_bytes(bytes) else { return };
            let mut context = UnwindContext::new();
            for address in [0, 0x2000, 0x3000, 0x4000, u64::MAX] {
                image.bias(0x1000, address, true);
                image.fde_range(address);
                image.rule(address, &mut context);
                image.symbol(address, &process, None);
                image.info(&process, None);
            }
        };
        // The ELF header and the program headers.
        for at in 0..800 {
            for value in [0, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                probe(bytes);
            }
        }
        for end in (0..good.len()).step_by(4001) {
            probe(good[..end].to_vec());
        }
    }
}
