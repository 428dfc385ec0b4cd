//! Which figures show runs.

use super::{
    figure::{Axis, Color, Curves, Figure, Line, Stroke},
    log::Log,
    run::Run,
    series::Series,
};
use microdit_train::probe::STANDARD_ERROR;
use std::collections::BTreeSet;

/// What the names of an average's numbers begin with.
const AVERAGE: &str = "ema_";

/// What stands before the noise level in the name of a number.
const AT: &str = "_at_";

/// Names of noise levels, and the numbers they stand for.
type Levels = Vec<(String, f64)>;

/// A group of figures that belong together.
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) figures: Vec<Figure>,
}

/// All figures of runs.
pub fn figures(runs: &[Run]) -> Vec<Figure> {
    groups(runs)
        .into_iter()
        .flat_map(|group| group.figures)
        .collect()
}

/// The figures of runs in groups; those without a point are left out.
pub(super) fn groups(runs: &[Run]) -> Vec<Group> {
    let mut training = vec![loss(runs)];
    let terms: BTreeSet<&String> = runs.iter().flat_map(|run| run.log.terms.keys()).collect();
    for term in terms {
        let name = format!("loss-{term}");
        let title = format!("loss: {term}");
        training.push(single(runs, &name, &title, Axis::log(term), |log| {
            log.terms.get(term)
        }));
    }
    let mut held_out = Vec::new();
    let found: BTreeSet<&(String, String)> =
        runs.iter().flat_map(|run| run.log.found.keys()).collect();
    let mut numbers = BTreeSet::new();
    let mut levels = BTreeSet::new();
    for (probe, number) in found
        .into_iter()
        .filter(|(_, number)| !number.ends_with(STANDARD_ERROR))
    {
        let base = number.strip_prefix(AVERAGE).unwrap_or(number);
        match base.split_once(AT) {
            Some((base, level)) if level.parse::<f64>().is_ok() => {
                levels.insert((probe, base.to_owned()));
            }
            _ => {
                numbers.insert((probe, base.to_owned()));
            }
        }
    }
    for (probe, number) in &numbers {
        held_out.push(evaluated(runs, probe, number));
    }
    for (probe, number) in &levels {
        held_out.extend(by_level(runs, probe, number));
    }
    let speed = vec![
        single(
            runs,
            "lr",
            "learning rate",
            Axis::linear("learning rate"),
            |log| Some(&log.lr),
        ),
        single(
            runs,
            "grad-norm",
            "gradient norm before clipping",
            Axis::log("gradient norm"),
            |log| Some(&log.grad_norm),
        ),
        single(
            runs,
            "images-per-second",
            "throughput",
            Axis::linear("images per second"),
            |log| Some(&log.images_per_second),
        ),
        single(
            runs,
            "mfu",
            "model FLOPs utilization",
            Axis::linear("share of the peak rate"),
            |log| Some(&log.mfu),
        ),
    ];
    let groups = [
        ("Training", training),
        ("Held out", held_out),
        ("Optimizer and speed", speed),
    ];
    let groups = groups.map(|(title, curves)| Group {
        title,
        figures: curves.iter().filter_map(Curves::draw).collect(),
    });
    groups
        .into_iter()
        .filter(|group| !group.figures.is_empty())
        .collect()
}

fn steps() -> Axis {
    Axis::linear("steps")
}

/// A run's number in the log, as a curve.
fn curve(run: &Run, color: usize, stroke: Stroke, series: &Series) -> Line {
    Line {
        label: run.label.clone(),
        color: Color::Run(color),
        stroke,
        points: series.points(),
    }
}

/// One number of every run.
fn single<'a>(
    runs: &'a [Run],
    name: &str,
    title: &str,
    y: Axis,
    number: impl Fn(&'a Log) -> Option<&'a Series>,
) -> Curves {
    let lines = runs.iter().enumerate().filter_map(|(color, run)| {
        let series = number(&run.log).filter(|series| !series.is_empty())?;
        Some(curve(run, color, Stroke::Solid, series))
    });
    Curves {
        name: name.into(),
        title: title.into(),
        x: steps(),
        y,
        lines: lines.collect(),
    }
}

