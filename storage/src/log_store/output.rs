//! What a background job holds while it writes a container, and how every such job ends.
//!
//! Invariant: whatever way a job ends (complete, aborted, failed, or dropped between two steps), the next one may
//! begin, and what it wrote goes, unless the job got as far as to hand it over to a publish.

use std::sync::Arc;

use crate::error::StorageError;
use crate::log_store::containers::NewContainer;
use crate::log_store::segment::{ExtentWriter, SegmentMeta};
use crate::log_store::shard::{BusyGuard, Shard};
use crate::outcome::Outcome;

/// A job's right to work, and the container it writes.
#[derive(Debug)]
pub(crate) struct Output {
    shard: Arc<Shard>,
    busy: Option<BusyGuard>,
    /// Known to nobody else yet.
    container: Option<NewContainer>,
    /// Segments of the container once it is known, until they are handed over.
    adopted: Vec<SegmentMeta>,
}

impl Output {
    pub(crate) fn new(shard: Arc<Shard>) -> Output {
        Output {
            shard,
            busy: None,
            container: None,
            adopted: Vec::new(),
        }
    }

    /// Takes the right to work, to be given back at the job's end.
    pub(crate) fn begin(&mut self, busy: BusyGuard) {
        self.busy = Some(busy);
    }

    /// Creates the container, and a writer at its first extent that syncs whenever it has written so many bytes.
    pub(crate) fn create(&mut self, sync_bytes: u64) -> Result<ExtentWriter, StorageError> {
        let new = self.shard.containers.create()?;
        let writer = new.writer().syncing_every(sync_bytes);
        self.container = Some(new);
        Ok(writer)
    }

    /// The container's number.
    pub(crate) fn number(&self) -> u64 {
        self.container.as_ref().map_or(0, |new| new.number)
    }

    /// Makes what was written durable, but for the container's name.
    pub(crate) fn sync(&self) -> Result<(), StorageError> {
        if let Some(container) = &self.container {
            container.file.sync()?;
        }
        Ok(())
    }

    /// Makes the container's name durable, and the container known with these segments.
    pub(crate) fn adopt(&mut self, metas: Vec<SegmentMeta>) -> Result<(), StorageError> {
        self.shard.disk.sync_directory()?;
        if let Some(container) = self.container.take() {
            self.shard.containers.adopt(container, &metas);
            self.adopted = metas;
        }
        Ok(())
    }

    /// From now on whoever publishes these segments answers for each of them.
    pub(crate) fn hand_over<'m>(&mut self, metas: impl IntoIterator<Item = &'m SegmentMeta>) {
        for meta in metas {
            self.adopted.retain(|adopted| adopted.id != meta.id);
        }
    }

    /// One of the segments is not needed, and nothing refers to it.
    pub(crate) fn give_up_one(&mut self, meta: &SegmentMeta) {
        self.hand_over([meta]);
        self.shard.retire([meta], 0);
    }

    /// What a step came to; at the job's end, all that it still holds is given back.
    pub(crate) fn after_step<T, E>(&mut self, result: Result<Outcome<T, E>, E>) -> Outcome<T, E> {
        let outcome = result.unwrap_or_else(Outcome::Failed);
        if !matches!(outcome, Outcome::Yielded) {
            if let Some(container) = self.container.take() {
                self.shard.containers.discard(&container);
            }
            self.give_up();
        }
        outcome
    }

    /// Gives back without a call on the disk: maintenance removes the files.
    fn give_up(&mut self) {
        if let Some(container) = self.container.take() {
            self.shard.containers.doom(container);
        }
        // Nothing refers to them yet, so they may go at once.
        self.shard.retire(&std::mem::take(&mut self.adopted), 0);
        self.busy = None;
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.give_up();
    }
}
