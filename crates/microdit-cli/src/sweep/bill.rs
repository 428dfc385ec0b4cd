//! What the points of a sweep will cost.

use crate::{
    advice::OrAdvise,
    figure::{count, time},
    say,
};
use microdit_eval::{
    Table,
    sweep::{Calibration, Sweep, SweepError},
};
use microdit_train::plan::{Machine, Plan};

/// Prints every setting with its steps and what one run of it costs.
pub(super) fn print(
    sweep: &Sweep,
    calibration: &Calibration,
    machine: Machine,
) -> miette::Result<()> {
    let points = match sweep.points(calibration) {
        Ok(points) => Some(points),
        // Not timed yet.
        Err(SweepError::Calibration { .. }) => None,
        Err(error) => return Err(error).or_advise(),
    };
    let header = ["point", "id", "steps", "FLOPs", "time", "dollars"];
    let mut table = Table::new(header.map(str::to_owned).into());
    let mut total = (0.0, 0.0);
    for (index, setting) in sweep.settings().iter().enumerate() {
        let own = points
            .iter()
            .flatten()
            .filter(|point| point.setting == index);
        for point in own {
            let plan = Plan::new(&point.recipe, machine.clone());
            total.0 += plan.hours;
            total.1 += plan.usd;
            table.push(vec![
                format!("{}, seed {}", setting.label(), point.seed),
                point.id.clone(),
                point.recipe.steps().to_string(),
                format!("{:.3e}", plan.flop),
                time(plan.hours),
                count(plan.usd),
            ]);
        }
        if points.is_none() {
            let unknown = [setting.label(), "-".into(), "by calibration".into()];
            let cost = ["-", "-", "-"].map(str::to_owned);
            table.push(unknown.into_iter().chain(cost).collect());
        }
    }
    say!("{}", table.to_string().trim_end());
    let runs = sweep.settings().len() * sweep.definition().seeds.len();
    if points.is_none() {
        let unit = sweep.definition().budget.unit();
        say!("\n{runs} runs at equal {unit}: their cost is known once their steps are timed");
        return Ok(());
    }
    say!(
        "\n{runs} runs at equal {}: {}, ${} on {} x {}",
        sweep.definition().budget.unit(),
        time(total.0),
        count(total.1),
        machine.count,
        machine.gpu.name
    );
    Ok(())
}
