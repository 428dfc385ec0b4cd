//! maskdit: encoder, decoder, both losses and the gradient of every parameter of MaskDiT.

use super::{
    Inner, Train,
    training::{LOSS, gradients},
};
use crate::{
    golden::{Golden, indices, values},
    report::Report,
};
use burn::tensor::Tensor;
use microdit::{
    Dit, DitBackend, MaskStage, Masking, TokenMask,
    diffusion::{Diffusion as _, DiffusionConfig, Edm},
    net::{
        Conditioning, Denoiser as _, Inputs, Output, Selection,
        dit::embed::{patchify, unpatchify},
    },
    task::{Denoise, DenoiseConfig, Noised, Reconstruction, Task as _},
};
use microdit_train::step;
use std::path::Path;

/// A golden file, the task it trains, and where to report.
struct Case<'a> {
    golden: Golden,
    edm: Edm,
    reconstruction: Reconstruction,
    report: &'a mut Report,
}

impl Case<'_> {
    /// Compares values with a tensor of the file, if it has it.
    fn check(&mut self, name: &str, found: &[f64]) {
        let key = format!("out.{name}");
        if self.golden.has(&key) {
            let limit = self.golden.limit(name);
            self.report.close(name, found, self.golden.get(&key), limit);
        }
    }

    fn task<B: DitBackend>(&self) -> Denoise<B, Dit<B>> {
        let settings = DenoiseConfig {
            diffusion: DiffusionConfig::Edm(self.edm),
            reconstruction: Some(self.reconstruction),
            ..DenoiseConfig::default()
        };
        let task = settings.init(self.golden.load(&Default::default()));
        task.expect("the file's settings are possible")
    }

    /// The file's batch, with its mask or with every token kept.
    fn noised<B: DitBackend>(&self, masked: bool) -> Noised<B> {
        let device = Default::default();
        let golden = &self.golden;
        let normal = golden.get("in.rnd_normal").to_f32().into_iter();
        let times: Vec<f64> = normal.map(|n| f64::from(self.edm.sigma(n))).collect();
        let tokens = golden.dit().tokens();
        let ratio = golden.number("mask_ratio");
        let kept = Masking::Deferred { ratio }.kept(tokens);
        let noise = golden.get("in.mask_noise").to_f32();
        let keep = (masked && kept < tokens)
            .then(|| TokenMask::from_noise(&noise, tokens, kept, MaskStage::AfterMixer, &device));
        Noised {
            clean: golden.get("in.x").float(&device),
            noise: golden.get("in.noise").float(&device),
            rows: self.edm.rows(&times),
            conditioning: Conditioning {
                captions: golden.get("in.y").captions(&device),
            },
            dropout: None,
            keep,
        }
    }

    /// The masked forward pass, stage by stage; returns the prediction by patches.
    fn stages(&mut self) -> Tensor<Inner, 3> {
        let task = self.task::<Inner>();
        let noised = self.noised::<Inner>(true);
        if let Some(mask) = &noised.keep {
            self.check("ids_keep", &indices(mask.keep()));
            self.check("mask", &values(mask.dropped(&Default::default())));
        }
        let sigma: Vec<f64> = noised.rows.iter().map(|row| row.level.noise).collect();
        self.check("sigma", &sigma);
        let (dit, inputs) = (task.denoiser(), task.inputs(&noised));
        let decoder = dit.decoder.as_ref().expect("MaskDiT has a decoder");
        let selection = Selection {
            keep: noised.keep.clone(),
            ..Selection::all()
        };
        let mut carry = dit.enter(inputs);
        self.check("cond", &values(carry.condition.vector.clone()));
        self.check("y", &values(carry.condition.captions.clone()));
        let entry = dit.segments() - decoder.blocks.len() - 1;
        for i in 0..dit.segments() {
            if i == entry {
                self.check("encoder_out", &values(carry.tokens.clone()));
                let vector = carry.condition.vector.clone();
                let entered = decoder.input.forward(carry.tokens.clone(), vector);
                self.check("decoder_in", &values(entered));
            }
            carry = dit.segment(i, carry, &selection);
            if i == entry {
                self.check("decoder_tokens", &values(carry.tokens.clone()));
                self.check("decoder_y", &values(carry.condition.captions.clone()));
            } else if i > entry {
                let name = format!("decoder.block.{}", i - entry - 1);
                self.check(&name, &values(carry.tokens.clone()));
            }
        }
        let output = dit.leave(carry, &selection);
        assert!(output.keep.is_none(), "all tokens are predicted");
        self.check("final_tokens", &values(output.patches.clone()));
        self.images("", &task, &noised, output.patches.clone());
        output.patches
    }

    /// The prediction and the denoised estimate as whole images.
    fn images(
        &mut self,
        suffix: &str,
        task: &Denoise<Inner, Dit<Inner>>,
        noised: &Noised<Inner>,
        patches: Tensor<Inner, 3>,
    ) {
        let [_, _, height, width] = noised.clean.dims();
        let patch = task.denoiser().patch_size();
        let whole = |patches| values(unpatchify(patches, patch, [height, width]));
        let (clean, noise) = (noised.clean.clone(), noised.noise.clone());
        let noisy = task.family().noisy(clean, noise, &noised.rows);
        let estimate =
            task.family()
                .estimate(patchify(noisy, patch), patches.clone(), &noised.rows);
        self.check(&format!("F_x{suffix}"), &whole(patches));
        self.check(&format!("mae_pred{suffix}"), &values(estimate.clone()));
        self.check(&format!("D_x{suffix}"), &whole(estimate));
    }

    /// Both losses of every sample, and their weighted sum.
    fn losses(&mut self, patches: Tensor<Inner, 3>) {
        let task = self.task::<Inner>();
        let noised = self.noised::<Inner>(true);
        let output = Output::all(patches);
        let terms = task.losses(&noised, &output).0;
        self.check("loss_unmasked", &values(terms[0].values.clone()));
        if let Some(mask) = &noised.keep {
            let patch = task.denoiser().patch_size();
            let loss = self
                .reconstruction
                .loss(task.family(), &output, &noised, mask, patch);
            self.check("loss_mae", &values(loss));
        }
        let expected = self.golden.get("out.loss").data[0];
        let found = values(task.losses(&noised, &output).total().mean())[0];
        self.report
            .at_most("loss", (found / expected - 1.0).abs(), LOSS);
    }

    /// As in sampling: no token is dropped, and the decoder still runs.
    fn unmasked(&mut self) {
        let task = self.task::<Inner>();
        let noised = self.noised::<Inner>(false);
        let output = task.denoiser().predict(task.inputs(&noised));
        self.images("_nomask", &task, &noised, output.patches.clone());
        let losses = task.losses(&noised, &output);
        assert_eq!(losses.0.len(), 1, "nothing is reconstructed");
        self.check("loss_nomask", &values(losses.total()));
        let inputs: Inputs<Inner> = task.inputs(&noised);
        let image = task
            .denoiser()
            .image(inputs.x, inputs.time, inputs.conditioning);
        self.check("F_x_nomask", &values(image));
    }

    /// The gradient of the total by every parameter, recorded as a whole and computed again segment by segment.
    fn gradients(&mut self) {
        let task = self.task::<Train>();
        let noised = self.noised::<Train>(true);
        let global = self.golden.number("grad_norm");
        for (recompute, way) in [(false, ""), (true, ".recomputed")] {
            let computed = step::of_prepared(&task, &noised, noised.rows.len(), recompute);
            gradients(
                &self.golden,
                "grad.",
                global,
                way,
                &computed.grads,
                self.report,
            );
        }
    }
}

/// MaskDiT's losses, gradients and stages.
pub(super) fn maskdit(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let flag = golden.config["norm_pix_loss"].as_bool();
    let mut case = Case {
        edm: Edm {
            sigma_data: golden.number("sigma_data"),
            p_mean: golden.number("P_mean"),
            p_std: golden.number("P_std"),
        },
        reconstruction: Reconstruction {
            mae_loss_coef: golden.number("mae_loss_coef"),
            norm_pix_loss: flag.expect("norm_pix_loss is true or false"),
        },
        golden,
        report,
    };
    let patches = case.stages();
    case.losses(patches);
    case.unmasked();
    case.gradients();
}
