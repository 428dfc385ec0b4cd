//! Random crops and flips: encoded, trained on, and off where nobody asks for them.

use crate::{
    common::{WEB_DATASET, fails, microdit, root, small, succeeds, text},
    latents::RECIPE,
    workshop::{Workshop, same},
};
use microdit::weights::StateDict;
use std::{collections::BTreeMap, fs, path::Path};

/// Members of a tar by name.
fn members(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (name, content)
    });
    entries.collect()
}

#[test]
fn pictures_are_encoded_both_ways_and_read_either_way() {
    let workshop = Workshop::new();
    for i in 1..crate::workshop::SHARDS {
        fs::remove_file(workshop.path(&format!("pictures/{i}.tar"))).unwrap();
    }
    workshop.precomputed("plain", &[]);
    workshop.precomputed("both", &["--flips"]);
    let read =
        |name: &str| members(&fs::read(workshop.path(&format!("{name}/000000.tar"))).unwrap());
    let (plain, both) = (read("plain"), read("both"));
    // What there was is what it was; and a mirrored picture is encoded beside each.
    assert!(plain.iter().all(|(name, content)| both[name] == *content));
    let flipped: Vec<&String> = both
        .keys()
        .filter(|name| name.ends_with("-flipped.npy"))
        .collect();
    assert_eq!(flipped.len(), 2 * 16);
    for name in flipped {
        assert!(both[name] != both[&name.replace("-flipped", "")], "{name}");
    }
    assert_eq!(both.len(), plain.len() + 2 * 16);
    let said = succeeds(&["data", "inspect", &workshop.path("both")]);
    for part in ["latent-32-flipped.npy", "samples 16", "damaged 0"] {
        assert!(said.contains(part), "no `{part}` in: {said}");
    }
    // Other parts of the pictures, the same each time.
    workshop.precomputed("cropped", &["--random-crop"]);
    workshop.precomputed("again", &["--random-crop"]);
    same(&workshop.files("cropped"), &workshop.files("again"));
    let cropped = read("cropped");
    let other = plain
        .iter()
        .filter(|(name, content)| cropped[*name] != **content);
    let other: Vec<&String> = other.map(|(name, _)| name).collect();
    // Square pictures have one part only, and some draws are near the middle.
    assert!(
        other.len() > 8 && other.iter().all(|name| name.contains("latent-")),
        "{other:?}"
    );
    let mixed = workshop.precompute("plain", &["--flips"]).output().unwrap();
    fails(
        &mixed,
        &["other settings", "flips: expected false, found true"],
    );

    let recipe = workshop.path("latents.ron");
    fs::write(&recipe, RECIPE).unwrap();
    let train = |run: &str, data: &str, flip: &str, threads: &str| {
        let (run, shards) = (
            workshop.path(run),
            format!("data.shards={:?}", workshop.path(data)),
        );
        let sets = [&shards, "sampling.every=None", flip, threads];
        let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        let output = microdit(&[&["train", &recipe, "--run", &run], &sets[..]].concat());
        (run, output)
    };
    let weights = |run: &str, data: &str, flip: &str, threads: &str| {
        let (run, output) = train(run, data, flip, threads);
        assert!(output.status.success(), "{}", text(&output));
        // The recipe's hash beside them knows what data were named.
        let weights = StateDict::read(Path::new(&format!("{run}/weights.safetensors"))).unwrap();
        let values = weights
            .iter()
            .map(|(name, data)| (name.clone(), data.iter::<f32>().collect::<Vec<_>>()));
        values.collect::<BTreeMap<_, _>>()
    };
    let as_they_are = weights("a", "plain", "data.flip=false", "data.threads=1");
    assert!(as_they_are == weights("b", "both", "data.flip=false", "data.threads=2"));
    let flipped = weights("c", "both", "data.flip=true", "data.threads=1");
    assert!(flipped == weights("d", "both", "data.flip=true", "data.threads=3"));
    assert!(flipped != as_they_are);
    let (_, output) = train("e", "plain", "data.flip=true", "data.threads=1");
    fails(&output, &["no usable sample", "latent-32-flipped"]);
}

#[test]
fn pictures_are_varied_the_same_for_any_number_of_threads() {
    let workshop = Workshop::new();
    let shards = root().join("tests/goldens/wds_clean.tar");
    let shards = format!("data.shards={:?}", shards.to_string_lossy());
    let train = |run: &str, sets: &[&str]| {
        let run = workshop.path(run);
        let base = [
            "train",
            "recipes/quickstart.ron",
            "--run",
            &run,
            "--set",
            WEB_DATASET,
        ];
        let sets = [&[shards.as_str(), "evaluation=None"], sets].concat();
        let sets = sets.into_iter().flat_map(|set| ["--set", set]);
        let all: Vec<&str> = base.into_iter().chain(small()).chain(sets).collect();
        let output = microdit(&all);
        assert!(output.status.success(), "{}", text(&output));
        fs::read(format!("{run}/weights.safetensors")).unwrap()
    };
    let plain = train("plain", &[]);
    let mut met = vec![plain];
    for (i, sets) in [
        &["data.flip=true"][..],
        &["data.random_crop=true"],
        &["data.flip=true", "data.random_crop=true"],
    ]
    .into_iter()
    .enumerate()
    {
        let one = train(&format!("{i}-one"), &[sets, &["data.threads=1"]].concat());
        assert!(
            one == train(&format!("{i}-three"), &[sets, &["data.threads=3"]].concat()),
            "{sets:?}"
        );
        assert!(!met.contains(&one), "{sets:?}");
        met.push(one);
    }
}
