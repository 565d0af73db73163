//! The requests that wait for one endpoint, in the order of time: in a spool, and in memory for as long as there is
//! none to
//! be written.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prost::bytes::Bytes;

use super::metrics::{EndpointMetrics, Reason};
use super::spool::{Found, OpenError, ReadError, Spool};

/// How much may wait, and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the spool.
    pub disk: u64,
    /// Bytes in memory.
    pub memory: u64,
    /// The longest time.
    pub age: Duration,
}

/// The requests that wait for one endpoint.
#[derive(Debug)]
pub struct Queue {
    /// Where the spool is to be, if there is to be one.
    directory: Option<PathBuf>,
    /// The spool, while it can be used.
    spool: Option<Spool>,
    /// Why the last write failed, to say it once.
    trouble: Option<String>,
    memory: VecDeque<InMemory>,
    memory_bytes: u64,
    /// The number of the next request.
    next: u64,
    /// When requests with this number and the ones up to the next mark came: a limited number of marks, however many
    /// requests there are.
    marks: VecDeque<(u64, Instant)>,
    taken: Option<Taken>,
    protocol: &'static str,
    limits: Limits,
    metrics: EndpointMetrics,
}

#[derive(Debug)]
struct InMemory {
    number: u64,
    body: Bytes,
}

/// The request that is being sent.
#[derive(Debug)]
struct Taken {
    number: u64,
    /// It has lost its place meanwhile; whether it is lost is known when it has been sent.
    dropped: Option<Reason>,
}

/// A stretch of time is as long as this part of the longest time that requests wait.
const MARKS: u32 = 256;

impl Queue {
    /// The queue with what is in its spool. A spool that cannot be written is tried again with each request.
    ///
    /// # Errors
    /// When somebody else uses the spool.
    pub fn open(
        directory: Option<PathBuf>,
        protocol: &'static str,
        limits: Limits,
        metrics: EndpointMetrics,
        now: Instant,
    ) -> anyhow::Result<Queue> {
        let mut queue = Queue {
            directory,
            spool: None,
            trouble: None,
            memory: VecDeque::new(),
            memory_bytes: 0,
            next: 1,
            marks: VecDeque::new(),
            taken: None,
            protocol,
            limits,
            metrics,
        };
        match queue.open_spool(now) {
            Err(error @ OpenError::Used(_)) => return Err(error.into()),
            Err(error) => queue.fails(&error.to_string()),
            Ok(()) => {}
        }
        queue.expire(now);
        Ok(queue)
    }

    /// What holds for requests from now on.
    pub fn set(&mut self, protocol: &'static str, limits: Limits, now: Instant) {
        (self.protocol, self.limits) = (protocol, limits);
        self.expire(now);
    }

    /// Requests that wait, and their size in bytes.
    pub fn waiting(&self) -> (u64, u64) {
        let (requests, bytes) = self.spool.as_ref().map_or((0, 0), |spool| (spool.requests(), spool.bytes()));
        (requests + self.memory.len() as u64, bytes + self.memory_bytes)
    }

