//! Buckets, by a server of S3.

use crate::{
    assert_same,
    common::{fails, root, text},
    microdit, succeeds, train, two, write,
};
use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

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
