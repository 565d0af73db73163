//! Traces as captured from a running program, `fixtures/inlined.lua`, with the memory that was read to decode them.
//!
//! A fixture is one line for each run of bytes, `address hex`. Each place below was checked against the snapshots that
//! `luajit -jdump=+rs` prints for the same program.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::exit_handler::{Progress, frames_at_exit};
use super::exit_stub::ExitStubs;
use super::frames::{Kind, LuaFrame, Prototype};
use super::layout::Layout;
use super::memory::{Memory, ReadError};
use super::snapshot::{BaseFrame, FramesError, TraceFrame};
use super::trace::{LinkType, Position};
use super::trace_map::TraceMap;

/// Runs of bytes by address; everything else is unreadable.
#[derive(Clone)]
struct Capture {
    runs: BTreeMap<u64, Vec<u8>>,
    reads: RefCell<usize>,
}

impl Capture {
    fn parse(text: &str) -> Capture {
        let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
        let runs = text.lines().map(|line| {
            let (address, bytes) = line.split_once(' ').unwrap();
            (u64::from_str_radix(address, 16).unwrap(), bytes.as_bytes().chunks(2).map(byte).collect())
        });
        Capture { runs: runs.collect(), reads: RefCell::default() }
    }

    fn byte(&mut self, address: u64) -> &mut u8 {
        let (start, run) = self.runs.range_mut(..=address).next_back().unwrap();
        &mut run[(address - start) as usize]
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        for (offset, byte) in bytes.iter().enumerate() {
            *self.byte(address + offset as u64) = *byte;
        }
    }
}

impl Memory for Capture {
    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        *self.reads.borrow_mut() += 1;
        let error = ReadError { address, length: buffer.len() };
        let (start, run) = self.runs.range(..=address).next_back().ok_or(error)?;
        let offset = (address - start) as usize;
        let bytes = run.get(offset..).and_then(|rest| rest.get(..buffer.len())).ok_or(error)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// A captured VM.
struct Fixture {
    memory: Capture,
    layout: Layout,
    global_state: u64,
    /// The function of the base frame, `run`.
    base_function: u64,
    /// Machine code of trace 1, a loop, and of trace 2, which leaves it in `leaf`.
    traces: [u64; 2],
}

impl Fixture {
    /// LuaJIT of 2022-03-20, which records `mcofs`.
    fn with_mcofs() -> Fixture {
        Fixture {
            memory: Capture::parse(include_str!("fixtures/inlined-mcofs.mem")),
            layout: layout("a32aeadc"),
            global_state: UP_G,
            base_function: UP_F,
            traces: [UP_1, UP_2],
        }
    }

    /// luajit2 of 2020-01-02, which does not.
    fn with_guards() -> Fixture {
        Fixture {
            memory: Capture::parse(include_str!("fixtures/inlined-guards.mem")),
            layout: layout("v2.1-20200102"),
            global_state: OLD_G,
            base_function: OLD_F,
            traces: [OLD_1, OLD_2],
        }
    }

    fn map(&self) -> TraceMap {
        TraceMap::new(&self.layout, self.global_state)
    }

    fn base(&self) -> BaseFrame {
        BaseFrame { function: self.base_function, code: None }
    }

    fn jit_state(&self) -> u64 {
        self.global_state - u64::from(self.layout.gg.g) + u64::from(self.layout.gg.j)
    }

    fn frames(&self, pc: u64) -> Result<Vec<TraceFrame>, FramesError> {
        let trace = self.map().lookup(&self.memory, pc).expect("a trace at this address");
        let position = trace.position(pc, false).expect("a position in the trace");
        trace.frames(&self.memory, &self.layout, position, &self.base())
    }

