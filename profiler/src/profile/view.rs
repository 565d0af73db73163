//! What of a profile is drawn: which frames, and how finely a Lua function's lines are told apart.
//!
//! A view removes from each frame what it does not show, so that frames that look alike are one frame. It changes the
//! drawing only: the counters remain those of the whole profile.

use std::sync::Arc;

use indexmap::IndexSet;
use regex::Regex;

use super::{Frame, FrameId, FrameKind, Origin, Profile};

/// How finely the lines of Lua functions are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lines {
    /// No lines at all: functions of one name in one file are one frame.
    None,
    /// A function is one frame, known by its name and the place of its definition.
    #[default]
    Function,
    /// Each line being run is a frame of its own.
    Line,
    /// Each line being run is a frame of its own, which is known by the place of its function's definition too.
    Both,
}

/// What stacks are kept apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The thread.
    Thread,
    /// The process.
    Process,
    /// The VM; VMs are numbered in the order in which they were met.
    Vm,
    /// What the VM was doing.
    State,
}

/// Which part of a profile is drawn, and how.
///
/// A function is looked for, in `include` and `exclude`, in a text as `handle (app.lua:12)`, of which native functions have the
/// name alone and nameless Lua functions the place.
#[derive(Debug, Clone)]
pub struct View {
    /// Draw only what Lua code is and calls by name: Lua functions, builtins and C functions called from Lua, and markers.
    /// Samples with none of these functions are left out.
    pub lua_only: bool,
    /// Draw native functions, the kernel's, and markers only.
    pub native_only: bool,
    /// Draw the kernel's frames.
    pub kernel: bool,
    /// How finely the lines of Lua functions are told apart.
    pub lines: Lines,
    /// Draw only stacks with a function that matches one of these, if there are any.
    pub include: Vec<Regex>,
    /// Draw no stacks with a function that matches one of these.
    pub exclude: Vec<Regex>,
    /// Draw only what is above a function of this name, from where it is nearest to the root; other stacks are left out.
    pub root: Option<String>,
    /// Keep the stacks apart by this, in a frame at their root.
    pub by: Option<By>,
    /// Turn stacks around, so that they begin with the function that ran.
    pub reverse: bool,
}

impl Default for View {
    fn default() -> View {
        View {
            lua_only: false,
            native_only: false,
            kernel: true,
            lines: Lines::default(),
            include: Vec::new(),
            exclude: Vec::new(),
            root: None,
            by: None,
            reverse: false,
        }
    }
}

impl View {
    /// The profile as this view shows it. Stacks that become equal are counted together; stacks that become empty stay
    /// out.
    pub fn of(&self, profile: &Profile) -> Profile {
        // Made when first met in a stack that stays, so that no frame is known that is in no stack.
        let mut ids: Vec<Option<FrameId>> = vec![None; profile.frames().len()];
        let included = matching(profile, &self.include);
        let excluded = matching(profile, &self.exclude);
        let has = |frames: &[FrameId], matching: &[bool]| frames.iter().any(|id| matching[id.index()]);
        let mut vms = IndexSet::new();
        profile.mapped(|shown, origin, frames, stack| {
            if self.lua_only && !frames.iter().any(|&id| in_lua_land(profile.get(id).kind))
                || !self.include.is_empty() && !has(frames, &included)
                || has(frames, &excluded)
            {
                return;
            }
            let root = |id: &FrameId| profile.get(*id).name.as_deref() == self.root.as_deref();
            let start = if self.root.is_some() { frames.iter().position(root) } else { Some(0) };
            let Some(start) = start else { return };
            for &id in frames[start..].iter().filter(|&&id| self.shows(profile.get(id).kind)) {
                stack.push(*ids[id.index()].get_or_insert_with(|| shown.frame(self.reduced(profile.get(id)))));
            }
            if self.reverse {
                stack.reverse();
            }
            if let Some(by) = self.by
                && !stack.is_empty()
            {
                let name = Some(group(profile, by, origin, &mut vms));
                let frame =
                    Frame { kind: FrameKind::Group, name, file: None, first_line: 0, line: 0, unresolved: false };
                stack.insert(0, shown.frame(frame));
            }
        })
    }

    fn shows(&self, kind: FrameKind) -> bool {
        match kind {
            FrameKind::Kernel => self.kernel && !self.lua_only,
            FrameKind::Native | FrameKind::NativeInlined => !self.lua_only,
            FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined | FrameKind::Builtin => !self.native_only,
            FrameKind::Marker | FrameKind::Group => true,
        }
    }

    fn reduced(&self, frame: &Frame) -> Frame {
        let mut frame = frame.clone();
        if !frame.kind.is_lua() {
            frame.line = 0;
            return frame;
        }
        match self.lines {
            Lines::None => (frame.first_line, frame.line) = (0, 0),
            Lines::Function => frame.line = 0,
            Lines::Line => frame.first_line = 0,
            Lines::Both => {}
        }
        frame
    }
}

