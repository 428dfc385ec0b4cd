//! Means with their intervals, one below the other.

use super::{Axis, Figure, WIDTH, axis::Scale, label, places, rule};
use crate::report::{
    number::short,
    text::{legible, shortened},
};
use maud::html;

/// The plot in the figure.
const LEFT: f64 = 14.0;
const RIGHT: f64 = WIDTH - 14.0;
const TOP: f64 = 8.0;

/// Height of a row: a line of text, and the interval below it.
const ROW: f64 = 38.0;

/// Means with their intervals.
#[derive(Clone, Debug)]
pub struct Intervals {
    /// Name of a file.
    pub name: String,
    /// What is shown.
    pub title: String,
    /// The axis of the values.
    pub axis: Axis,
    /// The means.
    pub rows: Vec<Interval>,
}

/// A mean, and how well it is known.
#[derive(Clone, Debug)]
pub struct Interval {
    /// What it is the mean of.
    pub label: String,
    /// Mean of the values.
    pub mean: f64,
    /// Half the length of the interval; none where there are too few values.
    pub half: Option<f64>,
    /// The values.
    pub values: Vec<f64>,
}

impl Interval {
    /// Mean and half length in digits.
    fn text(&self) -> String {
        match self.half {
            Some(half) => format!("{} ± {}", short(self.mean), short(half)),
            None => short(self.mean),
        }
    }
}

impl Intervals {
    /// Draws them; none if there are none.
    pub fn draw(&self) -> Option<Figure> {
        let rows: Vec<&Interval> = self
            .rows
            .iter()
            .filter(|row| row.mean.is_finite())
            .collect();
        if rows.is_empty() {
            return None;
        }
        let ends = rows.iter().flat_map(|row| {
            let half = row.half.filter(|half| half.is_finite()).unwrap_or(0.0);
            let finite = row.values.iter().copied().filter(|value| value.is_finite());
            finite.chain([row.mean - half, row.mean + half])
        });
        let ends: Vec<f64> = ends.collect();
        let scale = Scale::over(ends.iter().copied(), &self.axis, 0.05, (LEFT, RIGHT));
        let bottom = TOP + ROW * rows.len() as f64;
        let body = html! {
            @for (place, text) in scale.ticks() {
                (rule("grid", [place, TOP, place, bottom]))
                (label(place, bottom + 15.0, "tick middle", &text))
            }
            @for (i, row) in rows.iter().enumerate() {
                @let top = TOP + ROW * i as f64;
                @let y = top + 26.0;
                g {
                    title { (legible(&row.label)) ": " (row.text()) }
                    (label(LEFT, top + 13.0, "key", &shortened(&legible(&row.label), 54)))
                    (label(RIGHT, top + 13.0, "key end", &row.text()))
                    @if let Some(half) = row.half.filter(|half| half.is_finite()) {
                        @let (from, to) = (scale.place(row.mean - half), scale.place(row.mean + half));
                        (rule("bar s0", [from, y, to, y]))
                        (rule("bar s0", [from, y - 4.0, from, y + 4.0]))
                        (rule("bar s0", [to, y - 4.0, to, y + 4.0]))
                    }
                    @for value in row.values.iter().filter(|value| value.is_finite()) {
                        circle class="dot s1" r="2" cx=(places(scale.place(*value))) cy=(places(y)) {}
                    }
                    circle class="dot s0" r="4" cx=(places(scale.place(row.mean))) cy=(places(y)) {}
                }
            }
            (label(RIGHT, bottom + 30.0, "axis end", &self.axis.label))
        };
        Some(Figure::new(&self.name, &self.title, bottom + 38.0, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_spans_its_half_on_both_sides() {
        let row = |label: &str, mean: f64, half: Option<f64>| Interval {
            label: label.into(),
            mean,
            half,
            values: vec![mean],
        };
        let intervals = Intervals {
            name: "../loss & more".into(),
            title: "loss".into(),
            axis: Axis::linear("loss"),
            rows: vec![
                row("a", 10.0, Some(2.0)),
                row("<b>", 20.0, None),
                row("diverged", f64::NAN, None),
            ],
        };
        let figure = intervals.draw().unwrap();
        assert_eq!(figure.name, "-loss---more");
        let svg = figure.to_svg();
        // From 8 to 20 with 5 % of room, over 492 units from 14.
        let place = |value: f64| places(14.0 + (value - 7.4) / 13.2 * 492.0);
        let bar = format!(r#"x1="{}" y1="34" x2="{}""#, place(8.0), place(12.0));
        assert!(svg.contains(&bar), "{bar} in {svg}");
        assert!(svg.contains("10 ± 2") && svg.contains("&lt;b&gt;"), "{svg}");
        assert!(!svg.contains("diverged"), "{svg}");
    }
}
