//! Collected pictures as people have them: turned, transparent, cut, in other formats, under other names. `tests/faults/collected` holds
//! small inputs made with Pillow, PyArrow, mosaicml-streaming and tarfile.

use crate::common::{microdit, root, text};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What became of a folder of collected pictures.
struct Prepared {
    folder: tempfile::TempDir,
    said: String,
    /// By their names in the shards.
    members: BTreeMap<String, Vec<u8>>,
}

impl Prepared {
    /// Runs `microdit data prepare` with a card of this layout and these other lines.
    fn of(source: &Path, card: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("card.ron");
        let text_of_card = format!(
            "(name: \"t\", source: \"s\", license: \"l\", size: \"z\", get: \"g\", {card})"
        );
        fs::write(&path, text_of_card).unwrap();
        let out = folder.path().join("out");
        let arguments = [
            "data",
            "prepare",
            &path.to_string_lossy(),
            "--source",
            &source.to_string_lossy(),
            "--out",
        ];
        let output = microdit(&[&arguments[..], &[&out.to_string_lossy()]].concat());
        let said = text(&output);
        assert!(!said.contains("panicked"), "{said}");
        let mut members = BTreeMap::new();
        for entry in fs::read_dir(&out).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "tar") {
                for member in tar::Archive::new(fs::File::open(path).unwrap())
                    .entries()
                    .unwrap()
                {
                    let mut member = member.unwrap();
                    let name = member.path().unwrap().to_string_lossy().into_owned();
                    let mut content = Vec::new();
                    std::io::Read::read_to_end(&mut member, &mut content).unwrap();
                    members.insert(name, content);
                }
            }
        }
        Self {
            folder,
            said,
            members,
        }
    }

    /// The pictures in the order of their names, decoded by another reader than ours.
    fn pictures(&self) -> Vec<image::RgbImage> {
        let pictures = self
            .members
            .iter()
            .filter(|(name, _)| !name.ends_with(".txt"));
        pictures
            .map(|(_, file)| image::load_from_memory(file).unwrap().into_rgb8())
            .collect()
    }

    fn captions(&self) -> Vec<&str> {
        let texts = self
            .members
            .iter()
            .filter(|(name, _)| name.ends_with(".txt"));
        texts
            .map(|(_, text)| std::str::from_utf8(text).unwrap())
            .collect()
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.said.contains(part), "no `{part}` in: {}", self.said);
        }
    }
}

fn collected(name: &str) -> PathBuf {
    root().join("tests/faults/collected").join(name)
}

const FOLDER: &str = "layout: Folder(())";

#[test]
fn half_a_picture_is_left_out() {
    let prepared = Prepared::of(&collected("03_half_jpeg"), FOLDER);
    prepared.says(&["an image file that is truncated"]);
    assert!(prepared.members.is_empty());
}

#[test]
fn pictures_are_stored_upright_or_with_their_orientation() {
    // 16 x 32 pixels as people see it, stored on its side.
    let source = collected("04_exif");
    let whole = image::open(source.join("a.jpg")).unwrap();
    let kept = Prepared::of(&source, FOLDER);
    // Kept as it is, with the note that turns it.
    assert_eq!(
        kept.pictures()[0].dimensions(),
        (whole.width(), whole.height())
    );
    let said = microdit(&[
        "data",
        "inspect",
        &kept.folder.path().join("out").to_string_lossy(),
    ]);
    let upright = format!("{} x {} (1)", whole.height(), whole.width());
    assert!(text(&said).contains(&upright), "{}", text(&said));
    // Shrunk, it is turned once and for all.
    let side = whole.width().min(whole.height()) / 2;
    let shrunk = Prepared::of(&source, &format!("{FOLDER}, max_side: {side}"));
    let (width, height) = shrunk.pictures()[0].dimensions();
    assert_eq!((width < height), (whole.height() < whole.width()));
    let said = microdit(&[
        "data",
        "inspect",
        &shrunk.folder.path().join("out").to_string_lossy(),
    ]);
    assert!(
        text(&said).contains(&format!("{width} x {height} (1)")),
        "{}",
        text(&said)
    );
}

#[test]
fn transparent_pictures_get_a_background() {
    let source = collected("13_alpha");
    for (card, background) in [
        (FOLDER.to_owned(), [255; 3]),
        (
            format!("{FOLDER}, background: (9, 80, 7), store: Png"),
            [9, 80, 7],
        ),
    ] {
        let picture = &Prepared::of(&source, &card).pictures()[0];
        let counted = picture
            .pixels()
            .filter(|pixel| pixel.0 == background)
            .count();
        assert!(
            counted > 0 && counted < picture.pixels().count(),
            "{counted} of {background:?}"
        );
    }
}

