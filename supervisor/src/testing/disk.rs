//! A disk whose every call goes into the trace.
//!
//! Invariant: it changes nothing; what is asked, of which file, which bytes, and how it ended is part of the run's
//! hash, with a digest of what was written.

use std::sync::Arc;

use actors::simulation::Trace;
use actors::simulation::trace::digest;
use storage::disk::{Disk, DiskError, DiskFile, DiskLock, OpenMode};

/// A disk that is watched.
#[derive(Debug)]
pub struct TracedDisk {
    inner: Arc<dyn Disk>,
    trace: Trace,
}

impl TracedDisk {
    /// `inner`, watched.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, trace: Trace) -> TracedDisk {
        TracedDisk { inner, trace }
    }
}

/// Notes the call and hands its result on.
fn note<T>(
    trace: &Trace,
    call: &'static str,
    file: &str,
    figures: &[u64],
    result: Result<T, DiskError>,
) -> Result<T, DiskError> {
    trace.event(call, file, figures);
    if let Err(error) = &result {
        trace.event("disk error", &error.to_string(), &[]);
    }
    result
}

impl Disk for TracedDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let call = match mode {
            OpenMode::Existing => "open",
            OpenMode::ReadOnly => "open read-only",
            OpenMode::CreateNew => "create",
        };
        let inner = note(&self.trace, call, name, &[], self.inner.open(name, mode))?;
        Ok(Arc::new(TracedFile {
            inner,
            name: name.into(),
            trace: self.trace.clone(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let result = self.inner.rename(from, to);
        note(
            &self.trace,
            "rename",
            &format!("{from} to {to}"),
            &[],
            result,
        )
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        note(&self.trace, "remove", name, &[], self.inner.remove(name))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        note(&self.trace, "list", ".", &[], self.inner.list())
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        let result = self.inner.sync_directory();
        note(&self.trace, "sync directory", ".", &[], result)
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        note(&self.trace, "lock", name, &[], self.inner.lock(name))
    }
}

#[derive(Debug)]
struct TracedFile {
    inner: Arc<dyn DiskFile>,
    name: Arc<str>,
    trace: Trace,
}

impl TracedFile {
    fn note<T>(
        &self,
        call: &'static str,
        figures: &[u64],
        result: Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        note(&self.trace, call, &self.name, figures, result)
    }
}

impl DiskFile for TracedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let result = self.inner.read_at(buffer, offset);
        self.note("read", &[offset, buffer.len() as u64], result)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let result = self.inner.read_at_once(buffer, offset);
        self.note("read at once", &[offset, buffer.len() as u64], result)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        let figures = [offset, data.len() as u64, digest(data)];
        self.note("write", &figures, self.inner.write_at(data, offset))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.note("sync", &[], self.inner.sync())
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.note("length", &[], self.inner.length())
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.note("truncate", &[length], self.inner.truncate(length))
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let result = self.inner.zero(offset, length);
        self.note("zero", &[offset, length], result)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let result = self.inner.punch(offset, length);
        self.note("punch", &[offset, length], result)
    }
}
