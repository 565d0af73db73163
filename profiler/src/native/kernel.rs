//! Names of kernel functions, from `/proc/kallsyms`.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::sync::Arc;

use crate::target::world::World;

/// Symbols that are read; a kernel with many modules has about 300,000.
const MAX_SYMBOLS: usize = 1 << 21;

/// Names longer than this are cut; the kernel's own limit is 512.
const MAX_NAME: usize = 512;

/// No function of the kernel is larger than this: further beyond the last known start nothing is known.
const MAX_FUNCTION: u64 = 1 << 20;

/// Why there are no names of kernel functions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKernelSymbols {
    /// The kernel shows zeros in place of addresses.
    #[error(
        "The kernel hides the addresses of its functions (kernel.kptr_restrict = {kptr_restrict}): run as root, or with \
         CAP_SYSLOG and kernel.kptr_restrict = 0 or 1."
    )]
    Hidden {
        /// The setting, or `unknown`.
        kptr_restrict: String,
    },
    /// The file cannot be read.
    #[error("/proc/kallsyms cannot be read: {0}.")]
    Unreadable(String),
    /// The kernel lists no functions.
    #[error("/proc/kallsyms lists no functions: the kernel is built without CONFIG_KALLSYMS.")]
    Empty,
}

/// A function of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSymbol<'a> {
    /// Its name.
    pub name: &'a str,
    /// The loadable module that it is in; `bpf` for a BPF program; `None` for the kernel itself.
    pub module: Option<&'a str>,
}

/// The functions of the kernel, by address. About 40 bytes each, names included.
#[derive(Debug)]
struct Table {
    entries: Box<[Entry]>,
    /// The names, one after the other.
    names: Box<str>,
    modules: Box<[Box<str>]>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    address: u64,
    /// Where its name begins.
    name: u32,
    /// Length of its name; 0 marks the start of something that is not a function.
    length: u16,
    /// Index of its module plus one; 0 for the kernel itself.
    module: u16,
}

/// The names of kernel functions, read when [`KernelSymbols::prepare`] says so, or else when the first one is asked for.
#[derive(Debug)]
pub struct KernelSymbols {
    world: Arc<dyn World>,
    table: Option<Result<Table, NoKernelSymbols>>,
}

impl KernelSymbols {
    /// Those of the kernel of a world, not read yet.
    pub fn of(world: Arc<dyn World>) -> KernelSymbols {
        KernelSymbols { world, table: None }
    }

    /// The function at a kernel address; `Ok(None)` when none is there. Functions that were loaded after the first call
    /// are not known.
    ///
    /// # Errors
    /// Why no function is known at all.
    pub fn lookup(&mut self, address: u64) -> Result<Option<KernelSymbol<'_>>, &NoKernelSymbols> {
        self.load().as_ref().map(|table| table.lookup(address))
    }

    fn load(&mut self) -> &Result<Table, NoKernelSymbols> {
        self.table.get_or_insert_with(|| {
            let text = self.world.kernel_symbols().map_err(|error| NoKernelSymbols::Unreadable(error.to_string()));
            let table = text.and_then(Table::read);
            match &table {
                Ok(table) => log::debug!("the kernel has {} symbols", table.entries.len()),
                Err(reason) => log::debug!("names of kernel functions are not known: {reason}"),
            }
            table
        })
    }

    /// Reads the names now instead of at the first lookup: some 50 ms that should not pass while others are measured.
    pub fn prepare(&mut self) {
        self.load();
    }
}

/// The part of a text like `/proc/kallsyms` that is needed to find the functions at these addresses.
///
/// # Errors
/// When the text cannot be read.
pub fn excerpt(text: impl BufRead, addresses: &BTreeSet<u64>) -> std::io::Result<String> {
    let table = match Table::read(text) {
        Ok(table) => table,
        Err(NoKernelSymbols::Hidden { .. }) => return Ok("0000000000000000 t hidden\n".to_owned()),
        Err(NoKernelSymbols::Empty) => return Ok(String::new()),
        Err(NoKernelSymbols::Unreadable(error)) => return Err(std::io::Error::other(error)),
    };
    let mut needed = BTreeSet::new();
    for address in addresses {
        let after = table.entries.partition_point(|entry| entry.address <= *address);
        // The next one says where it ends.
        needed.extend(after.checked_sub(1).into_iter().chain([after]));
    }
    let mut lines = String::new();
    for entry in needed.into_iter().filter_map(|index| table.entries.get(index)) {
        let address = entry.address;
        match table.symbol(entry) {
            Some(KernelSymbol { name, module: Some(module) }) => {
                lines += &format!("{address:016x} t {name}\t[{module}]\n")
            }
            Some(KernelSymbol { name, module: None }) => lines += &format!("{address:016x} t {name}\n"),
            None => lines += &format!("{address:016x} d -\n"),
        }
    }
    Ok(lines)
}

