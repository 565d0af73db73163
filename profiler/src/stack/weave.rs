//! Weaves a sample's native frames and Lua frames into one stack.
//!
//! Each C frame of the VM's assembly on the native stack (`lj_vm_call`, `lj_vm_pcall`, `lj_vm_cpcall`, `lj_vm_resume`, an FFI
//! callback) is where exactly one segment of Lua frames runs. Native unwinding goes from the leaf up; where it meets the
//! VM's assembly or a trace's machine code, which unwinders cannot pass, the C frame says where native code goes on, and
//! its segment takes the place of the assembly.

use std::ops::Range;

use crate::luajit::arch::{CFRAME_SIZE, Model};
use crate::luajit::frames::{Activation, Source};
use crate::native::registers::{CodeAddress, Register, Registers};
use crate::native::unwind::{Step, StepError};
use crate::probe::sample::Sample;

/// A piece of a woven stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A kernel function, by an address in it.
    Kernel(u64),
    /// A native frame.
    Native {
        /// An address in the code that runs: the program counter, or one less than a return address.
        address: u64,
    },
    /// Machine code of a trace, leaf-ward of the frames of its activation: stands for the frames that are inlined in it.
    Trace {
        /// Index of the activation.
        activation: usize,
        /// An address in the machine code, as in [`Piece::Native`].
        address: u64,
    },
    /// A trace is being left, leaf-ward of the frames of its activation: its frames are on the Lua stack, or are being written to it.
    Exit {
        /// Index of the activation.
        activation: usize,
    },
    /// Frames of an activation, a range of [`Activation::frames`], innermost first.
    Lua {
        /// Index of the activation.
        activation: usize,
        /// Indexes of its frames.
        frames: Range<usize>,
    },
    /// Frames are missing here.
    Missing(Missing),
}

/// Why frames are missing from a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Missing {
    /// There were more Lua frames than a sample carries.
    LuaCut,
    /// The native stack was deeper than what a sample carries.
    NativeCut,
    /// The code has no unwind information, or what it says does not hold; the stack goes on at the next C frame of the VM.
    NativeGap(StepError),
    /// The same, and there is no C frame to go on from: the root is missing.
    NativeRoot(StepError),
    /// The stack has more frames than are believed.
    TooDeep,
    /// The interpreter was between two Lua frames, and none of its registers said which.
    LuaLeaf,
    /// A link of a Lua stack leads nowhere, or the VM was moving the stack to make room: the frames below are not known, and
    /// whether those shown there are its own.
    LuaLink,
    /// The VM's assembly runs, but no activation of the VM was found.
    NoActivation,
}

/// What code there is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The VM's assembly: the interpreter and the builtins in it.
    Assembly,
    /// Its part that leaves a trace (`lj_vm_exit_handler`).
    Exit,
    /// The VM's bridge to C functions called through FFI (`lj_vm_ffi_call`).
    FfiCall,
    /// Machine code of a trace, or one of its exit stubs.
    Trace,
    /// Code of a file.
    Native,
    /// Executable memory of no file.
    Anonymous,
    /// Nothing executable.
    None,
}

/// The native side of a process, as weaving needs it.
pub trait Native {
    /// How the VM stores references, values and frames.
    fn model(&self) -> Model;
    /// What code there is at an address.
    fn code(&mut self, address: u64) -> Code;
    /// Bytes of code at an address, or fewer at its end.
    fn instructions(&mut self, address: u64, buffer: &mut [u8]) -> usize;
    /// Replaces the registers of a frame by its caller's.
    ///
    /// # Errors
    /// Why that cannot be done; the registers are unchanged then.
    fn step(&mut self, registers: &mut Registers, word: &mut dyn FnMut(u64) -> Option<u64>) -> Result<Step, StepError>;
}

/// What runs in a C frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entered {
    Assembly,
    /// With an address in its machine code.
    Trace(u64),
    Exit,
}

/// Most frames believed of one native stack.
const MOST_FRAMES: usize = 2048;

/// Weaves a sample. The pieces are in the order from leaf to root.
pub fn weave(sample: &Sample<'_>, activations: &[Activation], native: &mut impl Native) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = sample.kernel.iter().map(|address| Piece::Kernel(*address)).collect();
    let registers = user_registers(sample);
    Weaver { sample, activations, native, pieces: &mut pieces, registers, next: (0, 0) }.run();
    pieces
}