    /// Those that the end of this program would lose.
    pub fn in_memory(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Adds a request.
    pub fn push(&mut self, body: Vec<u8>, now: Instant) {
        let number = self.next;
        self.next += 1;
        self.mark(number, now);
        self.memory_bytes += body.len() as u64;
        self.memory.push_back(InMemory { number, body: body.into() });
        self.settle(now);
        while self.memory_bytes > self.limits.memory {
            let is_alone = self.memory.len() == 1;
            self.drop_in_memory(if is_alone { Reason::TooLarge } else { Reason::MemoryFull });
        }
        self.expire(now);
        self.tell(now);
    }

    /// The oldest request, which keeps its place until [`done`](Queue::done), [`refused`](Queue::refused) or
    /// [`put_back`](Queue::put_back) says what has become of it.
    pub fn take(&mut self, now: Instant) -> Option<Bytes> {
        self.settle(now);
        self.expire(now);
        let taken =
            self.oldest_on_disk().or_else(|| self.memory.front().map(|first| (first.number, first.body.clone())));
        self.taken = taken.as_ref().map(|(number, _)| Taken { number: *number, dropped: None });
        self.tell(now);
        Some(taken?.1)
    }

    /// The request that was taken has been sent.
    pub fn done(&mut self, now: Instant) {
        if let Some(Taken { number, dropped: None }) = self.taken.take() {
            self.remove(number);
        }
        self.tell(now);
    }

    /// The endpoint will never take the request that was taken.
    pub fn refused(&mut self, now: Instant) {
        self.metrics.drop(Reason::Refused, u64::from(self.taken.is_some()));
        self.done(now);
    }

    /// The request that was taken could not be sent.
    pub fn put_back(&mut self, now: Instant) {
        if let Some(Taken { dropped: Some(reason), .. }) = self.taken.take() {
            self.metrics.drop(reason, 1);
        }
        self.tell(now);
    }

    /// Moves what waits in memory to the spool, as far as it can be written.
    fn settle(&mut self, now: Instant) {
        if self.directory.is_none() {
            return;
        }
        while let Some(first) = self.memory.front() {
            let size = Spool::size_of(self.protocol, &first.body);
            if size > self.limits.disk {
                self.drop_in_memory(Reason::TooLarge);
                continue;
            }
            if self.spool.is_none() {
                if let Err(error) = self.open_spool(now) {
                    self.metrics.write_error();
                    return self.fails(&error.to_string());
                }
                // It may have brought other numbers.
                continue;
            }
            let is_full = |spool: &Spool| spool.requests() > 0 && spool.bytes() + size > self.limits.disk;
            if self.spool.as_ref().is_some_and(is_full) {
                self.drop_on_disk(Reason::SpoolFull);
                continue;
            }
            let (Some(spool), Some(first)) = (&mut self.spool, self.memory.front()) else { return };
            if let Err(error) = spool.write(first.number, self.protocol, &first.body) {
                self.metrics.write_error();
                let why = format!("The spool {} cannot be written: {error}", spool.directory().display());
                if !spool.directory().is_dir() {
                    self.close_spool();
                }
                return self.fails(&why);
            }
            self.memory_bytes -= first.body.len() as u64;
            self.memory.pop_front();
            if self.trouble.take().is_some() {
                log::info!("Export to {}: the spool can be written again", self.metrics.endpoint());
            }
        }
    }

    fn fails(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            let name = self.metrics.endpoint();
            log::error!("Export to {name}: {why}; profiles wait in memory, where less of them can wait");
            self.trouble = Some(why.to_owned());
        }
    }

