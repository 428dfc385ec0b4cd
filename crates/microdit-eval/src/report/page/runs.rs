//! The page about runs.

use super::{Cell, data_url, figures, hint, report, results, table};
use crate::report::{
    charts,
    number::{date, dollars, short, time, whole},
    run::Run,
    text::{legible, legible_lines},
};
use maud::{Markup, html};
use microdit_train::probe::STANDARD_ERROR;
use std::collections::BTreeSet;

/// The numbers that stand for a run's quality, best known first: probe and number.
const HELD_OUT: [[&str; 2]; 2] = [["held_out", "ema_loss"], ["held_out", "loss"]];

/// A page about `runs`, which have been read. A page that `is_live` looks for a newer one of itself.
pub fn runs_page(runs: &[Run], is_live: bool) -> String {
    let labels: Vec<&str> = runs.iter().map(|run| run.label.as_str()).collect();
    let title = match labels[..] {
        [one] => one.to_owned(),
        _ => format!("{} runs", labels.len()),
    };
    let groups = charts::groups(runs);
    let body = html! {
        header {
            h1 { (title) }
            @if let [run] = runs { p { (badge(run, is_live)) " " span class="muted" { (run.folder().display()) } } }
        }
        main {
            (notes(runs))
            @if let [run] = runs { (card(run)) } @else { section { h2 { "Cost and result" } (summary(runs)) } }
            @for (i, group) in groups.iter().enumerate() {
                section {
                    h2 { (group.title) }
                    @if i == 0 { (hint()) }
                    (figures(&group.figures))
                }
            }
            (results::section(runs))
            (grids(runs))
            (differences(runs))
            (processes(runs))
            (recipes(runs))
        }
    };
    report(&title, is_live, &body)
}

/// Whether a run has ended.
fn badge(run: &Run, is_live: bool) -> Markup {
    let (class, text) = match (run.is_finished, is_live) {
        (true, _) => ("badge done", "finished"),
        (false, true) => ("badge", "training"),
        (false, false) => ("badge", "not finished"),
    };
    html! { span class=(class) { (text) } }
}

fn notes(runs: &[Run]) -> Markup {
    let mut notes = Vec::new();
    for run in runs {
        let mut note = |text: String| notes.push(format!("{}: {text}", run.label));
        if run.log.is_empty() {
            note("no line of its log is written yet".into());
        }
        if run.log.damaged() > 0 {
            note(format!(
                "{} damaged lines of its log are left out",
                run.log.damaged()
            ));
        }
        if run.log.non_finite > 0 {
            note(format!(
                "{} steps were skipped because loss or gradient were not finite",
                whole(run.log.non_finite)
            ));
        }
        for text in &run.notes {
            note(legible(text));
        }
    }
    let incomparable = results::incomparable(runs);
    notes.extend(incomparable.iter().map(|note| legible(note)));
    html! {
        @if !notes.is_empty() {
            ul class="notes" { @for note in notes { li { (note) } } }
        }
    }
}

/// Steps of a run, and how many it is to have.
fn steps(run: &Run) -> String {
    let done = whole(run.log.last.step);
    match run.recipe.as_ref().map(|recipe| recipe.steps) {
        Some(all) if all != run.log.last.step => format!("{done} of {}", whole(all)),
        _ => done,
    }
}

/// The newest held-out loss: of the average, where there is one; and its standard error, where the samples tell it.
fn held_out(run: &Run) -> Option<(f64, Option<f64>)> {
    let found =
        |probe: &str, name: String| Some(run.log.found.get(&(probe.to_owned(), name))?.last()?.1);
    HELD_OUT.iter().find_map(|[probe, number]| {
        let error = found(probe, format!("{number}{STANDARD_ERROR}"));
        Some((found(probe, (*number).to_owned())?, error))
    })
}

/// A number and its standard error.
fn with_error((value, error): (f64, Option<f64>)) -> String {
    match error {
        Some(error) => format!("{} (standard error {})", short(value), short(error)),
        None => short(value),
    }
}

/// What one run came to.
fn card(run: &Run) -> Markup {
    let last = &run.log.last;
    let mut entries = vec![
        ("steps", Some(steps(run))),
        (
            "training loss, mean",
            run.log.mean_loss.last().map(|(_, loss)| short(loss)),
        ),
        ("held-out loss", held_out(run).map(with_error)),
        ("images", Some(whole(last.images))),
        ("images per second", last.images_per_second.map(short)),
        ("FLOPs, by the cost model", run.flop().map(short)),
        ("time", last.hours.map(time)),
        ("device-hours", run.device_hours().map(time)),
        ("dollars", last.usd.map(dollars)),
    ];
    if let Some(process) = run.processes.last() {
        entries.push(("hardware", Some(process.hardware())));
        entries.push(("commit", Some(process.commit.clone())));
    }
    html! {
        dl class="card" {
            @for (name, value) in entries {
                @if let Some(value) = value.filter(|value| !value.is_empty()) {
                    div { dt { (name) } dd { (legible(&value)) } }
                }
            }
        }
    }
}

