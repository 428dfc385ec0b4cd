//! Variational score distillation (ProlificDreamer, arXiv 2305.16213) of a one-step student, as in SwiftBrush (arXiv 2312.05239)
//! and its second version (arXiv 2408.14176): what a training step is computed from.
//!
//! A student turns noise into an image in one call. Noised again, its images are shown to a frozen teacher and to the
//! teacher with adapters that learns what the student's images look like; where the two disagree, the student moves.

use crate::{
    diffusion::{Diffusion, Family, Point, Row, schedule::SigmaSchedule},
    ops::DitBackend,
};
use burn::tensor::{Tensor, activation::relu, backend::Backend};
use std::ops::RangeInclusive;

/// Norms below this are taken for it, as PyTorch's cosine similarity does.
const LEAST_NORM: f64 = 1e-8;

/// Where a one-step student begins, and how its image follows from the network's output: by the denoised estimate at the
/// highest noise level.
///
/// ```
/// use microdit::{diffusion::{DiffusionConfig, Vp}, task::OneStep};
///
/// let family = DiffusionConfig::Vp(Vp::default()).init()?;
/// let student = OneStep::of(&family);
/// assert_eq!((student.point.time, student.start), (999.0, 1.0));
/// # Ok::<(), microdit::range::OutOfRange>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneStep {
    /// The noise level.
    pub point: Point,
    /// What standard normal noise is multiplied by.
    pub start: f64,
}

impl OneStep {
    /// The start at a noise level, by its time: an EDM's state has the noise's strength, that of other families standard deviation 1.
    pub fn at(family: &Family, time: f64) -> Self {
        let point = family.at_time(time);
        let start = match family {
            Family::Edm(_) => point.level.noise,
            Family::Vp(_) | Family::FlowMatching(_) => 1.0,
        };
        Self { point, start }
    }

    /// Times that are a noise level of the family.
    pub fn times(family: &Family) -> RangeInclusive<f64> {
        match family {
            Family::Edm(edm) => edm.at_sigma(1e-6).time..=edm.at_sigma(1e6).time,
            Family::Vp(table) => 0.0..=(table.shares().len() - 1) as f64,
            Family::FlowMatching(_) => 0.0..=1.0,
        }
    }

    /// The start of a family: the last timestep of variance-preserving diffusion, the largest sigma of sampling (80) of EDM, and the
    /// end of flow matching's path.
    pub fn of(family: &Family) -> Self {
        let time = match family {
            Family::Edm(edm) => edm.at_sigma(SigmaSchedule::default().sigma_max).time,
            Family::Vp(table) => (table.shares().len() - 1) as f64,
            Family::FlowMatching(_) => 1.0,
        };
        Self::at(family, time)
    }

    /// The image made of standard normal `noise` `[batch, channels, height, width]`; `network` is asked once, as
    /// [`denoise`](Diffusion::denoise) asks it.
    pub fn image<B: Backend>(
        &self,
        family: &Family,
        noise: Tensor<B, 4>,
        network: impl FnOnce(Tensor<B, 4>, Tensor<B, 1>) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        family.denoise(noise * self.start, self.point, network)
    }
}

/// Weight of a noise level in the student's gradient: the noise's share of the variance.
pub fn vsd_weight(row: &Row) -> f64 {
    let [signal, noise] = [row.level.signal, row.level.noise].map(|part| part * part);
    noise / (signal + noise)
}

/// The direction in which images get less likely for the teacher and more likely for the student's critic: the
/// [weighted](vsd_weight) difference of the noise that both predict in one noised image. Outputs of the networks, guided or not,
/// `[batch, channels, height, width]`, with one row per sample.
pub fn score_gradient<B: Backend>(
    teacher: Tensor<B, 4>,
    critic: Tensor<B, 4>,
    rows: &[Row],
) -> Tensor<B, 4> {
    // The noise follows from the denoised estimate, `(x - signal x0) / noise`, and that from the output.
    let of_noise = |row: &Row| -row.level.signal / row.level.noise * row.c_out;
    let factors = column(
        rows,
        |row| vsd_weight(row) * of_noise(row),
        &teacher.device(),
    );
    (teacher - critic) * factors
}

