//! The mappings of a process, from `/proc/PID/maps`.
//!
//! Parsed here and not by a crate: paths are arbitrary bytes chosen by whoever the process belongs to, and must neither
//! be rejected (not UTF-8) nor break the parser.

use std::ops::Range;

use crate::luajit::memory::Region;

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The addresses `[start, end)`, multiples of the page size; never empty.
    pub range: Range<u64>,
    /// The program may read here.
    pub readable: bool,
    /// The program may write here.
    pub writable: bool,
    /// The program may execute code here.
    pub executable: bool,
    /// Writes reach the file or the other processes that share the mapping.
    pub shared: bool,
    /// Where in the file the mapping begins, in bytes.
    pub offset: u64,
    /// Major and minor number of the device that the file is on; zeros without a file.
    pub device: (u32, u32),
    /// Number of the file on its device; 0 without a file.
    pub inode: u64,
    /// What is mapped.
    pub backing: Backing,
}

/// What a mapping maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// Memory without a name.
    Anonymous,
    /// A file, or something that the kernel presents as one (`/memfd:name`, `/dev/zero`, `/SYSV00000000`).
    File {
        /// The path as the process sees it, any bytes, without the suffix ` (deleted)`.
        path: Vec<u8>,
        /// The kernel appended ` (deleted)`: nothing or another file has this path now.
        deleted: bool,
    },
    /// A name of the kernel's: `[heap]`, `[stack]`, `[vdso]`, `[anon:name]`, `anon_inode:[name]`.
    Special(Vec<u8>),
}

impl Mapping {
    /// Whether it is the vDSO, the small library that the kernel maps into every process.
    pub fn is_vdso(&self) -> bool {
        self.backing == Backing::Special(b"[vdso]".to_vec())
    }

    /// The last part of the path, or the kernel's name; `[anonymous]` without either. Bytes that are not UTF-8 are
    /// replaced.
    pub fn name(&self) -> String {
        match &self.backing {
            Backing::Anonymous => "[anonymous]".to_owned(),
            Backing::File { path, .. } => {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
                String::from_utf8_lossy(name).into_owned()
            }
            Backing::Special(name) => String::from_utf8_lossy(name).into_owned(),
        }
    }
}

/// A line of `/proc/PID/maps` that is not of the documented form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the line {line:?} is not a mapping")]
pub struct MapsError {
    /// The line, with bytes that are not UTF-8 replaced.
    pub line: String,
}

/// Parses the text of `/proc/PID/maps`.
///
/// # Errors
/// At the first line that is not of the form that `proc_pid_maps(5)` describes.
pub fn parse(text: &[u8]) -> Result<Vec<Mapping>, MapsError> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line).ok_or_else(|| MapsError { line: String::from_utf8_lossy(line).into_owned() }))
        .collect()
}

/// `55b4f83b1000-55b4f83b3000 r--p 00000000 fe:00 247278                     /usr/bin/head`
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let (start, end) = pair(fields.next()?, b'-')?;
    let (start, end) = (number(start, 16)?, number(end, 16)?);
    if start >= end {
        return None;
    }
    let &[read, write, execute, share] = fields.next()? else { return None };
    let offset = number(fields.next()?, 16)?;
    let (major, minor) = pair(fields.next()?, b':')?;
    let device = (u32::try_from(number(major, 16)?).ok()?, u32::try_from(number(minor, 16)?).ok()?);
    let inode = number(fields.next()?, 10)?;
    let name = fields.next().unwrap_or_default().trim_ascii_start();
    Some(Mapping {
        range: start..end,
        readable: read == b'r',
        writable: write == b'w',
        executable: execute == b'x',
        shared: share == b's',
        offset,
        device,
        inode,
        backing: backing(name),
    })
}

fn backing(name: &[u8]) -> Backing {
    match name.first() {
        None => Backing::Anonymous,
        Some(b'/') => {
            let (path, deleted) = match name.strip_suffix(b" (deleted)") {
                Some(path) => (path, true),
                None => (name, false),
            };
            Backing::File { path: unescape(path), deleted }
        }
        Some(_) => Backing::Special(unescape(name)),
    }
}

