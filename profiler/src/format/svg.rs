//! The flame graph: an SVG that a browser lets the reader zoom and search, drawn by inferno.
//!
//! The colour of a box is the kind of its frame, and a legend below the graph says which is which. Black text is legible on
//! every colour, and kinds can be told apart with any kind of colour blindness, too: orange and green for Lua, yellow where it calls out, blue for
//! native code, purple for the kernel.

use std::io::{self, Write};

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Direction, Palette, TextTruncateDirection};

use crate::format::folded::Folded;
use crate::format::label::{annotation, label, printable};
use crate::profile::view::Lines;
use crate::profile::{FrameKind, Profile};

/// Every kind in the order of the legend, from the language outwards.
const LEGEND: [(FrameKind, &str, Color); 9] = [
    (FrameKind::Interpreted, "Lua, interpreted", Color { r: 0xff, g: 0x9a, b: 0x5c }),
    (FrameKind::Compiled, "Lua, JIT-compiled", Color { r: 0x38, g: 0xd5, b: 0x93 }),
    (FrameKind::Inlined, "Lua, inlined by the JIT", Color { r: 0xac, g: 0xff, b: 0xc9 }),
    (FrameKind::Builtin, "builtin or C function of Lua", Color { r: 0xf2, g: 0xdd, b: 0x4e }),
    (FrameKind::Native, "native", Color { r: 0x8e, g: 0xbc, b: 0xf4 }),
    (FrameKind::NativeInlined, "native, inlined", Color { r: 0xdb, g: 0xfa, b: 0xff }),
    (FrameKind::Kernel, "kernel", Color { r: 0xb8, g: 0x7a, b: 0xfb }),
    (FrameKind::Marker, "frames missing", Color { r: 0x98, g: 0x98, b: 0x98 }),
    (FrameKind::Group, "not code", Color { r: 0xc6, g: 0xc6, b: 0xc6 }),
];

/// The bottommost box, which stands for all samples.
const ALL: Color = Color { r: 0xe4, g: 0xe4, b: 0xe4 };

/// Most characters of the title and the subtitle: what fits above a graph of common width.
pub(super) const HEADING_LIMIT: usize = 160;

/// Most boxes that are drawn: some 5 MB, which browsers still scroll.
pub(super) const BOX_LIMIT: usize = 50_000;

/// Which way stacks grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Up: callers are below what they call.
    Flame,
    /// Down: callers are above what they call.
    Icicle,
}

/// What is above a flame graph, and how it is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Drawing<'a> {
    /// Which way its stacks grow.
    pub shape: Shape,
    /// The heading.
    pub title: &'a str,
    /// What stands below it; without it, what is known about how the samples were taken.
    pub subtitle: Option<&'a str>,
    /// Boxes that are narrower than this are left out, in percent of the widest.
    pub min_percent: f64,
    /// How it looks.
    pub style: &'a Style,
}

/// How a flame graph looks, where not as we have it look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Style {
    /// Width in pixels; without it, that of the window that it is shown in.
    pub width: Option<u32>,
    /// Height of a box in pixels.
    pub frame_height: Option<u32>,
    /// Family of the font.
    pub font: Option<String>,
    /// Size of the font in pixels.
    pub font_size: Option<u32>,
    /// Colours by the names of functions instead of by their kind; then there is no legend.
    pub colors: Option<Palette>,
    /// Colour behind the boxes.
    pub background: Option<BackgroundColor>,
    /// A text in the file that is not drawn.
    pub notes: Option<String>,
}

impl Style {
    fn apply(&self, options: &mut flamegraph::Options<'_>) {
        options.image_width = self.width.map(|width| width as usize);
        if let Some(height) = self.frame_height {
            options.frame_height = height as usize;
        }
        if let Some(font) = &self.font {
            options.font_type.clone_from(font);
        }
        if let Some(size) = self.font_size {
            options.font_size = size as usize;
        }
        options.bgcolors = Some(self.background.unwrap_or(WHITE));
        if let Some(notes) = &self.notes {
            options.notes.clone_from(notes);
        }
    }
}

pub(super) const WHITE: BackgroundColor = BackgroundColor::Flat(Color { r: 0xff, g: 0xff, b: 0xff });

