//! The manifest: a checkpoint of one shard, so that older log files are no longer needed.
//!
//! Invariant: a manifest has its name only when all of it is durable, so one that cannot be read is corruption and
//! never an interrupted step; the newest one counts, no older one is ever used in its place (MB-64902). Each vbucket
//! has its own checksum: one damaged entry keeps one vbucket down. Drawn in `docs/storage-format.md`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, OpenMode};
use crate::error::StorageError;
use crate::log_store::codec;
use crate::log_store::image::Image;
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::reader::LogBounds;
use crate::vbucket::VbucketId;

const MAGIC: [u8; 8] = *b"PIGGMAN1";
const PREFIX_LENGTH: usize = 32;

/// What a manifest says of its shard as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    /// Edits up to this frame are in the images.
    pub(crate) covers: u64,
    /// The oldest log file needed, and the last frame before it.
    pub(crate) begin_file: u64,
    pub(crate) begin_sequence: u64,
    /// The last frame known durable.
    pub(crate) synced_file: u64,
    pub(crate) synced_sequence: u64,
    /// Nothing was written after `synced`: the store was closed in order.
    pub(crate) is_clean: bool,
    pub(crate) next_incarnation: u64,
    pub(crate) next_segment: u64,
    pub(crate) next_container: u64,
    pub(crate) next_log_file: u64,
}

impl ShardRecord {
    /// A new shard.
    pub(crate) const NEW: ShardRecord = ShardRecord {
        covers: 0,
        begin_file: 0,
        begin_sequence: 0,
        synced_file: 0,
        synced_sequence: 0,
        is_clean: true,
        next_incarnation: 1,
        next_segment: 1,
        next_container: 1,
        next_log_file: 1,
    };

    pub(crate) fn bounds(&self) -> LogBounds {
        LogBounds {
            begin: LogPosition {
                file: self.begin_file,
                sequence: self.begin_sequence,
            },
            synced: LogPosition {
                file: self.synced_file,
                sequence: self.synced_sequence,
            },
            is_clean: self.is_clean,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    store_id: u64,
    shard: u16,
    number: u64,
    record: ShardRecord,
    directory: Vec<DirectoryEntry>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct DirectoryEntry {
    vbucket: VbucketId,
    length: u32,
    crc: u32,
}

/// Whose manifest it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManifestOwner {
    pub(crate) store_id: u64,
    pub(crate) shard: u16,
    pub(crate) number: u64,
}

/// One vbucket's entry, kept as bytes so that a damaged one survives a rewrite as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawEntry {
    pub(crate) vbucket: VbucketId,
    pub(crate) bytes: Bytes,
    pub(crate) crc: u32,
}

impl RawEntry {
    pub(crate) fn of(image: &Image) -> Result<RawEntry, StorageError> {
        let bytes = codec::encode(image).map_err(|error| too_large(&error))?;
        let crc = crc32c::crc32c(&bytes);
        Ok(RawEntry {
            vbucket: image.place.vbucket,
            bytes: bytes.into(),
            crc,
        })
    }

    /// The entry of a vbucket of which nothing is known but that it exists; it reads back as damaged.
    pub(crate) fn unreadable(vbucket: VbucketId) -> RawEntry {
        let bytes = Bytes::new();
        let crc = !crc32c::crc32c(&bytes);
        RawEntry {
            vbucket,
            bytes,
            crc,
        }
    }

    /// Whether it was never more than [`RawEntry::unreadable`].
    pub(crate) fn is_unreadable(&self) -> bool {
        *self == RawEntry::unreadable(self.vbucket)
    }

    /// The image, if the bytes are what was written.
    pub(crate) fn image(&self) -> Result<Image, String> {
        if crc32c::crc32c(&self.bytes) != self.crc {
            return Err(format!("the entry of vbucket {} is damaged", self.vbucket));
        }
        let image: Image = codec::decode(&self.bytes).map_err(|error| error.to_string())?;
        if image.place.vbucket == self.vbucket {
            Ok(image)
        } else {
            Err(format!(
                "the entry of vbucket {} is of another",
                self.vbucket
            ))
        }
    }
}

/// A manifest as read.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) record: ShardRecord,
    /// With the offset in the file.
    pub(crate) entries: Vec<(u64, RawEntry)>,
}

