//! The sum of a step over the ranks: its gradients, and its losses.

use super::{Exchange, Pieces, Traffic};
use crate::{error::TrainError, optim::Gradients, sharding::Shares, step::Computed};
use burn::tensor::{Tensor, TensorData};
use microdit::{DitBackend, Precision};
use microdit_data::Batch;
use std::time::Instant;

/// What a rank makes of a batch, or all of them together.
pub(crate) type Trained<B> = (Batch, Computed<B>);

/// The sum of a step, and whether rank 0 will look at the averages after it.
pub(crate) type Summed<B> = (Trained<B>, bool);

/// How a step is summed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summing<'a> {
    pub(crate) exchange: Exchange<'a>,
    /// Which rank adds up which gradient.
    pub(crate) shares: &'a Shares,
    pub(crate) precision: Precision,
    /// Whether a rank is left with the sums of its own gradients, and the norms of all; else with all sums.
    pub(crate) keeps_own: bool,
    /// Whether rank 0 will look at the averages after the step; what other ranks say does not count.
    pub(crate) looks: bool,
}

/// Numbers by which a rank tells the others how it stands before they exchange gradients.
const SAID: usize = 4;

/// Those of them that are the same on all ranks.
const ALIKE: usize = 3;

/// What the first of them says.
const READY: f32 = 0.0;
const ASKED_TO_STOP: f32 = 1.0;
const FAILED: f32 = 2.0;

/// The sum over all ranks of what each made of its share of the batch after `step` finished steps, and whether rank 0 will look at the averages; none
/// if one of them was asked to stop before its own was known.
///
/// # Errors
/// The own failure, a rank that failed, ranks whose batches are not the same, or ranks that are lost.
pub(crate) fn sum<B: DitBackend>(
    summing: &Summing<'_>,
    step: u64,
    own: Result<Option<Trained<B>>, TrainError>,
    traffic: &mut Traffic,
) -> Result<Option<Summed<B>>, TrainError> {
    let Exchange {
        ranks, patience, ..
    } = summing.exchange;
    let world_size = ranks.world_size();
    if world_size == 1 {
        return Ok(own?.map(|trained| (trained, summing.looks)));
    }
    let lost = TrainError::lost(Some(step));
    let (stands, check) = match &own {
        Ok(Some((batch, computed))) => (READY, check(step, batch, computed)),
        Ok(None) => (ASKED_TO_STOP, 0),
        Err(_) => (FAILED, 0),
    };
    // An f32 holds 24 bits of a whole number.
    let halves = [(check >> 16) as f32, (check & 0xffff) as f32];
    let looks = f32::from(u8::from(summing.looks));
    let said = vec![stands, halves[0], halves[1], looks];
    let began = Instant::now();
    let all = ranks.all_gather(said, &vec![SAID; world_size], patience);
    traffic.waited += began.elapsed();
    let own = own?;
    let all = all.map_err(&lost)?;
    let mut said = all.chunks(SAID);
    if let Some(rank) = said.position(|said| said[0] == FAILED) {
        let step = Some(step);
        return Err(TrainError::RankFailed { rank, step });
    }
    let mut said = all.chunks(SAID);
    let (Some((batch, computed)), true) = (own, said.all(|said| said[0] == READY)) else {
        return Ok(None);
    };
    let mut said = all.chunks(SAID);
    if let Some(rank) = said.position(|said| said[..ALIKE] != all[..ALIKE]) {
        let differences = vec![format!(
            "the batch after step {step}: the data that the two read are not the same"
        )];
        return Err(TrainError::RanksDiffer { rank, differences });
    }
    let looks = all[ALIKE] != 0.0;
    let began = Instant::now();
    let computed = exchange(summing, computed, &lost)?;
    traffic.steps += 1;
    traffic.took += began.elapsed();
    Ok(Some(((batch, computed), looks)))
}

/// What the ranks' batches and gradients must have in common.
fn check<B: DitBackend>(step: u64, batch: &Batch, computed: &Computed<B>) -> u32 {
    let mut text = format!("{step}\n{}\n", batch.keys.join("\n"));
    for (name, grad) in computed.grads.iter() {
        text += &format!("{name} {}\n", grad.dims()[0]);
    }
    crc32c::crc32c(text.as_bytes())
}

/// Sums gradients and losses over the ranks. Each adds up the gradients it owns; what the others need of them follows.
fn exchange<B: DitBackend>(
    summing: &Summing<'_>,
    computed: Computed<B>,
    lost: impl Fn(super::Lost) -> TrainError,
) -> Result<Computed<B>, TrainError> {
    let Summing {
        exchange,
        shares,
        precision,
        keeps_own,
        ..
    } = *summing;
    let ranks = exchange.ranks;
    let rank = ranks.rank();
    let Computed {
        losses,
        terms,
        grads,
    } = computed;
    let device = losses.device();
    let (names, tensors) = shares.by_owner(grads.into_iter());
    let sizes: Vec<Vec<usize>> = tensors
        .iter()
        .map(|tensors| tensors.iter().map(|tensor| tensor.dims()[0]).collect())
        .collect();
    let pieces: Vec<Pieces<B>> = tensors.into_iter().map(Pieces::new).collect();
    let sums = exchange.reduce_scatter(&pieces, &sizes[rank], precision);
    drop(pieces);
    let tensor = |numbers: Vec<f32>| {
        let count = numbers.len();
        Tensor::<B, 1>::from_data(TensorData::new(numbers, [count]), &device)
    };
    let own: Vec<Tensor<B, 1>> = sums.map_err(&lost)?.into_iter().map(&tensor).collect();
    // Of every rank: its losses, and where the others will not have them, the squared norms of the gradients it owns.
    let squared = if keeps_own { &own[..] } else { &[] };
    let squares = squared.iter().map(|grad| B::sum_of_squares(grad.clone()));
    let count = losses.dims()[0];
    let told = Tensor::cat([losses].into_iter().chain(squares).collect(), 0);
    let told = told.into_data().convert::<f32>();
    let told = told.into_vec().expect("they were converted to f32");
    let told_of = |names: &Vec<String>| count + if keeps_own { names.len() } else { 0 };
    let parts: Vec<usize> = names.iter().map(told_of).collect();
    let told = ranks.all_gather(told, &parts, exchange.patience);
    let mut told = &told.map_err(&lost)?[..];
    let (mut losses, mut squares) = (vec![0.0; count], Vec::new());
    for (of, names) in names.iter().enumerate() {
        let (part, rest) = told.split_at(parts[of]);
        told = rest;
        for (sum, loss) in losses.iter_mut().zip(part) {
            *sum = if of == 0 { *loss } else { *sum + *loss };
        }
        let of_names = names.iter().cloned().zip(&part[count..]);
        squares.extend(of_names.map(|(name, square)| (name, tensor(vec![*square]))));
    }
    let mut found: Vec<(String, Tensor<B, 1>)> = Vec::new();
    if !keeps_own {
        let others = exchange.all_gather(&Pieces::new(own.clone()), &sizes, |of, i, numbers| {
            found.push((names[of][i].clone(), tensor(numbers)));
        });
        others.map_err(&lost)?;
    }
    found.extend(names[rank].iter().cloned().zip(own));
    let grads = Gradients::from_tensors(found);
    Ok(Computed {
        losses: tensor(losses),
        terms,
        grads: match keeps_own {
            true => grads.with_squares(squares),
            false => grads,
        },
    })
}
