//! A damaged bucket made one that serves: each damaged vbucket is set aside by name, what can be read of it is saved, and an
//! empty one takes its place.
//!
//! Invariant: nothing is changed before everything that can be read is saved; a vbucket and the empty one exchange places in
//! one step, so a repair that was cut off is begun anew; without damage, and where it cannot be mended, nothing is changed.
//! The empty vbucket begins a history of its own: whoever followed the damaged one is told to go back to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use actors::environment::Random;
use actors::stream::Filter;
use actors::system::SystemRandom;
use messages::stream::StreamFilter;
use storage::disk::Disk;
use storage::log_store::Fault;
use storage::{
    Advice, Batch, CommitDurability, ItemView, KvStore, LogStore, OpenOptions, Outcome, Salvaged,
    Seqno, StorageError, VbucketId, VbucketIdentity, VbucketState, VbucketStateRecord,
    VbucketStatus, VbucketUuid,
};

use crate::bucket_config::Location;
use crate::changes::Change;
use crate::opening::{self, Opening};

/// Where what can be read of damaged vbuckets goes.
pub trait KeepsSalvage {
    /// Takes a version, or the beginning or end of a collection: of each vbucket by rising seqno, so that of each key the last
    /// one counts. It may not be the newest there was.
    fn keep(&mut self, change: Change) -> io::Result<()>;

    /// That was all. Once it is answered everything is kept, whatever happens next.
    fn finish(&mut self) -> io::Result<()>;
}

/// A vbucket that was damaged, and is empty now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Which.
    pub vbucket: VbucketId,
    /// What was found.
    pub faults: Vec<Fault>,
    /// What was saved, and what is known to be lost.
    pub salvaged: Salvaged,
    /// What it is now: what it was, if that was known.
    pub state: VbucketState,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// The vbuckets that were damaged; none where nothing was wrong.
    pub set_aside: Vec<SetAside>,
    /// Faults in what no vbucket needs, which is gone now.
    pub others: Vec<Fault>,
}

/// Why nothing was mended, or not everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RepairError {
    /// The store cannot be opened: it is in use, is none, or what says what it is is damaged. Nothing was changed.
    #[error("{0}")]
    Store(StorageError),
    /// What says which data is whose, or where the log ends, is damaged: nothing can be told apart, or written. Nothing was
    /// changed.
    #[error(
        "vbucket {vbucket} cannot be repaired: {cause}; nothing was changed; restore the bucket from a backup"
    )]
    BeyondRepair {
        /// The first of them.
        vbucket: VbucketId,
        /// Why.
        cause: StorageError,
    },
    /// What was read cannot be kept. Nothing was changed.
    #[error("what can be read cannot be saved: {what}; nothing was changed")]
    Save {
        /// Why.
        what: String,
    },
    /// The disk failed in the middle. What was read is saved; some vbuckets are empty by now, others as they were.
    #[error("the repair was cut off: {0}; what can be read is saved; run it again")]
    CutOff(StorageError),
    /// Something is damaged behind it.
    #[error(
        "{} at offset {} is still damaged: {}; what can be read is saved; restore the bucket from a backup",
        .0.file, .0.offset, .0.what
    )]
    Left(Fault),
    /// No random numbers.
    #[error("the system gives no random numbers: {0}")]
    Engine(String),
}

impl RepairError {
    /// What the caller does next.
    #[must_use]
    pub fn advice(&self) -> Advice {
        match self {
            RepairError::Store(cause) | RepairError::CutOff(cause) => cause.advice(),
            RepairError::BeyondRepair { .. } | RepairError::Left(_) => Advice::Repair,
            RepairError::Save { .. } | RepairError::Engine(_) => Advice::RetryLater,
        }
    }
}

/// Looks for damage in the bucket at `place`, which nobody has open, and sets aside what is damaged. Blocks.
pub fn repair(
    place: impl Into<Location>,
    keeps: &mut dyn KeepsSalvage,
) -> Result<RepairReport, RepairError> {
    let random = SystemRandom::new().map_err(|error| RepairError::Engine(error.to_string()))?;
    let disk = opening::disk(&place.into(), Opening::Existing).map_err(RepairError::Store)?;
    let store = opened(&disk, &random).map_err(RepairError::Store)?;
    if store.verify().faults.is_empty() {
        return Ok(RepairReport::default());
    }
    drop(store);
    // What a disk fails to do once is no damage.
    let store = opened(&disk, &random).map_err(RepairError::Store)?;
    let (damaged, others) = damage(&store);
    if damaged.is_empty() && others.is_empty() {
        return Ok(RepairReport::default());
    }
    for vbucket in store.vbuckets().iter().map(|status| status.vbucket) {
        let writable = store.check_writable(vbucket);
        writable.map_err(|cause| RepairError::BeyondRepair { vbucket, cause })?;
    }
    let mut set_aside = Vec::new();
    for (vbucket, faults) in damaged {
        let salvaged = salvage(&store, vbucket, keeps)?;
        let identity = salvaged.identity.as_deref();
        let state = empty(&store, identity, VbucketUuid(random.next_u64().max(1)));
        let one = SetAside {
            vbucket,
            faults,
            salvaged,
            state: state.identity.state,
        };
        set_aside.push((one, state));
    }
    keeps.finish().map_err(|error| unsaved(&error))?;
    for (one, state) in &set_aside {
        let renewed = store.renew_vbucket(one.vbucket, state);
        renewed.map_err(RepairError::CutOff)?;
    }
    leave_behind(&store).map_err(RepairError::CutOff)?;
    // Not closed: that would mark a bucket that was killed as one that was shut down.
    drop(store);
    prove(&disk, &random)?;
    Ok(RepairReport {
        set_aside: set_aside.into_iter().map(|(one, _)| one).collect(),
        others,
    })
}

