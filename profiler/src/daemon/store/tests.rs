use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::UNIX_EPOCH;

use bytesize::ByteSize;

use super::*;
use crate::profile::window::Identity;
use crate::profile::{Frame, FrameKind, Origin};

/// A moment, in seconds after the time at which the tests are.
fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn config(directory: &Path) -> config::Store {
    config::Store { directory: directory.to_owned(), ..config::Store::default() }
}

fn opened(directory: &Path) -> Store {
    Store::open_at(&config(directory), Clock::at(at(3600))).unwrap()
}

fn process(service: &str, pid: u32, count: u64) -> ProcessProfile {
    let mut profile = Profile::default();
    let frame = |kind, name: &str, file: &str, first_line| Frame {
        kind,
        name: Some(name.into()),
        file: Some(file.into()),
        first_line,
        line: 0,
        unresolved: false,
    };
    let main = profile.frame(frame(FrameKind::Native, "main", "nginx", 0));
    let handle = profile.frame(frame(FrameKind::Compiled, "handle", "/srv/app.lua", 12));
    profile.add(Origin { pid, tid: pid, ..Origin::default() }, &[main, handle], count);
    profile.counters.samples = count;
    profile.meta.frequency = 19;
    let identity = Identity {
        pid,
        started: 7,
        command: "nginx".to_owned(),
        service: service.to_owned(),
        worker: Some(pid % 4),
        labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
        ..Identity::default()
    };
    ProcessProfile { identity: Arc::new(identity), profile }
}

fn window(start: u64, processes: Vec<ProcessProfile>) -> Window {
    Window { started: at(start), seconds: 15.0, processes }
}

/// All files below a directory but the lock, by their path in it.
fn files(directory: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for folder in fs::read_dir(directory).unwrap().map(|folder| folder.unwrap().path()).filter(|path| path.is_dir()) {
        let names = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
        files.extend(names.map(|path| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned()));
    }
    files.sort();
    files
}

fn everything() -> Selection {
    Selection { service: None, pid: None, from: UNIX_EPOCH, to: at(1_000_000) }
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/profiles");
    let store = opened(&path);
    store.write(&window(0, vec![process("a", 1, 2), process("b", 2, 3), process("a", 3, 4)])).unwrap();
    store.write(&window(15, vec![process("a", 1, 5)])).unwrap();
    let told = |store: &Store| {
        let whole = store.profile(&everything()).unwrap();
        let samples: u64 = whole.stacks().map(|(_, count)| count).sum();
        assert_eq!((samples, whole.meta.seconds, whole.meta.started), (14, 30.0, Some(at(0))));
        (store.services(UNIX_EPOCH, at(99)), store.timeline(None, UNIX_EPOCH, at(99)), store.metrics().bytes)
    };
    let before = told(&store);
    let (services, timeline, _) = &before;
    let [a, b] = &**services else { panic!("{services:?}") };
    assert_eq!((&*a.name, a.samples, a.first, a.last), ("a", 11, at(0), at(30)));
    assert_eq!((&*b.name, b.samples, b.first, b.last), ("b", 3, at(0), at(15)));
    let pids: Vec<_> = a.processes.iter().map(|process| (process.pid, process.worker, process.last)).collect();
    assert_eq!(pids, [(1, Some(1), at(30)), (3, Some(3), at(15))]);
    assert_eq!(*timeline, [(at(0), 15.0, 9), (at(15), 15.0, 5)]);
    assert_eq!(
        files(&path),
        [
            "a/20270115T080000.000Z-15.000.pb.gz",
            "a/20270115T080015.000Z-15.000.pb.gz",
            "b/20270115T080000.000Z-15.000.pb.gz"
        ]
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path.join("a")), mode(&path.join(&files(&path)[0]))), (0o750, 0o640));
    drop(store);
    assert_eq!(told(&opened(&path)), before);
}

#[test]
fn a_part_can_be_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    store.write(&window(0, vec![process("a", 1, 1), process("b", 2, 10), process("a", 3, 100)])).unwrap();
    store.write(&window(15, vec![process("a", 1, 1000)])).unwrap();
    let asked = |service: Option<&str>, pid, from, to| {
        let selection = Selection { service: service.map(str::to_owned), pid, from: at(from), to: at(to) };
        let profile = store.profile(&selection).unwrap();
        assert_eq!(profile.counters.samples, profile.stacks().map(|(_, count)| count).sum::<u64>());
        profile.counters.samples
    };
    assert_eq!(asked(Some("a"), None, 0, 30), 1101);
    assert_eq!(asked(Some("a"), Some(1), 0, 30), 1001);
    assert_eq!(asked(None, Some(2), 0, 30), 10);
    assert_eq!(asked(None, None, 0, 15), 111);
    assert_eq!(asked(None, None, 15, 16), 1000);
    assert_eq!(asked(None, None, 30, 99), 0);
    let profile = store.profile(&everything()).unwrap();
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert!(profile.labels[&3].contains(&label("service_name", "a")), "{:?}", profile.labels);
    assert!(profile.labels[&3].contains(&label("zone", "a")) && profile.labels[&3].contains(&label("worker", "3")));
}

