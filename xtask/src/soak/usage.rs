//! What the daemon uses as time goes by, and whether that stays the same.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use luaflame_tests::daemon::files;
use luaflame_tests::process::cpu_time;

use crate::table::median;

/// What it used at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Since the beginning.
    pub at: Duration,
    /// Resident memory, MiB.
    pub resident: f64,
    /// The most there has been of it, MiB.
    pub peak: f64,
    /// Of this, what is not of files, MiB.
    pub anonymous: f64,
    /// Threads.
    pub threads: f64,
    /// Open file descriptors.
    pub descriptors: f64,
    /// CPU time in all, seconds.
    pub cpu: f64,
    /// What its spool takes, KiB.
    pub spool: f64,
    /// What its store takes, KiB.
    pub store: f64,
}

impl Usage {
    /// Looks at a daemon with this process id and folder.
    pub fn of(pid: u32, folder: &Path, at: Duration) -> Result<Usage> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon has ended")?;
        let field = |name: &str| {
            let value =
                status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
            value.with_context(|| format!("the kernel does not tell {name}"))
        };
        let size = |name: &str| {
            let lengths = files(&folder.join(name), "").into_iter().filter_map(|file| fs::metadata(file).ok());
            lengths.map(|metadata| metadata.len()).sum::<u64>() as f64 / 1024.0
        };
        Ok(Usage {
            at,
            resident: field("VmRSS:")? / 1024.0,
            peak: field("VmHWM:")? / 1024.0,
            anonymous: field("RssAnon:")? / 1024.0,
            threads: field("Threads:")?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as f64,
            cpu: cpu_time(pid).context("the daemon has ended")? as f64 / 100.0,
            spool: size("spool"),
            store: size("store"),
        })
    }
}

/// How a figure went on: the medians of the second and of the last third, and by how much it grew over both, by a line that is laid
/// through the figures.
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// Median of the second third.
    pub before: f64,
    /// Median of the last third.
    pub after: f64,
    /// What the line rises in both together.
    pub rise: f64,
}

impl Course {
    /// The course of a figure after the first third, in which caches are filled.
    pub fn of(usage: &[Usage], value: impl Fn(&Usage) -> f64) -> Course {
        let third = usage.len() / 3;
        let values: Vec<f64> = usage.iter().map(value).collect();
        let settled = &values[third..];
        let mean = settled.iter().sum::<f64>() / settled.len() as f64;
        let middle = (settled.len() as f64 - 1.0) / 2.0;
        let offsets = || settled.iter().enumerate().map(|(number, value)| (number as f64 - middle, value - mean));
        let slope = offsets().map(|(x, y)| x * y).sum::<f64>() / offsets().map(|(x, _)| x * x).sum::<f64>();
        Course {
            before: median(&values[third..2 * third]),
            after: median(&values[2 * third..]),
            rise: slope * (settled.len() as f64 - 1.0),
        }
    }

    /// Whether neither the median nor the line is up by more than this.
    pub fn is_flat(&self, tolerance: f64) -> bool {
        self.after - self.before <= tolerance && self.rise <= tolerance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(values: impl Iterator<Item = f64>) -> Course {
        let usage: Vec<Usage> = values
            .map(|value| Usage {
                at: Duration::ZERO,
                resident: value,
                peak: 0.0,
                anonymous: 0.0,
                threads: 0.0,
                descriptors: 0.0,
                cpu: 0.0,
                spool: 0.0,
                store: 0.0,
            })
            .collect();
        Course::of(&usage, |usage| usage.resident)
    }

    #[test]
    fn what_grows_is_not_flat() {
        assert!(course((0..90).map(|_| 7.0)).is_flat(0.1));
        assert!(course((0..90).map(|number| 40.0 + f64::from(number % 2))).is_flat(1.0));
        assert!(course((0..90).map(|number| if number < 30 { f64::from(number) } else { 30.0 })).is_flat(0.1));
        let grows = course((0..90).map(f64::from));
        assert!((grows.rise - 59.0).abs() < 1e-9 && !grows.is_flat(20.0), "{grows:?}");
    }
}
