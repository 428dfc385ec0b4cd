//! The pictures that are shown in pairs.

use super::StudyError;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What every PNG begins with.
const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Chunks of a PNG that change how it looks (PNG, third edition, section 5.6); the others may tell where it comes from.
const SHOWN: [&[u8; 4]; 10] = [
    b"IHDR", b"PLTE", b"tRNS", b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"IDAT", b"IEND",
];

/// Bytes of all pictures of a page.
const MOST: u64 = 256 << 20;

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// Two pictures of one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What both were to show.
    pub prompt: String,
    /// The first side's, and the second's: PNGs without texts about themselves.
    pub pictures: [Vec<u8>; 2],
}

/// The pairs of a study: of each prompt the first `per_prompt` pictures in each folder. `prompt_of` reads what a picture says
/// of itself that it shows, if it says that.
///
/// Pictures are named `NNNNN_K.png`, by the numbers of prompt and picture, from 0; or, in a folder without such a name, by
/// their place, as `microdit sample --prompts FILE --count K --singles` names them, equally many for every prompt.
///
/// # Errors
/// Folders without such pictures, missing ones, those of other prompts, files that are no PNGs, and more than a page can hold.
///
/// # Panics
/// If there are no prompts, or none of their pictures are to be shown.
pub fn pairs(
    [a, b]: [&Path; 2],
    prompts: &[String],
    per_prompt: usize,
    prompt_of: impl Fn(&Path) -> Option<String>,
) -> Result<Vec<Pair>, StudyError> {
    let (a, b) = (
        files(a, prompts.len(), per_prompt)?,
        files(b, prompts.len(), per_prompt)?,
    );
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        let prompt = &prompts[i / per_prompt];
        for path in [a, b] {
            match prompt_of(path) {
                Some(found) if found.trim() != prompt => {
                    return Err(StudyError::OtherPrompt {
                        path: path.clone(),
                        found,
                        expected: prompt.clone(),
                    });
                }
                _ => {}
            }
        }
        let pictures = [picture(a)?, picture(b)?];
        bytes += pictures
            .iter()
            .map(|picture| picture.len() as u64)
            .sum::<u64>();
        if bytes > MOST {
            let (found, most) = (bytes / MIB, MOST / MIB);
            return Err(StudyError::TooLarge { found, most });
        }
        pairs.push(Pair {
            prompt: prompt.clone(),
            pictures,
        });
    }
    Ok(pairs)
}

/// The files in a folder, `per_prompt` for each prompt.
fn files(folder: &Path, prompts: usize, per_prompt: usize) -> Result<Vec<PathBuf>, StudyError> {
    let (mut by_prompt, mut by_place) = (false, 0);
    for entry in fs::read_dir(folder).map_err(StudyError::io(folder))? {
        let name = entry.map_err(StudyError::io(folder))?.file_name();
        let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(".png")) else {
            continue;
        };
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match stem.split_once('_') {
            Some((prompt, picture)) => by_prompt |= digits(prompt) && digits(picture),
            None => by_place += usize::from(digits(stem)),
        }
    }
    let each = match (by_prompt, by_place) {
        (true, _) => None,
        (false, 0) => return Err(StudyError::NoPictures(folder.to_owned())),
        (false, pictures) if !pictures.is_multiple_of(prompts) => {
            return Err(StudyError::Uneven {
                folder: folder.to_owned(),
                pictures,
                prompts,
            });
        }
        (false, pictures) => Some(pictures / prompts),
    };
    if let Some(found) = each.filter(|each| *each < per_prompt) {
        return Err(StudyError::TooFew {
            folder: folder.to_owned(),
            found,
            wanted: per_prompt,
        });
    }
    let mut files = Vec::with_capacity(prompts * per_prompt);
    for prompt in 0..prompts {
        for number in 0..per_prompt {
            let name = match each {
                None => format!("{prompt:05}_{number}.png"),
                Some(each) => format!("{:05}.png", prompt * each + number),
            };
            let path = folder.join(name);
            if !path.is_file() {
                return Err(StudyError::Missing {
                    path,
                    expected: format!(
                        "{per_prompt} pictures of each of {prompts} prompts are expected"
                    ),
                });
            }
            files.push(path);
        }
    }
    Ok(files)
}

/// A PNG, without what it says about itself.
fn picture(path: &Path) -> Result<Vec<u8>, StudyError> {
    let bytes = fs::read(path).map_err(StudyError::io(path))?;
    without_texts(&bytes).ok_or_else(|| StudyError::NotPng(path.to_owned()))
}

