//! What a stage trains, in numbers: how large its networks are, and how often each is asked.

use crate::recipe::{ClipLoss, Distillation, Stage};
use microdit::{
    net::{Flops, Tokens},
    nn::lora::{LoraConfig, LoraSizes},
};
use microdit_encoders::{ClipEmbedderSizes, hub::locate};

/// Bytes of a number that is f32.
const BYTES: f64 = 4.0;

/// Sizes of what a stage holds and trains, in values.
pub(super) struct Training<'a> {
    stage: &'a Stage,
    /// Of the network.
    network: usize,
    /// Its adapters.
    lora: Option<LoraSizes>,
    /// How it is distilled.
    distill: Option<&'a Distillation>,
    /// The critic's adapters.
    critic: Option<LoraSizes>,
    /// The networks of its CLIP term.
    clip: Option<(&'a ClipLoss, ClipEmbedderSizes)>,
}

/// Sizes of the networks of a CLIP term as their files have them; of those that are not there, SwiftBrush v2's.
fn embedder(clip: &ClipLoss) -> ClipEmbedderSizes {
    let found = || {
        let model = locate(&clip.model).ok()?;
        let decoder = clip.decoder.as_deref().map(locate);
        let decoder = decoder.transpose().ok()?;
        ClipEmbedderSizes::of(&model, decoder.as_deref()).ok()
    };
    found().unwrap_or_else(|| {
        let assumed = ClipEmbedderSizes::swift_brush();
        ClipEmbedderSizes {
            decoder: assumed.decoder.filter(|_| clip.decoder.is_some()),
            ..assumed
        }
    })
}

impl<'a> Training<'a> {
    /// That of `stage`, which is valid.
    pub(super) fn of(stage: &'a Stage) -> Self {
        let sizes = |lora: &LoraConfig| {
            let layers = stage.model.layers().unwrap_or_default();
            lora.sizes(layers).unwrap_or_default()
        };
        Self {
            stage,
            network: stage.model.parameters(),
            lora: stage.lora.as_ref().map(sizes),
            distill: stage.distill.as_ref(),
            critic: stage
                .distill
                .as_ref()
                .and_then(|own| own.critic.as_ref())
                .map(sizes),
            clip: stage.clip().map(|clip| (clip, embedder(clip))),
        }
    }

    /// Values that are trained of the network, with its adapters.
    fn result(&self) -> usize {
        match self.lora {
            Some(lora) if self.stage.lora_alone => lora.adapters,
            Some(lora) => self.network + lora.adapters,
            None => self.network,
        }
    }

    /// Values that are trained.
    fn trained(&self) -> usize {
        self.result() + self.critic.map_or(0, |critic| critic.adapters)
    }

    /// Bytes of the networks and their adapters, of the copies that adapters make of the weights they are added to, and of the networks of
    /// losses.
    pub(super) fn weights(&self) -> f64 {
        let adapters = self.lora.map_or(0, |lora| lora.adapters + lora.adapted);
        let own = BYTES * (self.network + adapters) as f64;
        let clip = self.clip.as_ref();
        let clip = clip.map_or(0.0, |(_, sizes)| BYTES * sizes.parameters());
        let teacher = self.distill.map_or(0.0, |distill| {
            distill.teacher_storage.bytes() as f64 * self.network as f64
        });
        let critic = self
            .critic
            .map_or(0, |critic| critic.adapters + critic.adapted);
        own + clip + teacher + BYTES * critic as f64
    }

    /// Bytes of the gradients: of what is trained, and of the weights that adapters are added to.
    pub(super) fn gradients(&self) -> f64 {
        let adapted = self.lora.map_or(0, |lora| lora.adapted);
        let critic = self.critic.map_or(0, |critic| critic.adapted);
        BYTES * (self.trained() + adapted + critic) as f64
    }

    /// Bytes of two moments of what is trained.
    pub(super) fn moments(&self) -> f64 {
        2.0 * BYTES * self.trained() as f64
    }

