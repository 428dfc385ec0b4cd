//! The families by name, for recipes and the command line.

use super::{Diffusion, Edm, FlowMatching, Point, Row, Vp, VpTable};
use crate::{range::OutOfRange, rng::Stream};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// One of the diffusion families, with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum DiffusionConfig {
    /// [`Edm`].
    Edm(Edm),
    /// [`Vp`].
    Vp(Vp),
    /// [`FlowMatching`].
    FlowMatching(FlowMatching),
}

impl Default for DiffusionConfig {
    /// EDM with its defaults.
    fn default() -> Self {
        Self::Edm(Edm::default())
    }
}

impl DiffusionConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range, or fields that do not go together.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        self.init().map(drop)
    }

    /// The family with its tables.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn init(&self) -> Result<Family, OutOfRange> {
        Ok(match self {
            Self::Edm(edm) => {
                edm.validate()?;
                Family::Edm(*edm)
            }
            Self::Vp(vp) => Family::Vp(Arc::new(vp.init()?)),
            Self::FlowMatching(flow) => {
                flow.validate()?;
                Family::FlowMatching(*flow)
            }
        })
    }
}

/// A diffusion family that is ready to use.
#[derive(Clone, Debug)]
pub enum Family {
    /// [`Edm`].
    Edm(Edm),
    /// [`Vp`] with its tables.
    Vp(Arc<VpTable>),
    /// [`FlowMatching`].
    FlowMatching(FlowMatching),
}

/// Forwards a call to the variant's family.
macro_rules! delegate {
    ($family:expr, $inner:ident => $call:expr) => {
        match $family {
            Family::Edm($inner) => $call,
            Family::Vp($inner) => $call,
            Family::FlowMatching($inner) => $call,
        }
    };
}

impl Diffusion for Family {
    fn draw_time(&self, random: &mut Stream) -> f64 {
        delegate!(self, family => family.draw_time(random))
    }

    fn at_time(&self, time: f64) -> Point {
        delegate!(self, family => family.at_time(time))
    }

    fn at_sigma(&self, sigma: f64) -> Point {
        delegate!(self, family => family.at_sigma(sigma))
    }

    fn row(&self, point: Point) -> Row {
        delegate!(self, family => family.row(point))
    }
}
