//! What runs cost beside each other: recipes by their bills, and published systems by what was said of them.

use super::{Gpu, Machine, Plan};
use crate::recipe::Recipe;
use serde::{Deserialize, Serialize};

/// A number, and who said it where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The number.
    pub value: f64,
    /// Where it is from.
    pub source: String,
}

/// What is known of the training of a published system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Published {
    /// Its name.
    pub name: String,
    /// Kind of the GPUs, as [`Gpu::known`] has it.
    pub gpu: String,
    /// Hours of all GPUs together.
    pub gpu_hours: Figure,
    /// FLOPs of the training.
    #[serde(default)]
    pub flop: Option<Figure>,
    /// Price in dollars.
    #[serde(default)]
    pub usd: Option<Figure>,
}

impl Published {
    /// The systems that are known: those of which somebody said what their training took.
    ///
    /// # Panics
    /// Never: the list is part of the program, and a test reads it.
    pub fn known() -> Vec<Self> {
        let list = include_str!("../../data/published.ron");
        let list = crate::recipe::dialect().from_str(list);
        list.expect("the list of published systems is valid")
    }
}

/// What a training took, or would take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Name of the system, or of the recipe.
    pub name: String,
    /// Whether a recipe of this program trains it.
    pub recipe: bool,
    /// Kind of its GPUs.
    pub gpu: String,
    /// Hours of all of them together.
    pub gpu_hours: f64,
    /// FLOPs, where they are known.
    pub flop: Option<f64>,
    /// Hours of the comparison's GPU that are worth as many at its peak rate.
    pub hours: f64,
    /// Price of those.
    pub usd: f64,
    /// The price that was published, in dollars of another year.
    pub published_usd: Option<f64>,
    /// Where its numbers are from.
    pub sources: Vec<String>,
}

/// Costs beside each other, in the hours and dollars of one machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What recipes are carried out on, and what all hours are expressed in.
    pub machine: Machine,
    /// Cheapest first.
    pub costs: Vec<Cost>,
}

impl Comparison {
    /// `recipes` on `machine`, and every [published](Published::known) system.
    pub fn new(recipes: &[Recipe], machine: Machine) -> Self {
        let recipes = recipes.iter().map(|recipe| of_recipe(recipe, &machine));
        let gpus = Gpu::known();
        let published = Published::known().into_iter().map(|system| {
            let gpu = gpus.iter().find(|gpu| gpu.name == system.gpu);
            of_published(system, gpu.unwrap_or(&machine.gpu), &machine)
        });
        let mut costs: Vec<Cost> = recipes.chain(published).collect();
        costs.sort_by(|a, b| a.usd.total_cmp(&b.usd));
        Self { machine, costs }
    }

    /// How many times the hours, and so the dollars, of the second are in the first; of costs by their places.
    pub fn times(&self, place: usize, other: usize) -> f64 {
        self.costs[place].hours / self.costs[other].hours
    }

    /// The same of FLOPs, where both are known.
    pub fn times_flop(&self, place: usize, other: usize) -> Option<f64> {
        Some(self.costs[place].flop? / self.costs[other].flop?)
    }
}

fn of_recipe(recipe: &Recipe, machine: &Machine) -> Cost {
    let plan = Plan::new(recipe, machine.clone());
    let hours = plan.hours * machine.count as f64;
    Cost {
        name: plan.recipe,
        recipe: true,
        gpu: machine.gpu.name.clone(),
        gpu_hours: hours,
        flop: Some(plan.flop),
        hours,
        usd: plan.usd,
        published_usd: None,
        sources: Vec::new(),
    }
}

