//! Writes a capture as a busy server may leave in some hours, for `cargo xtask bench`: a million samples of fifty thousand
//! distinct stacks, the same in every run.
//!
//! `cargo run --release --package luaflame --example large_capture FILE.luaflame`

use std::env;
use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use luaflame::capture::{Recording, profile_file};
use luaflame::profile::{Frame, FrameId, FrameKind, Origin, Profile, State};

const SAMPLES: u64 = 1_000_000;
const STACKS: usize = 50_000;
/// Distinct functions of each kind.
const FUNCTIONS: u64 = 1_500;
const WORKERS: u64 = 8;
/// Nanoseconds between two samples at 99 Hz on eight CPUs.
const PERIOD: u64 = 1_000_000_000 / 99 / WORKERS;

/// Numbers that look like chance (Knuth's linear congruential generator, MMIX).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = env::args_os().nth(1).ok_or("the name of a file is needed")?;
    let mut profile = Profile::default();
    profile.meta.lua = true;
    profile.meta.frequency = 99;
    profile.meta.event = "cpu-clock".to_owned();
    profile.meta.seconds = (SAMPLES * PERIOD) as f64 / 1e9;
    profile.meta.started = Some(UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    profile.meta.processes = (1..=WORKERS).map(|pid| (pid as u32, "nginx".to_owned())).collect();
    for pid in 1..=WORKERS as u32 {
        profile.threads.insert((pid, pid), "nginx".to_owned());
    }
    let mut numbers = Numbers(1);
    let native: Vec<FrameId> = functions(&mut profile, FrameKind::Native);
    let builtins: Vec<FrameId> = functions(&mut profile, FrameKind::Builtin);
    let kernel: Vec<FrameId> = functions(&mut profile, FrameKind::Kernel);
    let lua =
        [FrameKind::Interpreted, FrameKind::Compiled, FrameKind::Inlined].map(|kind| functions(&mut profile, kind));
    let stacks: Vec<Vec<FrameId>> = (0..STACKS)
        .map(|_| {
            // nginx's way to Lua, the same for all; then code, the more varied the deeper.
            let mut stack: Vec<FrameId> = native[..12].to_vec();
            let depth = 8 + numbers.below(40);
            for level in 0..depth {
                let kind = if numbers.below(4) == 0 { 1 + numbers.below(2) as usize } else { 0 };
                let choice = numbers.below((2 + level * level).min(FUNCTIONS));
                stack.push(lua[kind][choice as usize]);
            }
            match numbers.below(3) {
                0 => stack.push(builtins[numbers.below(FUNCTIONS) as usize]),
                1 => stack.extend((0..8).map(|level| kernel[numbers.below(level * 4 + 1) as usize])),
                _ => {}
            }
            stack
        })
        .collect();
    for number in 0..SAMPLES {
        // Each stack at least once; the rest as real profiles have them, few stacks many times.
        let index = if (number as usize) < STACKS {
            number as usize
        } else {
            let range = 1 + numbers.below(STACKS as u64);
            numbers.below(range) as usize
        };
        // A stack is of one worker.
        let pid = 1 + index as u32 % WORKERS as u32;
        let origin = Origin { pid, tid: pid, vm: 0x7f00_0000_0000, state: State::Interpreter };
        profile.add_at(origin, &stacks[index], number * PERIOD);
    }
    profile.counters.samples = SAMPLES;
    fs::write(file, profile_file(&Recording::from(&profile), &profile)?)?;
    Ok(())
}

fn functions(profile: &mut Profile, kind: FrameKind) -> Vec<FrameId> {
    (0..FUNCTIONS)
        .map(|number| {
            let file =
                kind.is_lua().then(|| format!("/usr/local/share/lua/5.1/shop/module_{}.lua", number / 20).into());
            let name = Some(format!("function_{kind:?}_{number}").into());
            let line = if kind.is_lua() { 1 + number as u32 % 20 * 15 } else { 0 };
            profile.frame(Frame { kind, name, file, first_line: line, line, unresolved: false })
        })
        .collect()
}
