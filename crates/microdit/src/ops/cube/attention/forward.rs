//! The forward pass: FlashAttention-2 (arXiv 2307.08691), algorithm 1. A cube of threads has a tile of queries and goes over all
//! keys, a tile at a time; what it has summed is scaled whenever a larger score comes.

use super::{
    plan::{COLUMN_THREADS, Tiles},
    tiles::{
        LEAST, Rows, accumulate, corner, load, no_sums, over_rows, place, products, scale_rows,
        show, shown, span, store, tile, zeros,
    },
};
use cubecl::prelude::*;

/// `softmax(q k^T scale) v` of every head: `q` `[batch, tokens, heads x head]`, `k` and `v` `[batch, words, heads x head]`.
#[cube(launch)]
pub(super) fn attention_kernel<F: Float>(
    q: &Rows<F>,
    k: &Rows<F>,
    v: &Rows<F>,
    out: &mut Rows<F>,
    samples: usize,
    tokens: usize,
    words: usize,
    heads: usize,
    scale: f32,
    #[comptime] tiles: Tiles,
    #[define(F)] _stored: StorageType,
) {
    let own = place(tokens, heads, tiles.rows);
    if own.sample >= samples {
        terminate!();
    }
    let rows = comptime!(tiles.own_rows());
    let columns = comptime!(tiles.own_columns());
    let (_row, column) = corner();
    let mut of_queries = tile(tiles.rows, tiles);
    let mut of_words = tile(tiles.columns, tiles);
    let mut weights = shown(tiles);
    let mut between = SharedMemory::<f32>::new(comptime!(tiles.rows * COLUMN_THREADS));
    let queries = span(own.sample, own.start, tokens);
    load(q, &mut of_queries, queries, own.head, tiles.rows, tiles);

    let mut most = zeros(rows);
    let mut total = zeros(rows);
    let mut change = zeros(rows);
    #[unroll]
    for i in 0..rows {
        most[i] = LEAST;
    }
    let mut sums = no_sums(tiles);
    let mut start = 0usize.runtime();
    while start < words {
        let keys = span(own.sample, start, words);
        // Some threads may still be summing the values before.
        sync_cube();
        load(k, &mut of_words, keys, own.head, tiles.columns, tiles);
        sync_cube();
        let mut scores = products(&of_queries, &of_words, tiles);
        let mut larger = zeros(rows);
        #[unroll]
        for i in 0..rows {
            larger[i] = most[i];
            #[unroll]
            for j in 0..columns {
                let known = column + j * COLUMN_THREADS < keys.count;
                let score = select(known, scores[i * columns + j] * scale, LEAST);
                scores[i * columns + j] = score;
                larger[i] = larger[i].max(score);
            }
        }
        over_rows(&mut larger, &mut between, true, tiles);
        // No thread reads keys any more.
        load(v, &mut of_words, keys, own.head, tiles.columns, tiles);
        #[unroll]
        for i in 0..rows {
            change[i] = (most[i] - larger[i]).exp();
            most[i] = larger[i];
            total[i] *= change[i];
            #[unroll]
            for j in 0..columns {
                let weight = (scores[i * columns + j] - larger[i]).exp();
                scores[i * columns + j] = weight;
                total[i] += weight;
            }
        }
        show(&scores, &mut weights, tiles);
        scale_rows(&mut sums, &change, tiles);
        sync_cube();
        accumulate(&weights, &of_words, &mut sums, tiles);
        start += comptime!(tiles.columns);
    }
    over_rows(&mut total, &mut between, false, tiles);
    #[unroll]
    for i in 0..rows {
        change[i] = 1.0 / total[i];
    }
    scale_rows(&mut sums, &change, tiles);
    store(&sums, out, queries, own.head, tiles);
}
