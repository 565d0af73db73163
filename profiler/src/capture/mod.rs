//! Captures: what a recording read of its targets, in a file from which it can be decoded again.
//!
//! Decoding is a function of the probe's records and of the answers that it gets from the
//! [`World`](crate::target::world::World). A [`Recorder`] is a world that asks the running system and writes down each
//! answer; [`Replayed`] is one that gives the same answers from the file. `docs/capture.md` describes the format.

mod file;
mod journal;
mod memory;
mod recorder;
mod replayed;
mod shrink;
mod stored;
#[cfg(test)]
mod tests;

pub use file::{Capture, CaptureError, Reason, Recording};
pub use recorder::Recorder;
pub use replayed::{Replayed, Step};
pub use shrink::shrink;
#[cfg(feature = "fuzzing")]
pub use stored::profile_file_of;
pub use stored::{profile_file, stored_profile};
