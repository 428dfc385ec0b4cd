//! What a directory of latents was begun with, and which shard of it is made of which shard of pictures.

use super::{
    config::PrecomputeConfig,
    error::PrecomputeError,
    files::{remove, report_path, settings_path, tar_path},
    identity::{EncoderIdentity, Glance},
};
use microdit::{DitBackend, nn::Precision};
use microdit_data::{
    BucketConfig, DataError, DatasetIndex,
    files::{read_json, write_json},
};
use microdit_encoders::{text::TextEncoder, vae::Vae};
use serde::{Deserialize, Serialize};
use std::{io::ErrorKind, path::Path};

/// What the latents are made of: calls that share a directory must agree on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Settings {
    sizes: Vec<u32>,
    /// Sizes in place of squares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    buckets: Option<BucketConfig>,
    /// Whether any part of a picture was taken, and whether left and right are swapped in a second latent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    random_crop: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    flips: bool,
    /// Whether padding was trimmed off caption states: then they are another conditioning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    trimmed: bool,
    /// Names of several captions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    captions: Vec<String>,
    /// What the encoders computed in, unless it was f32.
    #[serde(default, skip_serializing_if = "is_f32")]
    precision: Precision,
    seed: u64,
    vae: EncoderIdentity,
    text_encoder: EncoderIdentity,
    /// Of a latent: channels, and pixels of the image's side per pixel of its own.
    latent_channels: usize,
    shrinks_by: usize,
    /// Of a caption.
    tokens: usize,
    caption_channels: usize,
    /// The shards read. The place of one is the number of what is made of it, and never changes: new ones are appended.
    pub(super) sources: Vec<Source>,
}

fn is_f32(precision: &Precision) -> bool {
    *precision == Precision::F32
}

/// A shard of pictures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Source {
    #[serde(flatten)]
    pub(super) glance: Glance,
    /// It was removed from the list since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removed: bool,
}

/// Whether a shard is a known source.
type Rule<'a> = dyn Fn(&Source, &Glance) -> bool + 'a;

impl Settings {
    pub(super) fn new<B: DitBackend>(
        sources: Vec<Glance>,
        config: &PrecomputeConfig,
        vae: &Vae<B>,
        text: &TextEncoder<B>,
    ) -> Self {
        let [vae_identity, text_identity] = config.encoders.clone();
        let source = |glance| Source {
            glance,
            removed: false,
        };
        Self {
            sizes: config.sizes.clone(),
            buckets: config.buckets.clone(),
            random_crop: config.random_crop,
            flips: config.flips,
            trimmed: config.trim_padding,
            captions: config.captions.clone(),
            precision: config.precision,
            seed: config.seed,
            vae: vae_identity,
            text_encoder: text_identity,
            latent_channels: vae.latent_channels(),
            shrinks_by: vae.shrinks_by(),
            tokens: text.tokens(),
            caption_channels: text.channels(),
            sources: sources.into_iter().map(source).collect(),
        }
    }

    pub(super) fn read(out: &Path) -> Result<Self, DataError> {
        let path = settings_path(out);
        read_json(&path).map_err(|error| {
            let message = format!(
                "{}; it is damaged, or of another version: choose another directory",
                error.reason()
            );
            DataError::unreadable(&path, &message)
        })
    }

