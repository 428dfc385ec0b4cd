//! Weighted sums of the weights of networks of the same sizes.

use super::{
    Description, DescriptionError, StateDict, WeightsError, WeightsFile, listed, names::BUFFERS,
};
use burn::tensor::TensorData;
use std::{fmt, path::Path};

/// The sum of `share` times the weights of each file, tensor by tensor and in f64: with shares `lambda` and `1 - lambda` the
/// interpolation between two networks. What the reference keeps beside its parameters is the first file's, and so is the
/// description, if files have one. `progress` is told how many tensors are done, and of how many.
///
/// ```
/// use burn::tensor::{DType, TensorData};
/// use microdit::weights::{StateDict, merge};
///
/// let folder = tempfile::tempdir()?;
/// let write = |name: &str, value: f32| {
///     let path = folder.path().join(name);
///     let state = StateDict::from_tensors([("w".to_owned(), TensorData::from([value, 1.0]))]);
///     state.write_safetensors(&path, DType::F32, None).map(|()| path)
/// };
/// let files = [(write("a", 4.0)?, 0.25), (write("b", 8.0)?, 0.75)];
/// let files: Vec<_> = files.iter().map(|(path, share)| (path.as_path(), *share)).collect();
/// let (merged, _) = merge(&files, |_, _| ())?;
/// assert_eq!(merged.get("w"), Some(&TensorData::from([7.0f32, 1.0])));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Unreadable files, files of different networks, and descriptions that contradict each other in more than the training's length.
///
/// # Panics
/// If there are no files.
pub fn merge(
    files: &[(&Path, f64)],
    mut progress: impl FnMut(u64, u64),
) -> Result<(StateDict, Option<Description>), WeightsError> {
    let mut open = Vec::new();
    for (path, share) in files {
        open.push((*path, WeightsFile::open(path)?, *share));
    }
    let (first, others) = open.split_first_mut().expect("files to merge");
    for (path, other, _) in &*others {
        is_like(first.0, &first.1, path, other)?;
    }
    let description = description(first.0, &first.1, others)?;
    let names: Vec<String> = first.1.names().map(str::to_owned).collect();
    let (mut tensors, mut buffers) = (Vec::new(), Vec::new());
    for (i, name) in names.iter().enumerate() {
        let own = first.1.read(name)?.expect("it has the name");
        if BUFFERS.contains(&name.as_str()) {
            buffers.push((name.clone(), own));
            continue;
        }
        let mut sum: Vec<f64> = own.iter::<f64>().map(|value| first.2 * value).collect();
        for (_, other, share) in &mut *others {
            let data = other.read(name)?.expect("it has the same names");
            for (sum, value) in sum.iter_mut().zip(data.iter::<f64>()) {
                *sum += *share * value;
            }
        }
        let values: Vec<f32> = sum.into_iter().map(|value| value as f32).collect();
        tensors.push((name.clone(), TensorData::new(values, own.shape)));
        progress(i as u64 + 1, names.len() as u64);
    }
    let merged = StateDict::from_tensors(tensors).with_buffers(buffers);
    Ok((merged, description))
}

/// How a file differs from the first of those that are to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlike {
    /// The file.
    pub origin: String,
    /// The first file.
    pub first: String,
    /// Tensors of the first file this one does not have.
    pub missing: Vec<String>,
    /// Tensors of this file the first one does not have.
    pub surplus: Vec<String>,
    /// Name, shape in the first file, shape in this one.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl fmt::Display for Unlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "{} is of another network than {}: {} tensors missing, {} surplus, {} of another shape",
            self.origin,
            self.first,
            self.missing.len(),
            self.surplus.len(),
            self.misshapen.len()
        );
        let text = listed(text, &self.missing, &self.surplus, &self.misshapen);
        f.write_str(&text)
    }
}

