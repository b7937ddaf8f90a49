//! From a place to an open store: creation, and the settings that are stored at creation.
//!
//! Invariant: a creation that was cut short is finished by the next opening: the store's shape is written first, and
//! warmup makes the vbuckets that are missing.

use std::sync::Arc;

use actors::environment::Random;
use storage::disk::{Disk, DiskErrorKind};
use storage::{CreateOptions, FileSystemDisk, LogStore, OpenOptions, StorageError};

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
    let disk = disk(config, how)?;
    let store = match how {
        Opening::Create => create(config, &disk, random)?,
        Opening::Existing => reopen(&config.store, &disk, random)?,
        Opening::CreateIfMissing => match reopen(&config.store, &disk, random) {
            Err(StorageError::NoStore) => create(config, &disk, random)?,
            opened => opened?,
        },
    };
    agree(config, store.shape())?;
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

fn drawn(options: &OpenOptions, random: &dyn Random) -> OpenOptions {
    OpenOptions {
        entropy: random.next_u64(),
        // The compactor merges, never the maintenance.
        segments_max: usize::MAX,
        ..*options
    }
}

fn disk(config: &BucketConfig, how: Opening) -> Result<Arc<dyn Disk>, StorageError> {
    Ok(match (&config.location, how) {
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
    };
    LogStore::create(Arc::clone(disk), shape, drawn(&config.store, random))
}

/// Refuses settings other than those stored.
fn agree(config: &BucketConfig, shape: CreateOptions) -> Result<(), BucketError> {
    let settings = [
        ("vbuckets", config.vbuckets, shape.vbuckets),
        ("log_shards", config.log_shards, shape.log_shards),
    ];
    for (what, given, stored) in settings {
        if let Some(given) = given.filter(|given| *given != stored) {
            return Err(BucketError::OtherOptions {
                what,
                stored: u64::from(stored),
                given: u64::from(given),
            });
        }
    }
    Ok(())
}
