//! Tables that sort.

use crate::report::text::legible;
use maud::{Markup, html};

/// A cell of a table.
#[derive(Clone, Debug)]
pub(in crate::report) struct Cell {
    text: String,
    /// What it is sorted by, where that is a number.
    value: Option<f64>,
}

impl Cell {
    /// A text.
    pub(in crate::report) fn text(text: &str) -> Self {
        Self {
            text: legible(text),
            value: None,
        }
    }

    /// A number, as `show` writes it; a dash where there is none.
    pub(in crate::report) fn number(value: Option<f64>, show: impl FnOnce(f64) -> String) -> Self {
        match value {
            Some(value) => Self {
                text: show(value),
                value: Some(value),
            },
            None => Self {
                text: "–".into(),
                value: Some(f64::NAN),
            },
        }
    }
}

/// A table with a button in every head that sorts by it. Columns in which no row has anything are left out.
pub(in crate::report) fn table(heads: &[&str], rows: &[Vec<Cell>]) -> Markup {
    let told = |column: &usize| {
        let empty = |cell: &Cell| cell.text.is_empty() || cell.value.is_some_and(f64::is_nan);
        rows.iter()
            .any(|row| row.get(*column).is_some_and(|cell| !empty(cell)))
    };
    let columns: Vec<usize> = (0..heads.len()).filter(told).collect();
    html! {
        div class="scroll" {
            table {
                thead { tr {
                    @for column in &columns {
                        th scope="col" { button type="button" { (legible(heads[*column])) } }
                    }
                } }
                tbody {
                    @for row in rows {
                        tr {
                            @for column in &columns { (cell(&row[*column])) }
                        }
                    }
                }
            }
        }
    }
}

fn cell(cell: &Cell) -> Markup {
    html! {
        @match cell.value {
            Some(value) => { td class="number" data-value=(value) { (cell.text) } }
            None => { td { (cell.text) } }
        }
    }
}
