//! Rules between the values of a recipe; those for a single value are in its type.

use super::{Recipe, Stage, file::validate_name};
use microdit::{
    Masking,
    range::{OutOfRange, require, within},
};
use microdit_data::{BucketConfig, Buckets};

/// Most images of a run. The held-out samples of a generated dataset lie beyond them.
pub const MAX_IMAGES: u64 = 1 << 40;

/// Most bytes of a batch as the network sees it.
const MAX_BATCH_BYTES: u128 = 1 << 40;

impl Recipe {
    /// Checks what the types cannot; the key of an error is a path as `--set` takes it.
    pub(super) fn validate(&self) -> Result<(), OutOfRange> {
        self.run.validate()?;
        require(!self.stages.is_empty(), "stages", || {
            "a run needs at least one stage".into()
        })?;
        for (i, stage) in self.stages.iter().enumerate() {
            // Before its name is known to be valid, it is not part of a path.
            let place = |place: &str| format!("stages.{place}");
            validate_name(&stage.name, false)
                .map_err(|error| error.inside(&place(&i.to_string())))?;
            let inside = |error: OutOfRange| error.inside(&place(&stage.name));
            stage.validate().map_err(inside)?;
            stage.validate_training(i == 0).map_err(inside)?;
            stage.follows(&self.stages[..i]).map_err(inside)?;
            if let Some(evaluation) = &self.run.evaluation {
                stage.fits("evaluation.samples", evaluation.samples)?;
            }
        }
        self.validate_between()
    }

    fn validate_between(&self) -> Result<(), OutOfRange> {
        let images = |stage: &Stage| stage.steps.checked_mul(stage.batch as u64);
        let images = self.stages.iter().try_fold(0u64, |sum, stage| {
            sum.checked_add(images(stage)?)
                .filter(|sum| *sum <= MAX_IMAGES)
        });
        require(images.is_some(), "stages", || {
            format!("steps x batch of all stages are more than {MAX_IMAGES} images")
        })?;
        let run = &self.run;
        let pixels = |stage: &Stage| stage.data.codec().is_some();
        let encoders = run.encoders.vae.is_some() && run.encoders.text.is_some();
        let drawable = encoders || self.stages.iter().all(pixels);
        let inside = |error: OutOfRange| error.inside("sampling");
        let diffusion = &self.last_stage().diffusion;
        run.sampling.validate_for(diffusion).map_err(inside)?;
        if self.last_stage().distill.is_some() {
            run.sampling.validate_one_step().map_err(inside)?;
        }
        require(
            run.sampling.every.is_none() || drawable,
            "sampling.every",
            || {
                "latents cannot become pictures without encoders.vae and encoders.text; name them, or remove it".into()
            },
        )?;
        for (i, stage) in self.stages.iter().enumerate() {
            let prompts = stage.distill.as_ref().and_then(|own| own.prompts.as_ref());
            let texts = [
                ("dropped_caption", stage.dropped_caption.is_some()),
                ("distill.prompts", prompts.is_some()),
            ];
            for (key, named) in texts {
                let read = pixels(stage) || run.encoders.text.is_some();
                require(read || !named, &format!("stages.{i}.{key}"), || {
                    "nothing reads it; name a text encoder in encoders.text, or leave it out".into()
                })?;
            }
        }
        let distance = run.evaluation.as_ref();
        let Some(distance) = distance.and_then(|config| config.feature_distance.as_ref()) else {
            return Ok(());
        };
        let key = "evaluation.feature_distance";
        require(drawable, key, || {
            "latents cannot become pictures without encoders.vae and encoders.text; name them, or remove it".into()
        })?;
        let pictures = self.stages.iter().all(pixels) || distance.reference.is_some();
        require(pictures, &format!("{key}.reference"), || {
            "the held-out shards are latents; name the pictures to compare with".into()
        })
    }
}

impl Stage {
    fn validate(&self) -> Result<(), OutOfRange> {
        let inside = |part: &'static str| move |error: OutOfRange| error.inside(part);
        let sizes = self.model.validate().map_err(OutOfRange::from);
        sizes.map_err(inside("model"))?;
        within("steps", self.steps, 1..=MAX_IMAGES)?;
        within("batch", self.batch, 1..=1 << 24)?;
        within("micro_batch", self.micro_batch.unwrap_or(1), 1..=1 << 24)?;
        within("evaluate_every", self.evaluate_every.unwrap_or(1), 1..)?;
        within("draw_every", self.draw_every.unwrap_or(1), 1..)?;
        self.diffusion.validate().map_err(inside("diffusion"))?;
        self.data.validate().map_err(inside("data"))?;
        within("caption_drop", self.caption_drop, 0.0..=1.0)?;
        if let Some(reconstruction) = &self.reconstruction {
            let ranges = reconstruction.validate();
            ranges.map_err(inside("reconstruction"))?;
            require(self.model.predicts_dropped(), "reconstruction", || {
                "the network predicts the kept patches alone: it needs model.decoder".into()
            })?;
        }
        let extra = self.model.extra_channels();
        require(extra == 0, "model.in_channels", || {
            format!(
                "{extra} more than out_channels: a network for inpainting is drawn with, not trained"
            )
        })?;
        self.distributed.validate().map_err(inside("distributed"))?;
        self.optimizer.validate().map_err(inside("optimizer"))?;
        self.schedule.validate().map_err(inside("schedule"))?;
        for (i, ema) in self.ema.iter().enumerate() {
            let place = format!("ema.{i}");
            ema.validate().map_err(|error| error.inside(&place))?;
        }
        if let Some(post_hoc) = &self.post_hoc_ema {
            post_hoc.validate().map_err(inside("post_hoc_ema"))?;
        }
        self.fits("batch", self.batch)?;
        self.validate_pixels()?;
        let tokens = self.model.tokens();
        self.masking.validate(tokens).map_err(inside("masking"))?;
        self.validate_buckets()?;
        let deferred = matches!(
            self.masking,
            Masking::Deferred { .. } | Masking::DeferredBlocks { .. }
        );
        require(!deferred || self.model.defers_masking(), "masking", || {
            "deferred masking drops patches behind the patch-mixer, and model.mixer is None: give the network one, or say \
             Naive(...), or NaiveBlocks(...), which is what it would be"
                .into()
        })?;
        let kept = self.masking.kept(tokens);
        let capacity = self.model.validate_tokens(kept, tokens);
        capacity
            .map_err(|error| OutOfRange::new("masking", format!("{kept} tokens are kept: {error}")))
    }

