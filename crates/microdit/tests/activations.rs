//! What a forward pass leaves for the backward pass is what every estimate of memory says. Every allocation of this program is counted.

use burn::tensor::{Tensor, TensorData};
use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit::{
    DecoderConfig, Dense, DitConfig, Masking, MixerConfig, Precision, Router, TokenMask,
    diffusion::Diffusion as _,
    net::{Conditioning, Denoiser as _, DenoiserConfig as _, Tokens},
    rng::{Purpose, Stream},
    task::{DenoiseConfig, Noised, Task as _},
};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

type Tracked = Autodiff<Flex>;

/// The system's allocator, and how many bytes are in use.
struct Counted(AtomicUsize);

#[global_allocator]
static ALLOCATOR: Counted = Counted(AtomicUsize::new(0));

// SAFETY: all of it is the system's.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

fn in_use() -> usize {
    ALLOCATOR.0.load(Ordering::Relaxed)
}

const BATCH: usize = 4;
const WORDS: usize = 128;

fn draw<const D: usize>(key: u64, shape: [usize; D]) -> Tensor<Tracked, D> {
    let values = Stream::new(0, Purpose::Noise, 0, key).normal(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// Bytes that the second of two forward passes leaves, and what is estimated.
fn kept(config: &DitConfig, ratio: f64) -> [f64; 2] {
    let device = Default::default();
    let masking = match ratio {
        0.0 => Masking::None,
        ratio => Masking::Deferred { ratio },
    };
    let settings = DenoiseConfig {
        masking,
        ..DenoiseConfig::default()
    };
    let task = settings
        .init(config.init::<Tracked>(0, &device).expect("possible sizes"))
        .expect("possible settings");
    let image = [
        BATCH,
        config.in_channels,
        config.input_size,
        config.input_size,
    ];
    let forward = || {
        let noised = Noised {
            clean: draw(0, image),
            noise: draw(1, image),
            rows: task.family().rows(&[0.3, 0.9, 1.4, 2.0]),
            conditioning: Conditioning {
                captions: draw(2, [BATCH, WORDS, config.caption_channels]),
            },
            dropout: None,
            keep: TokenMask::draw(masking, [config.grid(); 2], 0, 0, 0..BATCH as u64, &device),
        };
        let output = task.denoiser().predict(task.inputs(&noised));
        task.losses(&noised, &output).total().mean()
    };
    drop(forward());
    let before = in_use();
    let loss = forward();
    let found = in_use() - before;
    drop(loss);
    let tokens = Tokens {
        mixer: config.tokens(),
        backbone: (config.tokens() as f64 * (1.0 - ratio)) as usize,
        caption: WORDS,
    };
    [found, BATCH * config.activations(&tokens, false)].map(|bytes| bytes as f64)
}

#[test]
fn a_forward_pass_leaves_what_is_estimated() {
    let tiny = DitConfig::tiny_2()
        .with_dim(128)
        .with_depth(4)
        .with_head_dim(32)
        .with_caption_channels(96)
        .with_multiple_of(64);
    let mixer = |dim| {
        Some(MixerConfig {
            dim,
            depth: 2,
            qkv_ratio: 1.0,
            mlp_ratio: 4.0,
        })
    };
    let tiny = tiny.with_mixer(mixer(128));
    let decoder = DecoderConfig {
        dim: 64,
        depth: 2,
        head_dim: 32,
        qkv_ratio: 1.0,
        mlp_ratio: 4.0,
    };
    let networks = [
        ("as it is", tiny.clone()),
        ("narrower mixer", tiny.clone().with_mixer(mixer(64))),
        ("no mixer", tiny.clone().with_mixer(None)),
        ("no experts", tiny.clone().with_moe(None)),
        (
            "GELU",
            tiny.clone().with_moe(None).with_feed_forward(Dense::Gelu),
        ),
        (
            "decoupled router",
            tiny.clone().with_router(Router::Decoupled),
        ),
        ("decoder", tiny.clone().with_decoder(Some(decoder))),
    ];
    for (name, network) in networks {
        for precision in [Precision::F32, Precision::Bf16] {
            for ratio in [0.0, 0.75] {
                if ratio > 0.0 && network.mixer.is_none() {
                    continue;
                }
                let network = network.clone().with_precision(precision);
                let [found, estimated] = kept(&network, ratio);
                // Vectors of an image, norms' weights and the graph itself are not estimated.
                let more = found / estimated - 1.0;
                assert!(
                    (0.0..0.03).contains(&more),
                    "{name}, {precision:?}, {ratio} masked: {found} bytes, {estimated} estimated"
                );
            }
        }
    }
}
