//! The identity file: what makes a directory a store, written once at creation.
//!
//! Invariant: a directory with this file is a store of exactly this shape; the file has its name only when it is
//! durable, and nothing else is created before it. A directory with other files and without it is somebody else's. What
//! is kept of the past stands behind the shape, where a store keeps some.

use crate::disk::{Disk, DiskErrorKind, DiskFile, OpenMode};
use crate::error::StorageError;
use crate::eviction::Eviction;
use crate::log_store::names::{IDENTITY, IDENTITY_TEMPORARY, LOCK};
use crate::log_store::options::CreateOptions;
use crate::retention::Retention;

/// Version of everything this program writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"PIGGIN\x00\x01";
const LENGTH: usize = 32;
/// What follows where a history is kept: its most bytes, zero, a checksum.
const HISTORY_LENGTH: usize = 16;

/// Who a store is, and its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store_id: u64,
    pub(crate) shape: CreateOptions,
    pub(crate) retention: Option<Retention>,
}

impl Identity {
    pub(crate) fn encode(&self, version: u32) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&self.shape.vbuckets.to_le_bytes());
        let [log_shards, _] = self.shape.log_shards.to_le_bytes();
        bytes.extend_from_slice(&[log_shards, self.shape.eviction.byte()]);
        bytes.extend_from_slice(&self.store_id.to_le_bytes());
        let window_s = self.retention.map_or(0, |retention| retention.window_s);
        bytes.extend_from_slice(&window_s.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        if let Some(retention) = self.retention {
            let begin = bytes.len();
            bytes.extend_from_slice(&retention.bytes.unwrap_or(0).to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            let crc = crc32c::crc32c(bytes.get(begin..).unwrap_or_default());
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Identity, StorageError> {
        let damaged = |what: &str| StorageError::corruption(IDENTITY, 0, what);
        let body = bytes
            .strip_prefix(&MAGIC)
            .ok_or_else(|| damaged("not the mark of a store"))?;
        let (version, rest) = body
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("the identity is cut off"))?;
        let found = u32::from_le_bytes(*version);
        let checked = bytes.get(..LENGTH.saturating_sub(4)).unwrap_or_default();
        let crc = bytes
            .get(LENGTH.saturating_sub(4)..)
            .and_then(|crc| crc.first_chunk::<4>());
        if crc.map(|crc| u32::from_le_bytes(*crc)) != Some(crc32c::crc32c(checked)) {
            return Err(damaged("the identity is damaged"));
        }
        if found != FORMAT_VERSION {
            return Err(StorageError::FormatVersion {
                found,
                expected: FORMAT_VERSION,
            });
        }
        let (vbuckets, rest) = rest
            .split_first_chunk::<2>()
            .ok_or_else(|| damaged("the identity is cut off"))?;
        let ([log_shards, eviction], rest) = rest
            .split_first_chunk::<2>()
            .ok_or_else(|| damaged("the identity is cut off"))?;
        let (store_id, rest) = rest
            .split_first_chunk::<8>()
            .ok_or_else(|| damaged("the identity is cut off"))?;
        let (window_s, _) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| damaged("the identity is cut off"))?;
        let retention = match u32::from_le_bytes(*window_s) {
            0 => None,
            window_s => {
                let behind = bytes.get(LENGTH..).unwrap_or_default();
                let bytes =
                    history_bytes(behind).ok_or_else(|| damaged("its history is damaged"))?;
                Some(Retention {
                    window_s,
                    bytes: (bytes > 0).then_some(bytes),
                })
            }
        };
        let shape = CreateOptions {
            vbuckets: u16::from_le_bytes(*vbuckets),
            log_shards: u16::from(*log_shards),
            eviction: Eviction::from_byte(*eviction)
                .ok_or_else(|| damaged("its eviction policy is none there is"))?,
        };
        shape.check()?;
        Ok(Identity {
            store_id: u64::from_le_bytes(*store_id),
            shape,
            retention,
        })
    }

    /// Refuses a directory in which a store cannot be made; the names in it. Changes nothing.
    pub(crate) fn refuse_unless_empty(disk: &dyn Disk) -> Result<Vec<String>, StorageError> {
        let names = disk.list()?;
        if names.iter().any(|name| name == IDENTITY) {
            return Err(StorageError::StoreExists);
        }
        let is_ours = |name: &&String| *name != IDENTITY_TEMPORARY && *name != LOCK;
        match names.iter().find(is_ours) {
            Some(other) => Err(StorageError::ForeignDirectory(other.clone())),
            None => Ok(names),
        }
    }

    /// Makes an empty directory a store.
    pub(crate) fn create(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.write(disk)?;
        Identity::reveal(disk)
    }

    /// Makes an empty directory what a store is to be made in: nobody's, until it is revealed.
    pub(crate) fn write(&self, disk: &dyn Disk) -> Result<(), StorageError> {
        let names = Identity::refuse_unless_empty(disk)?;
        if names.iter().any(|name| name == IDENTITY_TEMPORARY) {
            disk.remove(IDENTITY_TEMPORARY)?;
        }
        let file = disk.open(IDENTITY_TEMPORARY, OpenMode::CreateNew)?;
        file.append(&self.encode(FORMAT_VERSION))?;
        file.sync()?;
        Ok(())
    }

    /// Makes the directory that was written a store.
    pub(crate) fn reveal(disk: &dyn Disk) -> Result<(), StorageError> {
        disk.rename(IDENTITY_TEMPORARY, IDENTITY)?;
        disk.sync_directory().map_err(|error| {
            // Not told as there, so not to be found. A power cut may still bring it back whole.
            if let Err(why) = disk.rename(IDENTITY, IDENTITY_TEMPORARY) {
                tracing::warn!(%why, "a store that was not made durable stays");
            }
            error.into()
        })
    }

    /// Reads who the store in this directory is.
    pub(crate) fn open(disk: &dyn Disk) -> Result<Identity, StorageError> {
        match disk.open(IDENTITY, OpenMode::Existing) {
            Ok(file) => Identity::read(&*file),
            Err(error) if error.kind == DiskErrorKind::NotFound => Err(missing(&disk.list()?)),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads who a store is that is open, and may not be revealed yet.
    pub(crate) fn of_open(disk: &dyn Disk) -> Result<Identity, StorageError> {
        match disk.open(IDENTITY_TEMPORARY, OpenMode::Existing) {
            Ok(file) => Identity::read(&*file),
            Err(_) => Identity::open(disk),
        }
    }

    fn read(file: &dyn DiskFile) -> Result<Identity, StorageError> {
        let length = usize::try_from(file.length()?)
            .unwrap_or(usize::MAX)
            .min(LENGTH.saturating_add(HISTORY_LENGTH));
        let mut bytes = vec![0u8; length];
        file.read_at(&mut bytes, 0)?;
        Identity::decode(&bytes)
    }
}

/// Most bytes of a history, zero for no bound, from what stands behind the shape; `None` for what never was written.
fn history_bytes(behind: &[u8]) -> Option<u64> {
    let (body, rest) = behind.split_first_chunk::<12>()?;
    let crc = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    let bytes = u64::from_le_bytes(*body.first_chunk::<8>()?);
    (crc32c::crc32c(body) == crc).then_some(bytes)
}

fn missing(names: &[String]) -> StorageError {
    let is_ours = |name: &&String| *name != IDENTITY_TEMPORARY && *name != LOCK;
    match names.iter().find(is_ours) {
        Some(other) => StorageError::ForeignDirectory(other.clone()),
        None => StorageError::NoStore,
    }
}

#[cfg(test)]
mod tests;