/// The student's loss of each sample, `[batch]`, whose gradient by the `images` is the [score gradient](score_gradient) over the
/// number of values: half the squared distance to images that are moved against it.
pub fn vsd_loss<B: Backend>(images: Tensor<B, 4>, gradient: Tensor<B, 4>) -> Tensor<B, 1> {
    let batch = images.dims()[0];
    let target = (images.clone() - gradient).detach();
    let distance = (images - target).powi_scalar(2).mean_dims(&[1, 2, 3]);
    distance.reshape([batch]) * 0.5
}

/// The rows by which the critic learns to denoise the student's images: the family's, each weighed by the signal's share too.
pub fn critic_rows(rows: &[Row]) -> Vec<Row> {
    let weighed = |row: &Row| Row {
        weight: row.weight * row.level.signal * row.level.signal,
        ..*row
    };
    rows.iter().map(weighed).collect()
}

/// Cosine of the angle between two embeddings, row by row: `[batch, width]` to `[batch]`.
pub fn cosine<B: DitBackend>(one: Tensor<B, 2>, other: Tensor<B, 2>) -> Tensor<B, 1> {
    let batch = one.dims()[0];
    let norm = |x: Tensor<B, 2>| x.powi_scalar(2).sum_dim(1).sqrt().clamp_min(LEAST_NORM);
    let norms = norm(one.clone()) * norm(other.clone());
    ((one * other).sum_dim(1) / norms).reshape([batch])
}

/// CLIP loss of each sample, clamped so that images which already show their caption well enough are left alone:
/// `max(0, tau - cosine)` (SwiftBrush v2), from embeddings of images and captions.
pub fn clamped_clip_loss<B: DitBackend>(
    images: Tensor<B, 2>,
    captions: Tensor<B, 2>,
    tau: f64,
) -> Tensor<B, 1> {
    relu(cosine(images, captions).neg() + tau)
}

