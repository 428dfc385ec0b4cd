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
    /// Tokens are dropped after the patch-mixer has seen all of them (MicroDiT section 3). In a network without one, this does
    /// what [`Naive`](Self::Naive) does, and recipes refuse it.
    Deferred {
        /// Fraction of the tokens dropped, at least 0 and below 1.
        ratio: f64,
    },
    /// As [`Naive`](Self::Naive), in square blocks of neighbouring patches.
    NaiveBlocks {
        /// Fraction of the tokens dropped, at least 0 and below 1.
        ratio: f64,
        /// Side of a block in patches, 1 to 2^16; a block does not cover the whole image.
        side: usize,
    },
    /// As [`Deferred`](Self::Deferred), in square blocks of neighbouring patches.
    DeferredBlocks {
        /// Fraction of the tokens dropped, at least 0 and below 1.
        ratio: f64,
        /// Side of a block in patches, 1 to 2^16; a block does not cover the whole image.
        side: usize,
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
            Self::Naive { ratio }
            | Self::Deferred { ratio }
            | Self::NaiveBlocks { ratio, .. }
            | Self::DeferredBlocks { ratio, .. } => ratio,
        }
    }

    /// Side of the blocks that are dropped or kept together, in patches.
    pub fn side(self) -> usize {
        match self {
            Self::None | Self::Naive { .. } | Self::Deferred { .. } => 1,
            Self::NaiveBlocks { side, .. } | Self::DeferredBlocks { side, .. } => side,
        }
    }

    /// Checks the ranges, whatever the images are.
    ///
    /// # Errors
    /// `ratio` or `side`, with the number.
    pub fn validate_ranges(self) -> Result<(), OutOfRange> {
        within("ratio", self.ratio(), 0.0..1.0)?;
        within("side", self.side(), 1..=1 << 16)
    }

    /// Checks that the numbers are in their ranges, at least one of `tokens` is left, and blocks are smaller than the image.
    ///
    /// # Errors
    /// `ratio` or `side`, with the numbers.
    pub fn validate(self, tokens: usize) -> Result<(), OutOfRange> {
        self.validate_ranges()?;
        require(self.kept(tokens) > 0, "ratio", || {
            format!("{} of {tokens} tokens leaves none", self.ratio())
        })?;
        let side = self.side();
        require(side == 1 || side * side < tokens, "side", || {
            format!("a block of {side} x {side} patches covers all {tokens} of them")
        })
    }

    /// Where tokens are dropped.
    pub fn stage(self) -> MaskStage {
        match self {
            Self::Naive { .. } | Self::NaiveBlocks { .. } => MaskStage::BeforeMixer,
            Self::None | Self::Deferred { .. } | Self::DeferredBlocks { .. } => {
                MaskStage::AfterMixer
            }
        }
    }

    /// Tokens that stay: `floor(tokens x (1 - ratio))`, in blocks or not, so that costs can be compared.
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

    /// Draws the mask of `samples` of the batch of `step`, whose images are a `grid` of rows and columns of patches; `None` if
    /// `masking` drops nothing.
    pub fn draw(
        masking: Masking,
        grid: [usize; 2],
        seed: u64,
        step: u64,
        samples: impl IntoIterator<Item = u64>,
        device: &B::Device,
    ) -> Option<Self> {
        let tokens = grid[0] * grid[1];
        let kept = masking.kept(tokens);
        if kept == tokens {
            return None;
        }
        let noise: Vec<f32> = samples
            .into_iter()
            .flat_map(|sample| {
                let random = &mut Stream::new(seed, Purpose::Mask, step, sample);
                block_noise(random, grid, masking.side())
            })
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

    /// Puts kept tokens `[batch, kept, dim]` back into their places, and `token` `[1, 1, dim]` into the others: `[batch, tokens,
    /// dim]`.
    pub fn fill(&self, kept: Tensor<B, 3>, token: Tensor<B, 3>) -> Tensor<B, 3> {
        let dropped = self.dropped(&kept.device()).unsqueeze_dim(2);
        self.scatter(kept) + dropped * token
    }

    /// 1 for every dropped token, 0 for those that stay: `[batch, tokens]`.
    pub fn dropped(&self, device: &B::Device) -> Tensor<B, 2> {
        let [batch, kept] = self.keep.dims();
        let stays = self.scatter(Tensor::ones([batch, kept, 1], device));
        1.0 - stays.reshape([batch, self.tokens])
    }

    /// How many tokens of a sample are dropped.
    pub fn count_dropped(&self) -> usize {
        self.tokens - self.keep.dims()[1]
    }

    fn places(&self, dim: usize) -> Tensor<B, 3, Int> {
        let [batch, kept] = self.keep.dims();
        self.keep
            .clone()
            .reshape([batch, kept, 1])
            .expand([batch, kept, dim])
    }
}

