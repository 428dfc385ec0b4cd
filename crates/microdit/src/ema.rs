//! Averages of weights over training.

use crate::{
    nn::params::{self, MapParams, VisitParams},
    post_hoc_ema::{SIGMA_RELS, gamma},
    range::{OutOfRange, above, within},
};
use burn::{
    module::{Module, Param},
    tensor::{Tensor, TensorPrimitive, backend::Backend},
};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// How fast an average forgets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Decay {
    /// The average keeps this fraction at every update, at least 0 and below 1.
    Smoothing(f64),
    /// After this many steps the average has forgotten half; above 0 and at most 10^9.
    HalfLife(f64),
    /// This fraction as with `Smoothing`, but at first less: at most `(1 + n) / (10 + n)` at the n-th update, so that the weights
    /// of the beginning are forgotten sooner (the average of latent diffusion's trainer).
    Ramped(f64),
    /// The average grows with the training: it weighs each step by a power of its number, so that the standard deviation of the
    /// steps it weighs is this fraction of all since its start, 0.005 to 0.28 (EDM2, arXiv 2312.02696, section 3.1).
    Power(f64),
}

/// When and how an average is updated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmaConfig {
    /// How fast it forgets.
    pub decay: Decay,
    /// Finished steps after which it starts, as a copy of the weights.
    #[serde(default)]
    pub start: u64,
    /// Steps between updates, at least 1.
    #[serde(default = "every_step")]
    pub every: u64,
}

fn every_step() -> u64 {
    1
}

impl EmaConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self.decay {
            Decay::Smoothing(smoothing) | Decay::Ramped(smoothing) => {
                within("decay", smoothing, 0.0..1.0)?;
            }
            Decay::HalfLife(steps) => within("decay", steps, above(0.0, 1e9))?,
            Decay::Power(sigma_rel) => within("decay", sigma_rel, SIGMA_RELS)?,
        }
        within("every", self.every, 1..)
    }

    /// Fraction kept at the update `since` steps after the start.
    pub fn smoothing(&self, since: u64) -> f64 {
        match self.decay {
            Decay::Smoothing(smoothing) => smoothing,
            Decay::Ramped(smoothing) => {
                let updates = (since / self.every.max(1)) as f64;
                smoothing.min((1.0 + updates) / (10.0 + updates))
            }
            Decay::HalfLife(steps) => 0.5f64.powf(self.every as f64 / steps),
            Decay::Power(sigma_rel) => {
                let every = self.every as f64;
                (1.0 - every / every.max(since as f64)).powf(gamma(sigma_rel) + 1.0)
            }
        }
    }
}

/// An exponential moving average of a module's parameters: `ema = s ema + (1 - s) w`.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::{ema::{Decay, Ema, EmaConfig}, nn::init::{Init, STD}, Linear};
///
/// let device = Default::default();
/// let init = Init::<Flex>::new(0, &device);
/// let mut ema = Ema::new(EmaConfig { decay: Decay::Smoothing(0.9), start: 1, every: 1 });
/// let layers: Vec<Linear<Flex>> = (0..2).map(|_| init.linear(4, 4, false, STD)).collect();
/// ema.update(&layers[0], 1, |_| true);
/// ema.update(&layers[1], 2, |_| true);
/// let average = ema.average().expect("it has started").weight.val();
/// let expected = layers[0].weight.val() * 0.9 + layers[1].weight.val() * 0.1;
/// assert!((average - expected).abs().max().into_scalar() < 1e-7);
/// ```
#[derive(Clone, Debug)]
pub struct Ema<M> {
    config: EmaConfig,
    average: Option<M>,
}

impl<M> Ema<M> {
    /// An average that has not started.
    pub fn new(config: EmaConfig) -> Self {
        Self {
            config,
            average: None,
        }
    }

    /// Continues from a saved average.
    pub fn resume(config: EmaConfig, average: Option<M>) -> Self {
        Self { config, average }
    }

