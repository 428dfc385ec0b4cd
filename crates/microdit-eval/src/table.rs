//! Tables that are read in a terminal and in Markdown alike.

use std::fmt;

/// Rows of cells under a header; the first column is text, the others are aligned to the right.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(header: Vec<String>) -> Self {
        Self {
            rows: vec![escaped(header)],
        }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has not as many cells as the header.
    pub fn push(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "cells of a row");
        self.rows.push(escaped(cells));
    }
}

/// A bar would end its cell.
fn escaped(cells: Vec<String>) -> Vec<String> {
    cells
        .into_iter()
        .map(|cell| cell.replace('|', "\\|"))
        .collect()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(2)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        for (i, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "| {cell:<width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if i == 0 {
                for (column, width) in widths.iter().enumerate() {
                    match column {
                        0 => write!(f, "|{}", "-".repeat(width + 2))?,
                        _ => write!(f, "|{}:", "-".repeat(width + 1))?,
                    }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(vec!["point".into(), "loss".into()]);
        table.push(vec!["a|b".into(), "0.25 ± 0.01".into()]);
        assert_eq!(
            table.to_string(),
            "| point |        loss |\n\
             |-------|------------:|\n\
             | a\\|b  | 0.25 ± 0.01 |\n"
        );
    }
}
