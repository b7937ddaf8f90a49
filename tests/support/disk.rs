//! A disk around another one that a test can watch, hold up, and make panic, by the name of the thread that calls.
//!
//! Invariant: what is let through is done by the disk inside, unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use piggin::storage::disk::{Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, OpenMode, Verb};

/// The disk; a clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct TestDisk {
    inner: Arc<dyn Disk>,
    control: Arc<Control>,
}

#[derive(Debug, Default)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    locks: usize,
    locks_ever: u64,
    calls: BTreeMap<String, u64>,
    /// Calls of this thread to come that panic.
    panics: Option<(String, u32)>,
    /// Writing calls of this thread to come that fail.
    failures: Option<(String, u32, DiskErrorKind)>,
    /// Syncs of threads so named wait.
    held: BTreeSet<String>,
    waiting: usize,
}

impl TestDisk {
    pub(crate) fn new(inner: impl Disk) -> TestDisk {
        TestDisk {
            inner: Arc::new(inner),
            control: Arc::default(),
        }
    }

    /// The next calls of the thread of that name panic.
    pub(crate) fn panic_on(&self, thread: &str, calls: u32) {
        self.control.state.lock().panics = Some((thread.to_owned(), calls));
    }

    /// The next calls of the thread of that name that change anything fail.
    pub(crate) fn fail_on(&self, thread: &str, calls: u32, kind: DiskErrorKind) {
        self.control.state.lock().failures = Some((thread.to_owned(), calls, kind));
    }

    /// From now on syncs of the thread of that name wait.
    pub(crate) fn hold_syncs_of(&self, thread: &str) {
        self.control.state.lock().held.insert(thread.to_owned());
    }

    /// Lets syncs go on, of whomever.
    pub(crate) fn let_go(&self) {
        self.control.state.lock().held.clear();
        self.control.changed.notify_all();
    }

    /// Waits until somebody waits with a sync.
    pub(crate) fn wait_for_held_sync(&self) {
        self.wait_for_held_syncs(1);
    }

    /// Waits until so many wait with a sync.
    pub(crate) fn wait_for_held_syncs(&self, count: usize) {
        self.wait(|state| state.waiting >= count);
    }

    /// Waits until nobody has the directory.
    pub(crate) fn wait_until_free(&self) {
        self.wait(|state| state.locks == 0);
    }

    /// How often the thread of that name called.
    pub(crate) fn calls_of(&self, thread: &str) -> u64 {
        let state = self.control.state.lock();
        state.calls.get(thread).copied().unwrap_or(0)
    }

    /// How often somebody got the directory.
    pub(crate) fn locks_ever(&self) -> u64 {
        self.control.state.lock().locks_ever
    }

    /// Waits until somebody got the directory more often than so.
    pub(crate) fn wait_for_locks(&self, more_than: u64) {
        self.wait(|state| state.locks_ever > more_than);
    }

    /// Whether all panics and failures asked for have struck.
    pub(crate) fn has_struck(&self) -> bool {
        let state = self.control.state.lock();
        state.panics.is_none() && state.failures.is_none()
    }

    fn wait(&self, mut is_so: impl FnMut(&State) -> bool) {
        let mut state = self.control.state.lock();
        while !is_so(&state) {
            self.control.changed.wait(&mut state);
        }
    }
}

impl Control {
    fn called(&self, verb: Verb, file: &str) -> Result<(), DiskError> {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        let mut state = self.state.lock();
        let calls = state.calls.entry(name.to_owned()).or_default();
        *calls += 1;
        let is_struck = take(&mut state.panics, |(who, left)| (who == name, left));
        let changes = !matches!(verb, Verb::Open | Verb::Read | Verb::Length | Verb::List);
        let kind = state.failures.as_ref().map(|(_, _, kind)| kind.clone());
        let fails = !is_struck
            && take(&mut state.failures, |(who, left, _)| {
                (who == name && changes, left)
            });
        self.changed.notify_all();
        if !is_struck && verb == Verb::Sync {
            state.waiting += 1;
            self.changed.notify_all();
            while state.held.contains(name) {
                self.changed.wait(&mut state);
            }
            state.waiting -= 1;
        }
        drop(state);
        assert!(!is_struck, "the disk panicked at {verb:?} of {file}");
        match kind.filter(|_| fails) {
            None => Ok(()),
            Some(kind) => Err(DiskError {
                verb,
                file: file.to_owned(),
                kind,
            }),
        }
    }
}

/// Counts one call down, if it is meant; gone with the last.
fn take<T>(armed: &mut Option<T>, look: impl FnOnce(&mut T) -> (bool, &mut u32)) -> bool {
    let Some(one) = armed else { return false };
    let (is_meant, left) = look(one);
    if !is_meant {
        return false;
    }
    *left -= 1;
    if *left == 0 {
        *armed = None;
    }
    true
}

impl Disk for TestDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.control.called(Verb::Open, name)?;
        let inner = self.inner.open(name, mode)?;
        let (control, name) = (Arc::clone(&self.control), name.to_owned());
        Ok(Arc::new(TestFile {
            inner,
            control,
            name,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.control.called(Verb::Rename, from)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        self.control.called(Verb::Remove, name)?;
        self.inner.remove(name)
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        self.control.called(Verb::List, ".")?;
        self.inner.list()
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.control.called(Verb::SyncDirectory, ".")?;
        self.inner.sync_directory()
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        let inner = self.inner.lock(name)?;
        let mut state = self.control.state.lock();
        state.locks += 1;
        state.locks_ever += 1;
        drop(state);
        let control = Arc::clone(&self.control);
        Ok(Box::new(TestLock {
            inner: Some(inner),
            control,
        }))
    }
}

#[derive(Debug)]
struct TestLock {
    inner: Option<Box<dyn DiskLock>>,
    control: Arc<Control>,
}

impl DiskLock for TestLock {}

impl Drop for TestLock {
    fn drop(&mut self) {
        self.inner = None;
        self.control.state.lock().locks -= 1;
        self.control.changed.notify_all();
    }
}

#[derive(Debug)]
struct TestFile {
    inner: Arc<dyn DiskFile>,
    control: Arc<Control>,
    name: String,
}

impl DiskFile for TestFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        self.control.called(Verb::Read, &self.name)?;
        self.inner.read_at(buffer, offset)
    }

    /// Nothing is in memory: what a test holds up or fails is the read of a reader.
    fn read_at_once(&self, _: &mut [u8], _: u64) -> Result<(), DiskError> {
        Err(DiskError {
            verb: Verb::Read,
            file: self.name.clone(),
            kind: DiskErrorKind::WouldWait,
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.control.called(Verb::Write, &self.name)?;
        self.inner.write_at(data, offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.control.called(Verb::Sync, &self.name)?;
        self.inner.sync()
    }

    fn length(&self) -> Result<u64, DiskError> {
        self.control.called(Verb::Length, &self.name)?;
        self.inner.length()
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        self.control.called(Verb::Truncate, &self.name)?;
        self.inner.truncate(length)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.control.called(Verb::Zero, &self.name)?;
        self.inner.zero(offset, length)
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.control.called(Verb::Punch, &self.name)?;
        self.inner.punch(offset, length)
    }
}
