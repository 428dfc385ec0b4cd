//! What pictures are worth: drawn or given ones, by networks that see them and by what their prompts ask for.

mod against;
mod captioned;
mod captions;
mod distances;
mod error;
mod extract;
mod extractor;
mod judge;
mod left_out;
mod pictures;
mod prompt_accuracy;
mod record;
mod reference;
mod session;
mod share;
mod sight;
mod wanted;

pub use against::Against;
pub(crate) use captioned::class_accuracy;
pub use captions::captions;
pub use distances::{distances, score_of_logits};
pub use error::EvaluateError;
pub use extract::{Extraction, extract};
pub use extractor::{Extractor, PublishedExtractor};
pub use judge::{Judge, labelled};
pub use pictures::{Picture, PictureSet, SHAPES};
pub(crate) use prompt_accuracy::ASPECTS;
pub use prompt_accuracy::PromptAccuracy;
pub use record::Record;
pub use reference::Reference;
pub use session::Evaluation;
pub use sight::{Seen, Sight};
pub(crate) use wanted::CLASS_ACCURACY;
pub use wanted::Wanted;
