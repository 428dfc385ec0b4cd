//! What training varies of a sample, whatever the threads, the batch size and the interruptions.

use super::*;
use crate::{ShardWriter, columns::Columns, npy_of_halves};
use std::collections::BTreeMap;

/// Samples in each of two shards.
const COUNT: usize = 60;

/// A picture of a sample of its own.
fn picture(level: usize) -> Vec<u8> {
    let mut file = std::io::Cursor::new(Vec::new());
    let pixels = ::image::RgbImage::from_fn(24, 16, |x, y| {
        ::image::Rgb([level as u8, 10 * x as u8, 10 * y as u8])
    });
    pixels
        .write_to(&mut file, ::image::ImageFormat::Png)
        .unwrap();
    file.into_inner()
}

/// Two shards of pictures with a long and a short caption each; every third lacks the short one.
pub(super) fn captioned(folder: &Path) {
    for shard in 0..2 {
        let mut writer = ShardWriter::create(&folder.join(format!("{shard}.tar"))).unwrap();
        for i in 0..COUNT {
            let key = format!("{shard}-{i}");
            let (picture, long, short) =
                (picture(i), format!("long {key}"), format!("short {key}"));
            let mut members = vec![("png", &picture[..]), ("long.txt", long.as_bytes())];
            if i % 3 != 0 {
                members.push(("short.txt", short.as_bytes()));
            }
            writer.add(&key, &members).unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
    }
}

/// Shards whose samples have a long and a short caption.
fn long_and_short(folder: &Path) -> Shards {
    let names = ["long", "short"].map(str::to_owned);
    let members = Members::Named(Columns::of_captions(&names).into());
    Shards::open(&folder.to_string_lossy(), members).unwrap()
}

/// Keys and captions of so many samples, in batches of `config`.
fn drawn(
    shards: &Shards,
    config: &LoaderConfig,
    start: &Position,
    count: usize,
) -> (Vec<(String, String)>, Position) {
    let source = Source::Shards(shards.clone());
    let mut loader = Loader::new(source, config.clone(), start);
    let (mut all, mut next) = (Vec::new(), start.clone());
    while all.len() < count {
        let batch = loader.next_batch().unwrap();
        let Captions::Texts(texts) = batch.captions else {
            panic!("captions are texts")
        };
        all.extend(batch.keys.into_iter().zip(texts));
        next = batch.next;
    }
    (all, next)
}

#[test]
fn captions_are_drawn_the_same_for_any_threads_batches_and_interruptions() {
    let folder = tempfile::tempdir().unwrap();
    captioned(folder.path());
    let shards = long_and_short(folder.path());
    let with = |threads, batch, weights: &[f64]| LoaderConfig {
        batch,
        variation: Variation {
            captions: weights.to_vec(),
            ..Variation::default()
        },
        ..config(threads)
    };
    let start = Position::default();
    let passes = 10;
    let total = passes * 2 * COUNT;
    let (whole, _) = drawn(&shards, &with(1, 6, &[1.0, 3.0]), &start, total);
    assert_eq!(
        drawn(&shards, &with(3, 6, &[1.0, 3.0]), &start, total).0,
        whole
    );
    assert_eq!(
        drawn(&shards, &with(2, 10, &[1.0, 3.0]), &start, total).0,
        whole
    );
    for stop in [6, 60, 150, 606] {
        let config = with(2, 6, &[1.0, 3.0]);
        let next = drawn(&shards, &config, &start, stop).1;
        let rest = drawn(&shards, &config, &next, total - stop).0;
        assert_eq!(rest, whole[stop..], "stop {stop}");
    }
    // Of those that have both, a quarter is long: within four standard errors. The others are.
    let (mut long, mut both) = (0, 0);
    for (key, caption) in &whole {
        let place: usize = key.split('-').nth(1).unwrap().parse().unwrap();
        let is_long = caption == &format!("long {key}");
        assert!(
            is_long || caption == &format!("short {key}"),
            "{key}: {caption}"
        );
        match place % 3 {
            0 => assert!(is_long, "{key} has one caption"),
            _ => (both, long) = (both + 1, long + u32::from(is_long)),
        }
    }
    let share = f64::from(long) / f64::from(both);
    assert!(
        (share - 0.25).abs() < 4.0 * (0.1875 / f64::from(both)).sqrt(),
        "{share}"
    );
    // Other passes, other captions.
    let of = |key: &str| whole.iter().filter(|(other, _)| other == key).count();
    assert_eq!(of("1-1"), passes);
    let varied = |key: &&str| {
        let captions = whole.iter().filter(|(other, _)| other == key);
        let captions: HashSet<&String> = captions.map(|(_, caption)| caption).collect();
        captions.len() == 2
    };
    assert!(
        ["0-1", "1-1", "1-2", "0-4"]
            .iter()
            .filter(|key| varied(key))
            .count()
            >= 3
    );
    // As evaluation reads them.
    let (first, _) = drawn(&shards, &with(2, 6, &[]), &start, total);
    assert!(
        first
            .iter()
            .all(|(key, caption)| *caption == format!("long {key}"))
    );
    let keys =
        |all: &[(String, String)]| all.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(
        keys(&first),
        keys(&whole),
        "the order does not depend on what is drawn"
    );
}

#[test]
fn states_of_the_caption_that_is_drawn_come_with_its_latent() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("0.tar")).unwrap();
    for i in 0..COUNT {
        let states = |value: f32| npy_of_halves(&[value; 6], &[3, 2]);
        let latent = npy_of_halves(&[i as f32; 16], &[4, 2, 2]);
        let (long, short) = (states(i as f32), states(-1.0 - i as f32));
        let members = [
            ("latent-16.npy", &latent[..]),
            ("caption-long.npy", &long),
            ("caption-short.npy", &short),
        ];
        writer.add(&i.to_string(), &members).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap();
    let spec = folder.path().to_string_lossy();
    let captions = ["short", "long"].map(str::to_owned).to_vec();
    let members = Members::Latents {
        size: 16,
        captions,
        flipped: false,
    };
    let shards = Shards::open(&spec, members).unwrap();
    let config = LoaderConfig {
        shape: [4, 2, 2],
        batch: COUNT,
        variation: Variation {
            captions: vec![1.0, 1.0],
            ..Variation::default()
        },
        ..config(2)
    };
    let mut loader = Loader::new(Source::Shards(shards), config.clone(), &Position::default());
    let batch = loader.next_batch().unwrap();
    let Captions::Vectors(states) = &batch.captions else {
        panic!("captions are vectors")
    };
    let mut short = 0;
    for (latent, states) in batch.images.chunks(16).zip(states.chunks(6)) {
        let (i, state) = (latent[0], states[0]);
        assert!(state == i || state == -1.0 - i, "{state} of {i}");
        short += u32::from(state < 0.0);
    }
    // Of sixty fair draws, four standard deviations.
    assert!((15..=45).contains(&short), "{short}");
    // Without names there is nothing: the error says what is looked for.
    let none = Shards::open(&spec, Members::latents(16)).unwrap();
    let error = Loader::new(Source::Shards(none), config, &Position::default()).next_batch();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("KEY.caption.npy"), "{error}");
}

