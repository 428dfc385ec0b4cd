//! `microdit data inspect`: what a dataset holds.

use crate::{
    advice::{MAX_DAMAGE, OrAdvise},
    bar::Counter,
    device::{Device, kind, on_device},
    number::{real, whole},
    output, say,
};
use burn::tensor::{Tensor, TensorData};
use image::RgbImage;
use microdit::DitBackend;
use microdit_data::{BucketConfig, Fault, Glimpse, Inspection, inspect};
use microdit_encoders::{
    contact_sheet,
    hub::locate,
    save_picture,
    vae::{Vae, pictures},
};
use miette::{MietteDiagnostic, WrapErr};
use std::{collections::BTreeMap, path::PathBuf};

/// Count, measure and check the samples of shards, and look at some.
#[derive(clap::Args)]
pub(crate) struct Inspect {
    /// A tar, a pattern such as train-{000..009}.tar, a directory of shards, or the URL of one of these
    shards: String,
    /// Picture to write with some of the samples
    #[arg(long)]
    sheet: Option<PathBuf>,
    /// Samples on that picture
    #[arg(long, default_value_t = 64, value_parser = whole(1..=10_000))]
    samples: usize,
    /// VAE that decodes latents for it: its directory, or a name such as sdxl-vae
    #[arg(long)]
    vae: Option<PathBuf>,
    /// Share of the samples that may be damaged, 0 to 1, before the dataset is called unfit for training
    #[arg(long, default_value_t = 0.1, value_parser = real(0.0..=1.0))]
    max_damage: f64,
    /// Buckets to count the images by, as `data precompute` takes them: a step in pixels, such as 64, or sizes, such as 320x192,256x256
    #[arg(long)]
    buckets: Option<BucketConfig>,
    /// Side in pixels of the square that has as many pixels as the largest bucket
    #[arg(long, default_value_t = 256, requires = "buckets", value_parser = clap::value_parser!(u32).range(1..=8192))]
    size: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Device to decode on
    #[arg(long, value_parser = kind(), default_value_t = Device::best())]
    device: Device,
}

impl Inspect {
    pub(crate) fn run(self) -> miette::Result<()> {
        let wanted = if self.sheet.is_some() {
            self.samples
        } else {
            0
        };
        if let Some(path) = &self.sheet {
            output::picture(path)?;
        }
        let buckets = self.buckets.as_ref().map(|buckets| buckets.of(self.size));
        let buckets = buckets.transpose().or_advise()?;
        let mut bar = Counter::new("inspected shards");
        let inspected = inspect(&self.shards, wanted, |shards| bar.show(shards as u64, ""));
        drop(bar);
        let (inspection, glimpses) = inspected.or_advise()?;
        if buckets.is_some() && inspection.dimensions.is_empty() {
            return Err(miette::miette!(
                "{}: --buckets counts images, and there is none that can be read; latents belong to the buckets they were encoded with",
                self.shards
            ));
        }
        let histogram = buckets.map(|buckets| buckets.histogram(&inspection.dimensions));
        let histogram = histogram.unwrap_or_default();
        if self.json {
            let mut value = serde_json::to_value(&inspection).or_advise()?;
            for ([width, height], count) in &histogram {
                value["buckets"][format!("{width} x {height}")] = (*count).into();
            }
            let text = serde_json::to_string_pretty(&value).or_advise()?;
            say!("{text}");
        } else {
            describe(&inspection);
            bars(&histogram);
        }
        if let Some(path) = &self.sheet {
            let images = on_device!(self.device, Inner => self.look_at::<Inner>(glimpses, Default::default()))?;
            let columns = (images.len() as f64).sqrt().ceil() as usize;
            let page = contact_sheet(&images, columns)
                .ok_or_else(|| miette::miette!("too many images for one sheet; lower --samples"))?;
            save_picture(&page, path, &[])
                .or_advise()
                .wrap_err_with(|| format!("{} could not be written", path.display()))?;
        }
        let faults = inspection.faults(self.max_damage);
        if faults.is_empty() {
            return Ok(());
        }
        let damage = |fault: &Fault| matches!(fault, Fault::TooMuchDamage { .. });
        let advice = faults.iter().any(damage).then_some(MAX_DAMAGE);
        let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
        let message = format!("{}: {}", self.shards, faults.join("; "));
        let mut fault = MietteDiagnostic::new(message);
        fault.help = advice.map(str::to_owned);
        Err(fault.into())
    }

