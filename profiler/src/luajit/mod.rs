//! Reading LuaJIT: where its structs lie, which VMs a process holds, and what its frames, prototypes and traces say.
//!
//! Nothing here knows how a sample was taken or what becomes of it: all reads go through [`memory::Memory`].

pub mod arch;
mod branch;
pub mod bytecode;
pub mod copies;
pub mod coroutines;
pub mod definition;
pub mod discover;
pub mod exit_handler;
pub mod exit_stub;
pub mod frames;
pub mod handlers;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod image;
pub mod layout;
pub mod locals;
pub mod memory;
pub mod names;
pub mod object;
pub mod pages;
pub mod proto;
pub mod snapshot;
pub mod source;
pub mod standing;
pub mod thread;
pub mod trace;
pub mod trace_map;
pub mod values;
mod walk;

#[cfg(test)]
mod trace_tests;
