//! DeciDiffusion's variant of the configuration: lists of residual blocks and transformers for every block.

use super::keys::{Keys, unsupported};
use crate::{
    net::unet::{LevelConfig, MidConfig, UNetConfig},
    range::{OutOfRange, require},
};
use serde_json::Value;

/// The network that these keys describe.
pub(super) fn flexible(mut keys: Keys) -> Result<UNetConfig, OutOfRange> {
    // The file holds the keys, or a map of them.
    if let Some(inner) = keys.take("configurations") {
        let Value::Object(inner) = inner else {
            return Err(unsupported("configurations", &inner));
        };
        keys.0.extend(inner);
    }
    let channels = keys.list("down_blocks_out_channels", 3, &[320, 640, 1280])?;
    let count = channels.len();
    let entries = keys.list("down_blocks_in_channels", count, &[320])?;
    let previous = keys.list("prev_output_channels", count, &[1280])?;
    let of_levels = |keys: &mut Keys, key: &str| keys.list(key, count, &[1]);
    let down_resnets = of_levels(&mut keys, "down_blocks_num_resnets")?;
    let down_attentions = of_levels(&mut keys, "down_blocks_num_attentions")?;
    let up_resnets = of_levels(&mut keys, "up_blocks_num_resnets")?;
    let up_attentions = of_levels(&mut keys, "up_blocks_num_attentions")?;
    let heads = keys.number("num_attention_heads", 8)?;
    let level = |channels: usize, resnets: usize, attentions: usize| LevelConfig {
        channels,
        resnets,
        attentions: vec![1; attentions.min(1 << 16)],
        heads,
    };
    let halved = keys.flag("add_upsample_mid_block", true)?;
    let config = UNetConfig {
        input_size: keys.input_size()?,
        in_channels: 4,
        out_channels: 4,
        caption_channels: keys.number("cross_attention_dim", 768)?,
        down: (0..count)
            .map(|i| level(channels[i], down_resnets[i], down_attentions[i]))
            .collect(),
        mid: Some(MidConfig {
            // The first one is not counted.
            resnets: keys.number("mid_num_resnets", 1)?.saturating_add(1),
            attentions: vec![1; keys.number("mid_num_attentions", 1)?.min(1 << 16)],
            heads,
            halved,
            first_twice: true,
        }),
        up: (0..count)
            .map(|j| level(channels[count - 1 - j], up_resnets[j], up_attentions[j]))
            .collect(),
        norm_eps: keys.float("resnet_eps", 1e-5)?,
        skip_before_attention: true,
        ..UNetConfig::sd_1()
    };
    // What must follow from the lists.
    let [first, widest] = [channels[0], channels[count - 1]];
    let derived: [(&str, Value, Value); 6] = [
        (
            "down_blocks_in_channels",
            entries.into(),
            [&[first], &channels[..count - 1]].concat().into(),
        ),
        (
            "prev_output_channels",
            previous.into(),
            std::iter::once(widest)
                .chain(channels[1..].iter().rev().copied())
                .collect(),
        ),
        (
            "temb_dim",
            keys.or("temb_dim", 1280),
            config.time_channels().into(),
        ),
        (
            "resnet_act_fn",
            keys.or("resnet_act_fn", "silu"),
            "silu".into(),
        ),
        (
            "mix_block_in_forward",
            keys.or("mix_block_in_forward", true),
            true.into(),
        ),
        (
            "add_downsample",
            keys.or("add_downsample", vec![true; count]),
            (0..count).map(|i| halved || i + 1 < count).collect(),
        ),
    ];
    for (key, found, expected) in derived {
        require(found == expected, key, || {
            format!("is {found}, which is not supported: only {expected} is")
        })?;
    }
    let grows = keys.or(
        "add_upsample",
        (0..count).map(|i| i + 1 < count).collect::<Vec<_>>(),
    );
    let expected: Value = (0..count).map(|i| i + 1 < count).collect();
    require(grows == expected, "add_upsample", || {
        format!("is {grows}, which is not supported: only {expected} is")
    })?;
    keys.finish()?;
    Ok(config)
}
