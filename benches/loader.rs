//! The loader alone: how many samples a second it has ready for a training step, and what it does to captions and pictures.

use burn_flex::Flex;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use microdit::{
    nn::Precision,
    rng::{Purpose, Stream},
};
use microdit_data::{
    DatasetCard, Layout, Loader, LoaderConfig, Members, Position, PrepareConfig, Shards, Source,
    Store, Variation,
    image::{decode, square},
    prepare,
};
use microdit_encoders::{
    Weights,
    text::{ClipText, ClipTextConfig, ClipTokenizer, Padding, TextEncoder},
    vae::{AutoencoderKlConfig, Vae},
};
use microdit_text::clean_caption;
use microdit_train::precompute::{EncoderIdentity, Precompute, PrecomputeConfig};
use std::{hint::black_box, path::Path, sync::atomic::AtomicBool};

const BATCH: usize = 64;

/// Shards of generated images, `size` pixels wide and high.
fn pictures(folder: &Path, size: u32, count: u64) {
    let card = DatasetCard {
        name: "shapes".into(),
        source: String::new(),
        license: String::new(),
        size: String::new(),
        get: String::new(),
        layout: Layout::Shapes { size, count },
        columns: Default::default(),
        background: [255; 3],
        limits: Default::default(),
        clean: false,
        filters: Default::default(),
        max_side: None,
        store: Store::Jpeg(90),
    };
    let config = PrepareConfig {
        source: "",
        captions: None,
        shard_bytes: 1 << 20,
        limit: None,
        max_damage: 0.0,
        fraction: None,
    };
    let stop = AtomicBool::new(false);
    prepare(&card, &config, folder, &stop, |_| ()).expect("shards are written");
}

/// Latents of the size the paper trains on, 4 x 32 x 32, with captions of 77 x 1024: 174 kB a sample.
fn latents(pictures: &Path, folder: &Path) {
    let device = Default::default();
    let vae = AutoencoderKlConfig {
        block_out_channels: vec![8, 8, 8, 8],
        layers_per_block: 1,
        norm_num_groups: 4,
        ..AutoencoderKlConfig::sdxl()
    };
    let text = ClipTextConfig {
        layers: 1,
        hidden: 64,
        ..ClipTextConfig::vit_h_14()
    };
    let weights = Weights::random(0);
    let vae = vae
        .load::<Flex>(&weights.at(""), &device)
        .expect("random weights fit");
    let tower: ClipText<Flex> = text
        .load(&weights.at(""), &device)
        .expect("random weights fit");
    let text = TextEncoder::Clip(
        Box::new(tower),
        Box::new(ClipTokenizer::new()),
        Padding::Zero,
    );
    let config = PrecomputeConfig {
        sizes: vec![256],
        buckets: None,
        random_crop: false,
        flips: false,
        captions: Vec::new(),
        trim_padding: false,
        batch: 16,
        precision: Precision::F32,
        seed: 0,
        encoders: ["vae", "text"].map(|name| EncoderIdentity {
            name: name.into(),
            sha256: "random".into(),
        }),
        rank: 0,
        world: 1,
        update: false,
        max_damage: 0.0,
    };
    let work = Precompute {
        vae: &Vae::Kl(Box::new(vae)),
        text: &text,
        config: &config,
        device: &device,
    };
    let shards = Shards::open(&pictures.to_string_lossy(), Members::Pictures).expect("shards");
    work.run(&shards, folder, &AtomicBool::new(false), |_| ())
        .expect("latents are written");
}

/// Batches of the loader, which is given no time to read ahead.
fn batches(c: &mut Criterion, name: &str, source: &Source, shape: [usize; 3], caption: [usize; 2]) {
    let mut group = c.benchmark_group("loader");
    group.throughput(Throughput::Elements(BATCH as u64));
    for threads in [1, 2] {
        let config = LoaderConfig {
            seed: 0,
            batch: BATCH,
            shape,
            buckets: None,
            shrinks_by: 1,
            caption,
            trimmed: false,
            threads,
            max_damage: 0.0,
            variation: Variation::default(),
        };
        let mut loader = Loader::new(source.clone(), config, &Position::default());
        group.bench_function(format!("{name}, {threads} threads"), |b| {
            b.iter(|| black_box(loader.next_batch().expect("a batch")));
        });
    }
}

fn loader(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let (raw, made) = (
        folder.path().join("pictures"),
        folder.path().join("latents"),
    );
    pictures(&raw, 256, 1024);
    latents(&raw, &made);
    let open = |path: &Path, members| {
        Source::Shards(Shards::open(&path.to_string_lossy(), members).expect("shards"))
    };
    batches(
        c,
        "pictures of 256 px",
        &open(&raw, Members::Pictures),
        [3, 256, 256],
        [77, 1024],
    );
    let source = open(&made, Members::latents(256));
    batches(c, "latents of 256 px", &source, [4, 32, 32], [77, 1024]);
}

fn samples(c: &mut Criterion) {
    let noise = Stream::new(0, Purpose::Synthetic, 0, 0).uniform(3 * 800 * 600);
    let levels = noise.iter().map(|value| (value * 255.0) as u8).collect();
    let photograph = image::RgbImage::from_raw(800, 600, levels).expect("three levels per pixel");
    let mut file = std::io::Cursor::new(Vec::new());
    photograph
        .write_to(&mut file, image::ImageFormat::Jpeg)
        .expect("memory can be written");
    let file = file.into_inner();
    c.bench_function("decode a JPEG of 800 x 600", |b| {
        b.iter(|| decode(black_box(&file)))
    });
    c.bench_function("resize 800 x 600 to 256 and crop", |b| {
        b.iter(|| square(black_box(&photograph), 256));
    });
    let caption = "Photo by @jane_doe of the <b>red</b> boat &amp; the old harbour at dawn, see https://boats.com/x?id=7";
    c.bench_function("clean a caption", |b| {
        b.iter(|| clean_caption(black_box(caption)))
    });
    let tokenizer = ClipTokenizer::new();
    c.bench_function("tokenise a caption", |b| {
        b.iter_batched(
            || caption,
            |caption| tokenizer.encode(black_box(caption), 77, Padding::Zero),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, loader, samples);
criterion_main!(benches);
