//! Unwinding and symbols of native and kernel code.
//!
//! Addresses come in two kinds. A *runtime address* is one of the process. An *image address* is the same place as the
//! ELF file states it (what `objdump` and `addr2line` show); runtime address = image address + the module's bias.

mod cfi;
mod debug;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod kernel;
#[cfg(all(test, target_arch = "x86_64"))]
mod live_tests;
pub mod modules;
pub mod registers;
mod stubs;
mod symbol_table;
pub mod symbols;
pub mod unwind;
