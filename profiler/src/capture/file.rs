//! The file: a head, and sections that each say how long they are, so that a reader passes over those it does not know.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};

use crate::probe::sample::LAYOUT;
use crate::profile::{FrameKind, Meta, Profile};
use crate::record::Options;

/// The first bytes of every capture.
const MAGIC: &[u8; 8] = b"luaflame";
/// The version of the format. A later one is for changes that a reader of this one must not pass over.
const VERSION: u32 = 1;
/// Bytes before the sections: the magic bytes and the version.
const HEAD: usize = 12;
/// Bytes before the contents of a section: its kind, their length, and their length when they are decompressed.
const SECTION_HEAD: usize = 12;

/// Largest file that is read.
const MAX_FILE: u64 = 2 << 30;
/// Most bytes that all sections may hold when they are decompressed.
pub(super) const MAX_CONTENTS: u64 = 2 << 30;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A part of the journal: events, the first one whole and so on.
    Journal,
    /// A file that was looked at. The order of these sections numbers the files.
    File,
    /// Symbols of the kernel, in the form of `/proc/kallsyms`.
    KernelSymbols,
    /// The [`Recording`], as JSON. It comes last: a file without it was not finished.
    Recording,
    /// The samples of a profile ([`super::stored`]).
    Profile,
    /// What describes them, as JSON.
    Description,
}

impl Kind {
    const ALL: [(Kind, u32); 6] = [
        (Kind::Journal, 1),
        (Kind::File, 2),
        (Kind::KernelSymbols, 3),
        (Kind::Recording, 4),
        (Kind::Profile, 5),
        (Kind::Description, 6),
    ];

    fn number(self) -> u32 {
        Kind::ALL.iter().find(|(kind, _)| *kind == self).map_or(0, |(_, number)| *number)
    }

    fn of(number: u32) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, of)| *of == number).map(|(kind, _)| *kind)
    }
}

/// How a capture was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The version of luaflame that took it.
    pub luaflame: String,
    /// The [`LAYOUT`] of its records.
    pub records: u32,
    /// The processes that the user named.
    pub pids: Vec<u32>,
    /// A process that was started to be recorded.
    #[serde(default)]
    pub launched: Option<u32>,
    /// LuaJIT was looked for.
    pub lua: bool,
    /// What the VMs call themselves, each once.
    #[serde(default)]
    pub luajit: Vec<String>,
    /// Kernel stacks were recorded.
    pub kernel: bool,
    /// Samples per second and CPU that were asked for.
    pub frequency: u32,
    /// Name of the perf event.
    pub event: String,
    /// When sampling began, in milliseconds since 1970.
    #[serde(default)]
    pub started: Option<u64>,
    /// Seconds from the first moment of sampling to the last.
    pub seconds: f64,
    /// Samples that the probe could not deliver.
    pub lost: u64,
}

impl Recording {
    /// The recording with these options that became this profile.
    pub fn of(options: &Options, profile: &Profile) -> Recording {
        Recording {
            luaflame: env!("CARGO_PKG_VERSION").to_owned(),
            records: LAYOUT,
            pids: options.pids.clone(),
            launched: options.launched,
            lua: options.lua,
            luajit: profile.meta.luajit.clone(),
            kernel: options.kernel,
            frequency: options.frequency,
            event: profile.meta.event.clone(),
            started: milliseconds(profile.meta.started),
            seconds: profile.meta.seconds,
            lost: profile.counters.lost,
        }
    }

    /// The same in a profile, of these processes.
    pub fn meta(self, processes: Vec<(u32, String)>) -> Meta {
        let Recording { lua, luajit, frequency, event, started, seconds, .. } = self;
        let time = |since| SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(since));
        Meta { processes, lua, luajit, frequency, event, seconds, started: started.and_then(time) }
    }
}

impl From<&Profile> for Recording {
    /// The recording that a profile from elsewhere may have been: of that, the profile knows.
    fn from(profile: &Profile) -> Recording {
        let meta = &profile.meta;
        Recording {
            luaflame: env!("CARGO_PKG_VERSION").to_owned(),
            records: LAYOUT,
            pids: meta.processes.iter().map(|(pid, _)| *pid).collect(),
            launched: None,
            lua: meta.lua,
            luajit: meta.luajit.clone(),
            kernel: profile.frames().any(|frame| frame.kind == FrameKind::Kernel),
            frequency: meta.frequency,
            event: meta.event.clone(),
            started: milliseconds(meta.started),
            seconds: meta.seconds,
            lost: profile.counters.lost,
        }
    }
}

/// Since 1970.
fn milliseconds(time: Option<SystemTime>) -> Option<u64> {
    Some(time?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis() as u64)
}

/// Why a capture cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be read: {reason}.")]
pub struct CaptureError {
    /// The name of the file.
    pub name: String,
    /// The reason.
    pub reason: Reason,
}

