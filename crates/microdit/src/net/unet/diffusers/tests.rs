//! Published configurations, lists, and what is refused.

use super::*;
use serde_json::json;

fn read(json: Value) -> Result<UNetConfig, OutOfRange> {
    UNetConfig::from_diffusers(json.as_object().expect("a map"))
}

#[test]
fn published_configurations_are_the_presets() {
    // Keys and values of stable-diffusion-2-1-base and of DeciDiffusion 1.0.
    let sd_2 = json!({
        "_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0", "act_fn": "silu",
        "attention_head_dim": [5, 10, 20, 20], "block_out_channels": [320, 640, 1280, 1280],
        "center_input_sample": false, "cross_attention_dim": 1024,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true, "freq_shift": 0,
        "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "num_class_embeds": null, "only_cross_attention": false, "out_channels": 4,
        "sample_size": 64,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "use_linear_projection": true, "upcast_attention": true
    });
    assert_eq!(read(sd_2).unwrap(), UNetConfig::sd_2());
    let lists = json!({
        "add_downsample": [true, true, true], "add_upsample": [true, true, false],
        "add_upsample_mid_block": true, "cross_attention_dim": 768,
        "down_blocks_in_channels": [320, 320, 640], "down_blocks_num_attentions": [0, 1, 3],
        "down_blocks_num_resnets": [2, 2, 1], "down_blocks_out_channels": [320, 640, 1280],
        "mid_num_attentions": 2, "mid_num_resnets": 4, "mix_block_in_forward": true,
        "num_attention_heads": 8, "prev_output_channels": [1280, 1280, 640], "resnet_act_fn": "silu",
        "resnet_eps": 1e-05, "sample_size": 64, "temb_dim": 1280,
        "up_blocks_num_attentions": [6, 3, 0], "up_blocks_num_resnets": [2, 3, 3]
    });
    let class = "FlexibleUNet2DConditionModel";
    let nested = json!({"_class_name": class, "configurations": lists.clone()});
    assert_eq!(read(nested).unwrap(), UNetConfig::decidiffusion());
    let mut flat = lists;
    flat["_class_name"] = class.into();
    assert_eq!(read(flat.clone()).unwrap(), UNetConfig::decidiffusion());
    flat["prev_output_channels"] = json!([1280, 1280, 1280]);
    let error = read(flat).unwrap_err();
    assert_eq!(
        error.to_string(),
        "prev_output_channels: is [1280,1280,1280], which is not supported: only [1280,1280,640] is"
    );
}

#[test]
fn lists_say_what_each_level_has() {
    let config = read(json!({
        "block_out_channels": [32, 64], "norm_num_groups": 8, "layers_per_block": [1, 2],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "mid_block_type": null, "transformer_layers_per_block": [1, 3], "attention_head_dim": [2, 4],
        "cross_attention_dim": [24, 24], "in_channels": 9
    }))
    .unwrap();
    let shape = |levels: &[LevelConfig]| -> Vec<(usize, usize, Vec<usize>)> {
        let shape = |level: &LevelConfig| (level.channels, level.resnets, level.attentions.clone());
        levels.iter().map(shape).collect()
    };
    assert_eq!(shape(&config.down), [(32, 1, vec![]), (64, 2, vec![3, 3])]);
    assert_eq!(shape(&config.up), [(64, 3, vec![3, 3, 3]), (32, 2, vec![])]);
    assert!(config.mid.is_none());
    assert_eq!([config.in_channels, config.caption_channels], [9, 24]);
}

#[test]
fn what_is_not_supported_is_named_with_its_value() {
    for (key, value, message) in [
        (
            "act_fn",
            json!("gelu"),
            "act_fn: is \"gelu\", which is not supported: only \"silu\" is",
        ),
        (
            "resnet_time_scale_shift",
            json!("scale_shift"),
            "resnet_time_scale_shift: is \"scale_shift\", which is not supported: only \"default\" is",
        ),
        (
            "addition_embed_type",
            json!("text_time"),
            "addition_embed_type: is \"text_time\", which is not supported: only null is",
        ),
        (
            "mid_block_type",
            json!("UNetMidBlock2DSimpleCrossAttn"),
            "mid_block_type: is \"UNetMidBlock2DSimpleCrossAttn\", which is not supported",
        ),
        (
            "time_embedding_dim",
            json!(7),
            "time_embedding_dim: is 7, which is not supported: only null is",
        ),
        (
            "layers_per_block",
            json!([2, 2]),
            "layers_per_block: has 2 entries for 4 levels",
        ),
        (
            "cross_attention_dim",
            json!([1, 2, 3, 4]),
            "cross_attention_dim: is [1, 2, 3, 4], different for every level, which is not supported",
        ),
        (
            "norm_num_groups",
            json!(null),
            "norm_num_groups: is null, which is not supported",
        ),
        (
            "window_size",
            json!(4),
            "window_size: is 4, and no key of a U-Net that is supported",
        ),
        (
            "_class_name",
            json!("UNet2DModel"),
            "_class_name: is \"UNet2DModel\"; expected \"UNet2DConditionModel\"",
        ),
        (
            "attention_head_dim",
            json!(7),
            "down.0.heads: 7 heads do not divide 320 channels",
        ),
    ] {
        let mut config = Map::new();
        config.insert(key.to_owned(), value);
        let error = UNetConfig::from_diffusers(&config).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
