//! Pictures as they are drawn, from seeds, images and networks.

use super::*;
use crate::{encoders::Encoders, recipe::Recipe, sampling::Surroundings};
use burn_flex::Flex;
use microdit::{
    diffusion::{DiffusionConfig, Vp},
    net::{
        Network, NetworkConfig,
        unet::{LevelConfig, UNetConfig},
    },
    weights::{CaptionSource, LatentSource, StateDict},
};
use microdit_encoders::read_labels;

/// A pipeline of the quickstart with changes, whose weights are drawn at random and then multiplied by `gain`.
fn pipeline(gain: f32, changes: &[&str]) -> Pipeline<Flex, Network<Flex>> {
    let device = Default::default();
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/quickstart.ron");
    let changes = ["model.depth=2"].iter().chain(changes);
    let changes: Vec<String> = changes.map(|&change| change.into()).collect();
    let recipe = Recipe::load(Path::new(recipe), &changes).unwrap();
    let stage = recipe.last_stage();
    let fresh = stage.model.init::<Flex>(0, &device).unwrap();
    let named = StateDict::from_module(&fresh);
    let tensors = named.iter().map(|(name, data)| {
        // Layers that begin at zero would draw the noise itself.
        let values: Vec<f32> = data.iter::<f32>().collect();
        let values = values.iter().enumerate();
        let values: Vec<f32> = values
            .map(|(i, value)| gain * (value + 0.02 * (i as f32).sin()))
            .collect();
        (
            name.clone(),
            burn::tensor::TensorData::new(values, data.shape.clone()),
        )
    });
    let dit = StateDict::from_tensors(tensors)
        .load_into(fresh, &device)
        .unwrap();
    let surroundings = Surroundings::of_stage(stage);
    Pipeline::new(
        surroundings,
        dit,
        "some".into(),
        &Encoders::default(),
        device,
    )
    .unwrap()
}

fn settings(prompts: &[&str], count: usize) -> SamplingConfig {
    SamplingConfig {
        prompts: prompts.iter().map(|&prompt| prompt.into()).collect(),
        count,
        steps: 2,
        ..SamplingConfig::default()
    }
}

fn order<'a>(settings: &'a SamplingConfig, singles: &'a Path) -> Order<'a> {
    Order {
        settings,
        seed: 3,
        place: 0,
        sheet: None,
        singles: Some(singles),
        naming: Naming::Place,
        overwrite: false,
    }
}

static GO: AtomicBool = AtomicBool::new(false);

#[test]
fn a_picture_is_the_same_in_every_batch() {
    let prompts: Vec<String> = (0..BATCH).map(|i| format!("picture {i}")).collect();
    let pictures: Vec<Picture<'_>> = prompts
        .iter()
        .zip(100..)
        .map(|(prompt, place)| Picture { place, prompt })
        .collect();
    for changes in [
        &[][..],
        &["model.dim=32", "model.mixer.dim=32"],
        &[
            "model.dim=16",
            "model.head_dim=16",
            "model.mixer=None",
            "model.moe=None",
            "stages.masked.masking=None",
        ],
        &[
            "model.dim=640",
            "model.patch_size=8",
            "model.mixer=None",
            "stages.masked.masking=None",
        ],
    ] {
        let pipeline = pipeline(1.0, changes);
        for guidance in [1.0, 5.0] {
            let settings = SamplingConfig {
                guidance,
                steps: 1,
                ..settings(&[], 1)
            };
            let draw = |pictures: &[Picture<'_>]| -> Vec<u32> {
                let latents = pipeline.denoise(&settings, 3, pictures, &GO, || ());
                let values = latents.unwrap().into_data();
                values.iter::<f32>().map(f32::to_bits).collect()
            };
            let together = draw(&pictures);
            let size = together.len() / BATCH;
            assert_ne!(together[..size], together[size..2 * size]);
            for count in [1, 2, 3, 7] {
                let first = BATCH - count;
                let alone = draw(&pictures[first..]);
                assert!(
                    alone == together[first * size..],
                    "{changes:?}, guidance {guidance}: {count} of {BATCH}"
                );
            }
        }
    }
}

