//! Recipes and `--set` that nobody means, and some that people do write: refused with the place and the reason.

use crate::common::{fails, microdit, root, text, train};
use microdit_train::Recipe;

/// The quickstart with `more`, as `recipe check` answers to it.
fn check(more: &[&str]) -> std::process::Output {
    let sets = more.iter().flat_map(|set| ["--set", set]);
    let words = ["recipe", "check", "recipes/quickstart.ron"];
    microdit(&words.into_iter().chain(sets).collect::<Vec<_>>())
}

#[test]
fn a_number_out_of_range_is_named_with_its_place() {
    for (set, parts) in [
        (
            "stages.unmasked.ema=[(decay: Smoothing(1.5))]",
            &[
                "--set stages.unmasked.ema=",
                "stages.unmasked.ema.0.decay",
                "below 1, not 1.5",
            ][..],
        ),
        (
            "optimizer.weight_decay=-1",
            &["stages.masked.optimizer.weight_decay: must be at least 0 and at most 1000, not -1"],
        ),
        (
            "diffusion.sigma_data=0",
            &["stages.masked.diffusion.sigma_data", "not 0"],
        ),
        (
            "model.dim=1099511627776",
            &["stages.masked.model.dim", "1048576"],
        ),
        (
            "batch=9223372036854775808",
            &["stages.masked.batch", "16777216"],
        ),
        (
            "stages.unmasked.steps=0",
            &["stages.unmasked.steps: must be at least 1"],
        ),
        (
            "stages.masked.steps=1e3",
            &["--set stages.masked.steps=1e3: "],
        ),
        ("seed=-1", &["--set seed=-1: "]),
        ("sampling.guidance=nan", &["guidance"]),
        (
            "sampling.schedule=Sigmas(sigma_min: 90)",
            &["sampling.schedule.sigma_min", "below sigma_max 80"],
        ),
        ("sampling.count=1000000", &["sampling.count", "8 prompts"]),
        (
            "stages.masked.schedule.curve=Cosine(warmup: 9, total: 8)",
            &["schedule.curve.total", "warmup 9"],
        ),
        ("model.patch_size=0", &["stages.masked.model.patch_size"]),
    ] {
        fails(&check(&[set]), parts);
    }
    // Where the file says it, the file is named.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.ron");
    let quickstart = std::fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap();
    let line = quickstart
        .lines()
        .position(|line| line.contains("sigma_data"))
        .unwrap()
        + 1;
    std::fs::write(
        &path,
        quickstart.replace("sigma_data: 0.5", "sigma_data: -inf"),
    )
    .unwrap();
    let place = format!("bad.ron:{line}");
    let path = path.to_string_lossy().into_owned();
    let parts = [
        place.as_str(),
        "stages.masked.diffusion.sigma_data",
        "not -inf",
    ];
    fails(&microdit(&["recipe", "check", &path]), &parts);
    fails(&microdit(&["plan", &path]), &parts);
    fails(&microdit(&["train", &path]), &parts);
}

#[test]
fn names_cannot_leave_the_directory_of_runs() {
    let long = "a".repeat(300);
    for name in [
        "../../x",
        "/tmp/x",
        "",
        "a/b",
        ".x",
        "a\u{1b}[31mb",
        "..",
        &long,
    ] {
        let set = format!("name={name:?}");
        fails(&check(&[&set]), &["name: a name is 1 to 100 letters"]);
        let set = format!("stages.masked.name={name:?}");
        fails(
            &check(&[&set]),
            &["stages.0.name: a name is 1 to 100 letters"],
        );
    }
    fails(&check(&["stages.0.name=a.b"]), &["stages.0.name"]);
    fails(
        &check(&["stages.0.name=unmasked"]),
        &["two stages have this name"],
    );
}

