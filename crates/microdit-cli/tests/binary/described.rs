//! Weights describe themselves: drawing with them needs nothing else, and nothing contradicts them.

use crate::{
    common::{fails, microdit, succeeds, train},
    encoders,
};
use burn::tensor::DType;
use burn_flex::Flex;
use microdit::{
    DitConfig,
    weights::{StateDict, WeightsFile},
};
use std::{fs, path::Path};

/// Another value than the default of any type, so that a guess would show.
const OTHER: [&str; 2] = ["--set", "diffusion.sigma_data=0.31"];

#[test]
fn weights_alone_draw_what_their_run_draws() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (run, again) = (path("run"), path("again"));
    for run in [&run, &again] {
        let more = [&OTHER[..], &["--set", "sampling.prompts=[]"]].concat();
        let trained = train(Path::new(run), &more);
        assert!(trained.status.success());
    }
    let weights = path("run/ema.safetensors");
    assert!(fs::read(&weights).unwrap() == fs::read(path("again/ema.safetensors")).unwrap());
    let half = path("half.safetensors");
    succeeds(&["convert", &weights, "--out", &half]);
    let described = |path: &str| {
        let file = WeightsFile::open(Path::new(path)).unwrap();
        file.description().unwrap().unwrap()
    };
    assert_eq!(described(&weights), described(&half));
    assert_eq!(described(&weights).step, 5);
    let draw = |source: &[&str], out: &str| {
        let drawing = [
            "--prompt",
            "a red circle",
            "--count",
            "2",
            "--steps",
            "3",
            "--guidance",
            "2",
            "--out",
            out,
        ];
        succeeds(&[&["sample"], source, &drawing].concat());
        image::open(out).unwrap().into_rgb8()
    };
    let expected = draw(&["--run", &run], &path("a.png"));
    assert!(draw(&["--weights", &weights], &path("b.png")) == expected);
    assert!(draw(&["--weights", &half], &path("c.png")) == expected);
    let drawing = |more: &[&str]| {
        let start = [
            "sample",
            "--weights",
            &weights,
            "--prompt",
            "x",
            "--steps",
            "1",
        ];
        microdit(&[&start, more].concat())
    };
    for (more, parts) in [
        (
            &["--model", "xl-2"][..],
            [
                "--model is xl-2",
                "ema.safetensors says that its network is another one, of ",
            ],
        ),
        (
            &[
                "--diffusion",
                "Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)",
            ],
            [
                "sigma_data: 0.9",
                "ema.safetensors was trained with Edm(Edm { sigma_data: 0.31",
            ],
        ),
        (
            &["--size", "512"],
            [
                "--size is 512",
                "ema.safetensors says that its pictures have 32 pixels",
            ],
        ),
        (
            &[
                "--diffusion",
                "Edm(sigma_data: 0.0, p_mean: 0.0, p_std: 1.0)",
            ],
            ["--diffusion", "sigma_data: must be"],
        ),
    ] {
        fails(&drawing(more), &parts);
    }
}

#[test]
fn weights_that_say_nothing_are_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (weights, vae, clip) = (path("bare.safetensors"), path("vae"), path("clip"));
    encoders::vae(Path::new(&vae));
    encoders::clip(Path::new(&clip));
    let network = DitConfig::tiny_2()
        .with_dim(32)
        .with_depth(2)
        .with_mixer(None)
        .with_moe(None);
    let network = network.init::<Flex>(0, &Default::default()).unwrap();
    let state = StateDict::from_module(&network);
    state
        .write_safetensors(Path::new(&weights), DType::F32, None)
        .unwrap();
    let draw = |more: &[&str]| {
        let start = ["sample", "--weights", &weights, "--prompt", "x"];
        microdit(&[&start, more].concat())
    };
    let model = ["--model", "tiny-2"];
    let diffusion = [
        "--diffusion",
        "Edm(sigma_data: 0.9, p_mean: -0.6, p_std: 1.2)",
    ];
    let all = [&model[..], &diffusion].concat();
    let networks = ["--vae", &vae, "--text-encoder", &clip];
    for (more, parts) in [
        (
            &[][..],
            [
                "bare.safetensors does not describe its network and the diffusion it was trained with",
                "add --model xl-2 or --model tiny-2 and --diffusion",
            ],
        ),
        (
            &model,
            [
                "does not describe the diffusion it was trained with",
                "add --diffusion",
            ],
        ),
        (
            &diffusion,
            ["does not describe its network", "add --model xl-2"],
        ),
        (&all, ["text encoder", "--text-encoder"]),
        (
            &[&all[..], &["--text-encoder", &clip]].concat(),
            ["VAE", "--vae"],
        ),
        // The published architectures were trained with another text encoder than this.
        (
            &[&all[..], &networks].concat(),
            [
                "the text encoder has 64 channels",
                "the network was trained with 1024",
            ],
        ),
    ] {
        fails(&draw(more), &parts);
    }
}
