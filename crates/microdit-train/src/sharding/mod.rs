//! The optimizer's state in shares (ZeRO, arXiv 1910.02054, stage 1): every rank, and in it every device, keeps the moments and averages of its
//! own parameters, and updates those.
//!
//! Of an average, a rank has the tensors it owns; in place of the others stands a single zero. Whoever needs the whole of it
//! [gathers](Sharding::average) it with all ranks.

mod shares;
mod state;

pub(crate) use shares::Shares;

use crate::{
    checkpoint::is_frozen,
    collective::{Exchange, Lost, Pieces},
    optim::{FIRST, MOMENTUM, Optimizers, SECOND, Slots},
};
use burn::{
    module::{AutodiffModule, Module, Param},
    tensor::{
        Tensor, TensorData,
        backend::{AutodiffBackend, Backend},
    },
};
use microdit::{
    DitBackend,
    nn::params::{self, MapParams, Roles, VisitParams},
    task::Task,
    weights::StateDict,
};
use std::collections::BTreeMap;

/// Parameters by their paths, flattened.
type Tensors<B> = BTreeMap<String, Tensor<B, 1>>;

/// Which part of a stage's state is whose.
#[derive(Clone, Debug)]
pub(crate) struct Sharding<B: Backend> {
    /// By ranks.
    ranks: Shares,
    /// Of this rank's, by its devices.
    of_devices: Shares,
    devices: Vec<B::Device>,
    rank: usize,
}

impl<B: DitBackend> Sharding<B> {
    /// The shares in the parameters of `module`, for the devices of rank `rank`, where ranks share as `ranks` says.
    pub(crate) fn new<AB: Backend>(
        module: &impl Module<AB>,
        ranks: Shares,
        rank: usize,
        devices: &[B::Device],
    ) -> Self {
        let is_own = |path: &str| ranks.owner(path) == Some(rank);
        Self {
            of_devices: Shares::of_some(module, devices.len(), is_own),
            ranks,
            devices: devices.to_vec(),
            rank,
        }
    }

    /// Whether the parameter at `path` is this rank's.
    pub(crate) fn owns(&self, path: &str) -> bool {
        self.ranks.owner(path) == Some(self.rank)
    }

    /// The shares of the ranks.
    pub(crate) fn ranks(&self) -> &Shares {
        &self.ranks
    }

    /// Where what belongs to the parameter at `path` is kept, if it is this rank's.
    fn device(&self, path: &str) -> Option<&B::Device> {
        self.of_devices
            .owner(path)
            .map(|device| &self.devices[device])
    }

    /// The tensor where what belongs to its parameter is kept.
    pub(crate) fn place(&self, path: &str, tensor: Tensor<B, 1>) -> Tensor<B, 1> {
        match self.device(path) {
            Some(device) => tensor.to_device(device),
            None => tensor,
        }
    }

