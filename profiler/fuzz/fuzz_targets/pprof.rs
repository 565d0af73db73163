//! Files of pprof: whatever is in one, what was read of it is written as one that is read as the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luaflame::format::pprof;
use luaflame::import::parse;
use luaflame::profile::Profile;
use luaflame::profile::view::Lines;
use luaflame_fuzz as _;

fn written(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    pprof::write(profile, Lines::Both, &mut bytes).expect("a vector takes everything");
    bytes
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(profile) = parse(bytes, "fuzz".to_owned()) else { return };
    let again = parse(&written(&profile), "again".to_owned()).expect("what we write we read");
    assert_eq!(again.counters.samples, profile.counters.samples.min(i64::MAX as u64));
});
