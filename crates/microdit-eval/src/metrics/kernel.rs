//! Maximum mean discrepancies: KID, KD and CMMD.

use super::blocks::{self, Block};
use crate::{error::EvalError, features::Rows};
use microdit::rng::{Purpose, Stream};
use rayon::prelude::*;

/// Subsets of [`distance`] and the pictures of each, as clean-fid and dgm-eval draw them.
pub const SUBSETS: usize = 100;
/// See [`SUBSETS`].
pub const SUBSET_SIZE: usize = 1000;

/// Width of CMMD's Gaussian kernel, and what its value is multiplied by, as published.
pub const CMMD_SIGMA: f64 = 10.0;
/// See [`CMMD_SIGMA`].
pub const CMMD_SCALE: f64 = 1000.0;

/// A measure of how alike two rows are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// `(gamma x.y + constant)^degree`.
    Polynomial {
        /// The exponent.
        degree: i32,
        /// What the product is multiplied by.
        gamma: f64,
        /// What is added to it.
        constant: f64,
    },
    /// `exp(-|x - y|^2 / (2 sigma^2))`.
    Gaussian {
        /// Its width.
        sigma: f64,
    },
}

impl Kernel {
    /// KID's kernel for rows of `dim` numbers: degree 3, `1 / dim`, 1 (arXiv 1801.01401).
    pub fn kid(dim: usize) -> Self {
        Self::Polynomial {
            degree: 3,
            gamma: 1.0 / dim as f64,
            constant: 1.0,
        }
    }

    /// Of two rows, by their product and their squared lengths.
    fn value(self, product: f64, left: f64, right: f64) -> f64 {
        match self {
            Self::Polynomial {
                degree,
                gamma,
                constant,
            } => (gamma * product + constant).powi(degree),
            Self::Gaussian { sigma } => {
                let distance = (left + right - 2.0 * product).max(0.0);
                (-distance / (2.0 * sigma * sigma)).exp()
            }
        }
    }
}

/// The squared maximum mean discrepancy of two sets of rows, twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Discrepancy {
    /// Over pairs of different rows only, so that its mean over many draws is the truth; it can be negative.
    pub unbiased: f64,
    /// Over all pairs, each row with itself included: too large by what one row is like itself, over the number of rows.
    pub biased: f64,
}

/// What a set of rows is like within itself: its share in every discrepancy from it, computed once where it is compared with
/// several.
#[derive(Clone, Debug)]
pub struct Within {
    kernel: Kernel,
    /// The squared length of every row.
    squares: Vec<f64>,
    /// The mean of the kernel over pairs of different rows.
    unbiased: f64,
    /// The mean over all pairs.
    biased: f64,
}

impl Within {
    /// Of these rows, which errors call `what`.
    ///
    /// # Errors
    /// Fewer than two.
    pub fn of<T: Copy + Into<f64>>(
        what: &str,
        rows: Rows<'_, T>,
        kernel: Kernel,
    ) -> Result<Self, EvalError> {
        if rows.len() < 2 {
            return Err(EvalError::TooFew {
                what: what.into(),
                found: rows.len(),
                needed: 2,
                why: String::new(),
            });
        }
        let squares = rows.squares();
        let alone: f64 = squares
            .iter()
            .map(|&square| kernel.value(square, square, square))
            .sum();
        let mut all = 0.0;
        blocks::within(rows, |block| {
            let weight = if block.left == block.right { 1.0 } else { 2.0 };
            all += weight * sum(block, kernel, &squares, &squares);
        });
        let count = rows.len() as f64;
        Ok(Self {
            kernel,
            squares,
            unbiased: (all - alone) / (count * (count - 1.0)),
            biased: all / (count * count),
        })
    }
}

/// The squared maximum mean discrepancy of all rows of two sets.
///
/// # Errors
/// Rows of different sizes, or fewer than two on a side.
pub fn discrepancy<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    kernel: Kernel,
) -> Result<Discrepancy, EvalError> {
    discrepancy_from(a, b, &Within::of("the second set", b, kernel)?)
}

