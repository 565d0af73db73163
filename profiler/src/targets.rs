//! The processes being recorded: found, followed through forks, execs and exits, and their samples turned into stacks.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use luaflame_ebpf::watch;
use rustc_hash::FxHashMap;

use crate::luajit::discover::Discovery;
use crate::luajit::frames::activations;
use crate::luajit::layout::Layout;
use crate::luajit::trace_map::TraceMap;
use crate::native::image::Images;
use crate::probe::Probe;
use crate::probe::sample::{Record, Sample};
use crate::profile::{FrameId, Profile};
use crate::stack::process::View;
use crate::stack::resolve::{LuaFunctions, Resolver, Symbols};
use crate::stack::weave::weave;
use crate::target::children::{children, is_nginx_master};
use crate::target::process::Process;
use crate::target::world::World;

/// A process that had no LuaJIT is searched with its next sample, again after this time, then after twice the time, and so on.
const SEARCH_AGAIN: Duration = Duration::from_millis(10);
/// How often to look whether processes still run.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often the mappings of a process are read again: a library may take the place of another one.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// VMs of one process that are remembered.
const MOST_VMS: usize = 512;

/// All processes of a recording, and the profile that it makes.
pub struct Targets {
    /// What has been recorded.
    pub profile: Profile,
    /// The processes that the user named, with their command names, and the workers of those that are nginx masters.
    pub named: Vec<(u32, String)>,
    /// What the VMs call themselves, each once.
    pub versions: Vec<String>,
    world: Arc<dyn World>,
    targets: FxHashMap<u32, Target>,
    lua: bool,
    layouts: Vec<Arc<Layout>>,
    images: Arc<Images>,
    /// Symbols of the kernel and of images.
    pub symbols: Symbols,
    tops: FxHashMap<FrameId, u64>,
    top: Option<(FrameId, u64)>,
    buffer: Vec<FrameId>,
    looked: Duration,
    /// Each process has a profile of its own.
    apart: bool,
    /// What has happened since it was taken last, if processes are kept apart.
    events: Vec<Event>,
    /// Profiles of processes that have ended, each with its pid and when it started.
    ended: Vec<(u32, u64, Profile)>,
}

/// What has happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// One that is not watched uses the CPU.
    Met(u32),
    /// One that is not watched runs another program; one that was is so no longer.
    New(u32),
    /// A watched one has started another one, which is watched from now on.
    Forked {
        /// The process that forked.
        parent: u32,
        /// The new one.
        child: u32,
    },
    /// A watched one has ended.
    Ended(u32),
}

struct Target {
    view: View,
    functions: LuaFunctions,
    /// Its samples, if processes are kept apart.
    profile: Profile,
    flags: u32,
    /// When to search for a VM next, and how long to wait after that.
    search: Option<(Duration, Duration)>,
    /// When the mappings were read last.
    refreshed: Duration,
    /// What its VMs call themselves, once they tell.
    version: Option<String>,
    /// Its first thread has ended.
    ending: bool,
}

impl Target {
    fn new(view: View, flags: u32) -> Target {
        let refreshed = view.process.now();
        let functions = LuaFunctions::default();
        let profile = Profile::default();
        Target { view, functions, profile, flags, search: None, refreshed, version: None, ending: false }
    }

    /// Adds to `versions` what its VMs call themselves, once they tell.
    fn read_version(&mut self, versions: &mut Vec<String>) {
        if self.version.is_some() {
            return;
        }
        self.version = self.view.version();
        if let Some(version) = &self.version {
            log::debug!("process {} runs {version}", self.view.process.pid());
            if !versions.contains(version) {
                versions.push(version.clone());
            }
        }
    }

    /// Its samples so far, if there are any, with its pid and when it started.
    fn take_profile(&mut self) -> Option<(u32, u64, Profile)> {
        if self.profile.counters.samples == 0 {
            return None;
        }
        let mut profile = mem::take(&mut self.profile);
        let process = &self.view.process;
        profile.meta.processes.push((process.pid(), process.comm().to_owned()));
        profile.meta.luajit.extend(self.version.clone());
        Some((process.pid(), process.started(), profile))
    }
}

impl Targets {
    /// No processes of a world yet. `lua` says whether to look for LuaJIT in them.
    pub fn new(world: Arc<dyn World>, lua: bool) -> Targets {
        Targets {
            profile: Profile::default(),
            named: Vec::new(),
            versions: Vec::new(),
            targets: FxHashMap::default(),
            lua,
            layouts: Layout::all().into_iter().map(Arc::new).collect(),
            images: Arc::default(),
            symbols: Symbols::of(Arc::clone(&world)),
            tops: FxHashMap::default(),
            top: None,
            buffer: Vec::new(),
            looked: world.now(),
            apart: false,
            events: Vec::new(),
            ended: Vec::new(),
            world,
        }
    }

