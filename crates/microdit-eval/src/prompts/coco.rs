//! A fixed subset of COCO's captions (arXiv 1405.0312), so that two people draw the same 30,000 pictures.
//!
//! Of `captions_val2014.json` (202,654 captions of 40,504 images):
//!
//! 1. The caption of an image is the one with the smallest `id`.
//! 2. Images are ordered by the SHA-256 of their `id` as decimal text, such as `391895`.
//! 3. The first 30,000 are taken; for fewer pictures, the first of them.
//!
//! The usual "COCO-30K" is 30,000 captions that were drawn at random from the same file, by a seed that is seldom told: papers
//! from DM-GAN on (arXiv 1904.01310) draw one of the five captions of each image that was drawn, others draw captions, so
//! that an image may occur twice. Of the images of such a list three in four are in this one too, a fifth of those with the same
//! caption. FID on this list therefore agrees with theirs up to what another draw of 30,000 changes.

use super::{Prompt, PromptsError};
use microdit::checksum::hexadecimal;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read as _},
    path::Path,
};

/// Pictures that FID on COCO is computed with.
pub const COUNT: usize = 30_000;

/// Bytes of the largest file; the published one has 32 MB, that of the training images 67 MB.
const LARGEST: u64 = 256 << 20;

/// The part of the file that is read; all else is passed over.
#[derive(Deserialize)]
struct Captions {
    annotations: Vec<Annotation>,
}

#[derive(Deserialize)]
struct Annotation {
    id: u64,
    image_id: u64,
    caption: String,
}

/// The first `count` captions of the order that is defined above.
///
/// # Errors
/// A file that cannot be read, is not COCO's captions or has captions of fewer images.
pub(super) fn read(path: &Path, count: usize) -> Result<Vec<Prompt>, PromptsError> {
    let wrong = |message: String| PromptsError::file(path, message);
    let file = File::open(path).map_err(PromptsError::io(path))?;
    let length = file.metadata().map_err(PromptsError::io(path))?.len();
    if length > LARGEST {
        let message =
            format!("it has {length} bytes; expected captions_val2014.json, and at most {LARGEST}");
        return Err(wrong(message));
    }
    // A file that grows, or a device, is not read for ever either.
    let captions: Captions =
        serde_json::from_reader(BufReader::new(file.take(LARGEST))).map_err(|error| {
            wrong(format!(
                "it is not COCO's captions ({error}); expected an object with `annotations`"
            ))
        })?;
    let mut ids = BTreeSet::new();
    let mut of_images = BTreeMap::<u64, Annotation>::new();
    for annotation in captions.annotations {
        let (id, image) = (annotation.id, annotation.image_id);
        if !ids.insert(id) {
            return Err(wrong(format!("two captions have the id {id}")));
        }
        if annotation.caption.trim().is_empty() {
            return Err(wrong(format!("the caption of id {id} is empty")));
        }
        match of_images.get(&image) {
            Some(first) if first.id < id => {}
            _ => drop(of_images.insert(image, annotation)),
        }
    }
    if of_images.len() < count || count == 0 {
        let images = of_images.len();
        return Err(wrong(format!(
            "it has captions of {images} images; {count} were asked for"
        )));
    }
    let mut ordered: Vec<([u8; 32], Annotation)> = of_images
        .into_values()
        .map(|first| (Sha256::digest(first.image_id.to_string()).into(), first))
        .collect();
    ordered.sort_unstable_by_key(|(digest, _)| *digest);
    let prompts = ordered.into_iter().take(count).map(|(_, first)| Prompt {
        text: first.caption.trim().to_owned(),
        category: String::new(),
        metadata: json!({"id": first.id, "image_id": first.image_id}).to_string(),
    });
    Ok(prompts.collect())
}

/// SHA-256 of prompts, each followed by a line's end: what two people compare to know that theirs are the same.
pub fn checksum(prompts: &[Prompt]) -> String {
    let mut digest = Sha256::new();
    for prompt in prompts {
        digest.update(&prompt.text);
        digest.update(b"\n");
    }
    hexadecimal(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::{Suite, tests::error};

    /// A file of captions `(id, image, caption)`, in the layout of the published one.
    fn file(captions: &[(u64, u64, &str)]) -> String {
        let annotations: Vec<_> = captions
            .iter()
            .map(|(id, image, caption)| json!({"image_id": image, "id": id, "caption": caption}))
            .collect();
        json!({
            "info": {"year": 2014},
            "images": [{"file_name": "COCO_val2014_000000000001.jpg", "id": 1}],
            "licenses": [],
            "type": "captions",
            "annotations": annotations,
        })
        .to_string()
    }

    fn read(text: &str, count: usize) -> Vec<Prompt> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("captions_val2014.json");
        std::fs::write(&path, text).unwrap();
        Suite::Coco(count).read(&path).unwrap()
    }

    /// `printf %s 1 | sha256sum` begins with 6b86, of 2 with d473, of 3 with 4e07 and of 42 with 7347.
    #[test]
    fn the_subset_is_the_one_that_is_defined() {
        let captions = [
            (7, 1, "one, later"),
            (5, 1, " one \n"),
            (9, 2, "two"),
            (6, 3, "three"),
            (1, 42, "three"),
            (2, 42, "forty-two"),
        ];
        let texts = |prompts: &[Prompt]| -> Vec<String> {
            prompts.iter().map(|prompt| prompt.text.clone()).collect()
        };
        let all = read(&file(&captions), 4);
        assert_eq!(texts(&all), ["three", "one", "three", "two"]);
        assert_eq!(all[1].metadata, r#"{"id":5,"image_id":1}"#);
        // Whatever the order in the file, and however many are asked for.
        let mut turned = captions;
        turned.reverse();
        assert_eq!(read(&file(&turned), 4), all);
        assert_eq!(read(&file(&turned), 2), all[..2]);
        // printf 'three\none\n' | sha256sum
        assert_eq!(
            checksum(&all[..2]),
            "b575b146bfbf4015785d1c849878830576b1ebc945fe9c31441c3b08cd99815b"
        );
    }

    #[test]
    fn other_files_are_said_to_be_others() {
        for (text, part) in [
            ("[]".to_owned(), "it is not COCO's captions"),
            (r#"{"images": []}"#.into(), "missing field `annotations`"),
            (
                r#"{"annotations": [{"id": 1}]}"#.into(),
                "missing field `image_id`",
            ),
            (
                r#"{"annotations": [{"id": -1, "image_id": 1, "caption": "a"}]}"#.into(),
                "it is not COCO's captions",
            ),
            (
                file(&[(1, 1, "a"), (1, 2, "b")]),
                "two captions have the id 1",
            ),
            (file(&[(1, 1, "\t")]), "the caption of id 1 is empty"),
            (
                file(&[(1, 1, "a")])[..100].to_owned(),
                "it is not COCO's captions",
            ),
            (
                file(&[(1, 1, "a"), (2, 1, "b")]),
                "it has captions of 1 images; 2 were asked for",
            ),
        ] {
            let error = error(Suite::Coco(2), text.as_bytes());
            assert!(error.contains(part), "expected `{part}`: {error}");
        }
    }
}
