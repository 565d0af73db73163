//! `cargo xtask soak`: the daemon for a long time, with all that happens on a host in that time, and what must hold meanwhile and in the
//! end.
//!
//! Two daemons run: the one that is held to its promises has the defaults. A second one samples more often and makes windows of a second:
//! from what it sends, and from the CPU time of each process, it is known when a process was at work and not seen.

mod seen;
mod usage;

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use luaflame_tests::daemon::Daemon;
use luaflame_tests::nginx::Nginx;
use luaflame_tests::process::{Running, wait_until};
use luaflame_tests::programs::{Mode, Runtime, script};
use luaflame_tests::receivers::pyroscope::Pyroscope;

use crate::setup;
use crate::shell::{interrupted, is_root, luaflame, root};
use seen::{Seen, samples};
use usage::{Course, Usage};

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=24 * 60))]
    minutes: u32,
}

/// Workers of nginx.
const WORKERS: usize = 4;
/// nginx is reloaded so often.
const RELOAD_EVERY: Duration = Duration::from_secs(10);
/// The endpoint is there for this time, then away for a minute, and so on.
const ENDPOINT_STAYS: Duration = Duration::from_secs(180);
const ENDPOINT_AWAY: Duration = Duration::from_secs(60);
/// How often it is looked at what processes have used.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often it is looked at what the daemon uses.
const USAGE_EVERY: Duration = Duration::from_secs(5);
/// How often a line is printed.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Samples a second of the second daemon.
const OFTEN: f64 = 199.0;
/// A process may be at work for so long without being seen, in seconds.
const UNSEEN: f64 = 1.0;
/// How long profiles that wait may take to arrive in the end.
const PATIENCE: Duration = Duration::from_secs(120);

/// The daemon that is held to its promises: the defaults, a store that is full soon, and an endpoint.
const CONFIGURATION: &str = "[kill_switch]\nfile = \"{folder}/off\"\n[listen]\naddress = \"{address}\"\n\
    [store]\ndirectory = \"{folder}/store\"\nmax_size = \"256KiB\"\n[spool]\ndirectory = \"{folder}/spool\"\n\
    [[export]]\nname = \"endpoint\"\nprotocol = \"pyroscope\"\nurl = \"{url}\"\n";
/// The one that looks closely.
const CLOSELY: &str = "[sampling]\nfrequency = 199\nwindow = \"1s\"\n[kill_switch]\nfile = \"{folder}/off\"\n\
    [listen]\naddress = \"{address}\"\n[store]\ndirectory = \"\"\n[spool]\ndirectory = \"{folder}/spool\"\n\
    [[export]]\nname = \"soak\"\nprotocol = \"pyroscope\"\nurl = \"{url}\"\n";