/// What is wrong with a capture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The file is larger than any capture.
    #[error("it is larger than {} MiB, which no capture is", MAX_FILE >> 20)]
    TooLarge,
    /// The file does not begin as captures do.
    #[error("it is not a capture that luaflame has written")]
    NotACapture,
    /// The format is of a later version.
    #[error("it is of version {0} of the format, and this luaflame reads version {VERSION}: use a later luaflame")]
    Later(u32),
    /// The records are those of a later probe.
    #[error("its records are of version {0}, and this luaflame reads up to version {LAYOUT}: use a later luaflame")]
    LaterRecords(u32),
    /// The last section is missing.
    #[error("it ends too early: its recording was not finished, or a part of the file is missing")]
    CutOff,
    /// The contents are not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// A finished capture in memory, its sections still compressed.
#[derive(Debug)]
pub struct Capture {
    name: String,
    bytes: Vec<u8>,
    sections: Vec<Section>,
    /// How it was taken.
    pub recording: Recording,
}

#[derive(Debug, Clone)]
struct Section {
    kind: Kind,
    contents: Range<usize>,
    /// Length of the decompressed contents.
    length: usize,
}

impl Capture {
    /// Reads the capture in a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no whole capture that this version understands.
    pub fn open(path: &Path) -> Result<Capture, CaptureError> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        match read {
            Err(error) => Err(CaptureError { name, reason: Reason::Unreadable(error.to_string()) }),
            Ok(length) if length as u64 > MAX_FILE => Err(CaptureError { name, reason: Reason::TooLarge }),
            Ok(_) => Capture::of(name, bytes),
        }
    }

    /// Takes these bytes for a capture with this name.
    ///
    /// # Errors
    /// When they are no whole capture that this version understands.
    pub fn of(name: String, bytes: Vec<u8>) -> Result<Capture, CaptureError> {
        let result = sections(&bytes).and_then(|sections| {
            let recording = sections.iter().rfind(|section| section.kind == Kind::Recording).ok_or(Reason::CutOff)?;
            let recording: Recording = serde_json::from_slice(&contents(&bytes, recording)?)
                .map_err(|_| Reason::Damaged("how it was taken cannot be read"))?;
            if recording.records > LAYOUT {
                Err(Reason::LaterRecords(recording.records))
            } else {
                Ok((sections, recording))
            }
        });
        match result {
            Ok((sections, recording)) => Ok(Capture { name, bytes, sections, recording }),
            Err(reason) => Err(CaptureError { name, reason }),
        }
    }

    /// The contents of section number `number` of a kind, if there is one.
    pub(super) fn section(&self, kind: Kind, number: usize) -> Result<Option<Vec<u8>>, CaptureError> {
        let section = self.sections.iter().filter(|section| section.kind == kind).nth(number);
        section.map(|section| contents(&self.bytes, section)).transpose().map_err(|reason| self.error(reason))
    }

    /// An error that names this capture.
    pub(super) fn error(&self, reason: Reason) -> CaptureError {
        CaptureError { name: self.name.clone(), reason }
    }
}

/// The head of a file.
pub(super) fn head() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// Appends a section to a file. `contents` have at most 4 GiB.
pub(super) fn append(file: &mut Vec<u8>, kind: Kind, contents: &[u8], compression: Compression) {
    let start = file.len();
    file.extend_from_slice(&kind.number().to_le_bytes());
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&(contents.len() as u32).to_le_bytes());
    let mut encoder = ZlibEncoder::new(file, compression);
    // Writing to a Vec does not fail.
    let _ = encoder.write_all(contents);
    let Ok(file) = encoder.finish() else { return };
    let length = (file.len() - start - SECTION_HEAD) as u32;
    file[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
}

fn sections(bytes: &[u8]) -> Result<Vec<Section>, Reason> {
    let number = |at: usize| {
        let bytes = bytes.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    if !bytes.starts_with(MAGIC) {
        return Err(Reason::NotACapture);
    }
    let version = number(MAGIC.len()).ok_or(Reason::CutOff)?;
    match version {
        0 => return Err(Reason::NotACapture),
        1..=VERSION => {}
        later => return Err(Reason::Later(later)),
    }
    let mut sections = Vec::new();
    let mut total = 0;
    let mut at = HEAD;
    while at < bytes.len() {
        let [Some(kind), Some(stored), Some(length)] = [number(at), number(at + 4), number(at + 8)] else {
            return Err(Reason::CutOff);
        };
        let start = at + SECTION_HEAD;
        let end = start + stored as usize;
        if end > bytes.len() {
            return Err(Reason::CutOff);
        }
        if let Some(kind) = Kind::of(kind) {
            total += u64::from(length);
            sections.push(Section { kind, contents: start..end, length: length as usize });
        }
        at = end;
    }
    if total > MAX_CONTENTS {
        return Err(Reason::Damaged("it claims to hold more than any capture does"));
    }
    Ok(sections)
}

fn contents(bytes: &[u8], section: &Section) -> Result<Vec<u8>, Reason> {
    let stored = bytes.get(section.contents.clone()).unwrap_or_default();
    let mut contents = Vec::new();
    // One byte more than there should be: only at the end of the stream its checksum is compared.
    let read = ZlibDecoder::new(stored).take(section.length as u64 + 1).read_to_end(&mut contents);
    match read {
        Ok(length) if length == section.length => Ok(contents),
        _ => Err(Reason::Damaged("a section does not hold what was written to it")),
    }
}
