//! The text that stands for a frame, in every format.
//!
//! Names come from the memory and the files of other programs and hold anything. A label never holds what means
//! something to a format or a terminal: no `;`, no line break, no control character, no character that is invisible or
//! changes the direction of the text, nothing at its ends that readers of folded stacks take for a count, a comment or an
//! annotation. It is never empty and of bounded length.

use std::borrow::Cow;

use crate::profile::view::Lines;
use crate::profile::{Frame, FrameKind};

/// Most characters of a function's name before escaping. Demangled names of C++ templates are the longest.
pub(super) const NAME_LIMIT: usize = 240;
/// Most characters of a file or chunk name before escaping. A chunk without a name of its own is named by its whole source text.
const FILE_LIMIT: usize = 120;
/// Most characters of a file name that stands by itself: longer than paths are.
pub(super) const FILE_NAME_LIMIT: usize = 1024;
/// What brackets the digest that stands for the middle of a shortened text.
const ELLIPSIS: &str = "...";

/// The label of a frame without its annotation: `handle (app.lua:12)` for a Lua function, `app.lua:12` when it has no
/// known name, and the bare name for everything else; markers are in brackets.
///
/// The number is the first line of the definition, left out where there is none: a main chunk, and functions of stripped
/// bytecode. With [`Lines::Line`] it is the line being run, `?` when that is unknown; with [`Lines::None`] there is none.
pub fn label(frame: &Frame, lines: Lines) -> String {
    let mut label = String::new();
    let name = frame.name.as_deref().filter(|name| !name.trim().is_empty());
    let file = frame.file.as_deref().filter(|file| !file.trim().is_empty());
    match frame.kind {
        FrameKind::Interpreted | FrameKind::Compiled | FrameKind::Inlined => match name {
            Some(name) => {
                push(&mut label, name, NAME_LIMIT);
                label.push_str(" (");
                push_place(&mut label, file, frame, lines);
                label.push(')');
            }
            None => push_place(&mut label, file, frame, lines),
        },
        FrameKind::Kernel | FrameKind::Native | FrameKind::NativeInlined | FrameKind::Builtin | FrameKind::Group => {
            match (name, file) {
                (Some(name), _) => push(&mut label, name, NAME_LIMIT),
                (None, file) => push_bracketed(&mut label, file.unwrap_or("unknown")),
            }
        }
        FrameKind::Marker => push_bracketed(&mut label, name.unwrap_or("missing")),
    }
    guard_ends(label)
}

/// The name of a function as its label has it, without the place: `handle`; the place where there is no name.
pub fn name(frame: &Frame) -> String {
    match frame.name.as_deref().filter(|name| frame.kind.is_lua() && !name.trim().is_empty()) {
        Some(name) => printable(name, NAME_LIMIT),
        None => label(frame, Lines::Function),
    }
}

/// Where a function is: file and line of its definition for a Lua function, and else the program, the library or the module of the
/// kernel, if there is one.
pub fn place(frame: &Frame) -> String {
    let file = frame.file.as_deref().filter(|file| !file.trim().is_empty());
    let mut place = String::new();
    if frame.kind.is_lua() {
        push_place(&mut place, file, frame, Lines::Function);
    } else if let Some(file) = file {
        push(&mut place, file, FILE_LIMIT);
    }
    place
}

/// The suffix by which tools that draw folded stacks know the kind of a frame: `_[k]` kernel, `_[j]` JIT-compiled,
/// `_[i]` inlined, nothing for the rest.
pub fn annotation(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Kernel => "_[k]",
        FrameKind::Compiled => "_[j]",
        FrameKind::Inlined | FrameKind::NativeInlined => "_[i]",
        FrameKind::Native | FrameKind::Interpreted | FrameKind::Builtin | FrameKind::Marker | FrameKind::Group => "",
    }
}

/// A text from elsewhere, such as a command's name, made fit for a terminal or a heading: one line of at most about
/// `limit` characters, nothing in it but what can be seen.
pub fn printable(text: &str, limit: usize) -> String {
    let mut printable = String::new();
    push(&mut printable, text, limit);
    printable
}

pub(super) fn push_place(label: &mut String, file: Option<&str>, frame: &Frame, lines: Lines) {
    use std::fmt::Write;
    match file {
        // As it is where it stands by itself, so that a place can be told by that, too.
        Some(file) => push(label, &printable(file, FILE_NAME_LIMIT), FILE_LIMIT),
        None => label.push('?'),
    }
    // Writing to a string cannot fail.
    let _ = match (lines, frame.first_line, frame.line) {
        (Lines::None, ..) | (Lines::Function | Lines::Both, 0, _) => Ok(()),
        (Lines::Function | Lines::Both, first_line, _) => write!(label, ":{first_line}"),
        (Lines::Line, _, 0) => write!(label, ":?"),
        (Lines::Line, _, line) => write!(label, ":{line}"),
    };
}