/// The kernel writes a newline as `\012` and every other byte, a backslash too, as it is.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut unescaped = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            unescaped.push(b'\n');
            rest = tail;
        } else {
            unescaped.push(*first);
            rest = tail;
        }
    }
    unescaped
}

fn pair(field: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = field.iter().position(|byte| *byte == separator)?;
    Some((&field[..at], &field[at + 1..]))
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// The mappings that hold something a program can read or execute, as what reads LuaJIT knows them.
pub fn regions(mappings: &[Mapping]) -> Vec<Region> {
    mappings
        .iter()
        .filter(|mapping| mapping.readable || mapping.executable)
        .map(|mapping| Region {
            range: mapping.range.clone(),
            writable: mapping.writable,
            executable: mapping.executable,
            private: !mapping.shared,
            file: matches!(mapping.backing, Backing::File { .. }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &[u8]) -> Mapping {
        let mappings = parse(line).unwrap();
        assert_eq!(mappings.len(), 1);
        mappings[0].clone()
    }

    #[test]
    fn a_mapping_of_a_file_is_read_in_full() {
        let mapping = one(b"55b4f83b3000-55b4f83b9000 r-xp 00002000 fe:00 247278                     /usr/bin/head\n");
        assert_eq!(
            mapping,
            Mapping {
                range: 0x55b4_f83b_3000..0x55b4_f83b_9000,
                readable: true,
                writable: false,
                executable: true,
                shared: false,
                offset: 0x2000,
                device: (0xfe, 0),
                inode: 247_278,
                backing: Backing::File { path: b"/usr/bin/head".to_vec(), deleted: false },
            }
        );
        assert_eq!(mapping.name(), "head");
    }

    #[test]
    fn odd_names_are_kept() {
        let backing = |name: &[u8]| one(&[b"1000-2000 rw-s 00000000 00:01 7    ", name, b"\n"].concat()).backing;
        let file = |path: &[u8], deleted| Backing::File { path: path.to_vec(), deleted };
        assert_eq!(backing(b"/a b  c"), file(b"/a b  c", false));
        assert_eq!(backing(b"/a\\012b"), file(b"/a\nb", false));
        assert_eq!(backing(b"/a\\b\\01"), file(b"/a\\b\\01", false));
        assert_eq!(backing(b"/\xff\xfe"), file(b"/\xff\xfe", false));
        assert_eq!(backing(b"/usr/sbin/nginx (deleted)"), file(b"/usr/sbin/nginx", true));
        assert_eq!(backing(b"/SYSV"), file(b"/SYSV", false));
        assert_eq!(backing(b"/memfd:x (deleted)"), file(b"/memfd:x", true));
        assert_eq!(backing(b"[anon:glibc: malloc]"), Backing::Special(b"[anon:glibc: malloc]".to_vec()));
        assert_eq!(backing(b"anon_inode:[io_uring]"), Backing::Special(b"anon_inode:[io_uring]".to_vec()));
        assert_eq!(backing(b""), Backing::Anonymous);
        assert_eq!(one(b"1000-2000 ---p 00000000 00:00 0\n").backing, Backing::Anonymous);
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        for line in [
            &b"hello"[..],
            b"1000-1000 r--p 0 00:00 0",
            b"2000-1000 r--p 0 00:00 0",
            b"1000-2000 r--p zz 00:00 0",
            b"1000-2000 r-- 0 00:00 0",
            b"10000000000000000-20000000000000000 r--p 0 00:00 0",
            b"1000-2000 r--p 0 100000000:00 0",
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn guard_pages_are_no_regions() {
        let mappings =
            parse(b"1000-2000 ---p 0 00:00 0\n2000-3000 rw-p 0 00:00 0\n3000-4000 r-xs 0 00:01 5 /x\n").unwrap();
        let regions = regions(&mappings);
        assert_eq!(regions.len(), 2);
        assert_eq!(
            regions[0],
            Region { range: 0x2000..0x3000, writable: true, executable: false, private: true, file: false }
        );
        assert_eq!(
            regions[1],
            Region { range: 0x3000..0x4000, writable: false, executable: true, private: false, file: true }
        );
    }
}
