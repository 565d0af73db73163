//! Slices of a second, added up to windows.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use indexmap::IndexMap;

use crate::profile::Profile;
use crate::profile::window::{ProcessProfile, Window};

/// A window ends early when it takes more bytes than this, so that nothing has to be left out of it.
const MOST_BYTES: usize = 16 << 20;

/// Adds slices up.
#[derive(Debug)]
pub struct Windows {
    length: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    started: SystemTime,
    seconds: f64,
    /// By pid and start.
    processes: IndexMap<(u32, u64), ProcessProfile>,
}

impl Windows {
    /// Windows of this length.
    pub fn new(length: Duration) -> Windows {
        Windows { length, open: None }
    }

    /// Windows have this length from now on, also the one that has begun.
    pub fn set_length(&mut self, length: Duration) {
        self.length = length;
    }

    /// Adds a slice. Returns a window if it is complete with that.
    pub fn add(&mut self, slice: &Window) -> Option<Window> {
        let open =
            self.open.get_or_insert_with(|| Open { started: slice.started, seconds: 0.0, processes: IndexMap::new() });
        open.seconds += slice.seconds;
        for ProcessProfile { identity, profile } in &slice.processes {
            let known = open.processes.entry((identity.pid, identity.started));
            let known =
                known.or_insert_with(|| ProcessProfile { identity: Arc::clone(identity), profile: Profile::default() });
            // What is known of a process shortly after it has started may become more.
            known.identity = Arc::clone(identity);
            known.profile.absorb(profile);
        }
        let bytes: usize = open.processes.values().map(|process| process.profile.weight()).sum();
        // Half a slice more or less is as near as it gets.
        let complete = open.seconds + slice.seconds / 2.0 >= self.length.as_secs_f64();
        if complete || bytes >= MOST_BYTES { self.finish() } else { None }
    }

    /// What has been added since the last window, if there is anything.
    pub fn finish(&mut self) -> Option<Window> {
        let Open { started, seconds, processes } = self.open.take()?;
        let mut processes: Vec<ProcessProfile> = processes.into_values().collect();
        for process in &mut processes {
            process.profile.meta.started = Some(started);
            process.profile.meta.seconds = seconds;
        }
        Some(Window { started, seconds, processes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::window::Identity;
    use crate::profile::{Frame, FrameKind, Origin};

    /// A slice of one process that was in functions with these numbers.
    fn slice(at: u64, pid: u32, functions: &[u32]) -> Window {
        let mut profile = Profile::default();
        for function in functions {
            let name = Some(format!("f{function}").into());
            let frame = Frame { kind: FrameKind::Native, name, file: None, first_line: 0, line: 0, unresolved: false };
            let id = profile.frame(frame);
            profile.add(Origin { pid, ..Origin::default() }, &[id], 1);
            profile.counters.samples += 1;
        }
        let identity = Arc::new(Identity { pid, service: "shop".to_owned(), ..Identity::default() });
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
        Window { started, seconds: 1.0, processes: vec![ProcessProfile { identity, profile }] }
    }

    #[test]
    fn a_window_has_all_samples_of_its_slices() {
        let mut windows = Windows::new(Duration::from_secs(3));
        assert!(windows.add(&slice(100, 7, &[1, 2])).is_none());
        assert!(windows.add(&slice(101, 8, &[1])).is_none());
        let window = windows.add(&slice(102, 7, &[2, 3])).unwrap();
        assert_eq!((window.started, window.seconds), (SystemTime::UNIX_EPOCH + Duration::from_secs(100), 3.0));
        let counts: Vec<(u32, u64, usize)> = window
            .processes
            .iter()
            .map(|process| (process.identity.pid, process.profile.counters.samples, process.profile.stacks().len()))
            .collect();
        assert_eq!(counts, [(7, 4, 3), (8, 1, 1)]);
        assert_eq!(window.processes[1].profile.meta.seconds, 3.0);
        assert!(windows.finish().is_none());
        windows.add(&slice(103, 7, &[1]));
        assert_eq!(windows.finish().unwrap().seconds, 1.0, "the last one is as long as it is");
    }

    #[test]
    fn a_window_of_very_many_stacks_ends_early() {
        let mut windows = Windows::new(Duration::from_secs(3600));
        let (mut ended, mut samples) = (0, 0);
        for number in 0..30_u32 {
            let functions: Vec<u32> = (number * 10_000..(number + 1) * 10_000).collect();
            if let Some(window) = windows.add(&slice(number.into(), 7, &functions)) {
                ended += 1;
                samples += window.processes[0].profile.counters.samples;
            }
        }
        samples += windows.finish().unwrap().processes[0].profile.counters.samples;
        assert_eq!((ended, samples), (3, 300_000), "nothing is left out");
    }
}
