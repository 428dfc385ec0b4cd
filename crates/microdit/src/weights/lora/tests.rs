use super::*;
use crate::{
    Dit,
    net::dit::tests::{config, shaken},
    nn::lora::LoraConfig,
    rng::{Purpose, Stream},
};
use burn::tensor::DType;
use burn_flex::Flex;

fn network() -> Dit<Flex> {
    shaken(&config())
}

/// Adapters of linear layers, a convolution and layers the reference calls otherwise.
fn lora(network: &Dit<Flex>) -> Lora<Flex> {
    let config = LoraConfig {
        layers: vec!["qkv".into(), "patch_embed.proj".into(), "modulation".into()],
        rank: 2,
        alpha: Some(3.0),
        ..LoraConfig::default()
    };
    let lora = config.init(network, 0, &Default::default()).unwrap();
    let adapters = lora.adapters.into_iter().enumerate().map(|(i, adapter)| {
        let [outputs, rank] = adapter.up.dims();
        let values = Stream::new(6, Purpose::Init, 0, i as u64).normal(outputs * rank);
        let up = Tensor::from_data(
            TensorData::new(values, [outputs, rank]),
            &Default::default(),
        );
        let mut adapter = adapter;
        adapter.up = Param::from_tensor(up);
        adapter
    });
    Lora {
        adapters: adapters.collect(),
    }
}

fn merged(lora: &Lora<Flex>, network: &Dit<Flex>) -> Vec<(String, TensorData)> {
    let state = StateDict::from_module(&lora.apply(network.clone(), 1.0));
    let all = state.iter();
    all.map(|(name, data)| (name.clone(), data.clone()))
        .collect()
}

#[test]
fn what_is_written_is_read_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let network = network();
    let mut written = lora(&network);
    // Several ranks, alphas and ways to scale in one file.
    let first = written.adapters[0].clone();
    let (rank, inputs) = (1, first.down.dims()[1]);
    let down = Param::from_tensor(first.down.val().slice([0..1, 0..inputs]));
    let up = Param::from_tensor(first.up.val().slice([0..first.up.dims()[0], 0..rank]));
    written.adapters[0] = Adapter::new(first.layer().clone(), down, up, 0.3, true);
    for component in ["unet", "transformer"] {
        write_lora(&written, component, &path, DType::F32).unwrap();
        let read = LoraFile::open(&path).unwrap();
        assert!(read.left_out().is_empty());
        let read = read.load(&network, &Default::default()).unwrap();
        assert_eq!(read.adapters.len(), written.adapters.len());
        assert_eq!(merged(&read, &network), merged(&written, &network));
    }
    let file = fs::read(&path).unwrap();
    let (_, header) = ::safetensors::SafeTensors::read_metadata(&file).unwrap();
    let infos = header.tensors();
    let shape = |name: &str| infos[name].shape.clone();
    // A convolution's are convolutions, and names are the reference's.
    assert_eq!(
        shape("transformer.x_embedder.proj.lora_A.weight"),
        [1, 4, 2, 2]
    );
    assert_eq!(
        shape("transformer.x_embedder.proj.lora_B.weight"),
        [32, 1, 1, 1]
    );
    assert_eq!(
        shape("transformer.blocks.0.adaLN_modulation.1.lora_A.weight"),
        [2, 32]
    );
    let metadata = header.metadata().as_ref().unwrap();
    let said: Map<String, Value> = serde_json::from_str(&metadata[METADATA]).unwrap();
    assert_eq!(metadata["format"], "pt");
    assert_eq!(said["transformer.lora_alpha"], 3);
    assert_eq!(
        said["transformer.rank_pattern"],
        serde_json::json!({"x_embedder.proj": 1})
    );
    assert_eq!(said["transformer.use_rslora"], false);
}

/// The tensors of `lora` by other names, and what they are read as.
fn read(
    lora: &Lora<Flex>,
    name: impl Fn(&str, Part) -> String,
    more: &[(&str, TensorData)],
    configuration: Value,
) -> Result<Lora<Flex>, String> {
    let mut tensors: Vec<(String, TensorData)> = Vec::new();
    for adapter in &lora.adapters {
        let layer = reference_layer(&adapter.layer().path);
        for (part, param) in [(Part::Down, &adapter.down), (Part::Up, &adapter.up)] {
            tensors.push((name(&layer, part), param.val().into_data()));
        }
    }
    for (name, data) in more {
        tensors.retain(|(there, _)| there != name);
        tensors.push(((*name).to_owned(), data.clone()));
    }
    let state = StateDict::from_tensors(tensors);
    let Value::Object(configuration) = configuration else {
        panic!("a configuration is an object")
    };
    let file = LoraFile::of_state(&state, configuration).map_err(|error| error.to_string())?;
    let lora = file.load(&network(), &Default::default());
    lora.map_err(|error| error.to_string())
}

fn diffusers(layer: &str, part: Part) -> String {
    match part {
        Part::Down => format!("unet.{layer}.lora.down.weight"),
        _ => format!("unet.{layer}.lora.up.weight"),
    }
}

fn kohya(layer: &str, part: Part) -> String {
    let layer = layer.replace('.', "_");
    match part {
        Part::Down => format!("lora_unet_{layer}.lora_down.weight"),
        _ => format!("lora_unet_{layer}.lora_up.weight"),
    }
}

