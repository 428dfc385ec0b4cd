//! The configurations that CLIP's image tower is published with: open_clip's and transformers'.

use super::{
    clip_image::{ClipImageConfig, ImagePooling},
    preparation::{Corner, Fit, Preparation},
};
use crate::transformer::activation_named;
use microdit::{ops::Activation, picture::Filter};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Map, Value};

/// `open_clip_config.json`.
#[derive(Deserialize)]
struct OpenClip {
    model_cfg: Model,
    #[serde(default)]
    preprocess_cfg: Preprocess,
}

#[derive(Deserialize)]
struct Model {
    embed_dim: usize,
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: Vision,
}

/// What a `vision_cfg` leaves out is as in open_clip's `CLIPVisionCfg`.
#[derive(Deserialize)]
#[serde(default)]
struct Vision {
    layers: Layers,
    width: usize,
    head_width: usize,
    mlp_ratio: f64,
    patch_size: Sides,
    image_size: Sides,
    ls_init_value: Option<f64>,
    no_ln_pre: bool,
    final_ln_after_pool: bool,
    pool_type: String,
    act_kwargs: Option<Map<String, Value>>,
    norm_kwargs: Option<Map<String, Value>>,
    /// Keys of towers of other kinds.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Default for Vision {
    fn default() -> Self {
        Self {
            layers: Layers::Blocks(12),
            width: 768,
            head_width: 64,
            mlp_ratio: 4.0,
            patch_size: Sides::Square(16),
            image_size: Sides::Square(224),
            ls_init_value: None,
            no_ln_pre: false,
            final_ln_after_pool: false,
            pool_type: "tok".into(),
            act_kwargs: None,
            norm_kwargs: None,
            rest: Map::new(),
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    Blocks(usize),
    /// Of a residual network's stages.
    Stages(IgnoredAny),
}

/// One number, or height and width.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Sides {
    Square(usize),
    Both([usize; 2]),
}

impl Sides {
    fn both(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side; 2],
            Self::Both(sides) => sides,
        }
    }
}

/// What a `preprocess_cfg` leaves out is as in open_clip's `PreprocessCfg`.
#[derive(Deserialize)]
#[serde(default)]
struct Preprocess {
    size: Option<Sides>,
    mean: [f64; 3],
    std: [f64; 3],
    interpolation: String,
    resize_mode: String,
    fill_color: Value,
}

impl Default for Preprocess {
    fn default() -> Self {
        let [mean, std] = Preparation::CLIP;
        Self {
            size: None,
            mean,
            std,
            interpolation: "bicubic".into(),
            resize_mode: "shortest".into(),
            fill_color: Value::from(0),
        }
    }
}

/// The vision part of transformers' `config.json`; what it leaves out is as in `CLIPVisionConfig`.
#[derive(Deserialize)]
#[serde(default)]
struct Transformers {
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    projection_dim: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
}

impl Default for Transformers {
    fn default() -> Self {
        Self {
            architectures: Vec::new(),
            hidden_size: 768,
            intermediate_size: 3072,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
        }
    }
}

