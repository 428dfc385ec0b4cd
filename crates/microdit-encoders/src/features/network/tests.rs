use super::*;
use burn::tensor::DType;
use burn_flex::Flex;
use serde_json::json;

type Network = FeatureNetwork<Flex>;

fn open(path: &Path) -> Result<Network, FeatureError> {
    Network::open(path, &Default::default())
}

/// Writes random weights of the network `load` reads, and returns their SHA-256.
fn write(path: &Path, load: impl FnOnce(&Weights)) -> String {
    let weights = Weights::random(0);
    load(&weights);
    weights.write_read(path, DType::F32).unwrap();
    checksum::of_file(path).unwrap().1
}

fn pictures(count: u32) -> Vec<RgbImage> {
    let level = |i: u32, x: u32, y: u32| (i * 31 + x * 7 + y * 3) as u8;
    let picture = |i| {
        RgbImage::from_fn(40 + i, 30, |x, y| {
            image::Rgb([level(i, x, y), level(i + 1, y, x), 128])
        })
    };
    (0..count).map(picture).collect()
}

fn transformers(folder: &Path, config: &Value, load: impl FnOnce(&Weights)) -> String {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    write(&folder.join("model.safetensors"), load)
}

/// A config.json of a small tower.
fn clip() -> Value {
    json!({
        "model_type": "clip_vision_model", "architectures": ["CLIPVisionModelWithProjection"], "hidden_size": 8,
        "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
        "projection_dim": 6,
    })
}

fn dino() -> Value {
    json!({
        "model_type": "dinov2_with_registers", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 42, "patch_size": 14,
    })
}

#[test]
fn every_network_is_opened_as_it_is_published() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Default::default());
    let at = |name: &str| folder.path().join(name);
    let clip_sum = transformers(&at("clip"), &clip(), |weights| {
        let config = ClipImageConfig::from_transformers(&clip(), None).unwrap();
        config.load::<Flex>(&weights.at(""), &device).unwrap();
    });
    let dino_sum = transformers(&at("dino"), &dino(), |weights| {
        let config = DinoV2Config::from_transformers(&dino()).unwrap();
        config.load::<Flex>(&weights.at(""), &device).unwrap();
    });
    let inception_sum = write(&at("inception.safetensors"), |weights| {
        Inception::<Flex>::load(&weights.at(""), &device).unwrap();
    });
    for (path, name, dim, sha256, resizing) in [
        (
            "clip",
            "clip-8w8-16",
            6,
            clip_sum,
            "shorter side to 16, bicubic, the middle 16 x 16",
        ),
        (
            "dino",
            "dinov2-8w-registers",
            8,
            dino_sum,
            "squashed to 224 x 224, bicubic",
        ),
        (
            "inception.safetensors",
            "inception",
            2048,
            inception_sum,
            "pytorch-fid",
        ),
    ] {
        let network = open(&at(path)).unwrap();
        assert_eq!((network.name(), network.dim()), (name, dim));
        assert_eq!(
            (network.sha256(), network.resizing().as_str()),
            (sha256.as_str(), resizing)
        );
        let features = network.features(network.prepare_pictures(&pictures(1), &device));
        assert_eq!(features.dims(), [1, dim]);
        let logits = network.logits(features).map(|logits| logits.dims());
        assert_eq!(logits, (dim == 2048).then_some([1, 1008]));
    }
}

#[test]
fn features_do_not_depend_on_the_batch() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Default::default());
    transformers(folder.path(), &dino(), |weights| {
        let config = DinoV2Config::from_transformers(&dino()).unwrap();
        config.load::<Flex>(&weights.at(""), &device).unwrap();
    });
    let network = open(folder.path()).unwrap();
    // 41 pictures of 224 x 224 pixels are one batch.
    let pictures = pictures(43);
    let all = network.features_of(&pictures, &device);
    assert_eq!(all.dims(), [43, 8]);
    for i in [0, 40, 41, 42] {
        let one = network.features_of(&pictures[i..=i], &device);
        let difference = (all.clone().narrow(0, i, 1) - one)
            .abs()
            .max()
            .into_scalar();
        assert!(difference < 1e-5, "{i}: {difference}");
    }
}

#[test]
fn inception_alone_resizes_in_two_ways() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Default::default());
    transformers(folder.path(), &clip(), |weights| {
        let config = ClipImageConfig::from_transformers(&clip(), None).unwrap();
        config.load::<Flex>(&weights.at(""), &device).unwrap();
    });
    let error = open(folder.path()).unwrap().with_resize(Resize::CleanFid);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("clip-8w8-16") && error.contains("clean-fid"),
        "{error}"
    );
    let network = Inception::<Flex>::load(&Weights::random(0).at(""), &device).unwrap();
    let network = FeatureNetwork::Inception(
        Box::new(network),
        Identity {
            name: "inception".into(),
            sha256: String::new(),
            source: None,
        },
    );
    let prepared = |network: &Network| network.prepare_pictures(&pictures(2), &device);
    let plain = prepared(&network);
    let network = network.with_resize(Resize::CleanFid).unwrap();
    let clean = prepared(&network);
    assert_eq!(
        (plain.dims(), clean.dims()),
        ([2, 3, 299, 299], [2, 3, 299, 299])
    );
    assert_eq!(network.resizing(), "clean-fid");
    // Blue is 128 everywhere.
    let blue = |x: Tensor<Flex, 4>| x.slice([0..2, 2..3]).mean().into_scalar();
    assert!((blue(plain) - (2.0 * 128.0 / 255.0 - 1.0)).abs() < 1e-5);
    assert!(blue(clean).abs() < 1e-5);
}

