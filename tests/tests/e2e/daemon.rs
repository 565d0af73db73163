//! The daemon on real servers: what it finds, what it keeps, and what becomes of that when things go wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use luaflame::import;
use luaflame::profile::Profile;
use luaflame_tests::daemon::{Daemon, LIMIT, OFTEN, files, prepared};
use luaflame_tests::luaflame::program;
use luaflame_tests::process::{Running, wait_until};
use luaflame_tests::programs::{Mode, Runtime, Target, script};
use rustix::process::Signal;

use crate::nginx::busy;
use crate::{Test, test};

/// The tests of this file.
pub fn tests() -> Vec<(String, Test)> {
    vec![
        test("daemon::every_luajit_of_the_host", every_luajit_of_the_host),
        test("daemon::a_reload_is_followed", a_reload_is_followed),
        test("daemon::fifty_workers_reloading", fifty_workers_reloading),
        test("daemon::nothing_is_lost_at_the_end", nothing_is_lost_at_the_end),
        test("daemon::killed", killed),
        test("daemon::switched_off", switched_off),
        test("daemon::reconfigured", reconfigured),
        test("daemon::pulled", pulled),
        test("daemon::another_program", another_program),
        test("daemon::a_container", a_container),
        test("daemon::a_wrong_configuration", a_wrong_configuration),
    ]
}

/// A busy program.
fn sample(name: &str) -> Result<Target> {
    Target::sample(Runtime::CommandLine, Mode::Jit, name, &[])
}

/// A stored profile.
fn read(path: &Path) -> Result<Profile> {
    Ok(import::profile(path)?)
}

/// The samples in all stored profiles.
fn stored_samples(daemon: &Daemon) -> Result<u64> {
    daemon.stored().iter().map(|path| Ok(read(path)?.stacks().map(|(_, count)| count).sum::<u64>())).sum()
}

/// The pids in all stored profiles.
fn stored_pids(daemon: &Daemon) -> Result<BTreeSet<u32>> {
    let mut pids = BTreeSet::new();
    for path in daemon.stored() {
        pids.extend(read(&path)?.counted_samples().map(|counted| counted.origin.pid));
    }
    Ok(pids)
}

/// The values of a label in the stored profiles of a service.
fn labels(daemon: &Daemon, service: &str, name: &str) -> Result<BTreeSet<String>> {
    let mut values = BTreeSet::new();
    for path in files(&daemon.folder().join("store").join(service), ".pb.gz") {
        let profile = read(&path)?;
        let labels = profile.labels.values().flatten();
        values.extend(labels.filter(|(label, _)| label == name).map(|(_, value)| value.clone()));
    }
    Ok(values)
}

/// Names of probes that are loaded in the kernel.
fn probes() -> Result<usize> {
    let mut found = 0;
    for program in aya::programs::loaded_programs() {
        // One may be unloaded while it is looked at.
        let Ok(program) = program else { continue };
        found += usize::from(matches!(program.name_as_str(), Some("walk" | "finish")));
    }
    Ok(found)
}

fn every_luajit_of_the_host() -> Result<()> {
    let early = sample("calls.lua")?;
    busy(|nginx| {
        let mut daemon = Daemon::start("")?;
        let late = sample("shares.lua")?;
        // One of the workers may get all connections.
        let workers = nginx.workers();
        daemon.wait_until("all are in the store", |daemon| {
            stored_pids(daemon).is_ok_and(|stored| {
                [early.pid(), late.pid()].iter().all(|pid| stored.contains(pid))
                    && workers.iter().any(|pid| stored.contains(pid))
            })
        })?;
        ensure!(daemon.metric("luaflame_processes") >= Some(5.0), "the master and both workers are profiled");
        ensure!(daemon.terminate()?.success(), "{}", daemon.log());
        let numbers = labels(&daemon, "nginx", "worker")?;
        ensure!(
            !numbers.is_empty() && numbers.is_subset(&["0".to_owned(), "1".to_owned()].into()),
            "workers have their numbers, and not {numbers:?}"
        );
        let stacks = daemon.stored().iter().map(|path| read(path)).collect::<Result<Vec<Profile>>>()?;
        let has =
            |name: &str| stacks.iter().any(|profile| profile.frames().any(|frame| frame.name.as_deref() == Some(name)));
        ensure!(has("ngx_http_lua_run_thread") || has("ngx_process_events_and_timers"), "native frames of nginx");
        ensure!(stacks.iter().any(|profile| profile.frames().any(|frame| frame.kind.is_lua())), "Lua frames");
        Ok(())
    })
}

