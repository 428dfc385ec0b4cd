//! What pictures are worth: drawn or given ones, by networks that see them and by what their prompts ask for.

mod captions;
mod distances;
mod error;
mod extract;
mod extractor;
mod pictures;
mod prompt_accuracy;
mod record;
mod session;
mod wanted;

pub use captions::captions;
pub use distances::{Reference, distances, score_of_logits};
pub use error::EvaluateError;
pub use extract::{Extraction, extract};
pub use extractor::{Extractor, Judge, PublishedExtractor};
pub use pictures::{Picture, PictureSet, SHAPES};
pub use prompt_accuracy::PromptAccuracy;
pub use record::Record;
pub use session::{Against, Evaluation, Seen};
pub use wanted::Wanted;
