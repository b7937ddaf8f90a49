//! A damaged bucket made one that serves: each damaged vbucket is set aside by name, what can be read of it is saved, and an
//! empty one takes its place.
//!
//! Invariant: only what is proven to be damaged is given up. Nothing is changed before everything that can be read is saved,
//! and what will be emptied; a vbucket and the empty one exchange places in one step, so a repair that was cut off is begun
//! anew; without damage, and where it cannot be mended, nothing is changed. The empty vbucket begins a history of its own, and
//! knows nothing of the time before: whoever followed the damaged one is told to go back to nothing.

mod error;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use actors::environment::{Clock, Random};
use actors::stream::Filter;
use actors::system::{SystemClock, SystemRandom};
use messages::stream::StreamFilter;
use storage::disk::Disk;
use storage::log_store::{Fault, FaultKind};
use storage::{
    Batch, CommitDurability, ItemView, KvStore, LogStore, OpenOptions, Outcome, Salvaged, Seqno,
    StorageError, VbucketId, VbucketIdentity, VbucketState, VbucketStateRecord, VbucketStatus,
    VbucketUuid, Watermarks,
};

use crate::bucket_config::Location;
use crate::changes::Change;
use crate::opening::{self, Opening};
pub use error::RepairError;

/// Where what can be read of damaged vbuckets goes.
pub trait KeepsSalvage {
    /// Takes a version, or the beginning or end of a collection: of each vbucket by rising seqno, so that of each key the last
    /// one counts. It may not be the newest there was.
    fn keep(&mut self, change: Change) -> io::Result<()>;

    /// That was all, and this is what will be set aside. Once it is answered all of it is kept, whatever happens next.
    fn finish(&mut self, report: &RepairReport) -> io::Result<()>;
}

/// How far a repair may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Files that are missing are lost: what was in them is given up. Without it a repair is refused where one is missing,
    /// since it may lie elsewhere, whole.
    pub missing_is_lost: bool,
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

/// Looks for damage in the bucket at `place`, which nobody has open, and sets aside what is damaged. Blocks.
pub fn repair(
    place: impl Into<Location>,
    options: RepairOptions,
    keeps: &mut dyn KeepsSalvage,
) -> Result<RepairReport, RepairError> {
    let random = SystemRandom::new().map_err(|error| RepairError::Engine(error.to_string()))?;
    let disk = opening::disk(&place.into(), Opening::Existing).map_err(RepairError::Store)?;
    let store = opened(&disk, &random).map_err(RepairError::Store)?;
    if store.verify().faults.is_empty() {
        return Ok(RepairReport::default());
    }
    drop(store);
    // What is damaged is so when it is looked at again.
    let store = opened(&disk, &random).map_err(RepairError::Store)?;
    check_manifests(&store)?;
    let (damaged, others) = damage(&store, options)?;
    if damaged.is_empty() && others.is_empty() {
        return Ok(RepairReport::default());
    }
    for vbucket in store.vbuckets().iter().map(|status| status.vbucket) {
        let writable = store.check_writable(vbucket);
        writable.map_err(|cause| RepairError::BeyondRepair { vbucket, cause })?;
    }
    let (report, states) = save(&store, damaged, others, &random, keeps)?;
    keeps.finish(&report).map_err(|error| unsaved(&error))?;
    let mended = exchange(&store, &states);
    // Not closed: that would mark a bucket that was killed as one that was shut down.
    drop(store);
    let left = mended.and_then(|()| left_behind(&disk, &random));
    match left {
        Ok(None) => Ok(report),
        Ok(Some(fault)) => Err(RepairError::of_left(fault, report)),
        Err(cause) => Err(RepairError::CutOff {
            cause,
            report: Box::new(report),
        }),
    }
}

/// The vbuckets that take the places of those that are damaged.
type Empties = Vec<(VbucketId, VbucketStateRecord)>;

/// Saves what can be read of the damaged vbuckets.
fn save(
    store: &LogStore,
    damaged: BTreeMap<VbucketId, Vec<Fault>>,
    others: Vec<Fault>,
    random: &dyn Random,
    keeps: &mut dyn KeepsSalvage,
) -> Result<(RepairReport, Empties), RepairError> {
    let mut set_aside = Vec::new();
    for (vbucket, faults) in damaged {
        let salvaged = salvage(store, vbucket, keeps)?;
        let identity = salvaged.identity.as_deref();
        set_aside.push(SetAside {
            vbucket,
            state: state_of(store, identity),
            faults,
            salvaged,
        });
    }
    let begins_ms = begin_of(store, &set_aside);
    let empties = set_aside.iter().map(|one| {
        let uuid = VbucketUuid(random.next_u64().max(1));
        (one.vbucket, empty(one, uuid, begins_ms))
    });
    let empties = empties.collect();
    Ok((RepairReport { set_aside, others }, empties))
}

