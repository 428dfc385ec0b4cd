//! Against a server that drops connections, stalls, and lies about lengths.

mod web;

use super::{cache::Cache, config::RemoteConfig, find::find_as};
use crate::{
    DataError, Image, Loader, LoaderConfig, Members, Position, ShardWriter, Shards, Source, Stored,
    Variation,
};
use microdit::rng::{Purpose, Stream};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use web::{Files, Mischief, Web};

fn config(cache: &Path) -> RemoteConfig {
    RemoteConfig {
        cache: cache.to_owned(),
        room: 1 << 30,
        patience: Duration::from_secs(1),
        retries: 3,
        pause: Duration::from_millis(5),
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/goldens")
        .join(name)
}

fn open(url: &str, config: &RemoteConfig, members: Members) -> Result<Shards, DataError> {
    let cache = Arc::new(Cache::new(config));
    Shards::of(find_as(url, config, &cache)?, members, url)
}

/// Shards of noise, so long that each takes several requests.
fn noise(folder: &Path, shards: usize, bytes: usize) {
    for i in 0..shards {
        let mut writer = ShardWriter::create(&folder.join(format!("{i:03}.tar"))).unwrap();
        for j in 0..4 {
            // A prime, so that no request begins where another does.
            let values = Stream::new(i as u64, Purpose::Synthetic, 0, j).uniform(65_537);
            let levels = values.iter().map(|value| (value * 256.0) as u8);
            let file: Vec<u8> = levels
                .collect::<Vec<_>>()
                .repeat(bytes.div_ceil(4 * 65_537));
            let caption = format!("caption {j} of shard {i}");
            let members = [("jpg", file.as_slice()), ("txt", caption.as_bytes())];
            writer.add(&format!("{i}-{j}"), &members).unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
    }
}

/// The files of a directory and those below it.
fn files(folder: &Path) -> Files {
    let mut found = Files::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => {
                let inner = files(&path).into_iter();
                found.extend(inner.map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
            }
            false => {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Keys, captions and stored bytes of all samples, and what is incomplete.
fn contents(shards: &Shards) -> Vec<String> {
    let mut found = Vec::new();
    for shard in shards.in_turn() {
        let (samples, incomplete) = shards.read(shard).unwrap();
        for sample in samples {
            let bytes = match sample.image {
                Image::Encoded(file) => file,
                Image::Precomputed {
                    latent: Stored::Halves(latent),
                    ..
                } => latent,
                other => panic!("{other:?}"),
            };
            let hash =
                microdit::checksum::hexadecimal(&<sha2::Sha256 as sha2::Digest>::digest(bytes));
            found.push(format!("{} {:?} {hash}", sample.key, sample.caption));
        }
        found.extend(incomplete.iter().map(|lack| format!("{lack:?}")));
    }
    found
}

/// Parts and locks apart, what lies in a cache.
fn cached(cache: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<(String, u64)> = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, entry.metadata().unwrap().len())
        })
        .collect();
    found.sort();
    found
}

fn shards_of(cached: &[(String, u64)]) -> impl Iterator<Item = &(String, u64)> {
    cached.iter().filter(|(name, _)| name.ends_with(".shard"))
}

const ALL: [Mischief; 10] = [
    Mischief::Drop,
    Mischief::Stall,
    Mischief::Silence,
    Mischief::Short,
    Mischief::Long,
    Mischief::OtherTotal,
    Mischief::OtherRange,
    Mischief::OtherEtag,
    Mischief::Busy,
    Mischief::NoRanges,
];

#[test]
fn whatever_a_server_does_the_samples_are_the_same() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 3, 18 << 20);
    let expected =
        contents(&Shards::open(&local.path().to_string_lossy(), Members::Pictures).unwrap());
    assert_eq!(expected.len(), 12);
    // Most of the time is spent waiting for the server.
    std::thread::scope(|scope| {
        for mischief in ALL {
            let (local, expected) = (local.path(), &expected);
            scope.spawn(move || spoiled_by(mischief, local, expected));
        }
    });
}

