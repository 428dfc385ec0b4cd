//! Every bundled recipe loads, and runs in small; the bill of the paper's run is the paper's.

use crate::common::{fails, microdit, root, succeeds};
use burn_flex::Flex;
use microdit_encoders::write_random;
use npyz::{WriteOptions, WriterBuilder};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// A shard of eight samples of numbers up to `size`: latents of 8 x 8 for 256 px, of 16 x 16 for 512 px and of 24 x 24 for 768 px,
/// captions of 3 vectors of 6 numbers.
pub(crate) fn latents(path: &Path, size: f32) {
    let array = |shape: &[u64]| {
        let mut bytes = Vec::new();
        let options = WriteOptions::new().default_dtype().shape(shape);
        let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
        let count = shape.iter().product::<u64>();
        let numbers = (0..count).map(|i| size * (i as f32).sin());
        writer.extend(numbers).unwrap();
        writer.finish().unwrap();
        bytes
    };
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    for key in 0..8 {
        for (name, shape) in [
            ("latent-256.npy", &[4, 8, 8][..]),
            ("latent-512.npy", &[4, 16, 16]),
            ("latent-768.npy", &[4, 24, 24]),
            ("caption.npy", &[3, 6]),
            ("caption-a.npy", &[3, 6]),
        ] {
            let data = array(shape);
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            let name = format!("{key}.{name}");
            tar.append_data(&mut header, name, &data[..]).unwrap();
        }
        let text = format!("caption {key}");
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        let name = format!("{key}.txt");
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.finish().unwrap();
}

/// Arguments that train on latents of 1e30, written to `shard`: they overflow the loss in every step.
pub(crate) fn overflowing(shard: &Path) -> Vec<String> {
    latents(shard, 1e30);
    let data = format!("data=Latents(image_size: 256, tokens: 3, shards: {shard:?})");
    let sets = [
        &data,
        "model.in_channels=4",
        "model.input_size=8",
        "model.patch_size=2",
        "model.caption_channels=6",
        "evaluation=None",
        "sampling.every=None",
    ];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    sets.map(str::to_owned).collect()
}

/// All files under recipes/ with the extension of one.
fn bundled(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let recipes = files
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ron| ron == "ron"));
    recipes
        .chain(folders.iter().flat_map(|folder| bundled(folder)))
        .collect()
}

#[test]
fn every_recipe_that_is_whole_has_a_bill_it_can_pay() {
    // Pieces of others have no name, and sweeps over recipes have a test of their own.
    let named = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("\n    name: \"");
    let all: Vec<PathBuf> = bundled(&root().join("recipes"))
        .into_iter()
        .filter(named)
        .collect();
    assert!(all.len() >= 7, "{all:?}");
    for path in &all {
        // It needs no data, and fits into the GPUs it is planned for.
        let said = succeeds(&["plan", &path.to_string_lossy(), "--json"]);
        let plan: serde_json::Value = serde_json::from_str(&said).unwrap();
        let there = plan["machine"]["gpu"]["gib"].as_f64().unwrap();
        for stage in plan["stages"].as_array().unwrap() {
            let needed = stage["memory"]["total"].as_f64().unwrap();
            assert!(needed < there, "{path:?}: {stage}");
        }
    }
}

/// Sizes for which a run takes a second, on latents of `latents`.
const SMALL: [&str; 14] = [
    "model.dim=32",
    "model.depth=2",
    "model.head_dim=16",
    "model.multiple_of=16",
    "model.input_size=8",
    "model.caption_channels=6",
    "model.mixer.dim=16",
    "model.mixer.depth=1",
    "model.moe.experts=2",
    "data.tokens=3",
    "batch=4",
    "micro_batch=2",
    "log_every=1",
    "checkpoints.every=2",
];

