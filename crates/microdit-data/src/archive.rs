//! Tars of samples, read one member after the other; whatever is wrong with one, the samples before it are still used.

use crate::{error::DataError, key::readable, shard_file::ShardFile};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
};
use webdataset::{
    Error, Sample,
    shard::{compress::decompress, group_by_keys, reader::TarFile},
};

/// Longest member that is read; pictures that are decoded and arrays of a training sample are shorter.
const MAX_MEMBER: u64 = 512 << 20;

/// How many times a compressed shard may grow; images and latents hardly compress at all.
const MAX_RATIO: u64 = 100;

/// Bytes after a tar's end mark that are searched for another tar; the usual padding is 10 kB.
const MAX_PADDING: u64 = 1 << 20;

/// Hands the samples of a tar, plain or compressed by gzip, to `take` until it returns false: each by its key, or why it cannot
/// be used.
///
/// # Errors
/// A file that is not a tar or ends too early, once all samples before have been handed on.
pub(crate) fn for_each(
    file: &ShardFile,
    take: impl FnMut(&str, Result<&Sample, String>) -> bool,
) -> Result<(), DataError> {
    read(file.open()?, take).map_err(|error| DataError::unreadable(file.place(), &error))
}

fn read(
    file: File,
    mut take: impl FnMut(&str, Result<&Sample, String>) -> bool,
) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let most = file.metadata().map_err(text)?.len();
    let most = most.saturating_mul(MAX_RATIO).saturating_add(MAX_MEMBER);
    // Large reads bypass the buffer; each small one would be a system call.
    let (_, stream) = decompress(Box::new(BufReader::with_capacity(64 << 10, file)))
        .map_err(|error| error.to_string())?;
    let ended = Cell::new(false);
    let mut archive = tar::Archive::new(Watched {
        stream,
        left: most,
        ended: &ended,
    });
    // Unusable samples, by key: all their members are read before they are reported.
    let spoiled: RefCell<BTreeMap<String, String>> = RefCell::default();
    let members = archive.entries().map_err(text)?.filter_map(|entry| {
        let file = entry
            .map_err(Error::Io)
            .and_then(|entry| member(entry, &spoiled));
        file.transpose()
    });
    let mut samples = group_by_keys(members);
    let mut failed = None;
    loop {
        match samples.next() {
            Some(Ok(sample)) => {
                let key = sample.key().unwrap_or_default();
                let lack = spoiled.borrow_mut().remove(key);
                if !take(key, lack.map_or(Ok(&sample), Err)) {
                    return Ok(());
                }
            }
            Some(Err(Error::DuplicateKey { key, sample_key })) => {
                let lack = format!("two members of one name: .{key}");
                spoiled.borrow_mut().insert(sample_key, lack);
            }
            // What was read of a sample before the fault comes after the fault.
            Some(Err(error)) => failed = Some(cause(error)),
            None => break,
        }
    }
    if let Some(error) = failed {
        return Err(match ended.get() {
            true => format!("it was cut off: {error}"),
            false => error,
        });
    }
    if ended.get() {
        return Err(
            "it was cut off, or is still being written: the mark that ends a tar is missing".into(),
        );
    }
    drop(samples);
    let mut rest = Vec::new();
    let mut padding = archive.into_inner().take(MAX_PADDING);
    padding.read_to_end(&mut rest).map_err(text)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err(
            "more follows the mark that ends a tar: tars that were joined must be unpacked and packed anew"
                .into(),
        );
    }
    Ok(())
}

/// A file of the tar; directories, links and the shard's own metadata do not count.
fn member<R: Read>(
    mut entry: tar::Entry<'_, R>,
    spoiled: &RefCell<BTreeMap<String, String>>,
) -> Result<Option<TarFile>, Error> {
    let name = readable(&entry.path_bytes());
    let name = name.trim_start_matches("./");
    if !entry.header().entry_type().is_file() || webdataset::core::utils::is_shard_metadata(name) {
        return Ok(None);
    }
    let size = entry.size();
    let mut data = Vec::new();
    if size <= MAX_MEMBER {
        // Not allocated up front: the size is only the file's claim.
        data.reserve(size.min(1 << 20) as usize);
        entry.read_to_end(&mut data)?;
        if data.len() as u64 != size {
            let read = data.len();
            return Err(Error::format(format!(
                "it ends within {name}, after {read} of {size} bytes"
            )));
        }
    } else if let Some((key, extension)) = webdataset::core::utils::base_plus_ext(name) {
        let lack =
            format!("a member too long: .{extension} has {size} bytes of at most {MAX_MEMBER}");
        spoiled.borrow_mut().insert(key.to_owned(), lack);
    }
    Ok(Some(TarFile {
        name: name.to_owned(),
        data: data.into(),
        url: None,
        local_path: None,
    }))
}

/// The reason alone, without the error kinds printed before it.
fn cause(error: Error) -> String {
    match error {
        Error::Io(error) => error.to_string(),
        Error::Format(message) => message,
        other => other.to_string(),
    }
}

