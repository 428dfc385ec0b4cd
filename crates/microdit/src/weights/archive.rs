//! The zip archives `torch.save` writes: entries stored as they are, each under a checksum.
//!
//! Nothing else of zip is read. A general reader allows what costs more than the file's size, such as compression and
//! overlapping entries, and does not say where a truncated archive ends.

#![deny(clippy::arithmetic_side_effects)]

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// Lengths of the records, without names, comments and extra fields.
const LOCAL_LENGTH: u64 = 30;
const CENTRAL_LENGTH: usize = 46;
const END_LENGTH: usize = 22;
const LOCATOR_LENGTH: usize = 20;

/// The longest comment an archive can end with.
const MAX_COMMENT: u64 = u16::MAX as u64;

/// The largest directory that is read, of about a million entries.
const MAX_DIRECTORY: u64 = 1 << 28;

/// An archive that is open.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    length: u64,
    entries: BTreeMap<String, Entry>,
}

/// Where an entry lies.
#[derive(Debug)]
struct Entry {
    /// Of its local header.
    offset: u64,
    length: u64,
    crc: u32,
}

impl Archive {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// What is wrong with it; for a truncated one, what is missing.
    pub(super) fn open(mut file: File) -> Result<Self, String> {
        let length = file.metadata().map_err(text)?.len();
        let Some(end) = find_end(&mut file, length).map_err(text)? else {
            return Err(truncated(&mut file, length));
        };
        let (begin, size, count) = directory_place(&mut file, end)?;
        let expected = begin.checked_add(size).ok_or("its directory has no end")?;
        if expected > end {
            return Err(format!(
                "it is truncated: it has {length} bytes, its directory says {}",
                length.saturating_add(expected.saturating_sub(end))
            ));
        }
        if size > MAX_DIRECTORY {
            return Err(format!(
                "its directory has {size} bytes; at most {MAX_DIRECTORY} are read"
            ));
        }
        let directory = read_at(&mut file, begin, size).map_err(text)?;
        let entries = entries(&directory, count)?;
        let archive = Self {
            file,
            length,
            entries,
        };
        archive.check_places(begin)?;
        Ok(archive)
    }

    /// Bytes of the whole archive.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Names of the entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Bytes of an entry.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.length)
    }

    /// The content of an entry, which has its checksum.
    pub(super) fn read(&mut self, name: &str) -> Result<Vec<u8>, String> {
        let entry = self
            .entries
            .get(name)
            .ok_or_else(|| format!("the archive holds no {name}"))?;
        let header = read_at(&mut self.file, entry.offset, LOCAL_LENGTH).map_err(text)?;
        let mut header = Fields(&header);
        if header.u32() != Some(LOCAL) {
            return Err(format!("{name} does not lie where the directory says"));
        }
        header.skip(22);
        let (Some(name_length), Some(extra)) = (header.u16(), header.u16()) else {
            return Err(format!("{name} has no header"));
        };
        let begin = [LOCAL_LENGTH, name_length.into(), extra.into()]
            .into_iter()
            .try_fold(entry.offset, u64::checked_add)
            .ok_or_else(|| format!("{name} lies beyond all bounds"))?;
        let within = begin.checked_add(entry.length);
        if within.is_none_or(|end| end > self.length) {
            return Err(format!("{name} reaches beyond the end of the file"));
        }
        let bytes = read_at(&mut self.file, begin, entry.length)
            .map_err(|error| format!("{name}: {error}"))?;
        let found = crc32fast::hash(&bytes);
        if found != entry.crc {
            return Err(format!(
                "{name} is damaged: its checksum is {found:08x}, the archive says {:08x}",
                entry.crc
            ));
        }
        Ok(bytes)
    }

    /// Entries lie one after the other in front of the directory: none is read twice.
    fn check_places(&self, directory: u64) -> Result<(), String> {
        let mut places: Vec<_> = self.entries.iter().collect();
        places.sort_by_key(|(_, entry)| entry.offset);
        let nexts = places.iter().skip(1).map(|(_, next)| next.offset);
        for ((name, entry), next) in places.iter().zip(nexts.chain([directory])) {
            let end = entry
                .offset
                .checked_add(LOCAL_LENGTH)
                .and_then(|begin| begin.checked_add(entry.length));
            if end.is_none_or(|end| end > next) {
                return Err(format!("{name} overlaps what follows it in the archive"));
            }
        }
        Ok(())
    }
}

