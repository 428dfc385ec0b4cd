//! Sums over the ranks, gradient by gradient: each rank adds up those it owns, and what the others need of them follows.

use super::{Lost, Pieces, Summing};
use crate::{optim::Gradients, step::Computed};
use burn::tensor::{Tensor, TensorData};
use microdit::DitBackend;
use std::collections::BTreeMap;

/// The sums of a step so far.
#[derive(Debug)]
pub(super) struct Sums<'a, B: DitBackend> {
    summing: Summing<'a>,
    /// Names and sizes of all, by owner.
    sizes: Vec<BTreeMap<String, usize>>,
    /// Those this rank owns.
    own: BTreeMap<String, Tensor<B, 1>>,
}

impl<'a, B: DitBackend> Sums<'a, B> {
    pub(super) fn new(summing: Summing<'a>) -> Self {
        Self {
            summing,
            sizes: vec![BTreeMap::new(); summing.exchange.ranks.world_size()],
            own: BTreeMap::new(),
        }
    }

    /// Sums gradients, the same of all ranks; what there is already of one is added to.
    pub(super) fn add(
        &mut self,
        grads: impl Iterator<Item = (String, Tensor<B, 1>)>,
    ) -> Result<(), Lost> {
        let Summing {
            exchange,
            shares,
            precision,
            ..
        } = self.summing;
        let rank = exchange.ranks.rank();
        let (names, tensors) = shares.by_owner(grads);
        let Some(device) = tensors.iter().flatten().map(Tensor::device).next() else {
            return Ok(());
        };
        for (sizes, (names, tensors)) in self.sizes.iter_mut().zip(names.iter().zip(&tensors)) {
            let counts = tensors.iter().map(|tensor| tensor.dims()[0]);
            sizes.extend(names.iter().cloned().zip(counts));
        }
        let own: Vec<usize> = tensors[rank].iter().map(|own| own.dims()[0]).collect();
        let pieces: Vec<Pieces<B>> = tensors.into_iter().map(Pieces::new).collect();
        let sums = exchange.reduce_scatter(&pieces, &own, precision)?;
        for (name, sum) in names[rank].iter().zip(sums) {
            let sum = tensor(sum, &device);
            let sum = match self.own.remove(name) {
                Some(before) => before + sum,
                None => sum,
            };
            self.own.insert(name.clone(), sum);
        }
        Ok(())
    }

    /// The step's result on all ranks, whose losses are `losses`.
    pub(super) fn finish(
        self,
        losses: Tensor<B, 1>,
        terms: Vec<&'static str>,
    ) -> Result<Computed<B>, Lost> {
        let Self {
            summing:
                Summing {
                    exchange,
                    keeps_own,
                    ..
                },
            sizes,
            own,
        } = self;
        let device = losses.device();
        // Of every rank: its losses, and where the others will not have them, the squared norms of the gradients it owns.
        let squared = own.values().filter(|_| keeps_own);
        let squares = squared.map(|grad| B::sum_of_squares(grad.clone()));
        let count = losses.dims()[0];
        let told = Tensor::cat([losses].into_iter().chain(squares).collect(), 0);
        let told = told.into_data().convert::<f32>();
        let told = told.into_vec().expect("they were converted to f32");
        let parts = sizes.iter().map(|sizes| match keeps_own {
            true => count + sizes.len(),
            false => count,
        });
        let parts: Vec<usize> = parts.collect();
        let told = exchange.ranks.all_gather(told, &parts, exchange.patience)?;
        let mut told = &told[..];
        let (mut losses, mut squares) = (vec![0.0; count], Vec::new());
        for (of, sizes) in sizes.iter().enumerate() {
            let (part, rest) = told.split_at(parts[of]);
            told = rest;
            for (sum, loss) in losses.iter_mut().zip(part) {
                *sum = if of == 0 { *loss } else { *sum + *loss };
            }
            let of_names = sizes.keys().cloned().zip(&part[count..]);
            squares.extend(of_names.map(|(name, square)| (name, tensor(vec![*square], &device))));
        }
        let mut found: Vec<(String, Tensor<B, 1>)> = Vec::new();
        if !keeps_own {
            let names: Vec<Vec<&String>> = sizes.iter().map(|of| of.keys().collect()).collect();
            let counts: Vec<Vec<usize>> = sizes
                .iter()
                .map(|of| of.values().copied().collect())
                .collect();
            let pieces = Pieces::new(own.values().cloned().collect());
            exchange.all_gather(&pieces, &counts, |of, i, numbers| {
                found.push((names[of][i].clone(), tensor(numbers, &device)));
            })?;
        }
        found.extend(own);
        let grads = Gradients::from_tensors(found);
        Ok(Computed {
            losses: tensor(losses, &device),
            terms,
            grads: match keeps_own {
                true => grads.with_squares(squares),
                false => grads,
            },
        })
    }
}

fn tensor<B: DitBackend>(numbers: Vec<f32>, device: &B::Device) -> Tensor<B, 1> {
    let count = numbers.len();
    Tensor::from_data(TensorData::new(numbers, [count]), device)
}
