//! Frames as the SystemTap tools for LuaJIT write them (`lj-lua-stacks` of stapxx), so that folded stacks can be held
//! against those that somebody has: a Lua function is its chunk name and the first line of its definition,
//! `@/srv/app.lua:12` or `=content_by_lua(nginx.conf:12):0`, with `T:` before it where a trace was entered in it.
//!
//! A builtin, which is a number there, and a C function, which is an address or a symbol, are here what Lua code calls them.
//! Native and kernel functions are their bare names. The tools show the innermost one only.

use crate::format::label::{guard_ends, label, push_place};
use crate::profile::view::Lines;
use crate::profile::{Frame, FrameKind};

/// The label of a frame.
pub(super) fn stapxx(frame: &Frame, lines: Lines) -> String {
    if !frame.kind.is_lua() {
        return label(frame, lines);
    }
    let file = frame.file.as_deref().filter(|file| !file.trim().is_empty());
    let mut label = String::new();
    if frame.kind == FrameKind::Compiled {
        label.push_str("T:");
    }
    label.push_str(file.map_or("", sign));
    push_place(&mut label, file, frame, lines);
    // A main chunk is a function that begins in line 0.
    if lines == Lines::Function && frame.first_line == 0 {
        label.push_str(":0");
    }
    guard_ends(label)
}

/// What a chunk name begins with. Profiles hold names without it: those that the tools' users know are paths after `@`, and
/// after `=` either calls of nginx directives, or words in parentheses, or `stdin`.
fn sign(file: &str) -> &'static str {
    match file {
        _ if file.starts_with('[') => "",
        "stdin" => "=",
        _ if file.ends_with(')') => "=",
        _ => "@",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lua(kind: FrameKind, name: Option<&str>, file: Option<&str>, first_line: u32, line: u32) -> String {
        let (name, file) = (name.map(Into::into), file.map(Into::into));
        stapxx(&Frame { kind, name, file, first_line, line, unresolved: false }, Lines::Function)
    }

    #[test]
    fn a_lua_function_is_its_chunk_name_and_line() {
        use FrameKind::*;
        assert_eq!(lua(Interpreted, Some("handle"), Some("/srv/app.lua"), 12, 0), "@/srv/app.lua:12");
        assert_eq!(lua(Inlined, None, Some("/srv/app.lua"), 12, 0), "@/srv/app.lua:12");
        assert_eq!(lua(Compiled, Some("handle"), Some("/srv/app.lua"), 12, 0), "T:@/srv/app.lua:12");
        let chunk = Some("content_by_lua(nginx.conf:12)");
        assert_eq!(lua(Interpreted, Some("main chunk"), chunk, 0, 0), "=content_by_lua(nginx.conf:12):0");
        assert_eq!(lua(Interpreted, None, Some("stdin"), 1, 0), "=stdin:1");
        assert_eq!(lua(Interpreted, None, Some("[string \"return 1\"]"), 1, 0), "[string \"return 1\"]:1");
        assert_eq!(lua(Interpreted, None, None, 1, 0), "?:1");
    }

    #[test]
    fn other_functions_are_their_names() {
        for kind in [FrameKind::Kernel, FrameKind::Native, FrameKind::Builtin] {
            assert_eq!(lua(kind, Some("a;b"), None, 0, 0), "a:b");
        }
        assert_eq!(lua(FrameKind::Marker, Some("stack cut"), None, 0, 0), "[stack cut]");
    }

    #[test]
    fn the_line_being_run_can_be_asked_for() {
        let frame = |line| Frame {
            kind: FrameKind::Interpreted,
            name: None,
            file: Some("a.lua".into()),
            first_line: 0,
            line,
            unresolved: false,
        };
        assert_eq!(stapxx(&frame(7), Lines::Line), "@a.lua:7");
        assert_eq!(stapxx(&frame(0), Lines::Line), "@a.lua:?");
        assert_eq!(stapxx(&frame(7), Lines::None), "@a.lua");
    }
}
