//! AdamW with decoupled weight decay (arXiv 1711.05101) and global-norm clipping, over all parameters of a module.
//!
//! Moments are kept under the reference's parameter names, which is what makes a checkpoint readable elsewhere, and on
//! the inner backend, where nothing is recorded for differentiation.

use burn::{
    module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use microdit::{
    DitBackend,
    ops::{AdamState, AdamStep},
    weights::reference_name,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, marker::PhantomData};

/// Settings of [`AdamW`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Learning rate before the schedule's multiplier.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, applied to every parameter.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; none leaves them.
    pub clip_norm: Option<f64>,
}

impl Default for AdamWConfig {
    /// The values of MicroDiT's first phase.
    fn default() -> Self {
        Self {
            lr: 2.4e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.1,
            clip_norm: Some(0.25),
        }
    }
}

/// First and second moment of one parameter, flattened.
#[derive(Clone, Debug)]
pub struct Moments<B: Backend> {
    /// Mean of the gradients.
    pub first: Tensor<B, 1>,
    /// Mean of the squared gradients.
    pub second: Tensor<B, 1>,
}

/// The optimiser's state.
#[derive(Clone, Debug)]
pub struct AdamW<B: Backend> {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments<B>>,
}

impl<B: DitBackend> AdamW<B> {
    /// An optimiser that has taken no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
        }
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Moments by the parameter's reference name.
    pub fn moments(&self) -> &BTreeMap<String, Moments<B>> {
        &self.moments
    }

    /// One update with `lr` (the schedule's multiplier already in); returns the module and the global gradient norm
    /// before clipping, `[1]`, still on the device. A parameter without a gradient is left as it is.
    pub fn step<AB, M>(&mut self, module: M, grads: &AB::Gradients, lr: f64) -> (M, Tensor<B, 1>)
    where
        AB: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<AB>,
    {
        self.steps += 1;
        let norm = global_norm::<AB, M>(&module, grads);
        // PyTorch's clip_grad_norm_: min(1, clip / (norm + 1e-6)), computed without a read-back.
        let scale = match self.config.clip_norm {
            Some(clip) => (norm.clone() + 1e-6)
                .recip()
                .mul_scalar(clip)
                .clamp_max(1.0),
            None => norm.ones_like(),
        };
        let module = module.map(&mut Update::<AB> {
            update: AdamStep {
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
            path: Vec::new(),
        });
        (module, norm)
    }
}

/// L2 norm over the gradients of all parameters, `[1]`.
pub fn global_norm<AB, M>(module: &M, grads: &AB::Gradients) -> Tensor<AB::InnerBackend, 1>
where
    AB: AutodiffBackend,
    AB::InnerBackend: DitBackend,
    M: Module<AB>,
{
    struct SumSquares<'a, AB: AutodiffBackend> {
        grads: &'a AB::Gradients,
        sum: Option<Tensor<AB::InnerBackend, 1>>,
        backend: PhantomData<AB>,
    }
    impl<AB> ModuleVisitor<AB> for SumSquares<'_, AB>
    where
        AB: AutodiffBackend,
        AB::InnerBackend: DitBackend,
    {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<AB, D>>) {
            if let Some(grad) = param.val().grad(self.grads) {
                let count = grad.shape().num_elements();
                let squares = AB::InnerBackend::sum_of_squares(grad.reshape([count]));
                self.sum = Some(match self.sum.take() {
                    Some(sum) => sum + squares,
                    None => squares,
                });
            }
        }
    }
    let mut visitor = SumSquares::<AB> {
        grads,
        sum: None,
        backend: PhantomData,
    };
    module.visit(&mut visitor);
    match visitor.sum {
        Some(sum) => sum.sqrt(),
        None => Tensor::zeros([1], &module.devices()[0]),
    }
}

struct Update<'a, AB: AutodiffBackend> {
    update: AdamStep,
    scale: Tensor<AB::InnerBackend, 1>,
    grads: &'a AB::Gradients,
    moments: &'a mut BTreeMap<String, Moments<AB::InnerBackend>>,
    path: Vec<String>,
}

impl<AB> ModuleMapper<AB> for Update<'_, AB>
where
    AB: AutodiffBackend,
    AB::InnerBackend: DitBackend,
{
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<AB, D>>) -> Param<Tensor<AB, D>> {
        let Some(grad) = param.val().grad(self.grads) else {
            return param;
        };
        let shape = grad.shape();
        let count = shape.num_elements();
        let grad: Tensor<AB::InnerBackend, 1> = grad.reshape([count]);
        let name = reference_name(&self.path);
        let Moments { first, second } = self.moments.remove(&name).unwrap_or_else(|| Moments {
            first: grad.zeros_like(),
            second: grad.zeros_like(),
        });
        param.map(|tensor| {
            let state = AdamState {
                param: tensor.inner().reshape([count]),
                first,
                second,
            };
            let scale = self.scale.clone();
            let AdamState {
                param,
                first,
                second,
            } = AB::InnerBackend::adam(state, grad, scale, &self.update);
            self.moments.insert(name, Moments { first, second });
            Tensor::from_inner(param.reshape(shape)).require_grad()
        })
    }
}