/// One number of each row, `[batch, 1, 1, 1]`.
fn column<B: Backend>(rows: &[Row], of: impl Fn(&Row) -> f64, device: &B::Device) -> Tensor<B, 4> {
    let values: Vec<f32> = rows.iter().map(|row| of(row) as f32).collect();
    let values = Tensor::<B, 1>::from_floats(&values[..], device);
    values.reshape([rows.len(), 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{DiffusionConfig, Edm, FlowMatching, Level, Prediction, Vp};
    use burn::tensor::TensorData;
    use burn_flex::Flex;

    fn families() -> Vec<Family> {
        let vp = |prediction| {
            DiffusionConfig::Vp(Vp {
                prediction,
                ..Vp::default()
            })
        };
        let configs = [
            DiffusionConfig::Edm(Edm::default()),
            DiffusionConfig::FlowMatching(FlowMatching::default()),
            vp(Prediction::Epsilon),
            vp(Prediction::V),
            vp(Prediction::Sample),
        ];
        configs.map(|config| config.init().unwrap()).into()
    }

    fn tensor(values: [f32; 4]) -> Tensor<Flex, 4> {
        Tensor::from_data(
            TensorData::new(values.to_vec(), [2, 1, 1, 2]),
            &Default::default(),
        )
    }

    fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f64> {
        tensor.into_data().iter().collect()
    }

    /// Against the ideal output the gradient is that of score distillation sampling: the noise that the teacher sees without the noise that
    /// is there (DreamFusion, equation 3).
    #[test]
    fn against_the_ideal_output_it_is_score_distillation_sampling() {
        let (clean, noise) = (tensor([0.5, -1.0, 2.0, 0.1]), tensor([1.0, 0.3, -0.4, 0.8]));
        let seen = values(tensor([0.4, -0.7, 2.2, 0.0]));
        for family in families() {
            let rows: Vec<Row> = [0.6, 3.0]
                .map(|sigma| family.row(family.at_sigma(sigma)))
                .into();
            let x = family.noisy(clean.clone(), noise.clone(), &rows);
            let of = |of: fn(&Row) -> f64| column::<Flex>(&rows, of, &Default::default());
            let teacher = tensor([0.4, -0.7, 2.2, 0.0]) - x.clone() * of(|row| row.c_skip);
            let teacher = teacher / of(|row| row.c_out);
            let ideal = family.target(clean.clone(), noise.clone(), &rows);
            let found = values(score_gradient(teacher, ideal, &rows));
            let (x, noise) = (values(x), values(noise.clone()));
            for (i, found) in found.into_iter().enumerate() {
                let row = &rows[i / 2];
                let noise_seen = (x[i] - row.level.signal * seen[i]) / row.level.noise;
                let expected = vsd_weight(row) * (noise_seen - noise[i]);
                assert!((found - expected).abs() < 2e-5, "{found}, {expected}");
            }
        }
    }

    /// Whatever a network predicts, the same two estimates of an image at the same ratio of noise to signal give the same gradient.
    #[test]
    fn every_family_and_prediction_has_the_same_gradient() {
        let (clean, noise) = (tensor([0.5, -1.0, 2.0, 0.1]), tensor([1.0, 0.3, -0.4, 0.8]));
        let other = tensor([0.4, -0.7, 2.2, 0.0]);
        let mut expected: Option<Vec<f64>> = None;
        for family in families() {
            let rows: Vec<Row> = [0.6, 3.0]
                .map(|sigma| family.row(family.at_sigma(sigma)))
                .into();
            let x = family.noisy(clean.clone(), noise.clone(), &rows);
            // The output of which `image` is the denoised estimate.
            let output = |image: &Tensor<Flex, 4>| {
                let of = |of: fn(&Row) -> f64| column::<Flex>(&rows, of, &Default::default());
                (image.clone() - x.clone() * of(|row| row.c_skip)) / of(|row| row.c_out)
            };
            let found = values(score_gradient(output(&clean), output(&other), &rows));
            let expected = expected.get_or_insert_with(|| found.clone());
            for (found, expected) in found.iter().zip(&*expected) {
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{family:?}: {found}, {expected}"
                );
            }
        }
        // By hand: weight s^2/(1+s^2), signal/noise 1/s, estimates that differ by 0.1.
        let by_hand = -(0.36 / 1.36) / 0.6 * 0.1;
        assert!((expected.unwrap()[0] - by_hand).abs() < 1e-6);
    }

    #[test]
    fn a_student_begins_where_a_sampler_of_its_family_does() {
        for family in families() {
            let student = OneStep::of(&family);
            let Level { signal, noise } = student.point.level;
            // Nothing but noise is left, to a percent, and as much of it as the level says.
            assert!(signal < 0.1 * noise, "{family:?}");
            assert!((student.start / noise - 1.0).abs() < 0.01, "{family:?}");
            // A perfect network gives back the image; noise is all it is given.
            let clean = tensor([0.5, -1.0, 2.0, 0.1]);
            let row = family.row(student.point);
            let z = tensor([1.0, 0.3, -0.4, 0.8]);
            let x = z.clone() * student.start;
            let image = student.image(&family, z, |input, time| {
                assert!((values(time)[0] - row.c_noise).abs() < 1e-3);
                let given = (input - x.clone() * row.c_in).abs().max().into_scalar();
                assert!(given < 1e-4, "{given}");
                (clean.clone() - x.clone() * row.c_skip) / row.c_out
            });
            assert!(
                (image - clean).abs().max().into_scalar() < 1e-4,
                "{family:?}"
            );
        }
    }
}
