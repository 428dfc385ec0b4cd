use super::*;
use crate::text::{ClipTextConfig, Pooling};
use burn::tensor::DType;
use burn_flex::Flex;
use microdit::weights::StateDict;
use serde_json::json;

fn clip(config: &serde_json::Value) -> Result<ClipTextConfig, WeightsError> {
    transformers_clip(Path::new("config.json"), &config.to_string())
}

fn values(states: Tensor<Flex, 3>) -> Vec<f32> {
    states.into_data().to_vec().unwrap()
}

#[test]
fn a_directory_of_transformers_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let device = Default::default();
    let config = json!({
        "model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 8,
        "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "projection_dim": 4,
        "hidden_act": "gelu",
    });
    let weights = Weights::random(0);
    let sizes = clip(&config).unwrap();
    let tower = sizes.load::<Flex>(&weights.at(""), &device).unwrap();
    weights
        .write_read(&folder.path().join("model.safetensors"), DType::F32)
        .unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let encoder = TextEncoder::<Flex>::open(folder.path(), &device).unwrap();
    assert_eq!((encoder.tokens(), encoder.channels()), (77, 8));
    // Padded with end tokens, as most of them are; with zeros, where the tokenizer says so.
    for (padding, pad) in [(Padding::End, None), (Padding::Zero, Some("!"))] {
        if let Some(pad) = pad {
            let config = json!({"pad_token": pad}).to_string();
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
        }
        let encoder = TextEncoder::<Flex>::open(folder.path(), &device).unwrap();
        let ids = ClipTokenizer::new().encode("a red fox", 77, padding);
        let ids = Tensor::from_data(TensorData::new(ids, [1, 77]), &device);
        let expected = values(tower.forward(ids).hidden);
        assert_eq!(
            values(encoder.encode(&["a red fox"], &device)),
            expected,
            "{padding:?}"
        );
    }
    // The feature shared with images is that of the tower's pooled state.
    assert_eq!(encoder.dim(), Some(4));
    let ids = ClipTokenizer::new().encode("a red fox", 77, Padding::End);
    let ids = Tensor::from_data(TensorData::new(ids, [1, 77]), &device);
    let expected = tower.feature(tower.forward(ids).pooled).unwrap();
    let found = encoder.features(&["a red fox"], &device).unwrap();
    assert_eq!(
        found.into_data().to_vec::<f32>().unwrap(),
        expected.into_data().to_vec::<f32>().unwrap()
    );
    // Too small a token table would be read beyond its end.
    let config = config
        .to_string()
        .replace("\"hidden_size\"", "\"vocab_size\":100,\"hidden_size\"");
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let error = TextEncoder::<Flex>::open(folder.path(), &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("100 tokens; CLIP's tokenizer knows 49408"),
        "{error}"
    );
}

/// An update of a block goes through some ten roundings, of weights and of what layers hand on, by 2^-9 each as a rule: together about
/// `2^-9 10^0.5` of its size, 0.6 %. T5 does not scale its scores: of 24 products each they are about 5, so that half a dozen roundings of
/// queries and keys move them by `5 2^-9 6^0.5`, and what is attended to by as much, 2.4 %.
#[test]
fn bf16_follows_f32_at_its_precision() {
    let device = Default::default();
    let ids = ClipTokenizer::new().encode("a red fox in the snow", 77, Padding::End);
    let config = json!({
        "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "hidden_size": 64,
        "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 4, "hidden_act": "quick_gelu",
    });
    let clip = clip(&config).unwrap();
    let clip = clip
        .load::<Flex>(&Weights::random(0).at(""), &device)
        .unwrap();
    let t5 = T5Config {
        d_model: 64,
        d_ff: 160,
        d_kv: 24,
        num_layers: 4,
        num_heads: 4,
        vocab_size: 50_000,
        feed_forward_proj: "gated-gelu".into(),
        ..T5Config::default()
    };
    let t5 = t5
        .load::<Flex>(&Weights::random(0).at(""), &device)
        .unwrap();
    let real = ids.iter().position(|id| *id == ids[76]).unwrap();
    let ids = Tensor::from_data(TensorData::new(ids, [1, 77]), &device);
    let mask: Vec<i64> = (0..77).map(|i| i64::from(i <= real)).collect();
    let mask = || {
        Some(Tensor::from_data(
            TensorData::new(mask.clone(), [1, 77]),
            &device,
        ))
    };
    let clip_in = |precision| {
        clip.clone()
            .computing_in(precision)
            .forward(ids.clone())
            .hidden
    };
    let t5_in = |precision| {
        t5.clone()
            .computing_in(precision)
            .forward(ids.clone(), mask())
    };
    let size = |x: Tensor<Flex, 3>| x.powi_scalar(2).mean().sqrt().into_scalar();
    for (name, most, [found, expected]) in [
        (
            "CLIP",
            0.012,
            [Precision::Bf16, Precision::F32].map(clip_in),
        ),
        ("T5", 0.05, [Precision::Bf16, Precision::F32].map(t5_in)),
    ] {
        assert_eq!(found.dtype(), DType::F32);
        let error = size(found - expected.clone()) / size(expected);
        assert!((1e-4..most).contains(&error), "{name} is off by {error}");
    }
}

