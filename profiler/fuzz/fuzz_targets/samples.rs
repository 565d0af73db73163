//! Samples: a record of the ring buffer, its activations, and the stack that is woven of them.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::luajit::arch::Model;
use luaflame::luajit::frames::activations;
use luaflame::native::registers::{CodeAddress, Registers};
use luaflame::native::unwind::{Step, StepError};
use luaflame::probe::sample::Record;
use luaflame::stack::weave::{Code, Native, Piece, weave};
use luaflame_ebpf::{ENTRIES, Entry, Header, LEAF_ENTRIES, entry, frame, record};
use luaflame_fuzz as _;
use zerocopy::IntoBytes;

#[derive(Debug, Arbitrary)]
struct Input {
    ip: Word,
    sp: Word,
    bx: Word,
    cx: Word,
    entries: Vec<Walked>,
    gc64: bool,
    /// Repeats the entries, up to the limit of a record.
    many: bool,
    missing: u16,
    kernel: Vec<u64>,
    stack: Vec<Word>,
    root: Option<(u8, u8)>,
    code: [Kind; RANGES],
    bytes: Vec<u8>,
    /// Changes to the bytes of the record, and how many are missing at its end.
    lies: Vec<(u16, u8)>,
    short: Option<u16>,
}

/// An entry of the walk.
#[derive(Debug, Arbitrary)]
enum Walked {
    Activation { base: Word, source: u8 },
    CFrame { address: Word, pc: Word, nres: i32 },
    Frame { link: Word, function: u64, code: Word, slot: u16, ffid: u8, flags: u8, sizebc: u16 },
    Other([u64; 5], u16),
}

/// A word that leads somewhere.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Word {
    Any(u64),
    Code(u8, u8),
    Stack(u8),
    Link(u8, u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Kind {
    Assembly,
    Exit,
    FfiCall,
    Trace,
    Native(u8),
    Failing(u8),
    Anonymous,
}

const RANGES: usize = 6;
const RANGE: u64 = 0x100;
const STACK: u64 = 0x7ffc_0000_0000;

/// Where the ranges of code are; the last one is at the end of all addresses.
fn start(range: usize) -> u64 {
    if range == RANGES - 1 { u64::MAX - RANGE + 1 } else { (range as u64 + 1) << 32 }
}

impl Word {
    fn value(self) -> u64 {
        match self {
            Word::Any(value) => value,
            Word::Code(range, offset) => start(usize::from(range) % RANGES) + u64::from(offset),
            Word::Stack(word) => STACK + u64::from(word) * 8,
            Word::Link(kind, slots) => u64::from(slots) << 3 | u64::from(kind & 7),
        }
    }
}

/// A process of which the input says what code is where.
struct Process<'a> {
    code: [Kind; RANGES],
    bytes: &'a [u8],
    model: Model,
}

impl Process<'_> {
    fn kind(&self, address: u64) -> Option<Kind> {
        let within = |range: &usize| address.checked_sub(start(*range)).is_some_and(|offset| offset < RANGE);
        (0..RANGES).find(within).map(|range| self.code[range])
    }
}

impl Native for Process<'_> {
    fn model(&self) -> Model {
        self.model
    }

    fn code(&mut self, address: u64) -> Code {
        match self.kind(address) {
            Some(Kind::Assembly) => Code::Assembly,
            Some(Kind::Exit) => Code::Exit,
            Some(Kind::FfiCall) => Code::FfiCall,
            Some(Kind::Trace) => Code::Trace,
            Some(Kind::Native(_) | Kind::Failing(_)) => Code::Native,
            Some(Kind::Anonymous) => Code::Anonymous,
            None => Code::None,
        }
    }

    fn instructions(&mut self, address: u64, buffer: &mut [u8]) -> usize {
        if self.kind(address).is_none() {
            return 0;
        }
        let from = self.bytes.iter().cycle().skip((address & 0xff) as usize);
        buffer.iter_mut().zip(from).map(|(to, from)| *to = *from).count()
    }

    fn step(&mut self, registers: &mut Registers, word: &mut dyn FnMut(u64) -> Option<u64>) -> Result<Step, StepError> {
        match self.kind(registers.code.lookup()) {
            Some(Kind::Native(words)) => {
                let at = registers.sp().checked_add(u64::from(words) * 8).ok_or(StepError::NoProgress)?;
                let back = word(at).ok_or(StepError::Truncated(at))?;
                *registers = Registers::new(CodeAddress::Return(back), at.checked_add(8).ok_or(StepError::NoProgress)?);
                Ok(if back == 0 { Step::Root } else { Step::Caller(registers.code) })
            }
            Some(Kind::Failing(register)) => Err(StepError::UnknownRegister(register)),
            _ => Err(StepError::NoUnwindInfo),
        }
    }
}

