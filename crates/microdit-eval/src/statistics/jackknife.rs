//! How much a number depends on the pictures that happened to be drawn.

use super::StatisticsError;
use microdit::rng::Stream;

/// Samples in random groups of one size, left out in turn; what does not fill a group is never left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// All samples in random order, group after group.
    order: Vec<usize>,
    count: usize,
}

impl Groups {
    /// Divides `samples` samples into `count` groups at random.
    ///
    /// # Errors
    /// Fewer than two groups, or fewer samples than groups.
    pub fn draw(
        samples: usize,
        count: usize,
        stream: &mut Stream,
    ) -> Result<Self, StatisticsError> {
        if count < 2 || samples < count {
            return Err(StatisticsError::Groups {
                groups: count,
                samples,
            });
        }
        let mut order: Vec<usize> = (0..samples).collect();
        stream.shuffle(&mut order);
        Ok(Self { order, count })
    }

    /// Number of groups.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.order.len()
    }

    /// Samples of each group.
    pub fn size(&self) -> usize {
        self.order.len() / self.count
    }

    /// The samples of a group.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn members(&self, group: usize) -> &[usize] {
        assert!(group < self.count, "group {group} of {}", self.count);
        &self.order[group * self.size()..][..self.size()]
    }

    /// The samples no group holds.
    pub fn rest(&self) -> &[usize] {
        &self.order[self.count * self.size()..]
    }

    /// All samples but those of a group.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn without(&self, group: usize) -> Vec<usize> {
        let (left_out, begin) = (self.members(group).len(), group * self.size());
        let (before, after) = (&self.order[..begin], &self.order[begin + left_out..]);
        [before, after].concat()
    }
}

/// What a jackknife found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Jackknife {
    /// Mean of the statistic without each group.
    pub mean: f64,
    /// Standard error of the statistic of all samples.
    pub standard_error: f64,
}

/// The delete-d jackknife over disjoint groups: `statistic` is asked for the value without each group in turn, and its scatter
/// is scaled to the standard error of the statistic over all samples (Shao and Wu 1989, with each sample left out at most
/// once). Of a mean with groups of one it is `s / sqrt(n)`.
///
/// There is no bootstrap here on purpose. A bootstrap draws with replacement, and its duplicates are pictures no model drew:
/// they pull the estimated covariance down and so bias FID, add kernel values of pictures with themselves to KID, and shrink
/// nearest-neighbour radii to zero, by which precision, recall, density and coverage collapse. Groups that are left out
/// contain no duplicates.
///
/// # Errors
/// Those of `statistic`.
pub fn jackknife<E>(
    groups: &Groups,
    mut statistic: impl FnMut(usize) -> Result<f64, E>,
) -> Result<Jackknife, E> {
    let values = (0..groups.count())
        .map(&mut statistic)
        .collect::<Result<Vec<f64>, E>>()?;
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let scatter = values
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>()
        / (count - 1.0);
    let (samples, size) = (groups.samples() as f64, groups.size() as f64);
    let kept = samples - size;
    Ok(Jackknife {
        mean,
        standard_error: (scatter * kept * kept / (size * samples)).sqrt(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::rng::Purpose;
    use std::convert::Infallible;

    fn groups(samples: usize, count: usize) -> Groups {
        Groups::draw(samples, count, &mut Stream::new(1, Purpose::Subset, 0, 0)).unwrap()
    }

    fn of_mean(values: &[f64], groups: &Groups) -> Jackknife {
        let found = jackknife(groups, |left_out| {
            let kept = groups.without(left_out);
            let sum: f64 = kept.iter().map(|&i| values[i]).sum();
            Ok::<_, Infallible>(sum / kept.len() as f64)
        });
        found.unwrap()
    }

    fn normal(count: usize, sample: u64) -> Vec<f64> {
        let draws = Stream::new(3, Purpose::Noise, 0, sample).normal(count);
        draws.into_iter().map(f64::from).collect()
    }

    #[test]
    fn of_a_mean_one_at_a_time_it_is_the_textbook_formula() {
        let values = normal(37, 0);
        let found = of_mean(&values, &groups(37, 37));
        let mean = values.iter().sum::<f64>() / 37.0;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 36.0;
        assert!((found.mean - mean).abs() < 1e-14);
        assert!((found.standard_error - (variance / 37.0).sqrt()).abs() < 1e-14);
    }

    #[test]
    fn with_larger_groups_and_a_rest_it_is_right_on_average() {
        // Standard error of the mean of 103 standard normal numbers, squared, over many sets of them.
        let groups = groups(103, 10);
        assert_eq!((groups.size(), groups.rest().len()), (10, 3));
        let trials = 4000;
        let square = |trial| of_mean(&normal(103, trial), &groups).standard_error.powi(2);
        let average = (0..trials).map(square).sum::<f64>() / trials as f64;
        // The estimate has 9 degrees of freedom, hence a relative standard deviation of sqrt(2 / 9): four standard errors.
        let error = average * 103.0 - 1.0;
        assert!(
            error.abs() < 4.0 * (2.0f64 / 9.0 / trials as f64).sqrt(),
            "{error}"
        );
    }

    #[test]
    fn groups_are_disjoint_and_leave_nothing_else_out() {
        let groups = groups(11, 3);
        let mut all = groups.rest().to_vec();
        for group in 0..3 {
            all.extend(groups.members(group));
            let mut both = [groups.without(group), groups.members(group).to_vec()].concat();
            both.sort_unstable();
            assert!(both.into_iter().eq(0..11));
        }
        all.sort_unstable();
        assert!(all.into_iter().eq(0..11));
    }

    #[test]
    fn too_few_groups_or_samples_are_errors() {
        let mut stream = Stream::new(0, Purpose::Subset, 0, 0);
        for (samples, count) in [(5, 1), (5, 6), (0, 2), (5, 0)] {
            assert!(Groups::draw(samples, count, &mut stream).is_err());
        }
        let text = Groups::draw(3, 10, &mut stream).unwrap_err().to_string();
        assert!(text.starts_with("10 groups of 3 samples"), "{text}");
    }
}
