//! Container files: segments of many vbuckets lie in one file as extents, so that a seal costs one sync.
//!
//! Invariant: an extent's bytes stay as long as a version, a snapshot or a running job reads them, and as long as
//! a crash could bring back a version that needs them; then its space is punched, and a file without a live extent
//! is removed (rule R13). Which extents live is told by the manifest and the log, never by the container itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile, OpenMode};
use crate::error::StorageError;
use crate::log_store::names::{Kind, Name};
use crate::log_store::segment::{ExtentWriter, Segment, SegmentMeta};

/// Where the first extent begins, and what extents are aligned to: a disk block, so that all of it can be punched.
pub(crate) const EXTENT_ALIGNMENT: u64 = 4096;
const MAGIC: [u8; 8] = *b"PIGGCON1";

/// The containers of one shard.
#[derive(Debug)]
pub(crate) struct Containers {
    disk: Arc<dyn Disk>,
    store_id: u64,
    shard: u16,
    next_number: AtomicU64,
    open: Mutex<BTreeMap<u64, Container>>,
}

#[derive(Debug)]
struct Container {
    name: Arc<str>,
    file: Arc<dyn DiskFile>,
    /// By offset.
    extents: BTreeMap<u64, Extent>,
    /// Space given back, or never used by a live extent.
    punched: bool,
}

#[derive(Debug)]
struct Extent {
    length: u64,
    handle: Arc<ExtentHandle>,
    /// The frame that took it out of its version; it may go once that frame is durable.
    retired_at: Option<u64>,
}

/// One reader's way to an extent; as long as somebody holds it, the extent stays.
#[derive(Debug)]
struct ExtentHandle(Arc<dyn DiskFile>);

impl DiskFile for ExtentHandle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.0.write_at(data, offset)
    }
    fn sync(&self) -> Result<(), DiskError> {
        self.0.sync()
    }
    fn length(&self) -> Result<u64, DiskError> {
        self.0.length()
    }
    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.0.truncate(length)
    }
    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.zero(offset, length)
    }
    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.0.punch(offset, length)
    }
}

/// A container being written by a job.
#[derive(Debug)]
pub(crate) struct NewContainer {
    pub(crate) number: u64,
    pub(crate) name: Arc<str>,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl NewContainer {
    /// A writer at the container's first extent; the container itself goes into `keeper`.
    pub(crate) fn writer(self, keeper: &mut Option<NewContainer>) -> ExtentWriter {
        let (file, name) = (Arc::clone(&self.file), Arc::clone(&self.name));
        *keeper = Some(self);
        ExtentWriter::new(file, name, EXTENT_ALIGNMENT)
    }
}

impl Containers {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        store_id: u64,
        shard: u16,
        next_number: u64,
    ) -> Containers {
        let next_number = AtomicU64::new(next_number);
        Containers {
            disk,
            store_id,
            shard,
            next_number,
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
        let extents = metas
            .into_iter()
            .map(|meta| (meta.offset, Extent::new(&file, meta.length)));
        let extents = extents.collect();
        let container = Container {
            name,
            file,
            extents,
            punched: true,
        };
        self.open.lock().insert(number, container);
    }

    /// Removes a container that came to nothing.
    pub(crate) fn discard(&self, new: &NewContainer) {
        self.remove_file(&new.name);
    }

    /// Opens a segment, and keeps its extent until it is retired.
    pub(crate) fn open_segment(&self, meta: &SegmentMeta) -> Result<Arc<Segment>, StorageError> {
        let (handle, name) = self.lease(meta)?;
        Ok(Arc::new(Segment::open(handle, name, meta.clone())?))
    }

    /// A way to the bytes of a segment; while it is held, they stay.
    pub(crate) fn lease(
        &self,
        meta: &SegmentMeta,
    ) -> Result<(Arc<dyn DiskFile>, Arc<str>), StorageError> {
        let mut open = self.open.lock();
        if !open.contains_key(&meta.container) {
            let container = self.open_container(meta.container)?;
            open.insert(meta.container, container);
        }
        let Some(container) = open.get_mut(&meta.container) else {
            return Err(StorageError::Closed);
        };
        let file = &container.file;
        let extent = container.extents.entry(meta.offset);
        let extent = extent.or_insert_with(|| Extent::new(file, meta.length));
        let handle: Arc<dyn DiskFile> = Arc::<ExtentHandle>::clone(&extent.handle);
        Ok((handle, Arc::clone(&container.name)))
    }

    fn open_container(&self, number: u64) -> Result<Container, StorageError> {
        let name: Arc<str> = Name::new(Kind::Container, self.shard, number)
            .to_string()
            .into();
        let file = self.disk.open(&name, OpenMode::Existing)?;
        check_header(&*file, &name, self.store_id, self.shard, number)?;
        Ok(Container {
            name,
            file,
            extents: BTreeMap::new(),
            punched: false,
        })
    }

    /// Says that no version needs the segment any more, by an edit in frame `sequence`.
    pub(crate) fn retire(&self, meta: &SegmentMeta, sequence: u64) {
        let mut open = self.open.lock();
        let extent = open
            .get_mut(&meta.container)
            .and_then(|c| c.extents.get_mut(&meta.offset));
        if let Some(extent) = extent {
            extent.retired_at = Some(sequence);
        }
    }

    /// Whether there is something to give back once frames up to `durable` count.
    pub(crate) fn has_garbage(&self, durable: u64) -> bool {
        self.open.lock().values().any(|container| {
            !container.punched
                || container.extents.is_empty()
                || container
                    .extents
                    .values()
                    .any(|extent| extent.is_free(durable))
        })
    }

    /// Gives back the space of one container's dead extents, or the container. `true` when something was done.
    pub(crate) fn reclaim(&self, durable: u64) -> Result<bool, StorageError> {
        let mut open = self.open.lock();
        let found = open.iter_mut().find(|(_, container)| {
            !container.punched
                || container.extents.is_empty()
                || container
                    .extents
                    .values()
                    .any(|extent| extent.is_free(durable))
        });
        let Some((&number, container)) = found else {
            return Ok(false);
        };
        container
            .extents
            .retain(|_, extent| !extent.is_free(durable));
        if container.extents.is_empty() {
            self.disk.remove(&container.name).or_else(ignore_missing)?;
            open.remove(&number);
            return Ok(true);
        }
        container.punched = true;
        let mut end = EXTENT_ALIGNMENT;
        for (offset, extent) in &container.extents {
            if *offset > end {
                container.file.punch(end, offset.saturating_sub(end))?;
            }
            end = offset
                .saturating_add(extent.length)
                .next_multiple_of(EXTENT_ALIGNMENT);
        }
        let length = container.file.length()?;
        if length > end {
            container.file.punch(end, length.saturating_sub(end))?;
        }
        Ok(true)
    }

    /// A container of which less than half is live, of those that are large enough to matter.
    pub(crate) fn mostly_dead(&self, bytes_min: u64) -> Option<u64> {
        let open = self.open.lock();
        let found = open.iter().find(|(_, container)| {
            // Counted in whole blocks, as a copy would need them; else copying would never come to an end.
            let blocks = container
                .live()
                .map(|e| e.length.next_multiple_of(EXTENT_ALIGNMENT));
            let live: u64 = blocks.sum();
            let length = container.file.length().unwrap_or(0);
            let used = length.saturating_sub(EXTENT_ALIGNMENT);
            live > 0 && length >= bytes_min && live.saturating_mul(2) < used
        });
        found.map(|(number, _)| *number)
    }

    /// Bytes of live extents and of all container files.
    pub(crate) fn sizes(&self) -> Result<(u64, u64), StorageError> {
        let open = self.open.lock();
        let (mut live, mut total) = (0u64, 0u64);
        for container in open.values() {
            live = live.saturating_add(container.live().map(|extent| extent.length).sum());
            total = total.saturating_add(container.file.length()?);
        }
        Ok((live, total))
    }

    /// Names of the files known.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.open
            .lock()
            .values()
            .map(|container| Arc::clone(&container.name))
            .collect()
    }

