//! The network as a chain of segments, so that training can keep what flows between them and compute the rest again
//! (gradient check-pointing, arXiv 1604.06174).

use crate::{
    dit::Dit,
    mask::{MaskStage, TokenMask},
    ops::DitBackend,
};
use burn::tensor::Tensor;

/// What flows from segment to segment.
#[derive(Clone, Debug)]
pub struct Flow<B: DitBackend> {
    /// Image tokens `[batch, tokens, width]`.
    pub tokens: Tensor<B, 3>,
    /// Refined caption tokens for the backbone `[batch, words, dim]`.
    pub captions: Tensor<B, 3>,
    /// Time plus pooled caption `[batch, dim]`.
    pub vector: Tensor<B, 2>,
    /// Caption tokens of the mixer's width; none without a mixer, and behind it.
    pub mixer_captions: Option<Tensor<B, 3>>,
}

impl<B: DitBackend> Dit<B> {
    /// Segments between [`enter`](Self::enter) and [`leave`](Self::leave): the mixer's blocks, the mask, the backbone's
    /// blocks.
    pub fn segments(&self) -> usize {
        self.mixer_depth() + 1 + self.blocks.len()
    }

    /// From the network's inputs, as [`forward_tokens`](Self::forward_tokens) takes them, to the first segment.
    pub fn enter(
        &self,
        x: Tensor<B, 4>,
        t: Tensor<B, 1>,
        captions: Tensor<B, 3>,
        mask: Option<&TokenMask<B>>,
    ) -> Flow<B> {
        let condition = self.condition(t, captions);
        let tokens = drop_tokens(self.embed(x), mask, MaskStage::BeforeMixer);
        let (tokens, mixer_captions) = match &self.mixer {
            Some(mixer) => {
                let (tokens, captions) = mixer.enter(tokens, condition.captions.clone());
                (tokens, Some(captions))
            }
            None => (tokens, None),
        };
        Flow {
            tokens,
            captions: condition.captions,
            vector: condition.vector,
            mixer_captions,
        }
    }

    /// One segment.
    ///
    /// # Panics
    /// If `index` is not below [`segments`](Self::segments).
    pub fn segment(&self, index: usize, flow: Flow<B>, mask: Option<&TokenMask<B>>) -> Flow<B> {
        let Flow {
            tokens,
            captions,
            vector,
            mixer_captions,
        } = flow;
        let depth = self.mixer_depth();
        let (tokens, mixer_captions) = match (&self.mixer, mixer_captions) {
            (Some(mixer), Some(words)) if index < depth => {
                let block = &mixer.blocks[index];
                let tokens = block.forward(tokens, words.clone(), vector.clone());
                (tokens, Some(words))
            }
            (Some(mixer), _) if index == depth => {
                let kept = drop_tokens(tokens, mask, MaskStage::AfterMixer);
                (mixer.map_out(kept), None)
            }
            _ if index == depth => (drop_tokens(tokens, mask, MaskStage::AfterMixer), None),
            _ => {
                let block = &self.blocks[index - depth - 1];
                (
                    block.forward(tokens, captions.clone(), vector.clone()),
                    None,
                )
            }
        };
        Flow {
            tokens,
            captions,
            vector,
            mixer_captions,
        }
    }

    /// From the last segment to the network's output.
    pub fn leave(&self, flow: Flow<B>) -> Tensor<B, 3> {
        self.final_layer.forward(flow.tokens, flow.vector)
    }

    fn mixer_depth(&self) -> usize {
        self.mixer.as_ref().map_or(0, |mixer| mixer.blocks.len())
    }
}

/// The tokens that stay if they are dropped at this stage.
fn drop_tokens<B: DitBackend>(
    tokens: Tensor<B, 3>,
    mask: Option<&TokenMask<B>>,
    stage: MaskStage,
) -> Tensor<B, 3> {
    match mask {
        Some(mask) if mask.stage() == stage => mask.gather(tokens),
        _ => tokens,
    }
}
