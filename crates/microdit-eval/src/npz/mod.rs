//! Reference statistics and features in `.npz` files, zip archives of NumPy arrays.
//!
//! | written by | arrays | read as |
//! |---|---|---|
//! | pytorch-fid, clean-fid | `mu` \[dim\], `sigma` \[dim, dim\] | statistics |
//! | this crate | the same, and `samples` | statistics |
//! | dgm-eval | `reps` \[pictures, dim\] | features, or statistics of them |
//! | clean-fid, for KID | `feats` \[pictures, dim\] | features, or statistics of them |
//!
//! Other arrays are left alone: dgm-eval's `hparams` is a pickle, which only Python could read, by executing it. None of these
//! files says which network its features are of; who reads one has to know.

mod array;

use crate::{
    error::EvalError,
    features::Rows,
    metrics::{Gaussian, Moments},
};
use array::{Archive, Array, entry_name};
use faer::Mat;
use microdit::atomic_file;
use npyz::WriterBuilder as _;
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::Path,
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// The longest rows that are read: a covariance of them takes half a GiB, whatever the size of the file that claims it.
const MAX_DIM: usize = 8192;

/// Most values of features that are read: a GiB of f32, 131,072 pictures of 2,048.
const MAX_VALUES: usize = 1 << 28;

/// Rows of features that are read at a time.
const CHUNK: usize = 1024;

/// How far apart two halves of a covariance may be, in units of its largest variance: files may hold it in 32 bits.
const ROUNDING: f64 = 1e-5;

/// Names of features, one row per picture.
const FEATURES: [&str; 2] = ["reps", "feats"];

/// What a file says of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Their features.
    Features,
    /// No more than mean and covariance of their features.
    Statistics,
}

/// What a file holds: features, where it has them.
///
/// # Errors
/// A file that cannot be read, or holds neither.
pub fn contents(path: &Path) -> Result<Contents, EvalError> {
    let archive = open(path)?;
    if FEATURES.into_iter().any(|name| has(&archive, name)) {
        return Ok(Contents::Features);
    }
    match has(&archive, "mu") && has(&archive, "sigma") {
        true => Ok(Contents::Statistics),
        false => Err(neither(path, &archive)),
    }
}

/// Reads the statistics of a reference: `mu` and `sigma`, or features of which they are computed.
///
/// # Errors
/// A file that cannot be read, or holds neither; arrays of wrong shapes, NaN, a matrix that is no covariance; too few pictures
/// for a covariance, where the file says how many they were. The error names the file and the array.
pub fn read_statistics(path: &Path) -> Result<Gaussian, EvalError> {
    let mut archive = open(path)?;
    if has(&archive, "mu") && has(&archive, "sigma") {
        let gaussian =
            statistics(&mut archive).map_err(|message| EvalError::file(path, message))?;
        gaussian
            .check_reference()
            .map_err(|error| EvalError::file(path, error))?;
        return Ok(gaussian);
    }
    let mut moments = Moments::new(0);
    each_chunk(path, &mut archive, |dim, values| {
        if moments.count() == 0 {
            moments = Moments::new(dim);
        }
        moments.add(Rows::new(values, dim)?)
    })?;
    let gaussian = moments.gaussian().and_then(|gaussian| {
        gaussian.check_reference()?;
        Ok(gaussian)
    });
    gaussian.map_err(|error| EvalError::file(path, error))
}

/// Reads features `[pictures, dim]`, as f32: their `dim`, and the values row by row.
///
/// # Errors
/// A file that cannot be read, or holds statistics only; wrong shapes, NaN.
pub fn read_features(path: &Path) -> Result<(usize, Vec<f32>), EvalError> {
    let mut archive = open(path)?;
    let (mut size, mut all) = (0, Vec::new());
    each_chunk(path, &mut archive, |dim, values| {
        size = dim;
        all.extend(values.iter().map(|&value| value as f32));
        Ok(())
    })?;
    Ok((size, all))
}

/// Writes statistics as pytorch-fid and clean-fid read them, and the number of pictures, which they ignore. The file is
/// written whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_statistics(path: &Path, gaussian: &Gaussian) -> Result<(), EvalError> {
    let side = gaussian.mean.len();
    let covariance = (0..side * side).map(|at| gaussian.covariance[(at / side, at % side)]);
    let dim = side as u64;
    let written = atomic_file::write(path, |part| -> io::Result<()> {
        let mut archive = ZipWriter::new(BufWriter::new(File::create(part)?));
        write_array(&mut archive, "mu", &[dim], gaussian.mean.iter().copied())?;
        write_array(&mut archive, "sigma", &[dim, dim], covariance)?;
        if let Some(samples) = gaussian.samples {
            write_array(&mut archive, "samples", &[], [samples as i64])?;
        }
        archive.finish()?.flush()
    });
    written.map_err(|error| EvalError::file(path, error))
}