    /// Stores these settings in `out`; they must not differ from those that are there. With `update`, the shards may:
    /// what was made of those that are gone is removed. The numbers of the shards, in their order.
    ///
    /// # Errors
    /// Other settings, other shards, and files that cannot be written.
    pub(super) fn settle(
        &self,
        out: &Path,
        rank: usize,
        update: bool,
    ) -> Result<Vec<usize>, PrecomputeError> {
        let path = settings_path(out);
        // Processes that begin at the same time must not write into each other's file, and one must be the first.
        let own = out.join(format!("precompute-{rank}.json"));
        if !path.is_file() {
            write_json(&own, self)?;
            match std::fs::hard_link(&own, &path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                // A file system without links.
                Err(_) => std::fs::rename(&own, &path).map_err(DataError::io(&path))?,
            }
            // Where it was renamed, there is none.
            let _ = std::fs::remove_file(&own);
        }
        let mut before = Self::read(out)?;
        if let Some(difference) = before.difference(self) {
            return Err(PrecomputeError::OtherSettings { path, difference });
        }
        let sources = self.sources.iter().map(|source| &source.glance);
        let Placed {
            numbers,
            difference,
            renamed,
        } = before.place(&sources.collect::<Vec<_>>());
        match difference {
            Some(difference) if !update => {
                return Err(PrecomputeError::OtherSources { path, difference });
            }
            // The index lists what there was.
            Some(_) => remove(&out.join(DatasetIndex::FILE))?,
            None if !renamed => return Ok(numbers),
            None => {}
        }
        write_json(&own, &before)?;
        std::fs::rename(&own, &path).map_err(DataError::io(&path))?;
        for (number, source) in before.sources.iter().enumerate() {
            if source.removed {
                remove(&report_path(out, number))?;
                remove(&tar_path(out, number))?;
            }
        }
        Ok(numbers)
    }

    /// The first setting that differs, the shards aside.
    fn difference(&self, now: &Self) -> Option<String> {
        let differs = |what: &str, before: String, now: String| {
            (before != now).then(|| format!("{what}: expected {before}, found {now}"))
        };
        let encoder = |encoder: &EncoderIdentity| {
            let checksum = encoder.sha256.get(..12).unwrap_or(&encoder.sha256);
            format!("{} with checksum {checksum}", encoder.name)
        };
        let mut differences = [
            differs(
                "sizes",
                format!("{:?}", self.sizes),
                format!("{:?}", now.sizes),
            ),
            differs(
                "captions",
                format!("{:?}", self.captions),
                format!("{:?}", now.captions),
            ),
            differs(
                "buckets",
                format!("{:?}", self.buckets),
                format!("{:?}", now.buckets),
            ),
            differs(
                "random crop",
                self.random_crop.to_string(),
                now.random_crop.to_string(),
            ),
            differs(
                "trimmed padding",
                self.trimmed.to_string(),
                now.trimmed.to_string(),
            ),
            differs(
                "precision",
                format!("{:?}", self.precision),
                format!("{:?}", now.precision),
            ),
            differs("tokens", self.tokens.to_string(), now.tokens.to_string()),
            differs("flips", self.flips.to_string(), now.flips.to_string()),
            differs("seed", self.seed.to_string(), now.seed.to_string()),
        ]
        .into_iter()
        .chain(
            [
                ("VAE", &self.vae, &now.vae),
                ("text encoder", &self.text_encoder, &now.text_encoder),
            ]
            .map(|(what, before, now)| {
                // Another name does not make another encoder.
                let other = before != now;
                other
                    .then(|| differs(what, encoder(before), encoder(now)))
                    .flatten()
            }),
        );
        differences.find_map(|difference| difference)
    }

