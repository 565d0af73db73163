//! Reading what may change while it is read.

use std::time::Duration;

/// Readings that must be the same one after the other, when the process has run meanwhile.
const SAME: usize = 3;
/// Times that this is tried.
const ATTEMPTS: usize = 5;

/// What is known of something that was read in several pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Steadiness {
    /// The process did not run meanwhile: it was so at one moment.
    Still,
    /// The process has run meanwhile, and three readings in a row were the same.
    Same,
    /// It was another one each time.
    Changed,
}

/// Reads something until it is known to be of one moment, or gives up. `clock` is the CPU time of the process while it
/// is at rest.
pub fn steady<T: PartialEq>(clock: &dyn Fn() -> Option<Duration>, mut read: impl FnMut() -> T) -> (T, Steadiness) {
    let mut before = clock();
    let mut last = read();
    for _ in 0..ATTEMPTS {
        for readings in 1.. {
            if before.is_some() && clock() == before {
                return (last, Steadiness::Still);
            }
            if readings == SAME {
                return (last, Steadiness::Same);
            }
            before = clock();
            let next = read();
            let same = next == last;
            last = next;
            if !same {
                break;
            }
        }
    }
    (last, Steadiness::Changed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn read_with(clock: impl Fn(u64) -> Option<u64>, value: impl Fn(u64) -> u64) -> (u64, Steadiness, u64) {
        let readings = Cell::new(0);
        let time = || clock(readings.get()).map(Duration::from_nanos);
        let (last, steadiness) = steady(&time, || {
            readings.set(readings.get() + 1);
            value(readings.get())
        });
        (last, steadiness, readings.get())
    }

    #[test]
    fn one_reading_of_a_process_that_does_not_run_is_enough() {
        assert_eq!(read_with(|_| Some(7), |_| 1), (1, Steadiness::Still, 1));
        assert_eq!(read_with(|reading| Some(reading.min(2)), |reading| reading), (3, Steadiness::Still, 3), "it stops");
    }

    #[test]
    fn a_process_that_runs_is_read_until_it_is_the_same_three_times() {
        assert_eq!(read_with(Some, |_| 1), (1, Steadiness::Same, 3));
        assert_eq!(read_with(|_| None, |_| 1), (1, Steadiness::Same, 3), "there is no clock");
        assert_eq!(read_with(Some, |reading| reading.min(3)), (3, Steadiness::Same, 5));
    }

    #[test]
    fn what_changes_all_the_time_says_so() {
        assert_eq!(read_with(Some, |reading| reading), (6, Steadiness::Changed, 6));
        assert_eq!(read_with(Some, |reading| reading / 2).1, Steadiness::Changed, "twice the same is not enough");
    }
}
