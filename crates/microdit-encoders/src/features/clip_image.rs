//! CLIP's image tower (arXiv 2103.00020), under the names of open_clip or of transformers.

use super::{patches::Patches, preparation::Preparation};
use crate::{
    config_file::{OPEN_CLIP, TRANSFORMERS, find, format, parse, text},
    layers::{LayerNorm, Linear},
    transformer::{BlockConfig, Names, Stack},
    weights::{At, MAX_WIDTH, Weights},
};
use burn::{module::Module, tensor::Tensor};
use image::RgbImage;
use microdit::{DitBackend, ops::Activation, weights::WeightsError};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where the tower lies among tensors named by transformers; a model of this tower alone has no prefix of its own since
/// transformers 5.
const CLIP_PREFIXES: &[&str] = &["vision_model", "vision_model.vision_model", ""];

/// Where it lies among those named by open_clip.
const OPEN_CLIP_PREFIXES: &[&str] = &["visual", ""];

/// The configuration that open_clip publishes.
const OPEN_CLIP_CONFIG: &str = "open_clip_config.json";

/// The longest side of an image, in pixels.
const MAX_SIDE: usize = 1 << 14;

/// What stands for an image among its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePooling {
    /// The class token.
    ClassToken,
    /// The mean of the patches' tokens.
    Mean,
}

/// Sizes of a [`ClipImage`].
#[derive(Clone, Debug, PartialEq)]
pub struct ClipImageConfig {
    /// Channels of an image.
    pub channels: usize,
    /// Height and width of an image, in pixels.
    pub image_size: [usize; 2],
    /// Height and width of a patch, in pixels.
    pub patch_size: [usize; 2],
    /// Width of a token's state.
    pub width: usize,
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub layers: usize,
    /// Width of the feed-forward layers.
    pub hidden: usize,
    /// Width of the feature shared with texts, if there is one.
    pub projection: Option<usize>,
    /// The nonlinearity of the feed-forward layers.
    pub activation: Activation,
    /// Added to variances.
    pub eps: f64,
    /// Whether tokens are normalized before the first block.
    pub pre_norm: bool,
    /// Whether each residual is multiplied by a factor per channel.
    pub layer_scale: bool,
    /// What stands for the image.
    pub pooling: ImagePooling,
    /// Whether that is normalized, in place of all tokens.
    pub norm_after_pooling: bool,
    /// How the tower wants its pictures.
    pub preparation: Preparation,
}

/// What a tower makes of images.
#[derive(Clone, Debug)]
pub struct ImageStates<B: DitBackend> {
    /// Of every token after the last block, the class token's first, `[batch, 1 + patches, width]`.
    pub hidden: Tensor<B, 3>,
    /// Of the patches as the pooling finds them, `[batch, patches, width]`.
    pub patches: Tensor<B, 3>,
    /// Of the image as a whole, `[batch, width]`.
    pub pooled: Tensor<B, 2>,
}

impl ClipImageConfig {
    /// The image tower of OpenAI's ViT-B/32.
    pub fn vit_b_32() -> Self {
        let size = [224; 2];
        Self {
            channels: 3,
            image_size: size,
            patch_size: [32; 2],
            width: 768,
            heads: 12,
            layers: 12,
            hidden: 3072,
            projection: Some(512),
            activation: Activation::QuickGelu,
            eps: 1e-5,
            pre_norm: true,
            layer_scale: false,
            pooling: ImagePooling::ClassToken,
            norm_after_pooling: false,
            preparation: Preparation::openai(size),
        }
    }