/// The same from rows `b` of which `within` is known.
///
/// # Errors
/// As for [`discrepancy`].
///
/// # Panics
/// If `within` is of another number of rows.
pub fn discrepancy_from<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    within: &Within,
) -> Result<Discrepancy, EvalError> {
    assert_eq!(within.squares.len(), b.len(), "what is known of these rows");
    a.check_dim("the first set", b.dim())?;
    let own = Within::of("the first set", a, within.kernel)?;
    let mut across = 0.0;
    blocks::across(a, b, |block| {
        across += sum(block, own.kernel, &own.squares, &within.squares);
    });
    across /= a.len() as f64 * b.len() as f64;
    Ok(Discrepancy {
        unbiased: own.unbiased + within.unbiased - 2.0 * across,
        biased: own.biased + within.biased - 2.0 * across,
    })
}

/// The sum of the kernel over a block, in an order that does not depend on the number of threads.
fn sum(block: &Block<'_>, kernel: Kernel, left: &[f64], right: &[f64]) -> f64 {
    let (left, right) = (&left[block.left..], &right[block.right..]);
    let columns: Vec<f64> = block
        .columns()
        .zip(right)
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(column, &right)| {
            let pairs = column.iter().zip(left);
            pairs
                .map(|(&product, &left)| kernel.value(product, left, right))
                .sum::<f64>()
        })
        .collect();
    columns.iter().sum()
}

/// Discrepancies of subsets.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelDistance {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, divided by their number. Subsets overlap, so that it is no standard error of the mean.
    pub deviation: f64,
    /// Pictures of each side in a subset.
    pub subset_size: usize,
}

/// KID (over Inception's features) or KD: the mean of the unbiased discrepancy of [`Kernel::kid`] over subsets drawn without
/// replacement, [`SUBSETS`] of [`SUBSET_SIZE`] rows of each side, or of as many as the smaller side has.
///
/// # Errors
/// As for [`discrepancy`].
pub fn distance<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    seed: u64,
) -> Result<KernelDistance, EvalError> {
    let size = SUBSET_SIZE.min(a.len()).min(b.len());
    let draw = |rows: usize, subset: usize, side: u64| {
        let mut order: Vec<usize> = (0..rows).collect();
        Stream::new(seed, Purpose::Subset, subset as u64, side).shuffle(&mut order);
        order.truncate(size);
        order
    };
    let subsets = (0..SUBSETS).map(|subset| (draw(a.len(), subset, 0), draw(b.len(), subset, 1)));
    distance_of(a, b, Kernel::kid(b.dim()), subsets)
}

/// The same over subsets given by the indices of their rows, and with any kernel.
///
/// # Errors
/// As for [`discrepancy`], or no subset at all.
///
/// # Panics
/// If an index is not that of a row.
pub fn distance_of<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    kernel: Kernel,
    subsets: impl IntoIterator<Item = (Vec<usize>, Vec<usize>)>,
) -> Result<KernelDistance, EvalError> {
    let mut values = Vec::new();
    let mut subset_size = 0;
    for (left, right) in subsets {
        subset_size = left.len();
        let (left, right) = (a.select(&left), b.select(&right));
        let (left, right) = (Rows::new(&left, a.dim())?, Rows::new(&right, b.dim())?);
        values.push(discrepancy(left, right, kernel)?.unbiased);
    }
    of_subsets(&values, subset_size)
}

