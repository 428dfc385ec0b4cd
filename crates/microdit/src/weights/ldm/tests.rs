use super::*;
use burn::tensor::{DType, TensorData};
use std::path::Path;

/// Writes tensors of these names and shapes, whose values count up from 0.
fn write(path: &Path, tensors: &[(&str, &[usize])]) {
    let data = tensors.iter().map(|(name, shape)| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|i| i as f32).collect::<Vec<_>>();
        ((*name).to_owned(), TensorData::new(values, shape.to_vec()))
    });
    let state = StateDict::from_tensors(data);
    state.write_safetensors(path, DType::F32, None).unwrap();
}

fn open(path: &Path) -> (WeightsFile, LdmNames) {
    let file = WeightsFile::open(path).unwrap();
    let names = LdmNames::of(&file).unwrap();
    (file, names)
}

fn part(path: &Path, part: LdmPart, set: WeightSet) -> Result<StateDict, WeightsError> {
    let (file, names) = open(path);
    StateDict::take(names.part(file, part, set)?, path)
}

/// open_clip's tower of two blocks, as version 2 stores it, of width 2.
fn tower(with_projection: bool) -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("token_embedding.weight".to_owned(), vec![5, 2]),
        ("positional_embedding".to_owned(), vec![3, 2]),
        ("ln_final.weight".to_owned(), vec![2]),
        ("ln_final.bias".to_owned(), vec![2]),
    ];
    for block in 0..2 {
        for (name, shape) in [
            ("attn.in_proj_weight", vec![6, 2]),
            ("attn.in_proj_bias", vec![6]),
            ("attn.out_proj.weight", vec![2, 2]),
            ("ln_1.weight", vec![2]),
            ("ln_2.bias", vec![2]),
            ("mlp.c_fc.weight", vec![8, 2]),
            ("mlp.c_proj.weight", vec![2, 8]),
        ] {
            all.push((format!("transformer.resblocks.{block}.{name}"), shape));
        }
    }
    if with_projection {
        all.push(("text_projection".to_owned(), vec![2, 2]));
        all.push(("logit_scale".to_owned(), vec![]));
    }
    let prefixed = |(name, shape)| (format!("cond_stage_model.model.{name}"), shape);
    all.into_iter().map(prefixed).collect()
}

fn borrowed(tensors: &[(String, Vec<usize>)]) -> Vec<(&str, &[usize])> {
    let pairs = tensors
        .iter()
        .map(|(name, shape)| (name.as_str(), &shape[..]));
    pairs.collect()
}

