//! diffusion_vp, vp_sampler: noise levels, samplers and guidance, with a toy network of few numbers.

use super::Inner;
use crate::{
    golden::{Array, Golden, values},
    report::Report,
};
use burn::tensor::Tensor;
use microdit::diffusion::{
    Betas, Diffusion, Guidance, InitImage, Level, Prediction, SchedulerFile, Vp, VpTable,
    VpWeighting,
    sampler::{Ddim, DpmSolver, Rule, Solver, sample},
    schedule::{End, Spacing, TimestepSchedule},
    trajectory::Trajectory,
};
use serde_json::Value;
use std::{cell::RefCell, path::Path};

/// Tables and states, relative to their largest value.
pub(super) const CLOSE: f64 = 2e-6;

pub(super) fn text<'a>(value: &'a Value, key: &str, default: &'a str) -> &'a str {
    value[key].as_str().unwrap_or(default)
}

pub(super) fn flag(value: &Value, key: &str, default: bool) -> bool {
    value[key].as_bool().unwrap_or(default)
}

pub(super) fn number(value: &Value, key: &str, default: f64) -> f64 {
    value[key].as_f64().unwrap_or(default)
}

/// A schedule under diffusers' names, with what a sampler's arguments say of it.
pub(super) fn vp(schedule: &Value, arguments: &Value) -> Vp {
    let either = |key: &str| match &arguments[key] {
        Value::Null => schedule[key].clone(),
        value => value.clone(),
    };
    let (start, end) = (
        either("beta_start").as_f64().unwrap_or(0.0001),
        either("beta_end").as_f64().unwrap_or(0.02),
    );
    Vp {
        timesteps: number(schedule, "num_train_timesteps", 1000.0) as usize,
        betas: match either("beta_schedule").as_str().unwrap_or("linear") {
            "linear" => Betas::Linear { start, end },
            "scaled_linear" => Betas::ScaledLinear { start, end },
            "squaredcos_cap_v2" => Betas::Cosine,
            other => panic!("unknown schedule {other}"),
        },
        zero_terminal_snr: either("rescale_betas_zero_snr").as_bool().unwrap_or(false),
        prediction: match either("prediction_type").as_str().unwrap_or("epsilon") {
            "epsilon" => Prediction::Epsilon,
            "v_prediction" => Prediction::V,
            "sample" => Prediction::Sample,
            other => panic!("unknown prediction {other}"),
        },
        weighting: VpWeighting::Uniform,
    }
}

/// A sampler's arguments under diffusers' names.
fn timesteps(arguments: &Value, default: Spacing) -> TimestepSchedule {
    TimestepSchedule {
        spacing: match arguments["timestep_spacing"].as_str() {
            None => default,
            Some("leading") => Spacing::Leading,
            Some("trailing") => Spacing::Trailing,
            Some("linspace") => Spacing::Linspace,
            Some(other) => panic!("unknown spacing {other}"),
        },
        offset: number(arguments, "steps_offset", 0.0) as usize,
        end: match text(arguments, "final_sigmas_type", "zero") {
            "sigma_min" => End::FirstTimestep,
            _ if !flag(arguments, "set_alpha_to_one", true) => End::FirstTimestep,
            _ => End::Clean,
        },
        karras: flag(arguments, "use_karras_sigmas", false),
    }
}

/// What a run leaves behind.
#[derive(Default)]
struct Run {
    states: Vec<f64>,
    estimates: Vec<f64>,
}

/// Runs a sampler over the toy network; states are divided by the signal if `per_signal`.
fn run(
    golden: &Golden,
    table: &VpTable,
    solver: &Solver,
    trajectory: &Trajectory,
    start: Tensor<Inner, 4>,
    noise: Option<&Array>,
    per_signal: bool,
) -> Run {
    let device = Default::default();
    let (a, b) = (
        golden.get("in.model_a").data[0],
        golden.get("in.model_b").data[0],
    );
    let direction: Tensor<Inner, 4> = golden.get("in.model_dir").float(&device);
    let found = RefCell::new(Run::default());
    // The last state has the level the last step ends at; without steps it is the image.
    let level = |i: usize| match (trajectory.steps.get(i), trajectory.steps.last()) {
        (Some(step), _) => step.from.level,
        (None, Some(last)) => last.to.level,
        (None, None) => Level::CLEAN,
    };
    let skipped = trajectory.steps.first().map_or(0, |step| step.index);
    sample(
        solver,
        trajectory,
        start,
        |x, point| {
            let denoised = table.denoise(x, point, |x, _| x * a + direction.clone() * b);
            // The file has the estimates as they are used.
            let used = match solver {
                Solver::Ddim(Ddim {
                    clip: Some(clip), ..
                }) => denoised.clone().clamp(-clip, *clip),
                _ => denoised.clone(),
            };
            found.borrow_mut().estimates.extend(values(used));
            denoised
        },
        |step| {
            let noise = noise.expect("this sampler adds no noise");
            noise.row(step - skipped).float(&device)
        },
        |i, state| {
            let unit = if per_signal { level(i).signal } else { 1.0 };
            let state = values(state.clone());
            found
                .borrow_mut()
                .states
                .extend(state.iter().map(|x| x / unit));
        },
    );
    found.into_inner()
}

