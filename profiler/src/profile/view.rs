//! What of a profile is drawn: which frames, and how finely a Lua function's lines are told apart.
//!
//! A view removes from each frame what it does not show, so that frames that look alike are one frame. It changes the
//! drawing only: the counters remain those of the whole profile.

use super::{Frame, FrameId, FrameKind, Profile};

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
}

/// Which part of a profile is drawn, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Draw only what Lua code is and calls by name: Lua functions, builtins and C functions called from Lua, and markers.
    /// Samples with none of these functions are left out.
    pub lua_only: bool,
    /// Draw the kernel's frames.
    pub kernel: bool,
    /// How finely the lines of Lua functions are told apart.
    pub lines: Lines,
}

impl Default for View {
    fn default() -> View {
        View { lua_only: false, kernel: true, lines: Lines::default() }
    }
}

impl View {
    /// The profile as this view shows it. Stacks that become equal are counted together; stacks that become empty stay
    /// out.
    pub fn of(&self, profile: &Profile) -> Profile {
        // Made when first met in a stack that stays, so that no frame is known that is in no stack.
        let mut ids: Vec<Option<FrameId>> = vec![None; profile.frames().len()];
        profile.mapped(|shown, _, frames, stack| {
            if self.lua_only && !frames.iter().any(|&id| in_lua_land(profile.get(id).kind)) {
                return;
            }
            for &id in frames.iter().filter(|&&id| self.shows(profile.get(id).kind)) {
                stack.push(*ids[id.index()].get_or_insert_with(|| shown.frame(self.reduced(profile.get(id)))));
            }
        })
    }

    fn shows(&self, kind: FrameKind) -> bool {
        match kind {
            FrameKind::Kernel => self.kernel && !self.lua_only,
            FrameKind::Native | FrameKind::NativeInlined => !self.lua_only,
            FrameKind::Interpreted
            | FrameKind::Compiled
            | FrameKind::Inlined
            | FrameKind::Builtin
            | FrameKind::Marker => true,
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
        }
        frame
    }
}

fn in_lua_land(kind: FrameKind) -> bool {
    kind.is_lua() || kind == FrameKind::Builtin
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Origin;

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