fn of_published(system: Published, gpu: &Gpu, machine: &Machine) -> Cost {
    let Published {
        name,
        gpu_hours,
        flop,
        usd,
        ..
    } = system;
    let hours = gpu_hours.value * gpu.tflops / machine.gpu.tflops;
    let sources = [&flop, &usd].into_iter().flatten();
    let sources = std::iter::once(&gpu_hours).chain(sources);
    Cost {
        recipe: false,
        gpu: gpu.name.clone(),
        hours,
        usd: hours * machine.usd_per_gpu_hour,
        sources: sources.map(|figure| figure.source.clone()).collect(),
        gpu_hours: gpu_hours.value,
        flop: flop.map(|figure| figure.value),
        published_usd: usd.map(|figure| figure.value),
        name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Bundled;

    fn machine(gpu: &str, usd_per_gpu_hour: f64) -> Machine {
        let gpu = Gpu::known().into_iter().find(|known| known.name == gpu);
        Machine {
            gpu: gpu.unwrap(),
            count: 8,
            mfu: 0.185,
            usd_per_gpu_hour,
        }
    }

    #[test]
    fn every_published_figure_has_a_source_and_a_known_gpu() {
        let known = Published::known();
        assert!(known.len() >= 5, "{known:?}");
        for system in known {
            let Published { gpu, flop, usd, .. } = &system;
            assert!(Gpu::known().iter().any(|known| known.name == *gpu), "{gpu}");
            for figure in [Some(&system.gpu_hours), flop.as_ref(), usd.as_ref()] {
                let said =
                    figure.is_none_or(|figure| figure.value > 0.0 && figure.source.len() > 10);
                assert!(said, "{}: {figure:?}", system.name);
            }
        }
    }

    /// Ratios between published systems are those of the authors: PixArt took 10.8 % of Stable Diffusion's time, and the paper's
    /// hours are those of its price.
    #[test]
    fn costs_are_those_that_were_published() {
        let compared = Comparison::new(&[], machine("h100", 3.79));
        let place = |name: &str| {
            let found = compared
                .costs
                .iter()
                .position(|cost| cost.name.starts_with(name));
            found.unwrap_or_else(|| panic!("no {name}"))
        };
        let share = compared.times(place("PixArt"), place("Stable Diffusion 1.5"));
        assert!((share - 0.108).abs() < 5e-4, "{share}");
        let micro = &compared.costs[place("MicroDiT")];
        assert!((micro.usd / 1890.0 - 1.0).abs() < 0.01, "{micro:?}");
        assert_eq!(micro.hours, micro.gpu_hours);
        // The same hours are worth more of a slower GPU.
        let slower = Comparison::new(&[], machine("a100", 3.79));
        let of = |compared: &Comparison| {
            let mut costs = compared.costs.iter();
            costs
                .find(|cost| cost.name.starts_with("MicroDiT"))
                .unwrap()
                .hours
        };
        assert!((of(&slower) / of(&compared) - 989.0 / 312.0).abs() < 1e-9);
    }

    #[test]
    fn bundled_recipes_stand_beside_what_was_published() {
        let bundled = Bundled::all().into_iter().filter(Bundled::is_recipe);
        let recipes: Vec<Recipe> = bundled
            .map(|bundled| Recipe::load(&bundled.path(), &[]).unwrap())
            .collect();
        let compared = Comparison::new(&recipes, machine("h100", 3.79));
        assert_eq!(
            compared.costs.len(),
            recipes.len() + Published::known().len()
        );
        let place = |recipe: bool, name: &str| {
            let mut costs = compared.costs.iter();
            let found = costs.position(|cost| cost.recipe == recipe && cost.name.starts_with(name));
            found.unwrap_or_else(|| panic!("no {name}"))
        };
        // The recipe of the paper's run takes the paper's hours. Its experts are given their tokens without a product, which was 4 %
        // of the paper's FLOPs.
        let pair = (place(true, "microdit-xl2"), place(false, "MicroDiT"));
        let times = compared.times(pair.0, pair.1);
        let times_flop = compared.times_flop(pair.0, pair.1).unwrap();
        assert!((times - 1.0).abs() < 0.02, "{times}");
        assert!((times_flop - 3.30 / 3.43).abs() < 0.01, "{times_flop}");
        assert!(compared.costs.is_sorted_by(|a, b| a.usd <= b.usd));
    }
}
