//! A summary to read: what took the time, where, and what is not known, in lines of at most 100 columns.

use std::io::{self, Write};

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::format::functions::{Class, Samples, functions};
use crate::format::label::printable;
use crate::format::threads::NAME_LIMIT;
use crate::profile::Profile;
use crate::profile::view::Lines;

/// Longest line.
const WIDTH: usize = 100;
/// Most lines of a table of functions, of threads, and of reasons.
const FUNCTIONS_LIMIT: usize = 40;
const THREADS_LIMIT: usize = 20;
const REASONS_LIMIT: usize = 20;

/// Writes a summary under this title.
///
/// # Errors
/// Those of `writer`.
pub fn write(profile: &Profile, lines: Lines, title: &str, writer: &mut dyn Write) -> io::Result<()> {
    let total = profile.counted_samples().fold(0, |sum: u64, counted| sum.saturating_add(counted.count));
    let mut text = Text { lines: Vec::new(), total };
    text.heading(profile, title);
    text.states(profile);
    text.threads(profile);
    text.functions(profile, lines);
    text.missing(profile);
    for line in text.lines {
        writeln!(writer, "{line}")?;
    }
    Ok(())
}

struct Text {
    lines: Vec<String>,
    /// Samples of the profile.
    total: u64,
}

impl Text {
    fn push(&mut self, line: &str) {
        self.lines.push(fitted(line.trim_end(), WIDTH));
    }

    fn percent(&self, part: u64) -> String {
        format!("{:.1} %", percent(part, self.total))
    }

    fn heading(&mut self, profile: &Profile, title: &str) {
        let (meta, counters) = (&profile.meta, &profile.counters);
        self.push(&printable(title, WIDTH));
        let processes =
            meta.processes.iter().take(4).map(|(pid, name)| format!("{} {pid}", printable(name, NAME_LIMIT)));
        let mut processes: Vec<String> = processes.collect();
        if let Some(more @ 1..) = meta.processes.len().checked_sub(4) {
            processes.push(format!("{more} more"));
        }
        if !processes.is_empty() {
            self.push(&processes.join(", "));
        }
        // Stacks of other tools do not say how they were taken.
        if meta.frequency > 0 {
            let event = printable(&meta.event, NAME_LIMIT);
            let versions: String =
                meta.luajit.iter().take(4).map(|name| format!(", {}", printable(name, NAME_LIMIT))).collect();
            self.push(&format!("{} Hz of {event}, {:.1} s{versions}", meta.frequency, meta.seconds.min(1e9)));
        }
        self.push(&format!(
            "{} samples, {} lost, {} truncated, {} outside Lua",
            counters.samples, counters.lost, counters.truncated, counters.outside_lua
        ));
        let unresolved = percent(counters.unresolved, counters.frames);
        self.push(&format!("{} frames, {unresolved:.1} % of them unresolved", counters.frames));
        if self.total < counters.samples {
            self.push(&format!("{} of the samples are not in what follows", counters.samples - self.total));
        }
    }

    fn states(&mut self, profile: &Profile) {
        let mut states: IndexMap<&str, u64, FxBuildHasher> = IndexMap::default();
        for counted in profile.counted_samples() {
            add(states.entry(counted.origin.state.name()).or_default(), counted.count);
        }
        self.push("");
        self.push("STATE OF THE VM");
        self.push("  samples    share");
        for (state, count) in descending(states) {
            self.push(&format!("{count:>9} {:>8}  {state}", self.percent(count)));
        }
    }

    fn threads(&mut self, profile: &Profile) {
        let mut threads: IndexMap<(u32, u32), u64, FxBuildHasher> = IndexMap::default();
        for counted in profile.counted_samples() {
            add(threads.entry((counted.origin.pid, counted.origin.tid)).or_default(), counted.count);
        }
        self.push("");
        self.push("THREADS");
        self.push("  samples    share      pid      tid  name");
        let threads = descending(threads);
        for &((pid, tid), count) in threads.iter().take(THREADS_LIMIT) {
            let name = profile.threads.get(&(pid, tid)).map_or("", |name| name);
            let name = printable(name, NAME_LIMIT);
            self.push(&format!("{count:>9} {:>8} {pid:>8} {tid:>8}  {name}", self.percent(count)));
        }
        self.more(threads.len(), THREADS_LIMIT, "threads");
    }