fn push_bracketed(label: &mut String, text: &str) {
    let text = text.trim();
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    label.push('[');
    push(label, text, NAME_LIMIT - 2);
    label.push(']');
}

/// Adds `text` escaped, and shortened in the middle to `limit` characters. In place of what is
/// cut stands a digest of the whole, so that texts that differ only there stay apart, in every run alike. What was added can
/// be added again and stays as it is.
fn push(label: &mut String, text: &str, limit: usize) {
    // First what is there is made short: it may be megabytes.
    let text = shortened(text, limit);
    let begin = label.len();
    push_escaped(label, &text);
    if let Cow::Owned(short) = shortened(&label[begin..], limit) {
        label.truncate(begin);
        label.push_str(&short);
    }
}

fn shortened(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit || text.chars().count() <= limit {
        return Cow::Borrowed(text);
    }
    let digest = format!("{ELLIPSIS}{:08x}{ELLIPSIS}", digest(text));
    let kept = limit.saturating_sub(digest.len());
    // The end of a path says most, the start says whose it is.
    let start = text.char_indices().nth(kept / 3).map_or(0, |(index, _)| index);
    let end = text.char_indices().rev().take(kept - kept / 3).last().map_or(text.len(), |(index, _)| index);
    Cow::Owned(format!("{}{digest}{}", &text[..start], &text[end..]))
}

/// Adds `text` as Rust's `Debug` would show it, which leaves only visible characters, except that quotes and backslashes
/// stay as they are.
fn push_escaped(label: &mut String, text: &str) {
    const QUOTES: [char; 3] = ['\\', '\'', '"'];
    for piece in text.split_inclusive(QUOTES) {
        let plain = piece.strip_suffix(QUOTES).unwrap_or(piece);
        label.extend(plain.escape_debug());
        label.push_str(&piece[plain.len()..]);
    }
}

/// Removes what means something in folded stacks: the separator of frames, blanks at the ends, a leading comment sign, and
/// at the end a number (which would be a second count) or an annotation that this is not.
pub(super) fn guard_ends(label: String) -> String {
    let mut label = label.trim().replace(';', ":");
    if label.starts_with('#') {
        label.insert(0, '\\');
    }
    if let Some((_, last)) = label.rsplit_once(' ')
        && last.chars().all(|char| char.is_ascii_digit() || char == '.')
    {
        let blank = label.len() - last.len() - 1;
        label.replace_range(blank..=blank, "_");
    }
    if label.len() >= 4 && label.is_char_boundary(label.len() - 4) {
        let tail = &label.as_bytes()[label.len() - 4..];
        if tail.starts_with(b"_[") && tail.ends_with(b"]") {
            label.insert(label.len() - 3, ' ');
        }
    }
    label
}