fn entries(input: &Input) -> Vec<Entry> {
    let mut number = 0_u16;
    let one = |step: &Walked, number: &mut u16| {
        let flags = |more: u16| *number << frame::ACTIVATION_SHIFT | more;
        match step {
            Walked::Activation { base, source } => {
                *number = number.wrapping_add(1);
                Entry {
                    kind: entry::ACTIVATION,
                    slot: (*source).into(),
                    words: [0x1000, 0x2000, 0, base.value(), 0x3000],
                    ..Entry::default()
                }
            }
            Walked::CFrame { address, pc, nres } => Entry {
                kind: entry::CFRAME,
                flags: flags(0),
                words: [address.value(), 0, 0x1000, pc.value(), 0],
                numbers: [nres.cast_unsigned(), 0, 0, 0],
                ..Entry::default()
            },
            Walked::Frame { link, function, code, slot, ffid, flags: more, sizebc } => Entry {
                kind: entry::FRAME,
                ffid: *ffid,
                flags: flags(u16::from(more & 7)),
                slot: (*slot).into(),
                words: [link.value(), *function, code.value(), code.value(), 0],
                numbers: [0, 1, 2, (*sizebc).into()],
            },
            Walked::Other(words, flags) => {
                Entry { kind: *flags as u8, flags: *flags, words: *words, ..Entry::default() }
            }
        }
    };
    let repeat = if input.many && !input.entries.is_empty() { ENTRIES } else { input.entries.len() };
    input.entries.iter().cycle().take(repeat.min(ENTRIES)).map(|step| one(step, &mut number)).collect()
}

/// The record as the probe would send it.
fn bytes(input: &Input) -> Vec<u8> {
    let entries = entries(input);
    let missing = if entries.len() > LEAF_ENTRIES { u32::from(input.missing) } else { 0 };
    let words = |words: &[Word]| -> Vec<u64> { words.iter().map(|word| word.value()).collect() };
    let leaf = words(&input.stack);
    let root = input.root.map_or(0, |(words, _)| usize::from(words).min(leaf.len()));
    let mut header = Header {
        kind: record::SAMPLE,
        entries_found: entries.len() as u32 + missing,
        entries_kept: entries.len() as u32,
        kernel_bytes: input.kernel.len() as u32 * 8,
        leaf_bytes: leaf.len() as u32 * 8,
        root_bytes: root as u32 * 8,
        root_address: input.root.map_or(0, |(_, at)| STACK + u64::from(at) * 256),
        ..Header::default()
    };
    let registers = &mut header.registers;
    (registers.ip, registers.sp, registers.bx) = (input.ip.value(), input.sp.value(), input.bx.value());
    registers.volatile[1] = input.cx.value();
    let parts =
        [header.as_bytes(), entries.as_bytes(), input.kernel.as_bytes(), leaf.as_bytes(), leaf[..root].as_bytes()];
    let mut bytes = parts.concat();
    for (at, value) in &input.lies {
        let at = usize::from(*at) % bytes.len();
        bytes[at] = *value;
    }
    bytes.truncate(bytes.len().saturating_sub(input.short.unwrap_or(0).into()));
    bytes
}

fuzz_target!(|input: Input| {
    let bytes = bytes(&input);
    // As aligned as in the ring buffer.
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    aligned.as_mut_bytes()[..bytes.len()].copy_from_slice(&bytes);
    let Ok(Record::Sample(sample)) = Record::parse(&aligned.as_bytes()[..bytes.len()]) else { return };
    let header = sample.header;
    let activations = activations(&sample.entries, sample.cut.map(|cut| cut.before), header.registers.bx);
    let frames: usize = activations.iter().map(|activation| activation.frames.len()).sum();
    assert!(frames <= sample.entries.len() && activations.len() <= sample.entries.len());
    for activation in &activations {
        assert!(activation.cut.is_none_or(|cut| cut <= activation.frames.len()));
        for cframe in 0..activation.cframes.len() {
            activation.frames.get(activation.segment(cframe)).expect("a segment is a part of the frames");
        }
    }
    let model = if input.gc64 { Model::Gc64 } else { Model::Gc32 };
    let mut process = Process { code: input.code, bytes: &input.bytes, model };
    let pieces = weave(&sample, &activations, &mut process);
    let mut placed = 0;
    for piece in &pieces {
        match piece {
            Piece::Lua { activation, frames } => {
                placed += activations[*activation].frames.get(frames.clone()).expect("frames that exist").len();
            }
            Piece::Trace { activation, .. } | Piece::Exit { activation } => assert!(*activation < activations.len()),
            Piece::Kernel(_) | Piece::Native { .. } | Piece::Missing(_) => {}
        }
    }
    assert!(placed <= frames, "no frame is in a stack twice");
    assert!(pieces.len() <= sample.kernel.len() + 3 * sample.entries.len() + 2 * 2048 + 2, "{} pieces", pieces.len());
});
