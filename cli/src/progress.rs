//! Progress on standard error while something takes long: on a terminal only, never in a pipe or a file.

use std::fmt::Display;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Keeps its line on the terminal until it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Of something whose end is not known.
    pub(crate) fn spinner(what: &'static str) -> Progress {
        Progress::new(None, "{spinner} {msg} {elapsed}", what)
    }

    /// Of reading input of so many bytes, or of unknown length.
    pub(crate) fn of_bytes(length: Option<u64>, what: &'static str) -> Progress {
        match length {
            Some(_) => Progress::new(
                length,
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                what,
            ),
            None => Progress::new(
                length,
                "{spinner} {msg} {bytes} {bytes_per_sec} {elapsed}",
                what,
            ),
        }
    }

    /// Of so many steps.
    pub(crate) fn of_steps(length: u64, what: &'static str) -> Progress {
        Progress::new(Some(length), "{msg} {wide_bar} {pos}/{len} {eta}", what)
    }

    fn new(length: Option<u64>, template: &str, what: &'static str) -> Progress {
        // The target draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Progress { bar }
    }

    pub(crate) fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// A line on standard error that does not tear the bar.
    pub(crate) fn warn(&self, line: impl Display) {
        self.bar.suspend(|| output::warn(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
