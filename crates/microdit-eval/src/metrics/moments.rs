//! Mean and covariance, as features arrive.

use crate::{error::EvalError, features::Rows};
use faer::{Accum, Mat, MatRef, linalg::matmul::triangular};

/// Rows that are added at a time: enough for a matrix product, few enough to stay in memory.
const CHUNK: usize = 1024;

/// Mean and scatter of rows that were seen, in f64. Two of them can be merged, so that parts of a dataset are read apart
/// (Chan, Golub and LeVeque 1979): nothing is summed up whose size could drown the differences.
#[derive(Clone, Debug)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Sum of the outer products of the differences with the mean; its lower triangle.
    scatter: Mat<f64>,
}

impl Moments {
    /// Of no rows of `dim` numbers.
    pub fn new(dim: usize) -> Self {
        Self {
            count: 0,
            mean: vec![0.0; dim],
            scatter: Mat::zeros(dim, dim),
        }
    }

    /// Of these rows.
    pub fn of<T: Copy + Into<f64>>(rows: Rows<'_, T>) -> Self {
        let mut moments = Self::new(rows.dim());
        moments.add_all(rows);
        moments
    }

    /// Rows seen.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Their mean.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn add<T: Copy + Into<f64>>(&mut self, rows: Rows<'_, T>) -> Result<(), EvalError> {
        rows.check_dim("a row", self.mean.len())?;
        self.add_all(rows);
        Ok(())
    }

    fn add_all<T: Copy + Into<f64>>(&mut self, rows: Rows<'_, T>) {
        let dim = self.mean.len();
        let mut values = Vec::new();
        for begin in (0..rows.len()).step_by(CHUNK) {
            let chunk = rows.range(begin..rows.len().min(begin + CHUNK));
            chunk.read_into(&mut values);
            let mut mean = vec![0.0; dim];
            for row in values.chunks_exact(dim) {
                mean.iter_mut()
                    .zip(row)
                    .for_each(|(sum, value)| *sum += value);
            }
            mean.iter_mut().for_each(|sum| *sum /= chunk.len() as f64);
            for row in values.chunks_exact_mut(dim) {
                row.iter_mut()
                    .zip(&mean)
                    .for_each(|(value, mean)| *value -= mean);
            }
            self.shift_to(chunk.len(), &mean);
            let differences = MatRef::from_row_major_slice(&values, chunk.len(), dim);
            self.add_outer(differences);
        }
    }

    /// Adds the rows another has seen.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn merge(&mut self, other: &Self) -> Result<(), EvalError> {
        if other.mean.len() != self.mean.len() {
            return Err(EvalError::Dimension {
                what: "what is merged".into(),
                found: other.mean.len(),
                expected: self.mean.len(),
            });
        }
        if other.count > 0 {
            self.shift_to(other.count, &other.mean);
            self.scatter += &other.scatter;
        }
        Ok(())
    }

    /// Moves the mean by `count` rows whose mean is `mean`, and counts what lies between both means.
    fn shift_to(&mut self, count: usize, mean: &[f64]) {
        let total = self.count + count;
        let share = count as f64 / total as f64;
        let between = (self.count as f64 * share).sqrt();
        let differences: Vec<f64> = mean
            .iter()
            .zip(&self.mean)
            .map(|(new, old)| new - old)
            .collect();
        self.mean
            .iter_mut()
            .zip(&differences)
            .for_each(|(mean, d)| *mean += d * share);
        self.count = total;
        let outer: Vec<f64> = differences.iter().map(|d| d * between).collect();
        self.add_outer(MatRef::from_row_major_slice(&outer, 1, outer.len()));
    }

    /// Adds the product of the transpose of `rows` with `rows`.
    fn add_outer(&mut self, rows: MatRef<'_, f64>) {
        use triangular::BlockStructure::{Rectangular, TriangularLower};
        triangular::matmul(
            self.scatter.as_mut(),
            TriangularLower,
            Accum::Add,
            rows.transpose(),
            Rectangular,
            rows,
            Rectangular,
            1.0,
            faer::get_global_parallelism(),
        );
    }

    /// The Gaussian of that mean and covariance (divided by one less than the number of rows, as NumPy does).
    ///
    /// # Errors
    /// Fewer than two rows, which have no covariance.
    pub fn gaussian(&self) -> Result<Gaussian, EvalError> {
        if self.count < 2 {
            return Err(EvalError::TooFew {
                what: "covariance".into(),
                found: self.count,
                needed: 2,
                why: String::new(),
            });
        }
        let dim = self.mean.len();
        let divisor = (self.count - 1) as f64;
        let covariance = Mat::from_fn(dim, dim, |i, j| {
            self.scatter[(i.max(j), i.min(j))] / divisor
        });
        Ok(Gaussian {
            mean: self.mean.clone(),
            covariance,
            samples: Some(self.count),
        })
    }
}

