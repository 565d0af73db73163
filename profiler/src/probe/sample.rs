//! Records of the probe, as they come out of the ring buffer.

use luaflame_ebpf::{Copied, Entry, Header, LEAF_ENTRIES, RED_ZONE, flag, record};
use zerocopy::FromBytes;

/// The version of how records are laid out. Captures keep records as they came: when this grows, replaying has to bring
/// older ones up.
pub const LAYOUT: u32 = 1;
const _: () = assert!(size_of::<Header>() == 240 && size_of::<Entry>() == 64, "another layout is another version");

/// A record.
#[derive(Debug)]
pub enum Record<'a> {
    /// A sample.
    Sample(Sample<'a>),
    /// A watched process has started another one, which is watched from now on.
    Fork {
        /// The process that forked.
        parent: u32,
        /// The new process.
        child: u32,
    },
    /// The first thread of a process has ended.
    Exit {
        /// The process.
        tgid: u32,
    },
    /// A process runs another program from now on.
    Exec {
        /// The process.
        tgid: u32,
    },
    /// A process that is not watched was running when a sample was due.
    Met {
        /// The process.
        tgid: u32,
    },
    /// A process that is not watched runs another program from now on.
    New {
        /// The process.
        tgid: u32,
    },
    /// Memory that samples refer to, as it was.
    Copied {
        /// Process, address and mark.
        of: Copied,
        /// The memory.
        bytes: &'a [u8],
    },
}

/// One sample, borrowed from the bytes it came in.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// Ids, time, registers and the VM's state.
    pub header: &'a Header,
    /// The walk through the Lua stacks, leaf first, up to where it was cut.
    pub entries: Vec<Entry>,
    /// How many entries were cut out, and the number of entries before the cut.
    pub cut: Option<Cut>,
    /// Return addresses in the kernel, leaf first.
    pub kernel: Vec<u64>,
    /// The copy of the native stack.
    pub stack: StackCopy<'a>,
}

/// Where entries were cut out of the middle of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Entries before the cut.
    pub before: usize,
    /// Entries missing.
    pub missing: u32,
}

/// The parts of a native stack that were copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct StackCopy<'a> {
    /// What lies right below the stack pointer, where code may have values, too; empty when it was not copied.
    pub red_zone: &'a [u8],
    /// Address of the first byte of `leaf`: the stack pointer.
    pub leaf_address: u64,
    /// From the stack pointer up.
    pub leaf: &'a [u8],
    /// Address of the first byte of `root`.
    pub root_address: u64,
    /// Up to the stack's base, when not all fitted in `leaf`.
    pub root: &'a [u8],
}

impl StackCopy<'_> {
    /// The word at an address, if it was copied.
    pub fn word(&self, address: u64) -> Option<u64> {
        let within = |start: u64, bytes: &[u8]| {
            let offset = usize::try_from(address.checked_sub(start)?).ok()?;
            Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
        };
        let red_zone = self.leaf_address.wrapping_sub(self.red_zone.len() as u64);
        within(self.leaf_address, self.leaf)
            .or_else(|| within(self.root_address, self.root))
            .or_else(|| within(red_zone, self.red_zone))
    }
}

/// Bytes that are not a record. The probe does not send such; the reader still never trusts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the probe sent {length} bytes that are not a record")]
pub struct Malformed {
    /// Number of bytes.
    pub length: usize,
}

impl<'a> Record<'a> {
    /// Takes the bytes of one record apart.
    ///
    /// # Errors
    /// When lengths and bytes do not agree.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, Malformed> {
        let malformed = Malformed { length: bytes.len() };
        if let Ok((of, bytes)) = Copied::read_from_prefix(bytes)
            && of.kind == record::COPIED
        {
            return Ok(Record::Copied { of, bytes });
        }
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| malformed)?;
        match header.kind {
            record::SAMPLE => Sample::parse(header, rest).map(Record::Sample).ok_or(malformed),
            record::FORK => Ok(Record::Fork { parent: header.tgid, child: header.tid }),
            record::EXIT => Ok(Record::Exit { tgid: header.tgid }),
            record::EXEC => Ok(Record::Exec { tgid: header.tgid }),
            record::MET => Ok(Record::Met { tgid: header.tgid }),
            record::NEW => Ok(Record::New { tgid: header.tgid }),
            _ => Err(malformed),
        }
    }
}

impl<'a> Sample<'a> {
    fn parse(header: &'a Header, rest: &'a [u8]) -> Option<Sample<'a>> {
        let kept = header.entries_kept as usize;
        let (entries, rest) = <[Entry]>::ref_from_prefix_with_elems(rest, kept).ok()?;
        let (kernel, rest) = <[u64]>::ref_from_prefix_with_elems(rest, header.kernel_bytes as usize / 8).ok()?;
        let (leaf, rest) = rest.split_at_checked(header.leaf_bytes as usize)?;
        let (root, rest) = rest.split_at_checked(header.root_bytes as usize)?;
        let red_zone = rest.get(..RED_ZONE).unwrap_or_default();
        let missing = header.entries_found.checked_sub(header.entries_kept)?;
        let mut entries = entries.to_vec();
        let cut = (missing > 0).then_some(Cut { before: LEAF_ENTRIES, missing });
        if missing > 0 {
            // The second half is a ring; the place where the next entry would have gone is its oldest one.
            let ring = entries.get_mut(LEAF_ENTRIES..)?;
            ring.rotate_left(header.entries_found as usize % LEAF_ENTRIES % ring.len().max(1));
        }
        Some(Sample {
            header,
            entries,
            cut,
            kernel: kernel.to_vec(),
            stack: StackCopy {
                red_zone,
                leaf_address: header.registers.sp,
                leaf,
                root_address: header.root_address,
                root,
            },
        })
    }

    /// Whether the interrupt hit kernel mode.
    pub fn in_kernel(&self) -> bool {
        self.header.flags & flag::KERNEL != 0
    }
}

#[cfg(test)]
mod tests {
    use luaflame_ebpf::Registers;
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn words_below_the_stack_pointer_are_known_if_they_were_copied() {
        const SP: u64 = 0x7000;
        let registers = Registers { sp: SP, ..Registers::default() };
        let header = Header { kind: record::SAMPLE, leaf_bytes: 8, registers, ..Header::default() };
        let word = |record: &[u64], address| match Record::parse(record.as_bytes()) {
            Ok(Record::Sample(sample)) => sample.stack.word(address),
            other => panic!("{other:?}"),
        };
        let words: [u64; size_of::<Header>() / 8] = zerocopy::transmute!(header);
        let mut record = words.to_vec();
        record.push(1);
        assert_eq!([SP, SP - 8].map(|address| word(&record, address)), [Some(1), None]);
        record.extend(2..2 + RED_ZONE as u64 / 8);
        let below = SP - RED_ZONE as u64;
        assert_eq!([SP, below, SP - 8, below - 8].map(|at| word(&record, at)), [Some(1), Some(2), Some(17), None]);
    }
}