/// Checks that two files have tensors of the same names and shapes.
fn is_like(
    first_path: &Path,
    first: &WeightsFile,
    path: &Path,
    other: &WeightsFile,
) -> Result<(), WeightsError> {
    let without = |of: &WeightsFile, there: &WeightsFile| -> Vec<String> {
        let names = of.names().filter(|name| !there.contains(name));
        names.map(str::to_owned).collect()
    };
    let shapes = first.names().filter(|name| other.contains(name));
    let shapes = shapes.filter_map(|name| {
        let (own, there) = (first.shape(name)?, other.shape(name)?);
        (own != there).then(|| (name.to_owned(), own, there))
    });
    let misshapen: Vec<_> = shapes.collect();
    let (missing, surplus) = (without(first, other), without(other, first));
    match missing.is_empty() && surplus.is_empty() && misshapen.is_empty() {
        true => Ok(()),
        false => Err(WeightsError::Unlike(Box::new(Unlike {
            origin: path.display().to_string(),
            first: first_path.display().to_string(),
            missing,
            surplus,
            misshapen,
        }))),
    }
}

/// What the first file that is described says, if the others do not contradict it.
fn description(
    path: &Path,
    first: &WeightsFile,
    others: &[(&Path, WeightsFile, f64)],
) -> Result<Option<Description>, WeightsError> {
    let mut known: Option<Description> = None;
    let others = others.iter().map(|(path, file, _)| (*path, file));
    for (path, file) in [(path, first)].into_iter().chain(others) {
        let Some(own) = file.description()? else {
            continue;
        };
        let Some(known) = &known else {
            known = Some(own);
            continue;
        };
        let alike = Description {
            step: known.step,
            recipe: known.recipe.clone(),
            ..own
        };
        if alike != *known {
            return Err(WeightsError::Description {
                path: path.to_owned(),
                error: DescriptionError::Unlike,
            });
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{DiffusionConfig, Edm};
    use crate::weights::{CaptionSource, LatentSource};
    use burn::tensor::DType;

    fn described(sigma_data: f64, step: u64) -> Description {
        Description {
            network: None,
            diffusion: DiffusionConfig::Edm(Edm {
                sigma_data,
                ..Edm::default()
            }),
            latents: LatentSource::Pixels { scale: 0.5 },
            captions: CaptionSource::HashedWords { tokens: 9 },
            step,
            recipe: "0".repeat(64),
            one_step: None,
        }
    }

    #[test]
    fn only_networks_of_one_kind_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, tensors: &[(&str, [f32; 2])], description: &Description| {
            let tensors = tensors.iter();
            let tensors = tensors.map(|(name, data)| ((*name).to_owned(), TensorData::from(*data)));
            let path = folder.path().join(name);
            let state = StateDict::from_tensors(tensors);
            state
                .write_safetensors(&path, DType::F32, Some(description))
                .unwrap();
            path
        };
        let (own, later, other) = (described(0.5, 3), described(0.5, 7), described(0.4, 3));
        let a = write("a", &[("w", [1.0, 2.0]), ("mask_token", [9.0, 9.0])], &own);
        let b = write(
            "b",
            &[("w", [3.0, -2.0]), ("mask_token", [1.0, 1.0])],
            &later,
        );
        let c = write("c", &[("v", [3.0, -2.0]), ("mask_token", [1.0, 1.0])], &own);
        let d = write(
            "d",
            &[("w", [3.0, -2.0]), ("mask_token", [1.0, 1.0])],
            &other,
        );
        let merged =
            |files: &[(&Path, f64)]| merge(files, |_, _| ()).map_err(|error| error.to_string());
        // Extrapolation is welcome, and three files are.
        let (state, said) = merged(&[(&a, 2.0), (&b, -0.5), (&a, -0.5)]).unwrap();
        assert_eq!(state.get("w"), Some(&TensorData::from([0.0f32, 4.0])));
        assert_eq!((said, state.buffers()), (Some(own), 1));
        let error = merged(&[(&a, 0.5), (&c, 0.5)]).unwrap_err();
        for part in [
            "c is of another network than",
            "missing    w",
            "surplus    v",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let error = merged(&[(&a, 0.5), (&d, 0.5)]).unwrap_err();
        assert!(
            error.contains("d: ") && error.contains("another network or"),
            "{error}"
        );
    }
}
