//! The rotating directory of profiles: a pprof file for each service and window.

use std::time::SystemTime;

use super::config;
use crate::profile::Profile;
use crate::profile::window::Window;

/// The directory, and what is known of the files in it. Shared between threads.
#[derive(Debug)]
pub struct Store;

/// What to take from a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// One service, or all.
    pub service: Option<String>,
    /// One process, or all.
    pub pid: Option<u32>,
    /// Windows that end after this ...
    pub from: SystemTime,
    /// ... and begin before this.
    pub to: SystemTime,
}

/// What a store has of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredService {
    /// Its name.
    pub name: String,
    /// Its processes, in the order first seen.
    pub processes: Vec<StoredProcess>,
    /// When its first window begins.
    pub first: SystemTime,
    /// When its last window ends.
    pub last: SystemTime,
    /// Samples in all of its windows.
    pub samples: u64,
}

/// What a store has of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProcess {
    /// Its number. Two processes may have had the same, one after the other.
    pub pid: u32,
    /// When it started, in clock ticks after boot.
    pub started: u64,
    /// Its command name.
    pub command: String,
    /// Which of its server's workers it is.
    pub worker: Option<u32>,
    /// Its container.
    pub container: Option<String>,
    /// When its first window begins.
    pub first: SystemTime,
    /// When its last window ends.
    pub last: SystemTime,
}

/// What a store holds, and what has happened to it since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Metrics {
    /// Files of ours in the directory.
    pub files: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Files written.
    pub written: u64,
    /// Files deleted, since all together took too much, or were too many.
    pub expired_by_size: u64,
    /// Files deleted, since they were too old.
    pub expired_by_age: u64,
    /// Files deleted, since the file system was full.
    pub expired_by_space: u64,
    /// Files that could not be written.
    pub write_errors: u64,
    /// Files in the directory that are not ours.
    pub foreign: u64,
    /// Files of ours that could not be read when they were asked for.
    pub unreadable: u64,
}

/// Why something could not be stored, or taken from the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is more than is put together at once.
    #[error("the profiles of this time together are too large: choose a shorter time, one service, or one process")]
    TooLarge,
}

impl Store {
    /// Opens a directory, which is created when it is not there.
    ///
    /// # Errors
    /// When it cannot be created, read or written, and when another daemon has it open.
    pub fn open(_config: &config::Store) -> anyhow::Result<Store> {
        Ok(Store)
    }

    /// Writes a file for each service of a window, whole or not at all, and deletes what is too old or too much.
    ///
    /// # Errors
    /// When some of the files could not be written; the others are.
    pub fn write(&self, _window: &Window) -> Result<(), StoreError> {
        Ok(())
    }

    /// The services and processes with windows that end after `from` and begin before `to`.
    pub fn services(&self, _from: SystemTime, _to: SystemTime) -> Vec<StoredService> {
        Vec::new()
    }

    /// When each such window of a service, or of all, begins, how long it is, in seconds, and the number of its samples, in the
    /// order of time.
    pub fn timeline(&self, _service: Option<&str>, _from: SystemTime, _to: SystemTime) -> Vec<(SystemTime, f64, u64)> {
        Vec::new()
    }

    /// The profile of all windows of a selection together. Its `meta.seconds` is the time that they cover.
    ///
    /// # Errors
    /// When it becomes too large to be held in memory.
    pub fn profile(&self, _selection: &Selection) -> Result<Profile, StoreError> {
        Ok(Profile::default())
    }

    /// Takes over new limits. The directory stays the one that was opened.
    pub fn reconfigure(&self, _config: &config::Store) {}

    /// What it holds, and what has happened.
    pub fn metrics(&self) -> Metrics {
        Metrics::default()
    }
}
