//! Axes: which part of the numbers is shown, where the ticks stand, and what is written at them.

use crate::report::number::short;

/// Most ticks of an axis.
const TICKS: f64 = 6.0;

/// How a quantity is laid out.
#[derive(Clone, Debug)]
pub struct Axis {
    /// What it is, with its unit.
    pub label: String,
    /// Whether equal ratios take equal lengths.
    pub log: bool,
}

impl Axis {
    /// Equal differences take equal lengths.
    pub fn linear(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: false,
        }
    }

    /// Equal ratios take equal lengths, if all values are positive.
    pub fn log(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: true,
        }
    }
}

/// An axis with the range it shows, laid over `from..to` of the drawing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) least: f64,
    pub(super) greatest: f64,
    pub(super) log: bool,
    from: f64,
    to: f64,
}

impl Scale {
    /// A scale that shows all `values`, with a share of `margin` at each end. Without positive values it is linear.
    pub(super) fn over(
        values: impl Iterator<Item = f64> + Clone,
        axis: &Axis,
        margin: f64,
        (from, to): (f64, f64),
    ) -> Self {
        let log = axis.log && values.clone().all(|value| value > 0.0);
        let stretch = |value: f64| if log { value.log10() } else { value };
        let unstretch = |value: f64| if log { 10f64.powf(value) } else { value };
        // What lies beyond the largest number is there; below the smallest, a logarithm is none.
        let floor = if log { f64::MIN_POSITIVE } else { f64::MIN };
        let finite = |value: f64| unstretch(value).clamp(floor, f64::MAX);
        let least = values.clone().fold(f64::INFINITY, f64::min);
        let greatest = values.fold(f64::NEG_INFINITY, f64::max);
        let (mut low, mut high) = match least <= greatest {
            true => (stretch(least), stretch(greatest)),
            false => (0.0, 1.0),
        };
        // Halves, since the difference of two finite numbers need not be one.
        if high / 2.0 - low / 2.0 <= 1e-9 * high.abs().max(low.abs()) {
            let room = match high {
                0.0 => 1.0,
                _ => 0.1 * high.abs(),
            };
            (low, high) = (low - room, high + room);
        }
        let room = margin * (high - low);
        if room.is_finite() {
            (low, high) = (low - room, high + room);
        }
        Self {
            least: finite(low),
            greatest: finite(high),
            log,
            from,
            to,
        }
    }

    /// Where a value stands in the drawing.
    pub(super) fn place(&self, value: f64) -> f64 {
        let stretch = |value: f64| if self.log { value.log10() } else { value };
        let (low, high) = (stretch(self.least), stretch(self.greatest));
        let share = (stretch(value) / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
        self.from + share * (self.to - self.from)
    }

    /// The ticks: their places and what is written at them.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let values = match self.log && self.greatest / self.least >= 3.0 {
            true => powers(self.least, self.greatest),
            false => steps(self.least, self.greatest),
        };
        let values = values.into_iter();
        values
            .map(|value| (self.place(value), label(value)))
            .collect()
    }
}

/// What is written at a tick.
fn label(value: f64) -> String {
    let size = value.abs();
    for (unit, name) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if (unit..1e12).contains(&size) && (size >= 1e4 || unit > 1e3) {
            return format!("{}{name}", short(value / unit));
        }
    }
    short(value)
}

/// Multiples of 1, 2 or 5 times a power of ten between two numbers.
fn steps(least: f64, greatest: f64) -> Vec<f64> {
    let rough = greatest / TICKS - least / TICKS;
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0];
    let step = times.map(|times| times * power);
    let step = step
        .into_iter()
        .find(|step| *step >= rough)
        .unwrap_or(rough);
    if !step.is_finite() || step <= 0.0 {
        return Vec::new();
    }
    let first = (least / step).ceil();
    let count = ((greatest / step).floor() - first).clamp(0.0, 2.0 * TICKS) as u32;
    (0..=count).map(|i| (first + f64::from(i)) * step).collect()
}

/// Powers of ten between two positive numbers, with their doubles and quintuples where there are few.
fn powers(least: f64, greatest: f64) -> Vec<f64> {
    let (first, last) = (least.log10().floor() as i32, greatest.log10().ceil() as i32);
    let every = (f64::from(last - first) / TICKS).ceil().max(1.0) as usize;
    let digits: &[f64] = match last - first {
        ..=2 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let powers = (first..=last).step_by(every);
    let all = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    all.filter(|value| (least..=greatest).contains(value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: &[f64], axis: &Axis) -> Vec<String> {
        let scale = Scale::over(values.iter().copied(), axis, 0.0, (0.0, 100.0));
        scale.ticks().into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let linear = Axis::linear("");
        assert_eq!(
            labels(&[0.0, 10.0], &linear),
            ["0", "2", "4", "6", "8", "10"]
        );
        assert_eq!(
            labels(&[0.213, 0.297], &linear),
            ["0.22", "0.24", "0.26", "0.28"]
        );
        assert_eq!(
            labels(&[0.0, 1e6], &linear),
            ["0", "200k", "400k", "600k", "800k", "1M"]
        );
        assert_eq!(
            labels(&[0.01, 1.0], &Axis::log("")),
            ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
        );
        assert_eq!(
            labels(&[1e-9, 1e9], &Axis::log("")),
            ["1e-9", "1e-6", "0.001", "1", "1000", "1M", "1G"]
        );
        // A logarithm of zero is none.
        assert_eq!(
            labels(&[0.0, 4.0], &Axis::log("")),
            labels(&[0.0, 4.0], &linear)
        );
    }

    #[test]
    fn places_follow_the_values() {
        let axis = Axis::log("");
        let scale = Scale::over([1.0, 100.0].into_iter(), &axis, 0.0, (0.0, 100.0));
        for (value, place) in [(1.0, 0.0), (10.0, 50.0), (100.0, 100.0)] {
            assert!((scale.place(value) - place).abs() < 1e-9);
        }
    }

    #[test]
    fn no_values_break_an_axis() {
        for values in [
            &[][..],
            &[0.0],
            &[5.0, 5.0],
            &[-3.0],
            &[f64::MAX, f64::MIN],
            &[f64::MIN_POSITIVE, f64::MAX],
            &[1e-300, 2e-300],
            &[1e15, 1e15 + 1.0],
        ] {
            for axis in [Axis::linear(""), Axis::log("")] {
                let scale = Scale::over(values.iter().copied(), &axis, 0.05, (0.0, 100.0));
                let ticks = scale.ticks();
                assert!(ticks.len() <= 20, "{values:?}");
                assert!(
                    ticks.iter().all(|(place, _)| place.is_finite()),
                    "{values:?}"
                );
                for value in values {
                    let place = scale.place(*value);
                    assert!((-1.0..=101.0).contains(&place), "{values:?}: {place}");
                }
            }
        }
    }
}
