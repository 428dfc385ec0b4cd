//! Datasets of the hub, by a server that answers as it does.

use crate::{
    common::{fails, text},
    microdit, two, write,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

/// Answers each request, of which it is given path and head, and ends the connection.
fn server(answer: impl Fn(&str, &str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let mut out = stream.try_clone().unwrap();
                let lines = BufReader::new(stream).lines().map_while(Result::ok);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let path = head.first().and_then(|line| line.split(' ').nth(1));
                let answer = answer(path.unwrap_or_default(), &head.join("\n").to_lowercase());
                // Whoever has gone does not hear it.
                let _ = out.write_all(&answer);
            });
        }
    });
    address
}

fn found(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A range of a file, as the head of a request asks for it.
fn ranged(file: &[u8], head: &str) -> Vec<u8> {
    let range = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="));
    let (begin, last) = range.unwrap().split_once('-').unwrap();
    let (begin, last): (usize, usize) = (begin.parse().unwrap(), last.trim().parse().unwrap());
    let headers = format!("Content-Range: bytes {begin}-{last}/{}\r\n", file.len());
    found("206 Partial Content", &headers, &file[begin..=last])
}

#[test]
fn remote_datasets_of_the_hub_are_read_at_a_commit_and_the_token_goes_nowhere_else() {
    let files = two();
    let tokens: Arc<Mutex<BTreeMap<String, bool>>> = Arc::default();
    let note = |tokens: &Mutex<BTreeMap<String, bool>>, place: &str, head: &str| {
        let told = head.contains("authorization: bearer hf_secret");
        tokens.lock().unwrap().insert(place.to_owned(), told);
    };
    let (storage_tokens, storage_files) = (tokens.clone(), files.clone());
    let storage = server(move |path, head| {
        note(&storage_tokens, "storage", head);
        ranged(&storage_files[path.trim_start_matches("/blobs/")], head)
    });
    let (hub_tokens, hub_files) = (tokens.clone(), files.clone());
    let own: Arc<Mutex<String>> = Arc::default();
    let own_address = own.clone();
    let hub = server(move |path, head| {
        note(&hub_tokens, "hub", head);
        let entry = |name: &str| {
            let (_, sum) = checksum(&hub_files[name]);
            let size = hub_files[name].len();
            format!(
                r#"{{"type": "file", "path": "train/{name}", "size": 134, "oid": "x", "lfs": {{"oid": "{sum}", "size": {size}}}}}"#
            )
        };
        match path {
            "/api/datasets/some/set/revision/main" => {
                found("200 OK", "", br#"{"sha": "0123abcd"}"#)
            }
            "/api/datasets/some/set/tree/0123abcd/train?recursive=true" => {
                let next = format!(
                    "Link: <{}/api/datasets/some/set/tree/0123abcd/train?cursor=2>; rel=\"next\"\r\n",
                    own_address.lock().unwrap()
                );
                let page = format!(
                    r#"[{{"type": "directory", "path": "train/d"}}, {}]"#,
                    entry("0.tar")
                );
                found("200 OK", &next, page.as_bytes())
            }
            "/api/datasets/some/set/tree/0123abcd/train?cursor=2" => {
                found("200 OK", "", format!("[{}]", entry("1.tar")).as_bytes())
            }
            _ => match path.strip_prefix("/datasets/some/set/resolve/0123abcd/train/") {
                Some(name) => {
                    let location = format!("Location: {storage}/blobs/{name}\r\n");
                    found("302 Found", &location, b"")
                }
                None => found("404 Not Found", "", b""),
            },
        }
    });
    own.lock().unwrap().clone_from(&hub);
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    write(&folder.path().join("data"), &files);
    let inspect = |shards: &str| {
        let words = ["data", "inspect", shards, "--json", "--max-damage", "1"];
        let mut command = microdit(&cache, &words);
        command
            .env("HF_ENDPOINT", &hub)
            .env("HF_TOKEN", "hf_secret");
        command
    };
    let stdout = |mut command: Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let local = stdout(inspect(&folder.path().join("data").to_string_lossy()));
    for name in ["train/{0,1}.tar", "train/*.tar", "train", "train/[0-1].tar"] {
        let url = format!("hf://datasets/some/set/{name}");
        assert_eq!(stdout(inspect(&url)), local, "{url}");
    }
    let expected = [("hub".to_owned(), true), ("storage".to_owned(), false)];
    assert_eq!(*tokens.lock().unwrap(), BTreeMap::from(expected));
    let failing = |url: &str| inspect(url).output().unwrap();
    fails(
        &failing("hf://datasets/some/set/train/2.tar"),
        &["train/2.tar: no such object"],
    );
    fails(
        &failing("hf://datasets/other/set/0.tar"),
        &["hf://datasets/other/set: no such object"],
    );
    let offline = inspect("hf://datasets/some/set/train")
        .env("HF_HUB_OFFLINE", "1")
        .output();
    fails(
        &offline.unwrap(),
        &["HF_HUB_OFFLINE forbids asking the hub"],
    );
}

fn checksum(content: &[u8]) -> (u64, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    ::microdit::checksum::of_file(file.path()).unwrap()
}