/// All bytes of a manifest.
pub(crate) fn encode(
    owner: ManifestOwner,
    record: ShardRecord,
    entries: &[RawEntry],
) -> Result<Vec<u8>, StorageError> {
    let directory = entries.iter().map(|entry| DirectoryEntry {
        vbucket: entry.vbucket,
        length: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX),
        crc: entry.crc,
    });
    let head = Head {
        store_id: owner.store_id,
        shard: owner.shard,
        number: owner.number,
        record,
        directory: directory.collect(),
    };
    let head = codec::encode(&head).map_err(|error| too_large(&error))?;
    let mut bytes = prefix(&head);
    bytes.extend_from_slice(&head);
    for entry in entries {
        bytes.extend_from_slice(&entry.bytes);
    }
    Ok(bytes)
}

/// What stands before the head: magic, the head's length and checksum, and the checksum of those.
pub(crate) fn prefix(head: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&u64::from(crc32c::crc32c(head)).to_le_bytes());
    let prefix_crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&u64::from(prefix_crc).to_le_bytes());
    bytes
}

/// Reads and checks the manifest in `name`.
pub(crate) fn read(
    disk: &dyn Disk,
    name: &str,
    owner: ManifestOwner,
) -> Result<Manifest, StorageError> {
    let file = disk.open(name, OpenMode::Existing)?;
    let length = usize::try_from(file.length()?).unwrap_or(0);
    let mut bytes = vec![0u8; length];
    file.read_at(&mut bytes, 0)?;
    decode(&Bytes::from(bytes), name, owner)
}

/// Takes the bytes of a manifest apart.
pub(crate) fn decode(
    bytes: &Bytes,
    name: &str,
    owner: ManifestOwner,
) -> Result<Manifest, StorageError> {
    let corrupt = |offset: usize, what: &str| {
        StorageError::corruption(name, u64::try_from(offset).unwrap_or(u64::MAX), what)
    };
    let head_length =
        head_length(bytes).ok_or_else(|| corrupt(0, "the manifest's prefix is damaged"))?;
    let end = PREFIX_LENGTH.saturating_add(head_length);
    let head = bytes
        .get(PREFIX_LENGTH..end)
        .ok_or_else(|| corrupt(PREFIX_LENGTH, "the manifest is cut off"))?;
    let crc = bytes.get(16..24).and_then(|crc| crc.first_chunk::<8>());
    if crc.map(|crc| u64::from_le_bytes(*crc)) != Some(u64::from(crc32c::crc32c(head))) {
        return Err(corrupt(PREFIX_LENGTH, "the manifest's head is damaged"));
    }
    let head: Head =
        codec::decode(head).map_err(|error| corrupt(PREFIX_LENGTH, &error.to_string()))?;
    let found = ManifestOwner {
        store_id: head.store_id,
        shard: head.shard,
        number: head.number,
    };
    if found != owner {
        return Err(corrupt(PREFIX_LENGTH, "the manifest belongs elsewhere"));
    }
    let mut offset = end;
    let mut entries = Vec::new();
    for entry in head.directory {
        let end = offset
            .saturating_add(entry.length as usize)
            .min(bytes.len());
        let raw = RawEntry {
            vbucket: entry.vbucket,
            bytes: bytes.slice(offset.min(end)..end),
            crc: entry.crc,
        };
        entries.push((offset as u64, raw));
        offset = end;
    }
    Ok(Manifest {
        record: head.record,
        entries,
    })
}

fn head_length(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.get(..PREFIX_LENGTH)?;
    let (checked, crc) = prefix.split_at_checked(24)?;
    let crc = u64::from_le_bytes(*crc.first_chunk::<8>()?);
    if !checked.starts_with(&MAGIC) || crc != u64::from(crc32c::crc32c(checked)) {
        return None;
    }
    usize::try_from(u64::from_le_bytes(*checked.get(8..16)?.first_chunk::<8>()?)).ok()
}

fn too_large(error: &codec::CodecError) -> StorageError {
    StorageError::Setting(format!("a manifest entry is beyond its limit: {error}"))
}

#[cfg(test)]
mod tests;
