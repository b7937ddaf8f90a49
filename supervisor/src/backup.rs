//! Backups: a bucket in use, written into a directory of its own, and a directory written back.
//!
//! Invariant: what is told complete was read back, compared and checked whole, and is durable; until then nothing in the
//! place can be opened as a bucket. Each vbucket is as it was at one moment, behind a flush: everything written before the
//! call is there; between two vbuckets there may be a write. Each vbucket of the copy begins a branch of history of its own,
//! so a copy and its source may both go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::sync::oneshot;

use actors::environment::Random;
use actors::panics::caught;
use actors::store_handle::StoreHandle;
use actors::system::SystemRandom;
use messages::OperationError;
use storage::{
    Advice, Copied, CopyError, CopyOf, KvStore, LogStore, OpenOptions, Snapshot, StorageError,
    VbucketId,
};

use crate::bucket::Bucket;
use crate::bucket_config::Location;
use crate::bucket_copy::BucketCopy;
use crate::opening::{self, Opening};

/// What a backup, or a directory written back, holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// Vbuckets.
    pub vbuckets: u16,
    /// Items: documents, tombstones, durable writes under way, and events of collections.
    pub items: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Why there is no copy. The place holds no bucket, or a whole one, where the very last sync failed; what lies there may be
/// removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// What was written before could not be brought to disk.
    #[error("the bucket cannot be flushed: {0}")]
    Flush(OperationError),
    /// A vbucket that is out of service would be missing.
    #[error("vbucket {vbucket} is out of service and cannot be copied: {cause}")]
    Down {
        /// Which.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
    },
    /// The bucket's own store.
    #[error("the bucket to be copied: {0}")]
    Source(StorageError),
    /// The place of the copy.
    #[error("the place of the copy: {0}")]
    Target(StorageError),
    /// One vbucket's copy.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// What was read back is something else than what was written.
    #[error("the copy of vbucket {vbucket} is not what was copied; try another disk")]
    Differs {
        /// Which.
        vbucket: VbucketId,
    },
    /// All of it was written, and is not sound.
    #[error("the copy is damaged in {file} at offset {offset}: {what}; try another disk")]
    Damaged {
        /// The first file with a fault.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The bucket was shut down, or its store opened anew, meanwhile.
    #[error("the bucket ended, or opened its files anew, before it was copied; try again")]
    CutOff,
    /// The thread that copies could not be started, or died.
    #[error("what copies ended: {0}")]
    Engine(String),
}

impl BackupError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            BackupError::Flush(error) => error.advice(),
            BackupError::Down { cause, .. }
            | BackupError::Source(cause)
            | BackupError::Target(cause)
            | BackupError::Copy(
                CopyError::Source { cause, .. } | CopyError::Target { cause, .. },
            ) => cause.advice(),
            BackupError::Copy(_)
            | BackupError::Differs { .. }
            | BackupError::Damaged { .. }
            | BackupError::CutOff
            | BackupError::Engine(_) => Advice::RetryLater,
        }
    }
}

impl Bucket {
    /// Copies the whole bucket, in use, to a place that holds nothing: a directory that is empty or missing, as a rule.
    /// [`restore`] makes a bucket of it again, anywhere. Answered once the copy is durable and was compared with what was
    /// read; a future that is dropped gives the copy up.
    ///
    /// Meanwhile nothing is compacted away that the copy has yet to read, so a busy bucket takes more space on disk.
    pub async fn backup(&self, into: impl Into<Location>) -> Result<BackupReport, BackupError> {
        let into = into.into();
        self.flush().await.map_err(BackupError::Flush)?;
        let running = self.running();
        let (store, stop) = (running.store.clone(), Arc::clone(&running.stop));
        on_its_own_thread(move |is_unwanted| {
            let is_unwanted = || is_unwanted() || stop.is_wanted();
            backup(&store, &into, &is_unwanted)
        })
        .await
    }
}

/// Copies the bucket at `from`, which nobody has open, to a place that holds nothing: brings a backup back.
pub async fn restore(
    from: impl Into<Location>,
    into: impl Into<Location>,
) -> Result<BackupReport, BackupError> {
    let (from, into) = (from.into(), into.into());
    on_its_own_thread(move |is_unwanted| {
        let random = random()?;
        let disk = opening::disk(&from, Opening::Existing).map_err(BackupError::Source)?;
        let options = OpenOptions::new(random.next_u64());
        let store = LogStore::open(disk, options).map_err(BackupError::Source)?;
        // Not closed: that would mark a bucket that was killed as one that was shut down.
        let copy = of_whole_store(&store, &into, &random, is_unwanted)?;
        Ok(reported(&copy.finish(is_unwanted)?))
    })
    .await
}

fn backup(
    store: &StoreHandle,
    into: &Location,
    is_unwanted: &dyn Fn() -> bool,
) -> Result<BackupReport, BackupError> {
    let random = random()?;
    let copy = {
        let lease = store.lease().map_err(BackupError::Source)?;
        let is_over = || is_unwanted() || lease.is_recalled();
        of_whole_store(lease.store(), into, &random, &is_over)?
    };
    // The bucket's own files are not needed any more.
    Ok(reported(&copy.finish(is_unwanted)?))
}

fn random() -> Result<SystemRandom, BackupError> {
    SystemRandom::new().map_err(|error| BackupError::Engine(error.to_string()))
}

fn of_whole_store(
    from: &LogStore,
    into: &Location,
    random: &dyn Random,
    is_over: &dyn Fn() -> bool,
) -> Result<BucketCopy, BackupError> {
    let snapshots = snapshots(from)?;
    let mut copy = BucketCopy::begin(into, from.shape(), from.retention(), random)?;
    for snapshot in snapshots {
        copy.add(&*snapshot, CopyOf::Everything, random, is_over)?;
    }
    Ok(copy)
}

fn reported(copied: &[Copied]) -> BackupReport {
    let sum = |of: fn(&Copied) -> u64| copied.iter().map(of).fold(0, u64::saturating_add);
    BackupReport {
        vbuckets: u16::try_from(copied.len()).unwrap_or(u16::MAX),
        items: sum(|one| one.items),
        bytes: sum(|one| one.bytes),
    }
}

fn snapshots(from: &LogStore) -> Result<Vec<Box<dyn Snapshot>>, BackupError> {
    let mut snapshots = Vec::new();
    for status in from.vbuckets() {
        let vbucket = status.vbucket;
        let taken = status.position.and_then(|_| from.snapshot(vbucket));
        snapshots.push(taken.map_err(|cause| BackupError::Down { vbucket, cause })?);
    }
    Ok(snapshots)
}

/// Does it on a thread that may wait for the disk, whatever runtime the caller is on.
async fn on_its_own_thread(
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<BackupReport, BackupError> + Send + 'static,
) -> Result<BackupReport, BackupError> {
    let wanted = Wanted(Arc::default());
    let unwanted = Arc::clone(&wanted.0);
    let (answer, answered) = oneshot::channel();
    let body = move || {
        let done = caught(|| work(&|| unwanted.load(Ordering::Relaxed)));
        // Whoever asked may be gone.
        drop(answer.send(done.unwrap_or_else(|panic| Err(BackupError::Engine(panic)))));
    };
    thread::Builder::new()
        .name("piggin-backup".to_owned())
        .spawn(body)
        .map_err(|error| BackupError::Engine(error.to_string()))?;
    let died = |_| BackupError::Engine("its thread died".to_owned());
    let done = answered.await.map_err(died)?;
    drop(wanted);
    done
}

/// Set where whoever waits goes away.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
