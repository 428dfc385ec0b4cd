//! The largest scores of every row: a thread per score counts those before it. Quadratic in the tokens, which are few
//! and shared by neighboring threads, so that they come from the cache.

use super::launch::{each, unwritten};
use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;

/// NaN counts as the least finite one (WGSL cannot write infinity), so that every rank occurs once.
#[cube]
fn ordered(score: f32) -> f32 {
    select(score.is_nan(), f32::MIN, score)
}

#[cube(launch)]
fn top_k_kernel(scores: &Array<f32>, chosen: &mut Array<i32>, tokens: usize, taken: usize) {
    let place = ABSOLUTE_POS;
    if place < scores.len() {
        let row = place / tokens;
        let own = ordered(scores[place]);
        let mut rank = 0usize.runtime();
        for token in 0..tokens {
            let other = row * tokens + token;
            let score = ordered(scores[other]);
            if score > own || (score == own && other < place) {
                rank += 1;
            }
        }
        if rank < taken {
            chosen[row * taken + rank] = (place % tokens) as i32;
        }
    }
}

/// `[batch, rows, tokens]` to the indices of the `taken` largest `[batch, rows, taken]`; of equal scores the earlier first.
pub(super) fn top_k<R: CubeRuntime>(scores: CubeTensor<R>, taken: usize) -> CubeTensor<R> {
    let shape = scores.meta.shape();
    let (batch, rows, tokens) = (shape[0], shape[1], shape[2]);
    let chosen = unwritten(&scores, [batch, rows, taken], DType::I32);
    let (count, cube) = each(&scores, batch * rows * tokens);
    top_k_kernel::launch(
        &chosen.client,
        count,
        cube,
        scores.into_array_arg(),
        chosen.clone().into_array_arg(),
        tokens,
        taken,
    );
    chosen
}
