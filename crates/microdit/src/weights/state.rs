//! A state dict in memory.

use super::{
    Description, WeightsError, WeightsFile, format_error,
    names::{BUFFERS, of_network},
    reference_name, safetensors,
};
use crate::nn::params::{self, MapParams, VisitParams};
use burn::{
    module::{Module, Param},
    tensor::{DType, Tensor, TensorData, backend::Backend},
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Tensors by name, without the reference's buffers. A module's are named by their paths in it; [`into_reference`](Self::into_reference)
/// gives them the names other programs know, and both are [loaded](Self::load_into).
///
/// ```
/// use burn::tensor::DType;
/// use burn_flex::Flex;
/// use microdit::{DitConfig, weights::StateDict};
///
/// let config = DitConfig::tiny_2().with_dim(32).with_depth(2).with_head_dim(16).with_multiple_of(16)
///     .with_mixer(None).with_moe(None);
/// let device = Default::default();
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("weights.safetensors");
/// let trained = config.init::<Flex>(0, &device)?;
/// StateDict::from_module(&trained).write_safetensors(&path, DType::BF16, None)?;
/// let loaded = StateDict::read(&path)?.load_into(config.init::<Flex>(1, &device)?, &device)?;
/// assert_eq!(StateDict::from_module(&loaded).len(), StateDict::from_module(&trained).len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct StateDict {
    /// Several names may share one.
    tensors: BTreeMap<String, Arc<TensorData>>,
    /// What PyTorch's strict loading expects beside the parameters.
    buffers: BTreeMap<String, Arc<TensorData>>,
    origin: String,
}

impl StateDict {
    /// A state dict of the given tensors.
    pub fn from_tensors(tensors: impl IntoIterator<Item = (String, TensorData)>) -> Self {
        Self {
            tensors: shared(tensors).collect(),
            buffers: BTreeMap::new(),
            origin: "the state dict".into(),
        }
    }

