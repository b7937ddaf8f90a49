//! The bucket's collections: one manifest, and every active vbucket follows it.
//!
//! Invariant: changes come one after the other; a change that is refused changed nothing, and one that began (`InForce`) is in force
//! in every vbucket, or will be when the one that crashed on the way was repaired. What is acknowledged is on disk in
//! every vbucket that is in service, so that a bucket is opened with it, whichever of them can be read.

use std::sync::Arc;

use parking_lot::Mutex;

use actors::vbucket::{BucketManifest, PersistPlace, VbucketCore, changed_above, newest};
use messages::vbucket::EraseEnded;
use messages::{ChangeManifest, CollectionsManifest, ManifestError, OperationError};
use storage::{ManifestUid, Outcome, Seqno, VbucketId, VbucketState};

use crate::running::Running;
use crate::vbucket_table::Table;

/// The collections of a running bucket.
#[derive(Debug)]
pub(crate) struct Collections {
    table: Arc<Table>,
    changing: Mutex<Changing>,
}

/// What one change leaves to the next.
#[derive(Debug)]
struct Changing {
    /// Uids to leave out: a vbucket that could not be read may have them.
    leap: u64,
}

/// By how much the next uid is higher where the highest may lie in a vbucket that could not be read: more changes than
/// only such a vbucket may have seen.
const UNREAD_LEAP: u64 = 1024 - 1;

impl Collections {
    /// Finds the newest manifest any active vbucket has, and has all active ones follow it, those at once that are open
    /// for writes. Called when the states of all were
    /// read and nobody is served yet.
    pub(crate) fn open(table: &Arc<Table>) -> Result<Collections, OperationError> {
        let manifest_of = |(_, core): (_, &Arc<VbucketCore>)| {
            let is_active = core.state() == VbucketState::Active;
            (is_active, core.collections_manifest())
        };
        let manifests: Vec<_> = table.cores().map(manifest_of).collect();
        if let Some(newest) = newest(&manifests) {
            table.manifest.set(Arc::clone(newest));
        }
        let unread = table.slots.iter().any(|slot| slot.down().is_some());
        let collections = Collections {
            table: Arc::clone(table),
            changing: Mutex::new(Changing {
                leap: if unread { UNREAD_LEAP } else { 0 },
            }),
        };
        for (_, core) in table.cores() {
            core.follow_manifest()?;
        }
        Ok(collections)
    }

    /// Which scopes and collections there are.
    pub(crate) fn manifest(&self) -> Arc<CollectionsManifest> {
        self.shared().current()
    }

    /// Makes a change, and answers once it is on disk.
    pub(crate) async fn change(
        &self,
        request: &ChangeManifest,
    ) -> Result<ManifestUid, ManifestError> {
        let (uid, waits) = self.begin(request)?;
        let mut is_on_disk = false;
        let mut down: Result<(), OperationError> = Ok(());
        for (place, seqno) in waits {
            match place.wait_for(seqno).await {
                Ok(()) => is_on_disk = true,
                // It is not in service any more, and follows at the next opening.
                Err(error @ OperationError::VbucketDown { .. }) => down = Err(error),
                Err(cause) => return Err(ManifestError::InForce { uid, cause }),
            }
        }
        match down {
            Err(cause) if !is_on_disk => Err(ManifestError::InForce { uid, cause }),
            _ => Ok(uid),
        }
    }

    /// Has vbuckets that missed a change follow it.
    pub(crate) fn catch_up(&self) {
        let _changing = self.changing.lock();
        for (id, core) in self.table.cores() {
            match core.follow_manifest() {
                // One that is closed is told at the next opening, one that crashed when it is repaired.
                Ok(_) | Err(OperationError::Closed | OperationError::Crashed { .. }) => {}
                Err(error) => {
                    tracing::error!(vbucket = %id, %error, "the manifest is not followed");
                }
            }
        }
    }

