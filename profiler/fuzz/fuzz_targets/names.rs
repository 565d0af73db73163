//! Naming every function of a VM: modules, tables, upvalues, definitions.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::luajit::names::{Names, Sources};
use luaflame::luajit::proto::Proto;
use luaflame_fuzz::hostile::{Edit, Elsewhere, Hostile};
use luaflame_fuzz::vm::{Program, program};

#[derive(Debug, Arbitrary)]
struct Input {
    layout: u8,
    edits: Vec<Edit>,
    elsewhere: Elsewhere,
}

fuzz_target!(|input: Input| {
    let Program { image, vm, prototypes } = program(input.layout);
    let memory = Hostile::new(image, &input.edits, input.elsewhere);
    let mut names = Names::read(&memory, &vm);
    let mut sources = Sources::default();
    for address in prototypes {
        if let Ok(proto) = Proto::read(&memory, &vm.layout, address) {
            names.lua(&memory, &vm, &proto, &mut sources, &mut |_| Some((*b"function f() end").into()));
        }
    }
    for number in 0..=u8::MAX {
        names.fast_function(number);
    }
});
