//! The Fréchet distance between two sets of features, taken as Gaussians: FID and its kin.

use super::{Gaussian, Moments};
use crate::{
    error::EvalError,
    features::Rows,
    statistics::{Groups, Jackknife, jackknife},
};
use faer::{Mat, Side};
use microdit::rng::{Purpose, Stream};

/// A covariance may have eigenvalues this far below zero, in units of the largest: files hold it in 32 bits.
const ROUNDING: f64 = 1e-5;

/// Numbers of pictures from which [`infinite`] extrapolates, and the fewest of them, as published.
const POINTS: usize = 15;
const FEWEST: usize = 5000;

/// Distances to one Gaussian, whose covariance is decomposed once.
#[derive(Clone, Debug)]
pub struct Reference {
    mean: Vec<f64>,
    trace: f64,
    root: Mat<f64>,
}

impl Reference {
    /// Decomposes the covariance.
    ///
    /// # Errors
    /// A matrix that is no covariance.
    pub fn new(gaussian: &Gaussian) -> Result<Self, EvalError> {
        Ok(Self {
            mean: gaussian.mean.clone(),
            trace: trace(&gaussian.covariance),
            root: root(&gaussian.covariance)?,
        })
    }

    /// `|m1 - m2|^2 + tr(S1 + S2 - 2 sqrt(S1 S2))`, equation 6 of arXiv 1706.08500.
    ///
    /// The trace of the square root is the sum of the singular values of `R1 R2^T`, where `R^T R` is a covariance. That is
    /// exact for singular matrices, where the square root of the product `S1 S2`, which pytorch-fid takes, fails and is
    /// helped by adding to the diagonal, and where the eigenvalues of `R1 S2 R1^T` are known to half of the digits only.
    /// Elsewhere all three agree.
    ///
    /// # Errors
    /// A Gaussian over other features, or a matrix that is no covariance.
    pub fn distance(&self, gaussian: &Gaussian) -> Result<f64, EvalError> {
        if gaussian.mean.len() != self.mean.len() {
            return Err(EvalError::Dimension {
                what: "the Gaussian".into(),
                found: gaussian.mean.len(),
                expected: self.mean.len(),
            });
        }
        let product = &self.root * root(&gaussian.covariance)?.transpose();
        let singular = product.singular_values();
        let singular =
            singular.map_err(|_| EvalError::NoConvergence("singular value decomposition"))?;
        let between = self
            .mean
            .iter()
            .zip(&gaussian.mean)
            .map(|(a, b)| (a - b).powi(2));
        let distance = between.sum::<f64>() + self.trace + trace(&gaussian.covariance)
            - 2.0 * singular.iter().sum::<f64>();
        // Rounding can leave a distance of zero just below it.
        Ok(distance.max(0.0))
    }

    /// The distance with its standard error over the pictures compared; the reference is taken as it is.
    ///
    /// # Errors
    /// As for [`Self::distance`], or groups of another number of pictures.
    ///
    /// # Panics
    /// If the groups were drawn for another number of rows.
    pub fn jackknife<T: Copy + Into<f64>>(
        &self,
        rows: Rows<'_, T>,
        groups: &Groups,
    ) -> Result<Jackknife, EvalError> {
        assert_eq!(groups.samples(), rows.len(), "groups of these rows");
        let of = |members: &[usize]| {
            let values = rows.select(members);
            Rows::new(&values, rows.dim()).map(Moments::of)
        };
        let parts: Vec<Moments> = (0..groups.count())
            .map(|group| of(groups.members(group)))
            .collect::<Result<_, _>>()?;
        let rest = of(groups.rest())?;
        jackknife(groups, |left_out| {
            let mut moments = rest.clone();
            for (_, part) in parts
                .iter()
                .enumerate()
                .filter(|(group, _)| *group != left_out)
            {
                moments.merge(part)?;
            }
            self.distance(&moments.gaussian()?)
        })
    }
}

/// The Fréchet distance of two Gaussians; [`Reference`] where one of them is compared with several.
///
/// # Errors
/// Gaussians over other features, or matrices that are no covariances.
pub fn distance(a: &Gaussian, b: &Gaussian) -> Result<f64, EvalError> {
    Reference::new(a)?.distance(b)
}

/// A distance extrapolated to infinitely many pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Infinite {
    /// The value there.
    pub value: f64,
    /// How far the value is from a line through all points, as a standard error; that other pictures would give another line is
    /// not in it.
    pub standard_error: f64,
    /// Numbers of pictures, and the distances of as many of them.
    pub points: Vec<(usize, f64)>,
}

