//! Captions as text, before any tensor: repair of wrong decodings, HTML entities, and the cleaning of captions from the web.

mod clean;
mod code_pages;
mod entities;
mod pattern;
mod repair;

pub use clean::{clean_caption, clean_once};
pub use entities::unescape_html;
pub use repair::repair;

use pattern::pattern;