    /// Finds each shard of `now` among the sources by its content, or else by its name, and appends those that are new.
    fn place(&mut self, now: &[&Glance]) -> Placed {
        let mut taken = vec![false; self.sources.len()];
        let mut numbers: Vec<Option<usize>> = vec![None; now.len()];
        let known = |glance: &Glance| !glance.fingerprint.is_empty();
        let same = |source: &Source, glance: &Glance| {
            known(glance) && source.glance.fingerprint == glance.fingerprint
        };
        let rules: [&Rule<'_>; 3] = [
            &|source, glance| same(source, glance) && source.glance.file == glance.file,
            &|source, glance| same(source, glance),
            &|source, glance| !source.removed && source.glance.file == glance.file,
        ];
        for rule in rules {
            for (number, &glance) in numbers.iter_mut().zip(now) {
                if number.is_none() {
                    *number =
                        (0..taken.len()).find(|&i| !taken[i] && rule(&self.sources[i], glance));
                    number.iter().for_each(|&i| taken[i] = true);
                }
            }
        }
        let mut differences = Vec::new();
        let mut renamed = false;
        for (number, &glance) in numbers.iter_mut().zip(now) {
            let removed = false;
            match *number {
                Some(i) => {
                    let source = &mut self.sources[i];
                    if !source.glance.agrees_with(glance) {
                        let (expected, found) = (&source.glance, glance);
                        differences.push(format!("expected {expected}; found {found}"));
                    } else if source.removed {
                        differences.push(format!("{}: it had been removed", glance.file));
                    }
                    if known(glance) {
                        renamed |= source.glance != *glance;
                        source.glance = glance.clone();
                    }
                    source.removed = removed;
                }
                None => {
                    differences.push(format!("{glance} is new"));
                    *number = Some(self.sources.len());
                    let glance = glance.clone();
                    self.sources.push(Source { glance, removed });
                }
            }
        }
        for (source, taken) in self.sources.iter_mut().zip(taken) {
            if !taken && !source.removed {
                differences.push(format!("{} is not among the shards", source.glance));
                source.removed = true;
            }
        }
        Placed {
            numbers: numbers.into_iter().flatten().collect(),
            difference: differences.into_iter().next(),
            renamed,
        }
    }
}

/// Places of shards among the sources.
struct Placed {
    numbers: Vec<usize>,
    /// The first shard that was added, replaced or removed.
    difference: Option<String>,
    /// One has another name, or could not be read before.
    renamed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glance(file: &str, fingerprint: &str) -> Glance {
        Glance {
            file: file.to_owned(),
            bytes: 1,
            fingerprint: fingerprint.to_owned(),
        }
    }

    fn settings(sources: &[(&str, &str)]) -> Settings {
        let encoder = |name: &str| EncoderIdentity {
            name: name.to_owned(),
            sha256: "0".into(),
        };
        let source = |&(file, fingerprint): &(&str, &str)| Source {
            glance: glance(file, fingerprint),
            removed: false,
        };
        Settings {
            sizes: vec![32],
            buckets: None,
            random_crop: false,
            flips: false,
            trimmed: false,
            captions: Vec::new(),
            precision: Precision::F32,
            seed: 1,
            vae: encoder("vae"),
            text_encoder: encoder("text"),
            latent_channels: 4,
            shrinks_by: 8,
            tokens: 77,
            caption_channels: 64,
            sources: sources.iter().map(source).collect(),
        }
    }

