//! Pictures are written as they are drawn, say how they were drawn, and go where they were told to.

use crate::common::{WEB_DATASET, fails, root, succeeds, text, train};
use microdit_encoders::{read_labels, save_picture};
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A small run, and a directory for what is drawn with it.
struct Studio {
    folder: tempfile::TempDir,
}

impl Studio {
    fn new() -> Self {
        let studio = Self::without_run();
        let output = train(&studio.file("run"), &[]);
        assert!(output.status.success(), "{}", text(&output));
        studio
    }

    fn without_run() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The binary in the directory.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command.args(arguments).current_dir(self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// `microdit sample` with the run.
    fn sample(&self, arguments: &[&str]) -> Command {
        self.command(&[&["sample", "--run", "run"], arguments].concat())
    }

    #[track_caller]
    fn draws(&self, arguments: &[&str]) -> String {
        let output = self.sample(arguments).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    }

    #[track_caller]
    fn refuses(&self, arguments: &[&str], parts: &[&str]) {
        fails(&self.sample(arguments).output().unwrap(), parts);
    }
}

fn label(path: &Path, key: &str) -> String {
    let labels = read_labels(path).unwrap();
    let found = labels.into_iter().find(|(found, _)| found == key);
    found
        .unwrap_or_else(|| panic!("no {key} in {}", path.display()))
        .1
}

#[test]
fn a_label_draws_its_picture_again() {
    let studio = Studio::new();
    let prompts = [
        "a red circle",
        "a blue square",
        "",
        "červený kruh\u{1b}[31m",
        "a green cross",
    ];
    let mut arguments = vec!["--count", "2", "--seed", "7", "--singles", "all"];
    arguments.extend(prompts.iter().flat_map(|prompt| ["--prompt", prompt]));
    studio.draws(&arguments);
    assert_eq!(fs::read_dir(studio.file("all")).unwrap().count(), 10);
    for place in ["6", "9"] {
        let name = format!("0000{place}.png");
        let picture = studio.file("all").join(&name);
        assert_eq!(label(&picture, "place"), place);
        let said = |key: &str| label(&picture, key);
        studio.draws(&[
            "--prompt",
            &said("prompt"),
            "--seed",
            &said("seed"),
            "--place",
            &said("place"),
            "--steps",
            &said("steps"),
            "--guidance",
            &said("guidance"),
            "--count",
            "1",
            "--singles",
            "again",
        ]);
        // The same pixels, and the same label.
        let again = fs::read(studio.file("again").join(&name)).unwrap();
        assert!(again == fs::read(&picture).unwrap(), "{name}");
    }
    // The label names the weights by their content.
    let weights = fs::read(studio.file("run/ema.safetensors")).unwrap();
    let digest = Sha256::digest(weights);
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let first = studio.file("all").join("00000.png");
    assert_eq!(label(&first, "weights"), format!("sha256:{digits}"));
    // So does what the run drew itself at its end.
    studio.draws(&["--out", "samples.png"]);
    let drawn = fs::read(studio.file("run/samples.png")).unwrap();
    assert!(drawn == fs::read(studio.file("samples.png")).unwrap());
}

/// What the command keeps of an image is in the picture, and its label names image, mask and strength.
#[test]
fn an_image_is_redrawn_where_its_mask_says() {
    let studio = Studio::new();
    let level = |x: u32, y: u32| image::Rgb([4 * x as u8, 5 * y as u8, 77]);
    let init = image::RgbImage::from_fn(48, 48, level);
    init.save(studio.file("init.png")).unwrap();
    let white = |y: u32| image::Luma([255 * u8::from(y >= 24)]);
    let mask = image::GrayImage::from_fn(48, 48, |_, y| white(y));
    mask.save(studio.file("mask.png")).unwrap();
    let draw = |more: &[&str], folder: &str| {
        let start = ["--prompt", "a red circle", "--count", "1", "--steps", "6"];
        studio.draws(&[&start[..], &["--singles", folder], more].concat());
        let path = studio.file(folder).join("00000.png");
        image::open(path).unwrap().into_rgb8()
    };
    let size = ["--width", "48", "--height", "48"];
    let kept = |picture: &image::RgbImage, rows: std::ops::Range<u32>| {
        let all = rows.flat_map(|y| (0..48).map(move |x| (x, y)));
        all.filter(|&(x, y)| picture.get_pixel(x, y) == init.get_pixel(x, y))
            .count()
    };
    let masked = draw(
        &[&size[..], &["--init", "init.png", "--mask", "mask.png"]].concat(),
        "masked",
    );
    assert_eq!(kept(&masked, 0..24), 24 * 48);
    assert!(kept(&masked, 24..48) < 100);
    let whole = draw(
        &[&size[..], &["--init", "init.png", "--strength", "0.5"]].concat(),
        "whole",
    );
    assert!(kept(&whole, 0..48) < 200);
    // Of another size, it is resized.
    draw(&["--init", "init.png"], "small");
    let digest = |name: &str| {
        let digest = Sha256::digest(fs::read(studio.file(name)).unwrap());
        let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{digits}")
    };
    let (of_init, of_mask) = (digest("init.png"), digest("mask.png"));
    for (out, mask, strength) in [
        ("masked", &*of_mask, "1"),
        ("whole", "", "0.5"),
        ("small", "", "0.6"),
    ] {
        let said =
            ["init", "mask", "strength"].map(|key| label(&studio.file(out).join("00000.png"), key));
        assert_eq!(said, [&of_init, mask, strength], "{out}");
    }
    for (arguments, part) in [
        (&["--mask", "mask.png"][..], "--init"),
        (&["--strength", "0.5"], "--init"),
        (&["--init", "init.png", "--strength", "1.01"], "at most 1"),
        (&["--init", "none.png"], "none.png"),
        (
            &["--init", "run/run.json"],
            "run.json is not an image that can be read",
        ),
        (
            &["--init", "init.png", "--mask", "run/run.json"],
            "run.json is not an image that can be read",
        ),
    ] {
        studio.refuses(arguments, &[part]);
    }
    let black = image::GrayImage::new(9, 9);
    black.save(studio.file("black.png")).unwrap();
    studio.refuses(
        &["--init", "init.png", "--mask", "black.png"],
        &["mask: black.png marks nothing: what is white is redrawn"],
    );
}

#[test]
fn a_drawing_is_kept_and_goes_on() {
    let studio = Studio::new();
    let prompts = "a red circle\n".repeat(30_000);
    fs::write(studio.file("prompts.txt"), &prompts).unwrap();
    let singles = studio.file("singles");
    let pictures = || fs::read_dir(&singles).map_or(0, Iterator::count);
    let arguments = [
        "--prompts",
        "prompts.txt",
        "--singles",
        "singles",
        "--steps",
        "20",
    ];
    let mut times = Vec::new();
    for _ in 0..2 {
        let before = pictures();
        let mut command = studio.sample(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        while pictures() < before + 17 {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(5));
        }
        let asked = Instant::now();
        let signal = Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status();
        assert!(signal.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        let there = pictures();
        let kept = format!("{there} pictures are in singles; run the same command again to resume");
        assert!(said.contains(&kept), "no `{kept}` in {said}");
        assert!(!studio.file("samples.png").exists());
        // All of them whole.
        for i in 0..there {
            image::open(singles.join(format!("{i:05}.png"))).unwrap();
        }
        let first = fs::metadata(singles.join("00000.png")).unwrap();
        times.push(first.modified().unwrap());
    }
    assert_eq!(times[0], times[1], "a picture was drawn twice");
    // What is there is kept, and other pictures are not taken for it.
    fs::write(studio.file("few.txt"), "a red circle\n".repeat(20)).unwrap();
    let few = [
        "--prompts",
        "few.txt",
        "--singles",
        "singles",
        "--steps",
        "20",
    ];
    let said = studio.draws(&few);
    assert!(said.contains("(0 drawn, 20 were there)"), "{said}");
    studio.refuses(
        &[
            "--prompt",
            "a blue square",
            "--singles",
            "singles",
            "--steps",
            "20",
        ],
        &[
            "00000.png is in the way",
            "its prompt is a red circle, not a blue square",
            "--overwrite",
        ],
    );
    let said = studio.draws(&[
        "--prompt",
        "a blue square",
        "--singles",
        "singles",
        "--steps",
        "20",
        "--overwrite",
    ]);
    assert!(said.contains("(1 drawn, 0 were there)"), "{said}");
    // A label is shown, not obeyed.
    let hostile = [("prompt", "\u{1b}[31mred\u{7}".to_owned())];
    let picture = singles.join("00000.png");
    save_picture(&image::RgbImage::new(32, 32), &picture, &hostile).unwrap();
    let output = studio.sample(&few).output().unwrap();
    fails(&output, &[r"its prompt is \u001b[31mred\u0007"]);
    assert!(!output.stderr.contains(&0x1b));
}

#[test]
fn outputs_are_checked_before_anything_is_done() {
    // There is no run: all of this is reported before one is looked for.
    let studio = Studio::without_run();
    fs::create_dir(studio.file("folder.png")).unwrap();
    fs::write(studio.file("file"), "mine").unwrap();
    std::os::unix::fs::symlink("file", studio.file("link.png")).unwrap();
    let fifo = Command::new("mkfifo").arg(studio.file("fifo.png")).status();
    assert!(fifo.unwrap().success());
    let long = format!("{}.png", "n".repeat(250));
    for (out, reason) in [
        (
            "folder.png",
            "folder.png is a directory and is not replaced",
        ),
        (
            "link.png",
            "link.png is a symbolic link and is not replaced",
        ),
        (
            "fifo.png",
            "fifo.png is not a regular file and is not replaced",
        ),
        ("none/a.png", "there is no directory none"),
        ("file/a.png", "file/a.png cannot be written"),
        ("a.png/", "not the name of a file"),
        (&long, "cannot be written"),
        ("a.bmp", ".png, .jpg, .jpeg or .webp"),
        ("a", ".png, .jpg, .jpeg or .webp"),
        ("..", ".png, .jpg, .jpeg or .webp"),
        ("/dev/null", ".png, .jpg, .jpeg or .webp"),
    ] {
        studio.refuses(&["--out", out], &[reason]);
        let sheet = ["data", "inspect", "none", "--sheet", out];
        fails(&studio.run(&sheet), &[reason]);
    }
    studio.refuses(&["--singles", "file"], &["file is not a directory"]);
    studio.refuses(&["--singles", "file/below"], &["file is not a directory"]);
    studio.refuses(&["--out", "a.png"], &["run holds no run"]);
    for out in ["folder.png", "link.png", "none/a.safetensors"] {
        fails(&studio.run(&["convert", "none.pt", "--out", out]), &[out]);
    }
    assert_eq!(fs::read(studio.file("file")).unwrap(), b"mine");
    let left: Vec<_> = fs::read_dir(studio.folder.path()).unwrap().collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn endings_prompts_and_closed_outputs() {
    let studio = Studio::new();
    for (name, format) in [
        ("a.png", image::ImageFormat::Png),
        ("a.JPG", image::ImageFormat::Jpeg),
        ("a.webp", image::ImageFormat::WebP),
    ] {
        let said = studio.draws(&["--prompt", "a red circle", "--out", name]);
        let bytes = fs::read(studio.file(name)).unwrap();
        assert_eq!(image::guess_format(&bytes).unwrap(), format);
        assert_eq!(said.contains("without a label"), name != "a.png", "{said}");
    }
    // The quickstart reads 15 words.
    let long = format!("{}lost words \u{1b}[31m", "red ".repeat(15));
    fs::write(
        studio.file("prompts.txt"),
        format!("\u{feff}short\r\n\r\n{long}\r\n"),
    )
    .unwrap();
    let said = studio.draws(&["--prompts", "prompts.txt"]);
    assert!(
        said.contains("prompt 2 is cut: it has 18 tokens, of which the encoder reads 15")
            && said.contains("lost words"),
        "{said}"
    );
    assert!(
        said.contains(
            "prompts.txt: empty lines among the prompts are passed over: 1, the first is line 2"
        ),
        "{said}"
    );
    let set = format!("sampling.prompts=[\"{}lost words\"]", "red ".repeat(15));
    let set = [
        "--set",
        &set,
        "--set",
        WEB_DATASET,
        "--set",
        "data.shards=none.tar",
    ];
    fails(
        &train(&studio.file("other"), &set),
        &["prompt 1 is cut", "none.tar"],
    );
    // The standard input is a file of prompts too.
    let mut command = studio.sample(&["--prompts", "-", "--out", "in.png"]);
    command.stdin(fs::File::open(studio.file("prompts.txt")).unwrap());
    assert!(text(&command.output().unwrap()).contains("2 pictures"));
    studio.refuses(
        &["--prompts", "prompts.txt", "--prompt", "a"],
        &["cannot be used with"],
    );
    fs::write(studio.file("prompts.txt"), b"red\nun caf\xe9\n").unwrap();
    studio.refuses(
        &["--prompts", "prompts.txt"],
        &["prompts.txt: line 2: not UTF-8"],
    );
    fs::write(studio.file("prompts.txt"), "\r\n").unwrap();
    studio.refuses(&["--prompts", "prompts.txt"], &["no prompt in it"]);
    // Whoever reads has gone: the picture is drawn all the same.
    let mut child = studio
        .sample(&["--prompt", &long, "--out", "unread.png"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert!(studio.file("unread.png").is_file());
    let mut child = studio
        .sample(&["--out", "folder/a.png"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let closed = format!(
        "exec {} sample --run run >&- 2>&-",
        env!("CARGO_BIN_EXE_microdit")
    );
    let mut shell = Command::new("sh");
    let status = shell
        .args(["-c", &closed])
        .current_dir(studio.folder.path());
    assert!(status.status().unwrap().success());
}

#[test]
fn a_path_means_itself() {
    let folder = tempfile::tempdir().unwrap();
    let shard = root().join("tests/goldens/wds_clean.tar");
    let names = [
        "a%41b.tar",
        "aAb.tar",
        "x:y.tar",
        "pipe:touch executed;cat shard.tar",
        "http:shard.tar",
        "file:shard.tar",
        "two words.tar",
        "-",
        "%.tar",
    ];
    for name in names {
        let path = folder.path().join(name);
        if name == "aAb.tar" {
            // What `%41` would mean if it were a URL is something else.
            fs::write(path, "no tar").unwrap();
            continue;
        }
        fs::copy(&shard, &path).unwrap();
        for path in [name.to_owned(), path.to_string_lossy().into_owned()] {
            let output = Command::new(env!("CARGO_BIN_EXE_microdit"))
                .args(["data", "inspect", "--", &path])
                .current_dir(folder.path())
                .output()
                .unwrap();
            let said = text(&output);
            assert!(
                output.status.success() && said.contains("samples 16"),
                "{path}: {said}"
            );
        }
        fs::remove_file(path).unwrap();
    }
    assert!(!folder.path().join("executed").exists());
    // Names that are not UTF-8, and directories with special characters.
    let directory = folder.path().join("d%20 :{0..1}");
    fs::create_dir(&directory).unwrap();
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"\xff.tar");
    fs::copy(&shard, directory.join(odd)).unwrap();
    let said = succeeds(&["data", "inspect", &directory.to_string_lossy()]);
    assert!(said.contains("samples 16"), "{said}");
}
