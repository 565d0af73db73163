//! Shares of the time: measured, known, and as another profiler says.

use std::collections::{HashMap, HashSet};

use crate::legal::leaf;
use crate::stacks::{Frame, Stack};

/// What the functions of `shares.lua` take of the time.
pub const KNOWN: [(&str, f64); 4] = [("half", 0.48), ("quarter", 0.24), ("fifth", 0.20), ("twelfth", 0.08)];

/// The share of each function in the samples, by its own time: the samples in which it is the leaf-most Lua function.
pub fn own(stacks: &[Stack]) -> HashMap<String, f64> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    for stack in stacks {
        if let Some(function) = leaf(stack) {
            *counts.entry(function.name.clone()).or_default() += stack.count;
        }
    }
    of_counts(counts)
}

/// The share of each function in the samples in Lua, with what it called: the samples that it is anywhere in. They sum up to more
/// than 1.
pub fn inclusive(stacks: &[Stack]) -> HashMap<String, f64> {
    let mut counts: HashMap<String, u64> = HashMap::new();
    let mut all = 0;
    for stack in stacks {
        let names: HashSet<&str> = stack.frames.iter().filter_map(Frame::lua).map(|f| f.name.as_str()).collect();
        all += if names.is_empty() { 0 } else { stack.count };
        for name in names {
            *counts.entry(name.to_owned()).or_default() += stack.count;
        }
    }
    counts.into_iter().map(|(name, count)| (name, count as f64 / all.max(1) as f64)).collect()
}

/// Counts as shares of their sum.
pub fn of_counts(counts: HashMap<String, u64>) -> HashMap<String, f64> {
    let all: u64 = counts.values().sum();
    counts.into_iter().map(|(name, count)| (name, count as f64 / all.max(1) as f64)).collect()
}

/// Total variation distance of two distributions: the share of the time on which they disagree, from 0 to 1.
pub fn distance(a: &HashMap<String, f64>, b: &HashMap<String, f64>) -> f64 {
    let missing = b.iter().filter(|(name, _)| !a.contains_key(*name)).map(|(_, share)| *share);
    let both = a.iter().map(|(name, share)| (share - b.get(name).copied().unwrap_or(0.0)).abs());
    missing.chain(both).sum::<f64>() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::parse;

    #[test]
    fn a_recursive_function_counts_once() {
        let stacks = parse("main chunk (t.lua:9);a (t.lua:1);a (t.lua:1) 3\nmain chunk (t.lua:9) 1\nmain 6\n").unwrap();
        assert_eq!(own(&stacks)["a"], 0.75);
        assert_eq!(inclusive(&stacks)["a"], 0.75);
        assert_eq!(inclusive(&stacks)["main chunk"], 1.0);
    }

    #[test]
    fn distance_is_the_share_that_differs() {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect();
        let (a, b) = (of(&[("x", 0.5), ("y", 0.5)]), of(&[("x", 0.25), ("z", 0.75)]));
        assert_eq!(distance(&a, &b), 0.75);
        assert_eq!(distance(&a, &a), 0.0);
    }
}
