//! Which processes of the host are profiled: those that hold LuaJIT and that the rules do not leave out.
//!
//! Nothing is asked of a process that does nothing. All are looked at once, at the beginning. After that the probe tells of processes
//! that run another program, of those that watched ones start, and of those that use the CPU and are not watched: a LuaJIT that is
//! loaded late is found when it first matters.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::files::Files;
use super::rules::Rules;
use crate::probe::Probe;
use crate::profile::window::Identity;
use crate::target::children::children;
use crate::target::process::Process;
use crate::target::world::World;
use crate::targets::{Event, Targets};

/// A process that runs another program is looked at after this time, which is when a small one has loaded its libraries, then after
/// four times the time, and so on; after [`LOADED`] only when it uses the CPU.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LOADED: Duration = Duration::from_secs(2);
/// One that uses the CPU and holds no LuaJIT is looked at again after this time, then after twice the time, and so on up to [`LATEST`].
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(64);
/// The same for one that holds LuaJIT, which may make a VM at any time.
const EXPECTED_AGAIN: Duration = Duration::from_millis(100);
const EXPECTED_LATEST: Duration = Duration::from_secs(1);
/// Looks at one process take one part in so many of the time at most: one with very much memory takes seconds to be searched.
const LOOK_SHARE: u32 = 500;
/// How long a process that a rule leaves out is left out without asking again: its title may change.
const LEFT_OUT: Duration = Duration::from_secs(10);
/// Longer than any process lives.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Strangers that are remembered. When they are more, those that are not waiting for a look are forgotten.
const MOST_STRANGERS: usize = 8192;
/// For so long a process that was forked may become another one than its parent: nginx tells its workers who they are in this time.
const GROWING: Duration = Duration::from_secs(1);

/// The processes of a host, as far as it is known whether they are profiled.
pub struct Discovery {
    world: Arc<dyn World>,
    rules: Arc<Rules>,
    files: Files,
    strangers: FxHashMap<u32, Stranger>,
    identities: FxHashMap<u32, Arc<Identity>>,
    /// Processes that have been forked, and when.
    growing: Vec<(u32, Instant)>,
    /// How often a process was looked at.
    pub looks: u64,
    /// Processes that could not be watched, or not be read, although they hold LuaJIT.
    pub failures: u64,
}

/// A process that is not watched.
#[derive(Debug, Clone, Copy)]
struct Stranger {
    /// When to look at it next, unless only if it uses the CPU.
    due: Option<Instant>,
    /// How long to wait after that.
    wait: Duration,
}

/// What a look at a process has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is watched now.
    Watched,
    /// It holds no LuaJIT.
    Without,
    /// It holds LuaJIT, which has made no VM yet: that may be for those that it starts to do.
    NoVm,
    /// A rule leaves it out.
    LeftOut,
    /// Nothing will change about it.
    Never,
    /// It has exited.
    Gone,
}

impl Discovery {
    /// Nothing is known of the processes of a world yet.
    pub fn new(world: Arc<dyn World>, rules: Arc<Rules>) -> Discovery {
        Discovery {
            world,
            rules,
            files: Files::default(),
            strangers: FxHashMap::default(),
            identities: FxHashMap::default(),
            growing: Vec::new(),
            looks: 0,
            failures: 0,
        }
    }

    /// Looks at every process of the host that is not watched.
    pub fn all(&mut self, targets: &mut Targets, probe: &mut Probe) {
        let listed = match std::fs::read_dir("/proc") {
            Ok(listed) => listed,
            Err(error) => return log::error!("the processes in /proc cannot be listed, so none is found: {error}"),
        };
        let pids = listed.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids {
            self.visit(pid, targets, probe);
        }
    }

