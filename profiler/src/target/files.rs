//! The files of a process, as the process sees them: behind its mappings, and by path inside its root.
//!
//! A target may live in a container with its own root and may have been upgraded while it runs: a path alone does not
//! name the file that is mapped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::maps::{Backing, Mapping};

/// The file behind a mapping.
#[derive(Debug)]
pub struct MappedFile {
    /// The file, open for reading; a regular one.
    pub file: File,
    /// How it was found.
    pub found: Found,
}

/// How the file behind a mapping was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Through `/proc/PID/map_files`: it is the mapped file itself, even when it has been deleted or replaced.
    ByMapping,
    /// By its path inside the root of the process, with the device and inode that the mapping has.
    ByPath,
    /// By its path inside the root of the process, with the inode that the mapping has, on another device. An overlay
    /// filesystem shows its files so; a different file that happens to have the same inode number would look the same.
    ByPathOnOtherDevice,
}

/// Why the file behind a mapping cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoFile {
    /// The mapping is not of a file.
    #[error("The mapping is not of a file.")]
    NotAFile,
    /// The file has been deleted or replaced, and only its mapping leads to it.
    #[error(
        "{path} has been replaced or deleted since the process mapped it; to read it nevertheless, run as root or with \
         CAP_CHECKPOINT_RESTORE."
    )]
    Replaced {
        /// The path as the process sees it.
        path: String,
    },
    /// Something under this path cannot be opened.
    #[error("{path} of process {pid} cannot be opened: {error}.")]
    Unreadable {
        /// The path as the process sees it.
        path: String,
        /// The process.
        pid: u32,
        /// The kernel's answer.
        error: Errno,
    },
    /// The file has been changed since the process started.
    #[error("{path} has been changed since the process started.")]
    Changed {
        /// The path as the process sees it.
        path: String,
    },
    /// A device, a pipe, a socket.
    #[error("{path} is not a regular file.")]
    NotRegular {
        /// The path as the process sees it.
        path: String,
    },
}

/// Opens the file behind a mapping of the process with this pid and this open `/proc/PID` directory.
pub(super) fn open_mapped(directory: &OwnedFd, pid: u32, mapping: &Mapping) -> Result<MappedFile, NoFile> {
    let Backing::File { path, deleted } = &mapping.backing else { return Err(NoFile::NotAFile) };
    let shown = || String::from_utf8_lossy(path).into_owned();
    let link = format!("map_files/{:x}-{:x}", mapping.range.start, mapping.range.end);
    if let Ok(file) = rustix::fs::openat(
        directory,
        link,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
    ) {
        let file = File::from(file);
        return if is_regular(&file) {
            Ok(MappedFile { file, found: Found::ByMapping })
        } else {
            Err(NoFile::NotRegular { path: shown() })
        };
    }
    let mut candidates = vec![path.clone()];
    if *deleted {
        // A file may be named so.
        candidates.push([path.as_slice(), b" (deleted)"].concat());
    }
    let mut reason = None;
    for candidate in &candidates {
        let path = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(candidate));
        match open_in_root(directory, pid, path) {
            Ok(file) => match file.metadata() {
                Ok(metadata) if metadata.ino() != mapping.inode => {}
                Ok(metadata) => {
                    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
                    let found = if device == mapping.device { Found::ByPath } else { Found::ByPathOnOtherDevice };
                    return Ok(MappedFile { file, found });
                }
                Err(_) => {}
            },
            Err(NoFile::Unreadable { error: Errno::NOENT, .. }) => {}
            Err(error) => reason = Some(error),
        }
    }
    Err(reason.unwrap_or_else(|| NoFile::Replaced { path: shown() }))
}

/// Opens a regular file by its path inside the root of that process: also its symbolic links lead nowhere else.
pub(super) fn open_in_root(directory: &OwnedFd, pid: u32, path: &Path) -> Result<File, NoFile> {
    let unreadable = |error| NoFile::Unreadable { path: path.to_string_lossy().into_owned(), pid, error };
    let root = rustix::fs::openat(directory, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(unreadable)?;
    // Without IN_ROOT an absolute symbolic link inside a container would lead to a file of ours. NONBLOCK: a pipe must
    // not hold us up.
    let file = rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(unreadable)?;
    let file = File::from(file);
    if is_regular(&file) { Ok(file) } else { Err(NoFile::NotRegular { path: path.to_string_lossy().into_owned() }) }
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::target::live::live;
    use crate::target::process::Process;

    /// `cat` of the given name, blocked in reading its input, so that all its libraries are mapped.
    fn blocked(program: &Path) -> Child {
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        use std::io::Write;
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        let mut byte = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
        child
    }

    fn executable(process: &Process) -> Mapping {
        process.maps().unwrap().into_iter().find(|mapping| mapping.executable).unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_deleted_program_is_read_through_its_mapping() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("cat copy");
        std::fs::copy("/bin/cat", &program).unwrap();
        let child = blocked(&program);
        std::fs::remove_file(&program).unwrap();
        let process = Process::open(&live(), child.id()).unwrap();
        let mapping = executable(&process);
        let mapped = process.mapped_file(&mapping);
        end(child);
        assert_eq!(
            mapping.backing,
            Backing::File { path: program.as_os_str().as_encoded_bytes().to_vec(), deleted: true }
        );
        let MappedFile { mut file, found } = mapped.unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(found, Found::ByMapping);
        assert!(bytes == std::fs::read("/bin/cat").unwrap());
    }

    #[test]
    fn a_path_is_only_believed_with_the_mapped_inode() {
        let child = blocked(Path::new("/bin/cat"));
        let process = Process::open(&live(), child.id()).unwrap();
        let mapping = executable(&process);
        // A range that is no mapping leads to nothing in map_files, as for a user without the capability.
        let range = mapping.range.start..mapping.range.end + 4096;
        let by_path = process.mapped_file(&Mapping { range: range.clone(), ..mapping.clone() });
        let on_other_device =
            process.mapped_file(&Mapping { range: range.clone(), device: (99, 99), ..mapping.clone() });
        let replaced = process.mapped_file(&Mapping { range, inode: mapping.inode + 1, ..mapping.clone() });
        let anonymous = process.mapped_file(&Mapping { backing: Backing::Anonymous, ..mapping.clone() });
        end(child);
        assert_eq!(by_path.unwrap().found, Found::ByPath);
        assert_eq!(on_other_device.unwrap().found, Found::ByPathOnOtherDevice);
        assert!(matches!(replaced.unwrap_err(), NoFile::Replaced { .. }));
        assert_eq!(anonymous.unwrap_err(), NoFile::NotAFile);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let process = Process::open(&live(), std::process::id()).unwrap();
        assert!(matches!(process.file_in_root(Path::new("/dev/zero")), Err(NoFile::NotRegular { .. })));
        assert!(matches!(
            process.file_in_root(Path::new("/no/such/file")),
            Err(NoFile::Unreadable { error: Errno::NOENT, .. })
        ));
        let folder = tempfile::tempdir().unwrap();
        let file = File::open("/bin/cat").unwrap();
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), folder.path().join("link")).unwrap();
        assert!(process.file_in_root(&folder.path().join("link")).is_err());
    }
}
