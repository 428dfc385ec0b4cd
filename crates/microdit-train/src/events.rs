//! Event files that TensorBoard reads: records of TensorFlow's framing, each a protocol buffer of few fields.

use crate::error::TrainError;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Added to a checksum after a rotation, so that checksums of checksums are not a special case (TensorFlow's record format).
const MASK: u32 = 0xa282_ead8;

/// Start of a file's name.
pub(crate) const EVENTS: &str = "events.out.tfevents.";

/// The status of a `SessionLog` that begins.
const SESSION_START: u64 = 1;

/// A file of scalars.
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
}
