//! Attention by FlashAttention-2's recurrence (arXiv 2307.08691): scores are computed for a tile of queries and a tile of keys at a
//! time and never stored. Everything is computed in f32, whatever the tensors are stored in. No gradient is summed by more than one
//! cube of threads, so that results do not depend on their order.

mod forward;
mod keys;
mod norms;
mod plan;
mod queries;
mod tiles;

pub(super) use plan::Plan;

use super::launch::{cubes, unwritten};
use burn::tensor::DType;
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use cubecl::prelude::*;
use forward::attention_kernel;
use keys::attention_keys_kernel;
use norms::{row_statistics, through_norm};
use plan::THREADS;
use queries::attention_queries_kernel;
use tiles::RowsLaunch;

/// One of `parts` tensors side by side in `packed` `[batch, rows, parts x width]`, which lies in one piece of memory.
#[derive(Clone)]
pub(super) struct Part<R: CubeRuntime> {
    packed: CubeTensor<R>,
    parts: usize,
    part: usize,
}

impl<R: CubeRuntime> Part<R> {
    /// All `N` parts.
    pub(super) fn all<const N: usize>(packed: &CubeTensor<R>) -> [Self; N] {
        std::array::from_fn(|part| Self {
            packed: packed.clone(),
            parts: N,
            part,
        })
    }

    /// A tensor by itself.
    pub(super) fn whole(tensor: &CubeTensor<R>) -> Self {
        let [whole] = Self::all(tensor);
        whole
    }

    fn dims(&self) -> [usize; 3] {
        let shape = self.packed.meta.shape();
        [shape[0], shape[1], shape[2] / self.parts]
    }

    /// From a row to the next.
    fn stride(&self) -> usize {
        self.packed.meta.shape()[2]
    }

    /// Of the first row.
    fn offset(&self) -> usize {
        self.part * self.dims()[2]
    }

    /// For a kernel, which normalizes it by these statistics.
    fn rows<F: Float>(&self, statistics: Option<CubeTensor<R>>) -> RowsLaunch<F, R> {
        RowsLaunch::new(
            self.packed.clone().into_array_arg(),
            statistics.map(CubeTensor::into_array_arg).into(),
            self.stride() / 4,
            self.offset() / 4,
        )
    }
}

/// Sizes that the tensors have to agree on.
struct Sizes {
    batch: usize,
    tokens: usize,
    words: usize,
    /// `1 / sqrt(head)`.
    scale: f32,
}

impl Sizes {
    /// # Panics
    /// If `k` and `v` are not of one shape, or another batch or width than `q`.
    fn new<R: CubeRuntime>([q, k, v]: [&Part<R>; 3], heads: usize) -> Self {
        let ([batch, tokens, width], words) = (q.dims(), k.dims()[1]);
        let expected = [batch, words, width];
        assert_eq!([k.dims(), v.dims()], [expected; 2], "keys and values");
        Self {
            batch,
            tokens,
            words,
            scale: ((width / heads) as f32).sqrt().recip(),
        }
    }
}

/// Attention of `q` to `k` and `v`, queries and keys normalized first where there is an `eps`: `[batch, tokens, width]`.
pub(super) fn forward<R: CubeRuntime>(
    [q, k, v]: [Part<R>; 3],
    plan: Plan,
    eps: Option<f64>,
) -> CubeTensor<R> {
    let Sizes {
        batch,
        tokens,
        words,
        scale,
    } = Sizes::new([&q, &k, &v], plan.heads);
    let out = unwritten(&q.packed, q.dims(), q.packed.dtype);
    let out_rows = Part::whole(&out);
    let [q_statistics, k_statistics] = [&q, &k].map(|x| eps.map(|eps| row_statistics(x, eps)));
    let tiles = plan.forward;
    let (count, cube) = cubes(batch * plan.heads * tokens.div_ceil(tiles.rows), THREADS);
    attention_kernel::launch(
        &out.client,
        count,
        cube,
        q.rows(q_statistics),
        k.rows(k_statistics),
        v.rows(None),
        out_rows.rows(None),
        batch,
        tokens,
        words,
        plan.heads,
        scale,
        tiles,
        out.dtype.into(),
    );
    out
}

/// Writes the gradients of `q`, `k` and `v` of [`forward`] into tensors packed like them, from the gradient of its result.
pub(super) fn backward<R: CubeRuntime>(
    [q, k, v]: [Part<R>; 3],
    plan: Plan,
    eps: Option<f64>,
    grad: CubeTensor<R>,
    [q_grad, k_grad, v_grad]: [Part<R>; 3],
) {
    let heads = plan.heads;
    let Sizes {
        batch,
        tokens,
        words,
        scale,
    } = Sizes::new([&q, &k, &v], heads);
    let client = grad.client.clone();
    let stored = grad.dtype;
    let grad = Part::whole(&grad);
    let [q_statistics, k_statistics] = [&q, &k].map(|x| eps.map(|eps| row_statistics(x, eps)));
    let kept = unwritten(&q.packed, [batch, heads, tokens, 2], DType::F32);
    let tiles = plan.queries;
    let (count, cube) = cubes(batch * heads * tokens.div_ceil(tiles.rows), THREADS);
    attention_queries_kernel::launch(
        &client,
        count,
        cube,
        q.rows(q_statistics.clone()),
        k.rows(k_statistics.clone()),
        v.rows(None),
        grad.rows(None),
        q_grad.rows(None),
        kept.clone().into_array_arg(),
        batch,
        tokens,
        words,
        heads,
        scale,
        tiles,
        stored.into(),
    );
    let tiles = plan.keys;
    let (count, cube) = cubes(batch * heads * words.div_ceil(tiles.rows), THREADS);
    attention_keys_kernel::launch(
        &client,
        count,
        cube,
        q.rows(q_statistics.clone()),
        k.rows(k_statistics.clone()),
        v.rows(None),
        grad.rows(None),
        kept.into_array_arg(),
        k_grad.rows(None),
        v_grad.rows(None),
        batch,
        tokens,
        words,
        heads,
        scale,
        tiles,
        stored.into(),
    );
    let normalized = [(q, q_statistics, q_grad), (k, k_statistics, k_grad)];
    for (x, statistics, grad) in normalized {
        if let Some(statistics) = statistics {
            through_norm(&x, statistics, &grad);
        }
    }
}
