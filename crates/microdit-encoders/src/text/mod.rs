//! Text encoders: captions to the states of their tokens.

mod clip;
mod cut;
mod encoder;
mod states;
mod t5;
mod tokenizer;

pub use clip::{ClipText, ClipTextConfig, Pooling};
pub use cut::Cutter;
pub(crate) use encoder::padding_of;
pub use encoder::{FixedTokens, TextEncoder};
pub use states::TextStates;
pub use t5::{T5Config, T5Encoder};
pub use tokenizer::{ClipTokenizer, Padding};
