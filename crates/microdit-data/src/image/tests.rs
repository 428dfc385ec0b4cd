//! Pictures in every format, whole and damaged. `tests/faults/pictures` holds JPEG files made by Pillow 13, with what Pillow makes of each
//! beside it as PNG.

mod orientation;

use super::*;
use image::{
    DynamicImage, GrayAlphaImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage,
};
use std::{borrow::Cow, io::Cursor, path::Path};

/// JPEG files of every kind: baseline, progressive, subsampled, with restarts, gray, CMYK.
const JPEGS: [&str; 10] = [
    "baseline",
    "baseline_444",
    "baseline_422",
    "progressive",
    "gray",
    "gray_progressive",
    "cmyk",
    "ycck",
    "restarts",
    "restarts_progressive",
];

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/faults/pictures");
    std::fs::read(folder.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, format).unwrap();
    file.into_inner()
}

/// A picture with something in every part.
fn picture() -> DynamicImage {
    RgbImage::from_fn(45, 37, |x, y| {
        Rgb([(x * 5) as u8, (y * 6) as u8, (x * y % 251) as u8])
    })
    .into()
}

/// A file of every format and kind that is read.
fn files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = JPEGS
        .iter()
        .map(|name| (format!("{name}.jpg"), fixture(&format!("{name}.jpg"))))
        .collect();
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ] {
        files.push((format!("{format:?}"), encoded(&picture(), format)));
    }
    files.push(("lossy.webp".into(), fixture("lossy.webp")));
    files.push(("interlaced.png".into(), fixture("interlaced.png")));
    files
}

/// Largest and mean difference of two pictures.
fn difference(one: &RgbImage, other: &RgbImage) -> (u8, f64) {
    assert_eq!(one.dimensions(), other.dimensions());
    let differences = one
        .as_raw()
        .iter()
        .zip(other.as_raw())
        .map(|(a, b)| a.abs_diff(*b));
    let (mut largest, mut sum) = (0, 0.0);
    for difference in differences {
        largest = largest.max(difference);
        sum += f64::from(difference);
    }
    (largest, sum / one.as_raw().len() as f64)
}

#[test]
fn jpegs_are_what_pillow_makes_of_them() {
    for name in JPEGS {
        let found = decode(&fixture(&format!("{name}.jpg")))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = image::load_from_memory(&fixture(&format!("{name}.png")))
            .unwrap()
            .into_rgb8();
        let (largest, mean) = difference(&found, &expected);
        // Decoders may differ in how they round and smooth colors.
        assert!(
            largest <= 12 && mean < 1.0,
            "{name}: {largest} at most, {mean} on average"
        );
    }
}

/// Cut at every twentieth, and before its last bytes, a file of any format is damaged; Pillow says the same of each.
#[test]
fn cut_files_are_damaged() {
    for (name, file) in files() {
        assert!(
            decode(&file).is_ok(),
            "{name}: {}",
            decode(&file).unwrap_err()
        );
        for part in 0..20 {
            let cut = file.len() * part / 20;
            assert!(decode(&file[..cut]).is_err(), "{name}, {part}/20");
        }
        let jpeg = file.starts_with(&[0xff, 0xd8]);
        if jpeg {
            for missing in [1, 2, 3] {
                assert!(
                    decode(&file[..file.len() - missing]).is_err(),
                    "{name} without its last {missing} bytes"
                );
            }
        }
    }
}

/// The end marker is there, but something before it is missing.
#[test]
fn jpegs_with_a_hole_are_damaged() {
    for name in JPEGS {
        let file = fixture(&format!("{name}.jpg"));
        let scan = file.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
        for part in 1..20 {
            let cut = scan + 16 + (file.len() - scan - 18) * part / 20;
            let holed = [&file[..cut], &[0xff, 0xd9]].concat();
            // Where a scan of several ends, a shorter file is a whole one.
            if !name.ends_with("progressive") {
                assert!(decode(&holed).is_err(), "{name}, {part}/20");
            }
        }
    }
    // For progressive files, all but those cut after the first scan or between two.
    for name in ["progressive", "gray_progressive"] {
        let file = fixture(&format!("{name}.jpg"));
        let last = file
            .windows(2)
            .rposition(|two| two == [0xff, 0xda])
            .unwrap();
        let holed = [&file[..(last + file.len()) / 2], &[0xff, 0xd9]].concat();
        assert!(decode(&holed).is_err(), "{name}");
    }
    // A restart and what follows it are missing.
    let file = fixture("restarts.jpg");
    let restart = file.windows(2).position(|two| two == [0xff, 0xd2]).unwrap();
    let next = file.windows(2).position(|two| two == [0xff, 0xd3]).unwrap();
    assert!(decode(&[&file[..restart], &file[next..]].concat()).is_err());
}

