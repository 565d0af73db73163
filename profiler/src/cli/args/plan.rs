//! What is to be drawn, as plain options.

use std::ffi::OsString;
use std::path::PathBuf;

use luaflame::format::Format;
use luaflame::format::svg::Style;
use luaflame::profile::view::{Lines, View};
use luaflame::record;

use super::values::Named;

/// What to draw of what.
#[derive(Debug)]
pub struct Plan {
    /// Where the samples are from.
    pub source: Source,
    /// What of it to draw.
    pub view: View,
    /// Folded stacks have frames as stapxx writes them.
    pub stapxx: bool,
    /// What to write, and where: one or more.
    pub outputs: Vec<(Destination, Format)>,
    /// Heading, when one is asked for.
    pub title: Option<String>,
    /// Its second line, when one is asked for.
    pub subtitle: Option<String>,
    /// Narrowest boxes of a flame graph, in percent of it.
    pub min_percent: f64,
    /// How flame graphs look.
    pub style: Style,
    /// Much that is unresolved is an error.
    pub strict: bool,
}

/// Where samples are from.
#[derive(Debug)]
pub enum Source {
    /// Processes.
    Processes {
        /// Those that run already.
        processes: Vec<Named>,
        /// A program to start first, with its arguments; without one, none.
        program: Vec<OsString>,
        /// What to record of them; which ones they are is found out then.
        options: record::Options,
        /// Where to write a capture, too.
        with_memory: Option<PathBuf>,
    },
    /// A capture, or stacks of another tool.
    File(PathBuf),
}

/// Where to write.
#[derive(Debug)]
pub enum Destination {
    /// To this path, or to standard output when it is `-`.
    Path(PathBuf),
    /// To a new file in the current directory, named like this without its extension.
    Unused(String),
}

impl Plan {
    /// What is shown in a format: one that has a place for both lines of a function gets both.
    pub fn view_for(&self, format: Format) -> View {
        let lines = match self.view.lines {
            Lines::Function | Lines::Line if format.has_both_lines() => Lines::Both,
            lines => lines,
        };
        View { lines, ..self.view.clone() }
    }
}