fn user_registers(sample: &Sample<'_>) -> Registers {
    let from = &sample.header.registers;
    let mut registers = Registers::new(CodeAddress::Instruction(from.ip), from.sp);
    let [ax, cx, si, di, r8, r9, r10, r11] = from.volatile;
    for (register, value) in [
        (Register::Bp, from.bp),
        (Register::Bx, from.bx),
        (Register::Dx, from.dx),
        (Register::R12, from.r12),
        (Register::R13, from.r13),
        (Register::R14, from.r14),
        (Register::R15, from.r15),
        (Register::Ax, ax),
        (Register::Cx, cx),
        (Register::Si, si),
        (Register::Di, di),
        (Register::R8, r8),
        (Register::R9, r9),
        (Register::R10, r10),
        (Register::R11, r11),
    ] {
        registers.set(register, value);
    }
    registers
}

struct Weaver<'a, N> {
    sample: &'a Sample<'a>,
    activations: &'a [Activation],
    native: &'a mut N,
    pieces: &'a mut Vec<Piece>,
    registers: Registers,
    /// The next C frame to be met: index of its activation and in it.
    next: (usize, usize),
}

impl<N: Native> Weaver<'_, N> {
    fn run(&mut self) {
        for _ in 0..MOST_FRAMES {
            let address = self.registers.code.lookup();
            match self.native.code(address) {
                code @ (Code::Assembly | Code::Trace | Code::Exit) => {
                    if code == Code::Assembly
                        && (self.pass_helper_of_trace() || self.pass_helper_of_c() || self.pass_unknown_cframe())
                    {
                        continue;
                    }
                    let entered = match code {
                        Code::Trace => Entered::Trace(address),
                        Code::Exit => Entered::Exit,
                        _ => Entered::Assembly,
                    };
                    if !self.take_cframe(entered) {
                        self.pieces.push(Piece::Missing(Missing::NoActivation));
                        return;
                    }
                }
                code @ (Code::Native | Code::FfiCall) => {
                    self.pieces.push(Piece::Native { address });
                    if self.pass_landing() || code == Code::FfiCall && self.pass_edge_of_ffi_call() {
                        continue;
                    }
                    let stack = self.sample.stack;
                    match self.native.step(&mut self.registers, &mut |address| stack.word(address)) {
                        Ok(Step::Caller(_)) => {}
                        Ok(Step::Root) => return,
                        Err(error) => {
                            if !self.skip_to_cframe(error) {
                                return;
                            }
                        }
                    }
                }
                Code::Anonymous if self.pass_callback_stub() => {}
                code @ (Code::Anonymous | Code::None) => {
                    let error = if code == Code::None { StepError::NotCode } else { StepError::AnonymousCode };
                    if !self.skip_to_cframe(error) {
                        return;
                    }
                }
            }
        }
        self.pieces.push(Piece::Missing(Missing::TooDeep));
    }

    /// Address of the next C frame to be met.
    fn next_cframe(&mut self) -> Option<u64> {
        loop {
            let activation = self.activations.get(self.next.0)?;
            match activation.cframes.get(self.next.1) {
                Some(cframe) => return Some(cframe.address),
                None if activation.cframes.is_empty() && !activation.frames.is_empty() => {
                    // What is left of an activation whose C frames were cut out.
                    self.cut_activation();
                }
                None => self.next = (self.next.0 + 1, 0),
            }
        }
    }

    fn cut_activation(&mut self) {
        let frames = 0..self.activations[self.next.0].frames.len();
        self.pieces.push(Piece::Missing(Missing::LuaCut));
        self.pieces.push(Piece::Lua { activation: self.next.0, frames });
        self.next = (self.next.0 + 1, 0);
    }

    /// Puts the segment of the next C frame on the stack, and goes on with the code that entered the VM there.
    fn take_cframe(&mut self, entered: Entered) -> bool {
        let sp = self.registers.sp();
        loop {
            let Some(address) = self.next_cframe() else { return false };
            if address >= sp {
                break;
            }
            // Unwinding has passed it already without meeting the VM: what ran in it cannot be placed better than here.
            self.emit_segment(Entered::Assembly);
        }
        let address = self.next_cframe().unwrap_or_default();
        self.emit_segment(entered);
        self.leave(address, entered)
    }

    /// Sets the registers to those of the caller of a C frame's owner.
    fn leave(&mut self, cframe: u64, entered: Entered) -> bool {
        let word = |offset| self.sample.stack.word(cframe.wrapping_add(offset));
        // `saveregs` of `vm_x64.dasc`: rbp, rbx, r15, r14 are pushed below the return address.
        let (Some(ip), Some(bp), Some(bx), Some(r15), Some(r14)) = (word(72), word(64), word(56), word(48), word(40))
        else {
            return false;
        };
        let mut caller = Registers::new(CodeAddress::Return(ip), cframe.wrapping_add(CFRAME_SIZE));
        for (register, value) in [(Register::Bp, bp), (Register::Bx, bx), (Register::R15, r15), (Register::R14, r14)] {
            caller.set(register, value);
        }
        // The assembly leaves the other two alone. Entering a trace saves them where the C frame ends, r13 below r12 or
        // without GC64 above it. There they are until the exit handler is done.
        let others = match entered {
            Entered::Assembly if self.registers.sp() == cframe => {
                [self.registers.get(Register::R12), self.registers.get(Register::R13)]
            }
            Entered::Assembly => [None, None],
            Entered::Trace(_) | Entered::Exit => {
                let second = match self.native.model() {
                    Model::Gc64 => cframe.wrapping_sub(8),
                    Model::Gc32 => cframe + 8,
                };
                [word(0), self.sample.stack.word(second)]
            }
        };
        for (register, value) in [Register::R12, Register::R13].into_iter().zip(others) {
            if let Some(value) = value {
                caller.set(register, value);
            }
        }
        self.registers = caller;
        true
    }

    fn emit_segment(&mut self, entered: Entered) {
        let (index, cframe) = self.next;
        let activation = &self.activations[index];
        match entered {
            Entered::Trace(address) => self.pieces.push(Piece::Trace { activation: index, address }),
            Entered::Exit => self.pieces.push(Piece::Exit { activation: index }),
            Entered::Assembly => {}
        }
        if activation.leaf_unknown && cframe == 0 {
            self.pieces.push(Piece::Missing(Missing::LuaLeaf));
        }
        let frames = activation.segment(cframe);
        match activation.cut {
            Some(cut) if frames.contains(&cut) => {
                self.emit(index, frames.start..cut);
                self.pieces.push(Piece::Missing(Missing::LuaCut));
                self.emit(index, cut..frames.end);
            }
            _ => self.emit(index, frames.clone()),
        }
        self.next.1 += 1;
        if activation.broken && self.next.1 == activation.cframes.len() {
            // What is left runs in C frames that are not known.
            self.pieces.push(Piece::Missing(Missing::LuaLink));
            self.emit(index, frames.end..activation.frames.len());
        }
    }

    fn emit(&mut self, activation: usize, frames: Range<usize>) {
        if !frames.is_empty() {
            self.pieces.push(Piece::Lua { activation, frames });
        }
    }

    /// A trace has called a helper in the assembly (`lj_vm_next`, `lj_vm_floor`), which makes no frame: the trace goes on
    /// where the return address says.
    fn pass_helper_of_trace(&mut self) -> bool {
        let CodeAddress::Instruction(_) = self.registers.code else { return false };
        let sp = self.registers.sp();
        if self.next != (0, 0) || self.activations.first().is_none_or(|activation| activation.source != Source::Trace) {
            return false;
        }
        let Some(back) = self.sample.stack.word(sp) else { return false };
        if self.native.code(back.wrapping_sub(1)) != Code::Trace || !self.is_behind_call(back) {
            return false;
        }
        self.registers.code = CodeAddress::Return(back);
        self.registers.set(Register::Sp, sp.wrapping_add(8));
        true
    }

    /// A C function has called a helper in the assembly (`lj_vm_floor`, from `lj_vm_foldarith`), which makes no frame. What is on the
    /// stack above it could as well be a C frame that is just being made, but the call says where it went.
    fn pass_helper_of_c(&mut self) -> bool {
        /// Bytes of a helper, at most.
        const HELPER: u64 = 256;
        /// `push rbp; push rbx`, where code begins that makes a C frame (`saveregs`).
        const ENTRY: [u8; 2] = [0x55, 0x53];
        let CodeAddress::Instruction(ip) = self.registers.code else { return false };
        let sp = self.registers.sp();
        let Some(back) = self.sample.stack.word(sp) else { return false };
        let (mut call, mut start) = ([0; 5], [0; 2]);
        if self.native.code(back.wrapping_sub(1)) != Code::Native
            || self.native.instructions(back.wrapping_sub(5), &mut call) < call.len()
        {
            return false;
        }
        let [0xe8, offset @ ..] = call else { return false };
        let target = back.wrapping_add_signed(i32::from_le_bytes(offset).into());
        if ip.wrapping_sub(target) >= HELPER
            || self.native.code(target) != Code::Assembly
            || self.native.instructions(target, &mut start) < start.len()
            || start == ENTRY
        {
            return false;
        }
        self.registers.code = CodeAddress::Return(back);
        self.registers.set(Register::Sp, sp.wrapping_add(8));
        true
    }

    /// The assembly enters or leaves a C frame that the VM does not know yet or no longer: it has no Lua frames, and
    /// native code goes on above it.
    ///
    /// Entering: `55 53 41 57 41 56 48 83 ec 28` (`saveregs`), leaving: `48 83 c4 28 41 5e 41 5f 5b 5d c3`
    /// (`restoreregs; ret`).
    fn pass_unknown_cframe(&mut self) -> bool {
        let sp = self.registers.sp();
        let known = self.next_cframe();
        let above = |sp: u64| known.is_none_or(|known| known >= sp.saturating_add(CFRAME_SIZE));
        if let CodeAddress::Instruction(ip) = self.registers.code
            && let Some(pushed) = self.pushed_words(ip)
        {
            let Some(back) = self.sample.stack.word(sp.wrapping_add(pushed * 8)) else { return false };
            if !matches!(self.native.code(back.wrapping_sub(1)), Code::Native | Code::FfiCall | Code::Assembly) {
                return false;
            }
            let mut caller = Registers::new(CodeAddress::Return(back), sp.wrapping_add((pushed + 1) * 8));
            // Of the registers, in the order that they are pushed, some are still in place.
            for (number, register) in [Register::Bp, Register::Bx, Register::R15, Register::R14].into_iter().enumerate()
            {
                let number = number as u64;
                let saved = (number < pushed.min(4))
                    .then(|| self.sample.stack.word(sp.wrapping_add((pushed - 1 - number) * 8)));
                if let Some(value) = saved.unwrap_or(self.registers.get(register)) {
                    caller.set(register, value);
                }
            }
            for register in [Register::R12, Register::R13] {
                if let Some(value) = self.registers.get(register) {
                    caller.set(register, value);
                }
            }
            self.registers = caller;
            return true;
        }
        if known == Some(sp) || !above(sp) {
            return false;
        }
        let Some(ip) = self.sample.stack.word(sp.wrapping_add(CFRAME_SIZE - 8)) else { return false };
        let caller = self.native.code(ip.wrapping_sub(1));
        if !matches!(caller, Code::Native | Code::FfiCall) || !self.is_behind_call(ip) {
            return false;
        }
        self.leave(sp, Entered::Assembly)
    }

    /// The C runtime's unwinder has put the VM's registers back to let it catch an error, and is at its jump there:
    /// `ff e1` (`jmp *%rcx`, `__builtin_eh_return`). Its own frame is gone.
    fn pass_landing(&mut self) -> bool {
        let (CodeAddress::Instruction(ip), Some(target)) = (self.registers.code, self.registers.get(Register::Cx))
        else {
            return false;
        };
        let mut jump = [0; 2];
        let landing = self.next_cframe() == Some(self.registers.sp())
            && self.native.instructions(ip, &mut jump) == 2
            && jump == [0xff, 0xe1]
            && self.native.code(target) == Code::Assembly;
        if landing {
            self.registers.code = CodeAddress::Instruction(target);
        }
        landing
    }

    /// An FFI callback is on its way from C code to the assembly, in the machine code made for it
    /// (`callback_mcode_init`, `lj_ccallback.c`): `b0 slot` (`mov al`), perhaps a jump `eb`, `55` (`push rbp`),
    /// `b4 page` (`mov ah`), `48 bd g` or without GC64 `bd g` (`mov rbp`), `ff 25 offset` (`jmp` to the assembly).
    fn pass_callback_stub(&mut self) -> bool {
        const MOST_INSTRUCTIONS: usize = 6;
        let CodeAddress::Instruction(mut at) = self.registers.code else { return false };
        let mut pushed = true;
        for _ in 0..MOST_INSTRUCTIONS {
            let mut code = [0; 6];
            if self.native.instructions(at, &mut code) < code.len() {
                return false;
            }
            at = match code {
                [0xb0 | 0xb4, ..] => at.wrapping_add(2),
                [0xeb, offset, ..] => at.wrapping_add(2).wrapping_add_signed(i64::from(offset.cast_signed())),
                [0x55, ..] => {
                    pushed = false;
                    at.wrapping_add(1)
                }
                [0x48, 0xbd, ..] => at.wrapping_add(10),
                [0xbd, ..] => at.wrapping_add(5),
                [0xff, 0x25, a, b, c, d] => {
                    let offset = i32::from_le_bytes([a, b, c, d]);
                    let mut target = [0; 8];
                    let from = at.wrapping_add(6).wrapping_add_signed(offset.into());
                    return self.native.instructions(from, &mut target) == 8
                        && self.native.code(u64::from_le_bytes(target)) == Code::Assembly
                        && self.return_from(pushed);
                }
                _ => return false,
            };
        }
        false
    }

    /// `lj_vm_ffi_call` has unwind information for its body only (`emit_asm_debug`, `buildvm_asm.c`). It is not true in
    /// the first two instructions, `55 48 89 e5` (`push rbp; mov rbp, rsp`), and at the end of `c9 c3` (`leave; ret`).
    fn pass_edge_of_ffi_call(&mut self) -> bool {
        let CodeAddress::Instruction(ip) = self.registers.code else { return false };
        let mut code = [0; 5];
        if self.native.instructions(ip.wrapping_sub(1), &mut code) < code.len() {
            return false;
        }
        match code {
            [_, 0x55, 0x48, 0x89, 0xe5] | [0xc9, 0xc3, ..] => self.return_from(false),
            [0x55, 0x48, 0x89, 0xe5, _] => self.return_from(true),
            _ => false,
        }
    }

    /// Goes on at the caller of code that has pushed rbp, or nothing, below its return address.
    fn return_from(&mut self, pushed: bool) -> bool {
        let (sp, stack) = (self.registers.sp(), self.sample.stack);
        let words = u64::from(pushed);
        let Some(back) = stack.word(sp.wrapping_add(words * 8)) else { return false };
        if pushed && let Some(bp) = stack.word(sp) {
            self.registers.set(Register::Bp, bp);
        }
        self.registers.set(Register::Sp, sp.wrapping_add((words + 1) * 8));
        self.registers.code = CodeAddress::Return(back);
        true
    }

    /// How many words the function entry or exit at the leaf has on the stack below its return address, when the leaf is
    /// in one.
    fn pushed_words(&mut self, ip: u64) -> Option<u64> {
        const START: &[u8] = &[0x55, 0x53, 0x41, 0x57, 0x41, 0x56, 0x48, 0x83, 0xec, 0x28];
        // An FFI callback has pushed rbp before it comes to the assembly.
        const ENTRY: &[u8] = &[0x53, 0x41, 0x57, 0x41, 0x56, 0x48, 0x83, 0xec, 0x28];
        const EXIT: &[u8] = &[0x48, 0x83, 0xc4, 0x28, 0x41, 0x5e, 0x41, 0x5f, 0x5b, 0x5d, 0xc3];
        // Bytes of the pattern before the program counter, and the words pushed there.
        const STATES: [(&[u8], u64, u64); 10] = [
            (START, 0, 0),
            (ENTRY, 0, 1),
            (ENTRY, 1, 2),
            (ENTRY, 3, 3),
            (ENTRY, 5, 4),
            (EXIT, 4, 4),
            (EXIT, 6, 3),
            (EXIT, 8, 2),
            (EXIT, 9, 1),
            (EXIT, 10, 0),
        ];
        const REACH: u64 = 10;
        let mut code = [0; 2 * REACH as usize + 1];
        let got = self.native.instructions(ip.wrapping_sub(REACH), &mut code);
        STATES.iter().find_map(|(pattern, before, pushed)| {
            let start = (REACH - before) as usize;
            (code[..got].get(start..start + pattern.len()) == Some(*pattern)).then_some(*pushed)
        })
    }

    /// Whether the instruction before an address is a call: `e8 rel32`, or `ff /2` with any operand.
    fn is_behind_call(&mut self, address: u64) -> bool {
        let mut code = [0; 7];
        if self.native.instructions(address.wrapping_sub(7), &mut code) < code.len() {
            return false;
        }
        code[2] == 0xe8 || (0..=5).any(|at| code[at] == 0xff && code[at + 1] >> 3 & 7 == 2)
    }

    /// Native unwinding stopped: goes on at the next C frame whose owner's caller can be read.
    fn skip_to_cframe(&mut self, stop: StepError) -> bool {
        let cut = matches!(stop, StepError::Truncated(_)) && !self.sample.stack.root.is_empty();
        let mut said = false;
        while let Some(address) = self.next_cframe() {
            if !said {
                said = true;
                let why = if cut { Missing::NativeCut } else { Missing::NativeGap(stop) };
                self.pieces.push(Piece::Missing(why));
            }
            self.emit_segment(Entered::Assembly);
            if self.leave(address, Entered::Assembly) {
                return true;
            }
        }
        self.pieces.push(Piece::Missing(if cut { Missing::NativeCut } else { Missing::NativeRoot(stop) }));
        false
    }
}

