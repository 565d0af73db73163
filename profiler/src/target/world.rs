//! What is asked about processes, and who answers.
//!
//! Everything that decoding learns of its targets, beyond the probe's records, it learns through [`World`] and [`Source`].
//! The running system answers as [`live`](super::live::live); a capture writes down what it answered, and answers the same
//! in its place when it is replayed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead};
use std::path::Path;
use std::time::Duration;

use super::files::{MappedFile, NoFile};
use super::maps::Mapping;
use crate::luajit::memory::ReadError;

/// A system with processes.
pub trait World: fmt::Debug + Send + Sync {
    /// Time since some moment before the first question.
    fn now(&self) -> Duration;

    /// The process, or thread, with this id.
    ///
    /// # Errors
    /// When there is none, or it may not be looked at.
    fn process(&self, pid: u32) -> io::Result<Box<dyn Source>>;

    /// The pids of the direct children of a process, ascending.
    ///
    /// # Errors
    /// When there is no such process, or it may not be looked at.
    fn children(&self, pid: u32) -> io::Result<Vec<u32>>;

    /// The symbols of its kernel, as `/proc/kallsyms` shows them.
    ///
    /// # Errors
    /// When they may not be read.
    fn kernel_symbols(&self) -> io::Result<Box<dyn BufRead>>;

    /// Told before a record of the probe is decoded: what is asked next, is asked for its sake.
    fn record(&self, _record: &[u8]) {}

    /// Told before processes are looked at that may have ended.
    fn look(&self) {}

    /// Whether it has no room for more answers, as a capture that has become too large.
    fn is_full(&self) -> bool {
        false
    }
}

/// One process, and never another one that has its pid later, except where it says so.
pub trait Source: fmt::Debug + Send + Sync {
    /// A file of its `/proc/PID`, whole.
    ///
    /// # Errors
    /// When the process has exited, or it may not be read.
    fn file(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Where a link of its `/proc/PID` leads to.
    ///
    /// # Errors
    /// When the process has exited, or it may not be read.
    fn link(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Fills `buffer` with its memory from `address` on, or fails as a whole. After it has exited this may meet another
    /// process.
    ///
    /// # Errors
    /// When any of the bytes cannot be read.
    fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError>;

    /// The CPU time that it has used, to the nanosecond, if all of its threads are asleep: between two moments with the same it has
    /// not run. While one runs, Linux brings the clock of another process up to date only with each tick of the scheduler.
    ///
    /// # Errors
    /// When one of its threads runs or waits for a CPU, when it has very many, when the process has exited, or in a world that does not run.
    fn resting_time(&self) -> io::Result<Duration> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The file behind a mapping.
    ///
    /// # Errors
    /// When the mapping has no file, or the file cannot be had or cannot be told from another one.
    fn mapped_file(&self, mapping: &Mapping) -> Result<MappedFile, NoFile>;

    /// A regular file by its path inside its root: also symbolic links lead nowhere else.
    ///
    /// # Errors
    /// When there is no such file, it is not a regular one, or the root may not be entered.
    fn file_in_root(&self, path: &Path) -> Result<File, NoFile>;

    /// The same, of a file that has not been changed since the process started, `started` clock ticks after boot.
    ///
    /// # Errors
    /// Also when it has been changed. A file that was put in place by renaming counts as changed then, whatever date it
    /// brings.
    fn unchanged_file(&self, path: &Path, started: u64) -> Result<File, NoFile>;
}