#[test]
fn the_recipes_over_latents_run() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("latents.tar");
    latents(&shard, 1.0);
    let shards = format!("data.shards={}", shard.display());
    let phases = ["256-masked", "256-unmasked", "512-masked", "512-unmasked"];
    for (recipe, stages) in [
        ("microdit-xl2", &phases[..]),
        ("microdit-tiny2", &phases),
        ("cifar-captions/baseline", &["masked"]),
    ] {
        let run = folder.path().join(recipe.replace('/', "-"));
        let mut sets: Vec<String> = SMALL.map(str::to_owned).into();
        sets.push(shards.clone());
        if stages.len() > 1 {
            // Shards that name all they hold, and no encoders.
            sets.push(format!(
                "evaluation=(every: 3, samples: 8, shards: {shard:?})"
            ));
            sets.push("stages.512-unmasked.evaluate_every=1".into());
            sets.push("encoders=()".into());
            sets.push("sampling.every=None".into());
        }
        for stage in stages {
            sets.push(format!("stages.{stage}.steps=3"));
            if stage.starts_with("512") {
                sets.push(format!("stages.{stage}.model.input_size=16"));
                sets.push(format!("stages.{stage}.ema.0.start=1"));
            }
        }
        let path = format!("recipes/{recipe}.ron");
        let run_text = run.to_string_lossy();
        let mut arguments = vec!["train", &path, "--run", &run_text];
        arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
        let said = succeeds(&arguments);
        assert!(said.contains("no pictures"), "{said}");
        let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 3 * stages.len(), "{log}");
        if stages.len() > 1 {
            // At the end of each stage, and at every step of the last.
            let text = fs::read_to_string(run.join("evaluation.jsonl")).unwrap();
            let steps: Vec<u64> = text
                .lines()
                .map(|line| {
                    let line: serde_json::Value = serde_json::from_str(line).unwrap();
                    line["step"].as_u64().unwrap()
                })
                .collect();
            assert_eq!(steps, [3, 6, 9, 10, 11, 12]);
        }
        for stage in stages {
            assert!(log.contains(&format!("\"stage\":\"{stage}\"")), "{log}");
        }
        assert_eq!(run.join("ema.safetensors").is_file(), stages.len() > 1);
        // The positions are those of the last stage's resolution: 8 x 8 or 4 x 4 tokens.
        let weights = fs::read(run.join("weights.safetensors")).unwrap();
        let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
        let tokens = if stages.len() > 1 { 64 } else { 16 };
        assert_eq!(
            weights.tensor("pos_embed").unwrap().shape(),
            [1, tokens, 32]
        );
    }
}

/// Stable Diffusion's and DeciDiffusion's trainings: the networks and the images are those that were published, and every stage runs
/// in small, each handing its weights on.
#[test]
fn the_recipes_of_unets_run() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("latents.tar");
    latents(&shard, 1.0);
    let shards = format!("data.shards={}", shard.display());
    let (sd_1, sd_2, deci) = (859_520_964u64, 865_910_724u64, 814_746_884u64);
    for (recipe, levels, parameters, stages) in [
        (
            "stable-diffusion-1",
            4,
            sd_1,
            &[
                ("256", 237_000, 2048),
                ("512", 194_000, 2048),
                ("512-aesthetics", 515_000, 2048),
                ("512-caption-drop", 595_000, 2048),
            ][..],
        ),
        (
            "stable-diffusion-2",
            4,
            sd_2,
            &[
                ("256", 550_000u64, 2048),
                ("512", 850_000, 2048),
                ("512-velocity", 150_000, 2048),
                ("768-velocity", 140_000, 2048),
            ],
        ),
        (
            "decidiffusion",
            3,
            deci,
            &[
                ("256", 1_280_000u64, 8192),
                ("512", 870_000, 6144),
                ("512-quality", 65_000, 6144),
                ("512-art", 10_000, 6144),
            ],
        ),
    ] {
        let said = succeeds(&["plan", recipe, "--json"]);
        let plan: serde_json::Value = serde_json::from_str(&said).unwrap();
        for (stage, (name, steps, batch)) in plan["stages"].as_array().unwrap().iter().zip(stages) {
            assert_eq!(stage["name"], *name);
            assert_eq!(stage["parameters"], parameters);
            assert_eq!(stage["images"], steps * batch);
        }
        let mut sets: Vec<String> = [
            "model.caption_channels=6",
            "model.norm_groups=4",
            "model.mid.heads=2",
            "data.tokens=3",
            "log_every=1",
            "checkpoints.every=2",
            &shards,
        ]
        .map(str::to_owned)
        .into();
        for (way, level) in ["down", "up"]
            .iter()
            .flat_map(|way| (0..levels).map(move |i| (way, i)))
        {
            sets.push(format!("model.{way}.{level}.channels=8"));
            sets.push(format!("model.{way}.{level}.heads=2"));
        }
        for (stage, _, _) in stages {
            let side = stage[..3].parse::<u32>().unwrap() / 32;
            for set in [
                "steps=3",
                "batch=4",
                "micro_batch=2",
                &format!("model.input_size={side}"),
            ] {
                sets.push(format!("stages.{stage}.{set}"));
            }
        }
        let run = folder.path().join(recipe);
        let run_text = run.to_string_lossy();
        let mut arguments = vec!["train", recipe, "--run", &run_text];
        arguments.extend(sets.iter().flat_map(|set| ["--set", set]));
        succeeds(&arguments);
        let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let names: Vec<&str> = lines
            .iter()
            .map(|line| line["stage"].as_str().unwrap())
            .collect();
        let expected: Vec<&str> = stages.iter().flat_map(|(name, _, _)| [*name; 3]).collect();
        assert_eq!(names, expected);
        assert!(
            lines
                .iter()
                .all(|line| line["loss"].as_f64().unwrap() > 0.0),
            "{log}"
        );
        assert!(run.join("ema.safetensors").is_file());
    }
}

