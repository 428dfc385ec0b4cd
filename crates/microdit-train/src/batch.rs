//! Between data and task: a batch of the loader as latents and conditioning, as the recipe says.

use crate::{
    clip_term::{CaptionEmbedder, Embeddings},
    encoders::Encoders,
    error::TrainError,
    recipe::{CodecConfig, EncoderConfig, Recipe, Stage},
    sampling::Surroundings,
};
use burn::tensor::{Tensor, TensorData};
use microdit::{
    DitBackend,
    net::Conditioning,
    task::{Samples, picked},
};
use microdit_data::{Batch, Captions};
use microdit_encoders::{Conditioner, HashedWords, PixelCodec};
use std::{ops::Range, sync::Arc};

/// A batch of a stage on a device.
pub(crate) struct StageBatch<'a, B: DitBackend> {
    stage: &'a Stage,
    batch: &'a Batch,
    device: &'a B::Device,
    /// What stands in place of a dropped caption, where that is not zeros.
    dropped: Option<&'a [f32]>,
    /// What captions are compared with images as, where a loss does so.
    embeddings: Option<&'a Embeddings>,
}

impl<'a, B: DitBackend> StageBatch<'a, B> {
    pub(crate) fn new(stage: &'a Stage, batch: &'a Batch, device: &'a B::Device) -> Self {
        Self {
            stage,
            batch,
            device,
            dropped: None,
            embeddings: None,
        }
    }

    /// The same with a vector of all tokens in place of dropped captions.
    pub(crate) fn with_dropped(self, dropped: Option<&'a [f32]>) -> Self {
        Self { dropped, ..self }
    }

    /// The same with embeddings of its captions.
    pub(crate) fn with_embeddings(self, embeddings: Option<&'a Embeddings>) -> Self {
        Self { embeddings, ..self }
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

    fn embeddings(&self, samples: &[usize]) -> Option<Tensor<B, 2>> {
        Some(self.embeddings?.of(samples, self.device))
    }
}

/// What reads texts while a stage is trained, where its data say nothing of them: prompts without vectors, the text that stands in place of
/// a dropped caption, and captions that are compared with images.
pub(crate) struct Reader<B: DitBackend> {
    /// For captions that are to be read as the run goes.
    conditioner: Option<Arc<dyn Conditioner<B>>>,
    /// What stands in place of a dropped caption, `[tokens, channels]`; none for zeros.
    pub(crate) dropped: Option<Vec<f32>>,
    /// For captions that images are compared with.
    embedder: Option<CaptionEmbedder<B>>,
    device: B::Device,
}

impl<B: DitBackend> Reader<B> {
    /// The reader of `stage`.
    ///
    /// # Errors
    /// A text encoder that is not there, or that does not fit the network.
    pub(crate) fn of(
        recipe: &Recipe,
        stage: &Stage,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        let mut reader = Self {
            conditioner: None,
            dropped: None,
            embedder: CaptionEmbedder::open(stage, device)?,
            device: device.clone(),
        };
        if stage.prompts().is_none() && stage.dropped_caption.is_none() {
            return Ok(reader);
        }
        let encoded = stage.data.captions().is_none();
        let text = recipe.run.encoders.text.clone();
        let config = EncoderConfig {
            vae: None,
            text: text.filter(|_| encoded),
        };
        let encoders = Encoders::open(&config, device)?;
        // As prompts are read when the network draws.
        let (_, conditioner) = Surroundings::of_stage(stage).conditioner(&encoders)?;
        if let Some(text) = &stage.dropped_caption {
            let captions = conditioner.encode(&[text], device).captions;
            let [_, tokens, channels] = captions.dims();
            let expected = [stage.data.tokens(), stage.model.caption_channels()];
            if [tokens, channels] != expected {
                let found = [tokens, channels];
                return Err(TrainError::Misread { found, expected });
            }
            reader.dropped = Some(captions.into_data().iter().collect());
        }
        if stage.prompts().is_some() && encoded {
            reader.conditioner = Some(conditioner);
        }
        Ok(reader)
    }

    /// `batch`, of which the captions of `samples` are read; those of the others are zeros.
    ///
    /// # Errors
    /// A text encoder that does not fit the network.
    pub(crate) fn read(
        &self,
        mut batch: Batch,
        stage: &Stage,
        samples: Range<usize>,
    ) -> Result<Batch, TrainError> {
        let (Some(conditioner), Captions::Texts(texts)) = (&self.conditioner, &batch.captions)
        else {
            return Ok(batch);
        };
        let expected = [stage.data.tokens(), stage.model.caption_channels()];
        let size: usize = expected.iter().product();
        let mut values = vec![0.0; size * texts.len()];
        for Range { start, end } in parts(stage, samples) {
            let part: Vec<&str> = texts[start..end].iter().map(String::as_str).collect();
            let captions = conditioner.encode(&part, &self.device).captions;
            let [_, tokens, channels] = captions.dims();
            if [tokens, channels] != expected {
                let found = [tokens, channels];
                return Err(TrainError::Misread { found, expected });
            }
            let read = captions.into_data();
            let place = &mut values[start * size..end * size];
            place
                .iter_mut()
                .zip(read.iter::<f32>())
                .for_each(|(place, value)| *place = value);
        }
        batch.captions = Captions::Vectors(values);
        Ok(batch)
    }

    /// What the captions of `samples` are compared with images as in this step of `stage`; none where nothing compares them.
    ///
    /// # Errors
    /// A caption whose text is not known.
    pub(crate) fn embeddings(
        &self,
        batch: &Batch,
        stage: &Stage,
        samples: Range<usize>,
        stage_step: u64,
    ) -> Result<Option<Embeddings>, TrainError> {
        let Some(embedder) = &self.embedder else {
            return Ok(None);
        };
        let parts = parts(stage, samples);
        embedder.embed(batch, stage, parts, stage_step, &self.device)
    }
}

/// `samples` in parts of as many as are computed at once.
fn parts(stage: &Stage, samples: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let (part, end) = (
        stage.micro_batch.unwrap_or(samples.len()).max(1),
        samples.end,
    );
    let starts = samples.step_by(part);
    starts.map(move |start| start..(start + part).min(end))
}

/// The stand-in for a text encoder, with the sizes of `stage`.
pub(crate) fn hashed_words(stage: &Stage) -> HashedWords {
    HashedWords {
        tokens: stage.data.tokens(),
        channels: stage.model.caption_channels(),
    }
}
