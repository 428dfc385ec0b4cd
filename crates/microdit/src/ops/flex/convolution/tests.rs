use super::{
    super::{bf16::dispatch_portably, number::Number as _, pointwise::convert},
    packed::{Before, Left, PANEL, add_product},
    terms::{Paired, Products, Work},
    *,
};
use burn::tensor::{bf16, ops::ConvOptions};
use pulp::Simd;
use rayon::ThreadPoolBuilder;

/// `[images, inputs, outputs]`, height and width, kernel, stride, padding.
type Case = ([usize; 3], [usize; 2], [usize; 2], usize, usize);

/// One pixel, one panel and several, rows shared by threads or not, channels that fill no tile, one block and several.
const CASES: [Case; 13] = [
    ([1, 1, 1], [1, 1], [1, 1], 1, 0),
    ([2, 3, 130], [9, 31], [3, 3], 1, 1),
    ([3, 130, 3], [8, 8], [3, 3], 1, 1),
    ([1, 40, 200], [7, 5], [3, 3], 2, 1),
    ([2, 70, 50], [33, 20], [1, 1], 1, 0),
    ([2, 30, 65], [20, 30], [2, 5], 3, 2),
    // Large enough for Winograd's: odd sizes, several rows of patches in a panel, several panels in a row of patches.
    ([1, 64, 70], [33, 35], [3, 3], 1, 1),
    ([2, 65, 64], [40, 30], [3, 3], 1, 2),
    ([1, 64, 65], [8, 300], [3, 3], 1, 0),
    // Few channels of the output or the input, in several strips.
    ([2, 20, 2], [40, 300], [3, 2], 1, 1),
    ([2, 3, 20], [40, 300], [3, 3], 1, 0),
    ([1, 4, 3], [3, 5], [2, 4], 1, 2),
    // Halved, in several panels of a page.
    ([1, 3, 7], [80, 90], [3, 3], 2, 1),
];

fn numbers(count: usize, step: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (i * step % 1009) as f32 * 1e-3 - 0.5)
        .collect()
}

/// The output and the gradients of input and weights, by the definition, in f64.
fn exact(sizes: &Convolution, x: &[f32], weight: &[f32], grad: &[f32]) -> [Vec<f64>; 3] {
    let ([inputs, outputs], [height, width]) = (sizes.channels, sizes.output);
    let mut exact = [grad, x, weight].map(|like| vec![0.0; like.len()]);
    let patches = sizes.patches();
    for (pixel, &grad) in grad.iter().enumerate() {
        let (column, row) = (pixel % width, pixel / width % height);
        let (output, image) = (
            pixel / (width * height) % outputs,
            pixel / (width * height * outputs),
        );
        for (tap, [top, left]) in patches.taps.iter().enumerate() {
            let row = top + (row * sizes.stride[0]) as isize;
            let column = left + (column * sizes.stride[1]) as isize;
            let inside = (0..sizes.input[0] as isize).contains(&row)
                && (0..sizes.input[1] as isize).contains(&column);
            for input in (0..inputs).filter(|_| inside) {
                let channel = (image * inputs + input) * sizes.input[0];
                let from = (channel + row as usize) * sizes.input[1] + column as usize;
                let by = (output * inputs + input) * sizes.taps() + tap;
                exact[0][pixel] += f64::from(x[from]) * f64::from(weight[by]);
                exact[1][from] += f64::from(weight[by]) * f64::from(grad);
                exact[2][by] += f64::from(x[from]) * f64::from(grad);
            }
        }
    }
    exact
}

/// Its sizes, and numbers for its input, its weights and the gradient of its output.
fn drawn(
    ([batch, inputs, outputs], size, kernel, stride, pad): Case,
) -> (Convolution, [Vec<f32>; 3]) {
    let shape = [batch, inputs, size[0], size[1]];
    let weights = [outputs, inputs, kernel[0], kernel[1]];
    let options = ConvOptions::new([stride; 2], [pad; 2], [1; 2], 1).into();
    let sizes = Convolution::new(shape, weights, &options).unwrap();
    let x = numbers(shape.iter().product(), 617);
    let weight = numbers(weights.iter().product(), 389);
    let grad = numbers(sizes.output_shape().iter().product(), 331);
    (sizes, [x, weight, grad])
}

/// What `threads` threads make of it.
fn by<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(work)
}

#[test]
fn convolutions_are_exact_and_the_same_for_any_number_of_threads() {
    for case in CASES {
        let (sizes, [x, weight, grad]) = drawn(case);
        let with = |threads: usize| {
            by(threads, || {
                [
                    sizes.forward(&x, &weight, None),
                    sizes.input_gradient(&weight, &grad),
                    sizes.weight_gradient(&x, &grad),
                ]
            })
        };
        let one = with(1);
        for (found, exact) in one.iter().zip(exact(&sizes, &x, &weight, &grad)) {
            assert_eq!(found.len(), exact.len());
            for (i, (&found, exact)) in found.iter().zip(exact).enumerate() {
                // Sums of a thousand products below 0.25, each rounded to 6e-8 of the sum so far.
                let error = (f64::from(found) - exact).abs();
                assert!(error < 1e-4, "{case:?}: element {i} is off by {error:e}");
            }
        }
        for threads in [2, 3, 5] {
            assert!(with(threads) == one, "{case:?}, {threads} threads");
        }
    }
}

