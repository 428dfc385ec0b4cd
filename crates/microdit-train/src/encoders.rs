//! The frozen networks a run's pictures need, opened on demand.

use crate::{
    error::{EncoderKind, TrainError},
    precompute::EncoderIdentity,
    recipe::EncoderConfig,
};
use microdit::DitBackend;
use microdit_encoders::{hub::locate, text::TextEncoder, vae::Vae};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

/// A VAE and a text encoder, if they are there.
#[derive(Clone, Debug)]
pub struct Encoders<B: DitBackend> {
    vae: Option<Arc<Vae<B>>>,
    text: Option<Arc<TextEncoder<B>>>,
    /// What they were opened as.
    names: EncoderConfig,
    vae_files: Option<Arc<Files>>,
    text_files: Option<Arc<Files>>,
}

/// Where text encoders lie in pipelines.
const TEXT_ENCODER: &str = "text_encoder";

/// What an encoder was read from.
#[derive(Debug)]
struct Files {
    path: PathBuf,
    /// Where it lies in a pipeline.
    nested: &'static str,
    /// What they hold, once somebody asked for it: they are large.
    content: OnceLock<String>,
}

impl Files {
    fn of(path: PathBuf, nested: &'static str) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            path,
            nested,
            content: OnceLock::new(),
        }))
    }

    fn content(&self) -> Result<String, TrainError> {
        if let Some(content) = self.content.get() {
            return Ok(content.clone());
        }
        tracing::info!(
            "reading {}, to know again what pictures are drawn with",
            self.path.display()
        );
        let sum = |path: &Path, nested| EncoderIdentity::of("", path, nested).map(|of| of.sha256);
        let mut content = format!("sha256:{}", sum(&self.path, self.nested)?);
        // In a pipeline it lies beside the text encoder, and says how captions are padded.
        let tokenizer = self.path.join("tokenizer");
        if self.nested == TEXT_ENCODER && tokenizer.is_dir() {
            content = format!("{content}, tokenizer {}", sum(&tokenizer, "")?);
        }
        Ok(self.content.get_or_init(|| content).clone())
    }
}

impl<B: DitBackend> Default for Encoders<B> {
    fn default() -> Self {
        Self {
            vae: None,
            text: None,
            names: EncoderConfig::default(),
            vae_files: None,
            text_files: None,
        }
    }
}

impl<B: DitBackend> Encoders<B> {
    /// Opens those that are named.
    ///
    /// # Errors
    /// Missing or damaged files, and weights that do not fit their configuration.
    pub fn open(config: &EncoderConfig, device: &B::Device) -> Result<Self, TrainError> {
        Self::default().or_open(config, device)
    }

    /// Opens those that are named and not open yet.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn or_open(
        mut self,
        config: &EncoderConfig,
        device: &B::Device,
    ) -> Result<Self, TrainError> {
        if let (None, Some(path)) = (&self.vae, &config.vae) {
            let found = locate(path)?;
            self.vae = Some(Arc::new(Vae::open(&found, device)?));
            self.vae_files = Files::of(found, "vae");
            self.names.vae = Some(path.clone());
        }
        if let (None, Some(path)) = (&self.text, &config.text) {
            let found = locate(path)?;
            self.text = Some(Arc::new(TextEncoder::open(&found, device)?));
            self.text_files = Files::of(found, TEXT_ENCODER);
            self.names.text = Some(path.clone());
        }
        Ok(self)
    }

    /// The paths under which the open ones were opened.
    pub fn names(&self) -> &EncoderConfig {
        &self.names
    }

    /// What the VAE's files hold, by their SHA-256, as labels of pictures say it: another at the same path draws other pictures.
    ///
    /// # Errors
    /// If there is none, or its files cannot be read any more.
    pub fn vae_content(&self) -> Result<String, TrainError> {
        let files = self.vae_files.as_ref();
        files
            .ok_or(TrainError::NoEncoder(EncoderKind::Vae))?
            .content()
    }

    /// The same of the text encoder's files.
    ///
    /// # Errors
    /// As [`vae_content`](Self::vae_content).
    pub fn text_content(&self) -> Result<String, TrainError> {
        let files = self.text_files.as_ref();
        files
            .ok_or(TrainError::NoEncoder(EncoderKind::Text))?
            .content()
    }

    /// The VAE.
    ///
    /// # Errors
    /// If there is none.
    pub fn vae(&self) -> Result<Arc<Vae<B>>, TrainError> {
        let missing = TrainError::NoEncoder(EncoderKind::Vae);
        self.vae.clone().ok_or(missing)
    }

    /// The text encoder.
    ///
    /// # Errors
    /// If there is none.
    pub fn text(&self) -> Result<Arc<TextEncoder<B>>, TrainError> {
        let missing = TrainError::NoEncoder(EncoderKind::Text);
        self.text.clone().ok_or(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_what_they_hold_not_by_where_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let write = |place: &str, weights: &str| {
            let of = folder.path().join(place);
            std::fs::create_dir_all(&of).unwrap();
            std::fs::write(of.join("model.safetensors"), weights).unwrap();
            std::fs::write(of.join("config.json"), "{}").unwrap();
            Files::of(of, "text_encoder").unwrap()
        };
        let first = write("a", "one");
        let one = first.content().unwrap();
        assert_eq!(write("b", "one").content().unwrap(), one);
        let two = write("a", "two");
        assert_ne!(two.content().unwrap(), one);
        // Once asked, the same files need not be read again.
        assert_eq!(first.content().unwrap(), one);
        assert!(one.starts_with("sha256:") && one.len() == 7 + 64, "{one}");
    }
}