/// The distance without its bias (arXiv 1911.07023). A covariance of `n` pictures makes the distance too large by about
/// `slope / n`, with a slope that differs between models, so that a line through distances of several subsets against `1 / n`
/// is followed to zero. Fifteen numbers of pictures at equal distances from 5,000 (or a tenth of all, if that is less, but more than there are features) to all,
/// each a subset of its own, drawn without replacement.
///
/// # Errors
/// As for [`Reference::distance`]; fewer than thirty pictures, or than twice as many as features.
pub fn infinite<T: Copy + Into<f64>>(
    reference: &Reference,
    rows: Rows<'_, T>,
    seed: u64,
) -> Result<Infinite, EvalError> {
    let all = rows.len();
    let needed = 2 * POINTS.max(rows.dim() + 1);
    if all < needed {
        return Err(EvalError::TooFew {
            what: "extrapolation to infinitely many pictures".into(),
            found: all,
            needed,
            why: format!(" for {} features", rows.dim()),
        });
    }
    // With fewer pictures than features, the bias is not linear.
    let fewest = FEWEST.min((all / 10).max(rows.dim() + 1));
    let mut points = Vec::with_capacity(POINTS);
    for point in 0..POINTS {
        let count = fewest + (all - fewest) * point / (POINTS - 1);
        let mut order: Vec<usize> = (0..all).collect();
        Stream::new(seed, Purpose::Subset, point as u64, 0).shuffle(&mut order);
        let values = rows.select(&order[..count]);
        let gaussian = Moments::of(Rows::new(&values, rows.dim())?).gaussian()?;
        points.push((count, reference.distance(&gaussian)?));
    }
    let (value, standard_error) = intercept(&points);
    Ok(Infinite {
        value,
        standard_error,
        points,
    })
}

