//! vsd: what a step of variational score distillation is computed from, on given tensors.

use super::{Inner, Train, diffusion::vp};
use crate::{
    golden::{Golden, values},
    report::Report,
};
use burn::tensor::{DType, Tensor, backend::AutodiffBackend};
use microdit::{
    diffusion::{Diffusion as _, Family, Guidance, Level, Point, Row},
    net::{Output, dit::embed::patchify},
    task::{OneStep, clamped_clip_loss, cosine, critic_rows, score_gradient, vsd_loss, vsd_weight},
    weights::{StateDict, merge},
};
use serde_json::Value;
use std::{path::Path, sync::Arc};

/// A tensor with a stored rounding floor: this many times the floor.
const FLOORS: f64 = 50.0;
/// One without: this fraction of its largest value.
const RELATIVE: f64 = 2e-5;

/// The network's timestep of a student's only step.
fn last(golden: &Golden) -> f64 {
    golden.config["schedule"]["num_train_timesteps"]
        .as_f64()
        .unwrap_or(1000.0)
        - 1.0
}

/// A golden file, its diffusion, and where to report.
pub(super) struct Case<'a> {
    pub(super) golden: Golden,
    pub(super) family: Family,
    pub(super) report: &'a mut Report,
}

impl<'a> Case<'a> {
    pub(super) fn open(path: &Path, report: &'a mut Report) -> Self {
        let golden = Golden::open(&path.with_extension("safetensors"));
        // Files without a schedule have Stable Diffusion's.
        let schedule = match &golden.config["schedule"] {
            Value::Null => serde_json::json!({
                "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012
            }),
            schedule => schedule.clone(),
        };
        let table = vp(&schedule, &Value::Null).init().expect("a schedule");
        Self {
            family: Family::Vp(Arc::new(table)),
            golden,
            report,
        }
    }

    /// The student's start: the file states what is left of the signal there.
    pub(super) fn student(&self) -> OneStep {
        let share = self.golden.number("abar_T");
        let time = last(&self.golden);
        let level = Level {
            signal: share.sqrt(),
            noise: (1.0 - share).sqrt(),
        };
        let point = Point { time, level };
        assert_eq!(OneStep::of(&self.family).point.time, time);
        OneStep { point, start: 1.0 }
    }

    pub(super) fn rows(&self, timesteps: &[f64]) -> Vec<Row> {
        self.family.rows(timesteps)
    }

    fn guidance(&self) -> Guidance {
        Guidance::scale(self.golden.number("guidance"))
    }

    fn check(&mut self, name: &str, found: &[f64]) {
        let expected = self.golden.get(&format!("out.{name}"));
        let floor = self.golden.config["f32_vs_f64_max_abs"][name].as_f64();
        let limit = match floor {
            Some(floor) if floor > 0.0 => FLOORS * floor,
            _ => RELATIVE * expected.max_abs(),
        };
        self.report.close(name, found, expected, limit);
    }

    fn tensor<const D: usize>(&self, name: &str) -> Tensor<Train, D> {
        self.golden.get(name).float(&Default::default())
    }

    /// The student's image, both scores, and the gradients of the loss.
    fn student_step(&mut self) {
        let rows = self.rows(&self.golden.get("in.t").data.clone());
        let (student, guidance) = (self.student(), self.guidance());
        let output = self.tensor::<4>("in.student_eps").require_grad();
        let x0 = student.image(&self.family, self.tensor("in.z"), |_, _| output.clone());
        self.check("x0", &values(x0.clone()));
        let noised = self
            .family
            .noisy(x0.clone(), self.tensor("in.noise"), &rows);
        self.check("x_t", &values(noised));
        let both = ["teacher", "lora"].map(|name| {
            let [with, without] = ["cond", "uncond"].map(|end| format!("in.{name}_{end}"));
            let guided = guidance.combine(self.tensor(&with), self.tensor::<4>(&without));
            self.check(&format!("{name}_guided"), &values(guided.clone()));
            guided
        });
        let weights: Vec<f64> = rows.iter().map(vsd_weight).collect();
        self.check("weight", &weights);
        let [teacher, critic] = both;
        let gradient = score_gradient(teacher, critic, &rows);
        self.check("score_gradient", &values(gradient.clone()));
        // The image is an input of the loss, and a result of the student's output.
        let leaf = x0.clone().detach().require_grad();
        let loss = vsd_loss(leaf.clone(), gradient.clone()).mean();
        self.check("vsd_loss", &values(loss.clone()));
        self.gradient("grad_x0", &leaf, &loss.backward());
        let loss = vsd_loss(x0, gradient).mean();
        self.gradient("grad_student_eps", &output, &loss.backward());
    }

