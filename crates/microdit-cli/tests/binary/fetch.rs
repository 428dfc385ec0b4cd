//! Models from a hub that drops connections and sends wrong bytes.

use crate::{
    common::{fails, text},
    hub::{ANY, Hub, Mischief, command, content, found, server, sha256},
};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

#[test]
fn a_dropped_download_goes_on_and_a_second_one_is_none() {
    let weights = content(300_000);
    let hub = Hub::new(HashMap::from([
        ("config.json", (b"{}".to_vec(), Mischief::None)),
        (
            "diffusion_pytorch_model.safetensors",
            (weights.clone(), Mischief::Drop),
        ),
    ]));
    let home = tempfile::tempdir().unwrap();
    let output = hub
        .command(home.path(), &["fetch", "sdxl-vae"])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("sdxl-vae: ") && said.contains("snapshots"),
        "{said}"
    );
    let folder = home
        .path()
        .join("hub/models--stabilityai--sdxl-vae/snapshots/0123abcd");
    assert!(fs::read(folder.join("diffusion_pytorch_model.safetensors")).unwrap() == weights);
    let tokens = hub.tokens.lock().unwrap().clone();
    assert!(tokens.iter().all(|line| line.contains("Bearer hf_secret")) && !tokens.is_empty());
    // What is in the cache is neither fetched again nor needs the hub.
    let before = hub.served.load(Ordering::SeqCst);
    let again = hub
        .command(home.path(), &["fetch", "sdxl-vae"])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(hub.served.load(Ordering::SeqCst), before);
}

#[test]
fn a_part_that_is_whole_but_was_never_named_is_fetched_again() {
    let weights = content(5000);
    let hub = Hub::new(HashMap::from([
        ("config.json", (b"{}".to_vec(), Mischief::None)),
        (
            "diffusion_pytorch_model.safetensors",
            (weights.clone(), Mischief::None),
        ),
    ]));
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("hub/models--stabilityai--sdxl-vae");
    fs::create_dir_all(model.join("blobs")).unwrap();
    let digest: String = Sha256::digest(&weights)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // As long as the file, but with other content.
    fs::write(model.join(format!("blobs/{digest}.part")), vec![0; 5000]).unwrap();
    let output = hub
        .command(home.path(), &["fetch", "sdxl-vae"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let file = model.join("snapshots/0123abcd/diffusion_pytorch_model.safetensors");
    assert!(fs::read(file).unwrap() == weights);
}

#[test]
fn a_wrong_checksum_is_found_and_nothing_stays() {
    let hub = Hub::new(HashMap::from([
        ("config.json", (b"{}".to_vec(), Mischief::None)),
        (
            "diffusion_pytorch_model.safetensors",
            (content(5000), Mischief::Corrupt),
        ),
    ]));
    let home = tempfile::tempdir().unwrap();
    let output = hub
        .command(home.path(), &["fetch", "taesdxl"])
        .output()
        .unwrap();
    fails(
        &output,
        &[
            "taesdxl/diffusion_pytorch_model.safetensors has arrived damaged",
            "the hub says",
        ],
    );
    let blobs = home.path().join("hub/models--madebyollin--taesdxl/blobs");
    let large = fs::read_dir(blobs)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().metadata().unwrap().len() > 100);
    assert_eq!(large.count(), 0);
}

#[test]
fn what_is_missing_names_the_command_that_gets_it() {
    let hub = Hub::new(HashMap::new());
    let home = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| hub.command(home.path(), arguments).output().unwrap();
    let shard = "tests/goldens/wds_clean.tar";
    let out = home.path().join("out");
    let out = out.to_string_lossy();
    let precompute = [
        "data",
        "precompute",
        shard,
        "--out",
        &out,
        "--text-encoder",
        "dfn-clip-h14",
        "--vae",
    ];
    fails(
        &command(&[&precompute[..], &["sdxl-vae"]].concat()),
        &[
            "sdxl-vae is not on this machine",
            "get it with: microdit fetch sdxl-vae",
        ],
    );
    fails(
        &command(&[&precompute[..], &["no-such-vae"]].concat()),
        &[
            "no-such-vae: no such file or directory",
            "known are sdxl-vae",
        ],
    );
    fails(
        &command(&["fetch", "clip-l14"]),
        &["openai/clip-vit-large-patch14/config.json", "404"],
    );
    let offline = hub
        .command(home.path(), &["fetch", "clip-l14"])
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    fails(
        &offline,
        &[
            "openai/clip-vit-large-patch14/config.json is not in the cache",
            "HF_HUB_OFFLINE",
        ],
    );
    fails(
        &command(&["fetch", "sdxl"]),
        &["invalid value 'sdxl'", "sdxl-vae"],
    );
}

/// The hub sends large files from other hosts, which must not get its token, nor choose names in the cache.
#[test]
fn the_token_goes_to_the_hub_alone() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let storage = server(move |head| {
        seen.lock().unwrap().push(head.to_lowercase());
        (found("../../storage", "../..", 7, "weights"), false)
    });
    let checksum = sha256("weights");
    let authorized = Arc::new(AtomicUsize::new(0));
    let count = authorized.clone();
    let hub = server(move |head| {
        if head.contains("uthorization: Bearer hf_secret") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        // First to another path of its own.
        let answer = if head.contains("/resolve/") {
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /cache/w.bin\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                .to_owned()
        } else {
            format!(
                "HTTP/1.1 302 Found\r\nX-Linked-ETag: \"{checksum}\"\r\nX-Repo-Commit: 0123abcd\r\nLocation: {storage}/blob\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
        };
        (answer, false)
    });
    let home = tempfile::tempdir().unwrap();
    let output = command(&hub, home.path(), &ANY).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let model = home.path().join("hub/models--some--model");
    let path = model.join("snapshots/0123abcd/w.bin");
    assert_eq!(fs::read_to_string(path).unwrap(), "weights");
    assert_eq!(
        fs::read_to_string(model.join("refs/main")).unwrap(),
        "0123abcd"
    );
    assert_eq!(authorized.load(Ordering::SeqCst), 4);
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    for head in &*heads {
        assert!(
            !head.contains("authorization") && !head.contains("secret"),
            "{head}"
        );
    }
}

#[test]
fn names_from_the_server_stay_within_the_cache() {
    let good = sha256("weights");
    let cases = [
        (
            "../../../escaped",
            "0123abcd",
            "checksum (ETag) is `../../../escaped`",
        ),
        (
            &good,
            "../../../escaped",
            "commit (X-Repo-Commit) is `../../../escaped`",
        ),
        (&good, "/tmp/escaped", "commit (X-Repo-Commit)"),
        ("", "0123abcd", "checksum (ETag)"),
        (&good, "", "commit (X-Repo-Commit)"),
        ("main", "0123abcd", "checksum (ETag) is `main`"),
        (&"a".repeat(1000), "0123abcd", "checksum (ETag)"),
    ];
    for (checksum, commit, part) in cases {
        let answer = found(checksum, commit, 7, "weights");
        let hub = server(move |_| (answer.clone(), false));
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("inner/home");
        let output = command(&hub, &inner, &ANY).output().unwrap();
        fails(&output, &["some/model/w.bin could not be fetched", part]);
        assert_eq!(
            fs::read_dir(home.path()).unwrap().count(),
            0,
            "{checksum} {commit}"
        );
    }
    let home = tempfile::tempdir().unwrap();
    for (repository, file) in [
        ("../escaped", "w.bin"),
        ("/etc/x", "w.bin"),
        ("a/b/c", "w.bin"),
        ("a/b", "../../../w.bin"),
        ("a/b", "/etc/passwd"),
        ("a/b", ""),
    ] {
        let arguments = ["fetch", "--repository", repository, "--file", file];
        let output = command("http://127.0.0.1:9", home.path(), &arguments)
            .output()
            .unwrap();
        fails(&output, &["` is not a "]);
    }
    // A commit that another program left in the cache.
    let model = home.path().join("hub/models--some--model");
    fs::create_dir_all(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), "../../..").unwrap();
    fs::write(home.path().join("w.bin"), "not the model").unwrap();
    let offline = command("http://127.0.0.1:9", home.path(), &ANY)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    fails(&offline, &["is not in the cache"]);
}