/// Reads the shards of a directory from a server that does this, and from the cache.
fn spoiled_by(mischief: Mischief, local: &Path, expected: &[String]) {
    // Two of three requests for content are spoiled, except that a server without ranges never has them.
    let web = Web::new(files(local), move |request| match mischief {
        Mischief::NoRanges => mischief,
        _ if request.content % 3 != 2 => mischief,
        _ => Mischief::None,
    });
    let cache = tempfile::tempdir().unwrap();
    let url = format!("{}/{{000..002}}.tar", web.address);
    let config = RemoteConfig {
        retries: 30,
        ..config(cache.path())
    };
    let shards = open(&url, &config, Members::Pictures).unwrap();
    assert_eq!(contents(&shards), expected, "{mischief:?}");
    assert!(web.spoiled() > 2, "{mischief:?}");
    let there = cached(cache.path());
    assert_eq!(shards_of(&there).count(), 3, "{mischief:?}");
    assert!(
        there.iter().all(|(name, _)| !name.ends_with(".part")),
        "{mischief:?}: {there:?}"
    );
    // What is there is not asked for again.
    let before = web.requests().len();
    let again = open(&url, &config, Members::Pictures).unwrap();
    assert_eq!(contents(&again), expected);
    let asked = web.requests()[before..].to_vec();
    assert!(
        asked
            .iter()
            .all(|request| !request.contains(".tar") || request.starts_with("HEAD")),
        "{asked:?}"
    );
}

#[test]
fn batches_of_a_server_that_drops_connections_are_those_of_the_files() {
    let local = tempfile::tempdir().unwrap();
    for name in ["wds_clean.tar", "wds_dirty.tar"] {
        fs::copy(golden(name), local.path().join(name)).unwrap();
    }
    let load = |shards: Shards, start: &Position, count: usize| {
        let config = LoaderConfig {
            seed: 1,
            batch: 6,
            shape: [3, 16, 16],
            buckets: None,
            shrinks_by: 1,
            caption: [3, 2],
            trimmed: false,
            threads: 2,
            max_damage: 0.5,
            variation: Variation::default(),
        };
        let mut loader = Loader::new(Source::Shards(shards), config, start);
        (0..count)
            .map(|_| loader.next_batch().unwrap())
            .collect::<Vec<_>>()
    };
    let spec = local.path().to_string_lossy().into_owned();
    let expected = load(
        Shards::open(&spec, Members::Pictures).unwrap(),
        &Position::default(),
        20,
    );
    let web = Web::new(files(local.path()), |request| match request.content % 2 {
        0 => Mischief::Drop,
        _ => Mischief::None,
    });
    let cache = tempfile::tempdir().unwrap();
    let url = format!("{}/wds_{{clean,dirty}}.tar", web.address);
    // So little room that shards are fetched again and again.
    let largest = files(local.path()).values().map(Vec::len).max().unwrap() as u64;
    let config = RemoteConfig {
        room: largest,
        retries: 30,
        ..config(cache.path())
    };
    let shards = || open(&url, &config, Members::Pictures).unwrap();
    assert_eq!(load(shards(), &Position::default(), 20), expected);
    assert_eq!(load(shards(), &expected[6].next, 13), expected[7..]);
    assert!(web.spoiled() > 0);
}

#[test]
fn mds_shards_are_read_from_a_server() {
    for name in ["mds_plain", "mds_zstd"] {
        let members = || Members::latents(256);
        let folder = golden(name);
        let expected = contents(&Shards::open(&folder.to_string_lossy(), members()).unwrap());
        let web = Web::new(files(&folder), |_| Mischief::None);
        let cache = tempfile::tempdir().unwrap();
        let shards = open(&web.address, &config(cache.path()), members()).unwrap();
        assert_eq!(contents(&shards), expected);
        assert_eq!(expected.len(), 24);
    }
}

