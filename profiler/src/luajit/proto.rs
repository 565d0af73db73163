//! Prototypes: the code of a Lua function, with its place in the source.

use std::borrow::Cow;

use super::arch::{Model, Tag};
use super::bytecode::{Instruction, op};
use super::layout::Layout;
use super::memory::{Memory, ReadError};
use super::object::{ObjectError, Text, byte_at, reference_at, u32_at};
use super::source::{Definition, Parameters};

/// Bytes of a chunk name that are read; only source text given as a chunk name is ever longer.
pub const MAX_CHUNK_NAME: usize = 64 << 10;
/// Bytes of a prototype with its bytecode and debug information that are read; a larger one is refused. Real ones have some
/// hundred bytes, and the number of constants limits them to a few hundred thousand.
const MAX_SIZE: u32 = 4 << 20;
/// `LUA_IDSIZE`: Lua shows chunk names of source text shortened to this.
const ID_SIZE: usize = 60;
/// `firstline` of LuaJIT's own functions written in Lua.
const BUILTIN: u32 = !0;
/// `PROTO_VARARG`: any number of arguments may follow the parameters.
const VARIADIC: u8 = 0x02;
/// String constants that the digest of a prototype looks at, and bytes of each.
const DIGEST_STRINGS: u32 = 100;
const DIGEST_BYTES: usize = 256;
/// Variable names are at most this long to be believed.
const MAX_NAME: usize = 1024;
/// Bytes of the information on variables that are looked at: some thousand variables.
const MAX_VARINFO: usize = 32 << 10;
/// Bytes of a path or name that are shown; a path of more than four times that cannot be opened.
const MAX_SHOWN: usize = 1024;

/// What recognises a prototype whose address may have been reused since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    /// What identifies the chunk name's string object: [`Text::identity`].
    pub chunk: u64,
    /// First line of the definition.
    pub firstline: u32,
    /// Number of lines of the definition, minus one.
    pub numline: u32,
    /// Number of bytecode instructions.
    pub sizebc: u32,
}

/// A prototype, copied whole: what it answers later needs no more reads, and does not change when the target frees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proto {
    /// Address of the `GCproto`.
    pub address: u64,
    /// Address of the first instruction, the function header.
    pub bytecode: u64,
    /// Number of instructions.
    pub sizebc: u32,
    /// First line of the definition; 0 for a main chunk, and for every function without debug information.
    pub firstline: u32,
    /// Number of lines of the definition, minus one.
    pub numline: u32,
    /// Flags (`PROTO_*`).
    pub flags: u8,
    /// Number of fixed parameters.
    pub numparams: u8,
    /// Name of the chunk: where the source came from.
    pub chunk: ChunkName,
    fingerprint: Fingerprint,
    model: Model,
    /// The whole object.
    bytes: Vec<u8>,
    /// Offsets in `bytes` of what follows the struct; `None` when stripped.
    lineinfo: Option<usize>,
    uvinfo: Option<usize>,
    varinfo: Option<usize>,
    k: usize,
    sizekgc: u32,
    sizekn: u32,
    header: u32,
}

