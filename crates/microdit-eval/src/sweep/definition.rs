//! What a sweep is asked to compare, as its file says.

use crate::statistics::Direction;
use microdit::range::{OutOfRange, above, require, within};
use microdit_train::{
    TrainError,
    recipe::{Document, Override, beside},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// Most characters of the name of an axis or of one of its values.
const MAX_NAME: usize = 100;

/// Most settings of a sweep: each is a run for every seed.
const MAX_SETTINGS: usize = 500;

/// The axis that an explicit list of points is.
const POINTS: &str = "point";

/// A sweep as its file says: a base recipe, and what is varied over it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Recipe, relative to the file.
    pub base: String,
    /// What is varied, each with every value of the others; instead of `points`.
    #[serde(default)]
    pub axes: Vec<Axis>,
    /// What is compared, one by one; instead of `axes`.
    #[serde(default)]
    pub points: Vec<AxisValue>,
    /// Seeds every point is trained with, each in place of the recipe's: at least one, each once.
    pub seeds: Vec<u64>,
    /// What is the same for all points.
    #[serde(default)]
    pub budget: Budget,
    /// What they are compared by, at least one.
    pub metrics: Vec<Metric>,
    /// Arguments of `microdit eval` after `--run DIRECTORY`; a point is not evaluated if there are none.
    #[serde(default)]
    pub eval: Vec<String>,
}

/// Something that is varied.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Its name in the results; no two axes have the same.
    pub name: String,
    /// Its values, at least one.
    pub values: Vec<AxisValue>,
}

/// A value of an axis.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AxisValue {
    /// Its name in the results; no two values of an axis have the same.
    pub name: String,
    /// What it changes of the recipe, each as `train --set` takes it; nothing for the recipe as it is.
    #[serde(default)]
    pub set: Vec<String>,
}

/// What is the same for all points of a sweep.
///
/// Except for [`Steps`](Self::Steps), the number of steps follows from it: the stages in which some point drops tokens
/// (all of them, where none does) are made longer or shorter, in proportion, and the others, such as a short unmasked end,
/// stay as the recipe has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Budget {
    /// Steps, as the recipe has them.
    #[default]
    Steps,
    /// FLOPs of the run by the cost model: those of the first point, the reference, with the steps its recipe has.
    Flops,
    /// Hours of training steps: above 0 and at most 10^9.
    Hours(f64),
    /// Dollars for training steps, at the recipe's `budget.usd_per_gpu_hour`: above 0 and at most 10^12.
    Dollars(f64),
}

impl Budget {
    /// What it makes equal, as a verdict says it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Flops => "FLOPs",
            Self::Hours(_) => "hours",
            Self::Dollars(_) => "dollars",
        }
    }

    fn validate(self) -> Result<(), OutOfRange> {
        match self {
            Self::Steps | Self::Flops => Ok(()),
            Self::Hours(hours) => within("budget", hours, above(0.0, 1e9)),
            Self::Dollars(dollars) => within("budget", dollars, above(0.0, 1e12)),
        }
    }
}

/// A number that points are compared by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// `PROBE/NUMBER` of the run's log, such as `held_out/loss`, or the name of a metric of `eval.json`.
    pub name: String,
    /// Which values are better.
    pub better: Direction,
}

/// A combination of values, one of each axis.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The axes and the names of their values.
    pub values: Vec<(String, String)>,
    /// What they change of the recipe.
    pub(super) overrides: Vec<Override>,
}

impl Setting {
    /// The values in a few words.
    pub fn label(&self) -> String {
        let names: Vec<&str> = self.values.iter().map(|(_, name)| name.as_str()).collect();
        names.join(", ")
    }
}

