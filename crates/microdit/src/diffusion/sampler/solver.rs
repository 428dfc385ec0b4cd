//! The samplers by name, for recipes and the command line.

use super::{Ddim, DpmSolver, Euler, EulerAncestral, Heun, History, Images, Sampler};
use crate::{
    diffusion::{family::Point, schedule::Convention, trajectory::Step},
    range::OutOfRange,
};
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

/// One of the samplers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Solver {
    /// [`Euler`].
    Euler,
    /// [`Heun`].
    #[default]
    Heun,
    /// [`EulerAncestral`].
    EulerAncestral,
    /// [`Ddim`].
    Ddim(Ddim),
    /// [`DpmSolver`].
    DpmSolver(DpmSolver),
}

impl Solver {
    /// Checks the ranges of its constants.
    ///
    /// # Errors
    /// The first outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        match self {
            Self::Ddim(ddim) => ddim.validate(),
            Self::Euler | Self::Heun | Self::EulerAncestral | Self::DpmSolver(_) => Ok(()),
        }
    }
}

/// Forwards a call to the variant's sampler.
macro_rules! delegate {
    ($solver:expr, $sampler:ident => $call:expr) => {
        match $solver {
            Solver::Euler => {
                let $sampler = &Euler;
                $call
            }
            Solver::Heun => {
                let $sampler = &Heun;
                $call
            }
            Solver::EulerAncestral => {
                let $sampler = &EulerAncestral;
                $call
            }
            Solver::Ddim($sampler) => $call,
            Solver::DpmSolver($sampler) => $call,
        }
    };
}

impl Sampler for Solver {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        delegate!(self, sampler => sampler.step(x, step, history, denoise, noise))
    }

    fn convention(&self) -> Convention {
        delegate!(self, sampler => sampler.convention())
    }
}
