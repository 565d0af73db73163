//! What changed from one profile to another: the shares of every function, and flame graphs whose boxes are coloured by it.
//!
//! Shares of samples are compared, not their numbers: profiles are rarely of the same length. What a function's share says of its time, if
//! the programs did not do the same amount of work, the shares alone do not tell.

use std::collections::HashMap;
use std::io::{self, Write};

use inferno::flamegraph::color::{Color, PaletteMap};
use inferno::flamegraph::{self, TextTruncateDirection};
use regex::{Captures, Regex};
use rustc_hash::FxBuildHasher;

use crate::format::folded::Folded;
use crate::format::functions::{Class, Samples, functions};
use crate::format::label::{label, printable};
use crate::format::svg::{BOX_LIMIT, HEADING_LIMIT, WHITE, thinnest};
use crate::profile::view::Lines;
use crate::profile::{Frame, Profile};

/// Most functions of one table.
const FUNCTIONS_LIMIT: usize = 20;
/// Longest line of the tables.
const WIDTH: usize = 100;
/// Standard errors of a change that chance brings about once in 370 times.
const STANDARD_ERRORS: f64 = 3.0;
/// A box that has not changed by more than chance explains has this colour.
const UNCHANGED: Color = Color { r: 0xf2, g: 0xf2, b: 0xf2 };
/// The colours of the largest growth and the largest decrease: red and blue, which every kind of colour blindness keeps apart.
const GREW: Color = Color { r: 0xf2, g: 0x6d, b: 0x5b };
const SHRANK: Color = Color { r: 0x5b, g: 0x8f, b: 0xf2 };
/// The colour of a box is as strong as it gets where the share has changed by this much, in percent of all samples.
const STRONGEST: f64 = 10.0;

/// Stands behind the label of a box while the graph is being drawn, and says by how much it has changed: a character for private use for each
/// hundredth of a percent, from -100 % to 100 %, and another one if that is more than chance explains.
const FIRST_MARK: u32 = 0x10_0000;
const MARKS: i32 = 10_000;
const CLEAR: u32 = 2 * MARKS as u32 + 1;

/// One of two profiles that are compared.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// What it is called.
    pub name: &'a str,
    /// The profile, as a view shows it.
    pub profile: &'a Profile,
}

impl Side<'_> {
    fn samples(&self) -> u64 {
        self.profile.stacks().fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// `after.luaflame: nginx 4711, 990 samples in 10.0 s at 99 Hz, 1.00 CPUs`.
    fn heading(&self) -> String {
        let meta = &self.profile.meta;
        let samples = self.samples();
        let mut text = format!("{}: ", printable(self.name, WIDTH / 2));
        if let Some((pid, name)) = meta.processes.first() {
            text += &format!("{} {pid}, ", printable(name, 32));
        }
        text += &format!("{samples} samples");
        if meta.frequency > 0 && meta.seconds > 0.0 {
            let busy = samples as f64 / f64::from(meta.frequency) / meta.seconds;
            text += &format!(" in {:.1} s at {} Hz: {busy:.2} CPUs", meta.seconds.min(1e9), meta.frequency);
        }
        text
    }
}

/// How often a function was on the stack in both profiles, in percent of the samples of each.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The label of the function.
    pub name: String,
    /// What it is.
    pub class: Class,
    /// Its share before.
    pub before: f64,
    /// Its share after.
    pub after: f64,
    /// Standard error of the difference, as if each sample had been drawn by chance.
    error: f64,
}

impl Change {
    fn new(name: &str, class: Class, counts: [u64; 2], samples: [u64; 2]) -> Change {
        let share = |side: usize| counts[side] as f64 / samples[side].max(1) as f64;
        let variance = |side: usize| share(side) * (1.0 - share(side)) / samples[side].max(1) as f64;
        let error = (variance(0) + variance(1)).max(0.0).sqrt();
        Change { name: name.to_owned(), class, before: 100.0 * share(0), after: 100.0 * share(1), error: 100.0 * error }
    }

    /// By how many points its share has grown.
    pub fn difference(&self) -> f64 {
        self.after - self.before
    }

    /// The largest difference that chance brings about, in points: three standard errors.
    pub fn chance(&self) -> f64 {
        STANDARD_ERRORS * self.error
    }

    /// It is more than chance explains.
    pub fn is_clear(&self) -> bool {
        self.difference().abs() > self.chance()
    }
}

/// What has changed of the time of every function, as two profiles tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    /// By own time, the largest difference first.
    pub own: Vec<Change>,
    /// By total time, the largest difference first.
    pub total: Vec<Change>,
}

