//! Features of a set of pictures, in chunks that are kept: a killed extraction goes on, and a set is seen once by a network.

use super::{
    error::EvaluateError,
    extractor::Extractor,
    pictures::{Picture, PictureSet},
};
use crate::features::{Features, Rows};
use microdit::{atomic_file, checksum::hexadecimal};
use microdit_data::LeftOut;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Pictures of a chunk.
const CHUNK: usize = 256;

/// Raised whenever decoding, resizing, the generated dataset or a network changes what features are.
const VERSION: &str = "1";

/// Pictures that are decoded together.
const DECODED: usize = 16;

/// Names of the tensor and of the text in a chunk's file.
const TENSOR: &str = "features";
const FACTS: &str = "facts";

/// Features of all pictures of a set that could be decoded.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// One row for each.
    pub features: Features,
    /// Places in the set of the pictures the rows are of.
    pub places: Vec<u64>,
    /// The others.
    pub left_out: LeftOut,
    /// How many pictures there are of each size, as `WIDTHxHEIGHT`.
    pub sizes: BTreeMap<String, u64>,
}

/// What a chunk says besides its features.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Facts {
    /// The set and the network.
    key: String,
    /// Pictures of the set up to its end.
    taken: u64,
    /// Whether the set ends with it.
    last: bool,
    places: Vec<u64>,
    sizes: BTreeMap<String, u64>,
    /// SHA-256 of the features.
    sha256: String,
    /// Counts of what was left out, and examples.
    counts: BTreeMap<String, u64>,
    named: BTreeMap<String, Vec<String>>,
}

/// Features of `set`, from chunks below `cache` as far as they are there. `progress` is called with the number of pictures seen;
/// nothing is returned if `stop` is set before all were.
///
/// # Errors
/// Pictures or chunks that cannot be read, chunks that cannot be written, a set of which no picture can be decoded.
pub fn extract(
    set: &PictureSet,
    extractor: &dyn Extractor,
    cache: &Path,
    stop: &AtomicBool,
    mut progress: impl FnMut(u64),
) -> Result<Option<Extraction>, EvaluateError> {
    let mut chunks = Chunks::open(set, extractor, cache)?;
    let mut skip = chunks.all.taken;
    progress(skip);
    if !chunks.all.last {
        let mut pending = Vec::with_capacity(CHUNK);
        let lacking = set.for_each(|picture| {
            if skip > 0 {
                skip -= 1;
                return Ok(true);
            }
            pending.push(picture);
            if pending.len() == CHUNK {
                chunks.add(&std::mem::take(&mut pending), extractor, None)?;
                progress(chunks.all.taken);
            }
            Ok(!stop.load(Ordering::Relaxed))
        })?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        chunks.add(&pending, extractor, Some(&lacking))?;
        progress(chunks.all.taken);
    }
    chunks.finish(set, extractor).map(Some)
}

/// The chunks of a set, as far as they are there.
struct Chunks {
    folder: PathBuf,
    count: usize,
    /// What all of them say.
    all: Facts,
    values: Vec<f32>,
}

impl Chunks {
    fn open(
        set: &PictureSet,
        extractor: &dyn Extractor,
        cache: &Path,
    ) -> Result<Self, EvaluateError> {
        let network = extractor.network();
        let mut digest = Sha256::new();
        for part in [VERSION, &set.identity(), &network.sha256, &network.resize] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        let key = hexadecimal(&digest.finalize());
        let mut chunks = Self {
            folder: cache.join(&key),
            count: 0,
            all: Facts {
                key,
                ..Facts::default()
            },
            values: Vec::new(),
        };
        std::fs::create_dir_all(&chunks.folder).map_err(EvaluateError::io(&chunks.folder))?;
        while !chunks.all.last {
            let path = chunks.next();
            match path.try_exists() {
                Ok(false) => break,
                _ => chunks.read(&path, extractor.dim())?,
            }
        }
        Ok(chunks)
    }

    fn next(&self) -> PathBuf {
        self.folder.join(format!("{:06}.safetensors", self.count))
    }

