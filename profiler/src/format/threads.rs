//! The samples of a profile by thread and in the order of time, for formats that show time.

use std::time::Duration;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::format::label::printable;
use crate::profile::{Counted, FrameId, Profile};

/// Most characters of the name of a thread or a process; the kernel keeps 15.
pub(super) const NAME_LIMIT: usize = 32;

/// One thread and its samples.
pub(super) struct Thread<'a> {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// In the order of time, if that is known.
    pub(super) samples: Vec<Sample<'a>>,
}

/// Samples of one stack at one time.
pub(super) struct Sample<'a> {
    /// Since the first sample of the profile, if that is known.
    pub(super) time: Option<Duration>,
    /// Root first.
    pub(super) stack: &'a [FrameId],
    /// Their number.
    pub(super) count: u64,
}

impl<'a> Thread<'a> {
    /// The threads of a profile, in the order first seen. Where the times of all its samples are known, each is one;
    /// otherwise all samples of a stack are.
    pub(super) fn all(profile: &'a Profile) -> Vec<Thread<'a>> {
        let mut threads: IndexMap<(u32, u32), Thread<'a>, FxBuildHasher> = IndexMap::default();
        let mut add = |counted: Counted<'a>, time| {
            let (pid, tid) = (counted.origin.pid, counted.origin.tid);
            let thread = threads.entry((pid, tid)).or_insert_with(|| Thread { pid, tid, samples: Vec::new() });
            thread.samples.push(Sample { time, stack: counted.stack, count: counted.count });
        };
        let total = profile.counted_samples().fold(0, |sum: u64, counted| sum.saturating_add(counted.count));
        if profile.timeline().len() as u64 == total {
            profile.timeline().for_each(|(time, counted)| add(counted, Some(time)));
        } else {
            profile.counted_samples().for_each(|counted| add(counted, None));
        }
        let mut threads: Vec<Thread> = threads.into_values().collect();
        for thread in &mut threads {
            // Of several CPUs, samples may be told out of order.
            thread.samples.sort_by_key(|sample| sample.time);
        }
        threads
    }

    /// Its name: what it calls itself, if that is known.
    pub(super) fn name(&self, profile: &Profile) -> String {
        match profile.threads.get(&(self.pid, self.tid)).filter(|name| !name.trim().is_empty()) {
            Some(name) => printable(name, NAME_LIMIT),
            None => "thread".to_owned(),
        }
    }

    /// The name of its process.
    pub(super) fn process(&self, profile: &Profile) -> String {
        let named = |(pid, name): &&(u32, String)| *pid == self.pid && !name.trim().is_empty();
        match profile.meta.processes.iter().find(named) {
            Some((_, name)) => printable(name, NAME_LIMIT),
            None => "process".to_owned(),
        }
    }
}