impl Changes {
    /// Holds two profiles against each other.
    pub fn between(before: Side<'_>, after: Side<'_>, lines: Lines) -> Changes {
        let samples = [before.samples(), after.samples()];
        let mut all: HashMap<(String, Class), [Samples; 2], FxBuildHasher> = HashMap::default();
        for (side, profile) in [before.profile, after.profile].into_iter().enumerate() {
            for (function, counted) in functions(profile, lines) {
                all.entry(function).or_default()[side] = counted;
            }
        }
        let changes = |count: fn(&Samples) -> u64| {
            let mut changes: Vec<Change> = all
                .iter()
                .map(|((name, class), sides)| Change::new(name, *class, [count(&sides[0]), count(&sides[1])], samples))
                .collect();
            changes.sort_by(|one, two| {
                two.difference()
                    .abs()
                    .total_cmp(&one.difference().abs())
                    .then(one.name.cmp(&two.name))
                    .then(one.class.cmp(&two.class))
            });
            changes
        };
        Changes { own: changes(|samples| samples.own), total: changes(|samples| samples.total) }
    }
}

/// Writes tables of what grew and what shrank.
///
/// # Errors
/// Those of `writer`.
pub fn write_text(before: Side<'_>, after: Side<'_>, lines: Lines, writer: &mut dyn Write) -> io::Result<()> {
    let Changes { own, total } = Changes::between(before, after, lines);
    writeln!(writer, "before  {}", before.heading())?;
    writeln!(writer, "after   {}", after.heading())?;
    for (what, changes) in [("OWN TIME", own), ("TOTAL TIME", total)] {
        let (clear, unclear): (Vec<_>, Vec<_>) = changes.into_iter().partition(Change::is_clear);
        table(&format!("GREW, BY {what}"), clear.iter().filter(|change| change.difference() > 0.0), writer)?;
        table(&format!("SHRANK, BY {what}"), clear.iter().filter(|change| change.difference() < 0.0), writer)?;
        let largest = unclear.iter().map(|change| change.difference().abs()).fold(0.0, f64::max);
        if !unclear.is_empty() {
            writeln!(writer)?;
            writeln!(
                writer,
                "{} functions differ by no more than chance brings about ({STANDARD_ERRORS} standard errors), the most by {largest:.2} points",
                unclear.len()
            )?;
        }
    }
    writeln!(writer)?;
    writeln!(
        writer,
        "Two runs of the same program differ by more than chance in the samples: one profile of each decides nothing."
    )
}

fn table<'a>(title: &str, changes: impl Iterator<Item = &'a Change>, writer: &mut dyn Write) -> io::Result<()> {
    writeln!(writer, "\n{title}")?;
    let changes: Vec<&Change> = changes.collect();
    if changes.is_empty() {
        return writeln!(writer, "  nothing");
    }
    writeln!(writer, "   before    after          points  kind     function")?;
    for change in changes.iter().take(FUNCTIONS_LIMIT) {
        let line = format!(
            "{:>7.2} % {:>6.2} % {:>+8.2} ± {:<5.2}  {:<7}  ",
            change.before,
            change.after,
            change.difference(),
            change.chance(),
            change.class.name()
        );
        let left = WIDTH.saturating_sub(line.chars().count());
        let name =
            if change.name.chars().count() <= left { change.name.clone() } else { printable(&change.name, left) };
        writeln!(writer, "{line}{name}")?;
    }
    if let Some(more @ 1..) = changes.len().checked_sub(FUNCTIONS_LIMIT) {
        writeln!(writer, "          and {more} more functions")?;
    }
    Ok(())
}

/// Which of the two profiles a differential flame graph has the widths of: what has vanished has no width in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// Boxes are as wide as they were before.
    Before,
    /// Boxes are as wide as they are after.
    After,
}

/// Draws a flame graph of one of two profiles, with boxes coloured by how much their share of the samples has changed from the one
/// to the other: red has grown, blue has shrunk.
///
/// # Errors
/// Those of `writer`, and [`io::ErrorKind::InvalidData`] when there is no stack to draw.
pub fn write_svg(
    before: Side<'_>,
    after: Side<'_>,
    lines: Lines,
    width: Width,
    min_percent: f64,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let samples = [before.samples(), after.samples()];
    let (side, own, other) = match width {
        Width::Before => (0, before, after),
        Width::After => (1, after, before),
    };
    let label = |frame: &Frame| format!("{}{}", label(frame, lines), annotation(frame));
    let mut folded = Folded::new([before.profile, after.profile], label);
    let total = samples[side];
    let asked = (total as f64 * min_percent / 100.0).ceil() as u64;
    let thinnest = thinnest(folded.widths(side), BOX_LIMIT).max(asked);
    folded.leave_out_under(side, thinnest);
    let mut palette = PaletteMap::default();
    palette.insert("", UNCHANGED);
    let lines = marked(&folded, side, samples, &mut palette);
    let mut options = flamegraph::Options::default();
    options.min_width = (thinnest as f64 - 0.5) * 100.0 / total.max(1) as f64;
    options.title = match width {
        Width::Before => "Before, by what has become of it: red grew, blue shrank, grey is chance",
        Width::After => "After, by where it came from: red grew, blue shrank, grey is chance",
    }
    .to_owned();
    let subtitle = format!("{} | compared with {}", own.heading(), other.heading());
    options.subtitle = Some(printable(&subtitle, HEADING_LIMIT));
    options.palette_map = Some(&mut palette);
    options.bgcolors = Some(WHITE);
    options.text_truncate_direction = TextTruncateDirection::Right;
    // As in the flame graph: its own order, from last to first.
    options.flame_chart = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().rev().map(|line| &**line), &mut svg)?;
    writer.write_all(without_marks(&String::from_utf8_lossy(&svg)).as_bytes())?;
    writer.write_all(b"\n")
}