#[test]
fn hostile_text_is_an_error() {
    let deep_path = format!("{}=1", ["a"; 10_000].join("."));
    let deep_value = |open: &str| format!("seed={}", open.repeat(100_000 / open.len()));
    for set in [
        "=1",
        ".=1",
        "..=1",
        "a..b=1",
        "stages.99999999999999999999=1",
        "stages.2.steps=1",
        "seed",
        "seed=",
        "seed=+",
        "seed=0x",
        "seed=--5",
        "seed: 1, name=2",
        "batch=(((",
        "name=[",
        "model=7",
        "stages=()",
        "stages=7",
        "stages=[]",
        "data=None",
        &deep_path,
        &deep_value("["),
        &deep_value("("),
        &deep_value("a(b: "),
        &format!("seed={}", "9".repeat(100_000)),
    ] {
        let output = check(&[set]);
        fails(&output, &[]);
        assert_eq!(output.status.code(), Some(1), "{set}");
        assert!(text(&output).len() < 2000, "a message repeats all of it");
    }
    // An underscore and a sign do not make another number.
    assert!(check(&["seed=1_000"]).status.success());
}

#[test]
fn a_recipe_is_a_file_of_text_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let write = |name: &str, bytes: &[u8]| std::fs::write(path(name), bytes).unwrap();
    let quickstart = std::fs::read_to_string(root().join("recipes/quickstart.ron")).unwrap();
    write("mark.ron", format!("\u{feff}{quickstart}").as_bytes());
    assert!(
        microdit(&["recipe", "check", &path("mark.ron")])
            .status
            .success()
    );
    let wide: Vec<u8> = quickstart
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    write("wide.ron", &[&[0xff, 0xfe], &wide[..]].concat());
    write("latin.ron", b"(name: \"caf\xe9\")");
    write("self.ron", b"(extends: \"self.ron\")");
    write("a.ron", b"(extends: \"b.ron\")");
    write("b.ron", b"(extends: \"a.ron\")");
    write("folder.ron", b"(extends: \".\")");
    write("device.ron", b"(extends: \"/dev/zero\")");
    write("deep.ron", "(".repeat(1 << 19).as_bytes());
    write(
        "many.ron",
        (0..50_000)
            .map(|i| format!("k{i}:1,"))
            .collect::<String>()
            .replacen('k', "(k", 1)
            .as_bytes(),
    );
    let huge = std::fs::File::create(path("huge.ron")).unwrap();
    huge.set_len(1 << 30).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(path("pipe.ron"))
        .status();
    assert!(pipe.unwrap().success());
    for (name, part) in [
        ("wide.ron", "UTF-16"),
        ("latin.ron", "not UTF-8"),
        ("self.ron", "in a cycle"),
        ("a.ron", "in a cycle"),
        ("folder.ron", "not a regular file"),
        ("device.ron", "not a regular file"),
        ("pipe.ron", "not a regular file"),
        ("huge.ron", "too long"),
        ("deep.ron", "too deep"),
        ("many.ron", "more than 1000 keys"),
    ] {
        let begun = std::time::Instant::now();
        fails(&microdit(&["recipe", "check", &path(name)]), &[name, part]);
        assert!(begun.elapsed().as_secs() < 20, "{name}");
    }
}

#[test]
fn a_run_the_memory_cannot_hold_is_refused_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let more = [
        "--set",
        "model.dim=32768",
        "--set",
        "model.mixer=None",
        "--set",
        "stages.masked.masking=None",
    ];
    fails(
        &train(&run, &more),
        &["stage masked needs about", "GiB of memory"],
    );
    assert!(!run.exists());
}

/// `recipe check` prints a recipe that means the same.
#[test]
fn what_a_check_prints_is_what_a_run_uses() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.ron");
    let sets = [
        "data.shards=some where",
        "evaluation.shards=elsewhere",
        "stages.0.steps=7",
        "sampling.prompts=[\"a\"]",
    ];
    let recipe = "recipes/microdit-tiny2.ron";
    let words = sets.iter().flat_map(|set| ["--set", set]);
    let words: Vec<&str> = ["recipe", "check", recipe]
        .into_iter()
        .chain(words)
        .collect();
    let printed = microdit(&words);
    assert!(printed.status.success(), "{}", text(&printed));
    std::fs::write(&copy, &printed.stdout).unwrap();
    let again = Recipe::load(&copy, &[]).unwrap();
    let recipe = Recipe::load(&root().join(recipe), &sets.map(str::to_owned)).unwrap();
    assert_eq!((again.run, again.stages), (recipe.run, recipe.stages));
}