impl Proto {
    /// Reads the prototype at `address`.
    ///
    /// # Errors
    /// When there is no prototype, it cannot be read, or its parts do not lie inside it (LuaJIT allocates a prototype as
    /// one block).
    pub fn read(memory: &dyn Memory, layout: &Layout, address: u64) -> Result<Proto, ObjectError> {
        let fields = &layout.proto;
        let malformed = ObjectError::Malformed(Tag::Proto, address);
        let header = memory.bytes(address, fields.size as usize)?;
        if byte_at(&header, fields.gct) != Tag::Proto.gct() {
            return Err(ObjectError::NotA(Tag::Proto, address));
        }
        let size = u32_at(&header, fields.sizept);
        if size < fields.size || size > MAX_SIZE {
            return Err(malformed);
        }
        let before = Proto::fingerprint_of(memory, layout, &header)?;
        let bytes = memory.bytes(address, size as usize)?;
        let text = Text::read(memory, layout, reference_at(layout.model, &bytes, fields.chunkname), MAX_CHUNK_NAME)?;
        let fingerprint = Proto::fingerprint_of(memory, layout, &bytes)?;
        if fingerprint != before {
            return Err(malformed);
        }
        let Fingerprint { firstline, numline, sizebc, .. } = fingerprint;

        // The offset in the block of a part of `length` bytes, given by its address.
        let part = |field: u32, length: u64| -> Result<Option<usize>, ObjectError> {
            let at = reference_at(layout.model, &bytes, field);
            if at == 0 {
                return Ok(None);
            }
            let offset = at.wrapping_sub(address);
            let inside = offset >= u64::from(fields.size)
                && offset.checked_add(length).is_some_and(|end| end <= u64::from(size));
            if inside { Ok(Some(offset as usize)) } else { Err(malformed) }
        };
        let lines = u64::from(sizebc.saturating_sub(1)) * line_width(numline) as u64;
        let lineinfo = part(fields.lineinfo, lines)?;
        let uvinfo = part(fields.uvinfo, 0)?;
        let varinfo = part(fields.varinfo, 0)?;
        let sizekgc = u32_at(&bytes, fields.sizekgc);
        let k = reference_at(layout.model, &bytes, fields.k).wrapping_sub(address);
        let code_end = u64::from(fields.size) + u64::from(sizebc) * 4;
        if code_end > u64::from(size)
            || k > u64::from(size)
            || code_end + u64::from(sizekgc) * layout.model.reference_size() > k
        {
            return Err(malformed);
        }
        Ok(Proto {
            address,
            bytecode: address.wrapping_add(u64::from(fields.size)),
            sizebc,
            firstline,
            numline,
            flags: byte_at(&bytes, fields.flags),
            numparams: byte_at(&bytes, fields.numparams),
            chunk: ChunkName { text, builtin: firstline == BUILTIN },
            fingerprint,
            model: layout.model,
            lineinfo,
            uvinfo,
            varinfo,
            k: k as usize,
            sizekgc,
            sizekn: u32_at(&bytes, fields.sizekn),
            header: fields.size,
            bytes,
        })
    }

    /// The fingerprint of a prototype, from a copy of its struct.
    ///
    /// # Errors
    /// When its chunk name cannot be read.
    pub fn fingerprint_of(memory: &dyn Memory, layout: &Layout, header: &[u8]) -> Result<Fingerprint, ReadError> {
        let fields = &layout.proto;
        Ok(Fingerprint {
            chunk: Text::identity(memory, layout, reference_at(layout.model, header, fields.chunkname))?,
            firstline: u32_at(header, fields.firstline),
            numline: u32_at(header, fields.numline),
            sizebc: u32_at(header, fields.sizebc),
        })
    }

    /// Bytes of memory that this copy takes, roughly.
    pub fn size(&self) -> usize {
        size_of::<Proto>() + self.bytes.len() + self.chunk.text.bytes.len()
    }

    /// What to compare with the copy that was taken with a sample.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether this is the code of a whole file or string, not of a function in it. Without debug information every
    /// function has line 0, and this is unknown: false. LuaJIT's own test (`lj_debug_getinfo`).
    pub fn is_main_chunk(&self) -> bool {
        self.firstline == 0 && self.numline > 0
    }

    /// Whether this is one of LuaJIT's own functions that are written in Lua: they have no source and no lines.
    pub fn is_builtin(&self) -> bool {
        self.chunk.builtin
    }

    /// Whether the debug information was stripped: there are no lines and no names of variables.
    pub fn is_stripped(&self) -> bool {
        self.lineinfo.is_none() && !self.is_builtin()
    }

    /// What to look for in the source text. `None` without debug information.
    pub fn definition(&self) -> Option<Definition> {
        if self.is_stripped() {
            return None;
        }
        let mut parameters = Parameters::default();
        parameters.variadic = self.flags & VARIADIC != 0;
        for slot in 0..self.numparams {
            parameters.push(self.local_name(0, slot)?);
        }
        Some(Definition { first: self.firstline, last: self.firstline.checked_add(self.numline)?, parameters })
    }

