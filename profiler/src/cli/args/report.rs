//! `luaflame report`.

use std::path::PathBuf;

use super::drawing::DrawingArgs;
use super::plan::{Plan, Source};

#[derive(Debug, clap::Args)]
pub(super) struct ReportArgs {
    /// The capture, a file that -o FILE.luaflame or --with-memory has written
    capture: PathBuf,

    #[command(flatten)]
    drawing: DrawingArgs,
}

impl ReportArgs {
    pub(super) fn plan(self) -> Result<Plan, clap::Error> {
        let stem = self.capture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.drawing.plan(Source::Capture(self.capture), stem)
    }
}
