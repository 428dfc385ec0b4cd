//! What the ranks have to agree on before they work in step: a rank of another version, recipe or checkpoint would spoil
//! the sums of all.

use super::{Collective, Patience};
use crate::error::TrainError;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// What a rank holds to be true of the run, by name.
pub(crate) type Facts = BTreeMap<String, String>;

/// Goes on if all ranks have succeeded in what they have just done.
///
/// # Errors
/// The own failure, or the number of another rank that failed.
pub fn together<T>(
    ranks: &dyn Collective,
    patience: &Patience<'_>,
    done: Result<T, TrainError>,
) -> Result<T, TrainError> {
    let failed = f32::from(u8::from(done.is_err()));
    let all = ranks.all_gather(vec![failed], &vec![1; ranks.world_size()], patience);
    let value = done?;
    let all = all.map_err(TrainError::lost(None))?;
    match all.iter().position(|failed| *failed != 0.0) {
        Some(rank) => Err(TrainError::RankFailed { rank, step: None }),
        None => Ok(value),
    }
}

/// The text of rank `root`, on all of them.
///
/// # Errors
/// Ranks that are lost.
pub fn share_text(
    ranks: &dyn Collective,
    text: &str,
    root: usize,
    patience: &Patience<'_>,
) -> Result<String, TrainError> {
    let broadcast = |numbers| {
        let shared = ranks.broadcast(numbers, root, patience);
        shared.map_err(TrainError::lost(None))
    };
    // An f32 holds whole numbers up to 2^24.
    let length = [text.len() >> 24, text.len() & 0xff_ffff];
    let length = broadcast(length.map(|part| part as f32).into())?;
    let length = ((length[0] as usize) << 24) + length[1] as usize;
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, 0);
    let shared = broadcast(numbers(&bytes))?;
    let bytes = shared.into_iter().map(|number| number as u8).collect();
    Ok(String::from_utf8(bytes).unwrap_or_default())
}

/// The texts of all ranks, in their order, on all of them.
///
/// # Errors
/// Ranks that are lost.
pub fn gather_texts(
    ranks: &dyn Collective,
    text: &str,
    patience: &Patience<'_>,
) -> Result<Vec<String>, TrainError> {
    let lost = TrainError::lost(None);
    let bytes = numbers(text.as_bytes());
    // An f32 holds whole numbers up to 2^24.
    let halves = [bytes.len() >> 24, bytes.len() & 0xff_ffff].map(|part| part as f32);
    let lengths = ranks.all_gather(halves.into(), &vec![2; ranks.world_size()], patience);
    let lengths = lengths.map_err(&lost)?;
    let length = |halves: &[f32]| ((halves[0] as usize) << 24) + halves[1] as usize;
    let parts: Vec<usize> = lengths.chunks(2).map(length).collect();
    let all = ranks.all_gather(bytes, &parts, patience).map_err(&lost)?;
    let mut bytes = all.into_iter().map(|number| number as u8);
    let text = |&length: &usize| {
        let own: Vec<u8> = bytes.by_ref().take(length).collect();
        String::from_utf8(own).unwrap_or_default()
    };
    Ok(parts.iter().map(text).collect())
}

/// Checks that all ranks hold the same `facts`.
///
/// # Errors
/// On all of them alike, the facts that the first other rank holds otherwise than rank 0.
pub(crate) fn agree(
    ranks: &dyn Collective,
    facts: &Facts,
    patience: &Patience<'_>,
) -> Result<(), TrainError> {
    let lines = facts
        .iter()
        .map(|(name, value)| format!("{name}\0{value}\n"));
    let text: String = lines.collect();
    let hash = numbers(&Sha256::digest(text.as_bytes()));
    let length = hash.len();
    let hashes = ranks.all_gather(hash, &vec![length; ranks.world_size()], patience);
    let hashes = hashes.map_err(TrainError::lost(None))?;
    let mut hashes = hashes.chunks(length);
    let first = hashes.next();
    let Some(other) = hashes.position(|hash| Some(hash) != first) else {
        return Ok(());
    };
    let rank = other + 1;
    let expected = share_text(ranks, &text, 0, patience)?;
    let found = share_text(ranks, &text, rank, patience)?;
    Err(TrainError::RanksDiffer {
        rank,
        differences: differences(&expected, &found, rank),
    })
}

/// What the texts of rank 0 and of `rank` hold differently.
pub(super) fn differences(expected: &str, found: &str, rank: usize) -> Vec<String> {
    let [expected, found] = [expected, found].map(|text| {
        let pairs = text.lines().filter_map(|line| line.split_once('\0'));
        pairs.collect::<BTreeMap<_, _>>()
    });
    let names: BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    let difference = |name: &&str| {
        let [expected, found] = [&expected, &found].map(|facts| facts.get(name).copied());
        let [one, other] = [expected, found].map(|fact| fact.unwrap_or("nothing"));
        (expected != found).then(|| format!("{name}: {one} on rank 0, {other} on rank {rank}"))
    };
    names.into_iter().filter_map(difference).collect()
}

fn numbers(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|byte| f32::from(*byte)).collect()
}
