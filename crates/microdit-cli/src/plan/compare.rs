//! `microdit plan --compare`: recipes and published systems in one table.

use crate::{
    advice::OrAdvise,
    figure::{count, short},
    say,
};
use microdit_train::{
    Recipe,
    plan::{Comparison, Cost, Machine},
    recipe::Bundled,
};
use miette::miette;
use std::path::PathBuf;

/// What every cost is expressed in, unless told otherwise.
const BASE: &str = "MicroDiT XL/2";

/// Prints the recipes at `paths`, or the bundled ones, beside the published systems.
pub(super) fn compare(
    paths: &[PathBuf],
    base: Option<&str>,
    machine: Machine,
    json: bool,
) -> miette::Result<()> {
    let bundled = Bundled::all().into_iter().filter(Bundled::is_recipe);
    let bundled: Vec<PathBuf> = bundled.map(|recipe| recipe.path()).collect();
    let paths = match paths {
        [] => &bundled,
        paths => paths,
    };
    let recipes = paths.iter().map(|path| Recipe::load(path, &[]));
    let recipes: Vec<Recipe> = recipes.collect::<Result<_, _>>().or_advise()?;
    let comparison = Comparison::new(&recipes, machine);
    let base = base.unwrap_or(BASE);
    let costs = &comparison.costs;
    let Some(base) = costs.iter().position(|cost| cost.name == base) else {
        let names: Vec<&str> = costs.iter().map(|cost| cost.name.as_str()).collect();
        return Err(miette!("--base {base}: known are {}", names.join(", ")));
    };
    match json {
        true => say!("{}", serde_json::to_string_pretty(&comparison).or_advise()?),
        false => print(&comparison, base),
    }
    Ok(())
}

fn print(comparison: &Comparison, base: usize) {
    let (machine, costs) = (&comparison.machine, &comparison.costs);
    let gpu = &machine.gpu;
    say!(
        "Recipes on {} at {:.1} % of {} TFLOP/s. Hours on other GPUs count by their peak rates; all cost ${:.2}.",
        gpu.name,
        100.0 * machine.mfu,
        gpu.tflops,
        machine.usd_per_gpu_hour
    );
    let hours = format!("{}-hours", gpu.name);
    say!(
        "\n{:>3} {:26}{:>10}{:>18}{hours:>14}{:>12}{:>12}{:>9}{:>9}",
        "",
        "",
        "FLOP",
        "GPU-hours",
        "$",
        "published $",
        "x FLOP",
        "x $"
    );
    for (i, cost) in costs.iter().enumerate() {
        let flop = cost.flop.map_or("-".into(), |flop| format!("{flop:.2e}"));
        let times_flop = comparison.times_flop(i, base);
        say!(
            "{:>3} {:26}{flop:>10}{:>18}{:>14}{:>12}{:>12}{:>9}{:>9}",
            i + 1,
            cost.name,
            format!("{} {:7}", count(cost.gpu_hours), cost.gpu),
            count(cost.hours),
            count(cost.usd),
            cost.published_usd.map_or("-".into(), count),
            times_flop.map_or("-".into(), short),
            short(comparison.times(i, base))
        );
    }
    say!("\nx: as a multiple of {}.", costs[base].name);
    say!("\nHours and dollars of a row as a multiple of those of a column:\n");
    let columns: String = (1..=costs.len()).map(|i| format!("{i:>9}")).collect();
    say!("{:>3} {:26}{columns}", "", "");
    for (i, cost) in costs.iter().enumerate() {
        let row = (0..costs.len()).map(|other| format!("{:>9}", short(comparison.times(i, other))));
        say!("{:>3} {:26}{}", i + 1, cost.name, row.collect::<String>());
    }
    say!("\nSources of what was published:");
    let published = costs.iter().filter(|cost| !cost.recipe);
    for Cost { name, sources, .. } in published {
        say!("  {name}: {}", sources.join("; "));
    }
}
