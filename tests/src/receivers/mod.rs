//! What profiles are sent to and read with: real programs, and servers that apply the published rules of those that cannot be had.

pub mod collector;
pub mod faulty;
pub mod parca;
pub mod pprof_tool;
pub mod pyroscope;
