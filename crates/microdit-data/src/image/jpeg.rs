//! JPEG decoding that notices missing parts.
//!
//! The decoder fills what is missing with gray, and does not report a file that ends early. So the file is scanned first: without its
//! end marker it counts as cut, as for Pillow. And ones are inserted between the last bits of a scan and the marker that ends it: no
//! Huffman code consists of ones alone, so a decoder that needs more bits than there are fails on them.

use super::limits::Limits;
use image::{DynamicImage, GrayImage, RgbImage};
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, errors::DecodeErrors};

/// What every JPEG begins with.
const START: [u8; 2] = [0xff, 0xd8];

/// Ones, as they are written among coded bits: more than a decoder takes at once.
const ONES: [u8; 16] = [
    0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0,
];

/// The EXIF and the XMP data of a file.
type Metadata = [Option<Vec<u8>>; 2];

/// The picture of a file, its EXIF and its XMP data.
type Parts = (DynamicImage, Metadata);

/// Width and height of a file as they are stored, with its EXIF and its XMP data, by its header alone.
pub(super) fn size(file: &[u8]) -> Result<([u32; 2], Metadata), String> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(broken)?;
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let metadata = [decoder.exif().cloned(), decoder.xmp().cloned()];
    Ok(([width as u32, height as u32], metadata))
}

fn broken(error: DecodeErrors) -> String {
    format!("an image that cannot be decoded: JPEG: {error:?}")
}

/// Decodes a file; with it the EXIF and the XMP data, if there are any.
pub(super) fn decode(file: &[u8], limits: &Limits) -> Result<Parts, String> {
    let truncated = || "an image file that is truncated".to_owned();
    let file = Walk::through(file).ok_or_else(truncated)?.sealed()?;
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file.as_slice()), options);
    if decoder.decode_headers().is_err() {
        // Odd headers are not damage.
        let options = options.set_strict_mode(false);
        decoder = JpegDecoder::new_with_options(ZCursor::new(file.as_slice()), options);
        decoder.decode_headers().map_err(broken)?;
    }
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let (width, height) = (width as u32, height as u32);
    limits.admit_size(width, height)?;
    let gray = matches!(
        decoder.input_colorspace(),
        Some(ColorSpace::Luma | ColorSpace::LumaA)
    );
    let colors = if gray {
        ColorSpace::Luma
    } else {
        ColorSpace::RGB
    };
    let options = decoder.options().jpeg_set_out_colorspace(colors);
    decoder.set_options(options);
    let pixels = decoder.decode().map_err(broken)?;
    let image = match gray {
        true => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
        false => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
    };
    let metadata = [decoder.exif().cloned(), decoder.xmp().cloned()];
    Ok((image.ok_or_else(truncated)?, metadata))
}

/// What the markers of a file say.
struct Walk<'a> {
    file: &'a [u8],
    /// Where segments begin and end, without what lies between them; scans include their coded bits.
    segments: Vec<(usize, usize)>,
    /// How many of the segments lie before the end of each scan, in their order.
    scans: Vec<usize>,
    progressive: bool,
    /// Height, width, and for each component its name and how often it is sampled across and down.
    frame: (usize, usize, Vec<[u8; 3]>),
    /// Units between restarts, zero without.
    interval: usize,
    /// A scan that lacks restarts.
    lacking: bool,
}