#[test]
fn zeros_stand_where_padding_was_trimmed_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let mut writer = ShardWriter::create(&path).unwrap();
    let latent = npy_of_halves(&[1.0; 16], &[4, 2, 2]);
    for (key, tokens) in [("1", 1), ("2", 2), ("3", 3), ("4", 4)] {
        let values: Vec<f32> = (1..=2 * tokens).map(|i| i as f32).collect();
        let states = npy_of_halves(&values, &[tokens, 2]);
        let members = [("latent-16.npy", &latent[..]), ("caption.npy", &states)];
        writer.add(key, &members).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap();
    let load = |trimmed, caption| {
        let config = LoaderConfig {
            shape: [4, 2, 2],
            batch: 3,
            caption,
            trimmed,
            ..config(1)
        };
        let shards = Shards::open(&path.to_string_lossy(), Members::latents(16)).unwrap();
        Loader::new(Source::Shards(shards), config, &Position::default()).next_batch()
    };
    let batch = load(true, [3, 2]).unwrap();
    let Captions::Vectors(states) = &batch.captions else {
        panic!("captions are vectors")
    };
    let mut keys = batch.keys.clone();
    keys.sort();
    assert_eq!(keys, ["1", "2", "3"], "four tokens are too many");
    for (key, states) in batch.keys.iter().zip(states.chunks(6)) {
        let there = 2 * key.parse::<usize>().unwrap();
        let expected = (0..6).map(|i| if i < there { (i + 1) as f32 } else { 0.0 });
        assert!(states.iter().copied().eq(expected), "{key}: {states:?}");
    }
    // Neither another width nor missing tokens pass for padding.
    for (trimmed, caption, part) in [
        (true, [3, 3], "expected at most 3 tokens of 3 channels"),
        (false, [3, 2], "if its padding was trimmed off"),
    ] {
        let error = load(trimmed, caption).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

/// A loader's images by key over a few passes, and the keys in their order.
fn images(config: &LoaderConfig, folder: &Path) -> Vec<(String, Vec<f32>)> {
    let shards = Shards::open(
        &folder.to_string_lossy(),
        Members::Named(
            Columns {
                caption: ["long.txt"].into(),
                ..Columns::default()
            }
            .into(),
        ),
    )
    .unwrap();
    let mut loader = Loader::new(Source::Shards(shards), config.clone(), &Position::default());
    let mut all = Vec::new();
    for _ in 0..2 * 2 * COUNT / config.batch {
        let batch = loader.next_batch().unwrap();
        let size: usize = batch.shape.iter().product();
        let images = batch.images.chunks(size).map(<[f32]>::to_vec);
        all.extend(batch.keys.into_iter().zip(images));
    }
    all
}

#[test]
fn crops_and_flips_come_from_the_picture_and_differ_from_pass_to_pass() {
    let folder = tempfile::tempdir().unwrap();
    captioned(folder.path());
    let with = |threads, batch, random_crop, flip| LoaderConfig {
        batch,
        variation: Variation {
            random_crop,
            flip,
            ..Variation::default()
        },
        ..config(threads)
    };
    let plain = images(&with(2, 6, false, false), folder.path());
    let flipped = images(&with(1, 6, false, true), folder.path());
    assert_eq!(flipped, images(&with(3, 12, false, true), folder.path()));
    let mirrored = |image: &[f32]| -> Vec<f32> {
        image
            .chunks(16)
            .flat_map(|row| row.iter().rev().copied())
            .collect()
    };
    let mut count = 0;
    for ((key, plain), (other, flipped)) in plain.iter().zip(&flipped) {
        assert_eq!(key, other);
        assert!(flipped == plain || *flipped == mirrored(plain), "{key}");
        count += u32::from(flipped != plain);
    }
    // Of 240 fair draws, five standard deviations.
    assert!((82..=158).contains(&count), "{count}");
    let cropped = images(&with(1, 6, true, false), folder.path());
    assert_eq!(cropped, images(&with(3, 12, true, false), folder.path()));
    // Of 24 x 16 pixels, 16 x 16 lie at nine places, told apart by the green of their left column.
    let left = |image: &[f32]| ((image[256] + 1.0) * 12.75).round() as u32;
    let mut met = std::collections::BTreeMap::<u32, u32>::new();
    for (_, image) in &cropped {
        *met.entry(left(image)).or_default() += 1;
    }
    assert!(met.keys().copied().eq(0..=8), "{met:?}");
    assert!(plain.iter().all(|(_, image)| left(image) == 4));
    // The two passes over one picture.
    let same = cropped.iter().filter(|(key, image)| {
        cropped
            .iter()
            .filter(|(other, there)| other == key && there == image)
            .count()
            == 2
    });
    assert!(same.count() < 80);
}
