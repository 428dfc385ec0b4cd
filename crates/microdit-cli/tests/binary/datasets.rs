//! Datasets are whole, or it is said what they lack.

use crate::{
    common::{fails, microdit, root, succeeds, text},
    latents::{SHARDS, Workshop, same},
};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A card for shards, and one for a directory.
fn cards(folder: &Path) -> [String; 2] {
    ["Shards", "Folder(())"].map(|layout| {
        let path = folder.join(format!("{}.ron", &layout[..5]));
        let card = format!(
            r#"(name: "n", source: "s", licence: "l", size: "s", get: "g", layout: {layout})"#
        );
        fs::write(&path, card).unwrap();
        path.to_string_lossy().into_owned()
    })
}

/// A directory with a picture of its own and a text for each name.
fn folder(at: &Path, names: &[&str]) {
    for (i, name) in names.iter().enumerate() {
        let path = at.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture(i as u8).save(&path).unwrap();
        fs::write(path.with_extension("txt"), format!("caption of {name}")).unwrap();
    }
}

fn picture(level: u8) -> image::RgbImage {
    image::RgbImage::from_pixel(40, 40, image::Rgb([level, 255 - level, 9]))
}

fn cut_in_half(path: &str) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
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
    // Names that differ in what is no letter, in the directory, or in the extension.
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
fn a_precomputation_knows_its_pictures_by_their_content() {
    let workshop = Workshop::new();
    // So long that not all of it is looked at before it is read.
    let shard = workshop.path("pictures/2.tar");
    let mut long = tar::Builder::new(fs::File::create(&shard).unwrap());
    let golden = fs::File::open(root().join("tests/goldens/wds_clean.tar")).unwrap();
    for entry in tar::Archive::new(golden).entries().unwrap() {
        let entry = entry.unwrap();
        let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
        long.append_data(&mut header, path, entry).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_size(400_000);
    long.append_data(&mut header, "extra.bin", &[7; 400_000][..])
        .unwrap();
    long.finish().unwrap();
    workshop.precomputed("out", &[]);
    let before = workshop.files("out");
    let again = workshop.precomputed("out", &[]);
    assert!(
        again.contains("0 samples encoded") && again.contains("91 samples in 6 shards"),
        "{again}"
    );
    // A shard is replaced by one of the same name and length: one bit differs.
    let (mut bytes, untouched) = (fs::read(&shard).unwrap(), fs::read(&shard).unwrap());
    // At the very end of the content, where no part is looked at beforehand.
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let refused = |more: &[&str], parts: &[&str]| {
        fails(&workshop.precompute("out", more).output().unwrap(), parts);
        same(&workshop.files("out"), &before);
    };
    refused(
        &[],
        &[
            "other shards",
            "expected 2.tar",
            "SHA-256",
            "found 2.tar",
            "--update",
        ],
    );
    refused(&["--rank", "2", "--world-size", "3"], &["expected 2.tar"]);
    fs::write(&shard, &untouched).unwrap();
    // Other pictures under the same names.
    fs::rename(workshop.path("pictures"), workshop.path("A")).unwrap();
    fs::create_dir(workshop.path("pictures")).unwrap();
    for i in 0..SHARDS {
        let other = root().join("tests/goldens/wds_dirty.tar");
        fs::copy(other, workshop.path(&format!("pictures/{i}.tar"))).unwrap();
    }
    refused(&[], &["other shards", "0.tar", "found", "fingerprint"]);
    fs::remove_dir_all(workshop.path("pictures")).unwrap();
    fs::rename(workshop.path("A"), workshop.path("pictures")).unwrap();
    // Elsewhere, under other names, they are the same.
    fs::rename(
        workshop.path("pictures/0.tar"),
        workshop.path("pictures/9.tar"),
    )
    .unwrap();
    assert!(
        workshop
            .precomputed("out", &[])
            .contains("0 samples encoded")
    );
    fs::rename(
        workshop.path("pictures/9.tar"),
        workshop.path("pictures/0.tar"),
    )
    .unwrap();
    workshop.precomputed("out", &[]);
    same(&workshop.files("out"), &before);
    // Encoders are their weights and settings: under another name the same, with other content others.
    fs::rename(workshop.path("vae"), workshop.path("elsewhere")).unwrap();
    let paths = ["pictures", "out", "elsewhere", "clip"].map(|name| workshop.path(name));
    let [pictures, out, vae, clip] = &paths;
    let names = [
        "--out",
        out,
        "--vae",
        vae,
        "--text-encoder",
        clip,
        "--sizes",
        "32,64",
    ];
    let said = succeeds(&[&["data", "precompute", pictures][..], &names].concat());
    assert!(said.contains("0 samples encoded"), "{said}");
    fs::rename(workshop.path("elsewhere"), workshop.path("vae")).unwrap();
    let config = workshop.path("vae/config.json");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let mut other = json.clone();
    other["scaling_factor"] = 0.5.into();
    fs::write(&config, other.to_string()).unwrap();
    refused(&[], &["other settings", "VAE: expected vae with checksum"]);
}

#[test]
fn a_finished_precomputation_verifies_its_shards() {
    let workshop = Workshop::new();
    workshop.precomputed("out", &[]);
    let whole = workshop.files("out");
    let index = || microdit(&["data", "index", &workshop.path("out")]);
    let shard = |number: usize| workshop.path(&format!("out/00000{number}.tar"));
    fs::remove_file(shard(0)).unwrap();
    cut_in_half(&shard(1));
    let mut bytes = fs::read(shard(2)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(shard(2), bytes).unwrap();
    fs::write(workshop.path("out/000003.json"), "{").unwrap();
    fails(&index(), &["000003.json"]);
    fs::remove_file(workshop.path("out/000003.json")).unwrap();
    fails(&index(), &["1 of 6 sources are missing (3.tar)"]);
    fs::write(
        workshop.path("out/000003.json"),
        &whole[Path::new("000003.json")],
    )
    .unwrap();
    let damage = [
        "000000.tar is missing",
        "000001.tar has",
        "000002.tar has changed since it was written",
    ];
    fails(&index(), &damage);
    let said = workshop.precomputed("out", &[]);
    for part in damage {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    assert!(
        said.contains("made again") && said.contains("48 samples encoded"),
        "{said}"
    );
    same(&workshop.files("out"), &whole);
    succeeds(&["data", "index", &workshop.path("out")]);
}

#[test]
fn a_shard_that_was_cut_off_costs_its_rest_alone() {
    let workshop = Workshop::new();
    let shard = workshop.path("pictures/1.tar");
    let whole = fs::read(&shard).unwrap();
    cut_in_half(&shard);
    fs::write(workshop.path("pictures/3.tar"), "no tar at all").unwrap();
    let failed = |more: &[&str], parts: &[&str]| {
        let output = workshop.precompute("out", more).output().unwrap();
        fails(&output, parts);
        text(&output)
    };
    // Both are named, all else is there, and one call after the other says so.
    let parts = [
        "samples in 5 shards",
        "of 6 shards, 1 could not be used, 1 only up to a fault; all else is there",
        "1.tar: it was cut off",
        "3.tar: no usable sample",
        "--update",
    ];
    let said = failed(&[], &parts);
    assert!(!said.contains(" 0 samples encoded"), "{said}");
    failed(&[], &parts);
    let said = succeeds(&["data", "index", &workshop.path("out")]);
    assert!(
        said.contains("lacks 1.tar: it was cut off") && said.contains("lacks 3.tar"),
        "{said}"
    );
    let said = succeeds(&["data", "inspect", &workshop.path("out")]);
    assert!(said.contains("lacks 1.tar"), "{said}");
    // One is mended, the other left out.
    let before = workshop.files("out");
    fs::write(&shard, whole).unwrap();
    fs::remove_file(workshop.path("pictures/3.tar")).unwrap();
    failed(&[], &["expected 1.tar", "--update"]);
    let said = workshop.precomputed("out", &["--update"]);
    assert!(
        said.contains("16 samples encoded") && said.contains("75 samples in 5 shards"),
        "{said}"
    );
    let after = workshop.files("out");
    for number in [0, 2, 4, 5] {
        let name = Path::new(&format!("00000{number}.tar")).to_owned();
        assert!(before[&name] == after[&name], "{}", name.display());
    }
    assert!(!after.contains_key(Path::new("000003.tar")));
    // Another is added: what is there stays.
    let sound = root().join("tests/goldens/wds_clean.tar");
    fs::copy(&sound, workshop.path("pictures/10.tar")).unwrap();
    failed(&[], &["10.tar", "is new", "--update"]);
    let said = workshop.precomputed("out", &["--update"]);
    assert!(
        said.contains("16 samples encoded") && said.contains("91 samples in 6 shards"),
        "{said}"
    );
    succeeds(&["data", "inspect", &workshop.path("out")]);

    // The same for `prepare`.
    let [card, _] = cards(workshop.folder.path());
    cut_in_half(&shard);
    let (source, out) = (workshop.path("pictures"), workshop.path("prepared"));
    let output = microdit(&["data", "prepare", &card, "--source", &source, "--out", &out]);
    fails(
        &output,
        &["lacks a part of the source", "1.tar: it was cut off"],
    );
    let said = succeeds(&["data", "inspect", &out]);
    assert!(said.contains("lacks 1.tar"), "{said}");
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
    // No picture, no caption, nothing that is wanted.
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
    // What inspect looks at.
    fails(
        &microdit(&["data", "inspect", &workshop.path("broken")]),
        &["no sound sample", "1 shards are broken"],
    );
}

/// Waits for a file.
#[track_caller]
fn wait_for(path: &str) {
    let begun = Instant::now();
    while !Path::new(path).exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{path}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Replaces a file by a pipe nobody writes to: reading it hangs, as on a disk that is gone.
fn hang(path: &str) {
    let pipe = format!("{path}.pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    fs::rename(pipe, path).unwrap();
}

/// Asks the command to stop while it hangs; what it said within two seconds.
#[track_caller]
fn stopped(mut child: Child) -> String {
    thread::sleep(Duration::from_secs(1));
    assert!(child.try_wait().unwrap().is_none(), "it does not hang");
    let begun = Instant::now();
    let id = child.id().to_string();
    assert!(Command::new("kill").arg(&id).status().unwrap().success());
    while child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(5));
    }
    let took = begun.elapsed();
    // One that does not listen must not outlive the test.
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    fails(&output, &["stopped"]);
    text(&output)
}

#[test]
fn signals_are_heard_while_a_disk_hangs() {
    let workshop = Workshop::new();
    let start = |command: &mut Command| {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let child = start(&mut workshop.precompute("out", &[]));
    wait_for(&workshop.path("out/precompute.json"));
    hang(&workshop.path("pictures/5.tar"));
    wait_for(&workshop.path("out/000004.json"));
    let said = stopped(child);
    assert!(
        said.contains("stopped after 5 of 6 shards") && said.contains("the same command goes on"),
        "{said}"
    );
    let names = workshop.files("out").into_keys().collect::<Vec<_>>();
    assert!(
        names.iter().all(|name| name.extension().unwrap() != "part"),
        "{names:?}"
    );
    let sound = root().join("tests/goldens/wds_dirty.tar");
    fs::remove_file(workshop.path("pictures/5.tar")).unwrap();
    fs::copy(&sound, workshop.path("pictures/5.tar")).unwrap();
    assert!(
        workshop
            .precomputed("out", &[])
            .contains("11 samples encoded")
    );

    // Long enough that the last can be replaced.
    let [card, _] = cards(workshop.folder.path());
    let many = workshop.path("many");
    fs::create_dir(&many).unwrap();
    for i in 0..300 {
        fs::hard_link(
            workshop.path("pictures/0.tar"),
            format!("{many}/{i:03}.tar"),
        )
        .unwrap();
    }
    let out = workshop.path("prepared");
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    let child = start(command.args(["data", "prepare", &card, "--source", &many, "--out", &out]));
    wait_for(&format!("{out}/000000.tar.part"));
    hang(&format!("{many}/299.tar"));
    let said = stopped(child);
    assert!(said.contains("4784 samples in 1 shards"), "{said}");
    let said = succeeds(&["data", "inspect", &out]);
    assert!(
        said.contains("lacks work was broken off after 4784 samples"),
        "{said}"
    );
    // A pipe in place of a shard is refused by its name.
    fails(
        &microdit(&[
            "data",
            "prepare",
            &card,
            "--source",
            &many,
            "--out",
            &workshop.path("refused"),
        ]),
        &["299.tar"],
    );
}
