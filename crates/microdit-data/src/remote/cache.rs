//! Shards that were fetched, up to a number of bytes; those not used for the longest time make room for others.
//!
//! Many processes may share a directory. Of a shard there are `KEY.shard`, its content, and `KEY.json`, what that must be; the key
//! is made of its address, length and ETag, or of the time it was changed where nothing else tells its content.

use super::{config::RemoteConfig, error::RemoteError};
use microdit::{
    atomic_file,
    checksum::{self, hexadecimal},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Seek},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, SystemTime},
};

/// Age of a file that no process can be writing any more.
const ABANDONED: Duration = Duration::from_secs(3600);

/// How long to wait for shards on their way that take all the room.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often it is looked whether they have arrived.
const PAUSE: Duration = Duration::from_millis(100);

/// A directory of shards.
#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Bytes of all shards at most.
    room: u64,
    /// Those whose checksum was verified.
    intact: Mutex<BTreeSet<PathBuf>>,
}

/// What a shard must be.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    url: String,
    bytes: u64,
    sha256: String,
}

/// A shard that is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) url: &'a str,
    pub(super) bytes: u64,
    pub(super) etag: Option<&'a str>,
    /// When it was changed, in milliseconds, if nothing else tells its content.
    pub(super) modified: Option<i64>,
    /// The checksum that is promised, in lower-case hexadecimal.
    pub(super) sha256: Option<&'a str>,
}

