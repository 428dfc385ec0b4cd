//! A run of the reference's trainer is imported, and weights are written in other forms.

use crate::common::{fails, microdit, root, succeeds, text};
use burn::tensor::{DType, TensorData};
use microdit::weights::{StateDict, reference_name};
use std::{fs, path::Path};

/// A recipe for the network of the golden checkpoint, which was trained for five batches.
pub(crate) fn recipe(folder: &Path) -> String {
    let sidecar = fs::read_to_string(root().join("tests/goldens/composer_run.json")).unwrap();
    let sidecar: serde_json::Value = serde_json::from_str(&sidecar).unwrap();
    let config = &sidecar["config"];
    let dit = &config["dit"];
    let ratio = |key: &str| dit[key].as_f64().unwrap();
    let text = format!(
        r#"(
    name: "taken-over",
    seed: 0,
    model: (
        input_size: {}, patch_size: {}, in_channels: {}, dim: {}, depth: {}, head_dim: {}, multiple_of: {},
        caption_channels: {}, qkv_width: PerLayer({}), ffn_width: PerLayer({}),
        mixer: (dim: {}, depth: {}, qkv_ratio: {:?}, mlp_ratio: {:?}),
        moe: (experts: {}, capacity: {:?}, every: {}),
    ),
    diffusion: Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2),
    data: Latents(image_size: 256, tokens: 3, shards: "latents.tar"),
    caption_drop: 0.1,
    batch: 4,
    stages: [
        (name: "first", steps: 3, masking: Deferred(ratio: 0.75)),
        (name: "second", steps: 4, hand_over: (optimizer: true)),
    ],
    sampling: (prompts: []),
)"#,
        dit["input_size"],
        dit["patch_size"],
        dit["in_channels"],
        dit["dim"],
        dit["depth"],
        dit["head_dim"],
        dit["multiple_of"],
        dit["caption_channels"],
        dit["qkv_multipliers"],
        dit["ffn_multipliers"],
        dit["patch_mixer_dim"],
        dit["patch_mixer_depth"],
        ratio("patch_mixer_qkv_ratio"),
        ratio("patch_mixer_mlp_ratio"),
        dit["num_experts"],
        ratio("expert_capacity"),
        dit["experts_every_n"],
    );
    let path = folder.join("recipe.ron");
    fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[test]
fn a_checkpoint_of_the_trainer_becomes_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let goldens = root().join("tests/goldens");
    let recipe = recipe(folder.path());
    let run = folder.path().join("run");
    let (run_text, checkpoint) = (run.to_string_lossy(), goldens.join("ckpt_composer.pt"));
    let checkpoint = checkpoint.to_string_lossy();
    let output = microdit(&[
        "convert",
        &checkpoint,
        "--recipe",
        &recipe,
        "--run",
        &run_text,
    ]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "5 batches, 20 samples, 5 optimizer steps",
        "in stage second",
        "datetime.timedelta",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
    let folder_of = run.join("checkpoints/step-0000000005");
    let state = fs::read_to_string(folder_of.join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["progress"]["stage"], 1);
    assert_eq!(state["progress"]["stage_step"], 2);
    // Moments and weights are the trainer's, bit for bit.
    let read = |path: &Path| fs::read(path).unwrap();
    let golden = read(&goldens.join("composer_run.safetensors"));
    let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
    for (file, ours, theirs) in [
        ("optimizer", "exp_avg.", "out.exp_avg."),
        ("optimizer", "exp_avg_sq.", "out.exp_avg_sq."),
        ("model", "", "out.final."),
    ] {
        let bytes = read(&folder_of.join(format!("{file}.safetensors")));
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut compared = 0;
        for (name, found) in found.iter() {
            if let Some(path) = name.strip_prefix(ours) {
                let name = reference_name(path);
                let expected = golden.tensor(&format!("{theirs}{name}")).unwrap();
                assert_eq!(found.data(), expected.data(), "{ours}{name}");
                compared += 1;
            }
        }
        assert!(compared > 80, "{file}: {compared} tensors compared");
    }
    // Another network is refused, with every tensor that does not fit.
    let other = folder.path().join("other");
    let wider = ["--set", "model.mixer.dim=24"];
    let arguments = [
        "convert",
        &checkpoint,
        "--recipe",
        &recipe,
        "--run",
        &other.to_string_lossy(),
    ];
    fails(
        &microdit(&[&arguments[..], &wider].concat()),
        &["does not fit", "patch_mixer.0"],
    );
}

#[test]
fn weights_are_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let bare = root().join("tests/goldens/ckpt_bare.pt");
    let expected = fs::read(root().join("tests/goldens/ckpt_bare_expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    for (dtype, size) in [("f32", 4), ("bf16", 2), ("f16", 2)] {
        let out = folder.path().join(format!("{dtype}.safetensors"));
        let output = microdit(&[
            "convert",
            &bare.to_string_lossy(),
            "--out",
            &out.to_string_lossy(),
            "--dtype",
            dtype,
        ]);
        assert!(output.status.success(), "{}", text(&output));
        let bytes = fs::read(out).unwrap();
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        // Every name PyTorch's strict loading expects, buffers included.
        for (name, tensor) in expected.iter() {
            let name = name.strip_prefix("weights.").unwrap();
            let found = found.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
            assert_eq!(found.shape(), tensor.shape(), "{name}");
            assert_eq!(found.data().len(), tensor.data().len() / 4 * size, "{name}");
            if dtype == "f32" {
                assert_eq!(found.data(), tensor.data(), "{name}");
            }
        }
        assert_eq!(found.len(), expected.len());
    }
    fails(
        &microdit(&[
            "convert",
            &bare.to_string_lossy(),
            "--recipe",
            "recipes/quickstart.ron",
            "--run",
            &folder.path().join("r").to_string_lossy(),
        ]),
        &["not a checkpoint of the trainer"],
    );
}

