//! Optimizers over all parameters of a module: AdamW (arXiv 1711.05101), LAMB and Muon, with parameter groups and
//! clipping by the global norm.
//!
//! State is kept under the reference's parameter names, which is what makes a checkpoint readable elsewhere, and on the
//! inner backend, where nothing is recorded for differentiation.

mod config;
mod grads;
mod groups;
mod lamb;
mod muon;

pub use config::{Method, OptimizerConfig};
pub use grads::Gradients;
pub use groups::{ParamGroup, ParamKind};
pub use lamb::lamb;

use burn::{
    module::{AutodiffModule, Param},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use microdit::{
    DitBackend,
    ops::{AdamState, AdamStep},
    params::{self, MapParams, Role, Roles},
    weights::reference_name,
};
use muon::{MuonStep, muon};
use std::collections::BTreeMap;

/// First and second moment of one parameter, flattened.
#[derive(Clone, Debug)]
pub struct Moments<B: Backend> {
    /// Mean of the gradients; the momentum where Muon applies.
    pub first: Tensor<B, 1>,
    /// Mean of the squared gradients; unused where Muon applies.
    pub second: Tensor<B, 1>,
}

/// An optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer<B: Backend> {
    config: OptimizerConfig,
    steps: u64,
    moments: BTreeMap<String, Moments<B>>,
}

impl<B: DitBackend> Optimizer<B> {
    /// An optimizer that has taken no step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self::resume(config, 0, BTreeMap::new())
    }

    /// Continues from a saved state.
    pub fn resume(
        config: OptimizerConfig,
        steps: u64,
        moments: BTreeMap<String, Moments<B>>,
    ) -> Self {
        Self {
            config,
            steps,
            moments,
        }
    }

    /// The settings.
    pub fn config(&self) -> &OptimizerConfig {
        &self.config
    }

    /// Steps taken, which the bias correction depends on.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moments by the parameter's reference name.
    pub fn moments(&self) -> &BTreeMap<String, Moments<B>> {
        &self.moments
    }

    /// The moments themselves.
    pub fn into_moments(self) -> BTreeMap<String, Moments<B>> {
        self.moments
    }

    /// One update with `lr` (the schedule's multiplier already in); returns the module and the global gradient norm
    /// before clipping, `[1]`, still on the device. A parameter without a gradient is left as it is; where the norm or
    /// `loss` `[1]` is not finite all of them are, without the host having to look.
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
        let norm = grads.norm();
        // PyTorch's clip_grad_norm_: min(1, clip / (norm + 1e-6)).
        let clip = match self.config.clip_norm {
            Some(clip) => (norm.clone() + 1e-6)
                .recip()
                .mul_scalar(clip)
                .clamp_max(1.0),
            None => norm.ones_like(),
        };
        // Zero times infinity is no number, which is the sign to leave the parameters alone.
        let scale = clip + norm.clone() * 0.0 + loss.clone() * 0.0;
        let mut update = Update::<AB> {
            config: &self.config,
            role: M::role,
            step: AdamStep {
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                eps: self.config.eps,
                lr,
                weight_decay: self.config.weight_decay,
                step: self.steps,
            },
            scale,
            grads,
            moments: &mut self.moments,
        };
        (params::map(module, &mut update), norm)
    }
}

