//! A bucket on its way into a place of its own, vbucket by vbucket, of whatever snapshots it is made.
//!
//! Invariant: until all of it was brought to its files, read back, compared with what was copied, and checked whole, the
//! place holds nothing that opens as a bucket. Made by backups and by a past that is written down.

use std::sync::Arc;

use actors::environment::Random;
use storage::{
    AbortReason, Copied, CopyJob, CopyOf, CreateOptions, Job, KvStore, LogStore, OpenOptions,
    Outcome, ReadBackJob, Retention, Snapshot, StorageError, VbucketId, VbucketUuid,
};

use crate::backup::BackupError;
use crate::bucket_config::Location;
use crate::opening::{self, Opening};

/// A bucket that is not there for anybody yet.
pub(crate) struct BucketCopy {
    store: LogStore,
    vbuckets: Vec<(VbucketId, Copied)>,
}

impl BucketCopy {
    /// One without a vbucket, in a place that holds nothing.
    pub(crate) fn begin(
        into: &Location,
        shape: CreateOptions,
        retention: Option<Retention>,
        random: &dyn Random,
    ) -> Result<BucketCopy, BackupError> {
        let disk = opening::disk(into, Opening::Create).map_err(BackupError::Target)?;
        let options = opening::drawn(&OpenOptions::new(0), random);
        let store = LogStore::create_hidden(disk, shape, retention, options);
        Ok(BucketCopy {
            store: store.map_err(BackupError::Target)?,
            vbuckets: Vec::new(),
        })
    }

    /// Copies a vbucket. Asked between any two steps whether it is over.
    pub(crate) fn add(
        &mut self,
        snapshot: &dyn Snapshot,
        of: CopyOf,
        random: &dyn Random,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), BackupError> {
        let uuid = VbucketUuid(random.next_u64().max(1));
        let job = CopyJob::new(snapshot, of, Arc::new(self.store.clone()), uuid);
        let copied = run(job, is_over, || maintain(&self.store))??;
        self.vbuckets.push((snapshot.vbucket(), copied));
        Ok(())
    }

    /// Brings it to its files, compares what is read there with what was copied, and makes it a bucket; what it holds of
    /// each vbucket.
    pub(crate) fn finish(self, is_over: &dyn Fn() -> bool) -> Result<Vec<Copied>, BackupError> {
        let store = self.store;
        // No moment before this one was ever one of the copy.
        store.seal_as_beginning().map_err(BackupError::Target)?;
        for (vbucket, copied) in &self.vbuckets {
            let snapshot = store.snapshot(*vbucket).map_err(BackupError::Target)?;
            let read = run(ReadBackJob::new(&*snapshot), is_over, || Ok(()))?;
            if read.map_err(BackupError::Target)? != *copied {
                return Err(BackupError::Differs { vbucket: *vbucket });
            }
        }
        check(&store)?;
        store.reveal().map_err(BackupError::Target)?;
        Ok(self
            .vbuckets
            .into_iter()
            .map(|(_, copied)| copied)
            .collect())
    }
}

/// Steps a job to its end, with something else between any two steps, as long as it is wanted.
fn run<J: Job>(
    mut job: J,
    is_over: &dyn Fn() -> bool,
    between: impl Fn() -> Result<(), BackupError>,
) -> Result<Result<J::Output, J::Failure>, BackupError> {
    loop {
        if is_over() {
            return Err(BackupError::CutOff);
        }
        match job.step() {
            Outcome::Complete(done) => return Ok(Ok(done)),
            Outcome::Yielded => between()?,
            Outcome::Aborted(_) => return Err(BackupError::CutOff),
            Outcome::Failed(error) => return Ok(Err(error)),
        }
    }
}

/// Whatever is due in the copy's store, so that its log does not grow with all of it.
fn maintain(store: &LogStore) -> Result<(), BackupError> {
    match store.maintain() {
        Outcome::Complete(_) | Outcome::Yielded | Outcome::Aborted(AbortReason::Superseded) => {
            Ok(())
        }
        // Nobody else has the copy.
        Outcome::Aborted(_) => Err(BackupError::Target(StorageError::Gone)),
        Outcome::Failed(error) => Err(BackupError::Target(error)),
    }
}

fn check(store: &LogStore) -> Result<(), BackupError> {
    let faults = store.verify().faults;
    match faults.into_iter().next() {
        None => Ok(()),
        Some(fault) => Err(BackupError::Damaged {
            file: fault.file,
            offset: fault.offset,
            what: fault.what,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actors::simulation::SimulatedRandom;
    use storage::VbucketStateRecord;
    use storage::disk::{Disk, SimulatedDisk};

    use super::*;

    const SHAPE: CreateOptions = CreateOptions::of(2, 1);

    /// A copy of a store of two vbuckets, and its disk.
    fn copy() -> (BucketCopy, SimulatedDisk) {
        let random = SimulatedRandom::new(1);
        let source: Arc<dyn Disk> = Arc::new(SimulatedDisk::new());
        let source = LogStore::create(source, SHAPE, OpenOptions::new(1)).expect("a store");
        let disk = SimulatedDisk::new();
        let place = Location::Disk(Arc::new(disk.clone()));
        let mut copy = BucketCopy::begin(&place, SHAPE, None, &random).expect("a copy");
        for id in [0, 1].map(|id| VbucketId::new(id).expect("an id")) {
            let state = VbucketStateRecord::new(VbucketUuid(1));
            source.create_vbucket(id, &state).expect("a vbucket");
            let snapshot = source.snapshot(id).expect("it");
            let added = copy.add(&*snapshot, CopyOf::Everything, &random, &|| false);
            added.expect("its copy");
        }
        (copy, disk)
    }

    fn is_bucket(disk: &SimulatedDisk) -> bool {
        LogStore::open(Arc::new(disk.clone()), OpenOptions::new(2)).is_ok()
    }

    #[test]
    fn what_is_read_back_is_compared_with_what_was_copied() {
        let (whole, disk) = copy();
        assert!(!is_bucket(&disk));
        assert_eq!(whole.finish(&|| false).map(|copied| copied.len()), Ok(2));
        assert!(is_bucket(&disk));
        for (number, change) in [
            |copied: &mut Copied| copied.digest ^= 1,
            |copied: &mut Copied| copied.items += 1,
            |copied: &mut Copied| copied.bytes += 1,
        ]
        .into_iter()
        .enumerate()
        {
            let (mut other, disk) = copy();
            let (vbucket, copied) = &mut other.vbuckets[number % 2];
            change(copied);
            let vbucket = *vbucket;
            let differs = other.finish(&|| false).err();
            assert_eq!(differs, Some(BackupError::Differs { vbucket }));
            assert!(!is_bucket(&disk));
        }
    }
}
