//! Which members of a tar or columns of an MDS shard make a sample, and how they are read.

use super::{Members, pil};
use crate::{
    columns::{Columns, Names},
    image::{READ, UNREAD},
    mds::{MdsSample, MdsShard},
    sample::{Caption, Image, Sample, Stored},
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

/// A sample as named columns.
pub(super) trait Columnar {
    /// Whether its shard has such a column.
    fn has(&self, column: &str) -> bool;

    /// How the column is encoded: `jpeg`, `str`, `bytes`, `json`, ...; empty if that is not said.
    fn encoding(&self, column: &str) -> &str;

    /// Its content, if there is some.
    fn get(&self, column: &str) -> Option<Vec<u8>>;
}

impl Columnar for (&MdsShard, &MdsSample) {
    fn has(&self, column: &str) -> bool {
        self.0.columns().any(|name| name == column)
    }

    fn encoding(&self, column: &str) -> &str {
        self.0.encoding(column)
    }

    fn get(&self, column: &str) -> Option<Vec<u8>> {
        self.1.get(column).map(<[u8]>::to_vec)
    }
}

impl Members {
    /// Whether a column of that name may be part of a sample.
    pub(super) fn wants(&self, column: &str) -> bool {
        let of = |columns: &Columns| {
            let images = columns.image.or(&IMAGES);
            let mut names = images.chain(columns.captions_or(&CAPTIONS));
            names.any(|name| name == column)
        };
        match self {
            Self::Pictures => of(&Columns::default()),
            Self::Named(columns) => of(columns),
            Self::Latents { .. } => column.starts_with("latents_") || column.starts_with("caption"),
        }
    }

    /// The samples of the members of a tar: one, unless each of several captions makes one.
    pub(super) fn of_tar(&self, key: &str, part: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<Found> {
        let columns = match self {
            Self::Pictures => &Columns::default(),
            Self::Named(columns) => columns,
            Self::Latents {
                size,
                captions,
                flipped,
            } => {
                let npy = |name: &str| part(name).map(Stored::Npy);
                let latent = |name: String| (npy(&name), name);
                let own = latent(format!("latent-{size}.npy"));
                let flipped = flipped.then(|| latent(format!("latent-{size}-flipped.npy")));
                let states = |name: &str| (npy(&format!("{name}.npy")), format!("{name}.npy"));
                let captions = match &captions[..] {
                    [] => vec![(states("caption"), part("txt"))],
                    names => names
                        .iter()
                        .map(|name| format!("caption-{name}"))
                        .map(|name| (states(&name), part(&format!("{name}.txt"))))
                        .collect(),
                };
                return vec![latents(key, own, flipped, captions)];
            }
        };
        let image = columns.image.or(&IMAGES).find_map(&part);
        let image = image.ok_or("no image".into());
        let json = || Some(object(&part("json")?));
        if !columns.captions.is_empty() {
            let json = json().flatten().unwrap_or_default();
            let named = columns.captions.iter().enumerate().flat_map(|(i, name)| {
                let member = part(name).or_else(|| part(&format!("{name}.txt")));
                let found = match member {
                    Some(bytes) => vec![text(&bytes)],
                    None => of_json_value(json.get(name).cloned()),
                };
                found.into_iter().take(1).map(move |caption| (i, caption))
            });
            return vec![image.and_then(|image| {
                Sample::of_captions(key, Image::Encoded(image), named.collect())
            })];
        }
        let mut captions: Vec<Result<String, String>> = columns
            .caption
            .or(&CAPTIONS)
            .filter_map(&part)
            .map(|bytes| text(&bytes))
            .collect();
        // Where captions have an unusual name.
        if captions.is_empty() && columns.caption != Names::default() {
            let mut json = json().flatten().unwrap_or_default();
            let names = columns.caption.or(&CAPTIONS);
            captions = names
                .flat_map(|name| of_json_value(json.remove(name)))
                .collect();
        }
        pictures(key, image, captions, columns.every_caption)
    }

    /// The samples of the columns of an MDS shard or of a row of Parquet: one, unless each of several captions makes one.
    pub(super) fn of_columns(&self, key: &str, row: &impl Columnar) -> Vec<Found> {
        let part = |name: &str| row.get(name);
        let columns = match self {
            Self::Pictures => &Columns::default(),
            Self::Named(columns) => columns,
            Self::Latents {
                size,
                captions,
                flipped,
            } => {
                let halves = |name: String| (part(&name).map(Stored::Halves), name);
                let captions = match &captions[..] {
                    [] => vec![(halves("caption_latents".into()), part("caption"))],
                    names => names
                        .iter()
                        .map(|name| {
                            let text = part(&format!("caption_{name}"));
                            (halves(format!("caption_latents_{name}")), text)
                        })
                        .collect(),
                };
                let own = halves(format!("latents_{size}"));
                let flipped = flipped.then(|| halves(format!("latents_{size}_flipped")));
                return vec![latents(key, own, flipped, captions)];
            }
        };
        let there = |name: &&str| row.has(name);
        let image = columns.image.or(&IMAGES).find(there);
        let image = image.and_then(|name| Some(picture(row.encoding(name), part(name)?)));
        let image = image.unwrap_or_else(|| Err("no image".into()));
        let caption = |name: &str| -> Vec<Result<String, String>> {
            let Some(bytes) = part(name) else {
                return Vec::new();
            };
            match row.encoding(name) {
                "str" | "bytes" | "" => vec![text(&bytes)],
                "json" => of_json_value(serde_json::from_slice(&bytes).ok()),
                other => vec![Err(format!(
                    "a caption column encoded as {other}, which is not read; expected str, bytes or json"
                ))],
            }
        };
        if !columns.captions.is_empty() {
            let named = columns.captions.iter().enumerate();
            let named = named.flat_map(|(i, name)| {
                let first = caption(name).into_iter().take(1);
                first.map(move |caption| (i, caption))
            });
            return vec![image.and_then(|image| {
                Sample::of_captions(key, Image::Encoded(image), named.collect())
            })];
        }
        let names = columns.caption.or(&CAPTIONS).filter(there);
        let captions = names.flat_map(caption).collect();
        pictures(key, image, captions, columns.every_caption)
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Pictures => {
                "KEY.jpg (or .png, .webp, ...) and KEY.txt, or columns such as image and caption"
                    .into()
            }
            Self::Named(columns) if !columns.captions.is_empty() => {
                let image: Vec<&str> = columns.image.or(&["jpg"]).collect();
                let captions = columns.captions.join(" or ");
                format!("{}, and {captions} (.txt)", image.join(" or "))
            }
            Self::Named(columns) => {
                let [image, caption] = [columns.image.or(&["jpg"]), columns.caption.or(&["txt"])]
                    .map(|names| names.collect::<Vec<_>>().join(" or "));
                format!("{image}, and {caption}")
            }
            Self::Latents {
                size,
                captions,
                flipped,
            } => {
                let (states, columns) = match &captions[..] {
                    [] => (String::new(), String::new()),
                    [only] => (format!("-{only}"), format!("_{only}")),
                    names => {
                        let names = names.join(",");
                        (format!("-{{{names}}}"), format!("_{{{names}}}"))
                    }
                };
                let both = match flipped {
                    true => format!(" (and latent-{size}-flipped or latents_{size}_flipped)"),
                    false => String::new(),
                };
                format!(
                    "KEY.latent-{size}.npy and KEY.caption{states}.npy, or columns latents_{size} and caption_latents{columns}{both}"
                )
            }
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

/// What img2dataset writes beside a picture.
fn object(json: &[u8]) -> Option<serde_json::Map<String, serde_json::Value>> {
    let value = decode_text(json).ok();
    match value.and_then(|text| serde_json::from_str(&text).ok()) {
        Some(serde_json::Value::Object(object)) => Some(object),
        _ => None,
    }
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
        Ok(Sample::new(key, &caption?, Image::Encoded(image)))
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

/// An array, if it is there, and its name.
type Part = (Option<Stored>, String);

/// Latent and caption states, and the texts they were made of, if those were kept.
fn latents(
    key: &str,
    (latent, name): Part,
    flipped: Option<Part>,
    captions: Vec<(Part, Option<Vec<u8>>)>,
) -> Found {
    let latent = latent.ok_or_else(|| format!("no {name}"))?;
    let flipped = match flipped {
        Some((None, name)) => return Err(format!("no {name}")),
        Some((flipped, _)) => flipped,
        None => None,
    };
    let names: Vec<&str> = captions
        .iter()
        .map(|((_, name), _)| name.as_str())
        .collect();
    let missing = format!("no {}", names.join(" or "));
    let mut found = Vec::with_capacity(captions.len());
    for (named, ((states, _), text)) in captions.into_iter().enumerate() {
        let Some(states) = states else { continue };
        let text = text.unwrap_or_default();
        let text = decode_text(&text)
            .map_err(|error| format!("a caption that is not Unicode text: {error}"))?;
        found.push((named, text.trim().to_owned(), states));
    }
    let mut found = found.into_iter();
    let (named, text, caption) = found.next().ok_or(missing)?;
    let mut sample = Sample::new(key, &text, Image::Precomputed { latent, caption });
    (sample.named, sample.flipped) = (named, flipped);
    let other = |(named, text, states)| Caption {
        named,
        text,
        states: Some(states),
    };
    sample.others = found.map(other).collect();
    Ok(sample)
}