/// Which of the frames of a profile match one of the patterns, by [`FrameId::index`].
fn matching(profile: &Profile, patterns: &[Regex]) -> Vec<bool> {
    let matches = |frame: &Frame| {
        let text = match (&frame.name, &frame.file) {
            (Some(name), Some(file)) if frame.kind.is_lua() => format!("{name} ({file}:{})", frame.first_line),
            (Some(name), _) => name.to_string(),
            (None, Some(file)) => format!("{file}:{}", frame.first_line),
            (None, None) => String::new(),
        };
        patterns.iter().any(|pattern| pattern.is_match(&text))
    };
    if patterns.is_empty() { vec![false; profile.frames().len()] } else { profile.frames().map(matches).collect() }
}

/// The name of what a stack is kept apart by.
fn group(profile: &Profile, by: By, origin: &Origin, vms: &mut IndexSet<(u32, u64)>) -> Arc<str> {
    let Origin { pid, tid, vm, state } = *origin;
    let process = || {
        let named = profile.meta.processes.iter().find(|(named, _)| *named == pid).map(|(_, name)| name);
        let name = named.or_else(|| profile.threads.get(&(pid, pid))).map_or("", |name| name);
        format!("{name} (process {pid})").trim_start().to_owned()
    };
    let name = match by {
        By::Thread => {
            let name = profile.threads.get(&(pid, tid)).map_or("", |name| name);
            format!("{name} (thread {tid})").trim_start().to_owned()
        }
        By::Process => process(),
        By::Vm if vm == 0 => format!("no VM of {}", process()),
        By::Vm => format!("VM {} of {}", vms.insert_full((pid, vm)).0 + 1, process()),
        By::State => state.name().to_owned(),
    };
    name.into()
}

