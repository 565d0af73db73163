//! Making a capture small: a few samples of it, and of the memory and files only what their stacks depend on.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use flate2::Compression;
use luaflame_ebpf::record;

use super::file::{Capture, CaptureError, Kind, Reason, Recording, append, head};
use super::journal::{Answer, Event, Question};
use super::recorder::Recorder;
use super::replayed::Step;
use crate::format::folded;
use crate::probe::sample::LAYOUT;
use crate::profile::Profile;
use crate::profile::view::Lines;
use crate::replay::{Player, replay};

/// Pieces of memory and files that are smaller than this are kept whole, in bytes.
const PIECE: usize = 256;

/// A capture, taken apart.
pub(super) struct Parts {
    pub(super) events: Vec<Event>,
    pub(super) files: Vec<Vec<u8>>,
    pub(super) kernel_symbols: Option<Vec<u8>>,
    pub(super) recording: Recording,
}

/// A capture of up to `most` samples of `capture`, each with another stack and with `wanted` in its folded line. It is
/// replayed into the same stacks as these samples are in it; what makes no difference to them is zeros.
///
/// # Errors
/// When `capture` is damaged or has no such sample.
pub fn shrink(capture: &[u8], wanted: &str, most: usize) -> anyhow::Result<Vec<u8>> {
    let open = |bytes: &[u8]| Capture::of("the capture".to_owned(), bytes.to_vec());
    let chosen = choose(open(capture)?, wanted, most)?;
    ensure!(!chosen.is_empty(), "no stack of the capture has {wanted:?} in it");
    let mut parts = Parts::of(&open(&only(open(capture)?, &chosen)?)?)?;
    let stacks = folded(&replayed(&parts)?)?;
    let same = |parts: &Parts| replayed(parts).and_then(|profile| folded(&profile)).is_ok_and(|now| now == stacks);
    // Copies of traces and prototypes, for one, that other samples needed.
    for number in (0..parts.events.len()).rev() {
        if matches!(&parts.events[number], Event::Record(record) if !is_sample(record)) {
            let event = parts.events.remove(number);
            if !same(&parts) {
                parts.events.insert(number, event);
            }
        }
    }
    let mut left: Vec<(Blob, Range<usize>)> = parts.blobs().map(|(blob, length)| (blob, 0..length)).collect();
    while let Some((blob, range)) = left.pop() {
        let bytes = parts.blob(blob).get_mut(range.clone()).context("blobs keep their length")?;
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let kept = bytes.to_vec();
        bytes.fill(0);
        if same(&parts) {
            continue;
        }
        parts.blob(blob)[range.clone()].copy_from_slice(&kept);
        if range.len() > PIECE {
            let middle = range.start + range.len() / 2;
            left.extend([(blob, range.start..middle), (blob, middle..range.end)]);
        }
    }
    Ok(parts.write(Compression::best()))
}

/// The numbers of the steps with the samples to keep.
fn choose(capture: Capture, wanted: &str, most: usize) -> anyhow::Result<Vec<usize>> {
    let mut player = Player::new(capture, |world| world)?;
    let mut chosen = Vec::new();
    let mut seen = Vec::new();
    let mut number = 0;
    while chosen.len() < most
        && let Some(step) = player.next()?
    {
        player.play(&step);
        let stack = folded(&std::mem::take(&mut player.targets.profile))?;
        if stack.contains(wanted) && !seen.contains(&stack) {
            chosen.push(number);
            seen.push(stack);
        }
        number += 1;
    }
    Ok(chosen)
}

/// The same recording as if of all samples only those of these steps had been taken.
fn only(capture: Capture, chosen: &[usize]) -> anyhow::Result<Vec<u8>> {
    // The records are written as they are now.
    let recording = Recording { records: LAYOUT, ..capture.recording.clone() };
    let mut recorder = None;
    let mut player = Player::new(capture, |world| Arc::new(recorder.insert(Recorder::new(world)).clone()))?;
    let mut number = 0;
    while let Some(step) = player.next()? {
        match &step {
            Step::Record(record) if chosen.contains(&number) || !is_sample(record) => player.play(&step),
            Step::Record(_) | Step::Look => {}
        }
        number += 1;
    }
    Ok(recorder.context("there is one")?.finish(&recording)?)
}

fn is_sample(record: &[u8]) -> bool {
    record.first_chunk().is_some_and(|kind| u32::from_ne_bytes(*kind) == record::SAMPLE)
}

fn replayed(parts: &Parts) -> anyhow::Result<Profile> {
    let capture = Capture::of("the capture".to_owned(), parts.write(Compression::none()))?;
    replay(capture, &AtomicBool::new(false))
}

fn folded(profile: &Profile) -> anyhow::Result<String> {
    let mut text = Vec::new();
    folded::write(profile, Lines::Line, &mut text)?;
    Ok(String::from_utf8(text)?)
}

/// Bytes that may become zeros.
#[derive(Debug, Clone, Copy)]
enum Blob {
    /// A file.
    File(usize),
    /// The memory that an event of the journal has.
    Memory(usize),
}

impl Parts {
    /// Takes a capture apart.
    pub(super) fn of(capture: &Capture) -> Result<Parts, CaptureError> {
        let all = |kind| {
            let mut sections = Vec::new();
            while let Some(section) = capture.section(kind, sections.len())? {
                sections.push(section);
            }
            Ok(sections)
        };
        let mut events = Vec::new();
        for section in all(Kind::Journal)? {
            let mut left = &section[..];
            while !left.is_empty() {
                let event = postcard::take_from_bytes(left)
                    .map_err(|_| capture.error(Reason::Damaged("its journal is not made of events")))?;
                events.push(event.0);
                left = event.1;
            }
        }
        Ok(Parts {
            events,
            files: all(Kind::File)?,
            kernel_symbols: capture.section(Kind::KernelSymbols, 0)?,
            recording: capture.recording.clone(),
        })
    }

    /// Puts it together again.
    pub(super) fn write(&self, compression: Compression) -> Vec<u8> {
        let mut file = head();
        for contents in &self.files {
            append(&mut file, Kind::File, contents, compression);
        }
        let mut journal = Vec::new();
        for event in &self.events {
            // Writing to a Vec does not fail.
            let _ = postcard::to_io(event, &mut journal);
        }
        append(&mut file, Kind::Journal, &journal, compression);
        if let Some(text) = &self.kernel_symbols {
            append(&mut file, Kind::KernelSymbols, text, compression);
        }
        append(&mut file, Kind::Recording, &serde_json::to_vec(&self.recording).unwrap_or_default(), compression);
        file
    }

    fn blobs(&self) -> impl Iterator<Item = (Blob, usize)> {
        let files = self.files.iter().enumerate().map(|(number, file)| (Blob::File(number), file.len()));
        let memory = self.events.iter().enumerate().filter_map(|(number, event)| match event {
            Event::Asked(Question::Memory { .. }, Answer::Bytes(bytes)) if bytes.len() > PIECE => {
                Some((Blob::Memory(number), bytes.len()))
            }
            _ => None,
        });
        files.chain(memory)
    }

    fn blob(&mut self, blob: Blob) -> &mut Vec<u8> {
        match blob {
            Blob::File(number) => &mut self.files[number],
            Blob::Memory(number) => match &mut self.events[number] {
                Event::Asked(_, Answer::Bytes(bytes)) => bytes,
                // `blobs` names no other.
                Event::Asked(..) | Event::Record(_) | Event::Look => unreachable!("an event without memory"),
            },
        }
    }
}
