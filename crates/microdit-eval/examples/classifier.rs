//! Trains the classifier of evaluation, and prints how long it took and how good it is. A second call finds it again.
//!
//! ```text
//! classifier TRAIN_SHARDS HELD_OUT_SHARDS FOLDER [EPOCHS]
//! ```
//!
//! Labels are what follows the last `-` of the keys.

use burn_autodiff::Autodiff;
use burn_flex::Flex;
use microdit_eval::classifier::{Classifier, ClassifierConfig, Data, Labels};
use std::{error::Error, path::Path, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [train, held_out, folder, epochs @ ..] = &arguments[..] else {
        return Err("expected TRAIN_SHARDS HELD_OUT_SHARDS FOLDER [EPOCHS]".into());
    };
    let mut config = ClassifierConfig::default();
    if let Some(epochs) = epochs.first() {
        config.epochs = epochs.parse()?;
    }
    let data = Data {
        train: train.clone(),
        held_out: held_out.clone(),
        labels: Labels::FromKeySuffix('-'),
    };
    let (start, device) = (Instant::now(), Default::default());
    let (_, accuracy, weights) = Classifier::<Flex>::in_folder::<Autodiff<Flex>>(
        Path::new(folder),
        &data,
        &config,
        &device,
        |progress| {
            if progress.step % 100 == 0 || progress.step == progress.steps {
                println!(
                    "step {} of {}: loss {:.3}, {:.0} s",
                    progress.step,
                    progress.steps,
                    progress.loss,
                    start.elapsed().as_secs_f64()
                );
            }
        },
    )?;
    println!("accuracy {accuracy} held-out pictures, weights {weights}");
    Ok(())
}
