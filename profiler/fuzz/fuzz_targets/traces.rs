//! Compiled traces: the trace table, machine code, snapshots, inlined frames, exit stubs.
#![no_main]

use std::ops::Range;
use std::sync::LazyLock;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::luajit::arch::Model;
use luaflame::luajit::image::Image;
use luaflame::luajit::layout::Layout;
use luaflame::luajit::snapshot::BaseFrame;
use luaflame::luajit::trace::Position;
use luaflame::luajit::trace_map::TraceMap;
use luaflame_fuzz::hostile::{Edit, Elsewhere, Hostile};
use luaflame_fuzz::vm::LAYOUTS;

#[derive(Debug, Arbitrary)]
struct Input {
    mcofs: bool,
    edits: Vec<Edit>,
    elsewhere: Elsewhere,
    /// Offsets in the machine code of the traces, the base frame's bytecode, and further traces.
    lookups: Vec<(u16, bool, bool)>,
    bytecode: Option<Range<u64>>,
    pcs: Vec<u64>,
    numbers: Vec<u16>,
}

/// Two traces as captured from a running program.
struct Capture {
    image: Image,
    layout: &'static Layout,
    global: u64,
    function: u64,
    code: [u64; 2],
}

fn capture(text: &str, revision: &str, global: u64, function: u64, code: [u64; 2]) -> Capture {
    let has =
        |layout: &&Layout| layout.seen_in.iter().any(|seen| seen.contains(revision)) && layout.model == Model::Gc64;
    let layout = LAYOUTS.iter().map(|layout| &**layout).find(has).expect("its layout");
    let mut image = Image::of(layout);
    for line in text.lines() {
        let (address, hex) = line.split_once(' ').expect("address and bytes");
        let byte = |hex: &[u8]| u8::from_str_radix(str::from_utf8(hex).expect("ASCII"), 16).expect("a byte");
        let bytes = hex.as_bytes().chunks(2).map(byte).collect();
        image.insert(u64::from_str_radix(address, 16).expect("an address"), bytes);
    }
    Capture { image, layout, global, function, code }
}

/// What the tests of `luajit::trace` know of their fixtures.
static CAPTURES: LazyLock<[Capture; 2]> = LazyLock::new(|| {
    [
        capture(
            include_str!("../../src/luajit/fixtures/inlined-guards.mem"),
            "v2.1-20200102",
            0x7f30_8199_23e0,
            0xfffb_ff30_8199_d068,
            [0x7f30_abd8_fec5, 0x7f30_abd8_fe44],
        ),
        capture(
            include_str!("../../src/luajit/fixtures/inlined-mcofs.mem"),
            "a32aeadc",
            0x7feb_ef10_23e0,
            0xfffb_ffeb_ef10_cea0,
            [0x7feb_f3b5_fec5, 0x7feb_f3b5_fe44],
        ),
    ]
});

fuzz_target!(|input: Input| {
    let Capture { image, layout, global, function, code } = &CAPTURES[usize::from(input.mcofs)];
    let memory = Hostile::new(image.clone(), &input.edits, input.elsewhere);
    let mut map = TraceMap::new(layout, *global);
    for number in input.numbers.iter().take(8) {
        map.get(&memory, *number);
    }
    let places = input.lookups.iter().take(32).map(|(offset, second, back)| {
        let offset = i64::from(offset.cast_signed());
        (code[usize::from(*second)].wrapping_add_signed(offset), *back)
    });
    let all = (0..0x140).step_by(0x20).map(|offset| (code[0] + offset, false));
    for (pc, back) in places.chain(all).chain(input.pcs.iter().take(8).map(|pc| (*pc, true))) {
        if let Some(stubs) = map.exit_stubs(&memory) {
            stubs.exit_at(pc, |offset| Some(offset as u8));
        }
        let Some(trace) = map.lookup(&memory, pc) else { continue };
        let Some(position) = trace.position(pc, back) else { continue };
        let base = BaseFrame { function: *function, code: input.bytecode.clone() };
        for position in [position, Position { leaving: true, ..position }] {
            let _ = trace.frames(&memory, layout, position, &base);
        }
    }
});
