//! clip_tokenizer, caption_clean, text_repair: what becomes of captions before they are encoded.
//!
//! `text_repair.json` holds what ftfy 6.3.1 makes of texts in wrong encodings, `caption_clean_web.json` what the cleaning of diffusers
//! 0.42 with Beautiful Soup 4.15 makes of broken HTML, addresses and codes in random order.

use crate::{golden::Golden, report::Report};
use microdit_encoders::text::{ClipTokenizer, Padding};
use microdit_text::{clean_caption, clean_once, repair};
use serde_json::Value;
use std::path::Path;

fn json(path: &Path) -> Vec<Value> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let value: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    value.as_array().expect("a list").clone()
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key]
        .as_str()
        .unwrap_or_else(|| panic!("no text {key} in {entry}"))
}

/// Texts are equal or not: as their characters' numbers.
fn same(report: &mut Report, what: &str, found: &str, expected: &str) {
    let codes = |text: &str| {
        text.chars()
            .map(|c| f64::from(u32::from(c)))
            .collect::<Vec<_>>()
    };
    if found != expected {
        println!("{what}: {found:?}, expected {expected:?}");
    }
    report.equal(what, &codes(found), &codes(expected));
}

pub(super) fn clip_tokenizer(path: &Path, report: &mut Report) {
    let golden = Golden::open(&path.with_extension("safetensors"));
    let file = golden.config["captions_file"]
        .as_str()
        .expect("a file of captions");
    let tokenizer = ClipTokenizer::new();
    let ids = golden.get("out.ids");
    for (i, entry) in json(&path.with_file_name(file)).iter().enumerate() {
        let found = tokenizer.encode(text(entry, "caption"), ids.shape[1], Padding::Zero);
        let found: Vec<f64> = found.into_iter().map(|id| id as f64).collect();
        report.equal(format!("caption {i}"), &found, &ids.row(i).data);
    }
}

pub(super) fn caption_clean(path: &Path, report: &mut Report) {
    for (i, entry) in json(path).iter().enumerate() {
        let input = text(entry, "input");
        let single = text(entry, "output_single_pass");
        same(
            report,
            &format!("caption {i}, one pass"),
            &clean_once(input),
            single,
        );
        same(
            report,
            &format!("caption {i}"),
            &clean_caption(input),
            text(entry, "output"),
        );
    }
}

pub(super) fn text_repair(path: &Path, report: &mut Report) {
    for (i, entry) in json(path).iter().enumerate() {
        same(
            report,
            &format!("text {i}"),
            &repair(text(entry, "input")),
            text(entry, "output"),
        );
    }
}