#[test]
fn what_never_comes_right_is_an_error_with_the_url() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 1, 1 << 16);
    let length = fs::metadata(local.path().join("000.tar")).unwrap().len();
    for (mischief, expected) in [
        (Mischief::Drop, vec!["bytes", "tried 4 times"]),
        (Mischief::Stall, vec!["silent for 1 s", "tried 4 times"]),
        (Mischief::Silence, vec!["silent for 1 s", "tried 4 times"]),
        (Mischief::OtherTotal, vec!["length", "fetched 4 times"]),
        (
            Mischief::OtherEtag,
            vec!["ETag", "other", "fetched 4 times"],
        ),
        (Mischief::Busy, vec!["503", "tried 4 times"]),
    ] {
        // Every byte counts as progress: it is the first that never comes.
        let web = Web::new(files(local.path()), move |request| match mischief {
            Mischief::Drop | Mischief::Stall if request.method == "GET" => {
                Mischief::Nothing(mischief == Mischief::Stall)
            }
            _ => mischief,
        });
        let cache = tempfile::tempdir().unwrap();
        let url = format!("{}/000.tar", web.address);
        let shards = open(&url, &config(cache.path()), Members::Pictures).unwrap();
        let error = shards.read(shards.iter().next().unwrap()).unwrap_err();
        assert!(matches!(error, DataError::Remote(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.starts_with(&url), "{error}");
        for part in expected {
            assert!(error.contains(part), "{mischief:?}: {error}");
        }
        if mischief == Mischief::OtherTotal {
            assert!(
                error.contains(&format!("expected {length} bytes, found {}", length + 7)),
                "{error}"
            );
        }
        assert_eq!(cached(cache.path()), [], "{mischief:?}");
    }
}

#[test]
fn content_that_differs_from_its_index_is_fetched_again_and_then_refused() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 1, 1 << 16);
    let file = fs::read(local.path().join("000.tar")).unwrap();
    let sum = microdit::checksum::of_file(&local.path().join("000.tar"))
        .unwrap()
        .1;
    let index = format!(
        r#"{{"samples": 4, "bytes": {0}, "rejected": {{}}, "contents": null,
            "shards": [{{"file": "000.tar", "samples": 4, "bytes": {0}, "sha256": "{sum}", "rejected": {{}}}}]}}"#,
        file.len()
    );
    for (spoiled, sound) in [(2, true), (usize::MAX, false)] {
        let mut files = files(local.path());
        files.insert("shards.json".into(), index.clone().into_bytes());
        let web = Web::new(files, move |request| {
            match request.path.ends_with(".tar") && request.content < spoiled {
                true => Mischief::Flip,
                false => Mischief::None,
            }
        });
        let cache = tempfile::tempdir().unwrap();
        // A web server has no lists: what it has is in the index.
        let shards = open(&web.address, &config(cache.path()), Members::Pictures).unwrap();
        assert_eq!(shards.index().unwrap().unwrap().samples, 4);
        let read = shards.read(shards.iter().next().unwrap());
        match sound {
            true => assert_eq!(read.unwrap().0.len(), 4),
            false => {
                let error = read.unwrap_err().to_string();
                let expected = format!(
                    "{}/000.tar: its SHA-256 differs: expected {sum}, found",
                    web.address
                );
                assert!(error.starts_with(&expected), "{error}");
                assert_eq!(cached(cache.path()), []);
            }
        }
    }
}

#[test]
fn the_cache_keeps_to_its_room_and_notices_damage() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 5, 1 << 18);
    let length = fs::metadata(local.path().join("000.tar")).unwrap().len();
    let web = Web::new(files(local.path()), |_| Mischief::None);
    let cache = tempfile::tempdir().unwrap();
    let small = RemoteConfig {
        room: 2 * length + length / 2,
        ..config(cache.path())
    };
    let url = |which: &str| format!("{}/{which}.tar", web.address);
    let all = open(&url("{000..004}"), &small, Members::Pictures).unwrap();
    let expected =
        contents(&Shards::open(&local.path().to_string_lossy(), Members::Pictures).unwrap());
    for _ in 0..3 {
        assert_eq!(contents(&all), expected);
        let there = cached(cache.path());
        let bytes: u64 = there.iter().map(|(_, bytes)| bytes).sum();
        // The records are short, and not counted.
        assert!(bytes <= small.room + 5 * 1000, "{there:?}");
    }
    let too_small = RemoteConfig {
        room: length - 1,
        ..config(cache.path())
    };
    let shards = open(&url("000"), &too_small, Members::Pictures).unwrap();
    let error = shards
        .read(shards.iter().next().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("{length} bytes"))
            && error.contains(&format!("room for {}", length - 1)),
        "{error}"
    );
    // A bit that changed on the disk.
    let fresh = tempfile::tempdir().unwrap();
    let shards = || open(&url("001"), &config(fresh.path()), Members::Pictures).unwrap();
    let before = contents(&shards());
    let name = shards_of(&cached(fresh.path())).next().unwrap().0.clone();
    let mut bytes = fs::read(fresh.path().join(&name)).unwrap();
    bytes[5000] ^= 1;
    fs::write(fresh.path().join(&name), bytes).unwrap();
    let asked = web.requests().len();
    assert_eq!(contents(&shards()), before);
    assert!(
        web.requests()[asked..]
            .iter()
            .any(|request| request.starts_with("GET /001.tar"))
    );
}

