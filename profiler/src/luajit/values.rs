//! Values of Lua, as a person reads them.

use std::fmt::Write;

use super::arch::{Tag, Value};
use super::discover::Vm;
use super::frames::Kind;
use super::memory::Memory;
use super::object::{Table, Text, byte_at, reference_at};
use super::thread::kind;

/// Bytes of a string that are shown.
const MAX_STRING: usize = 60;
/// Bytes of the name that a metatable gives to its kind of object.
const MAX_NAME: usize = 60;
/// `CTID_INT64` and `CTID_UINT64` (`lj_ctype.h`): the C types of `1LL` and `1ULL`.
const INT64: u16 = 11;
const UINT64: u16 = 12;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shown {
    /// Its type, as the function `type` calls it.
    pub kind: &'static str,
    /// What it is.
    pub text: String,
    /// Of a function, its address and what it is: its name is not looked up here.
    pub function: Option<(u64, Kind)>,
}

impl Shown {
    fn of(kind: &'static str, text: impl Into<String>) -> Shown {
        Shown { kind, text: text.into(), function: None }
    }
}

/// The value in a word of a VM. Objects are read; what is no object any more says so.
pub fn shown(memory: &dyn Memory, vm: &Vm, word: u64) -> Shown {
    let model = vm.layout.model;
    match model.value(word) {
        Value::Primitive(Tag::Nil) => Shown::of("nil", "nil"),
        Value::Primitive(tag) => Shown::of("boolean", if tag == Tag::True { "true" } else { "false" }),
        Value::Number => Shown::of("number", number(model.number(word))),
        Value::LightUserdata(bits) => Shown::of("userdata", format!("light userdata {bits:#x}")),
        Value::Object(tag, address) => object(memory, vm, tag, address),
    }
}

fn object(memory: &dyn Memory, vm: &Vm, tag: Tag, address: u64) -> Shown {
    let (kind_name, text) = match tag {
        Tag::String => ("string", string(memory, vm, address)),
        Tag::Table => ("table", table(memory, vm, address)),
        Tag::Function => {
            let function = Some((address, kind(memory, &vm.layout, address)));
            return Shown { kind: "function", text: format!("function {address:#x}"), function };
        }
        Tag::Userdata => ("userdata", userdata(memory, vm, address)),
        Tag::Cdata => ("cdata", cdata(memory, vm, address)),
        Tag::Thread => ("thread", Some(format!("thread {address:#x}"))),
        // These are no values of Lua, but may be in slots that are not in use.
        _ => ("unknown", None),
    };
    Shown::of(kind_name, text.unwrap_or_else(|| format!("unreadable {address:#x}")))
}

/// As Lua writes it, except that all digits are written that matter.
fn number(number: f64) -> String {
    if number.is_nan() {
        "nan".to_owned()
    } else if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.0}")
    } else {
        format!("{number:?}")
    }
}

