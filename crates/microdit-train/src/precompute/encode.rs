//! One shard of pictures into one shard of latents.

use super::{
    config::PrecomputeConfig, files::tar_path, identity::Glance, progress::Precomputed,
    record::Record,
};
use burn::tensor::{Tensor, TensorData};
use half::f16;
use image::RgbImage;
use microdit::{
    DitBackend,
    rng::{Purpose, Stream},
};
use microdit_data::{
    Columns, DataError, Image, LeftOut, Members, Sample, Shard, ShardWriter,
    image::{View, decode, pixels, viewed},
    key::{Unique, of_key},
    npy_of_halves, parallel, read_ahead, reasons,
};
use microdit_encoders::{text::TextEncoder, vae::Vae};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::Path,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

/// What came of a shard.
pub(super) enum Outcome {
    /// It is there; why its pictures were not read to the end, if they were not.
    Made(Option<String>),
    /// Nothing can be made of it, and why.
    Lost(String),
    /// Work was interrupted.
    Stopped,
}

/// A sample on its way: its place among those of its shard, its captions by their places among those that were asked for, and its
/// images in every form.
struct Prepared {
    place: u64,
    key: String,
    captions: Vec<(usize, String)>,
    images: Vec<Pixels>,
}

/// A picture in -1..1, `[3, height, width]`, and its height and width.
struct Pixels {
    values: Vec<f32>,
    size: [usize; 2],
}

/// A form in which every picture is encoded.
#[derive(Clone, Copy)]
struct Form {
    /// Pixels of a side.
    side: u32,
    /// Whether left and right are swapped.
    flipped: bool,
}

impl Form {
    /// The member that holds its latent.
    fn member(self) -> String {
        let Self { side, flipped } = self;
        format!("latent-{side}{}.npy", if flipped { "-flipped" } else { "" })
    }
}

/// What became of captions.
#[derive(Default)]
struct Captions {
    /// Of which the text encoder read only the beginning.
    cut: u64,
    /// Bytes of their states with padding, and as they were written.
    bytes: [u64; 2],
}

impl Captions {
    fn add(&mut self, more: &Self) {
        self.cut += more.cut;
        for (sum, more) in self.bytes.iter_mut().zip(more.bytes) {
            *sum += more;
        }
    }
}

/// The pictures of a shard.
struct Pictures {
    samples: Vec<Sample>,
    sha256: String,
    /// Why they are not all.
    cut: Option<String>,
}

/// Networks and settings of a precomputation.
#[derive(Debug)]
pub struct Precompute<'a, B: DitBackend> {
    /// Images to latents.
    pub vae: &'a Vae<B>,
    /// Captions to states.
    pub text: &'a TextEncoder<B>,
    /// How.
    pub config: &'a PrecomputeConfig,
    /// Where.
    pub device: &'a B::Device,
}

