//! Walking native stacks, one frame at a time, from registers and a copy of the stack.
//!
//! Every step follows `.eh_frame`. Where that has nothing to say the walk ends with a reason: nothing is guessed from
//! frame pointers or instructions. Code that has no such information by nature, JIT machine code and parts of LuaJIT's
//! assembly, is the caller's to pass, who knows its frames.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use gimli::UnwindContext;
use rustc_hash::FxHashMap;

use super::cfi::Rule;
use super::image::Images;
use super::modules::{Code, Module, Modules};
use super::registers::{CodeAddress, Registers};
use crate::target::process::{Process, ProcessError};

/// A page on which no code was found is not looked for again during this time.
const MISS_TIME: Duration = Duration::from_secs(1);

/// Pages without code that are remembered.
const MAX_MISSES: usize = 1024;

/// Looking for unknown code may take this fraction of the time: one part in so many.
const REFRESH_SHARE: u32 = 20;

/// Why a step to the caller could not be taken. What was found before stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StepError {
    /// The place is in no executable memory.
    #[error("the address is not in executable memory")]
    NotCode,
    /// The place is in executable memory without a file, for which there is no unwind information.
    #[error("the address is in machine code that was made at run time")]
    AnonymousCode,
    /// The file that holds the code cannot be read.
    #[error("the file that the code is from cannot be read")]
    NoImage,
    /// The image has no unwind information for the place.
    #[error("the program has no unwind information for the address")]
    NoUnwindInfo,
    /// The unwind information for the place is broken or uses what no compiler writes.
    #[error("the unwind information for the address is malformed")]
    Malformed,
    /// A register is needed whose value is not known in this frame. It is given by its number in DWARF.
    #[error("the value of register {0}, which leads to the caller, is not known")]
    UnknownRegister(u8),
    /// The stack at this address could not be read: it was not copied.
    #[error("the stack was cut off")]
    Truncated(u64),
    /// The caller's frame would not lie above this one: following it could go round in circles.
    #[error("the caller's frame does not lie above its callee's")]
    NoProgress,
}

/// Where a step led.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The registers are those of the caller now, which is at this place. After a signal trampoline it is what the
    /// signal interrupted, and may be on another stack: bound the number of steps.
    Caller(CodeAddress),
    /// The frame was the outermost one (`_start`, a thread's start): the stack is complete. The registers are as before
    /// or without meaning.
    Root,
}

/// Walks the stacks of one process.
pub struct Unwinder {
    process: Arc<Process>,
    images: Arc<Images>,
    modules: Modules,
    generation: u64,
    /// Pages on which no code was found, and when.
    misses: FxHashMap<u64, Duration>,
    /// Looking for unknown code has to wait until then.
    rest_until: Option<Duration>,
    context: UnwindContext<usize>,
}

