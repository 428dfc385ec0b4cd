//! The diffusion transformer as a chain of segments: the mixer's blocks, the mask, the backbone's blocks, the entry of the
//! decoder and its blocks.

use super::{Condition, Dit};
use crate::{
    net::{Carry, CarryVisitor, Denoiser, Inputs, MaskStage, NetworkConfig, Output, Selection},
    ops::{DitBackend, TrainBackend},
};
use burn::tensor::{Tensor, TensorData};

/// What flows through a [`Dit`].
#[derive(Clone, Debug)]
pub struct DitCarry<B: DitBackend> {
    /// Image tokens `[batch, tokens, width]`.
    pub tokens: Tensor<B, 3>,
    /// What the blocks are conditioned on.
    pub condition: Condition<B>,
    /// Caption tokens of the mixer's width; none without a mixer, and after it.
    pub mixer_captions: Option<Tensor<B, 3>>,
    /// Tokens tapped so far.
    pub features: Vec<Tensor<B, 3>>,
    /// Rows and columns of the patches.
    pub grid: [usize; 2],
}

impl<B: TrainBackend> Carry<B> for DitCarry<B> {
    type Inner = DitCarry<B::InnerBackend>;

    fn record(inner: Self::Inner) -> Self {
        Self {
            tokens: Carry::record(inner.tokens),
            condition: Condition {
                captions: Carry::record(inner.condition.captions),
                vector: Carry::record(inner.condition.vector),
                time: Carry::record(inner.condition.time),
            },
            mixer_captions: Carry::record(inner.mixer_captions),
            features: Carry::record(inner.features),
            grid: inner.grid,
        }
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.tokens.visit(visitor);
        self.condition.captions.visit(visitor);
        self.condition.vector.visit(visitor);
        self.condition.time.visit(visitor);
        self.mixer_captions.visit(visitor);
        self.features.visit(visitor);
    }
}

impl<B: DitBackend> Denoiser<B> for Dit<B> {
    type Carry = DitCarry<B>;

    fn patch_size(&self) -> usize {
        self.config.patch_size
    }

    fn config(&self) -> Option<NetworkConfig> {
        Some(NetworkConfig::Dit(self.config.clone()))
    }

    fn buffers(&self) -> Vec<(String, TensorData)> {
        let positions = self.positions(self.grid()).into_data();
        let other = match &self.decoder {
            Some(decoder) => ("decoder_pos_embed", decoder.positions().into_data()),
            None => {
                let patch = self.final_layer.linear.weight.dims()[0];
                let token = TensorData::new(vec![0f32; patch], [1, 1, patch]);
                ("mask_token", token)
            }
        };
        [("pos_embed", positions), other]
            .map(|(name, data)| (name.to_owned(), data))
            .into()
    }

    fn segments(&self) -> usize {
        let decoder = self.decoder.as_ref();
        let decoder = decoder.map_or(0, |decoder| 1 + decoder.blocks.len());
        self.mixer_depth() + 1 + self.blocks.len() + decoder
    }

    fn enter(&self, inputs: Inputs<B>) -> DitCarry<B> {
        let condition = self.condition(inputs.time, inputs.conditioning.captions);
        let [_, _, height, width] = inputs.x.dims();
        let tokens = drop_tokens(
            self.embed(inputs.x),
            &inputs.selection,
            MaskStage::BeforeMixer,
        );
        let (tokens, mixer_captions) = match &self.mixer {
            Some(mixer) => {
                let (tokens, captions) = mixer.enter(tokens, condition.captions.clone());
                (tokens, Some(captions))
            }
            None => (tokens, None),
        };
        DitCarry {
            tokens,
            condition,
            mixer_captions,
            features: Vec::new(),
            grid: [height, width].map(|side| side / self.config.patch_size),
        }
    }

    /// # Panics
    /// If `index` is not below [`segments`](Denoiser::segments).
    fn segment(
        &self,
        index: usize,
        mut carry: DitCarry<B>,
        selection: &Selection<B>,
    ) -> DitCarry<B> {
        let depth = self.mixer_depth();
        let decoder_entry = depth + 1 + self.blocks.len();
        match (&self.mixer, &carry.mixer_captions) {
            (Some(mixer), Some(words)) if index < depth => {
                let condition = carry.condition.with_captions(words.clone());
                carry.tokens = mixer.blocks[index].forward(carry.tokens, condition);
            }
            (mixer, _) if index == depth => {
                let kept = drop_tokens(carry.tokens, selection, MaskStage::AfterMixer);
                carry.tokens = match mixer {
                    Some(mixer) => mixer.map_out(kept),
                    None => kept,
                };
                carry.mixer_captions = None;
            }
            _ if index >= decoder_entry => {
                let decoder = self.decoder.as_ref().expect("a segment of the network");
                if index == decoder_entry {
                    let keep = selection.keep.as_ref();
                    (carry.tokens, carry.condition) =
                        decoder.enter(carry.tokens, carry.condition, keep, carry.grid);
                } else {
                    let block = &decoder.blocks[index - decoder_entry - 1];
                    carry.tokens = block.forward(carry.tokens, carry.condition.clone());
                }
            }
            _ => {
                let place = index - depth - 1;
                let condition = carry.condition.clone();
                carry.tokens = self.blocks[place].forward(carry.tokens, condition);
                if selection.taps.contains(&place) {
                    carry.features.push(carry.tokens.clone());
                }
            }
        }
        carry
    }

    fn leave(&self, carry: DitCarry<B>, selection: &Selection<B>) -> Output<B> {
        Output {
            patches: self
                .final_layer
                .forward(carry.tokens, carry.condition.vector),
            // A decoder predicts the dropped tokens too.
            keep: match self.decoder {
                Some(_) => None,
                None => selection.keep.clone(),
            },
            features: carry.features,
        }
    }
}

impl<B: DitBackend> Dit<B> {
    fn mixer_depth(&self) -> usize {
        self.mixer.as_ref().map_or(0, |mixer| mixer.blocks.len())
    }
}

/// The tokens that stay if they are dropped at this stage.
fn drop_tokens<B: DitBackend>(
    tokens: Tensor<B, 3>,
    selection: &Selection<B>,
    stage: MaskStage,
) -> Tensor<B, 3> {
    match &selection.keep {
        Some(mask) if mask.stage() == stage => mask.gather(tokens),
        _ => tokens,
    }
}