    /// The tower with the weights at `at`; tensors of other towers may lie beside its own.
    ///
    /// # Errors
    /// Missing, misshapen and surplus tensors, sizes no tower has.
    ///
    /// ```
    /// use burn::tensor::Tensor;
    /// use burn_flex::Flex;
    /// use microdit_encoders::{Weights, features::ClipImageConfig};
    ///
    /// let json = serde_json::json!({
    ///     "model_cfg": {"embed_dim": 6, "vision_cfg":
    ///         {"width": 8, "head_width": 4, "layers": 1, "image_size": 16, "patch_size": 8}},
    /// });
    /// let device = Default::default();
    /// let config = ClipImageConfig::from_open_clip(&json)?;
    /// let tower = config.load::<Flex>(&Weights::random(0).at(""), &device)?;
    /// assert_eq!(tower.features(Tensor::zeros([2, 3, 16, 16], &device)).dims(), [2, 6]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn load<B: DitBackend>(
        &self,
        at: &At<'_>,
        device: &B::Device,
    ) -> Result<ClipImage<B>, WeightsError> {
        let block = self.check(at)?;
        let known = |prefixes: &[&'static str], name: &str| {
            let has = |prefix: &&&str| at.at(prefix).has(name);
            prefixes.iter().find(has).map(|prefix| at.at(prefix))
        };
        let (names, tower) = match (
            known(CLIP_PREFIXES, "embeddings.patch_embedding.weight"),
            known(OPEN_CLIP_PREFIXES, "conv1.weight"),
        ) {
            (Some(tower), _) => (Names::Clip, tower),
            (None, Some(tower)) => (Names::OpenClip, tower),
            (None, None) => {
                return Err(at.unusable(
                    "it holds no image tower of CLIP: neither embeddings.patch_embedding.weight (transformers) nor conv1.weight (open_clip), with or without a prefix",
                ));
            }
        };
        let width = self.width;
        let [rows, columns] = self.grid();
        let table = [1 + rows * columns, width];
        let (embeddings, patches, position, norms, blocks) = match names {
            Names::OpenClip => (
                tower.clone(),
                "conv1",
                tower.tensor("positional_embedding", table, device)?,
                ["ln_pre", "ln_post"],
                "transformer.resblocks",
            ),
            _ => (
                tower.at("embeddings"),
                "patch_embedding",
                tower
                    .at("embeddings.position_embedding")
                    .tensor("weight", table, device)?,
                // The first is misspelt in the published files.
                ["pre_layrnorm", "post_layernorm"],
                "encoder.layers",
            ),
        };
        let projection = |output| -> Result<Linear<B>, WeightsError> {
            match names {
                // Stored as a plain matrix that multiplies from the right.
                Names::OpenClip => {
                    let matrix = tower.tensor("proj", [width, output], device)?;
                    Ok(Linear::new(matrix.transpose(), None))
                }
                _ => Linear::load(&at.at("visual_projection"), [width, output], false, device),
            }
        };
        let norm = |name: &str| LayerNorm::load(&tower.at(name), width, self.eps, device);
        let class: Tensor<B, 1> = embeddings.tensor("class_embedding", [width], device)?;
        Ok(ClipImage {
            patches: Patches::load(
                &embeddings.at(patches),
                class.unsqueeze(),
                [self.channels, width],
                self.patch_size,
                false,
                device,
            )?,
            position,
            pre_norm: self.pre_norm.then(|| norm(norms[0])).transpose()?,
            blocks: Stack::load(&block, self.layers, names, &tower.at(blocks), device)?,
            post_norm: norm(norms[1])?,
            projection: self.projection.map(projection).transpose()?,
            config: self.clone(),
        })
    }

    /// As a directory says it, of which [`ClipImage::open`] opens the tower.
    ///
    /// # Errors
    /// A missing or damaged configuration, and that of a model of another kind.
    pub fn of(folder: &Path) -> Result<Self, WeightsError> {
        let json = |file: &Path| -> Result<Value, WeightsError> { parse(file, &text(file)?) };
        let file = folder.join(OPEN_CLIP_CONFIG);
        if file.is_file() {
            let config = Self::from_open_clip(&json(&file)?);
            return config.map_err(|error| format(&file, &error));
        }
        let file = folder.join("config.json");
        let preprocessor = folder.join("preprocessor_config.json");
        let preprocessor = match preprocessor.is_file() {
            true => Some(json(&preprocessor)?),
            false => None,
        };
        let config = Self::from_transformers(&json(&file)?, preprocessor.as_ref());
        config.map_err(|error| format(&file, &error))
    }

    /// The files of weights in such a directory.
    ///
    /// # Errors
    /// Missing or damaged files.
    pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
        Ok(Weights::open(&weights_in(folder)?)?.files())
    }

    fn check(&self, at: &At<'_>) -> Result<BlockConfig, WeightsError> {
        let block = BlockConfig {
            width: self.width,
            heads: self.heads,
            hidden: self.hidden,
            eps: self.eps,
            activation: self.activation,
            qkv_bias: true,
            layer_scale: self.layer_scale,
            gated: false,
        };
        block.check(at, self.layers)?;
        at.within("the number of channels", self.channels, 3..=3)?;
        let projection = self.projection.unwrap_or(1);
        at.within("the projection", projection, 1..=MAX_WIDTH)?;
        for axis in [0, 1] {
            let (image, patch) = (self.image_size[axis], self.patch_size[axis]);
            at.within("the image size", image, 1..=MAX_SIDE)?;
            at.within("the patch size", patch, 1..=image)?;
        }
        let preparation = &self.preparation;
        let fits = preparation.check().and_then(|()| {
            if preparation.size == self.image_size {
                return Ok(());
            }
            let ([height, width], [high, wide]) = (preparation.size, self.image_size);
            Err(format!(
                "pictures are prepared as {height} x {width} pixels; the tower takes {high} x {wide}"
            ))
        });
        fits.map_err(|message| at.unusable(&message))?;
        Ok(block)
    }

    /// Rows and columns of patches.
    fn grid(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.image_size[axis] / self.patch_size[axis])
    }
}

/// A vision transformer whose features are compared with those of texts. Frozen, but differentiable in the images.
#[derive(Module, Debug)]
pub struct ClipImage<B: DitBackend> {
    patches: Patches<B>,
    position: Tensor<B, 2>,
    pre_norm: Option<LayerNorm<B>>,
    blocks: Stack<B>,
    post_norm: LayerNorm<B>,
    projection: Option<Linear<B>>,
    #[module(skip)]
    config: ClipImageConfig,
}

