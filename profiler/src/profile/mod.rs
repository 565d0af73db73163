//! The model of a profile: interned frames and stacks with counts, and what is known about how they were taken.

pub mod view;
pub mod window;

use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;

/// What kind of code a frame is; decides its colour and the suffix that other tools know it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// A function of the kernel.
    Kernel,
    /// A function of the program or of a library.
    Native,
    /// A native function that the compiler inlined into the frame below it.
    NativeInlined,
    /// A Lua function run by LuaJIT's interpreter.
    Interpreted,
    /// A Lua function in which a compiled trace was entered.
    Compiled,
    /// A Lua function inlined in a compiled trace.
    Inlined,
    /// A builtin or C function called from Lua, under the name that Lua code uses for it.
    Builtin,
    /// Not code: says that frames are missing here, and why.
    Marker,
    /// Not code: what the stacks above it have in common, such as their thread.
    Group,
}

impl FrameKind {
    /// All of them, in the order of their numbers in a capture: new ones go to the end.
    pub const ALL: [FrameKind; 9] = [
        FrameKind::Kernel,
        FrameKind::Native,
        FrameKind::NativeInlined,
        FrameKind::Interpreted,
        FrameKind::Compiled,
        FrameKind::Inlined,
        FrameKind::Builtin,
        FrameKind::Marker,
        FrameKind::Group,
    ];

    /// A Lua function, however it is run.
    pub fn is_lua(self) -> bool {
        matches!(self, FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined)
    }
}

/// One frame as shown: equal frames are one box of a flame graph.
///
/// `name` holds what the target's memory or files say, unsanitised except that it is valid UTF-8; each format escapes
/// what it must.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Kind of code.
    pub kind: FrameKind,
    /// Name of the function: `handle`, `string.gsub`, `ngx_http_process_request`, `libc.so.6+0x1234`. For a Lua function
    /// without a known name, `None`: it is then shown as its place.
    pub name: Option<Arc<str>>,
    /// Source file of a Lua function as its chunk name says (without the leading `@` or `=`), or the module (file name
    /// of the ELF image) of a native one.
    pub file: Option<Arc<str>>,
    /// First line of the definition of a Lua function; 0 for a main chunk and for everything else.
    pub first_line: u32,
    /// Line being run, or 0 when unknown or not asked for.
    pub line: u32,
    /// Nothing is known about this frame but an address: it counts as unresolved.
    pub unresolved: bool,
}

/// Index of a frame in a [`Profile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(u32);

impl FrameId {
    /// Position of the frame in [`Profile::frames`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a thread was doing when a sample was taken, as its VM says (`vmstate`, `lj_obj.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum State {
    /// No VM is on its native stack.
    #[default]
    Outside,
    /// Bytecode in the interpreter, or a builtin.
    Interpreter,
    /// Machine code of a trace.
    Compiled,
    /// A C function called from Lua code.
    C,
    /// The garbage collector.
    Collector,
    /// On the way out of a trace.
    Exit,
    /// Recording, optimising or assembling a trace.
    Compiler,
}

impl State {
    /// All of them, in the order of their numbers in a capture: new ones go to the end.
    pub const ALL: [State; 7] =
        [State::Outside, State::Interpreter, State::Compiled, State::C, State::Collector, State::Exit, State::Compiler];

    /// Its name in words: `interpreter`.
    pub fn name(self) -> &'static str {
        match self {
            State::Outside => "outside Lua",
            State::Interpreter => "interpreter",
            State::Compiled => "compiled",
            State::C => "C function",
            State::Collector => "garbage collector",
            State::Exit => "trace exit",
            State::Compiler => "JIT compiler",
        }
    }
}

/// Where a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Origin {
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Address of the innermost VM on its native stack (`global_State`), or 0.
    pub vm: u64,
    /// What that VM was doing.
    pub state: State,
}

/// A stack from an origin, of which a [`Profile`] counts samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedId(u32);