/// The same of subsets of `a`, each against all of `b`, of which `within` is known.
///
/// # Errors
/// As for [`distance_of`].
///
/// # Panics
/// As [`discrepancy_from`], and if an index is not that of a row.
pub fn distance_from<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    within: &Within,
    subsets: impl IntoIterator<Item = Vec<usize>>,
) -> Result<KernelDistance, EvalError> {
    let mut values = Vec::new();
    let mut subset_size = 0;
    for subset in subsets {
        subset_size = subset.len();
        let rows = a.select(&subset);
        let found = discrepancy_from(Rows::new(&rows, a.dim())?, b, within)?;
        values.push(found.unbiased);
    }
    of_subsets(&values, subset_size)
}

/// Mean and deviation of the discrepancies of subsets.
fn of_subsets(values: &[f64], subset_size: usize) -> Result<KernelDistance, EvalError> {
    if values.is_empty() {
        return Err(EvalError::TooFew {
            what: "subsets".into(),
            found: 0,
            needed: 1,
            why: String::new(),
        });
    }
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / count;
    Ok(KernelDistance {
        mean,
        deviation: square.sqrt(),
        subset_size,
    })
}

/// CMMD's kernel: a Gaussian of width [`CMMD_SIGMA`] (arXiv 2401.09603).
pub const CMMD: Kernel = Kernel::Gaussian { sigma: CMMD_SIGMA };

/// CMMD (arXiv 2401.09603): the discrepancy of [the kernel of that name](CMMD), times [`CMMD_SCALE`]. The published
/// code computes the biased one. It is meant for CLIP's image features brought to unit length; rows are taken as they are.
///
/// # Errors
/// As for [`discrepancy`].
pub fn cmmd<T: Copy + Into<f64>>(a: Rows<'_, T>, b: Rows<'_, T>) -> Result<Discrepancy, EvalError> {
    cmmd_from(a, b, &Within::of("the second set", b, CMMD)?)
}

