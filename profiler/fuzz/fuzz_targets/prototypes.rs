//! Prototypes: bytecode, lines, variables, and the functions that they define.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::luajit::definition::children;
use luaflame::luajit::image::Image;
use luaflame::luajit::object::Text;
use luaflame::luajit::proto::Proto;
use luaflame_fuzz::hostile::{Edit, Elsewhere, Hostile};
use luaflame_fuzz::vm::{layout, prototype};

#[derive(Debug, Arbitrary)]
struct Input {
    layout: u8,
    chunkname: Vec<u8>,
    edits: Vec<Edit>,
    elsewhere: Elsewhere,
    indexes: Vec<(u32, u8)>,
}

fuzz_target!(|input: Input| {
    let layout = layout(input.layout);
    let mut image = Image::of(layout);
    let inner = prototype(&mut image, layout, b"=inner", [0, 0]);
    let outer = prototype(&mut image, layout, &input.chunkname, [inner, inner]);
    let memory = Hostile::new(image, &input.edits, input.elsewhere);
    for address in [outer, inner, 0, u64::MAX] {
        let _ = Text::read(&memory, layout, address, 100);
        let Ok(proto) = Proto::read(&memory, layout, address) else { continue };
        children(&memory, layout, &proto, &mut 1000);
        let _ = (proto.chunk.shown(), proto.chunk.path(), proto.chunk.source(), proto.definition());
        proto.digest(&memory, layout);
        proto.only(|instruction| instruction.op() == 0x4b);
        let indexes = input.indexes.iter().copied().take(64);
        for (index, slot) in indexes.chain((0..8).map(|index| (index, index as u8))) {
            proto.line(index);
            proto.instruction(index);
            proto.constant(index);
            proto.local_name(index, slot);
            proto.upvalue_name(index as usize);
            proto.index_of(proto.bytecode.wrapping_add(index.into()));
        }
    }
});