impl<B: DitBackend> ClipImage<B> {
    /// Opens a directory as published: with `open_clip_config.json` (open_clip), or with `config.json` and, if its pictures are not
    /// prepared as CLIP's usually are, `preprocessor_config.json` (transformers).
    ///
    /// # Errors
    /// Missing or damaged files, models of another kind, and weights that do not fit their configuration.
    pub fn open(folder: &Path, device: &B::Device) -> Result<Self, WeightsError> {
        let (config, weights) = Self::files(folder)?;
        config.load(&weights.at(""), device)
    }

    pub(super) fn files(folder: &Path) -> Result<(ClipImageConfig, Weights), WeightsError> {
        let config = ClipImageConfig::of(folder)?;
        Ok((config, Weights::open(&weights_in(folder)?)?))
    }

    /// The same tower, whose pictures are prepared otherwise.
    ///
    /// # Panics
    /// If that gives another size than the tower takes.
    #[must_use]
    pub fn with_preparation(mut self, preparation: Preparation) -> Self {
        assert_eq!(preparation.size, self.config.image_size, "height and width");
        self.config.preparation = preparation;
        self
    }

    /// Pictures of any size to what the tower takes.
    ///
    /// # Panics
    /// If a picture has no pixels, or there are none.
    pub fn prepare_pictures(&self, images: &[RgbImage], device: &B::Device) -> Tensor<B, 4> {
        self.config.preparation.pictures(images, device)
    }

    /// Images `[batch, 3, height, width]` in 0..1 and of any size to what the tower takes: differentiable, neither rounded nor clipped.
    ///
    /// # Panics
    /// If the images have no pixels.
    pub fn prepare(&self, images: Tensor<B, 4>) -> Tensor<B, 4> {
        self.config.preparation.images(images)
    }

    /// Prepared images `[batch, 3, height, width]` to the states of all tokens and of the images.
    ///
    /// # Panics
    /// If the images are not of the size the tower takes.
    pub fn forward(&self, images: Tensor<B, 4>) -> ImageStates<B> {
        self.traced(images, |_, _| ())
    }

    /// The same; `state` sees the tokens before the first block as 0, and as `i` those after block `i`, counted from 1.
    ///
    /// # Panics
    /// Like [`forward`](Self::forward).
    pub fn traced(
        &self,
        images: Tensor<B, 4>,
        state: impl FnMut(usize, &Tensor<B, 3>),
    ) -> ImageStates<B> {
        let [_, _, height, width] = images.dims();
        let size = self.config.image_size;
        assert_eq!([height, width], size, "height and width of the images");
        let mut x = self.patches.forward(images) + self.position.clone().unsqueeze();
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(x);
        }
        self.pool(self.blocks.forward(x, false, state))
    }

    fn pool(&self, hidden: Tensor<B, 3>) -> ImageStates<B> {
        let after = self.config.norm_after_pooling;
        let x = match after {
            true => hidden.clone(),
            false => self.post_norm.forward(hidden.clone()),
        };
        let patches = x.dims()[1] - 1;
        let class = x.clone().narrow(1, 0, 1);
        let patches = x.narrow(1, 1, patches);
        let pooled = match self.config.pooling {
            ImagePooling::ClassToken => class,
            ImagePooling::Mean => patches.clone().mean_dim(1),
        };
        let pooled = match after {
            true => self.post_norm.forward(pooled),
            false => pooled,
        };
        ImageStates {
            hidden,
            patches,
            pooled: pooled.squeeze_dim(1),
        }
    }

    /// Pooled states `[batch, width]` to the features that are compared with texts' `[batch, projection]`, not normalized; the states
    /// themselves, if there is no projection.
    pub fn feature(&self, pooled: Tensor<B, 2>) -> Tensor<B, 2> {
        match &self.projection {
            Some(projection) => projection.forward(pooled.unsqueeze_dim(1)).squeeze_dim(1),
            None => pooled,
        }
    }

    /// Prepared images `[batch, 3, height, width]` to their features `[batch, dim]`, not normalized.
    ///
    /// # Panics
    /// Like [`forward`](Self::forward).
    pub fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.feature(self.forward(images).pooled)
    }

    /// Values of a feature.
    pub fn dim(&self) -> usize {
        self.config.projection.unwrap_or(self.config.width)
    }

    /// Its sizes.
    pub fn config(&self) -> &ClipImageConfig {
        &self.config
    }
}

/// The file of weights in a directory, or the index of several.
fn weights_in(folder: &Path) -> Result<PathBuf, WeightsError> {
    match folder.join(OPEN_CLIP_CONFIG).is_file() {
        true => find(folder, &OPEN_CLIP),
        false => find(folder, &TRANSFORMERS),
    }
}
