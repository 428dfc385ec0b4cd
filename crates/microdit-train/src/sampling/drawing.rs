//! Prompts into files: pictures are written as they are drawn, and a drawing that was cut off goes on where it was.

use super::{Label, Picture, Pipeline, label::short};
use crate::{error::TrainError, recipe::SamplingConfig};
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
    /// File of all pictures on one sheet, a row for each prompt.
    pub sheet: Option<&'a Path>,
    /// Directory of the pictures one by one, each named by its place. It is created; pictures that are there already are
    /// not drawn again.
    pub singles: Option<&'a Path>,
    /// Whether pictures that are there but differ by their labels are drawn again rather than refused.
    pub overwrite: bool,
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

    /// Where the picture with index `i` is written by itself.
    fn single(&self, i: usize) -> Option<PathBuf> {
        let place = self.place + i as u64;
        Some(self.singles?.join(format!("{place:05}.png")))
    }

    /// Whether all pictures of `size` find room on one sheet.
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

/// What a drawing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Pictures drawn now.
    pub drawn: usize,
    /// Pictures that were there before.
    pub kept: usize,
    /// Whether it was stopped before all were there; what was drawn until then is in the directory of singles, and there
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

    /// Solver steps that are left, over all batches.
    pub fn steps(&self) -> u64 {
        let batches = (self.count - self.kept.len()).div_ceil(BATCH);
        batches as u64 * self.order.settings.steps as u64
    }

    /// Draws what is not there yet, until `stop` is set. A picture is written as soon as it is drawn, the sheet at the
    /// end; `progress` is told of every finished solver step.
    ///
    /// # Errors
    /// If something cannot be written. Pictures that are not finite are left out and counted: the others are drawn
    /// first, unless not one is finite.
    pub fn run(
        &self,
        stop: &AtomicBool,
        progress: impl FnMut() + Send,
    ) -> Result<Drawn, TrainError> {
        worker_pool::enter(|| self.run_in_pool(stop, progress))
    }

    fn run_in_pool(
        &self,
        stop: &AtomicBool,
        mut progress: impl FnMut(),
    ) -> Result<Drawn, TrainError> {
        let Order {
            settings,
            seed,
            sheet: sheet_path,
            singles,
            ..
        } = self.order;
        let size = self.pipeline.size();
        let mut sheet = match sheet_path {
            Some(_) => ContactSheet::new(self.count, settings.count, size),
            None => None,
        };
        if let Some(folder) = singles {
            fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        }
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
                let Some(image) = image else {
                    failed.push(i);
                    continue;
                };
                if let Some(path) = self.order.single(i) {
                    let label = self.label(i);
                    save_picture(&image, &path, label.texts()).map_err(TrainError::io(&path))?;
                }
                if let Some(sheet) = &mut sheet {
                    sheet.place(i, &image);
                }
                done.drawn += 1;
            }
            if finished < batch.len() {
                done.stopped = true;
                return Ok(done);
            }
            if done.drawn == 0 {
                break;
            }
        }
        if let Some(&first) = failed.first() {
            return Err(TrainError::NonFinitePictures {
                count: failed.len(),
                drawn: done.drawn,
                prompt: short(self.order.picture(first).prompt),
                place: self.order.picture(first).place,
            });
        }
        if let (Some(mut sheet), Some(path)) = (sheet, sheet_path) {
            for &i in &self.kept {
                sheet.place(i, &self.read(i)?);
            }
            let label = self.sheet_label();
            let page = sheet.into_image();
            save_picture(&page, path, label.texts()).map_err(TrainError::io(path))?;
        }
        Ok(done)
    }

    fn label(&self, i: usize) -> Label {
        let Order { settings, seed, .. } = self.order;
        self.pipeline.label(settings, seed, self.order.picture(i))
    }

    /// As that of its first picture, with all prompts, one a line.
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
        let Some(folder) = self.order.singles.filter(|folder| folder.exists()) else {
            return Ok(kept);
        };
        // What is there is looked through, rather than what is wanted: that may be any number.
        for entry in fs::read_dir(folder).map_err(TrainError::io(folder))? {
            let path = entry.map_err(TrainError::io(folder))?.path();
            let place = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let index = place.and_then(|place| place.checked_sub(self.order.place));
            let Some(i) = index
                .and_then(|i| usize::try_from(i).ok())
                .filter(|&i| i < self.count)
            else {
                continue;
            };
            if self.order.single(i).as_deref() != Some(&path) {
                continue;
            }
            let in_the_way = |difference| TrainError::InTheWay {
                path: path.clone(),
                difference,
            };
            if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
                return Err(in_the_way("it is no regular file".into()));
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
    fn read(&self, i: usize) -> Result<image::RgbImage, TrainError> {
        let path = self.order.single(i).unwrap_or_default();
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
            overwrite: false,
        };
        Drawing::new(self, order)?.run(stop, || ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{encoders::Encoders, recipe::Recipe};
    use burn_flex::Flex;
    use microdit::{Dit, weights::StateDict};
    use microdit_encoders::read_labels;

    /// A pipeline of the quickstart with changes, whose weights are drawn at random and then multiplied by `gain`.
    fn pipeline(gain: f32, changes: &[&str]) -> Pipeline<Flex, Dit<Flex>> {
        let device = Default::default();
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/quickstart.ron");
        let changes = ["model.depth=2"].iter().chain(changes);
        let changes: Vec<String> = changes.map(|&change| change.into()).collect();
        let recipe = Recipe::load(Path::new(recipe), &changes).unwrap();
        let stage = recipe.last_stage();
        let fresh = stage.model.init::<Flex>(0, &device).unwrap();
        let named = StateDict::from_module(&fresh);
        let tensors = named.iter().map(|(name, data)| {
            // Layers that begin at zero would draw the noise itself.
            let values: Vec<f32> = data.iter::<f32>().collect();
            let values = values.iter().enumerate();
            let values: Vec<f32> = values
                .map(|(i, value)| gain * (value + 0.02 * (i as f32).sin()))
                .collect();
            (
                name.clone(),
                burn::tensor::TensorData::new(values, data.shape.clone()),
            )
        });
        let dit = StateDict::from_tensors(tensors)
            .load_into(fresh, &device)
            .unwrap();
        Pipeline::new(stage, dit, "some".into(), &Encoders::default(), device).unwrap()
    }

    fn settings(prompts: &[&str], count: usize) -> SamplingConfig {
        SamplingConfig {
            prompts: prompts.iter().map(|&prompt| prompt.into()).collect(),
            count,
            steps: 2,
            ..SamplingConfig::default()
        }
    }

    fn order<'a>(settings: &'a SamplingConfig, singles: &'a Path) -> Order<'a> {
        Order {
            settings,
            seed: 3,
            place: 0,
            sheet: None,
            singles: Some(singles),
            overwrite: false,
        }
    }

    static GO: AtomicBool = AtomicBool::new(false);

    #[test]
    fn a_picture_is_the_same_in_every_batch() {
        let prompts: Vec<String> = (0..BATCH).map(|i| format!("picture {i}")).collect();
        let pictures: Vec<Picture<'_>> = prompts
            .iter()
            .zip(100..)
            .map(|(prompt, place)| Picture { place, prompt })
            .collect();
        for changes in [
            &[][..],
            &["model.dim=32", "model.mixer.dim=32"],
            &[
                "model.dim=16",
                "model.head_dim=16",
                "model.mixer=None",
                "model.moe=None",
            ],
            &["model.dim=640", "model.patch_size=8", "model.mixer=None"],
        ] {
            let pipeline = pipeline(1.0, changes);
            for guidance in [1.0, 5.0] {
                let settings = SamplingConfig {
                    guidance,
                    steps: 1,
                    ..settings(&[], 1)
                };
                let draw = |pictures: &[Picture<'_>]| -> Vec<u32> {
                    let latents = pipeline.denoise(&settings, 3, pictures, &GO, || ());
                    let values = latents.unwrap().into_data();
                    values.iter::<f32>().map(f32::to_bits).collect()
                };
                let together = draw(&pictures);
                let size = together.len() / BATCH;
                assert_ne!(together[..size], together[size..2 * size]);
                for count in [1, 2, 3, 7] {
                    let first = BATCH - count;
                    let alone = draw(&pictures[first..]);
                    assert!(
                        alone == together[first * size..],
                        "{changes:?}, guidance {guidance}: {count} of {BATCH}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_drawing_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (parts, whole) = (folder.path().join("parts"), folder.path().join("whole"));
        let pipeline = pipeline(1.0, &[]);
        let settings = settings(&["a", "b", "c"], 7);
        let run = |order: Order<'_>, stop: &AtomicBool, after: usize| {
            let mut steps = 0;
            let drawn = Drawing::new(&pipeline, order).unwrap().run(stop, || {
                steps += 1;
                stop.fetch_or(steps == after, Ordering::Relaxed);
            });
            drawn.unwrap()
        };
        let sheet = folder.path().join("sheet.png");
        let with_sheet = |singles| Order {
            sheet: Some(&sheet),
            ..order(&settings, singles)
        };
        let all = run(with_sheet(&whole), &AtomicBool::new(false), 0);
        assert_eq!((all.drawn, all.kept, all.stopped), (21, 0, false));
        let expected = fs::read(&sheet).unwrap();
        fs::remove_file(&sheet).unwrap();
        // Stopped in the first batch, then in the second.
        let first = run(with_sheet(&parts), &AtomicBool::new(false), 1);
        assert_eq!((first.drawn, first.stopped), (0, true));
        let second = run(with_sheet(&parts), &AtomicBool::new(false), 3);
        assert_eq!((second.drawn, second.kept, second.stopped), (16, 0, true));
        assert!(!sheet.exists());
        let third = run(with_sheet(&parts), &AtomicBool::new(false), 0);
        assert_eq!((third.drawn, third.kept, third.stopped), (5, 16, false));
        assert_eq!(fs::read(&sheet).unwrap(), expected);
        for entry in fs::read_dir(&whole).unwrap() {
            let path = entry.unwrap().path();
            let part = parts.join(path.file_name().unwrap());
            assert_eq!(fs::read(&path).unwrap(), fs::read(part).unwrap());
        }
        assert_eq!(fs::read_dir(&parts).unwrap().count(), 21);
    }

    #[test]
    fn another_picture_is_in_the_way_until_it_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = pipeline(1.0, &[]);
        let first = settings(&["a", "b"], 1);
        let order = order(&first, folder.path());
        let draw = |order: Order<'_>| Drawing::new(&pipeline, order)?.run(&GO, || ());
        draw(order).unwrap();
        let other = SamplingConfig {
            guidance: 2.5,
            ..first.clone()
        };
        let other = Order {
            settings: &other,
            ..order
        };
        let error = draw(other).unwrap_err().to_string();
        assert!(
            error.contains(".png is in the way: its guidance is 5, not 2.5"),
            "{error}"
        );
        let insisted = draw(Order {
            overwrite: true,
            ..other
        })
        .unwrap();
        assert_eq!((insisted.drawn, insisted.kept), (2, 0));
        let labels = read_labels(&folder.path().join("00001.png")).unwrap();
        for (key, text) in [
            ("guidance", "2.5"),
            ("prompt", "b"),
            ("seed", "3"),
            ("place", "1"),
        ] {
            assert!(
                labels.contains(&(key.into(), text.into())),
                "{key}: {labels:?}"
            );
        }
        // Something that is no picture at all is never replaced.
        let path = folder.path().join("00000.png");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = draw(Order {
            overwrite: true,
            ..other
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("it is no regular file"), "{error}");
    }

    #[test]
    fn what_is_not_finite_is_no_picture() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&["a red fox", "b"], 1);
        let order = Order {
            sheet: None,
            ..order(&settings, folder.path())
        };
        // Weights are finite always; what they make of noise need not be.
        let pipeline = pipeline(1e30, &[]);
        let error = Drawing::new(&pipeline, order).unwrap().run(&GO, || ());
        let error = error.unwrap_err().to_string();
        for part in ["2 pictures are not finite", "place 0", "a red fox"] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_numbered_or_shown_is_refused() {
        let count = |count, place| {
            let settings = settings(&["a", "b"], count);
            let order = Order {
                place,
                ..order(&settings, Path::new("none"))
            };
            order.count()
        };
        assert!(count(usize::MAX, 0).is_err());
        assert!(count(1, u64::MAX).is_err());
        assert_eq!(count(3, 7).unwrap(), 6);
        let many = settings(&["a"], 1 << 40);
        let error = order(&many, Path::new("none")).sheet_fits([32, 32], Path::new("a.png"));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("too many for one sheet"), "{error}");
    }
}
