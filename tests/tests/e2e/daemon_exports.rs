//! The daemon and the endpoints that it sends to: the same arrives everywhere, and what goes wrong at one of them, on the disk or with the
//! clock loses nothing that is not counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use luaflame::import;
use luaflame_tests::daemon::{Daemon, OFTEN, files, prepared};
use luaflame_tests::load::free_port;
use luaflame_tests::luaflame::program;
use luaflame_tests::programs::{Mode, Runtime, Target, script};
use luaflame_tests::receivers::collector::Collector;
use luaflame_tests::receivers::faulty::{Fault, Faulty};
use luaflame_tests::receivers::parca::Parca;
use luaflame_tests::receivers::pprof_tool::pprof;
use luaflame_tests::receivers::pyroscope::{Pyroscope, Taken};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tempfile::TempDir;

use crate::nginx::busy;
use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("daemon_exports::the_same_arrives_everywhere", the_same_arrives_everywhere),
        test("daemon_exports::down_from_the_start", down_from_the_start),
        test("daemon_exports::down_again_and_again", down_again_and_again),
        test("daemon_exports::faulty_in_every_way", faulty_in_every_way),
        test("daemon_exports::ended_while_one_is_down", ended_while_one_is_down),
        test("daemon_exports::killed_while_one_is_down", killed_while_one_is_down),
        test("daemon_exports::a_full_disk", a_full_disk),
        test("daemon_exports::a_clock_that_jumps", a_clock_that_jumps),
    ]
}

/// Most memory that a daemon with a few endpoints takes, whatever they do.
const MOST_MEMORY: f64 = 100e6;

type Labels = BTreeMap<String, String>;

/// What has arrived of one process in one window.
#[derive(Debug, Clone, PartialEq)]
struct Arrived {
    labels: Labels,
    /// When the window began, in nanoseconds since 1970.
    time: i64,
    samples: u64,
}

impl Arrived {
    fn pid(&self) -> &str {
        self.labels.get("pid").map_or("", String::as_str)
    }
}

/// The samples of each service and process.
fn sums<'a>(arrived: impl IntoIterator<Item = &'a Arrived>) -> BTreeMap<(String, String), u64> {
    let mut sums = BTreeMap::new();
    for one in arrived {
        let service = one.labels.get("service_name").cloned().unwrap_or_default();
        *sums.entry((service, one.pid().to_owned())).or_default() += one.samples;
    }
    sums
}

fn total<'a>(arrived: impl IntoIterator<Item = &'a Arrived>) -> u64 {
    arrived.into_iter().map(|one| one.samples).sum()
}

fn windows<'a>(arrived: impl IntoIterator<Item = &'a Arrived>) -> BTreeSet<i64> {
    arrived.into_iter().map(|one| one.time).collect()
}

fn summed(values: impl Iterator<Item = i64>) -> u64 {
    values.sum::<i64>().unsigned_abs()
}

/// What a Pyroscope has taken.
fn at_pyroscope(taken: Vec<Taken>) -> Vec<Arrived> {
    let arrived = taken.into_iter().map(|taken| Arrived {
        time: taken.time_nanos,
        samples: summed(taken.samples.iter().map(|sample| sample.values[0])),
        labels: taken.labels,
    });
    arrived.collect()
}

/// What a Parca has taken since this was asked before.
fn at_parca(server: &Parca) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    for series in server.taken() {
        arrived.extend(series.profiles.iter().map(|profile| Arrived {
            labels: series.labels.clone(),
            time: profile.time_nanos,
            samples: summed(profile.samples.iter().map(|sample| sample.values[0])),
        }));
    }
    arrived
}

