//! The patch-mixer (MicroDiT section 3): a small transformer over all patches, so that the tokens which survive the
//! mask carry what the dropped ones knew.

use crate::{
    net::dit::{Condition, block::DitBlock, config::DitConfig},
    nn::{
        Linear,
        init::Init,
        norm::LayerNorm,
        params::{Role, Roles},
    },
    ops::DitBackend,
};
use burn::{module::Module, tensor::Tensor};

/// A norm and a linear map from one width to another.
#[derive(Module, Debug)]
pub struct Projection<B: DitBackend> {
    /// Norm over the input width.
    pub norm: LayerNorm<B>,
    /// `[output, input]`.
    pub linear: Linear<B>,
}

impl<B: DitBackend> Projection<B> {
    pub(super) fn new(input: usize, output: usize, config: &DitConfig, init: &Init<'_, B>) -> Self {
        Self {
            norm: LayerNorm::new(input, config.norm_eps, init),
            linear: init
                .at("linear")
                .xavier_linear(input, output, config.use_bias),
        }
    }

    /// `[batch, tokens, input]` to `[batch, tokens, output]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.linear.forward(self.norm.forward(x))
    }
}

/// Blocks over all patches, with maps between their width and the backbone's where the two differ.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{Condition, DitConfig, MixerConfig, nn::init::Init, net::dit::mixer::PatchMixer};
///
/// let device = Default::default();
/// let narrow = MixerConfig { dim: 64, depth: 2, qkv_ratio: 1.0, mlp_ratio: 4.0 };
/// let config = DitConfig::tiny_2().with_mixer(Some(narrow)); // beside a backbone of width 512
/// let mixer = PatchMixer::<Flex>::new(&config, &Init::new(0, &device)).expect("it has a mixer");
/// let condition = Condition {
///     captions: Tensor::ones([2, 77, 512], &device),
///     vector: Tensor::ones([2, 512], &device),
///     time: Tensor::ones([2, 512], &device),
/// };
/// let mixed = mixer.forward(Tensor::ones([2, 256, 512], &device), &condition);
/// assert_eq!(mixed.dims(), [2, 256, 64]);
/// // Only what survives the mask is widened.
/// assert_eq!(mixer.map_out(mixed.narrow(1, 0, 64)).dims(), [2, 64, 512]);
/// ```
#[derive(Module, Debug)]
pub struct PatchMixer<B: DitBackend> {
    /// Backbone to mixer width, for the patches.
    pub map_in: Option<Projection<B>>,
    /// Mixer to backbone width; runs after masking, on the kept tokens only.
    pub map_out: Option<Projection<B>>,
    /// Backbone to mixer width, for the captions.
    pub map_captions: Option<Projection<B>>,
    /// The mixer's blocks.
    pub blocks: Vec<DitBlock<B>>,
}

impl<B: DitBackend> PatchMixer<B> {
    /// The mixer of `config`, if it has one.
    pub fn new(config: &DitConfig, init: &Init<'_, B>) -> Option<Self> {
        let mixer = config.mixer.as_ref()?;
        let differs = mixer.dim != config.dim;
        let map = |name, input, output| {
            differs.then(|| Projection::new(input, output, config, &init.at(name)))
        };
        let blocks = init.at("blocks");
        Some(Self {
            map_in: map("map_in", config.dim, mixer.dim),
            map_out: map("map_out", mixer.dim, config.dim),
            map_captions: map("map_captions", config.dim, mixer.dim),
            blocks: config
                .mixer_blocks()
                .iter()
                .enumerate()
                .map(|(i, block)| DitBlock::new(block, &blocks.at(i)))
                .collect(),
        })
    }

    /// All patches `[batch, tokens, dim]` to `[batch, tokens, mixer dim]`.
    pub fn forward(&self, x: Tensor<B, 3>, condition: &Condition<B>) -> Tensor<B, 3> {
        let (x, captions) = self.enter(x, condition.captions.clone());
        let condition = condition.with_captions(captions);
        self.blocks
            .iter()
            .fold(x, |x, block| block.forward(x, condition.clone()))
    }

    /// Patches and captions in the mixer's width.
    pub(crate) fn enter(
        &self,
        x: Tensor<B, 3>,
        captions: Tensor<B, 3>,
    ) -> (Tensor<B, 3>, Tensor<B, 3>) {
        (map(&self.map_in, x), map(&self.map_captions, captions))
    }

    /// Kept tokens `[batch, kept, mixer dim]` to the backbone's width.
    pub fn map_out(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        map(&self.map_out, x)
    }
}

impl<B: DitBackend> Roles for PatchMixer<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["blocks", rest @ ..] => self.blocks.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}

fn map<B: DitBackend>(projection: &Option<Projection<B>>, x: Tensor<B, 3>) -> Tensor<B, 3> {
    match projection {
        Some(projection) => projection.forward(x),
        None => x,
    }
}