#[test]
fn of_one_number_used_twice_no_label_is_guessed() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    store.write(&window(0, vec![process("a", 1, 1)])).unwrap();
    let mut other = process("b", 1, 1);
    Arc::get_mut(&mut other.identity).unwrap().started = 9;
    store.write(&window(15, vec![other])).unwrap();
    let labels = &store.profile(&everything()).unwrap().labels[&1];
    assert!(labels.iter().all(|(name, _)| name != "service_name") && labels.iter().any(|(name, _)| name == "worker"));
    assert_eq!(store.services(UNIX_EPOCH, at(99)).len(), 2);
}

#[test]
fn any_name_of_a_service_is_one_directory_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x/".repeat(2000);
    let names = [
        "",
        ".",
        "..",
        "../../etc",
        "a/b",
        ".hidden",
        "nul\0",
        "new\nline",
        "%2F",
        "/",
        "ünï",
        "a b",
        "A",
        "a",
        &long,
        &long[1..],
    ];
    let store = opened(directory.path());
    for (index, name) in names.iter().enumerate() {
        store.write(&window(index as u64, vec![process(name, 1, 1)])).unwrap();
    }
    drop(store);
    let folders: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|folder| folder.unwrap().file_name()).collect();
    assert_eq!(folders.len(), names.len() + 1, "{folders:?}");
    assert!(
        folders
            .iter()
            .all(|folder| folder.len() <= 120 && (folder == ".lock" || !folder.to_str().unwrap().starts_with('.')))
    );
    let store = opened(directory.path());
    let services = store.services(UNIX_EPOCH, at(99));
    let mut expected = names;
    expected.sort_unstable();
    assert_eq!(services.iter().map(|service| &*service.name).collect::<Vec<_>>(), expected);
    assert_eq!(store.metrics().foreign, 0);
}

#[test]
fn a_thousand_files_keep_to_the_limits() {
    let directory = tempfile::tempdir().unwrap();
    let limited = config::Store { max_size: ByteSize::b(100 * BLOCK), ..config(directory.path()) };
    let store = Store::open_at(&limited, Clock::at(at(0))).unwrap();
    for index in 0..1000 {
        store.write(&window(index * 15, vec![process("a", 1, 1)])).unwrap();
    }
    let metrics = store.metrics();
    assert_eq!((metrics.files, metrics.written, metrics.expired_by_size), (100, 1000, 900));
    assert!(metrics.bytes <= limited.max_size.as_u64());
    let left = files(directory.path());
    assert_eq!(left.len(), 100);
    assert_eq!(store.timeline(None, UNIX_EPOCH, at(1_000_000))[0].0, at(900 * 15), "the oldest went first");
    store.reconfigure(&config::Store { max_size: ByteSize::b(10 * BLOCK), ..limited });
    assert_eq!(files(directory.path()), left[90..]);
}

#[test]
fn old_files_go_by_time_that_passes_and_not_by_the_clock() {
    let directory = tempfile::tempdir().unwrap();
    let hour = config::Store { max_age: Duration::from_hours(1), ..config(directory.path()) };
    let clock = Clock::at(at(0));
    let store = Store::open_at(&hour, clock.clone()).unwrap();
    // As after a jump of the clock of many years, to either side.
    store.write(&window(1_000_000_000, vec![process("a", 1, 1)])).unwrap();
    let past = Window { started: UNIX_EPOCH, ..window(0, vec![process("a", 1, 1)]) };
    store.write(&past).unwrap();
    assert_eq!(store.metrics().files, 2);
    clock.passed.store(3_500_000, Ordering::Relaxed);
    store.write(&window(0, vec![process("a", 1, 1)])).unwrap();
    assert_eq!(store.metrics().files, 3);
    clock.passed.store(3_700_000, Ordering::Relaxed);
    store.reconfigure(&hour);
    assert_eq!((store.metrics().files, store.metrics().expired_by_age), (1, 2));
    store.write(&window(1_000_000_000, vec![process("a", 1, 1)])).unwrap();
    drop(store);
    // At the start it is taken from names: two hours for one, none for what is of the future.
    let store = Store::open_at(&hour, Clock::at(at(7200))).unwrap();
    assert_eq!(store.timeline(None, UNIX_EPOCH, at(2_000_000_000)).len(), 1);
}

#[test]
fn windows_of_one_time_both_stay() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    for _ in 0..3 {
        store.write(&window(0, vec![process("a", 1, 1)])).unwrap();
    }
    drop(store);
    let store = opened(directory.path());
    assert_eq!(store.profile(&everything()).unwrap().counters.samples, 3);
    assert_eq!(files(directory.path()).len(), 3);
}

#[test]
fn a_second_daemon_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let _store = opened(directory.path());
    let error = Store::open(&config(directory.path())).unwrap_err().to_string();
    assert!(error.contains("another luaflame daemon"), "{error}");
}

