//! Text encoders: captions to the states of their tokens.

mod clip;
mod cut;
mod encoder;
mod t5;
mod tokenizer;

pub use clip::{ClipText, ClipTextConfig, Pooling};
pub use cut::Cutter;
pub use encoder::TextEncoder;
pub use t5::{T5Config, T5Encoder};
pub use tokenizer::{ClipTokenizer, Padding};

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
