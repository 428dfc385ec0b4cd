//! What pictures are compared with, as it is named on a command line or in a recipe.

use super::{
    error::EvaluateError,
    extractor::Extractor,
    pictures::{PictureSet, SHAPES},
    reference::Reference,
    sight::Sight,
};
use crate::{
    features::Features,
    measured::ReferenceSet,
    npz::{self, Contents},
};
use microdit::checksum;
use microdit_data::files::file_name;
use microdit_train::{Recipe, recipe::DataConfig};
use std::path::{Path, PathBuf};

/// How many pictures of the generated dataset serve as a reference, unless told otherwise.
const GENERATED: u64 = 10_000;

/// What pictures are compared with.
#[derive(Clone, Debug)]
pub enum Against {
    /// Other pictures.
    Pictures(PictureSet),
    /// Statistics or features in an `.npz` file; of features the first so many. Which network they are of, whoever gives it has to know.
    File(PathBuf, Contents, u64),
}

impl Against {
    /// The first `limit` pictures of what `spec` names: shards, a directory, an `.npz`, or [`SHAPES`], which are generated at `size`
    /// pixels; all pictures, or 10,000 generated ones, without a limit.
    ///
    /// # Errors
    /// If there are none, or a file cannot be read; a limit for statistics, which have no first pictures.
    pub fn open(spec: &str, limit: Option<u64>, size: u32) -> Result<Self, EvaluateError> {
        let path = Path::new(spec);
        if spec == SHAPES && !path.exists() {
            let set = PictureSet::of_shapes(size, limit.unwrap_or(GENERATED))?;
            return Ok(Self::Pictures(set));
        }
        if path.extension().is_some_and(|extension| extension == "npz") {
            let contents = npz::contents(path)?;
            return match (contents, limit) {
                (Contents::Statistics, Some(limit)) => Err(EvaluateError::LimitedStatistics {
                    path: path.to_owned(),
                    limit,
                }),
                _ => Ok(Self::File(
                    path.to_owned(),
                    contents,
                    limit.unwrap_or(u64::MAX),
                )),
            };
        }
        let set = PictureSet::open(spec, limit.unwrap_or(u64::MAX))?;
        Ok(Self::Pictures(set))
    }

    /// The name of the pictures a run is evaluated on by its recipe; none if that names none, or latents.
    pub fn of_recipe(recipe: &Recipe) -> Option<String> {
        let evaluation = recipe.run.evaluation.as_ref();
        let distance = evaluation.and_then(|config| config.feature_distance.as_ref());
        if let Some(reference) = distance.and_then(|config| config.reference.clone()) {
            return Some(reference);
        }
        match &recipe.last_stage().data {
            DataConfig::Shapes { .. } => Some(SHAPES.to_owned()),
            DataConfig::WebDataset { .. } => evaluation?.shards.clone(),
            DataConfig::Latents { .. } => None,
        }
    }

    /// Whether no more than mean and covariance are known of them.
    pub fn is_statistics(&self) -> bool {
        matches!(self, Self::File(_, Contents::Statistics, _))
    }