    /// What this rank keeps of a module.
    pub(crate) fn kept<M: Module<B>>(&self, module: M) -> M {
        struct Keep<'a, B: Backend>(&'a Sharding<B>);
        impl<B: DitBackend> MapParams<B> for Keep<'_, B> {
            fn map<const D: usize>(
                &mut self,
                path: &[&str],
                param: Param<Tensor<B, D>>,
            ) -> Param<Tensor<B, D>> {
                let device = self.0.device(&path.join("."));
                param.map(|tensor| match device {
                    Some(device) => tensor.to_device(device),
                    None => Tensor::zeros([1; D], &tensor.device()),
                })
            }
        }
        params::map(module, &mut Keep(self))
    }

    /// This rank's tensors of a module, as they are saved.
    pub(crate) fn own_tensors(&self, module: &impl Module<B>) -> StateDict {
        struct Collect<'a, B: Backend>(&'a Sharding<B>, BTreeMap<String, TensorData>);
        impl<B: DitBackend> VisitParams<B> for Collect<'_, B> {
            fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
                let path = path.join(".");
                if self.0.owns(&path) {
                    self.1.insert(path, param.val().into_data());
                }
            }
        }
        StateDict::from_tensors(params::visit(module, Collect(self, BTreeMap::new())).1)
    }

    /// The weights of all ranks, each of which has taken a step with its own of the parameters called `names`, the same on all ranks.
    pub(crate) fn weights<AB, M>(
        &self,
        exchange: &Exchange<'_>,
        module: M,
        names: &[String],
    ) -> Result<M, Lost>
    where
        AB: AutodiffBackend<InnerBackend = B>,
        M: AutodiffModule<AB>,
    {
        struct Fill<B: Backend>(Tensors<B>);
        impl<AB: AutodiffBackend> MapParams<AB> for Fill<AB::InnerBackend> {
            fn map<const D: usize>(
                &mut self,
                path: &[&str],
                param: Param<Tensor<AB, D>>,
            ) -> Param<Tensor<AB, D>> {
                let Some(new) = self.0.remove(&path.join(".")) else {
                    return param;
                };
                param.map(|old| Tensor::from_inner(new.reshape(old.shape())).require_grad())
            }
        }
        if exchange.ranks.world_size() == 1 {
            return Ok(module);
        }
        let mut all: Tensors<B> = flattened(&module.valid());
        all.retain(|path, _| names.binary_search(path).is_ok());
        let sizes = all
            .iter()
            .map(|(path, tensor)| (path.clone(), tensor.dims()[0]));
        let sizes = sizes.collect();
        let others = self.gather(exchange, &all, sizes)?;
        drop(all);
        Ok(params::map::<AB, _>(module, &mut Fill(others)))
    }

    /// The whole average on the first device, of what every rank keeps of it; `like` is the task it is an average of, which has what is frozen.
    pub(crate) fn average<M: Task<B>>(
        &self,
        exchange: &Exchange<'_>,
        like: M,
        kept: &M,
    ) -> Result<M, Lost> {
        struct Fill<'a, B: Backend>(Tensors<B>, &'a B::Device);
        impl<B: Backend> MapParams<B> for Fill<'_, B> {
            fn map<const D: usize>(
                &mut self,
                path: &[&str],
                param: Param<Tensor<B, D>>,
            ) -> Param<Tensor<B, D>> {
                let Some(new) = self.0.remove(&path.join(".")) else {
                    return param;
                };
                let new = new.to_device(self.1);
                param.map(|old| new.reshape(old.shape()))
            }
        }
        let is_moved = |path: &str| !is_frozen(&like, path);
        let sizes = flattened(&like).into_iter();
        let sizes = sizes
            .filter(|(path, _)| is_moved(path))
            .map(|(path, tensor)| (path, tensor.dims()[0]))
            .collect();
        let mut all: Tensors<B> = flattened(kept);
        all.retain(|path, _| self.owns(path) && is_moved(path));
        let others = self.gather(exchange, &all, sizes)?;
        all.extend(others);
        Ok(params::map(like, &mut Fill(all, &self.devices[0])))
    }

    /// The slots of all ranks.
    fn slots<M: Module<B> + Roles>(
        &self,
        exchange: &Exchange<'_>,
        configs: &Optimizers,
        module: &M,
        own: &BTreeMap<String, Slots<B>>,
    ) -> Result<BTreeMap<String, Slots<B>>, Lost> {
        let kept = configs.kept(module);
        // Those of parameters that had a gradient, which their owners know.
        let (names, _) = self
            .ranks
            .by_owner(kept.keys().map(|path| (path.clone(), ())));
        let flags = names[self.rank].iter();
        let flags = flags.map(|path| f32::from(u8::from(own.contains_key(path))));
        let parts: Vec<usize> = names.iter().map(Vec::len).collect();
        let flags = exchange
            .ranks
            .all_gather(flags.collect(), &parts, exchange.patience)?;
        let there = names.concat().into_iter().zip(flags);
        let there: Vec<String> = there
            .filter_map(|(path, flag)| (flag != 0.0).then_some(path))
            .collect();
        let mut all = own.clone();
        for slot in [FIRST, SECOND, MOMENTUM] {
            let sized = there
                .iter()
                .filter(|path| kept[*path].slots.contains(&slot));
            let sizes = sized.map(|path| (path.clone(), kept[path].size)).collect();
            let of_slot = own.iter().filter_map(|(path, slots)| {
                let tensor = slots.get(slot)?;
                Some((path.clone(), tensor.clone()))
            });
            for (path, tensor) in self.gather(exchange, &of_slot.collect(), sizes)? {
                all.entry(path).or_default().insert(slot, tensor);
            }
        }
        for tensor in all.values_mut().flat_map(BTreeMap::values_mut) {
            *tensor = tensor.clone().to_device(&self.devices[0]);
        }
        Ok(all)
    }

    /// The tensors of the other ranks, on the first device, of the parameters with these sizes, where every rank has its `own`.
    fn gather(
        &self,
        exchange: &Exchange<'_>,
        own: &Tensors<B>,
        sizes: BTreeMap<String, usize>,
    ) -> Result<Tensors<B>, Lost> {
        let (names, sizes) = self.ranks.by_owner(sizes.into_iter());
        let pieces = names[self.rank].iter().map(|path| own[path].clone());
        let pieces = Pieces::new(pieces.collect());
        let mut others = Tensors::new();
        if exchange.ranks.world_size() > 1 {
            exchange.all_gather(&pieces, &sizes, |of, i, numbers| {
                let data = TensorData::new(numbers, [sizes[of][i]]);
                let tensor = Tensor::from_data(data, &self.devices[0]);
                others.insert(names[of][i].clone(), tensor);
            })?;
        }
        Ok(others)
    }
}

/// The parameters of a module.
fn flattened<B: Backend>(module: &impl Module<B>) -> Tensors<B> {
    struct Collect<B: Backend>(Tensors<B>);
    impl<B: Backend> VisitParams<B> for Collect<B> {
        fn visit<const D: usize>(&mut self, path: &[&str], param: &Param<Tensor<B, D>>) {
            let count = param.shape().num_elements();
            self.0.insert(path.join("."), param.val().reshape([count]));
        }
    }
    params::visit(module, Collect(Tensors::new())).0
}
