//! Pictures as MosaicML Streaming stores them in columns of the encoding `pil`: a size, the name of one of Pillow's modes, and the levels.

/// The picture as an uncompressed TIFF, which is decoded, turned and put on a background like any other file.
pub(super) fn to_tiff(column: &[u8]) -> Result<Vec<u8>, String> {
    let short =
        || "an image that cannot be decoded: a column of the encoding pil is too short".to_owned();
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(column.get(at..at + 4)?.try_into().ok()?))
    };
    let (width, height) = word(0).zip(word(4)).ok_or_else(short)?;
    let rest = &column[8..];
    let mode = word(8)
        .and_then(|length| rest[4..].get(..usize::try_from(length).ok()?))
        .ok_or_else(short)?;
    let levels = &rest[4 + mode.len()..];
    // Bits of a level, levels of a pixel, and TIFF's code for it.
    let (bits, count, kind): (u64, u16, u16) = match mode {
        b"1" => (1, 1, 1),
        b"L" => (8, 1, 1),
        b"LA" => (8, 2, 1),
        b"RGB" => (8, 3, 2),
        b"RGBA" => (8, 4, 2),
        b"CMYK" => (8, 4, 5),
        b"I;16" => (16, 1, 1),
        other => {
            let mode = String::from_utf8_lossy(&other[..other.len().min(20)]);
            return Err(format!(
                "an image in a mode of Pillow that is not read: {mode}; expected 1, L, LA, RGB, RGBA, CMYK or I;16"
            ));
        }
    };
    let row = (u64::from(width) * u64::from(count) * bits).div_ceil(8);
    if row.checked_mul(height.into()) != Some(levels.len() as u64)
        || levels.len() > i32::MAX as usize - 1024
    {
        return Err(format!(
            "an image that cannot be decoded: {width} x {height} pixels of mode {} in {} bytes",
            String::from_utf8_lossy(mode),
            levels.len()
        ));
    }
    if mode == b"LA" {
        // The decoder knows no gray with transparency.
        let colors: Vec<u8> = levels
            .chunks_exact(2)
            .flat_map(|pair| [pair[0], pair[0], pair[0], pair[1]])
            .collect();
        return Ok(tiff([width, height], 8, 4, 2, &colors));
    }
    Ok(tiff([width, height], bits as u16, count, kind, levels))
}

fn tiff([width, height]: [u32; 2], bits: u16, count: u16, kind: u16, levels: &[u8]) -> Vec<u8> {
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    /// Where the bits of each level are listed, and what follows them.
    const BITS: u32 = 8;
    const LEVELS: u32 = 16;
    let length = levels.len() as u32;
    let (where_bits, alpha) = match count {
        1 => (u32::from(bits), false),
        _ => (BITS, count == 4 && kind == 2),
    };
    let mut fields = vec![
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, u32::from(count), where_bits),
        (259, SHORT, 1, 1),
        (262, SHORT, 1, u32::from(kind)),
        (273, LONG, 1, LEVELS),
        (277, SHORT, 1, u32::from(count)),
        (278, LONG, 1, height),
        (279, LONG, 1, length),
    ];
    if alpha {
        fields.push((338, SHORT, 1, 2));
    }
    let mut file = Vec::with_capacity(levels.len() + 256);
    file.extend(b"II\x2a\0");
    let directory = (LEVELS + length).next_multiple_of(2);
    file.extend(directory.to_le_bytes());
    file.extend([bits; 4].map(u16::to_le_bytes).concat());
    file.extend(levels);
    file.resize(directory as usize, 0);
    file.extend((fields.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in fields {
        file.extend(u16::to_le_bytes(tag));
        file.extend(kind.to_le_bytes());
        file.extend(count.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file.extend([0; 4]);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode;

    fn column(width: u32, height: u32, mode: &str, levels: &[u8]) -> Vec<u8> {
        let sizes = [width, height, mode.len() as u32]
            .map(u32::to_le_bytes)
            .concat();
        [&sizes, mode.as_bytes(), levels].concat()
    }

    #[test]
    fn modes_of_pillow_are_pictures() {
        for (mode, levels, expected) in [
            (
                "1",
                &[0b1000_0000, 0b0100_0000][..],
                [[255; 3], [0; 3], [0; 3], [255; 3]],
            ),
            ("L", &[0, 1, 2, 255], [[0; 3], [1; 3], [2; 3], [255; 3]]),
            (
                "LA",
                &[0, 255, 1, 255, 2, 0, 3, 255],
                [[0; 3], [1; 3], [255; 3], [3; 3]],
            ),
            (
                "RGB",
                &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]],
            ),
            (
                "RGBA",
                &[1, 2, 3, 255, 4, 5, 6, 255, 7, 8, 9, 0, 10, 11, 12, 255],
                [[1, 2, 3], [4, 5, 6], [255; 3], [10, 11, 12]],
            ),
            (
                "CMYK",
                &[0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0, 255, 0, 0],
                [[255; 3], [0; 3], [0, 255, 255], [255, 0, 255]],
            ),
            (
                "I;16",
                &[0, 0, 255, 1, 0, 128, 255, 255],
                [[0; 3], [1; 3], [128; 3], [255; 3]],
            ),
        ] {
            let file = to_tiff(&column(2, 2, mode, levels)).unwrap();
            let image = decode(&file).unwrap_or_else(|error| panic!("{mode}: {error}"));
            let pixels: Vec<[u8; 3]> = image.pixels().map(|pixel| pixel.0).collect();
            assert_eq!(pixels, expected, "{mode}");
        }
    }

    #[test]
    fn other_columns_are_errors() {
        let huge = column(u32::MAX, u32::MAX, "RGBA", &[0; 4]);
        let long = [
            &[1, 0, 0, 0, 1, 0, 0, 0][..],
            &u32::MAX.to_le_bytes(),
            b"RGB",
        ]
        .concat();
        for bytes in [
            &b""[..],
            &[0; 11],
            &huge,
            &long,
            &column(2, 2, "RGB", &[0; 11]),
            &column(2, 2, "P", &[0; 4]),
        ] {
            assert!(to_tiff(bytes).is_err(), "{bytes:?}");
        }
        assert!(
            to_tiff(&column(1, 1, "F", &[0; 4]))
                .unwrap_err()
                .contains("not read: F")
        );
    }
}
