//! A server that stands in for the hub: it drops connections and sends wrong bytes.

use crate::common::root;
use sha2::{Digest, Sha256};
use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// A server that stands in for the hub.
pub(crate) struct Hub {
    pub(crate) address: String,
    /// Downloads answered with content.
    pub(crate) served: Arc<AtomicUsize>,
    /// Lines of headers that named a token.
    pub(crate) tokens: Arc<Mutex<Vec<String>>>,
}

/// What a file's downloads suffer.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mischief {
    None,
    /// The first connection ends in mid-file.
    Drop,
    /// A byte is not what its checksum says.
    Corrupt,
}

impl Hub {
    /// Serves `files` of one model.
    pub(crate) fn new(files: HashMap<&'static str, (Vec<u8>, Mischief)>) -> Self {
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

    pub(crate) fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        command(&self.address, home, arguments)
    }
}

pub(crate) fn command(address: &str, home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_microdit"));
    command
        .args(arguments)
        .env("HF_HOME", home)
        .env("HF_ENDPOINT", address)
        .env("HF_TOKEN", "hf_secret")
        .env_remove("HF_HUB_OFFLINE")
        .current_dir(root());
    command
}

/// A server that answers each request, head and all, as `answer` says: bytes, then the end of the connection, or silence.
pub(crate) fn server(answer: impl Fn(&str) -> (String, bool) + Send + Sync + 'static) -> String {
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
                let (bytes, silent) = answer(&head.join("\n"));
                // Whoever has gone does not hear it.
                let _ = out.write_all(bytes.as_bytes());
                if silent {
                    thread::sleep(Duration::from_secs(60));
                }
            });
        }
    });
    address
}

/// An answer with `body` of a file of `size` bytes.
pub(crate) fn found(checksum: &str, commit: &str, size: usize, body: &str) -> String {
    let last = size.saturating_sub(1);
    format!(
        "HTTP/1.1 206 Partial Content\r\nETag: \"{checksum}\"\r\nX-Repo-Commit: {commit}\r\nContent-Range: bytes 0-{last}/{size}\r\nConnection: close\r\n\r\n{body}"
    )
}

pub(crate) fn sha256(content: &str) -> String {
    sha256_of(content.as_bytes())
}

pub(crate) fn sha256_of(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) const ANY: [&str; 5] = ["fetch", "--repository", "some/model", "--file", "w.bin"];

/// Answers the requests of one connection.
pub(crate) fn answer(
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

pub(crate) fn content(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7919 % 251) as u8).collect()
}
