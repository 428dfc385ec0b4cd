//! Data by URL: web servers that misbehave, buckets, the hub. Built with `--features remote`.

#[allow(dead_code, unreachable_pub)]
#[path = "binary/common.rs"]
mod common;
#[allow(dead_code, unreachable_pub)]
#[path = "binary/encoders.rs"]
mod encoders;
#[allow(dead_code, unreachable_pub)]
#[path = "binary/tiny.rs"]
mod tiny;
#[allow(dead_code, unreachable_pub)]
#[path = "../../microdit-data/src/remote/tests/web.rs"]
mod web;
#[allow(dead_code, unreachable_pub)]
#[path = "binary/workshop.rs"]
mod workshop;

use common::{fails, root, text};
use safetensors::SafeTensors;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tiny::WEB_DATASET;
use web::{Files, Mischief, Web};
use workshop::{Workshop, cards, same};

/// The command with a cache of its own, and a server that is waited for shortly.
fn microdit(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command.args(arguments).current_dir(root());
    with_cache(&mut command, cache);
    command
}

fn with_cache(command: &mut Command, cache: &Path) {
    command
        .env("MICRODIT_CACHE", cache)
        .env("MICRODIT_TIMEOUT", "2")
        .env("MICRODIT_RETRIES", "6")
        .env("HF_HOME", cache.join("hf"))
        .env_remove("HF_HUB_OFFLINE");
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output: Output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    said
}

/// Golden shards by name.
fn goldens(names: &[(&str, &str)]) -> Files {
    let read = |&(name, golden): &(&str, &str)| {
        let content = fs::read(root().join("tests/goldens").join(golden)).unwrap();
        (name.to_owned(), content)
    };
    names.iter().map(read).collect()
}

/// Two shards, one of them with damaged samples.
fn two() -> Files {
    goldens(&[("0.tar", "wds_clean.tar"), ("1.tar", "wds_dirty.tar")])
}

/// Writes files below a directory.
fn write(folder: &Path, files: &Files) {
    fs::create_dir_all(folder).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

/// Trains the tiny recipe on shards.
fn train(cache: &Path, run: &Path, shards: &str, more: &[&str]) -> Command {
    let shards = format!("data.shards={shards}");
    let evaluation = shards.replace("data.", "evaluation.");
    let sets = ["--set", WEB_DATASET, "--set", &shards, "--set", &evaluation];
    let damage = ["--set", "data.max_damage=0.5"];
    let mut command = tiny::command(run, &[&sets[..], &damage, more].concat());
    with_cache(&mut command, cache);
    command
}

/// Checks that two runs have the same logs and tensors, down to the last bit. Their other files, and what those of weights say beside
/// the tensors, tell where the data lie.
#[track_caller]
fn assert_same(found: &Path, expected: &Path, context: &str) {
    let tensors = |bytes: Vec<u8>| {
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut all: Vec<_> = file.iter().collect();
        all.sort_by_key(|(name, _)| *name);
        format!("{all:?}").into_bytes()
    };
    let results = |run: &Path| {
        let mut results = tiny::results(run);
        results.retain(|name, _| name.ends_with(".safetensors") || name.ends_with(".jsonl"));
        assert!(results.len() > 4, "{:?}", results.keys());
        for (name, bytes) in &mut results {
            if name.ends_with(".safetensors") {
                *bytes = tensors(std::mem::take(bytes));
            }
        }
        results
    };
    let (found, expected) = (results(found), results(expected));
    assert!(found.keys().eq(expected.keys()), "{context}");
    let other = found
        .iter()
        .find(|(name, bytes)| expected[*name] != **bytes);
    assert_eq!(other.map(|(name, _)| name), None, "{context}");
}

#[test]
fn remote_shards_train_as_local_ones_do_and_can_be_moved_in_between() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write(&at("data"), &two());
    let local = at("data").to_string_lossy().into_owned();
    succeeds(&mut train(&at("cache"), &at("runs/local"), &local, &[]));
    // Every other request fails in its own way.
    let faults = [
        Mischief::Drop,
        Mischief::Busy,
        Mischief::Short,
        Mischief::OtherEtag,
        Mischief::OtherTotal,
        Mischief::Stall,
    ];
    let web = Web::new(two(), move |request| match request.content % 2 {
        0 => faults[request.content / 2 % faults.len()],
        _ => Mischief::None,
    });
    let url = format!("{}/{{0,1}}.tar", web.address);
    let said = succeeds(&mut train(&at("cache"), &at("runs/remote"), &url, &[]));
    assert!(said.contains("asked again in"), "{said}");
    assert!(web.spoiled() > 0);
    assert_same(&at("runs/remote"), &at("runs/local"), "by URL");
    // Begun on files, killed, continued by URL: the same data, wherever they lie.
    let moved = at("runs/moved");
    let mut child = train(&at("cache"), &moved, &local, &[]).spawn().unwrap();
    let begun = Instant::now();
    let saved =
        || fs::read_dir(moved.join("checkpoints")).is_ok_and(|mut saved| saved.next().is_some());
    while !saved() && begun.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let more = ["--resume", "--allow-changes"];
    succeeds(&mut train(&at("other"), &moved, &url, &more));
    assert_same(&moved, &at("runs/local"), "moved");
}

