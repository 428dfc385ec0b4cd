//! Published models that have a name of their own.

use std::path::PathBuf;

/// A model that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The name to ask for.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its repository on the hub.
    pub repository: &'static str,
    /// The files it consists of.
    pub files: &'static [&'static str],
}

/// Files of a model diffusers saved.
const DIFFUSERS: &[&str] = &["config.json", "diffusion_pytorch_model.safetensors"];

/// Files of a model transformers saved.
const TRANSFORMERS: &[&str] = &["config.json", "model.safetensors"];

/// Files of a CLIP of OpenAI's whose weights are in PyTorch's format alone.
const OPENAI: &[&str] = &["config.json", "pytorch_model.bin", "tokenizer_config.json"];

/// Models with a name of their own.
pub const PUBLISHED: &[Published] = &[
    Published {
        name: "sdxl-vae",
        about: "VAE of SDXL, 4 channels: the latents of MicroDiT",
        repository: "stabilityai/sdxl-vae",
        files: DIFFUSERS,
    },
    Published {
        name: "taesdxl",
        about: "tiny autoencoder for SDXL's latents",
        repository: "madebyollin/taesdxl",
        files: DIFFUSERS,
    },
    Published {
        name: "vae-16ch",
        about: "VAE with 16 channels",
        repository: "ostris/vae-kl-f8-d16",
        files: DIFFUSERS,
    },
    Published {
        name: "dfn-clip-h14",
        about: "CLIP ViT-H/14 trained on DFN-5B: the captions of MicroDiT",
        repository: "apple/DFN5B-CLIP-ViT-H-14-378",
        files: &["open_clip_config.json", "open_clip_pytorch_model.bin"],
    },
    Published {
        name: "clip-l14",
        about: "CLIP ViT-L/14 of OpenAI",
        repository: "openai/clip-vit-large-patch14",
        files: &["config.json", "model.safetensors", "tokenizer_config.json"],
    },
    Published {
        name: "clip-l14-336",
        about: "CLIP ViT-L/14 of OpenAI for pictures of 336 pixels: CMMD",
        repository: "openai/clip-vit-large-patch14-336",
        files: OPENAI,
    },
    Published {
        name: "clip-b32",
        about: "CLIP ViT-B/32 of OpenAI",
        repository: "openai/clip-vit-base-patch32",
        files: OPENAI,
    },
    Published {
        name: "dinov2-base",
        about: "DINOv2 ViT-B/14, features of pictures",
        repository: "facebook/dinov2-base",
        files: TRANSFORMERS,
    },
    Published {
        name: "dinov2-large",
        about: "DINOv2 ViT-L/14, features of pictures",
        repository: "facebook/dinov2-large",
        files: TRANSFORMERS,
    },
    Published {
        name: "microdit-xl2",
        about: "MicroDiT XL/2, 512 px, trained on 37 million real and synthetic images",
        repository: "VSehwag24/MicroDiT",
        files: &["ckpts/dit_4_channel_37M_real_and_synthetic_data.pt"],
    },
];

/// The model asked for as `name`.
pub fn published(name: &str) -> Option<&'static Published> {
    PUBLISHED.iter().find(|model| model.name == name)
}

impl Published {
    /// Where it lies, given its files.
    pub(super) fn place(&self, files: &[PathBuf]) -> PathBuf {
        match files {
            [file] => file.clone(),
            // Files are listed with those of the directory itself first.
            _ => files[0].parent().unwrap_or(&files[0]).to_owned(),
        }
    }
}
