//! Answers to bad input.

use crate::common::{WEB_DATASET, fails, microdit, root, text, train};
use std::path::Path;

#[test]
fn bad_recipes_name_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").to_string_lossy().into_owned();
    fails(
        &microdit(&["train", "no/such.ron", "--run", &run]),
        &["no/such.ron", "No such file", "microdit recipe list"],
    );
    let quickstart = std::fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap();
    for (from, to, parts) in [
        (
            "batch: 32",
            "bach: 32",
            &["bad.ron:23", "bach", "did you mean `batch`?"][..],
        ),
        (
            "data: Shapes",
            "data: ImageNet",
            &["bad.ron:", "ImageNet", "WebDataset"],
        ),
        ("batch: 32", "batch: \"many\"", &["bad.ron:"]),
        (
            "patch_size: 4",
            "patch_size: 5",
            &["model.input_size", "patch_size 5"],
        ),
        (
            "ratio: 0.75",
            "ratio: 1.5",
            &[
                "bad.ron:",
                "stages.masked.masking.ratio: must be at least 0 and below 1, not 1.5",
            ],
        ),
    ] {
        let path = folder.path().join("bad.ron");
        let broken = quickstart.replacen(from, to, 1);
        assert_ne!(broken, quickstart, "the recipe no longer has `{from}`");
        std::fs::write(&path, broken).unwrap();
        fails(
            &microdit(&["train", &path.to_string_lossy(), "--run", &run]),
            parts,
        );
        assert!(
            !Path::new(&run).exists(),
            "a bad recipe leaves no run behind"
        );
    }
    fails(
        &train(Path::new(&run), &["--set", "stages.0.step=1"]),
        &["--set stages.0.step=1", "`step`", "did you mean `steps`?"],
    );
    #[cfg(not(feature = "cuda"))]
    fails(
        &train(Path::new(&run), &["--device", "cuda"]),
        &[
            "this build lacks CUDA",
            "cargo build --release --features cuda",
        ],
    );
    assert!(!Path::new(&run).exists());
}

#[test]
fn bad_data_is_an_error_and_a_bad_sample_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let web = |shards: &str, name: &str| {
        let set = format!("data.shards={shards}");
        train(
            &folder.path().join(name),
            &["--set", WEB_DATASET, "--set", &set],
        )
    };
    fails(
        &web("no/such.tar", "missing"),
        &["no/such.tar", "no such shard"],
    );
    #[cfg(not(feature = "remote"))]
    fails(
        &web("s3://bucket/{000..009}.tar", "url"),
        &[
            "s3://bucket/{000..009}.tar: this program was built without",
            "the feature `remote`",
            "cargo build --release --features remote",
        ],
    );
    let empty = folder.path().join("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    fails(
        &web(&empty.to_string_lossy(), "empty"),
        &["empty.tar", "no usable sample"],
    );
    // One of several costs nothing else.
    let several = folder.path().join("several");
    std::fs::create_dir(&several).unwrap();
    std::fs::copy(&empty, several.join("0.tar")).unwrap();
    for name in ["1.tar", "2.tar"] {
        let clean = root().join("tests/goldens/wds_clean.tar");
        std::fs::copy(clean, several.join(name)).unwrap();
    }
    let output = web(&several.to_string_lossy(), "one-lost");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("stage masked: 1 shards were left out as a whole (")
            && said.contains("0.tar: no usable sample; expected members"),
        "{said}"
    );
    std::fs::copy(&empty, several.join("1.tar")).unwrap();
    fails(
        &web(&several.to_string_lossy(), "most-lost"),
        &["2 of 3 shards have no usable sample"],
    );
    fails(
        &microdit(&["train", "recipes/cifar10.ron"]),
        &["data.shards", "--set data.shards=PATH"],
    );
    let dirty = "tests/goldens/wds_dirty.tar";
    fails(
        &web(dirty, "missing"),
        &[
            "wds_dirty.tar: ",
            "of 16 samples are damaged",
            "raise data.max_damage",
        ],
    );
    let set = format!("data.shards={dirty}");
    let more = [
        "--set",
        WEB_DATASET,
        "--set",
        &set,
        "--set",
        "data.max_damage=0.5",
    ];
    let patient = train(&folder.path().join("patient"), &more);
    let said = text(&patient);
    assert!(patient.status.success(), "{said}");
    assert!(
        said.contains("has no image") && said.contains("has no use"),
        "{said}"
    );
    fails(
        &microdit(&["sample", "--run", &folder.path().to_string_lossy()]),
        &["holds no run", "recipe.ron"],
    );
}

#[test]
fn a_run_directory_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    fails(
        &train(&file.join("run"), &[]),
        &["file/run", "Not a directory"],
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}