/// Draws a profile that holds at least one stack.
///
/// # Errors
/// Those of `writer`, and [`io::ErrorKind::InvalidData`] when the profile holds no stack.
pub fn write(profile: &Profile, lines: Lines, drawing: &Drawing<'_>, writer: &mut dyn Write) -> io::Result<()> {
    let mut palette = PaletteMap::default();
    palette.insert("", ALL);
    let mut folded = Folded::new([profile], |frame| {
        let label = label(frame, lines) + svg_annotation(frame.kind);
        if palette.get(&label).is_none() {
            palette.insert(&label, shade(frame.kind, &label));
        }
        label
    });
    let total: u64 = profile.stacks().map(|(_, count)| count).sum();
    let asked = (total as f64 * drawing.min_percent / 100.0).ceil() as u64;
    let thinnest = thinnest(folded.widths(0), BOX_LIMIT).max(asked);
    folded.leave_out_under(0, thinnest);
    let mut options = flamegraph::Options::default();
    // A percentage; half a sample below the limit is on the safe side of rounding.
    options.min_width = (thinnest as f64 - 0.5) * 100.0 / total.max(1) as f64;
    options.direction = match drawing.shape {
        Shape::Flame => Direction::Straight,
        Shape::Icicle => Direction::Inverted,
    };
    options.title = printable(drawing.title, HEADING_LIMIT);
    let subtitle = drawing.subtitle.map_or_else(|| subtitle(profile, total, thinnest), str::to_owned);
    options.subtitle = Some(printable(&subtitle, HEADING_LIMIT));
    match drawing.style.colors {
        Some(colors) => (options.colors, options.hash) = (colors, true),
        None => options.palette_map = Some(&mut palette),
    }
    drawing.style.apply(&mut options);
    options.text_truncate_direction = TextTruncateDirection::Right;
    // The default mode insists on lines in the order of their bytes, in which `a`, `a.b`, `a;c` tear the box of `a` apart.
    // The mode for charts draws lines from last to first, and its boxes are otherwise the same.
    options.flame_chart = true;
    let lines: Vec<String> = folded.lines().rev().collect();
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().map(|line| &**line), &mut svg)?;
    // Whatever is drawn last before the end of the document's root is drawn over it, and nothing inferno does knows of it.
    match svg.strip_suffix(b"</svg>") {
        Some(graph) => {
            writer.write_all(graph)?;
            if drawing.style.colors.is_none() {
                writer.write_all(legend(profile).as_bytes())?;
            }
            writer.write_all(b"</svg>\n")
        }
        None => writer.write_all(&svg),
    }
}

/// The annotation that keeps frames of different kinds apart. inferno strips it from what it shows, and merges and colours
/// by the whole: so Lua's `select` needs one as well, or it would be libc's.
fn svg_annotation(kind: FrameKind) -> &'static str {
    match kind {
        FrameKind::Builtin => "_[w]",
        kind => annotation(kind),
    }
}

/// The colour of the kind, in one of four tones by name, so that neighbours of a kind can be told apart and a function looks
/// the same in every graph.
fn shade(kind: FrameKind, label: &str) -> Color {
    let Some((.., base)) = LEGEND.iter().find(|entry| entry.0 == kind) else { return ALL };
    let sum = label.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let tone = (sum ^ (sum >> 16)) % 4;
    let lighter = |channel: u8| (u32::from(channel) + (255 - u32::from(channel)) * tone * 6 / 100) as u8;
    Color { r: lighter(base.r), g: lighter(base.g), b: lighter(base.b) }
}

/// What was profiled and how: `nginx 4711 | 99 Hz of cpu-clock | 10.0 s | 990 samples, 0 lost | LuaJIT 2.1.0-beta3`.
fn subtitle(profile: &Profile, total: u64, thinnest: u64) -> String {
    let meta = &profile.meta;
    let counters = &profile.counters;
    let mut parts = Vec::new();
    if let Some((pid, name)) = meta.processes.first() {
        let more = match meta.processes.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        parts.push(format!("{} {pid}{more}", printable(name, 32)));
    }
    // Stacks of other tools do not say how they were taken.
    if meta.frequency > 0 {
        parts.push(format!("{} Hz of {}", meta.frequency, meta.event));
        parts.push(format!("{:.1} s", meta.seconds));
    }
    parts.push(format!("{} samples, {} lost", counters.samples, counters.lost));
    if let Some((version, more)) = meta.luajit.split_first() {
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        parts.push(format!("{}{more}", printable(version, 32)));
    }
    if total < counters.samples {
        parts.push(format!("{} of them not drawn", counters.samples - total));
    }
    if thinnest > 1 {
        parts.push(format!("no boxes under {thinnest} samples"));
    }
    parts.join(" | ")
}