    fn open_spool(&mut self, now: Instant) -> Result<(), OpenError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let (spool, found) = Spool::open(directory)?;
        if !found.is_empty() {
            log::info!("Export to {}: {} requests of before wait in the spool", self.metrics.endpoint(), found.len());
        }
        self.make_room(spool.next());
        self.mark_found(&found, now);
        self.spool = Some(spool);
        Ok(())
    }

    /// Gives what waits in memory numbers that come after those of the spool.
    fn make_room(&mut self, next: u64) {
        let first = self.memory.front().map_or(self.next, |first| first.number);
        let further = next.saturating_sub(first);
        self.memory.iter_mut().for_each(|waiting| waiting.number += further);
        if let Some(taken) = self.taken.as_mut().filter(|taken| taken.number >= first) {
            taken.number += further;
        }
        self.marks.iter_mut().for_each(|(number, _)| *number += further);
        self.next += further;
    }

    /// Remembers the ages of what was found. None is older than one before it, whatever the clock was when it was
    /// written.
    fn mark_found(&mut self, found: &[Found], now: Instant) {
        let later = std::mem::take(&mut self.marks);
        let mut age = Duration::MAX;
        for found in found {
            age = age.min(found.age);
            let at = now.checked_sub(age).or_else(|| now.checked_sub(self.limits.age + Duration::from_secs(1)));
            self.mark(found.number, at.unwrap_or(now));
        }
        self.marks.extend(later);
    }

    fn mark(&mut self, number: u64, at: Instant) {
        let apart = self.limits.age / MARKS;
        if self.marks.back().is_none_or(|(_, last)| at.saturating_duration_since(*last) > apart) {
            self.marks.push_back((number, at));
        }
    }

    /// How long a request has waited, or up to one part in [`MARKS`] of the longest time more.
    fn age(&self, number: u64, now: Instant) -> Duration {
        let after = self.marks.partition_point(|(marked, _)| *marked <= number);
        let mark = after.checked_sub(1).and_then(|index| self.marks.get(index));
        mark.map_or(Duration::ZERO, |(_, at)| now.saturating_duration_since(*at))
    }

    fn oldest(&self) -> Option<u64> {
        let on_disk = self.spool.as_ref().and_then(Spool::first);
        on_disk.or_else(|| Some(self.memory.front()?.number))
    }

    /// Drops what has waited too long.
    fn expire(&mut self, now: Instant) {
        while self.oldest().is_some_and(|number| self.age(number, now) > self.limits.age) {
            match self.spool.as_ref().and_then(Spool::first) {
                Some(_) => self.drop_on_disk(Reason::TooOld),
                None => self.drop_in_memory(Reason::TooOld),
            }
        }
        let oldest = self.oldest().unwrap_or(self.next);
        while self.marks.get(1).is_some_and(|(number, _)| *number <= oldest) {
            self.marks.pop_front();
        }
        if self.oldest().is_none() {
            self.marks.clear();
        }
    }

    /// The first request of the spool that can be read.
    fn oldest_on_disk(&mut self) -> Option<(u64, Bytes)> {
        loop {
            let number = self.first_on_disk()?;
            let spool = self.spool.as_ref()?;
            let told = |what: &dyn std::fmt::Display| {
                let (name, directory) = (self.metrics.endpoint(), spool.directory().display());
                log::error!("Export to {name}: request {number} in {directory} {what}");
            };
            let reason = match spool.read(number, self.protocol) {
                Ok(body) => return Some((number, body.into())),
                Err(ReadError::Vanished) => continue,
                Err(ReadError::Io(error)) if is_shortage(&error) => {
                    told(&format_args!("cannot be read now: {error}"));
                    return None;
                }
                Err(ReadError::Io(error)) => {
                    told(&format_args!("cannot be read, and is dropped: {error}"));
                    Reason::Unreadable
                }
                Err(ReadError::Corrupt) => {
                    told(&"is not what was written, and is dropped");
                    Reason::Unreadable
                }
                Err(ReadError::OtherProtocol) => Reason::OtherProtocol,
            };
            self.drop_on_disk(reason);
        }
    }

    /// The number of the first request in the spool, whose file is there.
    fn first_on_disk(&mut self) -> Option<u64> {
        match self.spool.as_mut()?.find_first() {
            Ok(0) => {}
            Ok(vanished) => self.vanished(vanished),
            Err(_) => self.close_spool(),
        }
        self.spool.as_ref()?.first()
    }

    /// The directory cannot be read: what was in it may be there when it is opened again.
    fn close_spool(&mut self) {
        if let Some(spool) = self.spool.take() {
            self.vanished(spool.requests());
        }
    }

    fn vanished(&self, requests: u64) {
        self.metrics.drop(Reason::Vanished, requests);
        log::error!("Export to {}: {requests} requests in the spool are there no more", self.metrics.endpoint());
    }

    fn drop_on_disk(&mut self, reason: Reason) {
        let Some(number) = self.first_on_disk() else { return };
        self.remove(number);
        self.dropped(number, reason);
    }

    fn drop_in_memory(&mut self, reason: Reason) {
        let Some(InMemory { number, body }) = self.memory.pop_front() else { return };
        self.memory_bytes -= body.len() as u64;
        self.dropped(number, reason);
    }

    fn dropped(&mut self, number: u64, reason: Reason) {
        match self.taken.as_mut().filter(|taken| taken.number == number) {
            Some(taken) => taken.dropped = Some(reason),
            None => self.metrics.drop(reason, 1),
        }
    }

    /// Removes the oldest request if it is the one with this number.
    fn remove(&mut self, number: u64) {
        if let Some(spool) = self.spool.as_mut().filter(|spool| spool.first() == Some(number)) {
            if let Err(error) = spool.remove_first()
                && error.kind() != std::io::ErrorKind::NotFound
            {
                self.metrics.write_error();
                let directory = spool.directory().display();
                log::error!(
                    "Export to {}: {number} cannot be removed from {directory}, and may be sent again after the next start: {error}",
                    self.metrics.endpoint()
                );
            }
        } else if let Some(sent) = self.memory.pop_front_if(|first| first.number == number) {
            self.memory_bytes -= sent.body.len() as u64;
        }
    }

    fn tell(&self, now: Instant) {
        let (requests, bytes) = self.waiting();
        let oldest = self.oldest().map_or(Duration::ZERO, |number| self.age(number, now));
        self.metrics.waiting(requests, bytes, oldest);
    }
}

