//! Where a profile is written to.
//!
//! Whether that is possible is found out before sampling, because a profile that cannot be written is lost. A file appears
//! only when it is complete: it is written beside its place and then moved there, so that a failed run leaves an existing
//! file as it was.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Gid, Uid};

/// Most symbolic links that are followed to the file itself, as in the kernel.
const LINK_LIMIT: usize = 40;
/// Highest number added to a name to make it unused.
const NUMBER_LIMIT: u32 = 9999;

/// A place that can be written to.
#[derive(Debug)]
pub struct Output {
    place: Place,
    mode: u32,
}

/// The permissions that new files have, before the user's own limits.
const OPEN: u32 = 0o666;
/// The permissions of a file that nobody but its owner may read.
const SECRET: u32 = 0o600;

#[derive(Debug)]
enum Place {
    Stdout,
    /// Written as it is: a pipe, a terminal, a device.
    Stream(PathBuf),
    /// A file to create or replace.
    File {
        directory: PathBuf,
        path: PathBuf,
    },
    /// A file to create under the first of its names that is not in use.
    Unused {
        directory: PathBuf,
        stem: String,
        extension: &'static str,
    },
}

/// Why a place cannot be written to.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is a directory, or its name says so.
    #[error("{} cannot be written: it is a directory; give a file name, such as {}", .0.display(), .0.join("flame.svg").display())]
    IsDirectory(PathBuf),
    /// The directory that it would be in does not exist.
    #[error("{} cannot be written: there is no directory {}; create it with `mkdir -p`, or choose another place with -o", .path.display(), .directory.display())]
    NoDirectory {
        /// The file.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Writing to the directory or the file failed, or would.
    #[error("{} cannot be written: {action} failed: {error}; choose another place with -o", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// All the names that we give to files are in use.
    #[error("{0}-2 to {0}-{NUMBER_LIMIT} are all in use; remove some, or choose a name with -o")]
    AllInUse(String),
}