    /// The float parameters of a module, by their paths in it.
    pub fn from_module<B: Backend, M: Module<B>>(module: &M) -> Self {
        struct Collect(BTreeMap<String, TensorData>);
        impl<B: Backend> VisitParams<B> for Collect {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
                self.0.insert(path.join("."), param.val().into_data());
            }
        }
        Self::from_tensors(params::visit(module, Collect(BTreeMap::new())).0)
    }

    /// Reads a file of weights as f32: safetensors, or the index of several, or a PyTorch file with one state dict in it, or a
    /// training checkpoint that keeps the network under `state.model` with prefix `dit.`. The content tells which it is.
    ///
    /// # Errors
    /// An unreadable, damaged or foreign file, and tensors of a type f32 does not hold.
    pub fn read(path: &Path) -> Result<Self, WeightsError> {
        Self::take(WeightsFile::open(path)?, path)
    }

    /// Reads all of a file that is open already; `origin` is what errors call it.
    ///
    /// # Errors
    /// A damaged file, and tensors of a type f32 does not hold.
    pub fn take(mut file: WeightsFile, origin: &Path) -> Result<Self, WeightsError> {
        let mut tensors = file.read_all()?;
        let mut buffers = BTreeMap::new();
        for name in BUFFERS {
            buffers.extend(tensors.remove_entry(name));
        }
        Ok(Self {
            tensors,
            buffers,
            origin: origin.display().to_string(),
        })
    }

    /// Adds buffers, which are written and never loaded: PyTorch's strict loading expects the reference's `pos_embed` and
    /// `mask_token`.
    #[must_use]
    pub fn with_buffers(mut self, buffers: impl IntoIterator<Item = (String, TensorData)>) -> Self {
        self.buffers.extend(shared(buffers));
        self
    }

    /// The same with these tensors in types of whole numbers, in which they are written as well.
    #[must_use]
    pub fn with_types(mut self, types: impl IntoIterator<Item = (String, DType)>) -> Self {
        for (name, dtype) in types {
            if let Some(data) = self.tensors.get_mut(&name) {
                *data = Arc::new((**data).clone().convert_dtype(dtype));
            }
        }
        self
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Names and tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &TensorData)> {
        self.tensors.iter().map(|(name, data)| (name, &**data))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorData> {
        self.tensors.get(name).map(|data| &**data)
    }

    /// Number of tensors that are written beside the parameters.
    pub fn buffers(&self) -> usize {
        self.buffers.len()
    }

    /// Checks that every value is a finite number.
    ///
    /// # Errors
    /// [`WeightsError::Value`] with the first that is not.
    pub fn check_finite(&self) -> Result<(), WeightsError> {
        let mut all = self.tensors.iter().chain(&self.buffers);
        all.try_for_each(|(name, data)| WeightsError::unless_finite(&self.origin, name, data))
    }

    /// The same tensors as the reference names them: what a file for other programs holds.
    #[must_use]
    pub fn into_reference(mut self) -> Self {
        let renamed = |(name, data): (String, _)| (reference_name(&name), data);
        self.tensors = self.tensors.into_iter().map(renamed).collect();
        self
    }

    /// Whether the tensors are those of a task, whose network is the part called `denoiser`.
    pub fn is_of_task(&self) -> bool {
        let mut names = self.tensors.keys();
        names.any(|name| of_network(name).is_some())
    }

    /// Of a task's tensors, those of its network; other tensors as they are.
    #[must_use]
    pub fn denoiser(mut self) -> Self {
        if self.is_of_task() {
            let tensors = self.tensors.into_iter();
            let own = |(name, data): (String, _)| Some((of_network(&name)?.to_owned(), data));
            self.tensors = tensors.filter_map(own).collect();
        }
        self
    }

    /// These tensors and those of `other`, which takes precedence.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.tensors.extend(other.tensors);
        self.buffers.extend(other.buffers);
        self
    }

    /// The tensors of a network, which have the reference's names, under the paths of the network that is part `part` of `module`. Those
    /// that it does not have keep their names.
    #[must_use]
    pub fn named_for<B: Backend, M: Module<B>>(mut self, module: &M, part: &str) -> Self {
        struct Collect(Vec<String>);
        impl<B: Backend> VisitParams<B> for Collect {
            fn visit<const D: usize>(&mut self, path: &[&str], _: &Param<Tensor<B, D>>) {
                self.0.push(path.join("."));
            }
        }
        let prefix = format!("{part}.");
        for path in params::visit(module, Collect(Vec::new())).0 {
            let Some(own) = path.strip_prefix(&prefix) else {
                continue;
            };
            if let Some(data) = self.tensors.remove(&reference_name(own)) {
                self.tensors.insert(path, data);
            }
        }
        self
    }

    /// The tensors whose names `is_kept` accepts, and all buffers.
    #[must_use]
    pub fn only(mut self, is_kept: impl Fn(&str) -> bool) -> Self {
        self.tensors.retain(|name, _| is_kept(name));
        self
    }

    /// Puts the tensors into a module, whose parameters keep their ids and their float type. They are named by the module's
    /// paths or by the reference.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with every missing, surplus and misshapen tensor; [`WeightsError::Value`] with the first value
    /// that is not finite.
    pub fn load_into<B: Backend, M: Module<B>>(
        self,
        module: M,
        device: &B::Device,
    ) -> Result<M, WeightsError> {
        self.load_part_into(module, device, |_| true)
    }

    /// The same for a part of the module: the parameters whose paths `is_part` accepts. The others stay as they are.
    ///
    /// # Errors
    /// As [`load_into`](Self::load_into).
    pub fn load_part_into<B: Backend, M: Module<B>>(
        mut self,
        module: M,
        device: &B::Device,
        is_part: impl Fn(&str) -> bool,
    ) -> Result<M, WeightsError> {
        struct Load<'a, B: Backend> {
            is_part: &'a dyn Fn(&str) -> bool,
            tensors: &'a mut BTreeMap<String, Arc<TensorData>>,
            origin: &'a str,
            device: &'a B::Device,
            by_path: bool,
            unusable: Option<WeightsError>,
            missing: Vec<String>,
            misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
        }
        impl<B: Backend> MapParams<B> for Load<'_, B> {
            fn map<const D: usize>(
                &mut self,
                path: &[&str],
                param: Param<Tensor<B, D>>,
            ) -> Param<Tensor<B, D>> {
                let path = path.join(".");
                if !(self.is_part)(&path) {
                    return param;
                }
                let name = match self.by_path {
                    true => path,
                    false => reference_name(&path),
                };
                let Some(data) = self.tensors.remove(&name) else {
                    self.missing.push(name);
                    return param;
                };
                let expected = param.shape();
                if data.shape.as_slice() != expected.as_slice() {
                    self.misshapen
                        .push((name, expected.to_vec(), data.shape.to_vec()));
                    return param;
                }
                if let Err(error) = WeightsError::unless_finite(self.origin, &name, &data) {
                    self.unusable.get_or_insert(error);
                    return param;
                }
                let data = Arc::unwrap_or_clone(data);
                let required = param.is_require_grad();
                param.map(|old| {
                    Tensor::from_data(data, (self.device, old.dtype())).set_require_grad(required)
                })
            }
        }
        let by_path = self.is_named_like(&module);
        let mut load = Load::<B> {
            is_part: &is_part,
            tensors: &mut self.tensors,
            origin: &self.origin,
            device,
            by_path,
            unusable: None,
            missing: Vec::new(),
            misshapen: Vec::new(),
        };
        let module = params::map(module, &mut load);
        let (missing, misshapen) = (load.missing, load.misshapen);
        if let Some(error) = load.unusable {
            return Err(error);
        }
        let surplus: Vec<String> = self.tensors.into_keys().collect();
        if missing.is_empty() && misshapen.is_empty() && surplus.is_empty() {
            return Ok(module);
        }
        Err(WeightsError::Mismatch {
            origin: self.origin,
            missing,
            surplus,
            misshapen,
        })
    }

    /// Whether a tensor has the path of a parameter where the reference has another name for it.
    fn is_named_like<B: Backend, M: Module<B>>(&self, module: &M) -> bool {
        struct Find<'a>(&'a StateDict, bool);
        impl<B: Backend> VisitParams<B> for Find<'_> {
            fn visit<const D: usize>(&mut self, path: &[&str], _: &Param<Tensor<B, D>>) {
                let name = path.join(".");
                self.1 |= name != reference_name(&name) && self.0.tensors.contains_key(&name);
            }
        }
        params::visit(module, Find(self, false)).1
    }

    /// Writes a safetensors file of float type `dtype`, whole or not at all, with `description` in its metadata.
    /// The same tensors and description are the same bytes.
    ///
    /// # Errors
    /// If the file cannot be written, a buffer has the name of a parameter, or a value is beyond the range of `dtype`.
    pub fn write_safetensors(
        &self,
        path: &Path,
        dtype: DType,
        description: Option<&Description>,
    ) -> Result<(), WeightsError> {
        if let Some(name) = self
            .buffers
            .keys()
            .find(|name| self.tensors.contains_key(*name))
        {
            let message = format!("`{name}` is both a parameter and a buffer");
            return Err(format_error(path, &message));
        }
        let all = self.tensors.iter().chain(&self.buffers);
        let all = all.map(|(name, data)| (name.as_str(), &**data));
        let metadata = description.map(Description::metadata).unwrap_or_default();
        safetensors::write(path, dtype, all.collect(), metadata)
    }
}

