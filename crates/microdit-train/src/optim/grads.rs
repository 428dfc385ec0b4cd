//! Gradients out of automatic differentiation, by parameter: what is summed over micro-batches, averaged over devices,
//! measured, and handed to the optimizer.

use burn::{
    module::{Module, Param},
    tensor::{
        Tensor,
        backend::{AutodiffBackend, Backend},
    },
};
use microdit::{
    DitBackend,
    nn::params::{self, VisitParams},
};
use std::collections::BTreeMap;

/// Gradients by the parameters' paths in the module, flattened.
#[derive(Clone, Debug)]
pub struct Gradients<B: Backend> {
    tensors: BTreeMap<String, Tensor<B, 1>>,
    /// The squared norms of all, `[1]`, once they are known: with some gradients elsewhere, or to be asked for often.
    squares: BTreeMap<String, Tensor<B, 1>>,
}

impl<B: DitBackend> Gradients<B> {
    /// The gradients of `module`'s parameters; a parameter the loss does not depend on has none.
    pub fn collect<AB, M>(module: &M, grads: &mut AB::Gradients) -> Self
    where
        AB: AutodiffBackend<InnerBackend = B>,
        M: Module<AB>,
    {
        struct Collect<'a, AB: AutodiffBackend> {
            grads: &'a mut AB::Gradients,
            found: BTreeMap<String, Tensor<AB::InnerBackend, 1>>,
        }
        impl<AB: AutodiffBackend> VisitParams<AB> for Collect<'_, AB> {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<AB, D>>) {
                if let Some(grad) = param.val().grad_remove(self.grads) {
                    let count = grad.shape().num_elements();
                    self.found.insert(path.join("."), grad.reshape([count]));
                }
            }
        }
        let collect = Collect::<AB> {
            grads,
            found: BTreeMap::new(),
        };
        Self::from_tensors(params::visit(module, collect).found)
    }

    /// Keeps the gradients by parameters whose path `keep` accepts.
    pub fn retain(&mut self, keep: impl Fn(&[&str]) -> bool) {
        self.tensors
            .retain(|path, _| keep(&path.split('.').collect::<Vec<_>>()));
    }

    /// No gradients.
    pub(crate) fn none() -> Self {
        Self::from_tensors([])
    }

    /// Gradients from elsewhere, flattened.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, Tensor<B, 1>)>) -> Self {
        Self {
            tensors: tensors.into_iter().collect(),
            squares: BTreeMap::new(),
        }
    }

    /// The same as the part that is here of more gradients, whose squared norms are these, each `[1]`.
    #[must_use]
    pub(crate) fn with_squares(
        mut self,
        squares: impl IntoIterator<Item = (String, Tensor<B, 1>)>,
    ) -> Self {
        self.squares = squares.into_iter().collect();
        self
    }

    /// The same gradients where `place` moves them.
    #[must_use]
    pub(crate) fn placed(mut self, place: impl Fn(&str, Tensor<B, 1>) -> Tensor<B, 1>) -> Self {
        let tensors = self.tensors.into_iter();
        let moved = tensors.map(|(name, grad)| {
            let grad = place(&name, grad);
            (name, grad)
        });
        self.tensors = moved.collect();
        self
    }

    /// The names of all, in order; also of those that are elsewhere.
    pub(crate) fn names(&self) -> Vec<String> {
        match self.squares.is_empty() {
            true => self.tensors.keys().cloned().collect(),
            false => self.squares.keys().cloned().collect(),
        }
    }

    /// Names and gradients, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tensor<B, 1>)> {
        self.tensors.iter()
    }

    /// The sum, parameter by parameter.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.add(other);
        self
    }

    /// Adds others, parameter by parameter.
    pub(crate) fn add(&mut self, others: Self) {
        for (name, grad) in others.tensors {
            let sum = match self.tensors.remove(&name) {
                Some(own) => own + grad,
                None => grad,
            };
            self.tensors.insert(name, sum);
        }
    }

    /// The sum of the gradients of several devices, on the first of them.
    #[must_use]
    pub fn sum_over_devices(parts: Vec<Self>) -> Self {
        let mut by_name = BTreeMap::<String, Vec<Tensor<B, 1>>>::new();
        for (name, grad) in parts.into_iter().flat_map(|part| part.tensors) {
            by_name.entry(name).or_default().push(grad);
        }
        let sum = |(name, parts)| Some((name, B::sum_over_devices(parts)?));
        Self::from_tensors(by_name.into_iter().filter_map(sum))
    }

    /// L2 norm over all of them, `[1]`, on the first one's device; also over those that are elsewhere, if some are.
    ///
    /// # Panics
    /// If there are none: a loss that depends on no parameter cannot be trained.
    pub fn norm(&self) -> Tensor<B, 1> {
        let norm = self.norm_of(|_| true);
        norm.expect("the loss depends on a parameter")
    }

    /// Itself, with the square of each gradient taken once for whoever asks for several norms.
    pub(super) fn measured(self) -> Self {
        if !self.squares.is_empty() {
            return self;
        }
        let tensors = self.tensors.iter();
        let squares = tensors.map(|(path, grad)| (path.clone(), B::sum_of_squares(grad.clone())));
        let squares: Vec<_> = squares.collect();
        self.with_squares(squares)
    }

    /// The norm over those whose path `is_of` accepts; none if there are none.
    pub(super) fn norm_of(&self, is_of: impl Fn(&str) -> bool) -> Option<Tensor<B, 1>> {
        let known = match self.squares.is_empty() {
            true => &self.tensors,
            false => &self.squares,
        };
        let chosen = known.iter().filter(|(path, _)| is_of(path));
        let squares = chosen.map(|(_, tensor)| match self.squares.is_empty() {
            true => B::sum_of_squares(tensor.clone()),
            false => tensor.clone(),
        });
        let sum = squares.reduce(|sum, square| {
            let device = sum.device();
            sum + square.to_device(&device)
        });
        Some(sum?.sqrt())
    }

    /// Names and gradients, by name.
    pub(crate) fn into_iter(self) -> impl Iterator<Item = (String, Tensor<B, 1>)> {
        self.tensors.into_iter()
    }

    /// Takes all out.
    pub(crate) fn take_all(&mut self) -> Self {
        std::mem::replace(self, Self::none())
    }

    /// Takes a gradient out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Tensor<B, 1>> {
        self.tensors.remove(name)
    }
}