/// Schedules, targets, weights, DDIM and guidance.
pub(super) fn tables(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = Default::default();
    let (clean, noise) = (golden.get("in.x0"), golden.get("in.noise"));
    let times = &golden.get("in.t").data;
    let schedules = golden.config["schedules"].as_object().expect("schedules");
    let gamma = golden.number("gamma");
    for (name, schedule) in schedules {
        // Every schedule of the file is used with a prediction it allows.
        let of = |prediction, weighting| {
            let vp = Vp {
                prediction,
                weighting,
                ..vp(schedule, &Value::Null)
            };
            vp.init().unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let v = of(Prediction::V, VpWeighting::MinSnr(gamma));
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        let rows = v.rows(times);
        let mut check = |part: &str, found: Vec<f64>| {
            let key = format!("out.{name}.{part}");
            if golden.has(&key) {
                let expected = golden.get(&key);
                report.close(key, &found, expected, CLOSE * expected.max_abs());
            }
        };
        check("betas", wide(&v.betas()));
        check("alphas_cumprod", wide(v.shares()));
        let snr = |level: Level| (level.signal / level.noise).powi(2);
        check("snr", rows.iter().map(|row| snr(row.level)).collect());
        let all = (0..v.shares().len()).map(|t| snr(v.at_time(t as f64).level));
        check("snr_table", all.collect());
        check("minsnr_v", rows.iter().map(|row| row.weight).collect());
        if !v.config().zero_terminal_snr {
            let epsilon = of(Prediction::Epsilon, VpWeighting::MinSnr(gamma));
            let weights = epsilon.rows(times).into_iter().map(|row| row.weight);
            check("minsnr_eps", weights.collect());
        }
        let float = |array: &Array| array.float::<Inner, 4>(&device);
        check("noisy", values(v.noisy(float(clean), float(noise), &rows)));
        check(
            "velocity",
            values(v.target(float(clean), float(noise), &rows)),
        );
    }
    let samplers = golden.config["samplers"].as_object().expect("samplers");
    for (name, arguments) in samplers {
        let schedule = &schedules[arguments["schedule"].as_str().expect("a schedule's name")];
        let table = vp(schedule, arguments).init().expect("a valid schedule");
        let solver = Solver::Ddim(Ddim {
            eta: number(arguments, "eta", 0.0),
            clip: None,
        });
        let steps = number(arguments, "steps", 0.0) as usize;
        let trajectory = TimestepSchedule::trajectory(
            &timesteps(arguments, Spacing::Leading),
            &table,
            microdit::diffusion::sampler::Sampler::convention(&solver),
            steps,
        );
        let start = golden.get("in.start").float(&device);
        let found = run(&golden, &table, &solver, &trajectory, start, None, false);
        compare(&golden, name, &trajectory, found, report);
    }
    let float = |name: &str| golden.get(name).float::<Inner, 4>(&device);
    for (key, rescale) in [
        ("cfg_plain", 0.0),
        ("cfg_rescaled", golden.number("guidance_rescale")),
    ] {
        let guidance = Guidance {
            rescale,
            ..Guidance::scale(golden.number("guidance"))
        };
        let found = values(guidance.combine(float("in.cond"), float("in.uncond")));
        let expected = golden.get(&format!("out.{key}"));
        report.close(key, &found, expected, CLOSE * expected.max_abs());
    }
}

/// Timesteps, states and estimates of a run.
fn compare(golden: &Golden, name: &str, trajectory: &Trajectory, found: Run, report: &mut Report) {
    let times: Vec<f64> = trajectory.steps.iter().map(|step| step.from.time).collect();
    let expected = golden.get(&format!("out.{name}.timesteps"));
    report.close(
        format!("{name}.timesteps"),
        &times,
        expected,
        1e-6 * expected.max_abs(),
    );
    // How far the stored f32 numbers are from the same computation in f64.
    let floor = number(&golden.config["f32_vs_f64_max_abs"], name, 0.0);
    for (part, found) in [("steps", found.states), ("x0_pred", found.estimates)] {
        let expected = golden.get(&format!("out.{name}.{part}"));
        // An error of a state is as large as the state; each is measured by its own size.
        let size = expected.data.len() / expected.shape[0];
        for (i, found) in found.chunks(size).enumerate() {
            let expected = expected.row(i);
            report.close(
                format!("{name}.{part}.{i}"),
                found,
                &expected,
                (1e-5 * expected.max_abs()).max(2.0 * floor),
            );
        }
    }
}

/// The configuration a scheduler writes is read as the same diffusion, timesteps and solver.
fn scheduler_file(
    name: &str,
    settings: &Value,
    table: &VpTable,
    schedule: TimestepSchedule,
    solver: Solver,
    report: &mut Report,
) {
    let mut config = settings["diffusers_config"].clone();
    let class = match text(settings, "class", "") {
        "ddim" => "DDIMScheduler",
        "euler" => "EulerDiscreteScheduler",
        "euler_ancestral" => "EulerAncestralDiscreteScheduler",
        _ => "DPMSolverMultistepScheduler",
    };
    config["_class_name"] = class.into();
    let read = SchedulerFile::read(&config).unwrap_or_else(|error| panic!("{name}: {error}"));
    // Chosen where pictures are drawn.
    let solver = match solver {
        Solver::Ddim(ddim) => Solver::Ddim(Ddim { eta: 0.0, ..ddim }),
        other => other,
    };
    let expected = (*table.config(), schedule, solver);
    let found = (read.diffusion, read.schedule, read.solver);
    if found != expected {
        println!("{name}: {found:?}, expected {expected:?}");
    }
    let wrong = f64::from(u8::from(found != expected));
    report.at_most(
        format!("{name}: its configuration is read otherwise"),
        wrong,
        0.0,
    );
}

/// Trajectories of diffusers' schedulers.
pub(super) fn vp_sampler(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let device = Default::default();
    let samplers = golden.config["samplers"].as_object().expect("samplers");
    for (name, settings) in samplers {
        let arguments = &settings["args"];
        let class = text(settings, "class", "");
        let table = vp(&golden.config["schedule"], arguments).init();
        let table = table.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (solver, spacing) = match class {
            "ddim" => {
                let clip = flag(arguments, "clip_sample", true)
                    .then(|| number(arguments, "clip_sample_range", 1.0));
                let eta = number(settings, "eta", 0.0);
                (Solver::Ddim(Ddim { eta, clip }), Spacing::Leading)
            }
            "euler" => (Solver::Euler, Spacing::Linspace),
            "euler_ancestral" => (Solver::EulerAncestral, Spacing::Linspace),
            "dpm_multistep" => {
                let solver = DpmSolver {
                    sde: text(arguments, "algorithm_type", "dpmsolver++") == "sde-dpmsolver++",
                    rule: match text(arguments, "solver_type", "midpoint") {
                        "heun" => Rule::Heun,
                        _ => Rule::Midpoint,
                    },
                    first_order_end: flag(arguments, "euler_at_final", false),
                };
                (Solver::DpmSolver(solver), Spacing::Linspace)
            }
            other => panic!("{name}: unknown class {other}"),
        };
        scheduler_file(
            name,
            settings,
            &table,
            timesteps(arguments, spacing),
            solver,
            report,
        );
        let convention = microdit::diffusion::sampler::Sampler::convention(&solver);
        let steps = number(settings, "steps", 0.0) as usize;
        let whole = timesteps(arguments, spacing).trajectory(&table, convention, steps);
        // k-diffusion's states are divided by the signal.
        let per_signal = class.starts_with("euler");
        let first = whole.steps[0].from.level;
        let float = |key: &str| golden.get(key).float::<Inner, 4>(&device);
        let (start, trajectory) = match settings["strength"].as_f64() {
            None => (float("in.start") * whole.start, whole),
            Some(strength) => {
                let trajectory = whole.with_strength(strength);
                let init = InitImage::new(float("in.x0"), float("in.noise0"));
                (init.start(&trajectory), trajectory)
            }
        };
        let key = format!("out.{name}.init_noise_sigma");
        if golden.has(&key) && per_signal {
            let expected = golden.get(&key);
            let found = timesteps(arguments, spacing)
                .trajectory(&table, convention, steps)
                .start;
            report.close(
                key,
                &[found / first.signal],
                expected,
                CLOSE * expected.max_abs(),
            );
        }
        let key = format!("out.{name}.sigmas");
        if golden.has(&key) {
            let expected = golden.get(&key);
            let last = trajectory.steps.last().map(|step| step.to);
            let points = trajectory.steps.iter().map(|step| step.from).chain(last);
            let found: Vec<f64> = points.map(|point| point.level.sigma()).collect();
            report.close(key, &found, expected, CLOSE * expected.max_abs());
        }
        let noise = settings["noise"]
            .as_str()
            .map(|key| golden.get(&format!("in.noise.{key}")));
        let found = run(
            &golden,
            &table,
            &solver,
            &trajectory,
            start,
            noise,
            per_signal,
        );
        compare(&golden, name, &trajectory, found, report);
    }
}