/// Why it could not be kept.
enum Failed {
    Io(io::Error),
    Remote(RemoteError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Cache {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        Self {
            folder: config.cache.clone(),
            room: config.room,
            intact: Mutex::default(),
        }
    }

    /// Opens a shard. Unless it is there and intact, `fill` writes it to a file of its length and returns its SHA-256; meanwhile
    /// others wait who want the same shard.
    pub(super) fn open(
        &self,
        wanted: Wanted<'_>,
        fill: impl FnOnce(&File) -> Result<String, RemoteError>,
    ) -> Result<File, RemoteError> {
        let opened = self.locked(wanted, || {
            if let Some(file) = self.get(wanted) {
                return Ok(file);
            }
            let path = self.path(wanted);
            let mut written = None;
            atomic_file::write(&path, |part| -> Result<(), Failed> {
                let file = File::options().read(true).write(true).open(part)?;
                self.make_room(wanted, &file)?;
                let sha256 = fill(&file).map_err(Failed::Remote)?;
                let record = Record {
                    url: wanted.url.to_owned(),
                    bytes: wanted.bytes,
                    sha256,
                };
                let text = serde_json::to_vec(&record).expect("its keys are texts");
                atomic_file::write(&record_of(&path), |part| fs::write(part, text))?;
                written = Some(file);
                Ok(())
            })?;
            self.note_intact(&path);
            // Others may drop it from the cache before it could be opened anew.
            let mut file = match written {
                Some(file) => file,
                None => File::open(&path)?,
            };
            file.rewind()?;
            Ok(file)
        });
        opened.map_err(|failed| match failed {
            Failed::Remote(error) => error,
            Failed::Io(error) => RemoteError::Cache {
                url: wanted.url.to_owned(),
                cache: self.folder.clone(),
                message: error.to_string(),
            },
        })
    }

    /// A shard, if it is there and intact.
    pub(super) fn get(&self, wanted: Wanted<'_>) -> Option<File> {
        let path = self.path(wanted);
        let file = File::open(&path).ok()?;
        let record: Record = serde_json::from_slice(&fs::read(record_of(&path)).ok()?).ok()?;
        let length = file.metadata().ok()?.len();
        let known = self.lock_intact().contains(&path);
        let whole = length == wanted.bytes
            && record.bytes == wanted.bytes
            && (known || checksum::of_file(&path).is_ok_and(|(_, sum)| sum == record.sha256));
        let promised = wanted.sha256.is_none_or(|sum| sum == record.sha256);
        if !whole || !promised {
            let fault = match whole {
                true => "is not what its index promises",
                false => "is damaged",
            };
            tracing::warn!(
                "{}: the cached copy {} {fault}; it is fetched again",
                wanted.url,
                path.display()
            );
            self.lock_intact().remove(&path);
            self.remove(&path);
            return None;
        }
        self.note_intact(&path);
        // The least recently used is dropped first; where times cannot be set, the oldest.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// Lets `work` happen in one thread of one process at a time, for one shard.
    fn locked<T>(
        &self,
        wanted: Wanted<'_>,
        work: impl FnOnce() -> Result<T, Failed>,
    ) -> Result<T, Failed> {
        let folder = self.folder.join("locks");
        fs::create_dir_all(&folder)?;
        // Few files; that different shards may share one costs a wait.
        let lock = File::create(folder.join(&key(wanted)[..2]))?;
        lock_file(&lock)?;
        work()
    }

    /// Gives a new file the length of the shard, once there is room for it.
    fn make_room(&self, wanted: Wanted<'_>, part: &File) -> Result<(), Failed> {
        let no_room = || RemoteError::NoRoom {
            url: wanted.url.to_owned(),
            bytes: wanted.bytes,
            cache: self.folder.clone(),
            room: self.room,
        };
        if wanted.bytes > self.room {
            return Err(Failed::Remote(no_room()));
        }
        let begin = SystemTime::now();
        loop {
            let lock = File::create(self.folder.join("locks/room"))?;
            lock_file(&lock)?;
            if self.tidy(wanted.bytes)? {
                // The room is taken before others look.
                part.set_len(wanted.bytes)?;
                return Ok(());
            }
            drop(lock);
            if begin.elapsed().is_ok_and(|waited| waited > PATIENCE) {
                return Err(Failed::Remote(no_room()));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Drops shards until there is room for so many bytes; whether there is, beside those on their way.
    fn tidy(&self, bytes: u64) -> io::Result<bool> {
        let (mut shards, mut total) = (Vec::new(), 0);
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            // Others may have removed it.
            let Ok(facts) = path.metadata() else { continue };
            let used = facts.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let old = used.elapsed().is_ok_and(|age| age > ABANDONED);
            let orphan = path.extension().is_some_and(|end| end == "json")
                && !path.with_extension("shard").exists();
            if old && (atomic_file::is_part(&name) || orphan) {
                let _ = fs::remove_file(&path);
            } else if path.extension().is_some_and(|end| end == "shard") {
                total += facts.len();
                shards.push((used, facts.len(), path));
            } else if atomic_file::is_part(&name) {
                total += facts.len();
            }
        }
        shards.sort();
        for (_, length, path) in shards {
            if total.saturating_add(bytes) <= self.room {
                break;
            }
            self.remove(&path);
            total -= length;
        }
        Ok(total.saturating_add(bytes) <= self.room)
    }

    /// Removes a shard; who has opened it can read it to its end.
    fn remove(&self, path: &Path) {
        // What is gone already needs no removal, and what cannot be removed is found again.
        let _ = fs::remove_file(record_of(path));
        let _ = fs::remove_file(path);
    }

    fn path(&self, wanted: Wanted<'_>) -> PathBuf {
        self.folder.join(key(wanted)).with_extension("shard")
    }

    fn note_intact(&self, path: &Path) {
        self.lock_intact().insert(path.to_owned());
    }

    fn lock_intact(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.intact.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of a shard in the cache.
fn key(wanted: Wanted<'_>) -> String {
    let Wanted {
        url, bytes, etag, ..
    } = wanted;
    let etag = etag.unwrap_or_default();
    let modified = wanted.modified.map(|time| format!("\n{time}"));
    let modified = modified.unwrap_or_default();
    hexadecimal(&Sha256::digest(format!("{url}\n{bytes}\n{etag}{modified}")))
}

fn record_of(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// Locks a file, where the file system can: without, a shard may be fetched twice, and the cache grow too large for a while.
fn lock_file(file: &File) -> io::Result<()> {
    match file.lock() {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn wanted(url: &str) -> Wanted<'_> {
        Wanted {
            url,
            bytes: 3,
            etag: None,
            modified: None,
            sha256: None,
        }
    }

    fn fill(mut file: &File) -> Result<String, RemoteError> {
        file.write_all(b"abc").unwrap();
        Ok(hexadecimal(&Sha256::digest("abc")))
    }

    fn config(folder: &Path) -> RemoteConfig {
        RemoteConfig {
            cache: folder.to_owned(),
            room: 10,
            patience: PAUSE,
            retries: 0,
            pause: PAUSE,
        }
    }

    #[test]
    fn a_copy_that_is_not_what_is_promised_is_fetched_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&config(folder.path()));
        let plain = wanted("s3://b/0.tar");
        // What was written can be read from its beginning.
        let mut text = String::new();
        let mut file = cache.open(plain, fill).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "abc");
        let [sum, other] = ["abc", "abd"].map(|text| hexadecimal(&Sha256::digest(text)));
        let promised = |sum| Wanted {
            sha256: Some(sum),
            ..plain
        };
        assert!(cache.get(promised(&sum)).is_some());
        assert!(cache.get(promised(&other)).is_none());
        assert!(cache.get(plain).is_none(), "it was removed");
        // Where only the time tells two contents apart, it does.
        let changed = |time| Wanted {
            modified: Some(time),
            ..plain
        };
        cache.open(changed(1), fill).unwrap();
        assert!(cache.get(changed(1)).is_some());
        assert!(cache.get(changed(2)).is_none());
    }

    #[test]
    fn what_a_killed_process_left_of_remote_shards_goes_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&config(folder.path()));
        let left = [
            ("a.shard.1-2.part", 2),
            ("b.shard.1-3.part", 0),
            ("c.json", 2),
        ];
        for (name, hours) in left {
            let file = File::create(folder.path().join(name)).unwrap();
            let used = SystemTime::now() - hours * ABANDONED;
            file.set_modified(used).unwrap();
        }
        cache.open(wanted("s3://b/0.tar"), fill).unwrap();
        let there = |name: &str| folder.path().join(name).exists();
        assert_eq!(left.map(|(name, _)| there(name)), [false, true, false]);
        // Of three shards, the one that was not used goes.
        for i in [1, 2] {
            thread::sleep(Duration::from_millis(20));
            cache
                .open(wanted(["s3://b/1.tar", "s3://b/2.tar"][i - 1]), fill)
                .unwrap();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(cache.get(wanted("s3://b/0.tar")).is_some());
        cache.open(wanted("s3://b/3.tar"), fill).unwrap();
        let kept =
            ["0", "1", "2", "3"].map(|i| cache.get(wanted(&format!("s3://b/{i}.tar"))).is_some());
        assert_eq!(kept, [true, false, true, true]);
    }
}
