//! The decoder of MaskDiT (arXiv 2306.09305): a small transformer over all patches, kept and dropped, so that the network can
//! be asked for those it has not seen.

use crate::{
    net::{
        TokenMask,
        dit::{
            Condition, FinalLayer, block::DitBlock, config::DitConfig, mixer::Projection,
            positions::Positions,
        },
    },
    nn::{
        init::{self, Init},
        params::{Role, Roles},
    },
    ops::DitBackend,
};
use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

/// Blocks over all patches after the backbone, which has seen the kept ones alone. A learnt token stands for each that was
/// dropped.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::{
///     Condition, DecoderConfig, DitConfig, Masking, TokenMask, net::dit::decoder::Decoder, nn::init::Init,
/// };
///
/// let device = Default::default();
/// let narrow = DecoderConfig { dim: 64, depth: 2, head_dim: 32, qkv_ratio: 1.0, mlp_ratio: 4.0 };
/// let config = DitConfig::tiny_2().with_decoder(Some(narrow)); // behind a backbone of width 512
/// let decoder = Decoder::<Flex>::new(&config, &Init::new(0, &device), &device).expect("it has one");
/// let condition = Condition {
///     captions: Tensor::ones([2, 77, 512], &device),
///     vector: Tensor::ones([2, 512], &device),
///     time: Tensor::ones([2, 512], &device),
/// };
/// let masking = Masking::Naive { ratio: 0.75 };
/// let mask = TokenMask::draw(masking, [16, 16], 0, 0, 0..2, &device);
/// let kept = Tensor::ones([2, 64, 512], &device);
/// assert_eq!(decoder.forward(kept, condition, mask.as_ref(), [16, 16]).dims(), [2, 256, 64]);
/// ```
#[derive(Module, Debug)]
pub struct Decoder<B: DitBackend> {
    /// Backbone to decoder width, for the kept tokens.
    pub input: FinalLayer<B>,
    /// Stands for every dropped token, `[1, 1, dim]`.
    pub mask_token: Param<Tensor<B, 3>>,
    /// Backbone to decoder width, for the captions, where the two differ.
    pub map_captions: Option<Projection<B>>,
    /// The decoder's blocks.
    pub blocks: Vec<DitBlock<B>>,
    positions: Positions<B>,
}

impl<B: DitBackend> Decoder<B> {
    /// The decoder of `config`, if it has one.
    pub fn new(config: &DitConfig, init: &Init<'_, B>, device: &B::Device) -> Option<Self> {
        let decoder = config.decoder.as_ref()?;
        let (dim, inner) = (config.dim, decoder.dim);
        let blocks = init.at("blocks");
        let input = init.at("input");
        Some(Self {
            input: FinalLayer {
                linear: input.at("linear").xavier_linear(dim, inner, true),
                ..FinalLayer::new([dim, dim, inner], config.norm_eps, &input)
            },
            mask_token: init
                .at("mask_token")
                .truncated_normal([1, 1, inner], init::STD),
            map_captions: (dim != inner)
                .then(|| Projection::new(dim, inner, config, &init.at("map_captions"))),
            blocks: config
                .decoder_blocks()
                .iter()
                .enumerate()
                .map(|(i, block)| DitBlock::new(block, &blocks.at(i)))
                .collect(),
            positions: Positions::new(inner, config.grid(), config.pos_interp_scale, device),
        })
    }

    /// Kept tokens `[batch, kept, backbone dim]` of a `grid` of rows and columns of patches to all tokens `[batch, tokens, dim]`;
    /// without a mask, all of them were kept.
    pub fn forward(
        &self,
        x: Tensor<B, 3>,
        condition: Condition<B>,
        mask: Option<&TokenMask<B>>,
        grid: [usize; 2],
    ) -> Tensor<B, 3> {
        let (x, condition) = self.enter(x, condition, mask, grid);
        self.blocks
            .iter()
            .fold(x, |x, block| block.forward(x, condition.clone()))
    }

    /// All tokens at their positions, and the captions, in the decoder's width.
    pub(super) fn enter(
        &self,
        x: Tensor<B, 3>,
        condition: Condition<B>,
        mask: Option<&TokenMask<B>>,
        grid: [usize; 2],
    ) -> (Tensor<B, 3>, Condition<B>) {
        let kept = self.input.forward(x, condition.vector.clone());
        let all = match mask {
            Some(mask) => mask.fill(kept, self.mask_token.val()),
            None => kept,
        };
        let condition = match &self.map_captions {
            Some(map) => condition.with_captions(map.forward(condition.captions.clone())),
            None => condition,
        };
        (self.positions.add_to(all, grid), condition)
    }

    /// Positions of the configured grid, `[1, tokens, dim]`.
    pub(super) fn positions(&self) -> Tensor<B, 3> {
        self.positions.of_grid([self.positions.side(); 2])
    }
}

impl<B: DitBackend> Roles for Decoder<B> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        match path {
            ["mask_token"] => Role::Embedding,
            ["blocks", rest @ ..] => self.blocks.role(rest, rank),
            _ => Role::plain(path, rank),
        }
    }
}
