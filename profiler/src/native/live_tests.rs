//! Unwinding and naming the stacks of real programs, compiled here, whose call graphs are known. Needs `gcc`, `strip`,
//! `objcopy` and the right to ptrace one's own children (only the tests stop a program to see its registers).

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use super::image::Images;
use super::modules::Code;
use super::registers::{CodeAddress, Register, Registers};
use super::symbols::{NativeFrame, Symbolizer};
use super::unwind::{Step, StepError, Unwinder};
use crate::luajit::memory::Memory;
use crate::target::live::live;
use crate::target::process::Process;

/// Deepest stack of these tests.
const MAX_DEPTH: usize = 200;

/// Calls `inner` through `outer` and `middle`, then tells that it is there and stays.
const CHAIN: &str = r#"
#include <unistd.h>
volatile int sink;
static inline __attribute__((always_inline)) void inlined(void) { sink++; write(1, "x", 1);
    for (;;) pause(); }
__attribute__((noinline)) void inner(void) { inlined(); sink++; }
__attribute__((noinline)) int middle(int n) {
    char room[100] = {0};
    asm volatile("xor %%ebx, %%ebx; xor %%r12d, %%r12d; xor %%r13d, %%r13d" : : "r"(room) : "rbx", "r12", "r13", "memory");
    inner();
    return room[n];
}
__attribute__((noinline)) int outer(int n) {
    register long b asm("rbx") = 0x1122334455667788;
    register long c asm("r12") = 0x12121212;
    register long d asm("r13") = 0x13131313;
    asm volatile("" : "+r"(b), "+r"(c), "+r"(d));
    int result = middle(n);
    asm volatile("" : "+r"(b), "+r"(c), "+r"(d));
    return result + sink;
}
int main(int count, char **arguments) { (void)arguments; return outer(count) + sink; }
"#;

/// A program in a folder of its own.
struct Program {
    folder: TempDir,
    path: PathBuf,
}

fn compile(source: &str, flags: &[&str]) -> Program {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    std::fs::write(folder.path().join("program.c"), source).unwrap();
    run(
        Command::new("gcc").args(flags).args(["-fomit-frame-pointer", "-o", "program", "program.c", "-pthread"]),
        &folder,
    );
    Program { folder, path }
}

fn run(command: &mut Command, folder: &TempDir) {
    let output = command.current_dir(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A running program that has told that it is where it stays.
struct Running(Child);

impl Running {
    fn new(path: &Path) -> Self {
        let mut child = Command::new(path).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        Self(child)
    }

    fn process(&self) -> Arc<Process> {
        Arc::new(Process::open(&live(), self.0.id()).unwrap())
    }

    fn unwinder(&self) -> Unwinder {
        Unwinder::new(self.process(), Arc::default()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a sample holds: registers, and the stack from the stack pointer on.
struct Sample {
    registers: Registers,
    stack: Vec<u8>,
}

impl Sample {
    /// Stops the thread for a moment.
    fn take(thread: u32, process: &Process) -> Self {
        let registers = user_registers(thread, || {
            let memory = process.memory();
            move |registers: &Registers| {
                let sp = registers.sp();
                let end = process.maps().unwrap().iter().find(|mapping| mapping.range.contains(&sp)).unwrap().range.end;
                memory.bytes(sp, (end - sp).min(256 << 10) as usize).unwrap()
            }
        });
        Self { registers: registers.0, stack: registers.1 }
    }

    fn read(&self, address: u64) -> Result<u64, ()> {
        let at = usize::try_from(address.checked_sub(self.registers.sp()).ok_or(())?).map_err(|_| ())?;
        let bytes = self.stack.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or(())?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// The registers of every frame, innermost first, and how the walk ended.
    fn walk(&self, unwinder: &mut Unwinder) -> (Vec<Registers>, Result<(), StepError>) {
        self.walk_with(unwinder, &mut |address| self.read(address))
    }

    /// The same with another copy of the stack.
    fn walk_with(
        &self,
        unwinder: &mut Unwinder,
        read: &mut dyn FnMut(u64) -> Result<u64, ()>,
    ) -> (Vec<Registers>, Result<(), StepError>) {
        let mut registers = self.registers;
        let mut frames = vec![registers];
        while frames.len() < MAX_DEPTH {
            match unwinder.step(&mut registers, read) {
                Ok(Step::Caller(code)) => {
                    assert_eq!(code, registers.code);
                    frames.push(registers);
                }
                Ok(Step::Root) => return (frames, Ok(())),
                Err(error) => return (frames, Err(error)),
            }
        }
        panic!("no end after {MAX_DEPTH} frames");
    }
}

/// The registers of a thread, and what `look` makes of them before the thread goes on.
fn user_registers<T, L: FnOnce(&Registers) -> T>(thread: u32, look: impl FnOnce() -> L) -> (Registers, T) {
    let pid = thread as libc::pid_t;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: ptrace only acts on the child.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, null, null), 0, "{}", std::io::Error::last_os_error());
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, null, null), 0);
    }
    let registers = stopped_registers(pid);
    let seen = look()(&registers);
    // SAFETY: as above.
    unsafe { assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, null, null), 0) };
    (registers, seen)
}

