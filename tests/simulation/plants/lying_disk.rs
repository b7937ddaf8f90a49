//! A disk that says that a log is synced when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use piggin::storage::disk::{Disk, DiskError, DiskFile, DiskLock, OpenMode};

#[derive(Debug)]
pub(super) struct LyingDisk {
    inner: Arc<dyn Disk>,
    /// Else it syncs when it is written to next.
    never_syncs: bool,
}

impl LyingDisk {
    pub(super) fn new(inner: Arc<dyn Disk>, never_syncs: bool) -> LyingDisk {
        LyingDisk { inner, never_syncs }
    }
}

impl Disk for LyingDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let inner = self.inner.open(name, mode)?;
        if !name.starts_with("log") {
            return Ok(inner);
        }
        Ok(Arc::new(LyingFile {
            inner,
            never_syncs: self.never_syncs,
            owes: AtomicBool::new(false),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.inner.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.inner.list()
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.inner.sync_directory()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        self.inner.lock(name)
    }
}

#[derive(Debug)]
struct LyingFile {
    inner: Arc<dyn DiskFile>,
    never_syncs: bool,
    owes: AtomicBool,
}

impl DiskFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.inner.read_at(buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.inner.read_at_once(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        if self.owes.swap(false, Ordering::Relaxed) {
            self.inner.sync()?;
        }
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.owes.store(!self.never_syncs, Ordering::Relaxed);
        Ok(())
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.inner.length()
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.inner.truncate(length)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.inner.zero(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.inner.punch(offset, length)
    }
}
