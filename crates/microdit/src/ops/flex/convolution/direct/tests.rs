use super::{
    super::{Convolution, patches::Patches},
    *,
};
use crate::ops::flex::bf16::{Amx, Model};
use burn::tensor::{bf16, ops::ConvOptions};

/// Whole numbers, whose products and sums are exact in f32; the results are rounded as they are written.
fn numbers<N: Pixel>(count: usize, step: usize) -> Vec<N> {
    (0..count)
        .map(|i| N::of((i * step % 7) as f32 - 3.0))
        .collect()
}

/// Images, channels, height and width of the input, kernel, stride, padding, dilation.
type Case = (
    usize,
    [usize; 2],
    [usize; 2],
    [usize; 2],
    usize,
    usize,
    usize,
);

const CASES: [Case; 10] = [
    (1, [1, 1], [1, 1], [1, 1], 1, 0, 1),
    (2, [3, 5], [9, 37], [3, 3], 1, 1, 1),
    (1, [33, 40], [7, 70], [3, 3], 1, 1, 1),
    (1, [40, 33], [20, 16], [1, 1], 1, 0, 1),
    (3, [2, 17], [12, 33], [3, 5], 1, 2, 2),
    (2, [34, 20], [9, 41], [3, 3], 2, 1, 1),
    (1, [3, 18], [12, 20], [4, 4], 4, 0, 1),
    (1, [5, 3], [7, 11], [1, 1], 2, 0, 1),
    // Nothing but zeros at an edge, and rows that are kept one at a time.
    (1, [3, 2], [4, 3], [2, 2], 3, 5, 3),
    (1, [2, 3], [3, 600], [3, 3], 1, 1, 1),
];

#[test]
fn convolutions_of_every_size_are_exact() {
    type Convolve = fn(Operands<'_, bf16>) -> Vec<bf16>;
    let tiles: Option<Convolve> = (Unit::fastest() == Unit::Tiles).then_some(convolve::<Amx, bf16>);
    if tiles.is_none() {
        println!("AMX: skipped, the processor has none");
    }
    let ways: Vec<Convolve> = [convolve::<Model, bf16> as Convolve]
        .into_iter()
        .chain(tiles)
        .collect();
    for case @ (batch, channels, input, kernel, stride, padding, dilation) in CASES {
        let options = ConvOptions::new([stride; 2], [padding; 2], [dilation; 2], 1).into();
        let [inputs, outputs] = channels;
        let shape = [batch, inputs, input[0], input[1]];
        let sizes = [outputs, inputs, kernel[0], kernel[1]];
        let sizes = Convolution::new(shape, sizes, &options).unwrap();
        // What the output sees of the input, and, once for every pixel within a step, the input's gradient of the output's.
        let phases = (0..stride * stride).map(|i| sizes.phase([i / stride, i % stride]).1);
        let phases = phases.filter(|patches| patches.pixels() > 0 && !patches.taps.is_empty());
        for patches in std::iter::once(sizes.patches()).chain(phases) {
            let pixels = patches.input[0] * patches.input[1];
            let x: Vec<bf16> = numbers(batch * inputs * pixels, 5);
            let weight: Vec<f32> = numbers(outputs * inputs * patches.taps.len(), 3);
            let bias: Vec<f32> = numbers(outputs, 2);
            let wide: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
            let operands = Operands {
                batch,
                channels,
                x: &x[..],
                weight: &weight,
                bias: Some(&bias),
                patches: &patches,
            };
            let expected = super::super::convolve(Operands {
                batch,
                channels,
                x: &wide[..],
                weight: &weight,
                bias: Some(&bias),
                patches: &patches,
            });
            let expected: Vec<bf16> = expected.into_iter().map(bf16::from_f32).collect();
            for (way, convolve) in ways.iter().enumerate() {
                let found = convolve(operands);
                assert!(found == expected, "{way}: {case:?}, {patches:?}");
            }
        }
    }
}

#[test]
fn taps_of_a_row_run_while_their_distance_stays() {
    let runs = |taps: &[[isize; 2]]| {
        let patches = Patches {
            input: [9; 2],
            output: [1; 2],
            stride: [1; 2],
            taps: taps.to_vec(),
        };
        let seen = Seen::by(1, &patches);
        let runs = seen.runs.iter().map(|run| (run.first, run.count, run.step));
        (seen.order.clone(), runs.collect::<Vec<_>>())
    };
    let (order, found) = runs(&[[1, 4], [1, 2], [1, 0], [-1, 3], [-1, 4], [-1, 6], [2, 0]]);
    assert_eq!(order, [3, 4, 5, 2, 1, 0, 6]);
    let expected = [
        ([0, 3], 2, 1),
        ([0, 6], 1, 0),
        ([2, 0], 3, 2),
        ([3, 0], 1, 0),
    ];
    assert_eq!(found, expected);
}