#[test]
fn what_is_not_ours_stays_and_what_was_not_finished_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    store.write(&window(0, vec![process("a", 1, 1)])).unwrap();
    store.write(&window(15, vec![process("a", 1, 1)])).unwrap();
    drop(store);
    let [first, second] = &*files(directory.path()) else { panic!() };
    let path = |name: &str| directory.path().join(name);
    let whole = fs::read(path(first)).unwrap();
    let foreign = [
        "notes.txt",
        "a/notes.txt",
        "a/.hidden",
        "a/20270115T080100.000Z-15.000.pb.gz",
        "c/x.pb.gz",
        ".luaflame-x.tmp",
    ];
    fs::create_dir(path("c")).unwrap();
    for name in foreign {
        fs::write(path(name), "no profile").unwrap();
    }
    // Of a directory that was renamed.
    fs::write(path("c/20270115T080000.000Z-15.000.pb.gz"), &whole).unwrap();
    fs::write(path("a/.luaflame-Ab12.tmp"), &whole[..9]).unwrap();
    fs::write(path("a/20270115T080200.000Z-15.000.pb.gz"), "").unwrap();
    // Its end is missing, and its beginning tells what it is.
    fs::write(path(second), &whole[..whole.len() - 9]).unwrap();
    let store = opened(directory.path());
    let metrics = store.metrics();
    assert_eq!((metrics.files, metrics.foreign, metrics.unreadable), (2, foreign.len() as u64 + 1, 0));
    for _ in 0..2 {
        assert_eq!(store.profile(&everything()).unwrap().counters.samples, 1);
        assert_eq!(store.metrics().unreadable, 1);
    }
    assert!(foreign.iter().all(|name| fs::read(path(name)).unwrap() == b"no profile"));
    assert!(!path("a/.luaflame-Ab12.tmp").exists() && !path("a/20270115T080200.000Z-15.000.pb.gz").exists());
}

#[test]
fn a_directory_that_goes_away_is_an_error_until_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("profiles");
    let store = opened(&path);
    store.write(&window(0, vec![process("a", 1, 1)])).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = store.write(&window(15, vec![process("a", 1, 1), process("b", 2, 1)])).unwrap_err().to_string();
    assert!(error.contains("2 profiles of this window are lost") && error.contains("profiles"), "{error}");
    assert_eq!((store.metrics().write_errors, store.metrics().written), (2, 1));
    assert_eq!(store.profile(&everything()).unwrap().counters.samples, 0);
    fs::create_dir(&path).unwrap();
    store.write(&window(30, vec![process("a", 1, 1)])).unwrap();
    assert_eq!(store.profile(&everything()).unwrap().counters.samples, 1);
}

#[test]
fn on_a_full_disk_the_oldest_make_room() {
    let directory = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=128k", "luaflame-test"]).arg(directory.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: it takes root to mount a small file system");
        return;
    }
    let written = std::panic::catch_unwind(|| {
        let store = opened(directory.path());
        for index in 0..100 {
            store.write(&window(index * 15, vec![process("a", 1, 1)])).unwrap();
        }
        let metrics = store.metrics();
        assert!(metrics.expired_by_space > 50 && metrics.files + metrics.expired_by_space == 100, "{metrics:?}");
        assert_eq!(store.profile(&everything()).unwrap().counters.samples, metrics.files);
        // When it is others that take the space, and nothing of ours is left to delete, it is an error that passes.
        store.reconfigure(&config::Store { max_size: ByteSize::b(0), ..config(directory.path()) });
        let _ = fs::write(directory.path().join("other"), vec![0; 1 << 20]);
        store.reconfigure(&config(directory.path()));
        let error = store.write(&window(2000, vec![process("a", 1, 1)])).unwrap_err().to_string();
        assert!(error.contains("No space left"), "{error}");
        assert!(files(directory.path()).is_empty());
        fs::remove_file(directory.path().join("other")).unwrap();
        store.write(&window(2015, vec![process("a", 1, 1)])).unwrap();
    });
    let unmounted = Command::new("umount").arg(directory.path()).status();
    written.unwrap();
    assert!(unmounted.is_ok_and(|status| status.success()));
}

#[test]
fn what_is_too_large_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let store = opened(directory.path());
    for index in 0..2 {
        let mut process = process("a", 1, 1);
        let leaf = process.profile.stacks().next().unwrap().0[0];
        // Stacks of one function, each of another depth.
        for depth in 0..100 {
            let stack = vec![leaf; 10 + 2 * depth + index];
            process.profile.add(Origin { pid: 1, ..Origin::default() }, &stack, 1);
        }
        store.write(&window(index as u64 * 15, vec![process])).unwrap();
        let profile = store.profile(&everything());
        match index {
            0 => assert_eq!(profile.unwrap().stacks().len(), 101),
            _ => assert!(profile.unwrap_err().to_string().contains("choose a shorter time")),
        }
    }
}
