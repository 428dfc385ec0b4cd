//! Batches of one shape, resumed anywhere.

use super::*;
use crate::{BucketConfig, ShardWriter, npy_of_halves};
use std::collections::{BTreeMap, BTreeSet};

/// Width and height of a picture by its number: square, wide, high, and one in forty much wider.
fn size(i: usize) -> [u32; 2] {
    match i % 40 {
        39 => [64, 16],
        i => [[20, 20], [32, 20], [18, 26], [24, 22]][i % 4],
    }
}

/// Two shards of sixty pictures each, of which every eleventh is damaged where its header does not show it.
fn pictures_of_many_shapes(folder: &Path) -> Shards {
    for shard in 0..2 {
        let mut writer = ShardWriter::create(&folder.join(format!("{shard}.tar"))).unwrap();
        for i in 0..60 {
            let [width, height] = size(i);
            let mut file = std::io::Cursor::new(Vec::new());
            let image = ::image::RgbImage::from_pixel(width, height, ::image::Rgb([i as u8, 0, 0]));
            image
                .write_to(&mut file, ::image::ImageFormat::Png)
                .unwrap();
            let mut file = file.into_inner();
            if i % 11 == 7 {
                file.truncate(file.len() - 20);
            }
            let members = [("png", &file[..]), ("txt", b"a caption")];
            writer.add(&format!("{shard}-{i}"), &members).unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
    }
    pictures(&folder.to_string_lossy()).unwrap()
}

fn bucketed(threads: usize) -> LoaderConfig {
    let buckets: BucketConfig = "12x20,16x16,20x12".parse().unwrap();
    LoaderConfig {
        buckets: Some(buckets.of(16).unwrap()),
        ..config(threads)
    }
}

fn load(shards: &Shards, config: &LoaderConfig, start: &Position, count: usize) -> Vec<Batch> {
    let source = Source::Shards(shards.clone());
    let mut loader = Loader::new(source, config.clone(), start);
    (0..count).map(|_| loader.next_batch().unwrap()).collect()
}

#[test]
fn a_batch_has_one_shape_and_every_picture_that_of_its_bucket() {
    let folder = tempfile::tempdir().unwrap();
    let shards = pictures_of_many_shapes(folder.path());
    let batches = load(&shards, &bucketed(2), &Position::default(), 60);
    assert_eq!(
        batches,
        load(&shards, &bucketed(3), &Position::default(), 60)
    );
    let mut shapes = BTreeMap::<[usize; 3], usize>::new();
    for batch in &batches {
        let [channels, height, width] = batch.shape;
        assert_eq!(batch.images.len(), 6 * channels * height * width);
        *shapes.entry(batch.shape).or_default() += 1;
        for key in &batch.keys {
            let i: usize = key.split('-').nth(1).unwrap().parse().unwrap();
            let expected = match size(i) {
                [32, 20] | [64, 16] => [3, 12, 20],
                [18, 26] => [3, 20, 12],
                _ => [3, 16, 16],
            };
            assert_eq!(batch.shape, expected, "{key}");
            assert_ne!(i % 11, 7, "{key} is damaged");
        }
    }
    let shapes: BTreeSet<_> = shapes.into_keys().collect();
    assert_eq!(
        shapes,
        BTreeSet::from([[3, 12, 20], [3, 16, 16], [3, 20, 12]])
    );
    // Every pass has every sound picture once, but for those that wait: over three passes none is missing.
    let all: BTreeSet<&String> = batches.iter().flat_map(|batch| &batch.keys).collect();
    assert_eq!(all.len(), 2 * (60 - 5));
}

#[test]
fn what_waits_is_drawn_again_wherever_a_run_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let shards = pictures_of_many_shapes(folder.path());
    let whole = load(&shards, &bucketed(2), &Position::default(), 50);
    let mut waited = 0;
    for stop in 1..40 {
        let next = &whole[stop - 1].next;
        waited += usize::from(next.pending.is_some());
        // As a checkpoint keeps it.
        let text = serde_json::to_string(next).unwrap();
        let next: Position = serde_json::from_str(&text).unwrap();
        let rest = load(&shards, &bucketed(1), &next, 10);
        assert_eq!(rest, whole[stop..stop + 10], "stop {stop}");
    }
    assert!(waited > 30, "{waited}");
    // A run that is killed again and again gets as far as one that is not.
    let mut next = Position::default();
    for expected in &whole[..30] {
        let batch = load(&shards, &bucketed(2), &next, 1).remove(0);
        assert_eq!(batch, *expected);
        next = batch.next;
    }
}

#[test]
fn a_shape_too_rare_for_a_batch_is_given_up_and_bounds_what_is_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(&folder.path().join("0.tar")).unwrap();
    // One wide latent in a thousand: six of them are drawn in 6000 draws, and a batch of 6 waits for at most 1536.
    for i in 0..1000 {
        let shape = if i == 500 { [4, 1, 3] } else { [4, 2, 2] };
        let latent = npy_of_halves(&vec![1.0; shape.iter().product()], &shape);
        let caption = npy_of_halves(&[1.0; 6], &[3, 2]);
        let members = [("latent-16.npy", &latent[..]), ("caption.npy", &caption)];
        writer.add(&i.to_string(), &members).unwrap();
    }
    writer.finish(BTreeMap::new()).unwrap();
    let shards = Shards::open(&folder.path().to_string_lossy(), Members::latents(16)).unwrap();
    let buckets: BucketConfig = "16x16,24x8".parse().unwrap();
    let config = LoaderConfig {
        shape: [4, 2, 2],
        buckets: Some(buckets.of(16).unwrap()),
        shrinks_by: 8,
        ..config(2)
    };
    let mut loader = Loader::new(
        Source::Shards(shards.clone()),
        config.clone(),
        &Position::default(),
    );
    let mut longest = 0;
    let mut last = None;
    for _ in 0..1500 {
        let batch = loader.next_batch().unwrap();
        assert_eq!(batch.shape, [4, 2, 2]);
        if let Some(pending) = &batch.next.pending {
            longest = longest.max(batch.next.drawn - pending.from.drawn);
        }
        last = Some(batch.next);
    }
    assert!(longest > 1000 && longest <= 256 * 6 + 1, "{longest}");
    let skipped = loader.skipped().unwrap();
    assert!(skipped.to_string().contains("a shape so rare"), "{skipped}");
    let again = load(&shards, &config, &last.unwrap(), 3);
    let straight: Vec<Batch> = (0..3).map(|_| loader.next_batch().unwrap()).collect();
    assert_eq!(again, straight);
    // A latent of no bucket at all is damage, by its shape.
    let square = LoaderConfig {
        buckets: Some("16x16".parse::<BucketConfig>().unwrap().of(16).unwrap()),
        ..config
    };
    let mut loader = Loader::new(Source::Shards(shards), square, &Position::default());
    for _ in 0..200 {
        loader.next_batch().unwrap();
    }
    let skipped = loader.skipped().unwrap().to_string();
    assert!(
        skipped.contains("its latent has shape [4, 1, 3], that of no bucket"),
        "{skipped}"
    );
}
