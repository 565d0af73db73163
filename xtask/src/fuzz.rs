//! `cargo xtask fuzz`: feeds the decoders inputs that are made to break them, and keeps those that do.
//!
//! The engine is libFuzzer, which the crate `libfuzzer-sys` brings along as C++ source: with a C++ compiler it works on stable
//! Rust, since the instrumentation that it needs is a pass of LLVM that every compiler has. Only sanitizers need a nightly
//! compiler, and there is next to no unsafe code that they would watch; overflows and memory are watched by the targets
//! themselves (`profiler/fuzz`).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::setup;
use crate::shell::{cargo, interrupted, output, root, run, target_dir};

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The target, one of the files in `profiler/fuzz/fuzz_targets`; all of them, one after the other, if none is named
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Every target, with further inputs to begin with, beside those in `profiler/fuzz/seeds`.
const TARGETS: [(&str, Option<&str>); 12] = [
    ("samples", None),
    ("discovery", None),
    ("prototypes", None),
    ("names", None),
    ("traces", None),
    ("images", None),
    ("maps", None),
    ("sources", Some("samples/lua")),
    ("captures", None),
    ("imports", Some("profiler/tests/golden")),
    ("pprof", None),
    ("labels", None),
];

/// Seconds of each target in `cargo xtask test`.
const CHECK_SECONDS: u32 = 3;
/// Most seconds that one input may take; the slowest take one on an idle machine.
const SLOWEST: u32 = 30;
/// Most memory of a target, in MiB, most of it libFuzzer's own. What may be allocated is limited in `profiler/fuzz/src/heap.rs`.
const MEMORY: u32 = 1024;
/// Most bytes of an input: a small image fits.
const LONGEST: u32 = 8192;

/// What has LLVM count which code an input reaches, and show what numbers are compared with.
const INSTRUMENTATION: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Fuzzes one target or all.
///
/// # Errors
/// When an input breaks a target, with where it is kept; when the targets do not build.
pub fn task(arguments: &Arguments) -> Result<()> {
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|target| target == name);
    let targets: Vec<_> = TARGETS.into_iter().filter(|(name, _)| wanted(name)).collect();
    if targets.is_empty() {
        bail!("there is no such target; there are {}", TARGETS.map(|(name, _)| name).join(", "));
    }
    setup::for_fuzzing()?;
    let programs = build()?;
    let mut broken = Vec::new();
    for (name, seeds) in targets {
        eprintln!("\n== {name}");
        if let Err(error) = fuzz(&programs.join(name), name, seeds, arguments.seconds) {
            eprintln!("{error:#}");
            if interrupted() {
                return Err(error);
            }
            broken.push(name);
        }
    }
    ensure!(
        broken.is_empty(),
        "these targets broke: {}. The inputs are in {}; a target runs one that is its argument",
        broken.join(", "),
        folder("artifacts").display()
    );
    Ok(())
}

/// Fuzzes every target for a short time: the check of `cargo xtask test`.
///
/// # Errors
/// As [`task`].
pub fn check() -> Result<()> {
    task(&Arguments { target: None, seconds: CHECK_SECONDS })
}

/// Where what libFuzzer finds is kept.
fn folder(name: &str) -> PathBuf {
    target_dir().join("fuzz").join(name)
}

/// Builds the targets, and returns the folder that they are in.
fn build() -> Result<PathBuf> {
    let version = output(Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV"))?;
    let Some(host) = version.lines().find_map(|line| line.strip_prefix("host: ")) else {
        bail!("the compiler does not say what it compiles for:\n{version}");
    };
    // With the target named, what runs during the build itself is not instrumented.
    run(cargo()
        .args(["build", "--release", "--locked", "--manifest-path", "profiler/fuzz/Cargo.toml", "--target", host])
        .arg("--target-dir")
        .arg(target_dir().join("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENTATION.join("\u{1f}")))?;
    Ok(target_dir().join("fuzz").join(host).join("release"))
}

fn fuzz(program: &PathBuf, name: &str, seeds: Option<&str>, seconds: u32) -> Result<()> {
    let (corpus, artifacts) = (folder("corpus").join(name), folder("artifacts").join(name));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let committed = root().join("profiler/fuzz/seeds").join(name);
    let mut command = Command::new(program);
    // The first folder also takes what is found.
    command.arg(&corpus).args(
        [Some(committed), seeds.map(|seeds| root().join(seeds))].into_iter().flatten().filter(|seeds| seeds.is_dir()),
    );
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={SLOWEST}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-max_len={LONGEST}"))
        .args(["-len_control=0", "-verbosity=0", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", artifacts.display()));
    run(&mut command)
}
