//! Merged networks along the line between two, each measured: which share draws best?

use crate::{eval::Eval, say};
use microdit::range::within;
use microdit_eval::{Table, evaluate::Record, measured::Measured};
use miette::{IntoDiagnostic, WrapErr};
use std::{
    collections::BTreeSet,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Most shares of a sweep.
const MOST: usize = 1000;

/// Shares of the first of two networks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shares(pub(crate) Vec<f64>);

impl Shares {
    /// Which there may be.
    const RANGE: RangeInclusive<f64> = -10.0..=10.0;

    /// Reads `0,0.5,1`, or with equal distances `0,0.1,...,1`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(',').collect();
        let number = |word: &&str| -> Result<f64, String> {
            let value = word.parse().map_err(|_| "expected a number")?;
            let inside = within("", value, Self::RANGE);
            inside.map_err(|error| error.rule).map(|()| value)
        };
        let Some(dots) = words.iter().position(|word| *word == "...") else {
            let all = words.iter().map(number).collect::<Result<_, _>>()?;
            return Ok(Self(all));
        };
        let (before, after) = (&words[..dots], &words[dots + 1..]);
        let ([.., first, second], [last]) = (before, after) else {
            return Err(
                "expected two numbers before ... and one after it, as in 0,0.1,...,1".into(),
            );
        };
        let [first, second, last] = [number(first)?, number(second)?, number(last)?];
        let steps = (last - first) / (second - first);
        let whole = steps.round();
        if !(1.0..MOST as f64).contains(&whole) || (steps - whole).abs() > 1e-6 {
            return Err(format!(
                "{last} is not reached from {first} by steps like the one to {second}, of which there may be {MOST}"
            ));
        }
        let mut all = before[..dots - 2]
            .iter()
            .map(number)
            .collect::<Result<Vec<f64>, _>>()?;
        // Divided at last, so that every share is the number one would type.
        all.extend((0..=whole as usize).map(|i| {
            let share = first + (last - first) * i as f64 / whole;
            (share * 1e9).round() / 1e9
        }));
        Ok(Self(all))
    }
}

/// A share, and what was measured of its network.
struct Point {
    share: f64,
    found: Vec<Measured>,
}

/// Has `write` write the network of every share, measures it as `microdit eval` does when it is told `words`, and prints the curve. Numbers
/// and pictures are kept in `out`, the merged networks are not.
pub(crate) fn measure(
    shares: &Shares,
    words: &[String],
    out: &Path,
    mut write: impl FnMut(f64, &Path) -> miette::Result<()>,
) -> miette::Result<()> {
    let mut points = Vec::with_capacity(shares.0.len());
    for &share in &shares.0 {
        let folder = out.join(format!("share-{share}"));
        let weights = folder.join("merged.safetensors");
        // Before anything is written.
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let own = ["--weights".into(), text(&weights)];
        let own = own.into_iter().chain(["--out".into(), text(&folder)]);
        let parsed = Eval::of_words(&own.collect::<Vec<_>>(), words)?;
        fs::create_dir_all(&folder)
            .into_diagnostic()
            .wrap_err_with(|| format!("{} cannot be created", folder.display()))?;
        write(share, &weights)?;
        say!("share {share} of the first:");
        let measured = parsed.run();
        let removed = fs::remove_file(&weights).into_diagnostic();
        measured?;
        removed.wrap_err_with(|| format!("{} cannot be removed", weights.display()))?;
        let record = Record::read(&folder.join("eval.json")).into_diagnostic()?;
        points.push(Point {
            share,
            found: record.results,
        });
    }
    say!("{}", curve(&points));
    Ok(())
}

/// A row for each share, a column for each metric.
fn curve(points: &[Point]) -> Table {
    let metrics: BTreeSet<&str> = points
        .iter()
        .flat_map(|point| point.found.iter().map(|row| row.metric.as_str()))
        .collect();
    let mut header = vec!["share of the first".to_owned()];
    header.extend(metrics.iter().map(|metric| (*metric).to_owned()));
    let mut table = Table::new(header);
    for Point { share, found } in points {
        let mut row = vec![share.to_string()];
        row.extend(metrics.iter().map(|metric| {
            let values = found.iter().filter(|row| row.metric == *metric);
            let values = values.map(|row| format!("{:.4}", row.value));
            values.collect::<Vec<_>>().join(", ")
        }));
        table.push(row);
    }
    table
}

/// Where a sweep's numbers go, unless told otherwise.
pub(crate) fn default_out() -> PathBuf {
    PathBuf::from("merge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_listed_or_counted() {
        let shares = |text| Shares::parse(text).map(|shares| shares.0);
        assert_eq!(shares("0.5").unwrap(), [0.5]);
        assert_eq!(shares("0,0.25,1").unwrap(), [0.0, 0.25, 1.0]);
        let tenths = shares("0,0.1,...,1").unwrap();
        assert_eq!(
            tenths,
            [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
        );
        assert_eq!(shares("-1,0,0.5,...,1").unwrap(), [-1.0, 0.0, 0.5, 1.0]);
        for (text, part) in [
            ("", "expected a number"),
            ("nan", "not NaN"),
            ("11", "at most 10"),
            ("0,...,1", "two numbers before"),
            ("0,0.3,...,1", "1 is not reached from 0"),
            ("0,0,...,1", "1 is not reached"),
            ("0,1e-9,...,1", "1 is not reached"),
            ("1,0.9,...,2", "2 is not reached"),
        ] {
            let said = shares(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