/// Where the line of least squares through distances against `1 / n` meets zero, with its standard error.
fn intercept(points: &[(usize, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let pairs = || points.iter().map(|&(n, y)| (1.0 / n as f64, y));
    let mean_x = pairs().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = pairs().map(|(_, y)| y).sum::<f64>() / count;
    let spread = pairs().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>();
    let slope = pairs()
        .map(|(x, y)| (x - mean_x) * (y - mean_y))
        .sum::<f64>()
        / spread;
    let value = mean_y - slope * mean_x;
    let left = pairs()
        .map(|(x, y)| (y - value - slope * x).powi(2))
        .sum::<f64>()
        / (count - 2.0);
    (
        value,
        (left * (1.0 / count + mean_x * mean_x / spread)).sqrt(),
    )
}

/// A matrix `R` with `R^T R` equal to the covariance: eigenvectors, scaled. What rounding makes of a singular covariance's
/// zeros counts as zero.
fn root(covariance: &Mat<f64>) -> Result<Mat<f64>, EvalError> {
    let decomposed = covariance
        .self_adjoint_eigen(Side::Lower)
        .map_err(|_| EvalError::NoConvergence("eigendecomposition"))?;
    let values = decomposed.S().column_vector();
    let (mut smallest, mut largest) = (0.0f64, 0.0f64);
    for &value in values.iter() {
        smallest = smallest.min(value);
        largest = largest.max(value);
    }
    if smallest < -ROUNDING * largest {
        return Err(EvalError::NotPositive { smallest, largest });
    }
    let dim = covariance.nrows();
    let noise = dim as f64 * f64::EPSILON * largest;
    let vectors = decomposed.U();
    Ok(Mat::from_fn(dim, dim, |i, j| match values[i] > noise {
        true => values[i].sqrt() * vectors[(j, i)],
        false => 0.0,
    }))
}

fn trace(matrix: &Mat<f64>) -> f64 {
    (0..matrix.nrows()).map(|i| matrix[(i, i)]).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(mean: &[f64], covariance: Mat<f64>) -> Gaussian {
        Gaussian {
            mean: mean.to_vec(),
            covariance,
            samples: None,
        }
    }

    /// A rotation of `dim` dimensions: orthogonalized noise.
    fn rotation(dim: usize) -> Mat<f64> {
        let noise = Stream::new(5, Purpose::Noise, 0, 0).normal(dim * dim);
        Mat::from_fn(dim, dim, |i, j| f64::from(noise[i * dim + j]))
            .qr()
            .compute_Q()
    }

    fn rotated(rotation: &Mat<f64>, values: &[f64]) -> Mat<f64> {
        let dim = values.len();
        let diagonal = Mat::from_fn(dim, dim, |i, j| if i == j { values[i] } else { 0.0 });
        let product = rotation * diagonal * rotation.transpose();
        Mat::from_fn(dim, dim, |i, j| 0.5 * (product[(i, j)] + product[(j, i)]))
    }

    #[test]
    fn gaussians_with_common_axes_have_a_closed_form() {
        // Sum of (sqrt(a) - sqrt(b))^2 over the axes, with and without directions that do not vary.
        let rotation = rotation(40);
        let a: Vec<f64> = (0..40)
            .map(|i| if i % 3 == 0 { 0.0 } else { 1.5f64.powi(i - 30) })
            .collect();
        let b: Vec<f64> = (0..40)
            .map(|i| {
                if i % 4 == 0 {
                    0.0
                } else {
                    100.0 / (i + 1) as f64
                }
            })
            .collect();
        let means = [vec![0.0; 40], (0..40).map(|i| 0.1 * f64::from(i)).collect()];
        let expected: f64 = a
            .iter()
            .zip(&b)
            .map(|(a, b)| (a.sqrt() - b.sqrt()).powi(2))
            .sum::<f64>()
            + means[1].iter().map(|m| m * m).sum::<f64>();
        let a = gaussian(&means[0], rotated(&rotation, &a));
        let b = gaussian(&means[1], rotated(&rotation, &b));
        for (a, b) in [(&a, &b), (&b, &a)] {
            let found = distance(a, b).unwrap();
            assert!(
                (found - expected).abs() < 1e-10 * expected,
                "{found} {expected}"
            );
        }
        assert!(distance(&a, &a).unwrap() < 1e-10);
    }

    #[test]
    fn two_dimensions_have_a_closed_form_whatever_the_axes() {
        // tr sqrt(S1 S2) = sqrt(tr(S1 S2) + 2 sqrt(det S1 det S2)).
        let a = faer::mat![[2.0, 0.7], [0.7, 1.0]];
        let b = faer::mat![[0.5, -0.3], [-0.3, 4.0]];
        let determinant = |m: &Mat<f64>| m[(0, 0)] * m[(1, 1)] - m[(0, 1)] * m[(1, 0)];
        let product = &a * &b;
        let root = (trace(&product) + 2.0 * (determinant(&a) * determinant(&b)).sqrt()).sqrt();
        let expected = trace(&a) + trace(&b) - 2.0 * root;
        let found = distance(&gaussian(&[0.0; 2], a), &gaussian(&[0.0; 2], b)).unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    fn samples(count: usize, dim: usize, seed: u64, scale: f32) -> Vec<f32> {
        let noise = Stream::new(seed, Purpose::Noise, 0, 0).normal(count * dim);
        noise.into_iter().map(|value| value * scale).collect()
    }

    #[test]
    fn extrapolation_removes_the_bias() {
        // Between equal distributions the distance is nothing but bias.
        let standard = gaussian(&[0.0; 8], Mat::identity(8, 8));
        let reference = Reference::new(&standard).unwrap();
        let values = samples(2000, 8, 1, 1.0);
        let rows = Rows::new(&values, 8).unwrap();
        let biased = reference
            .distance(&Moments::of(rows).gaussian().unwrap())
            .unwrap();
        let found = infinite(&reference, rows, 0).unwrap();
        assert_eq!(found.points.len(), 15);
        assert_eq!((found.points[0].0, found.points[14].0), (200, 2000));
        assert!((found.points[14].1 - biased).abs() < 1e-9);
        assert!(found.value.abs() < 0.4 * biased, "{} {biased}", found.value);
        assert!(infinite(&reference, rows.range(0..29), 0).is_err());
    }

    #[test]
    fn a_line_is_followed_exactly() {
        let points: Vec<(usize, f64)> =
            [10, 20, 50, 80].map(|n| (n, 3.0 + 7.0 / n as f64)).to_vec();
        let (value, error) = intercept(&points);
        assert!((value - 3.0).abs() < 1e-13 && error < 1e-13);
        // y = (1, 2, 2) at x = (1, 1/2, 1/3), by hand.
        let (value, error) = intercept(&[(1, 1.0), (2, 2.0), (3, 2.0)]);
        assert!(
            (value - 69.0 / 26.0).abs() < 1e-12 && (error - 7.0 / 26.0).abs() < 1e-12,
            "{value} {error}"
        );
    }

    #[test]
    fn the_jackknife_is_the_scatter_of_repeated_draws() {
        let reference = Reference::new(&gaussian(&[1.0; 3], Mat::identity(3, 3))).unwrap();
        let groups = Groups::draw(300, 20, &mut Stream::new(0, Purpose::Subset, 0, 0)).unwrap();
        let (mut values, mut squares) = (Vec::new(), 0.0);
        let repeats = 200;
        for seed in 0..repeats {
            let drawn = samples(300, 3, seed, 2.0);
            let rows = Rows::new(&drawn, 3).unwrap();
            values.push(
                reference
                    .distance(&Moments::of(rows).gaussian().unwrap())
                    .unwrap(),
            );
            squares += reference
                .jackknife(rows, &groups)
                .unwrap()
                .standard_error
                .powi(2);
        }
        let mean = values.iter().sum::<f64>() / repeats as f64;
        let variance =
            values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (repeats - 1) as f64;
        let ratio = squares / repeats as f64 / variance;
        // Both variances are known to about 10 % of themselves.
        assert!((0.7..1.4).contains(&ratio), "{ratio}");
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        let good = gaussian(&[0.0; 2], Mat::identity(2, 2));
        let bad = gaussian(&[0.0; 2], faer::mat![[1.0, 2.0], [2.0, 1.0]]);
        let text = distance(&good, &bad).unwrap_err().to_string();
        assert!(text.contains("it is no covariance"), "{text}");
        assert!(distance(&good, &gaussian(&[0.0; 3], Mat::identity(3, 3))).is_err());
    }
}