    fn gradient<const D: usize>(
        &mut self,
        name: &str,
        of: &Tensor<Train, D>,
        grads: &<Train as AutodiffBackend>::Gradients,
    ) {
        let grad = of.grad(grads).expect("the loss depends on it");
        self.check(name, &values(grad));
    }

    /// The critic's loss on the same images.
    fn critic_step(&mut self) {
        let rows = self.rows(&self.golden.get("in.t_lora").data.clone());
        let (images, noise) = (
            self.tensor::<4>("out.x0"),
            self.tensor::<4>("in.noise_lora"),
        );
        let noised = self.family.noisy(images.clone(), noise.clone(), &rows);
        self.check("lora_x_t", &values(noised));
        let prediction = self.tensor::<4>("in.lora_pred").require_grad();
        let output = Output::all(patchify(prediction.clone(), 1));
        let losses = self
            .family
            .loss(&output, images, noise, &critic_rows(&rows), 1);
        let loss = losses.mean();
        self.check("lora_loss", &values(loss.clone()));
        self.gradient("grad_lora_pred", &prediction, &loss.backward());
    }

    fn clip(&mut self) {
        let tau = self.golden.number("tau");
        let images = self.tensor::<2>("in.image_features").require_grad();
        let captions = self.tensor::<2>("in.text_features");
        let cosines = cosine(images.clone(), captions.clone());
        self.check("cosine", &values(cosines));
        let losses = clamped_clip_loss(images.clone(), captions, tau);
        let found = values(losses.clone());
        let active = found.iter().filter(|loss| **loss > 0.0).count();
        let expected = self.golden.number("clip_active");
        self.report.equal("active", &[active as f64], &[expected]);
        self.check("clip_loss_per_sample", &found);
        let loss = losses.mean();
        self.check("clip_loss", &values(loss.clone()));
        self.gradient("grad_image_features", &images, &loss.backward());
    }

    /// Two sets of weights, merged as files are.
    fn merged(&mut self) {
        let folder = std::env::temp_dir().join(format!("microdit-vsd-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for temporary files");
        let share = self.golden.number("merge");
        let files = [("a", share), ("b", 1.0 - share)].map(|(name, share)| {
            let state: StateDict = self.golden.state_dict(&format!("in.set_{name}."));
            let path = folder.join(format!("{}-{name}", self.golden.name));
            let written = state.write_safetensors(&path, DType::F32, None);
            written.expect("weights are written");
            (path, share)
        });
        let files: Vec<_> = files
            .iter()
            .map(|(path, share)| (path.as_path(), *share))
            .collect();
        let (merged, _) = merge(&files, |_, _| ()).expect("sets of the same names");
        for (name, data) in merged.iter() {
            let found: Vec<f64> = data.iter().collect();
            self.check(&format!("merged.{name}"), &found);
        }
        let _ = std::fs::remove_dir_all(&folder);
    }
}

pub(super) fn vsd(path: &Path, report: &mut Report) {
    let mut case = Case::open(path, report);
    case.student_step();
    case.critic_step();
    case.clip();
    case.merged();
    // Without gradients, as evaluation would compute it.
    let device = Default::default();
    let expected = case.golden.get("out.cosine").clone();
    let features = ["in.image_features", "in.text_features"]
        .map(|name| case.golden.get(name).float::<Inner, 2>(&device));
    let [images, captions] = features;
    case.report.close(
        "cosine, not recorded",
        &values(cosine(images, captions)),
        &expected,
        RELATIVE,
    );
}