fn in_lua_land(kind: FrameKind) -> bool {
    kind.is_lua() || kind == FrameKind::Builtin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::State;

    fn frame(kind: FrameKind, name: &str, first_line: u32, line: u32) -> Frame {
        let file = kind.is_lua().then(|| "app.lua".into());
        Frame { kind, name: Some(name.into()), file, first_line, line, unresolved: false }
    }

    /// Two requests in the same function on different lines, one of them in a builtin that calls the kernel, and one
    /// sample outside Lua.
    fn profile() -> Profile {
        let mut profile = Profile::default();
        let main = profile.frame(frame(FrameKind::Native, "main", 0, 12));
        let call = profile.frame(frame(FrameKind::Native, "lj_vm_call", 0, 0));
        let early = profile.frame(frame(FrameKind::Interpreted, "handle", 10, 11));
        let late = profile.frame(frame(FrameKind::Interpreted, "handle", 10, 15));
        let other = profile.frame(frame(FrameKind::Interpreted, "handle", 40, 41));
        let print = profile.frame(frame(FrameKind::Builtin, "print", 0, 0));
        let write = profile.frame(frame(FrameKind::Kernel, "vfs_write", 0, 0));
        let cut = profile.frame(frame(FrameKind::Marker, "truncated", 0, 0));
        profile.add(Origin::default(), &[main, call, early], 3);
        profile.add(Origin::default(), &[main, call, late], 4);
        profile.add(Origin::default(), &[main, call, late, print, write], 2);
        profile.add(Origin::default(), &[main, cut, call, other], 1);
        profile.add(Origin::default(), &[main, cut, write], 5);
        profile
    }

    fn shown(view: View) -> Vec<(String, u64)> {
        let shown = view.of(&profile());
        let mut stacks: Vec<_> = shown
            .stacks()
            .map(|(stack, count)| {
                let names: Vec<_> = stack
                    .iter()
                    .map(|&id| {
                        let frame = shown.get(id);
                        format!("{}:{}:{}", frame.name.as_deref().unwrap(), frame.first_line, frame.line)
                    })
                    .collect();
                (names.join(" "), count)
            })
            .collect();
        stacks.sort();
        stacks
    }

    #[test]
    fn a_function_is_one_frame_whatever_its_line() {
        assert_eq!(
            shown(View::default()),
            [
                ("main:0:0 lj_vm_call:0:0 handle:10:0".into(), 7),
                ("main:0:0 lj_vm_call:0:0 handle:10:0 print:0:0 vfs_write:0:0".into(), 2),
                ("main:0:0 truncated:0:0 lj_vm_call:0:0 handle:40:0".into(), 1),
                ("main:0:0 truncated:0:0 vfs_write:0:0".into(), 5),
            ]
        );
    }

    #[test]
    fn lua_only_leaves_out_native_frames_and_samples_outside_lua() {
        assert_eq!(
            shown(View { lua_only: true, lines: Lines::Line, ..View::default() }),
            [
                ("handle:0:11".into(), 3),
                ("handle:0:15".into(), 4),
                ("handle:0:15 print:0:0".into(), 2),
                ("truncated:0:0 handle:0:41".into(), 1),
            ]
        );
    }

    fn pattern(text: &str) -> Vec<Regex> {
        vec![Regex::new(text).unwrap()]
    }

    #[test]
    fn native_only_leaves_lua_frames_out() {
        let stacks = shown(View { native_only: true, ..View::default() });
        assert_eq!(stacks[0], ("main:0:0 lj_vm_call:0:0".into(), 7));
    }

    #[test]
    fn stacks_are_chosen_by_the_functions_in_them() {
        let writes = shown(View { include: pattern("^vfs_"), ..View::default() });
        assert_eq!(writes.iter().map(|(_, count)| count).sum::<u64>(), 7);
        let others = shown(View { exclude: pattern(r"app\.lua:10\)$"), ..View::default() });
        assert_eq!(others.iter().map(|(_, count)| count).sum::<u64>(), 6);
        let both = View { include: pattern("handle"), exclude: pattern("print"), ..View::default() };
        assert_eq!(shown(both).iter().map(|(_, count)| count).sum::<u64>(), 8);
    }

    #[test]
    fn a_root_cuts_off_what_is_below_it() {
        assert_eq!(
            shown(View { root: Some("lj_vm_call".into()), ..View::default() }),
            [
                ("lj_vm_call:0:0 handle:10:0".into(), 7),
                ("lj_vm_call:0:0 handle:10:0 print:0:0 vfs_write:0:0".into(), 2),
                ("lj_vm_call:0:0 handle:40:0".into(), 1),
            ]
        );
        assert!(shown(View { root: Some("handl".into()), ..View::default() }).is_empty());
    }

    #[test]
    fn reversed_stacks_begin_with_what_ran() {
        let stacks = shown(View { reverse: true, lua_only: true, ..View::default() });
        assert!(stacks.contains(&("print:0:0 handle:10:0".into(), 2)), "{stacks:?}");
    }

    #[test]
    fn stacks_are_kept_apart_by_where_they_were_taken() {
        let mut profile = Profile::default();
        let main = profile.frame(frame(FrameKind::Native, "main", 0, 0));
        let first = Origin { pid: 7, tid: 8, vm: 0x1000, state: State::Compiled };
        for (origin, count) in [(first, 1), (Origin { vm: 0x2000, ..first }, 2), (Origin { vm: 0, ..first }, 4)] {
            profile.add(origin, &[main], count);
        }
        profile.add(Origin { pid: 9, tid: 9, ..Origin::default() }, &[main], 8);
        profile.threads.insert((7, 8), "worker".to_owned());
        profile.meta.processes.push((7, "nginx".to_owned()));
        let groups = |by| {
            let view = View { by: Some(by), ..View::default() };
            let shown = view.of(&profile);
            let named =
                |(stack, count): (&[FrameId], u64)| (shown.get(stack[0]).name.clone().unwrap().to_string(), count);
            shown.stacks().map(named).collect::<Vec<_>>()
        };
        let expected =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(name, count)| ((*name).into(), *count)).collect::<Vec<_>>();
        assert_eq!(groups(By::Thread), expected(&[("worker (thread 8)", 7), ("(thread 9)", 8)]));
        assert_eq!(groups(By::Process), expected(&[("nginx (process 7)", 7), ("(process 9)", 8)]));
        assert_eq!(groups(By::State), expected(&[("compiled", 7), ("outside Lua", 8)]));
        assert_eq!(
            groups(By::Vm),
            expected(&[
                ("VM 1 of nginx (process 7)", 1),
                ("VM 2 of nginx (process 7)", 2),
                ("no VM of nginx (process 7)", 4),
                ("no VM of (process 9)", 8),
            ])
        );
    }

    #[test]
    fn both_lines_can_be_kept() {
        assert_eq!(
            shown(View { lua_only: true, lines: Lines::Both, ..View::default() }),
            [
                ("handle:10:11".into(), 3),
                ("handle:10:15".into(), 4),
                ("handle:10:15 print:0:0".into(), 2),
                ("truncated:0:0 handle:40:41".into(), 1),
            ]
        );
    }

    #[test]
    fn frames_of_samples_left_out_are_not_known() {
        let mut profile = Profile::default();
        let main = profile.frame(frame(FrameKind::Native, "main", 0, 0));
        let cut = profile.frame(frame(FrameKind::Marker, "truncated", 0, 0));
        profile.add(Origin::default(), &[main, cut], 1);
        assert_eq!(View { lua_only: true, ..View::default() }.of(&profile).frames().len(), 0);
    }

    #[test]
    fn without_lines_functions_of_one_name_are_one_frame() {
        assert_eq!(
            shown(View { lua_only: true, lines: Lines::None, ..View::default() }),
            [("handle:0:0".into(), 7), ("handle:0:0 print:0:0".into(), 2), ("truncated:0:0 handle:0:0".into(), 1)]
        );
    }

    #[test]
    fn without_the_kernel_its_time_is_that_of_its_caller() {
        let stacks = shown(View { kernel: false, ..View::default() });
        assert!(stacks.contains(&("main:0:0 lj_vm_call:0:0 handle:10:0 print:0:0".into(), 2)), "{stacks:?}");
        assert!(stacks.contains(&("main:0:0 truncated:0:0".into(), 5)), "{stacks:?}");
    }
}
