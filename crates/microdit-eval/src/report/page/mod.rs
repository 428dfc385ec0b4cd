//! Pages: one file that loads nothing, and runs no script but its own.

mod results;
mod runs;
mod sweep;
mod table;

pub use runs::runs_page;
pub use sweep::sweep_page;
pub(super) use table::{Cell, table};

use super::{
    figure::{FIGURE_CSS, Figure, rules, variables},
    text::legible,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

/// The style of pages.
const CSS: &str = include_str!("page.css");

/// What figures and tables do.
const SCRIPT: &str = include_str!("page.js");

/// Seconds between looks at a page that changes, as the script has them.
const REFRESH: u32 = 30;

/// What a page is made of.
pub(crate) struct Page<'a> {
    /// What the browser calls it.
    pub(crate) title: &'a str,
    /// Whether it looks for a newer one of itself.
    pub(crate) is_live: bool,
    /// Its rules, after those of all pages.
    pub(crate) style: &'a str,
    /// What runs in it.
    pub(crate) script: &'a str,
    /// What is shown.
    pub(crate) body: &'a Markup,
}

/// A page of its own. Its policy allows the inline style and script that are given here, by their hashes, and pictures that
/// are part of it: markup that got into it from outside could neither run nor load anything.
pub(crate) fn document(page: &Page<'_>) -> String {
    let Page {
        title,
        is_live,
        style,
        script,
        body,
    } = page;
    let style = format!("{}{CSS}{style}", variables());
    let policy = format!(
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src {}; script-src {}",
        source(&style),
        source(script)
    );
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if *is_live {
                    noscript { meta http-equiv="refresh" content=(REFRESH); }
                }
                title { (legible(title)) }
                style { (PreEscaped(&style)) }
            }
            body data-live=[is_live.then_some("yes")] {
                (body)
                script { (PreEscaped(script)) }
            }
        }
    };
    page.into_string()
}

/// The page of a report.
fn report(title: &str, is_live: bool, body: &Markup) -> String {
    document(&Page {
        title,
        is_live,
        style: &format!("{FIGURE_CSS}{}", rules()),
        script: SCRIPT,
        body,
    })
}

/// An inline style or script, as a policy names it.
fn source(text: &str) -> String {
    format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)))
}

/// A picture as part of the page.
pub(crate) fn data_url(kind: &str, bytes: &[u8]) -> String {
    format!("data:image/{kind};base64,{}", STANDARD.encode(bytes))
}

/// A figure with its title, and what the script shows of it.
fn figure(figure: &Figure) -> Markup {
    html! {
        figure id=(figure.name) {
            figcaption { (figure.title) }
            (figure.in_page())
            output {}
        }
    }
}

/// Figures side by side, as many as there is room for.
fn figures(all: &[Figure]) -> Markup {
    html! {
        div class="figures" { @for one in all { (figure(one)) } }
    }
}

/// What figures can do.
fn hint() -> Markup {
    html! {
        p class="hint" {
            "Drag across a figure to zoom, double-click to see all of it again. With the keyboard: + − ← → and 0."
        }
    }
}
