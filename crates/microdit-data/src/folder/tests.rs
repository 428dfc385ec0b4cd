//! Directories and tables with everything that can be wrong with one of their rows.

mod parquet;

use super::*;
use crate::columns::Names;

/// A file that is not decoded here, only found.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Key and caption of a sample, or key and what it lacks.
type Found = (String, Result<String, String>);

struct Case {
    folder: tempfile::TempDir,
}

impl Case {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let case = Self { folder };
        for (name, content) in files {
            case.write(name, content);
        }
        case
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Every sample.
    fn samples(&self, columns: Columns) -> Result<Vec<Found>, DataError> {
        let mut samples = Vec::new();
        Folder::open(self.folder.path(), None, columns)?.for_each(|key, sample| {
            samples.push((key.to_owned(), sample.map(|sample| sample.caption)));
            Ok(true)
        })?;
        Ok(samples)
    }

    fn found(&self) -> Vec<Found> {
        self.samples(Columns::default()).unwrap()
    }
}

fn ok(samples: &[(String, Result<String, String>)]) -> Vec<(&str, &str)> {
    let sound = samples
        .iter()
        .filter_map(|(key, caption)| Some((key.as_str(), caption.as_deref().ok()?)));
    sound.collect()
}

/// Asserts that what samples lack begins as expected, at these places.
fn lacks(samples: &[(String, Result<String, String>)], expected: &[(&str, &str)]) {
    let found: Vec<(&str, &str)> = samples
        .iter()
        .filter_map(|(place, caption)| Some((place.as_str(), caption.as_ref().err()?.as_str())))
        .collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((place, lack), (expected_place, expected)) in found.iter().zip(expected) {
        assert!(
            place.contains(expected_place) && lack.starts_with(expected),
            "{place}: {lack}; expected {expected}"
        );
    }
}

#[test]
fn a_bad_row_of_json_costs_one_sample() {
    let lines: &[&[u8]] = &[
        br#"{"file_name": "a.png", "text": "one"}"#,
        br#"{"file_name": "a.png", "text": null}"#,
        br#"{"file_name": "a.png"}"#,
        br#"{"file_name": "a.png", "text": 7}"#,
        br#"{"file_name": "a.png", "text": {"en": "x"}}"#,
        br#"{"file_name": null, "text": "x"}"#,
        br#"{"text": "x"}"#,
        br#"{"file_name": true, "text": "x"}"#,
        br#"{"file_name": "", "text": "x"}"#,
        br#"{"file_name": "missing.png", "text": "x"}"#,
        br#"{"file_name": "a.png", "text": "#,
        br#"["a.png", "x"]"#,
        b"{\"file_name\": \"a.png\", \"text\": \"caf\xe9\"}",
        b"  ",
        br#"{"file_name": "a.png", "text": ["two", "three", null, 4]}"#,
        br#"{"file_name": "a.png", "text": []}"#,
        br#"{"file_name": 42, "text": "a number"}"#,
        b"{\"file_name\": \"a.png\", \"text\": \"last\"}\r",
    ];
    let case = Case::new(&[
        ("a.png", PICTURE),
        ("000000000042.jpg", PICTURE),
        ("captions.jsonl", &lines.join(&b'\n')),
    ]);
    let found = case.found();
    let number = ("000000000042.jpg", "a number");
    assert_eq!(
        ok(&found),
        [
            ("a.png", "one"),
            ("a.png", "two"),
            ("a.png", "three"),
            number,
            ("a.png", "last")
        ]
    );
    lacks(
        &found,
        &[
            ("captions.jsonl, line 2", "no caption"),
            ("captions.jsonl, line 3", "no caption"),
            ("line 4", "a caption that is not text: the number 7"),
            ("line 5", "a caption that is not text: an object"),
            ("line 6", "no image"),
            ("line 7", "no image"),
            ("line 8", "an image path that is not text: true or false"),
            ("line 9", "no image"),
            ("line 10", "no image: "),
            ("line 11", "a row that is not JSON: "),
            ("line 12", "a row that is not a JSON object"),
            (
                "line 13",
                "a row that is not Unicode text: not UTF-8 (byte 0xE9 at 35; Windows-1252?)",
            ),
            ("line 15", "no caption"),
            ("line 15", "a caption that is not text: the number 4"),
            ("line 16", "no caption"),
        ],
    );
}

