//! How networks see sets of pictures: with features that are kept, few damaged pictures, and progress.

use super::{
    error::EvaluateError,
    extract::{Extraction, extract},
    extractor::Extractor,
    pictures::PictureSet,
};
use crate::features::Features;
use std::{path::Path, sync::atomic::AtomicBool};

/// How an evaluation gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen<'a> {
    /// The network.
    pub network: &'a str,
    /// Whose pictures it sees.
    pub set: &'a str,
    /// Pictures so far.
    pub done: u64,
    /// Pictures in all.
    pub of: u64,
}

/// How pictures are seen.
pub struct Sight<'a> {
    /// Directory that features are kept in, by the content of what they are of.
    pub cache: &'a Path,
    /// Share of pictures that may be damaged, in 0..=1.
    pub max_damage: f64,
    /// Set to end it; features so far are kept.
    pub stop: &'a AtomicBool,
    /// Told how it gets on.
    pub progress: &'a mut dyn FnMut(Seen<'_>),
}

impl Sight<'_> {
    /// Features of a set, and the places of the pictures they are of; none if it was stopped before all were seen.
    ///
    /// # Errors
    /// Pictures that cannot be read, too many damaged ones.
    pub fn of(
        &mut self,
        set: &PictureSet,
        network: &dyn Extractor,
    ) -> Result<Option<(Features, Vec<u64>)>, EvaluateError> {
        let (name, of) = (&network.network().name, set.len());
        let extraction = extract(set, network, self.cache, self.stop, |done| {
            (self.progress)(Seen {
                network: name,
                set: set.name(),
                done,
                of,
            });
        })?;
        let Some(Extraction {
            features,
            places,
            left_out,
            sizes,
        }) = extraction
        else {
            return Ok(None);
        };
        let seen = features.pictures() as u64 + left_out.total();
        left_out.within(self.max_damage, seen, false)?;
        if left_out.total() > 0 {
            let reasons = microdit_data::reasons(&left_out.counts);
            tracing::warn!(
                "{}: {} of {seen} pictures were left out: {reasons}",
                set.name(),
                left_out.total()
            );
        }
        if sizes.len() > 1 {
            let sizes = microdit_data::reasons(&sizes);
            tracing::warn!(
                "{}: pictures of several sizes ({sizes}); each is resized as the network wants it",
                set.name()
            );
        }
        Ok(Some((features, places)))
    }
}
