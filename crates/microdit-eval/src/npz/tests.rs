//! Files as others write them, and as nobody should.

use super::*;
use microdit::rng::{Purpose, Stream};
use std::path::PathBuf;

/// An array as NumPy stores it.
pub(crate) fn npy(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn f64s(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn f32s(values: &[f64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| (value as f32).to_le_bytes())
        .collect()
}

pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn archive(&self, method: CompressionMethod, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
        let path = self.0.path().join("statistics.npz");
        let mut archive = ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in arrays {
            let options = SimpleFileOptions::default().compression_method(method);
            archive.start_file(format!("{name}.npy"), options).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
        path
    }

    /// What is wrong with a file of these arrays.
    fn error(&self, arrays: &[(&str, Vec<u8>)]) -> String {
        let path = self.archive(CompressionMethod::Deflated, arrays);
        let text = read_statistics(&path).unwrap_err().to_string();
        let start = format!("{}: ", path.display());
        text.strip_prefix(&start)
            .unwrap_or_else(|| panic!("{text} does not name the file"))
            .to_owned()
    }
}

const SIGMA: [f64; 4] = [2.0, 0.5, 0.5, 1.0];

fn mu() -> (&'static str, Vec<u8>) {
    ("mu", npy("<f8", "False", "(2,)", &f64s(&[0.25, -3.0])))
}

fn sigma(values: &[f64]) -> (&'static str, Vec<u8>) {
    ("sigma", npy("<f8", "False", "(2, 2)", &f64s(values)))
}

#[test]
fn statistics_are_read_in_either_type_and_compression() {
    let folder = Folder::new();
    let narrow = [
        ("mu", npy("<f4", "False", "(2,)", &f32s(&[0.25, -3.0]))),
        ("sigma", npy("<f4", "True", "(2, 2)", &f32s(&SIGMA))),
        // Of guided-diffusion's files; what it holds does not matter.
        ("mu_s", b"anything".to_vec()),
    ];
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        for arrays in [&[mu(), sigma(&SIGMA)][..], &narrow] {
            let found = read_statistics(&folder.archive(method, arrays)).unwrap();
            assert_eq!(
                (found.mean.as_slice(), found.samples),
                ([0.25, -3.0].as_slice(), None)
            );
            assert_eq!(found.covariance, faer::mat![[2.0, 0.5], [0.5, 1.0]]);
        }
    }
}

#[test]
fn features_of_dgm_eval_and_clean_fid_become_statistics() {
    let folder = Folder::new();
    let values: Vec<f64> = Stream::new(0, Purpose::Noise, 0, 0)
        .normal(2100 * 3)
        .into_iter()
        .map(f64::from)
        .collect();
    let expected = Moments::of(Rows::new(&values, 3).unwrap())
        .gaussian()
        .unwrap();
    let hparams = (
        "hparams",
        npy("|O", "False", "()", b"a pickle that would run"),
    );
    for (name, descr, data) in [
        ("reps", "<f8", f64s(&values)),
        ("feats", "<f4", f32s(&values)),
    ] {
        let path = folder.archive(
            CompressionMethod::Deflated,
            &[
                (name, npy(descr, "False", "(2100, 3)", &data)),
                hparams.clone(),
            ],
        );
        let found = read_statistics(&path).unwrap();
        assert_eq!(found.samples, Some(2100));
        assert!((&found.covariance - &expected.covariance).norm_max() < 1e-12);
        let (dim, features) = read_features(&path).unwrap();
        assert_eq!(dim, 3);
        assert!(
            features
                .iter()
                .map(|&value| f64::from(value))
                .eq(values.iter().copied())
        );
    }
}

#[test]
fn what_is_written_reads_back_bit_for_bit() {
    let folder = Folder::new();
    let path = folder.0.path().join("written.npz");
    let values = Stream::new(0, Purpose::Noise, 0, 1).normal(40 * 5);
    for samples in [Some(40), None] {
        let moments = Moments::of(Rows::new(&values, 5).unwrap());
        let written = Gaussian {
            samples,
            ..moments.gaussian().unwrap()
        };
        write_statistics(&path, &written).unwrap();
        let found = read_statistics(&path).unwrap();
        assert_eq!(
            (&found.mean, &found.covariance, found.samples),
            (&written.mean, &written.covariance, samples)
        );
    }
    assert!(
        write_statistics(
            &folder.0.path().join("missing/x.npz"),
            &read_statistics(&path).unwrap()
        )
        .is_err()
    );
    let text = read_features(&path).unwrap_err().to_string();
    assert!(
        text.contains("it holds mu.npy, sigma.npy; expected mu and sigma"),
        "{text}"
    );
}

#[test]
fn what_is_wrong_is_named() {
    let folder = Folder::new();
    let shaped =
        |descr, shape, values: &[f64]| ("sigma", npy(descr, "False", shape, &f64s(values)));
    for (arrays, expected) in [
        (
            vec![mu(), sigma(&[2.0, 0.5, 0.6, 1.0])],
            "sigma: it is not symmetric, hence no covariance: 0.6 at (1, 0), 0.5 at (0, 1)",
        ),
        (
            vec![mu(), sigma(&[2.0, 0.5, 0.5, -1.0])],
            "sigma: the variance of feature 1 is -1, below zero",
        ),
        (
            vec![mu(), sigma(&[2.0, f64::NAN, 0.5, 1.0])],
            "sigma: its value number 1 is NaN",
        ),
        (
            vec![mu(), shaped("<f8", "(4,)", &SIGMA)],
            "sigma: its shape is [4]; expected [2, 2], as mu has 2 numbers",
        ),
        (
            vec![mu(), shaped("<f8", "(2, 2)", &SIGMA[..3])],
            "sigma: it ends after 3 values",
        ),
        (
            vec![mu(), shaped("<f8", "(2, 2)", &[1.0; 5])],
            "sigma: it holds more than its shape [2, 2] says",
        ),
        (
            vec![mu(), shaped("|O", "(2, 2)", &SIGMA)],
            "sigma: its type is |O; expected <f8 or <f4",
        ),
        (
            vec![
                mu(),
                sigma(&SIGMA),
                ("samples", npy("<i8", "False", "()", &2i64.to_le_bytes())),
            ],
            "the reference: 2 pictures, at least 3 are needed",
        ),
        (
            vec![("feats", npy("<f8", "False", "(2, 2)", &f64s(&SIGMA)))],
            "the reference: 2 pictures, at least 3 are needed",
        ),
        (
            vec![("feats", npy("<f8", "True", "(2, 2)", &f64s(&SIGMA)))],
            "feats: its shape is [2, 2], stored column by column; expected a row per picture",
        ),
        (
            vec![("feats", npy("<f8", "False", "(0, 2)", &[]))],
            "covariance: 0 pictures",
        ),
        (
            vec![("images", b"x".to_vec())],
            "it holds images.npy; expected mu and sigma",
        ),
    ] {
        let text = folder.error(&arrays);
        assert!(text.starts_with(expected), "{text}\n{expected}");
    }
}

#[test]
fn a_small_file_cannot_claim_much() {
    let folder = Folder::new();
    let huge = format!("({0}, {0})", u64::MAX / 2);
    for (name, shape) in [("mu", "(1000000000,)"), ("sigma", huge.as_str())] {
        let arrays = match name {
            "mu" => vec![("mu", npy("<f8", "False", shape, &[])), sigma(&SIGMA)],
            _ => vec![mu(), ("sigma", npy("<f8", "False", shape, &[]))],
        };
        let text = folder.error(&arrays);
        assert!(text.starts_with(&format!("{name}: its shape is")), "{text}");
    }
    for shape in [huge.as_str(), "(100000000, 3)", "(3, 100000)"] {
        let text = folder.error(&[("reps", npy("<f8", "False", shape, &[]))]);
        assert!(text.starts_with("reps: its shape is"), "{text}");
    }
    // A header of nested brackets would take npyz years.
    let text = folder.error(&[
        mu(),
        ("sigma", npy(&"[".repeat(60), "False", "(2, 2)", &[])),
    ]);
    assert!(text.starts_with("sigma: its header"), "{text}");
}

#[test]
fn a_damaged_archive_is_an_error_at_every_byte() {
    let folder = Folder::new();
    let path = folder.archive(CompressionMethod::Stored, &[mu(), sigma(&SIGMA)]);
    let whole = std::fs::read(&path).unwrap();
    for length in 0..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(
            read_statistics(&path).is_err(),
            "cut to {length} of {}",
            whole.len()
        );
    }
    // A flipped bit in the values is found by the archive's checksum.
    let value = f64s(&[-3.0]);
    let at = whole.windows(8).position(|window| window == value).unwrap();
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let text = read_statistics(&path).unwrap_err().to_string();
    assert!(text.contains("mu: Invalid checksum"), "{text}");
}
