//! Shares of the time: measured, known, and as another profiler says.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, MAIN};
use crate::stacks::{Frame, Stack};

/// What the functions of `shares.lua` take of the time.
pub const KNOWN: [(&str, f64); 4] = [("half", 0.48), ("quarter", 0.24), ("fifth", 0.20), ("twelfth", 0.08)];

/// The Lua functions of a stack, root first, with the number of samples that had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// Their names; at least one.
    pub functions: Vec<String>,
    /// Samples.
    pub count: u64,
}

/// Shares by name of the function.
pub type Shares = BTreeMap<String, f64>;

/// The Lua functions of stacks; stacks without any are left out.
pub fn paths(stacks: &[Stack]) -> Vec<Path> {
    let path = |stack: &Stack| {
        let functions: Vec<String> = stack.frames.iter().filter_map(Frame::lua).map(|f| f.name.clone()).collect();
        (!functions.is_empty()).then_some(Path { functions, count: stack.count })
    };
    stacks.iter().filter_map(path).collect()
}

/// The Lua functions of the stacks in what LuaJIT's own profiler writes for graphical tools, a file and a line for each frame. What is
/// no function of the graph, such as a builtin, is left out, as [`paths`] does.
pub fn paths_of_jit_p(report: &str, graph: &Graph) -> Vec<Path> {
    let function = |label: &str| -> Option<String> {
        let (file, line) = label.rsplit_once(':')?;
        graph.at(file, line.parse().ok()?).map(str::to_owned)
    };
    let path = |line: &str| {
        let (labels, count) = line.rsplit_once(' ')?;
        let functions: Vec<String> = labels.split(';').filter_map(function).collect();
        (!functions.is_empty()).then_some(Path { functions, count: count.parse().ok()? })
    };
    report.lines().filter_map(path).collect()
}

/// How many samples there are.
pub fn samples(paths: &[Path]) -> u64 {
    paths.iter().map(|path| path.count).sum()
}

/// The share of each function by its own time: the samples in which it is the leaf-most Lua function.
pub fn own(paths: &[Path]) -> Shares {
    of(paths, |path| path.functions.last().into_iter().map(String::as_str).collect())
}

/// The share of each function with what it called: the samples that it is anywhere in. They sum up to more than 1. The main chunk's,
/// which is 1, is left out.
pub fn inclusive(paths: &[Path]) -> Shares {
    of(paths, |path| path.functions.iter().map(String::as_str).filter(|name| *name != MAIN).collect())
}

fn of(paths: &[Path], names: impl Fn(&Path) -> BTreeSet<&str>) -> Shares {
    let all = samples(paths).max(1) as f64;
    let mut shares = Shares::new();
    for path in paths {
        for name in names(path) {
            *shares.entry(name.to_owned()).or_default() += path.count as f64 / all;
        }
    }
    shares
}

/// Total variation distance of two distributions: the share of the time on which they disagree, from 0 to 1.
pub fn distance(a: &Shares, b: &Shares) -> f64 {
    let missing = b.iter().filter(|(name, _)| !a.contains_key(*name)).map(|(_, share)| *share);
    let both = a.iter().map(|(name, share)| (share - b.get(name).copied().unwrap_or(0.0)).abs());
    missing.chain(both).sum::<f64>() / 2.0
}

/// The standard error of a share that was measured with this many samples.
pub fn standard_error(share: f64, samples: u64) -> f64 {
    (share * (1.0 - share) / samples.max(1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Definition;
    use crate::stacks::parse;

    #[test]
    fn a_recursive_function_counts_once() {
        let stacks = parse("main chunk (t.lua:9);a (t.lua:1);a (t.lua:1) 3\nmain chunk (t.lua:9) 1\nmain 6\n").unwrap();
        let paths = paths(&stacks);
        assert_eq!(samples(&paths), 4);
        assert_eq!(own(&paths), Shares::from([("a".into(), 0.75), (MAIN.into(), 0.25)]));
        assert_eq!(inclusive(&paths), Shares::from([("a".into(), 0.75)]));
    }

    #[test]
    fn a_report_tells_functions_by_their_lines() {
        let mut graph = Graph::default();
        for (name, line, end) in [(MAIN, 0, 20), ("a", 3, 5), ("b", 7, 9)] {
            graph.functions.insert(name.to_owned(), Definition { file: "t.lua".into(), line, end });
        }
        let report =
            "@0x55;t.lua:12;t.lua:4;[builtin:sort];t.lua:8 5\n@0x55;t.lua:12;[builtin:sort] 2\n@0x55;u.lua:3 1\n";
        let path =
            |functions: &[&str], count| Path { functions: functions.iter().map(|f| (*f).into()).collect(), count };
        assert_eq!(paths_of_jit_p(report, &graph), [path(&[MAIN, "a", "b"], 5), path(&[MAIN], 2)]);
    }

    #[test]
    fn distance_is_the_share_that_differs() {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let (a, b) = (of(&[("x", 0.5), ("y", 0.5)]), of(&[("x", 0.25), ("z", 0.75)]));
        assert_eq!(distance(&a, &b), 0.75);
        assert_eq!(distance(&a, &a), 0.0);
    }
}
