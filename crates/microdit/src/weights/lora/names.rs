//! What the tensors of adapters are called.

/// The layer an adapter belongs to, as a file calls it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// By its path, joined by dots.
    Path(String),
    /// By its path, joined by underscores: kohya's way, which cannot be undone without knowing the layers.
    Underscored(String),
}

impl Target {
    /// What files may call the layer at `path`.
    pub(super) fn of(path: &str) -> [Self; 2] {
        [
            Self::Path(path.to_owned()),
            Self::Underscored(path.replace('.', "_")),
        ]
    }
}

/// A part of an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Down,
    Up,
    Alpha,
}

/// Ends of the names of tensors, the longer ones first where one ends in another.
const ENDS: [(&str, Part); 9] = [
    (".lora_A.default.weight", Part::Down),
    (".lora_B.default.weight", Part::Up),
    (".lora_A.weight", Part::Down),
    (".lora_B.weight", Part::Up),
    (".lora.down.weight", Part::Down),
    (".lora.up.weight", Part::Up),
    (".lora_down.weight", Part::Down),
    (".lora_up.weight", Part::Up),
    (".alpha", Part::Alpha),
];

/// What stands before the paths of a network's layers.
const NETWORK: [&str; 3] = ["unet.", "transformer.", "base_model.model."];

/// What stands before those of a text encoder's.
const TEXT_ENCODER: [&str; 4] = ["text_encoder.", "text_encoder_2.", "lora_te_", "lora_te1_"];

/// kohya's.
const KOHYA: &str = "lora_unet_";

/// diffusers' first names: adapters were kept in the attention's processor.
const PROCESSOR: [(&str, &str); 4] = [
    (".processor.to_q_lora", ".to_q"),
    (".processor.to_k_lora", ".to_k"),
    (".processor.to_v_lora", ".to_v"),
    (".processor.to_out_lora", ".to_out.0"),
];

/// What a tensor is, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    OfNetwork(Target, Part),
    OfTextEncoder,
}

impl Named {
    /// None for what is no part of a plain adapter.
    pub(super) fn read(name: &str) -> Option<Self> {
        let ends = ENDS.iter();
        let mut found = ends.filter_map(|(end, part)| Some((name.strip_suffix(end)?, *part)));
        // Names of processors end like others, without the dot's word: `to_q_lora.down.weight`.
        let processor = || {
            let layer = |end: &str, part| {
                let rest = name.strip_suffix(end)?;
                PROCESSOR.iter().find_map(|(theirs, layer)| {
                    let attention = rest.strip_suffix(theirs)?;
                    Some((format!("{attention}{layer}"), part))
                })
            };
            layer(".down.weight", Part::Down).or_else(|| layer(".up.weight", Part::Up))
        };
        let plain = found.next().map(|(layer, part)| (layer.to_owned(), part));
        let (layer, part) = plain.or_else(processor)?;
        if TEXT_ENCODER.iter().any(|begin| layer.starts_with(begin)) {
            return Some(Self::OfTextEncoder);
        }
        if let Some(layer) = layer.strip_prefix(KOHYA) {
            let target = Target::Underscored(layer.to_owned());
            return Some(Self::OfNetwork(target, part));
        }
        let begin = NETWORK.iter().find(|begin| layer.starts_with(**begin));
        let layer = &layer[begin.map_or(0, |begin| begin.len())..];
        Some(Self::OfNetwork(Target::Path(layer.to_owned()), part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_name_a_tensor_is_known() {
        let path = "down_blocks.0.attn1.to_q";
        let target = || Target::Path(path.into());
        let kohya = || Target::Underscored("down_blocks_0_attn1_to_q".into());
        for (name, target, part) in [
            ("unet.P.lora_A.weight", target(), Part::Down),
            ("unet.P.lora.up.weight", target(), Part::Up),
            ("P.lora_B.weight", target(), Part::Up),
            ("transformer.P.lora_A.weight", target(), Part::Down),
            ("base_model.model.P.lora_A.weight", target(), Part::Down),
            (
                "base_model.model.P.lora_B.default.weight",
                target(),
                Part::Up,
            ),
            ("unet.P.alpha", target(), Part::Alpha),
            (
                "unet.down_blocks.0.attn1.processor.to_q_lora.down.weight",
                target(),
                Part::Down,
            ),
            ("lora_unet_K.lora_down.weight", kohya(), Part::Down),
            ("lora_unet_K.lora_up.weight", kohya(), Part::Up),
            ("lora_unet_K.alpha", kohya(), Part::Alpha),
        ] {
            let name = name
                .replace('P', path)
                .replace('K', "down_blocks_0_attn1_to_q");
            assert_eq!(
                Named::read(&name),
                Some(Named::OfNetwork(target, part)),
                "{name}"
            );
        }
        let out = Named::read("a.processor.to_out_lora.up.weight");
        let layer = Target::Path("a.to_out.0".into());
        assert_eq!(out, Some(Named::OfNetwork(layer, Part::Up)));
        let text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight";
        assert_eq!(Named::read(text), Some(Named::OfTextEncoder));
        for foreign in [
            "unet.a.to_q.weight",
            "lora_unet_a.hada_w1_a",
            "lora_unet_a.lora_mid.weight",
            "unet.a.lora_magnitude_vector",
            "unet.a.lora_B.bias",
            "lora_unet_a.dora_scale",
        ] {
            assert_eq!(Named::read(foreign), None, "{foreign}");
        }
    }
}
