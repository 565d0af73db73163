//! A recorder before a world made by hand, and captures that are not what they should be.

use std::fs::{self, File};
use std::io::{self, BufRead, Cursor, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flate2::Compression;
use rustix::io::Errno;

use super::file::{Kind, Reason, append, head};
use super::shrink::Parts;
use super::{Capture, Recorder, Recording, Replayed, Step};
use crate::luajit::memory::{Memory, ReadError};
use crate::probe::sample::LAYOUT;
use crate::replay::replay;
use crate::target::files::{MappedFile, NoFile};
use crate::target::maps::Mapping;
use crate::target::process::Process;
use crate::target::world::{Source, World};

/// A world with one process, number 7, whose memory at every address below 1,000 is a counter's value.
#[derive(Debug, Default)]
struct Counting {
    count: Arc<AtomicU64>,
    readable: Arc<Mutex<bool>>,
}

impl World for Counting {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.count.load(Ordering::Relaxed))
    }

    fn process(&self, pid: u32) -> io::Result<Box<dyn Source>> {
        if pid != 7 {
            return Err(Errno::NOENT.into());
        }
        Ok(Box::new(Counting { count: Arc::clone(&self.count), readable: Arc::clone(&self.readable) }))
    }

    fn children(&self, _pid: u32) -> io::Result<Vec<u32>> {
        Ok(vec![8, 9])
    }

    fn kernel_symbols(&self) -> io::Result<Box<dyn BufRead>> {
        Ok(Box::new(Cursor::new("ffffffff81000000 T used\nffffffff81000010 T next\nffffffff81000020 T unused\n")))
    }
}

impl Source for Counting {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        match name {
            "status" => Ok(b"Name:\tx\nTgid:\t7\n".to_vec()),
            "stat" => Ok(b"7 (x) R 1 1 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 987 1 2\n".to_vec()),
            _ => Err(Errno::ACCESS.into()),
        }
    }

    fn link(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(format!("/{name}").into_bytes())
    }

    fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        if address >= 1000 || !*self.readable.lock().unwrap() {
            return Err(ReadError { address, length: buffer.len() });
        }
        buffer.fill(self.count.load(Ordering::Relaxed) as u8);
        Ok(())
    }

    fn mapped_file(&self, _mapping: &Mapping) -> Result<MappedFile, NoFile> {
        Err(NoFile::Replaced { path: "/gone".to_owned() })
    }

    fn unchanged_file(&self, path: &Path, _started: u64) -> Result<File, NoFile> {
        self.file_in_root(path)
    }

    fn file_in_root(&self, path: &Path) -> Result<File, NoFile> {
        File::open(path).map_err(|_| NoFile::NotAFile)
    }
}

fn recording() -> Recording {
    Recording {
        luaflame: "0".to_owned(),
        records: LAYOUT,
        pids: vec![7],
        launched: None,
        lua: true,
        luajit: Vec::new(),
        kernel: true,
        frequency: 99,
        event: "cpu-clock".to_owned(),
        started: None,
        seconds: 1.0,
        lost: 3,
    }
}

fn opened(bytes: Vec<u8>) -> Replayed {
    Replayed::new(Capture::of("x".to_owned(), bytes).unwrap()).unwrap()
}

