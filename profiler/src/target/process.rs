//! One process, held so that its pid being reused cannot be mistaken for it.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::files::{MappedFile, NoFile};
use super::maps::{self, Mapping};
use super::memory::ProcessMemory;
use super::world::{Source, World};

/// The key of the entry point in the auxiliary vector, from `elf.h`.
const AT_ENTRY: u64 = 9;

/// Why a process cannot be observed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// There is no process with this pid, or it has exited.
    #[error("No process with pid {pid} is running; check the pid (`pgrep -a nginx` lists those of nginx).")]
    NotFound {
        /// The pid.
        pid: u32,
    },
    /// The pid is that of one thread.
    #[error("{pid} is a thread of process {process}, not a process; use -p {process}.")]
    Thread {
        /// The id of the thread.
        pid: u32,
        /// The process that it belongs to.
        process: u32,
    },
    /// The kernel does not let us look at the process.
    #[error(
        "The kernel does not permit reading {what} of process {pid}: run as root, or give this program CAP_SYS_PTRACE; \
         inside a container it must also share the pid namespace of the target."
    )]
    NotPermitted {
        /// The pid.
        pid: u32,
        /// What could not be read, such as `the memory map`.
        what: &'static str,
    },
    /// Anything else.
    #[error("Reading {what} of process {pid} failed: {error}.")]
    Other {
        /// The pid.
        pid: u32,
        /// What could not be read.
        what: &'static str,
        /// The kernel's answer.
        error: std::io::Error,
    },
}

impl ProcessError {
    pub(super) fn new(pid: u32, what: &'static str, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        match error.kind() {
            // A process that exits answers ESRCH from files of /proc/PID that are still open.
            _ if error.raw_os_error() == Some(libc::ESRCH) => Self::NotFound { pid },
            ErrorKind::NotFound => Self::NotFound { pid },
            ErrorKind::PermissionDenied => Self::NotPermitted { pid, what },
            _ => Self::Other { pid, what, error },
        }
    }
}

/// A process.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    world: Arc<dyn World>,
    source: Arc<dyn Source>,
    started: u64,
    comm: String,
}

impl Process {
    /// Opens the process with this pid, as seen in the `/proc` of a world.
    ///
    /// # Errors
    /// When there is none, when the id is of a thread that is not its process's first, or when `/proc` cannot be read.
    /// That its memory may be read is not checked here.
    pub fn open(world: &Arc<dyn World>, pid: u32) -> Result<Self, ProcessError> {
        let source = world.process(pid).map_err(|error| ProcessError::new(pid, "the /proc directory", error))?;
        let mut process =
            Self { pid, world: Arc::clone(world), source: source.into(), started: 0, comm: String::new() };
        let group = process.thread_group()?;
        if group != pid {
            return Err(ProcessError::Thread { pid, process: group });
        }
        let stat = process.stat()?;
        process.started = stat.started;
        process.comm = stat.comm;
        Ok(process)
    }

    /// Its pid in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The system that it runs in.
    pub(super) fn world(&self) -> &Arc<dyn World> {
        &self.world
    }

    /// The pid of its parent; 0 when that is outside of our pid namespace.
    ///
    /// # Errors
    /// When it has exited.
    pub fn parent(&self) -> Result<u32, ProcessError> {
        Ok(self.stat()?.parent)
    }

    /// When it started, in clock ticks after boot: with the pid, it names the process for as long as the machine runs.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// The name of one of its threads (`comm`, at most 15 bytes), with bytes that are not UTF-8 replaced.
    ///
    /// # Errors
    /// When the thread has ended, or it may not be looked at.
    pub fn thread_name(&self, tid: u32) -> Result<String, ProcessError> {
        let bytes = self.read(&format!("task/{tid}/comm"), "the name of a thread")?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
    }

    /// Its command name when it was opened (`comm`, at most 15 bytes), with bytes that are not UTF-8 replaced.
    pub fn comm(&self) -> &str {
        &self.comm
    }

    /// The path of its executable as the process sees it, with ` (deleted)` at the end when that file is gone.
    ///
    /// # Errors
    /// When it has exited or may not be read. A kernel thread has no executable and answers like an exited process.
    pub fn exe(&self) -> Result<PathBuf, ProcessError> {
        let path = self.source.link("exe").map_err(|error| ProcessError::new(self.pid, "the executable", error))?;
        Ok(PathBuf::from(OsString::from_vec(path)))
    }