    /// The pictures as a network sees them; none if it was asked to stop before all were seen.
    ///
    /// # Errors
    /// Pictures or files that cannot be read, too many damaged pictures.
    pub fn seen_by(
        &self,
        network: &dyn Extractor,
        sight: &mut Sight<'_>,
    ) -> Result<Option<Reference>, EvaluateError> {
        let (path, contents, limit) = match self {
            Self::Pictures(set) => {
                let seen = sight.of(set, network)?;
                return Ok(seen.map(|(features, _)| {
                    let set = ReferenceSet {
                        name: set.name().to_owned(),
                        sha256: set.identity(),
                        samples: Some(features.pictures() as u64),
                    };
                    Reference::of_features(features, set)
                }));
            }
            Self::File(path, contents, limit) => (path, contents, *limit),
        };
        let (_, sha256) = checksum::of_file(path).map_err(EvaluateError::io(path))?;
        let set = |samples: Option<usize>| ReferenceSet {
            name: file_name(path),
            sha256,
            samples: samples.map(|samples| samples as u64),
        };
        Ok(Some(match contents {
            Contents::Statistics => {
                let gaussian = npz::read_statistics(path)?;
                let set = set(gaussian.samples);
                Reference::of_statistics(gaussian, set)
            }
            Contents::Features => {
                let (dim, mut values) = npz::read_features(path)?;
                let used = usize::try_from(limit).unwrap_or(usize::MAX);
                // How many they are is part of what they are called in a row.
                values.truncate(used.saturating_mul(dim));
                let features = Features::new(network.network().clone(), dim, values)?;
                let set = set(Some(features.pictures()));
                Reference::of_features(features, set)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::distances,
        features::{Family, FeatureNetwork},
        metrics::Metric,
        npz::tests::{Folder, f32s, npy},
    };
    use image::RgbImage;
    use microdit::rng::{Purpose, Stream};
    use std::sync::atomic::AtomicBool;
    use zip::CompressionMethod;

    /// A network that sees nothing: files hold what others have seen.
    struct Blind(FeatureNetwork);

    impl Extractor for Blind {
        fn network(&self) -> &FeatureNetwork {
            &self.0
        }

        fn dim(&self) -> usize {
            2
        }

        fn features(&self, _pictures: &[RgbImage]) -> Vec<f32> {
            unreachable!("a file has no pictures")
        }
    }

    #[test]
    fn a_file_of_features_allows_all_that_pictures_do() {
        let rows = Stream::new(0, Purpose::Noise, 0, 0).normal(40 * 2);
        let wide: Vec<f64> = rows.iter().copied().map(f64::from).collect();
        let folder = Folder::new();
        let arrays = [
            ("reps", npy("<f4", "False", "(40, 2)", &f32s(&wide))),
            // dgm-eval's files may hold both.
            ("mu", npy("<f4", "False", "(2,)", &f32s(&wide[..2]))),
            ("sigma", npy("<f4", "False", "(2, 2)", &f32s(&wide[..4]))),
        ];
        let path = folder.archive(CompressionMethod::Deflated, &arrays);
        let against = Against::open(path.to_str().unwrap(), None, 32).unwrap();
        assert!(!against.is_statistics());
        let blind = Blind(FeatureNetwork {
            family: Family::DinoV2,
            name: "test".into(),
            sha256: "00".into(),
            resize: "none".into(),
            source: None,
        });
        let mut sight = Sight {
            cache: Path::new("/nowhere"),
            max_damage: 0.0,
            stop: &AtomicBool::new(false),
            progress: &mut |_| (),
        };
        let seen = against.seen_by(&blind, &mut sight).unwrap().unwrap();
        assert_eq!(seen.rows().unwrap().select(&[7]), rows[14..16]);
        assert_eq!(seen.set().samples, Some(40));
        let pictures = Features::new(blind.0.clone(), 2, rows[..60].to_vec()).unwrap();
        let wanted = [Metric::Kernel, Metric::Coverage];
        assert_eq!(distances(&wanted, &pictures, &seen, 0).unwrap().len(), 2);
        // The first rows alone; more than there are is all of them.
        let mut first = |limit| {
            let against = Against::open(path.to_str().unwrap(), Some(limit), 32).unwrap();
            against.seen_by(&blind, &mut sight).unwrap().unwrap()
        };
        let few = first(7);
        assert_eq!(few.set().samples, Some(7));
        assert_eq!(few.rows().unwrap().select(&[6]), rows[12..14]);
        assert_eq!(few.rows().unwrap().len(), 7);
        assert_eq!(first(41).set(), seen.set());
        let path = folder.archive(CompressionMethod::Stored, &arrays[1..]);
        let open = |limit| Against::open(path.to_str().unwrap(), limit, 32);
        assert!(open(None).unwrap().is_statistics());
        let error = open(Some(7)).unwrap_err().to_string();
        assert!(
            error.contains("so that the first 7 cannot be taken"),
            "{error}"
        );
    }
}