    fn read(&mut self, path: &Path, dim: usize) -> Result<(), EvaluateError> {
        let damaged = |message: String| EvaluateError::Chunk {
            path: path.to_owned(),
            message,
        };
        let file = std::fs::read(path).map_err(EvaluateError::io(path))?;
        let (_, header) = SafeTensors::read_metadata(&file).map_err(|e| damaged(e.to_string()))?;
        let facts = header.metadata().as_ref().and_then(|all| all.get(FACTS));
        let facts = facts.ok_or_else(|| damaged(format!("it has no {FACTS}")))?;
        let facts: Facts = serde_json::from_str(facts).map_err(|e| damaged(e.to_string()))?;
        if facts.key != self.all.key {
            return Err(damaged("it is of other pictures or another network".into()));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|e| damaged(e.to_string()))?;
        let tensor = tensors.tensor(TENSOR).map_err(|e| damaged(e.to_string()))?;
        let expected = [facts.places.len(), dim];
        if tensor.shape() != expected || tensor.dtype() != Dtype::F32 {
            let found = tensor.shape();
            return Err(damaged(format!(
                "its shape is {found:?}, expected {expected:?}"
            )));
        }
        if hexadecimal(&Sha256::digest(tensor.data())) != facts.sha256 {
            return Err(damaged(
                "its features are not those that were written".into(),
            ));
        }
        let values = tensor.data().as_chunks::<4>().0.iter();
        self.values
            .extend(values.map(|bytes| f32::from_le_bytes(*bytes)));
        self.take(facts);
        Ok(())
    }

    /// Adds what a chunk says to what all say.
    fn take(&mut self, facts: Facts) {
        let all = &mut self.all;
        all.taken = facts.taken;
        all.last = facts.last;
        all.places.extend(facts.places);
        for (size, count) in facts.sizes {
            *all.sizes.entry(size).or_default() += count;
        }
        let mut left_out = left_out(all);
        left_out.add(&self::left_out(&Facts {
            counts: facts.counts,
            named: facts.named,
            ..Facts::default()
        }));
        (all.counts, all.named) = (left_out.counts, left_out.named);
        self.count += 1;
    }

    /// Sees the next pictures of the set, and keeps the chunk; with what the set itself lacks, it is the last one.
    fn add(
        &mut self,
        pictures: &[Picture],
        extractor: &dyn Extractor,
        last: Option<&LeftOut>,
    ) -> Result<(), EvaluateError> {
        let mut facts = Facts {
            key: self.all.key.clone(),
            taken: self.all.taken + pictures.len() as u64,
            last: last.is_some(),
            ..Facts::default()
        };
        let mut left_out = last.cloned().unwrap_or_default();
        let mut values = Vec::new();
        let mut place = self.all.taken;
        // Photographs are large: a few of them at a time.
        for pictures in pictures.chunks(DECODED) {
            let decoded: Vec<_> = pictures.par_iter().map(Picture::pixels).collect();
            let mut pixels = Vec::with_capacity(pictures.len());
            for (picture, decoded) in pictures.iter().zip(decoded) {
                match decoded {
                    Ok(decoded) => {
                        let size = format!("{}x{}", decoded.width(), decoded.height());
                        *facts.sizes.entry(size).or_default() += 1;
                        facts.places.push(place);
                        pixels.push(decoded);
                    }
                    Err(reason) => left_out.note("pictures", &picture.name, &reason),
                }
                place += 1;
            }
            if !pixels.is_empty() {
                values.extend(extractor.features(&pixels));
            }
        }
        (facts.counts, facts.named) = (left_out.counts, left_out.named);
        // What is not finite is not kept.
        Rows::new(&values, extractor.dim())?;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        facts.sha256 = hexadecimal(&Sha256::digest(&bytes));
        self.write(&facts, &bytes, extractor.dim())?;
        self.values.extend(values);
        self.take(facts);
        Ok(())
    }

    fn write(&self, facts: &Facts, bytes: &[u8], dim: usize) -> Result<(), EvaluateError> {
        let path = self.next();
        let broken = |error: safetensors::SafeTensorError| EvaluateError::Chunk {
            path: path.clone(),
            message: error.to_string(),
        };
        let tensor = TensorView::new(Dtype::F32, vec![facts.places.len(), dim], bytes);
        let tensor = tensor.map_err(broken)?;
        let text = serde_json::to_string(facts).expect("facts are plain data");
        let metadata = HashMap::from([(FACTS.to_owned(), text)]);
        let file = safetensors::serialize([(TENSOR, tensor)], Some(metadata)).map_err(broken)?;
        atomic_file::write(&path, |part| std::fs::write(part, file))
            .map_err(EvaluateError::io(&path))
    }

    fn finish(
        self,
        set: &PictureSet,
        extractor: &dyn Extractor,
    ) -> Result<Extraction, EvaluateError> {
        let left_out = left_out(&self.all);
        if self.values.is_empty() {
            return Err(EvaluateError::NothingDecodes {
                name: set.name().to_owned(),
                reasons: microdit_data::reasons(&left_out.counts),
            });
        }
        Ok(Extraction {
            features: Features::new(extractor.network().clone(), extractor.dim(), self.values)?,
            places: self.all.places,
            left_out,
            sizes: self.all.sizes,
        })
    }
}

