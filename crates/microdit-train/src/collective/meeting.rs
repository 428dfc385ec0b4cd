//! How ranks that nothing connects yet come to share what NCCL will connect them by: an id that rank 0 makes.

use super::{Collective, Launch, Lost, Patience, Wait};
use microdit::atomic_file;
use std::{
    fs,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    io,
    path::{Path, PathBuf},
    thread,
};

/// An id of NCCL.
pub type UniqueId = [u8; 128];

/// By what the ranks share it.
#[derive(Clone, Debug)]
pub enum Meeting<'a> {
    /// The address in the environment's `NCCL_COMM_ID`, of which NCCL makes the same id on every rank.
    Address,
    /// Another engine, such as MPI.
    Ranks(&'a dyn Collective),
    /// A directory that all of them see, and no other job: it is created, and for rank 0 to [remove](Self::end).
    Directory(PathBuf),
}

impl Meeting<'_> {
    /// The id that `make` makes on rank 0, on all ranks.
    ///
    /// # Errors
    /// What `make` returns, ranks that do not come, or a directory that cannot be written.
    pub fn share(
        &self,
        launch: Launch,
        make: impl FnOnce() -> Result<UniqueId, Lost>,
        patience: &Patience<'_>,
    ) -> Result<UniqueId, Lost> {
        match self {
            Self::Address => make(),
            Self::Ranks(ranks) => by_ranks(*ranks, make, patience),
            Self::Directory(path) if launch.rank == 0 => {
                invite(path, launch.world_size, make, patience)
            }
            Self::Directory(path) => come(path, launch.rank, patience),
        }
    }

    /// Removes what the meeting has left, once all ranks have the id.
    pub fn end(&self) {
        if let Self::Directory(path) = self
            && let Err(error) = fs::remove_dir_all(path)
        {
            tracing::warn!("{} is no longer needed: {error}", path.display());
        }
    }
}

fn by_ranks(
    ranks: &dyn Collective,
    make: impl FnOnce() -> Result<UniqueId, Lost>,
    patience: &Patience<'_>,
) -> Result<UniqueId, Lost> {
    let made = match ranks.rank() {
        0 => make(),
        _ => Ok([0; 128]),
    };
    // The others are told of a failure too.
    let failed = f32::from(u8::from(made.is_err()));
    let bytes = made.as_ref().unwrap_or(&[0; 128]).map(f32::from);
    let numbers = [&[failed][..], &bytes].concat();
    let shared = ranks.broadcast(numbers, 0, patience);
    made?;
    let shared = shared?;
    match shared[0] == 0.0 {
        true => Ok(std::array::from_fn(|i| shared[i + 1] as u8)),
        false => Err(Lost::Engine("rank 0 could not make an id of NCCL".into())),
    }
}

/// Where a rank says that it is there, by a word of its own.
fn seat(directory: &Path, rank: usize) -> PathBuf {
    directory.join(format!("rank-{rank}"))
}

