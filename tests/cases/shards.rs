//! mds_plain, mds_zstd: directories of MDS shards, through the reader and through the loader.

use crate::{golden::Golden, report::Report};
use microdit_data::{
    Captions, Loader, LoaderConfig, MdsShard, Members, Position, Shards, Source, Variation,
};
use std::path::Path;

pub(super) fn mds(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let folder = path.with_extension("");
    let samples: Vec<_> = MdsShard::list(&folder)
        .unwrap_or_else(|error| panic!("{error}"))
        .iter()
        .flat_map(|shard| shard.read().unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let captions = golden.config["captions"].as_array().expect("captions");
    let found: Vec<f64> = samples
        .iter()
        .zip(captions)
        .map(|(sample, caption)| {
            let text = sample.get("caption").expect("a column caption");
            f64::from(u8::from(
                text == caption.as_str().expect("a text").as_bytes(),
            ))
        })
        .collect();
    report.equal("captions", &found, &vec![1.0; captions.len()]);
    // What the loader makes of them, in its own order; found again by the captions, which differ.
    let latent = golden.config["latent_column"].as_str().expect("a column");
    let size = latent
        .strip_prefix("latents_")
        .and_then(|size| size.parse().ok());
    let size = size.expect("a column latents_SIZE");
    let latents = golden.get(&format!("out.{latent}"));
    let states = golden.get("out.caption_latents");
    let [_, channels, height, width] = latents.shape[..] else {
        panic!("latents of shape {:?}", latents.shape)
    };
    let shards = Shards::open(&folder.to_string_lossy(), Members::latents(size));
    let config = LoaderConfig {
        seed: 0,
        batch: samples.len(),
        shape: [channels, height, width],
        buckets: None,
        shrinks_by: 1,
        caption: [states.shape[1], states.shape[2]],
        trimmed: false,
        threads: 2,
        max_damage: 0.0,
        variation: Variation::default(),
    };
    let source = Source::Shards(shards.unwrap_or_else(|error| panic!("{error}")));
    let batch = Loader::new(source, config, &Position::default()).next_batch();
    let batch = batch.unwrap_or_else(|error| panic!("{error}"));
    let Captions::Vectors(vectors) = &batch.captions else {
        panic!("captions are not encoded")
    };
    let per_shard = golden.config["samples_per_shard"]
        .as_array()
        .expect("samples per shard");
    let begin =
        |shard: usize| -> u64 { per_shard[..shard].iter().filter_map(|n| n.as_u64()).sum() };
    for (i, key) in batch.keys.iter().enumerate() {
        let (shard, place) = key.rsplit_once(':').expect("SHARD:PLACE");
        let shard: usize = shard
            .split('.')
            .nth(1)
            .and_then(|number| number.parse().ok())
            .expect("a number");
        let at = begin(shard) as usize + place.parse::<usize>().expect("a number");
        let part = |values: &[f32], size: usize| -> Vec<f64> {
            values[i * size..(i + 1) * size]
                .iter()
                .map(|&v| f64::from(v))
                .collect()
        };
        let row = latents.row(at);
        report.equal(
            format!("{latent} {at}"),
            &part(&batch.images, row.data.len()),
            &row.data,
        );
        let row = states.row(at);
        report.equal(
            format!("caption_latents {at}"),
            &part(vectors, row.data.len()),
            &row.data,
        );
    }
}
