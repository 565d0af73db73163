//! Real programs to profile, and what must hold for the stacks that were seen in them.
//!
//! The tests proper are in `tests/`; `cargo xtask truth`, `demo` and `bench` start their programs from here too.

pub mod browser;
pub mod builds;
pub mod daemon;
pub mod graph;
pub mod hosts;
pub mod legal;
pub mod load;
pub mod luaflame;
pub mod nginx;
pub mod paths;
pub mod process;
pub mod programs;
pub mod receivers;
pub mod shares;
pub mod stacks;
pub mod terminal;
pub mod truth;
pub mod witness;
pub mod workload;
