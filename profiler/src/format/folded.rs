//! Folded stacks: a line for each stack, `root;...;leaf count`, as flame graph tools read them.

use std::io::{self, Write};

use crate::format::label::{annotation, label};
use crate::format::stapxx::stapxx;
use crate::profile::view::Lines;
use crate::profile::{Frame, Profile};

/// The stacks of a profile as labels: those of equal labels are one, and all are in the order of their labels frame by
/// frame, so that each subtree is together.
pub(super) struct Folded {
    /// Distinct labels in order.
    labels: Vec<String>,
    /// Stacks as indices of `labels`, root first, in order, each once.
    stacks: Vec<(Vec<u32>, u64)>,
}

impl Folded {
    pub(super) fn new(profile: &Profile, label: impl FnMut(&Frame) -> String) -> Folded {
        let of_frame: Vec<String> = profile.frames().map(label).collect();
        let mut labels = of_frame.clone();
        labels.sort_unstable();
        labels.dedup();
        let ranks: Vec<u32> =
            of_frame.iter().map(|label| labels.partition_point(|other| other < label) as u32).collect();
        let mut stacks: Vec<(Vec<u32>, u64)> = profile
            .stacks()
            .map(|(stack, count)| (stack.iter().map(|id| ranks[id.index()]).collect(), count))
            .collect();
        stacks.sort_unstable();
        stacks.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        Folded { labels, stacks }
    }

    /// The samples of every subtree, which are the widths of the boxes of a flame graph, in no useful order.
    pub(super) fn subtrees(&self) -> Vec<u64> {
        let mut subtrees = Vec::new();
        let mut path: Vec<(u32, u64)> = Vec::new();
        for (stack, count) in &self.stacks {
            let shared = path.iter().zip(stack).take_while(|(open, rank)| open.0 == **rank).count();
            subtrees.extend(path.drain(shared..).map(|(_, samples)| samples));
            path.extend(stack[shared..].iter().map(|&rank| (rank, 0)));
            for (_, samples) in &mut path {
                *samples = samples.saturating_add(*count);
            }
        }
        subtrees.extend(path.into_iter().map(|(_, samples)| samples));
        subtrees
    }

    /// The lines, in order, without line breaks.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = String> {
        self.stacks.iter().map(|(stack, count)| {
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
    Folded::new(profile, |frame| label(frame, lines) + annotation(frame.kind)).write(writer)
}

/// Writes a profile as folded stacks, with frames as the SystemTap tools for LuaJIT write them.
///
/// # Errors
/// Those of `writer`.
pub fn write_stapxx(profile: &Profile, lines: Lines, writer: &mut dyn Write) -> io::Result<()> {
    Folded::new(profile, |frame| stapxx(frame, lines)).write(writer)
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
    fn subtrees_count_all_that_is_above_them() {
        let mut profile = Profile::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| profile.frame(frame(FrameKind::Native, name)));
        profile.add(Origin::default(), &[a, b, c], 1);
        profile.add(Origin::default(), &[a, c], 2);
        profile.add(Origin::default(), &[a], 4);
        profile.add(Origin::default(), &[b], 8);
        let mut subtrees = Folded::new(&profile, |frame| label(frame, Lines::Function)).subtrees();
        subtrees.sort_unstable();
        assert_eq!(subtrees, [1, 1, 2, 7, 8]);
    }

    #[test]
    fn the_order_of_recording_does_not_matter() {
        use FrameKind::Native;
        let (a, b): (&[_], &[_]) = (&[(Native, "x"), (Native, "a")], &[(Native, "x"), (Native, "b")]);
        assert_eq!(folded(&[(a, 1), (b, 2)]), folded(&[(b, 2), (a, 1)]));
    }
}
