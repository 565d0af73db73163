//! Counts of some time: by process and state of the VM, and by function.

use std::hash::Hash;
use std::sync::Arc;

use luaflame::format::functions::Class;
use luaflame::format::label;
use luaflame::profile::{Counted, Frame, FrameKind, Profile, State};
use rustc_hash::FxHashMap;

/// Most functions that are counted apart, of all processes together. A program that makes functions all the time has no end of them.
const MOST_FUNCTIONS: usize = 10_000;
/// Most processes that are counted apart.
const MOST_PROCESSES: usize = 1_000;

/// How a Lua function can be run, in the order of [`Counts::kinds`].
pub const LUA_KINDS: [FrameKind; 3] = [FrameKind::Interpreted, FrameKind::Compiled, FrameKind::Inlined];

/// A function as shown, in text that is fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Function {
    pub name: Arc<str>,
    /// File and line of a Lua function, else the program, library or module. May be empty.
    pub place: Arc<str>,
    pub class: Class,
}

impl Function {
    fn of(frame: &Frame) -> Function {
        Function { name: label::name(frame).into(), place: label::place(frame).into(), class: Class::of(frame.kind) }
    }
}

/// Samples of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// With it as the leaf.
    pub own: u64,
    /// With it as the leaf of what `luaflame --lua-only` draws: what it calls of native code counts for it.
    pub own_in_lua: u64,
    /// With it anywhere, once for each sample.
    pub total: u64,
    /// Those of `total` in which it was run in each of the [`LUA_KINDS`], where it is nearest to the leaf.
    pub kinds: [u64; 3],
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.own += other.own;
        self.own_in_lua += other.own_in_lua;
        self.total += other.total;
        for (sum, count) in self.kinds.iter_mut().zip(other.kinds) {
            *sum += count;
        }
    }
}

/// Samples of one process, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Samples {
    /// By [`State`], in the order of [`State::ALL`].
    pub states: [u64; State::ALL.len()],
    /// Frames of all of them together.
    pub frames: u64,
    /// Of those, frames without a name.
    pub unresolved: u64,
}

impl Samples {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.states.iter().sum()
    }

    /// Those in a state.
    pub fn in_state(&self, state: State) -> u64 {
        self.states[index(state)]
    }

    fn add(&mut self, other: &Samples) {
        for (sum, count) in self.states.iter_mut().zip(other.states) {
            *sum += count;
        }
        self.frames += other.frames;
        self.unresolved += other.unresolved;
    }
}

fn index(state: State) -> usize {
    State::ALL.iter().position(|known| *known == state).unwrap_or_default()
}

/// What was counted in some time.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// Of all processes.
    pub all: Samples,
    /// Of each process.
    pub processes: FxHashMap<u32, Samples>,
    /// Of each function of each process.
    pub functions: FxHashMap<(u32, Function), Counts>,
    /// Samples that were lost.
    pub lost: u64,
    /// Functions that were met so seldom that they have been let go of.
    pub dropped: bool,
}

impl Tally {
    /// The samples of a profile.
    pub fn of(profile: &Profile) -> Tally {
        let mut tally = Tally::default();
        let mut functions: FxHashMap<Function, usize> = FxHashMap::default();
        let of_frame: Vec<usize> = profile
            .frames()
            .map(|frame| {
                let next = functions.len();
                *functions.entry(Function::of(frame)).or_insert(next)
            })
            .collect();
        let mut counts: FxHashMap<(u32, usize), Counts> = FxHashMap::default();
        // The last stack in which a function was counted, from 1: recursion counts once.
        let mut counted_in = vec![0; functions.len()];
        for (number, Counted { origin, stack, count, .. }) in profile.counted_samples().enumerate() {
            let mut samples = Samples::default();
            samples.states[index(origin.state)] = count;
            samples.frames = count * stack.len() as u64;
            let kind = |id| profile.get(id).kind;
            let leaf_in_lua = stack
                .iter()
                .any(|id| in_lua_land(kind(*id)))
                .then(|| stack.iter().rposition(|id| in_lua_land(kind(*id)) || kind(*id) == FrameKind::Marker))
                .flatten();
            for (depth, id) in stack.iter().enumerate().rev() {
                let frame = profile.get(*id);
                samples.unresolved += if frame.unresolved { count } else { 0 };
                let function = of_frame[id.index()];
                let counts = counts.entry((origin.pid, function)).or_default();
                counts.own += if depth + 1 == stack.len() { count } else { 0 };
                counts.own_in_lua += if Some(depth) == leaf_in_lua { count } else { 0 };
                if counted_in[function] != number + 1 {
                    counted_in[function] = number + 1;
                    counts.total += count;
                    if let Some(kind) = LUA_KINDS.iter().position(|kind| *kind == frame.kind) {
                        counts.kinds[kind] += count;
                    }
                }
            }
            tally.all.add(&samples);
            tally.processes.entry(origin.pid).or_default().add(&samples);
        }
        let mut by_number: Vec<Option<Function>> = vec![None; functions.len()];
        for (function, number) in functions {
            by_number[number] = Some(function);
        }
        let counts = counts.into_iter();
        tally.functions =
            counts.filter_map(|((pid, number), counts)| Some(((pid, by_number[number].clone()?), counts))).collect();
        tally
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Tally) {
        self.all.add(&other.all);
        self.lost += other.lost;
        self.dropped |= other.dropped;
        for (pid, samples) in &other.processes {
            self.processes.entry(*pid).or_default().add(samples);
        }
        for (key, counts) in &other.functions {
            match self.functions.get_mut(key) {
                Some(sum) => sum.add(counts),
                None => {
                    self.functions.insert(key.clone(), *counts);
                }
            }
        }
        self.dropped |= keep_most(&mut self.functions, MOST_FUNCTIONS, |counts| counts.total);
        keep_most(&mut self.processes, MOST_PROCESSES, Samples::count);
    }
}

