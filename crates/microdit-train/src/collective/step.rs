//! The sum of a step over the ranks: its gradients, and its losses.

use super::{Exchange, Outbox, Traffic, outbox::Leaving, sums::Sums};
use crate::{error::TrainError, sharding::Shares, step::Computed};
use burn::tensor::{StreamId, Tensor};
use microdit::{DitBackend, Precision};
use microdit_data::Batch;
use std::{
    panic,
    sync::mpsc::{self, Receiver},
    thread,
    time::Instant,
};

/// What a rank makes of a batch, or all of them together.
pub(crate) type Trained<B> = (Batch, Computed<B>);

/// The sum of a step, and what the ranks agreed on before it.
pub(crate) type Summed<B> = (Trained<B>, Agreed);

/// What the ranks agree on before they exchange the gradients of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Rank 0 will look at the averages after the step.
    pub(crate) looks: bool,
    /// All find their gradients in parts, which can leave one by one.
    pub(crate) in_parts: bool,
}

/// How a step is summed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summing<'a> {
    pub(crate) exchange: Exchange<'a>,
    /// Which rank adds up which gradient.
    pub(crate) shares: &'a Shares,
    pub(crate) precision: Precision,
    /// Whether a rank is left with the sums of its own gradients, and the norms of all; else with all sums.
    pub(crate) keeps_own: bool,
    /// What this rank has to say of it; of looking, what others say does not count.
    pub(crate) own: Agreed,
}

/// Numbers by which a rank tells the others how it stands before they exchange gradients.
const SAID: usize = 5;

/// Those of them that are the same on all ranks: how it stands, and what the batches must have in common.
const ALIKE: usize = 3;

/// What the first of them says.
const READY: f32 = 0.0;
const ASKED_TO_STOP: f32 = 1.0;
const FAILED: f32 = 2.0;

/// The sum over all ranks of what each made of its share of the batch after `step` finished steps, and what they agreed on; none
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
    if summing.exchange.ranks.world_size() == 1 {
        return Ok(own?.map(|trained| (trained, summing.own)));
    }
    let (stands, check) = match &own {
        Ok(Some((batch, computed))) => {
            let grads = computed.grads.iter();
            (READY, check(step, &batch.keys, grads))
        }
        Ok(None) => (ASKED_TO_STOP, 0),
        Err(_) => (FAILED, 0),
    };
    let agreed = agree(summing, step, stands, check, traffic);
    let own = own?;
    let (Some((batch, computed)), Some(agreed)) = (own, agreed?) else {
        return Ok(None);
    };
    let began = Instant::now();
    let lost = TrainError::lost(Some(step));
    let Computed {
        losses,
        terms,
        grads,
    } = computed;
    let mut sums = Sums::new(*summing);
    sums.add(grads.into_iter()).map_err(&lost)?;
    let computed = sums.finish(losses, terms).map_err(&lost)?;
    traffic.steps += 1;
    traffic.took += began.elapsed();
    Ok(Some(((batch, computed), agreed)))
}

/// The same, where the gradients leave by the outbox while `compute` finds more of them. From the moment at which it begins with that, it neither
/// stops nor fails.
///
/// # Errors
/// Those of [`sum`], and ranks whose gradients are not the same.
pub(crate) fn sum_in_parts<B: DitBackend>(
    summing: &Summing<'_>,
    step: u64,
    outbox: &mut Outbox<B>,
    traffic: &mut Traffic,
    compute: impl FnOnce(&mut Outbox<B>) -> Result<Option<Trained<B>>, TrainError>,
) -> Result<Option<Summed<B>>, TrainError> {
    // One queue of work per device, whichever thread fills it.
    let queue = StreamId::current();
    let (own, computed, exchanged) = thread::scope(|scope| {
        let (give, given) = mpsc::channel();
        let exchanging = scope.spawn(move || {
            queue.executes(|| {
                let mut traffic = Traffic::default();
                let sums = exchange(summing, step, &given, &mut traffic);
                (sums, traffic)
            })
        });
        outbox.open(give);
        let own = compute(outbox);
        outbox.close();
        let computed = Instant::now();
        let exchanged = exchanging.join();
        let exchanged = exchanged.unwrap_or_else(|panic| panic::resume_unwind(panic));
        (own, computed, exchanged)
    });
    let (sums, exchanged) = exchanged;
    let Ok(Some((batch, own))) = own else {
        return sum(summing, step, own, traffic);
    };
    *traffic = traffic.plus(exchanged);
    let Some((sums, agreed)) = sums? else {
        return Ok(None);
    };
    let sum = sums.finish(own.losses, own.terms);
    let sum = sum.map_err(TrainError::lost(Some(step)))?;
    traffic.steps += 1;
    traffic.took += computed.elapsed();
    Ok(Some(((batch, sum), agreed)))
}

