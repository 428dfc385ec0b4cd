//! The format of a file by its first bytes: names can be wrong.

use image::ImageFormat;

/// Extensions and members of pictures that are read, in the order they are looked for.
pub(crate) const READ: [&str; 14] = [
    "jpg", "jpeg", "png", "webp", "jfif", "jpe", "jif", "apng", "gif", "bmp", "dib", "tif", "tiff",
    "image",
];

/// Extensions of pictures that are not read: they are counted, so that they are not missed silently.
pub(crate) const UNREAD: [&str; 31] = [
    "avif", "avifs", "heic", "heif", "jxl", "jp2", "j2k", "jpx", "jpf", "svg", "svgz", "ico",
    "cur", "psd", "tga", "pnm", "ppm", "pgm", "pbm", "exr", "hdr", "dds", "qoi", "ff", "dng",
    "cr2", "cr3", "nef", "arw", "raf", "xcf",
];

/// The format of a file that begins with these bytes, if it is one that is not read.
pub(super) fn foreign(file: &[u8]) -> Option<&'static str> {
    let text = file.trim_ascii_start();
    let begins = |word: &str| {
        text.get(..word.len())
            .is_some_and(|bytes| bytes.eq_ignore_ascii_case(word.as_bytes()))
    };
    let brand = file
        .get(4..12)
        .and_then(|brand| brand.strip_prefix(b"ftyp"));
    Some(match brand {
        Some(b"avif" | b"avis") => "AVIF",
        Some(b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1") => {
            "HEIF"
        }
        Some(b"crx ") => "a camera's raw format",
        Some(b"jp2 " | b"jpx ") => "JPEG 2000",
        Some(_) => "a video",
        None if file.starts_with(b"\xff\x0a") || file.starts_with(b"\0\0\0\x0cJXL ") => "JPEG XL",
        None if file.starts_with(b"\0\0\0\x0cjP  ") || file.starts_with(b"\xff\x4f\xff\x51") => {
            "JPEG 2000"
        }
        None if file.starts_with(b"8BPS") => "Photoshop's format",
        None if file.starts_with(b"gimp xcf") => "GIMP's format",
        None if file.starts_with(b"%PDF") => "PDF",
        None if file.starts_with(b"\x1f\x8b") => "gzip",
        None if begins("<svg")
            || begins("<?xml") && file.windows(4).take(1024).any(|four| four == b"<svg") =>
        {
            "SVG"
        }
        None if begins("<!doctype") || begins("<html") => "HTML",
        None => match image::guess_format(file).ok()? {
            ImageFormat::Avif => "AVIF",
            ImageFormat::Ico => "ICO",
            ImageFormat::Pnm => "PNM",
            ImageFormat::OpenExr => "OpenEXR",
            ImageFormat::Hdr => "Radiance HDR",
            ImageFormat::Dds => "DDS",
            ImageFormat::Farbfeld => "farbfeld",
            ImageFormat::Qoi => "QOI",
            _ => return None,
        },
    })
}

/// Whether a file whose name says nothing begins like an image, of a supported format or not.
pub(crate) fn looks_like_a_picture(beginning: &[u8]) -> bool {
    let foreign =
        foreign(beginning).is_some_and(|name| !matches!(name, "HTML" | "PDF" | "gzip" | "a video"));
    foreign || image::guess_format(beginning).is_ok()
}