#[test]
fn the_text_encoder_of_version_2_is_used_up_to_its_last_block() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v2.safetensors");
    write(&path, &borrowed(&tower(true)));
    let (_, names) = open(&path);
    assert_eq!(names.text(), Some(TextNames::OpenClip));
    let left_out = names.left_out(WeightSet::Own).join("; ");
    // The last block, the projection and the scale.
    assert!(
        left_out.contains("of the text encoder (9 tensors)"),
        "{left_out}"
    );
    assert_eq!(names.unknown().count(), 0);

    let state = part(&path, LdmPart::TextEncoder, WeightSet::Own).unwrap();
    let layer = "text_model.encoder.layers.0";
    let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
    // Seven tensors of the block, of which two are three each, and four around it.
    assert_eq!(names.len(), 7 + 4 + 4, "{names:?}");
    assert!(names.iter().all(|name| !name.contains("layers.1")));
    for (name, begin) in [("q_proj", 0.0), ("k_proj", 4.0), ("v_proj", 8.0)] {
        let matrix = state
            .get(&format!("{layer}.self_attn.{name}.weight"))
            .unwrap();
        assert_eq!(matrix.shape[..], [2, 2]);
        assert_eq!(matrix.as_slice::<f32>().unwrap()[0], begin, "{name}");
        let bias = state
            .get(&format!("{layer}.self_attn.{name}.bias"))
            .unwrap();
        assert_eq!(
            bias.as_slice::<f32>().unwrap(),
            [begin / 2.0, begin / 2.0 + 1.0]
        );
    }
    for name in [
        "text_model.embeddings.position_embedding.weight",
        "text_model.final_layer_norm.bias",
        &format!("{layer}.layer_norm1.weight"),
        &format!("{layer}.mlp.fc2.weight"),
        &format!("{layer}.self_attn.out_proj.weight"),
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

/// What another program pruned to the blocks that are used, all of which are then used.
#[test]
fn networks_come_back_under_the_names_they_had() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v2.safetensors");
    let mut tensors = tower(false);
    for (name, shape) in [
        (
            "first_stage_model.encoder.mid.attn_1.q.weight",
            vec![2, 2, 1, 1],
        ),
        ("first_stage_model.encoder.mid.attn_1.norm.weight", vec![2]),
        (
            "first_stage_model.encoder.down.0.block.0.conv1.weight",
            vec![2, 2, 3, 3],
        ),
        (
            "first_stage_model.encoder.down.1.block.0.nin_shortcut.bias",
            vec![2],
        ),
        ("first_stage_model.decoder.up.1.upsample.conv.bias", vec![2]),
        ("first_stage_model.decoder.up.0.block.1.norm2.bias", vec![2]),
        ("first_stage_model.decoder.up.1.block.1.norm2.bias", vec![2]),
        (
            "model.diffusion_model.input_blocks.1.0.emb_layers.1.bias",
            vec![2],
        ),
        (
            "model.diffusion_model.input_blocks.2.0.op.weight",
            vec![2, 2, 3, 3],
        ),
        (
            "model.diffusion_model.input_blocks.3.0.in_layers.0.bias",
            vec![2],
        ),
        (
            "model.diffusion_model.input_blocks.3.1.proj_in.bias",
            vec![2],
        ),
        (
            "model.diffusion_model.output_blocks.1.2.conv.weight",
            vec![2, 2, 3, 3],
        ),
        (
            "model.diffusion_model.output_blocks.1.1.proj_out.bias",
            vec![2],
        ),
        (
            "model.diffusion_model.output_blocks.3.0.skip_connection.bias",
            vec![2],
        ),
        ("model.diffusion_model.out.2.weight", vec![2, 2, 3, 3]),
    ] {
        tensors.push((name.to_owned(), shape));
    }
    write(&path, &borrowed(&tensors));
    let of = |which| part(&path, which, WeightSet::Own).unwrap();
    let unet = of(LdmPart::UNet);
    for name in [
        "down_blocks.0.downsamplers.0.conv.weight",
        "down_blocks.1.attentions.0.proj_in.bias",
        "up_blocks.0.upsamplers.0.conv.weight",
        "up_blocks.0.attentions.1.proj_out.bias",
        "up_blocks.1.resnets.1.conv_shortcut.bias",
    ] {
        assert!(unet.get(name).is_some(), "{name}");
    }
    let vae = of(LdmPart::Vae);
    let q = vae
        .get("encoder.mid_block.attentions.0.to_q.weight")
        .unwrap();
    assert_eq!(q.shape[..], [2, 2]);
    assert!(
        vae.get("decoder.up_blocks.0.upsamplers.0.conv.bias")
            .is_some()
    );
    let all = [LdmPart::UNet, LdmPart::Vae, LdmPart::TextEncoder].map(|part| (part, of(part)));
    let back = to_ldm(all, TextNames::OpenClip).unwrap();
    let original = StateDict::read(&path).unwrap();
    let names = |state: &StateDict| {
        state
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&back), names(&original));
    for (name, data) in original.iter() {
        assert_eq!(back.get(name).unwrap(), data, "{name}");
    }
}

#[test]
fn an_average_is_whole_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.safetensors");
    let own = [
        ("model.diffusion_model.time_embed.0.weight", &[2, 2][..]),
        ("model.diffusion_model.time_embed.0.bias", &[2][..]),
    ];
    let average = [
        ("model_ema.diffusion_modeltime_embed0weight", &[2, 2][..]),
        ("model_ema.diffusion_modeltime_embed0bias", &[2][..]),
    ];
    let counters = [
        ("model_ema.decay", &[][..]),
        ("model_ema.num_updates", &[][..]),
    ];
    let set = WeightSet::Average;

    write(&path, &[&own[..], &average[..], &counters[..]].concat());
    let (file, names) = open(&path);
    assert!(names.has_average());
    let pruned = names.pruned(file, set).unwrap();
    let kept: Vec<&str> = pruned.names().collect();
    let expected = [own[1].0, own[0].0, counters[0].0, counters[1].0];
    assert_eq!(kept, expected);
    assert_eq!(part(&path, LdmPart::UNet, set).unwrap().len(), 2);

    // Counters alone are no average.
    write(&path, &[&own[..], &counters[..]].concat());
    assert!(!open(&path).1.has_average());
    let error = part(&path, LdmPart::UNet, set).unwrap_err().to_string();
    assert!(error.contains("once, without an average"), "{error}");

    write(&path, &[&own[..], &average[..1]].concat());
    let error = part(&path, LdmPart::UNet, set).unwrap_err().to_string();
    assert!(
        error.contains("missing    model.diffusion_model.time_embed.0.bias"),
        "{error}"
    );

    // Another network beside them is named.
    write(
        &path,
        &[
            &own[..],
            &[("control_model.input_hint_block.0.bias", &[2][..])],
        ]
        .concat(),
    );
    let left_out = open(&path).1.left_out(WeightSet::Own).join("; ");
    assert!(
        left_out.ends_with("control_model.input_hint_block.0.bias"),
        "{left_out}"
    );
}