#[test]
fn remote_shards_are_inspected_prepared_and_precomputed_as_local_ones_are() {
    let workshop = Workshop::new();
    let folder = workshop.folder.path();
    let cache = folder.join("cache");
    let pictures = workshop.files("pictures").into_iter();
    let files: Files = pictures
        .map(|(name, bytes)| (name.to_string_lossy().into_owned(), bytes))
        .collect();
    let web = Web::new(files, |request| match request.content % 2 {
        0 => Mischief::Drop,
        _ => Mischief::None,
    });
    let url = format!("{}/{{0..5}}.tar", web.address);
    let local = workshop.path("pictures/{0..5}.tar");
    let inspect = |shards: &str| {
        let output = microdit(
            &cache,
            &["data", "inspect", shards, "--json", "--max-damage", "1"],
        );
        String::from_utf8({ output }.output().unwrap().stdout).unwrap()
    };
    let found = inspect(&url);
    assert!(found.contains("\"samples\": 91"), "{found}");
    assert_eq!(found, inspect(&local));
    let [shards, _] = cards(folder);
    for (source, out) in [(&local, "prepared"), (&url, "prepared-by-url")] {
        let out = workshop.path(out);
        let words = [
            "data",
            "prepare",
            &shards,
            "--source",
            source,
            "--out",
            &out,
            "--max-damage",
            "1",
        ];
        succeeds(&mut microdit(&cache, &words));
    }
    same(
        &workshop.files("prepared-by-url"),
        &workshop.files("prepared"),
    );
    workshop.precomputed("latents", &[]);
    let encode = [
        "data",
        "precompute",
        &url,
        "--out",
        &workshop.path("latents-by-url"),
        "--vae",
        &workshop.path("vae"),
        "--text-encoder",
        &workshop.path("clip"),
        "--sizes",
        "32,64",
        "--batch",
        "3",
    ];
    succeeds(&mut microdit(&cache, &encode));
    same(
        &workshop.files("latents-by-url"),
        &workshop.files("latents"),
    );
    assert!(web.spoiled() >= 6);
}

#[test]
fn remote_shards_that_cannot_be_had_are_errors_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let web = Web::new(two(), |request| match request.path.as_str() {
        "1.tar" => Mischief::OtherTotal,
        _ => Mischief::None,
    });
    let inspect = |shards: &str| microdit(&cache, &["data", "inspect", shards]);
    let url = |name: &str| format!("{}/{name}", web.address);
    let run = |command: &mut Command| command.output().unwrap();
    fails(
        &run(&mut inspect(&url("2.tar"))),
        &["/2.tar: no such object"],
    );
    fails(
        &run(&mut inspect("ftp://host/a.tar")),
        &["begins with https://"],
    );
    fails(
        &run(&mut inspect(&url("data"))),
        &["does not list its files", "{000000..000009}.tar"],
    );
    let small = run(inspect(&url("0.tar")).env("MICRODIT_CACHE_GIB", "much"));
    fails(
        &small,
        &["MICRODIT_CACHE_GIB: \"much\"; expected a number from 0.001 to 1000000"],
    );
    // A lost connection ends a run, which can be resumed; it does not leave samples out.
    let run_dir = folder.path().join("run");
    let mut lost = train(&cache, &run_dir, &url("{0,1}.tar"), &[]);
    let length = two()["1.tar"].len();
    fails(
        &run(lost.env("MICRODIT_RETRIES", "1")),
        &[
            &url("1.tar"),
            &format!(
                "its length differs: expected {length} bytes, found {}",
                length + 7
            ),
            "upload both again",
        ],
    );
}

