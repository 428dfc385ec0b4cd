//! A custom network under the library's task, trainer and sampler: tokens that meet in their mean.
//!
//! `cargo run --example custom_denoiser -- runs/mean-field stages.masked.steps=200` trains it, and
//! resumes it when it is run again. It has two replicas, a log, and a grid of pictures.
use burn::prelude::{Module, Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{
    DitBackend, DitConfig, Linear,
    net::{
        Denoiser, Inputs, NetworkConfig, Output, Selection,
        dit::embed::{PatchEmbed, TimestepEmbed, sincos_positions},
    },
    nn::{
        init::{Init, STD},
        params::Roles,
    },
    ops::over_rows,
};
use microdit_train::{Recipe, recipe::Stage, trainer::train};
use std::{error::Error, path::Path};

/// Every layer tells each token the mean of all.
#[derive(Module, Debug)]
struct MeanField<B: DitBackend> {
    patches: PatchEmbed<B>,
    time: TimestepEmbed<B>,
    caption: Linear<B>,
    layers: Vec<(Linear<B>, Linear<B>)>,
    out: Linear<B>,
    patch: usize,
}

impl<B: DitBackend> MeanField<B> {
    fn new(config: &DitConfig, init: &Init<'_, B>) -> Self {
        let dim = config.dim;
        let linear = |at: Init<'_, B>, from, to| at.linear(from, to, true, STD);
        let layer = |i| {
            let [both, back] = [0, 1].map(|j| init.at("layers").at(i).at(j));
            (linear(both, 2 * dim, 2 * dim), linear(back, 2 * dim, dim))
        };
        Self {
            patches: PatchEmbed::new(config, &init.at("patches")),
            time: TimestepEmbed::new(dim, &init.at("time")),
            caption: linear(init.at("caption"), config.caption_channels, dim),
            layers: (0..config.depth).map(layer).collect(),
            out: linear(init.at("out"), dim, config.patch_dim()),
            patch: config.patch_size,
        }
    }
}

impl<B: DitBackend> Roles for MeanField<B> {}
impl<B: DitBackend> Denoiser<B> for MeanField<B> {
    /// Tokens `[batch, tokens, dim]`, and what they are conditioned on `[batch, 1, dim]`.
    type Carry = (Tensor<B, 3>, Tensor<B, 3>);

    fn patch_size(&self) -> usize {
        self.patch
    }

    fn segments(&self) -> usize {
        self.layers.len()
    }

    fn enter(&self, inputs: Inputs<B>) -> Self::Carry {
        let [_, _, grid @ ..] = inputs.x.dims();
        let words = self.caption.forward(inputs.conditioning.captions);
        let condition = words.mean_dim(1) + self.time.forward(inputs.time).unsqueeze_dim(1);
        let tokens = self.patches.forward(inputs.x);
        let [_, count, dim] = tokens.dims();
        let places = sincos_positions(dim, grid.map(|side| side / self.patch), 1.0);
        let places = TensorData::new(places, [1, count, dim]);
        let places = Tensor::from_data(places, &tokens.device());
        (inputs.selection.kept(tokens + places), condition)
    }

    fn segment(&self, i: usize, (x, condition): Self::Carry, _: &Selection<B>) -> Self::Carry {
        let heard = (x.clone().mean_dim(1) + condition.clone()).expand(x.dims());
        let (both, back) = &self.layers[i];
        let hidden = both.forward(Tensor::cat(vec![x.clone(), heard], 2));
        let hidden = over_rows(hidden, B::tanh_gelu);
        (x + back.forward(hidden), condition)
    }

    fn leave(&self, (tokens, _): Self::Carry, selection: &Selection<B>) -> Output<B> {
        Output::of(self.out.forward(tokens), selection)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let run = std::env::args().nth(1).ok_or("name a directory")?;
    let settings: Vec<String> = std::env::args().skip(2).collect();
    let recipe = Recipe::load(Path::new("recipes/quickstart.ron"), &settings)?;
    let build = |stage: &Stage, seed: u64, device: &_| {
        let NetworkConfig::Dit(sizes) = &stage.model else {
            panic!("a mean field takes the sizes of a Dit");
        };
        let network = MeanField::<Autodiff<Flex>>::new(sizes, &Init::new(seed, device));
        Ok(stage.denoise().init(network)?)
    };
    let log = |line: &_| println!("{line:?}");
    train(&recipe, run, &[Default::default(); 2], &build, log)?;
    Ok(())
}
