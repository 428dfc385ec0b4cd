mod buckets;
mod variation;

use super::*;
use crate::{
    npy,
    shards::{Members, Shards},
    variation::Variation,
};
use std::{collections::HashSet, path::Path};

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(name);
    path.to_string_lossy().into_owned()
}

fn pictures(spec: &str) -> Result<Shards, DataError> {
    Shards::open(spec, Members::Pictures)
}

fn config(threads: usize) -> LoaderConfig {
    LoaderConfig {
        seed: 1,
        batch: 6,
        shape: [3, 16, 16],
        buckets: None,
        shrinks_by: 1,
        caption: [3, 2],
        trimmed: false,
        threads,
        max_damage: 0.5,
        variation: Variation::default(),
    }
}

#[test]
fn batches_do_not_depend_on_the_threads() {
    let load = |threads| {
        let source = Source::Shards(pictures(&golden("wds_clean.tar")).unwrap());
        let mut loader = Loader::new(source, config(threads), &Position::default());
        (0..5)
            .map(|_| loader.next_batch().unwrap())
            .collect::<Vec<_>>()
    };
    let one = load(1);
    assert_eq!(one, load(3));
    // 16 samples: the first two and a half batches are a permutation of all.
    let mut keys: Vec<&String> = one.iter().flat_map(|batch| &batch.keys).take(16).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 16);
}

#[test]
fn samples_are_the_same_in_any_batch() {
    let load = |batch, threads| {
        let source = Source::Shards(pictures(&golden("wds_dirty.tar")).unwrap());
        let config = LoaderConfig {
            batch,
            max_damage: 1.0,
            ..config(threads)
        };
        let mut loader = Loader::new(source, config, &Position::default());
        (0..12 / batch)
            .flat_map(|_| {
                let batch = loader.next_batch().unwrap();
                let count = batch.shape.iter().product();
                let images = batch.images.chunks(count).map(<[f32]>::to_vec);
                let named = batch.keys.into_iter().zip(batch.texts);
                named.zip(images).collect::<Vec<_>>()
            })
            .collect::<Vec<_>>()
    };
    let alone = load(1, 1);
    assert_eq!(alone.len(), 12);
    assert!(alone[0].1 != alone[1].1, "pictures differ");
    assert_eq!(alone, load(6, 4));
}

#[test]
fn a_position_is_found_again() {
    // Two shards with damaged samples among them, over several passes.
    let folder = tempfile::tempdir().unwrap();
    for name in ["wds_clean.tar", "wds_dirty.tar"] {
        std::fs::copy(golden(name), folder.path().join(name)).unwrap();
    }
    let load = |start: &Position, count| {
        let source = Source::Shards(pictures(&folder.path().to_string_lossy()).unwrap());
        let mut loader = Loader::new(source, config(2), start);
        let batch = |_| loader.next_batch().unwrap();
        (0..count).map(batch).collect::<Vec<_>>()
    };
    let whole = load(&Position::default(), 20);
    assert!(whole[19].next.sources[0].epoch > 1, "{:?}", whole[19].next);
    for stop in [1, 3, 4, 9] {
        assert_eq!(
            load(&whole[stop - 1].next, 20 - stop),
            whole[stop..],
            "stop {stop}"
        );
    }
}

#[test]
fn sources_are_mixed_by_weight_and_their_places_found_again() {
    let load = |start: &Position, count| {
        let clean = pictures(&golden("wds_clean.tar")).unwrap();
        let dirty = pictures(&golden("wds_dirty.tar")).unwrap();
        let source = Source::Mix(vec![(clean, 3.0), (dirty, 1.0)]);
        let mut loader = Loader::new(source, config(2), start);
        let batch = |_| loader.next_batch().unwrap();
        (0..count).map(batch).collect::<Vec<_>>()
    };
    let whole = load(&Position::default(), 200);
    // Of 1200 samples and the damaged ones, three quarters come from the first: within four standard deviations.
    let Position { drawn, sources, .. } = &whole[199].next;
    let first = (sources[0].epoch * 16 + sources[0].sample) as f64;
    let deviation = (*drawn as f64 * 0.75 * 0.25).sqrt();
    assert!(
        (first - 0.75 * *drawn as f64).abs() < 4.0 * deviation,
        "{first} of {drawn}"
    );
    for stop in [1, 7, 120] {
        assert_eq!(
            load(&whole[stop - 1].next, 20),
            whole[stop..stop + 20],
            "stop {stop}"
        );
    }
}