    /// Makes a change in memory, where it is in force at once: what is to be waited for in which vbucket.
    fn begin(
        &self,
        request: &ChangeManifest,
    ) -> Result<(ManifestUid, Vec<(PersistPlace, Seqno)>), ManifestError> {
        let mut changing = self.changing.lock();
        let (uid, places) = loop {
            let before = self.manifest();
            let given = ManifestUid(self.highest_uid().0.saturating_add(changing.leap));
            let next = changed_above(&before, request, given)?;
            let (uid, places) = (next.uid, self.reserve()?);
            // A vbucket that becomes active may raise the uid meanwhile.
            if self.shared().replace(&before, Arc::new(next)) {
                break (uid, places);
            }
        };
        changing.leap = 0;
        let mut waits = Vec::new();
        let mut first: Result<(), OperationError> = Ok(());
        self.table.repair();
        for ((_, core), place) in self.table.cores().zip(places) {
            match (core.follow_manifest(), place) {
                (Ok(Some(seqno)), Some(place)) => waits.push((place, seqno)),
                // One that was given up follows when it is repaired, before it is brought back.
                (Ok(_), _) | (Err(OperationError::Crashed { .. }), None) => {}
                (Err(error), _) => first = first.and(Err(error)),
            }
        }
        match first {
            Ok(()) => Ok((uid, waits)),
            Err(cause) => Err(ManifestError::InForce { uid, cause }),
        }
    }

    /// The highest uid a vbucket has, replicas too, whose source gives uids of its own.
    fn highest_uid(&self) -> ManifestUid {
        let cores = self.table.cores();
        let uids = cores.map(|(_, core)| core.collections_manifest().uid);
        uids.max().unwrap_or_default().max(self.manifest().uid)
    }

    /// Places among those who wait for the disk, one for each active vbucket in service. Whatever could be refused is
    /// refused here, before the first vbucket changes.
    fn reserve(&self) -> Result<Vec<Option<PersistPlace>>, OperationError> {
        let mut places = Vec::new();
        let mut why_not = self.table.core(VbucketId::FIRST).map(drop);
        for (_, core) in self.table.cores() {
            let place = match serves(core) {
                Ok(()) => {
                    core.admit_manifest()?;
                    Some(core.reserve_wait()?)
                }
                Err(error) => {
                    why_not = why_not.and(Err(error));
                    None
                }
            };
            places.push(place);
        }
        // Where nobody keeps it nothing is changed.
        if places.iter().all(Option::is_none) {
            why_not?;
        }
        Ok(places)
    }

    fn shared(&self) -> &BucketManifest {
        &self.table.manifest
    }
}

/// Whether a vbucket keeps a manifest.
fn serves(core: &VbucketCore) -> Result<(), OperationError> {
    let vbucket = core.id();
    if let Some(cause) = core.down() {
        return Err(OperationError::VbucketDown { vbucket, cause });
    }
    match core.state() {
        VbucketState::Active => Ok(()),
        state @ (VbucketState::Replica | VbucketState::Pending | VbucketState::Dead) => {
            Err(OperationError::NotMyVbucket { vbucket, state })
        }
    }
}

/// Rids memory of documents whose collections ended, one slice of one vbucket after the other, by the vbucket's own actor.
/// Begins with a look: the one before may have been told, and have panicked then.
pub(crate) async fn erase_ended(running: Arc<Running>) {
    loop {
        for (id, core) in running.table.cores() {
            let Some(actor) = running.addresses.get(id.index()) else {
                continue;
            };
            while core.has_ended() {
                match actor.send(EraseEnded).await {
                    // After a crash: answered once the actor is there again.
                    Ok(
                        Ok(Outcome::Yielded)
                        | Err(OperationError::Crashed { .. } | OperationError::ActorCrashed { .. }),
                    ) => {}
                    // Nobody waits for it: a vbucket that is out of service leaves it to the next time.
                    Ok(Ok(_) | Err(_)) | Err(_) => break,
                }
            }
        }
        running.table.manifest.ended().await;
    }
}