fn opened(disk: &Arc<dyn Disk>, random: &dyn Random) -> Result<LogStore, StorageError> {
    LogStore::open(Arc::clone(disk), OpenOptions::new(random.next_u64()))
}

type Damage = (BTreeMap<VbucketId, Vec<Fault>>, Vec<Fault>);

/// The vbuckets that are damaged, with what was found of them, and what is damaged besides.
fn damage(store: &LogStore) -> Damage {
    let mut damaged: BTreeMap<VbucketId, Vec<Fault>> = BTreeMap::new();
    let mut others = Vec::new();
    for fault in store.verify().faults {
        for vbucket in &fault.vbuckets {
            damaged.entry(*vbucket).or_default().push(fault.clone());
        }
        if fault.vbuckets.is_empty() {
            others.push(fault);
        }
    }
    (damaged, others)
}

fn salvage(
    store: &LogStore,
    vbucket: VbucketId,
    keeps: &mut dyn KeepsSalvage,
) -> Result<Salvaged, RepairError> {
    let mut failed = None;
    let mut keep = |view: ItemView<'_>| {
        if failed.is_some() {
            return;
        }
        let Some(change) = change_of(vbucket, view) else {
            return;
        };
        failed = keeps.keep(change).err();
    };
    let salvaged = store.salvage(vbucket, &mut keep);
    if let Some(error) = failed {
        return Err(unsaved(&error));
    }
    salvaged.map_err(|cause| RepairError::BeyondRepair { vbucket, cause })
}

fn unsaved(error: &io::Error) -> RepairError {
    let what = error.to_string();
    RepairError::Save { what }
}

/// A version as changes tell it. The checksums vouched for its bytes, so all of them can be told.
fn change_of(vbucket: VbucketId, view: ItemView<'_>) -> Option<Change> {
    let item = view.to_item(Bytes::copy_from_slice(view.value)).ok()?;
    let everything = Filter::of(&StreamFilter::All, &[], &BTreeSet::new()).ok()?;
    let event = everything.synchronous(true).event_of(Arc::new(item))?;
    Some(Change { vbucket, event })
}

/// A vbucket that holds nothing: what it was, or what all others are; where they differ, nothing that serves.
fn empty(
    store: &LogStore,
    identity: Option<&VbucketIdentity>,
    uuid: VbucketUuid,
) -> VbucketStateRecord {
    let begun = VbucketStateRecord::new(uuid);
    let mut made = begun.identity.as_ref().clone();
    if let Some(before) = identity {
        made.state = before.state;
        made.topology = before.topology.clone();
    } else {
        let ids = store.vbuckets().into_iter().map(|status| status.vbucket);
        let mut others = ids.filter_map(|id| store.state(id).ok());
        if !others.all(|other| other.identity.state == VbucketState::Active) {
            made.state = VbucketState::Dead;
        }
    }
    VbucketStateRecord {
        identity: Arc::new(made),
        ..begun
    }
}

/// The logs go on in other files, and nothing that is damaged in those there were is needed any more: neither what is only in
/// them, nor their end.
fn leave_behind(store: &LogStore) -> Result<(), StorageError> {
    match store.seal_all(Seqno::ZERO) {
        Outcome::Complete(()) => {}
        Outcome::Yielded | Outcome::Aborted(_) => return Err(StorageError::Gone),
        Outcome::Failed(error) => return Err(error),
    }
    let mut shards = BTreeSet::new();
    for VbucketStatus { vbucket, position } in store.vbuckets() {
        if shards.insert(store.shard_of(vbucket)) {
            let mut batch = Batch::of_documents(vbucket, &position?, Vec::new(), 0);
            batch.watermarks = store.state(vbucket)?.watermarks;
            for answer in store.commit(&[batch], CommitDurability::Synced) {
                answer?;
            }
        }
    }
    store.checkpoint()
}

/// Nothing is damaged any more.
fn prove(disk: &Arc<dyn Disk>, random: &dyn Random) -> Result<(), RepairError> {
    let store = opened(disk, random).map_err(RepairError::CutOff)?;
    match store.verify().faults.into_iter().next() {
        None => Ok(()),
        Some(fault) => Err(RepairError::Left(fault)),
    }
}
