//! What depends on the processor, x86-64, and on the value model: how references, values and frames are stored.
//!
//! Everything here is the same in every build of one model for x86-64 POSIX systems, from 2016 to 2026 (checked by
//! compiling the headers of each revision in `layouts.json`); what differs between builds is in [`super::layout`]. Another
//! architecture needs another version of this file and of the places that use it.

use std::fmt;

use serde::Deserialize;

/// `CFRAME_SIZE`: bytes of an activation's frame on the native stack.
pub const CFRAME_SIZE: u64 = 80;

/// Bytes of a slot of the Lua stack.
pub const SLOT_SIZE: u64 = 8;

/// How a build stores references, values and frames: with `LJ_GC64` or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Model {
    /// `LJ_GC64`: references have 64 bits, of which 47 are used, and a frame has two slots (`LJ_FR2`), the function at
    /// base-2 and the link at base-1.
    Gc64,
    /// Without: references have 32 bits, and a frame has one slot at base-1, the function in its low half and the link in its
    /// high half.
    Gc32,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Gc64 => "GC64",
            Model::Gc32 => "no GC64",
        })
    }
}

/// Offsets in a C frame that depend on the model (`CFRAME_OFS_*`, `lj_frame.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CFrameOffsets {
    /// The `lua_State` of the activation: a reference.
    pub l: u16,
    /// Where the interpreter saves the bytecode PC (`SAVE_PC`): a reference.
    pub pc: u16,
    /// 32-bit number of results wanted; negative is a stack offset and marks an errfunc, gc or hook call. Behind it is the
    /// 32-bit stack offset of the error function.
    pub nres: u16,
}

/// Offsets in `GCtab` and its hash part's `Node` (`lj_obj.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOffsets {
    /// `sizeof(GCtab)`.
    pub size: u32,
    /// Array part: values of the keys `0 .. asize`.
    pub array: u32,
    /// Metatable or null.
    pub metatable: u32,
    /// Hash part.
    pub node: u32,
    /// 32-bit number of slots of the array part.
    pub asize: u32,
    /// 32-bit number of nodes of the hash part, minus one.
    pub hmask: u32,
}

/// `sizeof(Node)`.
pub const NODE_SIZE: usize = 24;
/// Value in a node.
pub const NODE_VALUE: u32 = 0;
/// Key in a node.
pub const NODE_KEY: u32 = 8;

impl Model {
    /// All of them.
    pub const ALL: [Model; 2] = [Model::Gc64, Model::Gc32];

    /// Bytes of a reference to a collectable object (`GCRef`) or to other memory (`MRef`). Where LuaJIT's structs have a C
    /// pointer, that has eight bytes in any model.
    pub fn reference_size(self) -> u64 {
        match self {
            Model::Gc64 => 8,
            Model::Gc32 => 4,
        }
    }

    /// The bits of a reference; in a tagged value they are next to the tag (`LJ_GCVMASK`).
    pub fn reference_mask(self) -> u64 {
        match self {
            Model::Gc64 => (1 << 47) - 1,
            Model::Gc32 => u32::MAX.into(),
        }
    }

    /// Slots that a frame takes below its base (`1 + LJ_FR2`). The lowest one holds the function, the highest one the link.
    pub fn frame_slots(self) -> u32 {
        match self {
            Model::Gc64 => 2,
            Model::Gc32 => 1,
        }
    }

    /// Bits of the slot with a frame's function that say that it is one, and their value.
    pub fn function_tag(self) -> (u64, u64) {
        match self {
            Model::Gc64 => (!self.reference_mask(), !(Tag::Function as u64) << 47),
            Model::Gc32 => (0, 0),
        }
    }

    /// Bits below the link in its slot.
    pub fn link_shift(self) -> u32 {
        match self {
            Model::Gc64 => 0,
            Model::Gc32 => 32,
        }
    }

    /// Offset of the `gct` byte in every collectable object (`GCHeader`).
    pub fn gct(self) -> u32 {
        match self {
            Model::Gc64 => 9,
            Model::Gc32 => 5,
        }
    }

    /// Offset of `root`, the list of all objects that the garbage collector has to look at, in `GCState`. Each object begins
    /// with the reference to the next one (`nextgc`).
    pub fn gc_root(self) -> u32 {
        match self {
            Model::Gc64 => 24,
            Model::Gc32 => 16,
        }
    }

    /// `sizeof(GCcdata)`: where the payload of a C object begins.
    pub fn cdata_size(self) -> u32 {
        match self {
            Model::Gc64 => 16,
            Model::Gc32 => 8,
        }
    }

    /// Offset of `glref` in `lua_State`.
    pub fn glref(self) -> usize {
        match self {
            Model::Gc64 => 16,
            Model::Gc32 => 8,
        }
    }