/// 32-bit FNV-1a: the same in every run and on every machine.
fn digest(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lua(name: Option<&str>, file: Option<&str>, first_line: u32, line: u32) -> Frame {
        let (name, file) = (name.map(Into::into), file.map(Into::into));
        Frame { kind: FrameKind::Interpreted, name, file, first_line, line, unresolved: false }
    }

    fn other(kind: FrameKind, name: Option<&str>) -> Frame {
        Frame { kind, name: name.map(Into::into), file: None, first_line: 0, line: 0, unresolved: false }
    }

    #[test]
    fn lua_functions_are_named_with_their_place() {
        let handle = lua(Some("handle"), Some("/srv/app.lua"), 12, 14);
        assert_eq!(label(&handle, Lines::Function), "handle (/srv/app.lua:12)");
        assert_eq!(label(&handle, Lines::Line), "handle (/srv/app.lua:14)");
        assert_eq!(label(&handle, Lines::None), "handle (/srv/app.lua)");
        let unnamed = lua(None, Some("/srv/app.lua"), 12, 14);
        assert_eq!(label(&unnamed, Lines::Function), "/srv/app.lua:12");
        assert_eq!(label(&unnamed, Lines::Line), "/srv/app.lua:14");
        assert_eq!(label(&unnamed, Lines::None), "/srv/app.lua");
    }

    #[test]
    fn name_and_place_can_stand_apart() {
        let apart = |frame: &Frame| (name(frame), place(frame));
        let handle = lua(Some("han\u{1b}dle"), Some("/srv/app.lua"), 12, 14);
        assert_eq!(apart(&handle), ("han\\u{1b}dle".into(), "/srv/app.lua:12".into()));
        let unnamed = lua(None, Some("app.lua"), 12, 14);
        assert_eq!(apart(&unnamed), ("app.lua:12".into(), "app.lua:12".into()));
        let native = Frame { file: Some("libc.so\n".into()), ..other(FrameKind::Native, Some("memcpy")) };
        assert_eq!(apart(&native), ("memcpy".into(), "libc.so\\n".into()));
        assert_eq!(apart(&other(FrameKind::Marker, Some("cut"))), ("[cut]".into(), String::new()));
    }

    #[test]
    fn an_unknown_line_is_not_passed_off_as_the_first() {
        assert_eq!(label(&lua(Some("handle"), Some("app.lua"), 12, 0), Lines::Line), "handle (app.lua:?)");
    }

    #[test]
    fn a_main_chunk_has_no_line() {
        let chunk = lua(None, Some("content_by_lua(nginx.conf:12)"), 0, 3);
        assert_eq!(label(&chunk, Lines::Function), "content_by_lua(nginx.conf:12)");
        assert_eq!(label(&chunk, Lines::Line), "content_by_lua(nginx.conf:12):3");
        assert_eq!(label(&lua(Some("main chunk"), Some("a.lua"), 0, 3), Lines::Function), "main chunk (a.lua)");
    }

    #[test]
    fn nothing_is_ever_without_a_label() {
        assert_eq!(label(&lua(None, None, 0, 0), Lines::Function), "?");
        assert_eq!(label(&lua(Some(""), Some(""), 7, 0), Lines::Function), "?:7");
        assert_eq!(label(&other(FrameKind::Native, None), Lines::Function), "[unknown]");
        assert_eq!(label(&other(FrameKind::Kernel, Some(" ")), Lines::Function), "[unknown]");
        assert_eq!(label(&other(FrameKind::Marker, None), Lines::Function), "[missing]");
        let module = Frame { file: Some("libfoo.so".into()), ..other(FrameKind::Native, None) };
        assert_eq!(label(&module, Lines::Function), "[libfoo.so]");
    }

    #[test]
    fn markers_are_in_one_pair_of_brackets() {
        assert_eq!(label(&other(FrameKind::Marker, Some("stack cut")), Lines::Function), "[stack cut]");
        assert_eq!(label(&other(FrameKind::Marker, Some("[stack cut]")), Lines::Function), "[stack cut]");
    }

    #[test]
    fn source_text_as_chunk_name_is_one_visible_line() {
        let chunk = lua(None, Some("local a = 'x';\nreturn a\t\"\\\0\u{1b}[31m"), 1, 0);
        assert_eq!(label(&chunk, Lines::Function), "local a = 'x':\\nreturn a\\t\"\\\\0\\u{1b}[31m:1");
    }

    #[test]
    fn invisible_and_direction_changing_characters_show() {
        let evil = other(FrameKind::Native, Some("a\u{202e}b\u{200b}c\u{2028}d\u{feff}e\u{ffff}f\u{85}g"));
        assert_eq!(label(&evil, Lines::Function), "a\\u{202e}b\\u{200b}c\\u{2028}d\\u{feff}e\\u{ffff}f\\u{85}g");
        let fine = other(FrameKind::Native, Some("naïve_日本語_e\u{301}"));
        assert_eq!(label(&fine, Lines::Function), "naïve_日本語_e\u{301}");
    }

    #[test]
    fn ends_mean_nothing_to_readers_of_folded_stacks() {
        let native = |name| label(&other(FrameKind::Native, Some(name)), Lines::Function);
        assert_eq!(native("# comment"), "\\# comment");
        assert_eq!(native("chunk 12"), "chunk_12");
        assert_eq!(native("chunk 1.5"), "chunk_1.5");
        assert_eq!(native("not_kernel_[k]"), "not_kernel_ [k]");
        assert_eq!(native("  padded "), "padded");
        assert_eq!(native("é[]"), "é[]");
    }

    #[test]
    fn long_names_are_short_and_still_differ() {
        let long = |middle: &str| {
            let path = format!("/start/{}{middle}{}/handler.lua", "x/".repeat(4000), "y/".repeat(4000));
            label(&lua(Some("handle"), Some(&path), 3, 0), Lines::Function)
        };
        let (one, two) = (long("a"), long("b"));
        assert!(one.starts_with("handle (/start/x/") && one.ends_with("/handler.lua:3)"), "{one}");
        assert!(one.chars().count() < 160, "{one}");
        assert_ne!(one, two);
        assert_eq!(one, long("a"));
        let wide = label(&other(FrameKind::Native, Some(&"ß日".repeat(5000))), Lines::Function);
        assert!(wide.chars().count() < 260, "{wide}");
    }
}