impl<B: DitBackend> Precompute<'_, B> {
    /// Encodes shard `number` while the pictures of the next batch are decoded.
    pub(super) fn shard(
        &self,
        number: usize,
        shard: &Shard,
        out: &Path,
        stop: &AtomicBool,
        state: &mut Precomputed,
        progress: &mut impl FnMut(&Precomputed),
    ) -> Result<Outcome, DataError> {
        let mut left_out = LeftOut::default();
        let Some((source, pictures)) = read(shard, &self.members(), stop, &mut left_out)? else {
            return Ok(Outcome::Stopped);
        };
        let pictures = match pictures {
            Ok(pictures) => pictures,
            Err(why) => {
                Record::lose(source, &why, left_out.counts, out, number)?;
                return Ok(Outcome::Lost(why));
            }
        };
        let mut writer = ShardWriter::create(&tar_path(out, number))?;
        let mut captions = Captions::default();
        let size = self.config.batch;
        let batches = pictures.samples.chunks(size).enumerate();
        let finished = thread::scope(|scope| -> Result<bool, DataError> {
            let (sender, receiver) = mpsc::sync_channel(1);
            let threads = thread::available_parallelism().map_or(1, usize::from);
            scope.spawn(move || {
                for (batch, samples) in batches {
                    let prepare = |i, sample: &Sample| {
                        self.prepare(number, (batch * size + i) as u64, sample)
                    };
                    let prepared = parallel::map(samples, threads, prepare);
                    if sender.send((samples, prepared)).is_err() {
                        return;
                    }
                }
            });
            for (samples, prepared) in receiver {
                if stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let mut sound = Vec::with_capacity(prepared.len());
                for (sample, prepared) in samples.iter().zip(prepared) {
                    // A panic in a decoder costs the picture alone.
                    let panicked =
                        || Err("an image that cannot be decoded: its decoder panicked".into());
                    match prepared.unwrap_or_else(panicked) {
                        Ok(prepared) => sound.push(prepared),
                        Err(lack) => left_out.note(&source.file, &sample.key, &lack),
                    }
                }
                let before = writer.samples();
                let written =
                    self.write(number, &sound, &mut writer, &source.file, &mut left_out)?;
                captions.add(&written);
                state.samples += writer.samples() - before;
                state.too_damaged(self.config.max_damage, &left_out, writer.samples())?;
                progress(state);
            }
            Ok(true)
        })?;
        if !finished {
            return Ok(Outcome::Stopped);
        }
        let (made, rejected) = (writer.samples(), left_out.counts.clone());
        state.count(made, left_out);
        if made == 0 {
            // A shard without samples would stop a run that trains on it.
            let counts = Some(reasons(&rejected)).filter(|counts| !counts.is_empty());
            let why: Vec<String> = pictures.cut.into_iter().chain(counts).collect();
            let why = Some(why.join("; ")).filter(|why| !why.is_empty());
            let why = why.unwrap_or_else(|| "it is empty".into());
            let why = format!("no usable sample: {why}");
            Record::lose(source, &why, rejected, out, number)?;
            return Ok(Outcome::Lost(why));
        }
        let record = Record {
            report: writer.finish(rejected)?,
            source,
            source_sha256: pictures.sha256,
            cut: pictures.cut.clone(),
            captions_cut: captions.cut,
            caption_bytes: captions.bytes,
        };
        record.write(out, number)?;
        state.captions_cut += captions.cut;
        state.count_states(captions.bytes);
        Ok(Outcome::Made(pictures.cut))
    }

    /// Encodes and writes samples of shard `number`; returns what became of their captions.
    fn write(
        &self,
        number: usize,
        samples: &[Prepared],
        writer: &mut ShardWriter,
        origin: &str,
        left_out: &mut LeftOut,
    ) -> Result<Captions, DataError> {
        if samples.is_empty() {
            return Ok(Captions::default());
        }
        let texts = samples.iter().flat_map(|sample| &sample.captions);
        let texts: Vec<&str> = texts.map(|(_, text)| text.as_str()).collect();
        let states = self.states(&texts);
        let lengths = match self.config.trim_padding {
            true => self.text.lengths(&texts),
            false => vec![self.text.tokens(); texts.len()],
        };
        let forms = self.forms();
        let latents: Vec<Vec<Rows>> = (0..forms.len())
            .map(|form| self.latents(number, form, samples))
            .collect();
        let (mut captions, mut end) = (Captions::default(), 0);
        for (j, sample) in samples.iter().enumerate() {
            let own = end..end + sample.captions.len();
            end = own.end;
            // What is not finite as it is stored would cost a whole batch its gradient, again and again.
            let lack = if !latents.iter().all(|rows| rows[j].fits_halves(0)) {
                Some("a non-finite latent")
            } else if !own.clone().all(|row| states.fits_halves(row)) {
                Some("non-finite caption states")
            } else {
                None
            };
            if let Some(lack) = lack {
                left_out.note(origin, &sample.key, lack);
                continue;
            }
            let mut members = Vec::new();
            for ((named, text), row) in sample.captions.iter().zip(own) {
                let [text_name, states_name] = self.names(*named);
                members.push((text_name, text.as_bytes().to_vec()));
                let [tokens, channels] = [self.text.tokens(), self.text.channels()];
                let kept = &states.row(row)[..lengths[row] * channels];
                members.push((states_name, npy_of_halves(kept, &[lengths[row], channels])));
                captions.add(&Captions {
                    cut: u64::from(self.text.cut(text).is_some()),
                    bytes: [tokens, lengths[row]].map(|tokens| 2 * (tokens * channels) as u64),
                });
            }
            let latents = latents.iter().zip(&forms);
            members.extend(latents.map(|(rows, form)| (form.member(), rows[j].npy(0))));
            let members: Vec<(&str, &[u8])> = members
                .iter()
                .map(|(name, content)| (name.as_str(), content.as_slice()))
                .collect();
            writer.add(&sample.key, &members)?;
        }
        Ok(captions)
    }

    /// Which parts of a shard are read.
    fn members(&self) -> Members {
        match &self.config.captions[..] {
            [] => Members::Pictures,
            names => Members::Named(Columns::of_captions(names).into()),
        }
    }

    /// The names of the members that hold a caption and its states.
    fn names(&self, named: usize) -> [String; 2] {
        match self.config.captions.get(named) {
            None => ["txt".into(), "caption.npy".into()],
            Some(name) => ["txt", "npy"].map(|ending| format!("caption-{name}.{ending}")),
        }
    }

    /// The states of captions, so many at once as images are.
    fn states(&self, texts: &[&str]) -> Rows {
        let mut all = Rows {
            values: Vec::new(),
            shape: Vec::new(),
        };
        for part in texts.chunks(self.config.batch) {
            let rows = Rows::of(self.text.encode(part, self.device));
            all.values.extend(rows.values);
            all.shape = rows.shape;
        }
        all
    }

    /// Sizes, each one or both ways.
    fn forms(&self) -> Vec<Form> {
        let both = [false, true];
        let ways = if self.config.flips {
            &both[..]
        } else {
            &both[..1]
        };
        let sizes = self.config.sizes.iter();
        let forms = sizes.flat_map(|&side| ways.iter().map(move |&flipped| Form { side, flipped }));
        forms.collect()
    }

    /// The pictures of the sample at `place` of shard `number` in every form, or what is wrong with it.
    fn prepare(&self, number: usize, place: u64, sample: &Sample) -> Result<Prepared, String> {
        let Image::Encoded(file) = &sample.image else {
            return Err("no image".into());
        };
        let image = decode(file)?;
        let in_form = |Form { side, flipped }: Form| {
            let crop = self.config.random_crop.then(|| {
                self.draw(Purpose::Variation, number, place, side)
                    .uniform(2)
            });
            let view = View {
                crop: crop.map(|points| [points[0], points[1]]),
                flip: flipped,
            };
            let [width, height] = self.size(&image, side);
            Pixels {
                values: pixels(&viewed(Cow::Borrowed(&image), width, height, view)),
                size: [height as usize, width as usize],
            }
        };
        Ok(Prepared {
            place,
            key: sample.key.clone(),
            captions: sample
                .captions()
                .map(|(named, text)| (named, text.to_owned()))
                .collect(),
            images: self.forms().into_iter().map(in_form).collect(),
        })
    }

    /// Width and height that a picture is cropped to in the place of a square of `side`.
    fn size(&self, image: &RgbImage, side: u32) -> [u32; 2] {
        let buckets = self.config.buckets.as_ref();
        match buckets.and_then(|buckets| buckets.of(side).ok()) {
            None => [side; 2],
            Some(buckets) => buckets.sizes()[buckets.nearest(image.width(), image.height())],
        }
    }

    /// What is drawn for the sample at `place` of shard `number` at a size.
    fn draw(&self, purpose: Purpose, number: usize, place: u64, side: u32) -> Stream {
        // A shard has fewer than 2^32 samples.
        let place = ((number as u64) << 32) | place;
        Stream::new(self.config.seed, purpose, side.into(), place)
    }

    /// Latents of the images in the form of that number, each by itself; those of one size are encoded together.
    fn latents(&self, i: usize, form: usize, samples: &[Prepared]) -> Vec<Rows> {
        let mut sizes: BTreeMap<[usize; 2], Vec<usize>> = BTreeMap::new();
        for (j, sample) in samples.iter().enumerate() {
            sizes.entry(sample.images[form].size).or_default().push(j);
        }
        let mut latents: Vec<(usize, Rows)> = Vec::with_capacity(samples.len());
        for (size, places) in sizes {
            let encoded = Rows::of(self.latents_of(i, form, size, samples, &places));
            latents.extend(places.into_iter().enumerate().map(|(row, j)| {
                let values = encoded.row(row).to_vec();
                let shape = encoded.shape.clone();
                (j, Rows { values, shape })
            }));
        }
        latents.sort_by_key(|(j, _)| *j);
        latents.into_iter().map(|(_, latent)| latent).collect()
    }

    /// Latents of the images at `places` in the form of that number, all of one height and width.
    fn latents_of(
        &self,
        i: usize,
        form: usize,
        [height, width]: [usize; 2],
        samples: &[Prepared],
        places: &[usize],
    ) -> Tensor<B, 4> {
        let Form { side, flipped } = self.forms()[form];
        let shrinks = self.vae.shrinks_by();
        let shape = [
            places.len(),
            self.vae.latent_channels(),
            height / shrinks,
            width / shrinks,
        ];
        let values: usize = shape[1..].iter().product();
        let draw = |&j: &usize| {
            let mut noise = self.draw(Purpose::Posterior, i, samples[j].place, side);
            // The first half is the draw of a picture as it is, whether it is encoded both ways or not.
            match flipped {
                false => noise.normal(values),
                true => noise.normal(2 * values).split_off(values),
            }
        };
        let noise: Vec<f32> = places.iter().flat_map(draw).collect();
        let images = places.iter().flat_map(|&j| &samples[j].images[form].values);
        let images: Vec<f32> = images.copied().collect();
        let images = TensorData::new(images, [places.len(), 3, height, width]);
        let on_device = |data| Tensor::from_data(data, self.device);
        self.vae
            .encode(on_device(images), on_device(TensorData::new(noise, shape)))
    }
}