#[test]
fn a_bad_row_of_csv_costs_one_sample() {
    let table = b"file_name,text\na.png,one\na.png\na.png,two,three\na.png,\n,x\na.png,caf\xe9\n\"a.png\",\"four\n, five\"\n";
    for mark in [&b""[..], b"\xef\xbb\xbf"] {
        let case = Case::new(&[
            ("a.png", PICTURE),
            ("captions.csv", &[mark, table].concat()),
        ]);
        let found = case.found();
        assert_eq!(ok(&found), [("a.png", "one"), ("a.png", "four\n, five")]);
        lacks(
            &found,
            &[
                (
                    "captions.csv, line 3",
                    "a row with another number of columns",
                ),
                ("line 4", "a row with another number of columns"),
                ("line 5", "no caption"),
                ("line 6", "no image"),
                ("line 7", "a caption that is not Unicode text"),
            ],
        );
    }
    // An unclosed quote takes no more memory than a row may.
    let mut endless = b"file_name,text\na.png,one\na.png,\"".to_vec();
    endless.resize(40 << 20, b'x');
    let case = Case::new(&[("a.png", PICTURE), ("captions.csv", &endless)]);
    let error = case.samples(Columns::default()).unwrap_err().to_string();
    assert!(error.contains("a quote not closed"), "{error}");
}

#[test]
fn tables_in_unicode_are_read() {
    let text = "{\"file_name\": \"a.png\", \"text\": \"лиса 🦊\"}\n{\"file_name\": \"a.png\", \"text\": \"fox\"}\n";
    let wide = |to_bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        std::iter::once(0xfeff)
            .chain(text.encode_utf16())
            .flat_map(to_bytes)
            .collect()
    };
    for table in [
        text.as_bytes().to_vec(),
        [b"\xef\xbb\xbf", text.as_bytes()].concat(),
        wide(u16::to_le_bytes),
        wide(u16::to_be_bytes),
    ] {
        let case = Case::new(&[("a.png", PICTURE), ("captions.jsonl", &table)]);
        assert_eq!(ok(&case.found()), [("a.png", "лиса 🦊"), ("a.png", "fox")]);
    }
}

#[test]
fn a_row_too_long_is_passed_over() {
    let mut table = b"{\"file_name\": \"a.png\", \"text\": \"".to_vec();
    table.resize(40 << 20, b'x');
    table.extend(b"\"}\n{\"file_name\": \"a.png\", \"text\": \"fox\"}");
    let case = Case::new(&[("a.png", PICTURE), ("captions.jsonl", &table)]);
    let found = case.found();
    assert_eq!(ok(&found), [("a.png", "fox")]);
    lacks(&found, &[("line 1", "a row that is too long")]);
}

#[test]
fn columns_have_names() {
    let table = br#"{"pic": "a.png", "short": "s", "long": "l"}"#;
    let case = Case::new(&[("a.png", PICTURE), ("captions.jsonl", table)]);
    let error = case.samples(Columns::default()).unwrap_err().to_string();
    for part in [
        "captions.jsonl",
        "no column of pictures",
        "file_name or image",
        "found long, pic, short",
    ] {
        assert!(error.contains(part), "{error}");
    }
    let columns = |caption: Names, every_caption| Columns {
        image: Names::from(["pic"]),
        caption,
        every_caption,
        ..Columns::default()
    };
    let found = case
        .samples(columns(["short", "long"].into(), false))
        .unwrap();
    assert_eq!(ok(&found), [("a.png", "s")]);
    let found = case
        .samples(columns(["none", "long"].into(), false))
        .unwrap();
    assert_eq!(ok(&found), [("a.png", "l")]);
    let found = case
        .samples(columns(["short", "long"].into(), true))
        .unwrap();
    assert_eq!(ok(&found), [("a.png", "s"), ("a.png", "l")]);
    let error = case
        .samples(columns(["none"].into(), false))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no column of captions; expected none"),
        "{error}"
    );
    // The same for a table with a header row.
    let case = Case::new(&[("a.png", PICTURE), ("captions.csv", b"id,words\na.png,x\n")]);
    let error = case.samples(Columns::default()).unwrap_err().to_string();
    assert!(error.contains("found id, words"), "{error}");
}

