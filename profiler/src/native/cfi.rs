//! Call frame information: what `.eh_frame` says about getting from a frame to its caller.
//!
//! Built on gimli and not on a ready-made unwinder, because such unwinders fall back to frame pointers, silently, where
//! there is no information, and restore only the stack and frame pointer. Here a frame without information is an
//! answer of its own, and every register that the information restores is restored.

use std::ops::Range;
use std::sync::OnceLock;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameOffset, EndianSlice, Evaluation, EvaluationResult, LittleEndian,
    Location, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow, Value, X86_64,
};

use super::registers::{CALLEE_SAVED, COUNT, CodeAddress, Register, Registers};
use super::unwind::StepError;

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = gimli::FrameDescriptionEntry<Slice<'a>>;
type Row = UnwindTableRow<usize>;

/// Entries indexed when an image has no `.eh_frame_hdr`; the largest real programs have fewer.
const MAX_ENTRIES: usize = 1 << 20;

/// Operations of one DWARF expression; real ones have about ten.
const MAX_OPERATIONS: u32 = 1000;

/// A part of an image: where it lies in the file, and its image address.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) range: Range<usize>,
}

impl Span {
    /// The part with this file offset and size, cut at the end of the file.
    pub(super) fn new(address: u64, (offset, size): (u64, u64), file_size: usize) -> Option<Self> {
        let start = usize::try_from(offset).ok().filter(|start| *start < file_size)?;
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size))
            .map_or(file_size, |end| end.min(file_size));
        Some(Self { address, range: start..end })
    }
}

/// `.eh_frame` of an image and the index into it.
#[derive(Debug)]
pub(super) struct CallFrames {
    section: Span,
    bases: BaseAddresses,
    table: Option<Table>,
    /// Start address and offset of each entry, by address; made when there is no table in the image.
    index: OnceLock<Box<[(u64, u32)]>>,
}

/// The sorted table of `.eh_frame_hdr`, of the one form that linkers write: pairs of 32-bit offsets from the section's
/// address, to a function's start and to its entry.
#[derive(Debug)]
struct Table {
    address: u64,
    entries: Range<usize>,
}

impl Table {
    const ENTRY: usize = 8;

    /// Reads the head of `.eh_frame_hdr` (LSB core, 10.6.2): the table, and the address of `.eh_frame`.
    fn parse(bytes: &[u8], span: &Span) -> (Option<Self>, Option<u64>) {
        let Some(header) = bytes.get(span.range.clone()).and_then(|header| header.first_chunk::<12>()) else {
            return (None, None);
        };
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let [version, frame_encoding, count_encoding, table_encoding] = word(0);
        // DW_EH_PE_pcrel | DW_EH_PE_sdata4; the pointer is the second word.
        if version != 1 || frame_encoding != 0x1b {
            return (None, None);
        }
        let frames = span.address.wrapping_add(4).wrapping_add_signed(i32::from_le_bytes(word(4)).into());
        // DW_EH_PE_udata4, DW_EH_PE_datarel | DW_EH_PE_sdata4.
        if count_encoding != 0x03 || table_encoding != 0x3b {
            return (None, Some(frames));
        }
        let start = span.range.start + 12;
        let room = (span.range.end - start) / Self::ENTRY;
        let count = room.min(u32::from_le_bytes(word(8)) as usize);
        let table = Self { address: span.address, entries: start..start + count * Self::ENTRY };
        ((count > 0).then_some(table), Some(frames))
    }

    /// Image address of the last entry that starts at or before an image address.
    fn lookup(&self, bytes: &[u8], address: u64) -> Option<u64> {
        let (entries, _) = bytes.get(self.entries.clone())?.as_chunks::<{ Self::ENTRY }>();
        let at = |entry: &[u8; Self::ENTRY], half: usize| {
            let half = &entry[half * 4..half * 4 + 4];
            let offset = i32::from_le_bytes([half[0], half[1], half[2], half[3]]);
            self.address.wrapping_add_signed(offset.into())
        };
        let after = entries.partition_point(|entry| at(entry, 0) <= address);
        Some(at(entries.get(after.checked_sub(1)?)?, 1))
    }
}

/// How to get from a frame to its caller, for one place in the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// There is no information about this place.
    Missing,
    /// There is information, and it is broken.
    Malformed,
    /// The outermost frame: there is no caller.
    Root,
    /// The usual case.
    Frame(FrameRule),
    /// Anything that [`FrameRule`] cannot say: evaluate the information itself.
    General,
}