/// One sample in the order of time.
#[derive(Debug, Clone, Copy)]
struct Tick {
    counted: CountedId,
    /// Milliseconds since the first one.
    time: u32,
}

/// Most samples whose time is kept: 32 MiB of them. What comes later is counted without.
const MOST_TICKS: usize = 1 << 22;

/// Samples of one stack from one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted<'a> {
    /// Where they were taken.
    pub origin: &'a Origin,
    /// The stack, root first.
    pub stack: &'a [FrameId],
    /// Its place among [`Profile::counted_samples`].
    pub place: usize,
    /// Their number.
    pub count: u64,
}

/// Frames, stacks and origins, each stored once, with the number of samples of each stack from each origin.
#[derive(Debug, Default)]
pub struct Profile {
    frames: IndexSet<Frame, FxBuildHasher>,
    stacks: IndexSet<Box<[FrameId]>, FxBuildHasher>,
    /// Frames of all of these together.
    stacked: usize,
    origins: IndexSet<Origin, FxBuildHasher>,
    /// By index of the origin and of the stack.
    counts: IndexMap<(u32, u32), u64, FxBuildHasher>,
    ticks: Vec<Tick>,
    /// Time of the first tick, in nanoseconds on the clock of [`add_at`](Profile::add_at).
    first: Option<u64>,
    /// Names of threads, by process and thread.
    pub threads: IndexMap<(u32, u32), String, FxBuildHasher>,
    /// What else is known of a process, by pid: names and values that go with each of its samples.
    pub labels: IndexMap<u32, Vec<(String, String)>, FxBuildHasher>,
    /// What is known about how the samples were taken.
    pub meta: Meta,
    /// What was counted while they were taken.
    pub counters: Counters,
}

/// How a profile was taken.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// The processes profiled, each with its pid and command name.
    pub processes: Vec<(u32, String)>,
    /// LuaJIT was looked for.
    pub lua: bool,
    /// What the VMs call themselves, each once: `LuaJIT 2.1.0-beta3`. Those that do not tell are not among them.
    pub luajit: Vec<String>,
    /// Samples per second and CPU that were asked for.
    pub frequency: u32,
    /// Name of the perf event that took the samples: `cycles` or `cpu-clock`.
    pub event: String,
    /// Seconds from the first moment of sampling to the last.
    pub seconds: f64,
    /// When sampling began, if that is known.
    pub started: Option<SystemTime>,
}

/// What happened to the samples and frames of a profile. Every sample that the kernel took is in exactly one of
/// `samples` and `lost`.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Samples that are in the profile.
    pub samples: u64,
    /// Samples that the probe took and could not deliver: the ring buffer was full.
    pub lost: u64,
    /// Samples in which a native or Lua stack was deeper than the probe's limits and was cut in the middle.
    pub truncated: u64,
    /// Samples with no Lua frame: the thread was not in Lua.
    pub outside_lua: u64,
    /// Frames of all samples together.
    pub frames: u64,
    /// Of `frames`, those about which nothing is known but an address.
    pub unresolved: u64,
    /// Why frames could not be resolved or a stack is not complete, with the number of samples or frames for each
    /// reason, as sentences.
    pub reasons: IndexMap<String, u64, FxBuildHasher>,
    /// The file names of programs and libraries that have no symbols for some of their functions, with the number of frames
    /// that have no name because of that.
    pub without_symbols: IndexMap<Arc<str>, u64, FxBuildHasher>,
    /// CPU time that the profiler itself used, in seconds, without the probe.
    pub own_cpu: f64,
}

impl Meta {
    fn absorb(&mut self, other: &Meta) {
        for process in &other.processes {
            if !self.processes.contains(process) {
                self.processes.push(process.clone());
            }
        }
        for version in &other.luajit {
            if !self.luajit.contains(version) {
                self.luajit.push(version.clone());
            }
        }
        if self.event.is_empty() {
            other.event.clone_into(&mut self.event);
        }
        if self.frequency == 0 {
            self.frequency = other.frequency;
        }
        self.lua |= other.lua;
        self.started = self.started.into_iter().chain(other.started).min();
        self.seconds = self.seconds.max(other.seconds);
    }
}