/// The sums of what leaves; none if nothing does, or a rank was asked to stop.
fn exchange<'a, B: DitBackend>(
    summing: &Summing<'a>,
    step: u64,
    given: &Receiver<Leaving<B>>,
    traffic: &mut Traffic,
) -> Result<Option<(Sums<'a, B>, Agreed)>, TrainError> {
    let Ok(Leaving::Begins(keys)) = given.recv() else {
        return Ok(None);
    };
    let begins = check::<B>(step, &keys, [].into_iter());
    let Some(agreed) = agree(summing, step, READY, begins, traffic)? else {
        return Ok(None);
    };
    let lost = TrainError::lost(Some(step));
    let Exchange {
        ranks, patience, ..
    } = summing.exchange;
    let mut sums = Sums::new(*summing);
    for leaving in given {
        let (grads, early) = match leaving {
            Leaving::Begins(_) => unreachable!("a step begins once"),
            Leaving::Early(grads) => (grads, true),
            Leaving::Last(grads) => (grads, false),
        };
        let named = grads.iter().map(|(name, grad)| (name, grad));
        let own = halves(check(u64::from(early), &[], named));
        let parts = vec![own.len(); ranks.world_size()];
        let all = ranks.all_gather(own.into(), &parts, patience);
        let all = all.map_err(&lost)?;
        let mut each = all.chunks(own.len());
        if let Some(rank) = each.position(|other| other != &all[..own.len()]) {
            return Err(differ(rank, step, "gradients"));
        }
        if early {
            let numbers = grads.iter().map(|(_, grad)| grad.dims()[0] as u64);
            traffic.early += size_of::<f32>() as u64 * numbers.sum::<u64>();
        }
        sums.add(grads.into_iter()).map_err(&lost)?;
    }
    Ok(Some((sums, agreed)))
}

/// Tells the others how this rank stands. What all agree on; none if one of them was asked to stop.
fn agree(
    summing: &Summing<'_>,
    step: u64,
    stands: f32,
    check: u32,
    traffic: &mut Traffic,
) -> Result<Option<Agreed>, TrainError> {
    let Exchange {
        ranks, patience, ..
    } = summing.exchange;
    let flag = |is_set| f32::from(u8::from(is_set));
    let [high, low] = halves(check);
    let Agreed { looks, in_parts } = summing.own;
    let said = vec![stands, high, low, flag(looks), flag(in_parts)];
    let began = Instant::now();
    let all = ranks.all_gather(said, &vec![SAID; ranks.world_size()], patience);
    traffic.waited += began.elapsed();
    let all = all.map_err(TrainError::lost(Some(step)))?;
    let said = || all.chunks(SAID);
    if let Some(rank) = said().position(|said| said[0] == FAILED) {
        let step = Some(step);
        return Err(TrainError::RankFailed { rank, step });
    }
    if said().any(|said| said[0] != READY) {
        return Ok(None);
    }
    if let Some(rank) = said().position(|said| said[..ALIKE] != all[..ALIKE]) {
        return Err(differ(rank, step, "data"));
    }
    Ok(Some(Agreed {
        looks: all[ALIKE] != 0.0,
        in_parts: said().all(|said| said[ALIKE + 1] != 0.0),
    }))
}

fn differ(rank: usize, step: u64, what: &str) -> TrainError {
    let differences = vec![format!(
        "the batch after step {step}: the {what} of the two are not the same"
    )];
    TrainError::RanksDiffer { rank, differences }
}

/// What the ranks' batches and gradients must have in common.
fn check<'a, B: DitBackend>(
    step: u64,
    keys: &[String],
    grads: impl Iterator<Item = (&'a String, &'a Tensor<B, 1>)>,
) -> u32 {
    let mut text = format!("{step}\n{}\n", keys.join("\n"));
    for (name, grad) in grads {
        text += &format!("{name} {}\n", grad.dims()[0]);
    }
    crc32c::crc32c(text.as_bytes())
}

/// A number of 32 bits in two of f32, which holds 24 bits of a whole number.
fn halves(number: u32) -> [f32; 2] {
    [(number >> 16) as f32, (number & 0xffff) as f32]
}
