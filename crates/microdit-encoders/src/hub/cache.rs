//! The cache that all programs of the hub share: contents under their checksums, and for each commit links to them by name.

use super::error::HubError;
use microdit::hub_env;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// The branch models are taken from.
pub(super) const BRANCH: &str = "main";

/// How long another process may hold a file's lock.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cache's directory.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    home: PathBuf,
}

/// A model in it.
#[derive(Debug)]
pub(super) struct Model {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// The one `HF_HOME` names, or else that in the user's home directory.
    pub(super) fn from_env() -> Result<Self, HubError> {
        let home = hub_env::home().ok_or(HubError::NoHome)?;
        let home = std::path::absolute(&home).map_err(HubError::io(&home))?;
        Ok(Self { home })
    }

    /// Where models lie.
    pub(super) fn folder(&self) -> PathBuf {
        self.home.join("hub")
    }

    pub(super) fn model(&self, repository: &str) -> Model {
        let name = format!("models--{}", repository.replace('/', "--"));
        let hub = self.folder();
        Model {
            locks: hub.join(".locks").join(&name),
            folder: hub.join(name),
        }
    }
}

impl Model {
    /// Path of a file of the newest known commit, if it is there.
    pub(super) fn get(&self, file: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.folder.join("refs").join(BRANCH)).ok()?;
        let commit = commit.trim();
        let path = self.folder.join("snapshots").join(commit).join(file);
        (is_hexadecimal(commit) && is_plain(file) && path.is_file()).then_some(path)
    }

    /// Path of the content of `checksum`, whether or not it is there yet.
    pub(super) fn blob(&self, checksum: &str) -> PathBuf {
        self.folder.join("blobs").join(checksum)
    }

    /// Locks the content of `checksum` against other processes, as all programs of the hub do.
    pub(super) fn lock(&self, checksum: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{checksum}.lock"));
        let open = || {
            fs::create_dir_all(&self.locks)?;
            fs::create_dir_all(self.folder.join("blobs"))?;
            File::create(&path)
        };
        let file = open().map_err(HubError::io(&path))?;
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if begin.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::WouldBlock) => return Err(HubError::Busy { path }),
                Err(TryLockError::Error(error)) => return Err(HubError::io(&path)(error)),
            }
        }
    }

    /// Links the content of `checksum`, which is there, as `file` of `commit`, and records that as the newest commit.
    pub(super) fn link(
        &self,
        file: &str,
        checksum: &str,
        commit: &str,
    ) -> Result<PathBuf, HubError> {
        let path = self.folder.join("snapshots").join(commit).join(file);
        let place = |path: &Path| {
            let folder = path.parent().unwrap_or(path);
            fs::create_dir_all(folder)?;
            // A link to another content, or to none.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let up = 2 + Path::new(file).components().count() - 1;
            let target: PathBuf = std::iter::repeat_n("..", up).collect();
            link(
                &target.join("blobs").join(checksum),
                &self.blob(checksum),
                path,
            )
        };
        place(&path).map_err(HubError::io(&path))?;
        let refs = self.folder.join("refs");
        let newest = refs.join(BRANCH);
        fs::create_dir_all(&refs)
            .and_then(|()| microdit::atomic_file::write(&newest, |part| fs::write(part, commit)))
            .map_err(HubError::io(&newest))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(relative: &Path, _blob: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(relative, path)
}

/// Where links need privileges, a hard link or a copy is made.
#[cfg(not(unix))]
fn link(_relative: &Path, blob: &Path, path: &Path) -> io::Result<()> {
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

/// Whether a checksum or commit is hexadecimal, and not a path that leads elsewhere.
pub(super) fn is_hexadecimal(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a file's name stays within its directory.
pub(super) fn is_plain(file: &str) -> bool {
    let mut components = Path::new(file).components().peekable();
    components.peek().is_some()
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !file.contains(['\\', '\0'])
}
