//! `luaflame report`.

use std::path::PathBuf;

use super::drawing::DrawingArgs;
use super::plan::{Plan, Source};

pub(super) const EXAMPLES: &str = "\
Examples:
  luaflame report samples.luaflame -o flame.svg
  luaflame report samples.luaflame --lua-only --lines line -o lines.svg
  luaflame report samples.luaflame --by thread -f text -o - | less
";

#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// A capture, which -o FILE.luaflame or --with-memory has written; folded stacks; or a .bt file of the SystemTap tools
    /// (lj-lua-stacks, ngx-sample-lua-bt, sample-bt), before or after fix-lua-bt
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    drawing: DrawingArgs,
}

impl ReportArgs {
    pub(super) fn plan(self) -> Result<Plan, clap::Error> {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.drawing.plan(Source::File(self.file), stem)
    }
}
