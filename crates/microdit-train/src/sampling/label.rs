//! What a picture says about itself, so that it can be drawn again.

use super::{Pipeline, denoise::Picture, init::Init};
use crate::{error::TrainError, recipe::SamplingConfig};
use microdit::{
    DitBackend,
    checksum::{self, hexadecimal},
    diffusion::schedule::ScheduleConfig,
    net::Denoiser,
};
use microdit_encoders::read_labels;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Characters of a text that are shown.
const SHOWN: usize = 60;

/// Texts by their keys: all that determines a picture. The same label is the same picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(Vec<(&'static str, String)>);

impl Label {
    /// As [`save_picture`](microdit_encoders::save_picture) takes them.
    pub fn texts(&self) -> &[(&'static str, String)] {
        &self.0
    }

    /// A name for what it says, in 32 hexadecimal digits.
    pub(super) fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (key, text) in &self.0 {
            // Lengths keep a text from running into the next.
            hasher.update(format!("{key} {} ", text.len()));
            hasher.update(text);
        }
        hexadecimal(&hasher.finalize()[..16])
    }

    /// With one text more.
    #[must_use]
    pub(super) fn with(mut self, key: &'static str, text: String) -> Self {
        self.0.push((key, text));
        self
    }

    /// What the label of the picture at `path` says that this one does not, in words; none if it is the same picture.
    pub(super) fn difference(&self, path: &Path) -> Option<String> {
        let found = match read_labels(path) {
            Ok(found) => found,
            Err(error) => return Some(format!("it cannot be read ({error})")),
        };
        let difference = |(key, here): &(&str, String)| {
            let there = found.iter().find(|(found, _)| found == key);
            match there.map(|(_, text)| text) {
                Some(there) if there == here => None,
                Some(there) => Some(format!(
                    "its {key} is {}, not {}",
                    short(there),
                    short(here)
                )),
                None => Some(format!("it has no {key}")),
            }
        };
        let differences: Vec<String> = self.0.iter().filter_map(difference).collect();
        (!differences.is_empty()).then(|| differences.join("; "))
    }
}

/// The beginning of a text.
pub(super) fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// The label of a picture, or of a sheet of them that begins with it.
    pub(super) fn label(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        picture: Picture<'_>,
    ) -> Label {
        let [width, height] = self.size();
        let schedule = settings
            .schedule
            .unwrap_or_else(|| ScheduleConfig::of(&self.family));
        let [init, strength, mask] = self.init.as_ref().map(Init::names).unwrap_or_default();
        let guide = match &self.guide {
            Some((name, _)) => name.clone(),
            None => String::new(),
        };
        Label(vec![
            ("prompt", picture.prompt.to_owned()),
            ("seed", seed.to_string()),
            ("place", picture.place.to_string()),
            ("steps", settings.steps.to_string()),
            ("guidance", settings.guidance.to_string()),
            ("solver", format!("{:?}", settings.solver)),
            ("rescale", settings.rescale.to_string()),
            ("interval", json(&settings.interval)),
            ("negative", settings.negative.clone().unwrap_or_default()),
            ("schedule", json(&schedule)),
            ("churn", json(&settings.churn)),
            ("init", init),
            ("strength", strength),
            ("mask", mask),
            ("guide", guide),
            ("size", format!("{width}x{height}")),
            ("weights", self.weights.clone()),
            ("model", json(&self.model)),
            ("diffusion", json(&self.diffusion)),
            ("text_encoder", self.conditioner.0.clone()),
            ("vae", self.codec.0.clone()),
            (
                "software",
                concat!("microdit ", env!("CARGO_PKG_VERSION")).to_owned(),
            ),
        ])
    }
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("settings are plain data")
}

/// What a label says about weights in a file: their content.
pub(super) fn of_file(path: &Path) -> Result<String, TrainError> {
    let (_, sha256) = checksum::of_file(path).map_err(TrainError::io(path))?;
    Ok(format!("sha256:{sha256}"))
}
