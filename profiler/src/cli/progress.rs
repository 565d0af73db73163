//! The line on a terminal that says how far sampling is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use luaflame::format::label::printable;
use luaflame::record::Progress;

use super::console;

/// Most characters of the function's name on the line.
const TOP_LIMIT: usize = 60;

/// A line that is rewritten in place, and goes when dropped. Where nobody watches there is none.
pub struct ProgressLine {
    bar: Option<ProgressBar>,
    duration: Option<Duration>,
}

impl ProgressLine {
    /// A line for sampling that takes this long, or until it is stopped.
    pub fn new(duration: Option<Duration>) -> ProgressLine {
        let bar = console::shows_progress().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // A template without fields in error has nothing to fail on.
            bar.set_style(
                ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_message("attaching");
            bar.tick();
            bar
        });
        ProgressLine { bar, duration }
    }

    /// Shows how sampling stands. `stopping` is that its end was asked for.
    pub fn show(&self, progress: &Progress<'_>, stopping: bool) {
        if let Some(bar) = &self.bar {
            bar.set_message(text(progress, self.duration, stopping));
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `7.3 s left, 702 samples, top Lua function: handle (app.lua:12)`. The name comes from another process.
fn text(progress: &Progress<'_>, duration: Option<Duration>, stopping: bool) -> String {
    let time = match duration {
        _ if stopping => "ending, Ctrl-C again gives up".to_owned(),
        Some(duration) => format!("{:.1} s left", duration.saturating_sub(progress.elapsed).as_secs_f64()),
        None => format!("{:.1} s, Ctrl-C ends", progress.elapsed.as_secs_f64()),
    };
    let mut text = format!("{time}, {} samples", progress.samples);
    if progress.lost > 0 {
        text.push_str(&format!(", {} lost", progress.lost));
    }
    if let Some(top) = progress.top {
        text.push_str(", top Lua function: ");
        text.push_str(&printable(top, TOP_LIMIT));
    }
    text
}

#[cfg(test)]
mod tests {
    use luaflame::profile::Profile;

    use super::*;

    fn progress<'a>(top: Option<&'a str>, profile: &'a Profile) -> Progress<'a> {
        Progress { elapsed: Duration::from_millis(2_700), samples: 702, lost: 0, top, processes: &[], profile }
    }

    #[test]
    fn the_line_says_how_sampling_stands() {
        let (ten, profile) = (Some(Duration::from_secs(10)), Profile::default());
        let handle = progress(Some("handle (app.lua:12)"), &profile);
        assert_eq!(text(&handle, ten, false), "7.3 s left, 702 samples, top Lua function: handle (app.lua:12)");
        assert_eq!(text(&progress(None, &profile), None, false), "2.7 s, Ctrl-C ends, 702 samples");
        assert_eq!(text(&progress(None, &profile), ten, true), "ending, Ctrl-C again gives up, 702 samples");
        let lost = Progress { lost: 3, ..progress(None, &profile) };
        assert_eq!(text(&lost, Some(Duration::from_secs(1)), false), "0.0 s left, 702 samples, 3 lost");
    }

    #[test]
    fn names_cannot_control_the_terminal() {
        let profile = Profile::default();
        let evil = format!("\u{1b}]0;owned\u{7}\r\n\u{9b}2J{}", "x".repeat(1000));
        let text = text(&progress(Some(&evil), &profile), None, false);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.chars().count() < 200, "{text:?}");
    }
}
