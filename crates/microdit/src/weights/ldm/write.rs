//! Networks under diffusers' names as a single file of latent diffusion.

use super::{
    LdmPart, OPEN_CLIP, StateDict, TRANSFORMERS, TextNames, Tower, UNET, VAE, WeightsError,
    modules::Side, text::STACKED, unet, vae,
};
use burn::tensor::TensorData;
use std::collections::BTreeMap;

/// The state dict of a single file of the networks in `parts`, whose tensors have diffusers' names; the text encoder's are named as
/// `text` says.
///
/// # Errors
/// Tensors that latent diffusion has no names for.
pub fn to_ldm(
    parts: impl IntoIterator<Item = (LdmPart, StateDict)>,
    text: TextNames,
) -> Result<StateDict, WeightsError> {
    let mut all = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut stacks: BTreeMap<String, BTreeMap<usize, TensorData>> = BTreeMap::new();
    for (part, state) in parts {
        let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
        let unet = unet::modules(&names, Side::Diffusers);
        let vae = vae::modules(&names, Side::Diffusers);
        let tower = Tower::of(&names, Side::Diffusers);
        for (name, data) in state.iter() {
            let renamed = match (part, text) {
                (LdmPart::UNet, _) => {
                    let name = unet.translate(name, Side::Diffusers);
                    name.map(|name| (format!("{}{name}", UNET[0]), None))
                }
                (LdmPart::Vae, _) => {
                    let name = vae.translate(name, Side::Diffusers);
                    name.map(|name| (format!("{VAE}{name}"), None))
                }
                (LdmPart::TextEncoder, TextNames::Transformers) => {
                    Some((format!("{TRANSFORMERS}{name}"), None))
                }
                (LdmPart::TextEncoder, TextNames::OpenClip) => {
                    let name = tower.to_ldm(name);
                    name.map(|(name, index)| (format!("{OPEN_CLIP}{name}"), index))
                }
            };
            match renamed {
                None => unknown.push(name.clone()),
                Some((stack, Some(index))) => {
                    stacks.entry(stack).or_default().insert(index, data.clone());
                }
                Some((renamed, None)) => {
                    let data = match (part, &data.shape[..]) {
                        (LdmPart::Vae, &[rows, columns]) if vae::is_pixel_matrix(name) => {
                            TensorData {
                                shape: [rows, columns, 1, 1].into(),
                                ..data.clone()
                            }
                        }
                        _ => data.clone(),
                    };
                    all.insert(renamed, data);
                }
            }
        }
    }
    for (name, stack) in stacks {
        match stacked(&stack) {
            Some(data) => drop(all.insert(name, data)),
            None => unknown.push(name),
        }
    }
    if unknown.is_empty() {
        return Ok(StateDict::from_tensors(all));
    }
    Err(WeightsError::Mismatch {
        origin: "a single file of latent diffusion".into(),
        missing: Vec::new(),
        surplus: unknown,
        misshapen: Vec::new(),
    })
}

/// Queries, keys and values, one below the other.
fn stacked(parts: &BTreeMap<usize, TensorData>) -> Option<TensorData> {
    let first = parts.get(&0)?;
    if parts.len() != STACKED.len() || parts.values().any(|part| part.shape != first.shape) {
        return None;
    }
    let mut shape = first.shape.to_vec();
    *shape.first_mut()? *= STACKED.len();
    let values: Vec<f32> = parts.values().flat_map(|part| part.iter::<f32>()).collect();
    Some(TensorData::new(values, shape))
}
