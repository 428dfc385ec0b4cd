//! Decoding in overlapping tiles, so that memory does not grow with the picture.

use burn::tensor::{Tensor, TensorData, backend::Backend};

/// Decodes `latents` `[batch, channels, height, width]` in tiles of at most `side`, which overlap by at least `overlap` and
/// are blended linearly; `decode` enlarges by `scale`.
pub(super) fn decode<B: Backend>(
    latents: Tensor<B, 4>,
    side: usize,
    overlap: usize,
    scale: usize,
    decode: impl Fn(Tensor<B, 4>) -> Tensor<B, 4>,
) -> Tensor<B, 4> {
    let [batch, _, height, width] = latents.dims();
    if height <= side && width <= side {
        return decode(latents);
    }
    let device = latents.device();
    let (rows, columns) = (starts(height, side, overlap), starts(width, side, overlap));
    let mut sum: Option<Tensor<B, 4>> = None;
    let mut total = vec![0.0; height * scale * width * scale];
    for &row in &rows {
        for &column in &columns {
            let (high, wide) = (side.min(height), side.min(width));
            let tile = latents.clone().narrow(2, row, high).narrow(3, column, wide);
            let tile = decode(tile);
            let [_, channels, high, wide] = tile.dims();
            let weights: Vec<f32> = (0..high * wide)
                .map(|at| {
                    fade(at / wide, high, overlap * scale) * fade(at % wide, wide, overlap * scale)
                })
                .collect();
            for (at, weight) in weights.iter().enumerate() {
                let (y, x) = (row * scale + at / wide, column * scale + at % wide);
                total[y * width * scale + x] += weight;
            }
            let weights =
                Tensor::<B, 4>::from_data(TensorData::new(weights, [1, 1, high, wide]), &device);
            let shape = [batch, channels, height * scale, width * scale];
            let page = sum.unwrap_or_else(|| Tensor::zeros(shape, &device));
            let (y, x) = (row * scale, column * scale);
            let place = [0..batch, 0..channels, y..y + high, x..x + wide];
            let faded = page.clone().slice(place.clone()) + tile * weights;
            sum = Some(page.slice_assign(place, faded));
        }
    }
    let total = TensorData::new(total, [1, 1, height * scale, width * scale]);
    // There is at least one tile.
    sum.expect("a tile") / Tensor::from_data(total, &device)
}

/// Where tiles begin: evenly, the last one ending at the edge.
fn starts(length: usize, side: usize, overlap: usize) -> Vec<usize> {
    if length <= side {
        return vec![0];
    }
    let gaps = (length - side).div_ceil(side - overlap);
    (0..=gaps).map(|i| i * (length - side) / gaps).collect()
}

/// How much a tile counts at `at` of `length`: less towards its edges.
fn fade(at: usize, length: usize, overlap: usize) -> f32 {
    let edge = (at + 1).min(length - at);
    edge.min(overlap) as f32 / overlap as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::double;
    use burn_flex::Flex;

    /// Where `decode` works on single pixels, tiles change nothing.
    #[test]
    fn tiles_join_without_seams() {
        let device = Default::default();
        for (height, width) in [(7, 23), (23, 9), (5, 5), (8, 8)] {
            let values: Vec<f32> = (0..2 * height * width).map(|i| (i as f32).sin()).collect();
            let latents: Tensor<Flex, 4> =
                Tensor::from_data(TensorData::new(values, [2, 1, height, width]), &device);
            let enlarge = |x: Tensor<Flex, 4>| double(x) * 3.0;
            let tiled = decode(latents.clone(), 8, 3, 2, enlarge);
            let difference = (tiled - enlarge(latents)).abs().max().into_scalar();
            assert!(difference < 1e-6, "{height} x {width}: {difference}");
        }
    }

    #[test]
    fn tiles_cover_everything_and_overlap() {
        for length in 9..60 {
            let starts = starts(length, 8, 3);
            assert_eq!((starts[0], starts[starts.len() - 1]), (0, length - 8));
            assert!(
                starts.windows(2).all(|pair| pair[1] - pair[0] <= 5),
                "{length}"
            );
        }
    }
}