    /// No processes of a world yet, each of which shall have a profile of its own; those that run a program without LuaJIT are let go of.
    pub fn apart(world: Arc<dyn World>) -> Targets {
        Targets { apart: true, ..Targets::new(world, true) }
    }

    /// Adds a process if it holds LuaJIT, and says whether it does.
    ///
    /// # Errors
    /// When it has exited or may not be read, and when it holds a LuaJIT that cannot be read.
    pub fn add_if_lua(&mut self, pid: u32) -> anyhow::Result<bool> {
        if self.targets.contains_key(&pid) {
            return Ok(true);
        }
        let mut view = View::open(&self.world, pid, &self.images)?;
        let discovery = view.discover(&self.layouts)?;
        if view.lua.is_some() {
            self.insert(pid, view);
            return Ok(true);
        }
        match discovery.unknown.first() {
            Some(unknown) => bail!("the LuaJIT in process {pid} ({}) cannot be read: {unknown}", view.process.comm()),
            None => Ok(false),
        }
    }

    /// A process that is profiled.
    pub fn process(&self, pid: u32) -> Option<&Arc<Process>> {
        Some(&self.targets.get(&pid)?.view.process)
    }

    /// The pids of the processes that are profiled, in no order.
    pub fn pids(&self) -> Vec<u32> {
        self.targets.keys().copied().collect()
    }

    /// Tells the probe what to watch of one process.
    ///
    /// # Errors
    /// When there are more processes than it can watch; this one is let go of then.
    pub fn watch(&mut self, pid: u32, probe: &mut Probe) -> anyhow::Result<()> {
        let Some(target) = self.targets.get(&pid) else { return Ok(()) };
        let watched = probe.watch(pid, target.view.wire(target.flags));
        if watched.is_err() {
            self.targets.remove(&pid);
        }
        watched.with_context(|| format!("process {pid} is left out"))
    }

    /// Lets go of a process; its samples so far are kept until they are taken.
    pub fn release(&mut self, pid: u32) {
        self.ended.extend(self.targets.remove(&pid).and_then(|mut target| target.take_profile()));
    }

    /// What has happened since this was asked last, in the order in which it did.
    pub fn take_events(&mut self) -> Vec<Event> {
        mem::take(&mut self.events)
    }

    /// The samples of each process since this was asked last, with its pid and when it started. A process without any is left out.
    pub fn take_profiles(&mut self) -> Vec<(u32, u64, Profile)> {
        let mut profiles = mem::take(&mut self.ended);
        profiles.extend(self.targets.values_mut().filter_map(Target::take_profile));
        profiles
    }

