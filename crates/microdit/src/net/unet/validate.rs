//! Which [`UNetConfig`]s can be built: ranges, rules between sizes, and a limit on all of them together.

use super::{LevelConfig, UNetConfig, steps::Layer};
use crate::{
    net::{
        DenoiserConfig,
        limits::{MAX_PARAMETERS, MAX_SIDE, MAX_WIDTH},
    },
    range::{OutOfRange, require, within},
};

/// Most levels.
const MAX_LEVELS: usize = 16;

/// Most layers of a kind in a level.
const MAX_LAYERS: usize = 1 << 10;

impl UNetConfig {
    /// Checks that a network of these sizes exists, and has at most 10^11 parameters.
    pub(super) fn check(&self) -> Result<(), OutOfRange> {
        within("input_size", self.input_size, 1..=MAX_SIDE)?;
        within("in_channels", self.in_channels, 1..=MAX_SIDE)?;
        within("out_channels", self.out_channels, 1..=MAX_SIDE)?;
        require(self.in_channels >= self.out_channels, "in_channels", || {
            format!(
                "{} are fewer than the {} of the latent, out_channels",
                self.in_channels, self.out_channels
            )
        })?;
        within("caption_channels", self.caption_channels, 1..=MAX_WIDTH)?;
        within("norm_groups", self.norm_groups, 1..=MAX_WIDTH)?;
        within("norm_eps", self.norm_eps, 1e-12..=1.0)?;
        within("frequency_shift", self.frequency_shift, 0.0..=1.0)?;
        within("down", self.down.len(), 1..=MAX_LEVELS)?;
        require(self.up.len() == self.down.len(), "up", || {
            format!("has {} levels, and down {}", self.up.len(), self.down.len())
        })?;
        for (i, level) in self.down.iter().enumerate() {
            self.check_level(level)
                .map_err(|error| error.inside(&format!("down.{i}")))?;
        }
        if let (Some(mid), Some(deepest)) = (&self.mid, self.down.last()) {
            let level = LevelConfig {
                channels: deepest.channels,
                resnets: mid.resnets,
                attentions: mid.attentions.clone(),
                heads: mid.heads,
            };
            self.check_level(&level)
                .map_err(|error| error.inside("mid"))?;
        }
        for (i, (level, opposite)) in self.up.iter().zip(self.down.iter().rev()).enumerate() {
            let inside = |error: OutOfRange| error.inside(&format!("up.{i}"));
            self.check_level(level).map_err(inside)?;
            let expected = opposite.resnets + 1;
            require(level.resnets == expected, "resnets", || {
                format!(
                    "{} for the {expected} skip connections of the level, one more than its resnets on the way down",
                    level.resnets
                )
            })
            .map_err(inside)?;
        }
        let first = self.first_channels();
        let frequencies = first / 2;
        let enough = first.is_multiple_of(2) && frequencies as f64 > self.frequency_shift;
        require(enough, "down.0.channels", || {
            format!("{first} are not the channels of whole pairs of sine and cosine")
        })?;
        self.check_groups()?;
        let count = self.parameters();
        require(count <= MAX_PARAMETERS, "down", || {
            format!(
                "{count} parameters of all channels, resnets and attentions are more than {MAX_PARAMETERS}"
            )
        })
    }

    fn check_level(&self, level: &LevelConfig) -> Result<(), OutOfRange> {
        within("channels", level.channels, 1..=MAX_WIDTH)?;
        within("resnets", level.resnets, 1..=MAX_LAYERS)?;
        within("attentions", level.attentions.len(), 0..=MAX_LAYERS)?;
        for (i, &depth) in level.attentions.iter().enumerate() {
            within(&format!("attentions.{i}"), depth, 1..=MAX_LAYERS)?;
        }
        within("heads", level.heads, 1..=MAX_WIDTH)?;
        let attends = !level.attentions.is_empty();
        let divides = level.channels.is_multiple_of(level.heads);
        require(divides || !attends, "heads", || {
            format!(
                "{} heads do not divide {} channels",
                level.heads, level.channels
            )
        })
    }

    /// Groups must divide what they norm: the channels of a level, and on the way up the sum with those of a skip connection.
    fn check_groups(&self) -> Result<(), OutOfRange> {
        for step in self.steps() {
            if let Layer::Resnet(resnet) = step.layer {
                for channels in [resnet.input, resnet.output] {
                    let divides = channels.is_multiple_of(self.norm_groups);
                    require(divides, "norm_groups", || {
                        format!(
                            "{} groups do not divide {channels} channels",
                            self.norm_groups
                        )
                    })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(change: impl FnOnce(&mut UNetConfig)) -> UNetConfig {
        let mut config = UNetConfig::sd_1();
        change(&mut config);
        config
    }

    #[test]
    fn presets_are_valid() {
        for config in [
            UNetConfig::sd_1(),
            UNetConfig::sd_2(),
            UNetConfig::decidiffusion(),
            UNetConfig::sd_2().inpainting(),
        ] {
            config.validate().unwrap();
        }
    }

    #[test]
    fn errors_name_the_field() {
        let most = usize::MAX;
        let broken = [
            (changed(|c| c.input_size = 0), "input_size"),
            (changed(|c| c.in_channels = most), "in_channels"),
            (changed(|c| c.in_channels = 3), "in_channels"),
            (changed(|c| c.caption_channels = 0), "caption_channels"),
            (changed(|c| c.norm_groups = 33), "norm_groups"),
            (changed(|c| c.norm_eps = f64::NAN), "norm_eps"),
            (changed(|c| c.frequency_shift = 2.0), "frequency_shift"),
            (changed(|c| c.down.clear()), "down"),
            (changed(|c| c.up.truncate(3)), "up"),
            (changed(|c| c.down[1].channels = most), "down.1.channels"),
            (changed(|c| c.down[1].resnets = 0), "down.1.resnets"),
            (
                changed(|c| c.down[2].attentions[1] = 0),
                "down.2.attentions.1",
            ),
            (changed(|c| c.down[2].heads = 3), "down.2.heads"),
            (changed(|c| c.up[0].resnets = 4), "up.0.resnets"),
            (
                changed(|c| c.mid.as_mut().unwrap().resnets = most),
                "mid.resnets",
            ),
            (
                changed(|c| {
                    c.norm_groups = 1;
                    c.down[0].channels = 1;
                    c.down[0].heads = 1;
                }),
                "down.0.channels",
            ),
        ];
        for (config, field) in broken {
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }

    /// Every size is in its range, and their product is no network any more.
    #[test]
    fn sizes_are_limited_together() {
        let config = changed(|config| {
            for level in config.down.iter_mut().chain(&mut config.up) {
                level.channels = MAX_WIDTH;
                level.heads = 1;
            }
            config.mid = None;
        });
        let error = config.validate().unwrap_err();
        assert!(error.rule.contains("more than 100000000000"), "{error}");
    }
}