/// Latents of one picture.
fn drawn(pipeline: &Pipeline<Flex, Network<Flex>>, settings: &SamplingConfig) -> Vec<f32> {
    let picture = [Picture {
        place: 1,
        prompt: "a red circle",
    }];
    let latents = pipeline.denoise(settings, 3, &picture, &GO, || ());
    latents.unwrap().into_data().iter().collect()
}

#[test]
fn every_sampler_draws_in_every_family() {
    for diffusion in [
        "Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2)",
        "Vp(timesteps: 100)",
        "Vp(prediction: V, zero_terminal_snr: true)",
        "FlowMatching(shift: 3.0)",
    ] {
        let pipeline = pipeline(1.0, &[&format!("diffusion={diffusion}")]);
        for solver in [
            "Euler",
            "Heun",
            "EulerAncestral",
            "Ddim(eta: 0.5)",
            "DpmSolver(sde: false)",
            "DpmSolver(sde: true)",
        ] {
            let changes = [format!("solver={solver}"), "churn.s_churn=2".into()];
            let settings = settings(&[], 1).with(&changes).unwrap();
            let values = drawn(&pipeline, &settings);
            let finite = values.iter().all(|value| value.is_finite());
            assert!(finite, "{solver} in {diffusion}: {values:?}");
        }
    }
}

