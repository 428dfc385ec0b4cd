//! Image-to-image (SDEdit, arXiv 2108.01073) and inpainting: pictures that begin with an image and may keep a part of it.

use super::{
    family::{Level, Point},
    sampler::Images,
    trajectory::Trajectory,
};
use burn::tensor::{Bool, Tensor, backend::Backend};

/// An image that pictures begin with in place of noise alone, in any family and for any sampler; with a mask, only a part
/// of it is drawn anew.
///
/// ```
/// use burn::tensor::Tensor;
/// use burn_flex::Flex;
/// use microdit::diffusion::{Edm, InitImage, sampler::{Heun, sample}, schedule::SigmaSchedule};
///
/// let device = Default::default();
/// let image = Tensor::<Flex, 4>::from_floats([[[[0.3, -0.1], [0.2, 0.7]]]], &device);
/// let redrawn = Tensor::<Flex, 4>::from_floats([[[[0.0, 0.0], [1.0, 1.0]]]], &device).bool();
/// let init = InitImage::new(image, Tensor::ones([1, 1, 2, 2], &device)).with_mask(redrawn);
///
/// // The last 6 of 10 steps, with a network that sees 0.25 everywhere.
/// let trajectory = SigmaSchedule::default().trajectory(&Edm::default(), 10).with_strength(0.6);
/// let drawn = sample(
///     &Heun,
///     &trajectory,
///     init.start(&trajectory),
///     |x, point| init.denoise(x, point, |x, _point| x.full_like(0.25)),
///     |_step| unreachable!("this sampler adds no noise"),
///     |_step, _state| (),
/// );
/// let drawn: Vec<f32> = init.finish(drawn).into_data().iter().collect();
/// assert_eq!(drawn[..2], [0.3, -0.1]);
/// assert!(drawn[2..].iter().all(|value| (value - 0.25).abs() < 1e-6));
/// ```
#[derive(Clone, Debug)]
pub struct InitImage<B: Backend> {
    image: Images<B>,
    noise: Images<B>,
    redrawn: Option<Tensor<B, 4, Bool>>,
}

impl<B: Backend> InitImage<B> {
    /// Of `image` `[1 or batch, channels, height, width]`, noised with `noise` `[batch, channels, height, width]`, standard normal
    /// numbers.
    pub fn new(image: Images<B>, noise: Images<B>) -> Self {
        Self {
            image,
            noise,
            redrawn: None,
        }
    }

    /// The same with only what `redrawn` `[1 or batch, 1 or channels, height, width]` marks drawn anew.
    #[must_use]
    pub fn with_mask(self, redrawn: Tensor<B, 4, Bool>) -> Self {
        Self {
            redrawn: Some(redrawn.expand(self.noise.dims())),
            ..self
        }
    }

    /// The image at a noise level.
    pub fn at(&self, level: Level) -> Images<B> {
        self.image.clone() * level.signal + self.noise.clone() * level.noise
    }

    /// The state that `trajectory`, whole or a [part](Trajectory::with_strength), begins with: the image at its first noise
    /// level, or clean if there are no steps. Where all steps are left, what a mask marks begins as noise alone, so that
    /// nothing of what was there shows.
    pub fn start(&self, trajectory: &Trajectory) -> Images<B> {
        let Some(first) = trajectory.steps.first() else {
            return self.at(Level::CLEAN);
        };
        let image = || self.at(first.from.level);
        match (first.index, &self.redrawn) {
            (0, Some(_)) => self.keep(self.noise.clone() * trajectory.start, image),
            _ => image(),
        }
    }

    /// The estimate that a sampler goes by, from `denoise`, the network's: what is kept is known, so that the network sees it
    /// as it is at that noise level, and its estimate is the image itself.
    pub fn denoise(
        &self,
        x: Images<B>,
        point: Point,
        denoise: impl FnOnce(Images<B>, Point) -> Images<B>,
    ) -> Images<B> {
        if self.redrawn.is_none() {
            return denoise(x, point);
        }
        let x = self.keep(x, || self.at(point.level));
        self.finish(denoise(x, point))
    }

    /// The result, with what is kept as it was, bit for bit: a sampler may end with a little noise.
    pub fn finish(&self, drawn: Images<B>) -> Images<B> {
        self.keep(drawn, || self.image.clone().expand(self.noise.dims()))
    }

