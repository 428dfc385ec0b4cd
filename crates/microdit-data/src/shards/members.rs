//! Which members of a tar or columns of an MDS shard make a sample, and how they are read.

use super::{Members, pil};
use crate::{
    columns::{Columns, Names},
    image::{READ, UNREAD},
    mds::MdsShard,
    sample::{Image, Sample, Stored},
    text::decode_text,
};
use std::sync::LazyLock;

/// Members and columns of captions that are looked for, in this order.
const CAPTIONS: [&str; 6] = [
    "txt",
    "caption",
    "text",
    "captions",
    "prompt",
    "description",
];

/// Members and columns of pictures that are looked for, in this order: formats that are not read come last.
static IMAGES: LazyLock<Vec<&str>> = LazyLock::new(|| {
    READ.into_iter()
        .chain(["img", "picture"])
        .chain(UNREAD)
        .collect()
});

/// A sample, or what is missing from it.
type Found = Result<Sample, String>;

impl Members {
    /// The samples of the members of a tar: one, unless it has several captions.
    pub(super) fn of_tar(&self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<Found> {
        let columns = match self {
            Self::Pictures => &Columns::default(),
            Self::Named(columns) => columns,
            Self::Latents { size } => {
                let name = format!("latent-{size}.npy");
                let arrays = [part(&name), part("caption.npy")].map(|array| array.map(Stored::Npy));
                return vec![latents(key, arrays, [&name, "caption.npy"], part("txt"))];
            }
        };
        let image = columns.image.or(&IMAGES).find_map(&part);
        let mut captions: Vec<Result<String, String>> = columns
            .caption
            .or(&CAPTIONS)
            .filter_map(&part)
            .map(|bytes| text(&bytes))
            .collect();
        // Where captions have an unusual name.
        if captions.is_empty() && columns.caption != Names::default() {
            captions = part("json")
                .map(|json| of_json(&json, columns))
                .unwrap_or_default();
        }
        pictures(
            key,
            image.ok_or("no image".into()),
            captions,
            columns.every_caption,
        )
    }

    /// The samples of the columns of an MDS shard: one, unless it has several captions.
    pub(super) fn of_mds(
        &self,
        key: &str,
        shard: &MdsShard,
        part: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Vec<Found> {
        let columns = match self {
            Self::Pictures => &Columns::default(),
            Self::Named(columns) => columns,
            Self::Latents { size } => {
                let name = format!("latents_{size}");
                let arrays =
                    [part(&name), part("caption_latents")].map(|array| array.map(Stored::Halves));
                return vec![latents(
                    key,
                    arrays,
                    [&name, "caption_latents"],
                    part("caption"),
                )];
            }
        };
        let there = |name: &&str| shard.columns().any(|column| column == *name);
        let image = columns.image.or(&IMAGES).find(there);
        let image = image.and_then(|name| Some(picture(shard.encoding(name), part(name)?)));
        let mut captions = Vec::new();
        for name in columns.caption.or(&CAPTIONS).filter(there) {
            let Some(bytes) = part(name) else { continue };
            match shard.encoding(name) {
                "str" | "bytes" | "" => captions.push(text(&bytes)),
                "json" => captions.extend(of_json_value(serde_json::from_slice(&bytes).ok())),
                other => captions.push(Err(format!(
                    "a caption column encoded as {other}, which is not read; expected str, bytes or json"
                ))),
            }
        }
        pictures(
            key,
            image.unwrap_or_else(|| Err("no image".into())),
            captions,
            columns.every_caption,
        )
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Pictures => {
                "KEY.jpg (or .png, .webp, ...) and KEY.txt, or columns such as image and caption"
                    .into()
            }
            Self::Named(columns) => {
                let [image, caption] = [columns.image.or(&["jpg"]), columns.caption.or(&["txt"])]
                    .map(|names| names.collect::<Vec<_>>().join(" or "));
                format!("{image}, and {caption}")
            }
            Self::Latents { size } => format!(
                "KEY.latent-{size}.npy and KEY.caption.npy, or columns latents_{size} and caption_latents"
            ),
        }
    }
}

/// The file of a picture in a column of that encoding.
fn picture(encoding: &str, column: Vec<u8>) -> Result<Vec<u8>, String> {
    match encoding {
        "jpeg" | "jpegarray" | "jpeg_array" | "png" | "bytes" | "" => Ok(column),
        "pil" => pil::to_tiff(&column),
        other => Err(format!(
            "an image column encoded as {other}, which is not read; expected jpeg, png, pil or bytes"
        )),
    }
}

fn text(bytes: &[u8]) -> Result<String, String> {
    match decode_text(bytes) {
        Ok(text) if text.trim().is_empty() => Err("an empty caption".into()),
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(format!("a caption that is not Unicode text: {error}")),
    }
}

/// Captions in what img2dataset writes beside a picture.
fn of_json(json: &[u8], columns: &Columns) -> Vec<Result<String, String>> {
    let value = decode_text(json)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    let Some(serde_json::Value::Object(mut object)) = value else {
        return Vec::new();
    };
    let names = columns.caption.or(&CAPTIONS);
    names
        .flat_map(|name| of_json_value(object.remove(name)))
        .collect()
}

fn of_json_value(value: Option<serde_json::Value>) -> Vec<Result<String, String>> {
    use serde_json::Value;
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(caption)) => vec![text(caption.as_bytes())],
        Some(Value::Array(values)) => {
            let one = |value: Value| match value {
                Value::String(caption) => text(caption.as_bytes()),
                _ => Err("a caption that is not text".into()),
            };
            values.into_iter().map(one).collect()
        }
        Some(_) => vec![Err("a caption that is not text".into())],
    }
}

/// A picture with its first caption, or with each.
fn pictures(
    key: &str,
    image: Result<Vec<u8>, String>,
    captions: Vec<Result<String, String>>,
    every: bool,
) -> Vec<Found> {
    let image = match image {
        Ok(image) => image,
        Err(lack) => return vec![Err(lack)],
    };
    let count = if every {
        captions.len()
    } else {
        captions.len().min(1)
    };
    let sample = |caption: Result<String, String>, image: Vec<u8>| -> Found {
        Ok(Sample {
            key: key.to_owned(),
            caption: caption?,
            image: Image::Encoded(image),
            damage: None,
        })
    };
    let mut captions: Vec<_> = captions.into_iter().take(count).collect();
    let last = captions.pop().unwrap_or_else(|| Err("no caption".into()));
    let mut found: Vec<Found> = captions
        .into_iter()
        .map(|caption| sample(caption, image.clone()))
        .collect();
    found.push(sample(last, image));
    found
}

/// Latent and caption states, and the text they were made of, if it was kept.
fn latents(
    key: &str,
    arrays: [Option<Stored>; 2],
    names: [&str; 2],
    text: Option<Vec<u8>>,
) -> Found {
    let [latent, caption] = arrays;
    let missing = |i: usize| move || format!("no {}", names[i]);
    let image = Image::Precomputed {
        latent: latent.ok_or_else(missing(0))?,
        caption: caption.ok_or_else(missing(1))?,
    };
    let text = text.unwrap_or_default();
    let text = decode_text(&text)
        .map_err(|error| format!("a caption that is not Unicode text: {error}"))?;
    Ok(Sample {
        key: key.to_owned(),
        caption: text.trim().to_owned(),
        image,
        damage: None,
    })
}