impl Definition {
    /// Reads a definition, its settings in the order of its axes (the first axis outermost), and the path of its base.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key or a value out of range, with file and line.
    pub fn read(path: &Path) -> Result<(Self, Vec<Setting>, PathBuf), TrainError> {
        let document = Document::read(path)?;
        let mut definition: Self = document.typed()?;
        let wrong = |error: OutOfRange| document.problem(&error.key, &error);
        definition.validate().map_err(wrong)?;
        let mut overrides: Vec<Vec<Vec<Override>>> = Vec::new();
        let in_file = |values: Vec<Document>| -> Result<Vec<Vec<Override>>, TrainError> {
            let of = |value: Document| -> Result<Vec<Override>, TrainError> {
                value
                    .items("set")
                    .iter()
                    .map(Document::as_override)
                    .collect()
            };
            values.into_iter().map(of).collect()
        };
        for axis in document.items("axes") {
            overrides.push(in_file(axis.items("values"))?);
        }
        if definition.axes.is_empty() {
            overrides.push(in_file(document.items("points"))?);
            definition.axes.push(Axis {
                name: POINTS.into(),
                values: std::mem::take(&mut definition.points),
            });
        }
        let settings = product(&definition.axes, &overrides);
        let base = beside(path, &definition.base);
        Ok((definition, settings, base))
    }

    fn validate(&self) -> Result<(), OutOfRange> {
        let either = self.axes.is_empty() != self.points.is_empty();
        require(either, "axes", || {
            "a sweep has either axes or points to compare".into()
        })?;
        distinct("axes", self.axes.iter().map(|axis| &axis.name))?;
        for (i, axis) in self.axes.iter().enumerate() {
            let key = format!("axes.{i}.values");
            require(!axis.values.is_empty(), &key, || {
                "an axis needs a value".into()
            })?;
            distinct(&key, axis.values.iter().map(|value| &value.name))?;
        }
        distinct("points", self.points.iter().map(|value| &value.name))?;
        let sizes = self.axes.iter().map(|axis| axis.values.len());
        let count = sizes.fold(self.points.len().max(1), usize::saturating_mul);
        require(count <= MAX_SETTINGS, "axes", || {
            format!("{count} points are more than {MAX_SETTINGS}")
        })?;
        require(!self.seeds.is_empty(), "seeds", || {
            "a sweep needs a seed".into()
        })?;
        distinct("seeds", self.seeds.iter())?;
        require(!self.metrics.is_empty(), "metrics", || {
            "a sweep needs something to compare by, such as (name: \"held_out/loss\", better: lower)"
                .into()
        })?;
        distinct("metrics", self.metrics.iter().map(|metric| &metric.name))?;
        let names = self
            .axes
            .iter()
            .flat_map(|axis| axis.values.iter().map(|value| &value.name))
            .chain(self.axes.iter().map(|axis| &axis.name))
            .chain(self.points.iter().map(|value| &value.name));
        for name in names {
            let length = name.chars().count();
            let holds = (1..=MAX_NAME).contains(&length) && !name.chars().any(char::is_control);
            require(holds, "axes", || {
                format!("a name is 1 to {MAX_NAME} printable characters, unlike {name:?}")
            })?;
        }
        self.budget.validate()
    }
}

/// Checks that no two entries of a list are the same.
fn distinct<T: Ord + std::fmt::Debug>(
    key: &str,
    mut entries: impl Iterator<Item = T>,
) -> Result<(), OutOfRange> {
    let mut seen = BTreeSet::new();
    let twice = entries.find_map(|entry| match seen.contains(&entry) {
        true => Some(format!("{entry:?} occurs twice")),
        false => {
            seen.insert(entry);
            None
        }
    });
    twice.map_or(Ok(()), |rule| Err(OutOfRange::new(key, rule)))
}

