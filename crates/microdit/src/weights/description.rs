//! What a file of weights says about itself: the network, what it was trained with, and for how long.
//!
//! In a safetensors file these are texts of the header's metadata, each in JSON under a key of its own, so that any reader of
//! the format shows them.

use crate::{diffusion::DiffusionConfig, net::NetworkConfig, range::within, task::OneStep};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Display};

/// How the keys begin; others are ignored.
pub(super) const PREFIX: &str = "microdit.";

const VERSION: &str = "microdit.version";
const NETWORK: &str = "microdit.network";
const DIFFUSION: &str = "microdit.diffusion";
const LATENTS: &str = "microdit.latents";
const CAPTIONS: &str = "microdit.captions";
const STEP: &str = "microdit.step";
const RECIPE: &str = "microdit.recipe";
const ONE_STEP: &str = "microdit.one_step";

/// Version of these keys and of their values.
const CURRENT: &str = "1";

/// All that is needed to sample from a network besides its weights. Equal runs give equal descriptions: they hold no time,
/// cost or machine.
///
/// ```
/// use burn::tensor::{DType, TensorData};
/// use microdit::{
///     DitConfig,
///     diffusion::DiffusionConfig,
///     net::NetworkConfig,
///     weights::{CaptionSource, Description, LatentSource, StateDict, WeightsFile},
/// };
///
/// let description = Description {
///     network: Some(NetworkConfig::Dit(DitConfig::tiny_2())),
///     diffusion: DiffusionConfig::default(),
///     latents: LatentSource::Pixels { scale: 0.5 },
///     captions: CaptionSource::HashedWords { tokens: 16 },
///     step: 250,
///     recipe: "0".repeat(64),
///     one_step: None,
/// };
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.safetensors");
/// let state = StateDict::from_tensors([("w".to_owned(), TensorData::from([0.5f32]))]);
/// state.write_safetensors(&path, DType::F32, Some(&description))?;
/// assert_eq!(WeightsFile::open(&path)?.description()?, Some(description));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The network; none for one from outside the library.
    pub network: Option<NetworkConfig>,
    /// The diffusion it was trained with.
    pub diffusion: DiffusionConfig,
    /// How its latents are made of images.
    pub latents: LatentSource,
    /// How its conditioning is made of captions.
    pub captions: CaptionSource,
    /// Steps it was trained for.
    pub step: u64,
    /// SHA-256 of what the recipe says about the weights, in 64 hexadecimal digits.
    pub recipe: String,
    /// Of a student that draws in one step: the noise level at which it does, by the time of its diffusion.
    pub one_step: Option<f64>,
}

/// How images become latents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum LatentSource {
    /// The pixels themselves, from -1..1 times a scale.
    Pixels {
        /// The scale, 0.001 to 1000.
        scale: f32,
    },
    /// By a network, whose own configuration has the latents' scaling factor.
    Encoded {
        /// Its name in the recipe, if any.
        vae: Option<String>,
    },
}

/// How captions become vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum CaptionSource {
    /// One random but fixed vector per word.
    HashedWords {
        /// Words kept, and padded to, 1 to 2^16.
        tokens: usize,
    },
    /// By a network.
    Encoded {
        /// Tokens of a caption, 1 to 2^16.
        tokens: usize,
        /// Its name in the recipe, if any.
        text_encoder: Option<String>,
        /// Whether padding was trimmed off its states, so that zeros stand in its place.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        trimmed: bool,
    },
}

/// A description that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionError {
    /// It is of another version.
    #[error(
        "{VERSION} of its metadata is {found:?}, expected {CURRENT:?}: another version of microdit described it"
    )]
    Version {
        /// The version found.
        found: String,
    },
    /// A part is missing.
    #[error("its metadata has other keys of microdit, but no {0}")]
    Missing(&'static str),
    /// A part is invalid.
    #[error("{key} of its metadata: {message}")]
    Part {
        /// The part's key.
        key: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// Two files of one network describe it differently.
    #[error("its files describe different networks or trainings")]
    Contradiction,
    /// Of two files that are to be merged, one is described differently.
    #[error(
        "it is of another network or diffusion, or was trained with other latents or captions, than the file before it"
    )]
    Unlike,
}

