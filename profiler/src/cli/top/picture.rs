//! What is to be seen, as plain data: what the user has chosen of what was counted, sorted.

use std::cmp::Reverse;
use std::time::Duration;

use luaflame::format::functions::Class;
use luaflame::format::label::printable;
use rustc_hash::FxHashMap;

use super::filter::Filter;
use super::ledger::{Ledger, Span};
use super::tally::{Counts, Function, Samples};

/// Most characters of a process's name; the kernel keeps 15.
const NAME_LIMIT: usize = 32;

/// What functions are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    #[default]
    Own,
    Total,
    Name,
}

/// What the user has chosen to see.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    pub sort: Sort,
    /// Only what Lua code is and calls by name: native code that it calls counts for it.
    pub lua_only: bool,
    /// All since the start, and not the last seconds.
    pub whole: bool,
    /// This process only.
    pub process: Option<u32>,
    pub filter: Filter,
}

/// A process, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    /// None is all of them.
    pub pid: Option<u32>,
    /// Fit for a terminal.
    pub name: String,
    pub samples: Samples,
    pub ended: bool,
}

/// A function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub function: Function,
    pub counts: Counts,
    /// Its own samples, as the choice has it.
    pub own: u64,
}

/// What is to be seen.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Since when sampling goes on.
    pub running: Duration,
    /// Samples since then, or since counting was begun anew, of all processes.
    pub samples: u64,
    /// Samples that were lost in the same time.
    pub lost: u64,
    /// How long the time is that everything below was counted in.
    pub time: Duration,
    /// Of the processes that were chosen.
    pub chosen: Samples,
    /// By pid; ahead of several of them a row for all.
    pub processes: Vec<ProcessRow>,
    pub rows: Vec<Row>,
    /// How many functions there are, shown or not.
    pub functions: usize,
    /// Functions that were seldom seen are not in it.
    pub dropped: bool,
}

impl Picture {
    /// What is chosen of what was counted.
    pub fn of(ledger: &Ledger, choices: &Choices) -> Picture {
        let whole = ledger.whole();
        let (samples, lost) = (whole.tally.all.count(), whole.tally.lost);
        let Span { tally, time } = if choices.whole { whole } else { ledger.recent() };

        let mut sums: FxHashMap<&Function, Counts> = FxHashMap::default();
        for ((pid, function), counts) in &tally.functions {
            if choices.process.is_none_or(|chosen| chosen == *pid) {
                sums.entry(function).or_default().add(counts);
            }
        }
        sums.retain(|function, counts| !choices.lua_only || is_of_lua(function.class, counts));
        let functions = sums.len();
        let own = |counts: &Counts| if choices.lua_only { counts.own_in_lua } else { counts.own };
        let mut rows: Vec<Row> = sums
            .into_iter()
            .filter(|(function, _)| choices.filter.shows(function))
            .map(|(function, counts)| Row { function: function.clone(), counts, own: own(&counts) })
            .collect();
        sort(&mut rows, choices.sort);

        let none = Samples::default();
        let chosen = match choices.process {
            Some(pid) => tally.processes.get(&pid).unwrap_or(&none),
            None => &tally.all,
        };
        let chosen = chosen.clone();
        let mut pids: Vec<u32> = ledger.alive().to_vec();
        pids.extend(tally.processes.keys().copied().chain(choices.process));
        pids.sort_unstable();
        pids.dedup();
        let mut processes = Vec::new();
        if pids.len() > 1 {
            let name = "all".to_owned();
            processes.push(ProcessRow { pid: None, name, samples: tally.all.clone(), ended: false });
        }
        processes.extend(pids.into_iter().map(|pid| ProcessRow {
            pid: Some(pid),
            name: printable(ledger.name(pid), NAME_LIMIT),
            samples: tally.processes.get(&pid).cloned().unwrap_or_default(),
            ended: ledger.alive().binary_search(&pid).is_err(),
        }));
        Picture {
            running: ledger.now(),
            samples,
            lost,
            time,
            chosen,
            processes,
            rows,
            functions,
            dropped: tally.dropped,
        }
    }
}

/// Frames that are missing count where some of Lua are there.
fn is_of_lua(class: Class, counts: &Counts) -> bool {
    match class {
        Class::Lua | Class::Builtin => true,
        Class::Missing => counts.own_in_lua > 0,
        Class::Native | Class::Kernel | Class::Group => false,
    }
}