/// The registers of a traced thread when it has stopped.
fn stopped_registers(pid: libc::pid_t) -> Registers {
    // SAFETY: waitpid only waits for the child; GETREGS writes one user_regs_struct to where it is told, for which zeros
    // are a valid value.
    let user = unsafe {
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, libc::__WALL), pid);
        assert!(libc::WIFSTOPPED(status));
        let mut user: libc::user_regs_struct = std::mem::zeroed();
        let null = std::ptr::null_mut::<libc::c_void>();
        assert_eq!(libc::ptrace(libc::PTRACE_GETREGS, pid, null, &raw mut user), 0);
        user
    };
    let mut registers = Registers::new(CodeAddress::Instruction(user.rip), user.rsp);
    for (register, value) in [
        (Register::Ax, user.rax),
        (Register::Dx, user.rdx),
        (Register::Cx, user.rcx),
        (Register::Bx, user.rbx),
        (Register::Si, user.rsi),
        (Register::Di, user.rdi),
        (Register::Bp, user.rbp),
        (Register::R8, user.r8),
        (Register::R9, user.r9),
        (Register::R10, user.r10),
        (Register::R11, user.r11),
        (Register::R12, user.r12),
        (Register::R13, user.r13),
        (Register::R14, user.r14),
        (Register::R15, user.r15),
    ] {
        registers.set(register, value);
    }
    registers
}

/// Every frame with its functions, root first.
fn symbolize(unwinder: &Unwinder, frames: &[Registers]) -> Vec<NativeFrame> {
    let mut symbolizer = Symbolizer::default();
    let mut out = Vec::new();
    for frame in frames.iter().rev() {
        symbolizer.symbolize(unwinder, frame.code.lookup(), &mut out);
    }
    out
}

fn names(frames: &[NativeFrame]) -> Vec<&str> {
    frames.iter().map(|frame| &*frame.name).collect()
}

/// Asserts that `expected` occur among the names, next to each other.
fn assert_path(frames: &[NativeFrame], expected: &[&str]) {
    let names = names(frames);
    assert!(names.windows(expected.len()).any(|window| window == expected), "{expected:?} is not in {names:#?}");
}

#[test]
fn a_stack_is_complete_from_the_entry_to_the_leaf() {
    for flags in [&["-O2"][..], &["-O0"], &["-O2", "-static"], &["-O2", "-no-pie"], &["-O2", "-Wl,-z,noseparate-code"]]
    {
        let program = compile(CHAIN, flags);
        let running = Running::new(&program.path);
        let mut unwinder = running.unwinder();
        let sample = Sample::take(running.0.id(), unwinder.process());
        let (frames, end) = sample.walk(&mut unwinder);
        assert_eq!(end, Ok(()), "{flags:?}");
        let shown = symbolize(&unwinder, &frames);
        assert_eq!(&*shown[0].name, "_start", "{flags:?}");
        assert_path(&shown, &["main", "outer", "middle", "inner"]);
        assert!(shown.iter().filter(|frame| &*frame.module == "program").all(|frame| !frame.unresolved));
    }
}

#[test]
fn callee_saved_registers_are_restored() {
    let program = compile(CHAIN, &["-O2"]);
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, _) = sample.walk(&mut unwinder);
    let in_function = |frame: &&Registers, name: &str| &*symbolize(&unwinder, &[**frame])[0].name == name;
    let outer = frames.iter().find(|frame| in_function(frame, "outer")).unwrap();
    assert_eq!(outer.get(Register::Bx), Some(0x1122_3344_5566_7788));
    assert_eq!(outer.get(Register::R12), Some(0x1212_1212));
    assert_eq!(outer.get(Register::R13), Some(0x1313_1313));
    let middle = frames.iter().find(|frame| in_function(frame, "middle")).unwrap();
    assert_eq!(middle.get(Register::Bx), Some(0));
}