    /// `drawn` where it is redrawn, and `known` where it is not.
    fn keep(&self, drawn: Images<B>, known: impl FnOnce() -> Images<B>) -> Images<B> {
        match &self.redrawn {
            Some(redrawn) => known().mask_where(redrawn.clone(), drawn),
            None => drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        diffusion::{
            Betas, Diffusion as _, DiffusionConfig, Edm, Family, FlowMatching, Prediction, Vp,
            sampler::{Churn, Ddim, DpmSolver, Sampler as _, Solver, sample},
            schedule::{End, ScheduleConfig, Spacing, TimestepSchedule},
        },
        rng::{Purpose, Stream},
    };
    use burn_flex::Flex;

    const SHAPE: [usize; 4] = [2, 3, 4, 4];

    fn normal(seed: u64) -> Images<Flex> {
        let values = Stream::new(seed, Purpose::Noise, 0, 0).normal(SHAPE.iter().product());
        Tensor::<Flex, 1>::from_floats(&values[..], &Default::default()).reshape(SHAPE)
    }

    /// The lower half.
    fn mask() -> Tensor<Flex, 4, Bool> {
        let rows = Tensor::<Flex, 1>::from_floats([0.0, 0.0, 1.0, 1.0], &Default::default());
        rows.reshape([1, 1, 4, 1]).expand([1, 1, 4, 4]).bool()
    }

    fn families() -> Vec<Family> {
        let zero_terminal = Vp {
            zero_terminal_snr: true,
            prediction: Prediction::V,
            betas: Betas::Cosine,
            ..Vp::default()
        };
        let configs = [
            DiffusionConfig::Edm(Edm::default()),
            DiffusionConfig::Vp(Vp::default()),
            DiffusionConfig::Vp(zero_terminal),
            DiffusionConfig::FlowMatching(FlowMatching::default()),
        ];
        configs.map(|config| config.init().unwrap()).into()
    }

    fn solvers() -> [Solver; 6] {
        let dpm = |sde| {
            Solver::DpmSolver(DpmSolver {
                sde,
                ..DpmSolver::default()
            })
        };
        [
            Solver::Euler,
            Solver::Heun,
            Solver::EulerAncestral,
            Solver::Ddim(Ddim::default()),
            dpm(false),
            dpm(true),
        ]
    }

    fn largest(x: Images<Flex>) -> f32 {
        x.abs().max().into_scalar()
    }

    /// Runs a toy network and returns the result, and the largest distance of what it saw from the image at that level,
    /// within what is kept.
    fn run(
        init: &InitImage<Flex>,
        family: &Family,
        solver: &Solver,
        trajectory: &Trajectory,
    ) -> (Images<Flex>, f32) {
        let mut off = 0f32;
        let drawn = sample(
            solver,
            trajectory,
            init.start(trajectory),
            |x, point| {
                init.denoise(x, point, |x, point| {
                    let away =
                        (x.clone() - init.at(point.level)).mask_fill(mask().expand(SHAPE), 0.0);
                    off = off.max(largest(away));
                    family.denoise(x, point, |x, _| x.tanh() * 0.7)
                })
            },
            |step| normal(100 + step as u64),
            |_, _| (),
        );
        (init.finish(drawn), off)
    }

    #[test]
    fn what_is_kept_is_the_image_and_what_is_redrawn_is_not() {
        let (image, noise) = (normal(1) * 0.5, normal(2));
        for family in families() {
            for solver in solvers() {
                for strength in [0.5, 1.0] {
                    let schedule = ScheduleConfig::of(&family);
                    let whole = schedule.trajectory(&family, solver.convention(), 6);
                    let churn = Churn {
                        s_churn: 1.0,
                        ..Churn::default()
                    };
                    let trajectory = whole.with_churn(&churn, &family).with_strength(strength);
                    let init = InitImage::new(image.clone(), noise.clone()).with_mask(mask());
                    let (drawn, off) = run(&init, &family, &solver, &trajectory);
                    let change = drawn - image.clone();
                    let [kept, redrawn] = [
                        change.clone().slice([0..2, 0..3, 0..2]),
                        change.slice([0..2, 0..3, 2..4]),
                    ];
                    let case = format!("{solver:?} in {family:?}, strength {strength}");
                    assert_eq!(largest(kept), 0.0, "{case}");
                    assert!(largest(redrawn) > 1e-2, "{case}");
                    assert_eq!(off, 0.0, "{case}");
                }
            }
        }
    }

    /// Without a mask nothing is held; with one, deterministic samplers keep the image on its straight path by themselves, and
    /// an end with a little noise left is no part of the result.
    #[test]
    fn a_mask_agrees_with_the_path_of_the_image() {
        let vp = Vp::default().init().unwrap();
        let family = Family::Vp(std::sync::Arc::new(vp.clone()));
        let solver = Solver::Ddim(Ddim::default());
        let schedule = TimestepSchedule {
            spacing: Spacing::Leading,
            offset: 1,
            end: End::FirstTimestep,
            ..TimestepSchedule::default()
        };
        let trajectory = schedule
            .trajectory(&vp, solver.convention(), 10)
            .with_strength(0.6);
        assert_eq!(trajectory.steps.len(), 6);
        let (image, noise) = (normal(1) * 0.5, normal(2));
        let everything = mask().bool_or(mask().bool_not());
        let init = InitImage::new(image.clone(), noise.clone());
        let whole = init.clone().with_mask(everything.clone());
        let [free, redrawn] =
            [&init, &whole].map(|init| run(init, &family, &solver, &trajectory).0);
        assert_eq!(largest(free - redrawn), 0.0);
        let nothing = init.with_mask(everything.bool_not());
        let mut states = Vec::new();
        let end = sample(
            &solver,
            &trajectory,
            nothing.start(&trajectory),
            |x, point| nothing.denoise(x, point, |x, _| x * 30.0),
            |_| unreachable!("no noise is added"),
            |i, state| states.push((i, state.clone())),
        );
        for (i, state) in states {
            let level = match trajectory.steps.get(i) {
                Some(step) => step.from.level,
                None => trajectory.steps[i - 1].to.level,
            };
            let away = largest(state - nothing.at(level));
            assert!(away < 1e-5, "state {i} is {away} from the image's");
        }
        assert!(
            largest(end.clone() - image.clone()) > 1e-2,
            "some noise is left"
        );
        assert_eq!(largest(nothing.finish(end) - image), 0.0);
    }
}
