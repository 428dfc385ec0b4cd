//! Collected pictures to shards: what is filtered, which names stay apart, and what is not a dataset.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    workshop::{Workshop, cards},
};
use std::{collections::BTreeMap, fs, path::Path};

/// A picture of a color of its own.
pub(crate) fn picture(level: u8) -> image::RgbImage {
    image::RgbImage::from_pixel(40, 40, image::Rgb([level, 255 - level, 9]))
}

/// A directory with a picture of its own and a text for each name.
pub(crate) fn folder(at: &Path, names: &[&str]) {
    for (i, name) in names.iter().enumerate() {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(i as u8).save(&path).unwrap();
        fs::write(path.with_extension("txt"), format!("caption of {name}")).unwrap();
    }
}

/// Keys of a shard with their captions, as webdataset in Python splits names.
fn captions(tar: &str) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    let mut captions = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let base = name.rfind('/').map_or(0, |slash| slash + 1);
        let (stem, extension) = name[base..].split_once('.').unwrap();
        if extension == "txt" {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
            let key = format!("{}{stem}", &name[..base]);
            assert_eq!(captions.insert(key, text), None, "{name} twice");
        }
    }
    captions
}

#[test]
fn pictures_are_filtered_cleaned_shrunk_and_packed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let pictures = folder.path().join("pictures");
    fs::create_dir(&pictures).unwrap();
    for (name, width, height) in [
        ("large", 90, 60),
        ("small", 9, 90),
        ("narrow", 400, 40),
        ("other", 50, 50),
        ("plain", 50, 50),
    ] {
        image::RgbImage::new(width, height)
            .save(pictures.join(format!("{name}.png")))
            .unwrap();
    }
    fs::write(pictures.join("broken.jpg"), b"no picture").unwrap();
    let captions = [
        ("large", "A CAT on a sofa, see https://cats.com"),
        ("small", "a cat"),
        ("narrow", "a cat"),
        ("other", "a dog in the park"),
        ("plain", "cat"),
        ("broken", "a cat in a basket"),
        ("../gone", "a cat elsewhere"),
    ];
    let rows: String = captions
        .iter()
        .map(|(name, caption)| {
            let extension = if *name == "broken" { "jpg" } else { "png" };
            format!(
                "{}\n",
                serde_json::json!({"file_name": format!("{name}.{extension}"), "text": caption})
            )
        })
        .collect();
    fs::write(pictures.join("captions.jsonl"), rows).unwrap();
    let card = path("cats.ron");
    fs::write(
        &card,
        r#"(
            name: "cats", source: "here", license: "CC0", size: "six", get: "draw them",
            layout: Folder(()), clean: true, max_side: 30,
            filters: (min_side: 20, max_aspect: 4.0, caption_length: (4, 100), mentions: ["cat", "cats"]),
        )"#,
    )
    .unwrap();
    let source = path("pictures");
    let out = path("shards");
    let said = succeeds(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    for part in [
        "1 samples in 1 shards",
        "left out 1: an image that is too small",
        "left out 1: an image that is too narrow",
        "left out 1: a caption without any of the words",
        "left out 1: a caption that is too short",
        "left out 1: an image that cannot be decoded",
        "left out 1: a path that leads out of the directory",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(&out).join("shards.json")).unwrap()).unwrap();
    assert_eq!(index["samples"], 1);
    assert_eq!(index["shards"][0]["samples"], 1);
    let said = succeeds(&["data", "inspect", &out]);
    // 90 x 60, its shorter side shrunk to 30; "a cat on a sofa, see".
    assert!(
        said.contains("sizes 45 x 30 (1)") && said.contains("20 to 20 characters"),
        "{said}"
    );
    // A directory in use is left alone.
    let again = microdit(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    fails(&again, &["is not empty"]);
    // The same captions as tables of other kinds, beside it; the Parquet file was written by PyArrow.
    let table = path("table.csv");
    fs::write(
        &table,
        "file_name,text\nplain.png,\"a cat, plain\"\nother.png,a dog\n",
    )
    .unwrap();
    let parquet = root().join("tests/goldens/captions.parquet");
    for (name, table) in [
        ("csv", table),
        ("parquet", parquet.to_string_lossy().into_owned()),
    ] {
        let out = path(name);
        let said = succeeds(&[
            "data",
            "prepare",
            &card,
            "--source",
            &source,
            "--out",
            &out,
            "--captions",
            &table,
        ]);
        assert!(said.contains("1 samples in 1 shards"), "{name}: {said}");
        assert!(
            said.contains("left out 1: a caption without any of the words"),
            "{name}: {said}"
        );
    }
}

