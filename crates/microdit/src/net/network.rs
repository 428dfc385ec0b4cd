//! The networks by name: what recipes and files of weights choose from.
//!
//! A new one is a variant here, beside a folder of its own.

use super::{
    Carry, CarryVisitor, ConfigError, Denoiser, DenoiserConfig, Inputs, Output, Selection,
    dit::{Dit, DitCarry, DitConfig},
};
use crate::{
    nn::params::{Role, Roles},
    ops::{DitBackend, TrainBackend},
};
use burn::{module::Module, tensor::TensorData};
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// One of the networks, with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NetworkConfig {
    /// [`Dit`].
    Dit(DitConfig),
}

impl Deref for NetworkConfig {
    type Target = dyn DenoiserConfig;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Dit(config) => config,
        }
    }
}

impl NetworkConfig {
    /// A network of these sizes with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// Sizes that are not valid, or a precision the device does not compute in.
    pub fn init<B: DitBackend>(
        &self,
        seed: u64,
        device: &B::Device,
    ) -> Result<Network<B>, ConfigError> {
        match self {
            Self::Dit(config) => Ok(Network::Dit(config.init(seed, device)?)),
        }
    }

    /// Whether the weights of `other` fit it: resolution and precision may differ.
    pub fn takes_weights_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dit(own), Self::Dit(other)) => own.takes_weights_of(other),
        }
    }
}

/// A network whose kind is known only when a recipe has been read.
#[derive(Module, Debug)]
pub enum Network<B: DitBackend> {
    /// A diffusion transformer.
    Dit(Dit<B>),
}

/// What flows through a [`Network`].
#[derive(Clone, Debug)]
pub enum NetworkCarry<B: DitBackend> {
    /// Through a diffusion transformer.
    Dit(DitCarry<B>),
}

impl<B: TrainBackend> Carry<B> for NetworkCarry<B> {
    type Inner = NetworkCarry<B::InnerBackend>;

    fn record(inner: Self::Inner) -> Self {
        match inner {
            NetworkCarry::Dit(carry) => Self::Dit(Carry::record(carry)),
        }
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        match self {
            Self::Dit(carry) => carry.visit(visitor),
        }
    }
}

impl<B: DitBackend> Roles for Network<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match self {
            Self::Dit(network) => network.role(path, rank),
        }
    }
}

impl<B: DitBackend> Denoiser<B> for Network<B> {
    type Carry = NetworkCarry<B>;

    fn patch_size(&self) -> usize {
        match self {
            Self::Dit(network) => network.patch_size(),
        }
    }

    fn config(&self) -> Option<NetworkConfig> {
        match self {
            Self::Dit(network) => network.config(),
        }
    }

    fn buffers(&self) -> Vec<(String, TensorData)> {
        match self {
            Self::Dit(network) => network.buffers(),
        }
    }

    fn segments(&self) -> usize {
        match self {
            Self::Dit(network) => network.segments(),
        }
    }

    fn enter(&self, inputs: Inputs<B>) -> Self::Carry {
        match self {
            Self::Dit(network) => NetworkCarry::Dit(network.enter(inputs)),
        }
    }

    fn segment(&self, index: usize, carry: Self::Carry, selection: &Selection<B>) -> Self::Carry {
        match (self, carry) {
            (Self::Dit(network), NetworkCarry::Dit(carry)) => {
                NetworkCarry::Dit(network.segment(index, carry, selection))
            }
        }
    }

    fn leave(&self, carry: Self::Carry, selection: &Selection<B>) -> Output<B> {
        match (self, carry) {
            (Self::Dit(network), NetworkCarry::Dit(carry)) => network.leave(carry, selection),
        }
    }
}
