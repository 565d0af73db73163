//! Real programs to profile, and what must hold for the stacks that were seen in them.
//!
//! The tests proper are in `tests/`; `cargo xtask demo` and `cargo xtask bench` start their nginx from here too.

pub mod legal;
pub mod nginx;
pub mod process;
pub mod stacks;
