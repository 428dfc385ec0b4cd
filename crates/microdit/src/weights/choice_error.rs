//! Why no state dict could be chosen from a file.

/// A file from which no state dict could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}{}", listed("; there are: ", .there), listed("; objects of these classes were left unread: ", .unread))]
pub struct ChoiceError {
    /// Why.
    pub reason: NoChoice,
    /// The state dicts there are, in words.
    pub there: Vec<String>,
    /// Classes whose objects were left unread.
    pub unread: Vec<String>,
}

/// Why no state dict could be chosen from a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoChoice {
    /// There is none.
    #[error(
        "it holds no tensors of a network; expected a state dict, or a checkpoint with one inside"
    )]
    Nothing,
    /// There is none at the key.
    #[error("it holds no state dict at `{0}`")]
    NotThere(String),
    /// None was asked for, and it holds more than one.
    #[error("it holds several state dicts")]
    Several,
}

/// What an error ends with.
fn listed(introduction: &str, all: &[String]) -> String {
    match all {
        [] => String::new(),
        all => format!("{introduction}{}", all.join(", ")),
    }
}
