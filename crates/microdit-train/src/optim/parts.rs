//! Several optimizers in one: a part of a module may have settings of its own.

use super::{Kept, OptimizerConfig};
use burn::{module::Module, tensor::backend::Backend};
use microdit::nn::params::Roles;
use std::collections::BTreeMap;

/// Settings of the optimizers of a module's parts, by the first names of their paths, and of the rest of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizers {
    /// Of all that is in none of the parts.
    pub rest: OptimizerConfig,
    /// Of the parts.
    pub parts: Vec<(&'static str, OptimizerConfig)>,
}

impl From<OptimizerConfig> for Optimizers {
    fn from(rest: OptimizerConfig) -> Self {
        Self {
            rest,
            parts: Vec::new(),
        }
    }
}

impl Optimizers {
    /// The place among the parts of the one that the parameter at `path` belongs to.
    pub(super) fn part(&self, path: &str) -> Option<usize> {
        let first = path.split('.').next();
        self.parts.iter().position(|(name, _)| Some(*name) == first)
    }

    /// The settings for the parameter at `path`.
    pub(super) fn of(&self, path: &str) -> &OptimizerConfig {
        match self.part(path) {
            Some(part) => &self.parts[part].1,
            None => &self.rest,
        }
    }

    /// What is kept for the parameters of `module`, by their paths in it.
    pub fn kept<B: Backend, M: Module<B> + Roles>(&self, module: &M) -> BTreeMap<String, Kept> {
        let mut kept = self.rest.kept(module);
        for (part, (_, config)) in self.parts.iter().enumerate() {
            let own = config.kept(module).into_iter();
            kept.extend(own.filter(|(path, _)| self.part(path) == Some(part)));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::{FIRST, Gradients, Method, Optimizer, SECOND};
    use burn::{module::Module, tensor::Tensor};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use microdit::{
        DitBackend, Linear,
        nn::{
            init::{Init, STD},
            params::Roles,
        },
        weights::StateDict,
    };

    type Tracked = Autodiff<Flex>;

    #[derive(Module, Debug)]
    struct Two<B: DitBackend> {
        student: Linear<B>,
        critic: Linear<B>,
    }

    impl<B: DitBackend> Roles for Two<B> {}

    fn two() -> Two<Tracked> {
        let device = Default::default();
        let init = Init::new(0, &device);
        Two {
            student: init.at("student").linear(4, 4, true, STD),
            critic: init.at("critic").linear(4, 4, true, STD),
        }
    }

    fn config(method: Method, lr: f64, clip_norm: f64) -> OptimizerConfig {
        OptimizerConfig {
            method,
            lr,
            clip_norm: Some(clip_norm),
            weight_decay: 0.0,
            ..OptimizerConfig::default()
        }
    }

    fn part(module: &Two<Tracked>, name: &str) -> StateDict {
        StateDict::from_module(module).only(|path| path.starts_with(name))
    }

    /// Each part moves as it would by itself, by its own method, rate and clipping.
    #[test]
    fn a_part_moves_as_by_itself() {
        let student = config(Method::AdamW, 1e-2, 0.5);
        let critic = config(Method::Sgd, 1e-1, 0.25);
        let optimizers = Optimizers {
            rest: student.clone(),
            parts: vec![("critic", critic.clone())],
        };
        let kept = optimizers.kept(&two());
        assert_eq!(kept["student.weight"].slots, [FIRST, SECOND]);
        assert!(kept["critic.weight"].slots.is_empty());
        let moved = |optimizers: Optimizers| {
            let (mut module, mut optimizer) = (two(), Optimizer::<Flex>::new(optimizers));
            for step in 0..3 {
                let x = Tensor::<Tracked, 2>::ones([2, 4], &Default::default()) * (step + 1);
                let image = module.critic.forward(module.student.forward(x));
                let loss = image.powi_scalar(2).sum();
                let grads = Gradients::collect(&module, &mut loss.backward());
                // Half of the rate, as a schedule has it.
                let lr = 0.5 * optimizer.config().lr;
                let loss = loss.inner();
                (module, _) = optimizer.step::<Tracked, _>(module, grads, &loss, lr);
            }
            module
        };
        let together = moved(optimizers.clone());
        // The same, with the parts' settings the other way round.
        let both = moved(Optimizers {
            rest: critic,
            parts: vec![("student", student)],
        });
        for name in ["student", "critic"] {
            let found = part(&together, name);
            for (path, data) in part(&both, name).iter() {
                // A rate is recovered from the one that was passed, to the last bit or so.
                let pairs = data
                    .iter::<f64>()
                    .zip(found.get(path).unwrap().iter::<f64>());
                for (a, b) in pairs {
                    assert!(
                        (a - b).abs() <= 1e-6 * a.abs().max(1e-3),
                        "{path}: {a}, {b}"
                    );
                }
            }
        }
        // One step of plain descent, by hand: the gradient scaled down to a norm of 0.25, times half of 0.1.
        let once = {
            let (module, mut optimizer) = (two(), Optimizer::<Flex>::new(optimizers));
            let x = Tensor::<Tracked, 2>::ones([2, 4], &Default::default());
            let image = module.critic.forward(module.student.forward(x));
            let loss = (image.clone().powi_scalar(2) + image * 40.0).sum();
            let grads = Gradients::collect(&module, &mut loss.backward());
            let loss = loss.inner();
            optimizer.step::<Tracked, _>(module, grads, &loss, 5e-3).0
        };
        let before = part(&two(), "critic");
        let after = part(&once, "critic");
        let moved: f64 = before
            .iter()
            .flat_map(|(path, data)| {
                let other = after.get(path).unwrap();
                let pairs = data.iter::<f64>().zip(other.iter::<f64>());
                pairs.map(|(a, b)| (a - b).powi(2)).collect::<Vec<_>>()
            })
            .sum::<f64>()
            .sqrt();
        assert!((moved / (0.25 * 0.05) - 1.0).abs() < 1e-3, "{moved}");
    }
}