/// Runs it, and prints a verdict on each promise.
///
/// # Errors
/// When a promise was not kept, or something cannot be set up.
pub fn task(arguments: &Arguments) -> Result<()> {
    ensure!(is_root(), "profiling needs root: run `sudo -E env PATH=\"$PATH\" cargo xtask soak`");
    setup::for_bench()?;
    luaflame()?;
    let length = Duration::from_secs(60 * u64::from(arguments.minutes));
    let folder = root().join("target/soak");
    // Workers that wait for a connection to end would never go.
    let globals = "worker_shutdown_timeout 5s;";
    let mut nginx = Nginx::start(&root().join("samples/nginx"), &folder, WORKERS, globals)?;
    let close = Pyroscope::start()?;
    let mut endpoint = Endpoint::start()?;
    let looks_closely = Daemon::start_configured(&CLOSELY.replace("{url}", &close.url()))?;
    let mut daemon =
        Daemon::start_configured(&CONFIGURATION.replace("{url}", &format!("http://{}", endpoint.address)))?;
    let (pid, probes) = (daemon.process().id(), probes_of(daemon.process().id())?);
    ensure!(!probes.is_empty(), "the daemon has no probe");
    let seconds = length.as_secs() as u32 + 60;
    let _load = nginx.load("/", Some(&root().join("samples/nginx/load.lua")), 8, seconds)?;
    eprintln!(
        "for {} min: {WORKERS} workers of nginx under load, reloaded every {} s, a LuaJIT that ends and is started again, an endpoint that is \
         away {} s after every {} s",
        arguments.minutes,
        RELOAD_EVERY.as_secs(),
        ENDPOINT_AWAY.as_secs(),
        ENDPOINT_STAYS.as_secs()
    );

    let start = Instant::now();
    let (mut seen, mut usage, mut program) = (Seen::default(), Vec::<Usage>::new(), None::<Running>);
    let (mut reloads, mut programs) = (0_u32, 0_u32);
    let mut every = [RELOAD_EVERY, USAGE_EVERY, LINE_EVERY].map(|period| Every { period, next: start + period });
    while start.elapsed() < length && !interrupted() {
        if program.as_mut().is_none_or(|program| !matches!(program.ended(), Ok(None))) {
            program = Some(briefly()?);
            programs += 1;
        }
        seen.look("worker", &nginx.workers());
        seen.look("program", &program.iter().map(Running::id).collect::<Vec<u32>>());
        seen.looked();
        if every[0].is_due() {
            nginx.signal_reload()?;
            reloads += 1;
        }
        if every[1].is_due() {
            usage.push(Usage::of(pid, daemon.folder(), start.elapsed())?);
            endpoint.go_on(start.elapsed())?;
            seen.take(&close.taken());
        }
        if every[2].is_due() {
            print(usage.last(), &daemon, reloads, programs, &endpoint);
        }
        sleep(LOOK_EVERY);
    }
    drop(program);
    let passed = start.elapsed();

    endpoint.come_back()?;
    let sent =
        daemon.wait_until("what waits has been sent", |daemon| daemon.metric("luaflame_export_waiting") == Some(0.0));
    let metric = |name: &str| daemon.metric(name).unwrap_or(f64::NAN);
    let counted = metric("luaflame_samples");
    let lost = metric("luaflame_samples_lost");
    let dropped = metric("luaflame_windows_dropped");
    let failures = metric("luaflame_process_failures");
    // Reasons that never were have no counter.
    let export_dropped = daemon.metric("luaflame_export_dropped").unwrap_or(0.0);
    let deleted = daemon.metric("luaflame_store_expired");
    let status = daemon.terminate()?;
    endpoint.drain();
    drop(looks_closely);
    seen.take(&close.taken());
    let left = wait_until(PATIENCE, || loaded().is_ok_and(|loaded| loaded.is_disjoint(&probes)));
    let errors: Vec<String> = daemon.log().lines().filter(|line| line.contains(" ERROR ")).map(str::to_owned).collect();

    let mut verdicts = Verdicts::default();
    let course = |value: fn(&Usage) -> f64| Course::of(&usage, value);
    for (name, value, tolerance) in [
        ("resident memory", (|usage| usage.resident) as fn(&Usage) -> f64, 0.05),
        ("anonymous memory", |usage| usage.anonymous, 0.05),
    ] {
        let course = course(value);
        verdicts.add(
            &format!("{name} stays within {} %", tolerance * 100.0),
            course.is_flat(course.before * tolerance),
            format!("{:.1}, then {:.1} MiB; a line through it rises {:+.2}", course.before, course.after, course.rise),
        );
    }
    for (name, value) in
        [("file descriptors", (|usage| usage.descriptors) as fn(&Usage) -> f64), ("threads", |usage| usage.threads)]
    {
        let course = course(value);
        verdicts.add(
            &format!("{name} stay the same"),
            course.is_flat(1.5),
            format!("{:.0}, then {:.0}; a line through it rises {:+.2}", course.before, course.after, course.rise),
        );
    }
    for (kind, what) in [("worker", "worker of nginx"), ("program", "LuaJIT started anew")] {
        let sum = seen.sum(kind, OFTEN);
        verdicts.add(
            &format!("every {what} is seen"),
            sum.processes > 0 && sum.never == 0,
            format!("{} of {}", sum.processes - sum.never, sum.processes),
        );
        verdicts.add(
            &format!("a {what} is never unseen for more than {UNSEEN} s"),
            sum.longest <= UNSEEN * 1.01,
            format!("{:.2} s at most; {:.3} s of the first second in the mean", sum.longest, sum.first),
        );
        let share = sum.samples / sum.expected;
        verdicts.add(
            &format!("as many samples of a {what} as it used CPU time"),
            share > 0.95,
            format!("{:.0} of {:.0}, {:.1} %", sum.samples, sum.expected, share * 100.0),
        );
    }
    verdicts.add("no sample found the ring buffer full", lost == 0.0, format!("{lost} of {counted}"));
    verdicts.add("no process could not be profiled", failures == 0.0, format!("{failures}"));
    verdicts.add("no window was dropped", dropped == 0.0, format!("{dropped}"));
    verdicts.add("the store was turned over", deleted > Some(0.0), format!("{} files deleted", deleted.unwrap_or(0.0)));
    verdicts.add(
        "nothing for the endpoint was dropped",
        export_dropped == 0.0 && sent.is_ok(),
        format!("{export_dropped} requests; it was away {} times", endpoint.absences),
    );
    verdicts.add(
        "the endpoint has every sample, once",
        endpoint.samples as f64 >= counted && endpoint.twice == 0,
        format!("{} of {counted} and those of the last second; {} profiles twice", endpoint.samples, endpoint.twice),
    );
    verdicts.add("the endpoint refused nothing", endpoint.refused == 0, format!("{}", endpoint.refused));
    verdicts.add("no error was logged", errors.is_empty(), format!("{}", errors.len()));
    verdicts.add("the daemon ended as it was asked to", status.success(), format!("{status}"));
    verdicts.add("no probe is left", left, format!("{} were loaded", probes.len()));

    let cpu = usage
        .last()
        .zip(usage.first())
        .map(|(last, first)| (last.cpu - first.cpu) / (last.at - first.at).as_secs_f64());
    let last = usage.last().context("the daemon was not looked at")?;
    println!(
        "\nthe daemon at its defaults for {:.1} min, {reloads} reloads of {WORKERS} workers of nginx under load, {programs} other programs: \
         {:.2} % of a core, {:.1} MiB at its peak, {counted} samples",
        passed.as_secs_f64() / 60.0,
        cpu.unwrap_or(f64::NAN) * 100.0,
        last.peak
    );
    let kept = verdicts.print();
    for error in errors.iter().take(20) {
        println!("logged: {error}");
    }
    ensure!(!interrupted(), "interrupted");
    ensure!(kept, "not all that was promised was kept");
    Ok(())
}

