//! The data a stage names.

use crate::{
    error::TrainError,
    recipe::{Dataset, Stage},
};
use microdit_data::{Loader, LoaderConfig, Members, Position, Shapes, Shards, Source};

/// A loader of `batch` samples for `stage`, from `shards` if its data lie in some, beginning at `start`.
pub(crate) fn loader(
    stage: &Stage,
    shards: Option<&str>,
    seed: u64,
    batch: usize,
    start: Position,
) -> Result<Loader, TrainError> {
    let size = stage.data.image_size;
    let open = |members| Shards::open(shards.unwrap_or_default(), members).map(Source::Shards);
    let source = match stage.data.dataset {
        Dataset::Shapes => Source::Shapes(Shapes { size }),
        Dataset::WebDataset => open(Members::Pictures)?,
        Dataset::Latents => open(Members::Latents { size })?,
    };
    let model = &stage.model;
    let config = LoaderConfig {
        seed,
        batch,
        shape: [model.in_channels, model.input_size, model.input_size],
        caption: [stage.captions.tokens(), model.caption_channels],
        threads: stage.data.threads,
    };
    Ok(Loader::new(source, config, start))
}
