//! Large files by git's protocol for them: the [batch API](https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md) of Git LFS with
//! its basic transfers, and the hub's transfers in parts.

use super::{
    cache::BRANCH,
    client::{Client, Failure, Write},
    download::{Report, patiently},
    upload::{Fault, JSON, Local, accepted, parsed, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};
use ureq::SendBody;

/// The protocol's type of content.
const LFS: &str = "application/vnd.git-lfs+json";

/// Most files of one request.
const BATCH: usize = 100;

#[derive(Deserialize)]
struct Batch {
    objects: Vec<Object>,
}

/// What is to be done about a file; nothing where the storage has it.
#[derive(Deserialize)]
struct Object {
    oid: String,
    actions: Option<Actions>,
    error: Option<Trouble>,
}

#[derive(Deserialize)]
struct Trouble {
    code: u16,
    message: String,
}

#[derive(Deserialize)]
struct Actions {
    upload: Option<Action>,
    verify: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    href: String,
    /// Headers of HTTP, or for a transfer in parts the size of one and the address of each.
    #[serde(default)]
    header: BTreeMap<String, Value>,
}

/// Sends the files that the storage does not have; returns how many it had, or the name of the first that it did not take.
pub(super) fn send_large(
    client: &Client,
    repository: &str,
    files: &[&Local],
    report: &mut impl Report,
) -> Result<usize, (String, Fault)> {
    let mut there = 0;
    for files in files.chunks(BATCH) {
        let first = &files[0].name;
        let wanted = ask(client, repository, files).map_err(|fault| (first.clone(), fault))?;
        for file in files {
            let object = wanted
                .objects
                .iter()
                .find(|object| object.oid == file.sha256);
            let sent = match object {
                Some(object) => send(client, file, object, report),
                None => Err(Fault::answer("the hub does not say where it is to go")),
            };
            there += usize::from(!sent.map_err(|fault| (file.name.clone(), fault))?);
        }
    }
    Ok(there)
}

/// Asks where files are to go.
fn ask(client: &Client, repository: &str, files: &[&Local]) -> Result<Batch, Fault> {
    let objects = files
        .iter()
        .map(|file| json!({"oid": file.sha256, "size": file.bytes}));
    let body = json!({
        "operation": "upload", "transfers": ["basic", "multipart"], "hash_algo": "sha256",
        "ref": {"name": format!("refs/heads/{BRANCH}")}, "objects": objects.collect::<Vec<_>>(),
    });
    let address = client.address(&format!("{repository}.git/info/lfs/objects/batch"));
    parsed(post(client, &address, LFS, &body.to_string())?)
}

/// Sends a file; false if the storage has it.
fn send(
    client: &Client,
    file: &Local,
    object: &Object,
    report: &mut impl Report,
) -> Result<bool, Fault> {
    if let Some(Trouble { code, message }) = &object.error {
        return Err(Fault::Refused(*code, format!("status: {code}, {message}")));
    }
    let Some(actions) = &object.actions else {
        return Ok(false);
    };
    let Some(action) = &actions.upload else {
        return Ok(false);
    };
    report.begin(&file.name, file.bytes);
    match part_size(action)? {
        Some(size) => send_parts(client, file, action, size, report)?,
        None => {
            let headers = action.header.iter();
            let headers =
                headers.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
            let headers: Vec<(&str, &str)> = headers.collect();
            put(client, file, &action.href, &headers, 0..file.bytes, report)?;
        }
    }
    if let Some(verify) = &actions.verify {
        let body = json!({"oid": file.sha256, "size": file.bytes}).to_string();
        accepted(post(client, &verify.href, JSON, &body)?)?;
    }
    Ok(true)
}

/// Bytes of a part; none if the file is sent as a whole.
fn part_size(action: &Action) -> Result<Option<u64>, Fault> {
    let Some(size) = action.header.get("chunk_size") else {
        return Ok(None);
    };
    let number = size.as_u64().or_else(|| size.as_str()?.parse().ok());
    let number = number.filter(|size| *size > 0);
    let wrong = || Fault::answer(format!("the hub wants parts of {size} bytes"));
    number.map(Some).ok_or_else(wrong)
}

fn send_parts(
    client: &Client,
    file: &Local,
    action: &Action,
    size: u64,
    report: &mut impl Report,
) -> Result<(), Fault> {
    let numbered = action
        .header
        .iter()
        .filter_map(|(name, address)| Some((name.parse::<u64>().ok()?, address.as_str()?)));
    let addresses: BTreeMap<u64, &str> = numbered.collect();
    let needed = file.bytes.div_ceil(size);
    if addresses.len() as u64 != needed {
        return Err(Fault::answer(format!(
            "the hub names {} addresses for {needed} parts",
            addresses.len()
        )));
    }
    let mut parts = Vec::new();
    for (begin, (number, address)) in (0..).step_by(size as usize).zip(addresses) {
        let range = begin..(begin + size).min(file.bytes);
        let etag = put(client, file, address, &[], range, report)?;
        let etag = etag.ok_or_else(|| Fault::answer(format!("part {number} has no ETag")))?;
        parts.push(json!({"partNumber": number, "etag": etag}));
    }
    let body = json!({"oid": file.sha256, "parts": parts}).to_string();
    accepted(post(client, &action.href, LFS, &body)?).map(drop)
}

/// Puts these bytes of a file; the storage's mark of them.
fn put(
    client: &Client,
    file: &Local,
    address: &str,
    headers: &[(&str, &str)],
    range: std::ops::Range<u64>,
    report: &mut impl Report,
) -> Result<Option<String>, Fault> {
    let length = range.end - range.start;
    let text = length.to_string();
    let headers = [headers, &[("content-length", text.as_str())]].concat();
    // What was reported is not reported again when a connection broke.
    let mut told = 0;
    let answer = patiently(|| {
        let opened = File::open(&file.path).and_then(|mut opened| {
            opened.seek(SeekFrom::Start(range.start))?;
            Ok(opened.take(length))
        });
        let inner = opened.map_err(|error| {
            Failure::Final(format!("{} cannot be read: {error}", file.path.display()))
        })?;
        let mut counted = Counted {
            inner,
            read: 0,
            told: &mut told,
            report: &mut *report,
        };
        client.send(
            Write::Put,
            address,
            &headers,
            SendBody::from_reader(&mut counted),
        )
    })?;
    Ok(accepted(answer)?.etag)
}

/// Reports what is read.
struct Counted<'a, R: Read, P: Report> {
    inner: R,
    read: u64,
    told: &'a mut u64,
    report: &'a mut P,
}

impl<R: Read, P: Report> Read for Counted<'_, R, P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read += count as u64;
        if self.read > *self.told {
            self.report.advance(self.read - *self.told);
            *self.told = self.read;
        }
        Ok(count)
    }
}