/// Something that is done again and again.
struct Every {
    period: Duration,
    next: Instant,
}

impl Every {
    /// Whether it is time; then it is not until the next time.
    fn is_due(&mut self) -> bool {
        let due = Instant::now() >= self.next;
        if due {
            self.next += self.period;
        }
        due
    }
}

/// A store that profiles are sent to and that is not always there.
struct Endpoint {
    address: SocketAddr,
    server: Option<Pyroscope>,
    samples: i64,
    known: HashSet<(String, i64)>,
    twice: u32,
    refused: usize,
    absences: u32,
}

impl Endpoint {
    fn start() -> Result<Endpoint> {
        let server = Pyroscope::start()?;
        let address = server.address();
        Ok(Endpoint {
            address,
            server: Some(server),
            samples: 0,
            known: HashSet::new(),
            twice: 0,
            refused: 0,
            absences: 0,
        })
    }

    /// Goes or comes back when it is time.
    fn go_on(&mut self, elapsed: Duration) -> Result<()> {
        self.drain();
        let turn = elapsed.as_secs() % (ENDPOINT_STAYS + ENDPOINT_AWAY).as_secs();
        if turn < ENDPOINT_STAYS.as_secs() {
            return self.come_back();
        }
        if self.server.is_some() {
            self.absences += 1;
        }
        // Its connections end with it, and what it has taken since then is asked for before.
        let server = self.server.take();
        if let Some(server) = server {
            self.count(&server);
        }
        Ok(())
    }

    fn come_back(&mut self) -> Result<()> {
        if self.server.is_none() {
            self.server = Some(Pyroscope::start_at(self.address)?);
        }
        Ok(())
    }

    /// Counts what has arrived.
    fn drain(&mut self) {
        if let Some(server) = self.server.take() {
            self.count(&server);
            self.server = Some(server);
        }
    }

    fn count(&mut self, server: &Pyroscope) {
        for taken in server.taken() {
            self.samples += samples(&taken);
            let labels: Vec<String> = taken.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            self.twice += u32::from(!self.known.insert((labels.join(","), taken.time_nanos)));
        }
        self.refused += server.refused().len();
    }
}

/// A LuaJIT that works for two seconds and ends.
fn briefly() -> Result<Running> {
    let mut command = Runtime::CommandLine.command(Mode::Jit)?;
    Running::spawn(command.arg(script("briefly.lua")).arg("2").stdin(Stdio::null()).stdout(Stdio::null()))
}

/// The ids of the BPF programs that a process holds.
fn probes_of(pid: u32) -> Result<HashSet<u32>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo"))?.flatten();
    let id = |text: String| text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
    Ok(descriptors.filter_map(|descriptor| id(fs::read_to_string(descriptor.path()).ok()?)).collect())
}

/// The ids of all BPF programs that are loaded.
fn loaded() -> Result<HashSet<u32>> {
    // One may be unloaded while it is looked at.
    Ok(aya::programs::loaded_programs().flatten().map(|program| program.id()).collect())
}

fn print(usage: Option<&Usage>, daemon: &Daemon, reloads: u32, programs: u32, endpoint: &Endpoint) {
    let Some(usage) = usage else { return };
    eprintln!(
        "{:>4.0} s: {:.1} MiB ({:.1} anonymous, {:.1} peak), {:.0} descriptors, {:.0} threads, {:.2} s CPU; {reloads} reloads, {programs} \
         programs, {} samples, {:.0} KiB stored, {:.0} KiB spooled, endpoint {}",
        usage.at.as_secs_f64(),
        usage.resident,
        usage.anonymous,
        usage.peak,
        usage.descriptors,
        usage.threads,
        usage.cpu,
        daemon.metric("luaflame_samples").unwrap_or(f64::NAN),
        usage.store,
        usage.spool,
        if endpoint.server.is_some() { "there" } else { "away" },
    );
}

/// What was promised, and whether it was kept.
#[derive(Default)]
struct Verdicts(Vec<(String, bool, String)>);

impl Verdicts {
    fn add(&mut self, promise: &str, kept: bool, figures: String) {
        self.0.push((promise.to_owned(), kept, figures));
    }

    /// Prints them. Whether all were kept.
    fn print(&self) -> bool {
        for (promise, kept, figures) in &self.0 {
            println!("  {:6}  {promise:64}  {figures}", if *kept { "kept" } else { "BROKEN" });
        }
        self.0.iter().all(|(_, kept, _)| *kept)
    }
}