    /// Offset of `v` in `GCupval`: a reference to the upvalue's value.
    pub fn upvalue_v(self) -> u32 {
        match self {
            Model::Gc64 => 32,
            Model::Gc32 => 16,
        }
    }

    /// Offsets in a C frame.
    pub fn cframe(self) -> CFrameOffsets {
        match self {
            Model::Gc64 => CFrameOffsets { l: 16, pc: 24, nres: 8 },
            Model::Gc32 => CFrameOffsets { l: 24, pc: 28, nres: 16 },
        }
    }

    /// Offsets in a table.
    pub fn table(self) -> TableOffsets {
        match self {
            Model::Gc64 => TableOffsets { size: 64, array: 16, metatable: 32, node: 40, asize: 48, hmask: 52 },
            Model::Gc32 => TableOffsets { size: 32, array: 8, metatable: 16, node: 20, asize: 24, hmask: 28 },
        }
    }

    /// Decodes a slot, table entry or upvalue.
    pub fn value(self, word: u64) -> Value {
        // The upper 17 or 32 bits are the tag, sign-extended: all ones for nil, one less for each further type. A light
        // userdata has 47 bits in any model.
        let upper = !((word.cast_signed() >> 47) as u32);
        let tag = match self {
            Model::Gc64 => upper,
            Model::Gc32 if upper == LIGHT_USERDATA_UPPER => Tag::LightUserdata as u32,
            Model::Gc32 => !((word >> 32) as u32),
        };
        let low = word & self.reference_mask();
        match tag {
            0 => Value::Primitive(Tag::Nil),
            1 => Value::Primitive(Tag::False),
            2 => Value::Primitive(Tag::True),
            3 => Value::LightUserdata(word & Model::Gc64.reference_mask()),
            4 => Value::Object(Tag::String, low),
            5 => Value::Object(Tag::Upvalue, low),
            6 => Value::Object(Tag::Thread, low),
            7 => Value::Object(Tag::Proto, low),
            8 => Value::Object(Tag::Function, low),
            9 => Value::Object(Tag::Trace, low),
            10 => Value::Object(Tag::Cdata, low),
            11 => Value::Object(Tag::Table, low),
            12 => Value::Object(Tag::Userdata, low),
            _ => Value::Number,
        }
    }

    /// The number in a slot that holds a [`Value::Number`]: floating point, or an integer of a dual-number build.
    pub fn number(self, word: u64) -> f64 {
        /// `LJ_TISNUM` without GC64, where tags above it are parts of light userdata.
        const INTEGER: u64 = 0xfffe_ffff;
        let is_integer = match self {
            Model::Gc64 => !((word.cast_signed() >> 47) as u32) == Tag::Number as u32,
            Model::Gc32 => word >> 32 == INTEGER,
        };
        if is_integer { f64::from((word as u32).cast_signed()) } else { f64::from_bits(word) }
    }
}

/// The lowest three bits of a frame's link (`FRAME_TYPEP`).
pub const LINK_TYPE_MASK: u64 = 7;

/// The type of a frame's link, its lowest three bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// `FRAME_LUA` and `FRAME_LUAP`: the whole link is the caller's return PC, of which bit 2 may be set.
    Lua,
    /// `FRAME_C`: called from C by `lua_call`.
    C,
    /// `FRAME_CONT`: a continuation, of a metamethod or of an FFI callback.
    Continuation,
    /// `FRAME_VARG`: pseudo frame of a vararg function.
    Vararg,
    /// `FRAME_CP`: called from C by `lua_pcall` or `lua_cpcall`.
    ProtectedC,
    /// `FRAME_PCALL`: called by `pcall` or `xpcall`.
    Pcall,
    /// `FRAME_PCALLH`: the same, with an active hook.
    PcallHook,
}

impl LinkType {
    /// The type of a link word.
    pub fn of(link: u64) -> LinkType {
        match link & LINK_TYPE_MASK {
            1 => LinkType::C,
            2 => LinkType::Continuation,
            3 => LinkType::Vararg,
            5 => LinkType::ProtectedC,
            6 => LinkType::Pcall,
            7 => LinkType::PcallHook,
            _ => LinkType::Lua,
        }
    }
}

/// The type of a collectable object or value: `~LJ_T*`, as in `gct` of an object and, inverted, in a tagged value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "LuaJIT's own names of its types")]
pub enum Tag {
    Nil = 0,
    False = 1,
    True = 2,
    LightUserdata = 3,
    String = 4,
    Upvalue = 5,
    Thread = 6,
    Proto = 7,
    Function = 8,
    Trace = 9,
    Cdata = 10,
    Table = 11,
    Userdata = 12,
    /// `LJ_TNUMX`: integers of dual-number builds with GC64, and the slot of all numbers in `basemt`.
    Number = 13,
}

