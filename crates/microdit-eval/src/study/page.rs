//! The page people vote on.

use super::{Pair, Side, Study};
use crate::report::page::{Page, data_url, document};
use maud::{PreEscaped, html};
use serde::Serialize;

/// The style of the page.
const CSS: &str = include_str!("study.css");

/// What shows the pairs, and keeps the votes.
const SCRIPT: &str = include_str!("study.js");

/// What the script is given.
#[derive(Serialize)]
struct Data<'a> {
    /// The study, encoded.
    study: String,
    pairs: Vec<Shown<'a>>,
}

/// A pair, in an order that says nothing about its sides.
#[derive(Serialize)]
struct Shown<'a> {
    prompt: &'a str,
    pictures: [Picture; 2],
}

#[derive(Serialize)]
struct Picture {
    token: String,
    source: String,
}

/// The page on which `study` shows its pairs.
pub fn page(study: &Study, pairs: &[Pair]) -> String {
    let shown = pairs.iter().enumerate().map(|(number, pair)| {
        let [a, b] = &pair.pictures;
        let picture = |side, picture: &[u8]| Picture {
            token: study.token(number, side),
            source: data_url("png", picture),
        };
        let mut pictures = [picture(Side::A, a), picture(Side::B, b)];
        pictures.sort_by(|one, other| one.token.cmp(&other.token));
        Shown {
            prompt: &pair.prompt,
            pictures,
        }
    });
    let data = Data {
        study: study.encode(),
        pairs: shown.collect(),
    };
    let data = serde_json::to_string(&data).expect("pairs are plain data");
    // No text in it may end the element it stands in.
    let data = data.replace('<', "\\u003c");
    let body = html! {
        main id="study" {
            noscript { p { "This page needs JavaScript." } }
        }
        script type="application/json" id="data" { (PreEscaped(data)) }
    };
    document(&Page {
        title: "Which picture is better?",
        is_live: false,
        style: CSS,
        script: SCRIPT,
        body: &body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_does_not_say_whose_a_picture_is() {
        let hostile = "a fox</script><script>alert(1)</script><!--";
        let pair = |number: u8| Pair {
            prompt: hostile.into(),
            pictures: [vec![number, 1], vec![number, 2]],
        };
        let pairs: Vec<Pair> = (0..40).map(pair).collect();
        let study = Study::new("runs/deferred", "runs/naive", &pairs);
        let page = page(&study, &pairs);
        for told in [
            "deferred",
            "naive",
            "alert(1)</script",
            "<!--",
            "http:",
            "https:",
        ] {
            assert!(!page.contains(told), "{told}");
        }
        // Either side's picture comes first about as often.
        let first =
            (0..40).filter(|&number| study.token(number, Side::A) < study.token(number, Side::B));
        assert!((8..=32).contains(&first.count()));
        assert!(page.contains("default-src 'none'"));
    }
}
