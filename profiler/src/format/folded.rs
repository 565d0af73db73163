//! Folded stacks: a line for each stack, `root;...;leaf count`, as flame graph tools read them.

use std::io::{self, Write};
use std::ops::Range;

use crate::format::label::{annotation, label};
use crate::format::stapxx::stapxx;
use crate::profile::view::Lines;
use crate::profile::{Frame, Profile};

/// The stacks of one profile, or of several that are held against each other, as labels: those of equal labels are one, and all are in
/// the order of their labels frame by frame, so that each subtree is together.
pub(super) struct Folded<const PROFILES: usize> {
    /// Distinct labels in order.
    pub(super) labels: Vec<String>,
    /// Stacks as indices of `labels`, root first, in order, with the samples of each profile.
    pub(super) stacks: Vec<(Vec<u32>, [u64; PROFILES])>,
}

impl<const PROFILES: usize> Folded<PROFILES> {
    pub(super) fn new(profiles: [&Profile; PROFILES], mut label: impl FnMut(&Frame) -> String) -> Self {
        let of_frames: [Vec<String>; PROFILES] = profiles.map(|profile| profile.frames().map(&mut label).collect());
        let mut labels: Vec<String> = of_frames.iter().flatten().cloned().collect();
        labels.sort_unstable();
        labels.dedup();
        let mut stacks = Vec::new();
        for (number, (profile, of_frame)) in profiles.into_iter().zip(&of_frames).enumerate() {
            let ranks: Vec<u32> =
                of_frame.iter().map(|label| labels.partition_point(|other| other < label) as u32).collect();
            stacks.extend(profile.stacks().map(|(stack, count)| {
                let mut counts = [0; PROFILES];
                counts[number] = count;
                (stack.iter().map(|id| ranks[id.index()]).collect(), counts)
            }));
        }
        stacks.sort_unstable();
        let mut folded = Folded { labels, stacks };
        folded.merge();
        folded
    }

    /// Every box of a flame graph: how deep it is, which of `stacks` are in it, and the samples of each profile; in no useful
    /// order.
    pub(super) fn boxes(&self, mut found: impl FnMut(usize, Range<usize>, [u64; PROFILES])) {
        // The boxes that the stack at hand is in, with the first of their stacks.
        let mut path: Vec<(u32, usize, [u64; PROFILES])> = Vec::new();
        let mut close = |path: &mut Vec<(u32, usize, [u64; PROFILES])>, depth: usize, end: usize| {
            for (above, (_, first, samples)) in path.drain(depth..).enumerate() {
                found(depth + above, first..end, samples);
            }
        };
        for (number, (stack, counts)) in self.stacks.iter().enumerate() {
            let shared = path.iter().zip(stack).take_while(|(open, rank)| open.0 == **rank).count();
            close(&mut path, shared, number);
            path.extend(stack[shared..].iter().map(|&rank| (rank, number, [0; PROFILES])));
            for (.., samples) in &mut path {
                add(samples, counts);
            }
        }
        close(&mut path, 0, self.stacks.len());
    }

    /// The samples that every box has of a profile, which are its width there, in no useful order.
    pub(super) fn widths(&self, profile: usize) -> Vec<u64> {
        let mut widths = Vec::new();
        self.boxes(|_, _, samples| widths.push(samples[profile]));
        widths
    }

    /// Leaves boxes out that have fewer samples of a profile: stacks end below them. Of a large profile most boxes are too thin to be
    /// seen, and whoever draws it would hold all their names.
    pub(super) fn leave_out_under(&mut self, profile: usize, samples: u64) {
        let mut depths = vec![0; self.stacks.len()];
        self.boxes(|depth, stacks, width| {
            if width[profile] >= samples {
                for kept in &mut depths[stacks] {
                    *kept = (depth + 1).max(*kept);
                }
            }
        });
        for ((stack, _), depth) in self.stacks.iter_mut().zip(depths) {
            // Nothing would be left of it, and its samples would be missing in the whole.
            stack.truncate(depth.max(1));
        }
        self.merge();
    }

    fn merge(&mut self) {
        self.stacks.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                add(&mut kept.1, &next.1);
            }
            same
        });
    }
}

fn add<const PROFILES: usize>(sums: &mut [u64; PROFILES], counts: &[u64; PROFILES]) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.saturating_add(*count);
    }
}

impl Folded<1> {
    /// The lines, in order, without line breaks.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = String> {
        self.stacks.iter().map(|(stack, [count])| {
            let labels: Vec<&str> = stack.iter().map(|&rank| &*self.labels[rank as usize]).collect();
            format!("{} {count}", labels.join(";"))
        })
    }

    fn write(&self, writer: &mut dyn Write) -> io::Result<()> {
        for line in self.lines() {
            writeln!(writer, "{line}")?;
        }
        Ok(())
    }
}

