//! The environment variables that all programs of the Hugging Face hub share: where its cache is, which server it is, who asks.

use std::{fs, path::PathBuf};

/// The directory of everything that belongs to the hub: the one `HF_HOME` names, or else that in the user's home directory; none
/// if there is neither.
pub fn home() -> Option<PathBuf> {
    let named = std::env::var_os("HF_HOME").filter(|home| !home.is_empty());
    named.map(PathBuf::from).or_else(|| {
        let own = std::env::home_dir()?;
        Some(own.join(".cache/huggingface"))
    })
}

/// The address of the hub, without a slash at its end: the one `HF_ENDPOINT` names, or else its own.
pub fn endpoint() -> String {
    let endpoint = variable("HF_ENDPOINT");
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into());
    endpoint.trim_end_matches('/').to_owned()
}

/// The token to ask with: `HF_TOKEN`, or else the one that was stored at a login.
pub fn token() -> Option<String> {
    let stored = || fs::read_to_string(home()?.join("token")).ok();
    let token = variable("HF_TOKEN").or_else(stored)?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Whether `HF_HUB_OFFLINE` forbids downloads.
pub fn is_offline() -> bool {
    variable("HF_HUB_OFFLINE").is_some_and(|value| value != "0")
}

/// An environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A text as one segment of a path of an address: all but letters, digits, `-`, `.`, `_` and `~` percent-encoded.
///
/// ```
/// assert_eq!(microdit::hub_env::encode("a b?c#d%é.bin"), "a%20b%3Fc%23d%25%C3%A9.bin");
/// ```
pub fn encode(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
