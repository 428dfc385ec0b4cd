//! Diffusion and sampling as diffusers' `scheduler_config.json` describes them.

use super::{
    Betas, Prediction, Vp, VpWeighting,
    sampler::{Ddim, DpmSolver, Rule, Solver},
    schedule::{End, Spacing, TimestepSchedule},
};
use crate::range::{OutOfRange, require, within};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{cell::RefCell, collections::BTreeSet};

/// What a scheduler's configuration says about the network's training and about how it samples.
///
/// ```
/// use microdit::diffusion::{Prediction, SchedulerFile, schedule::Spacing};
///
/// let config = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
///     "beta_end": 0.012, "prediction_type": "v_prediction", "steps_offset": 1, "clip_sample": false}"#;
/// let read = SchedulerFile::read(&serde_json::from_str(config)?)?;
/// assert_eq!((read.diffusion.prediction, read.schedule.spacing), (Prediction::V, Spacing::Leading));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerFile {
    /// The diffusion the network was trained with.
    pub diffusion: Vp,
    /// Timesteps that are visited.
    pub schedule: TimestepSchedule,
    /// Solver.
    pub solver: Solver,
    /// What is done otherwise than the configuration asks for, in words.
    pub notes: Vec<String>,
}

/// Classes that are known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Ddim,
    Pndm,
    Ddpm,
    Euler,
    EulerAncestral,
    Dpm,
}

/// Their names.
const CLASSES: [(&str, Class); 6] = [
    ("DDIMScheduler", Class::Ddim),
    ("PNDMScheduler", Class::Pndm),
    ("DDPMScheduler", Class::Ddpm),
    ("EulerDiscreteScheduler", Class::Euler),
    ("EulerAncestralDiscreteScheduler", Class::EulerAncestral),
    ("DPMSolverMultistepScheduler", Class::Dpm),
];

/// Keys whose values matter only together with others that are not supported, or to schedulers of other classes: a file keeps those
/// of every class it was once used with.
const IDLE: [&str; 9] = [
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "flow_shift",
    "lambda_min_clipped",
    "skip_prk_steps",
    "time_shift_type",
    "lower_order_final",
    "sigma_min",
    "sigma_max",
];

impl SchedulerFile {
    /// Reads a configuration, as JSON.
    ///
    /// # Errors
    /// The first key whose value is not supported, with the value.
    pub fn read(config: &Value) -> Result<Self, OutOfRange> {
        let keys = Keys::of(config)?;
        let class = keys.choice("_class_name", None, &CLASSES)?;
        let (start, end) = (keys.get("beta_start", 1e-4)?, keys.get("beta_end", 0.02)?);
        let betas = [
            ("linear", Betas::Linear { start, end }),
            ("scaled_linear", Betas::ScaledLinear { start, end }),
            ("squaredcos_cap_v2", Betas::Cosine),
        ];
        let predictions = [
            ("epsilon", Prediction::Epsilon),
            ("v_prediction", Prediction::V),
            ("sample", Prediction::Sample),
        ];
        let diffusion = Vp {
            timesteps: keys.get("num_train_timesteps", 1000)?,
            betas: keys.choice("beta_schedule", Some("linear"), &betas)?,
            zero_terminal_snr: keys.get("rescale_betas_zero_snr", false)?,
            prediction: keys.choice("prediction_type", Some("epsilon"), &predictions)?,
            weighting: VpWeighting::Uniform,
        };
        diffusion.init()?;
        let spacings = [
            ("leading", Spacing::Leading),
            ("trailing", Spacing::Trailing),
            ("linspace", Spacing::Linspace),
        ];
        let spacing = match class {
            Class::Ddim | Class::Pndm | Class::Ddpm => "leading",
            Class::Euler | Class::EulerAncestral | Class::Dpm => "linspace",
        };
        let at_one = keys.get("set_alpha_to_one", class != Class::Pndm)?;
        let ends = [("zero", End::Clean), ("sigma_min", End::FirstTimestep)];
        let last_sigma = keys.choice("final_sigmas_type", Some("zero"), &ends)?;
        let schedule = TimestepSchedule {
            spacing: keys.choice("timestep_spacing", Some(spacing), &spacings)?,
            offset: keys.get("steps_offset", 0)?,
            end: match class {
                Class::Ddim | Class::Pndm if at_one => End::Clean,
                Class::Ddim | Class::Pndm => End::FirstTimestep,
                Class::Ddpm => End::Clean,
                Class::Euler | Class::EulerAncestral | Class::Dpm => last_sigma,
            },
            karras: keys.get("use_karras_sigmas", false)?,
        };
        within("steps_offset", schedule.offset, 0..diffusion.timesteps)?;
        let solver = keys.solver(class)?;
        keys.finish()?;
        let mut notes = Vec::new();
        if class == Class::Pndm {
            notes.push(
                "its scheduler is PNDM, in place of which DDIM draws, at the same spacing"
                    .to_owned(),
            );
        }
        Ok(Self {
            diffusion,
            schedule,
            solver,
            notes,
        })
    }
}

