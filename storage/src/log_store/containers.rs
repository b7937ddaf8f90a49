//! Container files: segments of many vbuckets lie in one file as extents, so that a seal costs one sync.
//!
//! Invariant: an extent's bytes stay as long as a version, a snapshot or a running job reads them, and as long as
//! a crash could bring back a version that needs them; then its space is punched, and a file without a live extent
//! is removed (rule R13). Which extents live is told by the manifest and the log, never by the container itself.

mod extents;
mod header;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskErrorKind, DiskFile, OpenMode};
use crate::error::StorageError;
use crate::log_store::names::{Kind, Name};
use crate::log_store::segment::{ExtentWriter, PageCache, Segment, SegmentMeta};

use extents::{Container, Extent, Open};
use header::check_header;
pub(crate) use header::header;

/// Where the first extent begins, and what extents are aligned to: a disk block, so that all of it can be punched.
pub(crate) const EXTENT_ALIGNMENT: u64 = 4096;

/// The containers of one shard.
#[derive(Debug)]
pub(crate) struct Containers {
    disk: Arc<dyn Disk>,
    store_id: u64,
    shard: u16,
    next_number: AtomicU64,
    pages: Arc<PageCache>,
    /// Never held over a call on the disk but an open: whoever publishes waits for it.
    open: Mutex<Open>,
}

/// A container being written by a job.
#[derive(Debug)]
pub(crate) struct NewContainer {
    pub(crate) number: u64,
    pub(crate) name: Arc<str>,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl NewContainer {
    /// A writer at the container's first extent.
    pub(crate) fn writer(&self) -> ExtentWriter {
        let (file, name) = (Arc::clone(&self.file), Arc::clone(&self.name));
        ExtentWriter::new(file, name, EXTENT_ALIGNMENT)
    }
}

impl Containers {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        store_id: u64,
        shard: u16,
        next_number: u64,
        index_cache_bytes: usize,
    ) -> Containers {
        let next_number = AtomicU64::new(next_number);
        Containers {
            disk,
            store_id,
            shard,
            next_number,
            pages: Arc::new(PageCache::new(index_cache_bytes)),
            open: Mutex::default(),
        }
    }

