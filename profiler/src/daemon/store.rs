//! The rotating directory of profiles: a pprof file for each service and window, which `pprof` and `luaflame report` read as
//! they are.
//!
//! ```text
//! DIRECTORY/nginx.service/20261128T054415.123Z-15.000.pb.gz
//! ```
//!
//! What is asked most often, such as which processes there are, each file tells in the header of its compression (`summary.rs`): at the start
//! only those are read, and kept. A file without it, or with a name of another form, is not ours, and is left as it is.
//!
//! Files appear when they are whole, and nothing is known beside them, so whenever the daemon ends, the directory is as it should be; what
//! was being written then is removed at the next start. How old a file is, is known by a clock that is not set: for what was there
//! at the start, by its name, once.

mod collector;
mod directory;
mod summary;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use indexmap::IndexMap;

pub use self::collector::Collector;
use super::config;
use crate::import::pprof;
use crate::profile::Profile;
use crate::profile::view::Lines;
use crate::profile::window::{ProcessProfile, Window, merged};
use directory::{Clock, Found};
use summary::{Process, Summary};

/// Most files, whatever they take: what is known of each is kept in memory, about a hundred bytes.
const MAX_FILES: usize = 1 << 17;
/// Most bytes of a profile that is put together ([`Profile::weight`]).
const MAX_WEIGHT: usize = if cfg!(test) { 64 << 10 } else { 96 << 20 };
/// Most stacks of it, counted apart for each thread and state.
const MAX_COUNTED: usize = 1 << 20;
/// File systems give space in pieces of this many bytes.
const BLOCK: u64 = 4096;

/// The directory, and what is known of the files in it. Shared between threads.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Held as long as the store is open.
    _lock: File,
    clock: Clock,
    index: Mutex<Index>,
    counters: Counters,
}

/// What is known of the files, in the order in which they were written.
#[derive(Debug, Default)]
struct Index {
    entries: VecDeque<Entry>,
    /// That all of them take.
    bytes: u64,
    max_bytes: u64,
    max_age: Duration,
}

/// What is known of a file.
#[derive(Debug, Clone)]
struct Entry {
    /// The directory of its service.
    folder: Arc<str>,
    service: Arc<str>,
    /// Its name.
    name: Box<str>,
    start: SystemTime,
    seconds: f64,
    /// Bytes that it takes.
    bytes: u64,
    /// When it was written, since the store was opened: negative when before.
    born: i64,
    samples: u64,
    /// Shared with the file before it of the same service, as long as they are the same.
    processes: Arc<[Arc<Process>]>,
    /// It was tried to read it in vain.
    unreadable: bool,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    expired_by_size: AtomicU64,
    expired_by_age: AtomicU64,
    expired_by_space: AtomicU64,
    write_errors: AtomicU64,
    foreign: AtomicU64,
    unreadable: AtomicU64,
}

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
    /// Its processes, in the order first seen; of each window the first 256.
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
    /// A file could not be written.
    #[error(
        "the profile of {service} cannot be written to {}: {error}; {lost} profiles of this window are lost, and the next are tried again",
        .directory.display()
    )]
    Unwritten {
        /// The directory that it should be in.
        directory: PathBuf,
        /// The service.
        service: String,
        /// What the system said.
        error: io::Error,
        /// How many profiles of the window were not written.
        lost: u64,
    },
    /// There is more than is put together at once.
    #[error("the profiles of this time together are too large: choose a shorter time, one service, or one process")]
    TooLarge,
}

impl Store {
    /// Opens a directory, which is created when it is not there. What an earlier run had begun to write is removed.
    ///
    /// # Errors
    /// When it cannot be created, read or written, and when another daemon has it open.
    pub fn open(config: &config::Store) -> anyhow::Result<Store> {
        Store::open_at(config, Clock::new())
    }