fn in_lua_land(kind: FrameKind) -> bool {
    kind.is_lua() || kind == FrameKind::Builtin
}

/// When there are twice as many as `most`, lets go of all but the `most` that weigh most. Whether it did.
fn keep_most<K: Clone + Eq + Hash, V>(map: &mut FxHashMap<K, V>, most: usize, weight: impl Fn(&V) -> u64) -> bool {
    if map.len() < 2 * most {
        return false;
    }
    let mut weights: Vec<u64> = map.values().map(&weight).collect();
    let (_, least, _) = weights.select_nth_unstable_by(most, |one, two| two.cmp(one));
    let least = *least;
    // Those that weigh as little as the first one left out go with it, so that no chance decides.
    map.retain(|_, value| weight(value) > least);
    true
}

#[cfg(test)]
mod tests {
    use luaflame::profile::Origin;

    use super::*;

    fn frame(kind: FrameKind, name: &str) -> Frame {
        let file = kind.is_lua().then(|| "a.lua".into());
        Frame { kind, name: Some(name.into()), file, first_line: 3, line: 0, unresolved: false }
    }

    fn counts(tally: &Tally, pid: u32, name: &str) -> Counts {
        let mut found = tally.functions.iter().filter(|((of, function), _)| *of == pid && &*function.name == name);
        let (_, counts) = found.next().expect("it was counted");
        assert!(found.next().is_none(), "{name} is there twice");
        *counts
    }

    #[test]
    fn a_function_counts_once_for_each_sample_however_it_is_run() {
        let mut profile = Profile::default();
        let main = profile.frame(frame(FrameKind::Native, "main"));
        let interpreted = profile.frame(Frame { line: 4, ..frame(FrameKind::Interpreted, "f") });
        let compiled = profile.frame(Frame { line: 5, ..frame(FrameKind::Compiled, "f") });
        let copy = profile.frame(Frame { unresolved: true, ..frame(FrameKind::Native, "memcpy") });
        let origin = Origin { pid: 7, tid: 8, vm: 1, state: State::Interpreter };
        profile.add(origin, &[main, interpreted, compiled], 3);
        profile.add(origin, &[main, interpreted, copy], 2);
        profile.add(Origin { pid: 9, state: State::Outside, ..origin }, &[main, copy], 1);
        let tally = Tally::of(&profile);
        let f = Counts { own: 3, own_in_lua: 5, total: 5, kinds: [2, 3, 0] };
        assert_eq!(counts(&tally, 7, "f"), f);
        assert_eq!(counts(&tally, 7, "memcpy"), Counts { own: 2, total: 2, ..Counts::default() });
        assert_eq!(counts(&tally, 9, "memcpy"), Counts { own: 1, total: 1, ..Counts::default() });
        assert_eq!((tally.all.count(), tally.all.frames, tally.all.unresolved), (6, 17, 3));
        assert_eq!(tally.processes[&7].in_state(State::Interpreter), 5);
        assert_eq!(tally.processes[&9].in_state(State::Outside), 1);

        let mut twice = tally.clone();
        twice.add(&tally);
        assert_eq!((twice.all.count(), counts(&twice, 7, "f").kinds), (12, [4, 6, 0]));
    }

    #[test]
    fn a_program_that_makes_functions_without_end_takes_no_memory_without_end() {
        let mut sum = Tally::default();
        for round in 0..40 {
            let mut profile = Profile::default();
            let hot = profile.frame(frame(FrameKind::Interpreted, "hot"));
            for number in 0..1_000 {
                let made = profile.frame(frame(FrameKind::Interpreted, &format!("made {round} {number}")));
                let origin = Origin { pid: round * 1_000 + number, ..Origin::default() };
                profile.add(Origin { pid: 1, ..origin }, &[hot, made], 1);
                profile.add(origin, &[hot], 1);
            }
            sum.add(&Tally::of(&profile));
        }
        assert!(sum.dropped && sum.functions.len() < 2 * MOST_FUNCTIONS, "{}", sum.functions.len());
        assert!(sum.processes.len() < 2 * MOST_PROCESSES, "{}", sum.processes.len());
        assert_eq!(sum.all.count(), 80_000);
        assert_eq!(counts(&sum, 1, "hot").total, 40_001);
    }
}