/// What several runs came to.
fn summary(runs: &[Run]) -> Markup {
    let heads = [
        "run",
        "state",
        "steps",
        "loss, mean",
        "held-out loss",
        "images",
        "images/s",
        "FLOPs",
        "time",
        "device-hours",
        "dollars",
        "hardware",
        "commit",
    ];
    let row = |run: &Run| {
        let last = &run.log.last;
        let process = run.processes.last();
        let of_process = |text: Option<String>| Cell::text(&text.unwrap_or_default());
        vec![
            Cell::text(&run.label),
            Cell::text(if run.is_finished {
                "finished"
            } else {
                "not finished"
            }),
            Cell::number(Some(last.step as f64), |_| steps(run)),
            Cell::number(run.log.mean_loss.last().map(|(_, loss)| loss), short),
            Cell::number(held_out(run).map(|(loss, _)| loss), short),
            Cell::number(Some(last.images as f64), |_| whole(last.images)),
            Cell::number(last.images_per_second, short),
            Cell::number(run.flop(), short),
            Cell::number(last.hours, time),
            Cell::number(run.device_hours(), time),
            Cell::number(last.usd, dollars),
            of_process(process.map(|process| process.hardware())),
            of_process(process.map(|process| process.commit.clone())),
        ]
    };
    let rows: Vec<Vec<Cell>> = runs.iter().map(row).collect();
    table(&heads, &rows)
}

/// The sample grids: a column for each run, a row for each step.
pub(super) fn grids(runs: &[Run]) -> Markup {
    let shown: Vec<&Run> = runs.iter().filter(|run| !run.grids.is_empty()).collect();
    let steps: BTreeSet<(bool, Option<u64>)> = shown
        .iter()
        .flat_map(|run| &run.grids)
        .map(|grid| (grid.step.is_none(), grid.step))
        .collect();
    let left_out: usize = runs.iter().map(|run| run.grids_left_out).sum();
    html! {
        @if !shown.is_empty() {
            section {
                h2 { "Samples" }
                @for run in &shown {
                    @if let Some(recipe) = run.recipe.as_ref().filter(|recipe| !recipe.prompts.is_empty()) {
                        details {
                            summary { (run.label) ": the prompts, a row each" }
                            ol { @for prompt in &recipe.prompts { li { (legible(prompt)) } } }
                        }
                    }
                }
                @if left_out > 0 { p class="hint" { (left_out) " further grids lie in the run directories." } }
                div class="grids" {
                    @for (_, step) in steps.iter().rev() {
                        div class="row" {
                            @for run in &shown {
                                @if let Some(grid) = run.grids.iter().find(|grid| grid.step == *step) {
                                    @let name = match step {
                                        Some(step) => format!("{}, step {}", run.label, whole(*step)),
                                        None => format!("{}, at its end", run.label),
                                    };
                                    figure {
                                        figcaption { (name) }
                                        @match grid.read() {
                                            Some(bytes) => { img class="samples" alt=(name) src=(data_url("png", &bytes)); }
                                            None => { p class="hint" { "This grid is not a PNG." } }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Values in which the recipes differ.
pub(super) fn differences(runs: &[Run]) -> Markup {
    let known: Vec<_> = runs
        .iter()
        .filter_map(|run| Some((run, &run.recipe.as_ref()?.values)))
        .collect();
    let keys: BTreeSet<&String> = known.iter().flat_map(|(_, values)| values.keys()).collect();
    let differ = |key: &&String| {
        let first = known.first().and_then(|(_, values)| values.get(*key));
        known.iter().any(|(_, values)| values.get(*key) != first)
    };
    let labels = known.iter().map(|(run, _)| run.label.as_str());
    let heads: Vec<&str> = ["key"].into_iter().chain(labels).collect();
    let rows: Vec<Vec<Cell>> = keys
        .into_iter()
        .filter(differ)
        .map(|key| {
            let values = known
                .iter()
                .map(|(_, values)| Cell::text(values.get(key).map_or("–", String::as_str)));
            [Cell::text(key)].into_iter().chain(values).collect()
        })
        .collect();
    html! {
        @if known.len() > 1 {
            section {
                h2 { "Differences between the recipes" }
                @if rows.is_empty() { p { "None." } } @else { (table(&heads, &rows)) }
            }
        }
    }
}

/// What trained the runs.
pub(super) fn processes(runs: &[Run]) -> Markup {
    let heads = ["run", "started", "hardware", "version", "commit", "command"];
    let rows: Vec<Vec<Cell>> = runs
        .iter()
        .flat_map(|run| run.processes.iter().map(move |process| (run, process)))
        .map(|(run, process)| {
            vec![
                Cell::text(&run.label),
                Cell::number(Some(process.started as f64), |_| date(process.started)),
                Cell::text(&process.hardware()),
                Cell::text(&process.version),
                Cell::text(&process.commit),
                Cell::text(&format!("microdit {}", process.arguments.join(" "))),
            ]
        })
        .collect();
    html! {
        @if !rows.is_empty() {
            section { h2 { "How it was run" } (table(&heads, &rows)) }
        }
    }
}

fn recipes(runs: &[Run]) -> Markup {
    html! {
        @if runs.iter().any(|run| !run.source.is_empty()) {
            section {
                h2 { "Recipes" }
                @for run in runs.iter().filter(|run| !run.source.is_empty()) {
                    details {
                        summary { (run.label) }
                        pre { (legible_lines(&run.source)) }
                    }
                }
            }
        }
    }
}