/// Recipes that begin with a trained network: adapters, and students of a U-Net and of a transformer. Each runs in small, over a network
/// of the same small sizes.
#[test]
fn the_recipes_over_trained_networks_run() {
    let folder = tempfile::tempdir().unwrap();
    let shard = folder.path().join("latents.tar");
    latents(&shard, 1.0);
    let train = |recipe: &str, name: &str, sets: &[String]| {
        let run = folder.path().join(name);
        let run_text = run.to_string_lossy().into_owned();
        let shards = format!("data.shards={}", shard.display());
        let common = [
            shards.as_str(),
            "log_every=1",
            "checkpoints.every=2",
            "encoders=()",
            "sampling.every=None",
            "evaluation=None",
        ];
        let sets = common.into_iter().chain(sets.iter().map(String::as_str));
        let mut arguments = vec!["train", recipe, "--run", &run_text];
        arguments.extend(sets.flat_map(|set| ["--set", set]));
        succeeds(&arguments);
        run
    };
    let mut unet: Vec<String> = [
        "model.caption_channels=6",
        "model.norm_groups=4",
        "model.mid.heads=2",
        "data.tokens=3",
    ]
    .map(str::to_owned)
    .into();
    for (way, level) in ["down", "up"]
        .iter()
        .flat_map(|way| (0..4).map(move |i| (way, i)))
    {
        unet.push(format!("model.{way}.{level}.channels=8"));
        unet.push(format!("model.{way}.{level}.heads=2"));
    }
    let dit: Vec<String> = SMALL[..10].iter().map(|&set| set.to_owned()).collect();
    // The networks they begin with.
    let short = |sizes: &[String], sides: &[(&str, usize)]| {
        let mut sets = sizes.to_vec();
        for (stage, side) in sides {
            for set in ["steps=1", "batch=4", "micro_batch=4"] {
                sets.push(format!("stages.{stage}.{set}"));
            }
            sets.push(format!("stages.{stage}.model.input_size={side}"));
        }
        sets
    };
    let sides = [
        ("256", 8),
        ("512", 16),
        ("512-velocity", 16),
        ("768-velocity", 24),
    ];
    let sd = train("stable-diffusion-2", "sd", &short(&unet, &sides));
    let sides = [
        ("256-masked", 8),
        ("256-unmasked", 8),
        ("512-masked", 16),
        ("512-unmasked", 16),
    ];
    let xl = train("microdit-xl2", "xl", &short(&dit, &sides));
    let [clip, decoder] = write_random::<Flex>(folder.path(), 4, 0).unwrap();
    for (recipe, stage, sizes, teacher, files) in [
        ("lora", "style", &unet, &sd, &["weights", "lora"][..]),
        (
            "swiftbrush/sd21-full",
            "distil",
            &unet,
            &sd,
            &["weights", "ema"],
        ),
        (
            "swiftbrush/sd21-lora-clip",
            "distil",
            &unet,
            &sd,
            &["weights", "lora", "ema", "lora-ema"],
        ),
        (
            "swiftbrush/microdit",
            "distil",
            &dit,
            &xl,
            &["weights", "ema"],
        ),
    ] {
        let teacher = teacher.join("weights.safetensors");
        let mut sets = short(sizes, &[(stage, 16)]);
        sets.extend([
            format!("stages.{stage}.steps=3"),
            format!("stages.{stage}.weights={teacher:?}"),
            "dropped_caption=None".into(),
        ]);
        if stage == "distil" {
            // Where the recipe names none, the student's own weights are the teacher's.
            sets.push("stages.distil.distill.teacher=None".into());
            sets.push("stages.distil.distill.critic.rank=2".into());
        }
        let compares = recipe.ends_with("clip");
        if compares {
            sets.push(format!("stages.distil.distill.clip.model={clip:?}"));
            sets.push(format!("stages.distil.distill.clip.decoder={decoder:?}"));
            sets.push("stages.distil.lora.rank=2".into());
        }
        let run = train(recipe, &recipe.replace('/', "-"), &sets);
        let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert_eq!(log.lines().count(), 3, "{log}");
        let terms = log.lines().filter(|line| line.contains("\"clip\""));
        assert_eq!(terms.count(), if compares { 3 } else { 0 }, "{log}");
        for file in files {
            assert!(
                run.join(format!("{file}.safetensors")).is_file(),
                "{recipe}: {file}"
            );
        }
        // What is bundled is what `plan` counts.
        let said = succeeds(&["plan", recipe]);
        let held = match stage {
            "distil" if compares => &[
                "student 865.9 M (0.0 M trained), student's adapters",
                "teacher ",
                "critic ",
                "CLIP and decoder 153.7 M (0.0 M trained)",
            ][..],
            "distil" => &["student ", "teacher ", "critic "],
            _ => &["network 865.9 M (0.0 M trained), network's adapters"],
        };
        for part in held {
            assert!(said.contains(part), "{recipe}: no {part} in {said}");
        }
    }
}

