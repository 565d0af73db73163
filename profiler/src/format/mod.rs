//! What a profile is written as, and where to.

pub mod differential;
#[cfg(test)]
pub(crate) mod example;
pub mod firefox;
pub mod folded;
pub mod functions;
pub mod label;
pub mod output;
pub mod pprof;
pub mod speedscope;
mod stapxx;
pub mod svg;
pub mod text;
mod threads;

use std::path::Path;

/// A format of profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A flame graph, see [`svg`].
    Svg,
    /// A flame graph upside down, see [`svg`].
    Icicle,
    /// Folded stacks, see [`folded`].
    Folded,
    /// Compressed protocol buffers, see [`pprof`].
    Pprof,
    /// JSON with the samples of each thread in the order of time, see [`speedscope`].
    Speedscope,
    /// JSON with the samples of each thread where they were in time, see [`firefox`].
    Firefox,
    /// A summary to read, see [`text`].
    Text,
    /// A capture without memory, see [`crate::capture`].
    Capture,
}

/// The extensions of file names, in lower case, and what they ask for; the first one of a format is that of the files that
/// we name ourselves.
const EXTENSIONS: [(&str, Format); 10] = [
    ("svg", Format::Svg),
    ("icicle.svg", Format::Icicle),
    ("folded", Format::Folded),
    ("collapsed", Format::Folded),
    ("pb.gz", Format::Pprof),
    ("pprof", Format::Pprof),
    ("speedscope.json", Format::Speedscope),
    ("firefox.json", Format::Firefox),
    ("txt", Format::Text),
    ("luaflame", Format::Capture),
];

impl Format {
    /// The format that a file name asks for by the longest extension that means one, in upper or lower case.
    pub fn of_path(path: &Path) -> Option<Format> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let is_of = |extension: &str| {
            name.strip_suffix(extension).and_then(|stem| stem.strip_suffix('.')).is_some_and(|stem| !stem.is_empty())
        };
        let fitting = EXTENSIONS.iter().filter(|(extension, _)| is_of(extension));
        fitting.max_by_key(|(extension, _)| extension.len()).map(|(_, format)| *format)
    }

    /// The extension that this format's files have when we name them.
    pub fn extension(self) -> &'static str {
        self.extensions().next().expect("every format has an extension")
    }

    /// All extensions that ask for this format.
    pub fn extensions(self) -> impl Iterator<Item = &'static str> {
        EXTENSIONS.iter().filter(move |(_, format)| *format == self).map(|(extension, _)| *extension)
    }

    /// It has a place for the line of a function's definition and another for the line being run, and leaves it to its reader
    /// which to look at.
    pub fn has_both_lines(self) -> bool {
        matches!(self, Format::Pprof | Format::Firefox)
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
            ("a.icicle.svg", Some(Format::Icicle)),
            ("icicle.svg", Some(Format::Svg)),
            ("a.folded", Some(Format::Folded)),
            ("a.b.collapsed", Some(Format::Folded)),
            ("cpu.pb.gz", Some(Format::Pprof)),
            ("cpu.svg.pb.gz", Some(Format::Pprof)),
            ("cpu.pprof", Some(Format::Pprof)),
            ("a.speedscope.json", Some(Format::Speedscope)),
            ("a.speedscope.firefox.json", Some(Format::Firefox)),
            ("speedscope.json", None),
            ("a.json", None),
            ("cpu.gz", None),
            (".pb.gz", None),
            ("a.txt", Some(Format::Text)),
            ("a.luaflame", Some(Format::Capture)),
            ("a.png", None),
            ("svg", None),
            (".svg", None),
            ("-", None),
            ("/", None),
            ("/dev/stdout", None),
        ] {
            assert_eq!(Format::of_path(Path::new(path)), format, "{path}");
        }
    }
}