    fn open_at(config: &config::Store, clock: Clock) -> anyhow::Result<Store> {
        let directory = config.directory.clone();
        let lock = directory::lock(&directory)?;
        let Found { entries, foreign, left_over } = directory::read(&directory, &clock)?;
        if foreign > 0 {
            let path = directory.display();
            log::warn!("{foreign} files in {path} are no profiles that luaflame has written, and are left as they are");
        }
        if left_over > 0 {
            log::info!("{left_over} files that were not finished were removed from {}", directory.display());
        }
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        let counters = Counters { foreign: AtomicU64::new(foreign), ..Counters::default() };
        let index = Index { entries: entries.into(), bytes, ..Index::default() };
        let store = Store { directory, _lock: lock, clock, index: Mutex::new(index), counters };
        store.reconfigure(config);
        Ok(store)
    }

    /// Writes a file for each service of a window, whole or not at all, and deletes what is too old or too much. When the file system is full,
    /// the oldest files make room: what is new is worth more.
    ///
    /// # Errors
    /// When some of the files could not be written; the others are.
    pub fn write(&self, window: &Window) -> Result<(), StoreError> {
        let mut failed: Option<(String, io::Error)> = None;
        let mut lost = 0;
        for (service, processes) in window.services() {
            if let Err(error) = self.write_service(window, service, &processes) {
                lost += 1;
                self.counters.write_errors.fetch_add(1, Ordering::Relaxed);
                failed.get_or_insert((service.to_owned(), error));
            }
        }
        self.rotate();
        let Some((service, error)) = failed else { return Ok(()) };
        Err(StoreError::Unwritten { directory: self.directory.clone(), service, error, lost })
    }

    fn write_service(&self, window: &Window, service: &str, processes: &[&ProcessProfile]) -> io::Result<()> {
        let mut profile = merged(processes.iter().copied());
        // Window and profile are of one time, and the window is the one that says which.
        (profile.meta.started, profile.meta.seconds) = (Some(window.started), window.seconds);
        let summary = Summary::of(service, processes);
        let bytes = summary.compressed(&crate::format::pprof::converted(&profile, Lines::Both));
        drop(profile);
        let folder = directory::folder(service);
        let path = self.directory.join(&folder);
        let name = loop {
            match directory::write(&path, window, &bytes) {
                Err(error) if is_full(&error) && self.make_room(bytes.len() as u64) => {}
                written => break written?,
            }
        };
        self.counters.written.fetch_add(1, Ordering::Relaxed);
        let mut index = self.index();
        let last = index.entries.iter().rev().take(1000).find(|entry| *entry.service == *service);
        let processes = summary.shared(last.map(|last| &last.processes));
        let (folder, service) = match last {
            Some(last) => (Arc::clone(&last.folder), Arc::clone(&last.service)),
            None => (folder.into(), service.into()),
        };
        let entry = Entry {
            folder,
            service,
            name: name.into(),
            start: window.started,
            seconds: window.seconds,
            bytes: on_disk(bytes.len() as u64),
            born: self.clock.now(),
            samples: summary.samples,
            processes,
            unreadable: false,
        };
        index.bytes += entry.bytes;
        index.entries.push_back(entry);
        Ok(())
    }

    /// The services and processes with windows that end after `from` and begin before `to`, by name.
    pub fn services(&self, from: SystemTime, to: SystemTime) -> Vec<StoredService> {
        type Processes = IndexMap<(u32, u64), StoredProcess>;
        let mut services: IndexMap<Arc<str>, (StoredService, Processes)> = IndexMap::new();
        for entry in self.index().entries.iter().filter(|entry| entry.overlaps(from, to)) {
            let (first, last) = (entry.start, entry.end());
            let (service, processes) = services.entry(Arc::clone(&entry.service)).or_insert_with(|| {
                let name = entry.service.to_string();
                (StoredService { name, processes: Vec::new(), first, last, samples: 0 }, IndexMap::new())
            });
            (service.first, service.last) = (service.first.min(first), service.last.max(last));
            service.samples += entry.samples;
            for process in &*entry.processes {
                let Process { pid, started, command, worker, container } = &**process;
                let known = processes.entry((*pid, *started)).or_insert_with(|| StoredProcess {
                    pid: *pid,
                    started: *started,
                    command: command.clone(),
                    worker: *worker,
                    container: container.clone(),
                    first,
                    last,
                });
                (known.first, known.last) = (known.first.min(first), known.last.max(last));
            }
        }
        let whole = |(service, processes): (StoredService, Processes)| StoredService {
            processes: processes.into_values().collect(),
            ..service
        };
        let mut services: Vec<StoredService> = services.into_values().map(whole).collect();
        services.sort_by(|one, other| one.name.cmp(&other.name));
        services
    }