/// Assembly as in OpenSSL: `framed` finds its frame by r9, which its callee leaves alone, and `leaf` by what it has stored
/// below the stack pointer: its CFA is the word at rsp - 8, plus 8.
const ASSEMBLY: &str = r#"
int framed(void);
asm(".text\n"
    ".globl framed\n"
    ".type framed, @function\n"
    "framed: .cfi_startproc\n"
    "    mov %rsp, %r9\n"
    "    .cfi_def_cfa_register %r9\n"
    "    sub $1000, %rsp\n"
    "    and $-512, %rsp\n"
    "    call leaf\n"
    "    mov %r9, %rsp\n"
    "    .cfi_def_cfa_register %rsp\n"
    "    ret\n"
    "    .cfi_endproc\n"
    "    .size framed, . - framed\n"
    ".type leaf, @function\n"
    "leaf: .cfi_startproc\n"
    "    mov %rsp, -8(%rsp)\n"
    "    .cfi_escape 0x0f, 5, 0x77, 0x78, 0x06, 0x23, 8\n"
    "    mov $1, %eax\n"
    "    mov $1, %edi\n"
    "    lea told(%rip), %rsi\n"
    "    mov $1, %edx\n"
    "    syscall\n"
    "1:  mov $34, %eax\n"
    "    syscall\n"
    "    jmp 1b\n"
    "    .cfi_endproc\n"
    "    .size leaf, . - leaf\n"
    "told: .ascii \"x\"\n");
int main(void) { return framed() + 1; }
"#;

#[test]
fn assembly_finds_its_frame_in_its_own_ways() {
    let program = compile(ASSEMBLY, &["-O2"]);
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let process = running.process();
    let sample = Sample::take(running.0.id(), &process);
    let (frames, end) = sample.walk_with(&mut unwinder, &mut |address| process.memory().u64(address).map_err(|_| ()));
    assert_eq!(end, Ok(()));
    assert_path(&symbolize(&unwinder, &frames), &["main", "framed", "leaf"]);
}

#[test]
fn inlined_functions_and_lines_are_shown_where_debug_information_tells() {
    let program = compile(CHAIN, &["-O2", "-g"]);
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, _) = sample.walk(&mut unwinder);
    let shown = symbolize(&unwinder, &frames);
    assert_path(&shown, &["main", "outer", "middle", "inner", "inlined"]);
    let inlined = shown.iter().find(|frame| &*frame.name == "inlined").unwrap();
    assert!(inlined.inlined);
    assert!(inlined.line == 4 || inlined.line == 5, "{inlined:?}");
    assert!(inlined.file.as_ref().unwrap().ends_with("program.c"));
    let inner = shown.iter().find(|frame| &*frame.name == "inner").unwrap();
    assert_eq!((inner.inlined, inner.line), (false, 6));
}

#[test]
fn debug_information_split_off_by_debuglink_is_found() {
    for compress in [&[][..], &["--compress-debug-sections=zlib"]] {
        let program = compile(CHAIN, &["-O2", "-g"]);
        let tool = |arguments: &[&str]| run(Command::new("objcopy").args(arguments), &program.folder);
        tool(&[&["--only-keep-debug"], compress, &["program", "program.debug"]].concat());
        tool(&["--strip-all", "--add-gnu-debuglink=program.debug", "program"]);
        let running = Running::new(&program.path);
        let mut unwinder = running.unwinder();
        let sample = Sample::take(running.0.id(), unwinder.process());
        let (frames, _) = sample.walk(&mut unwinder);
        assert_path(&symbolize(&unwinder, &frames), &["main", "outer", "middle", "inner", "inlined"]);
    }
}

#[test]
fn the_debug_file_of_another_build_is_not_believed() {
    let program = compile(CHAIN, &["-O2", "-g"]);
    let other = compile(&CHAIN.replace("inner", "wrong"), &["-O2", "-g"]);
    std::fs::copy(&other.path, program.folder.path().join("program.debug")).unwrap();
    run(Command::new("objcopy").args(["--strip-all", "--add-gnu-debuglink=program.debug", "program"]), &program.folder);
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, _) = sample.walk(&mut unwinder);
    let shown = symbolize(&unwinder, &frames);
    assert!(!names(&shown).contains(&"wrong"));
    assert!(shown.iter().filter(|frame| &*frame.module == "program").all(|frame| frame.unresolved));
}

