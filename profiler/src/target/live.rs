//! The system that we run on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags};

use super::children;
use super::files::{self, MappedFile, NoFile};
use super::maps::Mapping;
use super::world::{Source, World};
use crate::luajit::memory::ReadError;

/// The largest file of `/proc/PID` that is read; `maps` of a process with a million mappings stays below it.
const MAX_PROC_FILE: u64 = 256 << 20;

/// Most threads of a process that is asked whether it rests: that is asked for each of its coroutines, and takes some microseconds for
/// each thread.
const MOST_THREADS: usize = 64;

/// The system that we run on, as it is when it is asked.
#[derive(Debug)]
struct Live {
    start: Instant,
}

/// The system that we run on, as a world.
pub fn live() -> Arc<dyn World> {
    Arc::new(Live { start: Instant::now() })
}

impl World for Live {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn process(&self, pid: u32) -> io::Result<Box<dyn Source>> {
        let directory = rustix::fs::open(
            format!("/proc/{pid}"),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Box::new(LiveProcess { pid, directory }))
    }

    fn children(&self, pid: u32) -> io::Result<Vec<u32>> {
        children::of_running(pid)
    }

    fn kernel_symbols(&self) -> io::Result<Box<dyn BufRead>> {
        Ok(Box::new(BufReader::new(File::open("/proc/kallsyms")?)))
    }
}

/// A moment in clock ticks after boot, by the clock that files are dated with; a tick (a hundredth of a second) later at most,
/// never earlier. As far off as that clock has been set since.
pub(super) fn date(ticks: u64) -> SystemTime {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32);
    let after_boot = Duration::from_millis((ticks + 1) * 1000 / rustix::param::clock_ticks_per_second());
    SystemTime::now() - now.saturating_sub(after_boot)
}

/// A running process, held by its open `/proc/PID` directory, which the kernel ties to this very process: when the process
/// has exited and its pid is given to another one, every read through the directory fails.
#[derive(Debug)]
struct LiveProcess {
    pid: u32,
    directory: OwnedFd,
}

impl Source for LiveProcess {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        File::from(file).take(MAX_PROC_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn link(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.directory, name, Vec::new())?.into_bytes())
    }

    /// Reads with `process_vm_readv`, which neither stops nor changes the process, and goes by pid. Needs the right to
    /// ptrace it.
    fn memory(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let error = ReadError { address, length: buffer.len() };
        let pid = libc::pid_t::try_from(self.pid).map_err(|_| error)?;
        let remote_address = usize::try_from(address).map_err(|_| error)?;
        let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let remote = libc::iovec { iov_base: remote_address as *mut libc::c_void, iov_len: buffer.len() };
        // SAFETY: `local` describes `buffer`, which is valid for writes of its length and outlives the call; the
        // address in `remote` is only used by the kernel, in the other process.
        let count = unsafe { libc::process_vm_readv(pid, &local, 1, &remote, 1, 0) };
        // The kernel stops at the first page that it cannot read and tells how far it came.
        if usize::try_from(count).is_ok_and(|count| count == buffer.len()) { Ok(()) } else { Err(error) }
    }

    fn resting_time(&self) -> io::Result<Duration> {
        let threads: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", self.pid))?.collect::<Result<_, _>>()?;
        if threads.len() > MOST_THREADS {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // Before the clock: what begins to run behind this is in the clock only when it has stopped, and then is seen here the next time.
        for thread in threads {
            let thread = thread.file_name();
            let stat = self.file(&format!("task/{}/stat", thread.display()))?;
            // Its name, in parentheses, may hold anything.
            let after_name = stat.iter().rposition(|byte| *byte == b')').map_or(&[][..], |end| &stat[end..]);
            if !after_name.starts_with(b") S") && !after_name.starts_with(b") D") && !after_name.starts_with(b") T") {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        let pid = libc::pid_t::try_from(self.pid).map_err(io::Error::other)?;
        let mut clock = 0;
        // SAFETY: `clock` is valid for the write of a clock's id.
        let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for the write of a time; the clock's id is one that the C library has just given.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32))
    }

    fn mapped_file(&self, mapping: &Mapping) -> Result<MappedFile, NoFile> {
        files::open_mapped(&self.directory, self.pid, mapping)
    }

    fn unchanged_file(&self, path: &Path, started: u64) -> Result<File, NoFile> {
        let file = self.file_in_root(path)?;
        let changed = file.metadata().ok().and_then(|metadata| {
            let seconds = u64::try_from(metadata.ctime()).ok()?;
            Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(metadata.ctime_nsec()).ok()?))
        });
        if changed.is_some_and(|changed| changed <= date(started)) {
            Ok(file)
        } else {
            Err(NoFile::Changed { path: path.to_string_lossy().into_owned() })
        }
    }

    fn file_in_root(&self, path: &Path) -> Result<File, NoFile> {
        files::open_in_root(&self.directory, self.pid, path)
    }
}
