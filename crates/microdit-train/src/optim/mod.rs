//! Optimizers over all parameters of a module: AdamW (arXiv 1711.05101), LAMB, Muon and plain gradient descent, with
//! parameter groups and clipping by the global norm.
//!
//! State is kept by the parameters' paths in the module, and on the inner backend, where nothing is recorded for
//! differentiation.

mod config;
mod grads;
mod groups;
mod lamb;
mod muon;
mod parts;
mod slots;

pub use config::{Method, MuonSize, OptimizerConfig};
pub use grads::Gradients;
pub use groups::{ParamGroup, ParamKind};
pub use lamb::{Lamb, LambStep, lamb};
pub use muon::{MuonStep, NewtonSchulz, muon};
pub use parts::Optimizers;
pub use slots::{FIRST, Kept, MOMENTUM, SECOND, Slots};

use burn::{
    module::{AutodiffModule, Param},
    tensor::{
        Bool, Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use microdit::{
    DitBackend,
    nn::params::{self, MapParams, Role, Roles},
    ops::{AdamState, AdamStep},
};
use std::collections::BTreeMap;

/// An optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer<B: Backend> {
    configs: Optimizers,
    steps: u64,
    slots: BTreeMap<String, Slots<B>>,
}

impl<B: DitBackend> Optimizer<B> {
    /// An optimizer that has taken no step.
    pub fn new(configs: impl Into<Optimizers>) -> Self {
        Self::resume(configs, 0, BTreeMap::new())
    }

    /// Continues from a saved state.
    pub fn resume(
        configs: impl Into<Optimizers>,
        steps: u64,
        slots: BTreeMap<String, Slots<B>>,
    ) -> Self {
        Self {
            configs: configs.into(),
            steps,
            slots,
        }
    }

    /// The settings, but for parts with some of their own.
    pub fn config(&self) -> &OptimizerConfig {
        &self.configs.rest
    }

    /// All settings.
    pub(crate) fn configs(&self) -> &Optimizers {
        &self.configs
    }

    /// Steps taken, which the bias correction depends on.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What is kept of each parameter that had a gradient, by the parameter's path in the module.
    pub fn slots(&self) -> &BTreeMap<String, Slots<B>> {
        &self.slots
    }

    /// The slots themselves.
    pub fn into_slots(self) -> BTreeMap<String, Slots<B>> {
        self.slots
    }

    /// One update with `lr` (the schedule's multiplier already in, which parts with settings of their own take too); returns the module
    /// and the global gradient norm before clipping, `[1]`, still on the loss's device. Every parameter is updated where its gradient is,
    /// and its moments are kept there. Such parts are clipped each by their own norm, and so are adapters and all other weights. A
    /// parameter without a gradient is left as it is; where the norm or
    /// `loss` `[1]` is not finite, all of them are, without the host having to look.
    ///
    /// # Panics
    /// If there are no gradients.
    pub fn step<AB, M>(
        &mut self,
        module: M,
        grads: Gradients<B>,
        loss: &Tensor<B, 1>,
        lr: f64,
    ) -> (M, Tensor<B, 1>)
    where
        AB: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<AB> + Roles,
    {
        self.steps += 1;
        let roles = params::roles(&module);
        let home = loss.device();
        let grads = grads.measured();
        let norm = grads.norm().to_device(&home);
        // PyTorch's clip_grad_norm_: min(1, clip / (norm + 1e-6)).
        let clip = |norm: Tensor<B, 1>, config: &OptimizerConfig| match config.clip_norm {
            Some(clip) => (norm + 1e-6).recip().mul_scalar(clip).clamp_max(1.0),
            None => norm.ones_like(),
        };
        // Zero times infinity is NaN, which signals to leave the parameters alone.
        let signal = norm.clone() * 0.0 + loss.clone() * 0.0;
        // Of a network and of adapters that are trained beside it, neither makes the other's steps shorter.
        let clipped_with = |path: &str| match self.configs.part(path) {
            Some(part) => Clipped::Part(part),
            None if roles.get(path) == Some(&Role::Adapter) => Clipped::Adapters,
            None => Clipped::Rest,
        };
        let mut of_groups = BTreeMap::new();
        let scales = grads.iter().map(|(path, _)| {
            let group = clipped_with(path);
            let scale = of_groups.entry(group).or_insert_with(|| {
                let norm = grads.norm_of(|path| clipped_with(path) == group);
                let norm = norm.expect("one of them is in the group");
                clip(norm.to_device(&home), self.configs.of(path)) + signal.clone()
            });
            (path.clone(), scale.clone())
        });
        let scales = scales.collect();
        let mut update = Update::<AB> {
            configs: &self.configs,
            roles,
            steps: self.steps,
            // Recovered for parts with a rate of their own.
            multiplier: match self.configs.rest.lr > 0.0 {
                true => lr / self.configs.rest.lr,
                false => 1.0,
            },
            lr,
            scales,
            grads,
            slots: &mut self.slots,
        };
        (params::map(module, &mut update), norm)
    }
}

/// What is clipped by one norm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clipped {
    Rest,
    Adapters,
    /// A part with settings of its own.
    Part(usize),
}