/// The same from rows `b` of which `within` is known, by [`CMMD`].
///
/// # Errors
/// As for [`discrepancy`].
///
/// # Panics
/// As [`discrepancy_from`].
pub fn cmmd_from<T: Copy + Into<f64>>(
    a: Rows<'_, T>,
    b: Rows<'_, T>,
    within: &Within,
) -> Result<Discrepancy, EvalError> {
    let found = discrepancy_from(a, b, within)?;
    Ok(Discrepancy {
        unbiased: CMMD_SCALE * found.unbiased,
        biased: CMMD_SCALE * found.biased,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(count: usize, seed: u64) -> Vec<f32> {
        Stream::new(seed, Purpose::Noise, 0, 0).normal(count)
    }

    /// The definition, pair by pair.
    fn by_hand(
        a: &[f64],
        b: &[f64],
        dim: usize,
        kernel: impl Fn(&[f64], &[f64]) -> f64,
    ) -> [f64; 2] {
        let (a, b): (Vec<_>, Vec<_>) = (a.chunks(dim).collect(), b.chunks(dim).collect());
        let (mut unbiased, mut biased) = (0.0, 0.0);
        for rows in [&a, &b] {
            let count = rows.len() as f64;
            for (i, x) in rows.iter().enumerate() {
                for (j, y) in rows.iter().enumerate() {
                    let value = kernel(x, y);
                    biased += value / (count * count);
                    unbiased += if i == j {
                        0.0
                    } else {
                        value / (count * (count - 1.0))
                    };
                }
            }
        }
        let across: f64 = a
            .iter()
            .flat_map(|x| b.iter().map(|y| kernel(x, y)).collect::<Vec<_>>())
            .sum();
        let across = 2.0 * across / (a.len() * b.len()) as f64;
        [unbiased - across, biased - across]
    }

    #[test]
    fn both_kernels_are_their_definitions() {
        let a: Vec<f64> = normal(7 * 3, 0).into_iter().map(f64::from).collect();
        let b: Vec<f64> = normal(5 * 3, 1)
            .into_iter()
            .map(|x| f64::from(x) * 2.0 + 1.0)
            .collect();
        let (rows_a, rows_b) = (Rows::new(&a, 3).unwrap(), Rows::new(&b, 3).unwrap());
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        let polynomial = by_hand(&a, &b, 3, |x, y| (dot(x, y) / 3.0 + 1.0).powi(3));
        let gaussian = by_hand(&a, &b, 3, |x, y| {
            let square: f64 = x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum();
            1000.0 * (-square / 200.0).exp()
        });
        let kid = discrepancy(rows_a, rows_b, Kernel::kid(3)).unwrap();
        let cmmd = cmmd(rows_a, rows_b).unwrap();
        for (found, expected) in [(kid, polynomial), (cmmd, gaussian)] {
            assert!(
                (found.unbiased - expected[0]).abs() < 1e-9 * expected[0].abs(),
                "{found:?} {expected:?}"
            );
            assert!(
                (found.biased - expected[1]).abs() < 1e-9 * expected[1].abs(),
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn more_rows_than_a_block_are_the_same_as_in_one() {
        let a = normal(1500 * 2, 3);
        let b = normal(1100 * 2, 4);
        let (rows_a, rows_b) = (Rows::new(&a, 2).unwrap(), Rows::new(&b, 2).unwrap());
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        let expected = by_hand(&wide(&a), &wide(&b), 2, |x, y| {
            ((x[0] * y[0] + x[1] * y[1]) / 2.0 + 1.0).powi(3)
        });
        let found = discrepancy(rows_a, rows_b, Kernel::kid(2)).unwrap();
        assert!(
            (found.unbiased - expected[0]).abs() < 1e-10,
            "{found:?} {expected:?}"
        );
        assert!(
            (found.biased - expected[1]).abs() < 1e-10,
            "{found:?} {expected:?}"
        );
    }

    #[test]
    fn between_equal_distributions_the_unbiased_mean_is_zero() {
        let (repeats, count) = (400u64, 30);
        let (mut sum, mut squares, mut biased) = (0.0, 0.0, 0.0);
        for seed in 0..repeats {
            let (a, b) = (normal(count * 4, 2 * seed), normal(count * 4, 2 * seed + 1));
            let (a, b) = (Rows::new(&a, 4).unwrap(), Rows::new(&b, 4).unwrap());
            let found = discrepancy(a, b, Kernel::kid(4)).unwrap();
            sum += found.unbiased;
            squares += found.unbiased.powi(2);
            biased += found.biased;
        }
        let error = (squares / repeats as f64).sqrt() / (repeats as f64).sqrt();
        let mean = sum / repeats as f64;
        assert!(
            mean.abs() < 4.0 * error,
            "{mean} with standard error {error}"
        );
        // Leaving the diagonal in would be far outside.
        assert!(biased / repeats as f64 > 20.0 * error);
    }

    #[test]
    fn subsets_hold_no_row_twice_and_depend_on_the_seed_alone() {
        let (a, b) = (normal(50 * 3, 0), normal(40 * 3, 1));
        let (a, b) = (Rows::new(&a, 3).unwrap(), Rows::new(&b, 3).unwrap());
        let found = distance(a, b, 7).unwrap();
        assert_eq!(found.subset_size, 40);
        assert_eq!(distance(a, b, 7).unwrap(), found);
        assert_ne!(distance(a, b, 8).unwrap(), found);
        // Sides of one size have one subset: every draw is all rows.
        let all = distance(a.range(0..40), b, 7).unwrap();
        let once = discrepancy(a.range(0..40), b, Kernel::kid(3))
            .unwrap()
            .unbiased;
        assert!((all.mean - once).abs() < 1e-12 && all.deviation < 1e-12);
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let values = normal(6, 0);
        let two = |dim| Rows::new(&values, dim).unwrap();
        assert!(discrepancy(two(3), two(2), Kernel::kid(3)).is_err());
        let text = discrepancy(two(6), two(6), Kernel::kid(6))
            .unwrap_err()
            .to_string();
        assert!(text.contains("1 pictures, at least 2"), "{text}");
    }
}