/// Where the last record of an archive begins.
fn find_end(file: &mut File, length: u64) -> io::Result<Option<u64>> {
    let longest = (END_LENGTH as u64).saturating_add(MAX_COMMENT).min(length);
    let begin = length.saturating_sub(longest);
    let tail = read_at(file, begin, longest)?;
    let last = tail.len().checked_sub(END_LENGTH);
    let is_end = |at: &usize| {
        let mut record = Fields(tail.get(*at..).unwrap_or_default());
        let signed = record.u32() == Some(END);
        record.skip(16);
        signed && record.u16().map(usize::from) == Some(record.0.len())
    };
    let found = last.and_then(|last| (0..=last).rev().find(is_end));
    Ok(found.map(|at| begin.saturating_add(at as u64)))
}

/// Begin, size and number of entries of the directory of an archive whose last record is at `end`.
fn directory_place(file: &mut File, end: u64) -> Result<(u64, u64, u64), String> {
    const LACKING: &str = "its last record is incomplete";
    let record = read_at(file, end, END_LENGTH as u64).map_err(text)?;
    let mut record = Fields(&record);
    record.skip(10);
    let count = record.u16().ok_or(LACKING)?;
    let size = record.u32().ok_or(LACKING)?;
    let begin = record.u32().ok_or(LACKING)?;
    if count != u16::MAX && size != u32::MAX && begin != u32::MAX {
        return Ok((begin.into(), size.into(), count.into()));
    }
    // Numbers that do not fit are in a wider record, whose place is given before this one.
    let locator = end.checked_sub(LOCATOR_LENGTH as u64).ok_or(LACKING)?;
    let locator = read_at(file, locator, LOCATOR_LENGTH as u64).map_err(text)?;
    let mut locator = Fields(&locator);
    if locator.u32() != Some(LOCATOR_64) {
        return Ok((begin.into(), size.into(), count.into()));
    }
    locator.skip(4);
    let wide = locator.u64().ok_or(LACKING)?;
    let wide = read_at(file, wide, 56)
        .map_err(|_| format!("it is truncated: its directory lies at {wide} of {end} bytes"))?;
    let mut wide = Fields(&wide);
    if wide.u32() != Some(END_64) {
        return Err("it is truncated: its directory does not lie where its end says".into());
    }
    wide.skip(28);
    let count = wide.u64().ok_or(LACKING)?;
    let size = wide.u64().ok_or(LACKING)?;
    let begin = wide.u64().ok_or(LACKING)?;
    Ok((begin, size, count))
}

/// The entries a directory lists.
fn entries(directory: &[u8], count: u64) -> Result<BTreeMap<String, Entry>, String> {
    let mut rest = Fields(directory);
    let mut entries = BTreeMap::new();
    let mut found = 0u64;
    while !rest.0.is_empty() {
        let (name, entry) = entry(&mut rest)?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(format!("the archive holds two entries named {name}"));
        }
        found = found.saturating_add(1);
    }
    if found != count {
        return Err(format!(
            "its directory lists {found} entries and says {count}"
        ));
    }
    Ok(entries)
}

