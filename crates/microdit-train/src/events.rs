//! Event files that TensorBoard reads: records of TensorFlow's framing, each a protocol buffer of few fields.

use crate::error::TrainError;
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Added to a checksum after a rotation, so that checksums of checksums are not a special case (TensorFlow's record format).
const MASK: u32 = 0xa282_ead8;

/// Start of a file's name.
pub(crate) const EVENTS: &str = "events.out.tfevents.";

/// The status of a `SessionLog` that begins.
const SESSION_START: u64 = 1;

/// The `colorspace` of three channels, as TensorFlow counts channels.
const RGB: u64 = 3;

/// A file of scalars and pictures.
pub(crate) struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Starts a new file in `folder`, beside those of earlier processes: TensorBoard reads them as one run, and drops
    /// what they say about steps after `step`.
    pub(crate) fn create(folder: &Path, step: u64) -> Result<Self, TrainError> {
        let name = format!("{EVENTS}{:.6}.microdit", wall_time());
        let path = folder.join(name);
        let file = File::create(&path).map_err(TrainError::io(&path))?;
        let mut events = Self { path, file };
        let mut event = Message::default();
        event.double(1, wall_time());
        event.bytes(3, b"brain.Event:2");
        events.record(&event.0)?;
        let mut session = Message::default();
        session.integer(1, SESSION_START);
        let mut event = Message::default();
        event.double(1, wall_time());
        // The first step that is forgotten.
        event.integer(2, step.saturating_add(1));
        event.bytes(7, &session.0);
        events.record(&event.0)?;
        Ok(events)
    }

    /// Writes scalars of one step.
    pub(crate) fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<(), TrainError> {
        let mut summary = Message::default();
        for (tag, value) in scalars {
            let mut scalar = Message::default();
            scalar.bytes(1, tag.as_bytes());
            scalar.float(2, *value as f32);
            summary.bytes(1, &scalar.0);
        }
        self.summary(step, &summary)
    }

    /// Writes a picture of one step: the PNG in a file.
    pub(crate) fn picture(&mut self, step: u64, tag: &str, png: &Path) -> Result<(), TrainError> {
        let file = fs::read(png).map_err(TrainError::io(png))?;
        let sides = sides(&file).ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::InvalidData, "it is no PNG");
            TrainError::io(png)(error)
        })?;
        self.summary(step, &picture(tag, sides, &file))
    }

    fn summary(&mut self, step: u64, summary: &Message) -> Result<(), TrainError> {
        let mut event = Message::default();
        event.double(1, wall_time());
        event.integer(2, step);
        event.bytes(5, &summary.0);
        self.record(&event.0)
    }

    fn record(&mut self, data: &[u8]) -> Result<(), TrainError> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(checksum(&length));
        record.extend(data);
        record.extend(checksum(data));
        self.file
            .write_all(&record)
            .map_err(TrainError::io(&self.path))
    }
}

/// Width and height of a PNG, which begins with them (PNG, third edition, section 11.2.1).
fn sides(png: &[u8]) -> Option<[u32; 2]> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(4..)?;
    let sides = header.strip_prefix(b"IHDR")?.first_chunk::<8>()?;
    let (width, height) = sides.split_at(4);
    let side = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    Some([side(width)?, side(height)?])
}

/// The summary of a picture of these sides: `Summary.Value.image` of TensorFlow's summary.proto.
fn picture(tag: &str, [width, height]: [u32; 2], file: &[u8]) -> Message {
    let mut image = Message::default();
    image.integer(1, u64::from(height));
    image.integer(2, u64::from(width));
    image.integer(3, RGB);
    image.bytes(4, file);
    let mut value = Message::default();
    value.bytes(1, tag.as_bytes());
    value.bytes(4, &image.0);
    let mut summary = Message::default();
    summary.bytes(1, &value.0);
    summary
}

fn checksum(data: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(data);
    crc.rotate_right(15).wrapping_add(MASK).to_le_bytes()
}

fn wall_time() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// A protocol buffer being built.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_as_the_format_says() {
        let mut message = Message::default();
        message.integer(2, 300);
        message.bytes(3, b"ab");
        message.float(2, 1.0);
        let expected = [
            0x10, 0xac, 0x02, 0x1a, 2, b'a', b'b', 0x15, 0, 0, 0x80, 0x3f,
        ];
        assert_eq!(message.0, expected);
        // The checksum of the standard's test vector "123456789" is e3069283.
        let masked = 0xe306_9283u32.rotate_right(15).wrapping_add(MASK);
        assert_eq!(checksum(b"123456789"), masked.to_le_bytes());
    }

    #[test]
    fn a_picture_is_a_summary_as_the_format_says() {
        // value 1 { tag 1, image 4 { height 1, width 2, colorspace 3, encoded_image_string 4 } }
        let image = [8, 2, 16, 3, 24, 3, 0x22, 2, b'o', b'k'];
        let mut value = vec![0x0a, 1, b'g', 0x22, image.len() as u8];
        value.extend(image);
        let mut expected = vec![0x0a, value.len() as u8];
        expected.extend(value);
        assert_eq!(picture("g", [3, 2], b"ok").0, expected);
    }

    #[test]
    fn a_png_is_in_the_file_as_it_is_with_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let png = folder.path().join("grid.png");
        image::RgbImage::from_pixel(7, 5, image::Rgb([1, 2, 3]))
            .save(&png)
            .unwrap();
        let mut events = EventFile::create(folder.path(), 0).unwrap();
        events.picture(9, "sample_grid", &png).unwrap();
        let file = fs::read(&events.path).unwrap();
        let summary = picture("sample_grid", [7, 5], &fs::read(&png).unwrap()).0;
        let at = file
            .windows(summary.len())
            .position(|found| found == summary)
            .unwrap();
        // Its event has the step before it, and the record its checksum after it.
        let event_begins = file[..at].windows(2).rposition(|found| found == [0x10, 9]);
        assert!(event_begins.is_some());
        assert_eq!(file.len(), at + summary.len() + 4);
        assert!(
            events
                .picture(9, "sample_grid", &folder.path().join("no.png"))
                .is_err()
        );
    }
}
