//! The networks of a distillation's CLIP term: opened, and known again. They are not the run's, and not in its checkpoints.

use crate::{
    error::TrainError,
    recipe::{ClipLoss, CodecConfig, Stage},
};
use burn::tensor::{Tensor, TensorData};
use microdit::{DitBackend, task::picked};
use microdit_data::Batch;
use microdit_encoders::{
    ClipEmbedder, PixelCodec,
    features::{ClipImage, ClipImageConfig},
    hub::locate,
    text::TextEncoder,
    vae::{self, AutoencoderTiny},
};
use std::{
    ops::Range,
    path::{Path, PathBuf},
};

/// Keys that name the networks.
pub(crate) const MODEL: &str = "distill.clip.model";
pub(crate) const DECODER: &str = "distill.clip.decoder";

/// What may lie beside CLIP's weights: sizes, activation, and how images are resized and normalized.
const CLIP_CONFIGS: [&str; 3] = [
    "config.json",
    "preprocessor_config.json",
    "open_clip_config.json",
];

impl Stage {
    /// Itself without the networks of its losses, which what draws does not need.
    pub(crate) fn without_clip(&self) -> Self {
        let mut stage = self.clone();
        if let Some(distill) = &mut stage.distill {
            distill.clip = None;
        }
        stage
    }

    /// The networks of its CLIP term, by their keys.
    pub(crate) fn clip_networks(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let clip = self.clip();
        let named = [
            (MODEL, clip.map(|clip| clip.model.as_path())),
            (DECODER, clip.and_then(|clip| clip.decoder.as_deref())),
        ];
        let named = named.into_iter();
        named.filter_map(|(key, path)| Some((key, path?)))
    }

    /// What embeds the student's images.
    pub(crate) fn embedder<B: DitBackend>(
        &self,
        clip: &ClipLoss,
        device: &B::Device,
    ) -> Result<ClipEmbedder<B>, TrainError> {
        let tower = || -> Result<_, TrainError> {
            Ok(ClipImage::<B>::open(&locate(&clip.model)?, device)?)
        };
        let tower = tower().map_err(|error| self.about(MODEL, error))?;
        let Some(decoder) = &clip.decoder else {
            let scale = match self.data.codec() {
                Some(CodecConfig::Pixels { scale }) => scale,
                None => 1.0,
            };
            return Ok(ClipEmbedder::of_pixels(PixelCodec { scale }, tower));
        };
        let decoder = || -> Result<_, TrainError> {
            let decoder = AutoencoderTiny::<B>::open(&locate(decoder)?, device)?;
            let (channels, [expected, ..]) =
                (decoder.config().latent_channels, self.model.latent());
            match channels == expected {
                true => Ok(decoder),
                false => Err(TrainError::Misfit {
                    what: "decoder",
                    channels,
                    expected,
                }),
            }
        };
        let decoder = decoder().map_err(|error| self.about(DECODER, error))?;
        Ok(ClipEmbedder::of_latents(decoder, tower))
    }
}

/// The files of the network that is the value of `key`: weights, and of CLIP what else says how it sees an image.
pub(crate) fn weight_files(key: &str, name: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let path = locate(name)?;
    Ok(match key {
        MODEL => {
            let mut files = ClipImageConfig::weight_files(&path)?;
            let others = CLIP_CONFIGS.map(|name| path.join(name));
            files.extend(others.into_iter().filter(|file| file.is_file()));
            files
        }
        _ => vae::files(&path)?
            .weights
            .files()
            .map(Path::to_owned)
            .collect(),
    })
}

/// Embeddings of a batch's captions.
#[derive(Clone, Debug)]
pub(crate) struct Embeddings {
    /// `[batch, dim]`, row-major; zeros where nobody asked.
    values: Vec<f32>,
    dim: usize,
}

impl Embeddings {
    /// Those of `samples`, `[samples, dim]`.
    pub(crate) fn of<B: DitBackend>(&self, samples: &[usize], device: &B::Device) -> Tensor<B, 2> {
        let values = picked(&self.values, self.dim, samples);
        Tensor::from_data(TensorData::new(values, [samples.len(), self.dim]), device)
    }
}

/// CLIP's text tower, which reads captions step by step: a cache of them would grow with the data.
#[derive(Debug)]
pub(crate) struct CaptionEmbedder<B: DitBackend>(TextEncoder<B>);

impl<B: DitBackend> CaptionEmbedder<B> {
    /// That of the term of `stage`, if it has one.
    pub(crate) fn open(stage: &Stage, device: &B::Device) -> Result<Option<Self>, TrainError> {
        let Some(clip) = stage.clip() else {
            return Ok(None);
        };
        let open = || -> Result<_, TrainError> {
            let folder = locate(&clip.model)?;
            let image = ClipImageConfig::of(&folder)?;
            Ok((TextEncoder::open(&folder, device)?, image))
        };
        let (tower, image) = open().map_err(|error| stage.about(MODEL, error))?;
        match tower.dim().is_some() && tower.dim() == image.projection {
            true => Ok(Some(Self(tower))),
            false => Err(towers(stage)),
        }
    }

    /// Embeddings of the captions of `samples`, `part` at a time; none once the weight of the term is zero.
    pub(crate) fn embed(
        &self,
        batch: &Batch,
        stage: &Stage,
        parts: impl Iterator<Item = Range<usize>>,
        stage_step: u64,
        device: &B::Device,
    ) -> Result<Option<Embeddings>, TrainError> {
        let term = stage.clip().map(|clip| clip.term(stage.steps));
        if term.and_then(|term| term.fading.at(stage_step)).is_none() {
            return Ok(None);
        }
        let mut embeddings: Option<Embeddings> = None;
        for part in parts {
            let texts = &batch.texts[part.clone()];
            if let Some(place) = texts.iter().position(String::is_empty) {
                return Err(TrainError::NoText {
                    stage: stage.name.clone(),
                    key: batch.keys[part.start + place].clone(),
                });
            }
            let features = self.0.features(texts, device);
            let features = features.ok_or_else(|| towers(stage))?;
            let dim = features.dims()[1];
            let found = embeddings.get_or_insert_with(|| Embeddings {
                values: vec![0.0; batch.keys.len() * dim],
                dim,
            });
            let place = &mut found.values[part.start * dim..part.end * dim];
            let read = features.into_data();
            place
                .iter_mut()
                .zip(read.iter::<f32>())
                .for_each(|(place, value)| *place = value);
        }
        Ok(embeddings)
    }
}

fn towers(stage: &Stage) -> TrainError {
    TrainError::Towers {
        stage: stage.name.clone(),
    }
}
