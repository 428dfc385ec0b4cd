//! Any of the networks, opened by name or path.

use super::{
    clip_image::{ClipImage, ClipImageConfig},
    dino::{DinoV2, DinoV2Config},
    error::FeatureError,
    inception::{Inception, Resize},
    preparation::Preparation,
};
use crate::{
    config_file::{TRANSFORMERS, find, format, parse, text},
    hub::{self, HubError},
    text::TextEncoder,
    weights::Weights,
};
use burn::tensor::Tensor;
use image::RgbImage;
use microdit::{
    DitBackend,
    checksum::{self, hexadecimal},
    ops::Activation,
    weights::WeightsError,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The text tower of the CLIP at a path or of a published model by its name, to compare texts with pictures by; none if there is no such
/// tower beside the image tower.
///
/// # Errors
/// As for [`FeatureNetwork::open`].
pub fn text_tower<B: DitBackend>(
    name: &Path,
    device: &B::Device,
) -> Result<Option<TextEncoder<B>>, FeatureError> {
    let folder = hub::locate(name)?;
    let file = folder.join("config.json");
    let both = folder.join("open_clip_config.json").is_file()
        || (file.is_file() && {
            let json: Value = parse(&file, &text(&file)?)?;
            json["model_type"] == "clip"
        });
    match both {
        true => Ok(Some(TextEncoder::open(&folder, device)?)),
        false => Ok(None),
    }
}

/// Checks that there is a file of Inception-V3's weights: no name stands for them.
fn inception_is_there(path: &Path) -> Result<(), FeatureError> {
    match path.exists() {
        true => Ok(()),
        false => Err(FeatureError::Release {
            name: path.display().to_string(),
        }),
    }
}

/// Pixels that are taken through a network at a time: 23 images of Inception-V3's size.
const PIXELS: usize = 1 << 21;

/// Which network it is, and which weights it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name: that of a published model, if it was opened by that, or else what its sizes are usually called.
    pub name: String,
    /// SHA-256 of its file of weights, in hexadecimal; of several files, of theirs one after the other. Empty for weights without one.
    pub sha256: String,
    /// Where the weights are published: the address of their repository or file; none where that is not known.
    pub source: Option<String>,
}

/// Pictures to features: numbers of which the distributions, not the pictures, are compared.
#[derive(Clone, Debug)]
pub enum FeatureNetwork<B: DitBackend> {
    /// Inception-V3: the Fréchet inception distance and the inception score.
    Inception(Box<Inception<B>>, Identity),
    /// CLIP's image tower: CMMD, CLIP score.
    Clip(Box<ClipImage<B>>, Identity),
    /// OpenAI's ViT-B/32 with the preparation of clean-fid: CLIP-FID (arXiv 2203.06026).
    CleanClip(Box<ClipImage<B>>, Identity),
    /// DINOv2: Fréchet distance of its class tokens.
    DinoV2(Box<DinoV2<B>>, Identity),
}

impl<B: DitBackend> FeatureNetwork<B> {
    /// Opens what lies at a path, or a published model by its name: a directory of transformers or open_clip with CLIP or DINOv2, or a
    /// file of weights of Inception-V3 (pytorch-fid's) or of DINOv2 (its authors').
    ///
    /// # Errors
    /// A network that is not there, missing or damaged files, networks of another kind, weights that do not fit their configuration.
    pub fn open(name: &Path, device: &B::Device) -> Result<Self, FeatureError> {
        let asked = name.to_string_lossy();
        if asked.to_lowercase().starts_with("inception") {
            inception_is_there(name)?;
        }
        let path = hub::locate(name).map_err(|error| match error {
            HubError::Unknown { name } => FeatureError::Unknown { name },
            other => other.into(),
        })?;
        // A model by its name keeps that; directories of the cache have none of their own.
        let known = (path != name).then(|| asked.into_owned());
        match path.is_dir() {
            true => Self::folder(&path, known, device),
            false => Self::file(&path, known, device),
        }
    }

    /// Opens Inception-V3's weights, as pytorch-fid publishes them.
    ///
    /// # Errors
    /// As for [`open`](Self::open); of a file that is not there, where to get it.
    pub fn open_inception(path: &Path, device: &B::Device) -> Result<Self, FeatureError> {
        inception_is_there(path)?;
        Self::open(path, device)
    }

