//! The model of a profile: interned frames and stacks with counts, and what is known about how they were taken.

pub mod view;

use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};
use rustc_hash::FxBuildHasher;

/// What kind of code a frame is; decides its colour and the suffix that other tools know it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// A function of the kernel.
    Kernel,
    /// A function of the program or of a library.
    Native,
    /// A native function that the compiler inlined into the frame below it.
    NativeInlined,
    /// A Lua function run by LuaJIT's interpreter.
    Interpreted,
    /// A Lua function in which a compiled trace was entered.
    Compiled,
    /// A Lua function inlined in a compiled trace.
    Inlined,
    /// A builtin or C function called from Lua, under the name that Lua code uses for it.
    Builtin,
    /// Not code: says that frames are missing here, and why.
    Marker,
}

impl FrameKind {
    /// A Lua function, however it is run.
    pub fn is_lua(self) -> bool {
        matches!(self, FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined)
    }
}

/// One frame as shown: equal frames are one box of a flame graph.
///
/// `name` holds what the target's memory or files say, unsanitised except that it is valid UTF-8; each format escapes
/// what it must.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Kind of code.
    pub kind: FrameKind,
    /// Name of the function: `handle`, `string.gsub`, `ngx_http_process_request`, `libc.so.6+0x1234`. For a Lua function
    /// without a known name, `None`: it is then shown as its place.
    pub name: Option<Arc<str>>,
    /// Source file of a Lua function as its chunk name says (without the leading `@` or `=`), or the module (file name
    /// of the ELF image) of a native one.
    pub file: Option<Arc<str>>,
    /// First line of the definition of a Lua function; 0 for a main chunk and for everything else.
    pub first_line: u32,
    /// Line being run, or 0 when unknown or not asked for.
    pub line: u32,
    /// Nothing is known about this frame but an address: it counts as unresolved.
    pub unresolved: bool,
}

/// Index of a frame in a [`Profile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(u32);

impl FrameId {
    /// Position of the frame in [`Profile::frames`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Frames and stacks, each stored once, with the number of samples of each stack.
#[derive(Debug, Default)]
pub struct Profile {
    frames: IndexSet<Frame, FxBuildHasher>,
    stacks: IndexMap<Box<[FrameId]>, u64, FxBuildHasher>,
    /// What is known about how the samples were taken.
    pub meta: Meta,
    /// What was counted while they were taken.
    pub counters: Counters,
}

/// How a profile was taken.
#[derive(Debug, Clone, Default)]
pub struct Meta {
    /// The processes profiled, each with its pid and command name.
    pub processes: Vec<(u32, String)>,
    /// LuaJIT was looked for.
    pub lua: bool,
    /// Samples per second and CPU that were asked for.
    pub frequency: u32,
    /// Name of the perf event that took the samples: `cycles` or `cpu-clock`.
    pub event: String,
    /// Seconds from the first moment of sampling to the last.
    pub seconds: f64,
}

/// What happened to the samples and frames of a profile. Every sample that the kernel took is in exactly one of
/// `samples` and `lost`.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Samples that are in the profile.
    pub samples: u64,
    /// Samples that the probe took and could not deliver: the ring buffer was full.
    pub lost: u64,
    /// Samples in which a native or Lua stack was deeper than the probe's limits and was cut in the middle.
    pub truncated: u64,
    /// Samples with no Lua frame: the thread was not in Lua.
    pub outside_lua: u64,
    /// Frames of all samples together.
    pub frames: u64,
    /// Of `frames`, those about which nothing is known but an address.
    pub unresolved: u64,
    /// Why frames could not be resolved or a stack is not complete, with the number of samples or frames for each
    /// reason, as sentences.
    pub reasons: IndexMap<String, u64, FxBuildHasher>,
    /// The file names of programs and libraries that have no symbols for some of their functions, with the number of frames
    /// that have no name because of that.
    pub without_symbols: IndexMap<Arc<str>, u64, FxBuildHasher>,
    /// CPU time that the profiler itself used, in seconds, without the probe.
    pub own_cpu: f64,
}

impl Profile {
    /// Interns a frame.
    pub fn frame(&mut self, frame: Frame) -> FrameId {
        FrameId(self.frames.insert_full(frame).0 as u32)
    }

    /// The frame of an id that this profile gave out.
    ///
    /// # Panics
    /// When the id is of another profile.
    pub fn get(&self, id: FrameId) -> &Frame {
        &self.frames[id.index()]
    }

    /// Every distinct frame, in the order of [`FrameId::index`].
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Counts `count` more samples of a stack, root first.
    pub fn add(&mut self, stack: &[FrameId], count: u64) {
        match self.stacks.get_mut(stack) {
            Some(seen) => *seen = seen.saturating_add(count),
            None => {
                self.stacks.insert(stack.into(), count);
            }
        }
    }

    /// Every distinct stack, root first, with its number of samples, in the order first seen.
    pub fn stacks(&self) -> impl ExactSizeIterator<Item = (&[FrameId], u64)> {
        self.stacks.iter().map(|(stack, count)| (&**stack, *count))
    }
}