/// The next entry of a directory.
fn entry(rest: &mut Fields<'_>) -> Result<(String, Entry), String> {
    const LACKING: &str = "its directory is damaged";
    let mut fixed = Fields(rest.slice(CENTRAL_LENGTH).ok_or(LACKING)?);
    if fixed.u32() != Some(CENTRAL) {
        return Err(LACKING.into());
    }
    fixed.skip(4);
    let flags = fixed.u16().ok_or(LACKING)?;
    let method = fixed.u16().ok_or(LACKING)?;
    fixed.skip(4);
    let crc = fixed.u32().ok_or(LACKING)?;
    let mut compressed = u64::from(fixed.u32().ok_or(LACKING)?);
    let mut length = u64::from(fixed.u32().ok_or(LACKING)?);
    let name_length = fixed.u16().ok_or(LACKING)?;
    let extra_length = fixed.u16().ok_or(LACKING)?;
    let comment = fixed.u16().ok_or(LACKING)?;
    fixed.skip(8);
    let mut offset = u64::from(fixed.u32().ok_or(LACKING)?);
    let name = rest.slice(name_length.into()).ok_or(LACKING)?;
    let name = String::from_utf8_lossy(name).into_owned();
    let mut extra = Fields(rest.slice(extra_length.into()).ok_or(LACKING)?);
    rest.slice(comment.into()).ok_or(LACKING)?;
    while let (Some(kind), Some(size)) = (extra.u16(), extra.u16()) {
        let mut field = Fields(extra.slice(size.into()).ok_or(LACKING)?);
        if kind != 1 {
            continue;
        }
        // 64-bit sizes and places; only those that do not fit in 32 bits are listed.
        for number in [&mut length, &mut compressed, &mut offset] {
            if *number == u64::from(u32::MAX) {
                *number = field.u64().ok_or(LACKING)?;
            }
        }
    }
    if method != 0 || compressed != length {
        return Err(format!(
            "{name} is compressed, which torch.save never does; unpack the archive and store it uncompressed"
        ));
    }
    if flags & 1 != 0 {
        return Err(format!("{name} is encrypted"));
    }
    let entry = Entry {
        offset,
        length,
        crc,
    };
    Ok((name, entry))
}

/// What can be said about an archive whose directory, which lies at the end, is missing: which entry is cut.
fn truncated(file: &mut File, length: u64) -> String {
    let mut at = 0u64;
    loop {
        let header = read_at(file, at, LOCAL_LENGTH).unwrap_or_default();
        let mut header = Fields(&header);
        if header.u32() != Some(LOCAL) {
            break;
        }
        header.skip(14);
        let (Some(size), _, Some(name), Some(extra)) =
            (header.u32(), header.u32(), header.u16(), header.u16())
        else {
            break;
        };
        let name_at = at.saturating_add(LOCAL_LENGTH);
        let next = [name.into(), extra.into(), size.into()]
            .into_iter()
            .fold(name_at, u64::saturating_add);
        if next > length {
            let name = read_at(file, name_at, name.into()).unwrap_or_default();
            return format!(
                "it is truncated: it has {length} bytes and ends within {}, which alone reaches to {next}; copy or download it again",
                String::from_utf8_lossy(&name)
            );
        }
        at = next;
    }
    format!(
        "it is truncated: it has {length} bytes, and the directory every archive ends with is missing; copy or download it again"
    )
}

/// `count` bytes of a file from `begin`.
pub(super) fn read_at(file: &mut File, begin: u64, count: u64) -> io::Result<Vec<u8>> {
    // What is allocated is there: a record may claim any length.
    let there = file.metadata()?.len().saturating_sub(begin);
    if count > there {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{count} bytes at {begin} expected, {there} found: the file is truncated"),
        ));
    }
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::with_capacity(usize::try_from(count).map_err(io::Error::other)?);
    file.take(count).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != count {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn text(error: io::Error) -> String {
    error.to_string()
}

/// Little-endian numbers, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn skip(&mut self, count: usize) {
        if self.slice(count).is_none() {
            self.0 = &[];
        }
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.slice(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.slice(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.slice(8)?.try_into().ok()?))
    }
}