#[test]
fn too_much_damage_stops_the_run() {
    // Three of its 16 samples are incomplete, two cannot be decoded.
    let square = "16x16".parse::<crate::BucketConfig>().unwrap();
    for buckets in [None, Some(square.of(16).unwrap())] {
        too_much_damage(buckets);
    }
}

fn too_much_damage(buckets: Option<crate::Buckets>) {
    let load = |max_damage| {
        let source = Source::Shards(pictures(&golden("wds_dirty.tar")).unwrap());
        let config = LoaderConfig {
            max_damage,
            buckets: buckets.clone(),
            ..config(1)
        };
        let mut loader = Loader::new(source, config, &Position::default());
        (0..6)
            .map(|_| loader.next_batch())
            .collect::<Result<Vec<_>, _>>()
    };
    assert!(load(5.0 / 16.0).is_ok());
    let error = load(4.9 / 16.0).unwrap_err().to_string();
    assert!(
        error.contains("5 of 16 samples are damaged") && error.contains("wds_dirty.tar: "),
        "{error}"
    );
}

#[test]
fn defective_samples_are_left_out() {
    let text = std::fs::read_to_string(golden("wds_expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let named = |entry: &serde_json::Value| {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        (text("key"), text("caption"))
    };
    let read = |name| {
        let path = golden(name);
        let shards = pictures(&path).unwrap();
        let (samples, _) = shards.read(shards.iter().next().unwrap()).unwrap();
        let decoded = decode_all(
            &samples.iter().collect::<Vec<_>>(),
            &config(2),
            config(2).shape,
        )
        .into_iter()
        .flatten();
        decoded
            .map(|sample| {
                assert!(sample.states.is_none(), "captions are texts");
                (sample.key, sample.text)
            })
            .collect::<Vec<_>>()
    };
    let clean: Vec<_> = expected["clean"]
        .as_array()
        .unwrap()
        .iter()
        .map(named)
        .collect();
    assert_eq!(read("wds_clean.tar"), clean);
    // Garbage, truncated and missing images, missing and empty captions are left out; all else stays.
    let dirty = expected["dirty"].as_array().unwrap();
    let sound = dirty.iter().filter(|entry| entry["why"] == "ok").map(named);
    assert_eq!(read("wds_dirty.tar"), sound.collect::<Vec<_>>());
}

#[test]
fn latents_of_the_size_asked_for_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latents.tar");
    let floats = |count: usize, value: f32| -> Vec<u8> {
        (0..count).flat_map(|_| value.to_le_bytes()).collect()
    };
    let latent = |side, value| npy::write("<f4", &[4, side, side], &floats(4 * side * side, value));
    let caption = npy::write("<f4", &[3, 2], &floats(6, 7.0));
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    let mut member = |name: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).unwrap();
    };
    for key in 0..6 {
        member(&format!("{key}.latent-16.npy"), &latent(2, key as f32));
        member(&format!("{key}.latent-32.npy"), &latent(4, -1.0));
        member(&format!("{key}.caption.npy"), &caption);
        member(&format!("{key}.txt"), format!("number {key}").as_bytes());
    }
    // One of another shape, and one without a latent of this size.
    member("wrong.latent-16.npy", &latent(3, 9.0));
    member("wrong.caption.npy", &caption);
    member("lacking.latent-32.npy", &latent(4, 9.0));
    member("lacking.caption.npy", &caption);
    tar.finish().unwrap();
    let shards = Shards::open(&path.to_string_lossy(), Members::latents(16)).unwrap();
    let config = LoaderConfig {
        shape: [4, 2, 2],
        ..config(2)
    };
    let mut loader = Loader::new(Source::Shards(shards), config, &Position::default());
    let batch = loader.next_batch().unwrap();
    for (key, image) in batch.keys.iter().zip(batch.images.chunks_exact(16)) {
        assert_eq!(image, [key.parse::<f32>().unwrap(); 16], "sample {key}");
    }
    assert_eq!(batch.captions, Captions::Vectors(vec![7.0; 6 * 6]));
    // What they say is known beside what they were encoded to.
    let said = batch.keys.iter().map(|key| format!("number {key}"));
    assert_eq!(batch.texts, said.collect::<Vec<_>>());
}

