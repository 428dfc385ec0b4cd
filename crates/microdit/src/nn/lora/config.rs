//! Which layers are adapted, and how adapters begin.

use super::{Adapter, Layer, Lora, layers};
use crate::{
    nn::{
        init::Init,
        params::{Role, Roles},
    },
    ops::DitBackend,
    range::{OutOfRange, above, within},
};
use burn::module::Module;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How the `down` of an adapter begins; `up` begins with zeros, so that a fresh adapter changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoraInit {
    /// Uniform in `+-1 / sqrt(inputs)`, as PyTorch begins a linear layer.
    #[default]
    Uniform,
    /// Normal of standard deviation `1 / rank`.
    Gaussian,
}

/// Which layers of a network are adapted, and by what. The defaults are those of peft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Ends of the paths of layers, in whole names: `to_q` is every layer that is called so, `attn1.to_out.0` those inside an
    /// `attn1`, and `*` stands for any one name, so that `["*"]` is every linear layer and convolution.
    pub layers: Vec<String>,
    /// Of these, the layers whose weights have one of these roles; all of them if empty.
    pub roles: Vec<Role>,
    /// Width of an adapter, 1 to 65536.
    pub rank: usize,
    /// What an adapter adds is multiplied by `alpha / rank`; above 0 and at most 1e6. As large as the rank if absent.
    pub alpha: Option<f64>,
    /// Divides `alpha` by the root of the rank instead (arXiv 2312.03732).
    pub rslora: bool,
    /// How an adapter begins.
    pub init: LoraInit,
    /// Share of a layer's inputs that its adapter does not see in a training step, at least 0 and below 1.
    pub dropout: f64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            layers: vec!["*".into()],
            roles: Vec::new(),
            rank: 8,
            alpha: None,
            rslora: false,
            init: LoraInit::default(),
            dropout: 0.0,
        }
    }
}

/// Adapters that a network cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoraConfigError {
    /// A number is outside of its range.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// A pattern is of no layer.
    #[error(
        "layers: no linear layer and no convolution of the network has a path that ends in `{pattern}`; they end in {}",
        .there.join(", ")
    )]
    NoLayer {
        /// The pattern.
        pattern: String,
        /// Names that layers of the network have.
        there: Vec<String>,
    },
    /// The layers have other roles.
    #[error("roles: none of the layers has the role {wanted:?}; they are {there:?}")]
    NoRole {
        /// The roles that were asked for.
        wanted: Vec<Role>,
        /// The roles they have.
        there: Vec<Role>,
    },
}

impl From<LoraConfigError> for OutOfRange {
    fn from(error: LoraConfigError) -> Self {
        let key = match &error {
            LoraConfigError::OutOfRange(error) => return error.clone(),
            LoraConfigError::NoLayer { .. } => "layers",
            LoraConfigError::NoRole { .. } => "roles",
        };
        let text = error.to_string();
        let rule = text.strip_prefix(key).unwrap_or(&text);
        Self::new(key, rule.trim_start_matches(": "))
    }
}

/// Numbers of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoraSizes {
    /// In the adapters.
    pub adapters: usize,
    /// In the weights they are added to.
    pub adapted: usize,
}

impl LoraConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first field outside of its range.
    pub fn validate(&self) -> Result<(), OutOfRange> {
        within("rank", self.rank, 1..=1 << 16)?;
        if let Some(alpha) = self.alpha {
            within("alpha", alpha, above(0.0, 1e6))?;
        }
        within("dropout", self.dropout, 0.0..1.0)
    }

    /// Fresh adapters of `network`, drawn from `seed` and the paths of their layers.
    ///
    /// # Errors
    /// Numbers outside of their ranges, and patterns or roles that no layer has.
    pub fn init<B: DitBackend, M: Module<B> + Roles>(
        &self,
        network: &M,
        seed: u64,
        device: &B::Device,
    ) -> Result<Lora<B>, LoraConfigError> {
        self.validate()?;
        let init = Init::new(seed, device).at("lora");
        let chosen = self.choose(layers(network))?.into_iter();
        let adapters = chosen.map(|layer| self.adapter(&init.at(&layer.path), layer));
        Ok(Lora {
            adapters: adapters.collect(),
        })
    }

    /// How large the adapters of a network with the layers `all` are.
    ///
    /// # Errors
    /// Patterns or roles that no layer has.
    pub fn sizes(&self, all: Vec<Layer>) -> Result<LoraSizes, LoraConfigError> {
        let mut sizes = LoraSizes::default();
        for layer in self.choose(all)? {
            let inputs: usize = layer.shape[1..].iter().product();
            sizes.adapters += self.rank * (inputs + layer.shape[0]);
            sizes.adapted += inputs * layer.shape[0];
        }
        Ok(sizes)
    }

    /// The layers that are adapted.
    fn choose(&self, all: Vec<Layer>) -> Result<Vec<Layer>, LoraConfigError> {
        for pattern in &self.layers {
            if !all.iter().any(|layer| ends_in(&layer.path, pattern)) {
                let there: BTreeSet<String> = all.iter().map(|layer| end(&layer.path)).collect();
                return Err(LoraConfigError::NoLayer {
                    pattern: pattern.clone(),
                    there: there.into_iter().collect(),
                });
            }
        }
        let named = |layer: &Layer| self.layers.iter().any(|end| ends_in(&layer.path, end));
        let named: Vec<Layer> = all.into_iter().filter(named).collect();
        let right = |role: Role| self.roles.is_empty() || self.roles.contains(&role);
        let mut there: Vec<Role> = named.iter().map(|layer| layer.role).collect();
        let chosen: Vec<Layer> = named
            .into_iter()
            .filter(|layer| right(layer.role))
            .collect();
        if chosen.is_empty() {
            there.dedup();
            return Err(LoraConfigError::NoRole {
                wanted: self.roles.clone(),
                there,
            });
        }
        Ok(chosen)
    }

    fn adapter<B: DitBackend>(&self, init: &Init<'_, B>, layer: Layer) -> Adapter<B> {
        let inputs: usize = layer.shape[1..].iter().product();
        let (rank, outputs) = (self.rank, layer.shape[0]);
        let begin = init.at("down");
        let down = match self.init {
            LoraInit::Uniform => begin.uniform([rank, inputs], (inputs as f64).powf(-0.5)),
            LoraInit::Gaussian => begin.truncated_normal([rank, inputs], 1.0 / rank as f64),
        };
        let up = init.at("up").constant([outputs, rank], 0.0);
        let alpha = self.alpha.unwrap_or(rank as f64);
        Adapter {
            dropout: self.dropout,
            ..Adapter::new(layer, down, up, alpha, self.rslora)
        }
    }
}

/// Whether the last names of `path` are those of `pattern`.
fn ends_in(path: &str, pattern: &str) -> bool {
    let (names, wanted) = (path.rsplit('.'), pattern.rsplit('.'));
    let mut names = names.map(Some).chain(std::iter::repeat(None));
    wanted
        .zip(&mut names)
        .all(|(wanted, name)| name.is_some_and(|name| wanted == "*" || wanted == name))
}

/// The last name of a path that says something: places in lists are shown with what they are in.
fn end(path: &str) -> String {
    let is_place = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let names: Vec<&str> = path.split('.').collect();
    let last = names.iter().rposition(|name| !is_place(name));
    names[last.unwrap_or_default()..].join(".")
}
