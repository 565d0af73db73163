//! The function symbols of an image, by address.

use std::cmp::Reverse;
use std::sync::Arc;

use object::elf;
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{LittleEndian, SectionIndex};

use super::image::Bytes;

/// Symbols kept per image: 16 bytes each.
const MAX_SYMBOLS: usize = 1 << 20;

/// Longest symbol name that is read; C++ templates make names of several thousand bytes.
const MAX_NAME: usize = 16 << 10;

/// Symbols that are looked at below an address for one that covers it: functions may lie inside another one's range.
const MAX_NESTING: usize = 16;

/// A function as the symbol table has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Image address of its start.
    pub address: u64,
    /// Its size in bytes. When the table does not say, it is taken to reach to the end of its section at most.
    pub size: u32,
    /// The table says its size.
    pub sized: bool,
    /// Its name as in the table, mangled, without a version (`@GLIBC_2.14`).
    pub name: &'a [u8],
}

/// The function symbols of an image and its debug file. Names stay in the files.
pub(super) struct SymbolTable {
    sources: Vec<Strings>,
    /// By address, no two with the same.
    entries: Box<[Entry]>,
}

/// A string table inside a file.
struct Strings {
    bytes: Arc<Bytes>,
    start: usize,
    end: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    size: u32,
    /// The uppermost bit: [`SIZED`]; then two bits: which of the sources; the others: offset of the name in it.
    name: u32,
}

/// The symbol table says the symbol's size.
const SIZED: u32 = 1 << 31;
const MAX_SOURCES: u32 = 4;
const OFFSET_BITS: u32 = 29;

impl Entry {
    fn is_sized(&self) -> bool {
        self.name & SIZED != 0
    }
}

/// How a symbol is bound and typed, better ones greater.
type Rank = (bool, bool, bool);

impl SymbolTable {
    /// Reads `.symtab` and `.dynsym` of each file.
    pub(super) fn new<'a>(files: impl Iterator<Item = &'a Arc<Bytes>>) -> Self {
        let mut table = Self { sources: Vec::new(), entries: Box::default() };
        let mut found = Vec::new();
        for bytes in files {
            for kind in [elf::SHT_SYMTAB, elf::SHT_DYNSYM] {
                // A file without the table, or with a broken one, has no symbols.
                let _ = table.read(bytes, kind, &mut found);
            }
        }
        found.sort_unstable_by_key(|(entry, _): &(Entry, Rank)| entry.address);
        let mut entries: Vec<Entry> = Vec::new();
        for aliases in found.chunk_by(|(left, _), (right, _)| left.address == right.address) {
            // Of several names for one address the most public and plainest, the same one on every run.
            let best = aliases.iter().min_by_key(|(entry, rank)| {
                let name = table.name(entry);
                let underscores = name.iter().take_while(|byte| **byte == b'_').count();
                (Reverse(*rank), underscores, name.len(), name)
            });
            entries.extend(best.map(|(entry, _)| *entry));
        }
        table.entries = entries.into();
        table
    }

    fn read(
        &mut self,
        bytes: &Arc<Bytes>,
        kind: elf::SectionType,
        found: &mut Vec<(Entry, Rank)>,
    ) -> object::read::Result<()> {
        let data: &[u8] = bytes;
        let header = elf::FileHeader64::<LittleEndian>::parse(data)?;
        let endian = header.endian()?;
        let sections = header.sections(endian, data)?;
        let symbols = sections.symbols(endian, data, kind)?;
        if symbols.is_empty() {
            return Ok(());
        }
        let strings = sections.section(symbols.string_section())?;
        let (offset, size) = strings.file_range(endian).unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
        let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).min(data.len());
        let source = self.sources.len() as u32;
        if source >= MAX_SOURCES {
            return Ok(());
        }
        self.sources.push(Strings { bytes: Arc::clone(bytes), start, end });
        for symbol in symbols.iter() {
            let is_indirect = symbol.st_type() == elf::STT_GNU_IFUNC;
            if found.len() >= MAX_SYMBOLS {
                break;
            }
            if !(symbol.st_type() == elf::STT_FUNC || is_indirect)
                || symbol.st_shndx(endian) == elf::SHN_UNDEF
                || symbol.st_name(endian) == 0
                || symbol.st_name(endian) >= 1 << OFFSET_BITS
            {
                continue;
            }
            let address = symbol.st_value(endian);
            let mut size = symbol.st_size(endian);
            let mut name = source << OFFSET_BITS | symbol.st_name(endian);
            if size > 0 {
                name |= SIZED;
            } else {
                let section = sections.section(SectionIndex(usize::from(symbol.st_shndx(endian).0)));
                let end = section.map_or(0, |section| section.sh_addr(endian).saturating_add(section.sh_size(endian)));
                size = end.saturating_sub(address);
            }
            let entry = Entry { address, size: u32::try_from(size).unwrap_or(u32::MAX), name };
            let binding = symbol.st_bind();
            let rank = (entry.is_sized(), !is_indirect, binding == elf::STB_GLOBAL || binding == elf::STB_WEAK);
            found.push((entry, rank));
        }
        Ok(())
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let Some(source) = self.sources.get(((entry.name & !SIZED) >> OFFSET_BITS) as usize) else { return &[] };
        let offset = (entry.name & ((1 << OFFSET_BITS) - 1)) as usize;
        let rest = source.bytes.get(source.start.saturating_add(offset)..source.end).unwrap_or_default();
        let rest = &rest[..rest.len().min(MAX_NAME)];
        let end = rest.iter().position(|byte| matches!(byte, 0 | b'@')).unwrap_or(rest.len());
        &rest[..end]
    }

    /// The symbol that covers an image address. One without a size is taken to reach to the next symbol, or to the end of
    /// its section.
    pub(super) fn lookup(&self, address: u64) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        for (distance, entry) in self.entries[..after].iter().rev().take(MAX_NESTING).enumerate() {
            let reaches = address - entry.address < u64::from(entry.size);
            let covers = reaches && (entry.is_sized() || distance == 0);
            if covers {
                let name = self.name(entry);
                return (!name.is_empty()).then_some(Symbol {
                    address: entry.address,
                    size: entry.size,
                    sized: entry.is_sized(),
                    name,
                });
            }
        }
        None
    }
}
