//! What a run does besides training: the sampler's step, and saving and loading its state.

use burn::tensor::Tensor;
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use criterion::{Criterion, criterion_group, criterion_main};
use microdit::{
    diffusion::{
        Diffusion as _, Edm, Guidance, Point,
        sampler::{Solver, sample},
        trajectory::Trajectory,
    },
    net::{Conditioning, Denoiser as _, Network},
    task::Task as _,
    worker_pool,
};
use microdit_benches::normal;
use microdit_train::{
    Recipe,
    checkpoint::{Checkpoint, Progress, State},
    optim::{Gradients, Optimizer},
};
use std::{hint::black_box, path::Path};

type Tracked = Autodiff<Flex>;

/// Width 256, depth 8: 20 M parameters.
fn recipe() -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes/microdit-tiny2.ron");
    let settings = [
        "model.precision=F32",
        "model.dim=256",
        "model.depth=8",
        "model.mixer.dim=256",
        "model.mixer.depth=2",
    ];
    Recipe::load(&path, &settings.map(String::from)).expect("a recipe")
}

fn sampler(c: &mut Criterion) {
    let config = &recipe().stages[0].model;
    let dit: Network<Flex> = config.init(0, &Default::default()).expect("a network");
    let (noise, captions) = (normal(0, [1, 4, 32, 32]), normal(1, [1, 77, 1024]));
    let conditioning = Conditioning { captions };
    let (guidance, null) = (Guidance::scale(5.0), conditioning.null());
    let edm = Edm::default();
    let [from, to] = [2.0, 1.0].map(|sigma| edm.at_sigma(sigma));
    let trajectory = Trajectory::new(&[from], to, 2.0);
    let mut group = c.benchmark_group("sampler");
    group.sample_size(10);
    for (name, solver) in [("Euler", Solver::Euler), ("Heun", Solver::Heun)] {
        group.bench_function(format!("a step of {name}'s with guidance"), |b| {
            worker_pool::enter(|| {
                b.iter(|| {
                    let denoise = |x, point: Point| {
                        let sigma = point.level.sigma();
                        edm.denoise(x, point, |x, t| {
                            guidance.predict(&dit, x, t, sigma, &conditioning, &null)
                        })
                    };
                    black_box(sample(
                        &solver,
                        &trajectory,
                        noise.clone() * trajectory.start,
                        denoise,
                        |_| unreachable!("no noise is added"),
                        |_, _| (),
                    ))
                });
            });
        });
    }
}

fn checkpoint(c: &mut Criterion) {
    let recipe = recipe();
    let stage = &recipe.stages[0];
    let device = Default::default();
    let task = stage.task::<Tracked>(0, &device).expect("a network");
    let captions = Tensor::ones([1, 77, 1024], &device);
    let output = task.denoiser().image(
        Tensor::ones([1, 4, 32, 32], &device),
        Tensor::ones([1], &device),
        Conditioning { captions },
    );
    let loss = output.sum();
    let grads = Gradients::collect(&task, &mut loss.backward());
    let mut optimizer = Optimizer::new(stage.optimizer.clone());
    let (task, _) = optimizer.step::<Tracked, _>(task, grads, &loss.inner(), 1e-4);
    let state = State {
        progress: Progress::default(),
        task,
        optimizer,
        emas: Vec::new(),
        post_hoc: Vec::new(),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = c.benchmark_group("checkpoint, 20 M parameters");
    group.sample_size(10);
    group.bench_function("save", |b| {
        b.iter(|| {
            let _ = std::fs::remove_dir_all(folder.path());
            std::fs::create_dir_all(folder.path()).expect("a folder");
            state
                .save(folder.path(), &recipe.run.checkpoints, None)
                .expect("it is saved")
        });
    });
    group.bench_function("verify and load", |b| {
        b.iter(|| {
            let newest = Checkpoint::newest(folder.path())
                .expect("readable")
                .expect("one");
            black_box({
                let task = stage.task::<Tracked>(0, &device).expect("a network");
                newest.load(stage, task, &device).expect("a state")
            })
        });
    });
}

criterion_group!(benches, sampler, checkpoint);
criterion_main!(benches);