#[test]
fn every_dataset_is_described() {
    for entry in fs::read_dir(root().join("datasets")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "ron") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let card = path.to_string_lossy();
        // The golden shards stand in for what is collected.
        let source = root().join("tests/goldens/wds_clean.tar");
        let (source, out) = (source.to_string_lossy(), out.to_string_lossy());
        let output = microdit(&[
            "data", "prepare", &card, "--source", &source, "--out", &out, "--limit", "5",
        ]);
        let said = text(&output);
        // Its pictures are smaller than some datasets want them.
        let none = ["Not a directory", "no sample was written, of 5"];
        let read = output.status.success() || none.iter().any(|part| said.contains(part));
        assert!(read, "{card}: {said}");
    }
}

#[test]
fn samples_of_colliding_names_stay_apart() {
    let workshop = Workshop::new();
    let [shards, directory] = cards(workshop.folder.path());
    let prepared = |card: &str, source: &str, out: &str| {
        let (source, out) = (workshop.path(source), workshop.path(out));
        succeeds(&["data", "prepare", card, "--source", &source, "--out", &out]);
        let said = succeeds(&["data", "inspect", &out]);
        let captions = captions(&format!("{out}/000000.tar"));
        let samples = format!("samples {}", captions.len());
        assert!(
            said.contains(&samples) && said.contains("damaged 0"),
            "{said}"
        );
        captions
    };
    // Names that differ only in punctuation, directory or extension.
    let names = [
        "a.b.png",
        "a_b.png",
        "x y.png",
        "x_y.png",
        "d/e.png",
        "d-e.png",
        "d_e.png",
        "same.png",
        "same.bmp.png",
        "1/same.png",
        "2/same.png",
        "a%2Eb.png",
        "a~2.png",
        ".hidden.png",
    ];
    folder(Path::new(&workshop.path("names")), &names);
    let found = prepared(&directory, "names", "of_names");
    assert_eq!(found.len(), names.len());
    for (key, name) in [
        ("a%2Eb", "a.b.png"),
        ("a_b", "a_b.png"),
        ("x y", "x y.png"),
        ("d/e", "d/e.png"),
        ("d-e", "d-e.png"),
        ("a%252Eb", "a%2Eb.png"),
        ("a%7E2", "a~2.png"),
    ] {
        assert_eq!(found[key], format!("caption of {name}"));
    }
    // One stem with two extensions, and several captions for a picture.
    let stems = workshop.folder.path().join("stems");
    folder(&stems, &["p.png", "q.png"]);
    picture(7).save(stems.join("p.jpg")).unwrap();
    let rows = [
        "p.png one",
        "p.png two",
        "p.jpg three",
        "q.png four",
        "p.png five",
    ];
    let rows = rows.map(|row| {
        let (name, caption) = row.split_once(' ').unwrap();
        serde_json::json!({"file_name": name, "text": caption}).to_string() + "\n"
    });
    fs::write(stems.join("captions.jsonl"), rows.concat()).unwrap();
    let found = prepared(&directory, "stems", "of_stems");
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(key, text)| (key.as_str(), text.as_str()))
        .collect();
    let expected = [
        ("p", "one"),
        ("p~2", "two"),
        ("p~3", "three"),
        ("p~4", "five"),
        ("q", "four"),
    ];
    assert_eq!(found, expected);
    // Tars with the same names of members.
    let found = prepared(&shards, "pictures", "of_shards");
    assert_eq!(found.len(), 91);
    // Once more through the same, and into latents: the keys stay.
    assert_eq!(prepared(&shards, "of_shards", "again"), found);
    fs::rename(workshop.path("pictures"), workshop.path("before")).unwrap();
    fs::rename(workshop.path("of_stems"), workshop.path("pictures")).unwrap();
    workshop.precomputed("latents", &[]);
    let latents = captions(&workshop.path("latents/000000.tar"));
    let latents: Vec<(&str, &str)> = latents
        .iter()
        .map(|(key, text)| (key.as_str(), text.as_str()))
        .collect();
    assert_eq!(latents, expected);
}

