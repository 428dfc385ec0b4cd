//! Counter-based randomness: every draw is a pure function of (seed, purpose, step, sample).
//!
//! A run must be the same for any number of loader threads, any number of devices and after a resume, so nothing
//! here has state that survives a call: the four numbers are the 256-bit key of a ChaCha8 stream.

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

/// What a random stream is for. Two purposes never share a number, whatever their step and sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights, by the name of a parameter.
    Init = 1,
    /// Noise level of a training sample.
    Sigma = 2,
    /// Noise added to a training sample, or the start of sampling.
    Noise = 3,
    /// Token mask of a training sample.
    Mask = 4,
    /// Whether a training sample's caption is dropped.
    CaptionDrop = 5,
    /// Noise added while sampling (churn).
    Churn = 6,
    /// Order of the data.
    Shuffle = 7,
    /// Content of synthetic data; `sample` is the sample's index.
    Synthetic = 8,
    /// Vectors of the hashed-word caption encoder, by the word.
    Word = 9,
    /// Draws from a VAE's posterior; `step` is the side of the image, `sample` shard and place.
    Posterior = 10,
    /// Which dataset of several a sample comes from; `sample` counts those drawn.
    Mix = 11,
    /// What a task of your own draws for a training sample.
    Task = 12,
    /// Which pictures belong to a subset that a metric draws; `step` is the subset.
    Subset = 13,
    /// Which inputs an adapter's dropout takes; `sample` is the part of the batch and the adapter's place.
    AdapterDropout = 14,
    /// What is drawn of a training sample in a pass over the data, such as one of its captions; `step` is the pass, `sample` shard and
    /// place.
    Variation = 15,
    /// Which samples of a dataset a part of it has, by their names.
    Fraction = 16,
}

/// A random stream keyed by (seed, purpose, step, sample).
///
/// ```
/// use microdit::rng::{Purpose, Stream};
/// let a = Stream::new(0, Purpose::Noise, 10, 3).normal(4);
/// let b = Stream::new(0, Purpose::Noise, 10, 3).normal(4);
/// assert_eq!(a, b);
/// assert_ne!(a, Stream::new(0, Purpose::Noise, 11, 3).normal(4));
/// ```
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of these four numbers.
    pub fn new(seed: u64, purpose: Purpose, step: u64, sample: u64) -> Self {
        let mut key = [0u8; 32];
        for (bytes, word) in key
            .chunks_exact_mut(8)
            .zip([seed, purpose as u64, step, sample])
        {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// The stream that belongs to a name, whose hash stands for the sample.
    pub fn named(seed: u64, purpose: Purpose, name: &str) -> Self {
        Self::new(seed, purpose, 0, fnv_1a(name))
    }

    /// `count` standard normal numbers.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.sample(StandardNormal)).collect()
    }

    /// `count` uniform numbers in `[0, 1)`.
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.0.random()).collect()
    }

    /// A uniform integer in `0..bound`.
    ///
    /// # Panics
    /// If `bound` is zero.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound)
    }

    /// Puts `items` into a uniformly random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        items.shuffle(&mut self.0);
    }
}

/// FNV-1a, which must never change: trained networks depend on it.
fn fnv_1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        // Published test vectors of the algorithm.
        assert_eq!(fnv_1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_part_of_the_key_changes_the_stream() {
        let base = Stream::new(1, Purpose::Noise, 2, 3).uniform(8);
        for other in [
            Stream::new(0, Purpose::Noise, 2, 3),
            Stream::new(1, Purpose::Sigma, 2, 3),
            Stream::new(1, Purpose::Noise, 1, 3),
            Stream::new(1, Purpose::Noise, 2, 4),
        ] {
            assert_ne!(base, other.clone().uniform(8));
        }
    }

    #[test]
    fn normal_has_the_moments_of_a_standard_normal() {
        let n = 100_000;
        let draws = Stream::new(7, Purpose::Noise, 0, 0).normal(n);
        let mean = draws.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let variance = draws.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
        // Standard errors are 0.0032 and 0.0045: five of them, so that only a wrong distribution fails.
        assert!(mean.abs() < 0.016, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.023, "variance {variance}");
    }
}
