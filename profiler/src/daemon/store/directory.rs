//! The files of a store: what they are called, how they come to be, and what is there at the start.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::summary::Summary;
use super::{Entry, on_disk};
use crate::profile::window::Window;

/// What our files end with.
const EXTENSION: &str = ".pb.gz";
/// What files that are being written are called.
const TEMPORARY: (&str, &str) = (".luaflame-", ".tmp");
/// Who has it open has this locked.
const LOCK: &str = ".lock";
/// Most bytes of the name of a service's directory.
const MAX_FOLDER: usize = 120;
/// Most files of the same time.
const MAX_NUMBER: u32 = 9999;

/// Time that has passed since the store was opened, and what the time was then.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    opened: Instant,
    wall: SystemTime,
    /// In tests, what has passed beyond that, in milliseconds.
    #[cfg(test)]
    pub passed: Arc<std::sync::atomic::AtomicI64>,
}

impl Clock {
    pub fn new() -> Clock {
        Clock::at(SystemTime::now())
    }

    pub fn at(wall: SystemTime) -> Clock {
        Clock {
            opened: Instant::now(),
            wall,
            #[cfg(test)]
            passed: Arc::default(),
        }
    }

    /// Milliseconds since the store was opened.
    pub fn now(&self) -> i64 {
        let passed = i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX);
        #[cfg(test)]
        let passed = passed + self.passed.load(std::sync::atomic::Ordering::Relaxed);
        passed
    }

    /// The same for something that was there when it was opened: what is said to be later was written then.
    fn before(&self, written: SystemTime) -> i64 {
        let age = self.wall.duration_since(written).unwrap_or_default();
        -i64::try_from(age.as_millis()).unwrap_or(i64::MAX)
    }
}

/// What is in a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Our files, the oldest first.
    pub entries: Vec<Entry>,
    /// How many are not ours.
    pub foreign: u64,
    /// How many that had not been finished were removed.
    pub left_over: u64,
}

/// Creates a directory when it is not there, and locks it.
///
/// # Errors
/// When it cannot be created or written, and when another process has it locked.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let shown = directory.display();
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o750).create(directory).with_context(|| {
        format!("the directory {shown} for profiles cannot be created; create it, or set another with `directory` in [store]")
    })?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o640);
    let file = options.open(directory.join(LOCK)).with_context(|| {
        format!("profiles cannot be written to {shown}; allow it, or set another directory with `directory` in [store]")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "another luaflame daemon stores its profiles in {shown}; stop it, or set another directory with `directory` in [store]"
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("{shown} cannot be locked")),
    }
}

/// Finds out what is in a directory.
///
/// # Errors
/// When it cannot be read.
pub(super) fn read(directory: &Path, clock: &Clock) -> Result<Found> {
    let mut found = Found::default();
    let unreadable = || format!("what is in {} cannot be read", directory.display());
    for folder in fs::read_dir(directory).with_context(unreadable)? {
        let folder = folder.with_context(unreadable)?;
        let Ok(name) = folder.file_name().into_string() else {
            found.foreign += 1;
            continue;
        };
        if name == LOCK {
            continue;
        }
        // Links lead elsewhere.
        if folder.file_type().is_ok_and(|kind| kind.is_dir()) {
            read_folder(&folder.path(), &name, clock, &mut found);
        } else {
            found.foreign += 1;
        }
    }
    found
        .entries
        .sort_by(|one, other| (one.born, one.start, &one.folder).cmp(&(other.born, other.start, &other.folder)));
    Ok(found)
}

/// A folder that cannot be read, as all in it that cannot be, is not ours.
fn read_folder(path: &Path, folder: &str, clock: &Clock, found: &mut Found) {
    let Ok(files) = fs::read_dir(path) else {
        found.foreign += 1;
        return;
    };
    // In the order of time, so that each shares with the one before.
    let mut names: Vec<_> = files.flatten().map(|file| file.file_name()).collect();
    names.sort();
    let folder: Arc<str> = folder.into();
    let first = found.entries.len();
    for name in names {
        let path = path.join(&name);
        let text = name.to_str().unwrap_or_default();
        let parsed = parsed(text);
        let length = fs::symlink_metadata(&path).ok().filter(|file| file.is_file()).map(|file| file.len());
        // A file has its name before its content when the power fails.
        let is_left_over =
            text.starts_with(TEMPORARY.0) && text.ends_with(TEMPORARY.1) || parsed.is_some() && length == Some(0);
        if is_left_over && length.is_some() && fs::remove_file(&path).is_ok() {
            found.left_over += 1;
            continue;
        }
        let summary = parsed.zip(length).and_then(|_| Summary::read(File::open(&path).ok()?).ok()?);
        let summary = summary.filter(|summary| self::folder(&summary.service) == *folder);
        let (Some((start, seconds)), Some(length), Some(summary)) = (parsed, length, summary) else {
            found.foreign += 1;
            continue;
        };
        let last = found.entries[first..].last();
        let processes = summary.shared(last.map(|last| &last.processes));
        let service = last.map_or_else(|| summary.service.as_str().into(), |last| Arc::clone(&last.service));
        let end = start.checked_add(Duration::try_from_secs_f64(seconds).unwrap_or_default()).unwrap_or(start);
        found.entries.push(Entry {
            folder: Arc::clone(&folder),
            service,
            name: text.into(),
            start,
            seconds,
            bytes: on_disk(length),
            born: clock.before(end),
            samples: summary.samples,
            processes,
            unreadable: false,
        });
    }
}

