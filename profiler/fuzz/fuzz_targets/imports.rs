//! Stacks of other tools: whatever is in the file, what was read of it is written as folded stacks that are read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luaflame::format::folded;
use luaflame::import::parse;
use luaflame::profile::Profile;
use luaflame::profile::view::Lines;
use luaflame_fuzz as _;

fn written(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    folded::write(profile, Lines::Function, &mut bytes).expect("a vector takes everything");
    bytes
}

fuzz_target!(|text: &[u8]| {
    let Ok(profile) = parse(text, "fuzz".to_owned()) else { return };
    let once = written(&profile);
    let again = parse(&once, "again".to_owned()).expect("what we write we read");
    assert_eq!(again.counters.samples, profile.counters.samples);
});
