//! Captions without images: what a student learns from.

use crate::{
    error::DataError,
    sample::{Image, Sample},
};
use microdit::rng::{Purpose, Stream};
use std::sync::Arc;

/// Prompts over and over, every pass in an order of its own.
///
/// ```
/// use microdit_data::Prompts;
/// let prompts = Prompts::new(vec!["a circle".into(), "a square".into()])?;
/// assert_eq!(prompts.len(), 2);
/// assert!(Prompts::new(Vec::new()).is_err());
/// # Ok::<(), microdit_data::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Prompts(Arc<[String]>);

impl Prompts {
    /// These prompts.
    ///
    /// # Errors
    /// If there are none.
    pub fn new(texts: Vec<String>) -> Result<Self, DataError> {
        match texts.is_empty() {
            true => Err(DataError::NoPrompts),
            false => Ok(Self(texts.into())),
        }
    }

    /// How many they are, at least 1.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// An endless stream of them.
pub(crate) struct PromptStream {
    prompts: Prompts,
    /// The pass that `order` is of.
    pass: u64,
    order: Vec<usize>,
}

impl PromptStream {
    pub(crate) fn new(prompts: Prompts, seed: u64, index: u64) -> Self {
        let mut stream = Self {
            pass: index / prompts.len() as u64,
            order: Vec::new(),
            prompts,
        };
        stream.shuffle(seed);
        stream
    }

    fn shuffle(&mut self, seed: u64) {
        self.order = (0..self.prompts.len()).collect();
        Stream::new(seed, Purpose::Shuffle, self.pass, 0).shuffle(&mut self.order);
    }

    /// Prompt number `index` of the stream.
    pub(crate) fn sample(&mut self, seed: u64, index: u64) -> Sample {
        let count = self.prompts.len() as u64;
        if index / count != self.pass {
            self.pass = index / count;
            self.shuffle(seed);
        }
        let place = self.order[(index % count) as usize];
        Sample::new(
            &format!("prompt-{}", place + 1),
            &self.prompts.0[place],
            Image::Absent,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Captions, Loader, LoaderConfig, Position, Source, Variation};

    fn batches(start: &Position, count: usize) -> Vec<(Vec<String>, Position)> {
        let texts = (0..7).map(|i| format!("prompt {i}")).collect();
        let config = LoaderConfig {
            seed: 3,
            batch: 5,
            shape: [4, 2, 2],
            buckets: None,
            shrinks_by: 1,
            caption: [3, 2],
            trimmed: false,
            threads: 2,
            max_damage: 0.0,
            variation: Variation::default(),
        };
        let source = Source::Prompts(Prompts::new(texts).unwrap());
        let mut loader = Loader::new(source, config, start);
        let batch = |_| {
            let batch = loader.next_batch().unwrap();
            assert_eq!(batch.images, [0.0; 5 * 16]);
            let Captions::Texts(texts) = batch.captions else {
                panic!("prompts are texts")
            };
            (texts, batch.next)
        };
        (0..count).map(batch).collect()
    }

    #[test]
    fn every_pass_has_every_prompt_once_and_resumes_anywhere() {
        let all = batches(&Position::default(), 14);
        let texts: Vec<&String> = all.iter().flat_map(|(texts, _)| texts).collect();
        let mut orders = Vec::new();
        for pass in texts.chunks(7) {
            let mut sorted = pass.to_vec();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), 7, "{pass:?}");
            orders.push(pass);
        }
        assert!(orders.windows(2).any(|pair| pair[0] != pair[1]));
        // Within a pass, and at the end of one.
        for cut in [1, 7] {
            let rest = batches(&all[cut - 1].1, 14 - cut);
            assert_eq!(rest, all[cut..]);
        }
    }
}