/// Writes a file of a window into the directory of a service, and returns its name.
///
/// # Errors
/// When it cannot be written: then nothing of it is there.
pub(super) fn write(folder: &Path, window: &Window, bytes: &[u8]) -> io::Result<String> {
    match DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY.0)
        .suffix(TEMPORARY.1)
        .permissions(Permissions::from_mode(0o640))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    // A clock that is set back comes to the same time again.
    for number in 1..=MAX_NUMBER {
        let name = name(window.started, window.seconds, number);
        match file.persist_noclobber(folder.join(&name)) {
            Ok(_) => return Ok(name),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
            Err(error) => return Err(error.error),
        }
    }
    Err(io::Error::other(format!("there are {MAX_NUMBER} files of its time already")))
}

/// The name of the directory of a service: letters, digits, `-`, `_`, `@` and dots but the first as they are, other bytes as `%2F`; of long names the
/// beginning and a digest.
pub(super) fn folder(service: &str) -> String {
    let mut folder = String::new();
    for byte in service.bytes() {
        match byte {
            b'.' if !folder.is_empty() => folder.push('.'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'@' => folder.push(byte.into()),
            _ => folder += &format!("%{byte:02X}"),
        }
    }
    if folder.is_empty() {
        return "%".to_owned();
    }
    if folder.len() > MAX_FOLDER {
        let digest: String = Sha256::digest(service).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        folder.truncate(MAX_FOLDER - digest.len() - 1);
        // No name that is only escaped has it.
        folder = format!("{folder}~{digest}");
    }
    folder
}

/// `20261128T054415.123Z-15.000.pb.gz`, and from the second of the same time on `...-15.000-2.pb.gz`.
fn name(start: SystemTime, seconds: f64, number: u32) -> String {
    let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second, milli) = (second / 3600, second / 60 % 60, second % 60, since.subsec_millis());
    let number = if number > 1 { format!("-{number}") } else { String::new() };
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}.{milli:03}Z-{seconds:.3}{number}{EXTENSION}")
}

/// When the window of a file of this name begins, and how many seconds it has.
fn parsed(name: &str) -> Option<(SystemTime, f64)> {
    let (start, rest) = name.strip_suffix(EXTENSION)?.split_once("Z-")?;
    let digits = |range: std::ops::Range<usize>| -> Option<u64> {
        let digits = start.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits?.parse().ok()
    };
    if start.len() != 19 || start.get(8..9) != Some("T") || start.get(15..16) != Some(".") {
        return None;
    }
    let days = days(digits(0..4)?, digits(4..6)?, digits(6..8)?)?;
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    let second = days * 86_400 + hour * 3600 + minute * 60 + second;
    let start = UNIX_EPOCH + Duration::from_secs(second) + Duration::from_millis(digits(16..19)?);
    let (seconds, number) = rest.split_once('-').unwrap_or((rest, "1"));
    let seconds: f64 = seconds.parse().ok().filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)?;
    number.parse::<u32>().ok()?;
    Some((start, seconds))
}

/// Year, month and day of a number of days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // From March on, so that the day that some years have more is the last: 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// The number of days from 1970-01-01 to a date, if there is such a date from then on.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year) = (shifted / 400, shifted % 400);
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + year * 365 + year / 4 - year / 100 + in_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_names_and_back() {
        for (seconds, text) in [
            (0, "19700101T000000.000Z-15.000.pb.gz"),
            (951_782_400, "20000229T000000.000Z-15.000.pb.gz"),
            (1_709_251_199, "20240229T235959.000Z-15.000.pb.gz"),
            (1_735_689_599, "20241231T235959.000Z-15.000.pb.gz"),
            (4_107_542_400, "21000301T000000.000Z-15.000.pb.gz"),
        ] {
            let start = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(name(start, 15.0, 1), text);
            assert_eq!(parsed(text), Some((start, 15.0)));
        }
        for days in (0..200_000).step_by(7) {
            let (year, month, day) = date(days);
            assert_eq!(self::days(year, month, day), Some(days));
        }
        let start = UNIX_EPOCH + Duration::from_millis(1_795_844_655_123);
        assert_eq!(name(start, 0.25, 2), "20261128T054415.123Z-0.250-2.pb.gz");
        assert_eq!(parsed("20261128T054415.123Z-0.250-2.pb.gz"), Some((start, 0.25)));
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "",
            "Z-.pb.gz",
            "20261128T054415.123Z-15.000",
            "20261328T054415.123Z-15.000.pb.gz",
            "20261128T054415.123Z-inf.pb.gz",
            "20261128T054415.123Z-15.000-x.pb.gz",
            "2026112äT05441.123Z-15.000.pb.gz",
            "+0261128T054415.123Z-15.000.pb.gz",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
    }
}
