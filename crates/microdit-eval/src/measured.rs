//! One number, and everything it depends on.

use crate::features::FeatureNetwork;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A number with everything it depends on: a row of `eval.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// What was measured: a key of [`crate::metrics::Metric::name`], or a name of its own such as `held-out-loss`.
    pub metric: String,
    /// The value.
    pub value: f64,
    /// Its standard error over the pictures, where one was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Its 95 % interval, where one was computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Number of pictures measured.
    pub samples: u64,
    /// What they were compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceSet>,
    /// The network that saw the pictures, with its resizing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<FeatureNetwork>,
    /// The metric's constants, such as `k`, `sigma`, `subsets`, `subset-size`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub constants: BTreeMap<String, f64>,
    /// How the pictures were made: `guidance`, `steps`, `sampler`, `seed`. What people vary to compare, so that two numbers
    /// may differ in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// The pictures others are compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceSet {
    /// Their name, for messages; another name does not make another reference.
    pub name: String,
    /// SHA-256 of the file or the features, in lower-case hexadecimal.
    pub sha256: String,
    /// How many they are, where the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<u64>,
}

/// Two numbers that mean different things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not comparable: {what} differs, {a} and {b}")]
pub struct Incomparable {
    /// The first thing that differs.
    pub what: String,
    /// The first number's.
    pub a: String,
    /// The second number's.
    pub b: String,
}

/// Whether the difference of two numbers says anything: the same metric over as many pictures, by the same network, resizing
/// and constants, against the same reference. Labels may differ.
///
/// # Errors
/// The first thing that differs.
pub fn comparable(a: &Measured, b: &Measured) -> Result<(), Incomparable> {
    for (a, b) in a.facts().into_iter().zip(b.facts()) {
        a.same_as(&b)?;
    }
    for key in a.constants.keys().chain(b.constants.keys()) {
        let fact = |side: &Measured| {
            let value = side.constants.get(key).map(f64::to_string);
            Fact::new(&format!("the constant {key}"), value)
        };
        fact(a).same_as(&fact(b))?;
    }
    Ok(())
}

/// Something that must be the same on both sides.
struct Fact {
    what: String,
    /// What is compared.
    identity: String,
    /// What is shown.
    shown: String,
}

impl Fact {
    fn new(what: &str, value: Option<impl ToString>) -> Self {
        let value = value.map_or_else(|| "none".to_owned(), |value| value.to_string());
        Self {
            what: what.to_owned(),
            identity: value.clone(),
            shown: value,
        }
    }

    /// Something that has a name and is told apart by its checksum.
    fn named(what: &str, value: Option<(&str, &str)>) -> Self {
        let fact = Self::new(what, value.map(|(_, sha256)| sha256));
        let shown =
            value.map(|(name, sha256)| format!("{name} ({})", sha256.get(..12).unwrap_or(sha256)));
        Self {
            shown: shown.unwrap_or(fact.shown),
            ..fact
        }
    }

    fn same_as(&self, other: &Self) -> Result<(), Incomparable> {
        match self.identity == other.identity {
            true => Ok(()),
            false => Err(Incomparable {
                what: self.what.clone(),
                a: self.shown.clone(),
                b: other.shown.clone(),
            }),
        }
    }
}

impl Measured {
    /// What two numbers must have in common, from the coarse to the fine.
    fn facts(&self) -> [Fact; 6] {
        let (network, reference) = (self.network.as_ref(), self.reference.as_ref());
        let weights = network.map(|network| (network.name.as_str(), network.sha256.as_str()));
        let set = reference.map(|set| (set.name.as_str(), set.sha256.as_str()));
        [
            Fact::new("the metric", Some(&self.metric)),
            Fact::named("the feature network", weights),
            Fact::new("the resizing", network.map(|network| &network.resize)),
            Fact::new("the number of pictures", Some(self.samples)),
            Fact::new(
                "the size of the reference",
                reference.and_then(|set| set.samples),
            ),
            Fact::named("the reference", set),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Family;

    fn measured() -> Measured {
        Measured {
            metric: "kid".into(),
            value: 0.0123,
            standard_error: Some(0.0004),
            interval: Some([0.0115, 0.0131]),
            samples: 10_000,
            reference: Some(ReferenceSet {
                name: "coco".into(),
                sha256: "ab".repeat(32),
                samples: Some(30_000),
            }),
            network: Some(FeatureNetwork {
                family: Family::Inception,
                name: "pytorch-fid".into(),
                sha256: "cd".repeat(32),
                resize: "clean-fid".into(),
                source: None,
            }),
            constants: BTreeMap::from([("subsets".into(), 100.0), ("subset-size".into(), 1000.0)]),
            labels: BTreeMap::from([("guidance".into(), "1.5".into())]),
        }
    }

    #[test]
    fn a_row_is_written_and_read_back_bit_for_bit() {
        let row = Measured {
            value: 0.1 + 0.2,
            ..measured()
        };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Measured>(&json).unwrap(), row);
        let bare = Measured {
            standard_error: None,
            interval: None,
            reference: None,
            network: None,
            constants: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..row
        };
        let json = serde_json::to_string(&bare).unwrap();
        assert_eq!(
            json,
            r#"{"metric":"kid","value":0.30000000000000004,"samples":10000}"#
        );
        assert_eq!(serde_json::from_str::<Measured>(&json).unwrap(), bare);
    }

    #[test]
    fn the_first_thing_that_differs_is_named() {
        type Change = fn(&mut Measured);
        let changes: [(Change, &str); 9] = [
            (
                |m| m.metric = "fid".into(),
                "the metric differs, kid and fid",
            ),
            (
                |m| m.samples = 5000,
                "the number of pictures differs, 10000 and 5000",
            ),
            (
                |m| m.reference = None,
                "the size of the reference differs, 30000 and none",
            ),
            (
                |m| m.reference.as_mut().unwrap().samples = None,
                "the size of the reference differs, 30000 and none",
            ),
            (
                |m| m.reference.as_mut().unwrap().sha256 = "ef".repeat(32),
                "the reference differs, coco (abababababab) and coco (efefefefefef)",
            ),
            (
                |m| m.network.as_mut().unwrap().sha256 = "00".repeat(32),
                "the feature network differs, pytorch-fid (cdcdcdcdcdcd) and pytorch-fid (000000000000)",
            ),
            (
                |m| m.network.as_mut().unwrap().resize = "pytorch-fid".into(),
                "the resizing differs, clean-fid and pytorch-fid",
            ),
            (
                |m| m.constants.extend([("subsets".to_owned(), 50.0)]),
                "the constant subsets differs, 100 and 50",
            ),
            (
                |m| m.constants.extend([("k".to_owned(), 3.0)]),
                "the constant k differs, none and 3",
            ),
        ];
        for (change, expected) in changes {
            let mut other = measured();
            change(&mut other);
            let text = comparable(&measured(), &other).unwrap_err().to_string();
            assert_eq!(text, format!("not comparable: {expected}"));
            assert!(comparable(&other, &measured()).is_err());
        }
    }

    #[test]
    fn values_labels_and_names_may_differ() {
        let mut other = measured();
        other.value = 1.0;
        other.labels.clear();
        other.reference.as_mut().unwrap().name = "coco-30k".into();
        other.network.as_mut().unwrap().name = "inception".into();
        assert_eq!(comparable(&measured(), &other), Ok(()));
    }
}
