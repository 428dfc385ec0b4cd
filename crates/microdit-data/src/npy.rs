//! Arrays of 16- or 32-bit floats in NumPy's format.

#![deny(clippy::arithmetic_side_effects)]

use crate::{npy_header, sample::Stored};
use half::{f16, slice::HalfFloatSliceExt as _};
use npyz::NpyFile;
use std::io;

/// A float array.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Its sides, outermost first.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

/// Reads an array, or says what is wrong with it. Memory is bounded by the bytes given, whatever their header
/// claims.
pub(crate) fn read(bytes: &[u8]) -> Result<Array, String> {
    let mut stored = bytes;
    npy_header::read(&mut stored)?;
    let file = NpyFile::new(bytes).map_err(|error| error.to_string())?;
    let shape: Option<Vec<usize>> = file
        .shape()
        .iter()
        .map(|&side| usize::try_from(side).ok())
        .collect();
    let count = |shape: &Vec<usize>| {
        shape
            .iter()
            .try_fold(1usize, |n, side| n.checked_mul(*side))
    };
    let (shape, count) = shape
        .and_then(|shape| count(&shape).map(|count| (shape, count)))
        .ok_or("its shape is larger than any memory")?;
    if count > bytes.len() {
        return Err(format!(
            "shape {shape:?} needs more than its {} bytes",
            bytes.len()
        ));
    }
    if file.order() != npyz::Order::C {
        return Err("it is stored column by column; expected row by row".into());
    }
    let dtype = file.dtype().descr();
    let values = match dtype.trim_matches('\'') {
        "<f2" => {
            let (pairs, _) = stored.as_chunks();
            let found = pairs.len();
            let pairs = pairs.get(..count);
            widened(pairs.ok_or_else(|| format!("it ends after {found} of {count} values"))?)
        }
        "<f4" => file.into_vec::<f32>().map_err(|error| error.to_string())?,
        other => return Err(format!("its type is {other}; expected <f2 or <f4")),
    };
    Ok(Array { shape, values })
}

impl Stored {
    /// The shape of an array, without its values.
    ///
    /// # Errors
    /// What is wrong with it; one whose shape is not stored.
    pub(crate) fn shape(&self) -> Result<Vec<usize>, String> {
        let Self::Npy(bytes) = self else {
            return Err("its shape is not stored; expected a NumPy array".into());
        };
        npy_header::check(bytes)?;
        let file = NpyFile::new(&bytes[..]).map_err(|error| error.to_string())?;
        let sides = file.shape().iter().map(|&side| usize::try_from(side));
        let shape: Result<_, _> = sides.collect();
        shape.map_err(|_| "its shape is larger than any memory".into())
    }

    /// Reads an array of whatever shape it has; one whose shape is not stored becomes a row.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<Array, String> {
        match self {
            Self::Npy(file) => read(file),
            Self::Halves(bytes) => read_halves(bytes, &[bytes.len() / 2]),
        }
    }
}

/// Reads 16-bit floats of the given shape.
pub(crate) fn read_halves(bytes: &[u8], shape: &[usize]) -> Result<Array, String> {
    let (pairs, rest) = bytes.as_chunks();
    let count = shape
        .iter()
        .try_fold(1usize, |count, &side| count.checked_mul(side));
    if count != Some(pairs.len()) || !rest.is_empty() {
        return Err(format!(
            "it has {} bytes; expected two for each of the 16-bit floats of shape {shape:?}",
            bytes.len()
        ));
    }
    Ok(Array {
        shape: shape.to_vec(),
        values: widened(pairs),
    })
}

/// 16-bit floats as 32-bit ones, many at a time: most of what a loader of latents has to do.
fn widened(pairs: &[[u8; 2]]) -> Vec<f32> {
    let mut values = vec![0.0; pairs.len()];
    // Where no sample needs memory of its own.
    let mut halves = [f16::ZERO; 1024];
    for (pairs, values) in pairs
        .chunks(halves.len())
        .zip(values.chunks_mut(halves.len()))
    {
        let halves = &mut halves[..pairs.len()];
        for (half, &pair) in halves.iter_mut().zip(pairs) {
            *half = f16::from_le_bytes(pair);
        }
        halves.convert_to_f32_slice(values);
    }
    values
}

/// Whether all values are finite. No early exit, so that the loop vectorizes.
pub(crate) fn all_finite(values: &[f32]) -> bool {
    values
        .iter()
        .fold(true, |all, value| all & value.is_finite())
}

/// A NumPy file of these values as 16-bit floats, row by row.
pub fn npy_of_halves(values: &[f32], shape: &[usize]) -> Vec<u8> {
    let mut file = Vec::with_capacity(values.len().saturating_mul(2).saturating_add(128));
    let shape: Vec<u64> = shape.iter().map(|&side| side as u64).collect();
    let write = |file: &mut Vec<u8>| -> io::Result<()> {
        use npyz::WriterBuilder as _;
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(file)
            .begin_nd()?;
        writer.extend(values.iter().map(|&value| f16::from_f32(value)))?;
        writer.finish()
    };
    write(&mut file).expect("memory can be written");
    file
}

#[cfg(test)]
pub(crate) fn write(descr: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape:?}, }}\n")
        .replace('[', "(")
        .replace(']', ",)");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_types_are_read() {
        let values = [1.0f32, -2.0, 0.5, 65504.0, 0.0, 3.0];
        let wide: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let narrow: Vec<u8> = values
            .iter()
            .flat_map(|v| f16::from_f32(*v).to_le_bytes())
            .collect();
        for (descr, data) in [("<f4", wide), ("<f2", narrow)] {
            let array = read(&write(descr, &[2, 3], &data)).unwrap();
            assert_eq!((array.shape, array.values), (vec![2, 3], values.to_vec()));
        }
    }

    #[test]
    fn every_16_bit_float_is_widened_to_itself() {
        let pairs: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        // Not whole chunks.
        let pairs = &pairs[..pairs.len() - 3];
        for (pair, value) in pairs.iter().zip(widened(pairs)) {
            let expected = f16::from_le_bytes(*pair);
            match expected.is_nan() {
                true => assert!(value.is_nan()),
                false => assert_eq!(value.to_bits(), expected.to_f32().to_bits()),
            }
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        let huge = usize::MAX / 2;
        let mut by_columns = write("<f4", &[2], &[0; 8]);
        let order = by_columns.windows(5).position(|five| five == b"False");
        let order = order.unwrap();
        by_columns[order..order + 5].copy_from_slice(b"True ");
        for bytes in [
            write("<f4", &[huge], &[0; 8]),
            write("<f4", &[huge, huge], &[0; 8]),
            write("<f4", &[3], &[0; 8]),
            write("<i8", &[1], &[0; 8]),
            write("|O", &[1], &[0; 8]),
            by_columns,
            write(">f4", &[2], &[0; 8]),
            write(&"[".repeat(40), &[2], &[0; 8]),
            b"\x93NUMPY".to_vec(),
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff{".to_vec(),
            Vec::new(),
        ] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
    }
}
