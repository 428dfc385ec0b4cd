//! edm_loss, train_steps, composer_run: the loss, the gradient of every parameter, and the optimizer.

use super::{Inner, Train};
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::module::AutodiffModule;
use microdit::{
    Dit, MaskStage, Masking, TokenMask,
    diffusion::{Diffusion as _, DiffusionConfig, Edm, Row},
    net::{Conditioning, Denoiser as _, Inputs, Selection, dit::embed::unpatchify},
    task::{Denoise, DenoiseConfig, Noised, Task as _},
    weights::{StateDict, reference_name},
};
use microdit_train::{
    optim::{FIRST, Gradients, Optimizer, OptimizerConfig, SECOND},
    schedule::{Curve, Schedule},
    step::{self, Computed},
};
use std::path::Path;

/// Losses, relative.
pub(super) const LOSS: f64 = 1e-6;
/// Gradients in the L2 norm, relative to max(own norm, 1e-4 global norm).
const GRADIENT: f64 = 1e-4;
/// Mean absolute error of weights after the optimizer's steps.
const WEIGHT_MEAN: f64 = 1e-7;
/// An isolated weight may be this far off ...
const WEIGHT_OUTLIER: f64 = 1e-5;
/// ... and this many of them: their gradient is almost 0, where Adam amplifies rounding.
const WEIGHT_OUTLIERS: f64 = 8.0;
/// Moments in the L2 norm, relative to their own.
const MOMENT: f64 = 1e-4;

/// What is trained.
type Network = Denoise<Train, Dit<Train>>;

/// A golden file's task, diffusion and mask.
struct Setup {
    golden: Golden,
    task: Network,
    edm: Edm,
    masking: Masking,
    tokens: usize,
}

/// The tensors one loss is computed from.
struct Batch {
    x: Array,
    y: Array,
    normal: Array,
    noise: Array,
    mask_noise: Array,
}

impl Setup {
    fn open(path: &Path) -> Self {
        let golden = Golden::open(&path.with_extension("safetensors"));
        let device = Default::default();
        let edm = Edm {
            sigma_data: golden.number("sigma_data"),
            p_mean: golden.number("P_mean"),
            p_std: golden.number("P_std"),
        };
        let ratio = golden.number("mask_ratio");
        let settings = DenoiseConfig {
            diffusion: DiffusionConfig::Edm(edm),
            ..DenoiseConfig::default()
        };
        let task = settings.init(golden.load(&device));
        Self {
            task: task.expect("the file's settings are possible"),
            edm,
            masking: Masking::Deferred { ratio },
            tokens: golden.dit().tokens(),
            golden,
        }
    }

    fn sigma(&self, normal: &Array) -> Vec<f32> {
        normal.to_f32().iter().map(|&n| self.edm.sigma(n)).collect()
    }

    fn rows(&self, normal: &Array) -> Vec<Row> {
        let sigmas = self.sigma(normal).into_iter();
        let times: Vec<f64> = sigmas.map(f64::from).collect();
        self.edm.rows(&times)
    }

    fn mask(&self, noise: &Array, masking: Masking) -> Option<TokenMask<Train>> {
        let kept = masking.kept(self.tokens);
        (kept < self.tokens).then(|| {
            let noise = noise.to_f32();
            TokenMask::from_noise(
                &noise,
                self.tokens,
                kept,
                MaskStage::AfterMixer,
                &Default::default(),
            )
        })
    }

