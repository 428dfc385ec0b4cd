//! Training: AdamW and Muon on shifted and mirrored pictures, each draw from its own counter.

use super::{
    Accuracy, Classifier, ClassifierConfig, ClassifierError, Dataset, largest, network::ConvNet,
};
use burn::{
    module::AutodiffModule,
    tensor::{
        Tensor, TensorData, activation::log_softmax, backend::AutodiffBackend, cast::ToElement as _,
    },
};
use microdit::{
    DitBackend,
    rng::{Purpose, Stream},
};
use microdit_train::optim::{Gradients, Optimizer};

/// How far a training is, after each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Cross-entropy of the step's pictures, in nats.
    pub loss: f32,
}

impl<B: DitBackend> Classifier<B> {
    /// Trains on one dataset and measures the accuracy on another, whose classes must be among the first one's. `progress` is called
    /// after each step.
    ///
    /// # Errors
    /// A configuration out of range, datasets of other sides or of fewer pictures than a step has, held-out pictures of a class that was
    /// not trained, and a loss that is not finite.
    pub fn fit<AB>(
        train: &Dataset,
        held_out: &Dataset,
        config: &ClassifierConfig,
        device: &B::Device,
        mut progress: impl FnMut(Progress),
    ) -> Result<(Self, Accuracy), ClassifierError>
    where
        AB: DitBackend + AutodiffBackend<InnerBackend = B, Device = B::Device>,
    {
        config.validate()?;
        check(train, config)?;
        // What it cannot be measured on is said before it is trained.
        truth(&train.classes, held_out, config)?;
        let per_epoch = (train.len() / config.batch) as u64;
        let steps = config.epochs * per_epoch;
        let schedule = ClassifierConfig::schedule(steps);
        let mut optimizer = Optimizer::<B>::new(config.optimizer());
        let classes = train.classes.len();
        let mut network = ConvNet::<AB>::new(config.widths, classes, config.seed, device);
        let mut order: Vec<usize> = (0..train.len()).collect();
        for step in 0..steps {
            let (epoch, place) = (step / per_epoch, (step % per_epoch) as usize);
            if place == 0 {
                Stream::new(config.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
            }
            let chosen = &order[place * config.batch..][..config.batch];
            let (x, targets) = batch::<AB>(train, chosen, config, step, device);
            let logits = network.logits(x);
            let loss = -(log_softmax(logits, 1) * targets).sum_dim(1).mean();
            let value = loss.clone().into_scalar().to_f32();
            if !value.is_finite() {
                return Err(ClassifierError::Diverged { step, loss: value });
            }
            let grads = Gradients::collect(&network, &mut loss.backward());
            let lr = config.lr * schedule.multiplier(step + 1, steps);
            (network, _) = optimizer.step::<AB, _>(network, grads, &loss.inner(), lr);
            progress(Progress {
                step: step + 1,
                steps,
                loss: value,
            });
        }
        let classifier = Self {
            network: network.valid(),
            config: config.clone(),
            classes: train.classes.clone(),
            captions: train.captions.clone(),
            device: device.clone(),
        };
        let accuracy = classifier.accuracy_on(held_out)?;
        Ok((classifier, accuracy))
    }

    /// The share of pictures whose class it sees.
    ///
    /// # Errors
    /// Images of another size, or of a class that the classifier was not trained on.
    pub fn accuracy_on(&self, data: &Dataset) -> Result<Accuracy, ClassifierError> {
        let truth = truth(&self.classes, data, &self.config)?;
        let mut accuracy = Accuracy::default();
        let places: Vec<usize> = (0..data.len()).collect();
        for chosen in places.chunks(super::BATCH) {
            let levels = chosen.iter().flat_map(|&place| data.picture(place));
            let values: Vec<f32> = levels.copied().map(value).collect();
            let shape = [chosen.len(), 3, data.side, data.side];
            let x = Tensor::from_data(TensorData::new(values, shape), &self.device);
            let logits: Vec<f32> = self.network.logits(x).into_data().iter::<f32>().collect();
            let rows = logits.chunks_exact(self.classes.len());
            for (row, &place) in rows.zip(chosen) {
                accuracy.count(largest(row) == truth[data.labels[place]]);
            }
        }
        Ok(accuracy)
    }
}

/// Checks that a dataset can be learnt from.
fn check(train: &Dataset, config: &ClassifierConfig) -> Result<(), ClassifierError> {
    check_side(train, config)?;
    if train.len() < config.batch {
        let message = format!(
            "it has {} pictures; a step takes {}",
            train.len(),
            config.batch
        );
        return Err(ClassifierError::shards(&train.shards, message));
    }
    Ok(())
}

fn check_side(data: &Dataset, config: &ClassifierConfig) -> Result<(), ClassifierError> {
    if data.side == config.side {
        return Ok(());
    }
    let (found, expected) = (data.side, config.side);
    let message =
        format!("its pictures were read with a side of {found} pixels; expected {expected}");
    Err(ClassifierError::shards(&data.shards, message))
}

/// Checks that a dataset can be judged by: the place of each of its classes among `trained`.
fn truth(
    trained: &[String],
    held_out: &Dataset,
    config: &ClassifierConfig,
) -> Result<Vec<usize>, ClassifierError> {
    check_side(held_out, config)?;
    let place = |class: &String| {
        trained.binary_search(class).map_err(|_| {
            let message = format!(
                "it has images of class `{class}`, which the classifier was not trained on"
            );
            ClassifierError::shards(&held_out.shards, message)
        })
    };
    held_out.classes.iter().map(place).collect()
}

/// The chosen pictures, mirrored and shifted, `[batch, 3, side, side]`; and 1 at their classes, `[batch, classes]`.
fn batch<B: DitBackend>(
    data: &Dataset,
    chosen: &[usize],
    config: &ClassifierConfig,
    step: u64,
    device: &B::Device,
) -> (Tensor<B, 4>, Tensor<B, 2>) {
    let (side, classes) = (data.side, data.classes.len());
    let mut values = Vec::with_capacity(chosen.len() * 3 * side * side);
    let mut targets = vec![0f32; chosen.len() * classes];
    for (row, &place) in chosen.iter().enumerate() {
        let mut random = Stream::new(config.seed, Purpose::Task, step, row as u64);
        let mirrored = random.below(2) == 1;
        let mut shift = || random.below(2 * config.shift + 1) as isize - config.shift as isize;
        let by = [shift(), shift()];
        moved(data.picture(place), side, by, mirrored, &mut values);
        targets[row * classes + data.labels[place]] = 1.0;
    }
    let x = TensorData::new(values, [chosen.len(), 3, side, side]);
    let targets = TensorData::new(targets, [chosen.len(), classes]);
    (
        Tensor::from_data(x, device),
        Tensor::from_data(targets, device),
    )
}

/// Appends the values of a picture that is moved by `[down, right]` pixels after it was mirrored, or not; beyond its edges it
/// continues as its own mirror image.
fn moved(
    picture: &[u8],
    side: usize,
    [down, right]: [isize; 2],
    mirrored: bool,
    values: &mut Vec<f32>,
) {
    for plane in picture.chunks_exact(side * side) {
        for y in 0..side {
            let row = &plane[reflected(y as isize - down, side) * side..][..side];
            values.extend((0..side).map(|x| {
                let x = reflected(x as isize - right, side);
                value(row[if mirrored { side - 1 - x } else { x }])
            }));
        }
    }
}

/// The place within `0..side` of one at most a side away from it, without the edge twice.
fn reflected(place: isize, side: usize) -> usize {
    let place = place.unsigned_abs();
    if place < side {
        place
    } else {
        2 * (side - 1) - place
    }
}

/// A level as the network takes it, -1 to 1.
fn value(level: u8) -> f32 {
    f32::from(level) / 127.5 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_move_and_are_continued_as_a_mirror_shows_them() {
        let level = |place: f32| ((place + 1.0) * 127.5).round() as u8;
        let picture: Vec<u8> = (0..16).collect();
        let found = |by, mirrored| {
            let mut values = Vec::new();
            moved(&picture, 4, by, mirrored, &mut values);
            values.into_iter().map(level).collect::<Vec<u8>>()
        };
        assert_eq!(found([0, 0], false), picture);
        assert_eq!(found([0, 0], true)[..4], [3, 2, 1, 0]);
        assert_eq!(found([0, 1], false)[..4], [1, 0, 1, 2]);
        assert_eq!(found([0, -2], false)[..4], [2, 3, 2, 1]);
        assert_eq!(found([-1, 0], false)[..4], [4, 5, 6, 7]);
        assert_eq!(found([2, 0], false)[..4], [8, 9, 10, 11]);
        assert_eq!(found([0, 1], true)[..4], [2, 3, 2, 1]);
    }
}