/// The same tower under every layout of names that transformers and open_clip write.
#[test]
fn a_tower_is_found_wherever_its_library_puts_it() {
    let device = Default::default();
    let folder = tempfile::tempdir().unwrap();
    let weights = Weights::random(0);
    let config = json!({
        "model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"], "hidden_size": 4,
        "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "projection_dim": 4,
    });
    let tower = clip(&config)
        .unwrap()
        .load::<Flex>(&weights.at(""), &device);
    let file = folder.path().join("model.safetensors");
    weights.write_read(&file, DType::F32).unwrap();
    let original = StateDict::read(&file).unwrap();
    let ids = ClipTokenizer::new().encode("a red fox", 77, Padding::End);
    let ids = Tensor::from_data(TensorData::new(ids, [1, 77]), &device);
    let expected = values(tower.unwrap().forward(ids).hidden);
    let plain = json!({"architectures": ["CLIPTextModel"]});
    let projected = json!({"architectures": ["CLIPTextModelWithProjection"]});
    let whole = json!({"model_type": "clip", "text_config": config, "projection_dim": 4});
    for (layout, change) in [
        // transformers 4 and 5, with and without a projection; the whole model; torch.compile.
        ("text_model.", &plain),
        ("", &plain),
        ("text_model.", &projected),
        ("text_model.text_model.", &projected),
        ("text_model.", &whole),
        ("_orig_mod.text_model.", &plain),
    ] {
        let wrapper = layout.strip_suffix("text_model.").unwrap_or(layout);
        let wrapper = if wrapper == "_orig_mod." { wrapper } else { "" };
        let mut tensors: Vec<(String, TensorData)> = original
            .iter()
            .filter(|(name, _)| *change != plain || !name.starts_with("text_projection"))
            .map(|(name, data)| match name.strip_prefix("text_model.") {
                Some(inner) => (format!("{layout}{inner}"), data.clone()),
                None => (format!("{wrapper}{name}"), data.clone()),
            })
            .collect();
        let mut config = config.clone();
        for (key, value) in change.as_object().unwrap() {
            config[key] = value.clone();
        }
        if *change == whole {
            let image = TensorData::from([1f32]);
            tensors.extend(["logit_scale", "vision_model.w"].map(|n| (n.into(), image.clone())));
        }
        StateDict::from_tensors(tensors)
            .write_safetensors(&file, DType::F32, None)
            .unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let encoder = TextEncoder::<Flex>::open(folder.path(), &device).unwrap();
        assert_eq!(
            values(encoder.encode(&["a red fox"], &device)),
            expected,
            "{layout} {change}"
        );
    }
    let foreign = StateDict::from_tensors([("w".to_owned(), TensorData::from([1f32]))]);
    foreign.write_safetensors(&file, DType::F32, None).unwrap();
    let error = TextEncoder::<Flex>::open(folder.path(), &device).unwrap_err();
    assert!(
        error.to_string().contains("no text tower of CLIP"),
        "{error}"
    );
}