    /// Number of the next container.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.load(Ordering::Relaxed)
    }

    /// Creates a container file; nobody else knows of it until [`Containers::adopt`].
    pub(crate) fn create(&self) -> Result<NewContainer, StorageError> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let name: Arc<str> = Name::new(Kind::Container, self.shard, number)
            .to_string()
            .into();
        let file = self.disk.open(&name, OpenMode::CreateNew)?;
        let header = header(self.store_id, self.shard, number);
        if let Err(error) = file.write_at(&header, 0) {
            self.remove_file(&name);
            return Err(error.into());
        }
        Ok(NewContainer { number, name, file })
    }

    /// Takes over a container, written and synced, with its extents, which stay until they are retired.
    pub(crate) fn adopt<'m>(
        &self,
        new: NewContainer,
        metas: impl IntoIterator<Item = &'m SegmentMeta>,
    ) {
        let NewContainer { number, name, file } = new;
        let mut extents = BTreeMap::new();
        let mut length = EXTENT_ALIGNMENT;
        for meta in metas {
            extents.insert(meta.offset, Extent::new(&file, meta.length));
            length = length.max(meta.offset.saturating_add(meta.length));
        }
        let container = Container {
            name,
            file,
            extents,
            length,
            is_punched: true,
        };
        self.open.lock().containers.insert(number, container);
    }

    /// Removes a container that came to nothing.
    pub(crate) fn discard(&self, new: &NewContainer) {
        self.remove_file(&new.name);
    }

    /// Leaves a container that came to nothing to maintenance.
    pub(crate) fn doom(&self, new: NewContainer) {
        self.open.lock().doomed.push(new.name);
    }

    /// Opens a segment, and keeps its extent until it is retired.
    pub(crate) fn open_segment(&self, meta: &SegmentMeta) -> Result<Arc<Segment>, StorageError> {
        let (handle, name) = self.lease(meta)?;
        let segment = Segment::open(handle, name, meta.clone())?;
        Ok(Arc::new(segment.cached(Arc::clone(&self.pages))))
    }

    /// A way to the bytes of a segment; while it is held, they stay.
    pub(crate) fn lease(
        &self,
        meta: &SegmentMeta,
    ) -> Result<(Arc<dyn DiskFile>, Arc<str>), StorageError> {
        let mut open = self.open.lock();
        let Open {
            containers,
            suspects,
            ..
        } = &mut *open;
        let container = match containers.entry(meta.container) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                // What the last life of the store gave back is not known, so it is given back again.
                suspects.insert(meta.container);
                entry.insert(self.open_container(meta.container)?)
            }
        };
        let file = &container.file;
        let extent = container.extents.entry(meta.offset);
        let extent = extent.or_insert_with(|| Extent::new(file, meta.length));
        Ok((extent.lease(), Arc::clone(&container.name)))
    }

    fn open_container(&self, number: u64) -> Result<Container, StorageError> {
        let name: Arc<str> = Name::new(Kind::Container, self.shard, number)
            .to_string()
            .into();
        let file = self.disk.open(&name, OpenMode::Existing)?;
        check_header(&*file, &name, self.store_id, self.shard, number)?;
        let length = file.length()?;
        Ok(Container {
            name,
            file,
            extents: BTreeMap::new(),
            length,
            is_punched: false,
        })
    }

    /// Says that no version needs the segment any more, by an edit in frame `sequence`.
    pub(crate) fn retire(&self, meta: &SegmentMeta, sequence: u64) {
        let mut open = self.open.lock();
        let container = open.containers.get_mut(&meta.container);
        let extent = container.and_then(|container| container.extents.get_mut(&meta.offset));
        if let Some(extent) = extent {
            extent.retired_at = Some(sequence);
            open.suspects.insert(meta.container);
        }
    }

    /// Whether there is something to give back once frames up to `durable` count.
    pub(crate) fn has_garbage(&self, durable: u64) -> bool {
        let open = self.open.lock();
        !open.doomed.is_empty() || open.next_suspect(durable).is_some()
    }

    /// Bytes that could be given back if the frames up to `last` counted, and not only those up to `durable`.
    pub(crate) fn waiting_bytes(&self, durable: u64, last: u64) -> u64 {
        let open = self.open.lock();
        let suspects = open.suspects.iter();
        let suspects = suspects.filter_map(|number| open.containers.get(number));
        let extents = suspects.flat_map(|container| container.extents.values());
        let waiting = extents.filter(|extent| !extent.is_free(durable) && extent.is_free(last));
        waiting.map(|extent| extent.length).sum()
    }

    /// Gives back the space of one container's dead extents, or one container.
    pub(crate) fn reclaim(&self, durable: u64) -> Result<(), StorageError> {
        let (number, file, gaps) = {
            let mut open = self.open.lock();
            let Some(number) = open.next_suspect(durable) else {
                drop(open);
                return self.remove_doomed();
            };
            let Some((file, gaps)) = open.free(number, durable) else {
                drop(open);
                return self.remove_doomed();
            };
            (number, file, gaps)
        };
        for (offset, length) in gaps {
            if let Err(error) = file.punch(offset, length) {
                self.open.lock().is_not_punched(number);
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn remove_doomed(&self) -> Result<(), StorageError> {
        let next = self.open.lock().doomed.pop();
        let Some(name) = next else { return Ok(()) };
        match self.disk.remove(&name) {
            Err(error) if error.kind != DiskErrorKind::NotFound => {
                self.open.lock().doomed.push(name);
                Err(error.into())
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A container of which less than half is live, of those that are large enough to matter: the first behind
    /// `after`, so that one that cannot be copied out does not keep the others from it.
    pub(crate) fn mostly_dead(&self, bytes_min: u64, after: Option<u64>) -> Option<u64> {
        let open = self.open.lock();
        let is_worth_it = |number: &&u64| {
            open.containers
                .get(number)
                .is_some_and(|container| container.length >= bytes_min && container.is_sparse())
        };
        let begin = after.map_or(0, |after| after.saturating_add(1));
        let in_turn = open.sparse.range(begin..).chain(open.sparse.range(..begin));
        in_turn
            .into_iter()
            .find(|number| is_worth_it(number))
            .copied()
    }

    /// Says that copying the container out would not help.
    pub(crate) fn leave_sparse(&self, number: u64) {
        self.open.lock().sparse.remove(&number);
    }

    /// Bytes of live extents and of all container files.
    pub(crate) fn sizes(&self) -> (u64, u64) {
        let open = self.open.lock();
        let (mut live, mut total) = (0u64, 0u64);
        for container in open.containers.values() {
            live = live.saturating_add(container.live().map(|extent| extent.length).sum());
            total = total.saturating_add(container.length);
        }
        (live, total)
    }

    /// Names of the files known.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.open
            .lock()
            .containers
            .values()
            .map(|container| Arc::clone(&container.name))
            .collect()
    }

    /// Checks the header of every container.
    pub(crate) fn verify(&self, fault: &mut dyn FnMut(&str, StorageError)) {
        for (number, container) in &self.open.lock().containers {
            let checked = check_header(
                &*container.file,
                &container.name,
                self.store_id,
                self.shard,
                *number,
            );
            if let Err(error) = checked {
                fault(&container.name, error);
            }
        }
    }

    fn remove_file(&self, name: &str) {
        // Recovery removes what stays: nothing refers to it.
        if let Err(error) = self.disk.remove(name) {
            tracing::debug!(file = name, %error, "leftover stays until the next open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use crate::log_store::samples;

    fn meta(container: u64, number: u64) -> SegmentMeta {
        SegmentMeta {
            container,
            offset: number * EXTENT_ALIGNMENT,
            length: EXTENT_ALIGNMENT,
            ..samples::segment_meta()
        }
    }

    /// Maintenance comes between the moment a job's container is known and the one its segments are opened: the
    /// first is open, and even given up again, while the second is not looked at yet.
    #[test]
    fn extents_of_a_new_container_stay_before_they_are_opened() {
        let disk = SimulatedDisk::new();
        let containers = Containers::new(Arc::new(disk.clone()), 11, 1, 5, 1 << 20);
        let new = containers.create().unwrap();
        let name = new.name.to_string();
        let bytes = vec![7; 4096];
        for number in [1, 2] {
            new.file.write_at(&bytes, number * 4096).unwrap();
        }
        let metas = [meta(new.number, 1), meta(new.number, 2)];
        containers.adopt(new, &metas);
        drop(containers.lease(&metas[0]).unwrap());
        containers.retire(&metas[0], 0);
        while containers.has_garbage(1) {
            containers.reclaim(1).unwrap();
        }
        let (file, _) = containers.lease(&metas[1]).unwrap();
        let mut read = vec![0; 4096];
        file.read_at(&mut read, metas[1].offset).unwrap();
        assert_eq!(read, bytes);
        assert!(disk.files().contains_key(&name));
    }
}