/// In quotes, with escapes for what is not visible; of a long one the beginning, and how long it is.
fn string(memory: &dyn Memory, vm: &Vm, address: u64) -> Option<String> {
    let text = Text::read(memory, &vm.layout, address, MAX_STRING).ok()?;
    let mut shown = String::from("\"");
    for chunk in text.bytes.utf8_chunks() {
        shown.extend(chunk.valid().chars().flat_map(|char| match char {
            '\'' => "'".chars().collect::<Vec<char>>(),
            char => char.escape_debug().collect(),
        }));
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    if text.cut {
        let length = memory.u32(address.wrapping_add(u64::from(vm.layout.string.len))).ok()?;
        let _ = write!(shown, "\"... ({length} bytes)");
    } else {
        shown.push('"');
    }
    Some(shown)
}

fn table(memory: &dyn Memory, vm: &Vm, address: u64) -> Option<String> {
    let table = Table::read(memory, vm.layout.model, address).ok()?;
    let global = vm.g..vm.g.wrapping_add(u64::from(vm.layout.global_state.size));
    let name = name(memory, vm, table.metatable).map_or_else(String::new, |name| format!("{name} "));
    let (array, hash) = table.sizes(&global);
    Some(format!("{name}table {address:#x} (array {array}, hash {hash})"))
}

fn userdata(memory: &dyn Memory, vm: &Vm, address: u64) -> Option<String> {
    /// `UDTYPE_IO_FILE`.
    const FILE: u8 = 1;
    let model = vm.layout.model;
    // A userdata has its metatable where a table has it.
    let at = model.table().metatable;
    let bytes = memory.bytes(address, at as usize + model.reference_size() as usize).ok()?;
    if byte_at(&bytes, model.gct()) != Tag::Userdata.gct() {
        return None;
    }
    let name = name(memory, vm, reference_at(model, &bytes, at));
    let name = name.or_else(|| (byte_at(&bytes, model.gct() + 1) == FILE).then(|| "file".to_owned()));
    Some(format!("{}userdata {address:#x}", name.map_or_else(String::new, |name| name + " ")))
}

fn cdata(memory: &dyn Memory, vm: &Vm, address: u64) -> Option<String> {
    let model = vm.layout.model;
    let bytes = memory.bytes(address, model.cdata_size() as usize).ok()?;
    if byte_at(&bytes, model.gct()) != Tag::Cdata.gct() {
        return None;
    }
    let id = u16::from(byte_at(&bytes, model.gct() + 1)) | u16::from(byte_at(&bytes, model.gct() + 2)) << 8;
    let payload = || memory.u64(address.wrapping_add(u64::from(model.cdata_size()))).ok();
    Some(match id {
        INT64 => format!("{}LL", payload()?.cast_signed()),
        UINT64 => format!("{}ULL", payload()?),
        id => format!("cdata {address:#x} (C type {id})"),
    })
}

/// What a metatable calls its kind of object (`__name`).
fn name(memory: &dyn Memory, vm: &Vm, metatable: u64) -> Option<String> {
    if metatable == 0 {
        return None;
    }
    let name = vm.value(memory, metatable, "__name", Tag::String)?;
    let text = Text::read(memory, &vm.layout, name, MAX_NAME).ok()?;
    Some(text.text().escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use super::super::arch::Model;
    use super::super::image::{Image, of_each_model, plain_vm, reference};
    use super::*;

    #[test]
    fn values_are_shown_as_lua_code_has_them() {
        for layout in of_each_model() {
            let model = layout.model;
            let mut image = Image::of(&layout);
            let vm = plain_vm(&mut image, &layout);
            let nil = reference(model, Tag::Nil, model.reference_mask());
            let yes = reference(model, Tag::True, model.reference_mask());
            let int = match model {
                Model::Gc64 => (!13_u64 << 47) | 0xffff_fff9,
                Model::Gc32 => 0xfffe_ffff_ffff_fff9,
            };
            let string = image.string(&layout, b"it's \"7\"\n\xff");
            let long = image.string(&layout, &[b'x'; 1000]);
            let kind = image.string(&layout, b"queue");
            let metatable = image.table(&layout, &[("__name", reference(model, Tag::String, kind))]);
            let table = image.table(&layout, &[("a", 0), ("b", 0)]);
            image.put_reference(model, table + u64::from(model.table().metatable), metatable);
            image.put_u32(table + u64::from(model.table().asize), 4);
            let cdata = image.allocate(32);
            image.write(cdata + u64::from(model.gct()), &[Tag::Cdata.gct(), 12, 0]);
            image.put_u64(cdata + u64::from(model.cdata_size()), 7);
            let tagged = |tag, address| reference(model, tag, address);
            for (word, kind, text) in [
                (nil, "nil", "nil".to_owned()),
                (yes, "boolean", "true".to_owned()),
                (1.5_f64.to_bits(), "number", "1.5".to_owned()),
                (1e300_f64.to_bits(), "number", "1e300".to_owned()),
                ((-3.0_f64).to_bits(), "number", "-3".to_owned()),
                (f64::NEG_INFINITY.to_bits(), "number", "-inf".to_owned()),
                (int, "number", "-7".to_owned()),
                (tagged(Tag::String, string), "string", "\"it's \\\"7\\\"\\n\\xff\"".to_owned()),
                (tagged(Tag::String, long), "string", format!("\"{}\"... (1000 bytes)", "x".repeat(60))),
                (tagged(Tag::Table, table), "table", format!("queue table {table:#x} (array 3, hash 2)")),
                (tagged(Tag::Cdata, cdata), "cdata", "7ULL".to_owned()),
                (tagged(Tag::Thread, 0x1230), "thread", "thread 0x1230".to_owned()),
                (tagged(Tag::Table, string), "table", format!("unreadable {string:#x}")),
                (tagged(Tag::String, 0x10), "string", "unreadable 0x10".to_owned()),
            ] {
                let shown = shown(&image, &vm, word);
                assert_eq!((shown.kind, shown.text), (kind, text));
            }
        }
    }
}
