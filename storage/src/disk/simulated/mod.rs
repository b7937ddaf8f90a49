//! A disk in memory that fails as disks fail, and shows what a power cut would leave.
//!
//! **What it models.** Every file has a content that is read and a content that is durable; between them lie, in
//! order, the writes, zeros, punches and truncates no sync has covered. A sync of the file makes them durable, and
//! only that: the *name* of a new file is not durable by it. Likewise the directory has names that are seen and
//! names that are durable, and between them the creations, renames and removals no directory sync has covered. An
//! open file outlives its name. A lock goes with its guard. Space is counted in pages of 4 KiB that were written
//! or zeroed, as the file reads now; that of a removed file is free once the directory is synced and its last
//! handle dropped. A name takes no space.
//!
//! **A power cut** ([`SimulatedDisk::crash`]) is a new disk; the old one stays as it was, so one moment can be
//! cut many times. The seed decides. Of the unsynced changes of names the first few remain, in order: a renamed
//! file has its old or its new name, a replaced one its old or its new content. Each file, on its own, keeps none
//! of its unsynced changes, or all, or the first few with the last write or zero torn at any byte, or an
//! arbitrary choice of them by sectors of 512 bytes, and then perhaps the length without the bytes. What was
//! synced remains always. Locks, faults, limits and counts are gone. [`SimulatedDisk::cut_power_at_call`] makes
//! the cut come in the middle of work: from that call on nothing is done and everything answers
//! [`DiskErrorKind::PowerCut`]; only a write (or zero) struck by it was under way, so that a crash keeps none, some
//! or all of it.
//!
//! **What fails.** A call may fail with nothing done; a write may write a part and fail; a full disk writes the
//! whole pages that fit and fails, and heals when the limit is raised; a sync may fail and lose what it should have
//! made durable, which then never becomes durable ([`SyncFailure`]); a bit may flip in what is durable and what is
//! read; reads may fail, also just those of some bytes; the disk may become read-only; a file may vanish. A failed
//! directory sync loses nothing, it only leaves the names as they were.
//!
//! **What it does not model.** A disk that lies about a sync, directory changes that reach the disk out of order,
//! and the loss of synced bytes other than by a flipped bit.
//!
//! Invariant: nothing here is random but by seed, and one lock orders all calls, so a run can be repeated exactly.

mod image;
mod inode;
mod directory;
mod crash;
mod fault;
mod calls;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

pub use self::calls::Call;
use self::calls::{Attempt, Power, Shared, State};
use self::crash::{Fate, Random};
use self::directory::{Directory, Names};
pub use self::fault::{Fault, SyncFailure};
use self::file::{SimulatedFile, SimulatedLock};
use self::image::Image;
use self::inode::Inode;
use super::{
    Disk, DiskError, DiskErrorKind, DiskFile, DiskLock, OpenMode, Verb, refuse_unless_plain,
};

/// The name of the directory itself in errors, faults and traces.
const DIRECTORY: &str = ".";

/// A disk in memory. A clone is the same disk.
#[derive(Clone)]
pub struct SimulatedDisk {
    shared: Arc<Shared>,
}

impl SimulatedDisk {
    /// An empty disk without faults or limits.
    #[must_use]
    pub fn new() -> Self {
        Self::from_files(BTreeMap::new())
    }

    /// A disk that holds these files, all durable.
    #[must_use]
    pub fn from_files(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::from_images(
            files
                .into_iter()
                .map(|(name, bytes)| (name.into(), Image::from_bytes(&bytes))),
        )
    }

