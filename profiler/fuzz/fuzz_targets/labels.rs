//! Labels, and the formats that are made of them: whatever names a program has, its folded stacks are stacks and its flame
//! graph is XML.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::format::{folded, label, svg};
use luaflame::profile::view::{Lines, View};
use luaflame::profile::{Frame, FrameKind, Origin, Profile};
use luaflame_fuzz as _;

#[derive(Debug, Arbitrary)]
struct Input {
    frames: Vec<Named>,
    stacks: Vec<(Vec<u8>, u32)>,
    title: String,
    subtitle: Option<String>,
    lines: u8,
    lua_only: bool,
    reverse: bool,
    long: u8,
}

#[derive(Debug, Arbitrary)]
struct Named {
    kind: u8,
    name: Option<String>,
    file: Option<String>,
    first_line: u32,
    line: u32,
}

const KINDS: [FrameKind; 9] = [
    FrameKind::Kernel,
    FrameKind::Native,
    FrameKind::NativeInlined,
    FrameKind::Interpreted,
    FrameKind::Compiled,
    FrameKind::Inlined,
    FrameKind::Builtin,
    FrameKind::Marker,
    FrameKind::Group,
];

fuzz_target!(|input: Input| {
    let mut profile = Profile::default();
    let repeat = usize::from(input.long) + 1;
    let text = |text: Option<String>| text.map(|text| text.repeat(repeat).into());
    let ids: Vec<_> = input
        .frames
        .into_iter()
        .map(|frame| {
            let (kind, name, file) = (KINDS[usize::from(frame.kind) % KINDS.len()], text(frame.name), text(frame.file));
            profile.frame(Frame { kind, name, file, first_line: frame.first_line, line: frame.line, unresolved: false })
        })
        .collect();
    if ids.is_empty() {
        return;
    }
    for (stack, count) in input.stacks {
        let stack: Vec<_> = stack.into_iter().map(|index| ids[usize::from(index) % ids.len()]).collect();
        if !stack.is_empty() {
            profile.add(Origin::default(), &stack, count.max(1).into());
        }
    }
    let lines = [Lines::None, Lines::Function, Lines::Line][usize::from(input.lines) % 3];
    let view = View { lua_only: input.lua_only, reverse: input.reverse, lines, ..View::default() };
    let profile = view.of(&profile);
    for frame in profile.frames() {
        let label = label::label(frame, lines);
        assert!(!label.is_empty() && !label.contains([';', '\n', '\r']), "{label:?}");
        assert!(label.len() < 16 << 10, "{} bytes", label.len());
    }
    let mut text = Vec::new();
    folded::write(&profile, lines, &mut text).expect("a vector takes everything");
    for line in str::from_utf8(&text).expect("UTF-8").lines() {
        let (frames, count) = line.rsplit_once(' ').expect("frames and a count");
        assert!(count.parse::<u64>().is_ok() && frames.split(';').all(|frame| !frame.is_empty()), "{line:?}");
    }
    if profile.stacks().len() > 0 {
        let mut text = Vec::new();
        let drawing = svg::Drawing { title: &input.title, subtitle: input.subtitle.as_deref(), min_percent: 0.0 };
        svg::write(&profile, lines, &drawing, &mut text).expect("there is a stack");
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(str::from_utf8(&text).expect("UTF-8"), options).expect("XML");
    }
});