#[test]
fn the_bill_is_the_papers() {
    let recipe = "recipes/microdit-xl2.ron";
    let said = succeeds(&["plan", recipe, "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&said).unwrap();
    let near = |found: &serde_json::Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!(
            (found / expected - 1.0).abs() < 0.02,
            "{found}, expected {expected}"
        );
    };
    near(&plan["hours"], 62.4);
    near(&plan["usd"], 1890.0);
    // GFLOP per image, images per second and GPU, hours, dollars.
    let table = [
        [283.0, 648.0, 27.4, 831.0],
        [717.0, 256.0, 8.3, 253.0],
        [1072.0, 171.0, 20.8, 630.0],
        [3015.0, 61.0, 5.8, 177.0],
    ];
    for (stage, [gflop, rate, hours, usd]) in plan["stages"].as_array().unwrap().iter().zip(table) {
        near(&stage["flop_per_image"], gflop * 1e9);
        near(&stage["images_per_second_per_gpu"], rate);
        near(&stage["hours"], hours);
        near(&stage["usd"], usd);
    }
}

/// Every bundled recipe stands beside the published systems, with the same numbers as in its own bill.
#[test]
fn recipes_are_compared_with_published_systems() {
    let said = succeeds(&["plan", "--compare", "--json"]);
    let compared: serde_json::Value = serde_json::from_str(&said).unwrap();
    let costs = compared["costs"].as_array().unwrap();
    let of = |name: &str| {
        let found = costs.iter().find(|cost| cost["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {said}"))
    };
    let plan = succeeds(&["plan", "recipes/microdit-tiny2.ron", "--json"]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let tiny = of("microdit-tiny2");
    assert_eq!((&tiny["flop"], &tiny["usd"]), (&plan["flop"], &plan["usd"]));
    assert_eq!(of("Stable Diffusion 1.5")["gpu_hours"], 150_000.0);
    let all = bundled(&root().join("recipes"));
    let named = all
        .iter()
        .filter(|path| fs::read_to_string(path).unwrap().contains("\n    name: \""));
    let recipes = costs.iter().filter(|cost| cost["recipe"] == true);
    assert_eq!(recipes.count(), named.count());
    // The table says the same, as multiples of what is asked for.
    let said = succeeds(&[
        "plan",
        "--compare",
        "recipes/quickstart.ron",
        "--base",
        "quickstart",
    ]);
    let row = said.split_once("1 quickstart").unwrap().1;
    assert!(row.contains("- 1.00 1.00 "), "{said}");
    assert!(said.contains("x: as a multiple of quickstart."), "{said}");
    assert!(said.contains("Würstchen: arXiv 2306.00637"), "{said}");
    let refused = microdit(&["plan", "--compare", "--base", "none"]);
    fails(&refused, &["--base none: known are", "microdit-xl2"]);
    fails(&microdit(&["plan"]), &["RECIPE"]);
    let two = ["plan", "recipes/quickstart.ron", "recipes/cifar10.ron"];
    fails(
        &microdit(&two),
        &["several recipes are compared by --compare"],
    );
}

/// What is printed turns the recipe into one of constant widths, at the cost that is printed.
#[test]
fn constant_widths_cost_what_scaled_ones_do() {
    let recipe = "recipes/microdit-tiny2.ron";
    let plan = |more: &[&str]| -> serde_json::Value {
        let arguments = [&["plan", recipe, "--json"], more].concat();
        serde_json::from_str(&succeeds(&arguments)).unwrap()
    };
    let found = plan(&["--constant-width"]);
    let overrides = found["overrides"].as_array().unwrap().iter();
    let sets: Vec<&str> = overrides
        .flat_map(|set| ["--set", set.as_str().unwrap()])
        .collect();
    let [scaled, constant] = [plan(&[]), plan(&sets)].map(|plan| plan["flop"].as_f64().unwrap());
    assert_eq!(found["scaled_flop"].as_f64(), Some(scaled));
    assert_eq!(found["constant_flop"].as_f64(), Some(constant));
    assert!((constant / scaled - 1.0).abs() < 0.02, "{found}");
    let said = succeeds(&["plan", recipe, "--constant-width"]);
    for set in sets.iter().filter(|set| **set != "--set") {
        assert!(said.contains(&format!("--set '{set}'")), "{said}");
    }
    let again = [&["plan", recipe, "--constant-width"], &sets[..]].concat();
    fails(&microdit(&again), &["constant already"]);
}

/// What a recipe of an earlier version says is refused with what to write instead.
#[test]
fn keys_of_earlier_versions_are_named_with_their_successors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("old.ron");
    let text = fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap();
    for (now, old, new) in [
        ("diffusion: Edm(", "diffusion: (", "diffusion: Edm(...)"),
        (
            "guidance: 2.0,",
            "guidance: 2.0, sigmas: (sigma_min: 0.01),",
            "schedule: Sigmas(...)",
        ),
        (
            "data: Shapes(",
            "data: (dataset: Shapes,",
            "data: Shapes(...), WebDataset(...) or Latents(...)",
        ),
        (
            "caption_drop: 0.1,",
            "captions: HashedWords(tokens: 15, drop: 0.1),",
            "`data.captions`",
        ),
        (
            "optimizer: (lr: 2e-3",
            "optimiser: (lr: 2e-3",
            "`optimizer`",
        ),
    ] {
        let text = text.replacen(now, old, 1);
        let line = text.lines().position(|line| line.contains(old)).unwrap() + 1;
        std::fs::write(&path, &text).unwrap();
        let output = microdit(&["recipe", "check", &path.to_string_lossy()]);
        fails(&output, &[&format!("old.ron:{line}"), new]);
    }
}