    /// First line of each function and the line run in it, leaf first, at an offset of a trace.
    fn lines(&self, trace: usize, offset: u64) -> Vec<(u32, u32)> {
        let proto = &self.layout.proto;
        let frames = self.frames(self.traces[trace - 1] + offset).unwrap();
        frames
            .iter()
            .map(|frame| {
                let (prototype, pc) = (frame.prototype.unwrap(), frame.pc.unwrap());
                let first = self.memory.u32(prototype + u64::from(proto.firstline)).unwrap();
                let index = (pc - prototype - u64::from(proto.size)) / 4;
                let lines = self.memory.u64(prototype + u64::from(proto.lineinfo)).unwrap();
                (first, first + u32::from(self.memory.u8(lines + index - 1).unwrap()))
            })
            .collect()
    }
}

const UP_G: u64 = 0x7feb_ef10_23e0;
const UP_F: u64 = 0x7feb_ef10_cea0;
const UP_1: u64 = 0x7feb_f3b5_fec5;
const UP_2: u64 = 0x7feb_f3b5_fe44;
const OLD_G: u64 = 0x7f30_8199_23e0;
const OLD_F: u64 = 0x7f30_8199_d068;
const OLD_1: u64 = 0x7f30_abd8_fec5;
const OLD_2: u64 = 0x7f30_abd8_fe44;

fn layout(revision: &str) -> Layout {
    let has = |layout: &Layout| layout.seen_in.iter().any(|seen| seen.contains(revision));
    Layout::all().into_iter().find(has).expect("a layout for this revision")
}

/// `run` at the loop; `leaf` in `middle` in `outer`, which `tail` called as its last act, in `run`.
const LOOP: &[(u32, u32)] = &[(22, 25)];
const COMPARISON: &[(u32, u32)] = &[(1, 3), (7, 8), (12, 14), (22, 25)];
const AFTER_COMPARISON: &[(u32, u32)] = &[(1, 5), (7, 8), (12, 14), (22, 25)];
const AFTER_LOOP: &[(u32, u32)] = &[(22, 27)];

#[test]
fn inlined_frames_of_each_snapshot_are_found() {
    let fixture = Fixture::with_mcofs();
    assert_eq!(fixture.lines(1, 0x00), LOOP);
    assert_eq!(fixture.lines(1, 0xa8), LOOP);
    assert_eq!(fixture.lines(1, 0xa9), COMPARISON);
    assert_eq!(fixture.lines(1, 0xb4), AFTER_COMPARISON);
    assert_eq!(fixture.lines(1, 0xe1), AFTER_LOOP);
    assert_eq!(fixture.lines(1, 0xeb), LOOP);
    assert_eq!(fixture.lines(1, 0x108), COMPARISON);
    assert_eq!(fixture.lines(1, 0x122), AFTER_LOOP);
}

#[test]
fn a_side_trace_has_the_frames_that_it_inherited() {
    let fixture = Fixture::with_mcofs();
    assert_eq!(fixture.lines(2, 0x00), COMPARISON);
    assert_eq!(fixture.lines(2, 0x53), AFTER_LOOP);
    let mut map = fixture.map();
    let side = map.get(&fixture.memory, 2).unwrap();
    assert_eq!((side.number(), side.root(), side.link_type()), (2, 1, LinkType::Root));
    assert_eq!(map.get(&fixture.memory, 1).unwrap().link_type(), LinkType::Loop);
}

#[test]
fn without_mcofs_the_guards_place_the_snapshots() {
    let fixture = Fixture::with_guards();
    assert_eq!(fixture.lines(1, 0x00), LOOP);
    assert_eq!(fixture.lines(1, 0xad), LOOP);
    assert_eq!(fixture.lines(1, 0xae), COMPARISON);
    assert_eq!(fixture.lines(1, 0xbb), AFTER_COMPARISON);
    assert_eq!(fixture.lines(1, 0x10c), COMPARISON);
    assert_eq!(fixture.lines(1, 0x128), AFTER_LOOP);
    assert_eq!(fixture.lines(2, 0x57), AFTER_LOOP);
}

#[test]
fn a_return_address_is_of_the_call_before_it() {
    let fixture = Fixture::with_mcofs();
    let start = fixture.traces[0];
    let trace = fixture.map().lookup(&fixture.memory, start).unwrap();
    let snapshot = |pc, is_return| trace.position(pc, is_return).map(|position| position.snapshot);
    assert_eq!(snapshot(start + 0xa9, false), Some(1));
    assert_eq!(snapshot(start + 0xa9, true), Some(0));
    assert_eq!(snapshot(trace.mcode().end, true), Some(6));
    assert_eq!(snapshot(trace.mcode().end, false), None);
    assert_eq!(snapshot(start, true), None);
}

#[test]
fn a_lua_stack_of_another_function_is_noticed() {
    let fixture = Fixture::with_mcofs();
    let pc = fixture.traces[0] + 0xa9;
    let leaf = fixture.frames(pc).unwrap()[0].function.unwrap();
    let trace = fixture.map().lookup(&fixture.memory, pc).unwrap();
    let position = trace.position(pc, false).unwrap();
    let bases =
        [BaseFrame { function: leaf, ..fixture.base() }, BaseFrame { code: Some(pc..pc + 4), ..fixture.base() }];
    for base in bases {
        let frames = trace.frames(&fixture.memory, &fixture.layout, position, &base);
        assert!(matches!(frames, Err(FramesError::Mismatch { slot: 2, .. })), "{frames:?}");
    }
    let none = Position { snapshot: 99, leaving: false, exit: false };
    let frames = trace.frames(&fixture.memory, &fixture.layout, none, &fixture.base());
    assert_eq!(frames, Err(FramesError::NoSnapshot));
}

#[test]
fn a_flushed_trace_is_not_found_again() {
    let mut fixture = Fixture::with_mcofs();
    let pc = fixture.traces[0];
    let mut map = fixture.map();
    assert!(map.lookup(&fixture.memory, pc).is_some());
    let table = fixture.memory.u64(fixture.jit_state() + u64::from(fixture.layout.jit_state.trace)).unwrap();
    let object = fixture.memory.u64(table + 8).unwrap();
    fixture.memory.write(table + 8, &[0; 8]);
    assert!(map.lookup(&fixture.memory, pc).is_none());
    fixture.memory.write(table + 8, &object.to_le_bytes());
    assert!(map.lookup(&fixture.memory, pc).is_some());
}

#[test]
fn a_trace_whose_memory_is_used_for_another_is_read_anew() {
    let mut fixture = Fixture::with_mcofs();
    let mut map = fixture.map();
    let old = map.get(&fixture.memory, 1).unwrap();
    let table = fixture.memory.u64(fixture.jit_state() + u64::from(fixture.layout.jit_state.trace)).unwrap();
    let object = fixture.memory.u64(table + 8).unwrap();
    // As if trace 1 had been compiled again, and a little shorter.
    let size = (old.mcode().end - old.mcode().start) as u32 - 8;
    fixture.memory.write(object + u64::from(fixture.layout.trace.szmcode), &size.to_le_bytes());
    let new = map.lookup(&fixture.memory, old.mcode().start).unwrap();
    assert_eq!(new.mcode().end, old.mcode().end - 8);
    assert!(map.lookup(&fixture.memory, old.mcode().end - 1).is_none());
}

#[test]
fn a_hit_costs_three_reads_and_misses_cost_no_more_than_the_traces_are_worth() {
    let fixture = Fixture::with_mcofs();
    let mut map = fixture.map();
    let trace = map.lookup(&fixture.memory, fixture.traces[0]).unwrap();
    *fixture.memory.reads.borrow_mut() = 0;
    assert!(map.lookup(&fixture.memory, trace.mcode().end - 1).is_some());
    assert_eq!(*fixture.memory.reads.borrow(), 3);
    *fixture.memory.reads.borrow_mut() = 0;
    for pc in 0..100 {
        assert!(map.lookup(&fixture.memory, pc).is_none());
    }
    assert!(*fixture.memory.reads.borrow() < 100 * 20, "{} reads", fixture.memory.reads.borrow());
}

#[test]
fn the_exit_of_a_stub_is_known() {
    let mut fixture = Fixture::with_mcofs();
    let groups = fixture.jit_state() + u64::from(fixture.layout.jit_state.exitstubgroup);
    fixture.memory.write(groups, &0x1000_u64.to_le_bytes());
    fixture.memory.write(groups + 72, &0x2000_u64.to_le_bytes());
    let mut map = fixture.map();
    let stubs: &ExitStubs = map.exit_stubs(&fixture.memory).unwrap();
    let none = |_| None;
    assert_eq!(stubs.exit_at(0x1000, none), Some(0));
    assert_eq!(stubs.exit_at(0x1002, none), Some(0));
    assert_eq!(stubs.exit_at(0x1000 + 31 * 4, none), Some(31));
    assert_eq!(stubs.exit_at(0x2000 + 4, none), Some(9 * 32 + 1));
    // In the common end the low byte has been pushed, and then the high byte.
    assert_eq!(stubs.exit_at(0x2000 + 126, none), None);
    assert_eq!(stubs.exit_at(0x2000 + 126, |at| (at == 0).then_some(0x23)), Some(0x123));
    assert_eq!(stubs.exit_at(0x2000 + 128, |at| (at == 8).then_some(0x23)), Some(0x123));
    // A byte that is no exit of this group.
    assert_eq!(stubs.exit_at(0x2000 + 128, |_| Some(0)), None);
    assert_eq!(stubs.exit_at(0x1000 + 133, none), None);
    assert_eq!(stubs.exit_at(0xfff, none), None);
}

/// The frame on the Lua stack that a frame of a trace is written to.
fn written(fixture: &Fixture, frame: &TraceFrame) -> LuaFrame {
    let at = &fixture.layout.proto;
    let prototype = frame.prototype.expect("a Lua function");
    let sizebc = fixture.memory.u32(prototype + u64::from(at.sizebc)).expect("readable");
    LuaFrame {
        slot: 40 + frame.base_slot,
        function: frame.function.unwrap_or(fixture.base_function),
        kind: Kind::Lua(Prototype { code: prototype + u64::from(at.size), chunk: 0, firstline: 0, numline: 0, sizebc }),
        pc: frame.pc.map(|pc| pc + 4),
        cframe: None,
        from_c: false,
        edge: false,
        torn: false,
    }
}

#[test]
fn frames_at_an_exit_are_on_the_lua_stack_once_they_are_written() {
    for fixture in [Fixture::with_mcofs(), Fixture::with_guards()] {
        let trace = fixture.map().lookup(&fixture.memory, fixture.traces[0]).unwrap();
        let exit = trace.at_exit(1).unwrap();
        let active = trace.frames(&fixture.memory, &fixture.layout, exit, &fixture.base()).unwrap();
        let all: Vec<LuaFrame> = active.iter().map(|frame| written(&fixture, frame)).collect();
        let [_, _, outer, run] = all.as_slice() else { panic!("{active:?}") };
        let found = |progress, frames: &[LuaFrame]| {
            frames_at_exit(&trace, &fixture.memory, &fixture.layout, exit, progress, frames)
        };
        let before = || std::slice::from_ref(run);
        let (shown, at_all) =
            (|frames| Some((active.clone(), frames)), [&all[..], std::slice::from_ref(outer)].concat());
        assert_eq!(found(Progress::Before, before()), shown(1));
        assert_eq!(found(Progress::Restoring, before()), shown(1));
        assert_eq!(found(Progress::After, before()), None);
        assert_eq!(found(Progress::Restoring, &at_all), shown(4), "with a caller of the base frame");
        assert_eq!(found(Progress::After, &at_all), shown(4));
        assert_eq!(found(Progress::Before, &at_all), None);
        assert_eq!(found(Progress::Restoring, &[]), None);
        assert_eq!(found(Progress::Restoring, &all[1..]), None, "with GC64 all are there, or none");
        let mut other = all.clone();
        other[1].pc = other[1].pc.map(|pc| pc + 4);
        assert_eq!(found(Progress::Restoring, &other), None, "called from elsewhere");
        let mut other = all.clone();
        other[0].slot += 1;
        assert_eq!(found(Progress::Restoring, &other), None, "another frame of these functions");
        assert_eq!(trace.at_exit(99), None);
    }
}

/// A sequence of numbers that look random (xorshift), the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Looks up and decodes everything there is, and expects nothing but an end.
fn decode_all(memory: &impl Memory, layout: &Layout, global_state: u64, code: &[u64], slot: u64) {
    let mut map = TraceMap::new(layout, global_state);
    for number in 0..4 {
        let _ = map.get(memory, number);
    }
    for start in code {
        for pc in (*start..start + 0x140).step_by(7) {
            let Some(trace) = map.lookup(memory, pc) else { continue };
            let Some(position) = trace.position(pc, pc & 1 == 0) else { continue };
            for position in [position, Position { leaving: true, ..position }] {
                let _ = trace.frames(memory, layout, position, &BaseFrame { function: slot, code: None });
            }
        }
    }
}

#[test]
fn damaged_traces_do_not_panic() {
    for fixture in [Fixture::with_mcofs(), Fixture::with_guards()] {
        let runs: Vec<(u64, usize)> = fixture.memory.runs.iter().map(|run| (*run.0, run.1.len())).collect();
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..100 {
            let mut memory = fixture.memory.clone();
            for _ in 0..=numbers.next() % 8 {
                let (start, length) = runs[numbers.next() as usize % runs.len()];
                let value = if numbers.next() & 1 == 0 { 0xff } else { numbers.next() as u8 };
                *memory.byte(start + numbers.next() % length as u64) = value;
            }
            decode_all(&memory, &fixture.layout, fixture.global_state, &fixture.traces, fixture.base_function);
        }
    }
}

#[test]
fn memory_full_of_noise_does_not_panic() {
    struct Noise(u64, u64);
    impl Memory for Noise {
        fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
            for (offset, byte) in (0_u64..).zip(buffer) {
                let place = address.wrapping_add(offset).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.0;
                *byte = if place >> 32 & self.1 == 0 { 0 } else { (place >> 40) as u8 };
            }
            Ok(())
        }
    }
    let layout = layout("a32aeadc");
    for (seed, mask) in [(1, 1), (2, 7), (3, u64::MAX)] {
        decode_all(&Noise(seed, mask), &layout, seed << 40, &[0, u64::MAX - 0x200], seed);
        decode_all(&Noise(seed, mask), &layout, u64::MAX - seed, &[seed << 32], u64::MAX);
    }
}
