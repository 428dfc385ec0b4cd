//! Metrics that pictures are too few for, or not fit for: left out with a warning where nobody named one, so that the rest is measured.

use crate::error::EvalError;

/// What was left out, and why.
#[derive(Debug, Default)]
pub(super) struct LeftOutMetrics {
    /// Whether metrics were asked for by name: then nothing is left out.
    named: bool,
    /// The reasons, each with the metrics it is of.
    reasons: Vec<(EvalError, Vec<String>)>,
}

impl LeftOutMetrics {
    /// Of an evaluation whose metrics are `named`, or all that can be had.
    pub(super) fn new(named: bool) -> Self {
        Self {
            named,
            reasons: Vec::new(),
        }
    }

    /// Notes what is wrong with a metric.
    ///
    /// # Errors
    /// That it cannot be left out: it was asked for, or what is wrong is wrong with all of them.
    pub(super) fn note(&mut self, metric: &str, error: EvalError) -> Result<(), EvalError> {
        let of_one = matches!(
            error,
            EvalError::TooFew { .. } | EvalError::NoDirection { .. } | EvalError::NoConvergence(_)
        );
        if self.named || !of_one {
            return Err(error);
        }
        let text = error.to_string();
        let mut known = self.reasons.iter_mut();
        match known.find(|(reason, _)| reason.to_string() == text) {
            Some((_, metrics)) => metrics.push(metric.to_owned()),
            None => self.reasons.push((error, vec![metric.to_owned()])),
        }
        Ok(())
    }

    /// Says what was left out.
    pub(super) fn warn(&self) {
        for (reason, metrics) in &self.reasons {
            tracing::warn!("not measured: {}: {reason}", metrics.join(", "));
        }
    }

    /// The first reason, where nothing else can be said.
    pub(super) fn into_first(self) -> Option<EvalError> {
        self.reasons.into_iter().next().map(|(reason, _)| reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn few(needed: usize) -> EvalError {
        EvalError::TooFew {
            what: "the pictures".into(),
            found: 5,
            needed,
            why: String::new(),
        }
    }

    #[test]
    fn each_reason_is_kept_once_with_its_metrics() {
        let mut left_out = LeftOutMetrics::new(false);
        for (metric, needed) in [("precision", 6), ("recall", 6), ("inception-score", 10)] {
            left_out.note(metric, few(needed)).unwrap();
        }
        let metrics: Vec<_> = left_out
            .reasons
            .iter()
            .map(|(_, metrics)| metrics)
            .collect();
        assert_eq!(
            metrics,
            [
                &vec!["precision".to_owned(), "recall".to_owned()],
                &vec!["inception-score".to_owned()]
            ]
        );
        let first = left_out.into_first().unwrap().to_string();
        assert!(first.contains("at least 6"), "{first}");
    }

    #[test]
    fn what_was_named_or_is_wrong_with_all_is_an_error() {
        assert!(LeftOutMetrics::new(true).note("kd", few(6)).is_err());
        let wide = EvalError::Rows { values: 3, dim: 2 };
        assert!(LeftOutMetrics::new(false).note("kd", wide).is_err());
    }
}
