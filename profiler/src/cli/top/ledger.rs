//! What has been counted up to now: in the last seconds, and since the start.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use luaflame::profile::Profile;
use luaflame::record::Progress;
use rustc_hash::FxHashMap;

use super::tally::Tally;

/// The window is moved on in so many steps.
const SLICES: u32 = 10;

/// Counts, from the samples of a recording that forgets them.
#[derive(Debug, Clone)]
pub struct Ledger {
    window: Duration,
    /// What makes up the window, oldest first, each with the time at which it begins.
    slices: VecDeque<(Duration, Tally)>,
    whole: Tally,
    /// When `whole` begins.
    since: Duration,
    /// Until when there is anything, since sampling began.
    now: Duration,
    /// Samples that were lost until then.
    lost: u64,
    /// Command names of processes that are sampled or are counted in `whole`.
    names: FxHashMap<u32, String>,
    /// Those that are sampled, by pid.
    alive: Vec<u32>,
}

/// Counts of a time.
#[derive(Debug, Clone)]
pub struct Span<'a> {
    pub tally: Cow<'a, Tally>,
    pub time: Duration,
}

impl Ledger {
    /// Nothing yet, to look back so far.
    pub fn new(window: Duration) -> Ledger {
        Ledger {
            window,
            slices: VecDeque::new(),
            whole: Tally::default(),
            since: Duration::ZERO,
            now: Duration::ZERO,
            lost: 0,
            names: FxHashMap::default(),
            alive: Vec::new(),
        }
    }

    /// Takes in the samples since the last time.
    pub fn observe(&mut self, progress: &Progress<'_>) {
        let tally = Tally { lost: progress.lost.saturating_sub(self.lost), ..Tally::of(progress.profile) };
        self.lost = progress.lost;
        self.alive = progress.processes.iter().map(|(pid, _)| *pid).collect();
        for (pid, name) in progress.processes {
            self.names.insert(*pid, (*name).to_owned());
        }
        self.add(&tally, progress.elapsed);
        self.names.retain(|pid, _| self.alive.binary_search(pid).is_ok() || self.whole.processes.contains_key(pid));
    }

    /// Takes in the rest of a recording that has ended, with every process.
    pub fn end(&mut self, rest: &Profile) {
        let tally = Tally { lost: rest.counters.lost.saturating_sub(self.lost), ..Tally::of(rest) };
        self.lost = rest.counters.lost;
        self.alive.clear();
        self.add(&tally, Duration::from_secs_f64(rest.meta.seconds).max(self.now));
    }

    /// Adds what was counted until `now`, since the last time.
    fn add(&mut self, tally: &Tally, now: Duration) {
        let length = self.window / SLICES;
        let begun = self.now;
        self.now = now;
        self.whole.add(tally);
        match self.slices.back_mut() {
            Some((start, slice)) if begun < *start + length => slice.add(tally),
            _ => self.slices.push_back((begun, tally.clone())),
        }
        // The oldest goes when the others reach back far enough.
        while self.slices.get(1).is_some_and(|(start, _)| *start + self.window <= now) {
            self.slices.pop_front();
        }
    }

    /// Begins anew: what was counted is gone.
    pub fn reset(&mut self) {
        self.slices.clear();
        self.whole = Tally::default();
        self.since = self.now;
    }

    /// What was counted in the last seconds: as many as were asked for, and up to a tenth more.
    pub fn recent(&self) -> Span<'static> {
        let mut tally = Tally::default();
        for (_, slice) in &self.slices {
            tally.add(slice);
        }
        let start = self.slices.front().map_or(self.now, |(start, _)| *start);
        Span { tally: Cow::Owned(tally), time: self.now - start }
    }

    /// What was counted since the start, or since it was begun anew.
    pub fn whole(&self) -> Span<'_> {
        Span { tally: Cow::Borrowed(&self.whole), time: self.now - self.since }
    }

    /// Since when sampling goes on.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// The processes that are sampled now, by pid.
    pub fn alive(&self) -> &[u32] {
        &self.alive
    }

    /// The command name of a process that is or was sampled.
    pub fn name(&self, pid: u32) -> &str {
        self.names.get(&pid).map_or("", |name| name)
    }
}

#[cfg(test)]
mod tests {
    use luaflame::profile::Origin;

    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// One sample in every tenth of a second.
    fn ledger(until: u64) -> Ledger {
        let mut ledger = Ledger::new(ms(10_000));
        run(&mut ledger, 0, until);
        ledger
    }

    fn run(ledger: &mut Ledger, from: u64, until: u64) {
        let mut profile = Profile::default();
        profile.add(Origin { pid: 7, ..Origin::default() }, &[], 1);
        for tenth in from / 100 + 1..=until / 100 {
            let progress = Progress {
                elapsed: ms(tenth * 100),
                samples: tenth,
                lost: tenth * 2,
                top: None,
                processes: &[(7, "nginx")],
                profile: &profile,
            };
            ledger.observe(&progress);
        }
    }

    #[test]
    fn the_window_moves_and_the_whole_grows() {
        let early = ledger(3_000);
        assert_eq!((early.recent().tally.all.count(), early.recent().time), (30, ms(3_000)));
        let late = ledger(25_000);
        let recent = late.recent();
        assert_eq!((recent.tally.all.count(), recent.time), (100, ms(10_000)));
        assert_eq!(recent.tally.lost, 200);
        assert_eq!((late.whole().tally.all.count(), late.whole().time), (250, ms(25_000)));
        let between = ledger(25_700).recent();
        assert_eq!((between.tally.all.count(), between.time), (107, ms(10_700)), "up to a tenth more");
        assert!(late.slices.len() <= SLICES as usize + 1);
    }

    #[test]
    fn an_idle_process_leaves_the_window() {
        let mut ledger = ledger(5_000);
        let profile = Profile::default();
        for tenth in 51..=300 {
            let elapsed = ms(tenth * 100);
            let progress = Progress { elapsed, samples: 50, lost: 100, top: None, processes: &[], profile: &profile };
            ledger.observe(&progress);
        }
        assert_eq!((ledger.recent().tally.all.count(), ledger.recent().time), (0, ms(10_000)));
        assert_eq!(ledger.whole().tally.all.count(), 50);
        assert_eq!((ledger.name(7), ledger.alive()), ("nginx", &[][..]), "it has ended and is still counted");
    }

    #[test]
    fn the_rest_is_counted_when_the_last_process_has_ended() {
        let mut ledger = ledger(5_000);
        let mut rest = Profile::default();
        rest.add(Origin { pid: 7, ..Origin::default() }, &[], 3);
        (rest.counters.lost, rest.meta.seconds) = (101, 5.05);
        ledger.end(&rest);
        let whole = ledger.whole();
        assert_eq!((whole.tally.all.count(), whole.tally.lost, whole.time), (53, 101, ms(5_050)));
        assert_eq!((ledger.name(7), ledger.alive()), ("nginx", &[][..]));
    }

    #[test]
    fn counting_can_begin_anew() {
        let mut ledger = ledger(5_000);
        ledger.reset();
        assert_eq!((ledger.recent().tally.all.count(), ledger.recent().time), (0, ms(0)));
        run(&mut ledger, 5_000, 6_000);
        assert_eq!((ledger.recent().tally.all.count(), ledger.recent().time), (10, ms(1_000)));
        assert_eq!((ledger.whole().tally.lost, ledger.whole().time), (20, ms(1_000)));
        assert_eq!(ledger.now(), ms(6_000));
    }
}
