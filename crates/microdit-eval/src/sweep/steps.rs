//! How many steps a budget pays for.

/// A stage as a budget sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// Steps the recipe has.
    pub(super) steps: u64,
    /// What one of them costs, in any unit; above 0.
    pub(super) per_step: f64,
    /// Whether the stage may be made longer or shorter.
    pub(super) scaled: bool,
}

impl Cost {
    /// What all its steps cost.
    fn total(self) -> f64 {
        self.steps as f64 * self.per_step
    }
}

/// What all stages cost.
pub(super) fn total(stages: &[Cost]) -> f64 {
    stages.iter().map(|stage| stage.total()).sum()
}

/// The steps of each stage for which all of them cost `budget`, to within a step of the last scaled one: scaled stages
/// keep their proportions, and have at least one step.
///
/// # Errors
/// A budget that the stages which are not scaled use up, or that has no stage to scale.
pub(super) fn within_budget(stages: &[Cost], budget: f64) -> Result<Vec<u64>, String> {
    let fixed = stages.iter().filter(|stage| !stage.scaled);
    let fixed: f64 = fixed.map(|stage| stage.total()).sum();
    let left = budget - fixed;
    let least: f64 = stages
        .iter()
        .filter(|stage| stage.scaled)
        .map(|stage| stage.per_step)
        .sum();
    if least == 0.0 {
        return Err("none of its stages may be made longer or shorter for the budget".into());
    }
    if left < least {
        return Err(format!(
            "its stages that keep their steps take {:.1} % of the budget, which leaves the others {}",
            100.0 * fixed / budget,
            if left > 0.0 {
                "less than a step"
            } else {
                "nothing"
            }
        ));
    }
    let weight: f64 = stages
        .iter()
        .filter(|stage| stage.scaled)
        .map(|stage| stage.total())
        .sum();
    let factor = left / weight;
    let last = stages.iter().rposition(|stage| stage.scaled);
    let mut spent = 0.0;
    let steps = stages.iter().enumerate().map(|(i, stage)| {
        if !stage.scaled {
            return stage.steps;
        }
        // What the stages before leave of their shares goes to the last one.
        let steps = match Some(i) == last {
            true => ((left - spent) / stage.per_step).round(),
            // What is whole but for rounding is whole.
            false => (stage.steps as f64 * factor + 1e-6).floor(),
        };
        let steps = steps.max(1.0);
        spent += steps * stage.per_step;
        steps as u64
    });
    Ok(steps.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use microdit::rng::{Purpose, Stream};

    fn cost(steps: u64, per_step: f64, scaled: bool) -> Cost {
        Cost {
            steps,
            per_step,
            scaled,
        }
    }

    #[test]
    fn the_budget_is_met_to_within_a_step() {
        let mut stream = Stream::new(0, Purpose::Noise, 0, 0);
        let mut draw = |low: f64, high: f64| {
            let uniform = stream.uniform(1)[0];
            low * (high / low).powf(f64::from(uniform))
        };
        for trial in 0..1000 {
            let stages: Vec<Cost> = (0..1 + trial % 4)
                .map(|i| {
                    let steps = draw(1.0, 1e5) as u64;
                    cost(steps, draw(1e-3, 1e12), i == 0 || draw(0.1, 10.0) > 1.0)
                })
                .collect();
            let fixed: f64 = stages.iter().filter(|s| !s.scaled).map(|s| s.total()).sum();
            let scaled: f64 = stages.iter().filter(|s| s.scaled).map(|s| s.total()).sum();
            // So long that no stage is held at a single step.
            let budget = fixed + scaled * draw(10.0, 1000.0);
            let steps = within_budget(&stages, budget).unwrap();
            let last = stages.iter().rfind(|stage| stage.scaled).unwrap();
            let mut derived = stages.clone();
            for (stage, steps) in derived.iter_mut().zip(&steps) {
                assert!(stage.scaled || stage.steps == *steps);
                stage.steps = *steps;
            }
            let off = (total(&derived) - budget).abs();
            assert!(
                off <= 0.5 * last.per_step + 1e-9 * budget,
                "{stages:?}: {off}"
            );
            // Proportions are kept, to within a step.
            let factor = (budget - fixed) / scaled;
            for (before, after) in stages.iter().zip(&derived).filter(|(s, _)| s.scaled) {
                let exact = before.steps as f64 * factor;
                let slack = 1.0 + last_slack(&stages) / after.per_step;
                assert!((after.steps as f64 - exact).abs() <= slack, "{stages:?}");
            }
        }
    }

    /// What the rounding of the scaled stages before the last can leave to it.
    fn last_slack(stages: &[Cost]) -> f64 {
        stages.iter().map(|stage| stage.per_step).sum()
    }

    #[test]
    fn the_reference_keeps_its_own_steps() {
        let stages = [cost(1500, 3.7e9, true), cost(200, 9.1e9, false)];
        assert_eq!(within_budget(&stages, total(&stages)).unwrap(), [1500, 200]);
        // Unmasked, a step costs 2.5 times as much.
        let dearer = [cost(1500, 2.5 * 3.7e9, true), stages[1]];
        assert_eq!(within_budget(&dearer, total(&stages)).unwrap(), [600, 200]);
    }

    #[test]
    fn a_budget_that_is_used_up_is_an_error() {
        let stages = [cost(1500, 1.0, true), cost(200, 10.0, false)];
        let said = within_budget(&stages, 1000.0).unwrap_err();
        assert!(
            said.contains("200.0 % of the budget") && said.contains("nothing"),
            "{said}"
        );
        let said = within_budget(&stages, 2000.5).unwrap_err();
        assert!(said.contains("less than a step"), "{said}");
        assert_eq!(within_budget(&stages, 2001.0).unwrap(), [1, 200]);
        let said = within_budget(&stages[1..], 1e9).unwrap_err();
        assert!(said.contains("none of its stages"), "{said}");
    }
}