/// What a Collector has passed on since this was asked before, with the labels that other protocols have.
fn at_collector(server: &Collector) -> Result<Vec<Arrived>> {
    let mut arrived = Vec::new();
    for resource in server.passed_on().into_iter().flat_map(|request| request.resource_profiles) {
        let mut labels = Labels::new();
        for attribute in resource.resource.context("a resource is empty")?.attributes {
            let value = match attribute.value.and_then(|value| value.value) {
                Some(Value::StringValue(text)) => text,
                Some(Value::IntValue(number)) => number.to_string(),
                other => bail!("{}: {other:?}", attribute.key),
            };
            let name = match &*attribute.key {
                "service.name" => "service_name",
                "process.pid" => "pid",
                "process.command" => "command",
                "container.id" => "container",
                "k8s.namespace.name" => "namespace",
                other => other,
            };
            labels.insert(name.to_owned(), value);
        }
        // Others count something else of the same samples.
        let profile = resource.scope_profiles.first().and_then(|scope| scope.profiles.first());
        let profile = profile.context("a profile is missing")?;
        arrived.push(Arrived {
            labels,
            time: profile.time_unix_nano.cast_signed(),
            samples: summed(profile.samples.iter().map(|sample| sample.values[0])),
        });
    }
    Ok(arrived)
}

/// What is stored.
fn in_store(daemon: &Daemon) -> Result<Vec<Arrived>> {
    let mut arrived = Vec::new();
    for path in daemon.stored() {
        let profile = import::profile(&path).with_context(|| format!("{} is not whole", path.display()))?;
        let started = profile.meta.started.context("it has no time")?;
        let mut of_process = BTreeMap::<u32, u64>::new();
        for counted in profile.counted_samples() {
            *of_process.entry(counted.origin.pid).or_default() += counted.count;
        }
        for (pid, samples) in of_process {
            let mut labels: Labels = profile.labels.get(&pid).into_iter().flatten().cloned().collect();
            labels.insert("pid".to_owned(), pid.to_string());
            arrived.push(Arrived { labels, time: nanos(started), samples });
        }
    }
    Ok(arrived)
}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Fails if something has arrived twice.
fn nothing_twice(arrived: &[Arrived]) -> Result<()> {
    let mut known = BTreeSet::new();
    for one in arrived {
        ensure!(known.insert((one.pid(), one.time)), "it has arrived twice: {one:?}");
    }
    Ok(())
}

/// The configuration of an endpoint.
fn endpoint(name: &str, protocol: &str, url: &str) -> String {
    format!("[[export]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nurl = \"{url}\"\n")
}

/// Has only [`calls`] profiled, so that it is known what there must be whatever else runs on this host.
fn only_calls() -> String {
    format!("[discovery]\notherwise = false\n[[discovery.rule]]\ncommand = {:?}\n", script("calls.lua"))
}

/// A metric of an endpoint.
fn of(daemon: &Daemon, name: &str, endpoint: &str, more: &str) -> f64 {
    let label = format!("endpoint=\"{endpoint}\"{more}");
    daemon.metric_with(&format!("luaflame_export_{name}"), &label).unwrap_or_default()
}

/// The address of a server that is not there yet.
fn nobody() -> Result<SocketAddr> {
    Ok((Ipv4Addr::LOCALHOST, free_port()?).into())
}

/// A busy program.
fn calls() -> Result<Target> {
    Target::sample(Runtime::CommandLine, Mode::Jit, "calls.lua", &[])
}

/// Waits until a few more windows are complete.
fn wait_for_windows(daemon: &mut Daemon, number: u32) -> Result<()> {
    let windows = |daemon: &Daemon| daemon.metric("luaflame_windows");
    let before = windows(daemon).context("there are no metrics")?;
    daemon.wait_until("there are more windows", |daemon| windows(daemon) >= Some(before + f64::from(number)))
}

/// Waits until an endpoint has been sent all that waits for it, which was something.
fn wait_until_sent(daemon: &mut Daemon, name: &str) -> Result<()> {
    daemon.wait_until("all is sent", |daemon| {
        of(daemon, "sent", name, "") > 0.0 && of(daemon, "waiting", name, "") == 0.0
    })
}

fn memory(daemon: &Daemon) -> f64 {
    daemon.metric("process_resident_memory_bytes").unwrap_or(f64::INFINITY)
}