/// The folded lines of one side with a mark at each label, whose colour is put in the palette.
fn marked(folded: &Folded<2>, side: usize, samples: [u64; 2], palette: &mut PaletteMap) -> Vec<String> {
    let mut marks: Vec<Vec<char>> = folded.stacks.iter().map(|(stack, _)| vec!['\0'; stack.len()]).collect();
    folded.boxes(|depth, stacks, counts| {
        let mark = mark(counts, samples);
        marks[stacks].iter_mut().for_each(|stack| stack[depth] = mark);
    });
    let mut lines = Vec::new();
    for ((stack, counts), marks) in folded.stacks.iter().zip(&marks) {
        if counts[side] == 0 {
            continue;
        }
        let mut line = String::new();
        for (rank, mark) in stack.iter().zip(marks) {
            let (name, annotation) = split_annotation(&folded.labels[*rank as usize]);
            let start = line.len();
            line.push_str(name);
            line.push(*mark);
            line.push_str(annotation);
            if palette.get(&line[start..]).is_none() {
                palette.insert(&line[start..], color(change(*mark)));
            }
            line.push(';');
        }
        line.pop();
        lines.push(format!("{line} {}", counts[side]));
    }
    lines
}

/// Keeps functions of one name apart that are of different classes. inferno does not show it.
fn annotation(frame: &Frame) -> &'static str {
    match Class::of(frame.kind) {
        Class::Builtin => "_[w]",
        Class::Kernel => "_[k]",
        Class::Lua | Class::Native | Class::Missing | Class::Group => "",
    }
}

fn split_annotation(label: &str) -> (&str, &str) {
    let at = label.len().saturating_sub("_[k]".len());
    let annotated = label.ends_with("_[w]") || label.ends_with("_[k]");
    if annotated { label.split_at(at) } else { (label, "") }
}

/// The mark of a box with so many samples of so many, before and after.
fn mark(counts: [u64; 2], samples: [u64; 2]) -> char {
    let change = Change::new("", Class::Native, counts, samples);
    let hundredths = (change.difference() * 100.0).round() as i32;
    let mark = (hundredths.clamp(-MARKS, MARKS) + MARKS) as u32 + if change.is_clear() { CLEAR } else { 0 };
    char::from_u32(FIRST_MARK + mark).unwrap_or('\u{100000}')
}

/// The change that a mark stands for, in percent of all samples, and whether it is more than chance explains.
fn change(mark: char) -> (f64, bool) {
    let mark = mark as u32 - FIRST_MARK;
    (f64::from((mark % CLEAR) as i32 - MARKS) / 100.0, mark >= CLEAR)
}

fn color((points, is_clear): (f64, bool)) -> Color {
    if !is_clear {
        return UNCHANGED;
    }
    let full = if points > 0.0 { GREW } else { SHRANK };
    // The root makes small changes visible.
    let strength = (points.abs() / STRONGEST).min(1.0).sqrt();
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * strength).round() as u8;
    Color { r: mix(UNCHANGED.r, full.r), g: mix(UNCHANGED.g, full.g), b: mix(UNCHANGED.b, full.b) }
}