fn shared(
    tensors: impl IntoIterator<Item = (String, TensorData)>,
) -> impl Iterator<Item = (String, Arc<TensorData>)> {
    tensors
        .into_iter()
        .map(|(name, data)| (name, Arc::new(data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dit, DitConfig, MixerConfig, WidthScale};
    use burn_flex::Flex;

    fn small() -> DitConfig {
        DitConfig::tiny_2()
            .with_input_size(8)
            .with_dim(16)
            .with_depth(3)
            .with_head_dim(8)
            .with_multiple_of(8)
            .with_caption_channels(6)
            .with_qkv_width(WidthScale::Constant(1.0))
            .with_mixer(Some(MixerConfig {
                dim: 8,
                depth: 2,
                qkv_ratio: 1.0,
                mlp_ratio: 2.0,
            }))
    }

    fn network(seed: u64) -> Dit<Flex> {
        small().init(seed, &Default::default()).unwrap()
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        // Half a unit in the last place, relative; f16 has subnormals below 2^-14, spaced by 2^-24.
        let subnormal = 2f32.powi(-25);
        for (dtype, tolerance, floor) in [
            (DType::F32, 0.0, 0.0),
            (DType::F16, 1e-3, subnormal),
            (DType::BF16, 8e-3, 0.0),
        ] {
            let path = folder.path().join("w.safetensors");
            let written = StateDict::from_module(&network(1));
            written.write_safetensors(&path, dtype, None).unwrap();
            let loaded = StateDict::read(&path)
                .unwrap()
                .load_into(network(2), &Default::default())
                .unwrap();
            let loaded = StateDict::from_module(&loaded);
            for (name, data) in &written.tensors {
                for (a, b) in data
                    .iter::<f32>()
                    .zip(loaded.get(name).unwrap().iter::<f32>())
                {
                    assert!(
                        (a - b).abs() <= tolerance * a.abs() + floor,
                        "{name} {dtype:?}: {a} became {b}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_misfit_is_listed_at_once() {
        let mut state = StateDict::from_module(&network(0));
        let moved = state.tensors.remove("blocks.0.norm1.weight").unwrap();
        state.tensors.insert("blocks.9.norm1.weight".into(), moved);
        state.tensors.insert(
            "final_layer.linear.bias".into(),
            TensorData::zeros::<f32, _>([5]).into(),
        );
        let message = state
            .load_into(network(0), &Default::default())
            .unwrap_err()
            .to_string();
        for part in [
            "missing    blocks.0.norm1.weight",
            "surplus    blocks.9.norm1.weight",
            "final_layer.linear.bias: expected [16], found [5]",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn values_beyond_a_type_and_values_that_are_no_numbers_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let state = |values: [f32; 3]| {
            StateDict::from_tensors([("a.w".to_owned(), TensorData::from(values))])
        };
        for (value, dtype, kept) in [
            (65504.0, DType::F16, true),
            (65519.0, DType::F16, true),
            (65520.0, DType::F16, false),
            (-7e4, DType::F16, false),
            (7e4, DType::BF16, true),
            (3.4e38, DType::BF16, false),
            (f32::MAX, DType::F32, true),
            // What is infinite already does not become so.
            (f32::INFINITY, DType::F16, true),
        ] {
            let written = state([0.0, 1.0, value]).write_safetensors(&path, dtype, None);
            assert_eq!(written.is_ok(), kept, "{value} as {dtype:?}");
            if let Err(error) = written {
                let error = error.to_string();
                assert!(error.contains("a.w: value 2 is "), "{error}");
            }
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let state = state([0.0, value, 0.0]);
            let error = state.check_finite().unwrap_err().to_string();
            assert!(error.contains("a.w: value 1 is "), "{error}");
        }
        let mut state = StateDict::from_module(&network(0));
        let name = "blocks.0.norm1.weight";
        let sides = state.get(name).unwrap().shape.clone();
        let data = TensorData::full::<f32, _>(sides, f32::NAN);
        state.tensors.insert(name.into(), data.into());
        let error = state.load_into(network(1), &Default::default());
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("{name}: value 0 is NaN")),
            "{error}"
        );
    }

    #[test]
    fn damaged_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        for bytes in [
            &b"short"[..],
            &u64::MAX.to_le_bytes(),
            &[0; 64],
            b"\x10\0\0\0\0\0\0\0{\"a\":1}         ",
        ] {
            std::fs::write(&path, bytes).unwrap();
            assert!(StateDict::read(&path).is_err());
        }
        let path = folder.path().join("w.pt");
        std::fs::write(&path, b"no pickle").unwrap();
        assert!(StateDict::read(&path).is_err());
    }
}