    /// Its working directory, which relative paths are relative to, as the process sees it.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn working_directory(&self) -> Result<PathBuf, ProcessError> {
        let path =
            self.source.link("cwd").map_err(|error| ProcessError::new(self.pid, "the working directory", error))?;
        Ok(PathBuf::from(OsString::from_vec(path)))
    }

    /// Its arguments, without the final empty one; none for a zombie. A process may overwrite them: nginx shows its
    /// role here.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn arguments(&self) -> Result<Vec<Vec<u8>>, ProcessError> {
        let mut bytes = self.read("cmdline", "the command line")?;
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
    }

    /// The number of its effective user, as the user namespace that we are in has it.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn user(&self) -> Result<u32, ProcessError> {
        self.status_field(b"Uid:", 1)
    }

    /// Its cgroups, as the text of `/proc/PID/cgroup`.
    ///
    /// # Errors
    /// When it has exited.
    pub fn cgroups(&self) -> Result<Vec<u8>, ProcessError> {
        self.read("cgroup", "the cgroups")
    }

    /// The variables of its environment when it began to run its program, each with a zero behind it. A process may overwrite them:
    /// nginx does.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn environment(&self) -> Result<Vec<u8>, ProcessError> {
        self.read("environ", "the environment")
    }

    /// The name of a namespace of it, such as `uts:[4026531838]` for the kind `uts`.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn namespace(&self, kind: &str) -> Result<Vec<u8>, ProcessError> {
        self.source.link(&format!("ns/{kind}")).map_err(|error| ProcessError::new(self.pid, "the namespaces", error))
    }

    /// The address at which its program begins, which is in its executable; nothing if the kernel does not say.
    ///
    /// # Errors
    /// When it has exited or may not be read.
    pub fn entry_point(&self) -> Result<Option<u64>, ProcessError> {
        let vector = self.read("auxv", "the auxiliary vector")?;
        let words: Vec<u64> = vector.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        Ok(words.as_chunks().0.iter().find_map(|[key, value]| (*key == AT_ENTRY).then_some(*value)))
    }

    /// Whether this very process still runs: not exited, not a zombie.
    pub fn is_running(&self) -> bool {
        self.stat().is_ok_and(|stat| stat.started == self.started && !matches!(stat.state, b'Z' | b'X'))
    }

    /// Its mappings, by address.
    ///
    /// # Errors
    /// When it has exited, may not be read, or the kernel's answer is not understood.
    pub fn maps(&self) -> Result<Vec<Mapping>, ProcessError> {
        let text = self.read("maps", "the memory map")?;
        maps::parse(&text).map_err(|error| ProcessError::Other {
            pid: self.pid,
            what: "the memory map",
            error: std::io::Error::new(ErrorKind::InvalidData, error),
        })
    }

    /// Its memory. Reads go by pid: after the process has exited ([`Process::is_running`]) they may meet another one.
    pub fn memory(&self) -> ProcessMemory {
        ProcessMemory::new(Arc::clone(&self.source))
    }

    /// The CPU time that it has used, to the nanosecond; nothing when it runs or that cannot be told. Between two moments with the same
    /// it has not run, and what was read of its memory was there at one moment. By pid, as its memory.
    pub fn resting_time(&self) -> Option<Duration> {
        self.source.resting_time().ok()
    }

    /// The file behind a mapping of it.
    ///
    /// # Errors
    /// When the mapping has no file, or the file cannot be had or cannot be told from another one.
    pub fn mapped_file(&self, mapping: &Mapping) -> Result<MappedFile, NoFile> {
        self.source.mapped_file(mapping)
    }

    /// A regular file by its path inside its root: also symbolic links lead nowhere else.
    ///
    /// # Errors
    /// When there is no such file, it is not a regular one, or the root may not be entered.
    pub fn file_in_root(&self, path: &Path) -> Result<File, NoFile> {
        self.source.file_in_root(path)
    }

    /// The same, of a file that has not been changed since the process started.
    ///
    /// # Errors
    /// Also when it has been changed.
    pub fn unchanged_file(&self, path: &Path) -> Result<File, NoFile> {
        self.source.unchanged_file(path, self.started)
    }

    /// The time in its world: since some moment before it was opened.
    pub fn now(&self) -> Duration {
        self.world.now()
    }

    /// Reads one file of `/proc/PID` as a whole.
    fn read(&self, name: &str, what: &'static str) -> Result<Vec<u8>, ProcessError> {
        self.source.file(name).map_err(|error| ProcessError::new(self.pid, what, error))
    }

    fn thread_group(&self) -> Result<u32, ProcessError> {
        self.status_field(b"Tgid:", 0)
    }

    /// The number at a place in a line of `/proc/PID/status`.
    fn status_field(&self, line: &[u8], place: usize) -> Result<u32, ProcessError> {
        let status = self.read("status", "the status")?;
        let numbers = status.split(|byte| *byte == b'\n').find_map(|text| text.strip_prefix(line));
        numbers
            .and_then(|numbers| std::str::from_utf8(numbers).ok()?.split_ascii_whitespace().nth(place)?.parse().ok())
            .ok_or_else(|| ProcessError::new(self.pid, "the status", Errno::ILSEQ))
    }

    fn stat(&self) -> Result<Stat, ProcessError> {
        let text = self.read("stat", "the status")?;
        Stat::parse(&text).ok_or_else(|| ProcessError::new(self.pid, "the status", Errno::ILSEQ))
    }
}

