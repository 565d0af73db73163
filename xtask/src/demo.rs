//! `cargo xtask demo`: a flame graph of an nginx that runs Lua under load, from nothing.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use luaflame_tests::nginx::Nginx;

use crate::setup;
use crate::shell::{is_root, luaflame, root, run};

/// What the task is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Seconds to profile
    #[arg(short, long, default_value_t = 5)]
    time: u32,
    /// Samples per second
    #[arg(short = 'F', long, default_value_t = 99)]
    freq: u32,
}

/// Sets up what is missing, starts nginx and load for it, profiles it, and stops both.
///
/// # Errors
/// When a step fails.
pub fn task(arguments: &Arguments) -> Result<()> {
    ensure!(
        is_root(),
        "the demo loads an eBPF program, which only root may: run `sudo -E env PATH=\"$PATH\" cargo xtask demo`"
    );
    setup::for_demo()?;
    let luaflame = luaflame()?;

    let folder = root().join("target/demo");
    let samples = root().join("samples/nginx");
    let nginx = Nginx::start(&samples, &folder.join("nginx"), 2, "")?;
    // Longer than profiling takes; it is stopped when that is done.
    let load = nginx.load("/", Some(&samples.join("load.lua")), 16, arguments.time + 60)?;
    eprintln!("nginx serves the Lua application in samples/nginx on {}, and wrk puts load on it", nginx.address());

    let graph = folder.join("flame.svg");
    let mut profile = Command::new(&luaflame);
    profile.args(["-p", &nginx.master().to_string(), "-t", &arguments.time.to_string()]);
    profile.args(["-F", &arguments.freq.to_string(), "-o"]).arg(&graph);
    let done = run(&mut profile);
    drop((load, nginx));
    done?;

    let svg = fs::read_to_string(&graph).with_context(|| format!("{} could not be read", graph.display()))?;
    let hottest = hottest(&svg);
    ensure!(!hottest.is_empty(), "there is no Lua function in {}", graph.display());
    println!("\nLua functions by the share of samples in which they were running or waiting for what they called:");
    for (name, share) in hottest.iter().take(10) {
        println!("  {share:5.1} %  {name}");
    }
    println!(
        "\nThe flame graph: {}\nOpen it in a browser. A box is a function; the box on it is what it called; its width is its \
         share of the CPU time.\nClick a box to zoom in, press Ctrl-F to search.",
        graph.display()
    );
    Ok(())
}

/// The Lua functions of a flame graph, with the share of samples in percent that each is in, the largest first.
fn hottest(svg: &str) -> Vec<(String, f64)> {
    let mut places: HashMap<&str, Vec<Range<u64>>> = HashMap::new();
    let mut all = 0;
    for group in svg.split("<g>").skip(1) {
        let Some((label, place)) = placed(group) else { continue };
        all = all.max(place.end);
        if is_lua(label) {
            places.entry(label).or_default().push(place);
        }
    }
    let mut shares: Vec<_> = places
        .into_iter()
        .map(|(label, places)| (unescape(label), 100.0 * covered(places) as f64 / all.max(1) as f64))
        .collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

/// Label and place, in samples from the left edge, of a box from inferno's group of elements for it.
fn placed(group: &str) -> Option<(&str, Range<u64>)> {
    let (title, rest) = group.split_once("<title>")?.1.split_once("</title>")?;
    let number = |name| rest.split_once(name)?.1.split_once('"')?.0.parse::<u64>().ok();
    let (start, width) = (number("fg:x=\"")?, number("fg:w=\"")?);
    Some((title.rsplit_once(" (")?.0, start..start.checked_add(width)?))
}

/// How many samples the places cover together: the boxes of a recursive function lie on one another.
fn covered(mut places: Vec<Range<u64>>) -> u64 {
    places.sort_by_key(|place| place.start);
    let mut end = 0;
    places.iter().fold(0, |sum, place| {
        let new = place.end.saturating_sub(end.max(place.start));
        end = end.max(place.end);
        sum + new
    })
}

/// Whether a label is that of a Lua function: `name (file:line)`, or with a suffix that says how it ran.
fn is_lua(label: &str) -> bool {
    let label = label.strip_suffix("_[j]").or_else(|| label.strip_suffix("_[i]")).unwrap_or(label);
    label
        .strip_suffix(')')
        .and_then(|label| label.rsplit_once(':'))
        .is_some_and(|(name, line)| name.contains('(') && line.parse::<u32>().is_ok())
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::hottest;

    #[test]
    fn a_functions_share_counts_each_sample_once_wherever_its_boxes_lie() {
        let group = |title: &str, x: u32, w: u32| {
            format!(r#"<g><title>{title} ({w} samples, 0.00%)</title><rect x="0%" y="9" fg:x="{x}" fg:w="{w}"/></g>"#)
        };
        let svg = [
            group("all", 0, 200),
            group("ngx_http_core_run_phases", 0, 180),
            group("walk (lua/tree.lua:30)", 20, 60),
            group("walk (lua/tree.lua:30)", 30, 40),
            group("walk (lua/tree.lua:30)", 100, 20),
            group("&lt;b&gt; (lua/a.lua:3)_[j]", 80, 100),
        ];
        assert_eq!(
            hottest(&svg.concat()),
            [("<b> (lua/a.lua:3)_[j]".to_owned(), 50.0), ("walk (lua/tree.lua:30)".to_owned(), 40.0)]
        );
    }
}