/// Writes a profile as folded stacks, with the annotations by which other tools know the kinds of frames.
///
/// # Errors
/// Those of `writer`.
pub fn write(profile: &Profile, lines: Lines, writer: &mut dyn Write) -> io::Result<()> {
    Folded::new([profile], |frame| label(frame, lines) + annotation(frame.kind)).write(writer)
}

/// Writes a profile as folded stacks, with frames as the SystemTap tools for LuaJIT write them.
///
/// # Errors
/// Those of `writer`.
pub fn write_stapxx(profile: &Profile, lines: Lines, writer: &mut dyn Write) -> io::Result<()> {
    Folded::new([profile], |frame| stapxx(frame, lines)).write(writer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile::FrameKind;
    use crate::profile::Origin;

    fn frame(kind: FrameKind, name: &str) -> Frame {
        let file = kind.is_lua().then(|| "app.lua".into());
        Frame { kind, name: Some(name.into()), file, first_line: 7, line: 0, unresolved: false }
    }

    fn folded(stacks: &[(&[(FrameKind, &str)], u64)]) -> String {
        let mut profile = Profile::default();
        for (stack, count) in stacks {
            let ids: Vec<_> = stack.iter().map(|&(kind, name)| profile.frame(frame(kind, name))).collect();
            profile.add(Origin::default(), &ids, *count);
        }
        let mut bytes = Vec::new();
        write(&profile, Lines::Function, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_example_is_what_it_was() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        write(&example::profile(), Lines::Function, &mut ours).unwrap();
        golden("example.folded", &ours);
        write_stapxx(&example::profile(), Lines::Function, &mut theirs).unwrap();
        golden("example.stapxx.folded", &theirs);
    }

    #[test]
    fn kinds_are_annotated_and_lines_sorted() {
        use FrameKind::*;
        let text = folded(&[
            (&[(Native, "main"), (Interpreted, "handle"), (Compiled, "loop"), (Inlined, "step")], 3),
            (&[(Native, "main"), (NativeInlined, "copy"), (Kernel, "vfs_write")], 2),
            (&[(Native, "main"), (Interpreted, "handle"), (Builtin, "string.rep"), (Marker, "cut")], 1),
        ]);
        assert_eq!(
            text,
            "main;copy_[i];vfs_write_[k] 2\n\
             main;handle (app.lua:7);loop (app.lua:7)_[j];step (app.lua:7)_[i] 3\n\
             main;handle (app.lua:7);string.rep;[cut] 1\n"
        );
    }

    #[test]
    fn a_subtree_is_together_even_beside_names_that_sort_before_the_separator() {
        use FrameKind::Native;
        let text =
            folded(&[(&[(Native, "run"), (Native, "step")], 1), (&[(Native, "run.cold")], 1), (&[(Native, "run")], 1)]);
        assert_eq!(text, "run 1\nrun;step 1\nrun.cold 1\n");
    }

    #[test]
    fn stacks_of_equal_labels_are_counted_together() {
        use FrameKind::Native;
        let text = folded(&[(&[(Native, "a;b")], 1), (&[(Native, "a:b")], 2)]);
        assert_eq!(text, "a:b 3\n");
    }

    #[test]
    fn boxes_count_all_that_is_above_them_and_thin_ones_can_be_left_out() {
        let mut profile = Profile::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| profile.frame(frame(FrameKind::Native, name)));
        profile.add(Origin::default(), &[a, b, c], 1);
        profile.add(Origin::default(), &[a, c], 2);
        profile.add(Origin::default(), &[a], 4);
        profile.add(Origin::default(), &[b], 8);
        profile.add(Origin::default(), &[c, a], 1);
        let mut folded = Folded::new([&profile], |frame| label(frame, Lines::Function));
        let mut widths = folded.widths(0);
        widths.sort_unstable();
        assert_eq!(widths, [1, 1, 1, 1, 2, 7, 8]);
        folded.leave_out_under(0, 2);
        assert_eq!(folded.lines().collect::<Vec<_>>(), ["a 5", "a;c 2", "b 8", "c 1"]);
    }

    #[test]
    fn the_order_of_recording_does_not_matter() {
        use FrameKind::Native;
        let (a, b): (&[_], &[_]) = (&[(Native, "x"), (Native, "a")], &[(Native, "x"), (Native, "b")]);
        assert_eq!(folded(&[(a, 1), (b, 2)]), folded(&[(b, 2), (a, 1)]));
    }
}
