//! Uploads to the hub: small files within a commit, large ones beforehand by [git's protocol for them](super::lfs).

use super::{
    cache::BRANCH,
    client::{Answer, Client, Failure, Write},
    download::{Report, patiently},
    error::HubError,
    is_offline, is_part,
    lfs::send_large,
    no_repository,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use microdit::checksum;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::PathBuf,
};
use ureq::SendBody;

/// Bytes at the beginning of a file, from which the hub tells text from data.
const SAMPLE: u64 = 512;

/// Bytes of the largest file that is sent within a commit, whatever the hub says.
const MAX_SMALL: u64 = 32 << 20;

/// Characters of the hub's words that a message quotes.
const MAX_QUOTED: usize = 300;

/// What is on the hub now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// Where it is to be seen.
    pub address: String,
    /// Files of the commit.
    pub files: usize,
    /// Large ones among them that were there already.
    pub there: usize,
    /// Files that the repository's own rules leave out.
    pub ignored: Vec<String>,
}

/// A file to upload.
pub(super) struct Local {
    /// Its path in the repository.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Why a step of an upload failed.
pub(super) enum Fault {
    /// The request itself.
    Request(Failure),
    /// The hub said so, with this status.
    Refused(u16, String),
    /// A file could not be read.
    File(PathBuf, io::Error),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Request(failure)
    }
}

impl Fault {
    /// An answer that means something else than it should.
    pub(super) fn answer(message: impl Into<String>) -> Self {
        Self::Request(Failure::Final(message.into()))
    }

    fn at(self, repository: &str, step: impl Into<String>) -> HubError {
        let (error, status) = match self {
            Self::File(path, error) => return HubError::Io { path, error },
            Self::Request(Failure::Final(error) | Failure::Broken(error)) => (error, None),
            Self::Refused(status, error) => (error, Some(status)),
        };
        HubError::Upload {
            repository: repository.to_owned(),
            step: step.into(),
            error,
            status,
        }
    }
}

/// Makes `files`, each a path in the repository and one on this machine, the content of the model `repository`, `OWNER/NAME`, which is
/// created, for its owners alone if `private`, unless it is there; files of other names stay. Large files are known by their
/// content, so that none is sent twice.
///
/// # Errors
/// No token, no permission, an unreachable hub, or a file that cannot be read. Nothing is visible on the hub until all is there.
pub fn upload(
    repository: &str,
    files: &[(String, PathBuf)],
    private: bool,
    report: &mut impl Report,
) -> Result<Uploaded, HubError> {
    let owner = repository.split_once('/');
    let Some((owner, name)) = owner.filter(|(owner, name)| is_part(owner) && is_part(name)) else {
        return Err(no_repository(repository));
    };
    if is_offline() {
        return Err(HubError::NoUpload {
            repository: repository.to_owned(),
        });
    }
    let client = Client::from_env();
    if !client.has_token() {
        return Err(HubError::NoToken);
    }
    let files = files.iter().map(described).collect::<Result<Vec<_>, _>>()?;
    let uncreated = |fault: Fault| fault.at(repository, "the repository could not be created");
    let refused = match create(&client, owner, name, private) {
        Ok(()) => None,
        // A token may be allowed to write and not to create.
        Err(fault @ Fault::Refused(403, _)) => Some(fault),
        Err(fault) => return Err(uncreated(fault)),
    };
    let modes = modes(&client, repository, &files).map_err(|fault| match refused {
        Some(first) => uncreated(first),
        None => fault.at(repository, "the hub takes no files"),
    })?;
    let is_in = |mode: Mode| {
        let files = files.iter().zip(&modes);
        files.filter_map(move |(file, found)| (*found == mode).then_some(file))
    };
    let large: Vec<&Local> = is_in(Mode::Large).collect();
    let there = send_large(&client, repository, &large, report)
        .map_err(|(name, fault)| fault.at(repository, format!("{name} could not be uploaded")))?;
    let small: Vec<&Local> = is_in(Mode::Small).collect();
    commit(&client, repository, &small, &large)
        .map_err(|fault| fault.at(repository, "the files could not be committed"))?;
    Ok(Uploaded {
        address: client.address(repository),
        files: large.len() + small.len(),
        there,
        ignored: is_in(Mode::Ignored).map(|file| file.name.clone()).collect(),
    })
}

fn described((name, path): &(String, PathBuf)) -> Result<Local, HubError> {
    let (bytes, sha256) = checksum::of_file(path).map_err(HubError::io(path))?;
    Ok(Local {
        name: name.clone(),
        path: path.clone(),
        bytes,
        sha256,
    })
}