struct Update<'a, AB: AutodiffBackend> {
    configs: &'a Optimizers,
    roles: BTreeMap<String, Role>,
    steps: u64,
    /// Of the schedule.
    multiplier: f64,
    /// Learning rate of what has no settings of its own.
    lr: f64,
    /// What gradients are multiplied by.
    scales: BTreeMap<String, Tensor<AB::InnerBackend, 1>>,
    grads: Gradients<AB::InnerBackend>,
    slots: &'a mut BTreeMap<String, Slots<AB::InnerBackend>>,
}

impl<B, AB> Update<'_, AB>
where
    B: DitBackend,
    AB: AutodiffBackend<InnerBackend = B>,
{
    /// A parameter of the given name, role and shape after the step.
    fn apply(
        &mut self,
        name: String,
        role: Role,
        param: Tensor<B, 1>,
        grad: Tensor<B, 1>,
        shape: &[usize],
    ) -> Tensor<B, 1> {
        let config = self.configs.of(&name);
        let (lr, weight_decay) = config.multipliers(role.into());
        let scale = self.scales[&name].clone();
        let base = match self.configs.part(&name) {
            Some(_) => config.lr * self.multiplier,
            None => self.lr,
        };
        let scale = scale.to_device(&grad.device());
        let non_finite = scale.clone().is_nan();
        let step = AdamStep {
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            lr: base * lr,
            weight_decay: config.weight_decay * weight_decay,
            step: self.steps,
        };
        if config.method == Method::Sgd {
            // A decay of weights is here the same as a penalty on them.
            let moved =
                param.clone() * (1.0 - step.lr * step.weight_decay) - grad * scale * step.lr;
            let [param] = unless_non_finite([param], [moved], &non_finite);
            return param;
        }
        let mut old = self.slots.remove(&name).unwrap_or_default();
        let mut take = |slot| old.remove(slot).unwrap_or_else(|| grad.zeros_like());
        let (param, slots) = match (config.method, stack(role, shape)) {
            (
                Method::Muon {
                    momentum,
                    nesterov,
                    size,
                },
                Some(shape),
            ) => {
                let settings = MuonStep {
                    nesterov,
                    size,
                    iteration: NewtonSchulz::default(),
                    lr: step.lr,
                    momentum,
                    weight_decay: step.weight_decay,
                };
                let old = [param, take(MOMENTUM)];
                let [param, momentum] = old.clone();
                let new = muon(param, momentum, grad, scale, shape, &settings);
                let [param, momentum] = unless_non_finite(old, new, &non_finite);
                (param, Slots::from([(MOMENTUM, momentum)]))
            }
            (method, _) => {
                let old = AdamState {
                    param,
                    first: take(FIRST),
                    second: take(SECOND),
                };
                let [param, first, second] = match method {
                    Method::Lamb(options) => {
                        let step = LambStep {
                            adam: step,
                            options,
                            base_lr: config.lr,
                        };
                        let new = lamb(old.clone(), grad, scale, &step);
                        unless_non_finite(parts(old), parts(new), &non_finite)
                    }
                    // Skips a non-finite step by itself.
                    _ => parts(B::adam(old, grad, scale, &step)),
                };
                (param, Slots::from([(FIRST, first), (SECOND, second)]))
            }
        };
        self.slots.insert(name, slots);
        param
    }
}

