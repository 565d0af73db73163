//! The directory in which requests wait: one file for each, named by its number, in the order of time.
//!
//! A file is a line that says what it is, with a checksum, and the body of the request. It is written under another
//! name and moved
//! into place, so that it is whole whatever becomes of this program. It is not forced to the disk: what a machine
//! that loses power has not
//! written is found by its checksum.
//!
//! Only the first and the last number and the sum of the sizes are kept in memory, however many files there are.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// Digits of a file's name.
const DIGITS: usize = 16;
/// What a file is called until it is whole.
const UNFINISHED: &str = ".tmp";
/// The file that is locked by the one who uses the directory.
const LOCK: &str = "lock";

/// The directory of one endpoint, which nobody else uses.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
    /// No file has a smaller number.
    first: u64,
    /// All have smaller ones.
    next: u64,
    requests: u64,
    bytes: u64,
}

/// A file that was found when the directory was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub number: u64,
    /// How long ago it was written, if the clock has always been right; 0 when it says that it will be written.
    pub age: Duration,
}

/// Why there is no body in a file.
#[derive(Debug)]
pub enum ReadError {
    /// There is no such file.
    Vanished,
    /// It cannot be read.
    Io(io::Error),
    /// It is not what was written.
    Corrupt,
    /// It is for another protocol.
    OtherProtocol,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else does.
    #[error("Another luaflame daemon uses the spool {}: give each its own directory, or end the other one", .0.display())]
    Used(PathBuf),
    /// It cannot be made, read or written.
    #[error("The spool {} cannot be used: {error}", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What failed.
        error: io::Error,
    },
}

impl Spool {
    /// Opens the directory, which is made when there is none, with what is in it, in the order of numbers.
    ///
    /// # Errors
    /// When somebody else uses it, or it cannot be made, read or written.
    pub fn open(directory: &Path) -> Result<(Spool, Vec<Found>), OpenError> {
        let failed = |error| OpenError::Io { directory: directory.to_owned(), error };
        // Names of functions are nobody else's business.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(directory.join(LOCK));
        let lock = lock.map_err(failed)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::Used(directory.to_owned()),
            TryLockError::Error(error) => failed(error),
        })?;
        let mut spool =
            Spool { directory: directory.to_owned(), _lock: lock, first: 0, next: 0, requests: 0, bytes: 0 };
        let found = spool.scan(true).map_err(failed)?;
        Ok((spool, found))
    }

    /// Files in it.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bytes of them.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The number of the first file, if there is one.
    pub fn first(&self) -> Option<u64> {
        (self.requests > 0).then_some(self.first)
    }

    /// A number that all files are before.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The size of the file that a body is written to.
    pub fn size_of(protocol: &str, body: &[u8]) -> u64 {
        (head(protocol, body).len() + body.len()) as u64
    }

    /// Writes a file with a number that none has, which is usually greater than all of them.
    ///
    /// # Errors
    /// When that fails. Nothing is left then.
    pub fn write(&mut self, number: u64, protocol: &str, body: &[u8]) -> io::Result<()> {
        let path = self.path(number);
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let head = head(protocol, body);
        let written = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(head.as_bytes())?;
            file.write_all(body)?;
            fs::rename(&unfinished, &path)
        };
        written().inspect_err(|_| {
            // What fails here, too, is removed at the next start.
            let _ = fs::remove_file(&unfinished);
        })?;
        self.first = if self.requests == 0 { number } else { self.first.min(number) };
        self.next = self.next.max(number + 1);
        self.requests += 1;
        self.bytes += (head.len() + body.len()) as u64;
        Ok(())
    }

    /// The body in a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn read(&self, number: u64, protocol: &str) -> Result<Vec<u8>, ReadError> {
        let mut text = fs::read(self.path(number)).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ReadError::Vanished,
            _ => ReadError::Io(error),
        })?;
        let end = memchr::memchr(b'\n', &text).ok_or(ReadError::Corrupt)? + 1;
        let body = text.split_off(end);
        let line = String::from_utf8(text).map_err(|_| ReadError::Corrupt)?;
        let of = line.split(' ').nth(3).ok_or(ReadError::Corrupt)?;
        if line != head(of, &body) {
            return Err(ReadError::Corrupt);
        }
        if of != protocol {
            return Err(ReadError::OtherProtocol);
        }
        Ok(body)
    }

    /// Removes the first file. Where that fails, it is one of those that count no more, until the next start.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn remove_first(&mut self) -> io::Result<()> {
        let path = self.path(self.first);
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        let removed = fs::remove_file(&path);
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
        self.first += 1;
        removed
    }

    /// Makes sure that [`first`](Spool::first) is there, and says how many of the files that should be in the
    /// directory are not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn find_first(&mut self) -> io::Result<u64> {
        if self.requests == 0 || self.path(self.first).try_exists()? {
            return Ok(0);
        }
        let known = self.requests;
        self.scan(false)?;
        Ok(known.saturating_sub(self.requests))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:0DIGITS$}"))
    }

    /// Counts anew what is there from the first number on.
    fn scan(&mut self, is_start: bool) -> io::Result<Vec<Found>> {
        let now = SystemTime::now();
        let (mut found, mut foreign, mut bytes) = (Vec::new(), 0_u64, 0);
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if let Some(stem) = name.strip_suffix(UNFINISHED).filter(|_| is_start)
                && number(stem).is_some()
            {
                fs::remove_file(entry.path())?;
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match number(name).filter(|_| metadata.is_file()) {
                Some(number) if number >= self.first => {
                    let age = metadata.modified().ok().and_then(|written| now.duration_since(written).ok());
                    found.push(Found { number, age: age.unwrap_or_default() });
                    bytes += metadata.len();
                }
                Some(_) => {}
                None => foreign += u64::from(name != LOCK),
            }
        }
        if is_start && foreign > 0 {
            log::warn!(
                "{} holds {foreign} files that are none of a spool; they are left alone",
                self.directory.display()
            );
        }
        found.sort_unstable_by_key(|found| found.number);
        (self.requests, self.bytes) = (found.len() as u64, bytes);
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            (self.first, self.next) = (first.number, self.next.max(last.number + 1));
        }
        Ok(found)
    }
}

fn number(name: &str) -> Option<u64> {
    let is_ours = name.len() == DIGITS && name.bytes().all(|digit| digit.is_ascii_digit());
    is_ours.then(|| name.parse().ok())?
}

/// The first line of a file.
fn head(protocol: &str, body: &[u8]) -> String {
    use std::fmt::Write;
    let mut head = format!("luaflame request 1 {protocol} ");
    for byte in Sha256::digest(body) {
        let _ = write!(head, "{byte:02x}");
    }
    head.push('\n');
    head
}