/// Every number of a configuration, replaced by each of several that no model has.
#[test]
fn numbers_of_a_configuration_have_ranges() {
    let device = Default::default();
    let clip_config = json!({
        "model_type": "clip_text_model", "vocab_size": 49_408, "hidden_size": 4, "intermediate_size": 8,
        "num_attention_heads": 2, "num_hidden_layers": 1, "max_position_embeddings": 77, "layer_norm_eps": 1e-5,
    });
    let t5 = json!({
        "model_type": "t5", "vocab_size": 10, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2,
        "relative_attention_num_buckets": 8, "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "gated-gelu",
    });
    let open_clip = json!({
        "embed_dim": 4, "context_length": 77, "vocab_size": 49_408, "width": 4, "heads": 2, "layers": 1,
        "mlp_ratio": 2.0,
    });
    let folder = tempfile::tempdir().unwrap();
    let write = |config: &serde_json::Value| {
        let (file, config) = match config["model_type"].as_str() {
            Some(_) => ("config.json", config.clone()),
            None => {
                let text = config.clone();
                let model = json!({"embed_dim": config["embed_dim"], "text_cfg": text});
                ("open_clip_config.json", json!({"model_cfg": model}))
            }
        };
        std::fs::write(folder.path().join(file), config.to_string()).unwrap();
    };
    let mut tried = 0;
    for config in [clip_config, t5, open_clip] {
        let weights = Weights::random(0);
        match config["model_type"].as_str() {
            Some("t5") => {
                let config: T5Config = serde_json::from_value(config.clone()).unwrap();
                drop(config.load::<Flex>(&weights.at(""), &device).unwrap());
            }
            Some(_) => drop(
                clip(&config)
                    .unwrap()
                    .load::<Flex>(&weights.at(""), &device),
            ),
            None => {
                let text = json!({"model_cfg": {"embed_dim": 4, "text_cfg": config}});
                let text: OpenClip = serde_json::from_value(text).unwrap();
                drop(text.text().load::<Flex>(&weights.at(""), &device));
            }
        }
        for name in ["model.safetensors", "open_clip_model.safetensors"] {
            let path = folder.path().join(name);
            weights.write_read(&path, DType::F32).unwrap();
        }
        for (key, value) in config.as_object().unwrap() {
            if !value.is_number() {
                continue;
            }
            for bad in [
                "0",
                "-1",
                "0.5e-400",
                "1e308",
                "18446744073709551615",
                "1e999",
                "null",
            ] {
                if bad == "0.5e-400" && value.is_f64() || bad == "null" && key == "mlp_ratio" {
                    // This parses as 0, which is tried anyway.
                    continue;
                }
                let mut changed = config.clone();
                changed[key] = json!("BAD");
                write(&changed);
                for file in ["config.json", "open_clip_config.json"] {
                    let path = folder.path().join(file);
                    if let Ok(text) = std::fs::read_to_string(&path) {
                        std::fs::write(path, text.replace("\"BAD\"", bad)).unwrap();
                    }
                }
                let opened = TextEncoder::<Flex>::open(folder.path(), &device);
                assert!(opened.is_err(), "{key} = {bad} was accepted");
                tried += 1;
            }
        }
        let _ = std::fs::remove_file(folder.path().join("config.json"));
    }
    assert!(tried > 120, "{tried} values");
}

#[test]
fn t5_is_opened_with_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let device = Default::default();
    let config = json!({
        "model_type": "t5", "vocab_size": 10, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2,
        "relative_attention_num_buckets": 8, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
    });
    let weights = Weights::random(0);
    let sizes: T5Config = serde_json::from_value(config.clone()).unwrap();
    let network = sizes.load::<Flex>(&weights.at(""), &device).unwrap();
    weights
        .write_read(&folder.path().join("model.safetensors"), DType::F32)
        .unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let missing = TextEncoder::<Flex>::open(folder.path(), &device)
        .unwrap_err()
        .to_string();
    assert!(missing.contains("no tokenizer.json"), "{missing}");
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"<unk>": 2, "a": 3, "red": 4, "fox": 5}, "unk_token": "<unk>"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let encoder = TextEncoder::<Flex>::open(folder.path(), &device).unwrap();
    let (tokens, long) = (encoder.tokens(), "fox ".repeat(500));
    let found = values(encoder.encode(&["a red dog", &long], &device));
    // Padding is masked; the long caption is cut.
    let mut ids = vec![3, 4, 2];
    ids.resize(tokens, 0);
    ids.resize(2 * tokens, 5);
    let mask = ids
        .iter()
        .map(|&id| i64::from(id > 0))
        .collect::<Vec<i64>>();
    let tensor = |ids: Vec<i64>| Tensor::from_data(TensorData::new(ids, [2, tokens]), &device);
    assert_eq!(
        found,
        values(network.forward(tensor(ids), Some(tensor(mask))))
    );
    // As many tokens as are asked for: what padding is not does not depend on how much of it follows.
    let encoder = std::sync::Arc::new(encoder);
    let texts = ["a red dog", "fox a red fox a"];
    let short = encoder.reading(6).unwrap();
    let long = encoder.reading(256).unwrap();
    assert_eq!((short.tokens(), long.tokens()), (6, 256));
    assert_eq!(long.lengths(&texts), [3, 5]);
    assert_eq!(encoder.reading(2).unwrap().lengths(&texts), [2, 2]);
    let rows = |encoder: &TextEncoder<Flex>, trimmed: bool| {
        let states = match trimmed {
            true => encoder.encode_trimmed(&texts, &device),
            false => encoder.encode(&texts, &device),
        };
        let rows = values(states);
        let rows = rows.chunks(8 * encoder.tokens()).map(<[f32]>::to_vec);
        rows.collect::<Vec<_>>()
    };
    let (in_short, in_long, trimmed) = (rows(&short, false), rows(&long, false), rows(&long, true));
    for (i, length) in [3, 5].into_iter().enumerate() {
        let own = 8 * length;
        for (a, b) in in_short[i][..own].iter().zip(&in_long[i][..own]) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}");
        }
        // Trimmed states are those under the encoder's mask, and nothing else.
        assert_eq!(trimmed[i][..own], in_long[i][..own]);
        assert!(in_long[i][own..].iter().any(|value| *value != 0.0));
        assert!(trimmed[i][own..].iter().all(|value| *value == 0.0));
    }
    assert!(encoder.masks_padding());
    assert!(encoder.reading(0).is_err());
}

