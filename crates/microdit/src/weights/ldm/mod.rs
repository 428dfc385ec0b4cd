//! Single files of latent diffusion, as its authors' program writes them: which of their tensors is which parameter of the networks
//! inside, under diffusers' names.
//!
//! Such a file holds a U-Net (`model.diffusion_model.*`), perhaps a second time as the average over its training (`model_ema.*`,
//! where all dots are taken out of a name), an autoencoder (`first_stage_model.*`), a text encoder (`cond_stage_model.*`, named by
//! transformers in version 1 and by open_clip in version 2) and the diffusion's tables.

mod modules;
#[cfg(test)]
mod tests;
mod text;
mod unet;
mod vae;
mod write;

pub use write::to_ldm;

use super::{StateDict, WeightsError, WeightsFile, file::Form};
use modules::Side;
use std::collections::BTreeMap;
use text::Tower;

/// Beginnings of the U-Net's names; the second where a wrapper was taken off.
const UNET: [&str; 2] = ["model.diffusion_model.", "diffusion_model."];
const AVERAGE: &str = "model_ema.";
const VAE: &str = "first_stage_model.";
const TRANSFORMERS: &str = "cond_stage_model.transformer.";
const OPEN_CLIP: &str = "cond_stage_model.model.";

/// What an average's names begin with besides [`AVERAGE`].
const FLAT: &str = "diffusion_model";

/// The average's own numbers, which stay in files without the average.
const COUNTERS: [&str; 2] = ["model_ema.decay", "model_ema.num_updates"];

/// The diffusion's tables.
const TABLES: [&str; 13] = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
];

/// Unknown tensors that are named.
const MOST_NAMED: usize = 10;

/// One of the networks of latent diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LdmPart {
    /// The network that denoises.
    UNet,
    /// The network between images and latents.
    Vae,
    /// The network that reads captions.
    TextEncoder,
}

/// Which of the U-Net's weights are meant, where a file has two sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightSet {
    /// Those that stand under the network's own name: as trained or, in files called EMA-only, their average.
    #[default]
    Own,
    /// Their average over the training, which stands beside them.
    Average,
}

/// Who named the text encoder's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextNames {
    /// transformers: version 1.
    Transformers,
    /// open_clip: version 2, which uses the states before the last block.
    OpenClip,
}

/// What a tensor of a file is.
#[derive(Debug)]
enum Role {
    /// The parameters of a network that it is, each of which is a part of it.
    Parameters(LdmPart, Vec<(String, Form)>),
    /// The average of the tensor of this name.
    Average(String),
    /// A count of the average's.
    Counter,
    /// A table of the diffusion's, which is computed here.
    Table,
    /// Positions from 0 on, which transformers kept as a tensor once.
    Positions,
    /// Of the text encoder, behind the states that are used.
    Unused,
    /// None of latent diffusion's.
    Unknown,
}

/// The names in a single file of latent diffusion.
///
/// ```
/// use burn::tensor::{DType, TensorData};
/// use microdit::weights::{LdmNames, LdmPart, StateDict, WeightSet, WeightsFile};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("model.safetensors");
/// let names = ["model.diffusion_model.time_embed.0.bias", "first_stage_model.quant_conv.bias"];
/// let tensors = names.map(|name| (name.to_owned(), TensorData::from([0.5f32])));
/// StateDict::from_tensors(tensors).write_safetensors(&path, DType::F32, None)?;
///
/// let file = WeightsFile::open(&path)?;
/// let names = LdmNames::of(&file).expect("a file of latent diffusion");
/// let unet = names.part(file, LdmPart::UNet, WeightSet::Own)?;
/// assert_eq!(unet.names().collect::<Vec<_>>(), ["time_embedding.linear_1.bias"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LdmNames {
    roles: BTreeMap<String, Role>,
    text: Option<TextNames>,
}

