//! Files of one JSON value per line, read as they grow.

use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom},
    path::PathBuf,
};

/// Reads the whole lines of a file, each once; those that are damaged are counted.
#[derive(Debug)]
pub(super) struct JsonLines {
    path: PathBuf,
    /// Bytes read so far.
    offset: u64,
    /// Lines that are no such value: torn, not UTF-8, or something else.
    pub(super) damaged: u64,
}

impl JsonLines {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            offset: 0,
            damaged: 0,
        }
    }

    /// Hands the values of the lines that were added since the last call to `take`. A last line without its end is left for
    /// the next call: it may be on its way. A file that is not there has no lines.
    pub(super) fn read<T: DeserializeOwned>(&mut self, mut take: impl FnMut(T)) -> io::Result<()> {
        let mut file = match File::open(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = file.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Ok(());
            }
            self.offset += length as u64;
            match serde_json::from_slice(&line) {
                Ok(value) => take(value),
                Err(_) => self.damaged += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::{fs, io::Write};

    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }

    #[test]
    fn damaged_lines_are_counted_and_a_torn_one_is_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut lines = JsonLines::new(path.clone());
        let mut steps = Vec::new();
        lines.read(|line: Line| steps.push(line.step)).unwrap();
        fs::write(
            &path,
            b"{\"step\":1}\n\xff\xfe{\"step\":2}\n{\"step\":\n[]\n{\"step\":3,\"\xff\":0}\n{\"step\":4}\n{\"st",
        )
        .unwrap();
        lines.read(|line: Line| steps.push(line.step)).unwrap();
        assert_eq!((&steps[..], lines.damaged), (&[1, 4][..], 4));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"ep\":5}\n").unwrap();
        lines.read(|line: Line| steps.push(line.step)).unwrap();
        assert_eq!((&steps[..], lines.damaged), (&[1, 4, 5][..], 4));
    }
}
