//! Makes a small capture of a large one, to keep as a fixture:
//!
//! ```sh
//! cargo run --release -p luaflame --example shrink -- all.luaflame few.luaflame 'main chunk;fib' 2
//! ```
//!
//! keeps two samples that have `main chunk;fib` in their folded stacks, and writes the stacks beside the capture, to
//! `few.folded`. Look at them before they become what is expected.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use luaflame::capture::{Capture, shrink};
use luaflame::format::folded;
use luaflame::profile::view::Lines;
use luaflame::replay::replay;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to, wanted, most] = &arguments[..] else {
        anyhow::bail!("usage: shrink FROM.luaflame TO.luaflame TEXT NUMBER");
    };
    let capture = fs::read(from).with_context(|| format!("{from} cannot be read"))?;
    let shrunk = shrink(&capture, wanted, most.parse().context("the number of samples is not a number")?)?;
    fs::write(to, &shrunk)?;
    let profile = replay(Capture::of(to.clone(), shrunk)?, &AtomicBool::new(false))?;
    let mut text = Vec::new();
    folded::write(&profile, Lines::Line, &mut text)?;
    fs::write(PathBuf::from(to).with_extension("folded"), text)?;
    Ok(())
}