/// The caller's stack pointer (the CFA) is a register plus `offset`; the return address lies right below it; each
/// callee-saved register is unchanged, or stored a number of words from the CFA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameRule {
    register: u8,
    offset: i32,
    /// In the order of [`CALLEE_SAVED`]: words from the CFA, or [`SAME`].
    saved: [i16; CALLEE_SAVED.len()],
}

const SAME: i16 = i16::MIN;

impl CallFrames {
    /// Takes `.eh_frame` from the section table, or from `.eh_frame_hdr`, where `from_address` finds the part of the file
    /// from an image address to the end of its segment.
    pub(super) fn new(
        bytes: &[u8],
        section: Option<Span>,
        header: Option<Span>,
        text: u64,
        got: u64,
        from_address: impl FnOnce(u64) -> Option<Span>,
    ) -> Option<Self> {
        let (table, address) = header.as_ref().map_or((None, None), |header| Table::parse(bytes, header));
        let section = section.or_else(|| from_address(address?))?;
        let bases = BaseAddresses::default()
            .set_eh_frame(section.address)
            .set_eh_frame_hdr(header.map_or(0, |header| header.address))
            .set_text(text)
            .set_got(got);
        Some(Self { section, bases, table, index: OnceLock::new() })
    }

    fn eh_frame<'a>(&self, bytes: &'a [u8]) -> EhFrame<Slice<'a>> {
        let mut section = EhFrame::new(bytes.get(self.section.range.clone()).unwrap_or_default(), LittleEndian);
        section.set_address_size(8);
        section
    }

    /// The entry that covers an image address; `Ok(None)` when none does.
    fn fde<'a>(&self, bytes: &'a [u8], address: u64) -> gimli::Result<Option<Fde<'a>>> {
        let section = self.eh_frame(bytes);
        let offset = match &self.table {
            Some(table) => table
                .lookup(bytes, address)
                .and_then(|entry| entry.checked_sub(self.section.address))
                .map(|it| it as usize),
            None => {
                let index = self.index.get_or_init(|| self.make_index(&section));
                let after = index.partition_point(|(start, _)| *start <= address);
                after.checked_sub(1).map(|at| index[at].1 as usize)
            }
        };
        let Some(offset) = offset else { return Ok(None) };
        let fde = section.fde_from_offset(&self.bases, EhFrameOffset(offset), EhFrame::cie_from_offset)?;
        Ok(fde.contains(address).then_some(fde))
    }

    fn make_index(&self, section: &EhFrame<Slice<'_>>) -> Box<[(u64, u32)]> {
        let mut index = Vec::new();
        let mut entries = section.entries(&self.bases);
        while let Ok(Some(entry)) = entries.next()
            && index.len() < MAX_ENTRIES
        {
            let CieOrFde::Fde(partial) = entry else { continue };
            if let Ok(fde) = partial.parse(EhFrame::cie_from_offset)
                && let Ok(offset) = u32::try_from(fde.offset())
            {
                index.push((fde.initial_address(), offset));
            }
        }
        index.sort_unstable();
        index.into()
    }

    /// The image addresses that the entry at an image address covers.
    pub(super) fn range(&self, bytes: &[u8], address: u64) -> Option<Range<u64>> {
        let fde = self.fde(bytes, address).ok()??;
        Some(fde.initial_address()..fde.end_address())
    }

    /// The rule at an image address.
    pub(super) fn rule(&self, bytes: &[u8], address: u64, context: &mut UnwindContext<usize>) -> Rule {
        let fde = match self.fde(bytes, address) {
            Ok(Some(fde)) => fde,
            Ok(None) => return Rule::Missing,
            Err(_) => return Rule::Malformed,
        };
        match fde.unwind_info_for_address(&self.eh_frame(bytes), &self.bases, context, address) {
            Ok(row) if is_root(row) => Rule::Root,
            Ok(_) if fde.is_signal_trampoline() => Rule::General,
            Ok(row) => match FrameRule::new(row) {
                Some(mut rule) => {
                    if rule.deepest_below_sp() > 0 {
                        let depth = self.depth(bytes, &fde, context);
                        rule.forget_popped(depth);
                    }
                    Rule::Frame(rule)
                }
                None => Rule::General,
            },
            Err(_) => Rule::Malformed,
        }
    }

    /// The largest frame that a function has anywhere, in bytes below the CFA.
    fn depth(&self, bytes: &[u8], fde: &Fde<'_>, context: &mut UnwindContext<usize>) -> i64 {
        let mut depth = 0;
        let section = self.eh_frame(bytes);
        let Ok(mut rows) = fde.rows(&section, &self.bases, context) else { return depth };
        while let Ok(Some(row)) = rows.next_row() {
            match row.cfa() {
                CfaRule::RegisterAndOffset { register: X86_64::RSP, offset } => depth = depth.max(*offset),
                // With a frame pointer the stack pointer may be anywhere below.
                _ => return i64::MAX,
            }
        }
        depth
    }

    /// Evaluates the information at an image address, whatever it says. `false`: this is the outermost frame.
    pub(super) fn evaluate(
        &self,
        bytes: &[u8],
        address: u64,
        context: &mut UnwindContext<usize>,
        registers: &mut Registers,
        read_stack: &mut dyn FnMut(u64) -> Result<u64, ()>,
    ) -> Result<bool, StepError> {
        let malformed = |_| StepError::Malformed;
        let section = self.eh_frame(bytes);
        let fde = self.fde(bytes, address).map_err(malformed)?.ok_or(StepError::NoUnwindInfo)?;
        let is_signal = fde.is_signal_trampoline();
        let encoding = fde.cie().encoding();
        let row = fde.unwind_info_for_address(&section, &self.bases, context, address).map_err(malformed)?;
        if is_root(row) {
            return Ok(false);
        }
        let mut evaluation = Expressions { section: &section, encoding, registers, read_stack };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => {
                evaluation.register(register.0)?.checked_add_signed(*offset).ok_or(StepError::Malformed)?
            }
            CfaRule::Expression(expression) => evaluation.evaluate(expression, None)?,
        };
        // What is interrupted by a signal may run on another stack than the handler.
        if !is_signal && cfa <= evaluation.registers.sp() {
            return Err(StepError::NoProgress);
        }
        let mut caller = Registers::new(CodeAddress::Return(0), cfa);
        for number in 0..COUNT as u8 {
            let rule = row.register(gimli::Register(number.into()));
            let value = match rule {
                None if number == Register::Sp as u8 => continue,
                None => evaluation.registers.number(number.into()),
                // A register that cannot be restored is unknown from here on; it may never be needed.
                Some(rule) => evaluation.restore(rule, cfa, number.into()).ok(),
            };
            if number == Register::Sp as u8 && value.is_none() {
                return Err(StepError::Malformed);
            }
            caller.set_number(number, value);
        }
        let rule = row.register(X86_64::RA).ok_or(StepError::Malformed)?;
        let address = evaluation.restore(rule, cfa, X86_64::RA.0)?;
        caller.code = if is_signal { CodeAddress::Instruction(address) } else { CodeAddress::Return(address) };
        *evaluation.registers = caller;
        Ok(address != 0)
    }
}

