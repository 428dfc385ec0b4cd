//! Token masking: which patches stay, and where in the network the others are dropped.

use crate::{
    ops::DitBackend,
    range::{OutOfRange, require, within},
    rng::{Purpose, Stream},
};
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData, backend::AutodiffBackend};
use serde::{Deserialize, Serialize};

/// How a training run drops tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Masking {
    /// Every token stays.
    #[default]
    None,
    /// Tokens are dropped before anything sees them: the baseline.
    Naive {
        /// Fraction of the tokens dropped, at least 0 and below 1.
        ratio: f64,
    },
    /// Tokens are dropped after the patch-mixer has seen all of them (MicroDiT section 3).
    Deferred {
        /// Fraction of the tokens dropped, at least 0 and below 1.
        ratio: f64,
    },
}

/// Where in the network tokens are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskStage {
    /// Before the patch-mixer.
    BeforeMixer,
    /// Between patch-mixer and backbone.
    AfterMixer,
}

impl Masking {
    /// Fraction of the tokens dropped.
    pub fn ratio(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Naive { ratio } | Self::Deferred { ratio } => ratio,
        }
    }

    /// Checks that the ratio is in its range and leaves at least one of `tokens`.
    ///
    /// # Errors
    /// `ratio`, with the numbers.
    pub fn validate(self, tokens: usize) -> Result<(), OutOfRange> {
        within("ratio", self.ratio(), 0.0..1.0)?;
        require(self.kept(tokens) > 0, "ratio", || {
            format!("{} of {tokens} tokens leaves none", self.ratio())
        })
    }

    /// Where tokens are dropped.
    pub fn stage(self) -> MaskStage {
        match self {
            Self::Naive { .. } => MaskStage::BeforeMixer,
            Self::None | Self::Deferred { .. } => MaskStage::AfterMixer,
        }
    }

    /// Tokens that stay: `floor(tokens x (1 - ratio))`.
    pub fn kept(self, tokens: usize) -> usize {
        (tokens as f64 * (1.0 - self.ratio())) as usize
    }
}

/// The tokens of a batch that stay: an explicit value that travels through the forward pass.
///
/// ```
/// use burn_flex::Flex;
/// use microdit::{MaskStage, TokenMask};
/// let noise = [0.9, 0.1, 0.5, 0.3];
/// let mask = TokenMask::<Flex>::from_noise(&noise, 4, 2, MaskStage::AfterMixer, &Default::default());
/// assert_eq!(mask.keep().to_data().iter::<i64>().collect::<Vec<_>>(), [1, 3]);
/// ```
#[derive(Clone, Debug)]
pub struct TokenMask<B: DitBackend> {
    keep: Tensor<B, 2, Int>,
    tokens: usize,
    stage: MaskStage,
}

impl<B: DitBackend> TokenMask<B> {
    /// Keeps the `kept` tokens of each sample whose noise is smallest, in the order of their noise.
    ///
    /// `noise` holds one number per token, sample after sample: `[batch, tokens]`.
    ///
    /// # Panics
    /// If `noise` is not a whole number of samples, or `kept` is not in `1..=tokens`.
    pub fn from_noise(
        noise: &[f32],
        tokens: usize,
        kept: usize,
        stage: MaskStage,
        device: &B::Device,
    ) -> Self {
        assert!(
            (1..=tokens).contains(&kept),
            "{kept} of {tokens} tokens cannot be kept"
        );
        assert!(
            noise.len().is_multiple_of(tokens),
            "{} noise values are not a whole number of samples of {tokens} tokens",
            noise.len()
        );
        let batch = noise.len() / tokens;
        let mut keep = Vec::with_capacity(batch * kept);
        for sample in noise.chunks_exact(tokens) {
            let mut order: Vec<i64> = (0..tokens as i64).collect();
            order.sort_by(|&a, &b| sample[a as usize].total_cmp(&sample[b as usize]));
            keep.extend_from_slice(&order[..kept]);
        }
        Self {
            keep: Tensor::from_data(TensorData::new(keep, [batch, kept]), device),
            tokens,
            stage,
        }
    }

    /// Draws the mask of `samples` of the batch of `step`; `None` if `masking` drops nothing.
    pub fn draw(
        masking: Masking,
        tokens: usize,
        seed: u64,
        step: u64,
        samples: impl IntoIterator<Item = u64>,
        device: &B::Device,
    ) -> Option<Self> {
        let kept = masking.kept(tokens);
        if kept == tokens {
            return None;
        }
        let noise: Vec<f32> = samples
            .into_iter()
            .flat_map(|sample| Stream::new(seed, Purpose::Mask, step, sample).uniform(tokens))
            .collect();
        Some(Self::from_noise(
            &noise,
            tokens,
            kept,
            masking.stage(),
            device,
        ))
    }

    /// The same mask without automatic differentiation.
    pub fn inner(&self) -> TokenMask<B::InnerBackend>
    where
        B: AutodiffBackend<InnerBackend: DitBackend>,
    {
        TokenMask {
            keep: self.keep.clone().inner(),
            tokens: self.tokens,
            stage: self.stage,
        }
    }

    /// Where in the network the others are dropped.
    pub fn stage(&self) -> MaskStage {
        self.stage
    }

    /// Indices of the kept tokens, in the order they are processed: `[batch, kept]`.
    pub fn keep(&self) -> Tensor<B, 2, Int> {
        self.keep.clone()
    }

    /// Drops tokens: `[batch, tokens, dim]` to `[batch, kept, dim]`.
    pub fn gather(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        let dim = x.dims()[2];
        x.gather(1, self.places(dim))
    }

    /// Puts kept tokens `[batch, kept, dim]` back into their places, zeros elsewhere: `[batch, tokens, dim]`.
    pub fn scatter(&self, kept: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, _, dim] = kept.dims();
        Tensor::zeros([batch, self.tokens, dim], &kept.device()).scatter(
            1,
            self.places(dim),
            kept,
            IndexingUpdateOp::Add,
        )
    }

    fn places(&self, dim: usize) -> Tensor<B, 3, Int> {
        let [batch, kept] = self.keep.dims();
        self.keep
            .clone()
            .reshape([batch, kept, 1])
            .expand([batch, kept, dim])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;

    #[test]
    fn gather_after_scatter_is_the_identity() {
        let device = Default::default();
        let masking = Masking::Deferred { ratio: 0.75 };
        let mask = TokenMask::<Flex>::draw(masking, 16, 3, 5, 0..2, &device).unwrap();
        let kept = Tensor::<Flex, 3>::from_data(
            TensorData::new((1..=24).map(|i| i as f32).collect(), [2, 4, 3]),
            &device,
        );
        let full = mask.scatter(kept.clone());
        assert_eq!(full.dims(), [2, 16, 3]);
        assert_eq!(full.clone().sum().into_scalar(), 300.0);
        assert_eq!(mask.gather(full).to_data(), kept.to_data());
    }

    #[test]
    fn a_draw_depends_on_step_and_sample_only() {
        let device = Default::default();
        let draw = |step, batch| {
            TokenMask::<Flex>::draw(Masking::Naive { ratio: 0.5 }, 64, 1, step, batch, &device)
                .unwrap()
                .keep()
                .to_data()
                .iter::<i64>()
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 0..3)[32..], draw(7, 1..3)[..]);
        assert_ne!(draw(7, 0..1), draw(8, 0..1));
    }
}