#[test]
fn a_network_that_guides_itself_does_not_guide() {
    let settings = SamplingConfig {
        guidance: 4.0,
        ..settings(&[], 1)
    };
    let unguided = SamplingConfig {
        guidance: 1.0,
        ..settings.clone()
    };
    let guided = pipeline(1.0, &[]);
    let plain = drawn(&guided, &unguided);
    let other = drawn(&guided, &settings);
    let same = guided.denoiser.clone();
    let guided = guided.with_guide(same, "itself".into());
    let by_itself = drawn(&guided, &settings);
    let distance = |values: &[f32]| {
        let pairs = plain.iter().zip(values);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(distance(&by_itself) < 1e-4, "{}", distance(&by_itself));
    assert!(distance(&other) > 1e-3, "{}", distance(&other));
    // Nor does a negative prompt guide that is the prompt itself.
    let negative = SamplingConfig {
        negative: Some("a red circle".into()),
        ..settings
    };
    let guided = pipeline(1.0, &[]);
    assert!(distance(&drawn(&guided, &negative)) < 1e-4);
}

#[test]
fn pictures_begin_with_an_image_and_have_any_sides() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("start.png");
    let start = image::RgbImage::from_fn(48, 16, |x, y| image::Rgb([5 * x as u8, y as u8, 9]));
    start.save(&path).unwrap();
    let wide = || pipeline(1.0, &[]).with_size([48, 16]).unwrap();
    assert_eq!(wide().size(), [48, 16]);
    let settings = SamplingConfig {
        steps: 4,
        ..settings(&[], 1)
    };
    let nothing_left = wide().with_init(&path, 0.0).unwrap();
    let picture = [Picture {
        place: 1,
        prompt: "a red circle",
    }];
    let latents = nothing_left.denoise(&settings, 3, &picture, &GO, || ());
    let image = nothing_left.look_at(latents.unwrap()).next().unwrap();
    assert_eq!(image.unwrap(), start);
    // The more steps are left, the less of it.
    let of_start = drawn(&nothing_left, &settings);
    let distance = |strength: f64| {
        let values = drawn(&wide().with_init(&path, strength).unwrap(), &settings);
        let pairs = of_start.iter().zip(values);
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let [little, much] = [0.25, 1.0].map(distance);
    assert!(little > 0.0 && little < much, "{little} and {much}");
    for size in [[50, 16], [48, 0]] {
        assert!(pipeline(1.0, &[]).with_size(size).is_err(), "{size:?}");
    }
    assert!(wide().with_init(folder.path(), 0.5).is_err());
    // The image has the size of the pictures.
    let started = wide().with_init(&path, 0.5).unwrap();
    assert!(started.with_size([16, 48]).is_err());
}

/// What is kept of an image is in the picture, level by level, whoever draws the rest.
#[test]
fn a_mask_keeps_what_it_does_not_mark() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mask) = (
        folder.path().join("init.png"),
        folder.path().join("mask.png"),
    );
    // Twice as large and wider than the pictures: covers them, and loses eight pixels left and right.
    let level = |x: u32, y: u32| image::Rgb([x as u8, y as u8, 90]);
    let init = image::RgbImage::from_fn(80, 64, level);
    init.save(&path).unwrap();
    let white = |x| if x >= 40 { 255 } else { 0 };
    let marks = image::RgbImage::from_fn(80, 64, |x, _| image::Rgb([white(x); 3]));
    marks.save(&mask).unwrap();
    let shown = microdit_data::image::cover(&init, 32, 32);
    for diffusion in [
        "Edm(sigma_data: 0.5, p_mean: -0.6, p_std: 1.2)",
        "Vp(prediction: V, zero_terminal_snr: true)",
        "FlowMatching(shift: 3.0)",
    ] {
        let new = || pipeline(1.0, &[&format!("diffusion={diffusion}")]);
        for solver in ["Heun", "Ddim(eta: 0.5)", "DpmSolver(sde: true)"] {
            let settings = settings(&[], 1)
                .with(&[format!("solver={solver}"), "steps=6".into()])
                .unwrap();
            for strength in [0.5, 1.0] {
                let pipeline = new().with_init(&path, strength).unwrap();
                let pipeline = pipeline.with_mask(&mask).unwrap();
                let picture = [Picture {
                    place: 1,
                    prompt: "a red circle",
                }];
                let latents = pipeline.denoise(&settings, 3, &picture, &GO, || ());
                let drawn = pipeline.look_at(latents.unwrap()).next().unwrap().unwrap();
                let pixels = drawn.enumerate_pixels();
                let (kept, redrawn): (Vec<_>, Vec<_>) = pixels.partition(|(x, _, _)| *x < 16);
                let same =
                    |(x, y, pixel): &(u32, u32, &image::Rgb<u8>)| shown.get_pixel(*x, *y) == *pixel;
                let case = format!("{solver} in {diffusion}, strength {strength}");
                assert!(kept.iter().all(same), "{case}");
                assert!(
                    redrawn.iter().filter(|pixel| !same(pixel)).count() > 400,
                    "{case}"
                );
            }
        }
    }
    let one = || pipeline(1.0, &[]);
    let label = |pipeline: &Pipeline<_, _>| {
        let picture = Picture {
            place: 0,
            prompt: "",
        };
        let label = pipeline.label(&settings(&[], 1), 0, picture);
        let text = |key| {
            label
                .texts()
                .iter()
                .find(|(found, _)| *found == key)
                .unwrap()
                .1
                .clone()
        };
        ["init", "strength", "mask"].map(text)
    };
    assert_eq!(label(&one()), ["", "", ""]);
    let masked = one()
        .with_init(&path, 0.25)
        .unwrap()
        .with_mask(&mask)
        .unwrap();
    let [of_init, of_mask] = [&path, &mask].map(|path| super::super::label::of_file(path).unwrap());
    assert_eq!(label(&masked), [of_init, "0.25".into(), of_mask]);
    // Steps that are not taken are not counted either.
    let settings = SamplingConfig {
        steps: 8,
        ..settings(&["a"], 1)
    };
    let drawing = Drawing::new(&masked, order(&settings, folder.path())).unwrap();
    assert_eq!(drawing.steps(), 2);
    for (error, part) in [
        (one().with_mask(&mask).err(), "there is none"),
        (one().with_init(&path, 1.5).err(), "strength: must be"),
        (
            one()
                .with_init(&path, 1.0)
                .unwrap()
                .with_mask(folder.path())
                .err(),
            "directory",
        ),
    ] {
        let error = error.unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    image::RgbImage::new(8, 8).save(&mask).unwrap();
    let error = one()
        .with_init(&path, 1.0)
        .unwrap()
        .with_mask(&mask)
        .err()
        .unwrap();
    assert!(error.to_string().contains("marks nothing"), "{error}");
}

