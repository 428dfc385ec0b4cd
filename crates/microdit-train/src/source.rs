//! The data a stage names.

use crate::{
    error::TrainError,
    recipe::{Dataset, Stage},
};
use microdit_data::{Loader, LoaderConfig, Members, Position, Shapes, Shards, Source};

/// A loader of `batch` samples for `stage` from `lists` of shards by their weights, unless its data are drawn, beginning at
/// `start`.
pub(crate) fn loader(
    stage: &Stage,
    lists: &[(&str, f64)],
    seed: u64,
    batch: usize,
    start: &Position,
) -> Result<Loader, TrainError> {
    let size = stage.data.image_size;
    let open = |members| {
        let open = |&(shards, weight): &(&str, f64)| Ok((Shards::open(shards, members)?, weight));
        lists
            .iter()
            .map(open)
            .collect::<Result<_, TrainError>>()
            .map(Source::Mix)
    };
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
        max_damage: stage.data.max_damage,
    };
    Ok(Loader::new(source, config, start))
}
