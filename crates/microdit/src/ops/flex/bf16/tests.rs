use super::*;
use rayon::ThreadPoolBuilder;
use std::iter;

fn numbers<N: Number>(count: usize, step: usize) -> Vec<N> {
    let number = |i: usize| N::of((i * step % 1009) as f32 * 1e-3 - 0.5);
    (0..count).map(number).collect()
}

/// The numbers `[rows, columns]` in the order of their columns.
fn in_columns<N: Number>(x: &[N], rows: usize, columns: usize) -> Vec<N> {
    (0..rows * columns)
        .map(|i| x[i % rows * columns + i / rows])
        .collect()
}

fn sizes() -> impl Iterator<Item = [usize; 3]> {
    let all = [
        [1, 1, 1],
        [1, 300, 1000],
        [7, 16, 33],
        [13, 70, 2],
        [97, 65, 40],
        [101, 130, 530],
        [300, 33, 1026],
    ];
    all.into_iter()
        .filter(|[m, n, k]| !cfg!(miri) || m * n * k < 1000)
}

/// A sum of `k` products of bf16 `a` and `b`: each addition rounds the sum so far, by half of 2^-23 of it, and no sum is
/// larger than that of all sizes.
fn bound(products: impl Iterator<Item = f64>) -> f64 {
    let (mut size, mut count) = (0.0, 0.0);
    for product in products {
        size += product.abs();
        count += 1.0;
    }
    size * count * f64::from(f32::EPSILON) / 2.0 + 1e-30
}

/// The units that there are here.
fn units() -> impl Iterator<Item = Unit> {
    let tiles = tiles::are_there().then_some(Unit::Tiles);
    if tiles.is_none() {
        println!("AMX: skipped, the processor has none");
    }
    [Unit::Vectors, Unit::ModelOfTiles].into_iter().chain(tiles)
}

/// The product, by this many threads.
fn product<A: Number, B: Number>(
    unit: Unit,
    left: Matrix<'_, A>,
    right: Matrix<'_, B>,
    bias: Option<&[f32]>,
    threads: usize,
) -> Vec<f32> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let mut out = vec![f32::NAN; left.rows * right.columns];
        multiply_by(unit, &mut out, left, right, bias, Threads::All);
        out
    })
}

/// With either factor transposed, rounded before or on the way, with bias and without, for any number of threads.
#[test]
fn products_are_within_their_rounding_and_always_the_same() {
    for ([m, n, k], unit) in sizes().flat_map(|size| units().map(move |unit| (size, unit))) {
        let (a, b) = (numbers::<bf16>(m * k, 617), numbers::<f32>(k * n, 389));
        let (a_t, b_t) = (in_columns(&a, m, k), in_columns(&b, k, n));
        let rounded: Vec<bf16> = b.iter().map(|&x| bf16::of(x)).collect();
        let rounded_t = in_columns(&rounded, k, n);
        let bias: Vec<f32> = numbers(n, 71);
        let lefts = [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).t()];
        let wide = [Matrix::new(&b, k, n), Matrix::new(&b_t, n, k).t()];
        let narrow = [
            Matrix::new(&rounded, k, n),
            Matrix::new(&rounded_t, n, k).t(),
        ];
        let plain = product(unit, lefts[0], narrow[0], None, 1);
        let biased = product(unit, lefts[0], narrow[0], Some(&bias), 1);
        for left in lefts {
            for (wide, narrow) in wide.into_iter().zip(narrow) {
                for threads in [1, 2, 5] {
                    let name = format!("{unit:?}, {m} x {n} x {k}, {threads} threads");
                    assert_eq!(product(unit, left, narrow, None, threads), plain, "{name}");
                    assert_eq!(product(unit, left, wide, None, threads), plain, "{name}");
                    assert_eq!(
                        product(unit, left, wide, Some(&bias), threads),
                        biased,
                        "{name}"
                    );
                }
            }
        }
        let mut rounded_sums = vec![bf16::ZERO; m * n];
        let (left, right) = (lefts[0], wide[0]);
        multiply_by(unit, &mut rounded_sums, left, right, None, Threads::One);
        for i in 0..m * n {
            let (row, column) = (i / n, i % n);
            let products = (0..k).map(|i| {
                f64::from(a[row * k + i].wide()) * f64::from(rounded[i * n + column].wide())
            });
            let exact: f64 = products.clone().sum();
            let name = format!("{unit:?}, {m} x {n} x {k}: element {i}");
            let error = (f64::from(plain[i]) - exact).abs();
            assert!(
                error <= bound(products.clone()),
                "{name} is off by {error:e}"
            );
            let bias = f64::from(bias[column]);
            let error = (f64::from(biased[i]) - exact - bias).abs();
            assert!(
                error <= bound(products.chain(iter::once(bias))),
                "{name} is off by {error:e}"
            );
            assert_eq!(rounded_sums[i], bf16::of(plain[i]), "{name}");
        }
    }
}

