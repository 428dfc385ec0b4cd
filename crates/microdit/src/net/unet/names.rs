//! DeciDiffusion's names of our parameters: its blocks hold residual blocks and transformers in one list, in the order they
//! run. All other names are the same.

use super::UNetConfig;

impl UNetConfig {
    /// The name of the parameter at a module path in DeciDiffusion's files.
    ///
    /// ```
    /// let config = microdit::UNetConfig::decidiffusion();
    /// let name = |path| config.decidiffusion_name(path);
    /// assert_eq!(name("down_blocks.1.resnets.1.conv1.bias"), "down_blocks.1.modules_list.2.conv1.bias");
    /// assert_eq!(name("mid_block.attentions.0.norm.bias"), "mid_block.modules_list.1.norm.bias");
    /// assert_eq!(name("conv_in.weight"), "conv_in.weight");
    /// ```
    pub fn decidiffusion_name(&self, path: &str) -> String {
        let segments: Vec<&str> = path.split('.').collect();
        let renamed = match &segments[..] {
            ["mid_block", list, index, rest @ ..] => self.mid.as_ref().and_then(|mid| {
                let counts = [mid.resnets, mid.attentions.len()];
                let turn = turn(counts, list, index)?;
                Some(format!("mid_block.modules_list.{turn}.{}", rest.join(".")))
            }),
            [
                blocks @ ("down_blocks" | "up_blocks"),
                place,
                list,
                index,
                rest @ ..,
            ] => {
                let levels = match *blocks {
                    "down_blocks" => &self.down,
                    _ => &self.up,
                };
                let level = place.parse().ok().and_then(|i: usize| levels.get(i));
                level.and_then(|level| {
                    let counts = [level.resnets, level.attentions.len()];
                    let turn = turn(counts, list, index)?;
                    let rest = rest.join(".");
                    Some(format!("{blocks}.{place}.modules_list.{turn}.{rest}"))
                })
            }
            _ => None,
        };
        renamed.unwrap_or_else(|| path.to_owned())
    }

    /// The module path of the parameter that DeciDiffusion's files call `name`.
    pub fn of_decidiffusion(&self, name: &str) -> String {
        let segments: Vec<&str> = name.split('.').collect();
        let found = match &segments[..] {
            ["mid_block", "modules_list", place, rest @ ..] => self.mid.as_ref().and_then(|mid| {
                let entry = entry([mid.resnets, mid.attentions.len()], place)?;
                Some(format!("mid_block.{entry}.{}", rest.join(".")))
            }),
            [
                blocks @ ("down_blocks" | "up_blocks"),
                level,
                "modules_list",
                place,
                rest @ ..,
            ] => {
                let levels = match *blocks {
                    "down_blocks" => &self.down,
                    _ => &self.up,
                };
                let config = level.parse().ok().and_then(|i: usize| levels.get(i));
                config.and_then(|config| {
                    let entry = entry([config.resnets, config.attentions.len()], place)?;
                    Some(format!("{blocks}.{level}.{entry}.{}", rest.join(".")))
                })
            }
            _ => None,
        };
        found.unwrap_or_else(|| name.to_owned())
    }
}

/// What stands at a place among residual blocks and transformers in turn.
fn entry([resnets, attentions]: [usize; 2], place: &str) -> Option<String> {
    let place: usize = place.parse().ok()?;
    let pairs = resnets.min(attentions);
    let (is_resnet, index) = match place < 2 * pairs {
        true => (place.is_multiple_of(2), place / 2),
        false => (resnets > attentions, place - pairs),
    };
    let (list, count) = match is_resnet {
        true => ("resnets", resnets),
        false => ("attentions", attentions),
    };
    (index < count).then(|| format!("{list}.{index}"))
}

/// Place of an entry of `list` among residual blocks and transformers in turn.
fn turn([resnets, attentions]: [usize; 2], list: &str, index: &str) -> Option<usize> {
    let index: usize = index.parse().ok()?;
    match list {
        "resnets" => Some(index + index.min(attentions)),
        "attentions" => Some(index + (index + 1).min(resnets)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_layer_has_a_turn_of_its_own() {
        let config = UNetConfig::decidiffusion();
        for (block, level) in [("down_blocks", &config.down), ("up_blocks", &config.up)] {
            for (i, level) in level.iter().enumerate() {
                let name =
                    |list, j| config.decidiffusion_name(&format!("{block}.{i}.{list}.{j}.x"));
                let resnets = (0..level.resnets).map(|j| name("resnets", j));
                let attentions = (0..level.attentions.len()).map(|j| name("attentions", j));
                let found: BTreeSet<String> = resnets.chain(attentions).collect();
                let count = level.resnets + level.attentions.len();
                let expected = (0..count).map(|j| format!("{block}.{i}.modules_list.{j}.x"));
                assert_eq!(found, expected.collect());
                for list in ["resnets", "attentions"] {
                    let count = match list {
                        "resnets" => level.resnets,
                        _ => level.attentions.len(),
                    };
                    for j in 0..count {
                        let path = format!("{block}.{i}.{list}.{j}.x");
                        assert_eq!(
                            config.of_decidiffusion(&config.decidiffusion_name(&path)),
                            path
                        );
                    }
                }
            }
        }
        // One residual block, then transformers alone.
        let last = config.decidiffusion_name("down_blocks.2.attentions.2.norm.weight");
        assert_eq!(last, "down_blocks.2.modules_list.3.norm.weight");
        let kept = "up_blocks.0.upsamplers.0.conv.bias";
        assert_eq!(config.decidiffusion_name(kept), kept);
    }
}