    /// Bytes of an average.
    pub(super) fn average(&self) -> f64 {
        BYTES * self.trained() as f64
    }

    /// Bytes that the passes of one image leave for the gradients. The critic's is recorded as a whole.
    pub(super) fn activations(&self, tokens: &Tokens, checkpointing: bool) -> f64 {
        let of = |checkpointing| self.stage.model.activations(tokens, checkpointing) as f64;
        let clip = self.clip.as_ref();
        let clip = clip.map_or(0.0, |(_, sizes)| BYTES * sizes.activations(self.latent()));
        of(checkpointing) + clip + self.critic.map_or(0.0, |_| of(false))
    }

    /// Height and width of the latents.
    fn latent(&self) -> [usize; 2] {
        let [_, height, width] = self.stage.model.latent();
        [height, width]
    }

    /// FLOPs of the CLIP term, as an average over the stage's steps: once its weight is zero, it costs nothing.
    fn clip_flop(&self) -> f64 {
        let Some((clip, sizes)) = &self.clip else {
            return 0.0;
        };
        let steps = self.stage.steps.max(1);
        let active = match clip.weight > 0.0 {
            true => clip.term(steps).fading.until.min(steps),
            false => 0,
        };
        sizes.flops(self.latent()).total() * active as f64 / steps as f64
    }

    /// FLOPs of an image: the student's pass and the critic's if there is one, forward and backward; and forward those of teacher and
    /// critic, which are compared, both with a caption and without where they are guided; and the CLIP term.
    pub(super) fn flop(&self, tokens: &Tokens) -> f64 {
        let flops: Flops = self.stage.model.flops(tokens);
        let Some(distill) = self.distill else {
            return flops.total();
        };
        let passes = if distill.guidance == 1.0 { 1.0 } else { 2.0 };
        let each = flops.total() + passes * flops.forward;
        let networks = if self.critic.is_some() { 2.0 } else { 1.0 };
        networks * each + self.clip_flop()
    }

    /// Networks by name, with their values and those of them that are trained, where there are several.
    pub(super) fn networks(&self) -> Vec<(String, usize, usize)> {
        let whose = match self.distill {
            Some(_) => "student",
            None => "network",
        };
        let own = if self.stage.lora_alone && self.lora.is_some() {
            0
        } else {
            self.network
        };
        let lora = self.lora.map(|lora| {
            let name = format!("{whose}'s adapters");
            (name, lora.adapters, lora.adapters)
        });
        let teacher = self
            .distill
            .map(|_| ("teacher".to_owned(), self.network, 0));
        let critic = self
            .critic
            .map(|critic| ("critic".to_owned(), critic.adapters, critic.adapters));
        let clip = self.clip.as_ref();
        let clip = clip.map(|(_, sizes)| {
            let name = match sizes.decoder {
                Some(_) => "CLIP and decoder",
                None => "CLIP",
            };
            (name.to_owned(), sizes.parameters() as usize, 0)
        });
        let first = [(whose.to_owned(), self.network, own)];
        let all = first.into_iter().chain(lora);
        all.chain(teacher).chain(critic).chain(clip).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Recipe, plan::flop_per_image, recipe::Stage};
    use burn_flex::Flex;
    use microdit::{task::Task as _, weights::StateDict};
    use std::path::Path;

    use super::*;

    fn stage(sets: &[&str]) -> Stage {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/quickstart.ron");
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        Recipe::load(&path, &sets).unwrap().stages.remove(1)
    }

    const LORA: &str = "stages.unmasked.lora=(layers: [\"qkv\", \"fc1\", \"w1\"], rank: 3)";
    const DISTILL: &str = "stages.unmasked.distill=(guidance: 2.0, teacher_storage: Bf16, critic: (layers: [\"qkv\"], rank: 5))";

    const ALONE: &str = "stages.unmasked.distill.critic=None";

