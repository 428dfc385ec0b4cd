//! What a text tower makes of captions.

use burn::tensor::Tensor;
use microdit::DitBackend;

/// What a text tower makes of captions.
#[derive(Clone, Debug)]
pub struct TextStates<B: DitBackend> {
    /// Of every token, `[batch, tokens, width]`: what the denoiser is conditioned on.
    pub hidden: Tensor<B, 3>,
    /// Of the caption as a whole, `[batch, width]`.
    pub pooled: Tensor<B, 2>,
}
