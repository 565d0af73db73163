//! Answering from a capture.

use std::fs::File;
use std::io::{self, BufRead, Cursor, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use super::file::{Capture, CaptureError, Kind, Reason};
use super::journal::{Answer, Event, Question};
use super::memory::KnownMemory;
use crate::luajit::memory::ReadError;
use crate::target::files::{MappedFile, NoFile};
use crate::target::maps::Mapping;
use crate::target::world::{Source, World};

/// Questions of one step that are looked through for the one that is asked. Who decodes as the recording did asks them in
/// their order.
const MOST_SKIPPED: usize = 4096;
/// Most questions in one step; there are some thousands before sampling begins, and a few hundred for a sample.
const MOST_QUESTIONS: usize = 4 << 20;

/// A world that answers as a capture has it.
///
/// A question is answered as it was in the step that is being replayed. When it was not asked then, which is so when this
/// luaflame decodes otherwise than the one that recorded, it is answered as it was last before; memory byte by byte.
#[derive(Debug, Clone)]
pub struct Replayed(Arc<Mutex<Replay>>);

/// What happened next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The probe sent a record.
    Record(Vec<u8>),
    /// Processes were looked at that may have ended.
    Look,
}

#[derive(Debug)]
struct Replay {
    capture: Capture,
    /// The part of the journal that is being read, how far it has been, and the number of the next part.
    part: Vec<u8>,
    at: usize,
    next_part: usize,
    /// The questions of this step that are still to come, in reverse.
    step: Vec<(Question, Answer)>,
    /// What begins the next step.
    next: Option<Step>,
    /// The newest answers before.
    answers: FxHashMap<Question, Answer>,
    memory: KnownMemory,
    now: u64,
    files: FxHashMap<u32, File>,
    failed: Option<CaptureError>,
}

