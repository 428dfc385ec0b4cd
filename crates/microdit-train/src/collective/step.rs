//! The sum of a step over the ranks: its gradients, and its losses.

use super::{Collective, Patience};
use crate::{error::TrainError, optim::Gradients, step::Computed};
use burn::tensor::{Tensor, TensorData};
use microdit::DitBackend;
use microdit_data::Batch;
use std::time::{Duration, Instant};

/// What a rank makes of a batch, or all of them together.
pub(crate) type Trained<B> = (Batch, Computed<B>);

/// Numbers by which a rank tells the others how it stands before they exchange gradients.
const SAID: usize = 3;

/// What the first of them says.
const READY: f32 = 0.0;
const ASKED_TO_STOP: f32 = 1.0;
const FAILED: f32 = 2.0;

/// The sum over all ranks of what each made of its share of the batch after `step` finished steps; none if one of them was asked to
/// stop before its own was known.
///
/// # Errors
/// The own failure, a rank that failed, ranks whose batches are not the same, or ranks that are lost.
pub(crate) fn sum<B: DitBackend>(
    ranks: &dyn Collective,
    patience: &Patience<'_>,
    step: u64,
    own: Result<Option<Trained<B>>, TrainError>,
    traffic: &mut Traffic,
) -> Result<Option<Trained<B>>, TrainError> {
    let world_size = ranks.world_size();
    if world_size == 1 {
        return own;
    }
    let lost = TrainError::lost(Some(step));
    let (stands, check) = match &own {
        Ok(Some((batch, computed))) => (READY, check(step, batch, computed)),
        Ok(None) => (ASKED_TO_STOP, 0),
        Err(_) => (FAILED, 0),
    };
    // An f32 holds 24 bits of a whole number.
    let said = vec![stands, (check >> 16) as f32, (check & 0xffff) as f32];
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
    let other = all.chunks(SAID).position(|said| said != &all[..SAID]);
    if let Some(rank) = other {
        let differences = vec![format!(
            "the batch after step {step}: the data that the two read are not the same"
        )];
        return Err(TrainError::RanksDiffer { rank, differences });
    }
    let (numbers, packed) = Packed::of(computed);
    traffic.steps += 1;
    traffic.numbers += numbers.len() as u64;
    let began = Instant::now();
    let sums = ranks.all_reduce(numbers, patience).map_err(&lost)?;
    traffic.took += began.elapsed();
    Ok(Some((batch, packed.with(sums))))
}

/// What a rank exchanged with others, over some steps.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    steps: u64,
    /// Numbers it gave to sums.
    numbers: u64,
    /// Until all others were as far.
    waited: Duration,
    /// In sums.
    took: Duration,
}

impl Traffic {
    /// The mean of a step in words, if there was one.
    pub(crate) fn a_step(self) -> Option<String> {
        let steps = (self.steps > 0).then_some(self.steps as f64)?;
        let bytes = self.numbers as f64 * size_of::<f32>() as f64;
        let ms = |time: Duration| 1e3 * time.as_secs_f64() / steps;
        Some(format!(
            "a step summed {:.2} MB over the ranks in {:.2} ms, and waited {:.2} ms for others",
            bytes / steps / 1e6,
            ms(self.took),
            ms(self.waited)
        ))
    }
}

/// What the ranks' batches and gradients must have in common.
fn check<B: DitBackend>(step: u64, batch: &Batch, computed: &Computed<B>) -> u32 {
    let mut text = format!("{step}\n{}\n", batch.keys.join("\n"));
    for (name, grad) in computed.grads.iter() {
        text += &format!("{name} {}\n", grad.dims()[0]);
    }
    crc32c::crc32c(text.as_bytes())
}

/// What belongs to the numbers that are summed.
struct Packed<B: DitBackend> {
    /// Names and sizes of the gradients.
    grads: Vec<(String, usize)>,
    losses: usize,
    terms: Vec<&'static str>,
    device: B::Device,
}

impl<B: DitBackend> Packed<B> {
    /// The numbers of gradients and losses, and what they belong to.
    fn of(computed: Computed<B>) -> (Vec<f32>, Self) {
        let Computed {
            losses,
            terms,
            grads,
        } = computed;
        let sizes = grads.iter();
        let sizes = sizes.map(|(name, grad)| (name.clone(), grad.dims()[0]));
        let packed = Self {
            grads: sizes.collect(),
            losses: losses.dims()[0],
            terms,
            device: losses.device(),
        };
        let all = grads.into_tensors().chain([losses]).collect();
        // As they lie in memory, where they are f32.
        let data = Tensor::cat(all, 0).into_data().convert::<f32>();
        let numbers = data.into_vec().expect("they were converted to f32");
        (numbers, packed)
    }

    /// The same with other numbers.
    fn with(self, numbers: Vec<f32>) -> Computed<B> {
        let count = numbers.len();
        let all = Tensor::<B, 1>::from_data(TensorData::new(numbers, [count]), &self.device);
        let mut start = 0;
        let mut next = |size: usize| {
            start += size;
            all.clone().narrow(0, start - size, size)
        };
        let grads = self.grads.into_iter();
        let grads: Vec<_> = grads.map(|(name, size)| (name, next(size))).collect();
        Computed {
            grads: Gradients::from_tensors(grads),
            losses: next(self.losses),
            terms: self.terms,
        }
    }
}
