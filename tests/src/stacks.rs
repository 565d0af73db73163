//! Folded stacks, read back: the one place that knows how a label is written.

use std::fmt;

use anyhow::{Context, Result};

/// A stack with the number of samples that had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Root first.
    pub frames: Vec<Frame>,
    /// Samples.
    pub count: u64,
}

/// A frame as its label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A Lua function.
    Lua(Function),
    /// A function of the kernel.
    Kernel(String),
    /// Native code, or a builtin or C function under the name that Lua code uses for it.
    Other(String),
    /// Frames are missing here, or nothing is known of this one.
    Marker(String),
}

/// A Lua function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its name, or none.
    pub name: String,
    /// Its file, as its chunk name says.
    pub file: String,
    /// First line of its definition, or the line being run if that was asked for; 0 for none, `None` for unknown.
    pub line: Option<u32>,
    /// What ran it.
    pub by: By,
}

/// What ran a Lua function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The interpreter.
    Interpreter,
    /// A trace that was entered in it.
    Trace,
    /// A trace that it was inlined in.
    Inlined,
}

/// Reads folded stacks.
///
/// # Errors
/// When a line is not frames, a space and a count, or a frame is empty.
pub fn parse(folded: &str) -> Result<Vec<Stack>> {
    folded
        .lines()
        .enumerate()
        .map(|(number, line)| {
            stack(line).with_context(|| format!("line {} of the folded stacks is not a stack: {line:?}", number + 1))
        })
        .collect()
}

fn stack(line: &str) -> Option<Stack> {
    let (frames, count) = line.rsplit_once(' ')?;
    let frames: Option<Vec<Frame>> = frames.split(';').map(Frame::parse).collect();
    Some(Stack { frames: frames?, count: count.parse().ok().filter(|count| *count > 0)? })
}

impl Frame {
    fn parse(label: &str) -> Option<Frame> {
        if label.is_empty() || label.chars().any(char::is_control) {
            return None;
        }
        if let Some(name) = label.strip_suffix("_[k]") {
            return Some(Frame::Kernel(name.to_owned()));
        }
        let (bare, by) = if let Some(bare) = label.strip_suffix("_[j]") {
            (bare, By::Trace)
        } else if let Some(bare) = label.strip_suffix("_[i]") {
            (bare, By::Inlined)
        } else {
            (label, By::Interpreter)
        };
        if bare.starts_with('[') && bare.ends_with(']') {
            return Some(Frame::Marker(bare.to_owned()));
        }
        if let Some(function) = Function::parse(bare, by) {
            return Some(Frame::Lua(function));
        }
        // The compiler inlines native functions, too.
        Some(Frame::Other(if by == By::Inlined { bare.to_owned() } else { label.to_owned() }))
    }

    /// Whether it is native code without a name: a place in a file.
    pub fn is_place(&self) -> bool {
        matches!(self, Frame::Other(name) if name.contains("+0x"))
    }

    /// The Lua function that this is.
    pub fn lua(&self) -> Option<&Function> {
        match self {
            Frame::Lua(function) => Some(function),
            _ => None,
        }
    }
}

impl Function {
    /// `name (file:12)`, `main chunk (file)`, and without a name `file:12` or `file`. A file is what ends in `.lua` or is
    /// one of nginx's directives.
    fn parse(label: &str, by: By) -> Option<Function> {
        let named = label.strip_suffix(')').and_then(|label| label.split_once(" ("));
        let (name, place) = named.unwrap_or(("", label));
        let is_file = |file: &str| file.ends_with(".lua") || directive(file).is_some();
        let (file, line) = match place.rsplit_once(':') {
            Some((file, "?")) => (file, None),
            Some((file, line)) if is_file(file) => (file, Some(line.parse().ok()?)),
            _ => (place, Some(0)),
        };
        is_file(file).then(|| Function { name: name.to_owned(), file: file.to_owned(), line, by })
    }

    /// The directive of nginx's that it is code of.
    pub fn directive(&self) -> Option<&str> {
        directive(&self.file)
    }

    /// The name of its file, without the folder.
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or_default()
    }

    /// Whether its file has this name, in whatever folder.
    pub fn is_in(&self, file_name: &str) -> bool {
        self.file_name() == file_name
    }
}

/// The directive of nginx's whose code has this chunk name: `content_by_lua(nginx.conf:12)`; those of TLS do not say where they are.
fn directive(file: &str) -> Option<&str> {
    match file.strip_suffix(')').and_then(|file| file.split_once('(')) {
        Some((name, _)) => name.ends_with("_by_lua").then_some(name),
        None => (file.starts_with("ssl_") && file.ends_with("_by_lua")).then_some(file),
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, frame) in self.frames.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator}{frame}")?;
        }
        write!(f, " {}", self.count)
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Frame::Lua(function) => write!(f, "{function}"),
            Frame::Kernel(name) => write!(f, "{name}_[k]"),
            Frame::Other(name) | Frame::Marker(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line.map_or("?".to_owned(), |line| line.to_string());
        let suffix = match self.by {
            By::Interpreter => "",
            By::Trace => "_[j]",
            By::Inlined => "_[i]",
        };
        match self.name.as_str() {
            "" => write!(f, "{}:{line}{suffix}", self.file),
            name => write!(f, "{name} ({}:{line}){suffix}", self.file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lua(name: &str, file: &str, line: Option<u32>, by: By) -> Frame {
        Frame::Lua(Function { name: name.into(), file: file.into(), line, by })
    }

    #[test]
    fn every_kind_of_label_is_read_as_what_it_is() {
        let folded = "_start;main;main chunk (samples/lua/fib.lua);pcall;fib (samples/lua/fib.lua:3)_[j];\
                      spin (samples/lua/fib.lua:?)_[i];a.lua:7;content_by_lua(nginx.conf:12);\
                      main chunk (ssl_certificate_by_lua:2);ngx_http_lua_ssl_cert_by_lua;operator() (int)_[i];\
                      [frames missing];vfs_read_[k] 12\n";
        let stacks = parse(folded).unwrap();
        assert_eq!(stacks[0].count, 12);
        assert_eq!(
            stacks[0].frames,
            [
                Frame::Other("_start".into()),
                Frame::Other("main".into()),
                lua("main chunk", "samples/lua/fib.lua", Some(0), By::Interpreter),
                Frame::Other("pcall".into()),
                lua("fib", "samples/lua/fib.lua", Some(3), By::Trace),
                lua("spin", "samples/lua/fib.lua", None, By::Inlined),
                lua("", "a.lua", Some(7), By::Interpreter),
                lua("", "content_by_lua(nginx.conf:12)", Some(0), By::Interpreter),
                lua("main chunk", "ssl_certificate_by_lua", Some(2), By::Interpreter),
                Frame::Other("ngx_http_lua_ssl_cert_by_lua".into()),
                Frame::Other("operator() (int)".into()),
                Frame::Marker("[frames missing]".into()),
                Frame::Kernel("vfs_read".into()),
            ]
        );
    }

    #[test]
    fn what_no_reader_of_folded_stacks_would_take_is_an_error() {
        for broken in ["main", "main;;x 3", "main 0", "main x", "a;b\u{7}c 2", " 3"] {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }
}