/// Where rank 0 answers with the id, and with the words of all for whom it is.
fn answer(directory: &Path) -> PathBuf {
    directory.join("id")
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Lost + '_ {
    move |error| Lost::Engine(format!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<(), Lost> {
    atomic_file::write(path, |path| fs::write(path, text)).map_err(failed(path))
}

/// Waits until all ranks are there, and gives them the id.
fn invite(
    directory: &Path,
    world_size: usize,
    make: impl FnOnce() -> Result<UniqueId, Lost>,
    patience: &Patience<'_>,
) -> Result<UniqueId, Lost> {
    fs::create_dir_all(directory).map_err(failed(directory))?;
    // What an earlier start has left; ranks that are there already come again. Whatever one is just writing is its own.
    for entry in fs::read_dir(directory)
        .map_err(failed(directory))?
        .flatten()
    {
        if !entry.file_name().to_str().is_some_and(atomic_file::is_part) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let mut wait = patience.begin();
    let words = loop {
        let word = |rank| fs::read_to_string(seat(directory, rank)).ok();
        if let Some(words) = (1..world_size).map(word).collect::<Option<Vec<String>>>() {
            break words;
        }
        wait.check()?;
        thread::sleep(Wait::TICK);
    };
    let id = make()?;
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    write(
        &answer(directory),
        &format!("{digits}\n{}\n", words.join("\n")),
    )?;
    Ok(id)
}

/// Says that this rank is there, until it gets the id.
fn come(directory: &Path, rank: usize, patience: &Patience<'_>) -> Result<UniqueId, Lost> {
    // Told apart from those of other starts, and nothing else depends on it.
    let word = format!("{rank} {:016x}", RandomState::new().build_hasher().finish());
    let seat = seat(directory, rank);
    let mut wait = patience.begin();
    loop {
        let text = fs::read_to_string(answer(directory)).unwrap_or_default();
        let mut lines = text.lines();
        let digits = lines.next().unwrap_or_default();
        if lines.any(|line| line == word)
            && let Some(id) = parse(digits)
        {
            return Ok(id);
        }
        if !fs::read_to_string(&seat).is_ok_and(|there| there == word) {
            fs::create_dir_all(directory).map_err(failed(directory))?;
            write(&seat, &word)?;
        }
        wait.check()?;
        thread::sleep(Wait::TICK);
    }
}

fn parse(digits: &str) -> Option<UniqueId> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Threads;
    use std::{sync::atomic::AtomicBool, time::Duration};

    const ID: UniqueId = {
        let mut id = [0; 128];
        let mut i = 0;
        while i < 128 {
            id[i] = (i * 37) as u8;
            i += 1;
        }
        id
    };

    fn patience(stop: &AtomicBool, timeout: Duration) -> Patience<'_> {
        Patience {
            stop,
            timeout,
            grace: timeout,
        }
    }

    fn launch(rank: usize) -> Launch {
        Launch {
            rank,
            world_size: 3,
            local_rank: None,
        }
    }

    /// Whoever comes first, and whatever an earlier start has left.
    #[test]
    fn ranks_meet_in_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meeting");
        let meeting = Meeting::Directory(path.clone());
        for late in [0, 2] {
            fs::create_dir_all(&path).unwrap();
            fs::write(answer(&path), format!("{}\n1 00\n2 00\n", "ff".repeat(128))).unwrap();
            fs::write(seat(&path, 1), "1 00").unwrap();
            let stop = AtomicBool::new(false);
            let ids: Vec<UniqueId> = thread::scope(|scope| {
                let start = |rank| {
                    let (meeting, stop) = (&meeting, &stop);
                    scope.spawn(move || {
                        if rank == late {
                            thread::sleep(Duration::from_millis(150));
                        }
                        let patience = patience(stop, Duration::from_secs(60));
                        meeting.share(launch(rank), || Ok(ID), &patience).unwrap()
                    })
                };
                let threads: Vec<_> = (0..3).map(start).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(ids, [ID; 3]);
            meeting.end();
            assert!(!path.exists());
        }
    }

    #[test]
    fn ranks_that_do_not_come_are_not_awaited_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let meeting = Meeting::Directory(folder.path().join("meeting"));
        let stop = AtomicBool::new(false);
        for rank in [0, 1] {
            let patience = patience(&stop, Duration::from_millis(50));
            let alone = meeting.share(launch(rank), || Ok(ID), &patience);
            assert_eq!(alone, Err(Lost::Silent(0)));
        }
    }

    #[test]
    fn ranks_that_are_connected_share_an_id_or_its_failure() {
        for fails in [false, true] {
            let stop = AtomicBool::new(false);
            let shared: Vec<_> = thread::scope(|scope| {
                let start = |ranks: Threads| {
                    let stop = &stop;
                    scope.spawn(move || {
                        let patience = patience(stop, Duration::from_secs(60));
                        let make = || match fails {
                            true => Err(Lost::Engine("no network".into())),
                            false => Ok(ID),
                        };
                        let rank = launch(ranks.rank());
                        Meeting::Ranks(&ranks).share(rank, make, &patience)
                    })
                };
                let threads: Vec<_> = Threads::new(3).into_iter().map(start).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            match fails {
                false => assert!(shared.iter().all(|id| *id == Ok(ID))),
                true => {
                    let told = |id: &Result<UniqueId, Lost>| id.clone().unwrap_err().to_string();
                    assert_eq!(told(&shared[0]), "no network");
                    assert!(told(&shared[2]).contains("rank 0 could not"));
                }
            }
        }
    }
}
