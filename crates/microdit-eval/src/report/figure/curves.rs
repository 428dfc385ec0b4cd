//! Curves over a common axis.

use super::{Axis, Entry, Figure, WIDTH, axis::Scale, label, legend, places, rule};
use crate::report::text::legible;
use maud::{Markup, PreEscaped, html};
use std::fmt::Write as _;

/// The plot in the figure: from left to right and from top to bottom.
const LEFT: f64 = 50.0;
const RIGHT: f64 = WIDTH - 20.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 232.0;

/// Curves over a common axis.
#[derive(Clone, Debug)]
pub struct Curves {
    /// Name of a file.
    pub name: String,
    /// What is shown.
    pub title: String,
    /// The axis from left to right.
    pub x: Axis,
    /// The axis upwards.
    pub y: Axis,
    /// The curves, in the order they are drawn in.
    pub lines: Vec<Line>,
}

/// A curve.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the legend calls it; without a name it is not in the legend.
    pub label: String,
    /// Its color.
    pub color: Color,
    /// How it is drawn.
    pub stroke: Stroke,
    /// Its points, in order of x.
    pub points: Vec<(f64, f64)>,
}

/// The color of a curve.
#[derive(Clone, Copy, Debug)]
pub enum Color {
    /// One of ten, by number, that can be told from each other.
    Run(usize),
    /// One of eight, by number, in order.
    Level(usize),
}

impl Color {
    fn class(self) -> String {
        match self {
            Self::Run(number) => format!("s{}", number % 10),
            Self::Level(number) => format!("l{}", number % 8),
        }
    }
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stroke {
    /// For what is looked at.
    Solid,
    /// For a variant of it.
    Dashed,
    /// For what lies behind it.
    Faint,
}

impl Line {
    fn class(&self) -> String {
        let stroke = match self.stroke {
            Stroke::Solid => "",
            Stroke::Dashed => " dashed",
            Stroke::Faint => " faint",
        };
        format!("curve {}{stroke}", self.color.class())
    }
}

impl Curves {
    /// Draws them; none if no curve has a point.
    pub fn draw(&self) -> Option<Figure> {
        let all = || self.lines.iter().flat_map(|line| line.points.iter());
        all().next()?;
        let (width, height) = (RIGHT - LEFT, BOTTOM - TOP);
        let x = Scale::over(all().map(|point| point.0), &self.x, 0.0, (0.0, width));
        let y = Scale::over(all().map(|point| point.1), &self.y, 0.04, (height, 0.0));
        let named = self.lines.iter().filter(|line| !line.label.is_empty());
        let entries: Vec<Entry<'_>> = named
            .map(|line| Entry {
                class: line.class(),
                text: &line.label,
            })
            .collect();
        let (keys, keys_height) = legend(&entries, LEFT, BOTTOM + 46.0);
        let body = html! {
            (label(LEFT, TOP - 9.0, "axis", &self.y.label))
            (label(RIGHT, BOTTOM + 30.0, "axis end", &self.x.label))
            g class="ticks" { (ticks(&x, &y)) }
            svg class="plot" x=(LEFT) y=(TOP) width=(width) height=(height)
                data-x=(range(&x)) data-y=(range(&y)) {
                rect class="frame" width=(width) height=(height) {}
                @for line in &self.lines { (curve(line, &x, &y)) }
            }
            (keys)
        };
        let height = BOTTOM + 36.0 + keys_height;
        Some(Figure::new(&self.name, &self.title, height, body))
    }
}

/// Grid lines, and what is written at them.
fn ticks(x: &Scale, y: &Scale) -> Markup {
    html! {
        @for (place, text) in x.ticks() {
            (rule("grid", [LEFT + place, TOP, LEFT + place, BOTTOM]))
            (label(LEFT + place, BOTTOM + 15.0, "tick middle", &text))
        }
        @for (place, text) in y.ticks() {
            (rule("grid", [LEFT, TOP + place, RIGHT, TOP + place]))
            (label(LEFT - 6.0, TOP + place + 4.0, "tick end", &text))
        }
    }
}

/// A range, for the script that draws parts of it.
fn range(scale: &Scale) -> String {
    let log = u8::from(scale.log);
    format!("{:e} {:e} {log}", scale.least, scale.greatest)
}

/// A curve, with the numbers it was drawn from. A single point is a dot.
fn curve(line: &Line, x: &Scale, y: &Scale) -> Markup {
    if let [(at, value)] = line.points[..] {
        let class = format!("dot {}", line.color.class());
        return html! {
            circle class=(class) r="3" cx=(places(x.place(at))) cy=(places(y.place(value))) {}
        };
    }
    let (mut path, mut xs, mut ys) = (String::new(), String::new(), String::new());
    for (i, &(at, value)) in line.points.iter().enumerate() {
        let start = if i == 0 { 'M' } else { 'L' };
        let (px, py) = (places(x.place(at)), places(y.place(value)));
        // Writing to a string does not fail.
        let _ = write!(path, "{start}{px} {py}");
        let gap = if i == 0 { "" } else { " " };
        let _ = write!(xs, "{gap}{at}");
        let _ = write!(ys, "{gap}{}", rounded(value));
    }
    html! {
        path class=(line.class()) d=(PreEscaped(path)) data-xs=(xs) data-ys=(ys) data-name=(legible(&line.label)) {}
    }
}

/// Six significant digits.
fn rounded(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    match scientific.parse::<f64>() {
        Ok(value) if value == 0.0 || (1e-5..1e9).contains(&value.abs()) => value.to_string(),
        _ => scientific,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(points: Vec<(f64, f64)>, name: &str) -> Option<Figure> {
        let curves = Curves {
            name: "loss".into(),
            title: "loss".into(),
            x: Axis::linear("steps"),
            y: Axis::linear("loss"),
            lines: vec![Line {
                label: name.into(),
                color: Color::Run(0),
                stroke: Stroke::Solid,
                points,
            }],
        };
        curves.draw()
    }

    #[test]
    fn a_curve_is_where_its_values_are() {
        let svg = figure(vec![(0.0, 1.0), (5.0, 0.0), (10.0, 0.5)], "run")
            .unwrap()
            .to_svg();
        // Over 450 x 210, with 4 % of room above and below.
        let room = 0.04 / 1.08 * 210.0;
        let path = format!("M0 {}L225 {}L450 105", places(room), places(210.0 - room));
        assert!(svg.contains(&path), "{path} in {svg}");
        assert!(
            svg.contains(r#"data-xs="0 5 10" data-ys="1 0 0.5""#),
            "{svg}"
        );
    }

    #[test]
    fn no_curve_is_no_figure() {
        assert!(figure(Vec::new(), "run").is_none());
        assert!(
            figure(vec![(1.0, 1.0)], "run")
                .unwrap()
                .to_svg()
                .contains("<circle")
        );
    }

    #[test]
    fn names_are_text() {
        let hostile = "\"><script>alert(1)</script>\u{1b}&amp;";
        let svg = figure(vec![(0.0, 1.0), (1.0, 2.0)], hostile)
            .unwrap()
            .to_svg();
        assert!(!svg.contains("<script"), "{svg}");
        assert!(!svg.contains('\u{1b}'), "{svg}");
        assert!(svg.contains("&amp;amp;"), "{svg}");
    }
}
