//! Which figures show a sweep.

use super::{
    figure::{Axis, Figure, Interval, Intervals},
    sweep::{Point, SweepResults, mean},
};

/// One figure for each metric, the points as means with their intervals, and one of what they cost.
pub fn figures(sweep: &SweepResults) -> Vec<Figure> {
    let of_metric = |metric: &String| {
        let rows = sweep.points.iter().filter_map(|point| {
            let mean = point.mean(metric)?;
            Some(Interval {
                label: point.label.clone(),
                mean: mean.mean,
                half: mean.half,
                values: mean.values,
            })
        });
        Intervals {
            name: format!("metric-{metric}"),
            title: format!("{metric}: mean with 95 % interval, and each seed"),
            axis: Axis::linear(metric),
            rows: rows.collect(),
        }
    };
    let mut all: Vec<Intervals> = sweep.metrics.iter().map(of_metric).collect();
    let flops = |point: &Point| -> Vec<f64> {
        let runs = point.runs.values();
        runs.map(|run| run.flops).collect()
    };
    let costs = sweep.points.iter().filter_map(|point| {
        let mean = mean(flops(point))?;
        Some(Interval {
            label: point.label.clone(),
            mean: mean.mean,
            half: None,
            values: Vec::new(),
        })
    });
    all.push(Intervals {
        name: "cost-flops".into(),
        title: "FLOPs of a run, by the cost model".into(),
        axis: Axis::linear("FLOPs"),
        rows: costs.collect(),
    });
    all.iter().filter_map(Intervals::draw).collect()
}