    /// The average; none before its start step.
    pub fn average(&self) -> Option<&M> {
        self.average.as_ref()
    }

    /// The average itself; none before its start step.
    pub fn into_average(self) -> Option<M> {
        self.average
    }

    /// The same with another average in place of its own, if it has started.
    #[must_use]
    pub fn map(self, change: impl FnOnce(M) -> M) -> Self {
        Self {
            average: self.average.map(change),
            ..self
        }
    }

    /// The same where the change may fail.
    ///
    /// # Errors
    /// What `change` returns.
    pub fn try_map<E>(self, change: impl FnOnce(M) -> Result<M, E>) -> Result<Self, E> {
        Ok(Self {
            average: self.average.map(change).transpose()?,
            ..self
        })
    }

    /// Takes in the weights after `step` finished steps, if an update is due: those of the parameters for which `moved`
    /// is true.
    pub fn update<B: Backend>(&mut self, live: &M, step: u64, moved: impl Fn(&[&str]) -> bool)
    where
        M: Module<B>,
    {
        if step < self.config.start {
            return;
        }
        self.average = match self.average.take() {
            None => Some(live.clone()),
            Some(average)
                if (step - self.config.start).is_multiple_of(self.config.every.max(1)) =>
            {
                let smoothing = self.config.smoothing(step - self.config.start);
                Some(blend(average, live, smoothing, moved))
            }
            unchanged => unchanged,
        };
    }
}

/// `smoothing average + (1 - smoothing) live`, parameter by parameter, each on the average's device; `average` where `moved` is false for the path.
///
/// # Panics
/// If the two modules do not have the same parameters.
pub fn blend<B: Backend, M: Module<B>>(
    average: M,
    live: &M,
    smoothing: f64,
    moved: impl Fn(&[&str]) -> bool,
) -> M {
    struct Collect<B: Backend>(HashMap<String, TensorPrimitive<B>>);
    impl<B: Backend> VisitParams<B> for Collect<B> {
        fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
            self.0.insert(path.join("."), param.val().into_primitive());
        }
    }
    struct Blend<B: Backend, F> {
        live: HashMap<String, TensorPrimitive<B>>,
        smoothing: f64,
        moved: F,
    }
    impl<B: Backend, F: Fn(&[&str]) -> bool> MapParams<B> for Blend<B, F> {
        fn map<const D: usize>(
            &mut self,
            path: &[&str],
            param: Param<Tensor<B, D>>,
        ) -> Param<Tensor<B, D>> {
            if !(self.moved)(path) {
                return param;
            }
            let live = self.live.remove(&path.join("."));
            let live = Tensor::from_primitive(live.expect("modules of one shape"));
            param.map(|average: Tensor<B, D>| {
                let live: Tensor<B, D> = live;
                let live = live.to_device(&average.device());
                average * self.smoothing + live * (1.0 - self.smoothing)
            })
        }
    }
    let Collect(live) = params::visit(live, Collect(HashMap::new()));
    let mut blend = Blend {
        live,
        smoothing,
        moved,
    };
    params::map(average, &mut blend)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What LDM's LitEma keeps: `min(decay, (1 + n) / (10 + n))`.
    #[test]
    fn a_ramped_average_forgets_its_beginning() {
        let ema = |every| EmaConfig {
            decay: Decay::Ramped(0.9999),
            start: 0,
            every,
        };
        for (n, kept) in [(1, 2.0 / 11.0), (8, 0.5), (90, 0.91), (1_000_000, 0.9999)] {
            assert_eq!(ema(1).smoothing(n), kept);
            assert_eq!(ema(4).smoothing(4 * n), kept, "updates count, not steps");
        }
        // It reaches its fraction where the ramp does.
        assert!(ema(1).smoothing(89_989) < 0.9999 && ema(1).smoothing(89_991) == 0.9999);
        assert!(
            EmaConfig {
                decay: Decay::Ramped(1.0),
                ..ema(1)
            }
            .validate()
            .is_err()
        );
    }
}