    /// Checks that this many samples, the value of `key`, take no more bytes than a machine holds.
    fn fits(&self, key: &str, samples: usize) -> Result<(), OutOfRange> {
        let bytes = self.sample_bytes() * samples as u128;
        require(bytes <= MAX_BATCH_BYTES, key, || {
            format!(
                "{samples} samples as the network sees them take {bytes} bytes, more than {MAX_BATCH_BYTES}"
            )
        })
    }

    /// Bytes of an image and its caption as the network sees them.
    pub(crate) fn sample_bytes(&self) -> u128 {
        let product = |sizes: &[usize]| sizes.iter().map(|&size| size as u128).product::<u128>();
        let caption = [self.data.tokens(), self.model.caption_channels()];
        4 * (product(&self.model.latent()) + product(&caption))
    }

    /// Pixels must be those the network takes.
    fn validate_pixels(&self) -> Result<(), OutOfRange> {
        let size = self.data.image_size() as usize;
        let [channels, height, width] = self.model.latent();
        let any = self.data.codec().is_none();
        require(any || channels == 3, "model.in_channels", || {
            format!("pixels have 3 channels, not {channels}")
        })?;
        require(
            any || [height, width] == [size; 2],
            "model.input_size",
            || format!("with the Pixels codec it equals data.image_size, which is {size}"),
        )
    }

    /// Pixels of a picture's side for each of the latent's.
    pub(crate) fn shrinks_by(&self) -> usize {
        let [_, height, _] = self.model.latent();
        self.data.image_size() as usize / height.max(1)
    }

    /// The sizes of its batches; none if all are squares.
    ///
    /// # Errors
    /// Numbers that give no sizes.
    pub(crate) fn buckets(&self) -> Result<Option<Buckets>, OutOfRange> {
        let config = self.data.buckets();
        let buckets = config.map(|config| config.of(self.data.image_size()));
        let buckets = buckets.transpose();
        buckets.map_err(|error| error.inside("data.buckets"))
    }

    /// The network takes every size, and masking leaves tokens of each.
    fn validate_buckets(&self) -> Result<(), OutOfRange> {
        let Some(buckets) = self.buckets()? else {
            return Ok(());
        };
        let key = match self.data.buckets() {
            Some(BucketConfig::Step { .. }) => "data.buckets.step",
            _ => "data.buckets",
        };
        let unit = self.shrinks_by() * self.model.patch_size();
        let whole = self.data.image_size() as usize == self.shrinks_by() * self.model.latent()[1];
        require(whole, "data.image_size", || {
            format!(
                "{} is not a multiple of model.input_size",
                self.data.image_size()
            )
        })?;
        for &[width, height] in buckets.sizes() {
            let sides = [width, height].map(|side| side as usize);
            require(
                sides.iter().all(|side| side.is_multiple_of(unit)),
                key,
                || {
                    format!(
                        "a width of {width} and a height of {height} are not both multiples of {unit} pixels, the side of a patch at this image_size"
                    )
                },
            )?;
            let tokens = sides.iter().map(|side| side / unit).product();
            let wrong = |rule: String| {
                OutOfRange::new(
                    key,
                    format!("a width of {width} and a height of {height}: {rule}"),
                )
            };
            let masked = self.masking.validate(tokens);
            masked.map_err(|error| wrong(error.to_string()))?;
            let kept = self.masking.kept(tokens);
            let capacity = self.model.validate_tokens(kept, tokens);
            capacity.map_err(|error| wrong(error.to_string()))?;
        }
        Ok(())
    }

    /// Checks that the weights of the stage before can be handed on to this one.
    fn follows(&self, before: &[Stage]) -> Result<(), OutOfRange> {
        let Some(last) = before.last() else {
            return Ok(());
        };
        let other = before.iter().all(|stage| stage.name != self.name);
        require(other, "name", || "two stages have this name".into())?;
        let belongs = self.weights.is_none() || !self.hand_over.optimizer;
        require(belongs, "hand_over.optimizer", || {
            "the moments are of the weights handed on, and the stage names others; leave it out, or weights".into()
        })?;
        require(
            self.weights.is_some() || self.data.trimmed() == last.data.trimmed(),
            "data.trimmed",
            || {
                "captions with padding and without are different conditionings; the weights are handed on".into()
            },
        )?;
        let handed = self.weights.is_some() || self.model.takes_weights_of(&last.model);
        require(handed, "model", || {
            "between stages only input_size, pos_interp_scale and precision may change: the weights are handed on".into()
        })
    }
}
