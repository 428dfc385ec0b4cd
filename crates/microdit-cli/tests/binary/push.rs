//! Exported folders onto a server that does what the hub does.

use crate::{
    common::{fails, text, train},
    hub::{command, content, sha256_of},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex},
    thread,
};

/// Bytes from which the hub wants a file as a large one, and of a part where it wants parts.
const LARGE: usize = 1000;
const PART: usize = 4096;

/// What a server was asked and holds.
#[derive(Default)]
struct State {
    /// Method and path of every request, and whether it named the token.
    requests: Vec<(String, bool)>,
    /// Large files by their SHA-256.
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts that have come, by file.
    parts: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    /// Files of the last commit.
    files: BTreeMap<String, Vec<u8>>,
    repositories: BTreeSet<String>,
    /// The status of requests whose path contains this.
    refuse: Option<(&'static str, u16)>,
    /// Connections of this many uploads end before an answer.
    drop: usize,
}

type Shared = Arc<Mutex<State>>;

/// The hub, and the storage of its large files on another port.
struct Hub {
    address: String,
    state: Shared,
}

impl Hub {
    fn new() -> Self {
        let state = Shared::default();
        let storage = serve(state.clone(), None);
        let address = serve(state.clone(), Some(storage));
        Self { address, state }
    }

    fn push(&self, folder: &Path, repository: &str) -> Output {
        let home = tempfile::tempdir().unwrap();
        let words = ["push", folder.to_str().unwrap(), repository];
        command(&self.address, home.path(), &words)
            .output()
            .unwrap()
    }

    fn requests(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state
            .requests
            .iter()
            .map(|(request, _)| request.clone())
            .collect()
    }
}

/// A server; the hub knows where its `storage` is.
fn serve(state: Shared, storage: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let own = address.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, storage, own) = (state.clone(), storage.clone(), own.clone());
            // A client that goes away is part of the play.
            thread::spawn(move || drop(converse(stream, &state, storage.as_deref(), &own)));
        }
    });
    address
}

fn converse(
    stream: TcpStream,
    state: &Shared,
    storage: Option<&str>,
    own: &str,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => head.push(line.to_lowercase()),
            }
        }
        let length = head
            .iter()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        assert!(
            !head
                .iter()
                .any(|line| line.starts_with("transfer-encoding"))
        );
        input.read_exact(&mut body)?;
        // Paths are case-sensitive; these have no capitals.
        let words: Vec<&str> = head[0].split(' ').collect();
        let token = head.contains(&"authorization: bearer hf_secret".to_owned());
        let mut state = state.lock().unwrap();
        state
            .requests
            .push((format!("{} {}", words[0], words[1]), token));
        if words[0] == "put" && state.drop > 0 {
            state.drop -= 1;
            return Ok(());
        }
        let refused = state.refuse.filter(|(part, _)| words[1].contains(part));
        let (status, etag, answer) = match (refused, storage) {
            (Some((_, status)), _) => (status, None, json!({"error": "not you"})),
            (None, Some(storage)) => {
                let (status, answer) = state.hub(words[1], &body, storage, own);
                (status, None, answer)
            }
            (None, None) => state.storage(words[0], words[1], body),
        };
        drop(state);
        let answer = answer.to_string();
        let etag: Option<String> = etag;
        let etag = etag.map_or(String::new(), |etag| format!("ETag: {etag}\r\n"));
        write!(
            out,
            "HTTP/1.1 {status} X\r\n{etag}Content-Length: {}\r\n\r\n{answer}",
            answer.len()
        )?;
    }
}

