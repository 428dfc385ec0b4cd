//! Losses by name.

use burn::tensor::{Tensor, backend::Backend};

/// A loss of each sample, with its name and its weight in the sum.
#[derive(Clone, Debug)]
pub struct Term<B: Backend> {
    /// What the log calls it.
    pub name: &'static str,
    /// What it is multiplied by in the sum.
    pub weight: f64,
    /// `[batch]`.
    pub values: Tensor<B, 1>,
}

/// What a task makes of a batch: one loss or several.
#[derive(Clone, Debug)]
pub struct Losses<B: Backend>(pub Vec<Term<B>>);

impl<B: Backend> Losses<B> {
    /// A single loss.
    pub fn one(name: &'static str, values: Tensor<B, 1>) -> Self {
        let weight = 1.0;
        Self(vec![Term {
            name,
            weight,
            values,
        }])
    }

    /// These, and another one.
    #[must_use]
    pub fn and(mut self, name: &'static str, weight: f64, values: Tensor<B, 1>) -> Self {
        self.0.push(Term {
            name,
            weight,
            values,
        });
        self
    }

    /// Each sample's weighted sum of losses, `[batch]`: what training minimizes.
    ///
    /// # Panics
    /// If there are none.
    pub fn total(&self) -> Tensor<B, 1> {
        let weighted = self.0.iter().map(|term| match term.weight {
            1.0 => term.values.clone(),
            weight => term.values.clone() * weight,
        });
        let sum = weighted.reduce(|sum, term| sum + term);
        sum.expect("a task has a loss")
    }
}
