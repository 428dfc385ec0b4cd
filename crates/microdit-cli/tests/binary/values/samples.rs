//! Small recipes that between them have every key and every variant, and their numbers as they are serialized.

use crate::{common::root, eval::dinov2};
use burn_flex::Flex;
use microdit_encoders::write_random;
use microdit_train::{Recipe, recipe::Stage};
use serde_json::Value;
use std::{fmt::Write, path::Path};

/// A network that draws shapes in a second, with every optional key that goes with them.
const SHAPES: &str = r#"(
    name: "tiny",
    seed: 0,
    model: (
        input_size: 16, patch_size: 4, in_channels: 3, dim: 16, depth: 2, head_dim: 8, multiple_of: 8, caption_channels: 8,
        qkv_width: Linear(from: 0.5, to: 1.0), ffn_width: Linear(from: 0.5, to: 4.0),
        mixer: (dim: 16, depth: 1), decoder: (dim: 8, depth: 1, head_dim: 8), moe: (experts: 4, capacity: 2.0, every: 2),
    ),
    diffusion: Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2),
    data: Shapes(image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6)),
    caption_drop: 0.1,
    batch: 4,
    micro_batch: 2,
    optimizer: (lr: 2e-3, weight_decay: 0.01, clip_norm: 1.0, groups: [(kinds: [Moe], lr: 0.5), (kinds: [Norms])]),
    stages: [
        (
            name: "masked", steps: 4, masking: Deferred(ratio: 0.5), reconstruction: (mae_loss_coef: 0.1), optimizer: (method: Muon(momentum: 0.9)),
            schedule: (curve: Cosine(warmup: 2, total: 4, floor: 0.3)),
        ),
        (
            name: "naive", steps: 2, diffusion: FlowMatching(density: LogitNormal(mean: 0.0, std: 1.0), shift: 1.5), masking: Naive(ratio: 0.5), optimizer: (method: Lamb()),
            schedule: (curve: WarmupStableDecay(warmup: 1, total: 2, decay: 1, floor: 0.0)),
        ),
        (
            name: "unmasked", steps: 3, diffusion: Vp(timesteps: 100, betas: Linear(start: 1e-4, end: 0.02), weighting: MinSnr(5.0)), schedule: (curve: Constant(warmup: 1)),
            ema: [(decay: Smoothing(0.9)), (decay: HalfLife(2.0), start: 1, every: 2), (decay: Power(0.1)), (decay: Ramped(0.9))],
            post_hoc_ema: (every: 2), evaluate_every: 2, draw_every: 3,
        ),
    ],
    sampling: (
        prompts: ["a large red circle"], count: 1, steps: 2, guidance: 2.0, every: 5, interval: (from: 0.1, to: 50.0),
        solver: Ddim(eta: 0.5, clip: 1.0), schedule: Timesteps(offset: 1), churn: (s_churn: 1.0, s_max: 50.0),
    ),
    log_every: 1,
    checkpoints: (every: 3, keep: 2, milestones: 6),
    evaluation: (every: 4, samples: 3, feature_distance: (samples: 4, network: Published("NETWORK"), reference_samples: 60)),
    budget: (hours: 1.0, usd: 5.0, usd_per_gpu_hour: 1.0),
)"#;

/// Other ways to say how wide blocks are.
const WIDTHS: [[&str; 2]; 3] = [
    ["Constant(0.5)", "Steps([1.0, 2.0])"],
    ["Steps([0.5, 1.0])", "PerLayer([1.0, 2.0])"],
    ["PerLayer([0.5, 1.0])", "Constant(2.0)"],
];

/// Other diffusions, and their schedules.
const DIFFUSIONS: [[&str; 2]; 4] = [
    [
        "Vp(betas: ScaledLinear(start: 1e-3, end: 0.01), prediction: V)",
        "Timesteps(karras: true)",
    ],
    [
        "FlowMatching(density: Mode(scale: 0.5))",
        "Shift(Static(1.5))",
    ],
    ["FlowMatching(density: Uniform)", "Shift(Dynamic(mu: 0.5))"],
    [
        "Edm(sigma_data: 0.5, p_mean: 0.0, p_std: 1.0)",
        "Sigmas(sigma_max: 70.0)",
    ],
];