impl Description {
    /// As the metadata has it.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        let network = self
            .network
            .as_ref()
            .map(|network| (NETWORK, json(network)));
        let one_step = self.one_step.map(|time| (ONE_STEP, json(&time)));
        let rest = [
            (VERSION, CURRENT.to_owned()),
            (DIFFUSION, json(&self.diffusion)),
            (LATENTS, json(&self.latents)),
            (CAPTIONS, json(&self.captions)),
            (STEP, json(&self.step)),
            (RECIPE, self.recipe.clone()),
        ];
        let all = network.into_iter().chain(one_step).chain(rest);
        all.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// What metadata say under keys that begin with [`PREFIX`]; none if there are no such keys.
    pub(super) fn read(
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, DescriptionError> {
        if !metadata.keys().any(|key| key.starts_with(PREFIX)) {
            return Ok(None);
        }
        let text = |key| metadata.get(key).ok_or(DescriptionError::Missing(key));
        let version = text(VERSION)?;
        if version != CURRENT {
            let found = version.chars().take(40).collect();
            return Err(DescriptionError::Version { found });
        }
        let network = metadata.contains_key(NETWORK);
        let description = Self {
            network: network.then(|| part(NETWORK, text(NETWORK)?)).transpose()?,
            diffusion: part(DIFFUSION, text(DIFFUSION)?)?,
            latents: part(LATENTS, text(LATENTS)?)?,
            captions: part(CAPTIONS, text(CAPTIONS)?)?,
            step: part(STEP, text(STEP)?)?,
            recipe: text(RECIPE)?.clone(),
            one_step: match metadata.get(ONE_STEP) {
                Some(time) => Some(part(ONE_STEP, time)?),
                None => None,
            },
        };
        description.validate()?;
        Ok(Some(description))
    }

    fn validate(&self) -> Result<(), DescriptionError> {
        if let Some(network) = &self.network {
            network.validate().map_err(wrong(NETWORK))?;
        }
        self.diffusion.validate().map_err(wrong(DIFFUSION))?;
        if let LatentSource::Pixels { scale } = self.latents {
            within("scale", scale, 1e-3..=1e3).map_err(wrong(LATENTS))?;
        }
        let (CaptionSource::HashedWords { tokens } | CaptionSource::Encoded { tokens, .. }) =
            self.captions;
        within("tokens", tokens, 1..=1 << 16).map_err(wrong(CAPTIONS))?;
        if let Some(time) = self.one_step {
            // A time that is no noise level of the family would give NaN for every picture.
            let family = self.diffusion.init().map_err(wrong(DIFFUSION))?;
            within("time", time, OneStep::times(&family)).map_err(wrong(ONE_STEP))?;
        }
        let digits = self.recipe.bytes().all(|byte| byte.is_ascii_hexdigit());
        match digits && self.recipe.len() == 64 {
            true => Ok(()),
            false => Err(wrong(RECIPE)("expected 64 hexadecimal digits")),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("configurations are plain data")
}

fn part<T: DeserializeOwned>(key: &'static str, text: &str) -> Result<T, DescriptionError> {
    serde_json::from_str(text).map_err(wrong(key))
}

fn wrong<E: Display>(key: &'static str) -> impl Fn(E) -> DescriptionError {
    move |error| DescriptionError::Part {
        key,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DitConfig,
        diffusion::{Edm, Vp},
        weights::{StateDict, WeightsFile},
    };
    use burn::tensor::{DType, TensorData};
    use safetensors::SafeTensors;
    use std::{fs, path::Path};

    fn description() -> Description {
        Description {
            network: Some(NetworkConfig::Dit(DitConfig::xl_2())),
            diffusion: DiffusionConfig::Edm(Edm {
                sigma_data: 0.35,
                ..Edm::default()
            }),
            latents: LatentSource::Pixels { scale: 0.1 },
            captions: CaptionSource::HashedWords { tokens: 9 },
            step: 12,
            recipe: "0123456789abcdef".repeat(4),
            one_step: None,
        }
    }

    fn state() -> StateDict {
        let names = (0..20).map(|i| format!("layers.{i}.w"));
        StateDict::from_tensors(names.map(|name| (name, TensorData::from([0.5f32, -2.0]))))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let others = [
            Description {
                network: None,
                diffusion: DiffusionConfig::Vp(Vp::default()),
                latents: LatentSource::Encoded { vae: None },
                captions: CaptionSource::Encoded {
                    tokens: 77,
                    text_encoder: Some("an \"encoder\"\n".into()),
                    trimmed: true,
                },
                step: u64::MAX,
                one_step: Some(999.0),
                ..description()
            },
            description(),
        ];
        for written in others {
            let file = state().write_safetensors(&path, DType::F32, Some(&written));
            file.unwrap();
            let read = WeightsFile::open(&path).unwrap().description().unwrap();
            assert_eq!(read, Some(written));
        }
        state().write_safetensors(&path, DType::F32, None).unwrap();
        let file = WeightsFile::open(&path).unwrap();
        assert_eq!(file.description().unwrap(), None);
    }

    /// A hash map's order differs from map to map: of eight keys, ten files would hardly be equal.
    #[test]
    fn equal_content_is_equal_bytes_that_others_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |i: usize| {
            let path = folder.path().join(i.to_string());
            let written = state().write_safetensors(&path, DType::F16, Some(&description()));
            written.unwrap();
            fs::read(&path).unwrap()
        };
        let bytes = write(0);
        for i in 1..10 {
            assert!(write(i) == bytes, "file {i} differs");
        }
        let (length, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert!((length + 8).is_multiple_of(8));
        let metadata = header.metadata().clone().unwrap();
        assert_eq!((metadata["format"].as_str(), metadata.len()), ("pt", 8));
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), 20);
        let tensor = file.tensor("layers.19.w").unwrap();
        assert_eq!(tensor.data(), [0x00, 0x38, 0x00, 0xc0]);
    }

    /// A file whose header is this text, with one tensor of no values.
    fn forge(path: &Path, metadata: &str) {
        let header = format!(
            r#"{{"__metadata__":{metadata},"w":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}}}"#
        );
        let length = (header.len() as u64).to_le_bytes();
        fs::write(path, [&length[..], header.as_bytes()].concat()).unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_description_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let said = |metadata: &str| {
            forge(&path, metadata);
            let file = WeightsFile::open(&path).and_then(|file| file.description());
            file.map_err(|error| error.to_string())
        };
        let with = |key: &str, value: Option<&str>| {
            let mut metadata = description().metadata();
            metadata.remove(key);
            metadata.extend(value.map(|value| (key.to_owned(), value.to_owned())));
            serde_json::to_string(&metadata).unwrap()
        };
        assert_eq!(said(&with("other", Some("x"))), Ok(Some(description())));
        let foreign = r#"{"format":"pt","n":3,"list":[{"a":1}],"n":4}"#;
        assert_eq!(said(foreign), Ok(None));
        let huge = "9".repeat(1 << 21);
        let deep = "[".repeat(100_000);
        let wide = serde_json::to_string(&DitConfig::xl_2().with_dim(1 << 30)).unwrap();
        for (metadata, part) in [
            ("3", "__metadata__: invalid type"),
            (r#"{"microdit.step":3}"#, "microdit.step: invalid type"),
            (
                r#"{"microdit.step":{"a":[]}}"#,
                "microdit.step: invalid type",
            ),
            (
                r#"{"microdit.step":"3","microdit.step":"3"}"#,
                "microdit.step occurs twice",
            ),
            (r#"{"microdit.step":"3"}"#, "no microdit.version"),
            (
                &format!(r#"{{"microdit.x":"{huge}"}}"#),
                "microdit.x has 2097152 bytes",
            ),
            (
                &with(VERSION, Some("2")),
                r#"microdit.version of its metadata is "2", expected "1""#,
            ),
            (&with(VERSION, None), "no microdit.version"),
            (&with(DIFFUSION, None), "no microdit.diffusion"),
            (
                &with(DIFFUSION, Some("Edm(sigma_data: 0.5)")),
                "microdit.diffusion of its metadata: ",
            ),
            (
                &with(
                    DIFFUSION,
                    Some(r#"{"Edm":{"sigma_data":-1.0,"p_mean":0.0,"p_std":1.0}}"#),
                ),
                "microdit.diffusion of its metadata: sigma_data: must be at least 0.001",
            ),
            (
                &with(NETWORK, Some(r#"{"Transformer":{}}"#)),
                "unknown variant `Transformer`",
            ),
            (
                &with(NETWORK, Some(&deep)),
                "microdit.network of its metadata: ",
            ),
            (
                &with(NETWORK, Some(&format!(r#"{{"Dit":{wide}}}"#))),
                "dim: must be at least 1",
            ),
            (
                &with(LATENTS, Some(r#"{"Pixels":{"scale":0.0}}"#)),
                "scale: must be",
            ),
            (
                &with(CAPTIONS, Some(r#"{"HashedWords":{"tokens":0}}"#)),
                "tokens: must be",
            ),
            (
                &with(STEP, Some(&huge[..100])),
                "microdit.step of its metadata: ",
            ),
            (&with(RECIPE, Some("x")), "expected 64 hexadecimal digits"),
            (
                &with(ONE_STEP, Some("1e9")),
                "microdit.one_step of its metadata: time: must be",
            ),
        ] {
            let error = said(metadata).unwrap_err();
            assert!(
                error.contains(part),
                "no `{part}` in {}",
                &error[..error.len().min(300)]
            );
        }
        let twice = r#"{"__metadata__":{},"__metadata__":{}}"#;
        let length = (twice.len() as u64).to_le_bytes();
        fs::write(&path, [&length[..], twice.as_bytes()].concat()).unwrap();
        let error = WeightsFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("__metadata__ occurs twice"), "{error}");
    }
}