/// CLIP's tokens see only those before them, so that no state up to the end depends on padding; but padding sees the caption.
#[test]
fn the_padding_of_clip_is_a_part_of_what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let device = Default::default();
    let config = json!({
        "model_type": "clip_text_model", "architectures": ["CLIPTextModel"], "hidden_size": 8, "hidden_act": "gelu",
        "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
    });
    let weights = Weights::random(0);
    drop(
        clip(&config)
            .unwrap()
            .load::<Flex>(&weights.at(""), &device),
    );
    let path = folder.path().join("model.safetensors");
    weights.write_read(&path, DType::F32).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let open = || std::sync::Arc::new(TextEncoder::<Flex>::open(folder.path(), &device).unwrap());
    let texts = ["a red fox", "a fox"];
    let with_ends = open();
    let pad = json!({"pad_token": "!"}).to_string();
    std::fs::write(folder.path().join("tokenizer_config.json"), pad).unwrap();
    let with_zeros = open();
    for encoder in [&with_ends, &with_zeros] {
        assert_eq!(encoder.lengths(&texts), [5, 4]);
        assert_eq!(encoder.lengths(&["fox ".repeat(100)]), [77]);
        assert!(!encoder.masks_padding());
        let error = encoder.reading(120).unwrap_err();
        assert_eq!(
            error,
            FixedTokens {
                own: 77,
                asked: 120
            }
        );
    }
    let [ends, zeros] = [&with_ends, &with_zeros].map(|one| values(one.encode(&texts, &device)));
    let [trimmed, other] =
        [&with_ends, &with_zeros].map(|one| values(one.encode_trimmed(&texts, &device)));
    for (i, length) in [5, 4].into_iter().enumerate() {
        let at = 77 * 8 * i;
        assert_eq!(ends[at..][..8 * length], zeros[at..][..8 * length]);
        assert_ne!(ends[at + 8 * length..][..8], zeros[at + 8 * length..][..8]);
    }
    assert_eq!(trimmed, other);
    let padding = |i: usize| &zeros[77 * 8 * i + 8 * 10..][..8];
    assert_ne!(
        padding(0),
        padding(1),
        "padding says something of its caption"
    );
}

#[test]
fn configurations_are_read_as_their_libraries_read_them() {
    let dfn = r#"{"model_cfg": {"embed_dim": 1024, "quick_gelu": true, "vision_cfg": {"layers": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}},
        "preprocess_cfg": {}}"#;
    let config: OpenClip = serde_json::from_str(dfn).unwrap();
    assert_eq!(config.text(), ClipTextConfig::vit_h_14());

    // CLIP ViT-L/14 as Stable Diffusion 1 ships it.
    let text = serde_json::json!({
        "architectures": ["CLIPTextModel"], "model_type": "clip_text_model", "eos_token_id": 2,
        "hidden_act": "quick_gelu", "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "projection_dim": 768, "vocab_size": 49408,
    });
    let config = clip(&text).unwrap();
    assert_eq!((config.width, config.projection), (768, None));
    assert_eq!(config.pooling, Pooling::LargestId);
    // The same inside a model with both towers.
    let both =
        serde_json::json!({"model_type": "clip", "projection_dim": 640, "text_config": text});
    let both = clip(&both).unwrap();
    assert_eq!((both.width, both.projection), (768, Some(640)));
}
