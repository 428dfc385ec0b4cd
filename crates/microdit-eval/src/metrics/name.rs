//! What metrics are called: one table.

use crate::{features::Family, statistics::Direction};
use serde::{Deserialize, Serialize};

/// A formula over features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// The Fréchet distance of two Gaussians ([`super::frechet`]).
    Frechet,
    /// The Fréchet distance, extrapolated to infinitely many pictures ([`super::frechet::infinite`]).
    FrechetInfinite,
    /// The unbiased squared maximum mean discrepancy of a polynomial kernel, by subsets ([`super::kernel::distance`]).
    Kernel,
    /// Share of pictures that lie among those of the reference ([`super::neighbours`]).
    Precision,
    /// Share of the reference that lies among the pictures.
    Recall,
    /// How densely the reference lies around the pictures.
    Density,
    /// Share of the reference with a picture close by.
    Coverage,
    /// The squared maximum mean discrepancy of a Gaussian kernel, biased as published ([`super::kernel::cmmd`]).
    Cmmd,
    /// The same without its bias.
    CmmdUnbiased,
    /// How well pictures fit their captions ([`super::clip_score()`]).
    ClipScore,
    /// How sure and how varied a classifier is ([`super::inception_score()`]).
    InceptionScore,
}

/// What a formula is called over the features of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// In files and flags.
    pub key: &'static str,
    /// In tables and plots.
    pub title: &'static str,
}

/// Every name there is. Only Inception's features have the names FID and KID, and only clean-fid's CLIP the name CLIP-FID.
const NAMES: &[(Metric, Family, &str, &str)] = {
    use Family::{Classifier, CleanClip, Clip, DinoV2, Inception};
    use Metric::{
        ClipScore, Cmmd, CmmdUnbiased, Coverage, Density, Frechet, FrechetInfinite, InceptionScore,
        Kernel, Precision, Recall,
    };
    &[
        (Frechet, Inception, "fid", "FID"),
        (Frechet, CleanClip, "clip-fid", "CLIP-FID"),
        (Frechet, Clip, "fd-clip", "FD (CLIP)"),
        (Frechet, DinoV2, "fd-dinov2", "FD (DINOv2)"),
        (Frechet, Classifier, "fd-classifier", "FD (classifier)"),
        (FrechetInfinite, Inception, "fid-infinite", "FID∞"),
        (FrechetInfinite, CleanClip, "clip-fid-infinite", "CLIP-FID∞"),
        (FrechetInfinite, Clip, "fd-infinite-clip", "FD∞ (CLIP)"),
        (
            FrechetInfinite,
            DinoV2,
            "fd-infinite-dinov2",
            "FD∞ (DINOv2)",
        ),
        (
            FrechetInfinite,
            Classifier,
            "fd-infinite-classifier",
            "FD∞ (classifier)",
        ),
        (Kernel, Inception, "kid", "KID"),
        (Kernel, CleanClip, "kd-clean-clip", "KD (clean-fid's CLIP)"),
        (Kernel, Clip, "kd-clip", "KD (CLIP)"),
        (Kernel, DinoV2, "kd-dinov2", "KD (DINOv2)"),
        (Kernel, Classifier, "kd-classifier", "KD (classifier)"),
        (Precision, Inception, "precision", "precision"),
        (
            Precision,
            CleanClip,
            "precision-clean-clip",
            "precision (clean-fid's CLIP)",
        ),
        (Precision, Clip, "precision-clip", "precision (CLIP)"),
        (Precision, DinoV2, "precision-dinov2", "precision (DINOv2)"),
        (
            Precision,
            Classifier,
            "precision-classifier",
            "precision (classifier)",
        ),
        (Recall, Inception, "recall", "recall"),
        (
            Recall,
            CleanClip,
            "recall-clean-clip",
            "recall (clean-fid's CLIP)",
        ),
        (Recall, Clip, "recall-clip", "recall (CLIP)"),
        (Recall, DinoV2, "recall-dinov2", "recall (DINOv2)"),
        (
            Recall,
            Classifier,
            "recall-classifier",
            "recall (classifier)",
        ),
        (Density, Inception, "density", "density"),
        (
            Density,
            CleanClip,
            "density-clean-clip",
            "density (clean-fid's CLIP)",
        ),
        (Density, Clip, "density-clip", "density (CLIP)"),
        (Density, DinoV2, "density-dinov2", "density (DINOv2)"),
        (
            Density,
            Classifier,
            "density-classifier",
            "density (classifier)",
        ),
        (Coverage, Inception, "coverage", "coverage"),
        (
            Coverage,
            CleanClip,
            "coverage-clean-clip",
            "coverage (clean-fid's CLIP)",
        ),
        (Coverage, Clip, "coverage-clip", "coverage (CLIP)"),
        (Coverage, DinoV2, "coverage-dinov2", "coverage (DINOv2)"),
        (
            Coverage,
            Classifier,
            "coverage-classifier",
            "coverage (classifier)",
        ),
        (
            Cmmd,
            CleanClip,
            "cmmd-clean-clip",
            "CMMD (clean-fid's CLIP)",
        ),
        (Cmmd, Clip, "cmmd", "CMMD"),
        (
            CmmdUnbiased,
            CleanClip,
            "cmmd-unbiased-clean-clip",
            "CMMD, unbiased (clean-fid's CLIP)",
        ),
        (CmmdUnbiased, Clip, "cmmd-unbiased", "CMMD, unbiased"),
        (
            ClipScore,
            CleanClip,
            "clip-score-clean-clip",
            "CLIP score (clean-fid's CLIP)",
        ),
        (ClipScore, Clip, "clip-score", "CLIP score"),
        (
            InceptionScore,
            Inception,
            "inception-score",
            "Inception score",
        ),
    ]
};