impl LdmNames {
    /// The names in `file`, if it is one of latent diffusion.
    pub fn of(file: &WeightsFile) -> Option<Self> {
        let names: Vec<&str> = file.names().collect();
        let under = |prefix: &str| {
            names
                .iter()
                .filter_map(|name| name.strip_prefix(prefix))
                .collect::<Vec<&str>>()
        };
        let prefix = UNET.into_iter().find(|prefix| !under(prefix).is_empty());
        let unet = prefix.map_or_else(Vec::new, under);
        let vae = under(VAE);
        let open_clip = under(OPEN_CLIP);
        let text = match (open_clip.is_empty(), under(TRANSFORMERS).is_empty()) {
            (false, _) => Some(TextNames::OpenClip),
            (true, false) => Some(TextNames::Transformers),
            (true, true) => None,
        };
        if unet.is_empty() && vae.is_empty() && text.is_none() {
            return None;
        }
        let unet_modules = unet::modules(&unet, Side::Ldm);
        let vae_modules = vae::modules(&vae, Side::Ldm);
        let tower = Tower::of(&open_clip, Side::Ldm);
        let prefix = prefix.unwrap_or(UNET[0]);
        // What the averages are called.
        let flat: BTreeMap<String, &str> = unet
            .iter()
            .map(|name| (format!("{AVERAGE}{FLAT}{}", name.replace('.', "")), *name))
            .collect();
        let role = |name: &str| -> Role {
            let of = |part, name: Option<(String, Form)>| {
                name.map_or(Role::Unknown, |name| Role::Parameters(part, vec![name]))
            };
            if let Some(name) = name.strip_prefix(prefix) {
                let name = unet_modules.translate(name, Side::Ldm);
                return of(LdmPart::UNet, name.map(|name| (name, Form::Whole)));
            }
            if let Some(name) = name.strip_prefix(VAE) {
                let form = |name: String| match vae::is_pixel_matrix(&name) {
                    true => (name, Form::Matrix),
                    false => (name, Form::Whole),
                };
                let name = vae_modules.translate(name, Side::Ldm);
                return of(LdmPart::Vae, name.map(form));
            }
            if name.starts_with("cond_stage_model.") && name.ends_with(".position_ids") {
                return Role::Positions;
            }
            if let Some(name) = name.strip_prefix(TRANSFORMERS) {
                // Some programs take the tower's own prefix off.
                let name = match name.starts_with("text_model.") {
                    true => name.to_owned(),
                    false => format!("text_model.{name}"),
                };
                return of(LdmPart::TextEncoder, Some((name, Form::Whole)));
            }
            if let Some(name) = name.strip_prefix(OPEN_CLIP) {
                let parameters = tower.to_diffusers(name);
                return match (tower.is_unused(name), parameters.is_empty()) {
                    (true, _) => Role::Unused,
                    (false, true) => Role::Unknown,
                    (false, false) => Role::Parameters(LdmPart::TextEncoder, parameters),
                };
            }
            match name {
                _ if COUNTERS.contains(&name) => Role::Counter,
                _ if TABLES.contains(&name) => Role::Table,
                _ => match flat.get(name) {
                    Some(own) => Role::Average(format!("{prefix}{own}")),
                    None => Role::Unknown,
                },
            }
        };
        let roles = names.iter().map(|name| ((*name).to_owned(), role(name)));
        Some(Self {
            roles: roles.collect(),
            text,
        })
    }

    /// Who named the text encoder's parameters; none if there is no text encoder.
    pub fn text(&self) -> Option<TextNames> {
        self.text
    }

    /// Whether the file holds a network.
    pub fn has(&self, part: LdmPart) -> bool {
        let mut roles = self.roles.values();
        roles.any(|role| matches!(role, Role::Parameters(own, _) if *own == part))
    }

    /// Whether the file holds the U-Net's weights a second time, as their average.
    pub fn has_average(&self) -> bool {
        let mut roles = self.roles.values();
        roles.any(|role| matches!(role, Role::Average(_)))
    }

    /// The parameters of a network that a tensor of the file is, in diffusers' names, and the set they belong to; none for a
    /// tensor that is in no network.
    pub fn parameters(&self, tensor: &str) -> Option<(LdmPart, WeightSet, Vec<&str>)> {
        let (tensor, set) = match self.roles.get(tensor)? {
            Role::Average(own) => (own.as_str(), WeightSet::Average),
            _ => (tensor, WeightSet::Own),
        };
        let Role::Parameters(part, parameters) = self.roles.get(tensor)? else {
            return None;
        };
        let names = parameters.iter().map(|(name, _)| name.as_str());
        Some((*part, set, names.collect()))
    }

    /// The tensors of one network in `file`, which these are the names of, under diffusers' names; of a U-Net, those of `set`.
    ///
    /// # Errors
    /// An average that lacks a tensor the network has, or is not there at all.
    pub fn part(
        &self,
        file: WeightsFile,
        part: LdmPart,
        set: WeightSet,
    ) -> Result<WeightsFile, WeightsError> {
        let averages = self.averages(&file, part, set)?;
        let parameters = self.roles.iter().filter_map(|(name, role)| match role {
            Role::Parameters(own, parameters) if *own == part => Some((name, parameters)),
            _ => None,
        });
        let view = parameters.flat_map(|(name, parameters)| {
            let stored = averages.get(name).unwrap_or(name);
            let named = |(own, form): &(String, Form)| (own.clone(), (stored.clone(), *form));
            parameters.iter().map(named)
        });
        let view: Vec<_> = view.collect();
        Ok(file.view(view))
    }