/// An error that is not the file's, but that of a system with too little of something.
fn is_shortage(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::export::metrics::ExportMetrics;

    const LIMITS: Limits = Limits { disk: 1 << 20, memory: 1 << 10, age: Duration::from_secs(256) };
    const NAME: &str = "test";

    struct Case {
        directory: tempfile::TempDir,
        metrics: ExportMetrics,
        now: Instant,
    }

    impl Case {
        fn new() -> Case {
            let directory = tempfile::tempdir().unwrap();
            Case { directory, metrics: ExportMetrics::default(), now: Instant::now() }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join(NAME)
        }

        fn open(&self, limits: Limits) -> Queue {
            Queue::open(Some(self.path()), "pyroscope", limits, self.metrics.of(NAME), self.now).unwrap()
        }

        fn files(&self) -> Vec<String> {
            let entries = fs::read_dir(self.path()).unwrap();
            let mut files: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            files
        }

        fn dropped(&self, reason: Reason) -> u64 {
            self.metrics.dropped(NAME, reason)
        }

        /// Everything that is there, as it is taken.
        fn drain(&self, queue: &mut Queue) -> Vec<String> {
            let mut drained = Vec::new();
            while let Some(body) = queue.take(self.now) {
                queue.done(self.now);
                drained.push(String::from_utf8(body.to_vec()).unwrap());
            }
            drained
        }
    }

    fn push(queue: &mut Queue, bodies: &[&str], now: Instant) {
        bodies.iter().for_each(|body| queue.push(body.as_bytes().to_vec(), now));
    }

    /// What one short request takes on disk.
    fn size() -> u64 {
        Spool::size_of("pyroscope", b"a")
    }

    #[test]
    fn requests_are_taken_in_order_and_found_again_after_a_restart() {
        let case = Case::new();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["a", "b", "c"], case.now);
        assert_eq!(queue.waiting(), (3, 3 * size()));
        assert_eq!(queue.take(case.now).unwrap(), "a");
        queue.put_back(case.now);
        assert_eq!(queue.take(case.now).unwrap(), "a", "what could not be sent is still the first");
        queue.done(case.now);
        drop(queue);
        fs::write(case.path().join("0000000000000004.tmp"), "half").unwrap();
        fs::write(case.path().join("notes.txt"), "of somebody").unwrap();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["d"], case.now);
        assert_eq!(case.drain(&mut queue), ["b", "c", "d"]);
        assert_eq!((queue.waiting(), case.files()), ((0, 0), vec!["lock".to_owned(), "notes.txt".to_owned()]));
    }

    #[test]
    fn a_spool_is_of_one_daemon() {
        let case = Case::new();
        let queue = case.open(LIMITS);
        let again = Queue::open(Some(case.path()), "pyroscope", LIMITS, case.metrics.of(NAME), case.now);
        assert!(again.unwrap_err().to_string().starts_with("Another luaflame daemon uses the spool"));
        drop(queue);
        case.open(LIMITS);
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let case = Case::new();
        let mut queue = case.open(Limits { disk: 2 * size(), ..LIMITS });
        push(&mut queue, &["a", "b", "c", "d"], case.now);
        queue.push(vec![b'x'; 4096], case.now);
        assert_eq!((case.dropped(Reason::SpoolFull), case.dropped(Reason::TooLarge)), (2, 1));
        assert_eq!(case.drain(&mut queue), ["c", "d"]);
    }

    #[test]
    fn one_that_is_being_sent_is_dropped_only_if_it_is_not_taken() {
        let case = Case::new();
        let mut queue = case.open(Limits { disk: 2 * size(), ..LIMITS });
        push(&mut queue, &["a", "b"], case.now);
        assert_eq!(queue.take(case.now).unwrap(), "a");
        push(&mut queue, &["c"], case.now);
        queue.done(case.now);
        assert_eq!(case.dropped(Reason::SpoolFull), 0, "it has been sent");
        assert_eq!(queue.take(case.now).unwrap(), "b");
        push(&mut queue, &["d"], case.now);
        queue.put_back(case.now);
        assert_eq!(case.dropped(Reason::SpoolFull), 1);
        assert_eq!(case.drain(&mut queue), ["c", "d"]);
    }

    #[test]
    fn the_old_are_dropped_by_the_monotonic_clock_and_few_marks_are_kept() {
        let mut case = Case::new();
        let mut queue = case.open(LIMITS);
        for second in 0..1000 {
            case.now += Duration::from_secs(1);
            push(&mut queue, &[&second.to_string()], case.now);
            // What the wall clock says of files does not matter.
            let file = fs::File::options().write(true).open(case.path().join(case.files().last().unwrap()));
            let _ = file.map(|file| file.set_modified(std::time::UNIX_EPOCH));
        }
        assert!(queue.marks.len() <= MARKS as usize + 2, "{}", queue.marks.len());
        let left = case.drain(&mut queue);
        // Marks are as far apart as the requests here, or twice as far.
        assert!((254..=257).contains(&left.len()), "{}", left.len());
        assert_eq!(case.dropped(Reason::TooOld), 1000 - left.len() as u64);
        assert_eq!(left.last().unwrap(), "999");
    }

    #[test]
    fn ages_of_before_are_by_their_files_and_none_is_negative() {
        let case = Case::new();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["old", "future", "new"], case.now);
        drop(queue);
        let touch = |file: &str, time: std::time::SystemTime| {
            fs::File::options().write(true).open(case.path().join(file)).unwrap().set_modified(time).unwrap();
        };
        let now = std::time::SystemTime::now();
        touch("0000000000000001", now - Duration::from_secs(1000));
        touch("0000000000000002", now + Duration::from_secs(1_000_000));
        // Since it comes after one of now, it is of now, whatever the clock was.
        touch("0000000000000003", now - Duration::from_secs(1000));
        let mut queue = case.open(LIMITS);
        assert_eq!(case.dropped(Reason::TooOld), 1);
        assert_eq!(case.drain(&mut queue), ["future", "new"]);
    }

    #[test]
    fn files_that_are_not_what_was_written_are_dropped_and_counted() {
        let case = Case::new();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["a", "b", "c", "d", "e", "f"], case.now);
        let path = |number: u64| case.path().join(format!("{number:016}"));
        fs::write(path(1), "").unwrap();
        let mut bytes = fs::read(path(2)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path(2), &bytes).unwrap();
        fs::write(path(3), &bytes[..bytes.len() - 1]).unwrap();
        fs::remove_file(path(4)).unwrap();
        fs::create_dir(path(4)).unwrap();
        fs::remove_file(path(5)).unwrap();
        assert_eq!(case.drain(&mut queue), ["f"]);
        assert_eq!((case.dropped(Reason::Unreadable), case.dropped(Reason::Vanished)), (4, 1));
        assert_eq!(queue.waiting().0, 0);
    }

    #[test]
    fn what_waits_for_another_protocol_is_not_sent() {
        let case = Case::new();
        push(&mut case.open(LIMITS), &["a"], case.now);
        let mut queue = Queue::open(Some(case.path()), "parca", LIMITS, case.metrics.of(NAME), case.now).unwrap();
        push(&mut queue, &["b"], case.now);
        assert_eq!(case.drain(&mut queue), ["b"]);
        assert_eq!(case.dropped(Reason::OtherProtocol), 1);
    }

    #[test]
    fn without_a_directory_a_bounded_number_waits_in_memory() {
        let case = Case::new();
        let limits = Limits { memory: 3, ..LIMITS };
        let mut queue = Queue::open(None, "pyroscope", limits, case.metrics.of(NAME), case.now).unwrap();
        push(&mut queue, &["a", "b", "c", "d", "large"], case.now);
        push(&mut queue, &["e"], case.now);
        assert_eq!((case.dropped(Reason::MemoryFull), case.dropped(Reason::TooLarge)), (4, 1));
        assert_eq!(case.drain(&mut queue), ["e"]);
    }

    #[test]
    fn a_directory_that_is_gone_or_cannot_be_made_is_waited_for_in_memory() {
        let case = Case::new();
        fs::write(case.path(), "a file in its place").unwrap();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["a", "b"], case.now);
        assert_eq!((queue.waiting().0, queue.in_memory()), (2, 2));
        fs::remove_file(case.path()).unwrap();
        push(&mut queue, &["c"], case.now);
        assert_eq!((queue.waiting().0, queue.in_memory()), (3, 0), "all are in the spool as soon as there is one");
        fs::remove_dir_all(case.path()).unwrap();
        push(&mut queue, &["d"], case.now);
        assert_eq!(queue.in_memory(), 1);
        push(&mut queue, &["e"], case.now);
        assert_eq!((case.drain(&mut queue), case.dropped(Reason::Vanished)), (vec!["d".to_owned(), "e".to_owned()], 3));
        assert_eq!(fs::metadata(case.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_spool_found_late_keeps_its_place_before_what_waits_in_memory() {
        let case = Case::new();
        push(&mut case.open(LIMITS), &["a", "b", "c"], case.now);
        let elsewhere = case.directory.path().join("elsewhere");
        fs::rename(case.path(), &elsewhere).unwrap();
        fs::write(case.path(), "").unwrap();
        let mut queue = case.open(LIMITS);
        push(&mut queue, &["d"], case.now);
        fs::remove_file(case.path()).unwrap();
        fs::rename(elsewhere, case.path()).unwrap();
        assert_eq!(queue.take(case.now).unwrap(), "a");
        queue.put_back(case.now);
        push(&mut queue, &["e"], case.now);
        assert_eq!(case.drain(&mut queue), ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_full_disk_is_waited_for_in_memory() {
        let case = Case::new();
        let Some(disk) = Disk::mount(case.directory.path(), 64 << 10) else { return };
        let limits = Limits { memory: 96 << 10, ..LIMITS };
        let mut queue = case.open(limits);
        let bodies: Vec<String> = ('a'..='f').map(|name| name.to_string().repeat(24 << 10)).collect();
        bodies.iter().for_each(|body| push(&mut queue, &[body], case.now));
        let (all, in_memory) = (queue.waiting().0, queue.in_memory());
        assert!(all == 6 && (3..=5).contains(&in_memory), "{in_memory} of {all} are in memory");
        assert!(case.files().iter().all(|name| !name.ends_with("tmp")));
        assert_eq!(case.drain(&mut queue), bodies, "in the order in which they came");
        drop((queue, disk));
    }

    /// A small file system.
    struct Disk<'a>(&'a Path);

    impl Disk<'_> {
        fn mount(at: &Path, bytes: usize) -> Option<Disk<'_>> {
            let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            let mounted = rustix::mount::mount(
                "luaflame-test",
                at,
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                options.as_c_str(),
            );
            match mounted {
                Ok(()) => Some(Disk(at)),
                Err(error) => {
                    println!("not tried: a small file system cannot be mounted: {error}");
                    None
                }
            }
        }
    }

    impl Drop for Disk<'_> {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
}