    /// When each such window of a service, or of all, begins, how long it is, in seconds, and the number of its samples, in the
    /// order of time.
    pub fn timeline(&self, service: Option<&str>, from: SystemTime, to: SystemTime) -> Vec<(SystemTime, f64, u64)> {
        let mut moments: Vec<(SystemTime, f64, u64)> = Vec::new();
        let index = self.index();
        let fitting = index.entries.iter().filter(|entry| entry.overlaps(from, to) && entry.is_of(service));
        moments.extend(fitting.map(|entry| (entry.start, entry.seconds, entry.samples)));
        drop(index);
        moments.sort_by_key(|(start, ..)| *start);
        // The files of one window.
        moments.dedup_by(|next, first| {
            let same = next.0 == first.0 && next.1 == first.1;
            first.2 += if same { next.2 } else { 0 };
            same
        });
        moments
    }

    /// The profile of all windows of a selection together. Its `meta.seconds` is the time that they cover. Files that cannot be read
    /// are left out, counted and logged.
    ///
    /// Of processes that had one number one after the other, only the labels that they share are known.
    ///
    /// # Errors
    /// When it becomes too large to be held in memory.
    pub fn profile(&self, selection: &Selection) -> Result<Profile, StoreError> {
        let mut wanted: Vec<Entry> = Vec::new();
        let Selection { service, pid, from, to } = selection;
        let fits = |entry: &&Entry| {
            !entry.unreadable
                && entry.overlaps(*from, *to)
                && entry.is_of(service.as_deref())
                && pid.is_none_or(|pid| entry.may_have(pid))
        };
        wanted.extend(self.index().entries.iter().filter(fits).cloned());
        wanted.sort_by_key(|entry| entry.start);
        let mut whole = Profile::default();
        let next = AtomicUsize::new(0);
        let readers = thread::available_parallelism().map_or(1, usize::from).min(4);
        thread::scope(|scope| {
            // As many files ahead as there are readers, so that memory does not grow with their number.
            let (sender, receiver) = mpsc::sync_channel(readers);
            for _ in 0..readers {
                let sender = sender.clone();
                scope.spawn(|| {
                    let sender = sender;
                    while let Some(entry) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // Nobody listens any more when the whole has become too large.
                        if sender.send((entry, self.read(entry, *pid))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut windows: Vec<(SystemTime, f64)> = Vec::new();
            let mut unreadable: Vec<(&Entry, String)> = Vec::new();
            for (entry, read) in receiver {
                match read {
                    Ok(profile) => {
                        windows.push((entry.start, entry.seconds));
                        absorb(&mut whole, &profile);
                    }
                    Err(reason) => unreadable.push((entry, reason)),
                }
                if whole.weight() > MAX_WEIGHT || whole.counted_samples().len() > MAX_COUNTED {
                    return Err(StoreError::TooLarge);
                }
            }
            self.left_out(&unreadable);
            windows.sort_by_key(|(start, _)| *start);
            windows.dedup();
            whole.meta.seconds = windows.iter().map(|(_, seconds)| seconds).sum();
            whole.meta.started = windows.first().map(|(start, _)| *start);
            Ok(())
        })?;
        Ok(whole)
    }

    fn read(&self, entry: &Entry, pid: Option<u32>) -> Result<Profile, String> {
        let bytes =
            fs::read(self.directory.join(&*entry.folder).join(&*entry.name)).map_err(|error| error.to_string())?;
        pprof::read(&bytes, pid)
    }

    /// Notes files that cannot be read, and says it once.
    fn left_out(&self, unreadable: &[(&Entry, String)]) {
        let mut lost: Vec<(&Entry, &str)> = Vec::new();
        let mut index = self.index();
        for (entry, reason) in unreadable {
            let is_it = |known: &&mut Entry| known.name == entry.name && known.folder == entry.folder;
            // Otherwise it was deleted meanwhile, as the oldest.
            if let Some(known) = index.entries.iter_mut().find(is_it).filter(|known| !known.unreadable) {
                known.unreadable = true;
                lost.push((*entry, reason));
            }
        }
        drop(index);
        self.counters.unreadable.fetch_add(lost.len() as u64, Ordering::Relaxed);
        if let Some((entry, reason)) = lost.first() {
            let path = self.directory.join(&*entry.folder).join(&*entry.name);
            log::warn!(
                "{} stored profiles cannot be read and are left out of what is shown: {}: {reason}",
                lost.len(),
                path.display()
            );
        }
    }

    /// Takes over new limits. The directory stays the one that was opened.
    pub fn reconfigure(&self, config: &config::Store) {
        let mut index = self.index();
        (index.max_bytes, index.max_age) = (config.max_size.as_u64(), config.max_age);
        drop(index);
        self.rotate();
    }

    /// What it holds, and what has happened.
    pub fn metrics(&self) -> Metrics {
        let (files, bytes) = {
            let index = self.index();
            (index.entries.len() as u64, index.bytes)
        };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Metrics {
            files,
            bytes,
            written: read(&counters.written),
            expired_by_size: read(&counters.expired_by_size),
            expired_by_age: read(&counters.expired_by_age),
            expired_by_space: read(&counters.expired_by_space),
            write_errors: read(&counters.write_errors),
            foreign: read(&counters.foreign),
            unreadable: read(&counters.unreadable),
        }
    }

    /// Deletes what is too old or too much, the oldest first.
    fn rotate(&self) {
        let mut index = self.index();
        let now = self.clock.now();
        let max_age = i64::try_from(index.max_age.as_millis()).unwrap_or(i64::MAX);
        while let Some(oldest) = index.entries.front() {
            let counter = if now.saturating_sub(oldest.born) > max_age {
                &self.counters.expired_by_age
            } else if index.bytes > index.max_bytes || index.entries.len() > MAX_FILES {
                &self.counters.expired_by_size
            } else {
                break;
            };
            self.delete_oldest(&mut index, counter);
        }
    }

    /// Deletes the oldest files until as many bytes are free; false when there is none.
    fn make_room(&self, bytes: u64) -> bool {
        let mut index = self.index();
        let before = index.bytes;
        while before - index.bytes < bytes && !index.entries.is_empty() {
            self.delete_oldest(&mut index, &self.counters.expired_by_space);
        }
        before > index.bytes
    }

    fn delete_oldest(&self, index: &mut Index, counter: &AtomicU64) {
        let Some(oldest) = index.entries.pop_front() else { return };
        index.bytes -= oldest.bytes;
        let folder = self.directory.join(&*oldest.folder);
        match fs::remove_file(folder.join(&*oldest.name)) {
            Ok(()) => {
                counter.fetch_add(1, Ordering::Relaxed);
                // That of a service that is no more; it fails as long as there is something in it.
                let _ = fs::remove_dir(&folder);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("{} cannot be deleted: {error}", folder.join(&*oldest.name).display()),
        }
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        // What is in it is right after each step.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn end(&self) -> SystemTime {
        let seconds = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        self.start.checked_add(seconds).unwrap_or(self.start)
    }

    fn overlaps(&self, from: SystemTime, to: SystemTime) -> bool {
        self.start < to && self.end() > from
    }

    fn is_of(&self, service: Option<&str>) -> bool {
        service.is_none_or(|service| service == &*self.service)
    }

    /// Of very many processes not all are known.
    fn may_have(&self, pid: u32) -> bool {
        self.processes.len() >= summary::MAX_PROCESSES || self.processes.iter().any(|process| process.pid == pid)
    }
}

/// Adds a later profile to what there is.
fn absorb(whole: &mut Profile, profile: &Profile) {
    for (pid, labels) in &profile.labels {
        if let Some(known) = whole.labels.get_mut(pid) {
            known.retain(|label| labels.contains(label));
        }
    }
    whole.absorb(profile);
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests;
