//! Reads shards with the loader alone and prints how many samples it has ready in a second, and in a second of a core: the
//! counterpart of the loaders in `benches/loaders.py`.
//!
//!     cargo run --bin microdit-feed -- SHARDS --kind pictures --seconds 5

use clap::{Parser, ValueEnum};
use microdit_benches::cpu_seconds;
use microdit_data::{Loader, LoaderConfig, Members, Position, Shards, Source, Variation};
use serde_json::json;
use std::time::Instant;

/// Samples in a batch.
const BATCH: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    /// JPEGs, cropped to squares.
    Pictures,
    /// 4 x SIZE/8 x SIZE/8, and 77 x 1024 for the caption.
    Latents,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// As `data.shards` of a recipe.
    shards: String,
    #[arg(long)]
    kind: Kind,
    /// Side of the pictures in pixels.
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Threads that decode.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

fn main() {
    let arguments = Arguments::parse();
    let (members, shape) = match arguments.kind {
        Kind::Pictures => (Members::Pictures, [3, arguments.size, arguments.size]),
        Kind::Latents => {
            let side = arguments.size / 8;
            (Members::latents(arguments.size as u32), [4, side, side])
        }
    };
    let config = LoaderConfig {
        seed: 0,
        batch: BATCH,
        shape,
        buckets: None,
        shrinks_by: 1,
        caption: [77, 1024],
        trimmed: false,
        threads: arguments.threads,
        max_damage: 0.0,
        variation: Variation::default(),
    };
    let shards = Shards::open(&arguments.shards, members).expect("shards");
    let mut loader = Loader::new(Source::Shards(shards), config, &Position::default());
    // The first window is read while nothing else can be done.
    loader.next_batch().expect("a batch");
    let (begun, before) = (Instant::now(), cpu_seconds());
    let mut samples = 0;
    while begun.elapsed().as_secs_f64() < arguments.seconds {
        samples += loader.next_batch().expect("a batch").keys.len();
    }
    let (seconds, cores) = (begun.elapsed().as_secs_f64(), cpu_seconds() - before);
    let line = json!({
        "samples_per_second": samples as f64 / seconds,
        "samples_per_core_second": samples as f64 / cores,
    });
    println!("{line}");
}
