//! The text encoder of version 2: open_clip's names, and transformers'.

use super::{
    super::file::Form,
    modules::{ALIKE, Layers, Modules, Side, count},
};

/// A block, besides its attention's input.
const BLOCK: Layers = &[
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
];

/// The queries', keys' and values' matrices, which open_clip stores one below the other.
pub(super) const STACKED: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// Blocks of ViT-H/14, the text encoder of Stable Diffusion 2, which uses the states before the last of them.
const VIT_H: usize = 24;

/// Blocks, more than any tower has: a file may claim any number.
const MOST: usize = 1024;

/// The tower of open_clip, and which of its blocks are used.
#[derive(Debug)]
pub(super) struct Tower {
    modules: Modules,
    used: usize,
}

impl Tower {
    /// Of parameters with these names, without what they all begin with.
    pub(super) fn of(names: &[&str], side: Side) -> Self {
        let blocks = match side {
            Side::Ldm => count(names.iter().copied(), "transformer.resblocks"),
            Side::Diffusers => count(names.iter().copied(), "text_model.encoder.layers"),
        };
        let blocks = blocks.min(MOST);
        let mut modules = Modules::default();
        for (ldm, diffusers) in [
            ("token_embedding", "text_model.embeddings.token_embedding"),
            ("ln_final", "text_model.final_layer_norm"),
        ] {
            modules.add(ldm, diffusers, ALIKE);
        }
        for i in 0..blocks {
            let layer = format!("text_model.encoder.layers.{i}");
            modules.add(format!("transformer.resblocks.{i}"), layer, BLOCK);
        }
        // A tower that was pruned to what is used has neither a projection nor the last block.
        let is_full = names
            .iter()
            .any(|name| matches!(*name, "text_projection" | "logit_scale"));
        let last_unused = matches!(side, Side::Ldm) && (is_full || blocks == VIT_H);
        Self {
            modules,
            used: blocks - usize::from(last_unused).min(blocks),
        }
    }

    /// Whether a parameter of latent diffusion's is of the tower, but not used for the states.
    pub(super) fn is_unused(&self, name: &str) -> bool {
        let block = name.strip_prefix("transformer.resblocks.");
        let block = block.and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        matches!(name, "text_projection" | "logit_scale" | "attn_mask")
            || block.is_some_and(|block| block >= self.used)
    }

    /// The parameters that one of latent diffusion's is, each of which is a part of it.
    pub(super) fn to_diffusers(&self, name: &str) -> Vec<(String, Form)> {
        if name == "positional_embedding" {
            let table = "text_model.embeddings.position_embedding.weight";
            return vec![(table.to_owned(), Form::Whole)];
        }
        let block = name.strip_prefix("transformer.resblocks.");
        if let Some((number, stacked)) = block.and_then(|rest| rest.split_once(".attn.in_proj_")) {
            let part = |(index, layer)| {
                let of = STACKED.len();
                let name =
                    format!("text_model.encoder.layers.{number}.self_attn.{layer}.{stacked}");
                (name, Form::Rows { index, of })
            };
            return STACKED.iter().enumerate().map(part).collect();
        }
        let whole = self.modules.translate(name, Side::Ldm);
        whole.map(|name| (name, Form::Whole)).into_iter().collect()
    }

    /// The parameter of latent diffusion's that one of diffusers' is, or a part of, and which.
    pub(super) fn to_ldm(&self, name: &str) -> Option<(String, Option<usize>)> {
        if name == "text_model.embeddings.position_embedding.weight" {
            return Some(("positional_embedding".into(), None));
        }
        let stacked = name.split_once(".self_attn.").and_then(|(layer, rest)| {
            let number = layer.strip_prefix("text_model.encoder.layers.")?;
            let (own, kind) = rest.split_once('.')?;
            let index = STACKED.iter().position(|known| *known == own)?;
            let name = format!("transformer.resblocks.{number}.attn.in_proj_{kind}");
            Some((name, Some(index)))
        });
        stacked.or_else(|| Some((self.modules.translate(name, Side::Diffusers)?, None)))
    }
}
