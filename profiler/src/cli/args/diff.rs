//! `luaflame diff`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::ErrorKind;
use luaflame::format::Format;
use luaflame::profile::view::View;

use super::Args;
use super::values::percent;
use super::view::{LinesArg, ViewArgs};

pub(super) const EXAMPLES: &str = "\
Examples:
  luaflame diff before.luaflame after.luaflame             what grew and what shrank, as tables
  luaflame diff old.bt new.luaflame -o diff.svg            and as flame graphs, diff.svg and diff.before.svg
  luaflame diff a.luaflame b.luaflame --lua-only           Lua functions only
";

#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// The profile from before: a capture, folded stacks, or a .bt file of the SystemTap tools
    before: PathBuf,

    /// The profile from after, of any of these kinds
    after: PathBuf,

    /// File to write, can be given several times: NAME.svg is a flame graph as wide as after, with NAME.before.svg beside it as wide as before,
    /// in both what has grown is red and what has shrunk blue; NAME.txt are the tables, which else go to standard output
    #[arg(short, long = "output", value_name = "FILE")]
    outputs: Vec<PathBuf>,

    /// Leave boxes out of the flame graphs that are narrower than this share of them
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = percent)]
    min_percent: f64,

    #[command(flatten)]
    view: ViewArgs,

    /// How finely lines of Lua functions are told apart. With more than none, functions that have moved within their file are two
    #[arg(long, value_name = "HOW", default_value = "none")]
    lines: LinesArg,
}

/// Two profiles to compare.
#[derive(Debug)]
pub struct Pair {
    /// The one from before.
    pub before: PathBuf,
    /// The one from after.
    pub after: PathBuf,
    /// What of them to compare.
    pub view: View,
    /// Flame graphs to write.
    pub graphs: Vec<PathBuf>,
    /// Tables to write.
    pub tables: Vec<PathBuf>,
    /// Narrowest boxes, in percent.
    pub min_percent: f64,
}

impl DiffArgs {
    pub(super) fn pair(self) -> Result<Pair, clap::Error> {
        let (mut graphs, mut tables) = (Vec::new(), Vec::new());
        for path in self.outputs {
            match Format::of_path(&path) {
                Some(Format::Svg) => graphs.push(path),
                Some(Format::Text) => tables.push(path),
                _ if path.as_os_str() == "-" => tables.push(path),
                _ => {
                    let message = format!("'{}' is neither a flame graph (.svg) nor tables (.txt)", path.display());
                    return Err(Args::command().error(ErrorKind::ValueValidation, message));
                }
            }
        }
        if tables.is_empty() {
            tables.push(PathBuf::from("-"));
        }
        let view = self.view.view(self.lines.lines());
        Ok(Pair { before: self.before, after: self.after, view, graphs, tables, min_percent: self.min_percent })
    }
}
