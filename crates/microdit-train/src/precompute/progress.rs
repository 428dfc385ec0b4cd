//! How far a precomputation has come.

use microdit_data::{DataError, DatasetIndex, LeftOut};

/// How far a process has come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Precomputed {
    /// Samples written by this call.
    pub samples: u64,
    /// Shards of this process that were looked at.
    pub checked: usize,
    /// Shards of this process that are there.
    pub shards: usize,
    /// Shards it is responsible for.
    pub of: usize,
    /// Whether it was told to stop before the last.
    pub stopped: bool,
    /// Samples of its shards that were left out.
    pub left_out: LeftOut,
    /// Shards of pictures that could not be read to their end, and why; what came before was used.
    pub cut: Vec<String>,
    /// Shards of pictures from which nothing could be encoded, and why.
    pub lost: Vec<String>,
    /// Captions of its shards of which the text encoder reads only the beginning.
    pub captions_cut: u64,
    /// Bytes of the caption states of its shards with their padding, and as they were written.
    pub caption_bytes: [u64; 2],
    /// The index, if this process is the only one.
    pub index: Option<DatasetIndex>,
    /// Samples met in its shards.
    pub(super) seen: u64,
}

impl Precomputed {
    /// Counts bytes of caption states.
    pub(super) fn count_states(&mut self, bytes: [u64; 2]) {
        for (sum, more) in self.caption_bytes.iter_mut().zip(bytes) {
            *sum += more;
        }
    }

    /// Sound samples of its shards.
    pub fn sound(&self) -> u64 {
        self.seen - self.left_out.total()
    }

    /// Counts a shard with so many sound samples.
    pub(super) fn count(&mut self, sound: u64, left_out: LeftOut) {
        self.seen += sound + left_out.total();
        self.left_out.add(&left_out);
    }

    /// Stops the work when too much was left out so far, of the shard at hand too.
    pub(super) fn too_damaged(
        &self,
        share: f64,
        here: &LeftOut,
        sound: u64,
    ) -> Result<(), DataError> {
        let mut all = self.left_out.clone();
        all.add(here);
        all.within(share, self.seen + sound + here.total(), true)
    }
}