/// Puts what the marks say where a box tells its share, and takes them out.
fn without_marks(svg: &str) -> String {
    // Labels hold no characters for private use: they are escaped.
    let told = Regex::new(r"([\u{100000}-\u{109c41}]) \(([\d,]+ samples, [\d.]+%)\)").expect("the expression is right");
    let marks = Regex::new(r"[\u{100000}-\u{109c41}]").expect("the expression is right");
    let told = told.replace_all(svg, |found: &Captures<'_>| {
        let (points, _) = found[1].chars().next().map_or((0.0, false), change);
        format!(" ({}, {points:+.2} points)", &found[2])
    });
    marks.replace_all(&told, "").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::example::{self, golden};
    use crate::profile::{FrameKind, Origin};

    /// A program in which `slow` takes as many samples of a thousand, `gone` those that are left, on these lines.
    fn program(slow: u64, gone: u64, line: u32) -> Profile {
        let mut profile = Profile::default();
        profile.meta.processes = vec![(7, "nginx".into())];
        (profile.meta.frequency, profile.meta.seconds) = (100, 20.0);
        let mut frame = |kind, name: &str, first_line| {
            let file = (kind == FrameKind::Interpreted).then(|| "app.lua".into());
            profile.frame(Frame { kind, name: Some(name.into()), file, first_line, line: 0, unresolved: false })
        };
        let main = frame(FrameKind::Native, "main", 0);
        let handle = frame(FrameKind::Interpreted, "handle", line);
        let names = [("slow", slow), ("gone", gone), ("same", 1000 - slow - gone)];
        let leaves = names.map(|(name, count)| (frame(FrameKind::Interpreted, name, line + 10), count));
        let kernel = frame(FrameKind::Kernel, "same", 0);
        for (leaf, count) in leaves {
            profile.add(Origin::default(), &[main, handle, leaf], count);
        }
        profile.add(Origin::default(), &[main, kernel], 1000);
        crate::profile::view::View { lines: Lines::None, ..Default::default() }.of(&profile)
    }

    fn svg(width: Width) -> String {
        let (before, after) = (program(200, 100, 10), program(500, 0, 12));
        let mut bytes = Vec::new();
        let (before, after) = (Side { name: "a", profile: &before }, Side { name: "b", profile: &after });
        write_svg(before, after, Lines::None, width, 0.0, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// The tooltip and colour of the box that begins with this text.
    fn drawn(svg: &str, start: &str) -> Option<(String, String)> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        let document = roxmltree::Document::parse_with_options(svg, options).expect("well-formed XML");
        let titles = document.descendants().filter(|node| node.tag_name().name() == "title");
        let found: Vec<_> = titles.filter(|title| title.text().is_some_and(|text| text.starts_with(start))).collect();
        let group = found.first()?.parent()?;
        let rect = group.children().find(|node| node.tag_name().name() == "rect")?;
        Some((found[0].text()?.to_owned(), rect.attribute("fill")?.to_owned()))
    }

    #[test]
    fn boxes_are_coloured_by_what_has_changed_and_moved_functions_stay_the_same() {
        let after = svg(Width::After);
        let (tooltip, color) = drawn(&after, "slow ").unwrap();
        assert_eq!(tooltip, "slow (app.lua) (500 samples, 25.00%, +15.00 points)");
        assert_eq!(color, "rgb(242,109,91)");
        let (tooltip, color) = drawn(&after, "handle ").unwrap();
        assert_eq!(tooltip, "handle (app.lua) (1,000 samples, 50.00%, +0.00 points)");
        assert_eq!(color, "rgb(242,242,242)");
        assert_eq!(drawn(&after, "gone "), None);
        let before = svg(Width::Before);
        let (tooltip, color) = drawn(&before, "gone ").unwrap();
        assert_eq!(tooltip, "gone (app.lua) (100 samples, 5.00%, -5.00 points)");
        assert_eq!(color, "rgb(135,172,242)");
        for graph in [after, before] {
            assert!(!graph.contains(|char| char >= '\u{100000}'), "a mark is left");
            assert_eq!(graph.matches("<title>same ").count(), 2, "Lua's and the kernel's are two boxes");
        }
    }

    #[test]
    fn the_tables_are_what_they_were() {
        let (before, after) = (program(200, 100, 10), program(500, 0, 12));
        let mut bytes = Vec::new();
        let (before, after) = (Side { name: "a", profile: &before }, Side { name: "b", profile: &after });
        write_text(before, after, Lines::None, &mut bytes).unwrap();
        golden("example.diff.txt", &bytes);
    }

    #[test]
    fn what_chance_explains_is_no_change() {
        let change = |before, after| Change::new("f", Class::Lua, [before, after], [1000, 1000]);
        assert!(!change(100, 130).is_clear());
        assert!(change(100, 150).is_clear());
        assert!(!change(0, 0).is_clear());
        assert!(!Change::new("f", Class::Lua, [0, 0], [0, 0]).is_clear());
    }

    #[test]
    fn hostile_names_are_escaped_and_stay_apart() {
        let profile = example::hostile();
        let (before, after) = (Side { name: "\u{1b}a;\n", profile: &profile }, Side { name: "", profile: &profile });
        let mut bytes = Vec::new();
        write_text(before, after, Lines::Function, &mut bytes).unwrap();
        for line in String::from_utf8(bytes).unwrap().lines() {
            assert!(!line.contains(char::is_control), "{line:?}");
        }
        let mut bytes = Vec::new();
        write_svg(before, after, Lines::Function, Width::After, 0.0, &mut bytes).unwrap();
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(str::from_utf8(&bytes).unwrap(), options).expect("well-formed XML");
    }
}
