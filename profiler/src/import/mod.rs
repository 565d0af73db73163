//! Stacks that other tools have written, read as a [`Profile`]: to draw them again, and to hold ours against them.
//!
//! Three forms are known, told apart by what is in the file, whatever its name: files of pprof (`pprof.rs`), folded stacks (`folded.rs`) and
//! the stacks of the SystemTap tools for LuaJIT and nginx (`stap.rs`). The last two do not say when, how often and in which process samples
//! were taken, so the profile does not know it either. What kind of code a frame is they say in part; `frame.rs` tells what is made of it.

mod folded;
mod frame;
pub(crate) mod pprof;
mod stap;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::profile::{Frame, FrameKind, Origin, Profile, State};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// Most frames of one stack, which no tool reaches.
const MAX_FRAMES: usize = 1 << 16;

/// Why a file is not the stacks that it was taken for.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It could not be read.
    #[error("{name} cannot be read: {error}")]
    Unreadable {
        /// The name of the file.
        name: String,
        /// What the system said.
        error: io::Error,
    },
    /// It is too large.
    #[error("{0} cannot be read: it is larger than 1 GiB")]
    TooLarge(String),
    /// A line does not belong in it.
    #[error(
        "{name} cannot be read: {reason} (line {line}); luaflame reads its own captures, pprof files, folded stacks, and the .bt files of the SystemTap tools"
    )]
    Malformed {
        /// The name of the file.
        name: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is a file of pprof that cannot be used.
    #[error("{name} cannot be read as a pprof file: {reason}; luaflame reads those of CPU time")]
    Pprof {
        /// The name of the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no stack in it.
    #[error(
        "{0} holds no stacks; luaflame reads its own captures, pprof files, folded stacks, and the .bt files of the SystemTap tools"
    )]
    Empty(String),
}

/// A line that does not belong.
#[derive(Debug, PartialEq, Eq)]
struct Malformed {
    line: usize,
    reason: &'static str,
}

/// The profile in a file of stacks.
///
/// # Errors
/// When the file cannot be read, or is not what the module reads: nothing of it is left out.
pub fn profile(path: &Path) -> Result<Profile, ImportError> {
    let name = path.display().to_string();
    let unreadable = |error| ImportError::Unreadable { name: name.clone(), error };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(ImportError::TooLarge(name));
    }
    parse(&bytes, name)
}

/// The profile in the bytes of a file of this name.
///
/// # Errors
/// When it is not what the module reads.
pub fn parse(text: &[u8], name: String) -> Result<Profile, ImportError> {
    if pprof::is_it(text) {
        let read = pprof::read(text, None);
        let profile = read.map_err(|reason| ImportError::Pprof { name: name.clone(), reason })?;
        return if profile.stacks().len() == 0 { Err(ImportError::Empty(name)) } else { Ok(profile) };
    }
    // Names from the memory of programs are in any encoding.
    let lines = || {
        BufReader::new(text).split(b'\n').map_while(Result::ok).map(|line| String::from_utf8_lossy(&line).into_owned())
    };
    let mut profile = Profile::default();
    let read =
        if stap::is_it(lines()) { stap::read(lines(), &mut profile) } else { folded::read(lines(), &mut profile) };
    if let Err(Malformed { line, reason }) = read {
        return Err(ImportError::Malformed { name, line, reason });
    }
    if profile.stacks().len() == 0 {
        return Err(ImportError::Empty(name));
    }
    count(&mut profile);
    Ok(profile)
}

/// Adds a stack, root first.
fn add(profile: &mut Profile, frames: &[Frame], count: u64) {
    let state = frames.iter().rev().find_map(|frame| match frame.kind {
        FrameKind::Interpreted => Some(State::Interpreter),
        FrameKind::Compiled | FrameKind::Inlined => Some(State::Compiled),
        FrameKind::Builtin => Some(State::C),
        _ => None,
    });
    let ids: Vec<_> = frames.iter().map(|frame| profile.frame(frame.clone())).collect();
    profile.add(Origin { state: state.unwrap_or_default(), ..Origin::default() }, &ids, count);
}

/// What a recording counts while it goes on.
fn count(profile: &mut Profile) {
    let mut counters = std::mem::take(&mut profile.counters);
    for (stack, count) in profile.stacks() {
        let frames = stack.iter().map(|id| profile.get(*id));
        counters.samples = counters.samples.saturating_add(count);
        counters.frames = counters.frames.saturating_add(count.saturating_mul(stack.len() as u64));
        if !frames.clone().any(|frame| frame.kind.is_lua()) {
            counters.outside_lua = counters.outside_lua.saturating_add(count);
        }
        let unresolved = frames.filter(|frame| frame.unresolved).count() as u64;
        counters.unresolved = counters.unresolved.saturating_add(count.saturating_mul(unresolved));
    }
    profile.counters = counters;
    let lua = profile.frames().any(|frame| frame.kind.is_lua());
    profile.meta.lua = lua;
}

/// The number that a text is, as the counts of stacks are written: perhaps with a fraction, which is cut off.
fn number(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (!whole.is_empty() && digits(whole) && digits(fraction)).then(|| whole.parse().ok()).flatten()
}

/// What was read, as folded stacks.
#[cfg(test)]
fn folded_again(read: impl FnOnce(&mut Profile) -> Result<(), Malformed>) -> String {
    let mut profile = Profile::default();
    read(&mut profile).expect("these are stacks");
    let mut bytes = Vec::new();
    crate::format::folded::write(&profile, crate::profile::view::Lines::Function, &mut bytes)
        .expect("a vector takes all");
    String::from_utf8(bytes).expect("labels are UTF-8")
}
