//! `cargo xtask test`: everything that must hold before a change is shared.

use anyhow::{Result, bail};

use crate::shell::{cargo, interrupted, is_root, luaflame, run};
use crate::{ebpf, fuzz, setup};

type Check = fn() -> Result<()>;

/// Sets up what is missing and runs every check, whether those before it hold or not.
///
/// # Errors
/// When a check fails, with the names of those that did.
pub fn task() -> Result<()> {
    let checks: [(&str, Check); 8] = [
        ("format", format),
        ("lints", lints),
        ("probe", || ebpf::task(&ebpf::Arguments { check: true })),
        ("unit tests", unit_tests),
        ("documentation", documentation),
        ("fuzzing", fuzz::check),
        ("set-up of the programs to profile", setup::for_tests),
        ("end-to-end tests", end_to_end_tests),
    ];
    let mut report = Vec::new();
    let mut failed = Vec::new();
    for (name, check) in checks {
        eprintln!("\n== {name}");
        match check() {
            Ok(()) => report.push(format!("{name}: ok")),
            Err(error) => {
                eprintln!("{name}: {error:#}");
                if interrupted() {
                    return Err(error);
                }
                report.push(format!("{name}: FAILED: {error}"));
                failed.push(name);
            }
        }
    }
    eprintln!("\n== what was checked\n{}", report.join("\n"));
    if !is_root() {
        eprintln!("The end-to-end tests did not run: they load an eBPF program, which only root may.");
    }
    if failed.is_empty() { Ok(()) } else { bail!("these checks failed: {}", failed.join(", ")) }
}

fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["fmt", "--check", "--manifest-path", "profiler-ebpf/Cargo.toml"]))?;
    run(cargo().args(["fmt", "--check", "--manifest-path", "profiler/fuzz/Cargo.toml"]))
}

fn lints() -> Result<()> {
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

fn unit_tests() -> Result<()> {
    run(cargo().args(["test", "--workspace", "--exclude", "luaflame-tests"]))?;
    run(cargo().args(["test", "--package", "luaflame-tests", "--lib"]))
}

fn documentation() -> Result<()> {
    run(cargo().env("RUSTDOCFLAGS", "--deny warnings").args(["doc", "--workspace", "--no-deps"]))
}

fn end_to_end_tests() -> Result<()> {
    let program = luaflame()?;
    run(cargo().env("LUAFLAME", program).args(["test", "--package", "luaflame-tests", "--test", "e2e"]))
}