#[test]
fn answers_are_those_of_the_step_they_were_given_in() {
    let counting = Counting::default();
    let (count, readable) = (Arc::clone(&counting.count), Arc::clone(&counting.readable));
    *readable.lock().unwrap() = true;
    let recorder = Recorder::new(Arc::new(counting));
    let world: Arc<dyn World> = Arc::new(recorder.clone());

    // The same questions to both worlds; what differs between the steps, and within one, is the counter.
    let ask = |world: &Arc<dyn World>, tick: &dyn Fn()| {
        let process = Process::open(world, 7).unwrap();
        let memory = process.memory();
        let mut answers = vec![format!("{:?}", Process::open(world, 6).map(|_| ()).map_err(|error| error.to_string()))];
        for _ in 0..2 {
            tick();
            answers.push(format!("{:?} {:?}", world.now(), memory.bytes(100, 4)));
        }
        answers.push(format!("{:?} {:?}", memory.u8(1000), process.working_directory().unwrap()));
        answers.push(format!(
            "{:?} {:?}",
            world.children(7).unwrap(),
            process.maps().map_err(|error| error.to_string())
        ));
        answers
    };
    let tick = || _ = count.fetch_add(1, Ordering::Relaxed);
    let before = ask(&world, &tick);
    world.record(b"a record");
    let first = ask(&world, &tick);
    world.look();
    *readable.lock().unwrap() = false;
    let second = ask(&world, &tick);
    assert!(before != first && first != second && second[1].contains("Err"));

    let replayed = opened(recorder.finish(&recording()).unwrap());
    let world: Arc<dyn World> = Arc::new(replayed.clone());
    assert_eq!(ask(&world, &|| ()), before);
    assert_eq!(replayed.step().unwrap(), Some(Step::Record(b"a record".to_vec())));
    assert_eq!(ask(&world, &|| ()), first);
    assert_eq!(replayed.step().unwrap(), Some(Step::Look));
    assert_eq!(ask(&world, &|| ()), second, "what could not be read then cannot be read now");
    assert_eq!(replayed.step().unwrap(), None);
}

#[test]
fn what_was_not_asked_is_answered_as_it_was_last() {
    let counting = Counting::default();
    let count = Arc::clone(&counting.count);
    *counting.readable.lock().unwrap() = true;
    let recorder = Recorder::new(Arc::new(counting));
    let world: Arc<dyn World> = Arc::new(recorder.clone());
    let memory = Process::open(&world, 7).unwrap().memory();
    for (tick, (address, length)) in [(100, 8), (104, 8), (90, 4)].into_iter().enumerate() {
        if tick == 2 {
            world.record(b"a record");
        }
        count.store(tick as u64 + 1, Ordering::Relaxed);
        memory.bytes(address, length).unwrap();
    }
    let replayed = opened(recorder.finish(&recording()).unwrap());
    let world: Arc<dyn World> = Arc::new(replayed.clone());
    let memory = Process::open(&world, 7).unwrap().memory();
    assert_eq!(memory.bytes(102, 4), Ok(vec![1, 1, 2, 2]), "of two pieces");
    assert!(memory.bytes(90, 4).is_err(), "not yet");
    replayed.step().unwrap();
    assert_eq!(memory.bytes(100, 12), Ok([[1; 4], [2; 4], [2; 4]].concat()), "of the step before");
    assert_eq!(memory.bytes(90, 4), Ok(vec![3; 4]));
    assert!(memory.bytes(111, 2).is_err() && memory.bytes(200, 1).is_err(), "never read");
    assert!(Process::open(&world, 8).is_err() && world.children(8).is_err(), "never opened");
}

#[test]
fn files_are_kept_once_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let contents: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    for name in ["one", "same"] {
        fs::write(folder.path().join(name), &contents).unwrap();
    }
    let recorder = Recorder::new(Arc::new(Counting::default()));
    let world: Arc<dyn World> = Arc::new(recorder.clone());
    let process = Process::open(&world, 7).unwrap();
    for name in ["one", "same", "one"] {
        process.file_in_root(&folder.path().join(name)).unwrap();
    }
    assert!(process.file_in_root(Path::new("/no/such/file")).is_err());
    let bytes = recorder.finish(&recording()).unwrap();
    let name = folder.path().join("one");
    fs::remove_file(&name).unwrap();
    let parts = Parts::of(&Capture::of("x".to_owned(), bytes.clone()).unwrap()).unwrap();
    assert_eq!(parts.files.len(), 1);
    let world: Arc<dyn World> = Arc::new(opened(bytes));
    let process = Process::open(&world, 7).unwrap();
    for _ in 0..2 {
        let mut read = Vec::new();
        process.file_in_root(&name).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == contents);
    }
    assert_eq!(process.file_in_root(Path::new("/no/such/file")).unwrap_err(), NoFile::NotAFile);
    assert!(matches!(process.file_in_root(Path::new("/other")), Err(NoFile::Unreadable { .. })));
}