    /// Decides anew about every process.
    pub fn apply(&mut self, rules: Arc<Rules>, targets: &mut Targets, probe: &mut Probe) {
        self.rules = rules;
        self.files.forget();
        self.strangers.clear();
        probe.forget_strangers();
        for pid in targets.pids() {
            self.identify(pid, targets, probe);
        }
        self.all(targets, probe);
    }

    /// Takes in what has happened.
    pub fn take(&mut self, event: Event, targets: &mut Targets, probe: &mut Probe) {
        match event {
            Event::Met(pid) => {
                if self.strangers.get(&pid).is_none_or(|stranger| stranger.due.is_none()) {
                    self.visit(pid, targets, probe);
                }
            }
            Event::New(pid) => {
                self.identities.remove(&pid);
                self.remember(pid, Stranger { due: Some(Instant::now() + FIRST_LOOK), wait: FIRST_LOOK * 4 });
            }
            Event::Forked { parent, child } => {
                // It may have exited already, and its samples are somebody's nevertheless.
                if let Some(parent) = self.identities.get(&parent) {
                    let started = targets.process(child).map_or(0, |process| process.started());
                    self.identities.insert(child, Arc::new(parent.inherit(child, started)));
                }
                self.growing.push((child, Instant::now()));
            }
            Event::Ended(pid) => {
                self.strangers.remove(&pid);
            }
        }
    }

    /// Looks at the processes whose time has come.
    pub fn look_again(&mut self, targets: &mut Targets, probe: &mut Probe) {
        let now = Instant::now();
        let is_due = |stranger: &Stranger| stranger.due.is_some_and(|due| due <= now);
        let due: Vec<u32> =
            self.strangers.iter().filter(|(_, stranger)| is_due(stranger)).map(|(pid, _)| *pid).collect();
        for pid in due {
            self.visit(pid, targets, probe);
        }
    }

    /// When the next process is to be looked at.
    pub fn next_look(&self) -> Option<Instant> {
        self.strangers.values().filter_map(|stranger| stranger.due).min()
    }

    /// Finds out anew who the processes are that have been forked shortly.
    pub fn settle(&mut self, targets: &mut Targets, probe: &mut Probe) {
        for (pid, forked) in std::mem::take(&mut self.growing) {
            self.identify(pid, targets, probe);
            if forked.elapsed() < GROWING {
                self.growing.push((pid, forked));
            }
        }
    }

    /// Who a process is or was.
    pub fn identity(&self, pid: u32, started: u64, command: &str) -> Arc<Identity> {
        match self.identities.get(&pid) {
            // Of one that had ended before it could be looked at, the start is not known.
            Some(identity) if identity.started == started || identity.started == 0 => Arc::clone(identity),
            _ => {
                let (command, service) = (command.to_owned(), command.to_owned());
                Arc::new(Identity { pid, started, command, service, ..Identity::default() })
            }
        }
    }

    /// The processes that are profiled, by service and pid.
    pub fn profiled(&self, targets: &Targets) -> Vec<Arc<Identity>> {
        let mut profiled: Vec<Arc<Identity>> =
            targets.pids().into_iter().filter_map(|pid| self.identities.get(&pid).cloned()).collect();
        profiled.sort_by(|one, other| (&one.service, one.pid).cmp(&(&other.service, other.pid)));
        profiled
    }

    /// Forgets who those were that are not profiled any more.
    pub fn forget_ended(&mut self, targets: &Targets) {
        self.identities.retain(|pid, _| targets.process(*pid).is_some());
    }

    /// Finds out who a watched process is, and lets go of it when a rule leaves it out.
    fn identify(&mut self, pid: u32, targets: &mut Targets, probe: &mut Probe) {
        let Some(process) = targets.process(pid) else { return };
        if !process.is_running() {
            return;
        }
        match Identity::of(process, &self.rules) {
            // It is ending, and stays who it was.
            Err(_) => {}
            Ok(Some(identity)) => drop(self.identities.insert(pid, Arc::new(identity))),
            Ok(None) => {
                targets.release(pid);
                probe.forget(pid);
                probe.ignore(pid, LEFT_OUT, true);
            }
        }
    }

