//! The target `log_recovery`: a small store whose newest log file holds something else, opened and read.
//!
//! Invariant: opening never panics; whatever it makes of the damage, it makes of it again at the next opening, and
//! what it serves can be written to and closed. Where the bytes lie under sound checksums, which no medium does,
//! only the first is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::stores::{self, Answers};
use crate::disk::{Disk, SimulatedDisk};
use crate::error::StorageError;
use crate::kv_store::KvStore;
use crate::log_store::log::file::{FRAMES_BEGIN, LogFileHeader};
use crate::log_store::log::frame::{FrameHeader, HEADER_LENGTH, Touched, frame_length};
use crate::log_store::names::{Kind, Name};
use crate::log_store::options::CreateOptions;
use crate::log_store::store::LogStore;
use crate::outcome::Outcome;
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

type Files = BTreeMap<String, Vec<u8>>;

/// The first byte chooses: the file as a whole, its frames, a frame of this payload behind the last one, or single
/// bytes (each two bytes of place and one of value).
pub fn log_recovery(bytes: &[u8]) {
    static BASE: OnceLock<Result<Files, StorageError>> = OnceLock::new();
    let base = BASE.get_or_init(base);
    assert!(base.is_ok(), "{base:?}");
    let (Ok(base), Some((mode, rest))) = (base, bytes.split_first()) else {
        return;
    };
    let mut files = base.clone();
    let newest = files
        .iter_mut()
        .filter(|(name, _)| Name::parse(name).is_some_and(|name| name.kind == Kind::Log))
        .last();
    let Some((_, log)) = newest else {
        return;
    };
    let is_sound = match mode % 4 {
        0 => {
            log.clear();
            log.extend_from_slice(rest);
            false
        }
        1 => {
            overwrite(log, usize::try_from(FRAMES_BEGIN).unwrap_or(0), rest);
            false
        }
        2 => {
            append_frame(log, rest);
            true
        }
        _ => {
            for change in rest.as_chunks::<3>().0 {
                let [low, high, value] = *change;
                overwrite(
                    log,
                    usize::from(u16::from_le_bytes([low, high])).wrapping_mul(2),
                    &[value],
                );
            }
            false
        }
    };
    open_and_read(files, is_sound);
}

/// Two vbuckets with items in a segment, in the manifest and in the log only; not closed.
fn base() -> Result<Files, StorageError> {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(2, 1);
    let store = LogStore::create(Arc::new(disk.clone()), shape, stores::options(1))?;
    let vbuckets: Vec<VbucketId> = (0..2).filter_map(VbucketId::new).collect();
    for vbucket in &vbuckets {
        store.create_vbucket(*vbucket, &stores::new_state())?;
        stores::write(&store, *vbucket, &[0x91, 0x42, 0x23, 0xa4, 0x85])?;
    }
    for vbucket in &vbuckets {
        assert_eq!(store.seal(*vbucket, Seqno::ZERO), Outcome::Complete(()));
    }
    store.checkpoint()?;
    for choice in 0..4 {
        for vbucket in &vbuckets {
            stores::write(&store, *vbucket, &[0x90 | choice, 0x10 | choice])?;
        }
    }
    Ok(disk.files())
}

fn overwrite(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at.saturating_add(bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    if let Some(place) = file.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

/// Writes a frame of `payload`, with every checksum right, behind the last one.
fn append_frame(log: &mut Vec<u8>, payload: &[u8]) {
    let Some(header) = LogFileHeader::decode(log) else {
        return;
    };
    let mut offset = FRAMES_BEGIN;
    let mut last = None;
    while let Some(frame) = usize::try_from(offset)
        .ok()
        .and_then(|at| FrameHeader::decode(log.get(at..)?, header.identity, offset))
    {
        offset = offset.saturating_add(frame.frame_length() as u64);
        last = Some(frame);
    }
    let (Some(last), Ok(length)) = (last, u32::try_from(payload.len())) else {
        return;
    };
    let frame = FrameHeader {
        sequence: last.sequence.saturating_add(1),
        synced_through: last.sequence,
        payload_length: length,
        payload_crc: crc32c::crc32c(payload),
        touched: Touched::ALL,
        continues: last.continues,
    };
    let mut bytes = frame.encode(header.identity, offset).to_vec();
    bytes.extend_from_slice(payload);
    bytes.resize(frame_length(payload.len()), 0);
    debug_assert_eq!(bytes.len() % HEADER_LENGTH, 0);
    overwrite(log, usize::try_from(offset).unwrap_or(0), &bytes);
}

fn open_and_read(files: Files, is_sound: bool) {
    let disk = SimulatedDisk::from_files(files);
    let Ok(store) = open(&disk, 2) else {
        return;
    };
    let first = if is_sound {
        read_unchecked(&store)
    } else {
        read(&store)
    };
    drop(store);
    let Ok(store) = open(&disk, 3) else {
        assert!(is_sound, "a store that was opened opens again");
        return;
    };
    if !is_sound {
        assert_eq!(read(&store), first, "recovery comes to the same result");
        for (vbucket, _) in first.iter().filter(|(_, answers)| answers.is_some()) {
            assert_eq!(stores::write(&store, *vbucket, &[0x97, 0x98]), Ok(()));
        }
        let written = read(&store);
        assert_eq!(store.close(), Ok(()));
        let reopened = open(&disk, 4).map(|store| read(&store));
        assert_eq!(reopened, Ok(written), "a clean close loses nothing");
    }
}

fn open(disk: &SimulatedDisk, entropy: u64) -> Result<LogStore, StorageError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    LogStore::open(disk, stores::options(entropy))
}

/// What each vbucket that serves answers; `None` for one that is down, which must say why.
fn read(store: &LogStore) -> Vec<(VbucketId, Option<Answers>)> {
    let mut all = Vec::new();
    for status in store.vbuckets() {
        let answers = stores::answers(store, status.vbucket);
        assert_eq!(answers.is_ok(), status.position.is_ok(), "{answers:?}");
        all.push((status.vbucket, answers.ok()));
    }
    all
}

/// Lies under sound checksums may leave a vbucket whose figures contradict each other; it is read all the same.
fn read_unchecked(store: &LogStore) -> Vec<(VbucketId, Option<Answers>)> {
    for status in store.vbuckets() {
        stores::touch(store, status.vbucket);
    }
    Vec::new()
}
