use super::*;
use microdit_encoders::save_picture;

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
    path.join(name).to_string_lossy().into_owned()
}

fn names(set: &PictureSet) -> (Vec<(String, Option<String>)>, LeftOut) {
    let mut found = Vec::new();
    let left_out = set.for_each(|picture| {
        found.push((picture.name, picture.caption));
        Ok(true)
    });
    (found, left_out.unwrap())
}

#[test]
fn shards_give_their_captions_and_count_what_they_lack() {
    let open = |name, limit| PictureSet::open(&golden(name), limit).unwrap();
    let counts = [
        ("wds_clean.tar", 100),
        ("wds_clean.tar", 5),
        ("wds_dirty.tar", 100),
    ];
    let counts = counts.map(|(name, limit)| open(name, limit).len());
    assert_eq!(counts, [16, 5, 13]);
    let (clean, left_out) = names(&open("wds_clean.tar", 100));
    assert_eq!((clean.len(), left_out.total()), (16, 0));
    assert!(clean.iter().all(|(_, caption)| caption.is_some()));
    let (first, _) = names(&open("wds_clean.tar", 5));
    assert_eq!(first, clean[..5]);
    // Three samples lack a part; what cannot be decoded is found later.
    let (dirty, left_out) = names(&open("wds_dirty.tar", 100));
    assert_eq!((dirty.len(), left_out.total()), (13, 3));
}

#[test]
fn a_limit_that_leaves_nothing_out_makes_no_other_set() {
    let shards = golden("wds_clean.tar");
    let folder = tempfile::tempdir().unwrap();
    for i in 0..16 {
        let image = RgbImage::from_pixel(4, 4, image::Rgb([i; 3]));
        image
            .save(folder.path().join(format!("{i:02}.png")))
            .unwrap();
    }
    for spec in [&*shards, &folder.path().to_string_lossy()] {
        let open = |limit| PictureSet::open(spec, limit).unwrap();
        let identity = |limit| open(limit).identity();
        assert_eq!(open(u64::MAX).len(), 16);
        assert_eq!(identity(16), identity(u64::MAX));
        assert_eq!(identity(17), identity(16));
        assert_ne!(identity(15), identity(16));
    }
}

#[test]
fn shapes_are_generated_beyond_those_trained_on() {
    let (found, _) = names(&PictureSet::of_shapes(16, 3).unwrap());
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].0, format!("shapes-0-{MAX_IMAGES}"));
    assert!(found[0].1.as_deref().unwrap().contains(" on a "));
    let identity = |size, limit| PictureSet::of_shapes(size, limit).unwrap().identity();
    assert_ne!(identity(16, 3), identity(32, 3));
    assert_ne!(identity(16, 3), identity(16, 4));
}

#[test]
fn a_folder_is_its_contents() {
    let folder = tempfile::tempdir().unwrap();
    let paint = |name: &str, color: u8| {
        let image = RgbImage::from_pixel(4, 4, image::Rgb([color; 3]));
        let path = folder.path().join(name);
        let label = [("prompt", format!("gray {color}"))];
        save_picture(&image, &path, &label).unwrap();
    };
    let open = |limit| PictureSet::open(&folder.path().to_string_lossy(), limit);
    assert!(matches!(open(9), Err(EvaluateError::NoPictures { .. })));
    paint("b.png", 1);
    paint("c.png", 2);
    let set = open(9).unwrap();
    let (found, _) = names(&set);
    assert_eq!(found[0].1.as_deref(), Some("gray 1"));
    assert_eq!(set.len(), 2);
    // Other names in the same order are the same set; another picture or fewer of them are not.
    std::fs::rename(folder.path().join("b.png"), folder.path().join("a.png")).unwrap();
    assert_eq!(open(9).unwrap().identity(), set.identity());
    assert_ne!(open(1).unwrap().identity(), set.identity());
    paint("c.png", 3);
    assert_ne!(open(9).unwrap().identity(), set.identity());
}
#[test]
fn pictures_as_geneval_has_them_are_captioned_by_its_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let object =
        |prompt: &str| format!(r#"{{"tag": "colors", "include": [], "prompt": "{prompt}"}}"#);
    for (i, count) in [2, 10, 1].into_iter().enumerate() {
        let of_prompt = folder.path().join(format!("{i:05}"));
        std::fs::create_dir_all(of_prompt.join("samples")).unwrap();
        std::fs::write(
            of_prompt.join("metadata.jsonl"),
            object(&format!("fox {i}")),
        )
        .unwrap();
        let paint = |name: &str| {
            let image = RgbImage::from_pixel(4, 4, image::Rgb([i as u8; 3]));
            image.save(of_prompt.join(name)).unwrap();
        };
        (0..count).for_each(|j| paint(&format!("samples/{j:04}.png")));
        // As GenEval's own script writes one; it is no sample.
        paint("grid.png");
    }
    let open = || PictureSet::open(&folder.path().to_string_lossy(), u64::MAX);
    let (found, _) = names(&open().unwrap());
    let captions: Vec<&str> = found
        .iter()
        .map(|(_, caption)| caption.as_deref().unwrap())
        .collect();
    assert_eq!(
        captions,
        [&["fox 0"; 2][..], &["fox 1"; 10], &["fox 2"]].concat()
    );
    let (last, _) = &found[12];
    assert!(last.ends_with("00002/samples/0000.png"), "{last}");
    // What is missing is said, not measured around.
    std::fs::remove_file(folder.path().join("00001/metadata.jsonl")).unwrap();
    let error = open().unwrap_err().to_string();
    assert!(error.contains("00001/metadata.jsonl"), "{error}");
}
