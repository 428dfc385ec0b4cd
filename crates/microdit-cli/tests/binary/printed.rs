//! What comes from outside is shown, never obeyed: no control character and no change of the writing direction reaches a
//! terminal, wherever it came from.

use crate::{
    common::{WEB_DATASET, root, small},
    encoders,
};
use std::{
    ffi::OsString,
    fs,
    io::{Read, Write},
    net::TcpListener,
    os::unix::ffi::OsStringExt,
    path::Path,
    process::Command,
    thread,
};

/// Colors, moves the cursor, sets the title, changes the writing direction, and is the name of a file.
const HOSTILE: &str = "\x1b[31m\x1b]0;pwn\x07\u{202e}\r\u{9b}2J\u{8}\x7f\u{2066}\u{200f}h";

/// Whether its beginning is shown, as JSON, Rust or a subscriber of traces write it.
fn is_shown(said: &str) -> bool {
    let ways = [r"\u001b[31m", r"\u{1b}[31m", r"\x1b[31m"];
    ways.iter().any(|way| said.contains(way))
}

/// Characters no terminal may get.
fn obeyed(text: &str) -> Vec<char> {
    let turns = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let controls = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().filter(|&c| controls(c) || turns(c)).collect()
}

/// Runs the binary, and returns what it said without any space, since wrapping breaks words.
#[track_caller]
fn said(arguments: &[OsString], variables: &[(&str, &str)], folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_microdit"))
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(folder)
        .output()
        .unwrap();
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8(all).expect("it speaks UTF-8");
    let found = obeyed(&said);
    assert!(found.is_empty(), "{arguments:?}: {found:?} in {said}");
    assert!(!said.contains("panicked"), "{arguments:?}: {said}");
    said.chars()
        .filter(|c| !c.is_whitespace() && *c != '│')
        .collect()
}

/// A tar with a picture and its caption, neither of which is any use, under a hostile name.
fn tar(path: &Path) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    for (ending, content) in [("png", "no picture"), ("txt", HOSTILE), ("json", HOSTILE)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let name = format!("{HOSTILE}.{ending}");
        builder
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    builder.finish().unwrap();
}

/// A server whose every answer is hostile.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let body = HOSTILE.repeat(3);
            let _ = write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nX-Error-Message: {0}\r\n\
                 ETag: \"{0}\"\r\nContent-Length: {1}\r\nConnection: close\r\n\r\n{body}",
                HOSTILE.replace('\r', ""),
                body.len()
            );
        }
    });
    address
}

#[test]
fn arguments_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = root().join("recipes/quickstart.ron").display().to_string();
    let named = format!("name=\"{HOSTILE}\"");
    let key = format!("{HOSTILE}=1");
    let sheet = format!("{HOSTILE}/a.png");
    for arguments in [
        &[HOSTILE][..],
        &["plan", HOSTILE],
        &["plan", &quickstart, "--gpu", HOSTILE],
        &["plan", &quickstart, "--mfu", HOSTILE],
        &["train", HOSTILE],
        &["train", &quickstart, "--set", &key],
        &["train", &quickstart, "--set", HOSTILE],
        &["train", &quickstart, "--devices", HOSTILE],
        &["recipe", "check", &quickstart, "--set", &named],
        &["sample", "--run", HOSTILE],
        &["sample", "--run", HOSTILE, "--out", HOSTILE],
        &["sample", "--run", HOSTILE, "--out", &sheet],
        &["sample", "--run", HOSTILE, "--prompts", HOSTILE],
        &[
            "sample",
            "--weights",
            HOSTILE,
            "--vae",
            HOSTILE,
            "--text-encoder",
            HOSTILE,
        ],
        &["convert", HOSTILE, "--out", "a.safetensors"],
        &["fetch", HOSTILE],
        &["data", "inspect", HOSTILE],
        &["data", "index", HOSTILE],
        &["data", "prepare", HOSTILE, "--out", HOSTILE],
        &[
            "data",
            "precompute",
            HOSTILE,
            "--out",
            "a",
            "--vae",
            "b",
            "--text-encoder",
            "c",
        ],
    ] {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let said = said(&arguments, &[], folder.path());
        assert!(is_shown(&said), "{arguments:?}: {said}");
    }
    // A name that is not text at all.
    let odd = OsString::from_vec(b"\xff\xfe\x1b[31m.ron".to_vec());
    let said_of_odd = said(&["plan".into(), odd], &[], folder.path());
    assert!(is_shown(&said_of_odd), "{said_of_odd}");
    let rank = [
        "data",
        "precompute",
        "a",
        "--out",
        "b",
        "--vae",
        "c",
        "--text-encoder",
        "d",
    ];
    let rank = rank.map(OsString::from);
    let slurm = [("SLURM_PROCID", HOSTILE), ("SLURM_STEP_NUM_TASKS", "2")];
    let said_of_rank = said(&rank, &slurm, folder.path());
    assert!(is_shown(&said_of_rank), "{said_of_rank}");
}

