//! The journal of a capture: the probe's records, and between them what was asked for their sake and answered.
//!
//! Each event is written as postcard writes it. The variants are numbered by their order: new ones go to the end.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::target::files::{Found, NoFile};

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// A record of the probe: what follows was asked to decode it.
    Record(#[serde(with = "serde_bytes")] Vec<u8>),
    /// All records that were waiting had been read: what follows was asked to find processes that had ended.
    Look,
    /// A question and its answer.
    Asked(Question, Answer),
}

/// What can be asked. A process is named by the number of the answer that opened it, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Question {
    /// The time.
    Now,
    /// Opening the process with this pid.
    Process(u32),
    /// The children of the process with this pid.
    Children(u32),
    /// A file of `/proc/PID`.
    File { process: u32, name: String },
    /// A link of `/proc/PID`.
    Link { process: u32, name: String },
    /// Memory.
    Memory { process: u32, address: u64, length: u32 },
    /// The file behind the mapping of these addresses.
    MappedFile { process: u32, start: u64, end: u64 },
    /// A file by its path inside the root.
    FileInRoot {
        process: u32,
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
}

/// What can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The system's error number.
    Failed(i32),
    /// Nanoseconds since some moment.
    Time(u64),
    /// The process is open, with this number from now on.
    Process(u32),
    /// Pids.
    Pids(Vec<u32>),
    /// What a file, a link or memory holds.
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The file with this number: the sections that hold files are counted from 0.
    File { file: u32, by: By },
    /// Why there is no file.
    NoFile(Refusal),
}

/// How a file was found: [`Found`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum By {
    Mapping,
    Path,
    PathOnOtherDevice,
}

/// Why there is no file: [`NoFile`], without the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    NotAFile,
    Replaced { path: String },
    Unreadable { path: String, error: i32 },
    NotRegular { path: String },
    Changed { path: String },
}

impl Answer {
    /// What became of a question that an error number can answer.
    pub(super) fn of<T>(result: &io::Result<T>, answer: impl FnOnce(&T) -> Answer) -> Answer {
        match result {
            Ok(value) => answer(value),
            Err(error) => Answer::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }
}

impl From<Found> for By {
    fn from(found: Found) -> By {
        match found {
            Found::ByMapping => By::Mapping,
            Found::ByPath => By::Path,
            Found::ByPathOnOtherDevice => By::PathOnOtherDevice,
        }
    }
}

impl From<By> for Found {
    fn from(by: By) -> Found {
        match by {
            By::Mapping => Found::ByMapping,
            By::Path => Found::ByPath,
            By::PathOnOtherDevice => Found::ByPathOnOtherDevice,
        }
    }
}

impl From<&NoFile> for Refusal {
    fn from(reason: &NoFile) -> Refusal {
        match reason {
            NoFile::NotAFile => Refusal::NotAFile,
            NoFile::Replaced { path } => Refusal::Replaced { path: path.clone() },
            NoFile::Unreadable { path, error, .. } => {
                Refusal::Unreadable { path: path.clone(), error: error.raw_os_error() }
            }
            NoFile::NotRegular { path } => Refusal::NotRegular { path: path.clone() },
            NoFile::Changed { path } => Refusal::Changed { path: path.clone() },
        }
    }
}

impl Refusal {
    /// The reason, for the process with this pid.
    pub(super) fn reason(self, pid: u32) -> NoFile {
        match self {
            Refusal::NotAFile => NoFile::NotAFile,
            Refusal::Replaced { path } => NoFile::Replaced { path },
            Refusal::Unreadable { path, error } => {
                NoFile::Unreadable { path, pid, error: Errno::from_raw_os_error(error) }
            }
            Refusal::NotRegular { path } => NoFile::NotRegular { path },
            Refusal::Changed { path } => NoFile::Changed { path },
        }
    }
}
