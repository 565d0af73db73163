//! Labels, and the formats that are made of them: whatever names a program has, its folded stacks are stacks, its flame
//! graph is XML, and the other formats are what their readers take.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use luaflame::format::{firefox, folded, label, pprof, speedscope, svg, text};
use luaflame::profile::view::{Lines, View};
use luaflame::profile::{Frame, FrameKind, Origin, Profile, State};
use luaflame_fuzz as _;

#[derive(Debug, Arbitrary)]
struct Input {
    frames: Vec<Named>,
    stacks: Vec<(Vec<u8>, u32)>,
    title: String,
    subtitle: Option<String>,
    origins: Vec<(u8, u8, u8, u64)>,
    threads: Vec<(u8, u8, String)>,
    timed: bool,
    frequency: u32,
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

fuzz_target!(|input: Input| {
    let mut profile = Profile::default();
    let repeat = usize::from(input.long) + 1;
    let text = |text: Option<String>| text.map(|text| text.repeat(repeat).into());
    let ids: Vec<_> = input
        .frames
        .into_iter()
        .map(|frame| {
            let (kind, name, file) =
                (FrameKind::ALL[usize::from(frame.kind) % FrameKind::ALL.len()], text(frame.name), text(frame.file));
            profile.frame(Frame { kind, name, file, first_line: frame.first_line, line: frame.line, unresolved: false })
        })
        .collect();
    if ids.is_empty() {
        return;
    }
    let mut origins = input.origins.iter().cycle();
    for (stack, count) in input.stacks {
        let stack: Vec<_> = stack.into_iter().map(|index| ids[usize::from(index) % ids.len()]).collect();
        if !stack.is_empty() {
            let &(pid, tid, vm, time) = origins.next().unwrap_or(&(0, 0, 0, 0));
            let state = if vm == 0 { State::Outside } else { State::Compiled };
            let origin = Origin { pid: pid.into(), tid: tid.into(), vm: vm.into(), state };
            if input.timed {
                profile.add_at(origin, &stack, time);
            } else {
                profile.add(origin, &stack, count.max(1).into());
            }
        }
    }
    for (pid, tid, name) in input.threads {
        profile.meta.event.clone_from(&name);
        profile.meta.processes.push((pid.into(), name.clone()));
        profile.counters.reasons.insert(name.clone(), u64::from(tid));
        profile.threads.insert((pid.into(), tid.into()), name);
    }
    profile.meta.frequency = input.frequency;
    let lines = [Lines::None, Lines::Function, Lines::Line, Lines::Both][usize::from(input.lines) % 4];
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
    let mut old = Vec::new();
    folded::write_stapxx(&profile, lines, &mut old).expect("a vector takes everything");
    for line in str::from_utf8(&old).expect("UTF-8").lines() {
        let (frames, count) = line.rsplit_once(' ').expect("frames and a count");
        assert!(count.parse::<u64>().is_ok() && frames.split(';').all(|frame| !frame.is_empty()), "{line:?}");
    }
    let mut summary = Vec::new();
    text::write(&profile, lines, &input.title, &mut summary).expect("a vector takes everything");
    for line in str::from_utf8(&summary).expect("UTF-8").lines() {
        assert!(line.chars().count() <= 100 && !line.contains(char::is_control), "{line:?}");
    }
    let (mut one, mut other) = (Vec::new(), Vec::new());
    speedscope::write(&profile, lines, &input.title, &mut one).expect("a vector takes everything");
    firefox::write(&profile, lines, &input.title, &mut other).expect("a vector takes everything");
    for json in [one, other] {
        serde_json::from_slice::<serde_json::Value>(&json).expect("JSON");
    }
    let message = pprof::converted(&profile, lines);
    let strings = message.string_table.len() as i64;
    assert!(message.function.iter().all(|function| (1..strings).contains(&function.name)));
    assert_eq!(message.location.len(), profile.frames().len());
    if profile.stacks().len() > 0 {
        for shape in [svg::Shape::Flame, svg::Shape::Icicle] {
            let mut text = Vec::new();
            let subtitle = input.subtitle.as_deref();
            let style = &svg::Style::default();
            let drawing = svg::Drawing { shape, title: &input.title, subtitle, min_percent: 0.0, style };
            svg::write(&profile, lines, &drawing, &mut text).expect("there is a stack");
            let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
            roxmltree::Document::parse_with_options(str::from_utf8(&text).expect("UTF-8"), options).expect("XML");
        }
    }
});
