//! The state an optimizer keeps for a parameter between steps, by name.

use super::{Method, OptimizerConfig, stack};
use burn::{
    module::{Module, Param},
    tensor::{Tensor, backend::Backend},
};
use microdit::nn::params::{self, Role, Roles, VisitParams};
use std::collections::BTreeMap;

/// AdamW's and LAMB's mean of the gradients.
pub const FIRST: &str = "exp_avg";
/// AdamW's and LAMB's mean of the squared gradients.
pub const SECOND: &str = "exp_avg_sq";
/// Muon's decaying mean of the gradients.
pub const MOMENTUM: &str = "momentum";

/// The slots of one parameter, each flattened.
pub type Slots<B> = BTreeMap<&'static str, Tensor<B, 1>>;

/// What is kept for a parameter once it has had a gradient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Names of the slots.
    pub slots: &'static [&'static str],
    /// Values in each of them.
    pub size: usize,
}

impl OptimizerConfig {
    /// What is kept for the parameters of `module`, by their paths in it.
    ///
    /// ```
    /// use burn_flex::Flex;
    /// use microdit::{Linear, nn::init::{Init, STD}};
    /// use microdit_train::optim::{FIRST, MOMENTUM, Method, OptimizerConfig, SECOND};
    ///
    /// let layer: Linear<Flex> = Init::new(0, &Default::default()).linear(8, 4, true, STD);
    /// let muon = OptimizerConfig { method: Method::muon(0.9), ..Default::default() };
    /// let kept = muon.kept(&layer);
    /// // Muon is for matrices, AdamW for the rest.
    /// assert_eq!((kept["weight"].slots, kept["weight"].size), (&[MOMENTUM][..], 32));
    /// assert_eq!((kept["bias"].slots, kept["bias"].size), (&[FIRST, SECOND][..], 4));
    /// ```
    pub fn kept<B: Backend, M: Module<B> + Roles>(&self, module: &M) -> BTreeMap<String, Kept> {
        struct Collect {
            method: Method,
            roles: BTreeMap<String, Role>,
            kept: BTreeMap<String, Kept>,
        }
        impl<B: Backend> VisitParams<B> for Collect {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
                let shape = param.shape();
                let path = path.join(".");
                let slots: &[&str] = match (self.method, stack(self.roles[&path], &shape)) {
                    (Method::Sgd, _) => &[],
                    (Method::Muon { .. }, Some(_)) => &[MOMENTUM],
                    _ => &[FIRST, SECOND],
                };
                let size = shape.num_elements();
                self.kept.insert(path, Kept { slots, size });
            }
        }
        let collect = Collect {
            method: self.method,
            roles: params::roles(module),
            kept: BTreeMap::new(),
        };
        params::visit(module, collect).kept
    }
}
