//! The diffusion transformer as a chain of segments: the mixer's blocks, the mask, the backbone's blocks.

use super::Dit;
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
    /// Refined caption tokens for the backbone `[batch, caption tokens, dim]`.
    pub captions: Tensor<B, 3>,
    /// Time plus pooled caption `[batch, dim]`.
    pub vector: Tensor<B, 2>,
    /// Caption tokens of the mixer's width; none without a mixer, and after it.
    pub mixer_captions: Option<Tensor<B, 3>>,
    /// Tokens tapped so far.
    pub features: Vec<Tensor<B, 3>>,
}

impl<B: TrainBackend> Carry<B> for DitCarry<B> {
    type Inner = DitCarry<B::InnerBackend>;

    fn record(inner: Self::Inner) -> Self {
        Self {
            tokens: Carry::record(inner.tokens),
            captions: Carry::record(inner.captions),
            vector: Carry::record(inner.vector),
            mixer_captions: Carry::record(inner.mixer_captions),
            features: Carry::record(inner.features),
        }
    }

    fn visit(&self, visitor: &mut impl CarryVisitor<B>) {
        self.tokens.visit(visitor);
        self.captions.visit(visitor);
        self.vector.visit(visitor);
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
        let patch = self.final_layer.linear.weight.dims()[0];
        let token = TensorData::new(vec![0f32; patch], [1, 1, patch]);
        vec![
            ("pos_embed".to_owned(), positions),
            ("mask_token".to_owned(), token),
        ]
    }

    fn segments(&self) -> usize {
        self.mixer_depth() + 1 + self.blocks.len()
    }

    fn enter(&self, inputs: Inputs<B>) -> DitCarry<B> {
        let condition = self.condition(inputs.time, inputs.conditioning.captions);
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
            captions: condition.captions,
            vector: condition.vector,
            mixer_captions,
            features: Vec::new(),
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
        let vector = carry.vector.clone();
        match (&self.mixer, &carry.mixer_captions) {
            (Some(mixer), Some(words)) if index < depth => {
                let block = &mixer.blocks[index];
                carry.tokens = block.forward(carry.tokens, words.clone(), vector);
            }
            (mixer, _) if index == depth => {
                let kept = drop_tokens(carry.tokens, selection, MaskStage::AfterMixer);
                carry.tokens = match mixer {
                    Some(mixer) => mixer.map_out(kept),
                    None => kept,
                };
                carry.mixer_captions = None;
            }
            _ => {
                let place = index - depth - 1;
                let captions = carry.captions.clone();
                carry.tokens = self.blocks[place].forward(carry.tokens, captions, vector);
                if selection.taps.contains(&place) {
                    carry.features.push(carry.tokens.clone());
                }
            }
        }
        carry
    }

    fn leave(&self, carry: DitCarry<B>, selection: &Selection<B>) -> Output<B> {
        Output {
            patches: self.final_layer.forward(carry.tokens, carry.vector),
            keep: selection.keep.clone(),
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