/// A network with channels for a mask and a masked image is given them, and keeps to the mask like any other.
#[test]
fn a_network_for_inpainting_is_told_what_to_draw() {
    let folder = tempfile::tempdir().unwrap();
    let (path, mask) = (
        folder.path().join("init.png"),
        folder.path().join("mask.png"),
    );
    let init = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([20 * x as u8, 20 * y as u8, 200]));
    init.save(&path).unwrap();
    let marks = image::GrayImage::from_fn(8, 8, |x, _| image::Luma([255 * u8::from(x >= 4)]));
    marks.save(&mask).unwrap();
    let level = |resnets| LevelConfig {
        channels: 8,
        resnets,
        attentions: vec![1],
        heads: 2,
    };
    let small = UNetConfig {
        input_size: 8,
        in_channels: 3,
        out_channels: 3,
        caption_channels: 16,
        down: vec![level(1)],
        mid: None,
        up: vec![level(2)],
        norm_groups: 4,
        ..UNetConfig::sd_1()
    };
    let of = |config: UNetConfig| {
        let device = Default::default();
        let model = NetworkConfig::UNet(config);
        let denoiser = model.init::<Flex>(0, &device).unwrap();
        let surroundings = Surroundings {
            one_step: None,
            model,
            diffusion: DiffusionConfig::Vp(Vp::default()),
            latents: LatentSource::Pixels { scale: 0.5 },
            captions: CaptionSource::HashedWords { tokens: 3 },
        };
        Pipeline::new(
            surroundings,
            denoiser,
            "some".into(),
            &Encoders::default(),
            device,
        )
    };
    assert!(of(small.clone()).unwrap().behind().is_none());
    let inpainting = || of(small.clone().inpainting()).unwrap();
    let values = |pipeline: &Pipeline<Flex, Network<Flex>>| -> Vec<f32> {
        let behind = pipeline.behind().unwrap();
        assert_eq!(behind.dims(), [1, 4, 8, 8]);
        behind.into_data().iter().collect()
    };
    // Without an image all is drawn, whatever its strength.
    let all = [vec![1.0; 64], vec![0.0; 192]].concat();
    assert_eq!(values(&inpainting()), all);
    assert_eq!(values(&inpainting().with_init(&path, 0.5).unwrap()), all);
    let masked = inpainting()
        .with_init(&path, 1.0)
        .unwrap()
        .with_mask(&mask)
        .unwrap();
    let found = values(&masked);
    for (i, found) in found.iter().enumerate() {
        let (channel, x, y) = (i / 64, (i % 8) as u32, (i / 8 % 8) as u32);
        let expected = match (channel, x >= 4) {
            (0, marked) => f32::from(u8::from(marked)),
            (_, true) => 0.0,
            (_, false) => 0.5 * (f32::from(init.get_pixel(x, y)[channel - 1]) / 127.5 - 1.0),
        };
        assert!(
            (found - expected).abs() < 1e-6,
            "{i}: {found}, not {expected}"
        );
    }
    let settings = settings(&[], 1).with(&["solver=Ddim()".into()]).unwrap();
    let picture = [Picture {
        place: 1,
        prompt: "a red circle",
    }];
    let latents = masked.denoise(&settings, 3, &picture, &GO, || ()).unwrap();
    let drawn = masked.look_at(latents).next().unwrap().unwrap();
    let mut pixels = drawn.enumerate_pixels();
    assert!(pixels.all(|(x, y, pixel)| x >= 4 || init.get_pixel(x, y) == pixel));
    let depth = UNetConfig {
        in_channels: 4,
        ..small.clone()
    };
    let error = of(depth).err().unwrap().to_string();
    assert!(
        error.contains("model.in_channels: 1 more than the latent's 3"),
        "{error}"
    );
}

#[test]
fn a_drawing_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (parts, whole) = (folder.path().join("parts"), folder.path().join("whole"));
    let pipeline = pipeline(1.0, &[]);
    let settings = settings(&["a", "b", "c"], 7);
    let run = |order: Order<'_>, stop: &AtomicBool, after: usize| {
        let mut steps = 0;
        let drawn = Drawing::new(&pipeline, order).unwrap().run(stop, || {
            steps += 1;
            stop.fetch_or(steps == after, Ordering::Relaxed);
        });
        drawn.unwrap()
    };
    let sheet = folder.path().join("sheet.png");
    let with_sheet = |singles| Order {
        sheet: Some(&sheet),
        ..order(&settings, singles)
    };
    let all = run(with_sheet(&whole), &AtomicBool::new(false), 0);
    assert_eq!((all.drawn, all.kept, all.stopped), (21, 0, false));
    let expected = fs::read(&sheet).unwrap();
    fs::remove_file(&sheet).unwrap();
    // Stopped in the first batch, then in the second.
    let first = run(with_sheet(&parts), &AtomicBool::new(false), 1);
    assert_eq!((first.drawn, first.stopped), (0, true));
    let second = run(with_sheet(&parts), &AtomicBool::new(false), 3);
    assert_eq!((second.drawn, second.kept, second.stopped), (16, 0, true));
    assert!(!sheet.exists());
    let third = run(with_sheet(&parts), &AtomicBool::new(false), 0);
    assert_eq!((third.drawn, third.kept, third.stopped), (5, 16, false));
    assert_eq!(fs::read(&sheet).unwrap(), expected);
    for entry in fs::read_dir(&whole).unwrap() {
        let path = entry.unwrap().path();
        let part = parts.join(path.file_name().unwrap());
        assert_eq!(fs::read(&path).unwrap(), fs::read(part).unwrap());
    }
    assert_eq!(fs::read_dir(&parts).unwrap().count(), 21);
}

