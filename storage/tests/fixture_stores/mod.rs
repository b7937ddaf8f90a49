//! The stores of the fixture folders: made step by step, always alike, and told as text.
//!
//! Invariant: nothing here is random, and nothing depends on the store but through its interface, so the same steps
//! on a store in memory say what the folders must hold. Shared by the test and the example that writes the folders.
#![allow(dead_code, reason = "the example and the test each use a part")]

mod script;
mod text;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use piggin_storage::disk::SimulatedDisk;
use piggin_storage::{CreateOptions, LogStore, MemoryStore, OpenOptions, Seqno};

use self::script::{Script, VBUCKETS};
pub(crate) use self::text::tell;

pub(crate) type Files = BTreeMap<String, Vec<u8>>;
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The names of the folders.
pub(crate) const FOLDERS: [&str; 5] = [
    "clean",
    "crashed",
    "torn_tail",
    "corrupt_segment",
    "corrupt_log",
];

/// Content of a folder besides the store's files.
const CONTENT: &str = "content.txt";
const SIZES: &str = "sizes.txt";

/// Small files, nothing compressed: what a compressor gives may change with its version.
pub(crate) fn options(entropy: u64) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 64 << 10,
        frame_bytes_max: 2 << 10,
        segments_max: 2,
        container_bytes_min: 8 << 10,
        block_bytes: 4 << 10,
        history_floor: Seqno::ZERO,
        ..OpenOptions::new(entropy)
    }
}

/// The files of a folder, as the program of today makes them.
pub(crate) fn make(folder: &str) -> Result<Files, Failure> {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(VBUCKETS, 2);
    let store = LogStore::create(Arc::new(disk.clone()), shape, options(0x0f1e_2d3c))?;
    let script = Script {
        store: &store,
        log: Some(&store),
    };
    script.run()?;
    if folder == "clean" {
        store.close()?;
        return Ok(disk.files());
    }
    let mut files = disk.files();
    match folder {
        "torn_tail" => tear_last_frame(newest_log(&mut files, 0)?)?,
        "corrupt_log" => damage_frame_near_the_end(newest_log(&mut files, 1)?)?,
        "corrupt_segment" => damage_last_segment(&mut files)?,
        _ => {}
    }
    Ok(files)
}

/// What a store holds after the same steps, by a store that has no format; without the last batch if that is torn.
pub(crate) fn expected(folder: &str) -> Result<String, Failure> {
    let memory = MemoryStore::new(VBUCKETS);
    let script = Script {
        store: &memory,
        log: None,
    };
    if folder == "torn_tail" {
        script.all_but_the_last()?;
    } else {
        script.run()?;
    }
    tell(&memory)
}

/// What a store of these files says, opened on a disk of its own.
pub(crate) fn told(files: &Files) -> Result<String, Failure> {
    let disk = SimulatedDisk::from_files(files.clone());
    let store = LogStore::open(Arc::new(disk), options(7))?;
    tell(&store)
}

fn newest_log(files: &mut Files, shard: u16) -> Result<&mut Vec<u8>, Failure> {
    let prefix = format!("log.{shard:02}.");
    let found = files
        .iter_mut()
        .filter(|(name, _)| name.starts_with(&prefix));
    let (_, bytes) = found.last().ok_or("no log file")?;
    Ok(bytes)
}

/// A frame of a log file, by what is drawn in `docs/storage-format.md`.
struct Frame {
    offset: usize,
    payload_length: usize,
}

fn frames(log: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut offset = 4096;
    while let Some(header) = log.get(offset..offset + 64) {
        let length = header
            .get(24..28)
            .and_then(|length| length.first_chunk::<4>());
        let (true, Some(length)) = (header.starts_with(b"PGFR"), length) else {
            break;
        };
        let payload_length = u32::from_le_bytes(*length) as usize;
        frames.push(Frame {
            offset,
            payload_length,
        });
        offset = (offset + 64 + payload_length).next_multiple_of(64);
    }
    frames
}

/// As a power cut leaves it: the header and half of the payload are there.
fn tear_last_frame(log: &mut [u8]) -> Result<(), Failure> {
    let last = frames(log).pop().ok_or("no frame")?;
    let begin = last.offset + 64 + last.payload_length / 2;
    log.get_mut(begin..).ok_or("no payload")?.fill(0);
    Ok(())
}

/// A bit of a value in the third frame from the end: the later ones say that it was durable.
fn damage_frame_near_the_end(log: &mut [u8]) -> Result<(), Failure> {
    let frames = frames(log);
    let frame = frames.iter().nth_back(2).ok_or("no frame")?;
    let at = frame.offset + 64 + frame.payload_length - 3;
    *log.get_mut(at).ok_or("no payload")? ^= 0x40;
    Ok(())
}

/// A bit of the trailer of the last segment in the newest container of shard 0.
fn damage_last_segment(files: &mut Files) -> Result<(), Failure> {
    let found = files
        .iter_mut()
        .filter(|(name, _)| name.starts_with("container.00."));
    let (_, bytes) = found.last().ok_or("no container")?;
    let magic = bytes.windows(8).rposition(|window| window == b"PIGGSEGM");
    let at = magic.ok_or("no segment")? + 14;
    *bytes.get_mut(at).ok_or("no trailer")? ^= 0x01;
    Ok(())
}

/// Writes a folder: every file without its trailing zeros, their full lengths, and the content as text.
#[expect(
    clippy::disallowed_methods,
    reason = "files of the source tree, not of a store"
)]
pub(crate) fn write(folder: &Path, files: &Files) -> Result<(), Failure> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let mut sizes = String::new();
    for (name, bytes) in files {
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |at| at + 1);
        let bytes_used = bytes.get(..used).unwrap_or_default();
        std::fs::write(folder.join(name), bytes_used)?;
        writeln!(sizes, "{name} {}", bytes.len())?;
    }
    std::fs::write(folder.join(SIZES), sizes)?;
    std::fs::write(folder.join(CONTENT), told(files)?)?;
    Ok(())
}

/// Reads a folder back: the files at their full lengths, and the content.
#[expect(
    clippy::disallowed_methods,
    reason = "files of the source tree, not of a store"
)]
pub(crate) fn read(folder: &Path) -> Result<(Files, String), Failure> {
    let sizes = String::from_utf8(std::fs::read(folder.join(SIZES))?)?;
    let mut files = Files::new();
    for line in sizes.lines() {
        let (name, size) = line.split_once(' ').ok_or("no size")?;
        let mut bytes = std::fs::read(folder.join(name))?;
        bytes.resize(size.parse()?, 0);
        files.insert(name.to_owned(), bytes);
    }
    let content = String::from_utf8(std::fs::read(folder.join(CONTENT))?)?;
    Ok((files, content))
}