/// Names and values of a file of f32.
fn tensors(path: &Path) -> Vec<(String, Vec<f32>)> {
    let state = StateDict::read(path).unwrap();
    let values = state
        .iter()
        .map(|(name, data)| (name.clone(), data.to_vec().unwrap()));
    values.collect()
}

/// Checkpoints as training programs save them: see `tests/faults/checkpoints/README.md`.
#[test]
fn state_dicts_are_found_and_nothing_is_left_out_without_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let faults = root().join("tests/faults/checkpoints");
    let fault = |name: &str| faults.join(name).to_string_lossy().into_owned();
    let out = folder.path().join("w.safetensors");
    let out_text = out.to_string_lossy().into_owned();
    let convert = |from: &str, more: &[&str]| {
        let arguments = [&["convert", from, "--out", &out_text], more].concat();
        microdit(&arguments)
    };
    // Its two networks are one and the same dictionary.
    let several = fault("step_tensor.pt");
    fails(
        &convert(&several, &["--key", "emma"]),
        &["no state dict at `emma`; there are: `.` (1 tensors), `model`, also `ema` (2 tensors)"],
    );
    assert!(!out.exists());
    for key in [&[][..], &["--key", "ema"]] {
        let arguments = [&["convert", &several, "--out", &out_text], key].concat();
        let said = succeeds(&arguments);
        for part in [
            "taken: the state dict at `model`, also `ema`",
            "left out: `.` (1 tensors)",
            "2 tensors: ",
        ] {
            assert!(said.contains(part), "{said}");
        }
    }
    assert!(
        tensors(&out)
            .iter()
            .all(|(name, _)| name.starts_with("blocks."))
    );
    let said = succeeds(&["convert", &fault("orig_mod.pt"), "--out", &out_text]);
    assert!(
        said.contains("wrapper taken off the names: `_orig_mod.`"),
        "{said}"
    );
    assert!(
        tensors(&out)
            .iter()
            .all(|(name, _)| name.starts_with("blocks."))
    );
    // Three tensors in, three out: the one in float8, too.
    let said = succeeds(&["convert", &fault("float8.pt"), "--out", &out_text]);
    assert!(said.contains("3 tensors: "), "{said}");
    let names: Vec<String> = tensors(&out).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["blocks.0.w", "blocks.1.w", "blocks.2.w"]);
    fails(
        &convert(&fault("truncated.pt"), &[]),
        &[
            "it is truncated: it has 950 bytes",
            "copy or download it again",
        ],
    );
    fails(
        &convert(&fault("wrap2.safetensors"), &[]),
        &["its tensors have more bytes than any file"],
    );
    // The content decides, not the name.
    let renamed = folder.path().join("renamed.pt");
    fs::copy(&out, &renamed).unwrap();
    let said = succeeds(&["convert", &renamed.to_string_lossy(), "--out", &out_text]);
    assert!(said.contains("3 tensors: "), "{said}");
    let page = folder.path().join("page.safetensors");
    fs::write(&page, "<!DOCTYPE html><title>Sign in</title>").unwrap();
    fails(
        &convert(&page.to_string_lossy(), &[]),
        &["it is a web page"],
    );
}

#[test]
fn files_of_pytorch_before_1_6_hold_what_pytorch_says() {
    let folder = tempfile::tempdir().unwrap();
    let faults = root().join("tests/faults/checkpoints");
    let expected = fs::read(faults.join("legacy_expected.safetensors")).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    let (from, out) = (
        faults.join("legacy.pt"),
        folder.path().join("w.safetensors"),
    );
    let (from, out_text) = (from.to_string_lossy(), out.to_string_lossy());
    let said = succeeds(&["convert", &from, "--out", &out_text]);
    assert!(
        said.contains("taken: the state dict at `state_dict`"),
        "{said}"
    );
    let bytes = fs::read(&out).unwrap();
    let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected.iter() {
        let found = found.tensor(name).unwrap_or_else(|_| panic!("no {name}"));
        assert_eq!(found.shape(), tensor.shape(), "{name}");
        assert_eq!(found.data(), tensor.data(), "{name}");
    }
    // The last byte has not arrived.
    let cut = folder.path().join("cut.pt");
    let whole = fs::read(&*from).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    fails(
        &microdit(&["convert", &cut.to_string_lossy(), "--out", &out_text]),
        &[
            "it is truncated: it has 3050 bytes and ends within storage",
            "copy or download it again",
        ],
    );
}

#[test]
fn values_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    for (name, value) in [("large", 1e5f32), ("nan", f32::NAN)] {
        let data = TensorData::from([0.0, value]);
        StateDict::from_tensors([("blocks.0.w".to_owned(), data)])
            .write_safetensors(Path::new(&path(name)), DType::F32, None)
            .unwrap();
    }
    let out = path("out.safetensors");
    let half = ["--out", &out, "--dtype", "f16"];
    fails(
        &microdit(&[&["convert", &path("large")], &half[..]].concat()),
        &["blocks.0.w: value 1 is 100000, beyond the range of f16"],
    );
    fails(
        &microdit(&[&["convert", &path("nan")], &half[..]].concat()),
        &["blocks.0.w: value 1 is NaN", "--allow-non-finite"],
    );
    assert!(!Path::new(&out).exists());
    succeeds(&[&["convert", &path("nan"), "--allow-non-finite"], &half[..]].concat());
    succeeds(&["convert", &path("large"), "--out", &out, "--dtype", "bf16"]);
}