    /// A batch that is ready for the network.
    fn noised(&self, batch: &Batch, masking: Masking) -> Noised<Train> {
        let device = Default::default();
        Noised {
            clean: batch.x.float(&device),
            noise: batch.noise.float(&device),
            rows: self.rows(&batch.normal),
            conditioning: Conditioning {
                captions: batch.y.captions(&device),
            },
            dropout: None,
            keep: self.mask(&batch.mask_noise, masking),
        }
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The loss with and without mask, and both gradients.
pub(super) fn edm_loss(path: &Path, report: &mut Report) {
    let setup = Setup::open(path);
    let golden = &setup.golden;
    let get = |name: &str| golden.get(name).clone();
    let batch = Batch {
        x: get("in.x"),
        y: get("in.y"),
        normal: get("in.rnd_normal"),
        noise: get("in.noise"),
        mask_noise: get("in.mask_noise"),
    };
    preconditioning(&setup, &batch, report);
    for (name, masking) in [("unmasked", Masking::None), ("masked", setup.masking)] {
        outputs(&setup, &batch, name, masking, report);
        let noised = setup.noised(&batch, masking);
        let output = setup.task.denoiser().predict(setup.task.inputs(&noised));
        let losses = setup.task.losses(&noised, &output).total();
        let expected = golden.get(&format!("out.{name}.loss_per_sample"));
        report.close(
            format!("{name}.loss_per_sample"),
            &values(losses),
            expected,
            LOSS * expected.max_abs(),
        );
        // Recorded as a whole, and computed again segment by segment.
        for (recompute, way) in [(false, ""), (true, ".recomputed")] {
            let count = batch.normal.data.len();
            let computed = step::of_prepared(&setup.task, &noised, count, recompute);
            let expected = golden.get(&format!("out.{name}.loss"));
            report.close(
                format!("{name}.loss{way}"),
                &values(computed.loss()),
                expected,
                LOSS * expected.max_abs(),
            );
            let global = golden.get(&format!("out.{name}.grad_norm")).data[0];
            let prefix = format!("grad.{name}.");
            gradients(golden, &prefix, global, way, &computed.grads, report);
        }
    }
}

/// Compares gradients of a loss with those under `prefix`, and their norm with `global`.
pub(super) fn gradients(
    golden: &Golden,
    prefix: &str,
    global: f64,
    way: &str,
    grads: &Gradients<Inner>,
    report: &mut Report,
) {
    let found = values(grads.norm())[0];
    let error = (found / global - 1.0).abs();
    report.at_most(format!("{prefix}norm{way}"), error, GRADIENT);
    let floor = 1e-4 * global;
    for (parameter, expected) in golden.with_prefix(prefix) {
        let found = grads
            .iter()
            .find(|(path, _)| reference_name(path) == parameter);
        let error = found.map_or(f64::INFINITY, |(_, grad)| {
            distance(&values(grad.clone()), &expected.data) / norm(&expected.data).max(floor)
        });
        report.at_most(format!("{prefix}{parameter}{way}"), error, GRADIENT);
    }
}

/// Noise levels, preconditioning and the network's input.
fn preconditioning(setup: &Setup, batch: &Batch, report: &mut Report) {
    let sigma = setup.sigma(&batch.normal);
    let c = setup.rows(&batch.normal);
    let columns: [(&str, Vec<f64>); 6] = [
        ("sigma", c.iter().map(|c| c.level.noise).collect()),
        // The reference weighs errors of the denoised estimate, which are `c_out` times those of the output.
        (
            "weight",
            c.iter().map(|c| c.weight / c.c_out.powi(2)).collect(),
        ),
        ("c_skip", c.iter().map(|c| c.c_skip).collect()),
        ("c_out", c.iter().map(|c| c.c_out).collect()),
        ("c_in", c.iter().map(|c| c.c_in).collect()),
        ("c_noise", c.iter().map(|c| c.c_noise).collect()),
    ];
    for (name, found) in columns {
        let expected = setup.golden.get(&format!("out.{name}"));
        report.close(name, &found, expected, 1e-6 * expected.max_abs());
    }
    let expected = setup.golden.get("out.net_in");
    let (scale, count) = (&c, batch.x.data.len() / sigma.len());
    let found: Vec<f64> = (0..batch.x.data.len())
        .map(|i| {
            let sample = i / count;
            scale[sample].c_in * (batch.x.data[i] + f64::from(sigma[sample]) * batch.noise.data[i])
        })
        .collect();
    report.close("net_in", &found, expected, 1e-6 * expected.max_abs());
}

/// The raw output F and the denoised estimate D as whole images, zeros where tokens were dropped.
fn outputs(setup: &Setup, batch: &Batch, name: &str, masking: Masking, report: &mut Report) {
    let device = Default::default();
    let golden = &setup.golden;
    let net_in = golden.get("out.net_in").float::<Train, 4>(&device);
    let c_noise = golden.get("out.c_noise").float::<Train, 1>(&device);
    let mask = setup.mask(&batch.mask_noise, masking);
    let [_, _, height, width] = net_in.dims();
    let captions = batch.y.captions(&device);
    let output = setup.task.denoiser.predict(Inputs {
        selection: Selection {
            keep: mask.clone(),
            ..Selection::all()
        },
        ..Inputs::new(net_in, c_noise, Conditioning { captions })
    });
    let whole = match &mask {
        Some(mask) => mask.scatter(output.patches),
        None => output.patches,
    };
    let patch = setup.task.denoiser.patch_size();
    let f = values(unpatchify(whole, patch, [height, width]));
    let expected = golden.get(&format!("out.{name}.F"));
    report.close(format!("{name}.F"), &f, expected, 2e-5 * expected.max_abs());
    let rows = setup.rows(&batch.normal);
    let count = f.len() / rows.len();
    let d: Vec<f64> = (0..f.len())
        .map(|i| {
            let c = rows[i / count];
            let noisy = batch.x.data[i] + c.level.noise * batch.noise.data[i];
            c.c_skip * noisy + c.c_out * f[i]
        })
        .collect();
    let expected = golden.get(&format!("out.{name}.D"));
    report.close(format!("{name}.D"), &d, expected, 2e-5 * expected.max_abs());
}

fn optimizer(golden: &Golden) -> OptimizerConfig {
    let settings = &golden.config["optimizer"];
    let number =
        |value: &serde_json::Value| value.as_f64().expect("an optimizer setting is a number");
    OptimizerConfig {
        lr: settings["lr"].as_f64().unwrap_or(0.0),
        beta1: number(&settings["betas"][0]),
        beta2: number(&settings["betas"][1]),
        eps: number(&settings["eps"]),
        weight_decay: number(&settings["weight_decay"]),
        clip_norm: Some(golden.number("clip_norm")),
        ..OptimizerConfig::default()
    }
}

/// Compares a task's weights with those under `prefix`.
fn weights(golden: &Golden, prefix: &str, task: &Network, report: &mut Report) {
    let state = StateDict::from_module(&task.valid()).into_reference();
    weights_of(golden, prefix, &state, report);
}

/// Compares weights with those under `prefix`.
pub(super) fn weights_of(golden: &Golden, prefix: &str, state: &StateDict, report: &mut Report) {
    let (mut sum, mut count, mut outliers) = (0.0, 0.0, 0.0);
    for (name, expected) in golden.with_prefix(prefix) {
        let found = state
            .get(name)
            .unwrap_or_else(|| panic!("the network has no parameter {name}"));
        let errors: Vec<f64> = found
            .iter::<f64>()
            .zip(&expected.data)
            .map(|(a, b)| (a - b).abs())
            .collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        // One element of a small tensor may carry an outlier; the total below bounds their number.
        let allowed = WEIGHT_MEAN.max(2.0 * WEIGHT_OUTLIER / errors.len() as f64);
        report.at_most(format!("{prefix}{name}"), mean, allowed);
        sum += errors.iter().sum::<f64>();
        count += errors.len() as f64;
        outliers += errors
            .iter()
            .filter(|e| e.is_nan() || **e > WEIGHT_OUTLIER)
            .count() as f64;
    }
    report.at_most(format!("{prefix}* mean error"), sum / count, WEIGHT_MEAN);
    report.at_most(
        format!("{prefix}* errors over 1e-5"),
        outliers,
        WEIGHT_OUTLIERS,
    );
}

fn moments(golden: &Golden, optimizer: &Optimizer<Inner>, report: &mut Report) {
    for (prefix, slot) in [("out.exp_avg.", FIRST), ("out.exp_avg_sq.", SECOND)] {
        for (name, expected) in golden.with_prefix(prefix) {
            let slots = optimizer.slots().iter();
            let error = match slots
                .into_iter()
                .find(|(path, _)| reference_name(path) == name)
            {
                Some((_, slots)) => {
                    // A moment that is rounding noise of a zero gradient has no digits to compare.
                    let floor = norm(&expected.data).max(1e-12);
                    distance(&values(slots[slot].clone()), &expected.data) / floor
                }
                None => f64::INFINITY,
            };
            report.at_most(format!("{prefix}{name}"), error, MOMENT);
        }
    }
}

/// Optimizer steps: loss, backward, global-norm clip, AdamW.
pub(super) fn train_steps(path: &Path, report: &mut Report) {
    let setup = Setup::open(path);
    let golden = &setup.golden;
    let mut task = setup.task.clone();
    let mut adamw = Optimizer::new(optimizer(golden));
    let steps = golden.get("in.x").shape[0];
    for step in 0..steps {
        let at = |name: &str| golden.get(name).row(step);
        let mut y = at("in.y");
        let keep = at("in.drop_caption_mask");
        let size = y.data.len() / keep.data.len();
        for (caption, keep) in y.data.chunks_mut(size).zip(&keep.data) {
            caption.iter_mut().for_each(|value| *value *= keep);
        }
        let batch = Batch {
            x: at("in.x"),
            y,
            normal: at("in.rnd_normal"),
            noise: at("in.noise"),
            mask_noise: at("in.mask_noise"),
        };
        let sigma: Vec<f64> = setup
            .sigma(&batch.normal)
            .into_iter()
            .map(f64::from)
            .collect();
        let expected = at("out.sigma");
        report.close(
            format!("sigma.{step}"),
            &sigma,
            &expected,
            1e-6 * expected.max_abs(),
        );
        let noised = setup.noised(&batch, setup.masking);
        let count = batch.normal.data.len();
        let computed = step::of_prepared(&task, &noised, count, false);
        let loss = computed.loss();
        let expected = golden.get("out.loss").data[step];
        let found = values(loss.clone())[0];
        report.at_most(format!("loss.{step}"), (found / expected - 1.0).abs(), LOSS);
        let lr = golden.get("in.lr").data[step];
        let (updated, norm) = adamw.step::<Train, _>(task, computed.grads, &loss, lr);
        task = updated;
        let expected = golden.get("out.grad_norm").data[step];
        let error = (values(norm)[0] / expected - 1.0).abs();
        report.at_most(format!("grad_norm.{step}"), error, GRADIENT);
        if step == 0 {
            weights(golden, "out.step1.", &task, report);
        }
    }
    weights(golden, "out.final.", &task, report);
    moments(golden, &adamw, report);
}

/// A run of the reference's trainer: micro-batches, and the schedule's lag of one batch.
pub(super) fn composer_run(path: &Path, report: &mut Report) {
    let setup = Setup::open(path);
    let golden = &setup.golden;
    let size = |key: &str| golden.number(key) as usize;
    let settings = &golden.config["schedule"];
    let count = |key: &str| {
        settings[key]
            .as_u64()
            .expect("a schedule's step is a whole number")
    };
    let schedule = Schedule {
        curve: Curve::Cosine {
            warmup: count("t_warmup"),
            total: None,
            floor: settings["alpha_f"].as_f64().expect("a floor is a number"),
        },
        one_batch_lag: true,
    };
    let mut task = setup.task.clone();
    let mut adamw = Optimizer::new(optimizer(golden));
    for step in 0..size("batches") {
        let lr = adamw.config().lr * schedule.multiplier(step as u64, count("t_max"));
        let expected = golden.get("out.lr").data[step];
        report.at_most(format!("lr.{step}"), (lr - expected).abs(), 1e-15);
        let first = step * size("batch_size");
        let count = size("batch_size") / size("microbatch");
        let parts = (0..count).map(|part| {
            let start = first + part * size("microbatch");
            let at = |name: &str| golden.get(name).rows(start..start + size("microbatch"));
            let batch = Batch {
                x: at("in.x"),
                y: at("in.y"),
                normal: at("in.rnd_normal"),
                noise: at("in.noise"),
                mask_noise: at("in.mask_noise"),
            };
            let noised = setup.noised(&batch, setup.masking);
            step::of_prepared(&task, &noised, size("batch_size"), false)
        });
        let computed = parts.reduce(Computed::plus);
        let computed = computed.expect("a batch has a micro-batch");
        let loss = computed.loss();
        let found = values(loss.clone())[0];
        let expected = golden.get("out.loss").data[step];
        report.at_most(format!("loss.{step}"), (found / expected - 1.0).abs(), LOSS);
        (task, _) = adamw.step::<Train, _>(task, computed.grads, &loss, lr);
    }
    weights(golden, "out.final.", &task, report);
    moments(golden, &adamw, report);
}