#[test]
fn a_stripped_and_deleted_program_is_unwound_and_its_functions_told_apart() {
    let program = compile(CHAIN, &["-O2", "-s"]);
    let running = Running::new(&program.path);
    std::fs::remove_file(&program.path).unwrap();
    let mut unwinder = running.unwinder();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, end) = sample.walk(&mut unwinder);
    assert_eq!(end, Ok(()));
    let shown = symbolize(&unwinder, &frames);
    let ours: Vec<_> = shown.iter().filter(|frame| &*frame.module == "program").collect();
    assert_eq!(ours.len(), 5, "_start, main, outer, middle, inner: {ours:#?}");
    for frame in &ours {
        assert!(frame.unresolved && frame.name.starts_with("program+0x"), "{frame:?}");
    }
    // A function is named by where it starts, so that all its samples are one box.
    let leaf =
        frames.iter().find(|frame| unwinder.module_at(frame.code.lookup()).is_some_and(|it| &**it.name() == "program"));
    let lookup = leaf.unwrap().code.lookup();
    let start = unwinder.function_start(lookup).unwrap();
    let module = unwinder.module_at(lookup).unwrap();
    assert_eq!(*ours[4].name, *format!("program+{:#x}", start - module.bias()));
    assert!(unwinder.fde_range(lookup).unwrap().contains(&lookup));
}

#[test]
fn the_start_of_a_function_is_what_a_pointer_to_it_holds() {
    let program = compile(CHAIN, &["-O2"]);
    let running = Running::new(&program.path);
    let unwinder = running.unwinder();
    let nm = Command::new("nm").arg(&program.path).output().unwrap();
    let nm = String::from_utf8(nm.stdout).unwrap();
    let address = |name: &str| {
        let line = nm.lines().find(|line| line.ends_with(&format!(" T {name}"))).unwrap();
        u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap()
    };
    let module = unwinder.modules().find(|module| &**module.name() == "program").unwrap();
    for name in ["main", "outer", "middle", "inner"] {
        let pointer = address(name) + module.bias();
        assert_eq!(unwinder.function_start(pointer), Some(pointer));
        assert_eq!(unwinder.function_start(pointer + 3), Some(pointer));
    }
}

#[test]
fn a_signal_handler_stands_on_what_it_interrupted() {
    let program = compile(
        r#"
        #include <signal.h>
        #include <stdlib.h>
        #include <unistd.h>
        __attribute__((noinline)) void handler(int signal) { (void)signal; write(1, "x", 1); for (;;) pause(); }
        volatile int sink;
        __attribute__((noinline)) int work(int *place) { sink++; *place = 1; return ++sink; }
        int main(void) {
            stack_t stack = { .ss_sp = malloc(65536), .ss_size = 65536 };
            sigaltstack(&stack, 0);
            struct sigaction action = { .sa_handler = handler, .sa_flags = FLAGS };
            sigaction(SIGSEGV, &action, 0);
            return work((int *)8) + sink;
        }"#,
        &["-O2", "-DFLAGS=0"],
    );
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, end) = sample.walk(&mut unwinder);
    assert_eq!(end, Ok(()));
    let shown = symbolize(&unwinder, &frames);
    let names = names(&shown);
    let at =
        |name: &str| names.iter().position(|it| *it == name).unwrap_or_else(|| panic!("{name} is not in {names:?}"));
    assert!(at("main") < at("work") && at("work") < at("handler"), "{names:?}");
    // The interrupted instruction is the one that stores, not the one before it.
    let work = frames.iter().find(|frame| symbolize(&unwinder, &[**frame])[0].name.as_ref() == "work").unwrap();
    assert!(matches!(work.code, CodeAddress::Instruction(_)));
    assert!(work.get(Register::Ax).is_some(), "the kernel saves all registers");
}

#[test]
fn a_thread_ends_where_it_was_cloned() {
    let program = compile(
        r#"
        #include <pthread.h>
        #include <unistd.h>
        __attribute__((noinline)) void *body(void *it) { write(1, "x", 1); for (;;) pause(); return it; }
        int main(void) { pthread_t thread; pthread_create(&thread, 0, body, 0); pthread_join(thread, 0); }
        "#,
        &["-O2"],
    );
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", running.0.id())).unwrap();
    let ids = tasks.map(|task| task.unwrap().file_name().into_string().unwrap().parse::<u32>().unwrap());
    let thread = ids.max().unwrap();
    assert_ne!(thread, running.0.id());
    let sample = Sample::take(thread, unwinder.process());
    let (frames, end) = sample.walk(&mut unwinder);
    assert_eq!(end, Ok(()));
    assert!(names(&symbolize(&unwinder, &frames)).contains(&"body"));
}

