//! Published models from the Hugging Face hub, into the cache all its programs share.
//!
//! `HF_HOME` names the cache's directory, `HF_ENDPOINT` a mirror, `HF_TOKEN` the reader of private models,
//! `HF_HUB_DOWNLOAD_TIMEOUT` the seconds a server may be silent, and with `HF_HUB_OFFLINE=1` nothing is downloaded.

mod cache;
mod client;
mod download;

use cache::{Cache, is_plain};
use client::Client;
use download::download;
use std::{
    io,
    path::{Path, PathBuf},
};

/// A model that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Its repository on the hub.
    pub repository: &'static str,
    /// The files it consists of.
    pub files: &'static [&'static str],
}

/// Files of a model diffusers saved.
const DIFFUSERS: &[&str] = &["config.json", "diffusion_pytorch_model.safetensors"];

/// Models with a name of their own.
pub const PUBLISHED: &[Published] = &[
    Published {
        name: "sdxl-vae",
        about: "VAE of SDXL, 4 channels: the latents of MicroDiT",
        repository: "stabilityai/sdxl-vae",
        files: DIFFUSERS,
    },
    Published {
        name: "taesdxl",
        about: "tiny autoencoder for SDXL's latents",
        repository: "madebyollin/taesdxl",
        files: DIFFUSERS,
    },
    Published {
        name: "vae-16ch",
        about: "VAE with 16 channels",
        repository: "ostris/vae-kl-f8-d16",
        files: DIFFUSERS,
    },
    Published {
        name: "dfn-clip-h14",
        about: "CLIP ViT-H/14 trained on DFN-5B: the captions of MicroDiT",
        repository: "apple/DFN5B-CLIP-ViT-H-14-378",
        files: &["open_clip_config.json", "open_clip_pytorch_model.bin"],
    },
    Published {
        name: "clip-l14",
        about: "CLIP ViT-L/14 of OpenAI",
        repository: "openai/clip-vit-large-patch14",
        files: &["config.json", "model.safetensors", "tokenizer_config.json"],
    },
    Published {
        name: "microdit-xl2",
        about: "MicroDiT XL/2, 512 px, trained on 37 million real and synthetic images",
        repository: "VSehwag24/MicroDiT",
        files: &["ckpts/dit_4_channel_37M_real_and_synthetic_data.pt"],
    },
];

/// A model that is not in the cache, or cannot be downloaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a path nor a name.
    #[error("{name}: no such file or directory, and no published model; known are {}", PUBLISHED.iter().map(|model| model.name).collect::<Vec<_>>().join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// A published model that has not been fetched.
    #[error("{name} is not on this machine; get it with: microdit fetch {name}")]
    NotFetched {
        /// What was asked for.
        name: String,
    },
    /// Offline, and something is missing.
    #[error("{repository}/{file} is not in the cache, and HF_HUB_OFFLINE forbids to download it")]
    Offline {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
    },
    /// What was asked for cannot be the name of a model or a file.
    #[error("`{name}` is no {expected}")]
    NoName {
        /// What was asked for.
        name: String,
        /// What was expected.
        expected: &'static str,
    },
    /// No directory for the cache is known.
    #[error("no directory for the cache: neither HF_HOME nor the user's own directory is known")]
    NoHome,
    /// Another process downloads the same file.
    #[error("another process is downloading the same file, which it locks by {}; wait for it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The hub does not answer, or answers wrongly.
    #[error(
        "{repository}/{file} could not be fetched: {error}; what has arrived is kept, run the command again to go on"
    )]
    Download {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// What went wrong.
        error: String,
    },
    /// The download does not match its checksum.
    #[error(
        "{repository}/{file} has arrived damaged: its checksum is {found}, the hub says {expected}; it was removed, run the command again"
    )]
    Damaged {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// The checksum of the hub.
        expected: String,
        /// That of the file.
        found: String,
    },
    /// The cache could not be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        error: io::Error,
    },
}

/// The model asked for as `name`.
pub fn published(name: &str) -> Option<&'static Published> {
    PUBLISHED.iter().find(|model| model.name == name)
}

/// The path `name` means: itself if it exists, or else a published model in the cache: its directory, or its file if it
/// consists of one.
///
/// # Errors
/// If there is neither.
pub fn locate(name: &Path) -> Result<PathBuf, HubError> {
    if name.exists() {
        return Ok(name.to_owned());
    }
    let name = name.to_string_lossy().into_owned();
    let Some(model) = published(&name) else {
        return Err(HubError::Unknown { name });
    };
    let cached = Cache::from_env()?.model(model.repository);
    let files: Option<Vec<PathBuf>> = model.files.iter().map(|file| cached.get(file)).collect();
    let files = files.ok_or(HubError::NotFetched { name })?;
    Ok(model.place(&files))
}

impl Published {
    /// Where it lies, given its files.
    fn place(&self, files: &[PathBuf]) -> PathBuf {
        match files {
            [file] => file.clone(),
            // Files are listed with those of the directory itself first.
            _ => files[0].parent().unwrap_or(&files[0]).to_owned(),
        }
    }
}

/// What a download reports.
pub trait Report {
    /// A file of so many bytes begins.
    fn begin(&mut self, file: &str, bytes: u64);
    /// So many bytes have come, or were there already.
    fn advance(&mut self, bytes: u64);
}

/// Downloads `files` of a repository unless they are in the cache, verifies each against the hub's checksum, and returns
/// where they lie. A download that breaks off is taken up again, at once or by the next call.
///
/// # Errors
/// An unreachable hub, a missing file, a file that arrives damaged.
pub fn fetch(
    repository: &str,
    files: &[&str],
    report: &mut impl Report,
) -> Result<Vec<PathBuf>, HubError> {
    let plain = |part: &str| is_plain(part) && !part.contains('/');
    if repository.split('/').count() > 2 || !repository.split('/').all(plain) {
        return Err(HubError::NoName {
            name: repository.to_owned(),
            expected: "model of the hub, which is called OWNER/NAME",
        });
    }
    let cache = Cache::from_env()?;
    let cached = cache.model(repository);
    let offline =
        std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let client = Client::from_env(&cache);
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
        if !is_plain(file) {
            return Err(HubError::NoName {
                name: (*file).to_owned(),
                expected: "path within a model",
            });
        }
        if let Some(path) = cached.get(file) {
            paths.push(path);
            continue;
        }
        if offline {
            return Err(HubError::Offline {
                repository: repository.to_owned(),
                file: (*file).to_owned(),
            });
        }
        paths.push(download(&client, &cached, repository, file, report)?);
    }
    Ok(paths)
}

impl HubError {
    /// An operating system's error at `path`.
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}