/// Equals are in the order of the other numbers and of their names, so that they stay where they are from one picture to the next.
fn sort(rows: &mut [Row], by: Sort) {
    match by {
        Sort::Own => rows.sort_by_cached_key(|row| (Reverse((row.own, row.counts.total)), row.function.clone())),
        Sort::Total => rows.sort_by_cached_key(|row| (Reverse((row.counts.total, row.own)), row.function.clone())),
        Sort::Name => rows.sort_by_cached_key(|row| (row.function.name.to_lowercase(), row.function.clone())),
    }
}

#[cfg(test)]
mod tests {
    use luaflame::profile::{Frame, FrameKind, Origin, Profile, State};
    use luaflame::record::Progress;

    use super::*;

    fn ledger() -> Ledger {
        let mut profile = Profile::default();
        let mut frame = |kind: FrameKind, name: &str| {
            let file = kind.is_lua().then(|| "a.lua".into());
            profile.frame(Frame { kind, name: Some(name.into()), file, first_line: 3, line: 0, unresolved: false })
        };
        let (main, copy) = (frame(FrameKind::Native, "main"), frame(FrameKind::Native, "memcpy"));
        let (chunk, zip) = (frame(FrameKind::Interpreted, "Chunk"), frame(FrameKind::Compiled, "zip"));
        let origin = Origin { pid: 7, tid: 7, vm: 1, state: State::Compiled };
        profile.add(origin, &[main, chunk, zip], 4);
        profile.add(origin, &[main, chunk, zip, copy], 5);
        profile.add(Origin { pid: 9, ..origin }, &[main, chunk], 1);
        profile.add(Origin { pid: 9, state: State::Outside, ..origin }, &[main], 2);
        let mut ledger = Ledger::new(Duration::from_secs(10));
        ledger.observe(&Progress {
            elapsed: Duration::from_secs(1),
            samples: 12,
            lost: 3,
            top: None,
            processes: &[(7, "ngi\u{1b}nx"), (8, "idle")],
            profile: &profile,
        });
        ledger
    }

    fn seen(choices: &Choices) -> Vec<(String, u64, u64)> {
        let picture = Picture::of(&ledger(), choices);
        picture.rows.iter().map(|row| (row.function.name.to_string(), row.own, row.counts.total)).collect()
    }

    fn rows(expected: &[(&str, u64, u64)]) -> Vec<(String, u64, u64)> {
        expected.iter().map(|(name, own, total)| ((*name).to_owned(), *own, *total)).collect()
    }

    #[test]
    fn functions_are_sorted_by_self_total_or_name() {
        let by = |sort| seen(&Choices { sort, ..Choices::default() });
        let own = [("memcpy", 5, 5), ("zip", 4, 9), ("main", 2, 12), ("Chunk", 1, 10)];
        assert_eq!(by(Sort::Own), rows(&own));
        let total = [("main", 2, 12), ("Chunk", 1, 10), ("zip", 4, 9), ("memcpy", 5, 5)];
        assert_eq!(by(Sort::Total), rows(&total));
        let name = [("Chunk", 1, 10), ("main", 2, 12), ("memcpy", 5, 5), ("zip", 4, 9)];
        assert_eq!(by(Sort::Name), rows(&name));
    }

    #[test]
    fn of_lua_only_native_code_counts_for_its_caller() {
        let lua_only = Choices { lua_only: true, ..Choices::default() };
        assert_eq!(seen(&lua_only), rows(&[("zip", 9, 9), ("Chunk", 1, 10)]));
    }

    #[test]
    fn a_filter_hides_and_changes_no_number() {
        let mut choices = Choices::default();
        "ZIP|main".chars().for_each(|typed| choices.filter.push(typed));
        assert_eq!(seen(&choices), rows(&[("zip", 4, 9), ("main", 2, 12)]));
        assert_eq!(Picture::of(&ledger(), &choices).functions, 4);
    }

    #[test]
    fn one_process_can_be_looked_at() {
        let choices = Choices { process: Some(9), ..Choices::default() };
        assert_eq!(seen(&choices), rows(&[("main", 2, 3), ("Chunk", 1, 1)]));
        let picture = Picture::of(&ledger(), &choices);
        assert_eq!((picture.chosen.count(), picture.samples, picture.lost), (3, 12, 3));
        let named: Vec<_> =
            picture.processes.iter().map(|row| (row.pid, &*row.name, row.samples.count(), row.ended)).collect();
        let expected = [
            (None, "all", 12, false),
            (Some(7), "ngi\\u{1b}nx", 9, false),
            (Some(8), "idle", 0, false),
            (Some(9), "", 3, true),
        ];
        assert_eq!(named, expected);
    }
}