#[test]
fn what_is_no_dataset_is_not_a_success() {
    let workshop = Workshop::new();
    let [shards, directory] = cards(workshop.folder.path());
    let out = workshop.path("out");
    let prepare = |card: &str, source: &str, more: &[&str]| {
        let source = workshop.path(source);
        let arguments = ["data", "prepare", card, "--source", &source, "--out", &out];
        microdit(&[&arguments, more].concat())
    };
    let nothing = |output: &std::process::Output, parts: &[&str]| {
        fails(output, parts);
        assert!(!Path::new(&out).exists());
    };
    // No picture, no caption, or nothing that passes the filters.
    fs::create_dir(workshop.path("empty")).unwrap();
    nothing(
        &prepare(&directory, "empty", &[]),
        &["no sample was written"],
    );
    fs::create_dir(workshop.path("mute")).unwrap();
    picture(1).save(workshop.path("mute/a.png")).unwrap();
    nothing(
        &prepare(&directory, "mute", &[]),
        &["no sample was written, of 1", "1 no caption"],
    );
    folder(Path::new(&workshop.path("one")), &["a.png"]);
    let picky = workshop.path("picky.ron");
    let card = fs::read_to_string(&directory).unwrap();
    let filter = "filters: (min_side: 1000), layout";
    fs::write(&picky, card.replace("layout", filter)).unwrap();
    nothing(
        &prepare(&picky, "one", &[]),
        &["1 an image that is too small"],
    );
    // Tars of which nothing can be used.
    fs::create_dir(workshop.path("broken")).unwrap();
    fs::write(workshop.path("broken/0.tar"), "no tar").unwrap();
    nothing(
        &prepare(&shards, "broken", &[]),
        &["no sample was written", "0.tar: "],
    );
    // Too much damage: five of the 16 samples.
    let dirty = workshop.path("dirty");
    fs::create_dir(&dirty).unwrap();
    fs::copy(workshop.path("pictures/5.tar"), format!("{dirty}/0.tar")).unwrap();
    let output = prepare(&shards, "dirty", &["--max-damage", "0.3"]);
    fails(
        &output,
        &["5 of 16 samples are damaged", "--max-damage", "no caption"],
    );
    fails(
        &microdit(&["data", "inspect", &dirty]),
        &["5 of 16 samples are damaged", "0.tar: "],
    );
    succeeds(&["data", "inspect", &dirty, "--max-damage", "0.4"]);
    let output = microdit(&["data", "inspect", &dirty, "--max-damage", "2"]);
    fails(&output, &["--max-damage", "at most 1, not 2"]);
    // The same for latents, which are beyond what 16 bits hold with such a factor.
    let config = workshop.path("vae/config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    json["scaling_factor"] = 1e9.into();
    fs::write(&config, json.to_string()).unwrap();
    let output = workshop
        .precompute("latents", &["--max-damage", "1"])
        .output()
        .unwrap();
    fails(&output, &["no sample was written", "a non-finite latent"]);
    let output = workshop.precompute("latents", &[]).output().unwrap();
    fails(
        &output,
        &["samples are damaged", "a non-finite latent", "--max-damage"],
    );
    for name in workshop.files("latents").keys() {
        assert_ne!(name.extension().unwrap(), "tar");
    }
    // The same by inspect.
    fails(
        &microdit(&["data", "inspect", &workshop.path("broken")]),
        &["no sound sample", "shards are broken"],
    );
}

/// As datasets on the Hugging Face hub keep their pictures.
#[test]
fn pictures_inside_parquet_are_inspected_prepared_and_trained_on() {
    let workshop = Workshop::new();
    let hub = workshop.path("hub");
    fs::create_dir(&hub).unwrap();
    for (i, name) in ["bytes", "struct"].into_iter().enumerate() {
        let from = root().join(format!("tests/faults/tables/pictures-{name}.parquet"));
        fs::copy(from, format!("{hub}/train-{i:05}-of-00002.parquet")).unwrap();
    }
    let said = text(&microdit(&["data", "inspect", &hub, "--max-damage", "0.5"]));
    for part in [
        "members caption, jpg",
        "samples 29",
        "damaged 3",
        "2 with no image",
        "train-00001-of-00002:5",
    ] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    let [card, _] = cards(workshop.folder.path());
    let out = workshop.path("packed");
    let said = succeeds(&["data", "prepare", &card, "--source", &hub, "--out", &out]);
    assert!(said.contains("29 samples in 1 shards"), "{said}");
    let packed = captions(&format!("{out}/000000.tar"));
    assert_eq!(
        packed["train-00000-of-00002:0"],
        "a green square on a orange background"
    );
    // Trained on where it lies.
    let run = workshop.path("run");
    let pattern = format!("{hub}/train-{{00000..00001}}-of-00002.parquet");
    let shards = format!("data.shards={pattern:?}");
    let output = crate::common::train(
        Path::new(&run),
        &[
            "--set",
            crate::common::WEB_DATASET,
            "--set",
            &shards,
            "--set",
            "evaluation=None",
            "--set",
            "data.max_damage=0.2",
        ],
    );
    assert!(output.status.success(), "{}", text(&output));
    // A table without pictures names what it has.
    let table = root().join("tests/faults/tables/none.parquet");
    let output = microdit(&["data", "inspect", &table.to_string_lossy()]);
    fails(&output, &["there is no sound sample"]);
}

/// A part of a dataset is drawn sample by sample: it has about its share, a larger one has all of it, and what else there is does not
/// matter.
#[test]
fn a_fraction_is_a_part_of_a_larger_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let card = |count: u32| {
        let card = format!(
            r#"(name: "s", source: "", license: "", size: "", get: "", layout: Shapes(size: 8, count: {count}), store: Png)"#
        );
        fs::write(path("card.ron"), card).unwrap();
    };
    let taken = |out: &str, more: &[&str]| {
        let start = ["data", "prepare", &path("card.ron"), "--out", &path(out)];
        let said = succeeds(&[&start[..], more].concat());
        (captions(&path(&format!("{out}/000000.tar"))), said)
    };
    card(2000);
    let (all, said) = taken("all", &[]);
    assert_eq!(all.len(), 2000);
    assert!(!said.contains("passed over"), "{said}");
    let (tenth, said) = taken("tenth", &["--fraction", "0.1"]);
    // 200 of 2000, give or take four standard deviations of 13.4.
    assert!((147..=253).contains(&tenth.len()), "{}", tenth.len());
    let passed = format!("passed over {}, by --fraction", 2000 - tenth.len());
    assert!(said.contains(&passed), "no `{passed}` in {said}");
    assert!(
        tenth
            .iter()
            .all(|(key, caption)| all.get(key) == Some(caption))
    );
    let (hundredth, _) = taken("hundredth", &["--fraction", "0.01"]);
    assert!((2..=38).contains(&hundredth.len()), "{}", hundredth.len());
    assert!(hundredth.keys().all(|key| tenth.contains_key(key)));
    let (other, _) = taken("other", &["--fraction", "0.1", "--seed", "1"]);
    assert_ne!(other, tenth);
    assert_eq!(taken("whole", &["--fraction", "1"]).0, all);
    // A limit counts what is taken.
    let (few, _) = taken("few", &["--fraction", "0.1", "--limit", "50"]);
    assert_eq!(few.len(), 50);
    assert!(few.keys().all(|key| tenth.contains_key(key)));
    card(1000);
    let (half, _) = taken("half", &["--fraction", "0.1"]);
    assert!(half.keys().all(|key| tenth.contains_key(key)));
    let output = microdit(&[
        "data",
        "prepare",
        &path("card.ron"),
        "--out",
        &path("none"),
        "--fraction",
        "0",
    ]);
    fails(
        &output,
        &[
            "no sample was written",
            "1000 were passed over by the fraction",
        ],
    );
    assert!(!Path::new(&path("none")).exists());
}
