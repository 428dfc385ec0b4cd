//! A classifier on the disk: its weights, and a record of all they follow from.

use super::{
    Accuracy, Classifier, ClassifierConfig, ClassifierError, Dataset, Labels, Progress,
    dataset::content, network::ConvNet,
};
use burn::tensor::{DType, backend::AutodiffBackend};
use microdit::{DitBackend, checksum, weights::StateDict};
use microdit_data::{
    DataError,
    files::{read_json, write_json},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// Files of a classifier in its folder. The record is written last: it vouches for the weights.
const WEIGHTS: &str = "classifier.safetensors";
const RECORD: &str = "classifier.json";

/// What a classifier is trained on and measured by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Shards to train on, as [`microdit_data::Shards::open`] takes them.
    pub train: String,
    /// Shards to measure the accuracy on.
    pub held_out: String,
    /// Where labels are, in both.
    pub labels: Labels,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    origin: Origin,
    /// SHA-256 of the weights.
    weights: String,
    /// Of held-out shards, by the SHA-256 of their contents.
    accuracies: BTreeMap<String, Accuracy>,
    classes: Vec<String>,
    captions: BTreeMap<String, Option<usize>>,
}

/// What the weights of a classifier follow from: not what its accuracy is measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Origin {
    config: ClassifierConfig,
    labels: Labels,
    /// SHA-256 of the contents of the shards.
    train: String,
}

impl Record {
    /// With the accuracy on one more set of held-out shards.
    fn with(mut self, held_out: String, accuracy: Accuracy) -> Self {
        self.accuracies.insert(held_out, accuracy);
        self
    }

    fn write(&self, folder: &Path) -> Result<(), ClassifierError> {
        Ok(write_json(&folder.join(RECORD), self)?)
    }
}

impl<B: DitBackend> Classifier<B> {
    /// The classifier of a folder, if it was trained with this configuration on shards of this content; else one is trained, and
    /// put there. With the accuracy on the held-out pictures, which is measured once for each set of them, and the SHA-256 of the weights.
    ///
    /// # Errors
    /// Those of [`Dataset::read`] and [`fit`](Self::fit), and a folder that cannot be written.
    pub fn in_folder<AB>(
        folder: &Path,
        data: &Data,
        config: &ClassifierConfig,
        device: &B::Device,
        progress: impl FnMut(Progress),
    ) -> Result<(Self, Accuracy, String), ClassifierError>
    where
        AB: DitBackend + AutodiffBackend<InnerBackend = B, Device = B::Device>,
    {
        config.validate()?;
        let origin = Origin {
            config: config.clone(),
            labels: data.labels.clone(),
            train: content(&data.train)?,
        };
        let of = content(&data.held_out)?;
        if origin.train == of {
            let message =
                "the classifier is trained on these very shards; its accuracy needs others";
            return Err(ClassifierError::shards(&data.held_out, message));
        }
        let read = |shards| Dataset::read(shards, &data.labels, config.side);
        if let Some(record) = record(folder, &origin) {
            let network = ConvNet::new(config.widths, record.classes.len(), config.seed, device);
            let state = StateDict::read(&folder.join(WEIGHTS))?;
            let classifier = Self {
                network: state.load_into(network, device)?,
                config: config.clone(),
                classes: record.classes.clone(),
                captions: record.captions.clone(),
                device: device.clone(),
            };
            let weights = record.weights.clone();
            if let Some(&accuracy) = record.accuracies.get(&of) {
                return Ok((classifier, accuracy, weights));
            }
            let accuracy = classifier.accuracy_on(&read(&data.held_out)?)?;
            record.with(of, accuracy).write(folder)?;
            return Ok((classifier, accuracy, weights));
        }
        let (train, held_out) = (read(&data.train)?, read(&data.held_out)?);
        let (classifier, accuracy) = Self::fit::<AB>(&train, &held_out, config, device, progress)?;
        let weights = classifier.write(folder, origin, of, accuracy)?;
        Ok((classifier, accuracy, weights))
    }

    /// Writes weights and record; returns the weights' checksum.
    fn write(
        &self,
        folder: &Path,
        origin: Origin,
        held_out: String,
        accuracy: Accuracy,
    ) -> Result<String, ClassifierError> {
        fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let path = folder.join(WEIGHTS);
        StateDict::from_module(&self.network).write_safetensors(&path, DType::F32, None)?;
        let (_, weights) = checksum::of_file(&path).map_err(DataError::io(&path))?;
        let record = Record {
            origin,
            weights: weights.clone(),
            accuracies: BTreeMap::from([(held_out, accuracy)]),
            classes: self.classes.clone(),
            captions: self.captions.clone(),
        };
        record.write(folder)?;
        Ok(weights)
    }
}