#[test]
fn what_files_and_servers_say_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let quickstart = root().join("recipes/quickstart.ron").display().to_string();
    let faults = root().join("tests/faults").display().to_string();
    tar(&at("data.tar"));
    fs::create_dir_all(at("pictures")).unwrap();
    fs::write(at("pictures").join(format!("{HOSTILE}.png")), "no picture").unwrap();
    fs::write(at("pictures").join(format!("{HOSTILE}.txt")), HOSTILE).unwrap();
    let card = format!("(name: \"x\", layout: \"{HOSTILE}\")");
    fs::write(at("card.ron"), card).unwrap();
    fs::write(at("recipe.ron"), format!("(name: {HOSTILE})")).unwrap();
    fs::write(at("prompts.txt"), "red ".repeat(20) + HOSTILE).unwrap();
    fs::create_dir(at("mds")).unwrap();
    let index = serde_json::json!({"version": 2, "shards": [{
        "column_names": [HOSTILE], "column_encodings": [HOSTILE], "column_sizes": [null],
        "compression": HOSTILE, "format": HOSTILE, "hashes": [], "raw_data": {"basename": HOSTILE, "bytes": 1, "hashes": {}},
        "samples": 1, "size_limit": 1, "version": 2, "zip_data": null,
    }]});
    fs::write(at("mds/index.json"), index.to_string()).unwrap();
    fs::write(at("mds").join(HOSTILE), [0; 64]).unwrap();
    fs::create_dir(at("vae")).unwrap();
    let config = serde_json::json!({"_class_name": HOSTILE, "model_type": HOSTILE});
    fs::write(at("vae/config.json"), config.to_string()).unwrap();
    fs::write(at("vae/diffusion_pytorch_model.safetensors"), weights()).unwrap();
    fs::write(at("vae/model.safetensors"), weights()).unwrap();
    encoders::vae(&at("sound"));
    let small: Vec<&str> = small().collect();
    let stage = format!("stages=[(name: \"{HOSTILE}\", steps: 1)]");
    let escape = format!("{faults}/escape.pt");
    let web = ["--set", WEB_DATASET, "--set"];
    let train = ["train", &quickstart, "--run", "run"];
    let mut cases: Vec<Vec<&str>> = [
        &["convert", &escape, "--out", "a.safetensors"][..],
        &[
            "convert",
            &escape,
            "--recipe",
            &quickstart,
            "--run",
            "taken",
        ],
        &["convert", "vae/model.safetensors", "--out", "b.safetensors"],
        &[
            "sample",
            "--weights",
            "vae/model.safetensors",
            "--vae",
            "vae",
            "--text-encoder",
            "vae",
        ],
        &["data", "inspect", "data.tar"],
        &["data", "inspect", "data.tar", "--json"],
        &["data", "inspect", "mds"],
        &["data", "inspect", "mds", "--json"],
        &[
            "data", "prepare", "card.ron", "--source", "pictures", "--out", "prepared",
        ],
        &[
            "data",
            "precompute",
            "data.tar",
            "--out",
            "l",
            "--vae",
            "vae",
            "--text-encoder",
            "vae",
        ],
        &[
            "data",
            "precompute",
            "mds",
            "--out",
            "m",
            "--vae",
            "sound",
            "--text-encoder",
            "vae",
        ],
        &["plan", "recipe.ron"],
        &["fetch", "--repository", "a/b", "--file", HOSTILE],
        &["fetch", "sdxl-vae"],
    ]
    .map(<[&str]>::to_vec)
    .to_vec();
    cases.push([&train[..], &small, &web, &["data.shards=data.tar"]].concat());
    cases.push([&train[..], &small, &web, &["data.shards=mds"]].concat());
    let short = [
        "model.depth=1",
        "batch=2",
        "sampling.steps=1",
        "sampling.count=1",
    ];
    let short: Vec<&str> = short.iter().flat_map(|&set| ["--set", set]).collect();
    cases.push([&train[..], &["--set", &stage], &short].concat());
    for name in ["cc12m", "coco2014"] {
        let card = root()
            .join(format!("datasets/{name}.ron"))
            .display()
            .to_string();
        for source in ["data.tar", "pictures", "mds"] {
            let arguments = ["data", "prepare", &card, "--source", source, "--out", "p"];
            said(&arguments.map(OsString::from), &[], folder.path());
        }
    }
    let hub = server();
    let home = at("home").display().to_string();
    let variables = [
        ("HF_ENDPOINT", hub.as_str()),
        ("HF_HOME", home.as_str()),
        ("RUST_LOG", "debug"),
    ];
    let mut shown = 0;
    for case in cases {
        let arguments: Vec<OsString> = case.iter().map(OsString::from).collect();
        shown += usize::from(is_shown(&said(&arguments, &variables, folder.path())));
    }
    assert!(shown > 6, "only {shown} of the texts are shown at all");
    // Nor does such a name become one of ours.
    for entry in walk(folder.path()) {
        let name = entry.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            obeyed(&name).is_empty() || name.starts_with(HOSTILE),
            "{name:?}"
        );
    }
}

/// A safetensors file of one tensor of a hostile name.
fn weights() -> Vec<u8> {
    let header =
        serde_json::json!({HOSTILE: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}});
    let header = header.to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], &header, &[0; 4]].concat()
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

/// `miette!` prints a plain text after `help =` as it stands: what is to be filled in needs `format!`.
#[test]
fn no_way_out_is_printed_with_a_placeholder() {
    let (mut folders, mut found) = (vec![root().join("crates/microdit-cli/src")], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for after in text.split("help = \"").skip(1) {
                // A quotation mark of the text itself stands behind a backslash.
                let escaped = after.replace("\\\"", "  ");
                let help = &escaped[..escaped.find('"').unwrap()];
                assert!(!help.contains('{'), "{}: {help}", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 3, "{found}");
}
