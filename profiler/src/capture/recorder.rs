//! Writing down what the running system answers.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flate2::Compression;
use rustc_hash::FxHashMap;

use super::file::{Kind, MAX_CONTENTS, Recording, append, head};
use super::journal::{Answer, By, Event, Question, Refusal};
use crate::luajit::memory::ReadError;
use crate::native::kernel::excerpt;
use crate::probe::sample::Record;
use crate::target::files::{MappedFile, NoFile};
use crate::target::maps::Mapping;
use crate::target::world::{Source, World};

/// The journal is compressed in parts of this size, in bytes.
const PART: usize = 1 << 20;
/// Most that a capture may hold, in bytes before compression.
const MAX_HELD: u64 = 1 << 30;
const _: () = assert!(MAX_HELD + (PART as u64) < MAX_CONTENTS);

/// A world that asks another one, the running system, and writes down all questions and answers.
#[derive(Debug, Clone)]
pub struct Recorder {
    world: Arc<dyn World>,
    log: Arc<Mutex<Log>>,
}

/// What has been written down.
#[derive(Debug)]
struct Log {
    /// The finished sections.
    file: Vec<u8>,
    /// The part of the journal that is being written.
    journal: Vec<u8>,
    /// Bytes in the finished sections, before compression.
    held: u64,
    full: bool,
    /// Processes that have been opened.
    processes: u32,
    /// Files by their length and a hash of their contents, with their numbers.
    files: FxHashMap<(u64, u64), u32>,
    /// The same by what the system knows of them, so that none is read twice.
    known: FxHashMap<Identity, u32>,
    hasher: RandomState,
    /// Addresses in the kernel that records have shown.
    kernel: BTreeSet<u64>,
}

/// Device, inode, size, and the time of the last change.
type Identity = (u64, u64, u64, i64, i64);

impl Recorder {
    /// Writes down what `world` answers.
    pub fn new(world: Arc<dyn World>) -> Recorder {
        let log = Log {
            file: head(),
            journal: Vec::new(),
            held: 0,
            full: false,
            processes: 0,
            files: FxHashMap::default(),
            known: FxHashMap::default(),
            hasher: RandomState::new(),
            kernel: BTreeSet::new(),
        };
        Recorder { world, log: Arc::new(Mutex::new(log)) }
    }