impl Counters {
    fn absorb(&mut self, other: &Counters) {
        let Counters { samples, lost, truncated, outside_lua, frames, unresolved, reasons, without_symbols, own_cpu } =
            other;
        self.samples += samples;
        self.lost += lost;
        self.truncated += truncated;
        self.outside_lua += outside_lua;
        self.frames += frames;
        self.unresolved += unresolved;
        self.own_cpu += own_cpu;
        for (reason, count) in reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        for (module, count) in without_symbols {
            *self.without_symbols.entry(Arc::clone(module)).or_default() += count;
        }
    }
}

impl Profile {
    /// Interns a frame.
    pub fn frame(&mut self, frame: Frame) -> FrameId {
        FrameId(self.frames.insert_full(frame).0 as u32)
    }

    /// The frame of an id that this profile gave out.
    ///
    /// # Panics
    /// When the id is of another profile.
    pub fn get(&self, id: FrameId) -> &Frame {
        &self.frames[id.index()]
    }

    /// Every distinct frame, in the order of [`FrameId::index`].
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Counts one more sample of a stack, root first, taken at a time, in nanoseconds on any one clock.
    pub fn add_at(&mut self, origin: Origin, stack: &[FrameId], time: u64) {
        let counted = self.add(origin, stack, 1);
        let first = *self.first.get_or_insert(time);
        self.tick(counted, Duration::from_nanos(time.saturating_sub(first)));
    }

    /// Says when one of the samples that [`add`](Profile::add) has counted was taken, since the first one.
    pub fn tick(&mut self, counted: CountedId, time: Duration) {
        if self.ticks.len() < MOST_TICKS {
            self.ticks.push(Tick { counted, time: u32::try_from(time.as_millis()).unwrap_or(u32::MAX) });
        }
    }

    /// Counts `count` more samples of a stack, root first.
    pub fn add(&mut self, origin: Origin, stack: &[FrameId], count: u64) -> CountedId {
        let origin = self.origins.insert_full(origin).0 as u32;
        let stack = match self.stacks.get_index_of(stack) {
            Some(known) => known,
            None => {
                self.stacked += stack.len();
                self.stacks.insert_full(stack.into()).0
            }
        };
        let entry = self.counts.entry((origin, stack as u32));
        let index = entry.index();
        let seen = entry.or_default();
        *seen = seen.saturating_add(count);
        CountedId(index as u32)
    }

    /// Adds the samples of another profile, without their times, and what was counted with them. Of how they were taken, processes and
    /// versions are added, and of all else the first one that tells holds; both are of the same stretch of time or of stretches that
    /// follow one another, so that who calls this knows how long it was.
    pub fn absorb(&mut self, other: &Profile) {
        let frames: Vec<FrameId> = other.frames().map(|frame| self.frame(frame.clone())).collect();
        let mut stack = Vec::new();
        for counted in other.counted_samples() {
            stack.clear();
            stack.extend(counted.stack.iter().map(|id| frames[id.index()]));
            self.add(*counted.origin, &stack, counted.count);
        }
        for (thread, name) in &other.threads {
            self.threads.entry(*thread).or_insert_with(|| name.clone());
        }
        for (pid, labels) in &other.labels {
            self.labels.entry(*pid).or_insert_with(|| labels.clone());
        }
        self.meta.absorb(&other.meta);
        self.counters.absorb(&other.counters);
    }

    /// About how many bytes its frames and stacks take.
    pub fn weight(&self) -> usize {
        // What an entry takes in its tables, with the strings of a frame, most of which it shares with others.
        const FRAME: usize = 160;
        const STACK: usize = 64;
        self.frames.len() * FRAME + self.counts.len() * STACK + self.stacked * size_of::<FrameId>()
    }