/// Sampling goes on, in bounds, and no window was dropped.
fn goes_on(daemon: &mut Daemon) -> Result<()> {
    let samples = daemon.metric("luaflame_samples").context("there are no metrics")?;
    daemon.wait_until("there are more samples", |daemon| daemon.metric("luaflame_samples") > Some(samples))?;
    ensure!(daemon.metric("luaflame_windows_dropped") == Some(0.0), "windows were dropped:\n{}", daemon.log());
    let memory = memory(daemon);
    ensure!(memory < MOST_MEMORY, "it takes {memory} bytes");
    Ok(())
}

/// A program that looks as it does in a pod of Kubernetes: by its cgroup, and by a file that it sees.
struct Pod {
    program: Option<Target>,
    cgroup: PathBuf,
}

const CONTAINER: &str = "5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e5ca1ab1e";

impl Pod {
    fn start() -> Result<Pod> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let cgroups = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = cgroups.into_iter().find(|words| words.get(2) == Some(&"cgroup2")).context("there is no cgroup2")?;
        let cgroup = Path::new(root[1]).join(format!("kubepods-luaflame-{}", std::process::id()));
        let mut pod = Pod { program: None, cgroup };
        let container = pod.container();
        fs::create_dir_all(&container)?;
        let mut luajit = Runtime::CommandLine.command(Mode::Jit)?;
        luajit.arg(script("calls.lua"));
        let mut command = Command::new("unshare");
        let secrets = "/run/secrets/kubernetes.io/serviceaccount";
        let script = format!(
            "echo $$ >'{}/cgroup.procs' && mount -t tmpfs tmpfs /run && mkdir -p {secrets} && echo shop >{secrets}/namespace && exec \"$@\"",
            container.display()
        );
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(luajit.get_program()).args(luajit.get_args());
        command.env("OTEL_SERVICE_NAME", "cart");
        pod.program = Some(Target::start(&mut command)?);
        Ok(pod)
    }

    fn container(&self) -> PathBuf {
        self.cgroup.join(format!("cri-containerd-{CONTAINER}.scope"))
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.program.as_ref().context("it runs")?.pid())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.program.take());
        // One that cannot be removed is in nobody's way.
        for folder in [self.container(), self.cgroup.clone()] {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn the_same_arrives_everywhere() -> Result<()> {
    busy(|nginx| {
        let (calls, pod) = (calls()?, Pod::start()?);
        let (pyroscope, parca) = (Pyroscope::start()?, Parca::start()?);
        let (grpc, http) = (Collector::start()?, Collector::start()?);
        let exports = [
            endpoint("pyroscope", "pyroscope", &pyroscope.url()),
            endpoint("parca", "parca", &format!("http://{}", parca.address())),
            endpoint("grpc", "otlp-grpc", &grpc.grpc()),
            endpoint("http", "otlp-http", &http.http()),
        ];
        let mut daemon = Daemon::start(&exports.concat())?;
        let pids = |stored: Vec<Arrived>| stored.iter().map(|one| one.pid().to_owned()).collect::<BTreeSet<_>>();
        let workers: Vec<String> = nginx.workers().iter().map(u32::to_string).collect();
        let programs = BTreeSet::from([calls.pid().to_string(), pod.pid()?.to_string()]);
        daemon.wait_until("all are stored", |daemon| {
            let stored = in_store(daemon).map(pids).unwrap_or_default();
            // The kernel may give all connections to one of the workers.
            programs.is_subset(&stored) && workers.iter().any(|pid| stored.contains(pid))
        })?;
        wait_for_windows(&mut daemon, 3)?;
        ensure!(daemon.terminate()?.success(), "{}", daemon.log());

        let stored = in_store(&daemon)?;
        let everywhere = [
            ("Pyroscope", at_pyroscope(pyroscope.taken())),
            ("Parca", at_parca(&parca)),
            ("the Collector, by gRPC,", at_collector(&grpc)?),
            ("the Collector, by HTTP,", at_collector(&http)?),
        ];
        let wanted = pids(stored.clone());
        let labels_of = |arrived: &[Arrived], pid: &str| -> Result<Labels> {
            let one = arrived.iter().rfind(|one| one.pid() == pid);
            let mut labels = one.with_context(|| format!("process {pid} is missing"))?.labels.clone();
            labels.remove("__name__");
            Ok(labels)
        };
        for (name, arrived) in &everywhere {
            nothing_twice(arrived)?;
            ensure!(sums(arrived) == sums(&stored), "{name} has\n{:?}\nof\n{:?}", sums(arrived), sums(&stored));
            ensure!(windows(arrived).len() == windows(&stored).len(), "{name} has other windows");
            for pid in &wanted {
                let (labels, known) = (labels_of(arrived, pid)?, labels_of(&stored, pid)?);
                ensure!(labels == known, "{name} has {labels:?} where the store has {known:?}");
            }
        }
        let of_pod = labels_of(&stored, &pod.pid()?.to_string())?;
        let known = [("service_name", "cart"), ("namespace", "shop"), ("container", CONTAINER)];
        ensure!(known.iter().all(|(name, value)| of_pod.get(*name).is_some_and(|it| it == value)), "{of_pod:?}");
        for (number, pid) in workers.iter().enumerate().filter(|(_, pid)| wanted.contains(*pid)) {
            let labels = labels_of(&stored, pid)?;
            let known = [("service_name", "nginx"), ("worker", &*number.to_string())];
            ensure!(known.iter().all(|(name, value)| labels.get(*name).is_some_and(|it| it == value)), "{labels:?}");
        }

        let of_pod = files(&daemon.folder().join("store/cart"), ".pb.gz");
        let top = pprof(&["-top", "-sample_index=samples"], of_pod.last().context("it is stored")?)?;
        ensure!(top.contains("calls.lua"), "no Lua function is shown:\n{top}");
        Ok(())
    })
}

fn down_from_the_start() -> Result<()> {
    let _calls = calls()?;
    let address = nobody()?;
    let mut daemon = Daemon::start(&(only_calls() + &endpoint("late", "pyroscope", &format!("http://{address}"))))?;
    wait_for_windows(&mut daemon, 4)?;
    goes_on(&mut daemon)?;
    ensure!(of(&daemon, "answers", "late", ",status=\"connection\"") > 0.0, "it was not tried");
    ensure!(of(&daemon, "waiting", "late", "") >= 3.0, "profiles wait");
    let server = Pyroscope::start_at(address)?;
    wait_until_sent(&mut daemon, "late")?;
    goes_on(&mut daemon)?;
    ensure!(of(&daemon, "dropped", "late", "") == 0.0, "{}", daemon.log());
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    let (arrived, stored) = (at_pyroscope(server.taken()), in_store(&daemon)?);
    ensure!(arrived.iter().is_sorted_by_key(|one| one.time), "they are not in the order of time");
    nothing_twice(&arrived)?;
    ensure!(sums(&arrived) == sums(&stored), "{:?} of {:?}", sums(&arrived), sums(&stored));
    Ok(())
}

fn down_again_and_again() -> Result<()> {
    let calls = calls()?;
    let (address, steady) = (nobody()?, Parca::start()?);
    let exports = [
        only_calls(),
        endpoint("shaky", "pyroscope", &format!("http://{address}")),
        endpoint("steady", "parca", &format!("http://{}", steady.address())),
    ];
    let mut daemon = Daemon::start(&exports.concat())?;
    let mut arrived = Vec::new();
    // Each time after another while.
    for hundredths in [31, 83, 7, 113] {
        let server = Pyroscope::start_at(address)?;
        let sent = of(&daemon, "sent", "shaky", "");
        daemon.wait_until("something is sent", |daemon| of(daemon, "sent", "shaky", "") > sent)?;
        calls.wait_for_work(hundredths)?;
        arrived.extend(at_pyroscope(server.stop()));
        let sent = of(&daemon, "sent", "steady", "");
        daemon.wait_until("the other one is sent to", |daemon| of(daemon, "sent", "steady", "") > sent)?;
    }
    goes_on(&mut daemon)?;
    let server = Pyroscope::start_at(address)?;
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    arrived.extend(at_pyroscope(server.taken()));
    let (steady, stored) = (at_parca(&steady), in_store(&daemon)?);
    nothing_twice(&steady)?;
    ensure!(steady.iter().is_sorted_by_key(|one| one.time), "they are not in the order of time");
    ensure!(sums(&steady) == sums(&stored), "{:?} of {:?}", sums(&steady), sums(&stored));
    // A request that it has taken and had no time to answer comes again.
    let number = arrived.len();
    arrived.sort_by(|one, other| (one.time, one.pid()).cmp(&(other.time, other.pid())));
    arrived.dedup();
    ensure!(number - arrived.len() <= 4, "{} profiles have arrived twice", number - arrived.len());
    ensure!(sums(&arrived) == sums(&stored), "{:?} of {:?}", sums(&arrived), sums(&stored));
    Ok(())
}

fn faulty_in_every_way() -> Result<()> {
    let _calls = calls()?;
    let good = Pyroscope::start()?;
    let faults = [
        ("refusing", Fault::Status("400 Bad Request", "")),
        ("busy", Fault::Status("429 Too Many Requests", "retry-after: 3\r\n")),
        ("broken", Fault::Status("500 Internal Server Error", "")),
        ("page", Fault::Page),
        ("endless", Fault::Endless),
        ("silent", Fault::Silent),
    ];
    let servers: Vec<Faulty> = faults.iter().map(|(_, fault)| Faulty::start(*fault)).collect::<Result<_>>()?;
    let named = || faults.iter().zip(&servers).map(|((name, _), server)| (*name, server));
    let mut config = "max_size = \"24 KiB\"\n[shutdown]\ntimeout = \"2s\"\n".to_owned()
        + &only_calls()
        + &endpoint("good", "pyroscope", &good.url());
    for (name, server) in named() {
        let timeout = if name == "silent" { "timeout = \"1s\"\n" } else { "" };
        config += &(endpoint(name, "pyroscope", &server.url()) + timeout);
        // What does not speak HTTP/2 at all, and what never says whether it does.
        if matches!(name, "page" | "silent") {
            config += &(endpoint(&format!("{name}-grpc"), "parca", &server.url()) + timeout);
        }
    }
    let mut daemon = Daemon::start(&config)?;
    let waiting = ["busy", "broken", "page", "endless", "silent", "page-grpc", "silent-grpc"];
    let status =
        |daemon: &Daemon, name: &str, status: &str| of(daemon, "answers", name, &format!(",status=\"{status}\""));
    let dropped =
        |daemon: &Daemon, name: &str, reason: &str| of(daemon, "dropped", name, &format!(",reason=\"{reason}\""));
    let mut most_spooled = 0;
    daemon.wait_until(
        "each has been asked more than once, and has more to be sent than there is room for",
        |daemon| {
            let spools = waiting.iter().map(|name| size(&daemon.folder().join("spool").join(name)));
            most_spooled = spools.max().unwrap_or(0).max(most_spooled);
            named().all(|(_, server)| server.asked().len() >= 2)
                && waiting.iter().all(|name| dropped(daemon, name, "spool_full") > 0.0)
        },
    )?;
    ensure!(most_spooled <= 24 << 10, "{most_spooled} bytes were in a spool");
    goes_on(&mut daemon)?;
    for (name, answer) in [
        ("refusing", "400"),
        ("busy", "429"),
        ("broken", "500"),
        ("page", "answer"),
        ("endless", "answer"),
        ("silent", "timeout"),
        ("silent-grpc", "timeout"),
    ] {
        ensure!(status(&daemon, name, answer) > 0.0, "{name} is not told from others:\n{}", daemon.log());
    }
    let pauses = servers[1].asked().windows(2).map(|pair| pair[1] - pair[0]).min();
    ensure!(pauses >= Some(Duration::from_secs(3)), "it was asked to wait longer than {pauses:?}");
    // Of each profile it is known where it is.
    daemon.wait_until("as much has become of those for one endpoint as of those for another", |daemon| {
        let Ok(answer) = daemon.get("/metrics") else { return false };
        let pushed = |name: &str| {
            let lines =
                answer.text().unwrap_or_default().lines().filter(|line| line.contains(&format!("endpoint=\"{name}\"")));
            let counted =
                ["sent_total", "dropped_total", "waiting"].map(|metric| format!("luaflame_export_{metric}{{"));
            let values = lines.filter(|line| counted.iter().any(|metric| line.starts_with(metric)));
            values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
        };
        let good = pushed("good");
        waiting.iter().chain(&["refusing"]).all(|name| pushed(name) == good)
    })?;
    ensure!(
        dropped(&daemon, "refusing", "refused") >= 2.0 && of(&daemon, "sent", "refusing", "") == 0.0,
        "{}",
        daemon.log()
    );
    ensure!(of(&daemon, "dropped", "good", "") == 0.0, "{}", daemon.log());
    for (name, _) in named() {
        let log = daemon.log();
        let said =
            log.lines().filter(|line| !line.contains("DEBUG") && line.contains(&format!("Export to {name}:"))).count();
        ensure!(said <= 2, "{name} was told of {said} times:\n{log}");
    }
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    let (arrived, stored) = (at_pyroscope(good.taken()), in_store(&daemon)?);
    nothing_twice(&arrived)?;
    ensure!(sums(&arrived) == sums(&stored), "{:?} of {:?}", sums(&arrived), sums(&stored));
    Ok(())
}

/// Bytes of what waits in a spool.
fn size(spool: &Path) -> u64 {
    // One may be sent while it is looked at.
    files(spool, "").iter().filter_map(|path| fs::metadata(path).ok()).map(|file| file.len()).sum()
}

/// How long the daemon may take to end beyond the time that it is given to send.
const ENDING: Duration = Duration::from_secs(10);

fn ended_while_one_is_down() -> Result<()> {
    let _calls = calls()?;
    let (address, silent) = (nobody()?, Faulty::start(Fault::Silent)?);
    let exports = [
        only_calls(),
        "[shutdown]\ntimeout = \"1s\"\n".to_owned(),
        endpoint("down", "pyroscope", &format!("http://{address}")),
        endpoint("silent", "pyroscope", &silent.url()) + "timeout = \"5m\"\n",
    ];
    let mut daemon = Daemon::start(&exports.concat())?;
    wait_for_windows(&mut daemon, 3)?;
    let begun = Instant::now();
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    ensure!(begun.elapsed() < Duration::from_secs(1) + ENDING, "it took {:?} to end", begun.elapsed());
    let stored = in_store(&daemon)?;
    for name in ["down", "silent"] {
        let spooled = files(&daemon.folder().join("spool").join(name), "");
        ensure!(spooled.len() == windows(&stored).len() + 1, "{spooled:?} of {}", windows(&stored).len());
    }
    ensure!(daemon.log().contains("stay in the spool"), "it does not say so:\n{}", daemon.log());

    let server = Pyroscope::start_at(address)?;
    daemon.start_again()?;
    daemon
        .wait_until("what waited is sent", |daemon| of(daemon, "sent", "down", "") >= windows(&stored).len() as f64)?;
    daemon.terminate()?;
    let (arrived, stored) = (at_pyroscope(server.taken()), in_store(&daemon)?);
    nothing_twice(&arrived)?;
    ensure!(arrived.iter().is_sorted_by_key(|one| one.time), "they are not in the order of time");
    ensure!(sums(&arrived) == sums(&stored), "{:?} of {:?}", sums(&arrived), sums(&stored));
    Ok(())
}

fn killed_while_one_is_down() -> Result<()> {
    let calls = calls()?;
    let address = nobody()?;
    let mut daemon = Daemon::start(&(only_calls() + &endpoint("down", "pyroscope", &format!("http://{address}"))))?;
    // How many windows were complete in each life.
    let mut complete = Vec::new();
    for hundredths in [47, 11, 71] {
        wait_for_windows(&mut daemon, 2)?;
        calls.wait_for_work(hundredths)?;
        complete.push(daemon.metric("luaflame_windows").context("there are no metrics")? as usize);
        daemon.kill()?;
        daemon.start_again()?;
    }
    let server = Pyroscope::start_at(address)?;
    wait_until_sent(&mut daemon, "down")?;
    let last = daemon.metric("luaflame_windows").context("there are no metrics")? as usize;
    daemon.terminate()?;
    let (arrived, stored) = (at_pyroscope(server.taken()), in_store(&daemon)?);
    nothing_twice(&arrived)?;
    ensure!(arrived.iter().is_sorted_by_key(|one| one.time), "they are not in the order of time");
    // Each time, the last one may not have been written.
    let least = complete.iter().sum::<usize>() - complete.len() + last;
    for (name, found) in [("sent", windows(&arrived)), ("stored", windows(&stored))] {
        ensure!(found.len() >= least, "{} windows are {name} of {complete:?} and {last}", found.len());
    }
    let (arrived, stored): (BTreeMap<_, _>, BTreeMap<_, _>) = (by_window(&arrived), by_window(&stored));
    let differ = stored.iter().find(|(window, samples)| arrived.get(window).is_some_and(|arrived| arrived != *samples));
    ensure!(differ.is_none(), "{differ:?} is not what has arrived");
    Ok(())
}

/// The samples of each window.
fn by_window(arrived: &[Arrived]) -> BTreeMap<i64, u64> {
    let mut windows = BTreeMap::new();
    for one in arrived {
        *windows.entry(one.time).or_default() += one.samples;
    }
    windows
}

/// A file system of its own, which is soon full.
struct Disk(TempDir);

impl Disk {
    fn mount() -> Result<Disk> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(folder.path());
        ensure!(mount.status()?.success(), "a file system cannot be mounted");
        Ok(Disk(folder))
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Leaves no room on it.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.filler())?;
        loop {
            match file.write_all(&[0; 4096]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for everybody who opens something, and wholly when nobody has anything open there.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn a_full_disk() -> Result<()> {
    let _calls = calls()?;
    let address = nobody()?;
    let disk = Disk::mount()?;
    disk.fill()?;
    let (folder, listening) =
        prepared(OFTEN, &(only_calls() + &endpoint("down", "parca", &format!("http://{address}"))))?;
    for name in ["store", "spool"] {
        let directory = disk.0.path().join(name);
        fs::create_dir(&directory)?;
        symlink(&directory, folder.path().join(name))?;
    }
    let mut daemon = Daemon::spawn(folder, listening, Command::new(program()))?;
    daemon.wait_until_it_samples()?;
    daemon.wait_until("writing has failed again and again", |daemon| {
        daemon.metric("luaflame_store_write_errors") >= Some(3.0) && of(daemon, "spool_write_errors", "down", "") >= 3.0
    })?;
    goes_on(&mut daemon)?;
    let pulled = daemon.get("/debug/pprof/profile?seconds=1")?;
    ensure!(pulled.status == 200 && !pulled.body.is_empty(), "a pull has status {}", pulled.status);
    for message in ["cannot be written to", "profiles wait in memory"] {
        let log = daemon.log();
        let said = log.lines().filter(|line| line.contains("ERROR") && line.contains(message)).count();
        ensure!(said == 1, "{message:?} was said {said} times:\n{log}");
    }
    let left = files(disk.0.path(), "");
    ensure!(
        left.iter().all(|path| path.ends_with(".lock") || path.ends_with("lock") || *path == disk.filler()),
        "{left:?}"
    );

    fs::remove_file(disk.filler())?;
    let spool = disk.0.path().join("spool/down");
    daemon.wait_until("it stores and spools again", |daemon| {
        daemon.stored().len() >= 2 && files(&spool, "").len() >= 6
    })?;
    ensure!(daemon.log().contains("profiles are stored again"), "it does not say so:\n{}", daemon.log());
    // What it has stored makes room for what is new.
    disk.fill()?;
    daemon.wait_until("the oldest are deleted", |daemon| {
        daemon.metric_with("luaflame_store_expired", "reason=\"space\"") >= Some(2.0)
    })?;
    fs::remove_file(disk.filler())?;
    let written = daemon.metric("luaflame_store_written");
    daemon.wait_until("it stores all again", |daemon| daemon.metric("luaflame_store_written") > written)?;
    goes_on(&mut daemon)?;

    // Nothing is missing where it was only late.
    let server = Parca::start_at(address)?;
    wait_until_sent(&mut daemon, "down")?;
    let complete = daemon.metric("luaflame_windows").context("there are no metrics")? as usize;
    ensure!(of(&daemon, "dropped", "down", "") == 0.0, "{}", daemon.log());
    daemon.terminate()?;
    let arrived = at_parca(&server);
    nothing_twice(&arrived)?;
    ensure!(arrived.iter().is_sorted_by_key(|one| one.time), "they are not in the order of time");
    ensure!(windows(&arrived).len() >= complete, "{} windows have arrived of {complete}", windows(&arrived).len());
    let (arrived, stored) = (by_window(&arrived), by_window(&in_store(&daemon)?));
    ensure!(
        !stored.is_empty() && stored.iter().all(|(window, samples)| arrived.get(window) == Some(samples)),
        "{stored:?}"
    );
    let unfinished = files(disk.0.path(), ".tmp");
    ensure!(unfinished.is_empty(), "{unfinished:?}");
    Ok(())
}

fn a_clock_that_jumps() -> Result<()> {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1");
    ensure!(library.is_file(), "there is no {}: run `cargo xtask setup`", library.display());
    let _calls = calls()?;
    let address = nobody()?;
    let (folder, listening) =
        prepared(OFTEN, &(only_calls() + &endpoint("down", "parca", &format!("http://{address}"))))?;
    let clock = folder.path().join("clock");
    let set = |offset: &str| -> Result<()> {
        let new = clock.with_extension("new");
        fs::write(&new, offset)?;
        Ok(fs::rename(new, &clock)?)
    };
    set("+0")?;
    let mut command = Command::new(program());
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    // Only the wall clock is set, and not what the kernel has noted of files.
    command.env("DONT_FAKE_MONOTONIC", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    let mut daemon = Daemon::spawn(folder, listening, command)?;
    daemon.wait_until_it_samples()?;
    wait_for_windows(&mut daemon, 1)?;
    for (number, offset) in ["+1d", "-1d", "+0"].into_iter().enumerate() {
        set(offset)?;
        daemon.wait_until("it is seen that the clock was set", |daemon| {
            daemon.metric("luaflame_clock_jumps") == Some(number as f64 + 1.0)
        })?;
        wait_for_windows(&mut daemon, 2)?;
    }
    goes_on(&mut daemon)?;
    let written = daemon.metric("luaflame_store_written").context("there are no metrics")? as usize;
    ensure!(daemon.stored().len() >= written, "{} files are stored of {written}", daemon.stored().len());
    ensure!(daemon.metric("luaflame_store_expired") == Some(0.0), "{}", daemon.log());
    let waiting = of(&daemon, "waiting", "down", "");
    ensure!(waiting >= written as f64 - 1.0, "{waiting} wait of {written}");
    let server = Parca::start_at(address)?;
    wait_until_sent(&mut daemon, "down")?;
    ensure!(of(&daemon, "dropped", "down", "") == 0.0, "{}", daemon.log());
    let samples = daemon.metric("luaflame_samples").context("there are no metrics")? as u64;
    ensure!(daemon.metric("luaflame_clock_jumps") == Some(3.0), "{}", daemon.log());
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    ensure!(!daemon.log().contains("panic"), "{}", daemon.log());
    let (arrived, stored) = (at_parca(&server), in_store(&daemon)?);
    nothing_twice(&arrived)?;
    ensure!(sums(&arrived) == sums(&stored), "{:?} of {:?}", sums(&arrived), sums(&stored));
    ensure!(total(&stored) >= samples, "{} samples are stored of {samples}", total(&stored));
    let days: BTreeSet<i64> =
        windows(&stored).iter().map(|time| (time - nanos(SystemTime::now())) / 43_200_000_000_000).collect();
    ensure!(days.len() == 3, "profiles bear the times that the clock showed: {days:?}");
    Ok(())
}