/// Another network, which sees all tokens.
const UNET: [&str; 4] = [
    "model=UNet(
        input_size: 16, in_channels: 3, out_channels: 3, caption_channels: 8, norm_groups: 2,
        down: [(channels: 4, resnets: 1), (channels: 8, resnets: 1, attentions: [1], heads: 2)],
        mid: (resnets: 1, attentions: [1], heads: 2),
        up: [(channels: 8, resnets: 2, attentions: [1], heads: 2), (channels: 4, resnets: 2)],
    )",
    "stages.masked.masking=None",
    "stages.masked.reconstruction=None",
    "stages.naive.masking=None",
];

/// What turns it into a recipe of adapters, and of a student that learns from the network before it.
const STUDENT: [&str; 6] = [
    "stages.naive=(
        name: \"adapters\", steps: 2, diffusion: Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2), masking: None,
        lora: (layers: [\"qkv\"], rank: 2, alpha: 3.0, dropout: 0.1),
    )",
    "stages.unmasked=(
        name: \"student\", steps: 3, diffusion: Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2),
        lora: (layers: [\"proj\"], rank: 2, alpha: 3.0, dropout: 0.1), lora_alone: false,
        distill: (
            guidance: 2.0, timesteps: (from: 0.1, to: 0.9), critic: (layers: [\"qkv\"], rank: 2, alpha: 3.0, dropout: 0.1),
            critic_optimizer: (method: Muon(momentum: 0.9), weight_decay: 0.01, groups: [(kinds: [Adapters], lr: 0.5)]),
            clip: (model: \"CLIP\", tau: 0.5, weight: 0.5, until: 2), regression: (weight: 0.5, until: 2),
        ),
        ema: [(decay: Smoothing(0.9))], post_hoc_ema: None,
    )",
    "sampling.steps=1",
    "sampling.guidance=1.0",
    "sampling.schedule=None",
    "evaluation.feature_distance=None",
];

/// Other ways to drop tokens.
const MASKINGS: [&str; 2] = [
    "NaiveBlocks(ratio: 0.5, side: 2)",
    "DeferredBlocks(ratio: 0.5, side: 2)",
];

/// What turns it into a recipe over latents, which come from two lists of shards.
const LATENTS: &str = r#"(
    extends: "shapes.ron",
    model: (input_size: 8, in_channels: 4, caption_channels: 6),
    data: Latents(
        image_size: 256, tokens: 3, mix: [(shards: "SHARDS", weight: 1.0), (shards: "SHARDS", weight: 3.0)],
        caption_mix: [(name: "a", weight: 1.0), (name: "none", weight: 3.0)],
        buckets: Sizes([(width: 256, height: 256)]),
    ),
    sampling: (every: None),
    evaluation: (every: 4, samples: 3, shards: "SHARDS", feature_distance: None),
)"#;

/// What turns it into a recipe over two lists of pictures.
const PICTURES: &str = r#"(
    extends: "shapes.ron",
    data: WebDataset(
        image_size: 16, codec: Pixels(scale: 0.5), captions: HashedWords(tokens: 6),
        mix: [(shards: "SHARDS", weight: 1.0), (shards: "SHARDS", weight: 3.0)],
        caption_mix: [(name: "txt", weight: 1.0), (name: "none", weight: 3.0)], buckets: Step(step: 4, max_aspect: 2.5),
    ),
    evaluation: (every: 4, samples: 3, shards: "SHARDS", feature_distance: None),
)"#;

/// A recipe with every key written down, and the numbers in it.
pub(super) struct Sample {
    pub(super) recipe: Recipe,
    /// The recipe as text.
    pub(super) text: String,
    pub(super) numbers: Vec<Number>,
}

/// A number in a recipe.
#[derive(Clone)]
pub(super) struct Number {
    /// Its place in the types, as the schema has it.
    pub(super) place: String,
    /// Its place in the recipe, as `--set` has it.
    pub(super) path: String,
}

/// The recipes, on latents of `shards`, written to `folder` first.
pub(super) fn samples(folder: &Path, shards: &Path) -> Vec<Sample> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let network = folder.join("dinov2");
    dinov2(&network);
    let shapes = SHAPES.replace("NETWORK", &network.to_string_lossy());
    let shapes = write("shapes.ron", &shapes);
    let latents = LATENTS.replace("SHARDS", &shards.to_string_lossy());
    let latents = write("latents.ron", &latents);
    let golden = root().join("tests/goldens/wds_clean.tar");
    let pictures = PICTURES.replace("SHARDS", &golden.to_string_lossy());
    let pictures = write("pictures.ron", &pictures);
    let load = |path: &Path, sets: &[String]| whole(Recipe::load(path, sets).unwrap());
    let widths = WIDTHS.map(|[qkv, ffn]| {
        let sets = [
            format!("model.qkv_width={qkv}"),
            format!("model.ffn_width={ffn}"),
        ];
        load(&shapes, &sets)
    });
    let diffusions = DIFFUSIONS.map(|[diffusion, schedule]| {
        let sets = [
            format!("stages.unmasked.diffusion={diffusion}"),
            format!("sampling.schedule={schedule}"),
        ];
        load(&shapes, &sets)
    });
    let maskings = MASKINGS.map(|masking| {
        let set = format!("stages.masked.masking={masking}");
        load(&shapes, &[set])
    });
    let mut all = vec![load(&shapes, &[])];
    all.extend(maskings);
    all.extend(widths);
    all.push(load(&shapes, &UNET.map(str::to_owned)));
    all.extend(diffusions);
    let [clip, _] = write_random::<Flex>(folder, 4, 0).unwrap();
    let student = STUDENT.map(|set| set.replace("CLIP", &clip.to_string_lossy()));
    all.push(load(&shapes, &student));
    // Buckets of both kinds on data of both kinds.
    let step = "data.buckets=Step(step: 128, max_aspect: 2.5)";
    let sizes = "data.buckets=Sizes([(width: 16, height: 16)])";
    for (recipe, other) in [(&latents, step), (&pictures, sizes)] {
        all.push(load(recipe, &[]));
        all.push(load(recipe, &[other.to_owned()]));
    }
    all
}

/// The recipe with every key written down.
fn whole(recipe: Recipe) -> Sample {
    let run = serde_json::to_value(&recipe.run).unwrap();
    let stages: Vec<Value> = recipe
        .stages
        .iter()
        .map(|stage: &Stage| serde_json::to_value(stage).unwrap())
        .collect();
    let mut numbers = Vec::new();
    collect(&run, "run", "", &mut numbers);
    for (stage, value) in recipe.stages.iter().zip(&stages) {
        collect(
            value,
            "stage",
            &format!("stages.{}", stage.name),
            &mut numbers,
        );
    }
    let mut text = String::from("(");
    for (key, value) in run.as_object().unwrap() {
        let _ = write!(text, "\n{key}: {},", ron(value));
    }
    let stages = ron(&Value::Array(stages));
    let _ = write!(text, "\nstages: {stages},\n)");
    Sample {
        recipe,
        text,
        numbers,
    }
}

/// A variant's name and what it holds, of an enum: serde's form of it has one key, and only variants begin with a capital.
fn variant(value: &Value) -> Option<(&String, &Value)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    let (name, inner) = fields.iter().next()?;
    name.starts_with(char::is_uppercase)
        .then_some((name, inner))
}

/// The numbers in a value; null values are not numbers.
fn collect(value: &Value, place: &str, path: &str, numbers: &mut Vec<Number>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match value {
        Value::Number(_) => numbers.push(Number {
            place: place.to_owned(),
            path: path.to_owned(),
        }),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(item, &format!("{place}.*"), &below(&i.to_string()), numbers);
            }
        }
        Value::Object(fields) => match variant(value) {
            // A variant with names is written like a struct, one without like a list.
            Some((name, inner)) => {
                let named = inner.is_object() && variant(inner).is_none();
                let path = if named { path } else { &below("0") };
                collect(inner, &format!("{place}.{name}"), path, numbers);
            }
            None => {
                for (key, field) in fields {
                    collect(field, &format!("{place}.{key}"), &below(key), numbers);
                }
            }
        },
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

/// A value as recipes write it.
fn ron(value: &Value) -> String {
    let body = |fields: &serde_json::Map<String, Value>| {
        let fields = fields
            .iter()
            .map(|(key, value)| format!("{key}: {}", ron(value)));
        fields.collect::<Vec<_>>().join(", ")
    };
    match value {
        Value::Null => "None".into(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        // A variant without anything in it is a bare name, and no text of these recipes is a single capitalised word.
        Value::String(text)
            if text.chars().all(char::is_alphanumeric) && text.starts_with(char::is_uppercase) =>
        {
            text.clone()
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(ron).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => match variant(value) {
            Some((name, inner @ Value::Object(fields))) if variant(inner).is_none() => {
                format!("{name}({})", body(fields))
            }
            Some((name, inner)) => format!("{name}({})", ron(inner)),
            None => format!("({})", body(fields)),
        },
    }
}