impl Table {
    /// Reads lines such as `ffffffff81000080 T entry_SYSCALL_64` or `ffffffffc0a00000 t nf_hook [nf_tables]`.
    fn read(mut input: impl BufRead) -> Result<Self, NoKernelSymbols> {
        let unreadable = |error: std::io::Error| NoKernelSymbols::Unreadable(error.to_string());
        let mut entries = Vec::new();
        let mut names = String::new();
        let mut modules: Vec<Box<str>> = Vec::new();
        let mut hidden = false;
        let mut line = String::new();
        while entries.len() < MAX_SYMBOLS {
            line.clear();
            if input.read_line(&mut line).map_err(unreadable)? == 0 {
                break;
            }
            let mut fields = line.split_ascii_whitespace();
            let (Some(address), Some(kind), Some(name)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            if address == 0 {
                hidden = true;
                continue;
            }
            // `__pfx_f` is the padding before `f`, in which nothing runs.
            let is_function = matches!(kind, "t" | "T" | "w" | "W") && !name.starts_with("__pfx_");
            let mut entry = Entry { address, name: 0, length: 0, module: 0 };
            if is_function {
                let name = &name[..name.floor_char_boundary(MAX_NAME)];
                let Ok(start) = u32::try_from(names.len()) else { break };
                entry.name = start;
                entry.length = name.len() as u16;
                names.push_str(name);
                if let Some(module) = fields.next().and_then(|name| name.strip_prefix('[')?.strip_suffix(']')) {
                    // The symbols of a module follow each other.
                    let known = modules.iter().rposition(|known| **known == *module).unwrap_or_else(|| {
                        modules.push(module.into());
                        modules.len() - 1
                    });
                    entry.module = u16::try_from(known + 1).unwrap_or(0);
                }
            }
            entries.push(entry);
        }
        let text = |entry: &Entry| &names[entry.name as usize..entry.name as usize + usize::from(entry.length)];
        // For one address the plainest name comes first, what is not a function last.
        entries.sort_unstable_by_key(|entry| {
            let name = text(entry);
            let underscores = name.bytes().take_while(|byte| *byte == b'_').count();
            (entry.address, name.is_empty(), underscores, name.len(), name)
        });
        entries.dedup_by_key(|entry| entry.address);
        // Of what is not a function only the end that it sets to a function is of use.
        entries.dedup_by(|next, previous| next.length == 0 && previous.length == 0);
        if entries.iter().all(|entry| entry.length == 0) {
            if !hidden {
                return Err(NoKernelSymbols::Empty);
            }
            let setting = std::fs::read_to_string("/proc/sys/kernel/kptr_restrict");
            let kptr_restrict = setting.map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
            return Err(NoKernelSymbols::Hidden { kptr_restrict });
        }
        Ok(Self { entries: entries.into(), names: names.into(), modules: modules.into() })
    }

    fn lookup(&self, address: u64) -> Option<KernelSymbol<'_>> {
        let after = self.entries.partition_point(|entry| entry.address <= address);
        let entry = &self.entries[after.checked_sub(1)?];
        if address - entry.address >= MAX_FUNCTION {
            return None;
        }
        self.symbol(entry)
    }

