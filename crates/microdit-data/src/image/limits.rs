//! How large an image may be: a file's claims are checked before memory is allocated.

use serde::{Deserialize, Serialize};

/// How large pictures may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest side in pixels, at most 65,535.
    pub max_side: u32,
    /// Pixels in all: a picture takes three bytes for each, and while it is decoded up to eleven.
    pub max_pixels: u64,
    /// How many times longer than wide a picture may be; at least 1.
    pub max_aspect: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_side: 30_000,
            max_pixels: (256 << 20) / 3,
            max_aspect: 64.0,
        }
    }
}

impl Limits {
    /// Refuses pictures that would take too much memory.
    pub(crate) fn admit_size(&self, width: u32, height: u32) -> Result<(), String> {
        let size = format!("{width} x {height} pixels");
        if width.max(height) > self.max_side {
            let reason = format!(
                "an image with a side of more than {} pixels (limits.max_side)",
                self.max_side
            );
            return Err(format!("{reason}: {size}"));
        }
        if u64::from(width) * u64::from(height) > self.max_pixels {
            let reason = format!(
                "an image of more than {} pixels (limits.max_pixels)",
                self.max_pixels
            );
            return Err(format!("{reason}: {size}"));
        }
        Ok(())
    }

    /// Refuses pictures that are too narrow: the square in their middle shows little.
    pub(crate) fn admit_aspect(&self, width: u32, height: u32) -> Result<(), String> {
        let (short, long) = (width.min(height), width.max(height));
        if f64::from(long) <= self.max_aspect * f64::from(short) {
            return Ok(());
        }
        let reason = format!(
            "an image with one side more than {} times the other (limits.max_aspect)",
            self.max_aspect
        );
        Err(format!("{reason}: {width} x {height} pixels"))
    }

    /// What is wrong with the limits themselves.
    pub(crate) fn check(&self) -> Result<(), String> {
        // The largest size JPEG and GIF can express; no decoder is asked for more memory than 16 GB.
        let bounds = [
            ("max_side", f64::from(self.max_side), 65_535.0),
            ("max_pixels", self.max_pixels as f64, f64::from(1 << 30)),
            ("max_aspect", self.max_aspect, 65_535.0),
        ];
        for (key, found, most) in bounds {
            if !(1.0..=most).contains(&found) {
                return Err(format!("limits.{key} is {found}; expected 1 to {most}"));
            }
        }
        Ok(())
    }
}