/// The keys of a configuration.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// Those that were asked for.
    read: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Keys<'a> {
    fn of(config: &'a Value) -> Result<Self, OutOfRange> {
        let map = config.as_object();
        let map = map.ok_or_else(|| {
            OutOfRange::new(
                "_class_name",
                "is missing; expected an object of keys and values",
            )
        })?;
        Ok(Self {
            map,
            read: RefCell::default(),
        })
    }

    /// The value of a key, or `default` where it is absent or null.
    fn get<T: DeserializeOwned>(&self, key: &'static str, default: T) -> Result<T, OutOfRange> {
        self.read.borrow_mut().insert(key);
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => T::deserialize(value)
                .map_err(|error| OutOfRange::new(key, format!("{value} cannot be read: {error}"))),
        }
    }

    /// One of several texts and what it stands for.
    fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: Option<&str>,
        choices: &[(&str, T)],
    ) -> Result<T, OutOfRange> {
        let found = self.get(key, default.map(str::to_owned))?;
        let chosen = choices
            .iter()
            .find(|(name, _)| Some(*name) == found.as_deref());
        chosen.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let found = found.map_or("is missing".to_owned(), |found| {
                format!("{found:?} is not supported")
            });
            OutOfRange::new(key, format!("{found}; expected {}", names.join(" or ")))
        })
    }

    fn solver(&self, class: Class) -> Result<Solver, OutOfRange> {
        let clips = self.get("clip_sample", true)?;
        let range = self.get("clip_sample_range", 1.0)?;
        let clip = clips.then_some(range);
        let fixed = [("fixed_small", ()), ("fixed_small_log", ())];
        let algorithms = [("dpmsolver++", false), ("sde-dpmsolver++", true)];
        let rules = [("midpoint", Rule::Midpoint), ("heun", Rule::Heun)];
        let (eta_0, eta_1) = (Ddim { eta: 0.0, clip }, Ddim { eta: 1.0, clip });
        let solver = match class {
            Class::Ddim => Solver::Ddim(eta_0),
            Class::Pndm => Solver::Ddim(Ddim {
                clip: None,
                ..eta_0
            }),
            Class::Ddpm => {
                self.choice("variance_type", Some("fixed_small"), &fixed)?;
                Solver::Ddim(eta_1)
            }
            Class::Euler => Solver::Euler,
            Class::EulerAncestral => Solver::EulerAncestral,
            Class::Dpm => {
                within("solver_order", self.get("solver_order", 2)?, 2..=2)?;
                Solver::DpmSolver(DpmSolver {
                    sde: self.choice("algorithm_type", Some("dpmsolver++"), &algorithms)?,
                    rule: self.choice("solver_type", Some("midpoint"), &rules)?,
                    first_order_end: self.get("euler_at_final", false)?,
                })
            }
        };
        solver.validate()?;
        // Those of the classes that are not asked for them stay without effect.
        let mut read = self.read.borrow_mut();
        read.extend([
            "variance_type",
            "solver_order",
            "algorithm_type",
            "solver_type",
            "euler_at_final",
        ]);
        Ok(solver)
    }

    /// Checks that no other key asks for anything.
    fn finish(&self) -> Result<(), OutOfRange> {
        let linear = [("linear", ())];
        self.choice("interpolation_type", Some("linear"), &linear)?;
        self.choice("timestep_type", Some("discrete"), &[("discrete", ())])?;
        let read = self.read.borrow();
        let known = |key: &str| key.starts_with('_') || IDLE.contains(&key) || read.contains(key);
        let other = self
            .map
            .iter()
            .find(|(key, value)| !known(key) && !matches!(value, Value::Null | Value::Bool(false)));
        match other {
            None => Ok(()),
            Some((key, value)) => require(false, key, || format!("{value} is not supported")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The configuration of Stable Diffusion 1, as it is published.
    fn sd_1() -> Value {
        json!({
            "_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
            "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
            "clip_sample": false,
        })
    }

    #[test]
    fn published_configurations_are_read() {
        let read = SchedulerFile::read(&sd_1()).unwrap();
        assert_eq!(read.diffusion, Vp::default());
        let leading = TimestepSchedule {
            spacing: Spacing::Leading,
            offset: 1,
            end: End::FirstTimestep,
            karras: false,
        };
        assert_eq!(read.schedule, leading);
        assert_eq!(read.solver, Solver::Ddim(Ddim::default()));
        assert!(read.notes[0].contains("PNDM"), "{:?}", read.notes);
        let table = read.diffusion.init().unwrap();
        let path = read
            .schedule
            .trajectory(&table, super::super::schedule::Convention::Ddim, 50);
        let times: Vec<f64> = path.steps.iter().map(|step| step.from.time).collect();
        assert_eq!((times[0], times[1], times[49]), (981.0, 961.0, 1.0));

        // SD-Turbo's: keys of other classes stay without effect.
        let mut turbo = sd_1();
        turbo["_class_name"] = json!("EulerDiscreteScheduler");
        turbo["timestep_spacing"] = json!("trailing");
        turbo["interpolation_type"] = json!("linear");
        let turbo = SchedulerFile::read(&turbo).unwrap();
        assert_eq!(
            (turbo.solver, turbo.schedule.end),
            (Solver::Euler, End::Clean)
        );
        assert!(turbo.notes.is_empty());

        // DeciDiffusion's.
        let deci = SchedulerFile::read(&json!({
            "_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "steps_offset": 1,
            "set_alpha_to_one": false, "clip_sample": false, "thresholding": false,
        }));
        let deci = deci.unwrap();
        assert_eq!(
            (deci.diffusion.betas, deci.diffusion.prediction),
            (Betas::Cosine, Prediction::V)
        );
        assert!(deci.diffusion.zero_terminal_snr);
        let table = deci.diffusion.init().unwrap();
        let path = deci
            .schedule
            .trajectory(&table, super::super::schedule::Convention::Ddim, 30);
        let times: Vec<f64> = path.steps.iter().map(|step| step.from.time).collect();
        assert_eq!(
            (&times[..4], times[29]),
            (&[999.0, 966.0, 932.0, 899.0][..], 32.0)
        );
    }

    #[test]
    fn what_is_not_supported_is_named_with_its_value() {
        for (key, value, part) in [
            (
                "_class_name",
                json!("LCMScheduler"),
                "\"LCMScheduler\" is not supported; expected DDIMScheduler or",
            ),
            ("_class_name", Value::Null, "_class_name: is missing"),
            (
                "beta_schedule",
                json!("sigmoid"),
                "beta_schedule: \"sigmoid\"",
            ),
            (
                "prediction_type",
                json!("flow_prediction"),
                "prediction_type: \"flow_prediction\"",
            ),
            (
                "timestep_spacing",
                json!(3),
                "timestep_spacing: 3 cannot be read",
            ),
            (
                "trained_betas",
                json!([0.1]),
                "trained_betas: [0.1] is not supported",
            ),
            (
                "thresholding",
                json!(true),
                "thresholding: true is not supported",
            ),
            (
                "use_beta_sigmas",
                json!(true),
                "use_beta_sigmas: true is not supported",
            ),
            (
                "interpolation_type",
                json!("log_linear"),
                "interpolation_type: \"log_linear\"",
            ),
            ("steps_offset", json!(1000), "steps_offset"),
            ("num_train_timesteps", json!(1), "timesteps"),
            ("beta_end", json!(1e300), "betas.end"),
            ("clip_sample_range", json!("wide"), "clip_sample_range"),
        ] {
            let mut config = sd_1();
            config[key] = value;
            let error = SchedulerFile::read(&config).unwrap_err().to_string();
            assert!(error.contains(part), "{key}: {error}");
        }
        assert!(SchedulerFile::read(&json!([])).is_err());
    }
}