    /// The capture, whole.
    ///
    /// # Errors
    /// When the kernel's symbols cannot be read a second time.
    pub fn finish(&self, recording: &Recording) -> io::Result<Vec<u8>> {
        let mut log = self.log();
        log.end_part();
        if let Ok(text) = self.world.kernel_symbols() {
            let text = excerpt(text, &log.kernel)?;
            append(&mut log.file, Kind::KernelSymbols, text.as_bytes(), Compression::fast());
        }
        append(&mut log.file, Kind::Recording, &serde_json::to_vec(recording)?, Compression::fast());
        Ok(std::mem::take(&mut log.file))
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn write(&mut self, event: &Event) {
        if self.full {
            return;
        }
        // Writing to a Vec does not fail.
        let _ = postcard::to_io(event, &mut self.journal);
        if self.journal.len() >= PART {
            self.end_part();
        }
    }

    fn asked(&mut self, question: Question, answer: Answer) {
        self.write(&Event::Asked(question, answer));
    }

    fn end_part(&mut self) {
        let part = std::mem::take(&mut self.journal);
        self.append(Kind::Journal, &part);
    }

    fn append(&mut self, kind: Kind, contents: &[u8]) {
        append(&mut self.file, kind, contents, Compression::fast());
        self.held += contents.len() as u64;
        self.full |= self.held > MAX_HELD;
    }

    /// The number of a file, whose contents are written down if they are new.
    fn file(&mut self, file: &File) -> io::Result<u32> {
        let metadata = file.metadata()?;
        let size = metadata.size();
        let identity = (metadata.dev(), metadata.ino(), size, metadata.mtime(), metadata.mtime_nsec());
        if let Some(number) = self.known.get(&identity) {
            return Ok(*number);
        }
        if size > MAX_HELD - self.held.min(MAX_HELD) {
            self.full = true;
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let mut contents = vec![0; size as usize];
        file.read_exact_at(&mut contents, 0)?;
        let print = (size, self.hasher.hash_one(&contents));
        let next = self.files.len() as u32;
        let number = *self.files.entry(print).or_insert(next);
        if number == next {
            self.append(Kind::File, &contents);
        }
        self.known.insert(identity, number);
        Ok(number)
    }

    /// Writes down that a file was found, or why not.
    fn found(&mut self, question: Question, result: &Result<(&File, By), &NoFile>) {
        let answer = match result {
            // A file that cannot be read is as good as none.
            Ok((file, by)) => {
                let number = self.file(file);
                Answer::of(&number, |number| Answer::File { file: *number, by: *by })
            }
            Err(reason) => Answer::NoFile(Refusal::from(*reason)),
        };
        self.asked(question, answer);
    }
}

impl World for Recorder {
    fn now(&self) -> Duration {
        let now = self.world.now();
        self.log().asked(Question::Now, Answer::Time(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)));
        now
    }

    fn process(&self, pid: u32) -> io::Result<Box<dyn Source>> {
        let source = self.world.process(pid);
        let mut log = self.log();
        let number = log.processes;
        log.asked(Question::Process(pid), Answer::of(&source, |_| Answer::Process(number)));
        let source = source?;
        log.processes += 1;
        Ok(Box::new(RecordedProcess { source, number, log: Arc::clone(&self.log) }))
    }

    fn children(&self, pid: u32) -> io::Result<Vec<u32>> {
        let children = self.world.children(pid);
        self.log().asked(Question::Children(pid), Answer::of(&children, |pids| Answer::Pids(pids.clone())));
        children
    }

    fn kernel_symbols(&self) -> io::Result<Box<dyn BufRead>> {
        self.world.kernel_symbols()
    }

    fn record(&self, record: &[u8]) {
        let mut log = self.log();
        if let Ok(Record::Sample(sample)) = Record::parse(record) {
            log.kernel.extend(sample.kernel);
        }
        log.write(&Event::Record(record.to_vec()));
    }

    fn look(&self) {
        self.log().write(&Event::Look);
    }

    fn is_full(&self) -> bool {
        self.log().full
    }
}

/// A process whose answers are written down.
#[derive(Debug)]
struct RecordedProcess {
    source: Box<dyn Source>,
    number: u32,
    log: Arc<Mutex<Log>>,
}

impl RecordedProcess {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file_answered(&self, path: &Path, result: Result<File, NoFile>) -> Result<File, NoFile> {
        let question = Question::FileInRoot { process: self.number, path: path.as_os_str().as_bytes().to_vec() };
        self.log().found(question, &result.as_ref().map(|file| (file, By::Path)));
        result
    }

    fn bytes(&self, question: Question, result: &io::Result<Vec<u8>>) {
        self.log().asked(question, Answer::of(result, |bytes| Answer::Bytes(bytes.clone())));
    }
}

impl Source for RecordedProcess {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        let result = self.source.file(name);
        self.bytes(Question::File { process: self.number, name: name.to_owned() }, &result);
        result
    }

    fn link(&self, name: &str) -> io::Result<Vec<u8>> {
        let result = self.source.link(name);
        self.bytes(Question::Link { process: self.number, name: name.to_owned() }, &result);
        result
    }

    fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let result = self.source.memory(address, buffer);
        let answer = match result {
            Ok(()) => Answer::Bytes(buffer.to_vec()),
            Err(_) => Answer::Failed(libc::EFAULT),
        };
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        self.log().asked(Question::Memory { process: self.number, address, length }, answer);
        result
    }

    fn mapped_file(&self, mapping: &Mapping) -> Result<MappedFile, NoFile> {
        let result = self.source.mapped_file(mapping);
        let question =
            Question::MappedFile { process: self.number, start: mapping.range.start, end: mapping.range.end };
        self.log().found(question, &result.as_ref().map(|mapped| (&mapped.file, mapped.found.into())));
        result
    }

    fn file_in_root(&self, path: &Path) -> Result<File, NoFile> {
        self.file_answered(path, self.source.file_in_root(path))
    }

    fn unchanged_file(&self, path: &Path, started: u64) -> Result<File, NoFile> {
        self.file_answered(path, self.source.unchanged_file(path, started))
    }
}