/// What is used of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    comm: String,
    state: u8,
    /// The pid of the parent.
    pub(super) parent: u32,
    started: u64,
}

impl Stat {
    /// Reads the text of `/proc/PID/stat`. The command name may hold spaces and parentheses: it ends at the last `)`.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
        let mut fields = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
        // proc_pid_stat(5): state is field 3, ppid 4, starttime 22.
        let state = *fields.next()?.as_bytes().first()?;
        let parent = fields.next()?.parse().ok()?;
        let started = fields.nth(17)?.parse().ok()?;
        Some(Self { comm, state, parent, started })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use std::time::SystemTime;

    use crate::target::live::{date, live};

    #[test]
    fn our_own_process_is_described() {
        let process = Process::open(&live(), std::process::id()).unwrap();
        assert_eq!(process.exe().unwrap(), std::env::current_exe().unwrap());
        assert!(process.is_running());
        assert!(process.started() > 0);
        assert!(date(process.started()) <= SystemTime::now() + Duration::from_millis(10));
        let arguments: Vec<Vec<u8>> = std::env::args_os().map(OsString::into_vec).collect();
        assert_eq!(process.arguments().unwrap(), arguments);
    }

    #[test]
    fn an_exited_process_is_not_taken_for_a_running_one() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(&live(), child.id()).unwrap();
        assert!(process.is_running());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_running());
        assert!(matches!(process.maps(), Err(ProcessError::NotFound { .. })));
        assert!(matches!(Process::open(&live(), child.id()), Err(ProcessError::NotFound { .. })));
    }

    #[test]
    fn a_process_starts_after_files_that_were_there_and_before_those_that_it_makes() {
        let folder = tempfile::tempdir().unwrap();
        let changed = |name| {
            let metadata = std::fs::metadata(folder.path().join(name)).unwrap();
            SystemTime::UNIX_EPOCH + Duration::new(metadata.ctime().unsigned_abs(), metadata.ctime_nsec() as u32)
        };
        std::fs::write(folder.path().join("before"), "").unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(&live(), child.id()).unwrap();
        let first = changed("before");
        let later = || {
            std::fs::write(folder.path().join("after"), "").unwrap();
            changed("after") > date(process.started())
        };
        let deadline = SystemTime::now() + Duration::from_secs(10);
        let mut is_later = later();
        while !is_later && SystemTime::now() < deadline {
            is_later = later();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(first <= date(process.started()));
        assert!(is_later);
    }

    #[test]
    fn a_process_that_sleeps_is_at_rest_and_one_that_runs_is_not() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(&live(), child.id()).unwrap();
        let rests = || process.resting_time().is_some() && process.resting_time() == process.resting_time();
        let deadline = SystemTime::now() + Duration::from_secs(10);
        while !rests() && SystemTime::now() < deadline {}
        assert!(rests() && process.resting_time() > Some(Duration::ZERO));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.resting_time(), None);
        let own = Process::open(&live(), std::process::id()).unwrap();
        assert_eq!(own.resting_time(), None, "whoever asks runs");
    }

    #[test]
    fn the_id_of_a_thread_names_its_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            let _ = stopped.recv();
        });
        let id = told.recv().unwrap();
        let error = Process::open(&live(), id).unwrap_err().to_string();
        assert!(error.contains(&format!("use -p {}", std::process::id())), "{error}");
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let text = b"7 (a) S (b) R 3 1 1 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 987 1 2\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { comm: "a) S (b".into(), state: b'R', parent: 3, started: 987 });
        assert_eq!(Stat::parse(b")("), None);
        assert_eq!(Stat::parse(b"7 (a) R 3"), None);
        assert_eq!(Stat::parse(b""), None);
    }
}
