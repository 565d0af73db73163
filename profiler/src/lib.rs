//! On-CPU profiling of running programs that embed LuaJIT.
//!
//! One sample flows in one direction, and each arrow is a plain data type:
//!
//! ```text
//! probe (kernel) -> sample -> unwind native + decode Lua -> weave -> symbolize -> profile -> format
//! ```

pub mod capture;
pub mod daemon;
pub mod dump;
pub mod export;
pub mod format;
pub mod import;
pub mod luajit;
pub mod native;
pub mod probe;
pub mod profile;
pub mod record;
pub mod replay;
pub mod stack;
pub mod target;
pub mod targets;