    /// All of `file`, which these are the names of, under the names it has, but with one set of the U-Net's weights, which stands
    /// under the network's own name: what is called pruned.
    ///
    /// # Errors
    /// As [`part`](Self::part).
    pub fn pruned(&self, file: WeightsFile, set: WeightSet) -> Result<WeightsFile, WeightsError> {
        let averages = self.averages(&file, LdmPart::UNet, set)?;
        let kept = self
            .roles
            .iter()
            .filter(|(_, role)| !matches!(role, Role::Average(_)));
        let view = kept.map(|(name, _)| {
            let stored = averages.get(name).unwrap_or(name);
            (name.clone(), (stored.clone(), Form::Whole))
        });
        let view: Vec<_> = view.collect();
        Ok(file.view(view))
    }

    /// Of each tensor of the U-Net, that of the average; nothing if that is not asked for.
    fn averages(
        &self,
        file: &WeightsFile,
        part: LdmPart,
        set: WeightSet,
    ) -> Result<BTreeMap<String, String>, WeightsError> {
        if (part, set) != (LdmPart::UNet, WeightSet::Average) {
            return Ok(BTreeMap::new());
        }
        let averages: BTreeMap<String, String> = self
            .roles
            .iter()
            .filter_map(|(name, role)| match role {
                Role::Average(own) => Some((own.clone(), name.clone())),
                _ => None,
            })
            .collect();
        let origin = file.origin();
        if averages.is_empty() {
            let message = "it holds the weights of its network once, without an average beside them; perhaps they are the average themselves, as in files called EMA-only";
            return Err(super::format_error(origin, message));
        }
        let own = self.roles.iter().filter_map(|(name, role)| match role {
            Role::Parameters(LdmPart::UNet, _) => Some(name),
            _ => None,
        });
        let lacking: Vec<String> = own
            .filter(|name| !averages.contains_key(*name))
            .cloned()
            .collect();
        match lacking.is_empty() {
            true => Ok(averages),
            false => Err(WeightsError::Mismatch {
                origin: format!("the average in {}", origin.display()),
                missing: lacking,
                surplus: Vec::new(),
                misshapen: Vec::new(),
            }),
        }
    }

    /// What is in none of the networks, in words, where of the U-Net `set` is taken.
    pub fn left_out(&self, set: WeightSet) -> Vec<String> {
        let count = |is: fn(&Role) -> bool| self.roles.values().filter(|role| is(role)).count();
        let other = match set {
            WeightSet::Own => count(|role| matches!(role, Role::Average(_))),
            WeightSet::Average => count(|role| matches!(role, Role::Parameters(LdmPart::UNet, _))),
        };
        let other_name = match set {
            WeightSet::Own => "the average of the U-Net's weights",
            WeightSet::Average => "the U-Net's weights as trained",
        };
        let two_sets = self.has_average();
        let groups = [
            (if two_sets { other } else { 0 }, other_name),
            (
                count(|role| matches!(role, Role::Counter)),
                "counts of an average",
            ),
            (
                count(|role| matches!(role, Role::Table)),
                "tables of the diffusion, which are computed",
            ),
            (
                count(|role| matches!(role, Role::Positions)),
                "positions of tokens, which are counted",
            ),
            (
                count(|role| matches!(role, Role::Unused)),
                "what follows the states that are used of the text encoder",
            ),
        ];
        let mut said: Vec<String> = groups
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what} ({count} tensors)"))
            .collect();
        let unknown: Vec<&str> = self.unknown().collect();
        if !unknown.is_empty() {
            let shown = unknown
                .iter()
                .take(MOST_NAMED)
                .copied()
                .collect::<Vec<_>>()
                .join(", ");
            let more = unknown.len().saturating_sub(MOST_NAMED);
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            said.push(format!(
                "tensors that are none of latent diffusion's: {shown}{more}"
            ));
        }
        said
    }

    /// Tensors that latent diffusion has no names for.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        let unknown = self
            .roles
            .iter()
            .filter(|(_, role)| matches!(role, Role::Unknown));
        unknown.map(|(name, _)| name.as_str())
    }
}