    /// A number made of what the function does and of its constants: the same in every process and in every run,
    /// for one version of the code, and hardly ever the same for two functions.
    pub fn digest(&self, memory: &dyn Memory, layout: &Layout) -> u32 {
        // 32-bit FNV-1a.
        let mut digest = 0x811c_9dc5_u32;
        let mut add = |bytes: &[u8]| {
            for byte in bytes {
                digest = (digest ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            }
        };
        add(&[self.numparams, self.flags & VARIADIC]);
        for index in 1..self.sizebc {
            // LuaJIT rewrites loops when they are compiled or cannot be.
            if let Some(instruction) = self.instruction(index)
                && !matches!(instruction.op(), op::ITERC | op::ITERN | op::ISNEXT | op::FORI..)
            {
                add(&instruction.0.to_le_bytes());
            }
        }
        add(self.bytes.get(self.k..self.k + self.sizekn as usize * 8).unwrap_or_default());
        for index in 0..self.sizekgc.min(DIGEST_STRINGS) {
            if let Some(constant) = self.constant(index)
                && let Ok(text) = Text::read(memory, layout, constant, DIGEST_BYTES)
            {
                add(&text.bytes);
            }
        }
        digest
    }

    /// The index of the instruction at an address, 0 for the function header.
    pub fn index_of(&self, pc: u64) -> Option<u32> {
        let offset = pc.checked_sub(self.bytecode)?;
        let index = u32::try_from(offset / 4).ok()?;
        (offset.is_multiple_of(4) && index < self.sizebc).then_some(index)
    }

    /// The instruction at an index.
    pub fn instruction(&self, index: u32) -> Option<Instruction> {
        let offset = self.header.checked_add(index.checked_mul(4)?)?;
        (index < self.sizebc).then(|| Instruction(u32_at(&self.bytes, offset)))
    }

    /// The line of an instruction; the function header has the first line of the definition, the place just past the
    /// last instruction the last one. `None` when the debug information was stripped or the index is out of range.
    ///
    /// As `lj_debug_line` does it.
    pub fn line(&self, index: u32) -> Option<u32> {
        let lineinfo = self.lineinfo?;
        if self.is_builtin() || index > self.sizebc {
            return None;
        }
        if index == self.sizebc {
            return self.firstline.checked_add(self.numline);
        }
        if index == 0 {
            return Some(self.firstline);
        }
        let width = line_width(self.numline);
        let offset = lineinfo + (index as usize - 1) * width;
        let delta = match *self.bytes.get(offset..offset + width)? {
            [a] => u32::from(a),
            [a, b] => u32::from(u16::from_le_bytes([a, b])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return None,
        };
        self.firstline.checked_add(delta)
    }

    /// An instruction that `wanted` holds for, if all of these are in one line.
    pub fn only(&self, wanted: impl Fn(Instruction) -> bool) -> Option<u32> {
        let mut all = (1..self.sizebc).filter(|index| self.instruction(*index).is_some_and(&wanted));
        let first = all.next()?;
        all.all(|index| self.line(index) == self.line(first)).then_some(first)
    }

    /// Address of the constants: numbers from there on, collectable objects before it. What KBASE holds while it runs.
    pub fn constants_address(&self) -> u64 {
        self.address.wrapping_add(self.k as u64)
    }

    /// Number of constants that are collectable objects.
    pub fn constants(&self) -> u32 {
        self.sizekgc
    }

    /// Address of a collectable constant: a string, table, cdata or the prototype of a function defined in this one.
    pub fn constant(&self, index: u32) -> Option<u64> {
        let back = (index as usize).checked_add(1)?.checked_mul(self.model.reference_size() as usize)?;
        let offset = self.k.checked_sub(back)?;
        (index < self.sizekgc).then(|| reference_at(self.model, &self.bytes, offset as u32))
    }

    /// Name of an upvalue, when not stripped.
    pub fn upvalue_name(&self, index: usize) -> Option<&[u8]> {
        let end = self.varinfo.unwrap_or(self.bytes.len());
        let names = self.bytes.get(self.uvinfo?..end)?;
        let mut parts = names.split(|&byte| byte == 0);
        // What follows the last terminator is no name.
        let name = parts.nth(index)?;
        parts.next().is_some().then_some(name).filter(|name| name.len() <= MAX_NAME)
    }

    /// Name of the local variable in a slot while an instruction is run, when not stripped. As `debug_varname` does it;
    /// LuaJIT's own variables of a loop have no name here.
    pub fn local_name(&self, index: u32, slot: u8) -> Option<&[u8]> {
        self.locals(index).nth(slot.into()).flatten()
    }

    /// The local variables that there are while an instruction is run, in the order of their slots, the first of which is 0; none
    /// when stripped. LuaJIT's own variables of a loop have no name.
    pub fn locals(&self, index: u32) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.varinfo.and_then(|offset| self.bytes.get(offset..)).unwrap_or_default();
        rest = &rest[..rest.len().min(MAX_VARINFO)];
        let mut start = 0_u32;
        std::iter::from_fn(move || {
            loop {
                let variable = Variable::take(&mut rest, start)?;
                start = variable.start;
                if start > index {
                    rest = &[];
                    return None;
                }
                if index < variable.end {
                    return Some(variable.name.filter(|name| name.len() <= MAX_NAME));
                }
            }
        })
    }
}

/// An entry of the information on variables.
struct Variable<'a> {
    name: Option<&'a [u8]>,
    /// The instructions from which on and before which there is this variable.
    start: u32,
    end: u32,
}