impl<'a> Walk<'a> {
    /// Walks from the beginning to the end marker of the first picture in the file; `None` if the file ends before it.
    fn through(file: &'a [u8]) -> Option<Self> {
        let mut walk = Self {
            file,
            segments: Vec::new(),
            scans: Vec::new(),
            progressive: false,
            frame: (0, 0, Vec::new()),
            interval: 0,
            lacking: false,
        };
        let mut at = START.len();
        loop {
            // Whatever lies between two segments is skipped.
            at += memchr::memchr(0xff, file.get(at..)?)?;
            let marker = at + file[at..].iter().position(|&byte| byte != 0xff)?;
            let begin = marker - 1;
            at = marker + 1;
            match file[marker] {
                0xd9 => return Some(walk),
                0x00 | 0x01 | 0xd0..=0xd8 => continue,
                kind => {
                    let length =
                        usize::from(u16::from_be_bytes(file.get(at..at + 2)?.try_into().ok()?));
                    let content = file.get(at + 2..at + length.max(2))?;
                    at += length.max(2);
                    walk.segment(kind, content);
                    if kind == 0xda {
                        at = walk.scan(content, at)?;
                        walk.scans.push(walk.segments.len() + 1);
                    }
                }
            }
            walk.segments.push((begin, at));
        }
    }

    fn segment(&mut self, kind: u8, content: &[u8]) {
        match (kind, content) {
            (
                0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf,
                [_, a, b, c, d, _, components @ ..],
            ) => {
                self.progressive = kind == 0xc2;
                let word = |high: &u8, low: &u8| usize::from(u16::from_be_bytes([*high, *low]));
                let (components, _) = components.as_chunks();
                let component =
                    |[name, times, _]: &[u8; 3]| [*name, (times >> 4).max(1), (times & 15).max(1)];
                self.frame = (
                    word(a, b),
                    word(c, d),
                    components.iter().map(component).collect(),
                );
            }
            (0xdd, [a, b, ..]) => self.interval = usize::from(u16::from_be_bytes([*a, *b])),
            _ => {}
        }
    }

    /// Where the coded bits end that begin at `at`.
    fn scan(&mut self, header: &[u8], mut at: usize) -> Option<usize> {
        let mut restarts = 0;
        loop {
            at += memchr::memchr(0xff, self.file.get(at..)?)?;
            match self.file.get(at + 1)? {
                0x00 => at += 2,
                0xd0..=0xd7 => {
                    restarts += 1;
                    at += 2;
                }
                0xff => at += 1,
                _ => break,
            }
        }
        if self.interval > 0 {
            self.lacking |= restarts + 1 < self.units(header).div_ceil(self.interval);
        }
        Some(at)
    }

    /// Units of a scan with this header.
    fn units(&self, header: &[u8]) -> usize {
        let (height, width, components) = &self.frame;
        let most = |which: usize| {
            components
                .iter()
                .map(|times| usize::from(times[which]))
                .max()
                .unwrap_or(1)
        };
        let (across, down) = (most(1), most(2));
        match header {
            // One component alone: a unit is a block.
            [1, name, ..] => {
                let times = components.iter().find(|times| times[0] == *name);
                let [_, h, v] = times.copied().unwrap_or([0, 1, 1]).map(usize::from);
                (width * h).div_ceil(8 * across) * (height * v).div_ceil(8 * down)
            }
            _ => width.div_ceil(8 * across) * height.div_ceil(8 * down),
        }
    }

    /// The file as the decoder gets it: without what lies between segments and after the picture, and with ones after scans.
    fn sealed(&self) -> Result<Vec<u8>, String> {
        if self.lacking {
            return Err("an image with missing parts: JPEG: a scan has fewer restarts than its frame has parts".into());
        }
        let mut sealed =
            Vec::with_capacity(self.file.len() + ONES.len() * self.scans.len() + 2 * START.len());
        sealed.extend(START);
        for (i, &(begin, end)) in self.segments.iter().enumerate() {
            sealed.extend(&self.file[begin..end]);
            let scan = self.scans.iter().position(|&after| after == i + 1);
            // The decoder looks for the marker after the others where their bits end.
            let apart = match scan {
                Some(scan) if self.progressive => scan > 0,
                Some(scan) => scan + 1 == self.scans.len(),
                None => false,
            };
            if apart {
                sealed.extend(ONES);
            }
        }
        sealed.extend([0xff, 0xd9]);
        Ok(sealed)
    }
}