impl Replayed {
    /// Stands before the first record: what is asked now was asked before sampling began.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn new(capture: Capture) -> Result<Replayed, CaptureError> {
        let mut replay = Replay {
            capture,
            part: Vec::new(),
            at: 0,
            next_part: 0,
            step: Vec::new(),
            next: None,
            answers: FxHashMap::default(),
            memory: KnownMemory::default(),
            now: 0,
            files: FxHashMap::default(),
            failed: None,
        };
        replay.load()?;
        Ok(Replayed(Arc::new(Mutex::new(replay))))
    }

    /// Goes on to what happened next.
    ///
    /// # Errors
    /// When the capture is damaged there, or turned out to be while it was asked.
    pub fn step(&self) -> Result<Option<Step>, CaptureError> {
        let mut replay = self.lock();
        if let Some(error) = replay.failed.take() {
            return Err(error);
        }
        let Some(next) = replay.next.take() else { return Ok(None) };
        replay.pass_all();
        replay.load()?;
        Ok(Some(next))
    }

    fn lock(&self) -> MutexGuard<'_, Replay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replay {
    /// Reads the questions up to what begins the next step.
    fn load(&mut self) -> Result<(), CaptureError> {
        loop {
            while self.at >= self.part.len() {
                let Some(part) = self.capture.section(Kind::Journal, self.next_part)? else {
                    self.step.reverse();
                    return Ok(());
                };
                (self.part, self.at) = (part, 0);
                self.next_part += 1;
            }
            let left = &self.part[self.at..];
            let Ok((event, rest)) = postcard::take_from_bytes::<Event>(left) else {
                return Err(self.capture.error(Reason::Damaged("its journal is not made of events")));
            };
            self.at += left.len() - rest.len();
            self.next = match event {
                Event::Asked(..) if self.step.len() >= MOST_QUESTIONS => {
                    return Err(self.capture.error(Reason::Damaged("no step has so many questions")));
                }
                Event::Asked(question, answer) => {
                    self.step.push((question, answer));
                    continue;
                }
                Event::Record(record) => Some(Step::Record(record)),
                Event::Look => Some(Step::Look),
            };
            self.step.reverse();
            return Ok(());
        }
    }

    /// The answer to a question.
    fn ask(&mut self, question: &Question) -> Option<Answer> {
        let skipped = self.step.iter().rev().take(MOST_SKIPPED).position(|(asked, _)| asked == question);
        if let Some(skipped) = skipped {
            for _ in 0..skipped {
                self.pass();
            }
            return self.pass();
        }
        self.known(question).or_else(|| {
            // What is asked later in this step was so at nearly the same time.
            self.pass_all();
            self.known(question)
        })
    }

    /// Goes past the next question of this step. Its answer is the newest one from now on.
    fn pass(&mut self) -> Option<Answer> {
        let (question, answer) = self.step.pop()?;
        match (question, &answer) {
            (Question::Memory { process, address, .. }, Answer::Bytes(bytes)) => {
                self.memory.write(process, address, bytes);
            }
            // That it failed once says nothing about each of the bytes.
            (Question::Memory { .. }, _) => {}
            (Question::Now, Answer::Time(now)) => self.now = *now,
            (question, answer) => {
                self.answers.insert(question, answer.clone());
            }
        }
        Some(answer)
    }

    fn pass_all(&mut self) {
        while self.pass().is_some() {}
    }

    fn known(&self, question: &Question) -> Option<Answer> {
        match question {
            Question::Now => Some(Answer::Time(self.now)),
            Question::Memory { process, address, length } => {
                self.memory.read(*process, *address, *length as usize).map(Answer::Bytes)
            }
            question => self.answers.get(question).cloned(),
        }
    }

    /// The file with this number, open at its beginning.
    fn file(&mut self, number: u32) -> io::Result<File> {
        if !self.files.contains_key(&number) {
            let contents = match self.capture.section(Kind::File, number as usize) {
                Ok(contents) => contents.ok_or(Errno::NOENT)?,
                Err(error) => {
                    self.failed.get_or_insert(error);
                    return Err(Errno::IO.into());
                }
            };
            let mut file = File::from(rustix::fs::memfd_create("luaflame-replay", MemfdFlags::CLOEXEC)?);
            file.write_all(&contents)?;
            self.files.insert(number, file);
        }
        let mut file = self.files.get(&number).ok_or(Errno::NOENT)?.try_clone()?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// The error of a question that was never asked, or not answered so.
fn unknown() -> io::Error {
    Errno::SRCH.into()
}

impl World for Replayed {
    fn now(&self) -> Duration {
        match self.lock().ask(&Question::Now) {
            Some(Answer::Time(now)) => Duration::from_nanos(now),
            _ => Duration::ZERO,
        }
    }

    fn process(&self, pid: u32) -> io::Result<Box<dyn Source>> {
        match self.lock().ask(&Question::Process(pid)) {
            Some(Answer::Process(number)) => Ok(Box::new(ReplayedProcess { pid, number, world: self.clone() })),
            Some(Answer::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(unknown()),
        }
    }

    fn children(&self, pid: u32) -> io::Result<Vec<u32>> {
        match self.lock().ask(&Question::Children(pid)) {
            Some(Answer::Pids(pids)) => Ok(pids),
            Some(Answer::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(unknown()),
        }
    }

    fn kernel_symbols(&self) -> io::Result<Box<dyn BufRead>> {
        let text = self.lock().capture.section(Kind::KernelSymbols, 0).map_err(io::Error::other)?;
        Ok(Box::new(Cursor::new(text.ok_or(Errno::NOENT)?)))
    }
}

/// A process as a capture has it.
#[derive(Debug)]
struct ReplayedProcess {
    pid: u32,
    number: u32,
    world: Replayed,
}

impl ReplayedProcess {
    fn bytes(&self, question: &Question) -> io::Result<Vec<u8>> {
        match self.world.lock().ask(question) {
            Some(Answer::Bytes(bytes)) => Ok(bytes),
            Some(Answer::Failed(error)) => Err(io::Error::from_raw_os_error(error)),
            _ => Err(unknown()),
        }
    }

    fn found(&self, question: &Question, path: &[u8]) -> Result<MappedFile, NoFile> {
        let unreadable = |error: &io::Error| NoFile::Unreadable {
            path: String::from_utf8_lossy(path).into_owned(),
            pid: self.pid,
            error: Errno::from_io_error(error).unwrap_or(Errno::IO),
        };
        let mut replay = self.world.lock();
        match replay.ask(question) {
            Some(Answer::File { file, by }) => match replay.file(file) {
                Ok(file) => Ok(MappedFile { file, found: by.into() }),
                Err(error) => Err(unreadable(&error)),
            },
            Some(Answer::NoFile(refusal)) => Err(refusal.reason(self.pid)),
            Some(Answer::Failed(error)) => Err(unreadable(&io::Error::from_raw_os_error(error))),
            _ => Err(unreadable(&unknown())),
        }
    }
}

impl Source for ReplayedProcess {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        self.bytes(&Question::File { process: self.number, name: name.to_owned() })
    }

    fn link(&self, name: &str) -> io::Result<Vec<u8>> {
        self.bytes(&Question::Link { process: self.number, name: name.to_owned() })
    }

    fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let error = ReadError { address, length: buffer.len() };
        let length = u32::try_from(buffer.len()).map_err(|_| error)?;
        let bytes = self.bytes(&Question::Memory { process: self.number, address, length }).map_err(|_| error)?;
        if bytes.len() != buffer.len() {
            return Err(error);
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    fn mapped_file(&self, mapping: &Mapping) -> Result<MappedFile, NoFile> {
        let (start, end) = (mapping.range.start, mapping.range.end);
        self.found(&Question::MappedFile { process: self.number, start, end }, mapping.name().as_bytes())
    }

    /// Whether it was unchanged was found out when it was captured.
    fn unchanged_file(&self, path: &Path, _started: u64) -> Result<File, NoFile> {
        self.file_in_root(path)
    }

    fn file_in_root(&self, path: &Path) -> Result<File, NoFile> {
        let path = path.as_os_str().as_bytes();
        let question = Question::FileInRoot { process: self.number, path: path.to_vec() };
        Ok(self.found(&question, path)?.file)
    }
}
