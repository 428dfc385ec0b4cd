//! The network without layer-wise scaling that costs what a recipe's network costs: what scaling is compared with.

use super::flop_per_image;
use crate::{
    error::TrainError,
    recipe::{Recipe, Stage},
};
use microdit::{DitConfig, WidthScale, net::NetworkConfig};
use serde::Serialize;

/// A network of as many blocks, all of one width, and what it costs beside the recipe's own.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConstantWidth {
    /// Attention width over `dim`, of every block.
    pub qkv_width: f64,
    /// Feed-forward width over `dim`, of every block.
    pub ffn_width: f64,
    /// FLOPs of the recipe's run.
    pub scaled_flop: f64,
    /// FLOPs of the same run with constant widths.
    pub constant_flop: f64,
    /// Parameters of the recipe's network.
    pub scaled_parameters: usize,
    /// Parameters of the one with constant widths.
    pub constant_parameters: usize,
    /// What turns the recipe into one of constant widths, each as `--set` takes it.
    pub overrides: Vec<String>,
}

impl ConstantWidth {
    /// Solves for the constant widths with which a run of `recipe` costs what it costs now, by the cost model, with the masks,
    /// experts and sizes it has. Widths are rounded as the network rounds them, so that the match is as close as its
    /// `head_dim` and `multiple_of` allow.
    ///
    /// The width of the attention is the one that alone would match best, or the next to it; that of the feed-forward takes up the
    /// rest.
    ///
    /// # Errors
    /// A network whose widths are constant already.
    pub fn of(recipe: &Recipe) -> Result<Self, TrainError> {
        let NetworkConfig::Dit(scaled) = &recipe.last_stage().model else {
            return Err(TrainError::ConstantAlready);
        };
        let (qkv, ffn) = (
            spread(&scaled.qkv_width, scaled),
            spread(&scaled.ffn_width, scaled),
        );
        if [&qkv, &ffn].iter().all(|(least, most)| least == most) {
            return Err(TrainError::ConstantAlready);
        }
        let target = cost(recipe, |_| ());
        let dim = scaled.dim as f64;
        let attention = Grid {
            dim,
            multiple: (2 * scaled.head_dim) as f64,
        };
        let [below, above] = attention.around(qkv.1, target, |width| {
            cost(recipe, |config| {
                config.qkv_width = WidthScale::Constant(width)
            })
        });
        // Experts and dense layers are rounded at different widths.
        let multiple = scaled.multiple_of as f64;
        let pairs = [below, above].into_iter().flat_map(|qkv| {
            let multiples = [multiple, 1.5 * multiple].into_iter();
            multiples.flat_map(move |multiple| {
                let cost = |width| cost(recipe, |config| set(config, [qkv, width]));
                Grid { dim, multiple }
                    .around(ffn.1, target, cost)
                    .map(|ffn| [qkv, ffn])
            })
        });
        let cost_of = |widths: [f64; 2]| cost(recipe, |config| set(config, widths));
        let gap = |widths: &[f64; 2]| (cost_of(*widths) - target).abs();
        let best = pairs.min_by(|a, b| gap(a).total_cmp(&gap(b)));
        let widths @ [qkv_width, ffn_width] = best.expect("there are widths to try");
        let mut constant = scaled.clone();
        set(&mut constant, widths);
        Ok(Self {
            qkv_width,
            ffn_width,
            scaled_flop: target,
            constant_flop: cost_of(widths),
            scaled_parameters: recipe.last_stage().model.parameters(),
            constant_parameters: NetworkConfig::Dit(constant).parameters(),
            overrides: overrides(recipe, widths),
        })
    }
}

/// Least and largest multiplier of a width.
fn spread(width: &WidthScale, config: &DitConfig) -> (f64, f64) {
    let multipliers = width.multipliers(config.depth).into_iter();
    multipliers.fold((f64::INFINITY, 0.0), |(least, most), multiplier| {
        (least.min(multiplier), f64::max(most, multiplier))
    })
}

fn set(config: &mut DitConfig, [qkv, ffn]: [f64; 2]) {
    config.qkv_width = WidthScale::Constant(qkv);
    config.ffn_width = WidthScale::Constant(ffn);
}

/// FLOPs of a run of `recipe` with its network changed.
fn cost(recipe: &Recipe, change: impl Fn(&mut DitConfig)) -> f64 {
    let of_stage = |stage: &Stage| {
        let mut stage = stage.clone();
        if let NetworkConfig::Dit(config) = &mut stage.model {
            change(config);
        }
        flop_per_image(&stage) * (stage.steps * stage.batch as u64) as f64
    };
    recipe.stages.iter().map(of_stage).sum()
}

