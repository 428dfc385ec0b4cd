//! Many questions at once.

/// Holm's step-down correction of p-values, in their order: each comparison may be called a difference if its corrected
/// value is below the level, and the chance of even one false alarm among all of them stays below it, whatever their
/// dependence (Holm 1979). Any number of comparisons; the largest p-value keeps its value unless a smaller one grew above it.
///
/// ```
/// let corrected = microdit_eval::statistics::holm(&[0.01, 0.04, 0.03]);
/// assert_eq!(corrected, [0.03, 0.06, 0.06]);
/// ```
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut corrected = vec![0.0; p.len()];
    let mut largest = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        largest = largest.max(p[i] * (p.len() - rank) as f64).min(1.0);
        corrected[i] = largest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_example() {
        // The numbers of R's p.adjust(method = "holm").
        let found = holm(&[0.01, 0.02, 0.03, 0.04, 0.05]);
        let expected = [0.05, 0.08, 0.09, 0.09, 0.09];
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-15, "{found} {expected}");
        }
        assert_eq!(holm(&[0.6, 0.7]), [1.0, 1.0]);
        assert_eq!(holm(&[0.02]), [0.02]);
        assert!(holm(&[]).is_empty());
    }
}
