//! What a profile is written as, and where to.

pub mod folded;
pub mod label;
pub mod output;
pub mod svg;

use std::path::Path;

/// A format of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A flame graph, see [`svg`].
    Svg,
    /// Folded stacks, see [`folded`].
    Folded,
    /// A capture without memory, see [`crate::capture`].
    Capture,
}

impl Format {
    /// The format that a file name asks for by its extension, in upper or lower case: `svg`, one of `folded`,
    /// `collapsed`, `txt`, or `luaflame`.
    pub fn of_path(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "svg" => Some(Format::Svg),
            "folded" | "collapsed" | "txt" => Some(Format::Folded),
            "luaflame" => Some(Format::Capture),
            _ => None,
        }
    }

    /// The extension that this format's files have when we name them.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Svg => "svg",
            Format::Folded => "folded",
            Format::Capture => "luaflame",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_tells_the_format() {
        for (path, format) in [
            ("flame.svg", Some(Format::Svg)),
            ("dir.svg/FLAME.SVG", Some(Format::Svg)),
            ("a.folded", Some(Format::Folded)),
            ("a.b.collapsed", Some(Format::Folded)),
            ("a.txt", Some(Format::Folded)),
            ("a.luaflame", Some(Format::Capture)),
            ("a.png", None),
            ("svg", None),
            (".svg", None),
            ("-", None),
            ("/dev/stdout", None),
        ] {
            assert_eq!(Format::of_path(Path::new(path)), format, "{path}");
        }
    }
}