fn left_out(facts: &Facts) -> LeftOut {
    LeftOut {
        counts: facts.counts.clone(),
        named: facts.named.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::{Family, FeatureNetwork};
    use image::RgbImage;
    use std::cell::Cell;

    /// The mean color, counting how many pictures it sees.
    struct Mean {
        network: FeatureNetwork,
        seen: Cell<usize>,
    }

    impl Mean {
        fn new(sha256: &str) -> Self {
            let network = FeatureNetwork {
                family: Family::Classifier,
                name: "mean".into(),
                sha256: sha256.into(),
                resize: "none".into(),
                source: None,
            };
            let seen = Cell::new(0);
            Self { network, seen }
        }
    }

    impl Extractor for Mean {
        fn network(&self) -> &FeatureNetwork {
            &self.network
        }

        fn dim(&self) -> usize {
            3
        }

        fn features(&self, pictures: &[RgbImage]) -> Vec<f32> {
            self.seen.set(self.seen.get() + pictures.len());
            let mean = |picture: &RgbImage| {
                let mut sums = [0.0; 3];
                for pixel in picture.pixels() {
                    for (sum, value) in sums.iter_mut().zip(pixel.0) {
                        *sum += f32::from(value);
                    }
                }
                sums.map(|sum| sum / (picture.width() * picture.height()) as f32)
            };
            pictures.iter().flat_map(mean).collect()
        }
    }

    fn run(set: &PictureSet, mean: &Mean, cache: &Path, until: Option<u64>) -> Option<Extraction> {
        let stop = AtomicBool::new(false);
        let progress =
            |seen| stop.store(until.is_some_and(|until| seen >= until), Ordering::Relaxed);
        extract(set, mean, cache, &stop, progress).unwrap()
    }

    #[test]
    fn a_stopped_extraction_goes_on_and_a_finished_one_sees_nothing_again() {
        let folder = tempfile::tempdir().unwrap();
        let set = PictureSet::of_shapes(16, 2 * CHUNK as u64 + 10).unwrap();
        let whole = run(&set, &Mean::new("a"), &folder.path().join("whole"), None).unwrap();
        assert_eq!(whole.features.pictures(), 2 * CHUNK + 10);
        assert_eq!(
            whole.sizes,
            BTreeMap::from([("16x16".to_owned(), 2 * CHUNK as u64 + 10)])
        );
        let mean = Mean::new("a");
        let cache = folder.path().join("parts");
        assert!(run(&set, &mean, &cache, Some(CHUNK as u64)).is_none());
        assert_eq!(mean.seen.get(), CHUNK);
        let parts = run(&set, &mean, &cache, None).unwrap();
        assert_eq!(mean.seen.get(), 2 * CHUNK + 10);
        assert_eq!(
            (parts.features, parts.places),
            (whole.features, whole.places)
        );
        run(&set, &mean, &cache, None).unwrap();
        assert_eq!(mean.seen.get(), 2 * CHUNK + 10);
        // Another network has features of its own.
        let other = Mean::new("b");
        run(&set, &other, &cache, None).unwrap();
        assert_eq!(other.seen.get(), 2 * CHUNK + 10);
    }

    #[test]
    fn what_cannot_be_decoded_is_left_out_once() {
        let folder = tempfile::tempdir().unwrap();
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/wds_dirty.tar");
        let set = PictureSet::open(&golden.to_string_lossy(), 100).unwrap();
        for _ in 0..2 {
            let found = run(&set, &Mean::new("a"), folder.path(), None).unwrap();
            assert_eq!((found.features.pictures(), found.left_out.total()), (11, 5));
            assert_eq!(found.places.len(), 11);
        }
    }

    #[test]
    fn a_damaged_chunk_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let set = PictureSet::of_shapes(16, 20).unwrap();
        let mean = Mean::new("a");
        run(&set, &mean, folder.path(), None).unwrap();
        let inner = folder.path().read_dir().unwrap().next().unwrap().unwrap();
        let chunk = inner.path().join("000000.safetensors");
        let bytes = std::fs::read(&chunk).unwrap();
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&bytes[..bytes.len() - 5], &flipped] {
            std::fs::write(&chunk, damaged).unwrap();
            let stop = AtomicBool::new(false);
            let error = extract(&set, &mean, folder.path(), &stop, |_| ()).unwrap_err();
            assert!(error.to_string().contains("000000.safetensors"), "{error}");
        }
    }
}