#[test]
fn only_the_kernel_symbols_that_are_needed_are_kept() {
    let recorder = Recorder::new(Arc::new(Counting::default()));
    let mut text = String::new();
    opened(recorder.finish(&recording()).unwrap()).kernel_symbols().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "", "no record shows an address");
}

#[test]
fn sections_of_later_versions_are_passed_over() {
    let mut bytes = Recorder::new(Arc::new(Counting::default())).finish(&recording()).unwrap();
    bytes.extend_from_slice(&[99, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0]);
    bytes.extend_from_slice(b"later");
    assert_eq!(Capture::of("x".to_owned(), bytes).unwrap().recording, recording());
}

#[test]
fn what_is_no_capture_is_said_to_be_none() {
    let reason = |bytes: &[u8]| Capture::of("x".to_owned(), bytes.to_vec()).unwrap_err().reason;
    assert_eq!(reason(b""), Reason::NotACapture);
    assert_eq!(reason(b"<svg>"), Reason::NotACapture);
    assert_eq!(reason(b"luaflame"), Reason::CutOff);
    assert_eq!(reason(&head()), Reason::CutOff);
    assert_eq!(reason(b"luaflame\x02\0\0\0"), Reason::Later(2));
    let mut bytes = head();
    append(&mut bytes, Kind::Recording, b"{}", Compression::fast());
    assert!(matches!(reason(&bytes), Reason::Damaged(_)));
    let mut bytes = head();
    let later = Recording { records: LAYOUT + 1, ..recording() };
    append(&mut bytes, Kind::Recording, &serde_json::to_vec(&later).unwrap(), Compression::fast());
    assert_eq!(reason(&bytes), Reason::LaterRecords(LAYOUT + 1));
    let text = Capture::of("a.luaflame".to_owned(), Vec::new()).unwrap_err().to_string();
    assert_eq!(text, "a.luaflame cannot be read: it is not a capture that luaflame has written.");
}

fn fixture() -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/inlined.luaflame");
    fs::read(path).unwrap()
}

/// Replays it; whether that is an error does not matter, only that it ends.
fn survive(bytes: Vec<u8>) -> bool {
    Capture::of("x".to_owned(), bytes)
        .map_err(anyhow::Error::from)
        .and_then(|capture| replay(capture, &AtomicBool::new(false)))
        .is_ok()
}

/// Numbers that look random and are the same on every run.
fn numbers() -> impl Iterator<Item = usize> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    })
}

#[test]
fn a_capture_that_is_cut_short_is_refused() {
    let whole = fixture();
    assert!(survive(whole.clone()));
    let mut numbers = numbers();
    for length in (0..200).chain(numbers.by_ref().take(200).map(|number| number % whole.len())) {
        let error = Capture::of("x".to_owned(), whole[..length].to_vec()).unwrap_err();
        assert!(matches!(error.reason, Reason::CutOff | Reason::NotACapture), "{length}: {error}");
    }
}

#[test]
fn flipped_bits_are_survived() {
    let whole = fixture();
    let mut numbers = numbers();
    for _ in 0..20 {
        let mut bytes = whole.clone();
        let bit = numbers.next().unwrap() % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        survive(bytes);
    }
    // The checksums of the sections find those; a file that was made to harm has them right.
    let capture = Capture::of("x".to_owned(), whole).unwrap();
    for _ in 0..10 {
        let mut bytes = head();
        for kind in [Kind::File, Kind::Journal, Kind::KernelSymbols, Kind::Recording] {
            let mut number = 0;
            while let Some(mut contents) = capture.section(kind, number).unwrap() {
                number += 1;
                let flips =
                    if kind == Kind::Recording || contents.is_empty() { 0 } else { numbers.next().unwrap() % 4 };
                for _ in 0..flips {
                    let bit = numbers.next().unwrap() % (contents.len() * 8);
                    contents[bit / 8] ^= 1 << (bit % 8);
                }
                append(&mut bytes, kind, &contents, Compression::none());
            }
        }
        survive(bytes);
    }
}
