//! A custom loss, contrastive flow matching (arXiv 2506.05350): predictions are pushed away from another sample's.
//!
//! `cargo run --example custom_objective -- runs/contrastive stages.masked.steps=200` trains it, and
//! resumes it when it is run again. It has two replicas, a log with both terms, and a grid of pictures.

use burn::{module::Module, tensor::Tensor};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{
    DitBackend,
    net::{Denoiser, Inputs, Output, dit::embed::patchify},
    nn::params::{Role, Roles},
    rng::Purpose,
    task::{Denoise, Draws, Losses, Noised, Samples, Task},
};
use microdit_train::{Recipe, recipe::Stage, trainer::train};
use std::{error::Error, ops::Range, path::Path};

/// Denoising, and a term that tells samples apart.
#[derive(Module, Debug)]
struct Contrastive<B: DitBackend, D: Module<B>> {
    denoise: Denoise<B, D>,
    lambda: f64,
}

/// Squared distance of each prediction from `other`, a target, by patches, times the sample's factor.
pub fn contrast<B: DitBackend>(
    output: &Output<B>,
    other: Tensor<B, 3>,
    factors: &[f32],
) -> Tensor<B, 1> {
    let distance = (output.patches.clone() - output.chosen(other)).square();
    let distance = distance.mean_dims(&[1, 2]).reshape([-1]);
    distance.clone() * Tensor::from_floats(factors, &distance.device())
}

impl<B: DitBackend, D: Denoiser<B>> Roles for Contrastive<B, D> {
    fn role(&self, path: &[&str], rank: usize) -> Role {
        self.denoise.role(&path[1..], rank)
    }
}

impl<B: DitBackend, D: Denoiser<B>> Task<B> for Contrastive<B, D> {
    type Denoiser = D;
    /// Samples, targets of others, and factors: 0 without caption, more than 1 with it.
    type Prepared = (Noised<B>, Noised<B>, Vec<f32>);

    fn denoiser(&self) -> &D {
        self.denoise.denoiser()
    }

    fn prepare(
        &self,
        batch: &impl Samples<B>,
        samples: Range<usize>,
        draws: &Draws,
    ) -> Self::Prepared {
        let count = batch.count();
        // Any sample of the step but this one, whichever device computes it.
        let other = |i| (i + 1 + draws.stream(Purpose::Task, i).below(count.max(2) - 1)) % count;
        let others: Vec<usize> = samples.clone().map(other).collect();
        let kept = draws.kept_captions(0..count, self.denoise.caption_drop());
        let weight = count as f32 / kept.iter().filter(|&&kept| kept).count().max(1) as f32;
        let factor = |i: usize| f32::from(kept[i]) * weight;
        let factors = samples.clone().map(factor).collect();
        let other = self.denoise.noise(batch, &others, draws);
        (self.denoise.prepare(batch, samples, draws), other, factors)
    }

    fn inputs(&self, (noised, ..): &Self::Prepared) -> Inputs<B> {
        self.denoise.inputs(noised)
    }

    fn losses(&self, (noised, other, factors): &Self::Prepared, output: &Output<B>) -> Losses<B> {
        let other = patchify(self.denoise.target(other), self.denoiser().patch_size());
        let denoise = self.denoise.losses(noised, output);
        denoise.and("contrast", -self.lambda, contrast(output, other, factors))
    }

    fn times(&self, samples: Range<usize>, draws: &Draws) -> Vec<f64> {
        self.denoise.times(samples, draws)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args().nth(1).ok_or("name a directory")?;
    let flow = ["diffusion=FlowMatching(density: Uniform)".into()];
    let settings: Vec<_> = std::env::args().skip(2).chain(flow).collect();
    let recipe = Recipe::load(Path::new("recipes/quickstart.ron"), &settings)?;
    let build = |stage: &Stage, seed: u64, device: &_| {
        let network = stage.model.init::<Autodiff<Flex>>(seed, device)?;
        let (denoise, lambda) = (stage.denoise().init(network)?, 0.05);
        Ok(Contrastive { denoise, lambda })
    };
    let log = |line: &_| println!("{line:?}");
    train(&recipe, run, &[Default::default(); 2], &build, log)?;
    Ok(())
}
