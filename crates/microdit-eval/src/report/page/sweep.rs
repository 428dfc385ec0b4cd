//! The page about a sweep.

use super::{
    Cell, figures, hint, report,
    runs::{differences, grids, processes},
    table,
};
use crate::report::{
    charts,
    number::{dollars, short, time, whole},
    run::Run,
    sweep::{Mean, Point, PointRun, SweepResults, mean},
    sweep_charts,
    text::legible,
};
use crate::sweep::Compared;
use maud::{Markup, html};
use std::collections::BTreeSet;

/// A page about a sweep, with curves, grids, recipes and hardware of the runs in `first`, which have been read: one for each point,
/// as [`SweepResults::first_runs`] chooses them.
pub fn sweep_page(sweep: &SweepResults, first: &[Run]) -> String {
    let drawn = sweep_charts::figures(sweep);
    let body = html! {
        header {
            h1 { (sweep.name) }
            p { span class="muted" {
                (sweep.points.len()) " points, " (sweep.points.iter().map(|point| point.runs.len()).sum::<usize>()) " runs"
            } }
        }
        main {
            @if sweep.damaged > 0 {
                ul class="notes" { li { (sweep.damaged) " damaged rows of sweep.jsonl are left out" } }
            }
            (verdicts(sweep))
            section { h2 { "Points" } (figures(&drawn)) }
            section {
                h2 { "Table" }
                p class="hint" { "Means over the seeds ± half of the 95 % interval by Student's t." }
                (points(sweep))
            }
            (unfinished(sweep))
            section { h2 { "Runs" } (runs(sweep)) }
            (of_first_seed(first, sweep.points.len()))
        }
    };
    report(&sweep.name, false, &body)
}

/// What follows, or that nothing does.
fn verdicts(sweep: &SweepResults) -> Markup {
    let told = sweep
        .compared
        .iter()
        .filter_map(|one| Some((one, one.heading()?)));
    let told: Vec<(&Compared, String)> = told.collect();
    html! {
        section {
            h2 { "Verdicts" }
            @if told.is_empty() {
                p class="hint" { "None: no two points share a seed and a metric of which it is known whether lower or higher is better." }
            }
            @for (compared, heading) in &told {
                p { (legible(heading)) }
                @for verdict in &compared.verdicts {
                    p class="verdict" { (legible(&verdict.to_string())) }
                }
            }
        }
    }
}

/// How the runs of the first seed went, side by side, as far as their directories are there.
fn of_first_seed(first: &[Run], points: usize) -> Markup {
    html! {
        @if !first.is_empty() {
            p class="hint" { "What follows shows one run of each of " (first.len()) " of " (points) " points: of the first seed that all of them finished, or else of its own first." }
            @for group in charts::groups(first) {
                section { h2 { (group.title) } (hint()) (figures(&group.figures)) }
            }
            (grids(first))
            (differences(first))
            (processes(first))
        } @else {
            p class="hint" { "The run directories are not in this folder: no curves, grids, recipes or hardware." }
        }
    }
}

/// A row for each point.
fn points(sweep: &SweepResults) -> Markup {
    let axes = axes(sweep);
    let metrics = sweep.metrics.iter().map(String::as_str);
    let costs = ["seeds", "steps", "FLOPs", "time", "dollars"];
    let heads: Vec<&str> = axes.iter().copied().chain(metrics).chain(costs).collect();
    let average = |point: &Point, of: fn(&PointRun) -> Option<f64>| {
        let values: Vec<f64> = point.runs.values().filter_map(of).collect();
        mean(values).map(|mean| mean.mean)
    };
    let row = |point: &Point| {
        let metrics = sweep.metrics.iter().map(|metric| {
            let mean = point.mean(metric);
            Cell::number(mean.as_ref().map(|mean| mean.mean), |_| {
                mean.as_ref().map(with_interval).unwrap_or_default()
            })
        });
        let costs = [
            Cell::number(Some(point.runs.len() as f64), short),
            Cell::number(average(point, |run| Some(run.steps as f64)), short),
            Cell::number(average(point, |run| Some(run.flops)), short),
            Cell::number(average(point, |run| run.hours), time),
            Cell::number(average(point, |run| run.dollars), dollars),
        ];
        named(point, &axes).chain(metrics).chain(costs).collect()
    };
    let rows: Vec<Vec<Cell>> = sweep.points.iter().map(row).collect();
    table(&heads, &rows)
}

/// The names of the axes.
fn axes(sweep: &SweepResults) -> Vec<&str> {
    let axes = sweep.points.iter().flat_map(|point| point.axes.keys());
    let axes: BTreeSet<&str> = axes.map(String::as_str).collect();
    axes.into_iter().collect()
}

/// The values of a point, a cell for each axis.
fn named<'a>(point: &'a Point, axes: &'a [&str]) -> impl Iterator<Item = Cell> + 'a {
    let value = |axis: &&str| Cell::text(point.axes.get(*axis).map_or("–", String::as_str));
    axes.iter().map(value)
}

/// A mean with half of its interval.
fn with_interval(mean: &Mean) -> String {
    match mean.half {
        Some(half) => format!("{} ± {}", short(mean.mean), short(half)),
        None => short(mean.mean),
    }
}

/// Runs that have no result, with the reason.
fn unfinished(sweep: &SweepResults) -> Markup {
    let all = sweep.points.iter().flat_map(|point| {
        let runs = point.runs.iter();
        runs.map(move |(seed, run)| (point, seed, run))
    });
    let failed: Vec<_> = all.filter(|(_, _, run)| run.values.is_empty()).collect();
    html! {
        @if !failed.is_empty() {
            section {
                h2 { "Without a result" }
                ul class="notes" {
                    @for (point, seed, run) in failed {
                        li { (legible(&point.label)) ", seed " (seed) ": " (legible(&run.status)) }
                    }
                }
            }
        }
    }
}

/// A row for each run.
fn runs(sweep: &SweepResults) -> Markup {
    let axes = axes(sweep);
    let metrics = sweep.metrics.iter().map(String::as_str);
    let first = axes.iter().copied().chain(["seed", "status"]);
    let costs = ["steps", "FLOPs", "time", "dollars", "commit"];
    let heads: Vec<&str> = first.chain(metrics).chain(costs).collect();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for point in &sweep.points {
        for (seed, run) in &point.runs {
            let metrics = sweep
                .metrics
                .iter()
                .map(|metric| Cell::number(run.values.get(metric).copied(), short));
            let first = [
                Cell::number(Some(*seed as f64), |_| seed.to_string()),
                Cell::text(&run.status),
            ];
            let costs = [
                Cell::number(Some(run.steps as f64), |steps| whole(steps as u64)),
                Cell::number(Some(run.flops), short),
                Cell::number(run.hours, time),
                Cell::number(run.dollars, dollars),
                Cell::text(run.commit.as_deref().unwrap_or_default()),
            ];
            rows.push(
                named(point, &axes)
                    .chain(first)
                    .chain(metrics)
                    .chain(costs)
                    .collect(),
            );
        }
    }
    table(&heads, &rows)
}