/// A tar of latents `[4, 2, 2]` of the given values, with captions `[3, 2]`.
fn latents_of(path: &Path, values: &[f32]) -> Source {
    let halves = |values: Vec<f32>, shape: &[usize]| {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        npy::write("<f4", shape, &bytes)
    };
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (key, &value) in values.iter().enumerate() {
        let mut latent = vec![key as f32; 16];
        latent[7] = value;
        for (name, data) in [
            ("latent-16", halves(latent, &[4, 2, 2])),
            ("caption", halves(vec![1.0; 6], &[3, 2])),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            let name = format!("{key}.{name}.npy");
            tar.append_data(&mut header, name, data.as_slice()).unwrap();
        }
    }
    tar.finish().unwrap();
    let shards = Shards::open(&path.to_string_lossy(), Members::latents(16));
    Source::Shards(shards.unwrap())
}

#[test]
fn latents_that_are_not_finite_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let mut values = [1.0; 10];
    (values[3], values[8]) = (f32::NAN, f32::NEG_INFINITY);
    let load = |max_damage, batches| {
        let config = LoaderConfig {
            shape: [4, 2, 2],
            max_damage,
            ..config(2)
        };
        let mut loader = Loader::new(latents_of(&path, &values), config, &Position::default());
        (0..batches)
            .map(|_| loader.next_batch())
            .collect::<Result<Vec<_>, _>>()
    };
    let keys: HashSet<String> = load(0.2, 9)
        .unwrap()
        .into_iter()
        .flat_map(|batch| {
            assert!(npy::all_finite(&batch.images));
            batch.keys
        })
        .collect();
    assert_eq!(keys.len(), 8);
    let error = load(0.1, 4).unwrap_err().to_string();
    assert!(
        error.contains("2 of 10 samples") && error.contains("not finite"),
        "{error}"
    );
}

#[test]
fn of_a_shard_that_was_cut_off_the_samples_before_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let source = latents_of(&path, &[1.0; 10]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let load = |max_damage| {
        let config = LoaderConfig {
            shape: [4, 2, 2],
            max_damage,
            ..config(2)
        };
        let mut loader = Loader::new(source.clone(), config, &Position::default());
        (0..3)
            .map(|_| loader.next_batch())
            .collect::<Result<Vec<_>, _>>()
    };
    let batches = load(0.5).unwrap();
    let keys: HashSet<&String> = batches.iter().flat_map(|batch| &batch.keys).collect();
    assert!((4..=5).contains(&keys.len()), "{keys:?}");
    // The rest counts as damage.
    let error = load(0.0).unwrap_err().to_string();
    assert!(
        error.contains("0.tar") && error.contains("cut off"),
        "{error}"
    );
}

/// Shards by their names, `true` for those with samples.
fn list_of(folder: &Path, shards: &[(&str, bool)]) -> Result<Shards, DataError> {
    for (name, usable) in shards {
        let path = folder.join(name);
        match usable {
            true => std::fs::copy(golden("wds_clean.tar"), path).map(|_| ()),
            false => std::fs::write(path, [0; 1024]),
        }
        .unwrap();
    }
    pictures(&folder.to_string_lossy())
}

#[test]
fn a_shard_without_usable_samples_costs_that_shard() {
    let folder = tempfile::tempdir().unwrap();
    let shards = [
        ("0.tar", false),
        ("1.tar", true),
        ("2.tar", true),
        ("3.tar", false),
    ];
    let shards = list_of(folder.path(), &shards).unwrap();
    // One that is not a tar at all, and one without a sample.
    std::fs::write(folder.path().join("3.tar"), "no tar").unwrap();
    let load = |start: &Position, count| {
        let source = Source::Shards(shards.clone());
        let mut loader = Loader::new(source, config(2), start);
        let batches: Vec<_> = (0..count).map(|_| loader.next_batch().unwrap()).collect();
        (batches, loader.skipped().unwrap())
    };
    // Three passes over 32 samples, each sample as often as there are passes.
    let (whole, skipped) = load(&Position::default(), 16);
    let keys: Vec<&String> = whole.iter().flat_map(|batch| &batch.keys).collect();
    let times = |key: &String| keys.iter().filter(|found| **found == key).count();
    assert!(keys.iter().all(|key| times(key) == 6), "{keys:?}");
    let lost = ["0.tar", "3.tar"].map(|name| folder.path().join(name));
    assert!(skipped.shards.keys().eq(&lost), "{skipped:?}");
    assert_eq!(skipped.samples.len(), 0);
    let said = skipped.to_string();
    assert!(
        said.contains("2 shards were left out") && said.contains("0.tar: no usable sample; "),
        "{said}"
    );
    for stop in [1, 5, 9] {
        assert_eq!(load(&whole[stop - 1].next, 16 - stop).0, whole[stop..]);
    }
}

