//! The gradients of keys and values (FlashAttention-2, arXiv 2307.08691, algorithm 2). A cube of threads has a tile of keys and goes
//! over all queries, so that no two add to the same gradient.

use super::{
    plan::{COLUMN_THREADS, Tiles},
    tiles::{
        Rows, accumulate, corner, load, no_sums, place, products, show, shown, span, store, tile,
    },
};
use cubecl::prelude::*;

/// Gradients of `v`, and of `k` not yet taken through its norm; `kept` is what [`attention_queries_kernel`](super::queries::attention_queries_kernel)
/// has written.
#[cube(launch)]
pub(super) fn attention_keys_kernel<F: Float>(
    q: &Rows<F>,
    k: &Rows<F>,
    v: &Rows<F>,
    grad: &Rows<F>,
    kept: &Array<f32>,
    k_grad: &mut Rows<F>,
    v_grad: &mut Rows<F>,
    samples: usize,
    tokens: usize,
    words: usize,
    heads: usize,
    scale: f32,
    #[comptime] tiles: Tiles,
    #[define(F)] _stored: StorageType,
) {
    let own = place(words, heads, tiles.rows);
    if own.sample >= samples {
        terminate!();
    }
    let rows = comptime!(tiles.own_rows());
    let columns = comptime!(tiles.own_columns());
    let (_row, column) = corner();
    let mut of_keys = tile(tiles.rows, tiles);
    let mut of_values = tile(tiles.rows, tiles);
    let mut of_queries = tile(tiles.columns, tiles);
    let mut of_grads = tile(tiles.columns, tiles);
    let mut weights = shown(tiles);
    let keys = span(own.sample, own.start, words);
    load(k, &mut of_keys, keys, own.head, tiles.rows, tiles);
    load(v, &mut of_values, keys, own.head, tiles.rows, tiles);

    let mut k_sums = no_sums(tiles);
    let mut v_sums = no_sums(tiles);
    let first = (own.sample * heads + own.head) * tokens;
    let mut start = 0usize.runtime();
    while start < tokens {
        let queries = span(own.sample, start, tokens);
        // Some threads may still be summing the queries before.
        sync_cube();
        load(q, &mut of_queries, queries, own.head, tiles.columns, tiles);
        load(grad, &mut of_grads, queries, own.head, tiles.columns, tiles);
        sync_cube();
        let mut scores = products(&of_keys, &of_queries, tiles);
        let mut slopes = products(&of_values, &of_grads, tiles);
        #[unroll]
        for j in 0..columns {
            let query = column + j * COLUMN_THREADS;
            let known = query < queries.count;
            let place = 2 * (first + start + select(known, query, 0));
            let (total, along) = (kept[place], kept[place + 1]);
            #[unroll]
            for i in 0..rows {
                let place = i * columns + j;
                let weight = (scores[place] * scale - total).exp();
                let weight = select(known, weight, 0.0);
                scores[place] = weight;
                slopes[place] = weight * (slopes[place] - along) * scale;
            }
        }
        show(&scores, &mut weights, tiles);
        sync_cube();
        accumulate(&weights, &of_grads, &mut v_sums, tiles);
        sync_cube();
        show(&slopes, &mut weights, tiles);
        sync_cube();
        accumulate(&weights, &of_queries, &mut k_sums, tiles);
        start += comptime!(tiles.columns);
    }
    store(&k_sums, k_grad, keys, own.head, tiles);
    store(&v_sums, v_grad, keys, own.head, tiles);
}