/// `preprocessor_config.json`; what it leaves out is as in transformers' `CLIPImageProcessor`.
#[derive(Deserialize)]
#[serde(default)]
struct Preprocessor {
    do_resize: bool,
    size: Size,
    resample: u64,
    do_center_crop: bool,
    crop_size: Size,
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for Preprocessor {
    fn default() -> Self {
        let [image_mean, image_std] = Preparation::CLIP;
        Self {
            do_resize: true,
            size: Size::Shorter { shortest_edge: 224 },
            resample: 3,
            do_center_crop: true,
            crop_size: Size::Number(224),
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean,
            image_std,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Number(usize),
    Shorter { shortest_edge: usize },
    Both { height: usize, width: usize },
}

fn read<T: DeserializeOwned>(json: &Value) -> Result<T, String> {
    T::deserialize(json).map_err(|error| error.to_string())
}

impl ClipImageConfig {
    /// As open_clip's `open_clip_config.json` says it.
    ///
    /// # Errors
    /// Missing keys, values of the wrong type, and towers of another kind: residual networks, those of timm, attention as pooling.
    pub fn from_open_clip(json: &Value) -> Result<Self, String> {
        let OpenClip {
            model_cfg,
            preprocess_cfg,
        } = read(json)?;
        let vision = model_cfg.vision_cfg;
        let of_another_kind = |what: &str| Err(format!("{what}, which is not supported"));
        let Layers::Blocks(layers) = vision.layers else {
            return of_another_kind("vision_cfg.layers lists the stages of a residual network");
        };
        const OTHERS: [&str; 8] = [
            "timm_model_name",
            "attentional_pool",
            "qk_norm",
            "scaled_cosine_attn",
            "scale_heads",
            "scale_attn_inner",
            "scale_attn",
            "scale_fc",
        ];
        let is_set = |key: &&&str| {
            let value = vision.rest.get(**key).unwrap_or(&Value::Null);
            ![Value::Null, Value::from(false), Value::from("")].contains(value)
        };
        if let Some(key) = OTHERS.iter().find(is_set) {
            return of_another_kind(&format!("vision_cfg.{key} is set"));
        }
        let pooling = match vision.pool_type.as_str() {
            "tok" => ImagePooling::ClassToken,
            "avg" => ImagePooling::Mean,
            other => {
                return of_another_kind(&format!("vision_cfg.pool_type is `{other}`"));
            }
        };
        let option = |options: &Option<Map<String, Value>>, known: &str| match options {
            Some(options) => match options.keys().find(|key| *key != known) {
                Some(key) => Err(format!("vision_cfg has an unknown option {key}")),
                None => Ok(options.get(known).cloned()),
            },
            None => Ok(None),
        };
        let tanh = option(&vision.act_kwargs, "approximate")?;
        let activation = match (model_cfg.quick_gelu, tanh.as_ref().and_then(Value::as_str)) {
            (true, _) => Activation::QuickGelu,
            (false, Some("tanh")) => Activation::GeluTanh,
            (false, _) => Activation::Gelu,
        };
        let eps = option(&vision.norm_kwargs, "eps")?;
        let image_size = vision.image_size.both();
        Ok(Self {
            channels: 3,
            image_size,
            patch_size: vision.patch_size.both(),
            width: vision.width,
            heads: vision.width.checked_div(vision.head_width).unwrap_or(0),
            layers,
            hidden: (vision.width as f64 * vision.mlp_ratio) as usize,
            projection: Some(model_cfg.embed_dim),
            activation,
            eps: eps.as_ref().and_then(Value::as_f64).unwrap_or(1e-5),
            pre_norm: !vision.no_ln_pre,
            layer_scale: vision.ls_init_value.is_some(),
            pooling,
            norm_after_pooling: vision.final_ln_after_pool,
            preparation: preprocess_cfg.preparation(image_size)?,
        })
    }

    /// As transformers' `config.json` says it, of both towers or of this one, and its `preprocessor_config.json`; without that, pictures
    /// are prepared as for OpenAI's models.
    ///
    /// # Errors
    /// Values of the wrong type, activations and resizings that are not known.
    pub fn from_transformers(config: &Value, preprocessor: Option<&Value>) -> Result<Self, String> {
        let both_towers = config.get("vision_config");
        let vision: Transformers = read(both_towers.unwrap_or(config))?;
        let shared = config.get("projection_dim").and_then(Value::as_u64);
        let projects = both_towers.is_some()
            || vision.architectures.is_empty()
            || vision
                .architectures
                .iter()
                .any(|name| name.ends_with("WithProjection"));
        let projection = match both_towers {
            Some(_) => shared.map_or(vision.projection_dim, |dim| dim as usize),
            None => vision.projection_dim,
        };
        let image_size = [vision.image_size; 2];
        let preprocessor = match preprocessor {
            Some(json) => read(json)?,
            None => Preprocessor {
                size: Size::Shorter {
                    shortest_edge: vision.image_size,
                },
                crop_size: Size::Number(vision.image_size),
                ..Preprocessor::default()
            },
        };
        Ok(Self {
            channels: vision.num_channels,
            image_size,
            patch_size: [vision.patch_size; 2],
            width: vision.hidden_size,
            heads: vision.num_attention_heads,
            layers: vision.num_hidden_layers,
            hidden: vision.intermediate_size,
            projection: projects.then_some(projection),
            activation: activation_named(&vision.hidden_act)?,
            eps: vision.layer_norm_eps,
            pre_norm: true,
            layer_scale: false,
            pooling: ImagePooling::ClassToken,
            norm_after_pooling: false,
            preparation: preprocessor.preparation(image_size)?,
        })
    }
}

impl Preprocess {
    fn preparation(&self, image_size: [usize; 2]) -> Result<Preparation, String> {
        let size = self.size.map_or(image_size, Sides::both);
        let fit = match self.resize_mode.as_str() {
            "shortest" if size[0] == size[1] => Fit::Shorter(size[0]),
            "shortest" => Fit::Cover(size),
            "longest" => Fit::Within(size),
            "squash" => Fit::Squash(size),
            other => {
                let known = "shortest, longest or squash";
                return Err(format!("resize_mode is `{other}`; expected {known}"));
            }
        };
        if self.fill_color != 0 && matches!(fit, Fit::Within(_)) {
            return Err(format!("fill_color is {}; expected 0", self.fill_color));
        }
        let filter = match self.interpolation.as_str() {
            "bicubic" => Filter::Bicubic,
            "bilinear" => Filter::Bilinear,
            other => {
                return Err(format!(
                    "interpolation is `{other}`; expected bicubic or bilinear"
                ));
            }
        };
        Ok(Preparation {
            fit,
            filter,
            size,
            corner: Corner::Even,
            factor: 1.0 / 255.0,
            mean: self.mean,
            std: self.std,
        })
    }
}

impl Preprocessor {
    fn preparation(&self, image_size: [usize; 2]) -> Result<Preparation, String> {
        let fit = match self.size {
            _ if !self.do_resize => Fit::Keep,
            Size::Number(side)
            | Size::Shorter {
                shortest_edge: side,
            } => Fit::Shorter(side),
            Size::Both { height, width } => Fit::Squash([height, width]),
        };
        let filter = match self.resample {
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            5 => Filter::Hamming,
            other => {
                return Err(format!(
                    "resample is {other}; expected 1 to 5, Pillow's number of an antialiased kernel"
                ));
            }
        };
        let size = match (self.do_center_crop, self.crop_size) {
            (true, Size::Number(side)) => [side; 2],
            (true, Size::Both { height, width }) => [height, width],
            (true, Size::Shorter { shortest_edge }) => [shortest_edge; 2],
            (false, _) => match fit {
                Fit::Squash(size) => size,
                _ => image_size,
            },
        };
        Ok(Preparation {
            fit,
            filter,
            size,
            corner: Corner::Before,
            factor: match self.do_rescale {
                true => self.rescale_factor,
                false => 1.0,
            },
            mean: match self.do_normalize {
                true => self.image_mean,
                false => [0.0; 3],
            },
            std: match self.do_normalize {
                true => self.image_std,
                false => [1.0; 3],
            },
        })
    }
}