#[test]
fn one_shard_is_fetched_once_whoever_wants_it() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 1, 1 << 20);
    let web = Web::new(files(local.path()), |_| Mischief::None);
    let cache = tempfile::tempdir().unwrap();
    let url = format!("{}/000.tar", web.address);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let shards = open(&url, &config(cache.path()), Members::Pictures).unwrap();
                assert_eq!(contents(&shards).len(), 4);
            });
        }
    });
    let requests = web.requests();
    let fetched = requests
        .iter()
        .filter(|request| request.starts_with("GET /000.tar"));
    assert_eq!(fetched.count(), 1, "{requests:?}");
}

#[test]
fn what_is_not_there_is_said_at_once() {
    let web = Web::new(Files::from([("a.tar".into(), vec![0; 1024])]), |_| {
        Mischief::None
    });
    let cache = tempfile::tempdir().unwrap();
    let error = |path: &str| {
        let url = format!("{}/{path}", web.address);
        let error = open(&url, &config(cache.path()), Members::Pictures).unwrap_err();
        error.to_string()
    };
    assert!(
        error("b.tar").ends_with("/b.tar: no such object"),
        "{}",
        error("b.tar")
    );
    assert!(error("{a,b}.tar").ends_with("/b.tar: no such object"));
    assert!(
        error("folder").contains("does not list its files"),
        "{}",
        error("folder")
    );
    assert!(
        error("*.tar").contains("does not list its files"),
        "{}",
        error("*.tar")
    );
    assert!(
        error("{a.tar").contains("not closed"),
        "{}",
        error("{a.tar")
    );
    // Nobody listens there.
    let closed = open(
        "http://127.0.0.1:9/a.tar",
        &config(cache.path()),
        Members::Pictures,
    );
    let closed = closed.unwrap_err().to_string();
    assert!(
        closed.contains("tried 4 times") && closed.contains("refused"),
        "{closed}"
    );
}

#[test]
fn pieces_are_read_alone() {
    let local = tempfile::tempdir().unwrap();
    noise(local.path(), 1, 1 << 20);
    let path = local.path().join("000.tar");
    let file = fs::read(&path).unwrap();
    let ranges = [
        0..100,
        5000..9096,
        file.len() as u64 - 10..file.len() as u64 + 90,
    ];
    for whole in [false, true] {
        let web = Web::new(files(local.path()), move |request| match whole {
            true => Mischief::NoRanges,
            false if request.content % 2 == 0 => Mischief::Drop,
            false => Mischief::None,
        });
        let cache = tempfile::tempdir().unwrap();
        let url = format!("{}/000.tar", web.address);
        let shards = open(&url, &config(cache.path()), Members::Pictures).unwrap();
        let remote = shards.iter().next().unwrap().file();
        let expected = Shards::open(&path.to_string_lossy(), Members::Pictures).unwrap();
        let expected = expected.iter().next().unwrap().file();
        assert_eq!(
            remote.pieces(&ranges).unwrap(),
            expected.pieces(&ranges).unwrap()
        );
        assert_eq!(remote.bytes().unwrap(), file.len() as u64);
        let there = cache.path().is_dir() && fs::read_dir(cache.path()).unwrap().count() > 0;
        assert_eq!(there, whole);
        assert_eq!(remote.checksum().unwrap(), expected.checksum().unwrap());
    }
}
