//! The functions of a profile with their samples, each once however it is run.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::format::label::label;
use crate::profile::view::Lines;
use crate::profile::{FrameKind, Profile};

/// What a function is, as far as tells two of one name apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// A Lua function, interpreted, compiled or inlined.
    Lua,
    /// A builtin or C function called from Lua.
    Builtin,
    /// A function of the program or of a library.
    Native,
    /// A function of the kernel.
    Kernel,
    /// No function: frames are missing here.
    Missing,
    /// No function: what stacks have in common.
    Group,
}

impl Class {
    /// That of a frame.
    pub fn of(kind: FrameKind) -> Class {
        match kind {
            FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined => Class::Lua,
            FrameKind::Builtin => Class::Builtin,
            FrameKind::Native | FrameKind::NativeInlined => Class::Native,
            FrameKind::Kernel => Class::Kernel,
            FrameKind::Marker => Class::Missing,
            FrameKind::Group => Class::Group,
        }
    }

    /// Its name in a word of at most seven characters.
    pub fn name(self) -> &'static str {
        match self {
            Class::Lua => "Lua",
            Class::Builtin => "builtin",
            Class::Native => "native",
            Class::Kernel => "kernel",
            Class::Missing => "missing",
            Class::Group => "group",
        }
    }
}

/// Samples of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Samples {
    /// With it as the leaf.
    pub own: u64,
    /// With it anywhere: recursion counts once.
    pub total: u64,
}

/// Every function by its label and class, in the order first seen.
pub fn functions(profile: &Profile, lines: Lines) -> IndexMap<(String, Class), Samples, FxBuildHasher> {
    let mut functions: IndexMap<(String, Class), Samples, FxBuildHasher> = IndexMap::default();
    let of_frame: Vec<usize> = profile
        .frames()
        .map(|frame| {
            let entry = functions.entry((label(frame, lines), Class::of(frame.kind)));
            let index = entry.index();
            entry.or_default();
            index
        })
        .collect();
    // The last stack that each was counted in, from 1.
    let mut counted = vec![0; functions.len()];
    for (number, (stack, count)) in profile.stacks().enumerate() {
        for id in stack {
            let function = of_frame[id.index()];
            if counted[function] != number + 1 {
                counted[function] = number + 1;
                functions[function].total = functions[function].total.saturating_add(count);
            }
        }
        if let Some(leaf) = stack.last() {
            let own = &mut functions[of_frame[leaf.index()]].own;
            *own = own.saturating_add(count);
        }
    }
    functions
}