    fn functions(&mut self, profile: &Profile, lines: Lines) {
        let mut functions: Vec<((String, Class), Samples)> = functions(profile, lines).into_iter().collect();
        functions.sort_by(|(one, a), (two, b)| (b.own, b.total).cmp(&(a.own, a.total)).then(one.0.cmp(&two.0)));
        self.table("FUNCTIONS BY OWN TIME", functions.iter().filter(|(_, function)| function.own > 0));
        functions.sort_by(|(one, a), (two, b)| (b.total, b.own).cmp(&(a.total, a.own)).then(one.0.cmp(&two.0)));
        self.table("FUNCTIONS BY TOTAL TIME", functions.iter());
    }

    fn table<'a>(&mut self, title: &str, functions: impl Iterator<Item = &'a ((String, Class), Samples)>) {
        self.push("");
        self.push(title);
        self.push("      own    total  kind     function");
        let mut number = 0;
        for ((name, class), function) in functions {
            if number < FUNCTIONS_LIMIT {
                let (own, total) = (self.percent(function.own), self.percent(function.total));
                let line = format!("{own:>9} {total:>8}  {:<7}  ", class.name());
                let name = fitted(name, WIDTH - line.len());
                self.push(&(line + &name));
            }
            number += 1;
        }
        self.more(number, FUNCTIONS_LIMIT, "functions");
    }

    fn missing(&mut self, profile: &Profile) {
        let counters = &profile.counters;
        let reasons = counters.reasons.iter().map(|(reason, count)| (reason.clone(), *count));
        let nameless = counters.without_symbols.iter();
        let nameless =
            nameless.map(|(program, count)| (format!("native functions of {program} have no symbols"), *count));
        let reasons = descending(reasons.chain(nameless));
        if reasons.is_empty() {
            return;
        }
        self.push("");
        self.push("WHAT IS MISSING");
        for (reason, count) in reasons.iter().take(REASONS_LIMIT) {
            let line = format!("{count:>9} x ");
            let reason = fitted(&printable(reason, WIDTH), WIDTH - line.len());
            self.push(&(line + &reason));
        }
        self.more(reasons.len(), REASONS_LIMIT, "reasons");
    }

    fn more(&mut self, number: usize, limit: usize, what: &str) {
        if let Some(more @ 1..) = number.checked_sub(limit) {
            self.push(&format!("          and {more} more {what}"));
        }
    }
}

fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// The most first, and equals by what they are.
fn descending<T: Ord>(counts: impl IntoIterator<Item = (T, u64)>) -> Vec<(T, u64)> {
    let mut counts: Vec<(T, u64)> = counts.into_iter().collect();
    counts.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(&two.0)));
    counts
}

/// A text that is fit for a terminal, shortened to this many characters.
fn fitted(text: &str, width: usize) -> String {
    if text.chars().count() <= width { text.to_owned() } else { printable(text, width) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile::Origin;

    fn written(profile: &Profile) -> String {
        let mut bytes = Vec::new();
        write(profile, Lines::Function, "On-CPU summary", &mut bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH && !line.contains(char::is_control), "{line:?}");
        }
        text
    }

    #[test]
    fn the_example_is_what_it_was() {
        golden("example.txt", written(&example::profile()).as_bytes());
    }

    #[test]
    fn hostile_names_and_an_empty_profile_fit_the_lines() {
        written(&example::hostile());
        written(&Profile::default());
        let mut profile = example::profile();
        profile.add(Origin::default(), &[], u64::MAX);
        written(&profile);
    }

    #[test]
    fn a_recursive_function_counts_once_and_a_function_is_one_however_it_is_run() {
        let mut profile = example::profile();
        let handle = profile.frames().position(|frame| frame.name.as_deref() == Some("handle")).unwrap();
        let stack: Vec<_> = profile.stacks().next().unwrap().0.to_vec();
        let handle = stack.into_iter().find(|id| id.index() == handle).unwrap();
        profile.add(Origin::default(), &[handle; 5], 3);
        let text = written(&profile);
        assert!(text.contains("   60.0 %   90.0 %  Lua      handle (/srv/app.lua:12)"), "{text}");
    }
}
