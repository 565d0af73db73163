//! How flame graphs look: what flamegraph.pl lets its users choose, under its names, too.

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use inferno::flamegraph::Palette;
use inferno::flamegraph::color::BackgroundColor;
use luaflame::format::svg::Style;

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Looks of flame graphs")]
pub(super) struct StyleArgs {
    /// Width in pixels. Without it, that of the browser's window
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(100..=100_000))]
    width: Option<u32>,

    /// Height of a box in pixels
    #[arg(long, visible_alias = "height", value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(4..=100))]
    frame_height: Option<u32>,

    /// Font
    #[arg(long, visible_alias = "fonttype", value_name = "FAMILY")]
    font: Option<String>,

    /// Size of the font in pixels
    #[arg(long, visible_alias = "fontsize", value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(4..=100))]
    font_size: Option<u32>,

    /// Colours of flamegraph.pl, by the names of functions, instead of colours by the kind of code
    #[arg(long, value_name = "PALETTE", value_parser = PossibleValuesParser::new(Palette::VARIANTS).try_map(|name| name.parse::<Palette>()))]
    colors: Option<Palette>,

    /// Background: yellow, blue, green, grey, or #rrggbb
    #[arg(long, visible_alias = "bgcolors", value_name = "COLOR")]
    background: Option<BackgroundColor>,

    /// A note for whoever reads the file's text; it is not drawn
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
}

impl StyleArgs {
    pub(super) fn style(self) -> Style {
        let Self { width, frame_height, font, font_size, colors, background, notes } = self;
        Style { width, frame_height, font, font_size, colors, background, notes }
    }
}