    fn folder(
        folder: &Path,
        known: Option<String>,
        device: &B::Device,
    ) -> Result<Self, FeatureError> {
        let file = folder.join("config.json");
        let json = || -> Result<Value, WeightsError> { parse(&file, &text(&file)?) };
        if !folder.join("open_clip_config.json").is_file() {
            let json = json()?;
            match json["model_type"].as_str() {
                Some("dinov2" | "dinov2_with_registers") => {
                    let weights = Weights::open(&find(folder, &TRANSFORMERS)?)?;
                    let config = DinoV2Config::from_transformers(&json);
                    let config = config.map_err(|error| format(&file, &error))?;
                    return Self::dino(&config, &weights, known, device);
                }
                Some("clip" | "clip_vision_model") => {}
                other => {
                    let found = other.unwrap_or("missing");
                    let message = format!(
                        "model_type is {found}; expected clip, clip_vision_model, dinov2 or dinov2_with_registers"
                    );
                    return Err(format(&file, &message).into());
                }
            }
        }
        let (config, weights) = ClipImage::<B>::files(folder)?;
        let network = config.load(&weights.at(""), device)?;
        let identity = identity(&weights, known.unwrap_or_else(|| clip_name(&config)))?;
        Ok(Self::Clip(Box::new(network), identity))
    }

    fn file(path: &Path, known: Option<String>, device: &B::Device) -> Result<Self, FeatureError> {
        let weights = Weights::open(path)?;
        let at = weights.at("");
        if at.has("Conv2d_1a_3x3.conv.weight") {
            let network = Inception::load(&at, device)?;
            let identity = identity(&weights, known.unwrap_or_else(|| "inception".into()))?;
            return Ok(Self::Inception(Box::new(network), identity));
        }
        if at.has("patch_embed.proj.weight") && at.has("cls_token") {
            let config = DinoV2Config::from_weights(&at)?;
            return Self::dino(&config, &weights, known, device);
        }
        let message = "it holds neither an Inception-V3 (pytorch-fid's) nor a DINOv2 (its authors'); CLIP and transformers' DINOv2 are opened by their directory";
        Err(format(path, message).into())
    }

    fn dino(
        config: &DinoV2Config,
        weights: &Weights,
        known: Option<String>,
        device: &B::Device,
    ) -> Result<Self, FeatureError> {
        let network = config.load(&weights.at(""), device)?;
        let identity = identity(weights, known.unwrap_or_else(|| dino_name(config)))?;
        Ok(Self::DinoV2(Box::new(network), identity))
    }

    fn identity(&self) -> &Identity {
        match self {
            Self::Inception(_, identity)
            | Self::Clip(_, identity)
            | Self::CleanClip(_, identity)
            | Self::DinoV2(_, identity) => identity,
        }
    }

    /// Its name, such as `inception`, `dinov2-base` or `clip-l14-336`.
    pub fn name(&self) -> &str {
        &self.identity().name
    }

    /// SHA-256 of its file of weights, in hexadecimal; of several files, of theirs one after the other.
    pub fn sha256(&self) -> &str {
        &self.identity().sha256
    }

    /// Where its weights are published; none where that is not known.
    pub fn source(&self) -> Option<&str> {
        self.identity().source.as_deref()
    }

    /// Values of a picture's feature.
    pub fn dim(&self) -> usize {
        match self {
            Self::Inception(..) => Inception::<B>::DIM,
            Self::Clip(network, _) | Self::CleanClip(network, _) => network.dim(),
            Self::DinoV2(network, _) => network.config().width,
        }
    }

    /// The same network, whose pictures are resized otherwise.
    ///
    /// # Errors
    /// If it is not Inception-V3: the others prepare their pictures in one way.
    pub fn with_resize(self, resize: Resize) -> Result<Self, FeatureError> {
        match self {
            Self::Inception(network, identity) => Ok(Self::Inception(
                Box::new(network.with_resize(resize)),
                identity,
            )),
            other => Err(FeatureError::Resize {
                network: other.name().to_owned(),
                resize,
            }),
        }
    }

    /// The same network as clean-fid's CLIP-FID has it: pictures as OpenAI's own code prepares them, resized by Pillow in 8 bits and cut as
    /// torchvision does.
    ///
    /// # Errors
    /// If it has not the sizes of OpenAI's ViT-B/32, the network of CLIP-FID.
    pub fn clean_clip(self) -> Result<Self, FeatureError> {
        let sizes = |config: &ClipImageConfig| {
            let ClipImageConfig {
                image_size,
                patch_size,
                width,
                heads,
                layers,
                projection,
                activation,
                ..
            } = *config;
            (
                image_size,
                patch_size,
                [width, heads, layers],
                projection,
                activation,
            ) == (
                [224; 2],
                [32; 2],
                [768, 12, 12],
                Some(512),
                Activation::QuickGelu,
            )
        };
        match self {
            Self::Clip(network, identity) if sizes(network.config()) => {
                let preparation = Preparation::openai([224; 2]);
                let network = network.with_preparation(preparation);
                Ok(Self::CleanClip(Box::new(network), identity))
            }
            other => Err(FeatureError::NotCleanClip {
                network: other.name().to_owned(),
            }),
        }
    }