    /// Adds a process that the user named; for an nginx master, its workers.
    ///
    /// # Errors
    /// When it does not exist, may not be read, or holds no LuaJIT that can be read although one is looked for.
    pub fn add(&mut self, pid: u32) -> anyhow::Result<()> {
        if self.targets.contains_key(&pid) {
            return Ok(());
        }
        let mut view = View::open(&self.world, pid, &self.images)?;
        self.named.push((pid, view.process.comm().to_owned()));
        if !is_nginx_master(&view.process)? {
            let view = self.search(view)?;
            self.insert(pid, view);
            return Ok(());
        }
        let mut failed = None;
        let mut found = false;
        for worker in children(&*self.world, pid)? {
            // A worker may exit at any time; helpers of nginx, such as the cache manager, have no VM.
            let Ok(worker_view) = View::open(&self.world, worker, &self.images) else { continue };
            match self.search(worker_view) {
                Ok(worker_view) => {
                    found = true;
                    // The master starts the workers of a reload: they are known from their first instruction.
                    view.share(&worker_view);
                    self.named.push((worker, worker_view.process.comm().to_owned()));
                    self.insert(worker, worker_view);
                }
                Err(error) => {
                    log::debug!("process {worker}, a child of the nginx master {pid}, is left out: {error}");
                    failed = Some(error);
                }
            }
        }
        self.targets.insert(pid, Target::new(view, watch::FOLLOW | watch::QUIET));
        match failed {
            Some(error) if !found => {
                Err(error.context(format!("process {pid} is an nginx master without Lua workers")))
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, pid: u32, view: View) {
        let mut target = Target::new(view, watch::FOLLOW);
        target.read_version(&mut self.versions);
        self.targets.insert(pid, target);
    }

    /// Adds a process that is about to run another program: what it holds is looked for then.
    ///
    /// # Errors
    /// When it does not exist or may not be read.
    pub fn add_launched(&mut self, pid: u32) -> anyhow::Result<()> {
        let view = View::open(&self.world, pid, &self.images)?;
        self.named.push((pid, view.process.comm().to_owned()));
        self.targets.insert(pid, Target::new(view, watch::FOLLOW));
        Ok(())
    }

    /// Finds the LuaJIT of a process, when one is looked for.
    fn search(&self, mut view: View) -> anyhow::Result<View> {
        if !self.lua {
            return Ok(view);
        }
        let pid = view.process.pid();
        let comm = view.process.comm().to_owned();
        let discovery = view.discover(&self.layouts)?;
        if view.lua.is_some() {
            return Ok(view);
        }
        bail!(nothing_found(pid, &comm, &discovery))
    }

    /// Tells the probe what to watch.
    ///
    /// # Errors
    /// When there are more processes than it can watch.
    pub fn watch_all(&self, probe: &mut Probe) -> anyhow::Result<()> {
        for (pid, target) in &self.targets {
            probe.watch(*pid, target.view.wire(target.flags)).with_context(|| format!("process {pid} is left out"))?;
        }
        Ok(())
    }

    /// Whether any process is left to watch.
    pub fn any_alive(&self) -> bool {
        !self.targets.is_empty()
    }

    /// The Lua function that was on top of most samples.
    pub fn top(&self) -> Option<&str> {
        let frame = self.profile.get(self.top?.0);
        frame.name.as_deref().or(frame.file.as_deref())
    }

    /// The processes that are sampled, each with its command name, by pid.
    pub fn sampled(&self) -> Vec<(u32, &str)> {
        let sampled = self.targets.iter().filter(|(_, target)| target.flags & watch::QUIET == 0);
        let mut sampled: Vec<_> = sampled.map(|(pid, target)| (*pid, target.view.process.comm())).collect();
        sampled.sort_unstable();
        sampled
    }

    /// Forgets the samples so far; what was counted meanwhile stays.
    pub fn forget_samples(&mut self) {
        self.profile.forget_samples();
        self.tops.clear();
        self.top = None;
    }

    /// Reads the records that are waiting, until there is none or `enough` says so: a program may make samples faster than
    /// they can be read.
    pub fn read(&mut self, probe: &mut Probe, enough: impl Fn() -> bool) {
        // What is to be told to the probe once the ring buffer is not borrowed.
        let mut changed = Vec::new();
        while !enough()
            && let Some(bytes) = probe.next_record()
        {
            changed.extend(self.take(&bytes));
        }
        changed.sort_unstable();
        changed.dedup();
        for tgid in changed {
            match self.targets.get(&tgid) {
                // It is watched already, so there is room for it.
                Some(target) => {
                    let _ = probe.watch(tgid, target.view.wire(target.flags));
                }
                None => probe.forget(tgid),
            }
        }
        self.bury(|tgid| probe.forget(tgid));
    }

    /// Takes in one record of the probe. Returns the process that the probe should be told something new about.
    pub fn take(&mut self, record: &[u8]) -> Option<u32> {
        self.world.record(record);
        match Record::parse(record) {
            Ok(Record::Sample(sample)) => return self.sample(&sample).then_some(sample.header.tgid),
            Ok(Record::Fork { parent, child }) => self.forked(parent, child),
            Ok(Record::Exec { tgid }) if self.apart => {
                self.release(tgid);
                self.events.push(Event::New(tgid));
                return Some(tgid);
            }
            Ok(Record::Met { tgid }) => self.events.push(Event::Met(tgid)),
            Ok(Record::New { tgid }) => self.events.push(Event::New(tgid)),
            Ok(Record::Exec { tgid }) => {
                let target = self.targets.get_mut(&tgid)?;
                let view = View::open(&self.world, tgid, &self.images).ok()?;
                for (_, name) in self.named.iter_mut().filter(|(pid, _)| *pid == tgid) {
                    view.process.comm().clone_into(name);
                }
                log::debug!("process {tgid} runs another program now ({})", view.process.comm());
                *target = Target::new(view, target.flags & !watch::QUIET);
                return Some(tgid);
            }
            Ok(Record::Copied { of, bytes }) => {
                self.targets.get_mut(&of.tgid)?.view.copies.add(of.address, of.mark, bytes)
            }
            Ok(Record::Exit { tgid }) => self.targets.get_mut(&tgid)?.ending = true,
            Err(error) => *self.profile.counters.reasons.entry(error.to_string()).or_default() += 1,
        }
        None
    }

    /// Lets go of processes that have exited. The probe tells when the first thread of one ends, which others may outlive;
    /// as such a record can be lost, all are looked at from time to time. `forget` is told each one that is gone.
    pub fn bury(&mut self, mut forget: impl FnMut(u32)) {
        self.world.look();
        let now = self.world.now();
        let all = now.saturating_sub(self.looked) >= LOOK_EVERY;
        if all {
            self.looked = now;
        }
        let Targets { targets, ended, events, apart, .. } = self;
        targets.retain(|tgid, target| {
            if !(all || target.ending) || target.view.process.is_running() {
                return true;
            }
            log::debug!("process {tgid} ({}) has ended", target.view.process.comm());
            forget(*tgid);
            ended.extend(target.take_profile());
            if *apart {
                events.push(Event::Ended(*tgid));
            }
            false
        });
    }

    /// A watched process has started another one, with the same memory.
    fn forked(&mut self, parent: u32, child: u32) {
        let Ok(mut view) = View::open(&self.world, child, &self.images) else { return };
        let Some(parent) = self.targets.get(&parent) else { return };
        view.share(&parent.view);
        let flags = parent.flags & !watch::QUIET;
        log::debug!("process {child} ({}) is new, started by one that is profiled", view.process.comm());
        let mut target = Target::new(view, flags);
        if self.apart {
            target.version.clone_from(&parent.version);
            self.events.push(Event::Forked { parent: parent.view.process.pid(), child });
        }
        self.targets.insert(child, target);
    }

    /// Turns a sample into a stack of the profile. Whether the probe should be told something new about the process.
    fn sample(&mut self, sample: &Sample<'_>) -> bool {
        let Some(target) = self.targets.get_mut(&sample.header.tgid) else {
            *self.profile.counters.reasons.entry(UNREADABLE.to_owned()).or_default() += 1;
            return false;
        };
        let mut changed = false;
        if self.lua && target.view.lua.is_none() {
            changed |= target.search_again(&self.layouts);
            if changed {
                target.read_version(&mut self.versions);
            }
        }
        let now = self.world.now();
        if now.saturating_sub(target.refreshed) >= REFRESH_EVERY {
            target.refreshed = now;
            // A process that has exited has no mappings any more; what is known of it stays.
            let _ = target.view.unwinder.refresh();
            target.read_version(&mut self.versions);
        }
        if sample.header.vmstate >= 0 && sample.header.g != 0 {
            target.view.settle(&self.layouts);
        }
        let activations = activations(&sample.entries, sample.cut.map(|cut| cut.before), sample.header.registers.bx);
        target.view.active.clear();
        for activation in &activations {
            target.meet(activation.global);
        }
        target.view.turn_to(sample, &activations);
        let pieces = weave(sample, &activations, &mut target.view);
        let mut resolver = Resolver {
            view: &mut target.view,
            functions: &mut target.functions,
            symbols: &mut self.symbols,
            profile: if self.apart { &mut target.profile } else { &mut self.profile },
        };
        let outcome = resolver.add(sample, &activations, &pieces, &mut self.buffer);
        if let Some(top) = outcome.top_lua.filter(|_| !self.apart) {
            let count = self.tops.entry(top).or_default();
            *count += 1;
            if self.top.is_none_or(|(_, most)| *count > most) {
                self.top = Some((top, *count));
            }
        }
        changed
    }
}

const UNREADABLE: &str = "samples of processes that had exited before they could be read";

impl Target {
    /// Takes note of a VM that a sample shows. The probe has seen that it is one; it may be closed by now, and what was copied of
    /// it be all that is left.
    fn meet(&mut self, global: u64) {
        let View { lua: Some(lua), active, .. } = &mut self.view else { return };
        if global == 0 || active.contains(&global) {
            return;
        }
        if !lua.traces.contains_key(&global) {
            if lua.traces.len() >= MOST_VMS {
                lua.traces.clear();
            }
            lua.traces.insert(global, TraceMap::new(&lua.layout, global));
        }
        active.push(global);
    }

    /// Searches for a VM that a program may have made since the last time. Whether there is one now.
    fn search_again(&mut self, layouts: &[Arc<Layout>]) -> bool {
        let now = self.view.process.now();
        let (when, wait) = *self.search.get_or_insert((now, SEARCH_AGAIN));
        if now < when {
            return false;
        }
        self.search = Some((now + wait, wait * 2));
        self.view.discover(layouts).is_ok() && self.view.lua.is_some()
    }
}

/// What to say when no VM can be read in a process.
fn nothing_found(pid: u32, comm: &str, discovery: &Discovery) -> String {
    let searched = &discovery.searched;
    let mut said = String::new();
    for unknown in &discovery.unknown {
        said += &format!("\n{unknown}");
    }
    if !said.is_empty() {
        return format!(
            "The LuaJIT in process {pid} ({comm}) cannot be read.{said}\n--no-lua draws its native stacks."
        );
    }
    let mut text = format!(
        "No LuaJIT was found in process {pid} ({comm}): none of its {} private writable mappings ({:.1} MiB) holds a \
         LuaJIT 2.1 VM.",
        searched.regions,
        searched.bytes as f64 / f64::from(1 << 20),
    );
    if searched.unreadable > 0 {
        text += &format!(" {} KiB of them could not be read.", searched.unreadable >> 10);
    }
    text + " Check that this is the process that runs Lua (a worker, not its supervisor); --no-lua draws native stacks of \
            any process."
}