/// The record of a folder, if it is of this origin and vouches for weights that are there.
fn record(folder: &Path, origin: &Origin) -> Option<Record> {
    let record: Record = read_json(&folder.join(RECORD)).ok()?;
    let (_, weights) = checksum::of_file(&folder.join(WEIGHTS)).ok()?;
    let places = record.captions.values().flatten();
    let sound = places
        .max()
        .is_none_or(|&place| place < record.classes.len())
        && record
            .accuracies
            .values()
            .all(|accuracy| accuracy.right <= accuracy.of);
    (sound && record.origin == *origin && record.weights == weights).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::{super::largest, *};
    use burn_autodiff::Autodiff;
    use burn_flex::Flex;
    use image::{Rgb, RgbImage};
    use microdit::rng::{Purpose, Stream};
    use microdit_data::ShardWriter;
    use std::io::Cursor;

    type Small = Classifier<Flex>;

    /// Noise in which vertical stripes, horizontal stripes or a disc are seen.
    fn picture(class: usize, place: u64) -> RgbImage {
        let mut random = Stream::new(7, Purpose::Synthetic, class as u64, place);
        let (from, to) = (random.below(4), 128 + random.below(128) as u8);
        RgbImage::from_fn(16, 16, |x, y| {
            let (x, y) = (x as usize + from, y as usize + from);
            let lit = match class {
                0 => x % 8 < 4,
                1 => y % 8 < 4,
                _ => (x as i32 - 10).pow(2) + (y as i32 - 10).pow(2) < 20,
            };
            let noise = random.below(90) as u8;
            Rgb([if lit { to } else { noise }, noise, noise])
        })
    }

    /// Of 15 passes over 192 pictures, 16 in each.
    const STEPS: u64 = 15 * 12;

    const CLASSES: [&str; 3] = ["columns", "rows", "disc"];

    fn shard(path: &Path, places: std::ops::Range<u64>, member: bool) {
        let mut writer = ShardWriter::create(path).unwrap();
        for place in places {
            for (class, name) in CLASSES.into_iter().enumerate() {
                let mut file = Cursor::new(Vec::new());
                picture(class, place)
                    .write_to(&mut file, image::ImageFormat::Png)
                    .unwrap();
                let caption = match place {
                    0 => "a picture".to_owned(),
                    _ => format!("a picture of {name}"),
                };
                let (key, parts) = match member {
                    true => (format!("{place}x{class}"), vec![("cls", name.as_bytes())]),
                    false => (format!("{place}-x-{name}"), vec![]),
                };
                let common = [("png", &file.get_ref()[..]), ("txt", caption.as_bytes())];
                writer.add(&key, &[&common[..], &parts].concat()).unwrap();
            }
        }
        writer.finish(BTreeMap::new()).unwrap();
    }

    struct Bench {
        folder: tempfile::TempDir,
        data: Data,
        config: ClassifierConfig,
    }

    impl Bench {
        fn new(member: bool) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let [train, held_out] = ["train.tar", "test.tar"].map(|name| folder.path().join(name));
            shard(&train, 0..64, member);
            shard(&held_out, 100..140, member);
            Self {
                data: Data {
                    train: train.to_string_lossy().into(),
                    held_out: held_out.to_string_lossy().into(),
                    labels: match member {
                        true => Labels::Member("cls".into()),
                        false => Labels::FromKeySuffix('-'),
                    },
                },
                config: ClassifierConfig {
                    side: 16,
                    widths: [8, 8, 16],
                    epochs: 15,
                    lr: 1e-2,
                    batch: 16,
                    shift: 2,
                    ..ClassifierConfig::default()
                },
                folder,
            }
        }

        /// The classifier of a folder, with its accuracy, its checksum, and the steps that were taken for it.
        fn run(&self, folder: &str) -> Result<(Small, Accuracy, String, u64), String> {
            let (folder, mut steps) = (self.folder.path().join(folder), 0);
            let device = Default::default();
            let count = |progress: Progress| {
                steps += 1;
                assert_eq!(progress.step, steps);
            };
            let done = Small::in_folder::<Autodiff<Flex>>(
                &folder,
                &self.data,
                &self.config,
                &device,
                count,
            );
            let (classifier, accuracy, weights) = done.map_err(|error| error.to_string())?;
            Ok((classifier, accuracy, weights, steps))
        }
    }

    #[test]
    fn classes_are_learnt_and_a_classifier_is_found_again() {
        let mut bench = Bench::new(false);
        let (classifier, accuracy, weights, steps) = bench.run("a").unwrap();
        assert_eq!((accuracy.of, steps), (120, STEPS));
        assert!(accuracy.share() > 0.9, "{accuracy}");
        assert_eq!(classifier.classes(), ["columns", "disc", "rows"]);
        assert_eq!(classifier.class_of(" a picture of rows"), Some("rows"));
        // A caption of all three classes, and one of none.
        assert_eq!(classifier.class_of("a picture"), None);
        assert_eq!(classifier.class_of("a cat"), None);
        // Found again; the same where it is trained anew; another after a change of anything it follows from.
        let pictures: Vec<RgbImage> = (0..9).map(|i| picture(i % 3, 200 + i as u64)).collect();
        let (found, same, sum, steps) = bench.run("a").unwrap();
        assert_eq!((same, &sum, steps), (accuracy, &weights, 0));
        let features = classifier.features(&pictures);
        assert_eq!(features.len(), 9 * 16);
        assert_eq!(found.features(&pictures), features);
        let (_, _, sum, steps) = bench.run("b").unwrap();
        assert_eq!((&sum, steps), (&weights, STEPS));
        bench.config.seed = 1;
        let (_, _, sum, steps) = bench.run("a").unwrap();
        assert!(sum != weights && steps == STEPS);
        shard(Path::new(&bench.data.train), 0..65, false);
        assert_eq!(bench.run("a").unwrap().3, STEPS);
        // Weights that are not those of the record are not taken.
        let path = bench.folder.path().join("a").join(WEIGHTS);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(bench.run("a").unwrap().3, STEPS);
    }

    #[test]
    fn another_held_out_set_is_measured_and_trains_nothing() {
        let mut bench = Bench::new(false);
        let (_, first, weights, steps) = bench.run("a").unwrap();
        assert_eq!(steps, STEPS);
        let path = bench.folder.path().join("other.tar");
        shard(&path, 200..210, false);
        let of_first = bench.data.held_out.clone();
        bench.data.held_out = path.to_string_lossy().into();
        let (_, other, same, steps) = bench.run("a").unwrap();
        assert_eq!((other.of, steps, &same), (30, 0, &weights));
        // Where it is trained with these at once, it is the same.
        let (_, afresh, same, steps) = bench.run("b").unwrap();
        assert_eq!((afresh, steps, &same), (other, STEPS, &weights));
        // Both are known from now on, also where the shards are those in another place.
        std::fs::rename(&of_first, bench.folder.path().join("moved.tar")).unwrap();
        bench.data.held_out = bench
            .folder
            .path()
            .join("moved.tar")
            .to_string_lossy()
            .into();
        let (_, again, same, steps) = bench.run("a").unwrap();
        assert_eq!((again, steps, &same), (first, 0, &weights));
    }

    #[test]
    fn pictures_are_judged_by_what_their_prompts_ask_for() {
        let bench = Bench::new(true);
        let (classifier, accuracy, ..) = bench.run("a").unwrap();
        assert!(accuracy.share() > 0.9, "{accuracy}");
        // Each picture by its own prompt, and by the next class's.
        let pictures: Vec<RgbImage> = (0..60).map(|i| picture(i % 3, 300 + i as u64)).collect();
        let prompts = |turn: usize| -> Vec<String> {
            let class = |i: usize| CLASSES[(i + turn) % 3];
            (0..60)
                .map(|i| format!("a picture of {}", class(i)))
                .collect()
        };
        let logits = classifier.logits(&classifier.features(&pictures));
        let share = |turn| {
            let mut accuracy = Accuracy::default();
            let rows = logits.chunks_exact(CLASSES.len()).map(largest);
            for (seen, prompt) in rows.zip(prompts(turn)) {
                accuracy.count(classifier.class_of(&prompt) == Some(&*classifier.classes()[seen]));
            }
            accuracy.share()
        };
        assert!(
            share(0) > 0.9 && share(1) < 0.1,
            "{} {}",
            share(0),
            share(1)
        );
        // The caption of several classes, and of none.
        assert_eq!(classifier.class_of("a picture"), None);
        assert_eq!(classifier.class_of("a cat"), None);
    }

    #[test]
    fn what_cannot_be_learnt_from_is_said() {
        let bench = Bench::new(false);
        let with = |change: &dyn Fn(&mut Bench)| {
            let mut bench = Bench {
                folder: tempfile::tempdir().unwrap(),
                data: bench.data.clone(),
                config: bench.config.clone(),
            };
            change(&mut bench);
            bench.run("a").unwrap_err()
        };
        for (error, part) in [
            (
                with(&|b| b.data.labels = Labels::FromKeySuffix('+')),
                "0-x-columns: expected a label after the last `+`",
            ),
            (
                with(&|b| b.data.labels = Labels::Member("cls".into())),
                "cls",
            ),
            (
                with(&|b| b.data.train = "/nowhere.tar".into()),
                "/nowhere.tar",
            ),
            (
                with(&|b| b.config.batch = 1000),
                "it has 192 pictures; a step takes 1000",
            ),
            (
                with(&|b| b.config.side = 12),
                "side: must be a multiple of 8, not 12",
            ),
        ] {
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
    }
}
