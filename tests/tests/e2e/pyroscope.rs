//! Profiles pushed to a server with Pyroscope's rules.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail, ensure};
use luaflame::daemon::config::Config;
use luaflame::export::Exporters;
use luaflame::export::metrics::{ExportMetrics, Reason};
use luaflame::profile::window::{Identity, ProcessProfile, Window};
use luaflame::profile::{Frame, FrameKind, Origin, Profile, State};
use luaflame_tests::receivers::pyroscope::{Pyroscope, Taken};
use tokio::runtime::{self, Runtime};

use crate::{Test, test};

/// Those of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("pyroscope/takes_all_that_is_pushed", takes_all_that_is_pushed),
        test("pyroscope/takes_a_profile_of_any_size_in_parts", takes_a_profile_of_any_size),
        test("pyroscope/is_down_and_up_again", is_down_and_up_again),
    ]
}

fn frame(name: &str) -> Frame {
    Frame { kind: FrameKind::Native, name: Some(name.into()), file: None, first_line: 0, line: 0, unresolved: false }
}

fn identity(pid: u32) -> Identity {
    let labels = [("data.center", "west"), ("data-center", "east"), ("odd", "</script>\u{1b}[2J 漢字"), ("none", "")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Identity {
        pid,
        service: "shop".into(),
        command: "nginx".into(),
        worker: Some(pid - 100),
        labels,
        ..Identity::default()
    }
}

/// Two workers, with samples of several threads and states.
fn window(started: SystemTime) -> Window {
    let process = |pid: u32| {
        let mut profile = Profile::default();
        profile.meta.frequency = 19;
        profile.threads.insert((pid, pid), "nginx".into());
        let [main, odd] = ["main", "<b>\u{1b}[2J"].map(|name| profile.frame(frame(name)));
        for (tid, state) in [(pid, State::Interpreter), (pid, State::Compiled), (pid + 1, State::C)] {
            profile.add(Origin { pid, tid, vm: 1, state }, &[main, odd], u64::from(pid));
        }
        ProcessProfile { identity: Arc::new(identity(pid)), profile }
    };
    Window { started, seconds: 15.0, processes: vec![process(100), process(101)] }
}

fn exporters(runtime: &Runtime, spool: &Path, server: &str, metrics: &ExportMetrics) -> Result<Exporters> {
    let text = format!(
        "[spool]\ndirectory = {spool:?}\n[[export]]\nname = \"store\"\nprotocol = \"pyroscope\"\nurl = \"{server}\"\ntenant = \"us\"\n"
    );
    let file = spool.join("luaflame.toml");
    std::fs::write(&file, text)?;
    let config = Config::read(&file)?;
    let _context = runtime.enter();
    Exporters::start(&config.export, &config.spool, metrics)
}

fn runtime() -> Result<Runtime> {
    Ok(runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// What the server has taken when it is so many profiles.
fn taken(server: &Pyroscope, number: usize) -> Result<Vec<Taken>> {
    let mut taken = Vec::new();
    let start = Instant::now();
    while taken.len() < number {
        if start.elapsed() > Duration::from_secs(60) {
            bail!("only {} of {number} profiles have come; refused: {:?}", taken.len(), server.refused());
        }
        std::thread::sleep(Duration::from_millis(5));
        taken.append(&mut server.taken());
    }
    Ok(taken)
}

fn takes_all_that_is_pushed() -> Result<()> {
    let (runtime, spool, metrics) = (runtime()?, tempfile::tempdir()?, ExportMetrics::default());
    let server = Pyroscope::start_for_tenants()?;
    let exporters = exporters(&runtime, spool.path(), &server.url(), &metrics)?;
    exporters.push(Arc::new(window(SystemTime::now())));
    let taken = taken(&server, 2)?;
    for (taken, pid) in taken.iter().zip([100_u32, 101]) {
        let wanted: BTreeMap<String, String> = [
            ("__name__", "process_cpu"),
            ("command", "nginx"),
            ("data_center", "east"),
            ("odd", "</script>\\u{1b}[2J 漢字"),
            ("pid", &pid.to_string()),
            ("service_name", "shop"),
            ("worker", &(pid - 100).to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        ensure!(taken.labels == wanted, "{:?}", taken.labels);
        ensure!(taken.tenant == "us" && taken.types == ["samples:count", "cpu:nanoseconds"], "{taken:?}");
        let [sample] = &*taken.samples else { bail!("{} samples", taken.samples.len()) };
        let count = i64::from(pid) * 3;
        ensure!(sample.values == [count, count * (1_000_000_000 / 19)], "{:?}", sample.values);
        ensure!(sample.stack.len() == 2 && sample.stack[1] == "main", "{:?}", sample.stack);
    }
    ensure!(server.refused().is_empty());
    runtime.block_on(exporters.flush(Duration::from_secs(10)));
    Ok(())
}

fn takes_a_profile_of_any_size() -> Result<()> {
    let (runtime, spool, metrics) = (runtime()?, tempfile::tempdir()?, ExportMetrics::default());
    let server = Pyroscope::start()?;
    let exporters = exporters(&runtime, spool.path(), &server.url(), &metrics)?;
    let mut profile = Profile::default();
    for number in 0..30_000 {
        let stack = [frame("main"), frame(&format!("{number:080}"))].map(|frame| profile.frame(frame));
        profile.add(Origin::default(), &stack, 1);
    }
    let process = ProcessProfile { identity: Arc::new(identity(100)), profile };
    exporters.push(Arc::new(Window { started: SystemTime::now(), seconds: 15.0, processes: vec![process] }));
    let (mut samples, mut times) = (0, Vec::new());
    while samples < 30_000 {
        let part = taken(&server, 1)?;
        samples += part.iter().map(|taken| taken.samples.len()).sum::<usize>();
        times.extend(part.iter().map(|taken| taken.time_nanos / 1_000_000));
    }
    ensure!(samples == 30_000 && times.len() > 1, "{samples} in {} parts", times.len());
    ensure!(times.is_sorted_by(|one, other| one < other), "{times:?}");
    runtime.block_on(exporters.flush(Duration::from_secs(10)));
    Ok(())
}

fn is_down_and_up_again() -> Result<()> {
    let (runtime, spool, metrics) = (runtime()?, tempfile::tempdir()?, ExportMetrics::default());
    let server = Pyroscope::start()?;
    let too_old = SystemTime::now() - Duration::from_secs(2 * 3600);
    let times = [0, 15, 30].map(|seconds| SystemTime::now() - Duration::from_secs(60 - seconds));
    // Nobody listens there.
    let before = exporters(&runtime, spool.path(), "http://127.0.0.1:9", &metrics)?;
    [too_old].into_iter().chain(times).for_each(|time| before.push(Arc::new(window(time))));
    runtime.block_on(before.flush(Duration::from_secs(2)));
    server.answer_next(503);
    let after = exporters(&runtime, spool.path(), &server.url(), &metrics)?;
    let taken = taken(&server, 6)?;
    ensure!(taken.iter().map(|taken| taken.time_nanos).is_sorted(), "they are not in order");
    let refused = server.refused();
    ensure!(refused.len() == 2 && refused.iter().all(|(_, why)| why.contains("ingestion window")), "{refused:?}");
    ensure!(metrics.dropped("store", Reason::Refused) == 2);
    runtime.block_on(after.flush(Duration::from_secs(10)));
    Ok(())
}
