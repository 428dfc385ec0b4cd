//! A web server of files that can be told to misbehave.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Contents by their paths.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// What is done to a response that has content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mischief {
    None,
    /// The connection ends in the middle.
    Drop,
    /// The server falls silent in the middle.
    Stall,
    /// The server says nothing at all.
    Silence,
    /// Not one byte follows the head; the connection ends, or hangs.
    Nothing(bool),
    /// Half of the content, and its length fits.
    Short,
    /// More than was asked for, and its length fits.
    Long,
    /// The object is said to be longer than it was.
    OtherTotal,
    /// Another range than was asked for.
    OtherRange,
    /// The object is said to be another.
    OtherEtag,
    /// A byte is wrong.
    Flip,
    /// Try again later.
    Busy,
    /// All of it, whatever was asked for.
    NoRanges,
}

/// A request that can be answered.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    /// How many requests for the content of this path there were before.
    pub(super) content: usize,
}

/// A running server.
pub(super) struct Web {
    pub(super) address: String,
    state: Arc<State>,
}

struct State {
    files: Files,
    mischief: Box<dyn Fn(&Request) -> Mischief + Send + Sync>,
    requests: Mutex<Vec<String>>,
    spoiled: AtomicUsize,
}

impl Web {
    /// Serves `files`, and does to each request what `mischief` says.
    pub(super) fn new(
        files: Files,
        mischief: impl Fn(&Request) -> Mischief + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            files,
            mischief: Box::new(mischief),
            requests: Mutex::default(),
            spoiled: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                // A connection that ends early is part of the play.
                thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Self { address, state }
    }

    /// First lines of all requests.
    pub(super) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Responses that were spoiled.
    pub(super) fn spoiled(&self) -> usize {
        self.state.spoiled.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(first) = lines.next() {
            let first = first?;
            let mut range = None;
            for line in lines.by_ref() {
                let line = line?.to_lowercase();
                if line.is_empty() {
                    break;
                }
                if let Some(bytes) = line.strip_prefix("range: bytes=") {
                    let (begin, last) = bytes.split_once('-').unwrap();
                    range = Some(begin.parse().unwrap()..last.parse::<usize>().unwrap() + 1);
                }
            }
            let mut words = first.split(' ').map(str::to_owned);
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let request = Request {
                content: {
                    let mut requests = self.requests.lock().unwrap();
                    let same = requests
                        .iter()
                        .filter(|other| **other == format!("GET {path}"))
                        .count();
                    requests.push(format!("{method} {path}"));
                    same
                },
                method,
                path: path.trim_start_matches('/').to_owned(),
            };
            if !self.respond(&mut out, &request, range)? {
                return out.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// Whether the connection goes on.
    fn respond(
        &self,
        out: &mut TcpStream,
        request: &Request,
        range: Option<Range<usize>>,
    ) -> std::io::Result<bool> {
        let Some(file) = self.files.get(&request.path) else {
            out.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(true);
        };
        let head = request.method == "HEAD";
        let mischief = match head {
            true => Mischief::None,
            false => (self.mischief)(request),
        };
        self.spoiled
            .fetch_add(usize::from(mischief != Mischief::None), Ordering::Relaxed);
        let mut status = "206 Partial Content";
        let mut asked = range.clone().unwrap_or(0..file.len());
        if range.is_none() || mischief == Mischief::NoRanges {
            (status, asked) = ("200 OK", 0..file.len());
        }
        asked.end = asked.end.min(file.len());
        let mut body = file[asked.clone()].to_vec();
        let (mut total, mut etag) = (file.len(), "one");
        match mischief {
            Mischief::Silence => {
                thread::sleep(Duration::from_secs(5));
                return Ok(false);
            }
            Mischief::Busy => {
                out.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")?;
                return Ok(true);
            }
            Mischief::Short => body.truncate(body.len() / 2),
            Mischief::Long => body.extend([7; 100]),
            Mischief::OtherTotal => total += 7,
            Mischief::OtherRange => asked = asked.start + 1..asked.end + 1,
            Mischief::OtherEtag => etag = "other",
            Mischief::Flip => body[700] ^= 1,
            _ => {}
        }
        let length = match mischief {
            // The length of all of it is the only one that is told.
            Mischief::OtherTotal if status == "200 OK" => body.len() + 7,
            _ => body.len(),
        };
        write!(
            out,
            "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nContent-Length: {length}\r\nAccept-Ranges: bytes\r\n"
        )?;
        if status != "200 OK" {
            write!(
                out,
                "Content-Range: bytes {}-{}/{total}\r\n",
                asked.start,
                asked.end - 1
            )?;
        }
        out.write_all(b"\r\n")?;
        if head {
            return Ok(true);
        }
        let sent = match mischief {
            Mischief::Drop | Mischief::Stall => body.len() / 2,
            Mischief::Nothing(_) => 0,
            _ => body.len(),
        };
        out.write_all(&body[..sent])?;
        out.flush()?;
        if matches!(mischief, Mischief::Stall | Mischief::Nothing(true)) {
            thread::sleep(Duration::from_secs(5));
        }
        Ok(sent == length)
    }
}
