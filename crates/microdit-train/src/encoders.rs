//! The frozen networks a run's pictures need, opened on demand.

use crate::{
    error::{EncoderKind, TrainError},
    recipe::EncoderConfig,
};
use microdit::DitBackend;
use microdit_encoders::{hub::locate, text::TextEncoder, vae::Vae};
use std::sync::Arc;

/// A VAE and a text encoder, if they are there.
#[derive(Clone, Debug)]
pub struct Encoders<B: DitBackend> {
    vae: Option<Arc<Vae<B>>>,
    text: Option<Arc<TextEncoder<B>>>,
    /// What they were opened as.
    names: EncoderConfig,
}

impl<B: DitBackend> Default for Encoders<B> {
    fn default() -> Self {
        Self {
            vae: None,
            text: None,
            names: EncoderConfig::default(),
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
            self.vae = Some(Arc::new(Vae::open(&locate(path)?, device)?));
            self.names.vae = Some(path.clone());
        }
        if let (None, Some(path)) = (&self.text, &config.text) {
            self.text = Some(Arc::new(TextEncoder::open(&locate(path)?, device)?));
            self.names.text = Some(path.clone());
        }
        Ok(self)
    }

    /// The paths under which the open ones were opened.
    pub fn names(&self) -> &EncoderConfig {
        &self.names
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