#[cfg(test)]
mod tests {
    use luaflame_ebpf::{Entry, Header, entry, frame};

    use super::*;
    use crate::luajit::frames::activations;
    use crate::probe::sample::StackCopy;

    /// The VM's assembly below 0x1000, at its end the exit handler, native code whose frames are a return address below 0x2000, nothing else.
    struct Process;

    impl Native for Process {
        fn model(&self) -> Model {
            Model::Gc64
        }

        fn code(&mut self, address: u64) -> Code {
            match address {
                0..0xf00 => Code::Assembly,
                0xf00..0x1000 => Code::Exit,
                0x1000..0x2000 => Code::Native,
                _ => Code::None,
            }
        }

        /// A call at 0x1100 of the helper at 0x800.
        fn instructions(&mut self, address: u64, buffer: &mut [u8]) -> usize {
            let code: &[u8] = match address {
                0x1100 => &[0xe8, 0xfb, 0xf6, 0xff, 0xff],
                0x800 => &[0x90, 0x90],
                _ => &[],
            };
            let length = code.len().min(buffer.len());
            buffer[..length].copy_from_slice(&code[..length]);
            length
        }

        fn step(
            &mut self,
            registers: &mut Registers,
            word: &mut dyn FnMut(u64) -> Option<u64>,
        ) -> Result<Step, StepError> {
            let sp = registers.sp();
            let back = word(sp).filter(|back| *back != 0);
            let Some(back) = back else { return Ok(Step::Root) };
            *registers = Registers::new(CodeAddress::Return(back), sp.wrapping_add(8));
            Ok(Step::Caller(registers.code))
        }
    }