fn a_reload_is_followed() -> Result<()> {
    busy(|nginx| {
        let mut daemon = Daemon::start("")?;
        for _ in 0..3 {
            nginx.reload()?;
            let new: BTreeSet<u32> = nginx.workers().into_iter().collect();
            daemon.wait_until("the new workers are sampled", |daemon| {
                stored_pids(daemon).is_ok_and(|stored| stored.intersection(&new).count() > 0)
            })?;
        }
        ensure!(daemon.metric("luaflame_process_failures") == Some(0.0), "{}", daemon.log());
        daemon.terminate()?;
        Ok(())
    })
}

fn fifty_workers_reloading() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut nginx = crate::nginx::start(folder.path(), "", 50, &[])?;
    let _load = nginx.load("/", None, 8, 60)?;
    let mut daemon = Daemon::start("")?;
    for _ in 0..5 {
        nginx.reload()?;
    }
    daemon.wait_until("as many processes are profiled as there are", |daemon| {
        daemon.metric("luaflame_processes").is_some_and(|processes| processes > nginx.workers().len() as f64)
    })?;
    daemon.wait_until("some of those that are there are in the store", |daemon| {
        stored_pids(daemon).is_ok_and(|stored| nginx.workers().iter().any(|pid| stored.contains(pid)))
    })?;
    let lost = daemon.metric("luaflame_windows_dropped");
    ensure!(lost == Some(0.0), "{lost:?} windows were dropped: {}", daemon.log());
    let samples = daemon.metric("luaflame_samples").context("there are no metrics")?;
    daemon.terminate()?;
    ensure!(stored_samples(&daemon)? as f64 >= samples, "what was counted is stored");
    Ok(())
}

fn nothing_is_lost_at_the_end() -> Result<()> {
    let _busy = sample("calls.lua")?;
    // A window that is complete only because the daemon ends.
    let mut daemon = Daemon::start_with("frequency = 199\nwindow = \"10m\"", "")?;
    daemon.wait_until("there are samples", |daemon| daemon.metric("luaflame_samples") > Some(300.0))?;
    let counted = daemon.metric("luaflame_samples").context("there are no metrics")?;
    ensure!(daemon.stored().is_empty(), "the window is not complete");
    ensure!(daemon.terminate()?.success(), "{}", daemon.log());
    let stored = stored_samples(&daemon)? as f64;
    ensure!(stored >= counted, "{stored} samples are stored of {counted}");
    Ok(())
}

fn killed() -> Result<()> {
    let busy = sample("calls.lua")?;
    let before = probes()?;
    let mut daemon = Daemon::start("")?;
    ensure!(probes()? > before, "the probe is not seen");
    // Each time at another moment of its life.
    for hundredths in [3, 7, 19, 41, 97] {
        let stored = daemon.stored().len();
        daemon.wait_until("it stores", |daemon| daemon.stored().len() > stored)?;
        busy.wait_for_work(hundredths)?;
        let counted = daemon.metric("luaflame_samples").context("there are no metrics")?;
        let written = daemon.metric("luaflame_store_written").context("there are no metrics")?;
        daemon.kill()?;
        ensure!(wait_until(LIMIT, || probes().is_ok_and(|left| left == before)), "a probe is left behind");
        for path in daemon.stored() {
            read(&path).with_context(|| format!("{} is not whole", path.display()))?;
        }
        ensure!(counted > 0.0 && written > 0.0, "it has worked");
        daemon.start_again()?;
        ensure!(
            files(&daemon.folder().join("store"), "").len() == daemon.stored().len() + 1,
            "nothing but profiles and the lock is left: {:?}",
            files(&daemon.folder().join("store"), "")
        );
    }
    daemon.terminate()?;
    Ok(())
}

