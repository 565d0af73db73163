//! Profiles for the tests of formats, and the files that hold what is written of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::profile::{Frame, FrameId, FrameKind, Origin, Profile, State};

/// Two workers, one of them with two VMs: samples of all kinds of frames and in several states.
pub(crate) fn profile() -> Profile {
    use FrameKind::*;
    let mut profile = Profile::default();
    profile.meta.processes = vec![(4711, "nginx".into()), (4712, "nginx".into())];
    profile.meta.lua = true;
    profile.meta.luajit = vec!["LuaJIT 2.1.0-beta3".into()];
    profile.meta.frequency = 100;
    profile.meta.event = "cpu-clock".into();
    profile.meta.seconds = 0.5;
    profile.meta.started = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    profile.threads.insert((4711, 4711), "nginx".into());
    profile.threads.insert((4711, 4800), "helper".into());
    profile.threads.insert((4712, 4712), "nginx".into());

    let mut frame = |kind, name: Option<&str>, file: Option<&str>, first_line, line| {
        let (name, file) = (name.map(Into::into), file.map(Into::into));
        profile.frame(Frame { kind, name, file, first_line, line, unresolved: false })
    };
    let main = frame(Native, Some("main"), Some("nginx"), 0, 0);
    let run = frame(NativeInlined, Some("run_thread"), Some("nginx"), 0, 0);
    let chunk = frame(Interpreted, Some("main chunk"), Some("content_by_lua(nginx.conf:12)"), 0, 1);
    let early = frame(Interpreted, Some("handle"), Some("/srv/app.lua"), 12, 13);
    let late = frame(Compiled, Some("handle"), Some("/srv/app.lua"), 12, 20);
    let step = frame(Inlined, None, Some("/srv/app.lua"), 30, 31);
    let gsub = frame(Builtin, Some("string.gsub"), None, 0, 0);
    let copy = frame(Native, Some("libc.so.6+0x1234"), Some("libc.so.6"), 0, 0);
    let read = frame(Kernel, Some("vfs_read"), None, 0, 0);
    let filter = frame(Kernel, Some("nf_hook"), Some("nf_tables"), 0, 0);
    let cut = frame(Marker, Some("stack cut"), None, 0, 0);

    let origin = |pid, tid, vm, state| Origin { pid, tid, vm, state };
    let first = |state| origin(4711, 4711, 0x7f00_0000_1000, state);
    let second = |state| origin(4712, 4712, 0x7f00_0000_1000, state);
    // Of several CPUs, samples may be told out of order.
    let samples: [(u64, Origin, &[FrameId]); 7] = [
        (0, first(State::Interpreter), &[main, run, chunk, early]),
        (10, first(State::Interpreter), &[main, run, chunk, early]),
        (10, second(State::Interpreter), &[main, run, chunk, early, gsub]),
        (20, first(State::Compiled), &[main, run, chunk, late, step]),
        (50, origin(4711, 4711, 0x7f00_0000_2000, State::Collector), &[main, cut, early]),
        (30, first(State::C), &[main, run, chunk, early, gsub, copy]),
        (30, origin(4711, 4800, 0, State::Outside), &[main, read, filter]),
    ];
    for (milliseconds, origin, stack) in &samples {
        profile.add_at(*origin, stack, milliseconds * 1_000_000);
    }
    profile.counters.samples = samples.len() as u64;
    profile.counters.lost = 2;
    profile.counters.truncated = 1;
    profile.counters.outside_lua = 1;
    profile.counters.frames = samples.iter().map(|(.., stack)| stack.len() as u64).sum();
    profile.counters.unresolved = 1;
    profile.counters.reasons.insert("the stack was deeper than the probe's limits".into(), 1);
    profile.counters.without_symbols.insert("libc.so.6".into(), 1);
    profile
}

/// Names that mean something to some format, in every place where a name can be.
pub(crate) fn hostile() -> Profile {
    use FrameKind::*;
    let long = "very_long::".repeat(100_000);
    let names = [
        "</script><script>alert(1)</script>",
        "]]><svg onload='x'>",
        "a&b \"quoted\" 'too' \\ \\u0000 -- -->",
        "control \0\u{1}\u{8}\u{1b}[2J\u{7f}\u{85}\u{fffe}\u{ffff} end",
        "line\nbreak;semicolon\r\n12 34",
        "\u{202e}right to left\u{2066} \u{2028}",
        "count 12 34",
        "# comment",
        "\u{10ffff}\u{d7ff} wide 漢字 combining e\u{301}",
        "_[k]",
        "",
        " ",
        &long,
    ];
    let mut profile = Profile::default();
    profile.meta.frequency = u32::MAX;
    profile.meta.seconds = f64::MAX;
    for (pid, name) in (1..).zip(names) {
        profile.meta.event = name.into();
        profile.meta.luajit.push(name.into());
        profile.meta.processes.push((pid, name.into()));
        profile.threads.insert((pid, pid), name.into());
        profile.counters.reasons.insert(name.into(), u64::MAX);
        profile.counters.without_symbols.insert(name.into(), u64::MAX);
        let mut stack = Vec::new();
        for kind in [Kernel, Native, NativeInlined, Interpreted, Compiled, Inlined, Builtin, Marker, Group] {
            for (name, file) in [(Some(name), Some(name)), (Some(name), None), (None, Some(name)), (None, None)] {
                let (name, file) = (name.map(Into::into), file.map(Into::into));
                let frame = Frame { kind, name, file, first_line: u32::MAX, line: u32::MAX, unresolved: true };
                stack.push(profile.frame(frame));
                profile.add_at(Origin { pid, tid: pid, vm: u64::MAX, state: State::Exit }, &stack, u64::MAX);
            }
        }
    }
    profile
}

/// Compares with the file of this name in `tests/golden`; with `BLESS=1` in the environment, writes it instead.
pub(crate) fn golden(name: &str, written: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some_and(|bless| bless == "1") {
        fs::write(&path, written).unwrap();
    }
    let known = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; BLESS=1 writes it", path.display()));
    assert!(
        known == written,
        "{} is not what is written now, which is below; BLESS=1 makes it so\n{}",
        path.display(),
        String::from_utf8_lossy(written)
    );
}