    fn from_images(images: impl Iterator<Item = (Arc<str>, Image)>) -> Self {
        let used = Arc::new(AtomicU64::new(0));
        let names: Names = images
            .map(|(name, image)| (name, Inode::new(image, &used)))
            .collect();
        let state = State {
            directory: Directory::of(names),
            ..State::default()
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                used,
            }),
        }
    }

    /// All files as they read now, whatever faults there are.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.shared.state.lock();
        let names = state.directory.current().iter();
        names
            .map(|(name, inode)| (name.to_string(), inode.lock().current().to_vec()))
            .collect()
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.lock().faults.inject(fault);
    }

    /// Takes all faults away; what they did stays done.
    pub fn clear_faults(&self) {
        self.shared.state.lock().faults.clear();
    }

    /// How many faults may still strike: those that strike once and have not, and the lasting ones.
    #[must_use]
    pub fn faults_waiting(&self) -> usize {
        self.shared.state.lock().faults.len()
    }

    /// Makes the n-th call from now fail, the next one being the first, whatever it is; nothing is done by it.
    pub fn fail_call(&self, n: u64, kind: DiskErrorKind) {
        self.inject(Fault::failed_call(kind).nth(n));
    }

    /// Cuts the power at the n-th mutating call from now, the next one being the first. Mutating are all calls
    /// but opening an existing file, reading, asking for a length and listing.
    pub fn cut_power_at_call(&self, n: u64) {
        self.shared.state.lock().power = Power::FailsAfter(n.saturating_sub(1));
    }

    /// Limits the bytes all files may take, or lifts the limit. Less than is used: nothing more fits.
    pub fn set_space_limit(&self, bytes: Option<u64>) {
        self.shared.state.lock().space_limit = bytes;
    }

    /// Answers one of so many reads that may not wait ([`DiskFile::read_at_once`]) as a system does that has the bytes in
    /// memory: a call like any other read. The others, and all of them with 0, as it is at the beginning, are no calls.
    pub fn set_in_memory(&self, one_of: u64) {
        self.shared.state.lock().in_memory_one_of = one_of;
    }

    /// The bytes all files take.
    #[must_use]
    pub fn space_used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// Makes every mutating call answer [`DiskErrorKind::ReadOnly`], or lifts that.
    pub fn set_read_only(&self, read_only: bool) {
        self.shared.state.lock().read_only = read_only;
    }

    /// Flips a bit (0 the lowest) of a byte of a file: in what is read, and in what is durable if it reaches
    /// that far. No call that is counted, and no fault strikes it.
    pub fn flip_bit(&self, file: &str, offset: u64, bit: u8) -> Result<(), DiskError> {
        let state = self.shared.state.lock();
        let failed = |kind| DiskError {
            verb: Verb::Write,
            file: file.to_owned(),
            kind,
        };
        let inode = state
            .directory
            .find(file)
            .ok_or_else(|| failed(DiskErrorKind::NotFound))?;
        if inode.lock().flip(offset, bit) {
            return Ok(());
        }
        Err(failed(DiskErrorKind::EndOfFile))
    }

    /// Removes a file as another program would, durably; handles stay open. The names become durable with it, as
    /// a system may write them at any time. No call that is counted, and no fault strikes it.
    pub fn remove_underneath(&self, file: &str) -> Result<(), DiskError> {
        let mut state = self.shared.state.lock();
        let removed = state.directory.remove(file);
        state.directory.sync();
        if removed {
            return Ok(());
        }
        let kind = DiskErrorKind::NotFound;
        Err(DiskError {
            verb: Verb::Remove,
            file: file.to_owned(),
            kind,
        })
    }

    /// How many calls were made, failed ones included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.state.lock().calls
    }

    /// How many calls of this verb were made.
    #[must_use]
    pub fn calls_of(&self, verb: Verb) -> u64 {
        self.shared
            .state
            .lock()
            .calls_by_verb
            .get(&verb)
            .copied()
            .unwrap_or(0)
    }

    /// How many calls were made that [`SimulatedDisk::cut_power_at_call`] counts.
    #[must_use]
    pub fn mutating_calls(&self) -> u64 {
        self.shared.state.lock().mutating_calls
    }

    /// The calls made since the trace was last cleared, in order.
    #[must_use]
    pub fn trace(&self) -> Vec<Call> {
        self.shared.state.lock().trace.clone()
    }

    /// Forgets the trace; the counts go on.
    pub fn clear_trace(&self) {
        self.shared.state.lock().trace.clear();
    }

    /// The disk a power cut at this moment leaves, one of the many that the seed may choose. Costs what is not
    /// synced, not what the files hold.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimulatedDisk {
        self.after(Fate::Drawn(Random::new(seed)))
    }

    /// The disk of a power cut that leaves only what was synced.
    #[must_use]
    pub fn crash_losing_everything_unsynced(&self) -> SimulatedDisk {
        self.after(Fate::Lost)
    }

    /// The disk of a power cut that leaves everything but what a failed sync lost.
    #[must_use]
    pub fn crash_keeping_everything(&self) -> SimulatedDisk {
        self.after(Fate::Kept)
    }

    fn after(&self, mut fate: Fate) -> SimulatedDisk {
        let state = self.shared.state.lock();
        let kept = fate.names_kept(state.directory.unsynced_changes());
        let names = state.directory.surviving(kept).into_iter();
        Self::from_images(names.map(|(name, inode)| {
            let image = fate.survivor(&inode.lock());
            (name, image)
        }))
    }
}

