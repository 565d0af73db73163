//! Lua source text, in which functions are looked for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luaflame::luajit::source::{Definition, Parameters, SourceIndex};
use luaflame_fuzz as _;

fuzz_target!(|text: &[u8]| {
    let index = SourceIndex::new(text);
    for line in 1..4 {
        index.name(&Definition { first: line, last: line, parameters: Parameters::default() });
    }
});