/// The widths there are, as multipliers of `dim`: the network rounds up to a multiple.
#[derive(Clone, Copy)]
struct Grid {
    dim: f64,
    multiple: f64,
}

impl Grid {
    /// The neighbouring widths, up to the first beyond the multiplier `most`, between which `cost`, which grows with the width,
    /// reaches `target`.
    fn around(self, most: f64, target: f64, cost: impl Fn(f64) -> f64) -> [f64; 2] {
        let last = (most * self.dim / self.multiple).ceil() as u64 + 1;
        let (mut below, mut above) = (1, last);
        while below + 1 < above {
            let middle = below.midpoint(above);
            match cost(self.multiplier(middle)) <= target {
                true => below = middle,
                false => above = middle,
            }
        }
        [below, above].map(|count| self.multiplier(count))
    }

    /// The multiplier of `count` multiples: with four decimals, rounded down, where the network rounds that up again.
    fn multiplier(self, count: u64) -> f64 {
        let exact = count as f64 * self.multiple / self.dim;
        let short = (exact * 1e4).floor() / 1e4;
        // The network cuts two fractions off before it rounds up.
        match (exact - short) * self.dim + 3.0 < self.multiple {
            true => short,
            false => exact,
        }
    }
}

/// The keys to set: those of every stage, unless a stage has sizes of its own.
fn overrides(recipe: &Recipe, [qkv, ffn]: [f64; 2]) -> Vec<String> {
    let of = |place: &str| {
        [("qkv_width", qkv), ("ffn_width", ffn)]
            .map(|(key, width)| format!("{place}model.{key}=Constant({width:?})"))
    };
    let whole = of("");
    let reaches = recipe.with(&whole).is_ok_and(|changed| {
        let mut stages = changed.stages.iter();
        stages.all(|stage| match &stage.model {
            NetworkConfig::Dit(config) => {
                [&config.qkv_width, &config.ffn_width]
                    == [&WidthScale::Constant(qkv), &WidthScale::Constant(ffn)]
            }
            NetworkConfig::UNet(_) => false,
        })
    });
    match reaches {
        true => whole.into(),
        false => {
            let stages = recipe.stages.iter();
            stages
                .flat_map(|stage| of(&format!("stages.{}.", stage.name)))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn load(name: &str, sets: &[&str]) -> Recipe {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../recipes")
            .join(name);
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        Recipe::load(&path, &sets).unwrap()
    }

    /// With its attention, no other feed-forward comes nearer, and what is printed is what was found.
    #[test]
    fn the_match_is_as_close_as_rounding_allows() {
        for (name, within) in [("microdit-xl2.ron", 0.02), ("cifar10.ron", 0.02)] {
            let recipe = load(name, &[]);
            let found = ConstantWidth::of(&recipe).unwrap();
            let ratio = found.constant_flop / found.scaled_flop;
            assert!((ratio - 1.0).abs() < within, "{name}: {found:?}");
            let sets: Vec<&str> = found.overrides.iter().map(String::as_str).collect();
            let constant = load(name, &sets);
            assert_eq!(cost(&constant, |_| ()), found.constant_flop, "{name}");
            assert!(matches!(
                ConstantWidth::of(&constant).unwrap_err(),
                TrainError::ConstantAlready
            ));
            let NetworkConfig::Dit(config) = &recipe.last_stage().model else {
                panic!("{name} trains a DiT");
            };
            for count in 1..(4 * config.dim / config.multiple_of) {
                let ffn = (count * config.multiple_of) as f64 / config.dim as f64;
                let widths = [found.qkv_width, ffn];
                let other = cost(&recipe, |config| set(config, widths)) / found.scaled_flop;
                assert!(
                    (other - 1.0).abs() >= (ratio - 1.0).abs(),
                    "{name}: {widths:?}"
                );
            }
        }
    }

    #[test]
    fn a_stage_with_sizes_of_its_own_is_changed_there() {
        let width = "stages.masked.model.ffn_width=Linear(from: 0.5, to: 4.0)";
        let recipe = load("quickstart.ron", &[width]);
        let found = ConstantWidth::of(&recipe).unwrap();
        let sets: Vec<&str> = found.overrides.iter().map(String::as_str).collect();
        let constant = load("quickstart.ron", &[&[width], &sets[..]].concat());
        assert_eq!(cost(&constant, |_| ()), found.constant_flop);
    }
}