/// The training loss, and its moving mean before it.
fn loss(runs: &[Run]) -> Curves {
    let with_loss = || {
        runs.iter()
            .enumerate()
            .filter(|(_, run)| !run.log.loss.is_empty())
    };
    let behind = with_loss().map(|(color, run)| Line {
        label: String::new(),
        ..curve(run, color, Stroke::Faint, &run.log.loss)
    });
    let before =
        with_loss().map(|(color, run)| curve(run, color, Stroke::Solid, &run.log.mean_loss));
    Curves {
        name: "loss".into(),
        title: "training loss, and its mean over about 50 lines of the log".into(),
        x: steps(),
        y: Axis::log("loss"),
        lines: behind.chain(before).collect(),
    }
}

/// A number of a probe, of the weights as trained and of their average.
fn evaluated(runs: &[Run], probe: &str, number: &str) -> Curves {
    let mut lines = Vec::new();
    for (color, run) in runs.iter().enumerate() {
        for (prefix, stroke, what) in [
            ("", Stroke::Solid, ""),
            (AVERAGE, Stroke::Dashed, ", average"),
        ] {
            let key = (probe.to_owned(), format!("{prefix}{number}"));
            if let Some(series) = run.log.found.get(&key) {
                let mut line = curve(run, color, stroke, series);
                line.label += what;
                lines.push(line);
            }
        }
    }
    let words = |name: &str| name.replace('_', " ");
    Curves {
        name: format!("{probe}-{number}"),
        title: format!("{}: {}", words(probe), words(number)),
        x: steps(),
        y: Axis::log(words(number)),
        lines,
    }
}

/// A number at several noise levels: over the levels as it was measured last, and over the steps for each level, for one run
/// in one figure, for several in one a level.
fn by_level(runs: &[Run], probe: &str, number: &str) -> Vec<Curves> {
    let mut levels: Levels = Vec::new();
    for (key, _) in runs.iter().flat_map(|run| &run.log.found) {
        let base = key.1.strip_prefix(AVERAGE).unwrap_or(&key.1);
        let level = base
            .strip_prefix(number)
            .and_then(|rest| rest.strip_prefix(AT));
        if let Some((name, level)) = level.and_then(|name| Some((name, name.parse::<f64>().ok()?)))
            && key.0 == probe
            && level.is_finite()
            && levels.iter().all(|(other, _)| other != name)
        {
            levels.push((name.to_owned(), level));
        }
    }
    levels.sort_by(|one, other| one.1.total_cmp(&other.1));
    let series = |run: &'_ Run, prefix: &str, level: &str| {
        let key = (probe.to_owned(), format!("{prefix}{number}{AT}{level}"));
        run.log.found.get(&key).cloned()
    };
    let what = format!("{} {}", probe.replace('_', " "), number.replace('_', " "));
    let mut profile = Vec::new();
    for (color, run) in runs.iter().enumerate() {
        for (prefix, stroke, what) in [
            ("", Stroke::Solid, ""),
            (AVERAGE, Stroke::Dashed, ", average"),
        ] {
            let points = levels.iter().filter_map(|(name, level)| {
                let (_, value) = series(run, prefix, name)?.last()?;
                Some((*level, value))
            });
            let points: Vec<(f64, f64)> = points.collect();
            if !points.is_empty() {
                profile.push(Line {
                    label: format!("{}{what}", run.label),
                    color: Color::Run(color),
                    stroke,
                    points,
                });
            }
        }
    }
    let mut all = vec![Curves {
        name: format!("{probe}-{number}-by-level"),
        title: format!("{what} by noise level, as measured last"),
        x: Axis::log("noise level sigma"),
        y: Axis::log(number.replace('_', " ")),
        lines: profile,
    }];
    let over_steps = |name: String, title: String, lines: Vec<Line>| Curves {
        name,
        title,
        x: steps(),
        y: Axis::log(number.replace('_', " ")),
        lines,
    };
    if let [run] = runs {
        let lines = levels.iter().enumerate().filter_map(|(color, (name, _))| {
            Some(Line {
                label: format!("sigma {name}"),
                color: Color::Level(color),
                stroke: Stroke::Solid,
                points: series(run, "", name)?.points(),
            })
        });
        let name = format!("{probe}-{number}-levels");
        let title = format!("{what} at each noise level");
        all.push(over_steps(name, title, lines.collect()));
        return all;
    }
    for (level, _) in &levels {
        let lines = runs.iter().enumerate().filter_map(|(color, run)| {
            Some(curve(run, color, Stroke::Solid, &series(run, "", level)?))
        });
        let name = format!("{probe}-{number}-at-{level}");
        let title = format!("{what} at sigma {level}");
        all.push(over_steps(name, title, lines.collect()));
    }
    all
}