fn create(client: &Client, owner: &str, name: &str, private: bool) -> Result<(), Fault> {
    let body = json!({"type": "model", "organization": owner, "name": name, "private": private});
    let answer = post(
        client,
        &client.address("api/repos/create"),
        JSON,
        &body.to_string(),
    )?;
    match answer.status {
        // It is there.
        409 => Ok(()),
        _ => accepted(answer).map(drop),
    }
}

/// How a file is to be sent.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Small,
    Large,
    Ignored,
}

/// Asks the hub how each file is to be sent.
fn modes(client: &Client, repository: &str, files: &[Local]) -> Result<Vec<Mode>, Fault> {
    #[derive(Deserialize)]
    struct Modes {
        files: Vec<Told>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Told {
        path: String,
        upload_mode: String,
        #[serde(default)]
        should_ignore: bool,
    }
    let asked = files.iter().map(|file| {
        let mut sample = Vec::new();
        let begin =
            File::open(&file.path).and_then(|opened| opened.take(SAMPLE).read_to_end(&mut sample));
        begin.map_err(|error| Fault::File(file.path.clone(), error))?;
        Ok(json!({"path": file.name, "size": file.bytes, "sample": STANDARD.encode(sample)}))
    });
    let asked = asked.collect::<Result<Vec<Value>, Fault>>()?;
    let address = client.address(&format!("api/models/{repository}/preupload/{BRANCH}"));
    let body = json!({ "files": asked }).to_string();
    let told: Modes = parsed(post(client, &address, JSON, &body)?)?;
    let mode = |file: &Local| {
        let told = told.files.iter().find(|told| told.path == file.name);
        match told {
            Some(told) if told.should_ignore => Ok(Mode::Ignored),
            Some(told) if told.upload_mode == "lfs" => Ok(Mode::Large),
            Some(told) if told.upload_mode == "regular" && file.bytes <= MAX_SMALL => {
                Ok(Mode::Small)
            }
            _ => Err(Fault::answer(format!(
                "the hub does not say how to send {}",
                file.name
            ))),
        }
    };
    files.iter().map(mode).collect()
}

/// Makes the files visible, all at once.
fn commit(
    client: &Client,
    repository: &str,
    small: &[&Local],
    large: &[&Local],
) -> Result<(), Fault> {
    let summary = "Upload by microdit";
    let mut lines =
        vec![json!({"key": "header", "value": {"summary": summary, "description": ""}})];
    for file in small {
        let content = fs::read(&file.path);
        let content = content.map_err(|error| Fault::File(file.path.clone(), error))?;
        let value =
            json!({"path": file.name, "encoding": "base64", "content": STANDARD.encode(content)});
        lines.push(json!({"key": "file", "value": value}));
    }
    for file in large {
        let value =
            json!({"path": file.name, "algo": "sha256", "oid": file.sha256, "size": file.bytes});
        lines.push(json!({"key": "lfsFile", "value": value}));
    }
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let address = client.address(&format!("api/models/{repository}/commit/{BRANCH}"));
    accepted(post(client, &address, "application/x-ndjson", &lines)?).map(drop)
}

pub(super) const JSON: &str = "application/json";

/// Posts text, again where the connection broke: every request of an upload may be repeated.
pub(super) fn post(
    client: &Client,
    address: &str,
    content_type: &str,
    body: &str,
) -> Result<Answer, Failure> {
    let headers = [
        ("content-type", content_type),
        ("accept", content_type_of_answer(content_type)),
    ];
    patiently(|| {
        let mut bytes = body.as_bytes();
        let length = bytes.len().to_string();
        let headers = [&headers[..], &[("content-length", length.as_str())]].concat();
        client.send(
            Write::Post,
            address,
            &headers,
            SendBody::from_reader(&mut bytes),
        )
    })
}

/// git's protocol answers in its own type, everything else in JSON.
fn content_type_of_answer(content_type: &str) -> &str {
    match content_type {
        "application/x-ndjson" => JSON,
        other => other,
    }
}

/// The answer, unless it is a refusal.
pub(super) fn accepted(answer: Answer) -> Result<Answer, Fault> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let said: Option<Value> = serde_json::from_str(&answer.text).ok();
    let said = said.and_then(|said| {
        said.get("error")
            .or(said.get("message"))?
            .as_str()
            .map(str::to_owned)
    });
    let said: String = said.unwrap_or_default().chars().take(MAX_QUOTED).collect();
    let message = match said.is_empty() {
        true => format!("http status: {}", answer.status),
        false => format!("http status: {}, {said}", answer.status),
    };
    Err(Fault::Refused(answer.status, message))
}

/// What an answer says.
pub(super) fn parsed<T: DeserializeOwned>(answer: Answer) -> Result<T, Fault> {
    let answer = accepted(answer)?;
    serde_json::from_str(&answer.text)
        .map_err(|error| Fault::answer(format!("the hub's answer is not understood: {error}")))
}
