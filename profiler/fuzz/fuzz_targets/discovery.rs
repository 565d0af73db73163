//! Finding VMs in the memory of a program that looks like one.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::luajit::discover::{Vm, discover};
use luaflame::luajit::handlers::Handlers;
use luaflame_fuzz::hostile::{Edit, Elsewhere, Hostile};
use luaflame_fuzz::vm::{LAYOUTS, Program, layout, program};

#[derive(Debug, Arbitrary)]
struct Input {
    layout: u8,
    other: u8,
    edits: Vec<Edit>,
    elsewhere: Elsewhere,
}

fuzz_target!(|input: Input| {
    let Program { image, vm, .. } = program(input.layout);
    let regions = image.regions();
    let memory = Hostile::new(image, &input.edits, input.elsewhere);
    let found = discover(&memory, &regions, &LAYOUTS);
    for unknown in &found.unknown {
        let _ = unknown.to_string();
    }
    for mut vm in found.vms {
        vm.settle(&memory, &LAYOUTS);
        let _ = vm.dispatch_targets(&memory);
        let _ = vm.registry(&memory);
        let handlers = Handlers::read(&memory, &vm).unwrap_or_default();
        handlers.edge(vm.g);
    }
    for g in [vm.g, u64::MAX - 8, 0, 1 << 47] {
        let _ = Vm::validate(&memory, g, layout(input.other));
    }
});