/// What stands before a server, and cuts every other connection after this many bytes of its response.
fn cut_off(server: String, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let connections = AtomicUsize::new(0);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&server) else {
                return;
            };
            let cut = connections
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(2);
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            thread::spawn(move || {
                let (mut server, mut client) = (server, client);
                let most = if cut { after as u64 } else { u64::MAX };
                let _ = std::io::copy(&mut Read::by_ref(&mut server).take(most), &mut client);
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// A server of S3 that is ended with the test.
struct Moto(Child);

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts moto; none where it is missing, which is an error in CI.
fn moto() -> Option<(Moto, String)> {
    let program = std::env::var("MOTO_SERVER").unwrap_or_else(|_| "moto_server".into());
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let started = Command::new(program)
        .args(["-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = started else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(
            !ci,
            "this test needs moto_server; pip install 'moto[s3,server]'"
        );
        eprintln!("skipped: this test needs moto_server (pip install 'moto[s3,server]')");
        return None;
    };
    let (moto, address) = (Moto(child), format!("127.0.0.1:{port}"));
    let begun = Instant::now();
    while TcpStream::connect(&address).is_err() {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "moto does not listen"
        );
        thread::sleep(Duration::from_millis(50));
    }
    Some((moto, address))
}

/// Puts something into a bucket, or makes the bucket.
fn put(server: &str, path: &str, content: &[u8]) {
    let mut stream = TcpStream::connect(server).unwrap();
    write!(
        stream,
        "PUT /{path} HTTP/1.1\r\nHost: {server}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    )
    .unwrap();
    stream.write_all(content).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn remote_buckets_are_read_whatever_happens_to_their_connections() {
    let Some((_moto, server)) = moto() else {
        return;
    };
    put(&server, "bucket", b"");
    let mut files = two();
    for name in [
        "index.json",
        "shard.00000.mds",
        "shard.00001.mds",
        "shard.00002.mds",
    ] {
        let golden = root().join("tests/goldens/mds_plain").join(name);
        if let Ok(content) = fs::read(golden) {
            files.insert(format!("mds/{name}"), content);
        }
    }
    for (name, content) in &files {
        put(&server, &format!("bucket/data/{name}"), content);
    }
    put(&server, "bucket/data/notes.txt", b"no shard");
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let proxy = cut_off(server.clone(), 6000);
    let s3 = |command: &mut Command, endpoint: &str| {
        command
            .env("AWS_ENDPOINT", endpoint)
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "key")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        command.output().unwrap()
    };
    write(&at("data"), &two());
    let inspect = |shards: &str, cache: &str| {
        let words = ["data", "inspect", shards, "--json", "--max-damage", "1"];
        let output = s3(&mut microdit(&at(cache), &words), &proxy);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let local = inspect(&at("data").to_string_lossy(), "none");
    // A pattern, stars, a directory.
    for (i, name) in ["{0..1}.tar", "*.tar", "[01].tar", ""].iter().enumerate() {
        let url = format!("s3://bucket/data/{name}");
        assert_eq!(inspect(&url, &format!("cache-{i}")), local, "{url}");
    }
    let mds = root().join("tests/goldens/mds_plain");
    let local_mds = inspect(&mds.to_string_lossy(), "none");
    assert_eq!(inspect("s3://bucket/data/mds", "cache-mds"), local_mds);
    succeeds(&mut train(
        &at("none"),
        &at("runs/local"),
        &at("data").to_string_lossy(),
        &[],
    ));
    let mut remote = train(
        &at("cache-train"),
        &at("runs/remote"),
        "s3://bucket/data",
        &[],
    );
    let output = s3(&mut remote, &proxy);
    assert!(output.status.success(), "{}", text(&output));
    assert_same(&at("runs/remote"), &at("runs/local"), "from a bucket");
    let inspect = ["data", "inspect", "s3://bucket/other/0.tar"];
    let missing = s3(
        &mut microdit(&at("none"), &inspect),
        &format!("http://{server}"),
    );
    fails(&missing, &["s3://bucket/other/0.tar: no such object"]);
}

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
    microdit::checksum::of_file(file.path()).unwrap()
}
