//! Prompts to files: pictures are written as they are drawn, and an interrupted drawing continues where it stopped.

use super::{Label, Pipeline, denoise::Picture, label::short};
use crate::{error::TrainError, recipe::SamplingConfig};
use image::RgbImage;
use microdit::{DitBackend, net::Denoiser, worker_pool};
use microdit_encoders::{ContactSheet, PictureFormat, save_picture};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Pictures denoised together.
const BATCH: usize = 16;

/// What to draw, and where to.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// Prompts, pictures of each, and how they are drawn.
    pub settings: &'a SamplingConfig,
    /// Seed of the noise.
    pub seed: u64,
    /// Place of the first picture, the others follow: the noise of a picture follows from seed and place, so that it does
    /// not depend on what else is drawn.
    pub place: u64,
    /// File of the contact sheet of all pictures, a row for each prompt.
    pub sheet: Option<&'a Path>,
    /// Directory of the pictures one by one. It is created; pictures that are there already are not drawn again.
    pub singles: Option<&'a Path>,
    /// How those are named.
    pub naming: Naming,
    /// Whether pictures that are there but differ by their labels are drawn again rather than refused.
    pub overwrite: bool,
}

/// How pictures in a directory are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// By their places.
    #[default]
    Place,
    /// By a hash of everything they depend on, so that one directory holds pictures of many settings.
    Label,
}

impl<'a> Order<'a> {
    /// Number of the pictures.
    ///
    /// # Errors
    /// If that, or their places, cannot be counted.
    pub fn count(&self) -> Result<usize, TrainError> {
        let count = self.settings.prompts.len().checked_mul(self.settings.count);
        let counted = count.filter(|&count| self.place.checked_add(count as u64).is_some());
        counted.ok_or(TrainError::TooManyPictures)
    }

    fn picture(&self, i: usize) -> Picture<'a> {
        Picture {
            place: self.place + i as u64,
            prompt: &self.settings.prompts[i / self.settings.count],
        }
    }

    /// Checks that a contact sheet of all pictures of `size` is within the limits of its file format.
    ///
    /// # Errors
    /// What would not hold it, and how large it would be.
    pub fn sheet_fits(&self, size: [u32; 2], path: &Path) -> Result<(), TrainError> {
        let count = self.count()?;
        let page = ContactSheet::size(count, self.settings.count, size);
        let longest = PictureFormat::of(path).map_or(0, PictureFormat::longest_side);
        match page {
            Some(page) if page.iter().all(|&side| side <= longest) => Ok(()),
            _ => Err(TrainError::SheetTooLarge {
                path: path.to_owned(),
                count,
            }),
        }
    }
}

/// A drawing that has been checked and can begin.
pub struct Drawing<'a, B: DitBackend, D> {
    pipeline: &'a Pipeline<B, D>,
    order: Order<'a>,
    count: usize,
    /// Pictures that are there already.
    kept: BTreeSet<usize>,
}

/// The outcome of a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Pictures drawn now.
    pub drawn: usize,
    /// Pictures that were there before.
    pub kept: usize,
    /// Whether it was stopped before all were drawn; what was drawn until then is in the directory of singles, and there
    /// is no sheet.
    pub stopped: bool,
}

impl<'a, B: DitBackend, D: Denoiser<B>> Drawing<'a, B, D> {
    /// Checks what can be checked before a picture is drawn.
    ///
    /// # Errors
    /// A sheet that is too large, and pictures in the way that have other labels.
    pub fn new(pipeline: &'a Pipeline<B, D>, order: Order<'a>) -> Result<Self, TrainError> {
        let count = order.count()?;
        pipeline.check(order.settings)?;
        if let Some(path) = order.sheet {
            order.sheet_fits(pipeline.size(), path)?;
        }
        let mut drawing = Self {
            pipeline,
            order,
            count,
            kept: BTreeSet::new(),
        };
        drawing.kept = drawing.find_kept()?;
        Ok(drawing)
    }

    /// Where the picture with index `i` is written by itself, if pictures are.
    pub fn single(&self, i: usize) -> Option<PathBuf> {
        let name = match self.order.naming {
            Naming::Place => format!("{:05}", self.order.place + i as u64),
            Naming::Label => self.label(i).hash(),
        };
        Some(self.order.singles?.join(format!("{name}.png")))
    }

    /// Solver steps that are left, over all batches.
    pub fn steps(&self) -> u64 {
        let batches = (self.count - self.kept.len()).div_ceil(BATCH);
        let steps = match self.pipeline.one_step {
            Some(_) => 1,
            None => self.pipeline.trajectory(self.order.settings).steps.len(),
        };
        batches as u64 * steps as u64
    }

