//! Progress of work that is counted: a bar, or a line now and then where there is no terminal.

use crate::say;
use indicatif::{ProgressBar, ProgressStyle};
use microdit::printable;
use microdit_encoders::hub::Report;
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Time between two lines of progress where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// A bar, which disappears when it is dropped.
pub(crate) struct Bar {
    bar: ProgressBar,
    doing: &'static str,
    things: &'static str,
    lines: bool,
    last: Instant,
}

impl Bar {
    /// Of `doing` `things`, such as drawing pictures.
    pub(crate) fn new(doing: &'static str, things: &'static str) -> Self {
        let template = format!("{doing} {{bar:30}} {{pos}}/{{len}}, {{eta}} left");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            bar: ProgressBar::new(0).with_style(style),
            doing,
            things,
            lines: !std::io::stderr().is_terminal(),
            last: Instant::now(),
        }
    }

    /// Shows that `done` of `all` are done.
    pub(crate) fn show(&mut self, done: u64, all: u64) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        if self.lines && self.last.elapsed() >= LINES {
            self.last = Instant::now();
            let (doing, things, left) = (self.doing, self.things, self.bar.eta().as_secs());
            say!("{doing}: {done} of {all} {things}, {left} s left");
        }
    }
}

/// A counter of work whose end is not known, which disappears when it is dropped.
pub(crate) struct Counter {
    bar: ProgressBar,
    what: &'static str,
    lines: bool,
    last: Instant,
}

impl Counter {
    /// Of `what`, such as encoded samples.
    pub(crate) fn new(what: &'static str) -> Self {
        let style =
            ProgressStyle::with_template(&format!("{what}: {{human_pos}}, {{per_sec}}{{msg}}"));
        Self {
            bar: ProgressBar::no_length()
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())),
            what,
            lines: !std::io::stderr().is_terminal(),
            last: Instant::now(),
        }
    }

    /// Shows that `done` are done, and what else there is to say.
    pub(crate) fn show(&mut self, done: u64, more: &str) {
        self.bar.set_position(done);
        self.bar.set_message(more.to_owned());
        if self.lines && self.last.elapsed() >= LINES {
            self.last = Instant::now();
            say!("{}: {done}, {:.1}/s{more}", self.what, self.bar.per_sec());
        }
    }
}

/// A bar for each file that is sent or received.
pub(crate) struct Bytes(ProgressBar);

impl Default for Bytes {
    fn default() -> Self {
        Self(ProgressBar::hidden())
    }
}

impl Report for Bytes {
    fn begin(&mut self, file: &str, bytes: u64) {
        let template = "{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::new(bytes);
        self.0 = bar
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_message(printable::line(file).into_owned());
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
