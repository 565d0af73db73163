//! ELF images: headers, `.eh_frame`, symbols, DWARF.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame_fuzz as _;

/// The image comes last, so that a whole file is an input with a short head.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    addresses: [u32; 4],
    stack: [u32; 6],
    image: &'a [u8],
}

fuzz_target!(|input: Input| {
    let addresses = input.addresses.map(|address| u64::from(address as i32 as i64 as u64));
    // Small addresses, where small images are.
    let small = input.addresses.map(|address| u64::from(address & 0xffff));
    let stack = input.stack.map(|word| u64::from(word));
    luaflame::native::fuzzing::read(input.image.to_vec(), &[addresses, small].concat(), &stack);
});
