//! What must hold between the values of a recipe.

use super::{CaptionConfig, CodecConfig, Dataset, Recipe, Stage, Weighted, problem};
use crate::error::TrainError;

impl Recipe {
    /// Checks what the types do not.
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        let run = &self.run;
        require(
            !self.stages.is_empty(),
            "stages",
            "a run needs at least one stage",
        )?;
        require(run.log_every > 0, "log_every", "must be at least 1")?;
        require(
            run.checkpoints.every > 0,
            "checkpoints.every",
            "must be at least 1",
        )?;
        require(
            run.checkpoints.keep > 0,
            "checkpoints.keep",
            "must be at least 1",
        )?;
        require(
            run.max_broken_steps > 0,
            "max_broken_steps",
            "must be at least 1",
        )?;
        require(
            run.checkpoints.milestones != Some(0),
            "checkpoints.milestones",
            "must be at least 1",
        )?;
        require(
            run.sampling.every != Some(0),
            "sampling.every",
            "must be at least 1",
        )?;
        let pixels = |stage: &Stage| stage.codec != CodecConfig::Latents;
        let encoders = run.encoders.vae.is_some() && run.encoders.text.is_some();
        require(
            run.sampling.every.is_none() || encoders || self.stages.iter().all(pixels),
            "sampling.every",
            "latents cannot become pictures without encoders.vae and encoders.text; name them, or remove it",
        )?;
        require(
            run.budget.usd.is_none() || run.budget.usd_per_gpu_hour.is_some(),
            "budget.usd_per_gpu_hour",
            "a budget in dollars needs the price of a device",
        )?;
        if let Some(evaluation) = &run.evaluation {
            let positive = evaluation.every > 0 && evaluation.samples > 0;
            require(
                positive,
                "evaluation",
                "every and samples must be at least 1",
            )?;
            let generated = |stage: &Stage| stage.data.dataset == Dataset::Shapes;
            require(
                evaluation.shards.is_some() || self.stages.iter().all(generated),
                "evaluation.shards",
                "name shards that are not trained on",
            )?;
        }
        for (i, stage) in self.stages.iter().enumerate() {
            let key = |key: &str| format!("stages.{}.{key}", stage.name);
            stage.validate()?;
            let Some(before) = i.checked_sub(1).map(|i| &self.stages[i]) else {
                continue;
            };
            require(
                self.stages[..i]
                    .iter()
                    .all(|other| other.name != stage.name),
                &key("name"),
                "two stages have this name",
            )?;
            let mut same = stage.model.clone();
            same.input_size = before.model.input_size;
            same.pos_interp_scale = before.model.pos_interp_scale;
            same.precision = before.model.precision;
            require(
                same == before.model,
                &key("model"),
                "between stages only input_size, pos_interp_scale and precision may change: the weights are handed on",
            )?;
        }
        Ok(())
    }
}

impl Stage {
    fn validate(&self) -> Result<(), TrainError> {
        let key = |key: &str| format!("stages.{}.{key}", self.name);
        self.model.validate()?;
        require(self.batch > 0, &key("batch"), "must be at least 1")?;
        require(
            self.micro_batch != Some(0),
            &key("micro_batch"),
            "must be at least 1",
        )?;
        if let Some((name, rule)) = self.optimiser.broken_rule() {
            return Err(problem(&key(&format!("optimiser.{name}")), &rule));
        }
        self.validate_data()?;
        require(
            self.captions.tokens() > 0,
            &key("captions.tokens"),
            "must be at least 1",
        )?;
        let drop = (0.0..=1.0).contains(&self.captions.drop());
        require(drop, &key("captions.drop"), "must be in 0..=1")?;
        let masking = key("masking");
        require(
            (0.0..1.0).contains(&self.masking.ratio()),
            &masking,
            "the ratio must be in 0..1",
        )?;
        let kept = self.masking.kept(self.model.tokens());
        require(kept > 0, &masking, "no token would be kept")?;
        let capacity = self.model.validate_capacity(kept);
        capacity.map_err(|error| problem(&masking, &format!("{kept} tokens are kept: {error}")))
    }
}

impl Stage {
    /// Data, codec and captions must speak of the same things.
    fn validate_data(&self) -> Result<(), TrainError> {
        let key = |key: &str| format!("stages.{}.{key}", self.name);
        let latents = self.data.dataset == Dataset::Latents;
        require(
            latents == (self.codec == CodecConfig::Latents),
            &key("codec"),
            "the Latents dataset goes with codec: Latents, and only with it",
        )?;
        require(
            latents == matches!(self.captions, CaptionConfig::Precomputed { .. }),
            &key("captions"),
            "the Latents dataset goes with captions: Precomputed(...), and only with it",
        )?;
        let pixels =
            self.model.in_channels == 3 && self.model.input_size == self.data.image_size as usize;
        require(
            latents || pixels,
            &key("model.input_size"),
            "with the Pixels codec, in_channels must be 3 and input_size equal data.image_size",
        )?;
        require(
            self.data.shards.is_none() || self.data.mix.is_empty(),
            &key("data.mix"),
            "names shards besides data.shards; name all of them here",
        )?;
        let positive = |part: &Weighted| part.weight > 0.0 && part.weight.is_finite();
        require(
            self.data.mix.iter().all(positive),
            &key("data.mix"),
            "weights must be above 0",
        )?;
        require(
            (0.0..=1.0).contains(&self.data.max_damage),
            &key("data.max_damage"),
            "must be in 0..=1",
        )?;
        require(
            self.data.dataset == Dataset::Shapes || !self.data.lists().is_empty(),
            &key("data.shards"),
            "this dataset needs its shards; add --set data.shards=PATH (a tar, a directory of tars, or a pattern)",
        )
    }
}

fn require(holds: bool, key: &str, rule: &str) -> Result<(), TrainError> {
    if holds {
        Ok(())
    } else {
        Err(problem(key, &rule))
    }
}