    /// Forgets every sample, with its frames, its stack and the name of its thread. How they were taken and what was counted
    /// stays.
    pub fn forget_samples(&mut self) {
        let (meta, counters) = (mem::take(&mut self.meta), mem::take(&mut self.counters));
        *self = Profile { meta, counters, ..Profile::default() };
    }

    /// Every distinct stack, root first, with its number of samples from all origins, in the order first seen.
    pub fn stacks(&self) -> impl ExactSizeIterator<Item = (&[FrameId], u64)> {
        let mut sums = vec![0_u64; self.stacks.len()];
        for ((_, stack), count) in &self.counts {
            let sum = &mut sums[*stack as usize];
            *sum = sum.saturating_add(*count);
        }
        self.stacks.iter().zip(sums).map(|(stack, count)| (&**stack, count))
    }

    /// The samples of each stack from each origin, in the order first seen.
    pub fn counted_samples(&self) -> impl ExactSizeIterator<Item = Counted<'_>> {
        self.counts.iter().enumerate().map(|(place, (key, count))| self.at(*key, place, *count))
    }

    /// The same samples with other stacks: `map` is given the new profile, for its frames, an origin, a stack, and an empty one to
    /// fill; where it stays empty, the samples are left out.
    pub fn mapped(&self, mut map: impl FnMut(&mut Profile, &Origin, &[FrameId], &mut Vec<FrameId>)) -> Profile {
        let mut shown = Profile {
            threads: self.threads.clone(),
            labels: self.labels.clone(),
            meta: self.meta.clone(),
            counters: self.counters.clone(),
            ..Profile::default()
        };
        let mut stack = Vec::new();
        let mut indexes = Vec::with_capacity(self.counts.len());
        for Counted { origin, stack: frames, count, .. } in self.counted_samples() {
            stack.clear();
            map(&mut shown, origin, frames, &mut stack);
            indexes.push((!stack.is_empty()).then(|| shown.add(*origin, &stack, count)));
        }
        let ticks = self.ticks.iter();
        shown.ticks = ticks
            .filter_map(|tick| Some(Tick { counted: indexes[tick.counted.0 as usize]?, time: tick.time }))
            .collect();
        shown
    }

    fn at(&self, (origin, stack): (u32, u32), place: usize, count: u64) -> Counted<'_> {
        Counted { origin: &self.origins[origin as usize], stack: &self.stacks[stack as usize], place, count }
    }

    /// Single samples in the order in which they were added, with the time since the first one, in milliseconds. Of the longest profiles only the
    /// first four million are known; of those that were read from a format without times none.
    pub fn timeline(&self) -> impl ExactSizeIterator<Item = (Duration, Counted<'_>)> {
        self.ticks.iter().map(|tick| {
            let place = tick.counted.0 as usize;
            let (key, _) = self.counts.get_index(place).expect("a tick is of something counted");
            (Duration::from_millis(tick.time.into()), self.at(*key, place, 1))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_forgotten_and_what_was_counted_is_not() {
        let mut profile = Profile::default();
        let name = Some("main".into());
        let main = Frame { kind: FrameKind::Native, name, file: None, first_line: 0, line: 0, unresolved: false };
        let id = profile.frame(main.clone());
        profile.add_at(Origin::default(), &[id], 5_000_000_000);
        profile.threads.insert((7, 7), "worker".to_owned());
        (profile.counters.samples, profile.meta.frequency) = (1, 99);
        profile.forget_samples();
        assert_eq!((profile.frames().len(), profile.stacks().len(), profile.timeline().len()), (0, 0, 0));
        assert!(profile.threads.is_empty());
        assert_eq!((profile.counters.samples, profile.meta.frequency), (1, 99));
        let id = profile.frame(main);
        profile.add_at(Origin::default(), &[id], 9_000_000_000);
        let times: Vec<Duration> = profile.timeline().map(|(time, _)| time).collect();
        assert_eq!((profile.counted_samples().len(), times), (1, vec![Duration::ZERO]));
    }
}