/// The new tensors, or the old ones where the gradients are not finite, `[1]`.
fn unless_non_finite<B: Backend, const N: usize>(
    old: [Tensor<B, 1>; N],
    new: [Tensor<B, 1>; N],
    non_finite: &Tensor<B, 1, Bool>,
) -> [Tensor<B, 1>; N] {
    std::array::from_fn(|i| {
        let non_finite = non_finite.clone().expand(new[i].dims());
        new[i].clone().mask_where(non_finite, old[i].clone())
    })
}

fn parts<B: Backend>(state: AdamState<B>) -> [Tensor<B, 1>; 3] {
    [state.param, state.first, state.second]
}

/// The stack of matrices Muon makes orthogonal, if it applies: not to embeddings, and not to routers, whose rows are
/// votes rather than directions.
fn stack(role: Role, shape: &[usize]) -> Option<[usize; 3]> {
    match (role, shape) {
        (Role::Matrix, &[rows, columns]) => Some([1, rows, columns]),
        // A convolution maps every window of pixels by the same matrix.
        (Role::Matrix, &[output, input, height, width]) => {
            Some([1, output, input * height * width])
        }
        (Role::Expert, &[experts, rows, columns]) => Some([experts, rows, columns]),
        _ => None,
    }
}

impl<AB> MapParams<AB> for Update<'_, AB>
where
    AB: AutodiffBackend,
    AB::InnerBackend: DitBackend,
{
    fn map<const D: usize>(
        &mut self,
        path: &[&str],
        param: Param<Tensor<AB, D>>,
    ) -> Param<Tensor<AB, D>> {
        let name = path.join(".");
        let Some(grad) = self.grads.take(&name) else {
            return param;
        };
        let role = self.roles[&name];
        param.map(|tensor| {
            let shape = tensor.shape();
            let flat = tensor.inner().reshape([shape.num_elements()]);
            let home = flat.device();
            let there = flat.to_device(&grad.device());
            let updated = self.apply(name, role, there, grad, shape.as_slice());
            Tensor::from_inner(updated.to_device(&home).reshape(shape)).require_grad()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use microdit::{
        Linear,
        nn::init::{Init, STD},
        weights::StateDict,
    };

    type Tracked = Autodiff<Flex>;

    #[test]
    fn a_step_whose_loss_or_gradient_is_not_finite_changes_nothing() {
        let device = Default::default();
        for method in [
            Method::AdamW,
            Method::Lamb(Lamb::default()),
            Method::muon(0.9),
            Method::Sgd,
        ] {
            let config = OptimizerConfig {
                method,
                ..OptimizerConfig::default()
            };
            let mut optimizer = Optimizer::<Flex>::new(config);
            let layer: Linear<Tracked> = Init::new(0, &device).linear(4, 4, true, STD);
            let mut step = |layer: Linear<Tracked>, loss: f32, scale: f32| {
                let out = layer.forward(Tensor::<Tracked, 2>::ones([2, 4], &device));
                let grads = (out.powi_scalar(2).sum() * scale).backward();
                let grads = Gradients::collect(&layer, &mut { grads });
                let loss = Tensor::from_floats([loss], &device);
                let (layer, _) = optimizer.step::<Tracked, _>(layer, grads, &loss, 1e-2);
                let slots = optimizer.slots().values().flatten();
                let slots: Vec<_> = slots.map(|(slot, data)| (*slot, data.to_data())).collect();
                (layer, slots)
            };
            let values = |layer: &Linear<Tracked>| -> Vec<_> {
                let state = StateDict::from_module(layer);
                state.iter().map(|(_, data)| data.clone()).collect()
            };
            let before = values(&layer);
            let (layer, slots) = step(layer, 1.0, 1.0);
            let after = values(&layer);
            assert_ne!(before, after, "{method:?}");
            let mut layer = layer;
            for (loss, scale) in [
                (f32::NAN, 1.0),
                (f32::INFINITY, 1.0),
                (1.0, f32::NAN),
                (1.0, f32::INFINITY),
                (1.0, 1e30),
            ] {
                let (left, same) = step(layer, loss, scale);
                assert_eq!(
                    values(&left),
                    after,
                    "{method:?}, loss {loss}, scale {scale}"
                );
                assert_eq!(same, slots, "{method:?}, loss {loss}, scale {scale}");
                layer = left;
            }
        }
    }
}
