//! Precision, recall, density and coverage: who lies among whose nearest neighbours.

use super::blocks;
use crate::{error::EvalError, features::Rows};

/// Neighbours that make a ball, as dgm-eval and the paper on density and coverage have it; the paper on precision and recall
/// has 3.
pub const NEIGHBOURS: usize = 5;

/// Four shares. Precision and recall are those of arXiv 1904.06991, density and coverage those of arXiv 2002.09797.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prdc {
    /// Share of pictures that lie in the ball of some picture of the reference.
    pub precision: f64,
    /// Share of the reference that lies in the ball of some picture.
    pub recall: f64,
    /// Mean number of balls of the reference a picture lies in, over `k`. Can exceed 1.
    pub density: f64,
    /// Share of the reference whose ball has a picture in it.
    pub coverage: f64,
}

/// The balls of a set of rows, each of which reaches to the `k`-th nearest other row in Euclidean distance.
#[derive(Clone, Debug)]
pub struct Balls {
    k: usize,
    /// The squared length of every row.
    squares: Vec<f64>,
    /// The squared radius of every ball.
    radii: Vec<f64>,
}

impl Balls {
    /// Of these rows, which errors call `what`.
    ///
    /// # Errors
    /// No more than `k` rows.
    ///
    /// # Panics
    /// If `k` is zero.
    pub fn of<T: Copy + Into<f64>>(
        what: &str,
        rows: Rows<'_, T>,
        k: usize,
    ) -> Result<Self, EvalError> {
        assert!(k > 0, "a ball reaches to at least one neighbour");
        if rows.len() <= k {
            return Err(EvalError::TooFew {
                what: what.into(),
                found: rows.len(),
                needed: k + 1,
                why: format!(" for balls that reach to the neighbour number {k}"),
            });
        }
        let squares = rows.squares();
        let radii = radii(rows, &squares, k);
        Ok(Self { k, squares, radii })
    }
}

/// Compares pictures with a reference, by the [balls](Balls) of both; what lies on the surface of one is outside.
///
/// # Errors
/// Rows of different sizes, or no more than `k` on a side.
///
/// # Panics
/// If `k` is zero.
pub fn prdc<T: Copy + Into<f64>>(
    reference: Rows<'_, T>,
    pictures: Rows<'_, T>,
    k: usize,
) -> Result<Prdc, EvalError> {
    let balls = Balls::of("the reference", reference, k)?;
    prdc_among(reference, &balls, pictures)
}

/// The same with a reference whose balls are known.
///
/// # Errors
/// As for [`prdc`].
///
/// # Panics
/// If the balls are those of another number of rows.
pub fn prdc_among<T: Copy + Into<f64>>(
    reference: Rows<'_, T>,
    balls: &Balls,
    pictures: Rows<'_, T>,
) -> Result<Prdc, EvalError> {
    assert_eq!(balls.radii.len(), reference.len(), "balls of these rows");
    pictures.check_dim("the pictures", reference.dim())?;
    let k = balls.k;
    let own = Balls::of("the pictures", pictures, k)?;
    let squares = [&balls.squares, &own.squares];
    let radii = [&balls.radii, &own.radii];
    let mut balls_around = vec![0usize; pictures.len()];
    let mut in_a_ball = vec![false; reference.len()];
    let mut covered = vec![false; reference.len()];
    blocks::across(reference, pictures, |block| {
        for (column, picture) in block.columns().zip(block.right..) {
            for (&product, row) in column.iter().zip(block.left..) {
                let distance = squares[0][row] + squares[1][picture] - 2.0 * product;
                if distance < radii[0][row] {
                    balls_around[picture] += 1;
                    covered[row] = true;
                }
                in_a_ball[row] |= distance < radii[1][picture];
            }
        }
    });
    let share =
        |flags: &[bool]| flags.iter().filter(|&&flag| flag).count() as f64 / flags.len() as f64;
    let count = pictures.len() as f64;
    Ok(Prdc {
        precision: balls_around.iter().filter(|&&balls| balls > 0).count() as f64 / count,
        recall: share(&in_a_ball),
        density: balls_around.iter().sum::<usize>() as f64 / (k as f64 * count),
        coverage: share(&covered),
    })
}

