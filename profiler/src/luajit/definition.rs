//! Names of functions as the bytecode that creates them defines them.
//!
//! A closure is made by `FNEW` in the prototype that its function is defined in. Where the result goes is the name: a
//! local variable, an upvalue, a global, a field. This needs the enclosing prototype, which often is gone (that of a
//! module's main chunk is garbage once the module is loaded), and no source.

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use super::bytecode::op;
use super::layout::Layout;
use super::memory::Memory;
use super::object::Text;
use super::proto::Proto;

/// Parts of a dotted name.
const MAX_PARTS: u32 = 8;
/// Bytes of one part.
const MAX_PART: usize = 256;
/// Instructions looked back for the table that a function is stored in.
const LOOK_BACK: u32 = 64;

/// Every function that `parent` creates: the address of its prototype, and its name if it has one.
///
/// A prototype that is created at several places under different names has none. Looks at no more than `*budget` places and
/// lowers it by their number.
pub fn children(
    memory: &dyn Memory,
    layout: &Layout,
    parent: &Proto,
    budget: &mut usize,
) -> IndexMap<u64, Option<String>, FxBuildHasher> {
    let mut found = IndexMap::<_, _, FxBuildHasher>::default();
    for index in 1..parent.sizebc {
        let Some(instruction) = parent.instruction(index).filter(|instruction| instruction.op() == op::FNEW) else {
            continue;
        };
        if *budget == 0 {
            break;
        }
        *budget -= 1;
        let Some(child) = parent.constant(u32::from(instruction.d())) else { continue };
        let name = name_of(memory, layout, parent, index, instruction.a());
        match found.get_mut(&child) {
            Some(known) if *known != name => *known = None,
            Some(_) => {}
            None => {
                found.insert(child, name);
            }
        }
    }
    found
}

/// The name of what the closure in `slot`, made at `index`, is stored in by the next instruction.
fn name_of(memory: &dyn Memory, layout: &Layout, parent: &Proto, index: u32, slot: u8) -> Option<String> {
    // The slot itself is a local variable from the next instruction on: `local function f`, `local f = function`.
    let next = index.checked_add(1)?;
    if let Some(local) = parent.local_name(next, slot) {
        return Some(text(local));
    }
    let store = parent.instruction(next)?;
    match store.op() {
        op::GSET if store.a() == slot => string(memory, layout, parent, store.d()),
        op::TSETS if store.a() == slot => {
            let field = string(memory, layout, parent, u16::from(store.c()))?;
            match table(memory, layout, parent, next, store.b(), MAX_PARTS) {
                Some(table) => Some(format!("{table}.{field}")),
                None => Some(field),
            }
        }
        op::USETV if store.d() == u16::from(slot) => parent.upvalue_name(usize::from(store.a())).map(text),
        op::MOV if store.d() == u16::from(slot) => parent.local_name(next, store.a()).map(text),
        _ => None,
    }
}

/// The name of the table in `slot` at `index`: a local variable, or what was last loaded there.
fn table(memory: &dyn Memory, layout: &Layout, parent: &Proto, index: u32, slot: u8, parts: u32) -> Option<String> {
    if let Some(local) = parent.local_name(index, slot) {
        return Some(text(local));
    }
    let parts = parts.checked_sub(1)?;
    let from = index.saturating_sub(LOOK_BACK).max(1);
    let (at, load) = (from..index)
        .rev()
        .filter_map(|at| parent.instruction(at).map(|instruction| (at, instruction)))
        .find(|(_, instruction)| instruction.may_write(slot))?;
    if load.a() != slot {
        return None;
    }
    match load.op() {
        op::GGET => string(memory, layout, parent, load.d()),
        op::UGET => parent.upvalue_name(usize::from(load.d())).map(text),
        op::TGETS => {
            let field = string(memory, layout, parent, u16::from(load.c()))?;
            let table = table(memory, layout, parent, at, load.b(), parts)?;
            Some(format!("{table}.{field}"))
        }
        op::MOV => parent.local_name(at, load.d() as u8).map(text),
        _ => None,
    }
}