    fn look_at<B: DitBackend>(
        &self,
        glimpses: Vec<Glimpse>,
        device: B::Device,
    ) -> miette::Result<Vec<RgbImage>> {
        let vae = match &self.vae {
            Some(name) => {
                let path = locate(name).or_advise()?;
                Some(Vae::<B>::open(&path, &device).or_advise()?)
            }
            None => None,
        };
        let mut images = Vec::with_capacity(glimpses.len());
        for glimpse in glimpses {
            match (glimpse, &vae) {
                (Glimpse::Picture(image), _) => images.push(image),
                (Glimpse::Latent(shape, values), Some(vae)) => {
                    let Some(shape) = full_shape(&shape, vae.latent_channels()) else {
                        return Err(miette::miette!(
                            "latents of shape {shape:?} are not this VAE's"
                        ));
                    };
                    let latent = Tensor::from_data(TensorData::new(values, shape), &device);
                    images.extend(pictures(vae.decode(latent)));
                }
                (Glimpse::Latent(..), None) => {
                    return Err(miette::miette!("a picture of latents needs --vae"));
                }
            }
        }
        Ok(images)
    }
}

/// `[1, channels, height, width]` of a latent; one stored without its shape is taken to be square.
fn full_shape(shape: &[usize], channels: usize) -> Option<[usize; 4]> {
    match *shape {
        [found, height, width] => (found == channels).then_some([1, channels, height, width]),
        [count] => {
            let side = (count / channels).isqrt();
            (channels * side * side == count).then_some([1, channels, side, side])
        }
        _ => None,
    }
}

/// Cells of the longest bar.
const BAR: u64 = 40;

/// A histogram of the images by their bucket, from the highest to the widest.
fn bars(histogram: &[([u32; 2], u64)]) {
    let most = histogram.iter().map(|(_, count)| *count).max();
    let most = most.unwrap_or(0).max(1);
    for ([width, height], count) in histogram {
        let bar = "#".repeat((count * BAR).div_ceil(most) as usize);
        let size = format!("{width} x {height}");
        say!("bucket     {size:>11} {count:>9} {bar}");
    }
}

fn describe(found: &Inspection) {
    let list = |entries: &BTreeMap<String, u64>| {
        let mut entries: Vec<_> = entries.iter().collect();
        entries.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let more = entries.len().saturating_sub(5);
        let shown = entries
            .iter()
            .take(5)
            .map(|(what, count)| format!("{what} ({count})"));
        let mut text = shown.collect::<Vec<_>>().join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    };
    say!("members    {}", found.contents.join(", "));
    say!("shards     {}, {} MiB", found.shards, found.bytes >> 20);
    say!("samples    {}", found.samples);
    say!("sizes      {}", list(&found.sizes));
    if !found.captions.is_empty() {
        say!("captions   {}", list(&found.captions));
        say!(
            "values     mean {:.4}, deviation {:.4}",
            found.latents.mean,
            found.latents.std
        );
    }
    let length = found.caption_length;
    say!(
        "texts      {} to {} characters, median {}",
        length.least,
        length.most,
        length.median
    );
    let damaged: u64 = found.damaged.values().sum();
    say!("damaged    {damaged}");
    for (what, count) in &found.damaged {
        say!("  {count} with {what}");
    }
    for example in &found.examples {
        say!("  {example}");
    }
    for broken in &found.broken_shards {
        say!("  shard {broken}");
    }
    for lack in &found.lacks {
        say!("lacks      {lack}");
    }
}