    /// Looks at a process and, if it holds LuaJIT, at its children, which may have been forked before it was watched.
    fn visit(&mut self, pid: u32, targets: &mut Targets, probe: &mut Probe) {
        let mut pids = vec![pid];
        while let Some(pid) = pids.pop() {
            let stranger = self.strangers.remove(&pid);
            // It may be known by its parent by now.
            if targets.process(pid).is_some() {
                continue;
            }
            self.looks += 1;
            let begun = Instant::now();
            match self.look(pid, targets, probe) {
                Look::Watched => {
                    pids.extend(children(&*self.world, pid).unwrap_or_default());
                }
                Look::Without => self.put_off(pid, stranger, begun.elapsed(), false, probe),
                Look::NoVm => self.put_off(pid, stranger, begun.elapsed(), true, probe),
                Look::LeftOut => probe.ignore(pid, LEFT_OUT, true),
                Look::Never => probe.ignore(pid, NEVER, false),
                Look::Gone => {}
            }
        }
    }

    /// Looks at it again later: the later, the longer this look took. `expected` says whether it is likely to make a VM.
    fn put_off(&mut self, pid: u32, stranger: Option<Stranger>, took: Duration, expected: bool, probe: &mut Probe) {
        let least = took * LOOK_SHARE;
        let (again, latest) = if expected { (EXPECTED_AGAIN, EXPECTED_LATEST) } else { (LOOK_AGAIN, LATEST) };
        let stranger = match stranger {
            Some(Stranger { due: Some(_), wait }) if wait < LOADED => {
                Stranger { due: Some(Instant::now() + wait.max(least)), wait: wait * 4 }
            }
            Some(Stranger { due: None, wait }) => {
                let wait = wait.min(latest);
                probe.ignore(pid, wait.max(least), expected);
                Stranger { due: None, wait: wait * 2 }
            }
            _ => {
                probe.ignore(pid, again.max(least), expected);
                Stranger { due: None, wait: again * 2 }
            }
        };
        self.remember(pid, stranger);
    }

    fn remember(&mut self, pid: u32, stranger: Stranger) {
        if self.strangers.len() >= MOST_STRANGERS {
            self.strangers.retain(|_, stranger| stranger.due.is_some());
        }
        if self.strangers.len() < MOST_STRANGERS {
            self.strangers.insert(pid, stranger);
        }
    }

    fn look(&mut self, pid: u32, targets: &mut Targets, probe: &mut Probe) -> Look {
        let Ok(process) = Process::open(&self.world, pid) else { return Look::Gone };
        if pid == std::process::id() {
            return Look::Never;
        }
        let Ok(mappings) = process.maps() else { return Look::Gone };
        if mappings.is_empty() {
            // A thread of the kernel has no memory of its own; one that is exiting has none any more.
            return Look::Never;
        }
        if !self.files.may_hold_luajit(&process, &mappings) {
            return Look::Without;
        }
        let identity = match Identity::of(&process, &self.rules) {
            Ok(Some(identity)) => identity,
            Ok(None) => return Look::LeftOut,
            Err(_) => return Look::Gone,
        };
        match targets.add_if_lua(pid).and_then(|found| targets.watch(pid, probe).map(|()| found)) {
            Ok(true) => {
                log::info!("process {pid} ({}) is profiled, as {}", identity.command, identity.service);
                self.identities.insert(pid, Arc::new(identity));
                Look::Watched
            }
            Ok(false) => Look::NoVm,
            Err(_) if !process.is_running() => Look::Gone,
            Err(error) => {
                self.failures += 1;
                log::warn!("process {pid} ({}) is not profiled: {error:#}", identity.command);
                // A layout that is not known now will hardly be in a second: it is tried, and told, more and more seldom.
                Look::Without
            }
        }
    }
}
