use super::*;
use crate::sweep::{calibration::Pace, definition::Budget};

/// Masks over the quickstart; the naive one sees fewer tokens than the deferred one, no mask more.
pub(in crate::sweep) const MASKS: &str = r#"axes: [(name: "mask", values: [
    (name: "deferred"),
    (name: "naive", set: ["stages.masked.masking=Naive(ratio: 0.75)"]),
    (name: "none", set: ["stages.masked.masking=None"]),
])], seeds: [0, 3], metrics: [(name: "held_out/loss", better: lower)],"#;

/// A sweep over the quickstart.
pub(in crate::sweep) fn read(rest: &str, sets: &[&str]) -> Result<Sweep, SweepError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("masks.ron");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
    std::fs::write(&path, format!("(base: {base:?}, {rest})")).unwrap();
    let held_out = "evaluation=(every: 100, samples: 8)";
    let sets = [held_out].into_iter().chain(sets.iter().copied());
    Sweep::load(&path, &sets.map(str::to_owned).collect::<Vec<_>>())
}

pub(in crate::sweep) fn points(rest: &str, sets: &[&str]) -> Vec<Point> {
    read(rest, sets)
        .unwrap()
        .points(&Calibration::default())
        .unwrap()
}

fn ids(points: &[Point]) -> Vec<&str> {
    points.iter().map(|point| point.id.as_str()).collect()
}

#[test]
fn a_point_is_known_by_what_decides_its_results() {
    let own = points(MASKS, &[]);
    let own = ids(&own);
    assert_eq!(own.len(), 6);
    assert!(own.iter().all(|id| id.len() == DIGITS));
    let distinct: std::collections::BTreeSet<_> = own.iter().collect();
    assert_eq!(distinct.len(), 6);
    // Neither what it is called, nor how it is computed, nor where its data lie.
    for (rest, sets) in [
        (
            MASKS.replace("naive\"", "NAIVE\"").replace("mask\"", "m\""),
            &[][..],
        ),
        (
            MASKS.to_owned(),
            &["micro_batch=3", "name=x", "log_every=7"],
        ),
        (
            MASKS.to_owned(),
            &["evaluation.every=9", "sampling.count=1"],
        ),
        (MASKS.to_owned(), &["optimizer.lr=0.002"]),
    ] {
        assert_eq!(ids(&points(&rest, sets)), own, "{sets:?}");
    }
    for set in [
        "optimizer.lr=0.003",
        "evaluation.samples=9",
        "model.moe=None",
    ] {
        let others = points(MASKS, &[set]);
        assert!(ids(&others).iter().all(|id| !own.contains(id)), "{set}");
    }
    // More seeds and more values leave those that were there.
    let grown = MASKS.replace("[0, 3]", "[3, 7, 0]").replace(
        "(name: \"deferred\"),",
        "(name: \"deferred\"), (name: \"half\", set: [\"stages.masked.masking.ratio=0.5\"]),",
    );
    let grown = points(&grown, &[]);
    assert_eq!(grown.len(), 12);
    assert!(own.iter().all(|id| ids(&grown).contains(id)));
}

#[test]
fn data_count_where_they_are_what_is_varied() {
    let latents = |shards: &str| {
        format!("\"data=Latents(image_size: 256, tokens: 77)\", \"data.shards={shards}\"")
    };
    let list = |one: &str, other: &str| {
        format!(
            "points: [(name: \"a\", set: [{}]), (name: \"b\", set: [{}])], seeds: [0], metrics: [(name: \"held_out/loss\", better: lower)],",
            latents(one),
            latents(other)
        )
    };
    assert_eq!(points(&list("a.tar", "b.tar"), &[]).len(), 2);
    let said = read(&list("a.tar", "a.tar"), &[]).unwrap_err().to_string();
    assert!(
        said.contains("the points a and b train the same recipe"),
        "{said}"
    );
}

