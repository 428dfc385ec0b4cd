//! Cleaning of web captions, equal to the reference's, which cleans as DeepFloyd IF and PixArt do.

mod html;

use crate::{pattern, repair, unescape_html};
use fancy_regex::{Match, Regex};
use html::text_of;
use std::sync::LazyLock;

/// A pattern and what takes its place.
type Rule = (Regex, &'static str);

fn rules(rules: &[(&str, &'static str)]) -> Vec<Rule> {
    rules
        .iter()
        .map(|&(rule, place)| (pattern(rule), place))
        .collect()
}

/// Web addresses.
static ADDRESSES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let domain = r"[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b\/?(?!@)";
    let address = |scheme: &str| {
        let rule = format!(r"\b((?:{scheme}:(?:\/{{1,3}}|[a-zA-Z0-9%])|{domain}))");
        (pattern(&rule), "")
    };
    vec![address("https?"), address("www")]
});

/// Nicknames, signs of other scripts, quotes, numbers and file names.
static SIGNS: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"@[\w\d]+\b", ""),
        // CJK strokes, phonetic extensions, enclosed signs, compatibility, extension A, hexagrams, ideographs.
        (r"[\u{31c0}-\u{31ef}]+", ""),
        (r"[\u{31f0}-\u{31ff}]+", ""),
        (r"[\u{3200}-\u{32ff}]+", ""),
        (r"[\u{3300}-\u{33ff}]+", ""),
        (r"[\u{3400}-\u{4dbf}]+", ""),
        (r"[\u{4dc0}-\u{4dff}]+", ""),
        (r"[\u{4e00}-\u{9fff}]+", ""),
        // Dashes.
        (
            r"[\u{2d}\u{58a}\u{5be}\u{1400}\u{1806}\u{2010}-\u{2015}\u{2e17}\u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}]+",
            "-",
        ),
        // Quotes.
        (r"[`´«»“”¨]", "\""),
        (r"[‘’]", "'"),
        (r"&quot;?", ""),
        (r"&amp", ""),
        // IP addresses, then article numbers.
        (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
        (r"\d:\d\d\s+$", ""),
        (r"\\n", " "),
        (r"#\d{1,3}\b", ""),
        (r"#\d{5,}\b", ""),
        (r"\b\d{6,}\b", ""),
        (r"[\S]+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)", ""),
        // Repeated or ornamental punctuation.
        (r#"["']{2,}"#, "\""),
        (r"[\.]{2,}", " "),
        (r"[#®•©™&@·º½¾¿¡§~\)\(\]\[\}\{\|\\/\*]+", " "),
        (r"\s+\.\s+", " "),
    ])
});

