//! Where the fields of LuaJIT's structs lie in one build.
//!
//! `layouts.json` holds every distinct layout that the headers of LuaJIT 2.1 and OpenResty's luajit2 have had since the
//! end of 2016, with GC64 and without, each with the first and last revision it was seen in. They were compiled from
//! the headers of those revisions, except three that say "predicted": luajit2 releases whose headers were not at hand,
//! made from the upstream headers of their date with the four fields that luajit2 adds (`lua_State.exdata`, `exdata2`,
//! `global_State.saved_jit_base`, `jit_State.prng`); the same step reproduces the known luajit2 layouts of 2020, 2021
//! and 2024 exactly. Without GC64 the first of these two ages has the layout of the luajit2 releases before it. A
//! layout is only ever used when a live VM satisfies it ([`crate::luajit::discover`]). Names follow LuaJIT's
//! `lj_obj.h`, `lj_jit.h` and `lj_dispatch.h`. All numbers are byte offsets from the start of the struct, `size` is the
//! size of the struct.

use serde::Deserialize;

use super::arch::Model;

/// The layout of every struct that the profiler reads, for one family of builds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Layout {
    /// The first and the last revision with this layout.
    pub seen_in: Vec<String>,
    /// How references, values and frames are stored.
    pub model: Model,
    /// Number of bytecode opcodes (`BC__MAX`).
    pub opcodes: u32,
    /// `GG_State`: main thread, global state, JIT state and dispatch table in one block.
    pub gg: GgState,
    /// `lua_State`, a thread (coroutine).
    pub lua_state: LuaState,
    /// `global_State`, one for each VM.
    pub global_state: GlobalState,
    /// `jit_State`, one for each VM.
    pub jit_state: JitState,
    /// `GCtrace`, a compiled trace.
    pub trace: Trace,
    /// `SnapShot`, the state of the Lua stack at one exit of a trace.
    pub snapshot: Snapshot,
    /// `GCproto`, a prototype.
    pub proto: Proto,
    /// `GCfuncL` and `GCfuncC`, a closure.
    pub func: Func,
    /// `GCstr`, a string; its bytes follow the struct.
    pub string: Str,
}

macro_rules! layout_of {
    ($(#[$doc:meta])* $name:ident { $($field:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
        #[expect(missing_docs, reason = "the fields carry the names they have in LuaJIT's headers")]
        pub struct $name { $(pub $field: u32,)* }
    };
}

layout_of!(/// Offsets in `GG_State`.
    GgState { g, j, dispatch, bcff, size });
layout_of!(/// Offsets in `lua_State`.
    LuaState { size, gct, dummy_ffid, status, glref, base, top, maxstack, stack, env, cframe, stacksize });
layout_of!(/// Offsets in `jit_State`.
    JitState { size, l, state, trace, sizetrace, exitstubgroup, param, mcarea });
layout_of!(/// Offsets in `GCtrace`.
Trace {
    size, gct, linktype, nins, nk, nsnap, nsnapmap, ir, snap, snapmap, startpt, startpc, startins, szmcode, mcode,
    mcloop, spadjust, traceno, link, root,
});
layout_of!(/// Offsets in `GCproto`; the bytecode follows the struct.
Proto {
    size, gct, numparams, framesize, sizebc, k, uv, sizekgc, sizekn, sizept, sizeuv, flags, trace, chunkname,
    firstline, numline, lineinfo, uvinfo, varinfo,
});
layout_of!(/// Offsets in `GCfuncL` and, for `c_function`, in `GCfuncC`.
    Func { size, ffid, nupvalues, env, pc, uvptr, c_function });
layout_of!(/// Offsets in `GCstr`.
    Str { size, len });

/// Offsets in `global_State`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[expect(missing_docs, reason = "the fields carry the names they have in LuaJIT's headers")]
pub struct GlobalState {
    pub size: u32,
    pub gc: u32,
    pub strempty: u32,
    pub hookmask: u32,
    pub dispatchmode: u32,
    pub vmstate: u32,
    pub mainthref: u32,
    pub registrytv: u32,
    /// Absent in builds before 2025-11, which have no thread of the VM's own.
    pub vmthref: Option<u32>,
    pub cur_l: u32,
    pub jit_base: u32,
}

/// Offsets in `SnapShot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[expect(missing_docs, reason = "the fields carry the names they have in LuaJIT's headers")]
pub struct Snapshot {
    pub size: u32,
    pub mapofs: u32,
    pub r#ref: u32,
    pub nslots: u32,
    pub nent: u32,
    pub count: u32,
    /// Absent in builds before 2021-03, which do not record the machine-code offset.
    pub mcofs: Option<u32>,
}

impl Trace {
    /// Whether `nsnap` and `nsnapmap` have 16 bits each, and lie side by side, as until 2018.
    pub fn has_short_snapmap(&self) -> bool {
        self.nsnapmap == self.nsnap + 2
    }
}

impl Layout {
    /// Every layout known, oldest first.
    pub fn all() -> Vec<Layout> {
        serde_json::from_str(include_str!("layouts.json")).expect("layouts.json is part of this crate and well formed")
    }
}
