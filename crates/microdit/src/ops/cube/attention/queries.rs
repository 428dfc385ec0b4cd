//! The gradient of queries (FlashAttention-2, arXiv 2307.08691, algorithm 2). The forward pass keeps nothing, so a cube of threads
//! goes over all keys twice: for what the softmax of its queries needs, and for the gradient.

use super::{
    plan::{COLUMN_THREADS, ROW_THREADS, Tiles},
    tiles::{
        Four, LEAST, Rows, Span, accumulate, corner, load, no_sums, over_rows, place, products,
        show, shown, span, store, tile, zeros,
    },
};
use cubecl::prelude::*;

/// A tile's queries and the gradients of their results, and a tile for keys or values.
#[derive(CubeType)]
struct Side {
    queries: SharedMemory<Vector<f32, Four>>,
    grads: SharedMemory<Vector<f32, Four>>,
    words: SharedMemory<Vector<f32, Four>>,
}

/// The thread's part of `grad v^T` and of `q k^T`, of a tile of keys, which it leaves in `side`.
#[cube]
fn both_products<F: Float>(
    side: &mut Side,
    k: &Rows<F>,
    v: &Rows<F>,
    keys: Span,
    head: usize,
    #[comptime] tiles: Tiles,
) -> (Array<f32>, Array<f32>) {
    // Some threads may still be reading the keys before.
    sync_cube();
    load(v, &mut side.words, keys, head, tiles.columns, tiles);
    sync_cube();
    let slopes = products(&side.grads, &side.words, tiles);
    sync_cube();
    load(k, &mut side.words, keys, head, tiles.columns, tiles);
    sync_cube();
    (slopes, products(&side.queries, &side.words, tiles))
}

/// Gradients of `q`, not yet taken through its norm. For every query `kept` `[batch, heads, tokens, 2]` gets the logarithm of the sum
/// of its exponentials and the sum of its gradient times its result.
#[cube(launch)]
pub(super) fn attention_queries_kernel<F: Float>(
    q: &Rows<F>,
    k: &Rows<F>,
    v: &Rows<F>,
    grad: &Rows<F>,
    q_grad: &mut Rows<F>,
    kept: &mut Array<f32>,
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
    let (row, column) = corner();
    let mut side = Side {
        queries: tile(tiles.rows, tiles),
        grads: tile(tiles.rows, tiles),
        words: tile(tiles.columns, tiles),
    };
    let mut weights = shown(tiles);
    let mut between = SharedMemory::<f32>::new(comptime!(tiles.rows * COLUMN_THREADS));
    let queries = span(own.sample, own.start, tokens);
    load(q, &mut side.queries, queries, own.head, tiles.rows, tiles);
    load(grad, &mut side.grads, queries, own.head, tiles.rows, tiles);

    let mut most = zeros(rows);
    let mut total = zeros(rows);
    // Of the gradient times the result: the sum of weights times slopes.
    let mut along = zeros(rows);
    #[unroll]
    for i in 0..rows {
        most[i] = LEAST;
    }
    let mut start = 0usize.runtime();
    while start < words {
        let keys = span(own.sample, start, words);
        let (slopes, mut scores) = both_products(&mut side, k, v, keys, own.head, tiles);
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
        // Each thread keeps the largest of its own columns.
        #[unroll]
        for i in 0..rows {
            let change = (most[i] - larger[i]).exp();
            most[i] = larger[i];
            total[i] *= change;
            along[i] *= change;
            #[unroll]
            for j in 0..columns {
                let weight = (scores[i * columns + j] - larger[i]).exp();
                total[i] += weight;
                along[i] += weight * slopes[i * columns + j];
            }
        }
        start += comptime!(tiles.columns);
    }
    let mut largest = zeros(rows);
    #[unroll]
    for i in 0..rows {
        largest[i] = most[i];
    }
    over_rows(&mut largest, &mut between, true, tiles);
    #[unroll]
    for i in 0..rows {
        let change = (most[i] - largest[i]).exp();
        total[i] *= change;
        along[i] *= change;
    }
    over_rows(&mut total, &mut between, false, tiles);
    over_rows(&mut along, &mut between, false, tiles);
    #[unroll]
    for i in 0..rows {
        most[i] = largest[i] + total[i].ln();
        along[i] /= total[i];
        let row = row + i * ROW_THREADS;
        if column == 0 && row < queries.count {
            let place = 2 * ((own.sample * heads + own.head) * tokens + own.start + row);
            kept[place] = most[i];
            kept[place + 1] = along[i];
        }
    }

    let mut sums = no_sums(tiles);
    let mut start = 0usize.runtime();
    while start < words {
        let keys = span(own.sample, start, words);
        let (slopes, mut scores) = both_products(&mut side, k, v, keys, own.head, tiles);
        #[unroll]
        for i in 0..rows {
            #[unroll]
            for j in 0..columns {
                let place = i * columns + j;
                let weight = (scores[place] * scale - most[i]).exp();
                // Of the softmax: p (g - sum(g p)).
                let slope = weight * (slopes[place] - along[i]) * scale;
                scores[place] = select(column + j * COLUMN_THREADS < keys.count, slope, 0.0);
            }
        }
        show(&scores, &mut weights, tiles);
        sync_cube();
        accumulate(&weights, &side.words, &mut sums, tiles);
        start += comptime!(tiles.columns);
    }
    store(&sums, q_grad, queries, own.head, tiles);
}