/// Samples of the thinnest boxes to draw, so that there are no more than `limit`.
pub(super) fn thinnest(mut boxes: Vec<u64>, limit: usize) -> u64 {
    if boxes.len() <= limit {
        return 1;
    }
    let (_, too_thin, _) = boxes.select_nth_unstable_by(limit, |one, two| two.cmp(one));
    too_thin.saturating_add(1)
}

/// Swatches and names of the kinds that are in the graph, as a row in the margin below it that inferno leaves free. Made
/// of our own constants only.
fn legend(profile: &Profile) -> String {
    /// Advance of a character of the legend's font, generously.
    const ADVANCE: usize = 6;
    let mut legend = String::from(r#"<g id="legend" style="pointer-events:none">"#);
    let mut x = 10;
    for (kind, text, color) in LEGEND {
        if !profile.frames().any(|frame| frame.kind == kind) {
            continue;
        }
        let Color { r, g, b } = color;
        legend.push_str(&format!(
            r#"<rect x="{x}" y="100%" width="9" height="9" transform="translate(0,-12)" fill="rgb({r},{g},{b})"/>"#
        ));
        legend.push_str(&format!(r#"<text x="{}" y="100%" dy="-4" style="font-size:10px">{text}</text>"#, x + 13));
        x += 13 + text.len() * ADVANCE + 14;
    }
    legend.push_str("</g>");
    legend
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::format::example;
    use crate::profile::Frame;
    use crate::profile::Origin;

    fn frame(kind: FrameKind, name: &str) -> Frame {
        let file = kind.is_lua().then(|| "app.lua".into());
        Frame { kind, name: Some(name.into()), file, first_line: 7, line: 0, unresolved: false }
    }

    fn profile(stacks: &[(&[(FrameKind, &str)], u64)]) -> Profile {
        let mut profile = Profile::default();
        profile.meta.processes = vec![(4711, "nginx".into())];
        profile.meta.frequency = 99;
        profile.meta.event = "cpu-clock".into();
        profile.meta.seconds = 10.0;
        for (stack, count) in stacks {
            let ids: Vec<_> = stack.iter().map(|&(kind, name)| profile.frame(frame(kind, name))).collect();
            profile.add(Origin::default(), &ids, *count);
            profile.counters.samples += count;
        }
        profile
    }

    fn drawn(profile: &Profile, title: &str) -> String {
        let mut bytes = Vec::new();
        let drawing =
            Drawing { shape: Shape::Flame, title, subtitle: None, min_percent: 0.0, style: &Style::default() };
        write(profile, Lines::Function, &drawing, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Every box as its tooltip and its colour; panics when the picture is no well-formed XML.
    fn boxes(svg: &str) -> Vec<(String, String)> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(svg, options).expect("well-formed XML");
        let frames = document.descendants().find(|node| node.attribute("id") == Some("frames")).unwrap();
        frames
            .children()
            .map(|group| {
                let child =
                    |name| group.children().find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", name)));
                let color = child("rect").unwrap().attribute("fill").unwrap();
                (child("title").unwrap().text().unwrap().to_owned(), color.to_owned())
            })
            .collect()
    }

    fn texts(svg: &str) -> Vec<String> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(svg, options).expect("well-formed XML");
        document
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
            .map(|node| node.text().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn every_kind_has_its_colour_and_its_place_in_the_legend() {
        use FrameKind::*;
        let kinds = [Native, NativeInlined, Interpreted, Compiled, Inlined, Builtin, Kernel, Marker, Group];
        let name = |kind| if kind == Group { "compiled" } else { "f" };
        let stack: Vec<_> = kinds.iter().map(|&kind| (kind, name(kind))).collect();
        let svg = drawn(&profile(&[(&stack, 5)]), "All kinds");
        let boxes = boxes(&svg);
        let mut colors: Vec<_> = boxes.iter().map(|(_, color)| color).collect();
        colors.sort();
        colors.dedup();
        assert_eq!(colors.len(), kinds.len() + 1, "{boxes:?}");
        let texts = texts(&svg);
        for (_, text, _) in LEGEND {
            assert!(texts.iter().any(|shown| shown == text), "{text} is not in the legend");
        }
        // Annotations are for colours, not for readers.
        assert!(boxes.iter().all(|(tooltip, _)| !tooltip.contains("_[")), "{boxes:?}");
    }

    #[test]
    fn an_icicle_hangs_from_the_root_and_leaves_room_for_its_legend() {
        let number = |node: roxmltree::Node, name| node.attribute(name).unwrap().parse::<u32>().unwrap();
        for (shape, grows) in [(Shape::Flame, false), (Shape::Icicle, true)] {
            let mut bytes = Vec::new();
            let drawing = Drawing { shape, title: "", subtitle: None, min_percent: 0.0, style: &Style::default() };
            write(&example::profile(), Lines::Function, &drawing, &mut bytes).unwrap();
            let svg = String::from_utf8(bytes).unwrap();
            let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
            let document = roxmltree::Document::parse_with_options(&svg, options).unwrap();
            let height = number(document.root_element(), "height");
            let place = |name: &str| {
                let is_it = |node: &roxmltree::Node| {
                    node.has_tag_name(("http://www.w3.org/2000/svg", "g"))
                        && node.descendants().any(|inner| inner.text().is_some_and(|text| text.starts_with(name)))
                };
                let frames = document.descendants().find(|node| node.attribute("id") == Some("frames")).unwrap();
                let group = frames.children().find(is_it).unwrap_or_else(|| panic!("{name} is not drawn"));
                let rect = group.children().find(|node| node.tag_name().name() == "rect").unwrap();
                (number(rect, "y"), number(rect, "height"))
            };
            let (caller, callee) = (place("main ("), place("libc.so.6+0x1234 ("));
            assert_eq!(callee.0 > caller.0, grows, "{shape:?}");
            assert!(caller.0.max(callee.0) + callee.1 <= height - 12, "{shape:?} is drawn over its legend");
        }
    }

    #[test]
    fn a_graph_looks_as_it_is_asked_to() {
        let style = Style {
            width: Some(640),
            font_size: Some(9),
            colors: Some("hot".parse().unwrap()),
            background: Some(BackgroundColor::Grey),
            notes: Some("a note".into()),
            ..Style::default()
        };
        let draw = || {
            let mut bytes = Vec::new();
            let drawing = Drawing { shape: Shape::Flame, title: "", subtitle: None, min_percent: 0.0, style: &style };
            write(&example::profile(), Lines::Function, &drawing, &mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let svg = draw();
        assert!(svg.contains(r#"width="640""#) && svg.contains("NOTES: a note") && svg.contains("#f8f8f8"), "{svg}");
        assert!(!texts(&svg).iter().any(|text| text == "kernel"), "the legend is of other colours");
        assert_eq!(svg, draw(), "a function has the same colour each time");
    }

    #[test]
    fn black_text_is_legible_on_every_colour() {
        let linear = |channel: u8| (f64::from(channel) / 255.0).powf(2.2);
        for (kind, _, color) in LEGEND {
            let luminance = 0.2126 * linear(color.r) + 0.7152 * linear(color.g) + 0.0722 * linear(color.b);
            let contrast = (luminance + 0.05) / 0.05;
            assert!(contrast >= 7.0, "{kind:?} has a contrast of {contrast:.1}, and enhanced contrast in WCAG is 7");
        }
    }

    /// What a colour looks like, in CIELAB, to somebody who sees it through a matrix on linear light.
    fn seen(color: Color, matrix: [[f64; 3]; 3]) -> [f64; 3] {
        let linear = [color.r, color.g, color.b].map(|channel| {
            let channel = f64::from(channel) / 255.0;
            if channel <= 0.04045 { channel / 12.92 } else { ((channel + 0.055) / 1.055).powf(2.4) }
        });
        let times = |row: [f64; 3], of: [f64; 3]| row.iter().zip(of).map(|(factor, value)| factor * value).sum::<f64>();
        let light = matrix.map(|row| times(row, linear).clamp(0.0, 1.0));
        let [x, y, z] = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]].map(|row| {
            let value = times(row, light);
            if value > 0.008856 { value.cbrt() } else { 7.787 * value + 16.0 / 116.0 }
        });
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    #[test]
    fn kinds_can_be_told_apart_with_any_colour_vision() {
        // Machado, Oliveira, Fernandes 2009: normal, protanopia, deuteranopia, tritanopia.
        const VISIONS: [[[f64; 3]; 3]; 4] = [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ];
        for vision in VISIONS {
            for (index, one) in LEGEND.iter().enumerate() {
                for two in &LEGEND[..index] {
                    let (a, b) = (seen(one.2, vision), seen(two.2, vision));
                    let distance = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(distance > 15.0, "{:?} and {:?} are {distance:.1} apart in {vision:?}", one.0, two.0);
                }
            }
        }
    }

    #[test]
    fn the_legend_names_only_what_is_in_the_graph() {
        let svg = drawn(&profile(&[(&[(FrameKind::Interpreted, "f")], 5)]), "Lua");
        assert!(texts(&svg).contains(&"Lua, interpreted".to_owned()));
        assert!(!svg.contains("kernel"), "no kernel frame is drawn");
    }

    #[test]
    fn lua_and_libc_functions_of_one_name_are_two_boxes() {
        use FrameKind::*;
        let svg = drawn(
            &profile(&[(&[(Native, "main"), (Native, "select")], 1), (&[(Native, "main"), (Builtin, "select")], 1)]),
            "",
        );
        let select: Vec<_> = boxes(&svg).into_iter().filter(|(tooltip, _)| tooltip.starts_with("select ")).collect();
        assert_eq!(select.len(), 2);
        assert_ne!(select[0].1, select[1].1);
    }

    #[test]
    fn a_function_under_one_caller_is_one_box() {
        use FrameKind::Native;
        let svg = drawn(
            &profile(&[
                (&[(Native, "run"), (Native, "step")], 2),
                (&[(Native, "run.cold")], 3),
                (&[(Native, "run")], 4),
                (&[(Native, "run2")], 5),
            ]),
            "",
        );
        let mut seen = HashMap::new();
        for (tooltip, _) in boxes(&svg) {
            *seen.entry(tooltip).or_insert(0) += 1;
        }
        assert_eq!(seen.get("run (6 samples, 42.86%)"), Some(&1), "{seen:?}");
    }

    #[test]
    fn hostile_names_are_only_text() {
        let hostile = [
            "<script>alert(1)</script>",
            "]]><svg onload='x'>",
            "a&b \"quoted\" 'too' -- -->",
            "control \0\u{1}\u{8}\u{1b}[2J\u{7f}\u{85}\u{fffe}\u{ffff} end",
            "line\nbreak;semicolon\r\n12 34",
            "\u{202e}right to left\u{2066}",
            "count 12 34",
            "# comment",
            "_[k]",
            "",
            " ",
        ];
        let kinds = [FrameKind::Native, FrameKind::Interpreted, FrameKind::Builtin, FrameKind::Marker];
        for name in hostile {
            for kind in kinds {
                let mut profile = profile(&[(&[(kind, name)], 5), (&[(kind, name), (kind, name)], 2)]);
                profile.meta.processes = vec![(1, name.into()), (2, name.into())];
                profile.meta.luajit = vec![name.into(), name.into()];
                profile.meta.event = "cpu-clock".into();
                let svg = drawn(&profile, name);
                let boxes = boxes(&svg);
                assert_eq!(boxes.len(), 3, "{name:?}: {boxes:?}");
                assert!(
                    boxes.iter().any(|(tooltip, _)| tooltip.ends_with("(7 samples, 100.00%)")),
                    "{name:?}: {boxes:?}"
                );
                assert_eq!(svg.matches("<script").count(), 1, "only inferno's own script is in the picture");
            }
        }
    }

    #[test]
    fn the_heading_says_how_the_samples_were_taken() {
        let mut profile = profile(&[(&[(FrameKind::Native, "main")], 5)]);
        profile.meta.processes.push((4712, "nginx".into()));
        profile.counters.samples = 12;
        profile.counters.lost = 3;
        let texts = texts(&drawn(&profile, "My title"));
        assert!(texts.contains(&"My title".to_owned()));
        let heading = "nginx 4711 and 1 more | 99 Hz of cpu-clock | 10.0 s | 12 samples, 3 lost | 7 of them not drawn";
        assert!(texts.contains(&heading.to_owned()), "{texts:?}");
    }

    #[test]
    fn a_huge_graph_leaves_out_its_thinnest_boxes() {
        assert_eq!(thinnest(vec![5, 1, 1, 3], 4), 1);
        assert_eq!(thinnest(vec![5, 1, 1, 3], 3), 2);
        assert_eq!(thinnest(vec![5, 1, 1, 3], 1), 4);
        let mut profile = profile(&[]);
        let run = profile.frame(frame(FrameKind::Native, "run"));
        for number in 0..BOX_LIMIT {
            let step = profile.frame(frame(FrameKind::Native, &format!("step{number}")));
            profile.add(Origin::default(), &[run, step], if number < 10 { 100 } else { 1 });
        }
        let svg = drawn(&profile, "");
        // The ten wide steps, `run` and the box of all.
        assert_eq!(boxes(&svg).len(), 12);
        assert!(texts(&svg).iter().any(|text| text.ends_with("no boxes under 2 samples")));
    }

    #[test]
    fn an_empty_profile_is_an_error_and_not_a_picture() {
        let drawing =
            Drawing { shape: Shape::Icicle, title: "", subtitle: None, min_percent: 0.0, style: &Style::default() };
        let error = write(&Profile::default(), Lines::Function, &drawing, &mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