/// Codes, advertising, and punctuation that is left over.
static CODES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    rules(&[
        (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
        (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
        (r"\b\d+[a-zA-Z]+\d+\b", ""),
        (r"(worldwide\s+)?(free\s+)?shipping", ""),
        (r"(free\s)?download(\sfree)?", ""),
        (r"\bclick\b\s(?:for|on)\s\w+", ""),
        (
            r"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simage[s]?)?",
            "",
        ),
        (r"\bpage\s+\d+\b", ""),
        (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
        // Sizes; the second sign is a Cyrillic letter.
        (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),
        (r"\b\s+\:\s+", ": "),
        (r"(\D[,\./])\b", "${1} "),
        (r"\s+", " "),
        (r#"^["']([\w\W]+)["']$"#, "${1}"),
        (r"^['_,\-:;]", ""),
        (r"['_,\-:\-\+]$", ""),
        (r"^\.\S+$", ""),
    ])
});

static JOINERS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:\-|_)"));

/// More hyphens and underscores than this mean that words-are-joined-by-them.
const MANY_JOINERS: usize = 3;

/// Cleans a caption from the web: lower case, without addresses, markup, nicknames, codes, file names, advertising and
/// ornaments. The cleaning is applied twice, as the reference does, since one pass can uncover what the next removes.
///
/// ```
/// use microdit_text::clean_caption;
/// assert_eq!(
///     clean_caption("Photo by @jane_doe99 of the <b>beach</b>, see https://x.com IMG_2020.jpg"),
///     "photo by of the beach, see"
/// );
/// ```
pub fn clean_caption(caption: &str) -> String {
    clean_once(&clean_once(caption))
}

/// One pass of [`clean_caption`].
pub fn clean_once(caption: &str) -> String {
    let text = strip(&unquote(caption)).to_lowercase();
    let text = text.replace("<person>", "person");
    let text = apply(&ADDRESSES, text);
    let mut text = apply(&SIGNS, text_of(&text));
    if JOINERS.find_iter(&text).count() > MANY_JOINERS {
        text = JOINERS.replace_all(&text, " ").into_owned();
    }
    let text = unescape_html(&unescape_html(&repair(&text)));
    strip(&apply(&CODES, text)).to_owned()
}

fn apply(rules: &[Rule], text: String) -> String {
    rules.iter().fold(text, |text, (rule, place)| {
        // A pattern that gives up on a text leaves it as it is.
        replace(rule, place, &text).unwrap_or(text)
    })
}

/// The text with `place` wherever the rule matches, where `${1}` at its beginning is what the rule's group matched; none if there is
/// nothing to replace. The replacement of `fancy_regex` checks all of the text again after each of those.
fn replace(rule: &Regex, place: &str, text: &str) -> Option<String> {
    let (group, place) = match place.strip_prefix("${1}") {
        Some(place) => (true, place),
        None => (false, place),
    };
    let mut replaced = String::new();
    let mut end = 0;
    let mut put = |whole: Match<'_>, kept: &str| {
        replaced.push_str(&text[end..whole.start()]);
        replaced.push_str(kept);
        replaced.push_str(place);
        end = whole.end();
    };
    if group {
        for captures in rule.captures_iter(text) {
            let captures = captures.ok()?;
            put(
                captures.get(0)?,
                captures.get(1).map_or("", |kept| kept.as_str()),
            );
        }
    } else {
        for found in rule.find_iter(text) {
            put(found.ok()?, "");
        }
    }
    if end == 0 && replaced.is_empty() {
        return None;
    }
    replaced.push_str(&text[end..]);
    Some(replaced)
}

/// Without white space at both ends, by Python's understanding of it.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}

/// Decodes plus signs and percent escapes of addresses.
fn unquote(text: &str) -> String {
    let text = text.replace('+', " ");
    if !text.contains('%') {
        return text;
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escape = (byte == b'%')
            .then(|| tail.get(..2).and_then(hexadecimal))
            .flatten();
        match escape {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hexadecimal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0, |value, &digit| {
        Some(value * 16 + char::from(digit).to_digit(16)? as u8)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// How long it takes to clean this many texts of this length.
    fn time(part: &str, length: usize, texts: usize) -> Duration {
        let text = part.repeat(length / part.len());
        let begun = Instant::now();
        for _ in 0..texts {
            clean_caption(&text);
        }
        begun.elapsed()
    }

    /// A text takes about as long as its pieces do one by one, whatever is repeated in it: anything quadratic takes as many times
    /// as long as there are pieces. Both sides of the comparison are slowed alike by whatever else the machine does.
    #[test]
    fn cleaning_takes_time_in_proportion_to_length() {
        const PIECE: usize = 2 << 10;
        const PIECES: usize = 8;
        for part in [
            "<",
            "<a ",
            "<a",
            "<a x='",
            "<a x=\"",
            "<a x='>'",
            "<a =",
            "</a ",
            "</",
            "<!--",
            "<![",
            "<!",
            "<?",
            "<rt>",
            "<script>",
            "a",
            "a.",
            "a-",
            "&",
            "&#",
            "&#1",
            "&a",
            "&lt",
            "(",
            "[",
            "'",
            "\"",
            "#",
            "@",
            "@a",
            " ",
            " .",
            "a1",
            "1",
            "1.",
            "1a",
            "\u{c3}\u{a9}",
            "\u{c3}",
            "\u{e2}\u{20ac}\u{2122}",
            "www.",
            "http:",
            "a.com/",
            "-",
            "_",
            "%",
            "%41",
            "\\n",
            "page ",
            "click on ",
            "worldwide ",
            "x",
            "1x",
            "\u{4e00}",
            "é",
            "\u{0}",
            "\n",
        ] {
            // The first try is enough, as a rule.
            let mut tries = Vec::new();
            let holds = (0..5).any(|_| {
                let (whole, pieces) = (time(part, PIECES * PIECE, 1), time(part, PIECE, PIECES));
                tries.push((whole, pieces));
                whole <= 2 * pieces
            });
            assert!(holds, "{part:?}, as a whole and in pieces: {tries:?}");
        }
    }
}
