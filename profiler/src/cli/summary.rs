//! What is said at the end: how much was sampled, what is missing, and why there may be no graph.

use luaflame::format::label::printable;
use luaflame::profile::{Counters, Profile};

use super::args::Plan;

/// Share of unresolved frames above which a graph misleads.
const UNRESOLVED_LIMIT: f64 = 0.2;
/// Most reasons that are listed.
const REASONS_LIMIT: usize = 5;
/// Most programs that are named as being without symbols.
const PROGRAMS_LIMIT: usize = 3;
/// Most characters of a reason, which may name files and functions.
const REASON_LIMIT: usize = 400;
/// Most characters of a process's name; the kernel keeps 15.
const NAME_LIMIT: usize = 32;

/// The line that ends every run which wrote something.
pub fn line(counters: &Counters, lua: bool, file: &str) -> String {
    let mut parts = vec![
        format!("{} samples", counters.samples),
        format!("{} lost", counters.lost),
        format!("{} truncated", counters.truncated),
        format!("{} of the frames unresolved", percent(counters.unresolved, counters.frames)),
    ];
    if lua {
        parts.push(format!("{} of the samples outside Lua", percent(counters.outside_lua, counters.samples)));
    }
    parts.push(format!("{:.2} s of own CPU time", counters.own_cpu));
    format!("{}; written to {file}", parts.join(", "))
}

/// The line that says where a capture is, and what that means.
pub fn capture(file: &str, bytes: usize, full: bool) -> String {
    let early = if full { "sampling ended early, because the capture became too large; " } else { "" };
    format!(
        "{early}{file} ({:.1} MiB, readable by its owner alone) CONTAINS MEMORY of the processes, in which secrets may be; \
         luaflame report draws it again",
        bytes as f64 / f64::from(1 << 20)
    )
}

/// The graph misleads because too much of it has no name.
pub fn is_mostly_unresolved(counters: &Counters) -> bool {
    share(counters.unresolved, counters.frames) > UNRESOLVED_LIMIT
}

/// Says so, why, and what helps.
pub fn unresolved_warning(counters: &Counters) -> String {
    let mut text = format!(
        "{} of the frames are unresolved. Where the graph shows addresses, names are missing, and stacks may be \
         incomplete.",
        percent(counters.unresolved, counters.frames)
    );
    text.push_str(&reasons(counters));
    text.push_str(&help(counters));
    text
}

/// What would give names to native functions, if any have none: what `DebugFile::find` looks for.
fn help(counters: &Counters) -> String {
    let mut programs: Vec<(&str, u64)> =
        counters.without_symbols.iter().map(|(program, count)| (&**program, *count)).collect();
    // Code without a file is named in brackets; nobody has symbols for it.
    programs.retain(|(program, _)| !program.starts_with('['));
    programs.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(two.0)));
    let named: Vec<String> =
        programs.iter().take(PROGRAMS_LIMIT).map(|(program, _)| printable(program, NAME_LIMIT)).collect();
    let named = match (named.as_slice(), programs.len().saturating_sub(PROGRAMS_LIMIT)) {
        ([], _) => return String::new(),
        ([one], _) => one.clone(),
        ([most @ .., last], 0) => format!("{} and {last}", most.join(", ")),
        (all, more) => format!("{} and {more} more", all.join(", ")),
    };
    format!(
        "\nDebug symbols would name the native functions of {named}. Debian has those of a package NAME in the package \
         NAME-dbgsym, and `dpkg -S` tells which package a file is from. They must be in the file system that the process \
         sees: in /usr/lib/debug/.build-id under the build-id of the program, or under the name in its section .gnu_debuglink \
         beside the program, in .debug beside it, or in its folder's place under /usr/lib/debug. Only a file with the build-id \
         of the program is used."
    )
}

/// Why there is nothing to draw, and what to do.
pub fn nothing_to_draw(plan: &Plan, profile: &Profile) -> String {
    let counters = &profile.counters;
    let seconds = profile.meta.seconds;
    if counters.samples > 0 {
        let view = &plan.view;
        let why = if view.root.is_some() || !view.include.is_empty() || !view.exclude.is_empty() {
            "no stack has what --root, --include and --exclude ask for"
        } else if view.lua_only {
            "none of them was in Lua: leave out --lua-only to see where the time goes"
        } else {
            "nothing is left of their stacks: leave out --no-kernel to see where the time goes"
        };
        return format!("{} samples in {seconds:.1} s, but {why}{}", counters.samples, reasons(counters));
    }
    if counters.lost > 0 {
        return format!(
            "all {} samples were lost, because luaflame could not read them in time: sample less often with a lower -F",
            counters.lost
        );
    }
    let processes = match profile.meta.processes.as_slice() {
        [] => "the process".to_owned(),
        [(pid, name)] => format!("{} (pid {pid})", printable(name, NAME_LIMIT)),
        [(pid, name), more @ ..] => format!("{} (pid {pid}) and {} more", printable(name, NAME_LIMIT), more.len()),
    };
    format!(
        "no samples: {processes} used no CPU time in the {seconds:.1} s that were sampled; put load on it, sample for longer \
         with -t, or check that it is the process that does the work{}",
        reasons(counters)
    )
}

