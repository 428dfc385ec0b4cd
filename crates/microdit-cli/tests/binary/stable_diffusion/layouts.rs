//! One network in every layout it is found in draws the same.

use super::*;

#[test]
fn a_directory_and_its_single_file_draw_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("one"), Version::One);
    let (expected, said) = draw(folder.path(), &at("one"), &[]);
    assert!(!is_flat(&expected));
    assert_eq!(
        said.matches("its scheduler is PNDM, in place of which DDIM draws")
            .count(),
        1,
        "{said}"
    );
    let (other, _) = draw_prompt(folder.path(), &at("one"), "a blue house", &[]);
    assert!(other != expected, "the prompt makes no difference");

    convert(&at("one"), &at("one.safetensors"), &["--to", "ldm"]);
    let names = tensors(&at("one.safetensors"));
    for name in [
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.output_blocks.1.1.conv.weight",
        "first_stage_model.decoder.up.1.upsample.conv.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.weight",
    ] {
        assert!(names.contains_key(name), "no {name}");
    }
    let (found, _) = draw(folder.path(), &at("one.safetensors"), &[]);
    assert!(found == expected, "the single file draws another picture");

    // And back again, tensor by tensor.
    convert(&at("one.safetensors"), &at("back"), &["--to", "diffusers"]);
    for file in [
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ] {
        assert!(
            tensors(&at("back").join(file)) == tensors(&at("one").join(file)),
            "{file}"
        );
    }
    let (found, said) = draw(folder.path(), &at("back"), &[]);
    assert!(found == expected && !said.contains("PNDM"), "{said}");
    let vocabulary = read_json(&at("back/tokenizer/vocab.json"));
    assert_eq!(
        (&vocabulary["<|endoftext|>"], &vocabulary["a</w>"]),
        (&json!(49_407), &json!(320))
    );
    assert_eq!(
        read_json(&at("back/model_index.json"))["_class_name"],
        "StableDiffusionPipeline"
    );

    // The U-Net alone, which names the pipeline as that of its encoders; half the size in f16.
    convert(&at("one"), &at("unet.safetensors"), &["--to", "microdit"]);
    let weights = at("unet.safetensors").display().to_string();
    let out = at("unet.png").display().to_string();
    let schedule = "schedule=Timesteps(spacing:Leading,offset:1,end:FirstTimestep)";
    succeeds(&[
        "sample",
        "--weights",
        &weights,
        "--out",
        &out,
        "--prompt",
        "a red fox",
        "--steps",
        "3",
        "--width",
        "16",
        "--height",
        "16",
        "--negative",
        "",
        "--guidance",
        "7.5",
        "--set",
        "solver=Ddim(eta:0.0)",
        "--set",
        schedule,
    ]);
    assert!(image::open(&out).unwrap().into_rgb8() == expected);
}

#[test]
fn version_2_is_told_what_it_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("two"), Version::Two);
    let (expected, _) = draw(folder.path(), &at("two"), &[]);
    convert(&at("two"), &at("two.safetensors"), &["--to", "ldm"]);
    let names = tensors(&at("two.safetensors"));
    assert!(
        names.contains_key("cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight")
    );
    refused(
        &at("two.safetensors"),
        &[
            "it is of version 2",
            "--prediction epsilon or --prediction v",
        ],
    );
    let (found, _) = draw(
        folder.path(),
        &at("two.safetensors"),
        &["--prediction", "epsilon"],
    );
    assert!(found == expected, "the single file draws another picture");
    let (other, _) = draw(
        folder.path(),
        &at("two.safetensors"),
        &["--prediction", "v"],
    );
    assert!(other != expected);
}

#[test]
fn variants_shards_and_other_vaes_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("one"), Version::One);
    let (expected, _) = draw(folder.path(), &at("one"), &[]);
    // The U-Net in two files with an index.
    let unet = at("one/unet");
    let whole = unet.join("diffusion_pytorch_model.safetensors");
    let state = StateDict::read(&whole).unwrap();
    let mut map = BTreeMap::new();
    for (i, part) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let own = state
            .iter()
            .enumerate()
            .filter(|(j, _)| j % 2 == i)
            .map(|(_, pair)| pair);
        let own: Vec<(String, TensorData)> = own
            .map(|(name, data)| (name.clone(), data.clone()))
            .collect();
        map.extend(own.iter().map(|(name, _)| (name.clone(), part)));
        save(own.into_iter(), &unet.join(part));
    }
    fs::remove_file(&whole).unwrap();
    write_json(
        &unet.join("diffusion_pytorch_model.safetensors.index.json"),
        &json!({"weight_map": map}),
    );
    // The text encoder in f16 alone.
    let text_encoder = at("one/text_encoder");
    let plain = text_encoder.join("model.safetensors");
    let half = StateDict::read(&plain).unwrap();
    fs::remove_file(&plain).unwrap();
    half.write_safetensors(
        &text_encoder.join("model.fp16.safetensors"),
        DType::F16,
        None,
    )
    .unwrap();
    let (found, _) = draw(folder.path(), &at("one"), &[]);
    let furthest = found
        .as_raw()
        .iter()
        .zip(expected.as_raw())
        .map(|(a, b)| a.abs_diff(*b))
        .max();
    assert!(furthest < Some(16), "{furthest:?}");
    // Another VAE in place of its own.
    pipeline(&at("other"), Version::One);
    let vae = at("other/vae").display().to_string();
    let config = at("other/vae/config.json");
    let mut scaled = read_json(&config);
    scaled["scaling_factor"] = json!(0.5);
    write_json(&config, &scaled);
    let (other, _) = draw(folder.path(), &at("one"), &["--vae", &vae]);
    assert!(other != found);
}
