//! Published models from the Hugging Face hub, into the cache all its programs share.
//!
//! `HF_HOME` names the cache's directory, `HF_ENDPOINT` a mirror, `HF_TOKEN` the reader of private models, and with
//! `HF_HUB_OFFLINE=1` nothing is downloaded.

use hf_hub::{
    Cache, Repo,
    api::{
        Progress,
        sync::{Api, ApiBuilder, ApiError, ApiRepo},
    },
};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
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

/// A model that is not here, or cannot be had.
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
    /// The hub does not answer, or not as it should.
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
    /// What has arrived is not what was sent.
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
    let cache = cache()?.model(model.repository.to_owned());
    let files: Option<Vec<PathBuf>> = model.files.iter().map(|file| cache.get(file)).collect();
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
    fn begin(&mut self, file: &str, bytes: usize);
    /// So many bytes have come, or were there already.
    fn advance(&mut self, bytes: usize);
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
    let cache = cache()?;
    let cached = cache.model(repository.to_owned());
    let offline =
        std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    let mut api: Option<Api> = None;
    let mut paths = Vec::with_capacity(files.len());
    for file in files {
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
        let failed = |error: String| HubError::Download {
            repository: repository.to_owned(),
            file: (*file).to_owned(),
            error,
        };
        let api = match &mut api {
            Some(api) => api,
            none => none.insert(connect(&cache).map_err(|error| failed(error.to_string()))?),
        };
        let blobs = cache
            .path()
            .join(Repo::model(repository.to_owned()).folder_name())
            .join("blobs");
        let path = download(&api.model(repository.to_owned()), file, &blobs, report);
        let path = path.map_err(failed)?;
        verify(repository, file, &path)?;
        paths.push(path);
    }
    Ok(paths)
}

/// The cache, by an absolute path, as its library needs it.
fn cache() -> Result<Cache, HubError> {
    let cache = Cache::from_env();
    let path = cache.path().clone();
    let absolute = std::path::absolute(&path).map_err(|error| HubError::Io { path, error })?;
    Ok(Cache::new(absolute))
}

fn connect(cache: &Cache) -> Result<Api, ApiError> {
    let token = std::env::var("HF_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let token = token.or_else(|| cache.token());
    let api = ApiBuilder::from_env();
    api.with_cache_dir(cache.path().clone())
        .with_token(token)
        .with_progress(false)
        .build()
}

/// Breaks without a new byte between them after which a download is given up.
const MAX_BREAKS: u32 = 4;

/// Downloads a file; where the connection breaks, from where it broke.
fn download(
    repository: &ApiRepo,
    file: &str,
    blobs: &Path,
    report: &mut impl Report,
) -> Result<PathBuf, String> {
    let mut breaks = 0;
    loop {
        let before = arrived(blobs);
        let error = match repository.download_with_progress(file, Forward(report)) {
            Ok(path) => return Ok(path),
            Err(error) => error.to_string(),
        };
        breaks = if arrived(blobs) > before {
            1
        } else {
            breaks + 1
        };
        // Nothing is left to send of a part that is whole: the process ended before it was named. It is not verified, so it
        // is fetched once more.
        let whole = error.contains("http status: 416");
        if whole {
            parts(blobs).for_each(|(path, _)| drop(std::fs::remove_file(path)));
        }
        // An answer is final, a broken connection is not.
        let answered = !whole && error.contains("http status: 4");
        if breaks > MAX_BREAKS || answered {
            return Err(error);
        }
        thread::sleep(Duration::from_millis(200 << breaks));
    }
}

/// Bytes of unfinished downloads.
fn arrived(blobs: &Path) -> u64 {
    parts(blobs).map(|(_, bytes)| bytes).sum()
}

/// Unfinished downloads and their lengths.
fn parts(blobs: &Path) -> impl Iterator<Item = (PathBuf, u64)> {
    let entries = blobs.read_dir().into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with("part"));
    parts.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?.len())))
}

/// Hands the library's reports on.
struct Forward<'a, R>(&'a mut R);

impl<R: Report> Progress for Forward<'_, R> {
    fn init(&mut self, size: usize, file: &str) {
        self.0.begin(file, size);
    }
    fn update(&mut self, size: usize) {
        self.0.advance(size);
    }
    fn finish(&mut self) {}
}

/// Compares a file with its name among the cache's blobs, which is its checksum: SHA-256 of large files, git's SHA-1 of
/// small ones. A damaged file is removed.
fn verify(repository: &str, file: &str, path: &Path) -> Result<(), HubError> {
    let io = |error| HubError::Io {
        path: path.to_owned(),
        error,
    };
    let blob = path.canonicalize().map_err(io)?;
    let expected = blob
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let hexadecimal = expected.chars().all(|c| c.is_ascii_hexdigit());
    let found = match expected.len() {
        64 if hexadecimal => hash(Sha256::new(), &blob).map_err(io)?,
        40 if hexadecimal => {
            let length = blob.metadata().map_err(io)?.len();
            let header = format!("blob {length}\0");
            hash(Sha1::new_with_prefix(header), &blob).map_err(io)?
        }
        // A mirror's own marks say nothing about the content.
        _ => return Ok(()),
    };
    if found == expected {
        return Ok(());
    }
    for damaged in [path, &blob] {
        std::fs::remove_file(damaged).map_err(io)?;
    }
    Err(HubError::Damaged {
        repository: repository.to_owned(),
        file: file.to_owned(),
        expected,
        found,
    })
}

fn hash<D: Digest + io::Write>(mut digest: D, path: &Path) -> io::Result<String> {
    io::copy(&mut File::open(path)?, &mut digest)?;
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