    /// Draws what is not there yet, until `stop` is set. A picture is written as soon as it is drawn, the sheet at the
    /// end; `progress` is called after every solver step.
    ///
    /// # Errors
    /// If something cannot be written. Pictures that are not finite are left out and counted: the others are drawn
    /// first, unless not one is finite.
    pub fn run(
        &self,
        stop: &AtomicBool,
        progress: impl FnMut() + Send,
    ) -> Result<Drawn, TrainError> {
        let Order {
            settings,
            sheet: sheet_path,
            singles,
            ..
        } = self.order;
        let mut sheet = match sheet_path {
            Some(_) => ContactSheet::new(self.count, settings.count, self.pipeline.size()),
            None => None,
        };
        if let Some(folder) = singles {
            fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
        let done = self.for_each(stop, progress, |i, image| {
            if let Some(path) = self.single(i) {
                let label = self.label(i);
                save_picture(&image, &path, label.texts()).map_err(TrainError::io(&path))?;
            }
            if let Some(sheet) = &mut sheet {
                sheet.place(i, &image);
            }
            Ok(())
        })?;
        if let (Some(mut sheet), Some(path), false) = (sheet, sheet_path, done.stopped) {
            for &i in &self.kept {
                sheet.place(i, &self.read(i)?);
            }
            let label = self.sheet_label();
            let page = sheet.into_image();
            save_picture(&page, path, label.texts()).map_err(TrainError::io(path))?;
        }
        Ok(done)
    }

    /// Draws what is not there yet, until `stop` is set, and hands each picture with its index to `take` as soon as it is drawn;
    /// nothing is written. `progress` is called after every solver step.
    ///
    /// # Errors
    /// Those of `take`. Pictures that are not finite are left out and counted: the others are drawn first, unless not one
    /// is finite.
    pub fn for_each(
        &self,
        stop: &AtomicBool,
        progress: impl FnMut() + Send,
        take: impl FnMut(usize, RgbImage) -> Result<(), TrainError> + Send,
    ) -> Result<Drawn, TrainError> {
        worker_pool::enter(|| self.for_each_in_pool(stop, progress, take))
    }

    fn for_each_in_pool(
        &self,
        stop: &AtomicBool,
        mut progress: impl FnMut(),
        mut take: impl FnMut(usize, RgbImage) -> Result<(), TrainError>,
    ) -> Result<Drawn, TrainError> {
        let Order { settings, seed, .. } = self.order;
        let mut done = Drawn {
            drawn: 0,
            kept: self.kept.len(),
            stopped: false,
        };
        let mut failed: Vec<usize> = Vec::new();
        let mut left = (0..self.count).filter(|i| !self.kept.contains(i));
        loop {
            let batch: Vec<usize> = left.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                break;
            }
            let pictures: Vec<Picture<'_>> = batch.iter().map(|&i| self.order.picture(i)).collect();
            let latents = self
                .pipeline
                .denoise(settings, seed, &pictures, stop, &mut progress);
            let images = latents
                .into_iter()
                .flat_map(|latents| self.pipeline.look_at(latents));
            let mut images = batch.iter().zip(images);
            let mut finished = 0;
            while !stop.load(Ordering::Relaxed)
                && let Some((&i, image)) = images.next()
            {
                finished += 1;
                match image {
                    Some(image) => {
                        take(i, image)?;
                        done.drawn += 1;
                    }
                    None => failed.push(i),
                }
            }
            if finished < batch.len() {
                done.stopped = true;
                return Ok(done);
            }
            if done.drawn == 0 {
                break;
            }
        }
        match failed.first() {
            Some(&first) => Err(TrainError::NonFinitePictures {
                count: failed.len(),
                drawn: done.drawn,
                prompt: short(self.order.picture(first).prompt),
                place: self.order.picture(first).place,
            }),
            None => Ok(done),
        }
    }

    fn label(&self, i: usize) -> Label {
        let Order { settings, seed, .. } = self.order;
        self.pipeline.label(settings, seed, self.order.picture(i))
    }

    /// As that of its first picture, with all prompts, one per line.
    fn sheet_label(&self) -> Label {
        let Order {
            settings,
            seed,
            place,
            ..
        } = self.order;
        let prompt = &settings.prompts.join("\n");
        let count = settings.count.to_string();
        self.pipeline
            .label(settings, seed, Picture { place, prompt })
            .with("count", count)
    }

    /// The pictures that are there already, by their labels.
    fn find_kept(&self) -> Result<BTreeSet<usize>, TrainError> {
        let mut kept = BTreeSet::new();
        if !self.order.singles.is_some_and(Path::exists) {
            return Ok(kept);
        }
        for i in 0..self.count {
            let Some(path) = self
                .single(i)
                .filter(|path| path.symlink_metadata().is_ok())
            else {
                continue;
            };
            let in_the_way = |difference| TrainError::InTheWay {
                path: path.clone(),
                difference,
            };
            if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                return Err(in_the_way("it is not a regular file".into()));
            }
            match self.label(i).difference(&path) {
                None => drop(kept.insert(i)),
                Some(_) if self.order.overwrite => {}
                Some(difference) => return Err(in_the_way(difference)),
            }
        }
        Ok(kept)
    }

    /// A picture that was there already.
    fn read(&self, i: usize) -> Result<RgbImage, TrainError> {
        let path = self.single(i).unwrap_or_default();
        match image::open(&path) {
            Ok(image) => Ok(image.into_rgb8()),
            Err(error) => Err(TrainError::InTheWay {
                path,
                difference: format!("it cannot be read ({error})"),
            }),
        }
    }
}

impl<B: DitBackend, D: Denoiser<B>> Pipeline<B, D> {
    /// Draws the prompts onto one sheet, from place 0 on, unless `stop` is set before; none if there are none.
    pub(crate) fn draw_sheet(
        &self,
        settings: &SamplingConfig,
        seed: u64,
        path: &Path,
        stop: &AtomicBool,
    ) -> Result<Drawn, TrainError> {
        let order = Order {
            settings,
            seed,
            place: 0,
            sheet: Some(path).filter(|_| !settings.prompts.is_empty()),
            singles: None,
            naming: Naming::Place,
            overwrite: false,
        };
        Drawing::new(self, order)?.run(stop, || ())
    }
}

#[cfg(test)]
mod tests;
