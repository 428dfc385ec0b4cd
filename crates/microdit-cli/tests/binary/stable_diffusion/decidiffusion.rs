//! DeciDiffusion, whose network is another.

use super::*;

/// Its repository has an ordinary U-Net beside its own, which is not the model.
#[test]
fn decidiffusion_draws_with_its_own_network() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    pipeline(&at("deci"), Version::One);
    write_json(
        &at("deci/scheduler/scheduler_config.json"),
        &json!({
            "_class_name": "DDIMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": true, "timestep_spacing": "trailing", "steps_offset": 1,
            "set_alpha_to_one": false, "clip_sample": false, "num_train_timesteps": 1000,
        }),
    );
    let (ordinary, _) = draw(folder.path(), &at("deci"), &[]);
    let unet = json!({
        "_class_name": "FlexibleUNet2DConditionModel", "sample_size": 256, "temb_dim": 128, "cross_attention_dim": 64,
        "down_blocks_in_channels": [32, 32], "down_blocks_out_channels": [32, 64],
        "down_blocks_num_resnets": [2, 1], "down_blocks_num_attentions": [0, 2],
        "up_blocks_num_resnets": [2, 3], "up_blocks_num_attentions": [3, 1],
        "prev_output_channels": [64, 64], "mid_num_resnets": 2, "mid_num_attentions": 1,
        "add_upsample_mid_block": true, "mix_block_in_forward": true, "num_attention_heads": 8,
    });
    let config = UNetConfig::from_diffusers(unet.as_object().unwrap()).unwrap();
    let network = config.init::<Flex>(0, &Default::default()).unwrap();
    let state = StateDict::from_module(&network);
    let tensors = state.iter().map(|(path, data)| {
        let name = config.decidiffusion_name(path);
        let values = values(&name, &data.shape);
        (name, values)
    });
    let own = at("deci/flexible_unet");
    write_json(&own.join("config.json"), &unet);
    save(tensors, &own.join("diffusion_pytorch_model.safetensors"));
    let (expected, said) = draw(folder.path(), &at("deci"), &[]);
    assert!(expected != ordinary && !is_flat(&expected), "{said}");
    fs::remove_dir_all(at("deci/unet")).unwrap();
    let (found, _) = draw(folder.path(), &at("deci"), &[]);
    assert!(found == expected);
    convert(&at("deci"), &at("back"), &["--to", "diffusers"]);
    let (found, _) = draw(folder.path(), &at("back"), &[]);
    assert!(found == expected);
    let (from, out) = (
        at("deci").display().to_string(),
        at("x").display().to_string(),
    );
    let output = microdit(&["convert", &from, "--to", "ldm", "--out", &out]);
    fails(&output, &["a U-Net-NAS has no names in latent diffusion"]);
}