/// Numbers, weights and gradients are bf16, so that their products are exact. Where these are summed as they are, the sum alone is rounded,
/// by 2^-8 of it at most. Winograd's sums and differences are rounded before they are multiplied, which is a standard deviation of
/// 2^-8 / 3^0.5 of each factor at most. The squares of the products that make a pixel of a channel add up to 25 times those of the
/// numbers times the weights, 1 / 12 each, so that a sum over channels deviates by `2^-8 (2 / 3 * 25 * channels)^0.5 / 12`.
#[test]
fn convolutions_in_bf16_are_rounded_like_it_and_the_same_for_any_number_of_threads() {
    let rounding = 1.0 / 256.0;
    for case in CASES {
        let (sizes, drawn) = drawn(case);
        let [x, weight, grad] = drawn.map(|x| -> Vec<bf16> { convert(&x) });
        let wide = |x: &[bf16]| -> Vec<f32> { convert(x) };
        let [x_wide, weight, grad_wide] = [wide(&x), wide(&weight), wide(&grad)];
        let bias = numbers(sizes.channels[1], 71);
        let operands = Operands {
            batch: sizes.batch,
            channels: sizes.channels,
            x: &x[..],
            weight: &weight,
            bias: Some(&bias),
            patches: &sizes.patches(),
        };
        let with = |threads: usize| {
            by(threads, || {
                [
                    sizes.forward(&x, &weight, Some(&bias)),
                    // As it is computed where there are no tiles.
                    by_vectors(operands),
                    sizes.input_gradient(&weight, &grad),
                ]
            })
        };
        let one = with(1);
        let [mut output, input, _] = exact(&sizes, &x_wide, &weight, &grad_wide);
        let pixels = sizes.output[0] * sizes.output[1];
        for (i, sum) in output.iter_mut().enumerate() {
            *sum += f64::from(bias[i / pixels % bias.len()]);
        }
        let channels = sizes.channels;
        let turned = [channels[1], channels[0]];
        for ((found, exact), channels) in one
            .iter()
            .zip([output.clone(), output, input])
            .zip([channels, channels, turned])
        {
            let winograd = channels.into_iter().all(|channels| channels >= 64);
            let deviation = match winograd {
                true => rounding * (2.0 / 3.0 * 25.0 * channels[0] as f64).sqrt() / 12.0,
                false => 0.0,
            };
            for (i, (found, exact)) in found.iter().zip(exact).enumerate() {
                let error = (f64::from(found.wide()) - exact).abs();
                let bound = 6.0 * deviation + rounding * exact.abs() + 1e-4;
                assert!(
                    error < bound,
                    "{case:?}: element {i} is off by {error:e}, not {bound:e}"
                );
            }
        }
        for threads in [2, 3, 5] {
            assert!(with(threads) == one, "{case:?}, {threads} threads");
        }
    }
}

/// Sums of products of pairs.
struct Sums<'a> {
    left: &'a [u32],
    panel: &'a [u32],
    out: &'a mut [f32],
}

impl Work<u32> for Sums<'_> {
    #[inline(always)]
    fn run<S: Simd, P: Products<S, u32>>(self, simd: S, products: P) {
        let inner = self.panel.len() / PANEL;
        let left = Left {
            data: self.left,
            stride: inner,
            inner,
        };
        let mut rows: Vec<&mut [f32]> = self.out.chunks_exact_mut(PANEL).collect();
        let pieces = std::iter::once(rows.as_mut_slice());
        add_product(
            simd,
            products,
            left,
            pieces,
            self.panel,
            Before::Start(None),
        );
    }
}

#[test]
fn pairs_are_multiplied_alike_by_the_instruction_and_its_model() {
    let (rows, inner) = (8, 21);
    let pairs = |rows: usize, columns: usize, step: usize| {
        <u32 as Term>::rows(&numbers(rows * columns, step), columns).into_owned()
    };
    let (left, panel) = (pairs(rows, 2 * inner, 617), pairs(inner, 2 * PANEL, 389));
    let [mut found, mut model] = [0, 1].map(|_| vec![f32::NAN; rows * PANEL]);
    let sums = |out| Sums {
        left: &left,
        panel: &panel,
        out,
    };
    <u32 as Term>::dispatch(sums(&mut found));
    dispatch_portably(Paired(sums(&mut model)));
    assert!(found.iter().all(|sum| sum.is_finite()));
    assert_eq!(found, model);
}

#[test]
fn sizes_that_are_not_computed_here() {
    let sizes = |x, weight, groups| {
        let options = ConvOptions::new([1; 2], [0; 2], [1; 2], groups).into();
        Convolution::new(x, weight, &options).map(|sizes| sizes.output_shape())
    };
    assert_eq!(sizes([1, 4, 5, 5], [6, 4, 3, 2], 1), Some([1, 6, 3, 4]));
    assert_eq!(sizes([1, 4, 5, 5], [6, 2, 3, 3], 2), None, "groups");
    assert_eq!(sizes([1, 4, 5, 5], [6, 3, 3, 3], 1), None, "other channels");
    assert_eq!(
        sizes([1, 4, 5, 2], [6, 4, 3, 3], 1),
        None,
        "too large a kernel"
    );
    assert_eq!(sizes([0, 4, 5, 5], [6, 4, 3, 3], 1), None, "no images");
}