#[test]
fn paths_in_tables_mean_what_they_say() {
    let case = Case::new(&[
        ("d/a.png", PICTURE),
        ("%41.png", PICTURE),
        ("x:y.png", PICTURE),
        ("7.webp", PICTURE),
        ("{0..3}.png", PICTURE),
    ]);
    let root = case.folder.path();
    let whole = root.join("d/a.png").to_string_lossy().into_owned();
    for (path, expected) in [
        ("d/a.png", "d/a.png"),
        ("./d/a.png", "d/a.png"),
        ("d//a.png", "d/a.png"),
        ("d/./a.png", "d/a.png"),
        ("d/../d/a.png", "d/a.png"),
        ("e/../d/a.png", "d/a.png"),
        ("d\\a.png", "d/a.png"),
        (".\\d\\a.png", "d/a.png"),
        (&whole, "d/a.png"),
        ("%41.png", "%41.png"),
        ("x:y.png", "x:y.png"),
        ("{0..3}.png", "{0..3}.png"),
        ("7", "7.webp"),
    ] {
        let found = paths::resolve(root, path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(found, root.join(expected), "{path}");
        assert!(found.is_file());
    }
    for path in [
        "..",
        "../a.png",
        "d/../../a.png",
        "..\\a.png",
        "/etc/passwd",
        "/",
        "./../d/a.png",
    ] {
        let error = paths::resolve(root, path).unwrap_err();
        assert!(
            error.contains("leads out of the directory: "),
            "{path}: {error}"
        );
    }
}

#[test]
fn captions_beside_pictures_are_unicode_text() {
    let case = Case::new(&[
        ("a.png", PICTURE),
        ("a.txt", b"\xef\xbb\xbfa fox\n"),
        ("b.JPG", PICTURE),
        ("b.txt", b"\xff\xfea\0 \0f\0o\0x\0"),
        ("c.png", PICTURE),
        ("c.txt", b"caf\xe9"),
        ("d.png", PICTURE),
        ("e/f.gif", PICTURE),
        ("e/f.txt", b"deeper"),
    ]);
    let found = case.found();
    assert_eq!(
        ok(&found),
        [
            ("a.png", "a fox"),
            ("b.JPG", "a fox"),
            ("e/f.gif", "deeper")
        ]
    );
    lacks(
        &found,
        &[
            (
                "c.png",
                "a caption that is not Unicode text: not UTF-8 (byte 0xE9 at 3; Windows-1252?)",
            ),
            ("d.png", "no caption"),
        ],
    );
}

#[test]
fn whatever_looks_like_a_picture_is_met() {
    let case = Case::new(&[
        ("a.avif", b"\0\0\0\x1cftypavif"),
        ("b.jfif", PICTURE),
        ("c", PICTURE),
        ("d.jpg_large", PICTURE),
        ("e.HEIC", b"x"),
        ("f.bin", b"something else"),
        ("g.md", b"# About"),
        ("h.json", b"{}"),
    ]);
    let keys: Vec<String> = case.found().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a.avif", "b.jfif", "c", "d.jpg_large", "e.HEIC"]);
}

#[cfg(unix)]
#[test]
fn links_and_pipes_do_no_harm() {
    use std::os::unix::fs::symlink;
    let case = Case::new(&[("d/a.png", PICTURE), ("d/a.txt", b"a fox")]);
    let root = case.folder.path();
    let outside = Case::new(&[("b.png", PICTURE), ("b.txt", b"outside")]);
    symlink(root, root.join("d/parent")).unwrap();
    symlink(root.join("d"), root.join("aaa")).unwrap();
    symlink(outside.folder.path(), root.join("elsewhere")).unwrap();
    symlink(root.join("nowhere"), root.join("dangling.png")).unwrap();
    symlink("/dev/zero", root.join("endless.png")).unwrap();
    for name in ["pipe.png", "pipe"] {
        assert!(
            std::process::Command::new("mkfifo")
                .arg(root.join(name))
                .status()
                .unwrap()
                .success()
        );
    }
    let found = case.found();
    assert_eq!(
        ok(&found),
        [("d/a.png", "a fox"), ("elsewhere/b.png", "outside")]
    );
    lacks(
        &found,
        &[
            ("dangling.png", "no caption"),
            ("endless.png", "no caption"),
            ("pipe.png", "no caption"),
        ],
    );
    // Nor where a table names them.
    let lines = ["dangling.png", "endless.png", "pipe.png"]
        .map(|name| format!("{{\"file_name\": \"{name}\", \"text\": \"x\"}}\n"));
    case.write("captions.jsonl", lines.concat().as_bytes());
    lacks(
        &case.found(),
        &[
            ("dangling.png", "no image: "),
            ("endless.png", "an image file that cannot be read: "),
            ("pipe.png", "an image file that cannot be read: "),
        ],
    );
}