#[test]
fn what_is_no_network_of_features_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| open(path).unwrap_err().to_string();
    let named = error(Path::new("inception"));
    assert!(
        named.contains("pt_inception-2015-12-05-6726825d.pth"),
        "{named}"
    );
    assert!(
        error(Path::new("nothing")).contains("known are"),
        "{}",
        error(Path::new("nothing"))
    );
    let file = folder.path().join("w.safetensors");
    write(&file, |weights| {
        let at = weights.at("some");
        at.tensor::<Flex, 1>("thing", [1], &Default::default())
            .unwrap();
    });
    assert!(
        error(&file).contains("neither an Inception-V3"),
        "{}",
        error(&file)
    );
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"model_type": "t5"}"#).unwrap();
    assert!(
        error(folder.path()).contains("model_type is t5"),
        "{}",
        error(folder.path())
    );
}

/// Every number of the configurations, replaced by each of several that no network has.
#[test]
fn numbers_of_a_configuration_have_ranges() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Default::default());
    let mut tried = 0;
    for config in [clip(), dino()] {
        transformers(folder.path(), &config, |weights| {
            let at = weights.at("");
            match config["model_type"] == "clip_vision_model" {
                true => drop(
                    ClipImageConfig::from_transformers(&config, None)
                        .unwrap()
                        .load::<Flex>(&at, &device)
                        .unwrap(),
                ),
                false => drop(
                    DinoV2Config::from_transformers(&config)
                        .unwrap()
                        .load::<Flex>(&at, &device)
                        .unwrap(),
                ),
            }
        });
        for (key, value) in config.as_object().unwrap() {
            if !value.is_number() {
                continue;
            }
            for bad in ["0", "-1", "18446744073709551615", "1e999", "[]"] {
                let mut changed = config.clone();
                changed[key] = json!("BAD");
                let text = changed.to_string().replace("\"BAD\"", bad);
                std::fs::write(folder.path().join("config.json"), text).unwrap();
                assert!(open(folder.path()).is_err(), "{key} = {bad} was accepted");
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "{tried} values");
}

/// A tower of the sizes of OpenAI's ViT-B/32, were it not for its width, is not the network of CLIP-FID; pictures for that are
/// prepared as open_clip prepares those of OpenAI's models.
#[test]
fn clip_fid_is_of_one_network_and_one_preparation() {
    let (folder, device) = (tempfile::tempdir().unwrap(), Default::default());
    transformers(folder.path(), &clip(), |weights| {
        let config = ClipImageConfig::from_transformers(&clip(), None).unwrap();
        config.load::<Flex>(&weights.at(""), &device).unwrap();
    });
    let error = open(folder.path()).unwrap().clean_clip().unwrap_err();
    assert!(
        error.to_string().contains("clip-8w8-16 is another network"),
        "{error}"
    );
    let json = json!({
        "model_cfg": {"embed_dim": 6, "vision_cfg":
            {"width": 8, "head_width": 4, "layers": 1, "image_size": 224, "patch_size": 32}},
    });
    let config = ClipImageConfig::from_open_clip(&json).unwrap();
    assert_eq!(config.preparation, Preparation::openai([224; 2]));
    // Both towers of a model, or one alone.
    assert!(
        text_tower::<Flex>(folder.path(), &device)
            .unwrap()
            .is_none()
    );
}

#[test]
fn weights_are_said_to_come_from_where_they_are_published() {
    let cached = "/home/a/.cache/huggingface/hub/models--facebook--dinov2-base/snapshots/ab/model.safetensors";
    let of = |path: &str, sha256: &str| source(path.as_ref(), sha256);
    assert_eq!(
        of(cached, "00").unwrap(),
        "https://huggingface.co/facebook/dinov2-base"
    );
    // Whatever the file is called.
    let sha256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2";
    let inception = of("/data/inception.pth", sha256).unwrap();
    assert!(inception.ends_with(
        "/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
    ));
    assert_eq!(of("/data/inception.pth", &sha256[1..]), None);
    assert_eq!(of("/data/models/model.safetensors", "00"), None);
}

#[test]
fn absent_networks_are_said_to_be_absent_with_those_there_are() {
    let device = Default::default();
    let error = Network::open_inception("nothere.pth".as_ref(), &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("nothere.pth: no such file. ")
            && error.contains(FeatureError::INCEPTION_SOURCE),
        "{error}"
    );
    let error = Network::open("nothere".as_ref(), &device)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("dinov2-base")
            && error.contains("clip-l14")
            && error.contains("pytorch-fid"),
        "{error}"
    );
    // A VAE sees no features.
    assert!(!error.contains("vae"), "{error}");
}