#[test]
fn odd_but_whole_files_are_read() {
    for name in JPEGS {
        let file = fixture(&format!("{name}.jpg"));
        let expected = decode(&file).unwrap();
        let middle = file.windows(2).position(|two| two == [0xff, 0xda]).unwrap();
        let comment = [0xff, 0xff, 0xff, 0xfe, 0, 5, b'o', b'd', b'd'];
        for odd in [
            [&file[..], &[0; 100]].concat(),
            [&file[..], &[0xff; 3]].concat(),
            // As in MPO, and as cameras append previews.
            [&file[..], &fixture("baseline.jpg")].concat(),
            [&file[..], &fixture("gray.jpg")[..200]].concat(),
            // Bytes between segments, and fill bytes before a marker.
            [&file[..middle], &[0; 9], &file[middle..]].concat(),
            [&file[..middle], &comment, &file[middle..]].concat(),
            [
                &file[..file.len() - 2],
                &[0xff, 0xff, 0xff],
                &file[file.len() - 1..],
            ]
            .concat(),
        ] {
            let found = decode(&odd).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(found, expected, "{name}");
        }
    }
}

#[test]
fn transparent_parts_show_the_background() {
    let black = [0, 0, 0];
    // A bar, half a shadow, nothing.
    let colors = RgbaImage::from_fn(3, 1, |x, _| Rgba([10, 20, 30, [255, 128, 0][x as usize]]));
    let gray = GrayAlphaImage::from_fn(3, 1, |x, _| LumaA([10, [255, 128, 0][x as usize]]));
    let wide = DynamicImage::from(colors.clone()).into_rgba16();
    for (what, file) in [
        ("PNG", encoded(&colors.clone().into(), ImageFormat::Png)),
        ("PNG of 16 bits", encoded(&wide.into(), ImageFormat::Png)),
        ("WebP", encoded(&colors.clone().into(), ImageFormat::WebP)),
        ("TIFF", encoded(&colors.clone().into(), ImageFormat::Tiff)),
        ("gray PNG", encoded(&gray.into(), ImageFormat::Png)),
    ] {
        let expected = |part: u32| {
            if what.starts_with("gray") {
                [10; 3]
            } else {
                [10, 20, 30]
            }
            .map(|level: u32| ((level * part + 255 * (255 - part)) as f64 / 255.0).round() as u8)
        };
        let found = decode(&file).unwrap();
        for (x, alpha) in [255, 128, 0].into_iter().enumerate() {
            assert_eq!(
                found.get_pixel(x as u32, 0).0,
                expected(alpha),
                "{what}, {alpha}"
            );
        }
        let Picture { image, transparent } = read(&file, black, &Limits::default()).unwrap();
        assert!(transparent && image.get_pixel(2, 0).0 == black, "{what}");
    }
    // Palettes have a transparent color: GIF, and PNG by tRNS.
    let palettes = [
        encoded(
            &RgbaImage::from_pixel(2, 2, Rgba([9, 9, 9, 0])).into(),
            ImageFormat::Gif,
        ),
        fixture("palette.png"),
    ];
    for file in palettes {
        assert_eq!(decode(&file).unwrap().get_pixel(1, 1).0, [255; 3]);
        assert_eq!(
            read(&file, [1, 2, 3], &Limits::default())
                .unwrap()
                .image
                .get_pixel(1, 1)
                .0,
            [1, 2, 3]
        );
    }
    // An alpha channel that hides nothing is no reason to store a picture again.
    let opaque = encoded(
        &RgbaImage::from_pixel(2, 2, Rgba([9, 9, 9, 255])).into(),
        ImageFormat::Png,
    );
    assert!(
        !read(&opaque, black, &Limits::default())
            .unwrap()
            .transparent
    );
}

#[test]
fn wide_and_narrow_levels_become_bytes() {
    let levels = [0, 255, 256, 300, 32_768, 65_535];
    let gray = image::ImageBuffer::<Luma<u16>, _>::from_raw(6, 1, levels.to_vec()).unwrap();
    let found = decode(&encoded(&gray.into(), ImageFormat::Png)).unwrap();
    let bytes: Vec<u8> = found.pixels().map(|pixel| pixel[0]).collect();
    assert_eq!(bytes, [0, 0, 1, 1, 128, 255]);
    let bits = decode(&fixture("one_bit.png")).unwrap();
    assert_eq!(
        [bits.get_pixel(0, 0).0, bits.get_pixel(1, 0).0],
        [[0; 3], [255; 3]]
    );
}

