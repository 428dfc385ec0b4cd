//! What an image is conditioned on, and the null conditioning that stands in for it.

use crate::ops::DitBackend;
use burn::tensor::{Tensor, TensorData, backend::AutodiffBackend};

/// The conditioning of a batch.
#[derive(Clone, Debug)]
pub struct Conditioning<B: DitBackend> {
    /// Encoded captions `[batch, caption tokens, channels]`.
    pub captions: Tensor<B, 3>,
}

impl<B: DitBackend> Conditioning<B> {
    /// The null conditioning of as many images: zeros. Training replaces dropped captions by it, guidance points away from it.
    #[must_use]
    pub fn null(&self) -> Self {
        Self {
            captions: self.captions.zeros_like(),
        }
    }

    /// The null conditioning where `keep` is false.
    ///
    /// # Panics
    /// If the length of `keep` is not that of the batch.
    #[must_use]
    pub fn keep(self, keep: &[bool]) -> Self {
        if keep.iter().all(|&keep| keep) {
            return self;
        }
        let factors: Vec<f32> = keep.iter().map(|&keep| f32::from(keep)).collect();
        let factors = TensorData::new(factors, [keep.len(), 1, 1]);
        let device = self.captions.device();
        Self {
            captions: self.captions * Tensor::from_data(factors, &device),
        }
    }

    /// That of `other` where `keep` is false.
    ///
    /// # Panics
    /// If the length of `keep` is not that of both batches.
    #[must_use]
    pub fn keep_or(self, keep: &[bool], other: Self) -> Self {
        let dropped: Vec<bool> = keep.iter().map(|&keep| !keep).collect();
        Self {
            captions: self.keep(keep).captions + other.keep(&dropped).captions,
        }
    }

    /// This batch, followed by another.
    #[must_use]
    pub fn followed_by(self, other: Self) -> Self {
        Self {
            captions: Tensor::cat(vec![self.captions, other.captions], 0),
        }
    }

    /// The same without automatic differentiation.
    pub fn inner(self) -> Conditioning<B::InnerBackend>
    where
        B: AutodiffBackend<InnerBackend: DitBackend>,
    {
        Conditioning {
            captions: self.captions.inner(),
        }
    }
}
