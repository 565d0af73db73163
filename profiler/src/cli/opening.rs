//! How a file that was written is opened.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use luaflame::format::Format;

/// What opens a file of a format, as a line to read or to copy into a shell; none for text, which is opened with anything.
pub fn how_to_open(format: Format, file: &Path) -> Option<String> {
    let word = shell_word(file);
    match format {
        Format::Svg | Format::Icicle => {
            let url = file_url(&std::path::absolute(file).ok()?);
            Some(format!("open it in a browser: {url}"))
        }
        Format::Pprof => Some(format!("open it with: pprof -http=: {word}")),
        Format::Speedscope => Some(format!("open {word} in https://www.speedscope.app")),
        Format::Firefox => Some(format!("open {word} in https://profiler.firefox.com")),
        Format::Capture => Some(format!("draw it with: luaflame report {word}")),
        Format::Folded | Format::Text => None,
    }
}

/// A path as one word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
    if text.bytes().all(plain) && !text.starts_with('-') {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The URL of an absolute path (RFC 8089).
fn file_url(path: &Path) -> String {
    let mut url = "file://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => url.push(char::from(*byte)),
            byte => url += &format!("%{byte:02X}"),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_opens_the_file() {
        let open = |format, file: &str| how_to_open(format, Path::new(file));
        assert_eq!(
            open(Format::Svg, "/tmp/a b#1é.svg").unwrap(),
            "open it in a browser: file:///tmp/a%20b%231%C3%A9.svg"
        );
        assert_eq!(
            open(Format::Capture, "it's.luaflame").unwrap(),
            r"draw it with: luaflame report 'it'\''s.luaflame'"
        );
        assert_eq!(open(Format::Pprof, "a.pb.gz").unwrap(), "open it with: pprof -http=: a.pb.gz");
        assert_eq!(open(Format::Folded, "a.folded"), None);
    }

    #[test]
    fn a_relative_path_is_of_the_current_directory() {
        let here = std::env::current_dir().unwrap().join("a.svg");
        let told = how_to_open(Format::Icicle, Path::new("a.svg")).unwrap();
        assert_eq!(told, format!("open it in a browser: {}", file_url(&here)));
    }
}
