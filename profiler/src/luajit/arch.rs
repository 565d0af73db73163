//! What depends on the processor and on the value model: x86-64 with GC64 (64-bit references, two-slot frames).
//!
//! Everything here is the same in every GC64 build for x86-64 POSIX systems, from 2016 to 2026 (checked by compiling the
//! headers of each revision in `layouts.json`); what differs between builds is in [`super::layout`]. Another
//! architecture, or builds without GC64, need another version of this file and of the places that use it.

/// `CFRAME_SIZE`: bytes of an activation's frame on the native stack.
pub const CFRAME_SIZE: u64 = 80;
/// `CFRAME_OFS_PREV`: the C frame of the activation below, or 0.
pub const CFRAME_PREV: u64 = 32;
/// `CFRAME_OFS_PC`: where the interpreter saves the bytecode PC (`SAVE_PC`).
pub const CFRAME_PC: u64 = 24;
/// `CFRAME_OFS_L`: the `lua_State` of the activation.
pub const CFRAME_L: u64 = 16;
/// `CFRAME_OFS_ERRF`: 32-bit stack offset of the error function.
pub const CFRAME_ERRF: u64 = 12;
/// `CFRAME_OFS_NRES`: 32-bit number of results wanted; negative is a stack offset and marks an errfunc, gc or hook call.
pub const CFRAME_NRES: u64 = 8;
/// Bits of a `cframe` pointer that are flags: `CFRAME_RESUME` 1, `CFRAME_UNWIND_FF` 2.
pub const CFRAME_FLAGS: u64 = 3;

/// Bytes of a slot of the Lua stack.
pub const SLOT_SIZE: u64 = 8;
/// `LJ_FR2`: slots of a frame beside the first one: the function is at base-2, the link at base-1.
pub const FR2: u64 = 1;

/// `LJ_GCVMASK`: the bits of a tagged value that hold a reference.
pub const POINTER_MASK: u64 = (1 << 47) - 1;

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
    /// `LJ_TNUMX`: integers of dual-number builds, and the slot of all numbers in `basemt`.
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
    /// Decodes a slot, table entry or upvalue.
    pub fn of(word: u64) -> Value {
        // The upper 17 bits are the tag, sign-extended: all ones for nil, one less for each further type.
        let tag = !((word.cast_signed() >> 47) as u32);
        let low = word & POINTER_MASK;
        match tag {
            0 => Value::Primitive(Tag::Nil),
            1 => Value::Primitive(Tag::False),
            2 => Value::Primitive(Tag::True),
            3 => Value::LightUserdata(low),
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

    /// The address of the object of this type that the value refers to.
    pub fn object(self, tag: Tag) -> Option<u64> {
        match self {
            Value::Object(of, address) if of == tag => Some(address),
            _ => None,
        }
    }
}

/// Offset of the `gct` byte in every collectable object (`GCHeader`).
pub const GCT: u64 = 9;

/// Offsets in `GCtab` and its hash part's `Node` (`lj_obj.h`).
pub mod table {
    /// `sizeof(GCtab)`.
    pub const SIZE: u64 = 64;
    /// Array part: values of the keys `0 .. asize`.
    pub const ARRAY: usize = 16;
    /// Metatable or null.
    pub const METATABLE: usize = 32;
    /// Hash part.
    pub const NODE: usize = 40;
    /// 32-bit number of slots of the array part.
    pub const ASIZE: usize = 48;
    /// 32-bit number of nodes of the hash part, minus one.
    pub const HMASK: usize = 52;
    /// `sizeof(Node)`.
    pub const NODE_SIZE: usize = 24;
    /// Value in a node.
    pub const NODE_VALUE: usize = 0;
    /// Key in a node.
    pub const NODE_KEY: usize = 8;
}

/// Offset of `v` in `GCupval`: address of the upvalue's value.
pub const UPVALUE_V: u64 = 32;

/// `GG_NUM_ASMFF`: entries of `GG_State.bcff`, the bytecode of fast functions written in assembly.
pub const ASM_FAST_FUNCTIONS: u32 = 57;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_by_their_upper_bits() {
        assert_eq!(Value::of(u64::MAX), Value::Primitive(Tag::Nil));
        assert_eq!(Value::of(0xfffe_ffff_ffff_ffff), Value::Primitive(Tag::True));
        assert_eq!(Value::of((!11_u64 << 47) | 0x7f12_3456_7890), Value::Object(Tag::Table, 0x7f12_3456_7890));
        assert_eq!(Value::of((!8_u64 << 47) | 0x4000_1000).object(Tag::Function), Some(0x4000_1000));
        assert_eq!(Value::of(1.5_f64.to_bits()), Value::Number);
        assert_eq!(Value::of((-1.5_f64).to_bits()), Value::Number);
        assert_eq!(Value::of(f64::NEG_INFINITY.to_bits()), Value::Number);
        assert_eq!(Value::of((!13_u64 << 47) | 7), Value::Number, "an integer of a dual-number build");
    }

    #[test]
    fn a_return_pc_is_a_lua_link_whatever_its_third_bit() {
        assert_eq!(LinkType::of(0x7f00_0000_1234), LinkType::Lua);
        assert_eq!(LinkType::of(0x7f00_0000_1230), LinkType::Lua);
        assert_eq!(LinkType::of(0x45), LinkType::ProtectedC);
    }
}