impl OutputError {
    /// Whoever read the output has closed it, which is no error of ours.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, OutputError::Failed { error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl Output {
    /// The place that a path names: `-` is standard output; pipes and devices are written as they are; symbolic links are
    /// followed and stay.
    ///
    /// # Errors
    /// When it cannot be written, as far as that can be known without changing anything.
    pub fn at(path: &Path) -> Result<Output, OutputError> {
        if path == Path::new("-") {
            return Ok(Output { place: Place::Stdout, mode: OPEN });
        }
        let failed = |action| move |error| OutputError::Failed { path: path.to_owned(), action, error };
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(OutputError::IsDirectory(path.to_owned()));
        }
        let target = match follow_links(path).map_err(failed("following the links"))? {
            Target::Stdout => return Ok(Output { place: Place::Stdout, mode: OPEN }),
            Target::Descriptor(path) => return Ok(Output { place: Place::Stream(path), mode: OPEN }),
            Target::Path(target) => target,
        };
        match fs::metadata(&target) {
            Ok(existing) if existing.is_dir() => return Err(OutputError::IsDirectory(path.to_owned())),
            Ok(existing) if existing.is_file() => {
                // Whoever made a file read-only wants to keep it, though moving another over it would work.
                OpenOptions::new().write(true).open(&target).map_err(failed("opening the existing file"))?;
            }
            Ok(existing) if existing.file_type().is_socket() => {
                return Err(failed("opening it")(io::Error::other("it is a socket")));
            }
            Ok(_) => {
                // Opening a pipe would wait for its reader.
                rustix::fs::access(&target, Access::WRITE_OK).map_err(|error| failed("opening it")(error.into()))?;
                return Ok(Output { place: Place::Stream(target), mode: OPEN });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("looking it up")(error)),
        }
        let directory = directory_of(&target);
        if !directory.is_dir() {
            return Err(OutputError::NoDirectory { path: path.to_owned(), directory });
        }
        temporary(&directory, OPEN).map_err(failed("creating a file in its directory"))?;
        Ok(Output { place: Place::File { directory, path: target }, mode: OPEN })
    }

    /// A new file in `directory` named `stem.extension`, or `stem-2.extension` and so on when that exists.
    ///
    /// # Errors
    /// When no file can be created in the directory.
    pub fn unused(directory: &Path, stem: &str, extension: &'static str) -> Result<Output, OutputError> {
        temporary(directory, OPEN).map_err(|error| OutputError::Failed {
            path: directory.join(numbered(stem, 1, extension)),
            action: "creating a file in its directory",
            error,
        })?;
        Ok(Output {
            place: Place::Unused { directory: directory.to_owned(), stem: stem.to_owned(), extension },
            mode: OPEN,
        })
    }

    /// The same place for something that nobody but its owner may read, whoever may read what is there now.
    pub fn secret(self) -> Output {
        Output { mode: SECRET, ..self }
    }

    /// Writing makes a temporary file, which would be left behind if the process ended meanwhile.
    pub fn is_moved_into_place(&self) -> bool {
        matches!(self.place, Place::File { .. } | Place::Unused { .. })
    }

    /// Writes all of `bytes`, and says where they are: the name of the file, or of the stream.
    ///
    /// # Errors
    /// When writing failed; then a file that existed is as it was, and no new one exists.
    pub fn write(self, bytes: &[u8]) -> Result<String, OutputError> {
        match self.place {
            Place::Stdout => {
                let mut stdout = io::stdout().lock();
                let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
                written.map_err(failure(Path::new("standard output"), "writing"))?;
                Ok("standard output".to_owned())
            }
            Place::Stream(path) => {
                let mut file =
                    OpenOptions::new().write(true).truncate(true).open(&path).map_err(failure(&path, "opening it"))?;
                file.write_all(bytes).map_err(failure(&path, "writing"))?;
                Ok(path.display().to_string())
            }
            Place::File { directory, path } => {
                let mut file =
                    temporary(&directory, self.mode).map_err(failure(&path, "creating a file in its directory"))?;
                file.write_all(bytes).map_err(failure(&path, "writing"))?;
                if self.mode == OPEN
                    && let Ok(existing) = fs::metadata(&path)
                {
                    keep_owner_and_mode(file.as_file(), &existing)
                        .map_err(failure(&path, "keeping its permissions"))?;
                }
                file.persist(&path).map_err(|error| failure(&path, "moving it into place")(error.error))?;
                Ok(path.display().to_string())
            }
            Place::Unused { directory, stem, extension } => {
                let first = directory.join(numbered(&stem, 1, extension));
                let mut file =
                    temporary(&directory, self.mode).map_err(failure(&first, "creating a file in its directory"))?;
                file.write_all(bytes).map_err(failure(&first, "writing"))?;
                for number in 1..=NUMBER_LIMIT {
                    let path = directory.join(numbered(&stem, number, extension));
                    match file.persist_noclobber(&path) {
                        Ok(_) => return Ok(path.strip_prefix(".").unwrap_or(&path).display().to_string()),
                        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => file = error.file,
                        Err(error) => return Err(failure(&path, "moving it into place")(error.error)),
                    }
                }
                Err(OutputError::AllInUse(stem))
            }
        }
    }
}

fn failure(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> OutputError {
    move |error| OutputError::Failed { path: path.to_owned(), action, error }
}

/// A file that is removed when dropped.
fn temporary(directory: &Path, mode: u32) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(".luaflame-")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(directory)
}

fn keep_owner_and_mode(file: &File, existing: &fs::Metadata) -> io::Result<()> {
    // Only root may give files away; for everyone else the new file is their own, as when they remove and create it.
    let _ = rustix::fs::fchown(file, Some(Uid::from_raw(existing.uid())), Some(Gid::from_raw(existing.gid())));
    file.set_permissions(Permissions::from_mode(existing.mode() & 0o777))
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    }
}

fn numbered(stem: &str, number: u32, extension: &str) -> String {
    if number == 1 { format!("{stem}.{extension}") } else { format!("{stem}-{number}.{extension}") }
}

/// What a path leads to.
enum Target {
    Stdout,
    /// A descriptor of this process, such as the shell's `>(command)`.
    Descriptor(PathBuf),
    /// Something that is no symbolic link, or nothing yet.
    Path(PathBuf),
}