/// The most frequent reasons as a list, each on a line of its own.
fn reasons(counters: &Counters) -> String {
    let missing = counters
        .without_symbols
        .iter()
        .map(|(program, count)| (format!("native functions of {program} have no symbols"), *count));
    let mut reasons: Vec<(String, u64)> =
        counters.reasons.iter().map(|(reason, count)| (reason.clone(), *count)).chain(missing).collect();
    reasons.sort_by(|one, two| two.1.cmp(&one.1).then(one.0.cmp(&two.0)));
    let mut text = String::new();
    for (reason, count) in reasons.iter().take(REASONS_LIMIT) {
        text.push_str(&format!("\n  {count} x {}", printable(reason, REASON_LIMIT)));
    }
    if reasons.len() > REASONS_LIMIT {
        text.push_str(&format!("\n  and {} more reasons", reasons.len() - REASONS_LIMIT));
    }
    text
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * share(part, whole))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Args;
    use crate::cli::Work;

    fn counters() -> Counters {
        Counters {
            samples: 990,
            lost: 2,
            truncated: 3,
            outside_lua: 99,
            frames: 10_000,
            unresolved: 123,
            own_cpu: 0.057,
            ..Counters::default()
        }
    }

    fn plan(arguments: &[&str]) -> Plan {
        let work = Args::try_parse_from(["luaflame", "-p7"].iter().chain(arguments)).unwrap().work().unwrap();
        let Work::Draw(plan) = work else { panic!("it is no profile") };
        *plan
    }

    #[test]
    fn the_last_line_says_it_all() {
        assert_eq!(
            line(&counters(), true, "flame.svg"),
            "990 samples, 2 lost, 3 truncated, 1.2 % of the frames unresolved, 10.0 % of the samples outside Lua, \
             0.06 s of own CPU time; written to flame.svg"
        );
        assert!(!line(&counters(), false, "flame.svg").contains("Lua"), "nobody looked for Lua");
    }

    #[test]
    fn more_than_a_fifth_unresolved_is_too_much() {
        assert!(!is_mostly_unresolved(&Counters::default()));
        assert!(!is_mostly_unresolved(&Counters { unresolved: 2_000, ..counters() }));
        assert!(is_mostly_unresolved(&Counters { unresolved: 2_001, ..counters() }));
    }

    #[test]
    fn the_warning_lists_the_commonest_reasons_first() {
        let mut counters = Counters { unresolved: 5_000, ..counters() };
        for (reason, count) in [("a\u{1b}[2J is gone", 3), ("b", 9), ("c", 1), ("d", 2), ("e", 4), ("f", 5), ("g", 1)] {
            counters.reasons.insert(reason.to_owned(), count);
        }
        let text = unresolved_warning(&counters);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("50.0 % of the frames are unresolved"), "{text}");
        assert_eq!(
            lines[1..],
            ["  9 x b", "  5 x f", "  4 x e", "  3 x a\\u{1b}[2J is gone", "  2 x d", "  and 2 more reasons"]
        );
    }

    #[test]
    fn the_warning_says_what_would_name_native_functions() {
        let mut counters = Counters { unresolved: 5_000, ..counters() };
        assert!(!unresolved_warning(&counters).contains("Debug symbols"), "they would not help");
        let without = |counters: &mut Counters, program: &str, count| {
            counters.without_symbols.insert(program.into(), count);
        };
        without(&mut counters, "[anonymous]", 90);
        assert!(!unresolved_warning(&counters).contains("Debug symbols"), "nobody has any for that");
        without(&mut counters, "nginx", 80);
        let text = unresolved_warning(&counters);
        assert!(
            text.contains("\n  80 x native functions of nginx have no symbols\nDebug symbols would name"),
            "{text}"
        );
        assert!(
            text.contains("functions of nginx. Debian has those of a package NAME in the package NAME-dbgsym,"),
            "{text}"
        );
        assert!(text.ends_with("Only a file with the build-id of the program is used."), "{text}");
        without(&mut counters, "b.so", 70);
        assert!(unresolved_warning(&counters).contains("functions of nginx and b.so."));
        without(&mut counters, "c\u{1b}.so", 60);
        assert!(unresolved_warning(&counters).contains("functions of nginx, b.so and c\\u{1b}.so."));
        without(&mut counters, "d.so", 50);
        assert!(unresolved_warning(&counters).contains("functions of nginx, b.so, c\\u{1b}.so and 1 more."));
    }

    #[test]
    fn no_samples_says_what_to_do() {
        let mut profile = Profile::default();
        profile.meta.seconds = 10.0;
        profile.meta.processes = vec![(7, "ngi\u{1b}nx".into())];
        let idle = nothing_to_draw(&plan(&[]), &profile);
        assert!(
            idle.contains("ngi\\u{1b}nx (pid 7) used no CPU time in the 10.0 s") && idle.contains("load"),
            "{idle}"
        );
        profile.counters.lost = 5;
        assert!(nothing_to_draw(&plan(&[]), &profile).starts_with("all 5 samples were lost"));
        profile.counters.samples = 5;
        let outside = nothing_to_draw(&plan(&["--lua-only"]), &profile);
        assert!(outside.contains("none of them was in Lua: leave out --lua-only"), "{outside}");
    }
}