fn write_array<T: npyz::AutoSerialize>(
    archive: &mut ZipWriter<BufWriter<File>>,
    name: &str,
    shape: &[u64],
    values: impl IntoIterator<Item = T>,
) -> io::Result<()> {
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    archive.start_file(entry_name(name), options)?;
    let mut buffered = BufWriter::new(archive);
    let mut array = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(&mut buffered)
        .begin_nd()?;
    array.extend(values)?;
    array.finish()?;
    buffered.flush()
}

fn open(path: &Path) -> Result<Archive, EvalError> {
    let file = File::open(path).map_err(|error| EvalError::file(path, error))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|error| EvalError::file(path, format!("it is no .npz file: {error}")))
}

fn has(archive: &Archive, name: &str) -> bool {
    archive.index_for_name(&entry_name(name)).is_some()
}

/// A file without anything that is known.
fn neither(path: &Path, archive: &Archive) -> EvalError {
    let mut names: Vec<&str> = archive.file_names().take(8).collect();
    names.sort_unstable();
    let message = format!(
        "it holds {}; expected mu and sigma (pytorch-fid, clean-fid), reps (dgm-eval) or feats (clean-fid, for KID)",
        names.join(", ")
    );
    EvalError::file(path, message)
}

/// `mu`, `sigma` and, where the file has it, the number of pictures.
fn statistics(archive: &mut Archive) -> Result<Gaussian, String> {
    let mean = Array::open(archive, "mu")?;
    let dim = match *mean.shape() {
        [dim] if (1..=MAX_DIM).contains(&dim) => dim,
        _ => return Err(mean.wrong_shape(&format!("one row of at most {MAX_DIM} numbers"))),
    };
    let mean = mean.read_all()?;
    let covariance = Array::open(archive, "sigma")?;
    if covariance.shape() != [dim, dim] {
        return Err(covariance.wrong_shape(&format!("{:?}, as mu has {dim} numbers", [dim, dim])));
    }
    let covariance = symmetric(dim, &covariance.read_all()?)?;
    let mut samples = None;
    if has(archive, "samples") {
        let count = Array::open(archive, "samples")?;
        if !count.shape().is_empty() {
            return Err(count.wrong_shape("a single number"));
        }
        samples = count.read_all()?.first().map(|&count| count as usize);
    }
    Ok(Gaussian {
        mean,
        covariance,
        samples,
    })
}

/// The covariance of which `values` are the rows, or the columns.
fn symmetric(dim: usize, values: &[f64]) -> Result<Mat<f64>, String> {
    let at = |i: usize, j: usize| values[i * dim + j];
    let mut largest = 0.0f64;
    for i in 0..dim {
        if at(i, i) < 0.0 {
            return Err(format!(
                "sigma: the variance of feature {i} is {}, below zero",
                at(i, i)
            ));
        }
        largest = largest.max(at(i, i));
    }
    for i in 0..dim {
        for j in 0..i {
            if (at(i, j) - at(j, i)).abs() > ROUNDING * largest {
                return Err(format!(
                    "sigma: it is not symmetric, hence no covariance: {} at ({i}, {j}), {} at ({j}, {i})",
                    at(i, j),
                    at(j, i)
                ));
            }
        }
    }
    Ok(Mat::from_fn(dim, dim, |i, j| 0.5 * (at(i, j) + at(j, i))))
}

/// Hands the features of a file to `take`, some rows at a time, with the number of values in a row.
fn each_chunk(
    path: &Path,
    archive: &mut Archive,
    mut take: impl FnMut(usize, &[f64]) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let fail = |message: String| EvalError::file(path, message);
    let Some(name) = FEATURES.into_iter().find(|name| has(archive, name)) else {
        return Err(neither(path, archive));
    };
    let mut features = Array::open(archive, name).map_err(fail)?;
    let (count, dim) = match *features.shape() {
        [count, dim]
            if (1..=MAX_DIM).contains(&dim) && count <= MAX_VALUES / dim && features.by_rows() =>
        {
            (count, dim)
        }
        _ => {
            return Err(fail(features.wrong_shape(&format!(
                "a row per picture, of at most {MAX_DIM} and in all of at most {MAX_VALUES} numbers, stored row by row"
            ))));
        }
    };
    let mut values = Vec::new();
    for begin in (0..count).step_by(CHUNK) {
        values.clear();
        features
            .read(CHUNK.min(count - begin) * dim, &mut values)
            .map_err(fail)?;
        take(dim, &values)?;
    }
    features.finish().map_err(fail)
}

#[cfg(test)]
pub(crate) mod tests;