    /// How pictures are resized, in words: only features of the same network and resizing can be compared.
    pub fn resizing(&self) -> String {
        match self {
            Self::Inception(network, _) => network.resize().to_string(),
            Self::Clip(network, _) => network.config().preparation.to_string(),
            Self::CleanClip(..) => Resize::CleanFid.to_string(),
            Self::DinoV2(network, _) => network.config().preparation.to_string(),
        }
    }

    /// Pictures of any size to what the network takes, `[batch, 3, height, width]`.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn prepare_pictures(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 4> {
        match self {
            Self::Inception(network, _) => network.prepare_pictures(images, device),
            Self::Clip(network, _) | Self::CleanClip(network, _) => {
                network.prepare_pictures(images, device)
            }
            Self::DinoV2(network, _) => network.prepare_pictures(images, device),
        }
    }

    /// Prepared images to their features, `[batch, dim]`; CLIP's are not normalized.
    pub fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        match self {
            Self::Inception(network, _) => network.features(images),
            Self::Clip(network, _) | Self::CleanClip(network, _) => network.features(images),
            Self::DinoV2(network, _) => network.features(images),
        }
    }

    /// Pictures of any size and number to their features, `[pictures, dim]`: so many at a time that memory does not grow with their
    /// number.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn features_of(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 2> {
        let [height, width] = match self {
            Self::Inception(..) => [299; 2],
            Self::Clip(network, _) | Self::CleanClip(network, _) => {
                network.config().preparation.size
            }
            Self::DinoV2(network, _) => network.config().preparation.size,
        };
        let batch = (PIXELS / (height * width)).max(1);
        let features = |images| self.features(self.prepare_pictures(images, device));
        Tensor::cat(images.chunks(batch).map(features).collect(), 0)
    }

    /// Inception-V3's features `[batch, 2048]` to unnormalized log-probabilities of its classes `[batch, 1008]`; none for other
    /// networks.
    pub fn logits(&self, features: Tensor<B, 2>) -> Option<Tensor<B, 2>> {
        match self {
            Self::Inception(network, _) => Some(network.logits(features)),
            Self::Clip(..) | Self::CleanClip(..) | Self::DinoV2(..) => None,
        }
    }
}

fn identity(weights: &Weights, name: String) -> Result<Identity, FeatureError> {
    let mut checksums = Vec::new();
    for path in weights.files() {
        let (_, sha256) =
            checksum::of_file(&path).map_err(|error| FeatureError::Io { path, error })?;
        checksums.push(sha256);
    }
    let sha256 = match &checksums[..] {
        [] => String::new(),
        [one] => one.clone(),
        several => hexadecimal(&Sha256::digest(several.concat())),
    };
    let files = weights.files();
    let source = files.first().and_then(|path| source(path, &sha256));
    Ok(Identity {
        name,
        sha256,
        source,
    })
}

/// Where weights are published: in the repository in whose part of the hub's cache they lie; or, of Inception-V3, as the release whose
/// name ends with the beginning of their SHA-256.
fn source(path: &Path, sha256: &str) -> Option<String> {
    let parts = path
        .components()
        .filter_map(|part| part.as_os_str().to_str());
    let mut repositories = parts.filter_map(|part| part.strip_prefix("models--"));
    if let Some((owner, name)) = repositories.next().and_then(|of| of.split_once("--")) {
        return Some(format!("https://huggingface.co/{owner}/{name}"));
    }
    let release = format!("-{}.pth", sha256.get(..8)?);
    let known = FeatureError::INCEPTION.ends_with(&release);
    known.then(|| FeatureError::INCEPTION_SOURCE.to_owned())
}

/// What towers of such sizes are called: `clip-b32`, `clip-l14-336`.
fn clip_name(config: &ClipImageConfig) -> String {
    let size = match config.width {
        768 => "b".to_owned(),
        1024 => "l".to_owned(),
        1280 => "h".to_owned(),
        1408 => "g".to_owned(),
        1664 => "bigg".to_owned(),
        width => format!("{width}w"),
    };
    let [patch, _] = config.patch_size;
    match config.image_size {
        [224, 224] => format!("clip-{size}{patch}"),
        [side, _] => format!("clip-{size}{patch}-{side}"),
    }
}

/// What networks of such sizes are called: `dinov2-base`, `dinov2-large-registers`.
fn dino_name(config: &DinoV2Config) -> String {
    let size = match config.width {
        384 => "small".to_owned(),
        768 => "base".to_owned(),
        1024 => "large".to_owned(),
        1536 => "giant".to_owned(),
        width => format!("{width}w"),
    };
    match config.registers {
        0 => format!("dinov2-{size}"),
        _ => format!("dinov2-{size}-registers"),
    }
}

#[cfg(test)]
mod tests;