/// Follows the links of the last component, so that the file and not the link is replaced.
fn follow_links(path: &Path) -> io::Result<Target> {
    let mut path = path.to_owned();
    for _ in 0..LINK_LIMIT {
        // Links to descriptors are not what they say: they may name a pipe, or a file that is no longer there.
        for descriptors in ["/dev/fd", "/proc/self/fd"] {
            if let Ok(number) = path.strip_prefix(descriptors) {
                return Ok(if number == Path::new("1") { Target::Stdout } else { Target::Descriptor(path) });
            }
        }
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => path = directory_of(&path).join(fs::read_link(&path)?),
            Ok(_) => return Ok(Target::Path(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Target::Path(path)),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("there are more than {LINK_LIMIT} of them")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn checking_changes_nothing() {
        let directory = directory();
        let path = directory.path().join("a.svg");
        drop(Output::at(&path).unwrap());
        assert!(names(directory.path()).is_empty());
        fs::write(&path, "old").unwrap();
        drop(Output::at(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(names(directory.path()), ["a.svg"]);
    }

    #[test]
    fn a_file_is_replaced_and_keeps_its_mode() {
        let directory = directory();
        let path = directory.path().join("a.svg");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        Output::at(&path).unwrap().write(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(names(directory.path()), ["a.svg"]);
    }

    #[test]
    fn a_secret_is_readable_by_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["new", "existing"] {
            let path = directory.path().join(name);
            if name == "existing" {
                fs::write(&path, "old").unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            }
            Output::at(&path).unwrap().secret().write(b"secret").unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_new_file_has_the_usual_mode() {
        let directory = directory();
        let (ours, usual) = (directory.path().join("a.svg"), directory.path().join("usual"));
        Output::at(&ours).unwrap().write(b"new").unwrap();
        fs::write(&usual, "").unwrap();
        assert_eq!(fs::metadata(&ours).unwrap().mode(), fs::metadata(&usual).unwrap().mode());
    }

    #[test]
    fn links_stay_and_their_target_is_written() {
        let directory = directory();
        fs::create_dir(directory.path().join("real")).unwrap();
        let link = directory.path().join("latest.svg");
        symlink("real/a.svg", &link).unwrap();
        for text in ["first", "second"] {
            Output::at(&link).unwrap().write(text.as_bytes()).unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(directory.path().join("real/a.svg")).unwrap(), text);
        }
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let directory = directory();
        let link = directory.path().join("a.svg");
        symlink("a.svg", &link).unwrap();
        assert!(matches!(Output::at(&link), Err(OutputError::Failed { .. })));
    }

    #[test]
    fn directories_are_refused() {
        let directory = directory();
        assert!(matches!(Output::at(directory.path()), Err(OutputError::IsDirectory(_))));
        assert!(matches!(Output::at(&directory.path().join("new/")), Err(OutputError::IsDirectory(_))));
    }

    #[test]
    fn missing_directories_and_files_as_directories_are_refused() {
        let directory = directory();
        let error = Output::at(&directory.path().join("none/a.svg")).unwrap_err().to_string();
        assert!(error.contains("none/a.svg cannot be written: there is no directory"), "{error}");
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(Output::at(&directory.path().join("file/a.svg")).is_err());
        assert!(Output::at(&directory.path().join("a".repeat(300))).is_err());
    }

    #[test]
    fn devices_are_written_as_they_are() {
        let output = Output::at(Path::new("/dev/null")).unwrap();
        assert!(!output.is_moved_into_place());
        output.write(b"new").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_pipe_stays_a_pipe() {
        let directory = directory();
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let output = Output::at(&pipe).unwrap();
        let read = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        output.write(b"through").unwrap();
        assert_eq!(read.join().unwrap(), b"through");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    }

    #[test]
    fn standard_output_by_any_name() {
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
            assert!(matches!(Output::at(Path::new(name)).unwrap().place, Place::Stdout), "{name}");
        }
    }

    #[test]
    fn an_unused_name_never_replaces() {
        let directory = directory();
        for (expected, text) in [("luaflame-7.svg", "one"), ("luaflame-7-2.svg", "two"), ("luaflame-7-3.svg", "three")]
        {
            let written =
                Output::unused(directory.path(), "luaflame-7", "svg").unwrap().write(text.as_bytes()).unwrap();
            assert_eq!(written, directory.path().join(expected).to_str().unwrap());
            assert_eq!(fs::read_to_string(directory.path().join(expected)).unwrap(), text);
        }
        assert_eq!(names(directory.path()).len(), 3);
    }
}