/// Puts the empty vbuckets in their places, and has the logs go on behind what is damaged of them.
fn exchange(store: &LogStore, empties: &Empties) -> Result<(), StorageError> {
    for (vbucket, state) in empties {
        store.renew_vbucket(*vbucket, state)?;
    }
    leave_behind(store)
}

fn opened(disk: &Arc<dyn Disk>, random: &dyn Random) -> Result<LogStore, StorageError> {
    LogStore::open(Arc::clone(disk), OpenOptions::new(random.next_u64()))
}

/// Refused where a manifest is missing, also if what is missing is said to be lost: whatever it named would be lost with it,
/// though every byte of that may be sound.
fn check_manifests(store: &LogStore) -> Result<(), RepairError> {
    for vbucket in store.vbuckets().iter().map(|status| status.vbucket) {
        if let Err(cause) = store.check_writable(vbucket) {
            RepairError::of_missing(vbucket, cause)?;
        }
    }
    Ok(())
}

type Damage = (BTreeMap<VbucketId, Vec<Fault>>, Vec<Fault>);

/// The vbuckets that are damaged, with what was found of them, and what is damaged besides. Refused where anything is not
/// proven to be.
fn damage(store: &LogStore, options: RepairOptions) -> Result<Damage, RepairError> {
    let mut damaged: BTreeMap<VbucketId, Vec<Fault>> = BTreeMap::new();
    let mut others = Vec::new();
    for fault in store.verify().faults {
        let is_given_up = match fault.kind {
            FaultKind::Damage => true,
            FaultKind::Missing => options.missing_is_lost,
            FaultKind::Unreadable => false,
        };
        if !is_given_up {
            return Err(RepairError::of_fault(&fault));
        }
        for vbucket in &fault.vbuckets {
            damaged.entry(*vbucket).or_default().push(fault.clone());
        }
        if fault.vbuckets.is_empty() {
            others.push(fault);
        }
    }
    Ok((damaged, others))
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
    salvaged.map_err(|cause| RepairError::of_reading(vbucket, cause))
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

/// What a vbucket was, or what all others are; where they differ, nothing that serves.
fn state_of(store: &LogStore, identity: Option<&VbucketIdentity>) -> VbucketState {
    if let Some(before) = identity {
        return before.state;
    }
    let ids = store.vbuckets().into_iter().map(|status| status.vbucket);
    let mut others = ids.filter_map(|id| store.state(id).ok());
    if others.all(|other| other.identity.state == VbucketState::Active) {
        VbucketState::Active
    } else {
        VbucketState::Dead
    }
}

/// When the empty vbuckets begin: now, and behind every commit that is known, so that of no moment before they seem to have been
/// empty.
fn begin_of(store: &LogStore, set_aside: &[SetAside]) -> u64 {
    let now_ms = SystemClock::new().since_epoch().as_millis();
    let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
    let ids = store.vbuckets().into_iter().map(|status| status.vbucket);
    let others = ids.filter_map(|id| store.state(id).ok());
    let others = others.map(|other| other.watermarks.commit_time_ms);
    let saved = set_aside.iter().map(|one| one.salvaged.commit_time_ms);
    let known_ms = others.chain(saved).max().unwrap_or(0);
    now_ms.max(known_ms.saturating_add(1))
}

/// A vbucket that holds nothing, and knows nothing of the time before.
fn empty(one: &SetAside, uuid: VbucketUuid, begins_ms: u64) -> VbucketStateRecord {
    let begun = VbucketStateRecord::new(uuid);
    let mut made = begun.identity.as_ref().clone();
    made.state = one.state;
    if let Some(before) = &one.salvaged.identity {
        made.topology = before.topology.clone();
    }
    VbucketStateRecord {
        identity: Arc::new(made),
        watermarks: Watermarks {
            commit_time_ms: begins_ms,
            ..Watermarks::default()
        },
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

/// What is still damaged, or else what does not show whether it is.
fn left_behind(disk: &Arc<dyn Disk>, random: &dyn Random) -> Result<Option<Fault>, StorageError> {
    let store = opened(disk, random)?;
    let faults = store.verify().faults.into_iter();
    Ok(faults.min_by_key(|fault| fault.kind != FaultKind::Damage))
}