#[test]
fn a_stack_that_was_cut_is_said_to_be() {
    let program = compile(CHAIN, &["-O2"]);
    let running = Running::new(&program.path);
    let mut unwinder = running.unwinder();
    let mut sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, _) = sample.walk(&mut unwinder);
    let whole = sample.stack.clone();
    for length in (0..whole.len()).step_by(40).chain([7, 8]) {
        sample.stack = whole[..length].to_vec();
        let (cut, end) = sample.walk(&mut unwinder);
        assert!(cut.len() <= frames.len());
        assert!(cut.iter().zip(&frames).all(|(left, right)| left.code == right.code), "a cut invents no frames");
        if cut.len() < frames.len() {
            let first_gone = sample.registers.sp() + length as u64 - 7;
            assert!(
                matches!(end, Err(StepError::Truncated(address)) if address >= first_gone),
                "{end:x?} with all from {first_gone:#x} on cut off, at {:x?}",
                cut.last()
            );
        }
    }
}

#[test]
fn anonymous_code_is_told_from_modules_and_found_when_it_appears() {
    let program = compile(
        r#"
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        __attribute__((noinline)) void stay(void) { write(1, "y", 1); for (;;) pause(); }
        int main(void) {
            char byte;
            write(1, "x", 1);
            read(0, &byte, 1);
            unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3}; /* push rbp; mov rbp,rsp; call rdi */
            void *place = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memcpy(place, code, sizeof code);
            ((void (*)(void (*)(void)))place)(stay);
        }"#,
        &["-O2"],
    );
    let mut child = Command::new(&program.path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut byte = [0];
    output.read_exact(&mut byte).unwrap();
    let mut running = Running(child);
    let mut unwinder = running.unwinder();
    let before = unwinder.generation();
    std::io::Write::write_all(running.0.stdin.as_mut().unwrap(), b"x").unwrap();
    output.read_exact(&mut byte).unwrap();
    let sample = Sample::take(running.0.id(), unwinder.process());
    let (frames, end) = sample.walk(&mut unwinder);
    assert_eq!(end, Err(StepError::AnonymousCode), "frame pointers are not followed");
    assert!(unwinder.generation() > before);
    let place = frames.last().unwrap().code.lookup();
    assert!(matches!(unwinder.code_at(place), Code::Anonymous));
    assert!(unwinder.module_at(place).is_none() && unwinder.executable(place));
    let shown = symbolize(&unwinder, &frames);
    assert_eq!((&*shown[0].name, shown[0].unresolved), ("[anonymous]", true));
    assert!(!unwinder.executable(0x10) && !unwinder.executable(sample.registers.sp()));
    let lost = Registers::new(CodeAddress::Instruction(0), sample.registers.sp());
    assert_eq!(unwinder.step(&mut { lost }, &mut |_| Ok(0)), Err(StepError::NotCode));
}

#[test]
fn the_vdso_is_a_module_with_names_and_unwind_information() {
    let unwinder =
        Unwinder::new(Arc::new(Process::open(&live(), std::process::id()).unwrap()), Arc::default()).unwrap();
    let module = unwinder.modules().find(|module| &**module.name() == "[vdso]").unwrap();
    let range = module.range();
    let mut symbolizer = Symbolizer::default();
    let mut out = Vec::new();
    for address in range.clone().step_by(16).filter(|address| unwinder.fde_range(*address).is_some()) {
        symbolizer.symbolize(&unwinder, address, &mut out);
    }
    assert!(
        out.iter().any(|frame| frame.name.ends_with("vdso_clock_gettime") || &*frame.name == "clock_gettime"),
        "{out:?}"
    );
}

#[test]
fn processes_share_images() {
    let images = Arc::new(Images::default());
    let program = compile(CHAIN, &["-O2"]);
    let running = [Running::new(&program.path), Running::new(&program.path)];
    let unwinders = running.each_ref().map(|it| Unwinder::new(it.process(), Arc::clone(&images)).unwrap());
    let [first, second] = unwinders
        .each_ref()
        .map(|unwinder| unwinder.modules().map(|module| Arc::as_ptr(module.image().unwrap())).collect::<Vec<_>>());
    assert_eq!(first, second);
}

