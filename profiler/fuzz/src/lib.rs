//! What the fuzz targets share: a limit on memory, the memory of a program that lies, and the VM in it.
//!
//! A target fails when it panics (overflows of numbers included), when it takes more memory or reads more of the program than
//! decoding may cost, and when it takes longer than the time that `cargo xtask fuzz` gives each input.

pub mod heap;
pub mod hostile;
pub mod vm;
