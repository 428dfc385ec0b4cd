//! Models from a hub that drops connections and sends wrong bytes.

use crate::common::{fails, root, text};
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A server that stands in for the hub.
struct Hub {
    address: String,
    /// Downloads answered with content.
    served: Arc<AtomicUsize>,
    /// Lines of headers that named a token.
    tokens: Arc<Mutex<Vec<String>>>,
}

/// What a file's downloads suffer.
#[derive(Clone, Copy, PartialEq)]
enum Mischief {
    None,
    /// The first connection ends in mid-file.
    Drop,
    /// A byte is not what its checksum says.
    Corrupt,
}

impl Hub {
    /// Serves `files` of one model.
    fn new(files: HashMap<&'static str, (Vec<u8>, Mischief)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            served: Arc::default(),
            tokens: Arc::default(),
        };
        let (served, tokens) = (hub.served.clone(), hub.tokens.clone());
        thread::spawn(move || {
            let dropped = Arc::new(AtomicUsize::new(0));
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (files, served, dropped, tokens) = (
                    files.clone(),
                    served.clone(),
                    dropped.clone(),
                    tokens.clone(),
                );
                // A connection that ends early is part of the play.
                thread::spawn(move || drop(answer(stream, &files, &served, &dropped, &tokens)));
            }
        });
        hub
    }

    fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
        command
            .args(arguments)
            .env("HF_HOME", home)
            .env("HF_ENDPOINT", &self.address)
            .env("HF_TOKEN", "hf_secret")
            .env_remove("HF_HUB_OFFLINE")
            .current_dir(root());
        command
    }
}

/// Answers the requests of one connection.
fn answer(
    stream: TcpStream,
    files: &HashMap<&str, (Vec<u8>, Mischief)>,
    served: &AtomicUsize,
    dropped: &AtomicUsize,
    tokens: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        let mut begin = 0;
        for line in lines.by_ref() {
            let line = line?;
            let lower = line.to_lowercase();
            if let Some(range) = lower.strip_prefix("range: bytes=") {
                begin = range.split('-').next().unwrap().parse().unwrap();
            }
            if lower.starts_with("authorization:") {
                tokens.lock().unwrap().push(line.clone());
            }
            if line.is_empty() {
                break;
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let name = path
            .rsplit_once("/resolve/main/")
            .map_or("", |(_, name)| name);
        let Some((content, mischief)) = files.get(name) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let digest: String = Sha256::digest(content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if begin >= content.len() {
            out.write_all(b"HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let mut body = content[begin..].to_vec();
        write!(
            out,
            "HTTP/1.1 206 Partial Content\r\nETag: \"{digest}\"\r\nX-Repo-Commit: 0123abcd\r\nContent-Range: bytes {begin}-{}/{}\r\nContent-Length: {}\r\n\r\n",
            content.len() - 1,
            content.len(),
            body.len()
        )?;
        if *mischief == Mischief::Corrupt
            && let Some(last) = body.last_mut()
        {
            *last ^= 1;
        }
        // The first answer tells of the file, the second is the download.
        if *mischief == Mischief::Drop && dropped.fetch_add(1, Ordering::SeqCst) == 1 {
            out.write_all(&body[..body.len() / 2])?;
            out.flush()?;
            return out.shutdown(std::net::Shutdown::Both);
        }
        served.fetch_add(1, Ordering::SeqCst);
        out.write_all(&body)?;
    }
    Ok(())
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7919 % 251) as u8).collect()
}

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
    // As long as the file, but something else.
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
        &["sdxl-vae is not on this machine; get it with: microdit fetch sdxl-vae"],
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