    /// The function at the start of an entry; `None` when it is none.
    fn symbol(&self, entry: &Entry) -> Option<KernelSymbol<'_>> {
        if entry.length == 0 {
            return None;
        }
        let start = entry.name as usize;
        Some(KernelSymbol {
            name: &self.names[start..start + usize::from(entry.length)],
            module: entry.module.checked_sub(1).map(|module| &*self.modules[usize::from(module)]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::live::live;

    fn table(text: &str) -> Result<Table, NoKernelSymbols> {
        Table::read(text.as_bytes())
    }

    const TEXT: &str = "\
ffffffff81000000 T srso_alias_untrain_ret
ffffffff81000000 T _stext
ffffffff81000000 T __pi__text
ffffffff81000100 t __pfx_schedule
ffffffff81000110 T schedule
ffffffff81000110 T __schedule_alias
ffffffff81001000 T _etext
ffffffff81002000 D some_data
ffffffff81003000 d more_data
ffffffffc0001000 t nf_hook\t[nf_tables]
ffffffffc0000000 t other [ext4]
ffffffffc0000800 d ext4_data [ext4]
ffffffffc0002000 t bpf_prog_1 [bpf]
";

    #[test]
    fn functions_are_found_by_address() {
        let table = table(TEXT).unwrap();
        let at = |address| table.lookup(address).map(|symbol| (symbol.name, symbol.module));
        assert_eq!(at(0xffff_ffff_8100_0000), Some(("srso_alias_untrain_ret", None)));
        assert_eq!(at(0xffff_ffff_8100_0110), Some(("schedule", None)));
        assert_eq!(at(0xffff_ffff_8100_0fff), Some(("schedule", None)));
        assert_eq!(at(0xffff_ffff_c000_07ff), Some(("other", Some("ext4"))));
        assert_eq!(at(0xffff_ffff_c000_1fff), Some(("nf_hook", Some("nf_tables"))));
        assert_eq!(at(0xffff_ffff_c000_2000), Some(("bpf_prog_1", Some("bpf"))));
    }

    #[test]
    fn an_excerpt_answers_like_the_whole() {
        let whole = table(TEXT).unwrap();
        for addresses in
            [&[0xffff_ffff_8100_0fff, 0xffff_ffff_c000_17ff][..], &[0xffff_ffff_8100_2800, 0xffff_ffff_c000_0800], &[5]]
        {
            let excerpt = excerpt(TEXT.as_bytes(), &addresses.iter().copied().collect()).unwrap();
            assert!(excerpt.lines().count() <= 2 * addresses.len(), "{excerpt}");
            if let Ok(part) = table(&excerpt) {
                for address in addresses {
                    assert_eq!(part.lookup(*address), whole.lookup(*address), "{address:#x} in {excerpt}");
                }
            }
        }
        let hidden = "0000000000000000 T _text\n";
        let excerpt = excerpt(hidden.as_bytes(), &BTreeSet::from([5])).unwrap();
        assert!(matches!(table(&excerpt), Err(NoKernelSymbols::Hidden { .. })));
    }

    #[test]
    fn where_no_function_is_none_is_named() {
        let table = table(TEXT).unwrap();
        assert_eq!(table.lookup(0x7fff_0000_0000), None);
        assert_eq!(table.lookup(0xffff_ffff_8100_0108), None, "padding");
        assert_eq!(table.lookup(0xffff_ffff_8100_2000), None, "data");
        assert_eq!(table.lookup(0xffff_ffff_8100_3fff), None, "data");
        assert_eq!(table.lookup(0xffff_ffff_c000_0800), None, "data of a module");
        assert_eq!(table.lookup(u64::MAX), None, "far behind the last function");
    }

    #[test]
    fn hidden_addresses_are_a_reason() {
        let error = table("0000000000000000 T _text\n0000000000000000 t schedule\n").unwrap_err();
        assert!(matches!(error, NoKernelSymbols::Hidden { .. }));
        assert!(error.to_string().contains("kptr_restrict"), "{error}");
        assert_eq!(table("").unwrap_err(), NoKernelSymbols::Empty);
        assert_eq!(table("nonsense\nzz T x\nffffffff81000000 D data\n").unwrap_err(), NoKernelSymbols::Empty);
    }

    #[test]
    fn the_running_kernel_is_read() {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap();
        let line = text.lines().find(|line| line.ends_with(" T schedule")).expect("every kernel has schedule()");
        let address = u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap();
        let mut symbols = KernelSymbols::of(live());
        match symbols.lookup(address + 1) {
            Ok(symbol) => assert_eq!(symbol, Some(KernelSymbol { name: "schedule", module: None })),
            Err(reason) => assert!(address == 0 && matches!(reason, NoKernelSymbols::Hidden { .. }), "{reason}"),
        }
    }
}