/// The chunks of a PNG that change how it looks; none if it is not a whole PNG.
fn without_texts(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut kept = SIGNATURE.to_vec();
    let mut rest = bytes.strip_prefix(SIGNATURE)?;
    loop {
        let (length, kind) = (rest.get(..4)?, rest.get(4..8)?);
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        // Length, kind and checksum, four bytes each.
        let chunk = rest.get(..length.checked_add(12)?)?;
        if SHOWN.iter().any(|shown| shown[..] == *kind) {
            kept.extend_from_slice(chunk);
        }
        if kind == b"IEND" {
            return Some(kept);
        }
        rest = &rest[chunk.len()..];
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Something with the chunks of a PNG.
    pub(in crate::study) fn png(pixel: u8) -> Vec<u8> {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let length = (data.len() as u32).to_be_bytes();
            [&length[..], kind, data, &[0; 4]].concat()
        };
        [
            SIGNATURE.to_vec(),
            chunk(b"IHDR", &[pixel; 13]),
            chunk(b"tEXt", b"weights\0deferred"),
            chunk(b"IDAT", &[pixel]),
            chunk(b"IEND", &[]),
        ]
        .concat()
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in names.iter().enumerate() {
            fs::write(folder.path().join(name), png(i as u8)).unwrap();
        }
        folder
    }

    fn found(a: &Path, b: &Path, per_prompt: usize) -> Result<Vec<(String, u8, u8)>, StudyError> {
        let prompts = ["a fox".to_owned(), "a hare".to_owned()];
        let pairs = pairs([a, b], &prompts, per_prompt, |_| None)?;
        // The pixel is the first byte of the first chunk's data.
        let pixel = |picture: &[u8]| picture[16];
        let told = |pair: Pair| {
            let [a, b] = pair.pictures.map(|picture| pixel(&picture));
            (pair.prompt, a, b)
        };
        Ok(pairs.into_iter().map(told).collect())
    }

    #[test]
    fn pictures_are_paired_by_prompt_and_number() {
        let named = folder(&[
            "00000_0.png",
            "00000_1.png",
            "00001_0.png",
            "00001_1.png",
            "samples.png",
        ]);
        let placed = folder(&[
            "00000.png",
            "00001.png",
            "00002.png",
            "00003.png",
            "00004.png",
            "00005.png",
        ]);
        let (named, placed) = (named.path(), placed.path());
        let told = found(named, placed, 2).unwrap();
        let expected = [
            ("a fox", 0, 0),
            ("a fox", 1, 1),
            ("a hare", 2, 3),
            ("a hare", 3, 4),
        ];
        let expected = expected.map(|(prompt, a, b)| (prompt.to_owned(), a, b));
        assert_eq!(told, expected);
        assert!(matches!(
            found(named, placed, 3),
            Err(StudyError::Missing { .. })
        ));
        assert!(matches!(
            found(placed, named, 4),
            Err(StudyError::TooFew { found: 3, .. })
        ));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let five = folder(&[
            "00000.png",
            "00001.png",
            "00002.png",
            "00003.png",
            "00004.png",
        ]);
        let empty = folder(&["cat.png"]);
        let five = five.path();
        assert!(matches!(
            found(five, five, 1),
            Err(StudyError::Uneven { pictures: 5, .. })
        ));
        assert!(matches!(
            found(empty.path(), five, 1),
            Err(StudyError::NoPictures(_))
        ));
        assert!(matches!(
            found(Path::new("no/such"), five, 1),
            Err(StudyError::Io { .. })
        ));
        let named = folder(&["00000_0.png", "00001_0.png"]);
        let prompts = ["a fox".to_owned(), "a hare".to_owned()];
        let all_foxes = |_: &Path| Some("a fox ".to_owned());
        let error = pairs([named.path(); 2], &prompts, 1, all_foxes).unwrap_err();
        assert!(
            matches!(&error, StudyError::OtherPrompt { path, .. } if path.ends_with("00001_0.png"))
        );
        let text = folder(&["00000_0.png", "00001_0.png"]);
        fs::write(text.path().join("00001_0.png"), "text").unwrap();
        assert!(matches!(
            found(text.path(), text.path(), 1),
            Err(StudyError::NotPng(_))
        ));
    }

    #[test]
    fn a_picture_does_not_say_where_it_comes_from() {
        let whole = png(7);
        let kept = without_texts(&whole).unwrap();
        let contains = |bytes: &[u8]| bytes.windows(8).any(|part| part == b"deferred");
        assert!(contains(&whole) && !contains(&kept));
        for torn in 0..whole.len() {
            assert_eq!(without_texts(&whole[..torn]), None, "{torn}");
        }
    }
}