impl State {
    /// The hub's own answers.
    fn hub(&mut self, path: &str, body: &[u8], storage: &str, own: &str) -> (u16, Value) {
        if path == "/api/repos/create" {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let name = format!("{}/{}", asked["organization"], asked["name"]).replace('"', "");
            assert_eq!(asked["type"], "model");
            return match self.repositories.insert(name) {
                true => (200, json!({})),
                false => (409, json!({"error": "You already created this model repo"})),
            };
        }
        if path == "/api/models/some/model/preupload/main" {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let files = asked["files"].as_array().unwrap().iter().map(|file| {
                assert!(
                    STANDARD
                        .decode(file["sample"].as_str().unwrap())
                        .unwrap()
                        .len()
                        <= 512
                );
                let large = file["size"].as_u64().unwrap() as usize >= LARGE;
                let mode = if large { "lfs" } else { "regular" };
                let ignored = file["path"] == "ignored.txt";
                json!({"path": file["path"], "uploadMode": mode, "shouldIgnore": ignored})
            });
            return (200, json!({"files": files.collect::<Vec<_>>()}));
        }
        if path == "/some/model.git/info/lfs/objects/batch" {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let objects = asked["objects"].as_array().unwrap().iter();
            let objects = objects.map(|object| {
                let (oid, size) = (object["oid"].as_str().unwrap(), object["size"].as_u64().unwrap());
                let size = size as usize;
                if self.objects.contains_key(oid) {
                    return json!({"oid": oid, "size": size});
                }
                let upload = match size > PART {
                    false => json!({"href": format!("{storage}/whole/{oid}"), "header": {"x-signed": "yes"}}),
                    true => {
                        let parts = 1..=size.div_ceil(PART);
                        let parts = parts.map(|i| (i.to_string(), json!(format!("{storage}/part/{oid}/{i}"))));
                        let mut header: serde_json::Map<String, Value> = parts.collect();
                        header.insert("chunk_size".into(), json!(PART.to_string()));
                        json!({"href": format!("{own}/complete"), "header": header})
                    }
                };
                let verify = json!({"href": format!("{own}/verify"), "header": {}});
                json!({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
            });
            return (200, json!({"objects": objects.collect::<Vec<_>>()}));
        }
        if path == "/complete" {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let oid = asked["oid"].as_str().unwrap();
            let parts = self.parts.remove(oid).unwrap();
            let named = asked["parts"].as_array().unwrap().iter();
            let named =
                named.map(|part| (part["partNumber"].as_u64().unwrap(), part["etag"].clone()));
            let marks = parts
                .keys()
                .map(|i| (*i as u64, json!(format!("\"mark{i}\""))));
            assert!(named.eq(marks));
            return self.keep(oid.to_owned(), parts.into_values().flatten().collect());
        }
        if path == "/verify" {
            let asked: Value = serde_json::from_slice(body).unwrap();
            let there = self.objects.get(asked["oid"].as_str().unwrap());
            let whole = there.is_some_and(|object| json!(object.len()) == asked["size"]);
            return (if whole { 200 } else { 404 }, json!({}));
        }
        assert_eq!(path, "/api/models/some/model/commit/main");
        let lines = std::str::from_utf8(body).unwrap().lines();
        for line in lines {
            let line: Value = serde_json::from_str(line).unwrap();
            let value = &line["value"];
            let name = || value["path"].as_str().unwrap().to_owned();
            match line["key"].as_str().unwrap() {
                "header" => assert_eq!(value["summary"], "Upload by microdit"),
                "file" => {
                    let content = STANDARD.decode(value["content"].as_str().unwrap());
                    self.files.insert(name(), content.unwrap());
                }
                "lfsFile" => {
                    let object = &self.objects[value["oid"].as_str().unwrap()];
                    assert_eq!(
                        (&value["size"], &value["algo"]),
                        (&json!(object.len()), &json!("sha256"))
                    );
                    let object = object.clone();
                    self.files.insert(name(), object);
                }
                other => panic!("{other}"),
            }
        }
        (200, json!({"success": true, "commitOid": "0123abcd"}))
    }

    /// The storage's answers, which cares for signed addresses and no token.
    fn storage(&mut self, method: &str, path: &str, body: Vec<u8>) -> (u16, Option<String>, Value) {
        assert_eq!(method, "put");
        let words: Vec<&str> = path.split('/').skip(1).collect();
        match words[..] {
            ["whole", oid] => {
                let (status, answer) = self.keep(oid.to_owned(), body);
                (status, None, answer)
            }
            ["part", oid, number] => {
                let number: usize = number.parse().unwrap();
                self.parts
                    .entry(oid.to_owned())
                    .or_default()
                    .insert(number, body);
                (200, Some(format!("\"mark{number}\"")), json!({}))
            }
            _ => (404, None, json!({})),
        }
    }

    fn keep(&mut self, oid: String, content: Vec<u8>) -> (u16, Value) {
        if sha256_of(&content) != oid {
            return (400, json!({"error": "another content"}));
        }
        self.objects.insert(oid, content);
        (200, json!({}))
    }
}

/// Something to upload: small files, a large one, and one that takes three parts.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("published");
    fs::create_dir(&path).unwrap();
    let write = |name: &str, content: &[u8]| fs::write(path.join(name), content).unwrap();
    write("README.md", b"# a model\n");
    write("config.json", b"{}");
    write("empty.txt", b"");
    write("samples.png", &content(LARGE + 1));
    write("model.safetensors", &content(2 * PART + 100));
    (folder, path)
}

fn held(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(file).collect()
}

#[test]
fn a_folder_arrives_whole_and_large_files_once() {
    let hub = Hub::new();
    let (_folder, path) = folder();
    // Connections break, which costs nothing but time.
    hub.state.lock().unwrap().drop = 2;
    let output = hub.push(&path, "some/model");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(&format!("5 files: {}/some/model", hub.address)),
        "{said}"
    );
    assert!(!said.contains("hf_secret"), "{said}");
    let state = hub.state.lock().unwrap();
    assert!(state.files == held(&path));
    assert_eq!(state.repositories, ["some/model".to_owned()].into());
    // The token is the hub's, and the storage is another host.
    for (request, token) in &state.requests {
        assert_eq!(*token, !request.starts_with("put"), "{request}");
    }
    let puts = state
        .requests
        .iter()
        .filter(|(request, _)| request.starts_with("put"));
    assert_eq!(puts.count(), 1 + 3 + 2);
    drop(state);