struct Update<'a, AB: AutodiffBackend> {
    config: &'a OptimizerConfig,
    role: fn(&[&str], usize) -> Role,
    step: AdamStep,
    scale: Tensor<AB::InnerBackend, 1>,
    grads: Gradients<AB::InnerBackend>,
    moments: &'a mut BTreeMap<String, Moments<AB::InnerBackend>>,
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
        let Moments { first, second } = self.moments.remove(&name).unwrap_or_else(|| Moments {
            first: grad.zeros_like(),
            second: grad.zeros_like(),
        });
        let (lr, weight_decay) = self.config.multipliers(role.into());
        let step = AdamStep {
            lr: self.step.lr * lr,
            weight_decay: self.step.weight_decay * weight_decay,
            ..self.step
        };
        let state = AdamState {
            param,
            first,
            second,
        };
        let scale = self.scale.clone();
        let state = match (self.config.method, matrices(role, shape)) {
            (Method::Lamb, _) => self.unless_broken(state, |state| lamb(state, grad, scale, &step)),
            (Method::Muon { momentum }, Some(shape)) => self.unless_broken(state, |state| {
                let settings = MuonStep {
                    lr: step.lr,
                    momentum,
                    weight_decay: step.weight_decay,
                };
                let (param, first) = muon(state.param, state.first, grad, scale, shape, &settings);
                AdamState {
                    param,
                    first,
                    second: state.second,
                }
            }),
            // Leaves a broken step out by itself.
            _ => B::adam(state, grad, scale, &step),
        };
        let (first, second) = (state.first, state.second);
        self.moments.insert(name, Moments { first, second });
        state.param
    }

    /// The state after `update`, or as it was where the gradients are not finite.
    fn unless_broken(
        &self,
        old: AdamState<B>,
        update: impl FnOnce(AdamState<B>) -> AdamState<B>,
    ) -> AdamState<B> {
        let broken = self.scale.clone().is_nan();
        let choose = |old: Tensor<B, 1>, new: Tensor<B, 1>| {
            let broken = broken.clone().expand(old.dims());
            new.mask_where(broken, old)
        };
        let new = update(old.clone());
        AdamState {
            param: choose(old.param, new.param),
            first: choose(old.first, new.first),
            second: choose(old.second, new.second),
        }
    }
}

/// The stack of matrices Muon makes orthogonal, if it applies: not to embeddings, and not to routers, whose rows are
/// votes rather than directions.
fn matrices(role: Role, shape: &[usize]) -> Option<[usize; 3]> {
    match (role, shape) {
        (Role::Matrix, &[rows, columns]) => Some([1, rows, columns]),
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
        let name = reference_name(path);
        let Some(grad) = self.grads.take(&name) else {
            return param;
        };
        let role = (self.role)(path, D);
        param.map(|tensor| {
            let shape = tensor.shape();
            let flat = tensor.inner().reshape([shape.num_elements()]);
            let updated = self.apply(name, role, flat, grad, shape.as_slice());
            Tensor::from_inner(updated.reshape(shape)).require_grad()
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
        init::{Init, STD},
        weights::StateDict,
    };

    type Tracked = Autodiff<Flex>;

    #[test]
    fn a_step_whose_loss_or_gradient_is_not_finite_changes_nothing() {
        let device = Default::default();
        for method in [Method::AdamW, Method::Lamb, Method::Muon { momentum: 0.9 }] {
            let config = OptimizerConfig {
                method,
                ..OptimizerConfig::default()
            };
            let mut optimiser = Optimizer::<Flex>::new(config);
            let layer: Linear<Tracked> = Init::new(0, &device).linear(4, 4, true, STD);
            let mut step = |layer: Linear<Tracked>, loss: f32, scale: f32| {
                let out = layer.forward(Tensor::<Tracked, 2>::ones([2, 4], &device));
                let grads = (out.powi_scalar(2).sum() * scale).backward();
                let grads = Gradients::collect(&layer, &mut { grads });
                let loss = Tensor::from_floats([loss], &device);
                let (layer, _) = optimiser.step::<Tracked, _>(layer, grads, &loss, 1e-2);
                let moments = optimiser.moments().values();
                let moments: Vec<_> = moments
                    .flat_map(|moments| [moments.first.to_data(), moments.second.to_data()])
                    .collect();
                (layer, moments)
            };
            let values = |layer: &Linear<Tracked>| -> Vec<_> {
                let state = StateDict::from_module(layer);
                state.iter().map(|(_, data)| data.clone()).collect()
            };
            let before = values(&layer);
            let (layer, moments) = step(layer, 1.0, 1.0);
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
                assert_eq!(same, moments, "{method:?}, loss {loss}, scale {scale}");
                layer = left;
            }
        }
    }
}