    /// The pieces of a sample of these entries, all of the first activation, with this stack from SP up.
    fn woven(ip: u64, sp: u64, entries: &[Entry], stack: &[u64]) -> Vec<Piece> {
        let mut header = Header::default();
        (header.registers.ip, header.registers.sp) = (ip, sp);
        let bytes: Vec<u8> = stack.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let stack = StackCopy { red_zone: &[], leaf_address: sp, leaf: &bytes, root_address: 0, root: &[] };
        let owner = 1 << frame::ACTIVATION_SHIFT;
        let entries: Vec<Entry> = entries.iter().map(|entry| Entry { flags: owner, ..*entry }).collect();
        let sample = Sample { header: &header, entries, cut: None, kernel: Vec::new(), stack };
        weave(&sample, &activations(&sample.entries, None, 0), &mut Process)
    }

    const SP: u64 = 0x7000;
    const ACTIVATION: Entry =
        Entry { kind: entry::ACTIVATION, ffid: 0, flags: 0, slot: 0, words: [0; 5], numbers: [0; 4] };

    fn cframe(address: u64) -> Entry {
        Entry { kind: entry::CFRAME, words: [address, 0, 0, 0, 0], ..ACTIVATION }
    }

    /// A C function called from C (`FRAME_C`), or by `pcall` (`FRAME_PCALL`).
    fn called(slot: u32, link: u64) -> Entry {
        Entry { kind: entry::FRAME, ffid: 1, slot, words: [link, 0, 0, 0, 0], ..ACTIVATION }
    }

