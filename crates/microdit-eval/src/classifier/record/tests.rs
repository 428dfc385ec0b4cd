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
        let done =
            Small::in_folder::<Autodiff<Flex>>(&folder, &self.data, &self.config, &device, count);
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

/// The generated dataset needs no shards: what a classifier learns from one part of it holds for the other.
#[test]
fn generated_pictures_are_learnt() {
    let mut bench = Bench::new(false);
    let generated = "shapes".to_owned();
    (bench.data.train, bench.data.held_out) = (generated.clone(), generated);
    bench.config.epochs = 2;
    bench.config.batch = 64;
    let (classifier, accuracy, ..) = bench.run("a").unwrap();
    // Four shapes, six colors, two sizes, three backgrounds.
    assert_eq!(classifier.classes().len(), 4 * 6 * 2 * 3);
    assert!((1400..1600).contains(&accuracy.of), "{accuracy}");
    // Two passes at half the size teach it a part; by chance it is 1 in 144.
    assert!(accuracy.share() > 0.1, "{accuracy}");
    let caption = "a small red cross on a gray background";
    assert_eq!(classifier.class_of(caption), Some(caption));
    let pair = "a small red circle above a large blue cross on a gray background";
    assert_eq!(classifier.class_of(pair), None);
}

/// Two that want the same at once wait for one training.
#[test]
fn what_is_wanted_twice_is_trained_once() {
    let bench = Bench::new(false);
    let both = std::thread::scope(|scope| {
        let one = || bench.run("a").unwrap();
        let threads = [scope.spawn(one), scope.spawn(one)];
        threads.map(|thread| thread.join().unwrap())
    });
    let [(_, one, weights, steps), (_, other, same, others)] = &both;
    assert_eq!((one, weights), (other, same));
    assert_eq!(steps + others, STEPS);
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