/// Noise of the tokens of a `grid`, row by row: one number for each square block of `side` patches, of which the last in a row
/// or column may be cut. Tokens are kept in the order of their noise, so that at most one block is kept in part.
fn block_noise(random: &mut Stream, [rows, columns]: [usize; 2], side: usize) -> Vec<f32> {
    let across = columns.div_ceil(side);
    let blocks = random.uniform(rows.div_ceil(side) * across);
    let block = |token: usize| token / columns / side * across + token % columns / side;
    (0..rows * columns)
        .map(|token| blocks[block(token)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_flex::Flex;
    use std::collections::BTreeMap;

    #[test]
    fn gather_after_scatter_is_the_identity() {
        let device = Default::default();
        let masking = Masking::Deferred { ratio: 0.75 };
        let mask = TokenMask::<Flex>::draw(masking, [4, 4], 3, 5, 0..2, &device).unwrap();
        let kept = Tensor::<Flex, 3>::from_data(
            TensorData::new((1..=24).map(|i| i as f32).collect(), [2, 4, 3]),
            &device,
        );
        let full = mask.scatter(kept.clone());
        assert_eq!(full.dims(), [2, 16, 3]);
        assert_eq!(full.clone().sum().into_scalar(), 300.0);
        assert_eq!(mask.gather(full).to_data(), kept.to_data());
        let token = Tensor::from_floats([[[-1.0, -2.0, -3.0]]], &device);
        let filled = mask.fill(kept.clone(), token);
        assert_eq!(mask.gather(filled.clone()).to_data(), kept.to_data());
        let dropped = mask.dropped(&device);
        assert_eq!(dropped.clone().sum().into_scalar(), 24.0);
        assert_eq!(mask.count_dropped(), 12);
        let rest = (filled * dropped.unsqueeze_dim(2)).sum_dim(1).into_data();
        let rest: Vec<f32> = rest.iter().collect();
        assert_eq!(rest, [-12.0, -24.0, -36.0, -12.0, -24.0, -36.0]);
    }

    #[test]
    fn a_draw_depends_on_step_and_sample_only() {
        let device = Default::default();
        let draw = |step, batch| {
            TokenMask::<Flex>::draw(
                Masking::Naive { ratio: 0.5 },
                [8, 8],
                1,
                step,
                batch,
                &device,
            )
            .unwrap()
            .keep()
            .to_data()
            .iter::<i64>()
            .collect::<Vec<_>>()
        };
        assert_eq!(draw(7, 0..3)[32..], draw(7, 1..3)[..]);
        assert_ne!(draw(7, 0..1), draw(8, 0..1));
    }

    /// As many tokens stay as by random masking, and all but one of the blocks stay or go as a whole.
    #[test]
    fn blocks_stay_or_go_as_a_whole() {
        let device = Default::default();
        let (rows, columns) = (6, 10);
        let draw = |masking| {
            let mask = TokenMask::<Flex>::draw(masking, [rows, columns], 0, 3, 0..4, &device);
            let keep = mask.unwrap().keep().into_data();
            let keep = keep.iter::<i64>().map(|token| token as usize);
            keep.collect::<Vec<_>>()
        };
        for (ratio, side) in [(0.75, 2), (0.5, 2), (0.75, 3), (0.4, 4)] {
            let random = draw(Masking::Deferred { ratio });
            let keep = draw(Masking::DeferredBlocks { ratio, side });
            assert_eq!(keep.len(), random.len());
            for keep in keep.chunks(keep.len() / 4) {
                let block = |token: usize| [token / columns / side, token % columns / side];
                let mut left: BTreeMap<[usize; 2], usize> = BTreeMap::new();
                (0..rows * columns).for_each(|token| *left.entry(block(token)).or_default() += 1);
                let whole = left.clone();
                keep.iter()
                    .for_each(|&token| *left.get_mut(&block(token)).unwrap() -= 1);
                let cut = left
                    .iter()
                    .filter(|(block, left)| **left > 0 && **left < whole[*block]);
                assert!(cut.count() <= 1, "{ratio} {side}: {left:?}");
                assert!(left.values().any(|left| *left == 0));
            }
        }
        let [single, random] = [
            Masking::NaiveBlocks {
                ratio: 0.75,
                side: 1,
            },
            Masking::Naive { ratio: 0.75 },
        ];
        assert_eq!(
            draw(single),
            draw(random),
            "a block of one patch is a patch"
        );
    }

    #[test]
    fn a_block_is_smaller_than_the_image() {
        let blocks = |side| Masking::NaiveBlocks { ratio: 0.5, side };
        assert!(blocks(3).validate(16).is_ok());
        for side in [0, 4, usize::MAX] {
            assert_eq!(blocks(side).validate(16).unwrap_err().key, "side");
        }
    }
}
