//! The networks by name: what recipes and files of weights choose from.
//!
//! A new one is a variant here, beside a folder of its own.

use super::{
    Carry, CarryVisitor, ConfigError, Denoiser, DenoiserConfig, Inputs, Output, Selection,
    dit::{Dit, DitCarry, DitConfig},
    unet::{UNet, UNetCarry, UNetConfig},
};
use crate::{
    nn::{
        init::Init,
        lora::{Layer, layers},
        params::{Role, Roles},
    },
    ops::{DitBackend, TrainBackend},
};
use burn::{module::Module, tensor::TensorData};
use burn_flex::Flex;
use serde::{Deserialize, Serialize};
use std::ops::Deref;

/// One of the networks, with its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum NetworkConfig {
    /// [`Dit`].
    Dit(DitConfig),
    /// [`UNet`].
    UNet(UNetConfig),
}

impl Deref for NetworkConfig {
    type Target = dyn DenoiserConfig;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Dit(config) => config,
            Self::UNet(config) => config,
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
            Self::UNet(config) => Ok(Network::UNet(config.init(seed, device)?)),
        }
    }

    /// A network of these sizes whose weights are loaded next: none is drawn, and each takes memory only once it is there.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub fn to_load<B: DitBackend>(&self, device: &B::Device) -> Result<Network<B>, ConfigError> {
        match self {
            Self::Dit(config) => Ok(Network::Dit(config.to_load(device)?)),
            Self::UNet(config) => Ok(Network::UNet(config.to_load(device)?)),
        }
    }

    /// The linear layers and convolutions of such a network, which is not built for it.
    ///
    /// # Errors
    /// Sizes that are not valid.
    ///
    /// ```
    /// use microdit::{DitConfig, net::NetworkConfig};
    ///
    /// let layers = NetworkConfig::Dit(DitConfig::xl_2()).layers()?;
    /// let embed = layers.iter().find(|layer| layer.path == "patch_embed.proj").unwrap();
    /// assert_eq!(embed.shape, [1024, 4, 2, 2]);
    /// # Ok::<(), microdit::ConfigError>(())
    /// ```
    pub fn layers(&self) -> Result<Vec<Layer>, ConfigError> {
        self.validate()?;
        let device = Default::default();
        let init = Init::<Flex>::new(0, &device).deferred();
        Ok(match self {
            Self::Dit(config) => layers(&config.init_with(&init, &device)),
            Self::UNet(config) => layers(&config.init_with(&init)),
        })
    }

    /// Whether the weights of `other` fit it: resolution and precision may differ.
    pub fn takes_weights_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dit(own), Self::Dit(other)) => own.takes_weights_of(other),
            (Self::UNet(own), Self::UNet(other)) => own.takes_weights_of(other),
            _ => false,
        }
    }
}

/// A network whose kind is known only when a recipe has been read.
// A program has a handful of these: their size on the stack does not matter, and a box would be in everyone's way.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Network<B: DitBackend> {
    /// A diffusion transformer.
    Dit(Dit<B>),
    /// A U-Net.
    UNet(UNet<B>),
}

/// What flows through a [`Network`].
#[derive(Clone, Debug)]
pub enum NetworkCarry<B: DitBackend> {
    /// Through a diffusion transformer.
    Dit(DitCarry<B>),
    /// Through a U-Net.
    UNet(UNetCarry<B>),
}

/// A carry that did not come from the network it is given to.
const STRANGE: &str = "the carry is of another network";

impl<B: TrainBackend> Carry<B> for NetworkCarry<B> {
    type Inner = NetworkCarry<B::InnerBackend>;

    fn record(inner: Self::Inner) -> Self {
        match inner {
            NetworkCarry::Dit(carry) => Self::Dit(Carry::record(carry)),
            NetworkCarry::UNet(carry) => Self::UNet(Carry::record(carry)),
        }
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        match self {
            Self::Dit(carry) => carry.visit(visitor),
            Self::UNet(carry) => carry.visit(visitor),
        }
    }
}

impl<B: DitBackend> Roles for Network<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match self {
            Self::Dit(network) => network.role(path, rank),
            Self::UNet(network) => network.role(path, rank),
        }
    }
}

impl<B: DitBackend> Denoiser<B> for Network<B> {
    type Carry = NetworkCarry<B>;

    fn patch_size(&self) -> usize {
        match self {
            Self::Dit(network) => network.patch_size(),
            Self::UNet(network) => network.patch_size(),
        }
    }

    fn config(&self) -> Option<NetworkConfig> {
        match self {
            Self::Dit(network) => network.config(),
            Self::UNet(network) => network.config(),
        }
    }

    fn buffers(&self) -> Vec<(String, TensorData)> {
        match self {
            Self::Dit(network) => network.buffers(),
            Self::UNet(network) => network.buffers(),
        }
    }

    fn segments(&self) -> usize {
        match self {
            Self::Dit(network) => network.segments(),
            Self::UNet(network) => network.segments(),
        }
    }

    fn enter(&self, inputs: Inputs<B>) -> Self::Carry {
        match self {
            Self::Dit(network) => NetworkCarry::Dit(network.enter(inputs)),
            Self::UNet(network) => NetworkCarry::UNet(network.enter(inputs)),
        }
    }

    fn segment(&self, index: usize, carry: Self::Carry, selection: &Selection<B>) -> Self::Carry {
        match (self, carry) {
            (Self::Dit(network), NetworkCarry::Dit(carry)) => {
                NetworkCarry::Dit(network.segment(index, carry, selection))
            }
            (Self::UNet(network), NetworkCarry::UNet(carry)) => {
                NetworkCarry::UNet(network.segment(index, carry, selection))
            }
            _ => panic!("{STRANGE}"),
        }
    }

    fn leave(&self, carry: Self::Carry, selection: &Selection<B>) -> Output<B> {
        match (self, carry) {
            (Self::Dit(network), NetworkCarry::Dit(carry)) => network.leave(carry, selection),
            (Self::UNet(network), NetworkCarry::UNet(carry)) => network.leave(carry, selection),
            _ => panic!("{STRANGE}"),
        }
    }
}