fn switched_off() -> Result<()> {
    let _busy = sample("calls.lua")?;
    let before = probes()?;
    let mut daemon = Daemon::start("")?;
    daemon.wait_until("it stores", |daemon| !daemon.stored().is_empty())?;
    let off = daemon.folder().join("off");
    fs::write(&off, "")?;
    daemon.wait_until("it does not sample", |daemon| daemon.metric("luaflame_sampling") == Some(0.0))?;
    ensure!(probes()? == before, "the probe is still loaded");
    ensure!(daemon.get("/healthz")?.status == 200, "it does what it was told");
    let page = daemon.get("/debug/pprof/profile?seconds=1")?;
    ensure!(page.status != 200 && page.text()?.contains("off"), "a pull says why there is nothing: {}", page.text()?);
    fs::remove_file(&off)?;
    daemon.wait_until("it samples again", |daemon| daemon.metric("luaflame_sampling") == Some(1.0))?;
    let stored = daemon.stored().len();
    daemon.wait_until("it stores again", |daemon| daemon.stored().len() > stored)?;
    // And from the beginning.
    daemon.terminate()?;
    fs::write(&off, "")?;
    let (folder, address) = prepared(OFTEN, "")?;
    fs::write(folder.path().join("off"), "")?;
    let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
    daemon.wait_until("it answers", |daemon| daemon.metric("luaflame_sampling") == Some(0.0))?;
    ensure!(probes()? == before, "no probe is loaded");
    fs::remove_file(daemon.folder().join("off"))?;
    daemon.wait_until_it_samples()?;
    daemon.terminate()?;
    Ok(())
}

fn reconfigured() -> Result<()> {
    let calls = sample("calls.lua")?;
    let shares = sample("shares.lua")?;
    let mut daemon = Daemon::start("")?;
    daemon.wait_until("both are stored", |daemon| stored_pids(daemon).is_ok_and(|stored| stored.len() >= 2))?;
    let rules = "[[discovery.rule]]\ncommand = \"shares\"\nprofile = false\n\
                 [[discovery.rule]]\ncommand = \"calls\"\nservice = \"caller\"\nlabels = { team = \"a\" }";
    daemon.reconfigure("frequency = 97\nwindow = \"1s\"", rules)?;
    daemon.wait_until("the new name is in the store", |daemon| {
        labels(daemon, "caller", "team").is_ok_and(|teams| teams == ["a".to_owned()].into())
    })?;
    daemon.wait_until("one is left out", |daemon| daemon.metric("luaflame_processes") == Some(1.0))?;
    ensure!(labels(&daemon, "caller", "command")?.contains("luajit"), "the command is a label");
    let of_the_other =
        |daemon: &Daemon| daemon.get("/debug/pprof/profile?seconds=1").map(|answer| answer.status).unwrap_or(0);
    ensure!(of_the_other(&daemon) == 200, "it can be pulled");
    let answer = daemon.get(&format!("/debug/pprof/profile?seconds=1&pid={}", shares.pid()))?;
    ensure!(answer.status == 404, "what is left out is not there: {}", answer.status);

    let text = fs::read_to_string(daemon.folder().join("luaflame.toml"))?;
    fs::write(daemon.folder().join("luaflame.toml"), text.replace("window = \"1s\"", "window = \"never\""))?;
    daemon.process().signal(Signal::HUP)?;
    daemon.wait_until("it says what is wrong", |daemon| {
        let log = daemon.log();
        log.contains("stays as it was") && log.contains("window") && log.contains("never")
    })?;
    let stored = daemon.stored().len();
    daemon.wait_until("it goes on", |daemon| daemon.stored().len() > stored)?;
    daemon.terminate()?;
    drop(calls);
    Ok(())
}

