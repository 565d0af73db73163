//! Decoding a capture again, by the same way that its recording took.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zerocopy::IntoBytes;

use crate::capture::{Capture, Recording, Replayed, Step};
use crate::profile::Profile;
use crate::record::own_cpu;
use crate::target::world::World;
use crate::targets::Targets;

/// The profile that a capture holds, up to its end or until `stop` is set.
///
/// # Errors
/// When the capture is damaged, or the processes in it cannot be decoded by this version.
pub fn replay(capture: Capture, stop: &AtomicBool) -> anyhow::Result<Profile> {
    let cpu = own_cpu();
    let mut player = Player::new(capture, |world| world)?;
    while !stop.load(Ordering::Relaxed)
        && let Some(step) = player.next()?
    {
        player.play(&step);
    }
    let mut profile = player.finish();
    profile.counters.own_cpu = own_cpu() - cpu;
    Ok(profile)
}

/// A capture being replayed, step by step.
pub(crate) struct Player {
    pub(crate) targets: Targets,
    replayed: Replayed,
    recording: Recording,
    /// Records hold numbers of eight bytes: here they lie as in the ring buffer.
    aligned: Vec<u64>,
}

impl Player {
    /// Stands before the first step. `wrap` may put another world before that of the capture.
    pub(crate) fn new(capture: Capture, wrap: impl FnOnce(Arc<dyn World>) -> Arc<dyn World>) -> anyhow::Result<Player> {
        let recording = capture.recording.clone();
        let replayed = Replayed::new(capture)?;
        let mut targets = Targets::new(wrap(Arc::new(replayed.clone())), recording.lua);
        for pid in &recording.pids {
            targets.add(*pid)?;
        }
        if let Some(pid) = recording.launched {
            targets.add_launched(pid)?;
        }
        Ok(Player { targets, replayed, recording, aligned: Vec::new() })
    }

    /// What comes next; it counts only if it is played.
    pub(crate) fn next(&self) -> anyhow::Result<Option<Step>> {
        Ok(self.replayed.step()?)
    }

    /// Does what the recording did then.
    pub(crate) fn play(&mut self, step: &Step) {
        match step {
            Step::Record(record) => {
                self.aligned.resize(record.len().div_ceil(8), 0);
                let bytes = &mut self.aligned.as_mut_bytes()[..record.len()];
                bytes.copy_from_slice(record);
                self.targets.take(bytes);
            }
            Step::Look => self.targets.bury(|_| ()),
        }
    }

    /// The profile of the steps that were played.
    pub(crate) fn finish(self) -> Profile {
        let mut profile = self.targets.profile;
        profile.counters.lost = self.recording.lost;
        profile.meta = self.recording.meta(self.targets.named);
        profile
    }
}