/// A Gaussian over features: what the Fréchet distance sees of a set of pictures.
#[derive(Clone, Debug)]
pub struct Gaussian {
    /// Its mean.
    pub mean: Vec<f64>,
    /// Its covariance, symmetric.
    pub covariance: Mat<f64>,
    /// Pictures it was estimated from, where known.
    pub samples: Option<usize>,
}

impl Gaussian {
    /// Checks that this can be a reference, to which pictures are compared.
    ///
    /// # Errors
    /// No more pictures than features, where their number is known: their covariance is singular whatever the data are, and a
    /// distance to it says more about the missing pictures than about those compared.
    pub fn check_reference(&self) -> Result<(), EvalError> {
        let dim = self.mean.len();
        match self.samples {
            Some(found) if found <= dim => Err(EvalError::TooFew {
                what: "the reference".into(),
                found,
                needed: dim + 1,
                why: format!(" for a covariance of {dim} features, better several times as many"),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::rng::{Purpose, Stream};

    fn data(count: usize, dim: usize) -> Vec<f32> {
        let mut values = Stream::new(0, Purpose::Noise, 0, 0).normal(count * dim);
        values
            .iter_mut()
            .for_each(|value| *value = *value * 2.0 + 1000.0);
        values
    }

    /// The textbook formula, in two passes.
    fn covariance(values: &[f32], dim: usize) -> Mat<f64> {
        let rows: Vec<&[f32]> = values.chunks(dim).collect();
        let count = rows.len() as f64;
        let mean = |j: usize| rows.iter().map(|row| f64::from(row[j])).sum::<f64>() / count;
        let means: Vec<f64> = (0..dim).map(mean).collect();
        Mat::from_fn(dim, dim, |i, j| {
            let product =
                |row: &&[f32]| (f64::from(row[i]) - means[i]) * (f64::from(row[j]) - means[j]);
            rows.iter().map(product).sum::<f64>() / (count - 1.0)
        })
    }

    #[test]
    fn in_one_go_in_pieces_and_merged_they_are_the_textbook_covariance() {
        let (count, dim) = (2 * CHUNK + 17, 5);
        let values = data(count, dim);
        let expected = covariance(&values, dim);
        let rows = Rows::new(&values, dim).unwrap();
        let whole = Moments::of(rows);
        let mut pieces = Moments::new(dim);
        for range in [0..1, 1..40, 40..count] {
            pieces.add(rows.range(range)).unwrap();
        }
        let mut merged = Moments::of(rows.range(0..100));
        merged.merge(&Moments::new(dim)).unwrap();
        merged.merge(&Moments::of(rows.range(100..count))).unwrap();
        for moments in [whole, pieces, merged] {
            assert_eq!(moments.count(), count);
            let found = moments.gaussian().unwrap();
            let error = (&found.covariance - &expected).norm_max();
            // A mean of 1000 would cost a sum of squares six of its sixteen digits.
            assert!(error < 1e-11, "{error}");
            let symmetric = (&found.covariance - found.covariance.transpose()).norm_max();
            assert_eq!(symmetric, 0.0);
        }
    }

    #[test]
    fn too_few_rows_are_errors_that_say_how_many_would_do() {
        let values = data(4, 4);
        let moments = Moments::of(Rows::new(&values, 4).unwrap());
        let text = moments
            .gaussian()
            .unwrap()
            .check_reference()
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("the reference: 4 pictures, at least 5 are needed"),
            "{text}"
        );
        assert!(
            Moments::of(Rows::new(&values[..4], 4).unwrap())
                .gaussian()
                .is_err()
        );
        let mut other = Moments::new(3);
        assert!(
            other.merge(&moments).is_err() && other.add(Rows::new(&values, 4).unwrap()).is_err()
        );
    }
}
