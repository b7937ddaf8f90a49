//! The target `segment`: a small container in which single bytes are others, opened, read and verified.
//!
//! Invariant: nothing panics; a changed segment is never read as whole. With checksums made to fit, which no medium
//! does, only the first is asked: it reaches the decoders the checksums guard.

use std::sync::{Arc, OnceLock};

use super::stores;
use crate::disk::{Disk, OpenMode, SimulatedDisk};
use crate::error::StorageError;
use crate::kv_store::KvStore;
use crate::log_store::names::{Kind, Name};
use crate::log_store::options::{BlockCompression, CreateOptions, OpenOptions};
use crate::log_store::segment::{
    KeyCursor, Patience, Segment, SegmentMeta, SeqnoCursor, decode_parts, reseal,
};
use crate::log_store::store::LogStore;
use crate::outcome::Outcome;
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

/// A container's bytes, and the segment in it.
struct Base {
    bytes: Vec<u8>,
    meta: SegmentMeta,
}

/// Of the first byte, bit 0 chooses compression, bit 1 makes the checksums fit; then each change is two bytes of
/// place and one of value. The bytes alone are also handed to every decoder of a part of a segment.
pub fn segment(bytes: &[u8]) {
    static PLAIN: OnceLock<Result<Base, StorageError>> = OnceLock::new();
    static LZ4: OnceLock<Result<Base, StorageError>> = OnceLock::new();
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    decode_parts(rest);
    let base = match mode & 1 {
        0 => PLAIN.get_or_init(|| base(BlockCompression::None)),
        _ => LZ4.get_or_init(|| base(BlockCompression::Lz4)),
    };
    let Ok(base) = base else {
        assert!(base.is_ok(), "the container could not be made");
        return;
    };
    let mut container = base.bytes.clone();
    let start = usize::try_from(base.meta.offset).unwrap_or(0);
    let Some(extent) = container.get_mut(start..) else {
        return;
    };
    let mut changed = false;
    for change in rest.as_chunks::<3>().0 {
        let [low, high, value] = *change;
        let length = extent.len().max(1);
        let at = usize::from(u16::from_le_bytes([low, high])) % length;
        if let Some(byte) = extent.get_mut(at) {
            changed |= *byte != value;
            *byte = value;
        }
    }
    let mut meta = base.meta.clone();
    let is_resealed = mode & 2 != 0;
    if is_resealed {
        reseal(extent, &mut meta);
    }
    // Several changes may cancel each other.
    changed &= container != base.bytes;
    let whole = read(container, meta);
    if !is_resealed {
        assert_eq!(whole.is_ok(), !changed, "{whole:?}");
    }
}

fn base(compression: BlockCompression) -> Result<Base, StorageError> {
    let disk = SimulatedDisk::new();
    let shape = CreateOptions::of(1, 1);
    let options = OpenOptions {
        compression,
        ..stores::options(1)
    };
    let store = LogStore::create(Arc::new(disk.clone()), shape, options)?;
    let vbucket = VbucketId::try_from(0).map_err(|_| StorageError::NoStore)?;
    store.create_vbucket(vbucket, &stores::new_state())?;
    for choice in 0..24 {
        stores::write(&store, vbucket, &[0x60 | choice, 0xf0 | choice, choice])?;
    }
    assert_eq!(store.seal(vbucket, Seqno::ZERO), Outcome::Complete(()));
    let versions = store.shards().iter().flat_map(|shard| shard.versions());
    let views = versions.flat_map(|version| version.segments.clone());
    let meta = views.map(|view| view.segment.meta().clone()).next();
    let meta = meta.ok_or(StorageError::NoStore)?;
    let name = Name::new(Kind::Container, 0, meta.container).to_string();
    let mut bytes = disk.files().remove(&name).unwrap_or_default();
    bytes.truncate(usize::try_from(meta.offset.saturating_add(meta.length)).unwrap_or(0));
    Ok(Base { bytes, meta })
}

/// Reads everything, going on where something fails; the first failure.
fn read(container: Vec<u8>, meta: SegmentMeta) -> Result<(), StorageError> {
    let disk = SimulatedDisk::from_files([("c".to_owned(), container)].into());
    let file = disk.open("c", OpenMode::Existing)?;
    let segment = Arc::new(Segment::open(file, "c".into(), meta)?);
    let mut verified = Ok(());
    segment.verify(&mut |error| verified = Err(error));
    let kills = segment.kills().map(drop);
    let boundaries = segment.boundaries().map(drop);
    let keys = read_by_key(&segment);
    let seqnos = read_by_seqno(&segment);
    verified.and(kills).and(boundaries).and(keys).and(seqnos)
}

fn read_by_key(segment: &Arc<Segment>) -> Result<(), StorageError> {
    let mut cursor = KeyCursor::new(Arc::clone(segment), &[])?;
    let mut first = Ok(());
    while let Some(entry) = cursor.peek() {
        let found = segment
            .find(entry.key, entry.seqno, Patience::Waits)
            .map(drop);
        let record = segment
            .read_record(entry.location, entry.seqno, Patience::Waits)
            .map(drop);
        first = first.and(found).and(record);
        cursor.advance()?;
    }
    first
}

fn read_by_seqno(segment: &Arc<Segment>) -> Result<(), StorageError> {
    let mut cursor = SeqnoCursor::new(Arc::clone(segment), Seqno::ZERO);
    while let Some(mut chunk) = cursor.next_chunk(1 << 10)? {
        while let Some(record) = chunk.next() {
            record?;
        }
    }
    Ok(())
}