/// Notes when the end of the file is reached, and bounds the decompressed size.
struct Watched<'a, R> {
    stream: R,
    left: u64,
    ended: &'a Cell<bool>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let message =
                format!("it is more than {MAX_RATIO} times as long when it is decompressed");
            return Err(io::Error::other(message));
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.stream.read(&mut buffer[..most])?;
        self.left -= count as u64;
        if count == 0 && !buffer.is_empty() {
            self.ended.set(true);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A tar of members.
    fn packed(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_ustar();
            // Names as other programs write them; the library refuses them.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, content.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// Key and length of the text.
    type Sound = (String, usize);

    /// Sound samples with the length of their text, those that are not, and how reading ended.
    fn samples(bytes: &[u8]) -> (Vec<Sound>, Vec<String>, Result<(), String>) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let (mut sound, mut spoiled) = (Vec::new(), Vec::new());
        let end = read(file, |key, sample| {
            let text = sample.map(|sample| Some(sample.get("txt")?.as_bytes()?.len()));
            match text {
                Ok(Some(length)) => sound.push((key.to_owned(), length)),
                Ok(None) => spoiled.push(format!("{key}: no text")),
                Err(lack) => spoiled.push(format!("{key}: {lack}")),
            }
            true
        });
        (sound, spoiled, end)
    }

    #[test]
    fn of_a_tar_cut_anywhere_all_samples_before_the_cut_are_read() {
        let members: Vec<(String, Vec<u8>)> = (0..4)
            .flat_map(|i| {
                let member = |extension, length| (format!("{i}.{extension}"), vec![b'x'; length]);
                [member("jpg", 700 * i), member("txt", 10 + 600 * i)]
            })
            .collect();
        let members: Vec<_> = members
            .iter()
            .map(|(name, content)| (name.as_str(), content.clone()))
            .collect();
        let whole = packed(&members);
        assert_eq!(samples(&whole).2, Ok(()));
        let blocks = |length: usize| 512 + length.next_multiple_of(512);
        let mut ends = vec![0];
        for pair in members.chunks(2) {
            let sample = blocks(pair[0].1.len()) + pair[1].1.len() + 512;
            ends.push(ends.last().unwrap() + sample.next_multiple_of(512));
        }
        for cut in (0..whole.len() - 512).step_by(37) {
            let (sound, _, end) = samples(&whole[..cut]);
            // The padding of the last member may be missing.
            let least = ends.iter().filter(|&&end| end <= cut).count() - 1;
            assert!(
                (least..=least + 1).contains(&sound.len()),
                "{cut}: {sound:?}"
            );
            for (i, (key, length)) in sound.iter().enumerate() {
                assert_eq!(
                    (key.as_str(), *length),
                    (i.to_string().as_str(), 10 + 600 * i)
                );
            }
            let error = end.unwrap_err();
            assert!(error.contains("cut off"), "{cut}: {error}");
        }
    }

    #[test]
    fn a_bad_member_costs_its_own_sample() {
        let text = || b"text".to_vec();
        let (sound, spoiled, end) = samples(&packed(&[
            ("a.txt", text()),
            ("b.txt", text()),
            ("b.txt", text()),
            ("./c.txt", text()),
            ("__index__", text()),
            ("d", text()),
            (".e", text()),
            ("f/g.txt", text()),
        ]));
        let keys: Vec<&str> = sound.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "c", "f/g"]);
        assert_eq!(spoiled, ["b: two members of one name: .txt"]);
        assert_eq!(end, Ok(()));
        // A name with bytes that are not text.
        let mut latin = packed(&[("a.txt", text()), ("?.txt", text()), ("b.txt", text())]);
        let header = &mut latin[1024..1536];
        header[0] = 0xe9;
        let mut changed = tar::Header::new_ustar();
        changed.as_mut_bytes().copy_from_slice(header);
        changed.set_cksum();
        header.copy_from_slice(changed.as_bytes());
        let keys: Vec<String> = samples(&latin).0.into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a", "\\xE9", "b"]);
        // A size with no data behind it.
        let mut huge = packed(&[("a.txt", text()), ("b.txt", text())]);
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(&huge[1024..1536]);
        header.set_size(1 << 40);
        header.set_cksum();
        huge[1024..1536].copy_from_slice(header.as_bytes());
        let (sound, _, end) = samples(&huge);
        assert_eq!((sound.len(), end.is_err()), (1, true));
    }

    #[test]
    fn what_unpacks_to_far_more_than_its_length_is_not_read_to_its_end() {
        let packed = |bytes: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        };
        // A member that is too long and passed over.
        let mut header = tar::Header::new_ustar();
        header.set_path("a.txt").unwrap();
        header.set_size(1 << 32);
        header.set_cksum();
        let zeros = packed(&vec![0; 16 << 20]);
        // Less than one of 800 MB.
        let bomb = [packed(header.as_bytes()), zeros.repeat(48)].concat();
        assert!(bomb.len() < 1 << 20);
        let error = samples(&bomb).2.unwrap_err();
        assert!(error.contains("more than 100 times as long"), "{error}");
    }

    #[test]
    fn joined_tars_are_not_read_as_their_first() {
        let one = packed(&[("a.txt", b"text".to_vec())]);
        let (sound, _, end) = samples(&[&one[..], &one].concat());
        assert_eq!(sound.len(), 1);
        assert!(end.unwrap_err().contains("joined"));
        assert_eq!(samples(&[&one[..], &[0; 9000]].concat()).2, Ok(()));
    }
}
