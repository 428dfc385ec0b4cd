//! The U-Net as a chain of segments: each of its layers is one.

use super::{
    Block, UNet,
    steps::{Layer, Place, Step},
};
use crate::{
    net::{
        Carry, CarryVisitor, Denoiser, Inputs, NetworkConfig, Output, Selection,
        dit::embed::patchify,
    },
    ops::{DitBackend, TrainBackend},
};
use burn::tensor::Tensor;

/// What flows through a [`UNet`].
#[derive(Clone, Debug)]
pub struct UNetCarry<B: DitBackend> {
    /// `[batch, channels, height, width]` of the level.
    pub x: Tensor<B, 4>,
    /// The skip connections that are not taken yet, the next one last.
    pub skips: Vec<Tensor<B, 4>>,
    /// The time's embedding `[batch, time channels]`, or `[1, ..]` for all alike.
    pub time: Tensor<B, 2>,
    /// `[batch, caption tokens, caption channels]`.
    pub captions: Tensor<B, 3>,
    /// Tokens tapped so far.
    pub features: Vec<Tensor<B, 3>>,
}

impl<B: TrainBackend> Carry<B> for UNetCarry<B> {
    type Inner = UNetCarry<B::InnerBackend>;

    fn record(inner: Self::Inner) -> Self {
        Self {
            x: Carry::record(inner.x),
            skips: Carry::record(inner.skips),
            time: Carry::record(inner.time),
            captions: Carry::record(inner.captions),
            features: Carry::record(inner.features),
        }
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.x.visit(visitor);
        self.skips.visit(visitor);
        self.time.visit(visitor);
        self.captions.visit(visitor);
        self.features.visit(visitor);
    }
}

impl<B: DitBackend> Denoiser<B> for UNet<B> {
    type Carry = UNetCarry<B>;

    fn patch_size(&self) -> usize {
        1
    }

    fn config(&self) -> Option<NetworkConfig> {
        Some(NetworkConfig::UNet(self.config.clone()))
    }

    fn segments(&self) -> usize {
        self.steps.len()
    }

    fn enter(&self, inputs: Inputs<B>) -> UNetCarry<B> {
        let x = self.conv_in.forward(inputs.x);
        UNetCarry {
            skips: vec![x.clone()],
            x,
            time: self.embed_time(inputs.time),
            captions: inputs.conditioning.captions,
            features: Vec::new(),
        }
    }

    /// Blocks that are tapped are counted down, between and up.
    ///
    /// # Panics
    /// If `index` is not below [`segments`](Denoiser::segments).
    fn segment(
        &self,
        index: usize,
        mut carry: UNetCarry<B>,
        selection: &Selection<B>,
    ) -> UNetCarry<B> {
        let step = &self.steps[index];
        let block = self.block(step.place);
        let mut x = carry.x;
        if step.joins {
            let skip = carry.skips.pop().expect("a skip for every taker");
            // burn's `cat` lets go of its inputs before it is recorded: as in the operations' `record`, they are kept so long.
            let both = vec![x, skip];
            x = Tensor::cat(both.clone(), 1);
        }
        x = match &step.layer {
            Layer::Resnet(_) => block.resnets[step.index].forward(x, carry.time.clone()),
            Layer::Attention(_) => block.attentions[step.index].forward(x, carry.captions.clone()),
            Layer::Downsample(_) => block.downsamplers[step.index].halve(x),
            Layer::Upsample(_) => {
                let [_, _, size @ ..] = carry.skips.last().expect("a skip to meet").dims();
                block.upsamplers[step.index].grow(x, size)
            }
        };
        if step.keeps {
            carry.skips.push(x.clone());
        }
        if step.ends && selection.taps.contains(&self.place_of_block(step)) {
            carry.features.push(patchify(x.clone(), 1));
        }
        UNetCarry { x, ..carry }
    }

    fn leave(&self, carry: UNetCarry<B>, _selection: &Selection<B>) -> Output<B> {
        let x = self.conv_out.forward(self.conv_norm_out.silu(carry.x));
        Output {
            features: carry.features,
            ..Output::all(patchify(x, 1))
        }
    }
}

impl<B: DitBackend> UNet<B> {
    fn block(&self, place: Place) -> &Block<B> {
        match place {
            Place::Down(i) => &self.down_blocks[i],
            Place::Mid => self.mid_block.as_ref().expect("a block of the network"),
            Place::Up(i) => &self.up_blocks[i],
        }
    }

    /// Place of a step's block among all.
    fn place_of_block(&self, step: &Step) -> usize {
        let (down, mid) = (
            self.down_blocks.len(),
            usize::from(self.mid_block.is_some()),
        );
        match step.place {
            Place::Down(i) => i,
            Place::Mid => down,
            Place::Up(i) => down + mid + i,
        }
    }
}