impl std::fmt::Debug for Unwinder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Unwinder").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Unwinder {
    /// Reads the mappings of the process and the headers of its images. `images` is shared by all processes.
    ///
    /// # Errors
    /// When the process has exited or may not be read.
    pub fn new(process: Arc<Process>, images: Arc<Images>) -> Result<Self, ProcessError> {
        let mut unwinder = Self {
            process,
            images,
            modules: Modules::default(),
            generation: 0,
            misses: FxHashMap::default(),
            rest_until: None,
            context: UnwindContext::new(),
        };
        unwinder.refresh()?;
        Ok(unwinder)
    }

    /// Reads the mappings again: libraries may have been loaded and unloaded, code compiled. Whether any executable
    /// mapping changed.
    ///
    /// [`Unwinder::step`] does this itself for addresses in no known mapping. A mapping that took the place of a known
    /// one is only noticed here: call it from time to time, and when the process has executed another program.
    ///
    /// # Errors
    /// When the process has exited or may not be read; what was known stays.
    pub fn refresh(&mut self) -> Result<bool, ProcessError> {
        let mappings = self.process.maps()?;
        if mappings.is_empty() {
            // It has exited, and its parent has not noticed yet. Samples of its last moments may still be waiting.
            return Ok(false);
        }
        let changed = self.modules.update(&mappings, &self.process, &self.images);
        if changed {
            self.generation += 1;
            self.misses.clear();
        }
        Ok(changed)
    }

    /// A number that grows whenever the executable mappings are seen to have changed.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// The modules, by address.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.modules.iter()
    }

    /// What code is at a runtime address, as far as is known without reading the mappings again.
    pub fn code_at(&self, address: u64) -> Code<'_> {
        self.modules.at(address)
    }

    /// The module at a runtime address; `None` for anonymous executable memory too.
    pub fn module_at(&self, address: u64) -> Option<&Module> {
        match self.modules.at(address) {
            Code::Module(module) => Some(module),
            Code::Anonymous | Code::None => None,
        }
    }

    /// Whether code at a runtime address may be executed. Reads the mappings again when the address is in none that is
    /// known, but neither twice for one page within a second nor all the time.
    pub fn executable(&mut self, address: u64) -> bool {
        self.find(address);
        !matches!(self.modules.at(address), Code::None)
    }

    /// The runtime addresses that the unwind entry (FDE) at a runtime address covers: a function, the part of one that
    /// the compiler split off, or a piece of assembly.
    pub fn fde_range(&self, address: u64) -> Option<Range<u64>> {
        let module = self.module_at(address)?;
        let (image, image_address) = module.locate(address)?;
        let range = image.fde_range(image_address)?;
        Some(range.start.wrapping_add(module.bias())..range.end.wrapping_add(module.bias()))
    }

    /// The runtime address at which the function at a runtime address starts: by its unwind entry, else by its symbol.
    /// In the part of a function that the compiler split off (`.cold`) it is the start of that part.
    pub fn function_start(&self, address: u64) -> Option<u64> {
        if let Some(range) = self.fde_range(address) {
            return Some(range.start);
        }
        let module = self.module_at(address)?;
        let (image, image_address) = module.locate(address)?;
        let symbol = image.symbol(image_address, &self.process, module.path())?;
        Some(symbol.address.wrapping_add(module.bias()))
    }

    /// Makes `registers` those of the caller.
    ///
    /// `read_stack` gives the 8 bytes at a runtime address, from the copied stack.
    ///
    /// Restored are the stack pointer, the place in the code, and the callee-saved registers (`bx`, `bp`, `r12` to `r15`)
    /// as far as their values were known or stored. The others stay as they were, except across a signal, which stores all: only
    /// hand-written assembly finds its frame by one of them, and it calls nothing but assembly that leaves that one alone.
    ///
    /// # Errors
    /// Why the caller is not known; `registers` are unchanged then.
    pub fn step(
        &mut self,
        registers: &mut Registers,
        read_stack: &mut dyn FnMut(u64) -> Result<u64, ()>,
    ) -> Result<Step, StepError> {
        let address = registers.code.lookup();
        self.find(address);
        let module = match self.modules.at(address) {
            Code::Module(module) => module,
            Code::Anonymous => return Err(StepError::AnonymousCode),
            Code::None => return Err(StepError::NotCode),
        };
        let (image, image_address) = module.locate(address).ok_or(StepError::NoImage)?;
        let goes_on = match image.rule(image_address, &mut self.context) {
            Rule::Frame(rule) => rule.apply(registers, read_stack)?,
            Rule::Root => false,
            Rule::Missing => return Err(StepError::NoUnwindInfo),
            Rule::Malformed => return Err(StepError::Malformed),
            Rule::General => {
                let (frames, bytes) = image.frames().ok_or(StepError::NoUnwindInfo)?;
                frames.evaluate(bytes, image_address, &mut self.context, registers, read_stack)?
            }
        };
        // A return address of zero is how a stack that was made by hand ends.
        Ok(if goes_on { Step::Caller(registers.code) } else { Step::Root })
    }

    /// Reads the mappings again if an address is in none that is known and has not been looked for lately.
    fn find(&mut self, address: u64) {
        if !matches!(self.modules.at(address), Code::None) {
            return;
        }
        let page = address >> 12;
        let now = self.process.now();
        let is_resting = self.rest_until.is_some_and(|until| now < until);
        let is_miss = self.misses.get(&page).is_some_and(|missed| now.saturating_sub(*missed) < MISS_TIME);
        if is_resting || is_miss {
            return;
        }
        // A process that has exited has no mappings any more; what is known of it stays.
        let _ = self.refresh();
        let end = self.process.now();
        self.rest_until = Some(end + end.saturating_sub(now) * REFRESH_SHARE);
        if matches!(self.modules.at(address), Code::None) {
            if self.misses.len() >= MAX_MISSES {
                self.misses.clear();
            }
            self.misses.insert(page, end);
        }
    }
}