#[test]
fn bad_rows_and_odd_paths_cost_nothing_else() {
    let prepared = Prepared::of(&collected("06_null/jsonl"), FOLDER);
    prepared.says(&["2 samples", "no caption"]);
    let card = "layout: Folder((image: \"img_path\", caption: \"prompt\"))";
    let prepared = Prepared::of(&collected("07_paths/journeydb"), card);
    assert_eq!(
        prepared.captions(),
        ["a castle on a hill at dawn"],
        "{}",
        prepared.said
    );
}

#[test]
fn captions_are_unicode_text_or_left_out() {
    let prepared = Prepared::of(&collected("08_encoding/t.tar"), "layout: Shards");
    prepared.says(&["a caption that is not Unicode text"]);
    for caption in prepared.captions() {
        assert!(!caption.contains(['\u{fffd}', '\0']), "{caption:?}");
    }
    assert_eq!(prepared.pictures().len(), 1, "{}", prepared.said);
    let prepared = Prepared::of(&collected("08_encoding/bom"), FOLDER);
    assert_eq!(prepared.captions().len(), 1, "{}", prepared.said);
}

#[test]
fn shards_of_streaming_are_read_whatever_their_columns_are_called() {
    for (name, more) in [
        ("reference", ""),
        ("pil", ""),
        (
            "reference",
            ", columns: (image: \"jpg\", caption: [\"none\", \"caption\"])",
        ),
    ] {
        let prepared = Prepared::of(
            &collected("09_mds").join(name),
            &format!("layout: Shards{more}"),
        );
        prepared.says(&["2 samples"]);
        assert_eq!(prepared.pictures().len(), 2, "{name}");
    }
    let named = Prepared::of(
        &collected("09_mds/reference"),
        "layout: Shards, columns: (image: \"width\")",
    );
    named.says(&["an image column encoded as int32, which is not read"]);
}

#[test]
fn formats_are_read_or_named() {
    let prepared = Prepared::of(&collected("10_formats/ignored"), FOLDER);
    prepared.says(&[
        "4 samples",
        "an image file in AVIF, which is not read; convert it to JPEG, PNG or WebP",
    ]);
    assert_eq!(prepared.pictures().len(), 4);
    let narrow = collected("10_formats/narrow");
    let prepared = Prepared::of(&narrow, FOLDER);
    prepared.says(&["an image with one side more than 64 times the other (limits.max_aspect)"]);
    let prepared = Prepared::of(&narrow, &format!("{FOLDER}, limits: (max_aspect: 100.0)"));
    prepared.says(&["1 samples"]);
    // What a card lets through is read by everything that reads shards.
    let said = text(&microdit(&[
        "data",
        "inspect",
        &prepared.folder.path().join("out").to_string_lossy(),
    ]));
    assert!(said.contains("1280 x 16 (1)"), "{said}");
}

#[test]
fn tables_of_any_compression_are_read() {
    let prepared = Prepared::of(&collected("14_zstd"), FOLDER);
    prepared.says(&["1 samples"]);
}

#[test]
fn numbers_of_cards_have_ranges() {
    for (card, expected) in [
        (
            "limits: (max_aspect: 0.5)",
            "limits.max_aspect is 0.5; expected 1",
        ),
        ("limits: (max_side: 0)", "limits.max_side is 0"),
        (
            "limits: (max_pixels: 99999999999)",
            "limits.max_pixels is 99999999999",
        ),
        (
            "filters: (max_aspect: -1.0)",
            "filters.max_aspect is -1; expected at least 1",
        ),
        (
            "filters: (caption_length: (5, 1))",
            "filters.caption_length is (5, 1)",
        ),
        ("store: Jpeg(0)", "quality of 0; expected 1 to 100"),
        ("max_side: 0", "max_side is 0; expected at least 1"),
        ("background: (0, 0, 256)", "out of bounds"),
    ] {
        let prepared = Prepared::of(&collected("14_zstd"), &format!("{FOLDER}, {card}"));
        prepared.says(&[expected]);
        assert!(
            !prepared.folder.path().join("out").exists(),
            "{card}: it leaves a trace"
        );
    }
}