impl Tag {
    /// The `gct` byte of an object of this type.
    pub fn gct(self) -> u8 {
        self as u8
    }
}

/// A tagged value (`TValue`), as far as a profiler tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nil, false or true.
    Primitive(Tag),
    /// A light userdata: its 47 bits, which name a pointer by segment.
    LightUserdata(u64),
    /// A reference to a collectable object: type and address. The address is the target's claim.
    Object(Tag, u64),
    /// A number.
    Number,
}

impl Value {
    /// The address of the object of this type that the value refers to.
    pub fn object(self, tag: Tag) -> Option<u64> {
        match self {
            Value::Object(of, address) if of == tag => Some(address),
            _ => None,
        }
    }
}

/// What the upper 17 bits of a light userdata are in a build without GC64, inverted (`tvislightud`): its tag is the lowest of
/// 32 bits, of which it uses 15 itself.
const LIGHT_USERDATA_UPPER: u32 = 1;

/// `GG_NUM_ASMFF`: entries of `GG_State.bcff`, the bytecode of fast functions written in assembly.
pub const ASM_FAST_FUNCTIONS: u32 = 57;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_by_their_upper_bits() {
        assert_eq!(Model::Gc64.value(u64::MAX), Value::Primitive(Tag::Nil));
        assert_eq!(Model::Gc64.value(0xfffe_ffff_ffff_ffff), Value::Primitive(Tag::True));
        assert_eq!(Model::Gc64.value((!11_u64 << 47) | 0x7f12_3456_7890), Value::Object(Tag::Table, 0x7f12_3456_7890));
        assert_eq!(Model::Gc64.value((!8_u64 << 47) | 0x4000_1000).object(Tag::Function), Some(0x4000_1000));
        assert_eq!(Model::Gc64.value(1.5_f64.to_bits()), Value::Number);
        assert_eq!(Model::Gc64.value((-1.5_f64).to_bits()), Value::Number);
        assert_eq!(Model::Gc64.value(f64::NEG_INFINITY.to_bits()), Value::Number);
        assert_eq!(Model::Gc64.value((!13_u64 << 47) | 7), Value::Number, "an integer of a dual-number build");
    }

    #[test]
    fn without_gc64_they_are_told_apart_by_their_upper_half() {
        let value = |word: u64| Model::Gc32.value(word);
        assert_eq!(value(u64::MAX), Value::Primitive(Tag::Nil));
        assert_eq!(value(0xffff_fffd_ffff_ffff), Value::Primitive(Tag::True));
        assert_eq!(value((!11_u64 << 32) | 0x4123_4560), Value::Object(Tag::Table, 0x4123_4560));
        assert_eq!(value((!4_u64 << 32) | 0xf123_4560).object(Tag::String), Some(0xf123_4560));
        assert_eq!(value(0xffff_0000_0000_0000 | 0x7ff0_1234_5678), Value::LightUserdata(0x7ff0_1234_5678));
        assert_eq!(value(0xffff_0000_0000_1000), Value::LightUserdata(0x1000));
        assert_eq!(value(1.5_f64.to_bits()), Value::Number);
        assert_eq!(value(f64::NEG_INFINITY.to_bits()), Value::Number);
        assert_eq!(value(f64::NAN.to_bits()), Value::Number);
        assert_eq!(value(0xfffe_ffff_0000_0007), Value::Number, "an integer of a dual-number build");
    }

    #[test]
    fn numbers_are_read_in_both_of_their_forms() {
        for model in Model::ALL {
            for number in [0.0, -0.0, 1.5, -1e300, f64::INFINITY, f64::NEG_INFINITY] {
                assert_eq!(model.number(number.to_bits()).to_bits(), number.to_bits());
            }
        }
        assert_eq!(Model::Gc64.number((!13_u64 << 47) | 7), 7.0);
        assert_eq!(Model::Gc64.number((!13_u64 << 47) | 0xffff_fffe), -2.0);
        assert_eq!(Model::Gc32.number(0xfffe_ffff_ffff_fffe), -2.0);
        assert_eq!(Model::Gc32.value(0xfffe_ffff_ffff_fffe), Value::Number);
    }

    #[test]
    fn a_return_pc_is_a_lua_link_whatever_its_third_bit() {
        assert_eq!(LinkType::of(0x7f00_0000_1234), LinkType::Lua);
        assert_eq!(LinkType::of(0x7f00_0000_1230), LinkType::Lua);
        assert_eq!(LinkType::of(0x45), LinkType::ProtectedC);
    }
}
