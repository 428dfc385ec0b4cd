//! What a run logs is true, whatever happened to it.

use crate::tiny::{STEPS, assert_same, finish, metrics, names};
use std::{collections::BTreeMap, fs, path::Path};

/// Records of an event file, checked against their checksums; a torn one at the end is left out.
fn records(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut records = Vec::new();
    let masked = |data: &[u8]| {
        crc32c::crc32c(data)
            .rotate_right(15)
            .wrapping_add(0xa282_ead8)
    };
    while rest.len() >= 16 {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        assert_eq!(rest[8..12], masked(&rest[..8]).to_le_bytes());
        let Some(data) = rest.get(12..12 + length) else {
            break;
        };
        assert_eq!(rest[12 + length..16 + length], masked(data).to_le_bytes());
        records.push(data);
        rest = &rest[16 + length..];
    }
    records
}

/// Fields of a protocol buffer: number, and the value or the bytes.
fn fields(mut data: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let varint = |data: &mut &[u8]| {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = data[0];
            *data = &data[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    let mut fields = Vec::new();
    while !data.is_empty() {
        let key = varint(&mut data);
        let length = match key & 7 {
            0 => {
                let value = varint(&mut data);
                fields.push((key >> 3, value.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut data) as usize,
            kind => panic!("a field of kind {kind}"),
        };
        fields.push((key >> 3, data[..length].to_vec()));
        data = &data[length..];
    }
    fields
}

/// Steps of a scalar as TensorBoard shows it: a session that starts at a step makes it forget that step and later ones.
fn shown(run: &Path, tag: &str) -> Vec<u64> {
    let mut steps = Vec::new();
    for name in names(run).iter().filter(|name| name.starts_with("events.")) {
        let bytes = fs::read(run.join(name)).unwrap();
        for (i, record) in records(&bytes).into_iter().enumerate() {
            let event: BTreeMap<u64, Vec<u8>> = fields(record).into_iter().collect();
            let step = event
                .get(&2)
                .map_or(0, |step| u64::from_le_bytes(step[..].try_into().unwrap()));
            if i == 0 {
                assert_eq!(event[&3], b"brain.Event:2");
            }
            if let Some(session) = event.get(&7) {
                assert_eq!(
                    fields(session),
                    [(1, 1u64.to_le_bytes().to_vec())],
                    "the status START"
                );
                steps.retain(|shown| *shown < step);
            }
            for (_, value) in event
                .get(&5)
                .map_or_else(Vec::new, |summary| fields(summary))
            {
                if fields(&value)[0].1 == tag.as_bytes() {
                    steps.push(step);
                }
            }
        }
    }
    steps
}

#[test]
fn tensorboard_shows_every_step_once() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    finish(&run, &["--set", "stages.unmasked.steps=4"]);
    // The newest checkpoint is lost: the run goes back to step 10 and passes 11 and 12 again.
    fs::remove_dir_all(run.join("checkpoints/step-0000000012")).unwrap();
    let said = finish(&run, &["--resume"]);
    assert!(said.contains("resuming after step 10"), "{said}");
    assert_eq!(shown(&run, "train/loss"), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(shown(&run, "held_out/loss"), [4, 8, 12]);
}

#[test]
fn damaged_logs_are_mended_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, run) = (folder.path().join("whole"), folder.path().join("run"));
    finish(&whole, &[]);
    finish(&run, &["--set", "stages.unmasked.steps=2"]);
    for name in ["metrics.jsonl", "evaluation.jsonl"] {
        let mut log = fs::read(run.join(name)).unwrap();
        log.extend(b"\xff\xfe{\"step\":3}\n\n{\"step\":11}\n{\"step\":10,\"loss");
        fs::write(run.join(name), log).unwrap();
    }
    fs::write(
        run.join("non_finite.jsonl"),
        "{\"step\":2}\n{\"step\":12}\nno",
    )
    .unwrap();
    fs::write(run.join("run.json"), b"[{\"version\": \"\xff").unwrap();
    let said = finish(&run, &["--resume"]);
    for name in [
        "metrics.jsonl",
        "evaluation.jsonl",
        "non_finite.jsonl",
        "run.json",
    ] {
        assert_eq!(
            said.matches(&format!("{name}:")).count(),
            1,
            "{name}: {said}"
        );
    }
    assert_eq!(metrics(&run), metrics(&whole));
    assert_eq!(
        fs::read_to_string(run.join("non_finite.jsonl")).unwrap(),
        "{\"step\":2}\n"
    );
    assert!(run.join("run.json.damaged").is_file());
    for name in ["non_finite.jsonl", "run.json.damaged"] {
        fs::remove_file(run.join(name)).unwrap();
    }
    for name in names(&run).iter().filter(|name| name.contains("-step-")) {
        fs::remove_file(run.join(name)).unwrap();
    }
    assert_same(&run, &whole, "after the damage");
}
