//! Weaving: one true stack from the native stack and the Lua stacks.

pub mod process;
pub mod resolve;
pub mod weave;