#[test]
fn points_of_equal_flops_differ_by_less_than_a_step() {
    let rest = format!("{MASKS} budget: Flops");
    let points = points(
        &rest,
        &["stages.masked.steps=1500", "stages.unmasked.steps=200"],
    );
    let reference = &points[0];
    assert_eq!(reference.recipe.steps(), 1700);
    for point in &points {
        let [masked, unmasked] = &point.recipe.stages[..] else {
            panic!("two stages");
        };
        assert_eq!(unmasked.steps, 200);
        let off = (point.flops() - reference.flops()).abs();
        assert!(off <= 0.5 * flops_per_step(masked), "{off}");
    }
    let masked = |i: usize| points[i].recipe.stages[0].steps;
    assert!(
        masked(2) > 1500 && masked(4) < 1500,
        "{} {}",
        masked(2),
        masked(4)
    );
}

#[test]
fn the_end_pays_for_itself_where_it_is_varied() {
    let rest = r#"points: [
        (name: "200"),
        (name: "400", set: ["stages.unmasked.steps=400"]),
    ], seeds: [0], budget: Flops, metrics: [(name: "held_out/loss", better: lower)],"#;
    let points = points(
        rest,
        &["stages.masked.steps=1500", "stages.unmasked.steps=200"],
    );
    let steps = |point: &Point| [0, 1].map(|stage| point.recipe.stages[stage].steps);
    assert_eq!(steps(&points[0]), [1500, 200]);
    let [masked, unmasked] = steps(&points[1]);
    assert!(masked < 1500 && unmasked == 400);
    let off = (points[1].flops() - points[0].flops()).abs();
    assert!(off <= 0.5 * flops_per_step(&points[1].recipe.stages[0]));
}

#[test]
fn a_budget_of_time_needs_what_was_timed_and_one_of_money_a_price() {
    let sweep = read(&format!("{MASKS} budget: Hours(0.5)"), &[]).unwrap();
    let error = sweep.points(&Calibration::default()).unwrap_err();
    assert!(matches!(error, SweepError::Calibration { .. }), "{error}");
    let mut calibration = Calibration::default();
    for (setting, seconds) in [(0, 1.0), (1, 0.5), (2, 2.0)] {
        let pace = Pace {
            label: String::new(),
            seconds_per_step: vec![seconds, 2.0],
            device: None,
        };
        calibration.insert(sweep.pace(setting), pace);
    }
    let points = sweep.points(&calibration).unwrap();
    // 1800 seconds, of which the unmasked stage takes 600.
    let masked: Vec<u64> = points
        .iter()
        .map(|point| point.recipe.stages[0].steps)
        .collect();
    assert_eq!(masked, [1200, 1200, 2400, 2400, 600, 600]);
    assert_eq!(read(MASKS, &[]).unwrap().definition.budget, Budget::Steps);
    let dollars = |sets: &[&str]| {
        let sweep = read(&format!("{MASKS} budget: Dollars(2.0)"), sets).unwrap();
        sweep
            .points(&calibration)
            .map_err(|error| error.to_string())
    };
    let said = dollars(&[]).unwrap_err();
    assert!(said.contains("budget.usd_per_gpu_hour"), "{said}");
    let points = dollars(&["budget.usd_per_gpu_hour=4.0"]).unwrap();
    assert_eq!(points[0].recipe.stages[0].steps, 1200);
}

#[test]
fn an_average_that_would_never_begin_is_refused() {
    let ema = "stages.masked.ema=[(decay: Smoothing(0.9), start: 1200)]";
    let sweep = read(&format!("{MASKS} budget: Flops"), &[ema]).unwrap();
    let said = sweep
        .points(&Calibration::default())
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("point none: ") && said.contains("begins after 1200"),
        "{said}"
    );
}

#[test]
fn a_metric_that_is_not_measured_is_named() {
    let said = |metric: &str, sets: &[&str]| {
        let rest = MASKS.replace("held_out/loss", metric);
        read(&rest, sets).unwrap_err().to_string()
    };
    let lacking = said("held_out/loss", &["evaluation=None"]);
    assert!(
        lacking.contains("held_out/loss") && lacking.contains("`evaluation:"),
        "{lacking}"
    );
    // Whatever the log has.
    let misspelt = said("prompt-acuracy", &["evaluation=None"]);
    assert!(misspelt.contains("`prompt-accuracy`"), "{misspelt}");
    let student = [
        "stages.unmasked.distill=Some((guidance: 2.0, critic: (layers: [\"*\"], rank: 2)))",
        "sampling.steps=1",
        "sampling.guidance=1.0",
    ];
    let distilled = said("held_out/loss", &student);
    assert!(distilled.contains("a student has no loss"), "{distilled}");
}
