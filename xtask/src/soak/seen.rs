//! Whether processes are sampled as long as they are at work: the CPU time that they use, as the kernel counts it, against the samples
//! that are seen of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use luaflame_tests::receivers::pyroscope::Taken;

/// Fewer samples than these can be missing by chance.
const TOLD: f64 = 10.0;
/// A process is not seen in a window in which there are fewer than this share of the samples that there should be.
const SEEN: f64 = 0.25;

/// A process, and the CPU time that it had used at moments: seconds since 1970, and seconds.
#[derive(Debug)]
struct Process {
    kind: &'static str,
    used: Vec<(f64, f64)>,
}

/// Processes at work, and samples of them.
#[derive(Debug, Default)]
pub struct Seen {
    processes: BTreeMap<u32, Process>,
    looked: f64,
    /// When windows have begun, in nanoseconds since 1970.
    windows: BTreeSet<i64>,
    /// Samples by process and window.
    samples: BTreeMap<(u32, i64), i64>,
}

/// What became of the processes of a kind.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sum {
    /// Processes that have worked long enough to be told.
    pub processes: usize,
    /// Of these, those of which there is no sample at all.
    pub never: usize,
    /// Samples that there should be, by the CPU time used.
    pub expected: f64,
    /// Samples that there are.
    pub samples: f64,
    /// The longest time that one was at work and not seen, in seconds.
    pub longest: f64,
    /// How much of their first second they were not seen, in the mean, in seconds.
    pub first: f64,
}

impl Seen {
    /// Looks at how much CPU time processes have used.
    pub fn look(&mut self, kind: &'static str, pids: &[u32]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        for pid in pids {
            let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
            let Some(used) = text.split_whitespace().next().and_then(|used| used.parse::<f64>().ok()) else { continue };
            let since = self.looked.max(now - 0.2);
            let process = self.processes.entry(*pid).or_insert_with(|| Process { kind, used: vec![(since, 0.0)] });
            process.used.push((now, used / 1e9));
        }
    }

    /// Those who are looked at have been looked at.
    pub fn looked(&mut self) {
        self.looked = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    }

    /// Takes in profiles, each of one window.
    pub fn take(&mut self, profiles: &[Taken]) {
        for taken in profiles {
            self.windows.insert(taken.time_nanos);
            let Some(pid) = taken.labels.get("pid").and_then(|pid| pid.parse().ok()) else { continue };
            *self.samples.entry((pid, taken.time_nanos)).or_default() += samples(taken);
        }
    }

    /// What became of the processes of a kind, of which so many samples should be taken in a second of CPU time.
    pub fn sum(&self, kind: &str, frequency: f64) -> Sum {
        let mut sum = Sum::default();
        let starts: Vec<i64> = self.windows.iter().copied().collect();
        for (pid, process) in self.processes.iter().filter(|(_, process)| process.kind == kind) {
            let (mut expected, mut samples, mut unseen, mut first, mut lived) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for window in starts.windows(2) {
                let (from, to) = (window[0] as f64 / 1e9, window[1] as f64 / 1e9);
                let (born, last) = (process.used[0].0, process.used[process.used.len() - 1].0);
                let overlap = to.min(last) - from.max(born);
                if overlap <= 0.0 {
                    continue;
                }
                let due = (process.at(to) - process.at(from)) * frequency;
                let got = self.samples.get(&(*pid, window[0])).copied().unwrap_or_default() as f64;
                (expected, samples) = (expected + due, samples + got);
                let missing = overlap * (1.0 - (got / due.max(1.0)).min(1.0));
                if lived < 1.0 && due >= TOLD {
                    first += missing;
                }
                lived += overlap;
                if due < TOLD {
                    // Nothing is known of this one.
                } else if got < due * SEEN {
                    unseen += overlap;
                } else {
                    // It was seen from some moment of this window on, perhaps.
                    if unseen > 0.0 {
                        sum.longest = sum.longest.max(unseen + missing);
                    }
                    unseen = 0.0;
                }
                sum.longest = sum.longest.max(unseen);
            }
            if expected < TOLD {
                continue;
            }
            sum.processes += 1;
            sum.never += usize::from(samples == 0.0);
            sum.expected += expected;
            sum.samples += samples;
            sum.first += first;
        }
        sum.first /= sum.processes as f64;
        sum
    }
}

impl Process {
    /// The CPU time that it had used at a moment.
    fn at(&self, moment: f64) -> f64 {
        let next = self.used.partition_point(|(at, _)| *at < moment);
        let Some((to, after)) = self.used.get(next) else { return self.used[self.used.len() - 1].1 };
        let Some((from, before)) = next.checked_sub(1).map(|before| self.used[before]) else { return 0.0 };
        before + (after - before) * (moment - from) / (to - from)
    }
}

/// How many samples a profile is of.
pub fn samples(taken: &Taken) -> i64 {
    let counts = taken.types.iter().position(|kind| kind == "samples:count").unwrap_or(0);
    taken.samples.iter().filter_map(|sample| sample.values.get(counts)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use luaflame_tests::receivers::pyroscope::Sampled;

    /// A process that is at work from second 100 to 106, and how many samples there are of it in each second from 99 on.
    fn seen(counts: &[i64]) -> Sum {
        let used = (0..=60).map(|tenth| (100.0 + f64::from(tenth) / 10.0, f64::from(tenth) / 20.0)).collect();
        let mut seen = Seen::default();
        seen.processes.insert(7, Process { kind: "worker", used });
        for (second, count) in (99..).zip(counts) {
            let labels = BTreeMap::from([("pid".to_owned(), "7".to_owned())]);
            let samples = vec![Sampled { stack: Vec::new(), values: vec![*count] }];
            let (tenant, types) = (String::new(), vec!["samples:count".to_owned()]);
            seen.take(&[Taken { tenant, labels, time_nanos: second * 1_000_000_000, types, samples }]);
        }
        seen.sum("worker", 200.0)
    }

    #[test]
    fn what_is_not_seen_is_told() {
        let all = seen(&[0, 100, 100, 100, 100, 100, 100, 0]);
        assert_eq!((all.processes, all.never, all.longest), (1, 0, 0.0), "{all:?}");
        assert!((all.expected - 600.0).abs() < 1e-6 && all.samples == 600.0 && all.first < 1e-6, "{all:?}");
        let late = seen(&[0, 0, 40, 100, 100, 100, 100, 0]);
        assert!((late.longest - 1.6).abs() < 1e-6 && (late.first - 1.0).abs() < 1e-6, "{late:?}");
        let gap = seen(&[0, 100, 100, 0, 0, 100, 100, 0]);
        assert!((gap.longest - 2.0).abs() < 1e-6, "{gap:?}");
        assert_eq!(seen(&[0; 8]).never, 1);
    }
}