/// The return address is said to be undefined: how an entry point says that it has no caller.
fn is_root(row: &Row) -> bool {
    row.register(X86_64::RA) == Some(RegisterRule::Undefined)
}

impl FrameRule {
    /// The rule of a row, when it can be said so.
    fn new(row: &Row) -> Option<Self> {
        let CfaRule::RegisterAndOffset { register, offset } = row.cfa() else { return None };
        let mut rule = Self {
            register: u8::try_from(register.0).ok().filter(|number| usize::from(*number) < COUNT)?,
            offset: i32::try_from(*offset).ok()?,
            saved: [SAME; CALLEE_SAVED.len()],
        };
        if row.register(X86_64::RA) != Some(RegisterRule::Offset(-8)) {
            return None;
        }
        for (register, register_rule) in row.registers() {
            if *register == X86_64::RA {
                continue;
            }
            match CALLEE_SAVED.iter().position(|saved| *saved as u16 == register.0) {
                Some(at) => match register_rule {
                    RegisterRule::SameValue => {}
                    RegisterRule::Offset(offset) if offset % 8 == 0 => {
                        rule.saved[at] = i16::try_from(offset / 8).ok().filter(|words| *words != SAME)?;
                    }
                    _ => return None,
                },
                None if usize::from(register.0) < COUNT => return None,
                // Vector and other registers are of no use to us.
                None => {}
            }
        }
        Some(rule)
    }

    /// The rule of code that has changed neither the stack pointer nor any register since it was called.
    pub(super) const UNTOUCHED: Self =
        Self { register: Register::Sp as u8, offset: 8, saved: [SAME; CALLEE_SAVED.len()] };

    /// How far from the CFA, in bytes, the deepest register is stored that is stored below the stack pointer; 0 when
    /// none is.
    fn deepest_below_sp(&self) -> i64 {
        if self.register != Register::Sp as u8 {
            return 0;
        }
        let depths = self.saved.iter().filter(|words| **words != SAME).map(|words| -8 * i64::from(*words));
        depths.max().filter(|depth| *depth > i64::from(self.offset)).unwrap_or(0)
    }