#[test]
fn what_is_not_read_is_named() {
    for (beginning, expected) in [
        (&b"\0\0\0\x1cftypavif"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIF"),
        (b"\xff\x0a\0\0", "JPEG XL"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"<svg xmlns=", "SVG"),
        (b"<?xml version='1.0'?><svg>", "SVG"),
        (b"\r\n<!DOCTYPE html>", "HTML"),
        (b"P6 1 1 255 abc", "PNM"),
        (b"nonsense", "its format is unknown"),
        (b"", "empty"),
    ] {
        let error = decode(beginning).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn enormous_pictures_are_refused_before_memory_is_taken() {
    let mut file = encoded(&RgbImage::new(3, 2).into(), ImageFormat::Png);
    for (width, height, expected) in [
        (
            100_000u32,
            100_000u32,
            "a side of more than 30000 pixels (limits.max_side)",
        ),
        (
            30_000,
            30_000,
            "more than 89478485 pixels (limits.max_pixels)",
        ),
    ] {
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());
        let error = decode(&file).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(&format!("{width} x {height}")), "{error}");
    }
    let mut file = fixture("progressive.jpg");
    let frame = file.windows(2).position(|two| two == [0xff, 0xc2]).unwrap();
    file[frame + 5..frame + 9].fill(0xff);
    let error = decode(&file).unwrap_err().to_string();
    assert!(error.contains("65535 x 65535"), "{error}");
}

/// The checksum of PNG's chunks.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn limits_have_ranges_and_names() {
    let limits = Limits {
        max_aspect: 10.0,
        ..Limits::default()
    };
    assert!(limits.admit_aspect(100, 10).is_ok());
    let error = limits.admit_aspect(10, 101).unwrap_err();
    assert!(
        error.contains("10 times") && error.contains("limits.max_aspect"),
        "{error}"
    );
    assert!(error.to_string().contains("10 x 101"), "{error}");
    for bad in [0.0, 0.5, -1.0, f64::NAN, f64::INFINITY, 1e308] {
        assert!(
            Limits {
                max_aspect: bad,
                ..limits
            }
            .check()
            .is_err()
        );
    }
    assert!(
        Limits {
            max_side: 0,
            ..limits
        }
        .check()
        .is_err()
    );
    assert!(
        Limits {
            max_pixels: u64::MAX,
            ..limits
        }
        .check()
        .is_err()
    );
    assert!(limits.check().is_ok());
}

/// Nothing is distorted: a picture of vertical stripes keeps them vertical, centered, and as wide as its scale says.
#[test]
fn a_picture_covers_any_size_undistorted_and_cut_in_the_middle() {
    // Red to the left of the middle, blue to the right of it; green above the middle.
    let picture = RgbImage::from_fn(400, 300, |x, y| {
        Rgb([
            if x < 200 { 255 } else { 0 },
            if y < 150 { 255 } else { 0 },
            if x < 200 { 0 } else { 255 },
        ])
    });
    for (width, height) in [(40, 40), (80, 20), (20, 80), (400, 300), (500, 700), (1, 9)] {
        let found = cover(&picture, width, height);
        assert_eq!(found.dimensions(), (width, height));
        let corners = [
            (0, 0),
            (width - 1, 0),
            (0, height - 1),
            (width - 1, height - 1),
        ];
        if width > 1 {
            let colors = corners.map(|(x, y)| found.get_pixel(x, y).0);
            let expected = [[255, 255, 0], [0, 255, 255], [255, 0, 0], [0, 0, 255]];
            assert_eq!(colors, expected, "{width} x {height}");
        }
    }
    // A circle stays one: what is cut lies at the sides of the longer side alone.
    let ring = RgbImage::from_fn(300, 100, |x, y| {
        let off = (f64::from(x) - 149.5).hypot(f64::from(y) - 49.5);
        Rgb([if off < 40.0 { 255 } else { 0 }; 3])
    });
    let small = cover(&ring, 50, 25);
    let lit = |x, y| small.get_pixel(x, y)[0] > 127;
    let [across, down] = [
        (0..50).filter(|&x| lit(x, 12)).count(),
        (0..25).filter(|&y| lit(25, y)).count(),
    ];
    assert_eq!(across, down);
    assert!((19..=21).contains(&across), "{across} for 80 of 100 pixels");
    // Strips of any length are read, and a square is one of the sizes.
    assert_eq!(
        cover(&RgbImage::new(1, 60_000), 30, 20).dimensions(),
        (30, 20)
    );
    assert_eq!(
        cover(&RgbImage::new(60_000, 1), 20, 30).dimensions(),
        (20, 30)
    );
    assert_eq!(cover(&picture, 64, 64), square(&picture, 64));
}

#[test]
fn a_picture_that_is_whole_already_is_not_copied() {
    let picture = RgbImage::from_fn(8, 6, |x, y| Rgb([x as u8, y as u8, 7]));
    let seen = |width, height, view| viewed(Cow::Borrowed(&picture), width, height, view);
    for crop in [None, Some([0.9, 0.1])] {
        let whole = seen(8, 6, View { crop, flip: false });
        assert!(matches!(whole, Cow::Borrowed(_)));
        let mirrored = seen(8, 6, View { crop, flip: true });
        assert_eq!(mirrored.get_pixel(0, 2), picture.get_pixel(7, 2));
    }
    assert_eq!(picture.get_pixel(0, 2).0, [0, 2, 7]);
}