impl<'a> Variable<'a> {
    /// Takes the next one off the front; `start` is the start of the one before it.
    fn take(rest: &mut &'a [u8], start: u32) -> Option<Variable<'a>> {
        /// `VARNAME__MAX`: names below this are LuaJIT's own.
        const OWN_NAMES: u8 = 7;
        let name = match *rest.first()? {
            0 => return None,
            own if own < OWN_NAMES => {
                *rest = &rest[1..];
                None
            }
            _ => {
                let length = rest.iter().position(|&byte| byte == 0)?;
                let name = &rest[..length];
                *rest = &rest[length + 1..];
                Some(name)
            }
        };
        let start = start.checked_add(uleb128(rest)?)?;
        let end = start.checked_add(uleb128(rest)?)?;
        Some(Variable { name, start, end })
    }
}

/// Bytes of each entry of `lineinfo`.
fn line_width(numline: u32) -> usize {
    match numline {
        0..256 => 1,
        256..65536 => 2,
        _ => 4,
    }
}

/// Takes a number in ULEB128 off the front; none is longer than the five bytes of 32 bits.
fn uleb128(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u64;
    for shift in 0..5 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * shift);
        if byte < 0x80 {
            return u32::try_from(value).ok();
        }
    }
    None
}

/// Where the source of a prototype came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChunkName {
    /// As LuaJIT has it: `@path`, `=name`, or the source itself.
    pub text: Text,
    builtin: bool,
}

impl ChunkName {
    /// The path of the source file as the target names it, relative to the target's working directory. `None` when the
    /// source is no file or the path is cut.
    pub fn path(&self) -> Option<&[u8]> {
        self.text.bytes.strip_prefix(b"@").filter(|_| !self.text.cut && !self.builtin)
    }

    /// The source text, when the chunk was compiled from a string without another name. `None` when cut.
    pub fn source(&self) -> Option<&[u8]> {
        match self.text.bytes.first() {
            None | Some(b'@' | b'=') => None,
            Some(_) if self.text.cut || self.builtin => None,
            Some(_) => Some(&self.text.bytes),
        }
    }