/// The fingerprint of a shard with its sound samples, or why it cannot be read.
type Looked = (Glance, Result<Pictures, String>);

/// Reads a shard; nothing if told to stop.
fn read(
    shard: &Shard,
    members: &Members,
    stop: &AtomicBool,
    left_out: &mut LeftOut,
) -> Result<Option<Looked>, DataError> {
    let (mut samples, mut keys) = (Vec::new(), Unique::default());
    let (name, reader, members) = (shard.name(), shard.clone(), members.clone());
    let read = read_ahead(
        stop,
        move |send| {
            let (source, checksum) = (Glance::at(&reader), reader.file().checksum());
            let take = |key: &str, sample| send((key.to_owned(), sample));
            let end = reader.for_each(&members, take);
            (source, checksum, end.err())
        },
        |(key, sample): (String, Result<Sample, String>)| {
            match sample {
                Ok(mut sample) => {
                    sample.key = keys.give(of_key(&sample.key));
                    samples.push(sample);
                }
                Err(lack) => left_out.note(&name, &key, &lack),
            }
            Ok(true)
        },
    )?;
    let Some((source, checksum, end)) = read else {
        return Ok(None);
    };
    // The pictures are out of reach, not damaged.
    let (checksum, end) = match (checksum, end) {
        (Err(error @ DataError::Remote(_)), _) | (_, Some(error @ DataError::Remote(_))) => {
            return Err(error);
        }
        both => both,
    };
    let pictures = checksum.map(|(_, sha256)| Pictures {
        sha256,
        samples,
        cut: end.map(|error| error.reason()),
    });
    Ok(Some((source, pictures.map_err(|error| error.reason()))))
}