#[test]
fn redirects_and_lengths_have_bounds() {
    let checksum = sha256("weights");
    // Told of the end, the client does not send the next request into a connection that the server has left, which it would
    // have to repeat.
    let again =
        "HTTP/1.1 302 Found\r\nLocation: /again\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let file = "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    for (answer, part) in [
        (again.to_owned(), "redirected more than 5 times"),
        (file.to_owned(), "`file:///etc/passwd` is not an address"),
        (
            found(&checksum, "0123abcd", 1 << 50, ""),
            "1125899906842624 bytes; at most",
        ),
        (
            found(&checksum, "0123abcd", 3, "weights"),
            "more than the 3 bytes it announced",
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
            "does not tell its size",
        ),
    ] {
        let asked = std::sync::Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let hub = server(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            (answer.clone(), false)
        });
        let home = tempfile::tempdir().unwrap();
        let output = command(&hub, home.path(), &ANY).output().unwrap();
        fails(&output, &["some/model/w.bin could not be fetched", part]);
        // The first request and five redirects.
        assert!(asked.load(Ordering::SeqCst) <= 6, "{part}: {asked:?}");
    }
}

#[test]
fn a_silent_server_is_asked_again() {
    let checksum = sha256("weights");
    let asked = AtomicUsize::new(0);
    // The first response is empty; the third, which is the first download, stops within the file.
    let hub = server(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => (String::new(), true),
        2 => (found(&checksum, "0123abcd", 7, ""), true),
        _ => (found(&checksum, "0123abcd", 7, "weights"), false),
    });
    let home = tempfile::tempdir().unwrap();
    let output = command(&hub, home.path(), &ANY)
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[cfg(unix)]
#[test]
fn a_hanging_download_hears_signals_and_keeps_what_has_come() {
    for signal in ["-INT", "-TERM"] {
        let checksum = sha256("weights");
        let part = format!("hub/models--some--model/blobs/{checksum}.part");
        let hub = server(move |_| (found(&checksum, "0123abcd", 7, "weig"), true));
        let home = tempfile::tempdir().unwrap();
        let mut child = command(&hub, home.path(), &ANY)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let part = home.path().join(part);
        let begin = Instant::now();
        while !fs::read_to_string(&part).is_ok_and(|text| text == "weig") {
            assert!(begin.elapsed().as_secs() < 20, "nothing came");
            thread::sleep(Duration::from_millis(20));
        }
        let sent = Instant::now();
        let killed = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status();
        assert!(killed.unwrap().success());
        assert!(!child.wait().unwrap().success());
        assert!(
            sent.elapsed() < Duration::from_secs(2),
            "{signal}: {:?}",
            sent.elapsed()
        );
        assert_eq!(fs::read_to_string(&part).unwrap(), "weig");
    }
}
