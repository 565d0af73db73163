//! What a frame is, told by its text.
//!
//! Exact is only what the tools write for the purpose: `_[k]`, `_[j]` and `_[i]` at the end, `C:`, `T:`, `builtin#`, the module of a native
//! function. A function is taken for Lua if it has a place as luaflame and the SystemTap tools write it: `name (app.lua:12)`,
//! `app.lua:12`, `@app.lua:12`, `=init_by_lua(nginx.conf:3)`. Whatever is none of these is native.

use std::sync::Arc;

use crate::profile::{Frame, FrameKind};

/// The first address of the kernel on every architecture with 64 bits.
const KERNEL: u64 = 0xff00_0000_0000_0000;

/// The frame of a folded stack.
pub(super) fn frame(text: &str) -> Frame {
    let text = text.trim();
    let annotated = |suffix| text.strip_suffix(suffix);
    if let Some(name) = annotated("_[k]") {
        return other(FrameKind::Kernel, name);
    }
    if let Some(name) = annotated("_[j]") {
        return lua(FrameKind::Compiled, name).unwrap_or_else(|| other(FrameKind::Native, name));
    }
    if let Some(name) = annotated("_[i]") {
        return lua(FrameKind::Inlined, name).unwrap_or_else(|| other(FrameKind::NativeInlined, name));
    }
    if text.starts_with('[') && text.ends_with(']') {
        let marker = other(FrameKind::Marker, text.trim_start_matches('[').trim_end_matches(']'));
        return Frame { unresolved: true, ..marker };
    }
    tagged(text).or_else(|| lua(FrameKind::Interpreted, text)).unwrap_or_else(|| other(FrameKind::Native, text))
}

/// The frame of a stack of the SystemTap tools.
pub(super) fn stap_frame(text: &str) -> Frame {
    if let Some(address) = text.strip_prefix("0x") {
        let digits = address.split(' ').next().unwrap_or_default();
        let address = u64::from_str_radix(digits, 16).unwrap_or_default();
        let Some((_, symbol)) = text.split_once(" : ") else { return frame(text) };
        let symbol = symbol.trim();
        let (symbol, module) = symbol.rsplit_once(" [").unwrap_or((symbol, ""));
        let name = symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name);
        let kind = if address >= KERNEL || module == "kernel]" { FrameKind::Kernel } else { FrameKind::Native };
        let unresolved = name.starts_with("0x");
        return Frame { unresolved, ..other(kind, name) };
    }
    tagged(text)
        .or_else(|| lua(FrameKind::Interpreted, text))
        .or_else(|| looked_up(text))
        .unwrap_or_else(|| frame(text))
}

/// What the SystemTap tools say of a frame.
fn tagged(text: &str) -> Option<Frame> {
    if let Some(name) = text.strip_prefix("C:") {
        let unresolved = name.starts_with("0x");
        return Some(Frame { unresolved, ..other(FrameKind::Builtin, name) });
    }
    if text.strip_prefix("builtin#").is_some_and(|number| number.parse::<u8>().is_ok()) {
        return Some(other(FrameKind::Builtin, text));
    }
    text.strip_prefix("T:").and_then(|place| lua(FrameKind::Compiled, place).or_else(|| looked_up(place)))
}

/// `resty.core.regex:gsub`, which `fix-lua-bt` makes of a place.
fn looked_up(text: &str) -> Option<Frame> {
    let (file, name) = text.rsplit_once(':')?;
    let word = |text: &str, more: &[char]| {
        !text.is_empty() && text.chars().all(|char| char.is_alphanumeric() || char == '_' || more.contains(&char))
    };
    if !word(file, &['.', '-', '/']) || !word(name, &['.', '[', ']']) {
        return None;
    }
    Some(Frame { file: Some(file.into()), ..other(FrameKind::Interpreted, name) })
}

/// A Lua function, if the text has a place.
fn lua(kind: FrameKind, text: &str) -> Option<Frame> {
    if let Some((file, line)) = place(text) {
        return Some(Frame { name: None, file: Some(file.into()), first_line: line, ..other(kind, text) });
    }
    let (name, inner) = text.strip_suffix(')')?.split_once(" (")?;
    let (file, line) = place(inner)?;
    Some(Frame { file: Some(file.into()), first_line: line, ..other(kind, name) })
}

/// The file and line of a place: a file of Lua code, or a chunk that nginx names, perhaps with a line.
fn place(text: &str) -> Option<(&str, u32)> {
    let signed = text.strip_prefix(['@', '=']);
    let text = signed.unwrap_or(text);
    let (file, line) = match text.rsplit_once(':') {
        Some((file, "?")) => (file, Some(0)),
        Some((file, line)) if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) => {
            (file, line.parse().ok())
        }
        _ => (text, Some(0)),
    };
    let is_source = |file: &str| {
        let file = file.to_ascii_lowercase();
        [".lua", ".ljbc", ".moon", ".fnl"].iter().any(|extension| file.ends_with(extension))
            || file.contains("_by_lua(") && file.ends_with(')')
            || file.starts_with("[string \"")
    };
    (!file.is_empty() && (signed.is_some() || is_source(file) && !file.contains(" ("))).then_some((file, line?))
}

fn other(kind: FrameKind, name: &str) -> Frame {
    let name: Option<Arc<str>> = (!name.is_empty()).then(|| name.into());
    Frame { kind, name, file: None, first_line: 0, line: 0, unresolved: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (FrameKind, String, String, u32) {
        let frame = frame(text);
        let text = |part: Option<Arc<str>>| part.map(|part| part.to_string()).unwrap_or_default();
        (frame.kind, text(frame.name), text(frame.file), frame.first_line)
    }

    #[test]
    fn kinds_and_places_are_told_by_the_text() {
        use FrameKind::*;
        for (text, kind, name, file, line) in [
            ("handle (/srv/app.lua:12)", Interpreted, "handle", "/srv/app.lua", 12),
            ("handle (/srv/app.lua:12)_[j]", Compiled, "handle", "/srv/app.lua", 12),
            ("/srv/app.lua:12_[i]", Inlined, "", "/srv/app.lua", 12),
            ("main chunk (a.lua)", Interpreted, "main chunk", "a.lua", 0),
            ("content_by_lua(nginx.conf:12)", Interpreted, "", "content_by_lua(nginx.conf:12)", 0),
            ("content_by_lua(nginx.conf:12):3", Interpreted, "", "content_by_lua(nginx.conf:12)", 3),
            ("f (content_by_lua(nginx.conf:12):3)", Interpreted, "f", "content_by_lua(nginx.conf:12)", 3),
            ("@/srv/app:12", Interpreted, "", "/srv/app", 12),
            ("=stdin:1", Interpreted, "", "stdin", 1),
            ("string.gsub", Native, "string.gsub", "", 0),
            ("std::vec::Vec<T>::push", Native, "std::vec::Vec<T>::push", "", 0),
            ("a::operator() (int)", Native, "a::operator() (int)", "", 0),
            ("copy_[i]", NativeInlined, "copy", "", 0),
            ("vfs_read_[k]", Kernel, "vfs_read", "", 0),
            ("[stack cut]", Marker, "stack cut", "", 0),
            ("builtin#7", Builtin, "builtin#7", "", 0),
            ("", Native, "", "", 0),
            ("@", Native, "@", "", 0),
            (":1", Native, ":1", "", 0),
            ("a.lua:99999999999", Native, "a.lua:99999999999", "", 0),
        ] {
            assert_eq!(shown(text), (kind, name.to_owned(), file.to_owned(), line), "{text}");
        }
    }
}
