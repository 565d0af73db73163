//! Captures of what real programs did, each with the stacks that it must be decoded into. See docs/capture.md for how they
//! are made. Nothing here needs a privilege or a program.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Replays `tests/fixtures/NAME.luaflame` and compares it with `NAME.folded`.
fn replays(name: &str) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let output = Command::new(env!("CARGO_BIN_EXE_luaflame"))
        .args(["report", "--lines", "line", "-f", "folded", "-o", "-"])
        .arg(fixtures.join(name).with_extension("luaflame"))
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let expected = fs::read_to_string(fixtures.join(name).with_extension("folded")).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{said}");
}

#[test]
fn inlined_frames() {
    replays("inlined");
}

#[test]
fn metamethod() {
    replays("metamethod");
}

#[test]
fn coroutine() {
    replays("coroutine");
}

#[test]
fn callback_from_c() {
    replays("callback");
}