/// The squared distance of each row to its `k`-th nearest other row.
fn radii<T: Copy + Into<f64>>(rows: Rows<'_, T>, squares: &[f64], k: usize) -> Vec<f64> {
    let mut nearest = vec![f64::INFINITY; rows.len() * k];
    let mut offer = |row: usize, distance: f64| {
        let nearest = &mut nearest[row * k..][..k];
        if distance < nearest[k - 1] {
            let place = nearest.partition_point(|&near| near <= distance);
            nearest[place..].rotate_right(1);
            nearest[place] = distance;
        }
    };
    blocks::within(rows, |block| {
        let diagonal = block.left == block.right;
        for (column, right) in block.columns().zip(block.right..) {
            for (&product, left) in column.iter().zip(block.left..) {
                let distance = (squares[left] + squares[right] - 2.0 * product).max(0.0);
                if left != right {
                    offer(left, distance);
                }
                if !diagonal {
                    offer(right, distance);
                }
            }
        }
    });
    nearest
        .chunks_exact(k)
        .map(|nearest| nearest[k - 1])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::rng::{Purpose, Stream};

    #[test]
    fn points_on_a_line() {
        // With k = 1 the balls of 0 and 1 reach 1, that of 10 reaches 9.
        let reference = [0.0, 1.0, 10.0];
        // 0.5 lies in the balls of 0 and 1, 1.5 and 1.75 in those of 1 and 10, 30 in none.
        let pictures = [0.5, 1.5, 1.75, 30.0];
        let found = prdc(
            Rows::new(&reference, 1).unwrap(),
            Rows::new(&pictures, 1).unwrap(),
            1,
        )
        .unwrap();
        assert_eq!(found.precision, 0.75);
        assert_eq!(found.density, (2.0 + 2.0 + 2.0) / 4.0);
        assert_eq!(found.coverage, 1.0);
        // The balls of 0.5, 1.5, 1.75 and 30 reach 1, 0.25, 0.25 and 28.25: 0 and 1 lie in the first, 10 in the last.
        assert_eq!(found.recall, 1.0);
    }

    #[test]
    fn the_surface_is_outside_and_a_row_is_no_neighbour_of_itself() {
        let reference = [0.0, 2.0, 4.0];
        let pictures = [-2.0, 6.0, 100.0];
        let found = prdc(
            Rows::new(&reference, 1).unwrap(),
            Rows::new(&pictures, 1).unwrap(),
            1,
        )
        .unwrap();
        // -2 and 6 lie exactly on the surface of balls of radius 2.
        assert_eq!(
            (found.precision, found.density, found.coverage),
            (0.0, 0.0, 0.0)
        );
        // The balls of -2, 6 and 100 reach 8, 8 and 94.
        assert_eq!(found.recall, 1.0);
        // The other way round, the surface is that of the pictures' balls.
        let found = prdc(
            Rows::new(&pictures, 1).unwrap(),
            Rows::new(&reference, 1).unwrap(),
            1,
        )
        .unwrap();
        assert_eq!((found.recall, found.precision), (0.0, 1.0));
    }

    /// The definition, with a full matrix of distances and sorting.
    fn by_hand(reference: &[f64], pictures: &[f64], dim: usize, k: usize) -> [f64; 4] {
        let (reference, pictures): (Vec<_>, Vec<_>) = (
            reference.chunks(dim).collect(),
            pictures.chunks(dim).collect(),
        );
        let distance = |a: &[f64], b: &[f64]| {
            a.iter()
                .zip(b)
                .map(|(a, b)| (a - b).powi(2))
                .sum::<f64>()
                .sqrt()
        };
        let radii = |rows: &[&[f64]]| -> Vec<f64> {
            let radius = |(i, a): (usize, &&[f64])| {
                let others = rows.iter().enumerate().filter(|(j, _)| *j != i);
                let mut all: Vec<f64> = others.map(|(_, b)| distance(a, b)).collect();
                all.sort_by(f64::total_cmp);
                all[k - 1]
            };
            rows.iter().enumerate().map(radius).collect()
        };
        let (of_reference, of_pictures) = (radii(&reference), radii(&pictures));
        let inside = |i: usize, j: usize, radius: f64| distance(reference[i], pictures[j]) < radius;
        let (n, m) = (reference.len(), pictures.len());
        let share = |count: usize, of: usize| count as f64 / of as f64;
        let precision = (0..m)
            .filter(|&j| (0..n).any(|i| inside(i, j, of_reference[i])))
            .count();
        let recall = (0..n)
            .filter(|&i| (0..m).any(|j| inside(i, j, of_pictures[j])))
            .count();
        let coverage = (0..n)
            .filter(|&i| (0..m).any(|j| inside(i, j, of_reference[i])))
            .count();
        let balls: usize = (0..m)
            .map(|j| (0..n).filter(|&i| inside(i, j, of_reference[i])).count())
            .sum();
        [
            share(precision, m),
            share(recall, n),
            share(balls, k * m),
            share(coverage, n),
        ]
    }

    #[test]
    fn clouds_agree_with_the_definition_also_beyond_one_block() {
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
        for (n, m, k) in [(60, 45, 3), (7, 6, 5), (1030, 40, 2), (30, 1100, 4)] {
            let reference = wide(Stream::new(0, Purpose::Noise, n as u64, 0).normal(n * 3));
            let mut pictures = wide(Stream::new(1, Purpose::Noise, m as u64, 0).normal(m * 3));
            pictures
                .iter_mut()
                .for_each(|value| *value = 0.8 * *value + 0.3);
            let found = prdc(
                Rows::new(&reference, 3).unwrap(),
                Rows::new(&pictures, 3).unwrap(),
                k,
            )
            .unwrap();
            let found = [found.precision, found.recall, found.density, found.coverage];
            assert_eq!(found, by_hand(&reference, &pictures, 3, k), "{n} {m} {k}");
        }
    }

    #[test]
    fn too_few_rows_are_errors() {
        let values = [0.0, 1.0, 2.0, 3.0];
        let rows = Rows::new(&values, 1).unwrap();
        assert!(prdc(rows, rows, 3).is_ok());
        let text = prdc(rows, rows.range(0..3), 3).unwrap_err().to_string();
        assert!(
            text.starts_with("the pictures: 3 pictures, at least 4 are needed"),
            "{text}"
        );
    }
}