/// The string constant of an index.
fn string(memory: &dyn Memory, layout: &Layout, parent: &Proto, index: u16) -> Option<String> {
    let constant = parent.constant(u32::from(index))?;
    let string = Text::read(memory, layout, constant, MAX_PART).ok()?;
    (!string.cut).then(|| string.text().into_owned())
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::arch::Tag;
    use super::super::image::{Image, of_each_model};
    use super::*;

    /// What the function that the code creates is called; the code is run by a prototype with the string constants
    /// `field`, `global`, the upvalue `up` and the local variable `lo` in slot 0.
    fn name(code: &[u32]) -> Option<String> {
        let [name, without_gc64] = of_each_model().map(|layout| name_in(&layout, code));
        assert_eq!(name, without_gc64);
        name
    }

    fn name_in(layout: &Layout, code: &[u32]) -> Option<String> {
        let model = layout.model;
        let width = model.reference_size() as usize;
        let fields = &layout.proto;
        let mut image = Image::of(layout);
        let chunkname = image.string(layout, b"=x");
        let constants = [image.string(layout, b"field"), image.string(layout, b"global"), 0xc0de];
        let (uvinfo, varinfo) = (b"up\0", [b'l', b'o', 0, 0, 100, 0]);
        let k = (fields.size as usize + code.len() * 4).next_multiple_of(8) + constants.len() * width;
        let size = k + uvinfo.len() + varinfo.len();
        let address = image.allocate(size);
        let field = |offset: u32| address + u64::from(offset);
        image.write(field(fields.gct), &[Tag::Proto.gct()]);
        image.put_u32(field(fields.sizebc), code.len() as u32);
        image.put_u32(field(fields.sizept), size as u32);
        image.put_reference(model, field(fields.chunkname), chunkname);
        image.put_u32(field(fields.sizekgc), constants.len() as u32);
        image.put_reference(model, field(fields.k), address + k as u64);
        for (index, constant) in constants.into_iter().enumerate() {
            image.put_reference(model, address + (k - width - index * width) as u64, constant);
        }
        for (index, instruction) in code.iter().enumerate() {
            image.put_u32(field(fields.size) + index as u64 * 4, *instruction);
        }
        image.put_reference(model, field(fields.uvinfo), address + k as u64);
        image.write(address + k as u64, uvinfo);
        image.put_reference(model, field(fields.varinfo), address + (k + uvinfo.len()) as u64);
        image.write(address + (k + uvinfo.len()) as u64, &varinfo);
        let proto = Proto::read(&image, layout, address).expect("well formed");
        let children = children(&image, layout, &proto, &mut 100);
        assert_eq!(children.len(), 1);
        assert!(children.contains_key(&0xc0de));
        children[0].clone()
    }

    const fn ad(op: u8, a: u8, d: u16) -> u32 {
        op as u32 | (a as u32) << 8 | (d as u32) << 16
    }

    const fn abc(op: u8, a: u8, b: u8, c: u8) -> u32 {
        ad(op, a, (b as u16) << 8 | c as u16)
    }

    #[test]
    fn a_function_is_called_what_it_is_stored_in() {
        const NEW: u32 = ad(op::FNEW, 5, 2);
        const HEADER: u32 = 89;
        assert_eq!(name(&[HEADER, ad(op::FNEW, 0, 2)]).as_deref(), Some("lo"));
        assert_eq!(name(&[HEADER, NEW, ad(op::MOV, 0, 5)]).as_deref(), Some("lo"));
        assert_eq!(name(&[HEADER, NEW, ad(op::GSET, 5, 1)]).as_deref(), Some("global"));
        assert_eq!(name(&[HEADER, NEW, ad(op::USETV, 0, 5)]).as_deref(), Some("up"));
        assert_eq!(name(&[HEADER, NEW, abc(op::TSETS, 5, 0, 0)]).as_deref(), Some("lo.field"));
        let path = [HEADER, ad(op::GGET, 4, 1), abc(op::TGETS, 4, 4, 0), NEW, abc(op::TSETS, 5, 4, 0)];
        assert_eq!(name(&path).as_deref(), Some("global.field.field"));
        // The table is what a call has returned: only the field is known.
        let returned = [HEADER, ad(op::GGET, 4, 1), abc(op::CALL, 4, 2, 1), NEW, abc(op::TSETS, 5, 4, 0)];
        assert_eq!(name(&returned).as_deref(), Some("field"));
        // An argument of a call.
        assert_eq!(name(&[HEADER, NEW, abc(op::CALL, 3, 1, 2)]), None);
        // Two places, two names.
        assert_eq!(name(&[HEADER, NEW, ad(op::GSET, 5, 1), NEW, ad(op::USETV, 0, 5)]), None);
    }
}
