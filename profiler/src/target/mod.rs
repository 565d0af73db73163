//! A process under observation: its memory, its mappings, its files, its children.
//!
//! Everything here only reads: no `ptrace`, no namespace is entered, the process is never stopped.

pub mod children;
pub mod files;
pub mod live;
pub mod maps;
pub mod memory;
pub mod process;
pub mod steady;
pub mod world;