impl Default for SimulatedDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        formatter
            .debug_struct("SimulatedDisk")
            .field("files", &state.directory.current().keys())
            .field("power", &state.power)
            .field("faults", &state.faults)
            .finish_non_exhaustive()
    }
}

impl Disk for SimulatedDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn DiskFile>, DiskError> {
        let file: Arc<str> = name.into();
        let attempt = Attempt::new(Verb::Open, &file).mutating(mode == OpenMode::CreateNew);
        let mut state = self.shared.begin_named(&attempt)?;
        let found = state.directory.find(name).cloned();
        let inode = match (mode, found) {
            (OpenMode::CreateNew, Some(_)) => return Err(attempt.error(DiskErrorKind::Exists)),
            (OpenMode::CreateNew, None) => self.shared.create(&mut state, &file),
            (_, None) => return Err(attempt.error(DiskErrorKind::NotFound)),
            (OpenMode::Existing, Some(_)) if state.read_only => {
                return Err(attempt.error(DiskErrorKind::ReadOnly));
            }
            (OpenMode::Existing | OpenMode::ReadOnly, Some(inode)) => inode,
        };
        let shared = Arc::clone(&self.shared);
        let writable = mode != OpenMode::ReadOnly;
        Ok(Arc::new(SimulatedFile {
            shared,
            inode,
            name: file,
            writable,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let file: Arc<str> = from.into();
        let attempt = Attempt::new(Verb::Rename, &file).mutating(true);
        let mut state = self.shared.begin_named(&attempt)?;
        refuse_unless_plain(Verb::Rename, to)?;
        attempt.found(state.directory.rename(from, to))
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let file: Arc<str> = name.into();
        let attempt = Attempt::new(Verb::Remove, &file).mutating(true);
        let mut state = self.shared.begin_named(&attempt)?;
        attempt.found(state.directory.remove(name))
    }

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let file: Arc<str> = DIRECTORY.into();
        let state = self.shared.begin(&Attempt::new(Verb::List, &file))?;
        Ok(state
            .directory
            .current()
            .keys()
            .map(ToString::to_string)
            .collect())
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        let file: Arc<str> = DIRECTORY.into();
        let attempt = Attempt::new(Verb::SyncDirectory, &file).mutating(true);
        self.shared.begin(&attempt)?.directory.sync();
        Ok(())
    }

    fn lock(&self, name: &str) -> Result<Box<dyn DiskLock>, DiskError> {
        let file: Arc<str> = name.into();
        let attempt = Attempt::new(Verb::Lock, &file).mutating(true);
        let mut state = self.shared.begin_named(&attempt)?;
        let found = state.directory.find(name).cloned();
        let inode = found.unwrap_or_else(|| self.shared.create(&mut state, &file));
        if std::mem::replace(&mut inode.lock().locked, true) {
            return Err(attempt.error(DiskErrorKind::Locked));
        }
        Ok(Box::new(SimulatedLock { inode }))
    }
}