#[test]
fn shards_of_which_most_are_useless_stop_the_run() {
    let fails = |shards: &[(&str, bool)], repeated: bool| {
        let folder = tempfile::tempdir().unwrap();
        let mut shards = list_of(folder.path(), shards).unwrap();
        if repeated {
            let name = folder.path().join("0.tar").to_string_lossy().into_owned();
            shards = pictures(&format!("{{{name},{name}}}")).unwrap();
        }
        let mut loader = Loader::new(Source::Shards(shards), config(1), &Position::default());
        let batches = (0..4)
            .map(|_| loader.next_batch())
            .collect::<Result<Vec<_>, _>>();
        batches.unwrap_err().to_string()
    };
    let two = [("0.tar", false), ("1.tar", false), ("2.tar", true)];
    let error = fails(&two, false);
    assert!(
        error.contains("2 of 3 shards have no usable sample"),
        "{error}"
    );
    // Nothing is left to train on: the error is that of the shard itself.
    let error = fails(&two[..1], false);
    assert!(
        error.contains("0.tar: no usable sample; expected members"),
        "{error}"
    );
    let error = fails(&two[..1], true);
    assert!(
        error.contains("2 of 2 shards have no usable sample"),
        "{error}"
    );
}

#[test]
fn a_shard_of_undecodable_samples_costs_that_shard() {
    let folder = tempfile::tempdir().unwrap();
    // More than one window, so that nothing of the other shard lies between.
    let count = 2 * MAX_UNDECODABLE + 100;
    latents_of(&folder.path().join("0.tar"), &vec![f32::NAN; count]);
    latents_of(&folder.path().join("1.tar"), &vec![1.0; count]);
    let members = Members::latents(16);
    let shards = Shards::open(&folder.path().to_string_lossy(), members).unwrap();
    let load = |max_damage| {
        let config = LoaderConfig {
            shape: [4, 2, 2],
            batch: 100,
            max_damage,
            ..config(2)
        };
        let source = Source::Shards(shards.clone());
        let mut loader = Loader::new(source, config, &Position::default());
        (0..count / 100 * 2).try_for_each(|_| loader.next_batch().map(drop))
    };
    // Two passes over both.
    assert!(load(0.5).is_ok());
    let error = load(0.4).unwrap_err().to_string();
    assert!(
        error.contains("samples are damaged") && error.contains("0.tar: "),
        "{error}"
    );
}

#[test]
fn samples_in_a_row_are_counted_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("0.tar");
    let load = |values: &[f32]| {
        let config = LoaderConfig {
            shape: [4, 2, 2],
            batch: 3 * MAX_UNDECODABLE,
            max_damage: 1.0,
            ..config(2)
        };
        Loader::new(latents_of(&path, values), config, &Position::default()).next_batch()
    };
    // Half of the samples, not one after the other.
    assert!(load(&[1.0, f32::NAN]).is_ok());
    let error = load(&[f32::NAN]).unwrap_err().to_string();
    assert!(error.contains("in a row"), "{error}");
}

#[test]
fn a_stop_is_heard_while_there_is_no_batch() {
    // Nobody sends anything.
    let (_sender, batches) = mpsc::channel();
    let skipped = Arc::default();
    let mut loader = Loader { batches, skipped };
    let stop = AtomicBool::new(false);
    let begun = std::time::Instant::now();
    let batch = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            stop.store(true, Ordering::Relaxed);
        });
        loader.next_batch_or_stop(&stop)
    });
    assert!(matches!(batch, Ok(None)));
    assert!(begun.elapsed() < Duration::from_millis(250));
}

#[test]
fn a_folder_without_shards_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        pictures(&folder.path().to_string_lossy()),
        Err(DataError::NoShards(_))
    ));
    assert!(matches!(
        pictures("no/such.tar"),
        Err(DataError::NoShards(_))
    ));
    let path = folder.path().join("empty.tar");
    std::fs::write(&path, [0; 1024]).unwrap();
    let empty = pictures(&path.to_string_lossy()).unwrap();
    assert!(matches!(
        empty.read(empty.iter().next().unwrap()),
        Err(DataError::EmptyShard { .. })
    ));
}
