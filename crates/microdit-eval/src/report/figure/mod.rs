//! Figures, drawn once as SVG: in the page, where its style and script apply, and as files of their own.

mod axis;
mod curves;
mod intervals;
mod png;
mod style;

pub use axis::Axis;
pub use curves::{Color, Curves, Line, Stroke};
pub use intervals::{Interval, Intervals};
pub use png::PngError;
pub(super) use style::{FIGURE_CSS, rules, variables};

use super::text::{legible, shortened};
use maud::{Markup, PreEscaped, html};

/// Width of a figure; all lengths in it are in units of which the page makes what fits.
const WIDTH: f64 = 520.0;

/// Average width of a character.
const CHARACTER: f64 = 6.3;

/// Height of a line of text.
const ROW: f64 = 16.0;

/// A drawing with its name.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of a file without its extension: letters, digits, `-`, `_` and dots.
    pub name: String,
    /// What it shows.
    pub title: String,
    height: f64,
    body: Markup,
}

impl Figure {
    fn new(name: &str, title: &str, height: f64, body: Markup) -> Self {
        let safe = |c: char| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' => c,
            _ => '-',
        };
        let name: String = name.chars().map(safe).take(80).collect();
        Self {
            name: name.trim_start_matches('.').to_owned(),
            title: legible(title),
            height,
            body,
        }
    }

    /// As part of a page that has [`FIGURE_CSS`].
    pub(super) fn in_page(&self) -> Markup {
        html! {
            svg viewBox=(self.view()) role="img" aria-label=(self.title) tabindex="0" { (self.body) }
        }
    }

    /// As a file, dark on white.
    pub fn to_svg(&self) -> String {
        let (width, height) = (WIDTH, self.height);
        let content = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox=(self.view()) width=(width) height=(height) {
                title { (self.title) }
                style { (PreEscaped(style::of_file())) }
                rect class="paper" width=(width) height=(height) {}
                (self.body)
            }
        };
        content.into_string()
    }

    fn view(&self) -> String {
        format!("0 0 {WIDTH} {}", self.height)
    }
}

/// A text that stands at a place.
fn label(x: f64, y: f64, class: &str, text: &str) -> Markup {
    html! { text class=(class) x=(places(x)) y=(places(y)) { (text) } }
}

/// A straight line.
fn rule(class: &str, [x1, y1, x2, y2]: [f64; 4]) -> Markup {
    html! { line class=(class) x1=(places(x1)) y1=(places(y1)) x2=(places(x2)) y2=(places(y2)) {} }
}

/// A coordinate, to a hundredth.
fn places(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An entry of a legend.
struct Entry<'a> {
    /// Class of its mark.
    class: String,
    text: &'a str,
}

/// Entries in rows from `top` down, and the height they take.
fn legend(entries: &[Entry<'_>], left: f64, top: f64) -> (Markup, f64) {
    const MARK: f64 = 22.0;
    let (mut x, mut y) = (left, top);
    let mut drawn = String::new();
    for Entry { class, text } in entries {
        let text = legible(text);
        let shown = shortened(&text, 44);
        let width = MARK + CHARACTER * shown.chars().count() as f64 + 14.0;
        if x > left && x + width > WIDTH {
            (x, y) = (left, y + ROW);
        }
        let entry = html! {
            g {
                title { (text) }
                (rule(class, [x, y - 4.0, x + 16.0, y - 4.0]))
                (label(x + MARK, y, "key", &shown))
            }
        };
        drawn += &entry.into_string();
        x += width;
    }
    let height = if entries.is_empty() {
        0.0
    } else {
        y - top + ROW
    };
    (PreEscaped(drawn), height)
}
