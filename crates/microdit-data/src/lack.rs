//! Why a sample is left out.

use std::{borrow::Cow, fmt};

/// Why a sample is left out: a reason by which such samples are counted, and what is known of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    reason: Cow<'static, str>,
    detail: String,
}

impl Lack {
    /// For `reason`, which many samples may share, with what is known of this one alone; that may be empty.
    pub fn new(reason: impl Into<Cow<'static, str>>, detail: impl fmt::Display) -> Self {
        Self {
            reason: reason.into(),
            detail: detail.to_string(),
        }
    }

    /// What such samples are counted by.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => write!(f, "{}", self.reason),
            detail => write!(f, "{}: {detail}", self.reason),
        }
    }
}

impl From<&'static str> for Lack {
    fn from(reason: &'static str) -> Self {
        Self::new(reason, "")
    }
}

impl From<String> for Lack {
    fn from(reason: String) -> Self {
        Self::new(reason, "")
    }
}

impl From<Lack> for String {
    fn from(lack: Lack) -> Self {
        lack.to_string()
    }
}