impl Metric {
    /// What this is called over features of a family; none where nobody means anything by it, such as a CLIP score of DINOv2.
    ///
    /// ```
    /// use microdit_eval::{features::Family, metrics::Metric};
    /// assert_eq!(Metric::Frechet.name(Family::Inception).unwrap().key, "fid");
    /// assert_eq!(Metric::Frechet.name(Family::DinoV2).unwrap().key, "fd-dinov2");
    /// assert!(Metric::ClipScore.name(Family::DinoV2).is_none());
    /// ```
    pub fn name(self, family: Family) -> Option<Name> {
        let found = NAMES.iter().find(|row| (row.0, row.1) == (self, family));
        found.map(|&(_, _, key, title)| Name { key, title })
    }

    /// The formula and the features a key of the table names.
    pub fn from_key(key: &str) -> Option<(Self, Family)> {
        let found = NAMES.iter().find(|row| row.2 == key);
        found.map(|&(metric, family, ..)| (metric, family))
    }

    /// The keys of the table, in its order.
    pub fn keys() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|row| row.2)
    }

    /// The least and the largest value it can have.
    pub fn range(self) -> [f64; 2] {
        match self {
            Self::Precision | Self::Recall | Self::Coverage => [0.0, 1.0],
            Self::Frechet | Self::Cmmd | Self::Density => [0.0, f64::INFINITY],
            Self::ClipScore => [0.0, 100.0],
            Self::InceptionScore => [1.0, f64::INFINITY],
            // Without their bias they scatter around zero.
            Self::FrechetInfinite | Self::Kernel | Self::CmmdUnbiased => {
                [f64::NEG_INFINITY, f64::INFINITY]
            }
        }
    }

    /// Which way it improves.
    pub fn direction(self) -> Direction {
        match self {
            Self::Frechet
            | Self::FrechetInfinite
            | Self::Kernel
            | Self::Cmmd
            | Self::CmmdUnbiased => Direction::Lower,
            Self::Precision
            | Self::Recall
            | Self::Density
            | Self::Coverage
            | Self::ClipScore
            | Self::InceptionScore => Direction::Higher,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_only_inception_has_fid() {
        let keys: BTreeSet<&str> = NAMES.iter().map(|row| row.2).collect();
        let titles: BTreeSet<&str> = NAMES.iter().map(|row| row.3).collect();
        assert_eq!((keys.len(), titles.len()), (NAMES.len(), NAMES.len()));
        for &(metric, family, key, title) in NAMES {
            assert_eq!(metric.name(family), Some(Name { key, title }));
            assert_eq!(Metric::from_key(key), Some((metric, family)));
            let claims = key.split('-').any(|word| word == "fid" || word == "kid");
            let clean = family == Family::CleanClip && key.starts_with("clip-fid");
            assert!(!claims || family == Family::Inception || clean, "{key}");
        }
    }
}