    #[test]
    fn latents_of_another_precision_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut now = settings(&[("0.tar", "a")]);
        now.settle(folder.path(), 0, false).unwrap();
        // As directories were begun before there was a choice.
        let text = std::fs::read_to_string(settings_path(folder.path())).unwrap();
        assert!(!text.contains("precision"), "{text}");
        now.precision = Precision::Bf16;
        let error = now.settle(folder.path(), 0, false).unwrap_err().to_string();
        assert!(
            error.contains("precision: expected F32, found Bf16"),
            "{error}"
        );
    }

    #[test]
    fn shards_keep_their_numbers_when_others_come_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        let settle = |sources: &[(&str, &str)], update| {
            let settled = settings(sources).settle(out, 0, update);
            settled.map_err(|error| error.to_string())
        };
        let refused = |sources: &[(&str, &str)], part: &str| {
            let error = settle(sources, false).unwrap_err();
            assert!(
                error.contains(part) && error.contains("other shards"),
                "{error}"
            );
        };
        let begun = [("0.tar", "a"), ("1.tar", "b"), ("2.tar", "c")];
        assert_eq!(settle(&begun, false).unwrap(), [0, 1, 2]);
        // In another order, and under other names.
        let moved = [("x.tar", "c"), ("0.tar", "a"), ("1.tar", "b")];
        assert_eq!(settle(&moved, false).unwrap(), [2, 0, 1]);
        assert_eq!(settle(&begun, false).unwrap(), [0, 1, 2]);
        // Another one of that name.
        let replaced = [("0.tar", "a"), ("1.tar", "B"), ("2.tar", "c")];
        refused(&replaced, "expected 1.tar of 1 bytes");
        assert_eq!(settle(&replaced, true).unwrap(), [0, 1, 2]);
        assert_eq!(settle(&replaced, false).unwrap(), [0, 1, 2]);
        // Taken out: what was made of it goes, and so does the index.
        for name in [
            "000001.tar",
            "000001.json",
            "000002.tar",
            DatasetIndex::FILE,
        ] {
            std::fs::write(out.join(name), "").unwrap();
        }
        let fewer = [("0.tar", "a"), ("2.tar", "c")];
        refused(
            &fewer,
            "1.tar of 1 bytes, fingerprint unknown is not among the shards",
        );
        assert_eq!(settle(&fewer, true).unwrap(), [0, 2]);
        for (name, stays) in [
            ("000001.tar", false),
            ("000001.json", false),
            ("000002.tar", true),
            (DatasetIndex::FILE, false),
        ] {
            assert_eq!(out.join(name).exists(), stays, "{name}");
        }
        // A new one, under the name of the one that is gone, and that one again.
        let more = [
            ("0.tar", "a"),
            ("1.tar", "d"),
            ("2.tar", "c"),
            ("3.tar", "B"),
        ];
        refused(&more, "1.tar of 1 bytes");
        assert_eq!(settle(&more, true).unwrap(), [0, 3, 2, 1]);
        // Two with one name are distinguished.
        let two = [
            ("0.tar", "a"),
            ("1.tar", "d"),
            ("2.tar", "c"),
            ("3.tar", "B"),
            ("0.tar", "e"),
        ];
        assert_eq!(settle(&two, true).unwrap(), [0, 3, 2, 1, 4]);
        assert_eq!(settle(&two[1..], true).unwrap(), [3, 2, 1, 4]);
        // One that cannot be read at the moment.
        let blind = [
            ("1.tar", "d"),
            ("2.tar", ""),
            ("3.tar", "B"),
            ("0.tar", "e"),
        ];
        assert_eq!(settle(&blind, false).unwrap(), [3, 2, 1, 4]);
        assert_eq!(settle(&two[1..], false).unwrap(), [3, 2, 1, 4]);
    }

    #[test]
    fn processes_that_begin_at_once_agree() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path();
            let outcomes: Vec<bool> = std::thread::scope(|scope| {
                let begin = |rank: usize| {
                    // Half of them have other shards.
                    let content = if rank.is_multiple_of(2) { "a" } else { "b" };
                    scope.spawn(move || {
                        settings(&[("0.tar", content)])
                            .settle(out, rank, false)
                            .is_ok()
                    })
                };
                let ranks: Vec<_> = (0..6).map(begin).collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            let (even, odd): (Vec<_>, Vec<_>) = (0..6).partition(|rank| rank % 2 == 0);
            let all = |ranks: &[usize], done| ranks.iter().all(|&rank| outcomes[rank] == done);
            assert!(
                (all(&even, true) && all(&odd, false)) || (all(&even, false) && all(&odd, true)),
                "{outcomes:?}"
            );
            assert_eq!(out.read_dir().unwrap().count(), 1);
        }
    }

    #[test]
    fn other_settings_are_named() {
        let before = settings(&[]);
        let mut now = settings(&[]);
        assert_eq!(before.difference(&now), None);
        now.vae.name = "elsewhere".into();
        assert_eq!(before.difference(&now), None);
        now.vae.sha256 = "1".into();
        let expected = "VAE: expected vae with checksum 0, found elsewhere with checksum 1";
        assert_eq!(before.difference(&now).as_deref(), Some(expected));
        now.seed = 2;
        let expected = "seed: expected 1, found 2";
        assert_eq!(before.difference(&now).as_deref(), Some(expected));
    }
}