    /// Between the `pop`s of an epilogue compilers go on to say that a register is stored where it was, now below the
    /// stack pointer. It has its caller's value again, unlike one that a function stores below the stack pointer
    /// without ever moving that: `depth` is the largest frame that the function has.
    fn forget_popped(&mut self, depth: i64) {
        for words in self.saved.iter_mut().filter(|words| **words != SAME) {
            let below = -8 * i64::from(*words);
            if below > i64::from(self.offset) && below <= depth {
                *words = SAME;
            }
        }
    }

    /// Makes the registers those of the caller. `false`: this is the outermost frame.
    pub(super) fn apply(
        &self,
        registers: &mut Registers,
        read_stack: &mut dyn FnMut(u64) -> Result<u64, ()>,
    ) -> Result<bool, StepError> {
        let base = registers.number(self.register.into()).ok_or(StepError::UnknownRegister(self.register))?;
        let cfa = base.checked_add_signed(self.offset.into()).ok_or(StepError::NoProgress)?;
        if cfa <= registers.sp() {
            return Err(StepError::NoProgress);
        }
        let at = cfa.wrapping_sub(8);
        let address = read_stack(at).map_err(|()| StepError::Truncated(at))?;
        for (register, words) in CALLEE_SAVED.iter().zip(self.saved).filter(|(_, words)| *words != SAME) {
            // What lies below the stack pointer may not have been copied.
            let value = read_stack(cfa.wrapping_add_signed(i64::from(words) * 8)).ok();
            registers.set_number(*register as u8, value);
        }
        registers.code = CodeAddress::Return(address);
        registers.set(Register::Sp, cfa);
        Ok(address != 0)
    }
}

/// What the expressions of one row are evaluated with.
struct Expressions<'a, 'b> {
    section: &'b EhFrame<Slice<'a>>,
    encoding: gimli::Encoding,
    registers: &'b mut Registers,
    read_stack: &'b mut dyn FnMut(u64) -> Result<u64, ()>,
}

impl Expressions<'_, '_> {
    fn register(&self, number: u16) -> Result<u64, StepError> {
        if number == X86_64::RA.0 {
            return Ok(self.registers.code.address());
        }
        self.registers.number(number).ok_or_else(|| StepError::UnknownRegister(u8::try_from(number).unwrap_or(u8::MAX)))
    }

    fn read(&mut self, address: u64) -> Result<u64, StepError> {
        (self.read_stack)(address).map_err(|()| StepError::Truncated(address))
    }

    /// The caller's value of register `number`.
    fn restore(&mut self, rule: RegisterRule<usize>, cfa: u64, number: u16) -> Result<u64, StepError> {
        match rule {
            RegisterRule::SameValue => self.register(number),
            RegisterRule::Offset(offset) => self.read(cfa.wrapping_add_signed(offset)),
            RegisterRule::ValOffset(offset) => Ok(cfa.wrapping_add_signed(offset)),
            RegisterRule::Register(other) => self.register(other.0),
            RegisterRule::Expression(expression) => {
                let address = self.evaluate(&expression, Some(cfa))?;
                self.read(address)
            }
            RegisterRule::ValExpression(expression) => self.evaluate(&expression, Some(cfa)),
            RegisterRule::Constant(value) => Ok(value),
            _ => Err(StepError::UnknownRegister(u8::try_from(number).unwrap_or(u8::MAX))),
        }
    }

    fn evaluate(&mut self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Result<u64, StepError> {
        let malformed = |_| StepError::Malformed;
        let expression = expression.get(self.section).map_err(malformed)?;
        let mut evaluation = Evaluation::new(expression.0, self.encoding);
        evaluation.set_max_iterations(MAX_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut result = evaluation.evaluate().map_err(malformed)?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.register(register.0)?;
                    evaluation.resume_with_register(Value::Generic(value)).map_err(malformed)?
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let value = self.read(address)?;
                    let bits = u32::from(size.min(8)) * 8;
                    let mask = u64::MAX.checked_shr(64 - bits).unwrap_or(0);
                    evaluation.resume_with_memory(Value::Generic(value & mask)).map_err(malformed)?
                }
                _ => return Err(StepError::Malformed),
            };
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Ok(address),
                _ => Err(StepError::Malformed),
            },
            _ => Err(StepError::Malformed),
        }
    }
}