#[test]
fn nothing_times_nothing_is_the_bias() {
    let none: [bf16; 0] = [];
    let mut out = [1f32; 6];
    let (a, b) = (Matrix::new(&none, 2, 0), Matrix::new(&none, 0, 3));
    multiply(&mut out, a, b, Some(&[3.0, 4.0, 5.0]), Threads::All);
    assert_eq!(out, [3.0, 4.0, 5.0, 3.0, 4.0, 5.0]);
    let mut out: [f32; 0] = [];
    let (a, b) = (Matrix::new(&none, 0, 2), Matrix::new(&none, 2, 0));
    multiply(&mut out, a, b, None, Threads::All);
}

/// More columns than are packed at a time.
#[test]
fn columns_are_packed_in_groups() {
    if cfg!(miri) {
        return;
    }
    let (m, k) = (2, 2 * PACKED / PANEL);
    let n = PANEL + 3;
    let a = vec![bf16::of(1.0); m * k];
    let b: Vec<bf16> = (0..k * n).map(|i| bf16::of((i % n) as f32)).collect();
    let mut out = vec![0f32; m * n];
    multiply(
        &mut out,
        Matrix::new(&a, m, k),
        Matrix::new(&b, k, n),
        None,
        Threads::All,
    );
    for (i, &found) in out.iter().enumerate() {
        // Whole numbers below 2^24 are exact in f32.
        assert_eq!(found, (i % n * k) as f32);
    }
}

/// Pairs of all sizes, but for those whose products or sums are subnormal.
fn pairs(count: usize, mut state: u64) -> Vec<u32> {
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // A sign, an exponent around 1, a mantissa.
        let bits = |x: u64| (x & 0x807f) as u32 | (100 + (x >> 16) as u32 % 50) << 7;
        bits(state) | bits(state >> 32) << 16
    };
    (0..count).map(|_| next()).collect()
}

/// What the processor computes is bit for bit what its model does.
#[test]
fn the_instructions_and_their_models_agree() {
    let rows = if cfg!(miri) { 32 } else { 96 };
    // One block of pairs and several, which go on with the sums of those before.
    for (count, depth) in [(PANEL, 48), (17, 16), (40, 528)] {
        let depth = if cfg!(miri) { TILE } else { depth };
        let data = pairs(rows * (depth + 5), 88_172_645_463_325_252);
        let panel = pairs(depth * PANEL, 3_141_592_653_589_793);
        let by = |compute: &dyn Fn(Product<'_>)| {
            let mut sums = vec![1.5; rows * PANEL];
            compute(Product {
                left: Left::in_place(&data, rows, depth + 5),
                panel: &panel,
                count,
                sums: &mut sums,
            });
            let wanted = |row: &[f32]| row[..count].iter().map(|x| x.to_bits()).collect();
            sums.chunks_exact(PANEL)
                .map(wanted)
                .collect::<Vec<Vec<u32>>>()
        };
        let model = by(&|product| vectors::blocks(product, |block| dot::dispatch_portably(block)));
        assert_eq!(by(&|product| Unit::Vectors.compute(product)), model);
        for (row, model) in model.iter().enumerate() {
            for (column, &model) in model.iter().enumerate() {
                // One after the other, as its definition has it.
                let mut expected = 0f32;
                for pair in 0..depth {
                    let left = data[row * (depth + 5) + pair];
                    let right = panel[pair * PANEL + column];
                    let second = |x: u32| f32::from_bits(x & 0xffff_0000);
                    let first = |x: u32| f32::from_bits(x << 16);
                    expected = second(left).mul_add(second(right), expected);
                    expected = first(left).mul_add(first(right), expected);
                }
                assert_eq!(model, expected.to_bits());
            }
        }
        if tiles::are_there() {
            let model = by(&|product| Unit::ModelOfTiles.compute(product));
            assert_eq!(by(&|product| Unit::Tiles.compute(product)), model);
        } else {
            println!("AMX: skipped, the processor has none");
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for (unit, (a, b)) in
        units().flat_map(|unit| [(f32::NAN, 1.0), (f32::INFINITY, 0.0)].map(|pair| (unit, pair)))
    {
        let (a, b) = ([bf16::of(a), bf16::of(1.0)], [bf16::of(b), bf16::of(1.0)]);
        let (a, b) = (Matrix::new(&a, 1, 2), Matrix::new(&b, 2, 1));
        let mut out = [bf16::ZERO];
        multiply_by(unit, &mut out, a, b, None, Threads::One);
        assert!(out[0].is_nan(), "{unit:?}");
    }
}

/// Which rows are computed together changes none of them, and what stands behind them is not read.
#[test]
fn rows_are_the_same_whatever_rows_are_computed_with_them() {
    let (n, k) = if cfg!(miri) { (3, 64) } else { (70, 640) };
    let (mut a, b) = (numbers::<bf16>(100 * k, 617), numbers::<f32>(n * k, 389));
    a.extend(vec![bf16::NAN; k]);
    for unit in units() {
        let rows = |first: usize, count: usize| {
            let mut out = vec![0f32; count * n];
            let a = Matrix::new(&a[first * k..][..count * k], count, k);
            let b = Matrix::new(&b, n, k).t();
            multiply_by(unit, &mut out, a, b, None, Threads::One);
            out
        };
        let all = rows(0, 100);
        for (first, count) in [(0, 1), (99, 1), (68, 32), (7, 33), (4, 96)] {
            assert_eq!(
                rows(first, count),
                all[first * n..][..count * n],
                "{unit:?}"
            );
        }
    }
}
