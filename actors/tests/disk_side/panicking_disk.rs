//! A disk whose calls panic when told: what a bug inside the store would look like.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use storage::disk::{Disk, DiskError, DiskFile, DiskLock, OpenMode, SimulatedDisk};

/// How many calls pass before one panics; negative for never.
#[derive(Clone, Debug)]
pub(crate) struct Fuse(Arc<AtomicI64>);

impl Fuse {
    pub(crate) fn set(&self, calls: i64) {
        self.0.store(calls, Ordering::SeqCst);
    }

    fn burn(&self) {
        let left = self.0.fetch_sub(1, Ordering::SeqCst);
        assert!(left != 0, "asked for by the test");
    }
}

#[derive(Debug)]
pub(crate) struct PanickingDisk {
    disk: SimulatedDisk,
    pub(crate) fuse: Fuse,
}

impl PanickingDisk {
    pub(crate) fn new(disk: SimulatedDisk) -> PanickingDisk {
        let fuse = Fuse(Arc::new(AtomicI64::new(-1)));
        PanickingDisk { disk, fuse }
    }
}

#[derive(Debug)]
struct PanickingFile {
    file: Arc<dyn DiskFile>,
    fuse: Fuse,
}

impl Disk for PanickingDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.fuse.burn();
        let file = self.disk.open(name, mode)?;
        let fuse = self.fuse.clone();
        Ok(Arc::new(PanickingFile { file, fuse }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.fuse.burn();
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.fuse.burn();
        self.disk.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.fuse.burn();
        self.disk.list()
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.fuse.burn();
        self.disk.sync_directory()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        self.disk.lock(name)
    }
}

impl DiskFile for PanickingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.read_at(buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.read_at_once(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.write_at(data, offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.sync()
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.file.length()
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.file.truncate(length)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.zero(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.fuse.burn();
        self.file.punch(offset, length)
    }
}