    /// A C frame at SP, whose owner was called from native code at the root.
    fn stack() -> [u64; 11] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x1500, 0]
    }

    #[test]
    fn frames_below_a_link_that_leads_nowhere_are_said_to_be_missing() {
        let native = Piece::Native { address: 0x14ff };
        let whole = woven(0x500, SP, &[ACTIVATION, cframe(SP), called(4, 17)], &stack());
        assert_eq!(whole, [Piece::Lua { activation: 0, frames: 0..1 }, native.clone()]);
        let broken = Entry { kind: entry::BROKEN, ..ACTIVATION };
        let pieces = woven(0x500, SP, &[ACTIVATION, cframe(SP), called(9, 22), broken], &stack());
        let missing = Piece::Missing(Missing::LuaLink);
        assert_eq!(pieces, [Piece::Lua { activation: 0, frames: 0..1 }, missing.clone(), native.clone()]);
        let pieces = woven(0x500, SP, &[ACTIVATION, cframe(SP), broken, called(9, 17), called(4, 17)], &stack());
        let frames = |frames| Piece::Lua { activation: 0, frames };
        assert_eq!(pieces, [frames(0..1), missing, frames(1..2), native], "frames of a C frame that is not known");
    }

    #[test]
    fn a_helper_that_c_code_calls_is_no_frame() {
        // The helper at SP, and above it a C function in the C frame. Where a C frame at SP would end is a stale return address.
        let mut words = [0; 13];
        (words[0], words[1], words[9], words[11]) = (0x1105, 0x400, 0x1600, 0x1500);
        let native = |address| Piece::Native { address };
        let pieces = woven(0x804, SP, &[ACTIVATION, cframe(SP + 16), called(4, 17)], &words);
        assert_eq!(pieces, [native(0x1104), Piece::Lua { activation: 0, frames: 0..1 }, native(0x14ff)]);
    }

    #[test]
    fn a_trace_that_is_left_is_where_the_exit_handler_has_called_from() {
        // A C function at SP that the handler has called. Above that are saved registers, which may look like a C frame.
        let mut words = [0; 31];
        (words[0], words[10], words[29]) = (0xf10, 0x1600, 0x1500);
        let native = |address| Piece::Native { address };
        let pieces = woven(0x1200, SP, &[ACTIVATION, cframe(SP + 20 * 8), called(4, 17)], &words);
        let left = [Piece::Exit { activation: 0 }, Piece::Lua { activation: 0, frames: 0..1 }];
        assert_eq!(pieces, [&[native(0x1200)], &left[..], &[native(0x14ff)]].concat());
        let pieces = woven(0xf04, SP, &[ACTIVATION, cframe(SP + 20 * 8), called(4, 17)], &words);
        assert_eq!(pieces, [&left[..], &[native(0x14ff)]].concat(), "before the call");
    }

    #[test]
    fn a_stack_pointer_may_be_anything() {
        for sp in [0, 8, u64::MAX - 7, u64::MAX - 40, u64::MAX - 79, u64::MAX] {
            for ip in [0x500, 0x1500, 0x2500] {
                let pieces = woven(ip, sp, &[ACTIVATION, cframe(u64::MAX - 15), called(4, 17)], &stack());
                assert!(!pieces.is_empty());
            }
        }
    }
}
