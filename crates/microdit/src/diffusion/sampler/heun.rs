//! Heun's method for the probability-flow ODE (EDM, arXiv 2206.00364, algorithm 1).

use super::{History, Images, Sampler, first_order::first_order};
use crate::diffusion::{family::Point, schedule::Convention, trajectory::Step, vp::LEAST_SHARE};
use burn::tensor::backend::Backend;

/// Second order in noise over signal: two evaluations a step, and one where a step begins without signal or ends without
/// noise. A level that stands for one without signal, since noise over signal must be finite, is taken for it: the correction would multiply the
/// difference of two estimates by hundreds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heun;

impl Sampler for Heun {
    fn step<B: Backend>(
        &self,
        x: Images<B>,
        step: &Step,
        _history: &mut History<B>,
        denoise: &mut dyn FnMut(Images<B>, Point) -> Images<B>,
        noise: &mut dyn FnMut() -> Images<B>,
    ) -> Images<B> {
        let (from, to) = (step.from.level, step.to.level);
        if from.signal.powi(2) < 1.001 * LEAST_SHARE || to.noise == 0.0 {
            return first_order(x, step, 0.0, None, denoise, noise);
        }
        let ratio = to.sigma() / from.sigma();
        let x = x / from.signal;
        let first = denoise(x.clone() * from.signal, step.from);
        let euler = x.clone() * ratio + first.clone() * (1.0 - ratio);
        let second = denoise(euler * to.signal, step.to);
        // The mean of the slopes at both ends, written as a sum of the three images; its factors add up to 1.
        let of_first = (ratio - 1.0) * (1.0 - 2.0 * ratio) / (2.0 * ratio);
        let of_second = (1.0 - ratio) / (2.0 * ratio);
        (x * ratio + first * of_first + second * of_second) * to.signal
    }

    fn convention(&self) -> Convention {
        Convention::Euler
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{
        Betas, Edm, Prediction, Vp,
        sampler::{Euler, sample},
        schedule::{SigmaSchedule, Spacing, TimestepSchedule},
    };
    use burn::tensor::Tensor;
    use burn_flex::Flex;

    /// For data of variance 1 the ideal denoiser is x / (1 + sigma^2), and the flow from sigma_max maps the start to
    /// x(0) = x / sqrt(1 + sigma_max^2) exactly.
    fn error(sampler: &impl Sampler, steps: usize) -> f64 {
        let trajectory = SigmaSchedule::default().trajectory(&Edm::default(), steps);
        let end = sample(
            sampler,
            &trajectory,
            Tensor::<Flex, 4>::ones([1, 1, 1, 1], &Default::default()) * trajectory.start,
            |x, point| x / (1.0 + point.time * point.time),
            |_| unreachable!("no noise is added"),
            |_, _| (),
        );
        (f64::from(end.into_scalar()) - 80.0 / (1.0f64 + 6400.0).sqrt()).abs()
    }

    /// The mean of the slopes would multiply what two estimates differ by with hundreds.
    #[test]
    fn a_step_that_begins_without_signal_is_of_first_order() {
        let table = Vp {
            betas: Betas::Cosine,
            zero_terminal_snr: true,
            prediction: Prediction::V,
            ..Vp::default()
        };
        let table = table.init().unwrap();
        let schedule = TimestepSchedule {
            spacing: Spacing::Trailing,
            ..TimestepSchedule::default()
        };
        let trajectory = schedule.trajectory(&table, Heun.convention(), 30);
        let mut asked = Vec::new();
        sample(
            &Heun,
            &trajectory,
            Tensor::<Flex, 4>::ones([1, 1, 1, 1], &Default::default()) * trajectory.start,
            |x, point| {
                asked.push(point.level.sigma());
                x * 0.1
            },
            |_| unreachable!("no noise is added"),
            |_, _| (),
        );
        // A step of second order asks where it ends, and the next one there again.
        assert!(
            asked[0] > 4000.0 && asked[1] > asked[2] && asked[2] == asked[3],
            "{asked:?}"
        );
    }

    #[test]
    fn euler_is_first_and_heun_second_order() {
        let euler = error(&Euler, 40) / error(&Euler, 80);
        let heun = error(&Heun, 20) / error(&Heun, 40);
        assert!((1.7..2.4).contains(&euler), "Euler's error fell by {euler}");
        assert!((3.2..5.0).contains(&heun), "Heun's error fell by {heun}");
    }
}