#[test]
fn another_picture_is_in_the_way_until_it_may_be_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(1.0, &[]);
    let first = settings(&["a", "b"], 1);
    let order = order(&first, folder.path());
    let draw = |order: Order<'_>| Drawing::new(&pipeline, order)?.run(&GO, || ());
    draw(order).unwrap();
    let other = SamplingConfig {
        guidance: 2.5,
        ..first.clone()
    };
    let other = Order {
        settings: &other,
        ..order
    };
    let error = draw(other).unwrap_err().to_string();
    assert!(
        error.contains(".png is in the way: its guidance is 5, not 2.5"),
        "{error}"
    );
    let insisted = draw(Order {
        overwrite: true,
        ..other
    })
    .unwrap();
    assert_eq!((insisted.drawn, insisted.kept), (2, 0));
    let labels = read_labels(&folder.path().join("00001.png")).unwrap();
    for (key, text) in [
        ("guidance", "2.5"),
        ("prompt", "b"),
        ("seed", "3"),
        ("place", "1"),
    ] {
        assert!(
            labels.contains(&(key.into(), text.into())),
            "{key}: {labels:?}"
        );
    }
    // Something that is not a picture at all is never replaced.
    let path = folder.path().join("00000.png");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = draw(Order {
        overwrite: true,
        ..other
    })
    .unwrap_err()
    .to_string();
    assert!(error.contains("it is not a regular file"), "{error}");
}

#[test]
fn what_is_not_finite_is_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&["a red fox", "b"], 1);
    let order = Order {
        sheet: None,
        ..order(&settings, folder.path())
    };
    // Weights are always finite; what they make of noise need not be.
    let pipeline = pipeline(1e30, &[]);
    let error = Drawing::new(&pipeline, order).unwrap().run(&GO, || ());
    let error = error.unwrap_err().to_string();
    for part in ["2 pictures are not finite", "place 0", "a red fox"] {
        assert!(error.contains(part), "no `{part}` in {error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_cannot_be_numbered_or_shown_is_refused() {
    let count = |count, place| {
        let settings = settings(&["a", "b"], count);
        let order = Order {
            place,
            ..order(&settings, Path::new("none"))
        };
        order.count()
    };
    assert!(count(usize::MAX, 0).is_err());
    assert!(count(1, u64::MAX).is_err());
    assert_eq!(count(3, 7).unwrap(), 6);
    let many = settings(&["a"], 1 << 40);
    let error = order(&many, Path::new("none")).sheet_fits([32, 32], Path::new("a.png"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("too many for one sheet"), "{error}");
}

#[test]
fn pictures_named_by_their_labels_find_room_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(1.0, &[]);
    let first = settings(&["a", "b"], 1);
    let other = SamplingConfig {
        guidance: 2.5,
        ..first.clone()
    };
    let draw = |settings, seed| {
        let order = Order {
            naming: Naming::Label,
            seed,
            ..order(settings, folder.path())
        };
        let drawn = Drawing::new(&pipeline, order)?.run(&GO, || ())?;
        Ok::<_, TrainError>((drawn.drawn, drawn.kept))
    };
    assert_eq!(draw(&first, 3).unwrap(), (2, 0));
    assert_eq!(draw(&other, 3).unwrap(), (2, 0));
    assert_eq!(draw(&first, 4).unwrap(), (2, 0));
    for (settings, seed) in [(&first, 3), (&other, 3), (&first, 4)] {
        assert_eq!(draw(settings, seed).unwrap(), (0, 2));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 6);
}