    /// How to show it: the path, the name, or `[string "first line..."]` as Lua writes it in messages.
    pub fn shown(&self) -> Cow<'_, str> {
        let bytes = &self.text.bytes;
        match bytes.first() {
            _ if self.builtin => {
                format!("[builtin:{}]", String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_SHOWN)])).into()
            }
            Some(b'@' | b'=') => String::from_utf8_lossy(&bytes[1..bytes.len().min(MAX_SHOWN)]),
            _ => {
                let line = bytes.iter().take(ID_SIZE - 12).take_while(|&&byte| byte >= b' ').count();
                if line == bytes.len() && !self.text.cut {
                    format!("[string \"{}\"]", self.text.text()).into()
                } else {
                    let line = &bytes[..line.min(ID_SIZE - 15)];
                    format!("[string \"{}...\"]", String::from_utf8_lossy(line)).into()
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::image::{Image, of_each_model};
    use super::*;

    /// A prototype of five instructions with this line information and variable information.
    fn proto(lines: &[u8], numline: u32, uvinfo: &[u8], varinfo: &[u8]) -> (Image, Arc<Layout>, u64) {
        let [layout, _] = of_each_model();
        proto_in(layout, lines, numline, uvinfo, varinfo)
    }

    fn proto_in(
        layout: Arc<Layout>,
        lines: &[u8],
        numline: u32,
        uvinfo: &[u8],
        varinfo: &[u8],
    ) -> (Image, Arc<Layout>, u64) {
        let model = layout.model;
        let fields = &layout.proto;
        let mut image = Image::of(&layout);
        let chunkname = image.string(&layout, b"@/srv/app.lua");
        let code = fields.size + 5 * 4 + 4;
        let size = code as usize + 8 + lines.len() + uvinfo.len() + varinfo.len();
        let address = image.allocate(size);
        let field = |offset: u32| address + u64::from(offset);
        image.write(field(fields.gct), &[Tag::Proto.gct()]);
        image.put_u32(field(fields.sizebc), 5);
        image.put_u32(field(fields.sizept), size as u32);
        image.put_u32(field(fields.firstline), 10);
        image.put_u32(field(fields.numline), numline);
        image.put_reference(model, field(fields.chunkname), chunkname);
        image.put_u32(field(fields.sizekgc), 1);
        image.put_reference(model, field(fields.k), field(code + 8));
        image.put_reference(model, field(code + 8) - model.reference_size(), 0xabcd);
        image.put_u32(field(fields.size) + 8, 0x0002_0133);
        let mut at = field(code + 8);
        for (pointer, bytes) in [(fields.lineinfo, lines), (fields.uvinfo, uvinfo), (fields.varinfo, varinfo)] {
            if !bytes.is_empty() {
                image.put_reference(model, field(pointer), at);
                image.write(at, bytes);
                at += bytes.len() as u64;
            }
        }
        (image, layout, address)
    }

    fn read(parts: &(Image, Arc<Layout>, u64)) -> Result<Proto, ObjectError> {
        Proto::read(&parts.0, &parts.1, parts.2)
    }

    #[test]
    fn lines_of_each_width() {
        let narrow = proto(&[1, 2, 2, 255], 255, &[], &[]);
        let wide = proto(&[1, 0, 2, 0, 2, 0, 0, 1], 256, &[], &[]);
        let widest = proto(&[1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 0], 65536, &[], &[]);
        for (parts, last, numline) in [(narrow, 255, 255), (wide, 256, 256), (widest, 65536, 65536)] {
            let proto = read(&parts).expect("well formed");
            let lines: Vec<_> = (0..7).map(|index| proto.line(index)).collect();
            let expected = [Some(10), Some(11), Some(12), Some(12), Some(10 + last), Some(10 + numline), None];
            assert_eq!(lines, expected, "the header is the first line, past the end is the last");
        }
    }

    #[test]
    fn a_stripped_prototype_has_code_and_no_lines() {
        for layout in of_each_model() {
            let parts = proto_in(layout, &[], 3, &[], &[]);
            let proto = read(&parts).expect("well formed");
            assert_eq!(proto.line(2), None);
            assert_eq!(proto.local_name(2, 0), None);
            assert_eq!(proto.instruction(2).map(|instruction| instruction.op()), Some(0x33));
            assert_eq!(proto.instruction(5), None);
            assert_eq!((proto.constant(0), proto.constant(1)), (Some(0xabcd), None));
            assert_eq!(proto.index_of(proto.bytecode + 8), Some(2));
            assert_eq!(proto.index_of(proto.bytecode + 9), None);
            assert_eq!(proto.index_of(proto.bytecode + 20), None);
        }
    }

    #[test]
    fn another_chunk_name_in_the_same_place_is_another_prototype() {
        let mut parts = proto(&[1, 2, 2, 3], 9, &[], &[]);
        let before = read(&parts).expect("well formed").fingerprint();
        let chunkname = parts.0.u64(parts.2 + u64::from(parts.1.proto.chunkname)).expect("readable");
        // `marked` changes at any time and means nothing; `sid` is the string's number.
        parts.0.write(chunkname + u64::from(parts.1.model.gct()) - 1, &[1]);
        assert_eq!(read(&parts).expect("well formed").fingerprint(), before);
        parts.0.put_u32(chunkname + u64::from(parts.1.string.len) - 8, 7);
        assert_ne!(read(&parts).expect("well formed").fingerprint(), before);
    }

    #[test]
    fn a_digest_tells_functions_apart_and_stays_when_they_are_compiled() {
        let digest = |parts: &(Image, Arc<Layout>, u64)| read(parts).expect("well formed").digest(&parts.0, &parts.1);
        let parts = |instruction: u32, constant: u64| {
            let mut parts = proto(&[], 3, &[], &[]);
            let (address, fields) = (parts.2, parts.1.proto);
            let k = address + u64::from(fields.size) + 32;
            parts.0.put_u32(address + u64::from(fields.size) + 8, instruction);
            // A number is in the place behind the code where others have their debug information.
            parts.0.put_u64(k - 8, 0xabcd);
            let size = fields.size + 40;
            let other = parts.0.allocate(size as usize);
            let mut bytes = parts.0.bytes(address, fields.size as usize + 32).expect("readable");
            bytes.extend(constant.to_le_bytes());
            parts.0.write(other, &bytes);
            parts.0.put_u32(other + u64::from(fields.sizept), size);
            parts.0.put_u32(other + u64::from(fields.sizekn), 1);
            parts.0.put_u64(other + u64::from(fields.k), other + u64::from(fields.size) + 32);
            parts.2 = other;
            parts
        };
        let add = parts(0x0002_0116, 7);
        let (other_code, other_number) = (parts(0x0002_0117, 7), parts(0x0002_0116, 5));
        assert_eq!(digest(&add), digest(&parts(0x0002_0116, 7)));
        assert_ne!(digest(&add), digest(&other_code));
        assert_ne!(digest(&add), digest(&other_number));
        // FORL becomes IFORL or JFORL with the number of a trace.
        let (cold, compiled) = (parts(0x7ffd_014f, 7), parts(0x0003_0151, 7));
        assert_eq!(digest(&cold), digest(&compiled));
    }

    #[test]
    fn names_of_variables_with_long_ranges() {
        for layout in of_each_model() {
            // `a` from 0 for 300 instructions, a loop's own variable from 2, `bc` from 2 for 1.
            let varinfo = [b'a', 0, 0, 0xac, 0x02, 1, 2, 5, b'b', b'c', 0, 0, 1, 0];
            let parts = proto_in(layout, &[1, 2, 2, 3], 9, b"up\0self\0", &varinfo);
            let proto = read(&parts).expect("well formed");
            assert_eq!(proto.local_name(0, 0), Some(&b"a"[..]));
            assert_eq!(proto.local_name(299, 0), Some(&b"a"[..]));
            assert_eq!(proto.local_name(300, 0), None);
            assert_eq!(proto.local_name(2, 1), None, "a loop's own variable");
            assert_eq!(proto.local_name(2, 2), Some(&b"bc"[..]));
            assert_eq!(proto.local_name(3, 2), None);
            assert_eq!(proto.upvalue_name(1), Some(&b"self"[..]));
            assert_eq!(proto.upvalue_name(2), None);
        }
    }

    #[test]
    fn variable_information_that_does_not_end_is_no_name() {
        let parts = proto(&[1, 2, 2, 3], 9, &[], b"abc");
        assert_eq!(read(&parts).expect("well formed").local_name(0, 0), None);
        let parts = proto(&[1, 2, 2, 3], 9, &[], &[b'a', 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(read(&parts).expect("well formed").local_name(0, 0), None);
    }

    #[test]
    fn parts_outside_the_prototype_are_refused() {
        let malformed = |field: fn(&super::super::layout::Proto) -> u32, value: u64| {
            let mut parts = proto(&[1, 2, 2, 3], 9, &[], &[]);
            let at = parts.2 + u64::from(field(&parts.1.proto));
            parts.0.put_u64(at, value);
            read(&parts)
        };
        let address = proto(&[1, 2, 2, 3], 9, &[], &[]).2;
        for result in [
            malformed(|fields| fields.lineinfo, 0x1000),
            malformed(|fields| fields.lineinfo, u64::MAX),
            malformed(|fields| fields.k, 0x1000),
            malformed(|fields| fields.sizekgc, 1000),
        ] {
            assert_eq!(result, Err(ObjectError::Malformed(Tag::Proto, address)));
        }
        assert!(matches!(malformed(|fields| fields.sizept, u64::from(u32::MAX)), Err(ObjectError::Malformed(..))));
        assert!(malformed(|fields| fields.chunkname, 0x1000).is_err());
        assert!(matches!(malformed(|fields| fields.gct, 4), Err(ObjectError::NotA(Tag::Proto, _))));
    }

    fn chunk(text: &[u8]) -> ChunkName {
        ChunkName { text: Text { bytes: text.to_vec(), cut: false }, builtin: false }
    }

    #[test]
    fn chunk_names_are_shown_as_lua_shows_them() {
        assert_eq!(chunk(b"@/srv/app.lua").shown(), "/srv/app.lua");
        assert_eq!(chunk(b"=content_by_lua(nginx.conf:12)").shown(), "content_by_lua(nginx.conf:12)");
        assert_eq!(chunk(b"return 1").shown(), "[string \"return 1\"]");
        assert_eq!(chunk(b"local x\nreturn x").shown(), "[string \"local x...\"]");
        assert_eq!(chunk(&[b'y'; 100]).shown(), format!("[string \"{}...\"]", "y".repeat(45)));
        assert_eq!(chunk(b"").shown(), "[string \"\"]");
        assert_eq!(chunk(b"@/srv/\xff.lua").shown(), "/srv/\u{fffd}.lua");
        assert_eq!(chunk(b"@/srv/app.lua").path(), Some(&b"/srv/app.lua"[..]));
        assert_eq!(chunk(b"=x").path(), None);
        assert_eq!(chunk(b"return 1").source(), Some(&b"return 1"[..]));
    }
}
