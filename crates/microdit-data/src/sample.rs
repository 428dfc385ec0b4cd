//! A captioned image, and where it stands in the data.

use crate::{damage::Damage, image::View};
use ::image::RgbImage;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The image of a sample: decoding is left to the loader's threads.
#[derive(Clone, Debug)]
pub enum Image {
    /// A compressed file.
    Encoded(Vec<u8>),
    /// Pixels.
    Decoded(RgbImage),
    /// The precomputed latent and caption states.
    Precomputed {
        /// `[channels, height, width]`.
        latent: Stored,
        /// `[tokens, channels]`.
        caption: Stored,
    },
    /// None: the caption stands alone.
    Absent,
}

/// An array as it is stored.
#[derive(Clone, Debug)]
pub enum Stored {
    /// A NumPy file.
    Npy(Vec<u8>),
    /// 16-bit floats, little-endian, row by row; the reader must know the shape.
    Halves(Vec<u8>),
}

/// A captioned image.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name in the dataset.
    pub key: String,
    /// Its caption, trimmed; never empty where the image is one.
    pub caption: String,
    /// Its image.
    pub image: Image,
    /// The place of its caption among those that were asked for by name.
    pub named: usize,
    /// The others of those that it has, in their order.
    pub others: Vec<Caption>,
    /// Which part of its image is taken, where that is not precomputed.
    pub view: View,
    /// The precomputed latent of its image with left and right swapped, if it was asked for.
    pub flipped: Option<Stored>,
    /// What is known about the damage to the shard it comes from, if it comes from one.
    pub damage: Option<Arc<Damage>>,
}

/// One of several captions of a sample.
#[derive(Clone, Debug)]
pub struct Caption {
    /// Its place among those that were asked for by name.
    pub named: usize,
    /// The caption, trimmed.
    pub text: String,
    /// Its precomputed states, `[tokens, channels]`, where the image is precomputed too.
    pub states: Option<Stored>,
}

impl Sample {
    /// A sample with one caption, from no shard.
    pub fn new(key: &str, caption: &str, image: Image) -> Self {
        Self {
            key: key.to_owned(),
            caption: caption.trim().to_owned(),
            image,
            named: 0,
            others: Vec::new(),
            view: View::default(),
            flipped: None,
            damage: None,
        }
    }

    /// A sample with all the captions that it has, by their places among those that were asked for. A damaged one costs itself alone,
    /// unless it is the only one.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn of_captions(
        key: &str,
        image: Image,
        captions: Vec<(usize, Result<String, String>)>,
    ) -> Result<Self, String> {
        let (mut sound, mut fault) = (Vec::with_capacity(captions.len()), None);
        for (named, caption) in captions {
            match caption {
                Ok(text) => sound.push((named, text.trim().to_owned())),
                Err(error) => fault = fault.or(Some(error)),
            }
        }
        let mut sound = sound.into_iter();
        let Some((named, caption)) = sound.next() else {
            return Err(fault.unwrap_or_else(|| "no caption".into()));
        };
        let other = |(named, text)| Caption {
            named,
            text,
            states: None,
        };
        Ok(Self {
            named,
            others: sound.map(other).collect(),
            ..Self::new(key, &caption, image)
        })
    }

    /// Its captions by their places among those that were asked for, the one it bears first.
    pub fn captions(&self) -> impl Iterator<Item = (usize, &str)> {
        let others = self.others.iter();
        std::iter::once((self.named, self.caption.as_str()))
            .chain(others.map(|other| (other.named, other.text.as_str())))
    }

    /// Bears the caption number `chosen` of [`captions`](Self::captions), and no other.
    pub(crate) fn keep(&mut self, chosen: usize) {
        let others = std::mem::take(&mut self.others);
        let Some(other) = chosen
            .checked_sub(1)
            .and_then(|i| others.into_iter().nth(i))
        else {
            return;
        };
        self.named = other.named;
        self.caption = other.text;
        if let (Image::Precomputed { caption, .. }, Some(states)) = (&mut self.image, other.states)
        {
            *caption = states;
        }
    }
}

/// Where in the data a run is: all that is needed to resume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Samples taken from all sources together, damaged ones included.
    pub drawn: u64,
    /// Where the run is in each list of shards.
    pub sources: Vec<Place>,
    /// Samples that were drawn and still wait for others of their shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Box<Pending>>,
}

/// Samples that were drawn and not used yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Where the first of them was drawn.
    pub from: Position,
    /// Their numbers among all samples that were drawn, in ascending order.
    pub drawn: Vec<u64>,
}

/// A place in a list of shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Finished passes over the shards.
    pub epoch: u64,
    /// Shards of this pass before the window the next sample comes from.
    pub shard: usize,
    /// Samples of that window already taken, damaged ones included.
    pub sample: u64,
}