/// A tensor on the host, row by row of its first dimension.
struct Rows {
    values: Vec<f32>,
    shape: Vec<usize>,
}

impl Rows {
    fn of<B: DitBackend, const D: usize>(tensor: Tensor<B, D>) -> Self {
        let shape = tensor.dims()[1..].to_vec();
        let values = tensor.into_data().iter::<f32>().collect();
        Self { values, shape }
    }

    fn row(&self, row: usize) -> &[f32] {
        let size: usize = self.shape.iter().product();
        &self.values[row * size..(row + 1) * size]
    }

    /// Whether all its values are finite as 16-bit floats, which end at 65504.
    fn fits_halves(&self, row: usize) -> bool {
        self.row(row)
            .iter()
            .all(|&value| f16::from_f32(value).is_finite())
    }

    fn npy(&self, row: usize) -> Vec<u8> {
        npy_of_halves(self.row(row), &self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_as_it_is_stored_is_found() {
        let rows = |value| Rows {
            values: vec![0.0, 1.0, value, 2.0],
            shape: vec![2],
        };
        for (value, fits) in [
            (65504.0, true),
            (-65519.0, true),
            (65520.0, false),
            (-1e30, false),
            (f32::NAN, false),
            (f32::INFINITY, false),
        ] {
            assert_eq!(rows(value).fits_halves(1), fits, "{value}");
            assert!(rows(value).fits_halves(0), "{value}");
        }
    }
}
