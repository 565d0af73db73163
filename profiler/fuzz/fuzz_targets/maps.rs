//! `/proc/PID/maps`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use luaflame::target::maps::{parse, regions};
use luaflame_fuzz as _;

fuzz_target!(|text: &[u8]| {
    let Ok(mappings) = parse(text) else { return };
    for mapping in &mappings {
        assert!(mapping.range.start < mapping.range.end);
        let _ = (mapping.name(), mapping.is_vdso());
    }
    regions(&mappings);
});