/// Calls libc functions that call back, allocate, format and copy, through lazily bound PLT entries, in functions with
/// aligned, variable and large frames.
const BUSY: &str = r#"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
volatile long sink;
static int compare(const void *left, const void *right) { sink++; return *(const int *)left - *(const int *)right; }
__attribute__((noinline)) void sort(void) {
    int numbers[16];
    for (int i = 0; i < 16; i++) numbers[i] = (i * 7919) % 101;
    qsort(numbers, 16, sizeof *numbers, compare);
    sink += numbers[3];
}
__attribute__((noinline)) void format(void) {
    char text[64];
    snprintf(text, sizeof text, "%d %s %f", (int)sink, "words", 1.5);
    sink += strtod(text, 0) + strlen(text);
}
__attribute__((noinline)) void allocate(int n) { char *p = malloc(n); memset(p, 1, n); sink += p[n / 2]; free(p); }
__attribute__((noinline)) void aligned(int n) {
    double room[16] __attribute__((aligned(64)));
    char variable[n];
    memset(variable, 2, n);
    for (int i = 0; i < 16; i++) room[i] = i + variable[i % n];
    asm volatile("" : : "r"(room) : "memory");
    sink += room[3];
}
__attribute__((noinline)) long recurse(int n) { sink++; return n ? recurse(n - 1) + sink : getppid(); }
__attribute__((noinline)) void step(int n) { sort(); format(); allocate(100 + n); aligned(20 + n); sink += recurse(n); }
int main(void) { write(1, "x", 1); for (int n = 0;; n = (n + 1) % 30) step(n); }
"#;

/// The only callers that each function of `BUSY` has.
fn is_legal(caller: &str, callee: &str) -> bool {
    match callee {
        "main" => true,
        "step" => caller == "main",
        "sort" | "format" | "allocate" | "aligned" => caller == "step",
        "recurse" => matches!(caller, "step" | "recurse"),
        _ => true,
    }
}

/// Every instruction: prologues, epilogues, lazy binding in the dynamic linker, linkage stubs.
#[test]
fn the_stack_is_complete_and_legal_at_every_instruction() {
    let plain = ["-O2", "-fno-optimize-sibling-calls", "-fno-ipa-cp", "-fno-partial-inlining"];
    for flags in [&["-Wl,-z,lazy"][..], &["-O0", "-mavx", "-Wl,-z,now"], &["-static"]] {
        let program = compile(BUSY, &[&plain, flags].concat());
        let running = Running::new(&program.path);
        let mut unwinder = running.unwinder();
        let mut seen = std::collections::BTreeSet::new();
        let mut symbolizer = Symbolizer::default();
        let maps = unwinder.process().maps().unwrap();
        let stack_end = maps.iter().find(|mapping| mapping.name() == "[stack]").unwrap().range.end;
        single_steps(running.0.id(), 20_000, |registers| {
            let sp = registers.sp();
            let stack = unwinder.process().memory().bytes(sp, (stack_end - sp) as usize).unwrap();
            let (frames, end) = Sample { registers: *registers, stack }.walk(&mut unwinder);
            let mut shown = Vec::new();
            for frame in frames.iter().rev() {
                symbolizer.symbolize(&unwinder, frame.code.lookup(), &mut shown);
            }
            let names = names(&shown);
            assert_eq!(end, Ok(()), "{flags:?} {names:?} at {:x?}", frames.last());
            assert_eq!(names[0], "_start", "{flags:?}");
            assert_eq!(names.iter().filter(|name| **name == "main").count(), 1, "{flags:?} {names:?}");
            // Linkage stubs and libc's inner functions may have no name.
            for pair in shown.windows(2).filter(|pair| pair.iter().all(|frame| !frame.unresolved)) {
                assert!(is_legal(&pair[0].name, &pair[1].name), "{flags:?} {names:?}");
            }
            seen.extend(names.iter().map(|name| name.to_string()));
        });
        for name in ["sort", "compare", "format", "allocate", "aligned", "recurse"] {
            assert!(seen.contains(name), "{flags:?} {seen:?}");
        }
    }
}

/// Lets a thread run `count` instructions, one by one.
fn single_steps(thread: u32, count: usize, mut look: impl FnMut(&Registers)) {
    let pid = thread as libc::pid_t;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: ptrace and waitpid only act on the child.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, null, null), 0, "{}", std::io::Error::last_os_error());
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, null, null), 0);
    }
    for _ in 0..count {
        look(&stopped_registers(pid));
        // SAFETY: as above.
        unsafe { assert_eq!(libc::ptrace(libc::PTRACE_SINGLESTEP, pid, null, null), 0) };
    }
}
