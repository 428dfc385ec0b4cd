//! Between data and task: a batch of the loader as latents and conditioning, as the recipe says.

use crate::{
    encoders::Encoders,
    error::TrainError,
    recipe::{CodecConfig, EncoderConfig, Recipe, Stage},
};
use burn::tensor::{Tensor, TensorData};
use microdit::{
    DitBackend,
    net::Conditioning,
    task::{Samples, picked},
};
use microdit_data::{Batch, Captions};
use microdit_encoders::{HashedWords, PixelCodec};

/// A batch of a stage on a device.
pub(crate) struct StageBatch<'a, B: DitBackend> {
    stage: &'a Stage,
    batch: &'a Batch,
    device: &'a B::Device,
    /// What stands in place of a dropped caption, where that is not zeros.
    dropped: Option<&'a [f32]>,
}

impl<'a, B: DitBackend> StageBatch<'a, B> {
    pub(crate) fn new(stage: &'a Stage, batch: &'a Batch, device: &'a B::Device) -> Self {
        Self {
            stage,
            batch,
            device,
            dropped: None,
        }
    }

    /// The same with a vector of all tokens in place of dropped captions.
    pub(crate) fn with_dropped(self, dropped: Option<&'a [f32]>) -> Self {
        Self { dropped, ..self }
    }
}

impl<B: DitBackend> Samples<B> for StageBatch<'_, B> {
    fn count(&self) -> usize {
        self.batch.keys.len()
    }

    fn latents(&self, samples: &[usize]) -> Tensor<B, 4> {
        let [channels, height, width] = self.batch.shape;
        let shape = [samples.len(), channels, height, width];
        let images = picked(&self.batch.images, channels * height * width, samples);
        let values = match self.stage.data.codec() {
            Some(CodecConfig::Pixels { scale }) => PixelCodec { scale }.encode(&images),
            None => images,
        };
        Tensor::from_data(TensorData::new(values, shape), self.device)
    }

    fn conditioning(&self, samples: &[usize]) -> Conditioning<B> {
        let (words, channels) = (
            self.stage.data.tokens(),
            self.stage.model.caption_channels(),
        );
        let captions = match &self.batch.captions {
            Captions::Texts(texts) => {
                let texts: Vec<&str> = samples.iter().map(|&i| texts[i].as_str()).collect();
                let encoder = hashed_words(self.stage);
                encoder.on(&texts, self.device)
            }
            Captions::Vectors(values) => {
                let values = picked(values, words * channels, samples);
                let shape = [samples.len(), words, channels];
                Tensor::from_data(TensorData::new(values, shape), self.device)
            }
        };
        Conditioning { captions }
    }

    fn dropped(&self, samples: &[usize]) -> Option<Conditioning<B>> {
        let (words, channels) = (
            self.stage.data.tokens(),
            self.stage.model.caption_channels(),
        );
        let data = TensorData::new(self.dropped?.to_vec(), [1, words, channels]);
        let captions = Tensor::<B, 3>::from_data(data, self.device);
        Some(Conditioning {
            captions: captions.expand([samples.len(), words, channels]),
        })
    }
}

/// What stands in place of a dropped caption in `stage`, `[tokens, channels]` on the host; none for zeros.
///
/// # Errors
/// A text encoder that is not there, or that does not fit the network.
pub(crate) fn dropped_caption<B: DitBackend>(
    recipe: &Recipe,
    stage: &Stage,
    device: &B::Device,
) -> Result<Option<Vec<f32>>, TrainError> {
    let Some(text) = &stage.dropped_caption else {
        return Ok(None);
    };
    let captions: Tensor<B, 3> = match stage.data.captions() {
        Some(_) => hashed_words(stage).on(&[text], device),
        None => {
            let config = EncoderConfig {
                vae: None,
                text: recipe.run.encoders.text.clone(),
            };
            let encoder = Encoders::<B>::open(&config, device)?.text()?;
            encoder.encode(&[text], device)
        }
    };
    let [_, tokens, channels] = captions.dims();
    let expected = [stage.data.tokens(), stage.model.caption_channels()];
    if [tokens, channels] != expected {
        return Err(TrainError::Misfit {
            what: "text encoder of dropped_caption",
            channels: tokens * channels,
            expected: expected.iter().product(),
        });
    }
    Ok(Some(captions.into_data().iter().collect()))
}

/// The stand-in for a text encoder, with the sizes of `stage`.
pub(crate) fn hashed_words(stage: &Stage) -> HashedWords {
    HashedWords {
        tokens: stage.data.tokens(),
        channels: stage.model.caption_channels(),
    }
}
