//! Headers of NumPy files, before anything is believed that they say.

use std::io::Read;

/// The longest header that is read: those of plain arrays have 128 bytes.
const LONGEST: u64 = 1 << 16;

/// Refuses the beginning of a file whose header is not that of a plain array, a dictionary with one tuple: the time it takes
/// `npyz` to understand a header grows exponentially with nested brackets.
///
/// # Errors
/// What is wrong with it.
pub fn check(bytes: &[u8]) -> Result<(), String> {
    let after_magic = bytes
        .strip_prefix(b"\x93NUMPY")
        .ok_or("it is not a NumPy file")?;
    let header = match after_magic {
        [1, _, a, b, rest @ ..] => rest.get(..usize::from(u16::from_le_bytes([*a, *b]))),
        [2 | 3, _, a, b, c, d, rest @ ..] => {
            rest.get(..u32::from_le_bytes([*a, *b, *c, *d]) as usize)
        }
        _ => None,
    };
    let header = header.ok_or("its header is cut off, or of an unknown version")?;
    let brackets = header.iter().filter(|byte| b"([{".contains(byte)).count();
    if brackets > 2 {
        return Err("its header does not describe a plain array".into());
    }
    Ok(())
}

/// Reads the header of a stream, from the magic number on, and [checks](check) it; the values are read next.
///
/// # Errors
/// What is wrong with it.
pub fn read(stream: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    // Magic number and version, then the length in two or four bytes.
    extend(&mut bytes, stream, 8)?;
    let wide = bytes.get(6).is_some_and(|&version| version > 1);
    extend(&mut bytes, stream, if wide { 4 } else { 2 })?;
    let length = match bytes.get(8..) {
        Some(&[a, b]) => u64::from(u16::from_le_bytes([a, b])),
        Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => 0,
    };
    if length > LONGEST {
        return Err(format!(
            "its header claims {length} bytes, at most {LONGEST} are read"
        ));
    }
    extend(&mut bytes, stream, length)?;
    check(&bytes)?;
    Ok(bytes)
}

/// Up to `count` more bytes; fewer where the stream ends.
fn extend(bytes: &mut Vec<u8>, stream: &mut impl Read, count: u64) -> Result<(), String> {
    let read = stream.take(count).read_to_end(bytes);
    read.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes
    }

    #[test]
    fn the_values_come_right_after_the_header() {
        for version in [1, 2, 3] {
            let header = file(
                version,
                "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n",
            );
            let whole = [header.as_slice(), b"values"].concat();
            let mut stream = whole.as_slice();
            assert_eq!(read(&mut stream).unwrap(), header);
            assert_eq!(stream, b"values");
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        let mut huge = file(2, "{}");
        huge[8..12].fill(0xff);
        for bytes in [
            huge,
            file(1, &"(".repeat(40)),
            file(9, "{}"),
            file(1, "{'shape': ()}")[..15].to_vec(),
            b"\x93NUMPY".to_vec(),
            b"PK\x03\x04 is a zip".to_vec(),
            Vec::new(),
        ] {
            assert!(read(&mut bytes.as_slice()).is_err(), "{bytes:?}");
        }
    }
}