    /// Checks the header of every container.
    pub(crate) fn verify(&self, fault: &mut dyn FnMut(&str, u64, String)) {
        for (number, container) in self.open.lock().iter() {
            let checked = check_header(
                &*container.file,
                &container.name,
                self.store_id,
                self.shard,
                *number,
            );
            if let Err(error) = checked {
                fault(&container.name, 0, error.to_string());
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

impl Container {
    fn live(&self) -> impl Iterator<Item = &Extent> {
        self.extents
            .values()
            .filter(|extent| extent.retired_at.is_none())
    }
}

impl Extent {
    fn new(file: &Arc<dyn DiskFile>, length: u64) -> Extent {
        Extent {
            length,
            handle: Arc::new(ExtentHandle(Arc::clone(file))),
            retired_at: None,
        }
    }

    fn is_free(&self, durable: u64) -> bool {
        self.retired_at.is_some_and(|at| at <= durable) && Arc::strong_count(&self.handle) == 1
    }
}

fn ignore_missing(error: DiskError) -> Result<(), DiskError> {
    if error.kind == DiskErrorKind::NotFound {
        Ok(())
    } else {
        Err(error)
    }
}

pub(crate) fn header(store_id: u64, shard: u16, number: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&store_id.to_le_bytes());
    bytes.extend_from_slice(&u64::from(shard).to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&u64::from(crc).to_le_bytes());
    bytes
}

fn check_header(
    file: &dyn DiskFile,
    name: &str,
    store_id: u64,
    shard: u16,
    number: u64,
) -> Result<(), StorageError> {
    let expected = header(store_id, shard, number);
    let mut bytes = vec![0u8; expected.len()];
    match file.read_at(&mut bytes, 0) {
        // Too short for a header: not the one expected.
        Err(error) if error.kind == DiskErrorKind::EndOfFile => {}
        read => read?,
    }
    if bytes == expected {
        return Ok(());
    }
    Err(StorageError::corruption(
        name,
        0,
        "the container's header is not the one expected",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    fn check(bytes: &[u8], number: u64) -> Result<(), StorageError> {
        let disk = SimulatedDisk::from_files([("c".to_owned(), bytes.to_vec())].into());
        let file = disk.open("c", OpenMode::Existing).unwrap();
        check_header(&*file, "c", 11, 1, number)
    }

    #[test]
    fn a_header_that_is_damaged_cut_or_of_another_container_is_corruption() {
        let bytes = header(11, 1, 5);
        assert_eq!(check(&bytes, 5), Ok(()));
        let is_corrupt = |bytes: &[u8], number| {
            let checked = check(bytes, number);
            matches!(checked, Err(StorageError::Corruption { offset: 0, .. }))
        };
        assert!(is_corrupt(&bytes, 6));
        assert!(is_corrupt(&header(12, 1, 5), 5) && is_corrupt(&header(11, 0, 5), 5));
        for end in 0..bytes.len() {
            assert!(is_corrupt(&bytes[..end], 5), "cut off at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(is_corrupt(&damaged, 5), "bit {bit}");
        }
    }
}
