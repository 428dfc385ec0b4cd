//! How far the runs of a sweep are.

use crate::say;
use indicatif::{ProgressBar, ProgressStyle};
use microdit_eval::sweep::{Event, Point, Sweep};
use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often progress is told where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);

/// A bar on a terminal, plain lines elsewhere.
pub(super) struct Progress<'a> {
    sweep: &'a Sweep,
    bar: Option<ProgressBar>,
    /// Steps of all runs.
    steps: u64,
    state: Mutex<State>,
}

/// How far the runs are.
struct State {
    /// By identity: the step a run was first seen at, and the last one.
    reached: HashMap<String, (u64, u64)>,
    started: Instant,
    told: Instant,
}

impl State {
    fn done(&self) -> u64 {
        self.reached.values().map(|(_, last)| last).sum()
    }

    /// Time that `left` steps take at the pace so far.
    fn seconds(&self, left: u64) -> Option<f64> {
        let done: u64 = self
            .reached
            .values()
            .map(|(first, last)| last - first)
            .sum();
        (done > 0).then(|| self.started.elapsed().as_secs_f64() / done as f64 * left as f64)
    }
}

impl<'a> Progress<'a> {
    pub(super) fn new<'p>(sweep: &'a Sweep, waiting: impl Iterator<Item = &'p Point>) -> Self {
        let steps = waiting.map(|point| point.recipe.steps()).sum();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} steps {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(steps).with_style(style)
        });
        Self {
            sweep,
            bar,
            steps,
            state: Mutex::new(State {
                reached: HashMap::new(),
                started: Instant::now(),
                told: Instant::now(),
            }),
        }
    }

    pub(super) fn show(&self, event: &Event<'_>) {
        let label = |point: &Point| {
            let setting = &self.sweep.settings()[point.setting];
            format!("{}, seed {}", setting.label(), point.seed)
        };
        match event {
            Event::Calibrating(_) => {}
            Event::Started(point) => self.line(&format!(
                "{}: {} steps as {}",
                label(point),
                point.recipe.steps(),
                point.id
            )),
            Event::Reached(point, step) => self.reached(point, *step),
            Event::Finished(point, rows) => {
                self.reached(point, point.recipe.steps());
                let metrics = &self.sweep.definition().metrics;
                let values = metrics.iter().filter_map(|metric| {
                    let mut rows = rows.iter();
                    let row = rows.find(|row| row.metric.as_ref() == Some(&metric.name))?;
                    Some(format!("{} {:.4}", metric.name, row.value?))
                });
                let values: Vec<String> = values.collect();
                self.line(&format!(
                    "{}: finished, {}",
                    label(point),
                    values.join(", ")
                ));
            }
            Event::Failed(point, reason) => {
                // Its steps are no longer to come, and say nothing about the pace.
                let steps = point.recipe.steps();
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.reached.insert(point.id.clone(), (steps, steps));
                drop(state);
                self.line(&format!("{}: failed: {reason}", label(point)));
            }
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say!("{text}")),
            None => say!("{text}"),
        }
    }

    fn reached(&self, point: &Point, step: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.reached.entry(point.id.clone());
        entry
            // A log may be cut back to its checkpoint.
            .and_modify(|(first, last)| (*first, *last) = ((*first).min(step), step))
            .or_insert((step, step));
        let done = state.done();
        let left = state.seconds(self.steps.saturating_sub(done));
        let left = left.map_or_else(String::new, |seconds| format!("{seconds:.0} s left"));
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(left);
        } else if state.told.elapsed() > INTERVAL {
            state.told = Instant::now();
            say!("{done} of {} steps, {left}", self.steps);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