#[test]
fn alpha_comes_from_its_tensor_then_from_the_configuration_then_from_the_rank() {
    let lora = lora(&network());
    let alpha = |read: Result<Lora<Flex>, String>, path: &str| {
        let read = read.unwrap();
        let found = read.adapters.iter();
        let adapter = found.clone().find(|one| one.layer().path == path);
        let adapter = adapter.unwrap();
        (adapter.alpha(), adapter.scale())
    };
    let (qkv, other) = ("blocks.0.attn.qkv", "blocks.1.attn.qkv");
    let none = || serde_json::json!({});
    assert_eq!(alpha(read(&lora, diffusers, &[], none()), qkv), (2.0, 1.0));
    let said = || {
        serde_json::json!({
            "unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": true,
            "unet.alpha_pattern": {"blocks.1.attn.qkv": 8.0},
        })
    };
    let root = 2f64.sqrt();
    assert_eq!(
        alpha(read(&lora, diffusers, &[], said()), qkv),
        (6.0, 6.0 / root)
    );
    assert_eq!(
        alpha(read(&lora, diffusers, &[], said()), other),
        (8.0, 8.0 / root)
    );
    let peft = serde_json::json!({"r": 2, "lora_alpha": 5, "use_rslora": false, "use_dora": null});
    assert_eq!(alpha(read(&lora, kohya, &[], peft), qkv), (5.0, 2.5));
    let own = [(
        "lora_unet_blocks_0_attn_qkv.alpha",
        TensorData::from([0.5f32]),
    )];
    assert_eq!(alpha(read(&lora, kohya, &own, said()), qkv), (0.5, 0.25));
}

#[test]
fn what_is_wrong_is_named() {
    let lora = lora(&network());
    let data = |shape: [usize; 2]| TensorData::zeros::<f32, _>(shape);
    let qkv = lora
        .adapters
        .iter()
        .find(|one| one.layer().path == "blocks.0.attn.qkv");
    let outputs = qkv.unwrap().layer().shape[0];
    let [found, expected] = [3, 2].map(|rank| format!("[{outputs}, {rank}]"));
    let of_up = format!("qkv.lora.up.weight has shape {found}");
    let none = || serde_json::json!({});
    let down = "unet.blocks.0.attn.qkv.lora.down.weight";
    let up = "unet.blocks.0.attn.qkv.lora.up.weight";
    for (more, configuration, parts) in [
        (
            vec![("unet.blocks.9.attn.qkv.lora.down.weight", data([2, 32]))],
            none(),
            &["layers that the network does not have", "blocks.9.attn.qkv"][..],
        ),
        (
            vec![(
                "unet.blocks.0.cross_attn.proj.lora.down.weight",
                data([2, 32]),
            )],
            none(),
            &["a part is missing", "blocks.0.cross_attn.proj"],
        ),
        (
            vec![(down, data([2, 31]))],
            none(),
            &["qkv.lora.down.weight has shape [2, 31]", "inputs"],
        ),
        (
            vec![(up, data([outputs, 3]))],
            none(),
            &[of_up.as_str(), expected.as_str()],
        ),
        (vec![(down, data([0, 32]))], none(), &["has shape [0, 32]"]),
        (
            vec![(down, TensorData::full::<f32, _>([2, 32], f32::NAN))],
            none(),
            &["qkv.lora.down.weight", "NaN"],
        ),
        (
            vec![("unet.blocks.0.attn.qkv.dora_scale", data([1, 32]))],
            none(),
            &["not those of plain adapters", "dora_scale"],
        ),
        (
            vec![("unet.blocks.0.attn.qkv.lora_A.weight", data([2, 32]))],
            none(),
            &["are the same part of one adapter"],
        ),
        (
            vec![("unet.blocks.0.attn.qkv.alpha", data([1, 2]))],
            none(),
            &["qkv.alpha is 2 values"],
        ),
        (
            vec![],
            serde_json::json!({"unet.use_dora": true}),
            &["use_dora", "plain adapter"],
        ),
        (
            vec![],
            serde_json::json!({"unet.lora_alpha": "8"}),
            &["unet.lora_alpha is \"8\""],
        ),
    ] {
        let error = read(&lora, diffusers, &more, configuration).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }
    let text = StateDict::from_tensors([("text_encoder.a.lora_A.weight".into(), data([1, 1]))]);
    let nothing = LoraFile::of_state(&text, Map::new()).unwrap_err();
    assert_eq!(nothing, LoraError::Nothing);
}

#[test]
fn pefts_configuration_beside_the_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let network = network();
    let mut lora = lora(&network);
    lora.adapters.truncate(1);
    let tensors = [
        ("lora_A", &lora.adapters[0].down),
        ("lora_B", &lora.adapters[0].up),
    ];
    let layer = reference_layer(&lora.adapters[0].layer().path);
    let tensors = tensors.map(|(part, param)| {
        let name = format!("base_model.model.{layer}.{part}.weight");
        (name, param.val().into_data())
    });
    let path = folder.path().join("adapter_model.safetensors");
    let state = StateDict::from_tensors(tensors);
    state.write_safetensors(&path, DType::F32, None).unwrap();
    let scale = || {
        let file = LoraFile::open(&path).map_err(|error| error.to_string())?;
        let read = file.load(&network, &Default::default());
        Ok::<f64, String>(read.map_err(|error| error.to_string())?.adapters[0].scale())
    };
    assert_eq!(scale(), Ok(1.0));
    let config = folder.path().join("adapter_config.json");
    fs::write(&config, r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 9}"#).unwrap();
    assert_eq!(scale(), Ok(4.5));
    fs::write(&config, "{").unwrap();
    assert!(
        scale()
            .unwrap_err()
            .contains("adapter_config.json of its configuration")
    );
}