    /// What is counted is what the task holds.
    #[test]
    fn sizes_are_those_of_the_task() {
        for sets in [
            &[][..],
            &[LORA],
            &[LORA, "stages.unmasked.lora_alone=false"],
            &[DISTILL, "sampling.steps=1", "sampling.guidance=1.0"],
            &[LORA, DISTILL, "sampling.steps=1", "sampling.guidance=1.0"],
            &[DISTILL, ALONE, "sampling.steps=1", "sampling.guidance=1.0"],
        ] {
            let stage = stage(sets);
            let training = Training::of(&stage);
            let task = stage.task::<Flex>(0, &Default::default()).unwrap();
            let count = |trained: bool| -> usize {
                let all = StateDict::from_module(&task);
                let counted = all.iter().filter(|(path, _)| {
                    let path: Vec<&str> = path.split('.').collect();
                    !trained || !task.is_frozen(&path)
                });
                counted.map(|(_, data)| data.num_elements()).sum()
            };
            let networks = training.networks();
            let all: usize = networks.iter().map(|(_, values, _)| values).sum();
            let trained: usize = networks.iter().map(|(_, _, trained)| trained).sum();
            assert_eq!((all, trained), (count(false), count(true)), "{networks:?}");
            assert_eq!(training.moments(), 8.0 * trained as f64);
        }
    }

    /// A CLIP term costs its networks' weights, what they leave for the way back, and their FLOPs while it has a weight.
    #[test]
    fn a_clip_term_is_priced() {
        let term = "stages.unmasked.distill.clip=(model: \"clip-b32\", tau: 0.37, weight: 0.1)";
        let plain = [DISTILL, "sampling.steps=1", "sampling.guidance=1.0"];
        let priced = stage(&[&plain[..], &[term]].concat());
        let (without, with) = (stage(&plain), Training::of(&priced));
        let without = Training::of(&without);
        // The quickstart draws pixels: the towers alone, of OpenAI's ViT-B/32 whether it is there or not.
        let sizes = 151_277_312.0;
        assert_eq!(with.weights() - without.weights(), 4.0 * sizes);
        assert!(
            with.networks()
                .contains(&("CLIP".to_owned(), sizes as usize, 0))
        );
        assert_eq!(with.moments(), without.moments());
        let tokens = crate::plan::tokens(&priced);
        let [left, left_without] = [&with, &without].map(|of| of.activations(&tokens, false));
        assert!(left - left_without > 1e6);
        let cost = |sets: &[&str]| {
            let stage = stage(&[&plain[..], &[term], sets].concat());
            flop_per_image(&stage) - without.flop(&tokens)
        };
        let gflop = 14.78 + 8.82;
        let whole = cost(&[]);
        assert!((whole / 1e9 / gflop - 1.0).abs() < 2e-3, "{whole}");
        let steps = priced.steps as f64;
        let few = cost(&["stages.unmasked.distill.clip.until=5"]);
        assert!((few / whole / (5.0 / steps) - 1.0).abs() < 1e-6);
        assert_eq!(cost(&["stages.unmasked.distill.clip.weight=0.0"]), 0.0);
    }

    #[test]
    fn a_step_of_distillation_asks_four_networks_or_two() {
        let once = stage(&[]);
        let flops = |stage: &Stage| stage.model.flops(&crate::plan::tokens(stage));
        let forward = flops(&once).forward;
        let sets = [DISTILL, "sampling.steps=1", "sampling.guidance=1.0"];
        let guided = stage(&sets);
        let expected = 2.0 * flops(&once).total() + 4.0 * forward;
        assert_eq!(flop_per_image(&guided), expected);
        let unguided = [&sets[..], &["stages.unmasked.distill.guidance=1.0"]].concat();
        assert_eq!(flop_per_image(&stage(&unguided)), expected - 2.0 * forward);
        let alone = [&sets[..], &[ALONE]].concat();
        assert_eq!(flop_per_image(&stage(&alone)), expected / 2.0);
        assert_eq!(flop_per_image(&stage(&[LORA])), flop_per_image(&once));
    }
}
