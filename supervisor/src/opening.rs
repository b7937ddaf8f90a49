//! From a place to an open store: creation, and the settings that are stored at creation.
//!
//! Invariant: a creation that was cut short is finished by the next opening: the store's shape is written first, and
//! warmup makes the vbuckets that are missing.

use std::sync::Arc;

use actors::environment::Random;
use storage::disk::{Disk, DiskErrorKind};
use storage::{CreateOptions, FileSystemDisk, LogStore, OpenOptions, Retention, StorageError};

use crate::bucket_config::{BucketConfig, Location};
use crate::bucket_error::BucketError;

/// What is expected of the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// No bucket.
    Create,
    /// A bucket.
    Existing,
    /// Either.
    CreateIfMissing,
}

/// An open store, and what opens it again.
pub(crate) struct Opened {
    pub(crate) store: LogStore,
    pub(crate) disk: Arc<dyn Disk>,
}

/// Opens the store of a bucket, or makes it. Blocks on the disk.
pub(crate) fn open(
    config: &BucketConfig,
    how: Opening,
    random: &dyn Random,
) -> Result<Opened, BucketError> {
    config.check()?;
    let disk = disk(&config.location, how)?;
    let store = match how {
        Opening::Create => create(config, &disk, random)?,
        Opening::Existing => reopen(&config.store, &disk, random)?,
        Opening::CreateIfMissing => match reopen(&config.store, &disk, random) {
            Err(StorageError::NoStore) => create(config, &disk, random)?,
            opened => opened?,
        },
    };
    agree(config, &store)?;
    Ok(Opened { store, disk })
}

/// Opens the store that lies on `disk`; each opening draws its own entropy.
pub(crate) fn reopen(
    options: &OpenOptions,
    disk: &Arc<dyn Disk>,
    random: &dyn Random,
) -> Result<LogStore, StorageError> {
    LogStore::open(Arc::clone(disk), drawn(options, random))
}

pub(crate) fn drawn(options: &OpenOptions, random: &dyn Random) -> OpenOptions {
    OpenOptions {
        entropy: random.next_u64(),
        // The compactor merges, never the maintenance.
        segments_max: usize::MAX,
        ..*options
    }
}

pub(crate) fn disk(location: &Location, how: Opening) -> Result<Arc<dyn Disk>, StorageError> {
    Ok(match (location, how) {
        (Location::Disk(disk), _) => Arc::clone(disk),
        (Location::Directory(path), Opening::Existing) => {
            Arc::new(FileSystemDisk::new(path).map_err(|error| {
                if error.kind == DiskErrorKind::NotFound {
                    StorageError::NoStore
                } else {
                    error.into()
                }
            })?)
        }
        (Location::Directory(path), Opening::Create | Opening::CreateIfMissing) => {
            Arc::new(FileSystemDisk::create(path)?)
        }
    })
}

fn create(
    config: &BucketConfig,
    disk: &Arc<dyn Disk>,
    random: &dyn Random,
) -> Result<LogStore, StorageError> {
    let usual = CreateOptions::default();
    let shape = CreateOptions {
        vbuckets: config.vbuckets.unwrap_or(usual.vbuckets),
        log_shards: config.log_shards.unwrap_or(usual.log_shards),
        eviction: config.eviction.unwrap_or(usual.eviction),
    };
    let options = drawn(&config.store, random);
    LogStore::create_with_history(Arc::clone(disk), shape, config.history, options)
}

/// Refuses settings other than those stored.
fn agree(config: &BucketConfig, store: &LogStore) -> Result<(), BucketError> {
    let (shape, kept) = (store.shape(), store.retention());
    let window_s = |kept: Retention| u64::from(kept.window_s);
    let most = |kept: Retention| kept.bytes.unwrap_or(0);
    let settings = [
        (
            "vbuckets",
            config.vbuckets.map(u64::from),
            u64::from(shape.vbuckets),
        ),
        (
            "log_shards",
            config.log_shards.map(u64::from),
            u64::from(shape.log_shards),
        ),
        (
            "seconds of history",
            config.history.map(window_s),
            kept.map_or(0, window_s),
        ),
        (
            "bytes of history",
            config.history.map(most),
            kept.map_or(0, most),
        ),
    ];
    for (what, given, stored) in settings {
        if let Some(given) = given.filter(|given| *given != stored) {
            return Err(BucketError::OtherOptions {
                what,
                stored,
                given,
            });
        }
    }
    match config.eviction {
        Some(given) if given != shape.eviction => Err(BucketError::OtherEviction {
            stored: shape.eviction,
            given,
        }),
        _ => Ok(()),
    }
}