    // A second version: only what is new is sent, to a repository that is there.
    hub.state.lock().unwrap().requests.clear();
    fs::write(path.join("README.md"), "# a better model\n").unwrap();
    fs::write(path.join("ignored.txt"), "a").unwrap();
    let output = hub.push(&path, "some/model");
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("5 files, of which 2 large ones were there"),
        "{said}"
    );
    assert!(
        said.contains("left out by the repository's rules: ignored.txt"),
        "{said}"
    );
    assert!(
        !hub.requests()
            .iter()
            .any(|request| request.starts_with("put"))
    );
    fs::remove_file(path.join("ignored.txt")).unwrap();
    assert!(hub.state.lock().unwrap().files == held(&path));
}

#[test]
fn what_the_hub_does_not_take_is_named() {
    let (_folder, path) = folder();
    for (part, status, parts) in [
        (
            "create",
            401,
            &[
                "some/model: the repository could not be created: http status: 401, not you",
                "may write to some",
            ][..],
        ),
        (
            "preupload",
            404,
            &["the hub takes no files: http status: 404, not you"],
        ),
        (
            "batch",
            403,
            &[
                "model.safetensors could not be uploaded: http status: 403",
                "HF_TOKEN",
            ],
        ),
        (
            "whole",
            400,
            &["samples.png could not be uploaded: http status: 400, not you"],
        ),
        ("verify", 404, &["could not be uploaded: http status: 404"]),
        (
            "commit",
            403,
            &[
                "the files could not be committed: http status: 403",
                "may write to some",
            ],
        ),
        // A mirror that only reads sends writers elsewhere.
        (
            "create",
            308,
            &["the repository could not be created: http status: 308"],
        ),
    ] {
        let hub = Hub::new();
        hub.state.lock().unwrap().refuse = Some((part, status));
        fails(&hub.push(&path, "some/model"), parts);
        assert!(hub.state.lock().unwrap().files.is_empty(), "{part}");
    }
    // A token that may write and not create.
    let hub = Hub::new();
    hub.state.lock().unwrap().refuse = Some(("create", 403));
    let output = hub.push(&path, "some/model");
    assert!(output.status.success(), "{}", text(&output));
    // Nobody there.
    let home = tempfile::tempdir().unwrap();
    let words = ["push", path.to_str().unwrap(), "some/model"];
    let run = |address: &str, set: &[(&str, &str)]| {
        let mut command = command(address, home.path(), &words);
        command.envs(set.iter().copied()).output().unwrap()
    };
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let closed = format!("http://{closed}");
    fails(
        &run(&closed, &[]),
        &["could not be created", "run the command again"],
    );
    fails(
        &run(&closed, &[("HF_TOKEN", "")]),
        &["there is no token", "settings/tokens"],
    );
    fails(
        &run(&closed, &[("HF_HUB_OFFLINE", "1")]),
        &["HF_HUB_OFFLINE forbids uploading to some/model"],
    );
    for name in ["model", "a/b/c", "../model", "a/", ""] {
        let words = ["push", path.to_str().unwrap(), name];
        let output = command(&closed, home.path(), &words).output().unwrap();
        fails(&output, &["those are named OWNER/NAME"]);
    }
    assert!(hub.requests().len() > 3);
}

#[test]
fn only_what_was_exported_is_uploaded() {
    let hub = Hub::new();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = train(&run, &[]);
    assert!(output.status.success(), "{}", text(&output));
    // A run is no folder to publish.
    fails(
        &hub.push(&run, "some/model"),
        &["checkpoints is not a regular file"],
    );
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    fails(
        &hub.push(&empty, "some/model"),
        &["model.safetensors is missing", "microdit export"],
    );
    fails(
        &hub.push(&folder.path().join("none"), "some/model"),
        &["none", "No such file"],
    );
    assert!(hub.requests().is_empty());
    let out = folder.path().join("out");
    let words = [
        "export",
        "--run",
        run.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ];
    crate::common::succeeds(&words);
    let output = hub.push(&out, "some/model");
    assert!(output.status.success(), "{}", text(&output));
    assert!(hub.state.lock().unwrap().files == held(&out));
}