fn pulled() -> Result<()> {
    busy(|nginx| {
        let calls = sample("calls.lua")?;
        let mut daemon = Daemon::start("")?;
        daemon.wait_until("all are profiled", |daemon| daemon.metric("luaflame_processes") >= Some(4.0))?;
        let pull = |query: &str| -> Result<BTreeMap<u32, u64>> {
            let answer = daemon.get(&format!("/debug/pprof/profile?seconds=2{query}"))?;
            ensure!(answer.status == 200, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
            ensure!(answer.kind == "application/octet-stream", "{}", answer.kind);
            let file = daemon.folder().join("pulled.pb.gz");
            fs::write(&file, &answer.body)?;
            let mut samples = BTreeMap::new();
            for counted in read(&file)?.counted_samples() {
                *samples.entry(counted.origin.pid).or_default() += counted.count;
            }
            Ok(samples)
        };
        let all = pull("")?;
        let workers: BTreeSet<u32> = nginx.workers().into_iter().collect();
        ensure!(all.contains_key(&calls.pid()) && all.keys().any(|pid| workers.contains(pid)), "{all:?}");
        let one = pull(&format!("&pid={}", calls.pid()))?;
        ensure!(one.len() == 1 && one[&calls.pid()] > 100, "{one:?}");
        let service = pull("&service=nginx")?;
        ensure!(!service.is_empty() && service.keys().all(|pid| workers.contains(pid)), "{service:?} of {workers:?}");
        for (query, status) in [("seconds=0", 400), ("seconds=x", 400), ("seconds=1&service=none", 404)] {
            let answer = daemon.get(&format!("/debug/pprof/profile?{query}"))?;
            ensure!(answer.status == status, "{query}: {}", answer.status);
        }
        daemon.terminate()?;
        Ok(())
    })
}

fn another_program() -> Result<()> {
    let mut daemon = Daemon::start("")?;
    let luajit = Runtime::CommandLine.path()?;
    // A shell becomes a LuaJIT, which becomes a shell that burns CPU: only the one in the middle is profiled.
    let script = format!(
        "exec {} -e 'local ffi = require(\"ffi\") ffi.cdef[[int execl(const char*, const char*, ...);]] \
                          local t = os.clock() while os.clock() < t + 2 do end \
                          ffi.C.execl(\"/bin/sh\", \"sh\", \"-c\", \"while :; do :; done\", nil)'",
        luajit.display()
    );
    let process = Running::spawn(Command::new("sh").args(["-c", &script]))?;
    let pid = process.id();
    daemon.wait_until("it is profiled", |daemon| daemon.metric("luaflame_processes") == Some(1.0))?;
    daemon.wait_until("it is another program", |_| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "sh")
    })?;
    daemon.wait_until("it is not profiled any more", |daemon| daemon.metric("luaflame_processes") == Some(0.0))?;
    process.wait_for_work(50)?;
    daemon.terminate()?;
    for path in daemon.stored() {
        let profile = read(&path)?;
        let names: Vec<_> = profile.frames().filter_map(|frame| frame.file.clone()).collect();
        ensure!(!names.iter().any(|file| &**file == "dash"), "the shell was profiled: {names:?}");
    }
    ensure!(stored_pids(&daemon)? == [pid].into(), "only this one has run Lua");
    Ok(())
}

/// A cgroup as Docker makes one, taken away when this is dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make(id: &str) -> Result<Cgroup> {
        // Version 2 alone, or beside the hierarchy of systemd.
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd"].map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.procs").exists()).context("there are no cgroups")?;
        let path = root.join(format!("docker-{id}.scope"));
        fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Cgroup(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes have been ended; the kernel takes a moment to see that it is empty.
        wait_until(LIMIT, || fs::remove_dir(&self.0).is_ok());
    }
}

fn a_container() -> Result<()> {
    let id = "0123456789abcdef".repeat(4);
    let cgroup = Cgroup::make(&id)?;
    let folder = tempfile::tempdir()?;
    let mut daemon = Daemon::start("")?;
    // Its program and its script are where nobody outside sees them, and were there before its process.
    let enter = "echo $$ > \"$1/cgroup.procs\"; exec unshare --mount --pid --fork --kill-child sh -c \
                 'mount -t tmpfs none \"$1\" && cp \"$2\" \"$3\" \"$1\" && cd \"$1\" && ./luajit calls.lua; exit 0' sh \"$2\" \"$3\" \"$4\"";
    let mut container = Running::spawn(
        Command::new("sh")
            .args(["-c", enter, "sh"])
            .arg(&cgroup.0)
            .arg(folder.path())
            .arg(Runtime::CommandLine.path()?)
            .arg(script("calls.lua"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null()),
    )?;
    let seen = |daemon: &Daemon| -> Result<bool> {
        let mut seen = false;
        for path in daemon.stored() {
            let profile = read(&path)?;
            let is_ours = profile.labels.values().flatten().any(|(name, value)| name == "container" && *value == id);
            seen |=
                is_ours && profile.frames().any(|frame| frame.name.as_deref() == Some("spin") && frame.kind.is_lua());
        }
        Ok(seen)
    };
    let stored = daemon.wait_until("its Lua functions are stored, with its id", |daemon| seen(daemon).unwrap_or(false));
    // unshare ignores a request to end; what it has started ends with it.
    container.child().kill()?;
    container.child().wait()?;
    stored?;
    daemon.terminate()?;
    Ok(())
}

fn a_wrong_configuration() -> Result<()> {
    let (folder, address) = prepared("frequency = 0\nwindow = \"1s\"", "[nonsense]\nx = 1")?;
    let mut daemon = Daemon::spawn(folder, address, Command::new(program()))?;
    let status = daemon.wait()?;
    ensure!(!status.success() && daemon.log().contains("nonsense"), "{status}: {}", daemon.log());
    let output = Command::new(program())
        .args(["daemon", "--check-config", "--config"])
        .arg(daemon.folder().join("luaflame.toml"))
        .output()?;
    ensure!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("nonsense"), "{output:?}");
    Ok(())
}