/// Every combination of the axes' values.
fn product(axes: &[Axis], overrides: &[Vec<Vec<Override>>]) -> Vec<Setting> {
    let none = Setting {
        values: Vec::new(),
        overrides: Vec::new(),
    };
    let all = axes.iter().zip(overrides);
    all.fold(vec![none], |settings, (axis, overrides)| {
        let with = |setting: &Setting, value: &AxisValue, more: &[Override]| {
            let mut setting = setting.clone();
            let named = (axis.name.clone(), value.name.clone());
            setting.values.push(named);
            setting.overrides.extend(more.iter().cloned());
            setting
        };
        let mut larger = Vec::new();
        for setting in &settings {
            let values = axis.values.iter().zip(overrides);
            larger.extend(values.map(|(value, more)| with(setting, value, more)));
        }
        larger
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Definition, Vec<Setting>, PathBuf), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sweep.ron");
        std::fs::write(&path, text).unwrap();
        Definition::read(&path).map_err(|error| error.to_string())
    }

    const REST: &str =
        "seeds: [0, 1], metrics: [(name: \"held_out/loss\", better: lower)], base: \"../a.ron\"";

    #[test]
    fn settings_are_the_product_of_the_axes() {
        let text = format!(
            "(axes: [(name: \"a\", values: [(name: \"1\"), (name: \"2\", set: [\"x=2\"])]), \
             (name: \"b\", values: [(name: \"3\", set: [\"y=3\", \"z=4\"]), (name: \"4\")])], {REST})"
        );
        let (definition, settings, base) = read(&text).unwrap();
        assert!(base.ends_with("../a.ron"));
        assert_eq!(definition.budget, Budget::Steps);
        let told: Vec<(String, Vec<&str>)> = settings
            .iter()
            .map(|setting| {
                let entries = setting.overrides.iter().map(Override::entry);
                (setting.label(), entries.collect())
            })
            .collect();
        assert_eq!(
            told,
            [
                ("1, 3".into(), vec!["y=3", "z=4"]),
                ("1, 4".into(), vec![]),
                ("2, 3".into(), vec!["x=2", "y=3", "z=4"]),
                ("2, 4".into(), vec!["x=2"]),
            ]
        );
    }

    #[test]
    fn a_list_of_points_is_one_axis() {
        let text = format!(
            "(points: [(name: \"no mask, 0.999\"), (name: \"75 %\", set: [\"x=2\"])], budget: Hours(0.5), {REST})"
        );
        let (definition, settings, _) = read(&text).unwrap();
        assert_eq!(definition.axes[0].name, POINTS);
        assert_eq!(definition.budget, Budget::Hours(0.5));
        assert_eq!(settings[1].label(), "75 %");
        assert_eq!(settings[1].values[0].0, POINTS);
    }

    #[test]
    fn what_makes_no_sense_is_an_error_with_its_line() {
        let points = "points: [(name: \"a\"), (name: \"b\")]";
        for (text, parts) in [
            (
                format!("({REST})"),
                ["sweep.ron:1", "either axes or points"],
            ),
            (
                format!("({points},\n axes: [(name: \"a\", values: [(name: \"a\")])], {REST})"),
                ["sweep.ron:2", "either axes or points"],
            ),
            (
                format!("(\n{points}, {}", REST.replace("[0, 1]", "[0, 0]") + ")"),
                ["sweep.ron:2", "occurs twice"],
            ),
            (
                format!("(\n{points}, {}", REST.replace("[0, 1]", "[]") + ")"),
                ["sweep.ron:2", "needs a seed"],
            ),
            (
                format!("({REST}, points: [\n(name: \"a\"), (name: \"a\")])"),
                ["sweep.ron:1", "\"a\" occurs twice"],
            ),
            (
                format!("({REST}, axes: [(name: \"a\", values: [])])"),
                ["sweep.ron:1", "an axis needs a value"],
            ),
            (
                format!("({REST}, points: [(name: \"\")])"),
                ["sweep.ron:1", "printable characters"],
            ),
            (
                format!("({points},\n\nbudget: Hours(0), {REST})"),
                ["sweep.ron:3", "above 0"],
            ),
            (
                format!("({points},\n\nbudgte: Steps, {REST})"),
                ["sweep.ron:3", "did you mean `budget`"],
            ),
            (
                format!("({points},\n\nbudget: Flosp, {REST})"),
                ["sweep.ron:3", "did you mean `Flops`"],
            ),
            (
                format!("({points}, {}", REST.replace("lower", "smaller") + ")"),
                ["sweep.ron:1", "lower"],
            ),
        ] {
            let said = read(&text).unwrap_err();
            for part in parts {
                assert!(said.contains(part), "no {part} in {said}");
            }
        }
        let many: String = (0..101).map(|i| format!("(name: \"{i}\"),")).collect();
        let axis = |name| format!("(name: \"{name}\", values: [{many}])");
        let text = format!("({REST}, axes: [{}, {}])", axis("a"), axis("b"));
        assert!(read(&text).unwrap_err().contains("more than 500"));
    }
}
